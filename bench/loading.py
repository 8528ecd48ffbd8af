"""How long a model takes to load, and how much memory, for every kind of file that gpt2c reads.

    python bench/loading.py [--shape 124M] [--kinds KIND ...] [--dtypes float32 int8] [--rounds 5]
                            [--files DIR] [--json FILE]

Makes a model with random weights in every kind, and loads each in new processes, all kinds and number formats
in turn, so that other load on the machine affects all of them. The files are read once before each process:
the page cache is warm. Reported are the median time of from_pretrained, and the growth of the process's
resident memory during it, at its peak (VmHWM, which Linux counts), as a share of the limit: the packed
weights and 1.2 times the largest tensor in float32. pytorch_model.bin may take 1.3 times as long as
safetensors. Exit status 1 if one of the two limits is exceeded.

The kinds that torch writes need it (pip install torch), only to make the files: it is not imported where they
are loaded. With --files they stay in DIR, and can be used again without torch.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpt2c import GPT2
from gpt2c.checkpoint.safetensors import write_tensors
from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.models import SHAPES
from gpt2c.cli.bench.roofs import median_and_spread
from gpt2c.config import Head
from gpt2c.core import _engine

PEAK, TIME = 1.0, 1.3

# What a new process does. Imports come first; writing 5 sets the peak to what is resident then.
LOAD = """
import json, re, sys, time
from gpt2c import GPT2
import gpt2c.checkpoint.loading, gpt2c.checkpoint.opening, gpt2c.tokenizer.load
def resident(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")
before, begin = resident("VmRSS"), time.perf_counter()
model = GPT2.from_pretrained(sys.argv[1], dtype=sys.argv[2])
seconds, peak = time.perf_counter() - begin, resident("VmHWM") - before
assert "torch" not in sys.modules
print(json.dumps({"seconds": seconds, "peak": peak, "packed": model.weights.nbytes}))
"""


# ---- the kinds


def state_dict(model: GPT2) -> OrderedDict:
    """The tensors as transformers has torch save them."""
    import torch

    found = OrderedDict(
        (f"transformer.{name}", torch.from_numpy(np.array(model.weights[name]))) for name in model.weights
    )
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return found


def safetensors(model: GPT2, folder: Path) -> Path:
    # Without a tokenizer, whose files take time too: no kind has any.
    GPT2(model.weights).export(folder / "model")
    return folder / "model"


def config_only(model: GPT2, folder: Path) -> None:
    (safetensors(model, folder) / "config.json").rename(folder / "config.json")
    for path in (folder / "model").iterdir():
        path.unlink()
    (folder / "model").rmdir()


def bin_zip(model: GPT2, folder: Path, **how: bool) -> Path:
    import torch

    config_only(model, folder)
    torch.save(state_dict(model), folder / "pytorch_model.bin", **how)
    return folder


def bin_stream(model: GPT2, folder: Path) -> Path:
    return bin_zip(model, folder, _use_new_zipfile_serialization=False)


def bin_shards(model: GPT2, folder: Path, count: int = 3) -> Path:
    import torch

    config_only(model, folder)
    state = state_dict(model)
    del state["lm_head.weight"]  # of two names of one matrix, transformers keeps one in shards
    where = {}
    for k in range(count):
        file = f"pytorch_model-{k + 1:05}-of-{count:05}.bin"
        part = OrderedDict((name, tensor) for i, (name, tensor) in enumerate(state.items()) if i % count == k)
        torch.save(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def nanogpt(model: GPT2, folder: Path) -> Path:
    """As train.py writes it: the vocabulary padded to a multiple of 64, Linear's matrices, the head twice."""
    import torch

    config, stored = model.config, {}
    rows = -(-config.n_vocab // 64) * 64
    for name, tensor in state_dict(model).items():
        if name == "transformer.wte.weight":
            tensor = torch.nn.functional.pad(tensor, (0, 0, 0, rows - config.n_vocab))
        elif ".h." in name and tensor.dim() == 2:
            tensor = tensor.t().contiguous()
        stored[f"_orig_mod.{name}"] = tensor
    stored["_orig_mod.lm_head.weight"] = stored["_orig_mod.transformer.wte.weight"]
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    sizes |= {"block_size": config.n_ctx, "vocab_size": rows, "bias": True, "dropout": 0.0}
    torch.save({"model": stored, "model_args": sizes, "iter_num": 1}, folder / "ckpt.pt")
    return folder


def llmc(model: GPT2, folder: Path, *, version: int) -> Path:
    """As train_gpt2.py of llm.c writes it: kinds of tensors together, the vocabulary padded to 128."""
    config, weights, path = model.config, model.weights, folder / "model.bin"
    rows = -(-config.n_vocab // 128) * 128
    sizes = (config.n_ctx, config.n_vocab, config.n_layer, config.n_head, config.n_embd, rows)
    kinds = [name.removeprefix("h.0.") for name in weights if name.startswith("h.0.")]
    order = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    kinds.sort(key=lambda kind: (order.index(kind.rpartition(".")[0]), kind.endswith("bias")))
    with open(path, "wb") as file:

        def write(tensor: np.ndarray) -> None:
            tensor = np.ascontiguousarray(tensor)
            # The upper halves are bfloat16, rounded towards zero.
            file.write((tensor.view(np.uint32) >> 16).astype("<u2") if version == 5 else tensor)

        file.write(struct.pack("<8i", 20240326, version, *sizes).ljust(1024, b"\0"))
        write(np.pad(weights["wte.weight"], ((0, rows - config.n_vocab), (0, 0))))
        write(weights["wpe.weight"])
        for kind in kinds:
            for layer in range(config.n_layer):
                write(weights[f"h.{layer}.{kind}"].T)
        write(weights["ln_f.weight"])
        write(weights["ln_f.bias"])
    return path


def classifier(model: GPT2, folder: Path) -> Path:
    """A GPT2ForSequenceClassification with three labels."""
    config = replace(model.config, head=Head("sequence", ("bad", "fair", "good")))
    head = np.random.default_rng(0).standard_normal((3, config.n_embd), np.float32)
    tensors = {"score.weight": head, **model.weights}
    return safetensors(GPT2(_engine.Weights(config, lambda name: np.array(tensors[name]))), folder)


def peft(model: GPT2, folder: Path, rank: int = 16) -> Path:
    """An adapter of every matrix but the positions, as it is before training (B = 0), beside its base."""
    safetensors(model, folder).rename(folder / "base")
    rng, tensors = np.random.default_rng(0), {}
    for name in model.weights:
        matrix, module = model.weights[name], f"base_model.model.transformer.{name.removesuffix('.weight')}"
        if name.startswith("h.") and matrix.ndim == 2:
            n_in, n_out = matrix.shape
            names = "lora_A.weight", "lora_B.weight"
        elif name == "wte.weight":
            n_in, n_out = matrix.shape
            names = "lora_embedding_A", "lora_embedding_B"
        else:
            continue
        tensors[f"{module}.{names[0]}"] = rng.standard_normal((rank, n_in), np.float32)
        tensors[f"{module}.{names[1]}"] = np.zeros((n_out, rank), np.float32)
    with open(folder / "adapter_model.safetensors", "wb") as file:
        write_tensors(file, tensors, {"format": "pt"}, 8)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 32, "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def packed(model: GPT2, folder: Path) -> Path:
    """A file for each number format."""
    GPT2(model.weights).save(folder / "float32.gpt2c")
    plain = safetensors(model, folder)
    for dtype in ("bfloat16", "int8", "int4"):
        GPT2.from_pretrained(plain, dtype=dtype).save(folder / f"{dtype}.gpt2c")
    return folder


BIN = "pytorch_model.bin"
KINDS: dict[str, Callable[[GPT2, Path], Path]] = {
    "safetensors": safetensors,
    BIN: bin_zip,
    f"{BIN}, old": bin_stream,
    f"{BIN}, shards": bin_shards,
    "nanoGPT": nanogpt,
    "llm.c float32": lambda model, folder: llmc(model, folder, version=3),
    "llm.c bfloat16": lambda model, folder: llmc(model, folder, version=5),
    "classifier": classifier,
    "PEFT folder": peft,
    "packed": packed,
}
"""What makes each kind: given a model and an empty folder, it returns what from_pretrained is to load."""


def made(kinds: list[str], shape: str, folder: Path) -> dict[str, Path]:
    """The files to load, of each kind that can be made or exists."""
    model, found = None, {}
    for kind in kinds:
        place = folder / shape / kind.replace(" ", "_").replace(",", "")
        note = place / "source"
        if not note.exists():
            model = model or random_model(shape)
            place.mkdir(parents=True, exist_ok=True)
            try:
                note.write_text(str(KINDS[kind](model, place).relative_to(place)))
            except ImportError as error:
                print(f"{kind}: left out, as it is made with {error.name}, which is not installed")
                continue
        found[kind] = place / note.read_text()
    return found


# ---- measuring


def loaded(kind: str, source: Path, dtype: str) -> dict[str, float]:
    """One new process, with its files in the page cache."""
    source = source / f"{dtype}.gpt2c" if kind == "packed" else source
    for path in [source] if source.is_file() else source.rglob("*.*"):
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 22):
                pass
    done = subprocess.run(
        [sys.executable, "-c", LOAD, source, dtype], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def measure(sources: dict[str, Path], dtypes: list[str], rounds: int) -> dict[str, dict[str, list[dict]]]:
    """The processes by kind and dtype, one of each in every round."""
    found: dict[str, dict[str, list[dict]]] = {kind: {dtype: [] for dtype in dtypes} for kind in sources}
    for _ in range(rounds):
        for dtype in dtypes:
            for kind, source in sources.items():
                found[kind][dtype].append(loaded(kind, source, dtype))
    return found


def table(found: dict[str, dict[str, list[dict]]], largest: int) -> list[dict]:
    """A row for each kind and dtype, with both ratios."""
    rows = []
    for kind, by_dtype in found.items():
        for dtype, runs in by_dtype.items():
            peak = max(run["peak"] for run in runs)
            row = {"kind": kind, "dtype": dtype, "seconds": median_and_spread([r["seconds"] for r in runs])}
            row |= {"peak": peak, "packed": runs[0]["packed"]}
            row["peak_ratio"] = peak / (runs[0]["packed"] + 1.2 * largest)
            if "safetensors" in found:
                # Of the same round, which other work on the machine meets alike.
                pairs = zip(runs, found["safetensors"][dtype], strict=True)
                row["time_ratio"] = median_and_spread([a["seconds"] / b["seconds"] for a, b in pairs])
            rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"], metavar="DTYPE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=Path, help="where the files stay (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = made(options.kinds, options.shape, options.files or Path(folder))
        found = measure(sources, options.dtypes, options.rounds)
    n_embd = SHAPES[options.shape][2]
    rows = table(found, 4 * n_embd * max(50257, 4 * n_embd))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{'':<26}{'dtype':<10}{'seconds':>8}{'of safetensors':>16}{'peak MiB':>10}{'of allowed':>12}")
    for row in rows:
        ratio = f"{row['time_ratio']['median']:.2f}" if "time_ratio" in row else ""
        print(f"{row['kind']:<26}{row['dtype']:<10}{row['seconds']['median']:>8.3f}{ratio:>16}"
              f"{row['peak'] / 2**20:>10.0f}{row['peak_ratio']:>12.2f}")  # fmt: skip
    slow = [r for r in rows if r["kind"] == BIN and r.get("time_ratio", {"median": 0})["median"] > TIME]
    return int(bool(slow) or any(row["peak_ratio"] > PEAK for row in rows))


if __name__ == "__main__":
    sys.exit(main())
