"""One multiple-choice task in lm-evaluation-harness: gpt2c and lm-eval's own "hf", 124M with random weights.

    python bench/lm_eval_task.py [--rounds 3] [--documents 40] [--gpt2c float32 int8] [--json FILE]

Needs gpt2c, torch, transformers and lm-eval in one Python: pip install "gpt2c[lm-eval]" "lm_eval[hf]==0.4.13"
transformers==4.57.6. The model is that of against_peers.py, made in --work if it is missing, or --model DIR.

A document is a context and several endings of it, all of random letters, each letter about a token. Every
back end has its own process with --threads threads; hf has one for each batch size, and its fastest counts.
The whole evaluation is measured, without loading the model, after a shorter one to warm up; rounds alternate,
and medians are shown. Before any speed counts, gpt2c's float32 answers must equal those of hf's float32 to
1e-4 (and to the rounding of hf's own sums, see tests/test_lm_eval.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TASK = "gpt2c_choice_bench"


def write_documents(folder: Path, options: argparse.Namespace) -> None:
    """The task, in a folder for lm-eval's include_path."""
    sys.path.insert(0, str(BENCH.parent / "tests"))
    from helpers.local_tasks import TASKS, write_task

    dice = random.Random(0)

    def letters(n: int) -> str:
        return (
            "".join(dice.choices("abcdefghijklmnopqrstuvwxyz     ", k=n)).replace("  ", " q").strip() or "q"
        )

    rows = []
    for _ in range(options.documents):
        endings = [letters(options.ending) for _ in range(options.choices)]
        rows.append(
            {"context": letters(options.context), "choices": endings, "answer": dice.randrange(len(endings))}
        )
    write_task(folder, TASK, rows, TASKS["gpt2c_choice"][1])


def measure(name: str, options: argparse.Namespace) -> dict:
    """Evaluate the task in this process."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    kind, dtype, *rest = name.split()
    tasks = TaskManager(include_path=str(options.tasks), include_defaults=False)
    if kind == "gpt2c":
        from gpt2c.lm_eval import GPT2LM

        lm = GPT2LM(str(options.model), dtype=dtype, threads=options.threads)
    else:
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(str(options.model), dtype=dtype, device="cpu", batch_size=int(rest[-1]))

    def evaluate(limit: int | None = None) -> dict:
        return lm_eval.simple_evaluate(
            model=lm, tasks=[TASK], task_manager=tasks, limit=limit, log_samples=True, bootstrap_iters=0
        )

    evaluate(max(1, options.documents // 8))
    begin = time.perf_counter()
    found = evaluate()
    seconds = time.perf_counter() - begin
    answers = [response for sample in found["samples"][TASK] for (response,) in sample["resps"]]
    return {"seconds": seconds, "answers": answers, "accuracy": found["results"][TASK]["acc,none"]}


def call(name: str, options: argparse.Namespace) -> dict:
    """The same in a new process."""
    where = ["--tasks", options.tasks, "--model", options.model]
    how = ["--documents", str(options.documents), "--threads", str(options.threads)]
    command = [sys.executable, __file__, "--measure", name, *where, *how]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(options.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:])
    raise SystemExit(f"{name} failed:\n{done.stderr}")


def check(name: str, found: dict, reference: dict) -> str:
    """The difference of answers from those of the reference; SystemExit if float32 is not equal."""
    pairs = list(zip(found["answers"], reference["answers"], strict=True))
    error = max(abs(a - b) for (a, _), (b, _) in pairs)
    greedy = sum(one != other for (_, one), (_, other) in pairs)
    if name == "gpt2c float32":
        beyond = [(a, b) for (a, _), (b, _) in pairs if abs(a - b) > 1e-4 + abs(b) * 9 * 2.0**-24]
        if beyond or greedy or found["accuracy"] != reference["accuracy"]:
            raise SystemExit(
                f"{name} is not equal to hf: off by up to {error:.1e}, {greedy} greedy ones differ"
            )
    return f"{error:.0e}"


def run(options: argparse.Namespace) -> dict:
    """Measure in alternating rounds."""
    names = [f"hf {dtype} batch {size}" for dtype in options.hf for size in options.batch_sizes]
    names += [f"gpt2c {dtype}" for dtype in options.gpt2c]
    results: dict[str, dict] = {name: {"seconds": []} for name in names}
    reference = None
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            found = call(name, options)
            reference = reference or found
            results[name]["seconds"].append(found["seconds"])
            results[name]["error"] = check(name, found, reference)
            print(f"round {number + 1}, {name}: {found['seconds']:.2f} s", file=sys.stderr, flush=True)
    return {"requests": options.documents * options.choices, "results": results}


def table(found: dict) -> str:
    """Markdown."""
    medians = {name: statistics.median(of["seconds"]) for name, of in found["results"].items()}
    best = min(seconds for name, seconds in medians.items() if name.startswith("hf float32"))
    lines = [
        "| back end | seconds (fastest to slowest) | requests/s | of hf float32 | answers off by up to |",
        "|---|---|---|---|---|",
    ]
    for name, of in found["results"].items():
        seconds = medians[name]
        spread = f"{min(of['seconds']):.2f} to {max(of['seconds']):.2f}"
        rate = found["requests"] / seconds
        lines.append(
            f"| {name} | {seconds:.2f} ({spread}) | {rate:.1f} | {best / seconds:.2f} x | {of['error']} |"
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
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--context", type=int, default=80, help="letters")
    parser.add_argument("--ending", type=int, default=28, help="letters")
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpt2c", nargs="+", default=["float32", "bfloat16", "int8"], metavar="DTYPE")
    parser.add_argument(
        "--hf", nargs="+", default=["float32"], metavar="DTYPE", help="the first is the reference"
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 32], metavar="N", help="of hf")
    parser.add_argument("--json", type=Path, help="save all measurements")
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print("RESULT " + json.dumps(measure(options.measure, options)))
        return
    if options.hf[0] != "float32":
        parser.error("the first of --hf must be float32: it is the reference")
    if options.model is None:
        options.model = options.work.resolve() / "model"
        if not (options.model / "model.safetensors").exists():
            options.work.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, BENCH / "peers/models.py", "model"], check=True, cwd=options.work)
    options.model = options.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        options.tasks = Path(folder)
        write_documents(options.tasks, options)
        found = run(options)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
