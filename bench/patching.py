"""Activation patching: gpt2c and TransformerLens, GPT-2 124M with random weights.

    python bench/patching.py [--rounds 3] [--tokens 15] [--json FILE]

Needs gpt2c, torch, transformers and TransformerLens in one Python: pip install gpt2c transformer-lens==3.2.1
transformers==4.57.6. The model is that of against_peers.py, made in --work if it is missing, or --model DIR.

The residual stream before each layer is patched at each position, one by one: 12 layers x 15 positions, 180
patches from a clean text into a corrupted one, of random tokens. The metric is the difference of two logits
at the last position. TransformerLens runs ``patching.get_act_patch_resid_pre``, which is one whole run for
each patch; and, as a user could do with a few lines of code, all positions of a layer as one batch
("batched"). gpt2c runs ``GPT2.patch``. All include the run of the clean text.

Every back end has its own process with --threads threads, float32. One set of patches is measured, after a
shorter text to warm up; rounds alternate, and medians are shown. Before any speed counts, all answers must
equal those of TransformerLens to 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parent
LOOP, BATCHED, OURS = "TransformerLens", "TransformerLens batched", "gpt2c"
BOUND = 1e-4


def texts(n_vocab: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A clean text, a corrupted one, and the two tokens whose logits are compared."""
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(n_vocab, size=(2, n_tokens))
    first, second = rng.integers(n_vocab, size=2).tolist()
    return clean, corrupted, (first, second)


Patch = Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]
"""From two texts and two tokens to the answers, [n_layer, T]."""


def patch_with_gpt2c(options: argparse.Namespace) -> tuple[Patch, int]:
    """The patches of gpt2c, and the size of the vocabulary."""
    from gpt2c import GPT2

    model = GPT2.from_pretrained(options.model, threads=options.threads)

    def patch(clean: np.ndarray, corrupted: np.ndarray, tokens: tuple[int, int]) -> np.ndarray:
        over = ("resid_pre", range(model.config.n_layer), range(len(corrupted)))
        return model.patch(
            clean, corrupted, over, lambda logits: logits[-1, tokens[0]] - logits[-1, tokens[1]]
        ).values

    return patch, model.config.n_vocab


def patch_with_transformer_lens(options: argparse.Namespace, *, batched: bool) -> tuple[Patch, int]:
    """The patches of TransformerLens, and the size of the vocabulary."""
    import torch
    from transformers import GPT2LMHeadModel

    sys.path.insert(0, str(BENCH.parent / "tests"))
    from data.golden.make_transformer_lens import hooked
    from transformer_lens import patching

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    hf = GPT2LMHeadModel.from_pretrained(options.model, attn_implementation="eager", dtype=torch.float32)
    model = hooked(hf.eval(), attn_result=False)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    patching.tqdm = lambda rows: rows  # its bar takes time

    def patch(clean: np.ndarray, corrupted: np.ndarray, tokens: tuple[int, int]) -> np.ndarray:
        clean, corrupted = (torch.from_numpy(ids)[None] for ids in (clean, corrupted))
        _, cache = model.run_with_cache(clean, names_filter=names)

        def metric(logits: torch.Tensor) -> torch.Tensor:
            return logits[:, -1, tokens[0]] - logits[:, -1, tokens[1]]

        if not batched:
            return patching.get_act_patch_resid_pre(model, corrupted, cache, metric).numpy()
        rows = torch.arange(corrupted.shape[1])
        answers = []
        for name in names:

            def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
                value[rows, rows] = cache[hook.name][0]
                return value

            logits = model.run_with_hooks(corrupted.expand(len(rows), -1), fwd_hooks=[(name, hook)])
            answers.append(metric(logits).numpy())
        return np.stack(answers)

    return patch, hf.config.vocab_size


def measure(name: str, options: argparse.Namespace) -> dict:
    """All patches in this process."""
    if name == OURS:
        patch, n_vocab = patch_with_gpt2c(options)
    else:
        patch, n_vocab = patch_with_transformer_lens(options, batched=name == BATCHED)
    clean, corrupted, tokens = texts(n_vocab, options.tokens)
    patch(clean[:3], corrupted[:3], tokens)
    begin = time.perf_counter()
    answers = patch(clean, corrupted, tokens)
    return {"seconds": time.perf_counter() - begin, "answers": answers.tolist()}


def call(name: str, options: argparse.Namespace) -> dict:
    """The same in a new process."""
    command = [sys.executable, __file__, "--measure", name, "--model", options.model]
    command += ["--threads", str(options.threads), "--tokens", str(options.tokens)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    raise SystemExit(f"{name} failed:\n{done.stderr}")


def run(options: argparse.Namespace) -> dict:
    """Measure in alternating rounds, and compare the answers."""
    names = [LOOP, BATCHED, OURS]
    results: dict[str, dict] = {name: {"seconds": []} for name in names}
    reference: np.ndarray | None = None
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            found = call(name, options)
            answers = np.array(found["answers"])
            reference = answers if reference is None else reference  # the first is TransformerLens's own
            error = float(np.abs(answers - reference).max())
            if not error <= BOUND:
                raise SystemExit(f"{name} is not equal to TransformerLens: off by up to {error:.1e}")
            results[name]["seconds"].append(found["seconds"])
            results[name]["error"] = error
            print(f"round {number + 1}, {name}: {found['seconds']:.3f} s", file=sys.stderr, flush=True)
    return {
        "patches": list(reference.shape),
        "spread_of_answers": float(reference.std()),
        "threads": options.threads,
        "versions": {name: version(name) for name in ("transformer-lens", "transformers", "torch")},
        "results": results,
    }


def table(found: dict) -> str:
    """Markdown."""
    medians = {name: statistics.median(of["seconds"]) for name, of in found["results"].items()}
    n_layers, n_positions = found["patches"]
    lines = [
        f"{n_layers} layers x {n_positions} positions, {found['threads']} threads, float32; the standard "
        f"deviation of the answers is {found['spread_of_answers']:.2g}",
        "",
        "| | seconds (fastest to slowest) | patches/s | of TransformerLens | answers off by up to |",
        "|---|---|---|---|---|",
    ]
    for name, of in found["results"].items():
        seconds = medians[name]
        spread = f"{min(of['seconds']):.3f} to {max(of['seconds']):.3f}"
        rate = n_layers * n_positions / seconds
        lines.append(
            f"| {name} | {seconds:.3f} ({spread}) | {rate:.1f} | {medians[LOOP] / seconds:.2f} x "
            f"| {of['error']:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a directory in Hugging Face layout")
    parser.add_argument("--work", type=Path, default=BENCH.parent / "build/peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=15, help="of each text; all positions are patched")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="save all measurements")
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print("RESULT " + json.dumps(measure(options.measure, options)))
        return
    if options.model is None:
        options.model = options.work.resolve() / "model"
        if not (options.model / "model.safetensors").exists():
            options.work.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, BENCH / "peers/models.py", "model"], check=True, cwd=options.work)
    options.model = options.model.resolve()
    found = run(options)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
