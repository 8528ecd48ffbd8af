"""gpt2c and other engines on the same weights, in one run: GPT-2 124M with random weights, two threads.

    python bench/against_peers.py prepare                    once: the engines and their models, several GB
    python bench/against_peers.py run [--rounds 5] [--json FILE] [--engines "gpt2c int8" llama …]
    python bench/against_peers.py show FILE                  prints the tables of a run again

prefill   a prompt of 512 tokens to the logits after its last
decode    128 greedy tokens after a prompt of 32, without the time of the prompt
batch 8   the same for 8 prompts together, in total
score     the log-probability of each token of a text of 512
score 8   of 8 such texts; score ragged: of 32 texts of 20 to 512 tokens
start     a new process: Python, imports, the model's file (in the page cache), the first token after a
          prompt of 32; and the memory of that process at its end: in total, and without the pages of files,
          which is what every further process needs again
install   disk space of the engine and its dependencies, without Python and the tools that make the models

Every engine has its own process; a round runs each of them once, every second round in reverse order, and
medians over rounds are shown. An engine's answers are compared with transformers in float32 before its speed
counts: float32 has to agree in the greedy tokens or to 1e-3 in all logits, and of 128 next tokens after given
ones bfloat16 must predict 95 %, int8 90 % and int4 60 %. An engine that does not is refused.

`prepare` needs a C++ compiler and cmake (llama.cpp is built for this machine) and the network. Everything
is in --work, by default build/peers; the versions are those of bench/peers/requirements.txt. Details and
how to read the result: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH))
from peers.engines import BATCH, DECODE, ENGINES, PROMPT, SCORE_CASES, THREADS, now  # noqa: E402
from peers.setup import environment, llama_package  # noqa: E402

RATES = ("prefill", "decode", "batch 8", "score", *SCORE_CASES)
AGREEMENT = {"float32": 1.0, "bfloat16": 0.95, "int8": 0.9, "int4": 0.6}  # shares of 128 next tokens
# What each engine needs to be installed; with what that requires it is its size.
ROOTS = {
    "gpt2c": ["gpt2c"],
    "transformers": ["transformers", "torch"],
    "CTranslate2": ["ctranslate2"],
    "ONNX Runtime": ["onnxruntime"],
    "OpenVINO": ["openvino"],
    "llama.cpp": ["llama_cpp_python"],
}


# ---- setting up


def prepare(options: argparse.Namespace) -> None:
    """Make the engines and models that are missing."""
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    python = environment(work)
    llama_package(python, work)
    subprocess.run([python, BENCH / "peers/models.py"], check=True, cwd=work)
    import gpt2c

    (work / "gpt2c").mkdir(exist_ok=True)
    for dtype in ("float32", "bfloat16", "int8", "int4"):
        gpt2c.GPT2.from_pretrained(work / "model", dtype=dtype).save(work / f"gpt2c/{dtype}.gpt2c")


# ---- one process


def check(engine, fmt: str, ref) -> dict:
    """Compare an engine's answers with the reference; SystemExit if they miss its format's accuracy."""
    forced = engine.forced(ref["forced"], PROMPT).astype(np.float32)
    argmax = float((forced.argmax(-1) == ref["forced_logits"].argmax(-1)).mean())
    last = engine.numpy(engine.start(ref["long"][None]))[0]
    error = max(float(np.abs(a - b).max()) for a, b in
                ((forced, ref["forced_logits"]), (last, ref["long_logits"])))  # fmt: skip
    scores = float(np.abs(engine.score(ref["long"]) - ref["long_logprobs"]).mean())
    several = [*ref["prompts"], ref["long"][:100]]
    for choice in engine.score_choices:
        engine.choose(choice, SCORE_CASES[0])
        for ids, found in zip(several, engine.score_texts(several), strict=True):
            scores = max(scores, float(np.abs(found - engine.score(ids)).mean()))
    batch = engine.decode(ref["prompts"], 15)[0]
    greedy = float((batch == ref["greedy"]).mean())
    fine = argmax >= AGREEMENT[fmt] and scores < 0.5
    if fmt == "float32":
        fine = scores < 1e-3 and (error < 1e-3 or greedy == 1)
    if not fine:
        raise SystemExit(
            f"refused: {argmax:.0%} of next tokens as the reference, logits off by up to {error:.1e}, "
            f"log-probabilities by {scores:.1e} on average, {greedy:.0%} of the greedy tokens of a batch"
        )
    return {"argmax": argmax, "error": error, "score_error": scores, "greedy": greedy}


def texts_to_score() -> dict[str, list]:
    """Token ids of the texts of each of the SCORE_CASES."""
    rng = np.random.default_rng(3)
    lengths = {"score 8": [512] * 8, "score ragged": rng.integers(20, 513, size=32)}
    return {case: [rng.integers(0, 50256, size=n) for n in lengths[case]] for case in SCORE_CASES}


def measure(name: str, repeats: int, wanted: list[str]) -> dict:
    """The requested rates of an engine, in this process."""
    kind, arguments, fmt = ENGINES[name]
    ref = np.load("reference.npz")
    begin = now()
    engine = kind(*arguments)
    found = {
        "load": now() - begin,
        "settings": engine.settings,
        "check": check(engine, fmt, ref),
        "choices": {},
    }
    prompts, long = ref["prompts"], ref["long"]

    def timed(run) -> float:
        begin = now()
        run()
        return now() - begin

    cases = {
        "prefill": lambda: len(long) / timed(lambda: engine.prefill(long)),
        "decode": lambda: DECODE / engine.decode(prompts[:1], DECODE)[1],
        "batch 8": lambda: BATCH * DECODE / engine.decode(prompts, DECODE)[1],
        "score": lambda: (len(long) - 1) / timed(lambda: engine.score(long)),
    }
    for case, texts in texts_to_score().items():
        tokens = sum(len(ids) - 1 for ids in texts)
        cases[case] = lambda texts=texts, tokens=tokens: tokens / timed(lambda: engine.score_texts(texts))
    for case in wanted:
        run = cases[case]
        n = 3 * repeats if case in ("prefill", "score") else repeats
        tried = {}
        for choice in engine.score_choices if case in SCORE_CASES else engine.choices:
            engine.choose(choice, case)
            run()  # warms up
            tried[choice] = max(run() for _ in range(n if case in ("prefill", "score") else 1))
        best = max(tried, key=tried.get)
        engine.choose(best, case)
        found["choices"][case] = best
        found[case] = [run() for _ in range(n)]
    return found


def first_token(name: str) -> dict:
    """Run a new process to its first token, and measure its memory then."""
    kind, arguments, _ = ENGINES[name]
    prompts = np.load("prompts.npy")
    engine = kind(*arguments)
    engine.argmax(engine.start(prompts[:1]))
    memory = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    kib = {key: int(value.split()[0]) for key, value in memory.items()}
    return {"rss": 1024 * kib["Rss"], "own": 1024 * kib["Anonymous"]}


def install_size(roots: list[str]) -> int:
    """Bytes of these packages and their dependencies."""
    from importlib import metadata
    from re import match

    left, seen, size = list(roots), set(), 0
    while left:
        name = left.pop().lower().replace("-", "_")
        if name in seen:
            continue
        seen.add(name)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # asked for on other systems only
        required = (r for r in package.requires or () if "extra ==" not in r)
        left += [match(r"[\w.-]+", requirement)[0] for requirement in required]
        paths = {Path(str(package.locate_file(file))) for file in package.files or ()}
        if name == "gpt2c":  # an editable install lists none of it
            import gpt2c

            paths |= {p for p in Path(gpt2c.__file__).parent.rglob("*") if "__pycache__" not in p.parts}
        size += sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")
    return size


# ---- all of them


def call(name: str, what: str, options: argparse.Namespace) -> dict:
    """Run this file in a new process for one engine."""
    python = sys.executable if name.startswith("gpt2c") else str(options.work / "venv/bin/python")
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OPENVINO_TELEMETRY": "0",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    begin = time.perf_counter()
    done = subprocess.run(
        [python, __file__, what, name, "--repeats", str(options.repeats), "--cases", *options.cases],
        env=environment, cwd=options.work, capture_output=True, text=True, timeout=options.timeout,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[7:]) | {"seconds": seconds}
    lines = (done.stderr or done.stdout).strip().splitlines()
    raise RuntimeError(" ".join(lines[-2:]) or f"exit status {done.returncode}")


def run(options: argparse.Namespace) -> dict:
    """Measure in alternating rounds."""
    names = [n for n in ENGINES if not options.engines or any(n.startswith(g) for g in options.engines)]
    if not names:
        raise SystemExit(f"no engine begins so; there are: {', '.join(ENGINES)}")
    np.save(options.work / "prompts.npy", np.load(options.work / "reference.npz")["prompts"])
    results: dict = {name: {"rates": [], "starts": []} for name in names}
    failed: dict = {}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            if name in failed:
                continue
            try:
                found = results[name]
                found["rates"].append(call(name, "--measure", options))
                found["starts"].append(call(name, "--start", options))  # its files are in the page cache now
                if number == 0:
                    found["install"] = call(name, "--install", options)["bytes"]
                rates = (f"{c} {statistics.median(found['rates'][-1][c]):,.0f}" for c in options.cases)
                start = found["starts"][-1]["seconds"]
                print(
                    f"round {number + 1}, {name}: {', '.join(rates)}, start {start:.2f} s",
                    file=sys.stderr,
                    flush=True,
                )
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed[name] = str(error)
                print(f"round {number + 1}, {name}: FAILED, {error}", file=sys.stderr, flush=True)
        if options.json:
            unfinished = options.json.with_suffix(".part")
            unfinished.write_text(json.dumps({"results": results, "failed": failed}, indent=1) + "\n")
            os.replace(unfinished, options.json)
    return {"results": results, "failed": failed}


def tables(found: dict) -> str:
    """Markdown: speeds and sizes; then the settings and the accuracy of each engine."""
    cases = [
        case for case in RATES if any(case in r for of in found["results"].values() for r in of["rates"])
    ]
    head = ["engine", *cases, "start", "memory", "of it own", "install"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    about = [
        "| engine | next tokens as float32 | greatest difference of a logit | settings |",
        "| --- | --- | --- | --- |",
    ]
    for name, of in found["results"].items():
        if not of["rates"]:
            continue
        rates = []
        for case in cases:
            rounds = [statistics.median(r[case]) for r in of["rates"]]
            rates.append(f"{statistics.median(rounds):,.0f} ({min(rounds):,.0f} to {max(rounds):,.0f})")
        start = statistics.median(s["seconds"] for s in of["starts"])
        rss, own = (statistics.median(s[key] for s in of["starts"]) / 2**20 for key in ("rss", "own"))
        install = of.get("install", 0) / 1e6
        lines.append(
            f"| {name} | {' | '.join(rates)} | {start:.2f} s | {rss:.0f} | {own:.0f} | {install:.0f} |"
        )
        last = of["rates"][-1]
        chosen = ", ".join(f"{case}: {how}" for case, how in last["choices"].items() if how)
        checked = last["check"]
        how = "; ".join(filter(None, (last["settings"], chosen)))
        about.append(f"| {name} | {checked['argmax']:.0%} | {checked['error']:.0e} | {how} |")
    n = max((len(of["rates"]) for of in found["results"].values()), default=0)
    lines.append(
        "\nTokens per second; start in seconds; memory in MiB, install in MB; medians of "
        f"{n} rounds, in brackets those of the slowest and of the fastest round.\n"
    )
    return "\n".join([*lines, *about, *(f"\n{name}: {why}" for name, why in found["failed"].items())])


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("prepare", "run", "show"))
    parser.add_argument("file", nargs="?", type=Path, help="for show")
    parser.add_argument("--work", type=Path, default=BENCH.parent / "build/peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--repeats", type=int, default=3, help="in each process; prefill and score 3 times as often"
    )
    parser.add_argument(
        "--cases", nargs="+", choices=RATES, default=RATES, metavar="CASE", help=", ".join(RATES)
    )
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="those whose names begin like this")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one process")
    parser.add_argument("--json", type=Path, help="save all measurements")
    for hidden in ("--measure", "--start", "--install"):
        parser.add_argument(hidden, metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.measure:
        print("RESULT " + json.dumps(measure(options.measure, options.repeats, options.cases)))
    elif options.start:
        print("RESULT " + json.dumps(first_token(options.start)))
    elif options.install:
        family = next(root for root in ROOTS if options.install.startswith(root))
        print("RESULT " + json.dumps({"bytes": install_size(ROOTS[family])}))
    elif options.what == "prepare":
        prepare(options)
    elif options.what == "run":
        if not (options.work / "reference.npz").exists():
            parser.error(f"{options.work} holds no models: run `prepare` first")
        print(tables(run(options)))
    elif options.what == "show":
        if options.file is None:
            parser.error("show needs the file of a run's --json")
        print(tables(json.loads(options.file.read_text())))
    else:
        parser.error("say what: prepare, run or show")


if __name__ == "__main__":
    main()
