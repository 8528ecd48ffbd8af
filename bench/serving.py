"""`gpt2c serve` under load: GPT-2 124M with random weights in int8, two threads, clients on the same cores.

    python bench/serving.py [--only PART …] [--clients 1 8 32 128] [--seconds 30] [--json FILE]
    python bench/serving.py prepare            once: llama.cpp's server and the models, into build/peers
    python bench/serving.py --peer llama --only load

load         clients that ask /v1/completions for streams of 40 to 64 tokens after prompts of 30 to 60 token
             ids, each one after another: tokens/s in total, waits for the first token (from the first
             attempt, also if that was refused) and between tokens, and the server's memory under this load
in process   20 texts of 40 tokens: one generate of the list, the scheduler with a task for each text (the
             goal: 90 % of generate), its streams, and 20 threads that call model.stream
long prompt  the gaps between tokens of 8 texts while a prompt of 1,000 tokens arrives, beside a step of the 8
             alone and a slice of the prompt alone (the goal: 99 % within twice the sum)
faults       8 clients as in load, alone; and while 200 clients leave in the middle of their text, 100 send
             their request byte by byte, and 100 hardly read (the goal: the gaps' p99 within 1.5 times)

With --peer llama, each load is measured on llama.cpp's server too, with the best of twelve settings for that
number of clients: slots, flash attention, one cache for all slots or one each. The weights are the same,
there as Q8_0. Exit status 1 if a goal is missed. More: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from peers.setup import environment, llama_programs
from serve.clients import THREADS, Goals, gpt2c_command, load, progress, serving, table
from serve.inside import in_process, long_prompt
from serve.trouble import faults

from gpt2c import GPT2
from gpt2c.cli.bench import cpu_name, random_model
from gpt2c.tokenizer import gpt2_tokenizer

BENCH = Path(__file__).resolve().parent
PACKED = "gpt2c/serving.gpt2c"  # in --work: the weights that llama.cpp gets, with GPT-2's vocabulary


def measure_load(options: argparse.Namespace) -> tuple[list[dict], Goals]:
    """A row for each number of clients and server."""
    rows, goals = [], []
    best = llama_settings(options) if options.peer else {}
    for clients in options.clients:
        servers = {"gpt2c": gpt2c_command(options.model)}
        if options.peer:
            servers["llama.cpp"] = llama_command(options.work, *best[clients])
        servers |= {name: shlex.split(command) for name, command in options.server}
        rates = []
        for name, command in servers.items():
            progress(f"{clients} clients, {name}")
            with serving(command) as server:
                found = asyncio.run(load(server, clients, options.seconds))
            how = {"settings": setting_words(best[clients])} if name == "llama.cpp" else {}
            rows.append({"server": name, **found, **how})
            rates.append(found["tokens/s"])
        if options.peer and clients in (8, 32):
            ratio = rates[0] / max(rates[1], 1e-9)
            goals.append(
                (f"{clients} clients: {ratio:.2f} times llama.cpp's tokens/s; goal: 1.5", ratio >= 1.5)
            )
    return rows, goals


def llama_command(work: Path, slots: int, flash: str, cache: str) -> list[object]:
    """The command that serves the same weights with llama.cpp, with a thread for each connection."""
    return [
        *(work / "llama/bin/llama-server", "-m", work / "gguf/q8_0.gguf", "--host", "127.0.0.1"),
        *("--port", "{port}", "-t", THREADS, "-tb", THREADS, "--threads-http", 256, "--cache-ram", 0),
        *("-np", slots, "-c", 256 * slots, "-fa", flash, cache),
    ]


def setting_words(setting: tuple[int, str, str]) -> str:
    """A setting as options."""
    slots, flash, cache = setting
    return f"-np {slots} -fa {flash} {cache}"


def llama_settings(options: argparse.Namespace) -> dict[int, tuple[int, str, str]]:
    """The setting with most tokens/s for each number of clients, by loads of a quarter of the time."""
    rates: dict[int, dict] = {clients: {} for clients in options.clients}
    for setting in product((8, 32, 128), ("on", "off"), ("--kv-unified", "--no-kv-unified")):
        progress(f"trying llama-server {setting_words(setting)}")
        for clients in options.clients:
            with serving(llama_command(options.work, *setting)) as server:
                found = asyncio.run(load(server, clients, options.seconds / 4))
            rates[clients][setting] = found["tokens/s"]
    return {clients: max(tried, key=tried.get) for clients, tried in rates.items()}


PARTS = {
    "load": measure_load,
    "in process": in_process,
    "long prompt": long_prompt,
    "faults": faults,
}


def prepare(work: Path) -> None:
    """Make llama.cpp's server, and the same weights for both, if they are missing."""
    work.mkdir(parents=True, exist_ok=True)
    python = environment(work, ("gguf", "numpy", "safetensors", "torch", "transformers"))
    programs = llama_programs(python, work)
    steps = {"model": "model/model.safetensors", "gguf-f32": "gguf/f32.gguf"}
    missing = [step for step, made in steps.items() if not (work / made).exists()]
    if missing:
        subprocess.run([python, BENCH / "peers/models.py", *missing], check=True, cwd=work)
    if not (work / "gguf/q8_0.gguf").exists():
        quantize = [programs / "llama-quantize", "gguf/f32.gguf", "gguf/q8_0.gguf", "Q8_0", "1"]
        subprocess.run(quantize, check=True, cwd=work)
    if not (work / PACKED).exists():
        (work / PACKED).parent.mkdir(exist_ok=True)
        # The vocabulary that the others get has words which no text can be cut into.
        GPT2.from_pretrained(work / "model", dtype="int8", tokenizer=gpt2_tokenizer()).save(work / PACKED)


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("prepare",))
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128], metavar="N")
    parser.add_argument("--seconds", type=float, default=30, help="of each load, after a warm-up")
    parser.add_argument("--rounds", type=int, default=5, help="of in process and long prompt")
    parser.add_argument("--peer", choices=("llama",), help="the same load there")
    parser.add_argument(
        "--server",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "COMMAND"),
        help="the same load on any other server of /v1/completions; the command contains {port}",
    )
    parser.add_argument(
        "--work", type=Path, default=BENCH.parent / "build/peers", help="for prepare and --peer"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.peer and not (options.work / PACKED).exists():
        parser.error(f"{options.work} holds no server to compare with: run `prepare` first")
    return options


def main() -> int:
    """Measure the requested parts, and print tables."""
    options = arguments()
    if options.what == "prepare":
        prepare(options.work)
        return 0
    found, missed = {}, False
    with tempfile.TemporaryDirectory() as folder:
        options.model = options.work / PACKED
        if not options.peer:
            options.model = Path(folder) / "model.gpt2c"
            random_model("124M", dtype="int8").save(options.model)
        for name in options.only:
            rows, goals = PARTS[name](options)
            found[name] = {"rows": rows, "goals": goals}
            missed |= not all(reached for _, reached in goals)
            print(f"\n## {name}\n\n{table(rows)}\n")
            for goal, reached in goals:
                print(f"- {goal}{'' if reached else ': MISSED'}", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"cpu": cpu_name(), "parts": found}, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
