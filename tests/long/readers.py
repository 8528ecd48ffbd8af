"""Damaged files that every reader must refuse with its own error, or read as the library does.

    python tests/long/readers.py [--cases 20000 | --minutes M] [--seed s] [--only reader …] [--first case]

Case n mutates one small valid file: bits, bytes, pieces, numbers at edges, values inside JSON. It fails if
the reader dies of a signal, takes more than 10 s, raises an error that is not one of gpt2c's, takes more than
64 MB, or accepts what the library rejects or reads otherwise (safetensors, tokenizers, json, pyarrow; packed
files, torch's, GGUF, TensorFlow's and CSV are not compared). Two forked workers run the cases; --first n
--cases 1 repeats case n alone, with the same --only. Prints the failures and the counts; status 1 on a
failure.
"""

import io
import json
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors
import tokenizers
from helpers.gates import gate_parser
from helpers.gguf_files import gguf_bytes, model_metadata, model_tensors
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors

import gpt2c
from gpt2c.checkpoint.files import RegularFile, parse_object
from gpt2c.checkpoint.gguf import read_gguf
from gpt2c.checkpoint.hf_config import config_from_hf
from gpt2c.checkpoint.packed import open_packed
from gpt2c.checkpoint.safetensors import read_header
from gpt2c.checkpoint.tf_bundle import read_index
from gpt2c.checkpoint.torch_file import read_torch_file
from gpt2c.corpus.formats import read
from gpt2c.corpus.records import Fault, FileOptions, Job
from gpt2c.errors import GPT2CError
from gpt2c.tokenizer.files import read_description
from gpt2c.tokenizer.load import made_from

DATA = Path(__file__).parents[1] / "data"
WORKERS, SECONDS, MEGABYTES = 2, 10, 64
EDGES = [
    0,
    1,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
VALUES = [None, True, -1, 0, 1.5, 1e308, "", "x", [], {}, [[]], 2**31, 2**63, 2**64, -(2**63), 10**30]


class Different(Exception):
    """Accepted, but not what the library reads."""


def safetensors_case(path):
    found = read_header(RegularFile(path))
    data = path.read_bytes()
    try:
        expected = {name: entry for name, entry in safetensors.deserialize(data)}
    except Exception as error:
        raise Different(f"safetensors rejects it: {error}") from error
    if {n: (i.dtype, i.shape) for n, i in found.items()} != {
        n: (e["dtype"], tuple(e["shape"])) for n, e in expected.items()
    }:
        raise Different("other names, dtypes or shapes")
    for name, info in found.items():
        if data[info.offset : info.offset + info.nbytes] != bytes(expected[name]["data"]):
            raise Different(f"other bytes of {name!r}")


def config_case(path):
    data = path.read_bytes()
    values = parse_object(data, str(path))
    if repr(values) != repr(json.loads(data)):
        raise Different("json reads other values")
    config_from_hf(values)


def tokenizer_case(path):
    description = read_description(path)
    ours = made_from(description.content, str(path), 1000)
    try:
        theirs = tokenizers.Tokenizer.from_str(path.read_text())
    except Exception as error:
        raise Different(f"tokenizers rejects it: {error}") from error
    text = "A test, of 12 words."
    if list(ours.encode(text)) != theirs.encode(text, add_special_tokens=False).ids:
        raise Different("other tokens")


def records(path, format):
    return list(read(Job(str(path), "", format, ""), FileOptions(on_error="stop")))


def jsonl_case(path):
    texts = [record.text for record in records(path, ".jsonl")]
    lines = [line for line in path.read_bytes().decode("utf-8-sig").split("\n") if line.strip()]
    if texts != [json.loads(line).get("text") for line in lines]:
        raise Different("json reads other texts")


def parquet_case(path):
    texts = [record.text for record in records(path, ".parquet")]
    try:
        expected = pyarrow.parquet.ParquetFile(path).read().column("text").to_pylist()
    except Exception as error:
        raise Different(f"pyarrow rejects it: {error}") from error
    if texts != expected:
        raise Different("pyarrow reads other texts")


def parquet_bytes():
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "bc", "d é"], "n": [1, 2, 3]}), out)
    return out.getvalue()


def packed_bytes(directory):
    gpt2c.GPT2.from_pretrained(str(directory), tokenizer=None).save(directory / "small.gpt2c")
    return (directory / "small.gpt2c").read_bytes()


READERS = {  # the end of the file's name, what reads it
    "safetensors": (".safetensors", safetensors_case),
    "packed": (".gpt2c", lambda path: open_packed(path, False)),
    "torch": (".bin", lambda path: read_torch_file(RegularFile(path))),
    "gguf": (".gguf", lambda path: read_gguf(RegularFile(path))),
    "tensorflow": (".index", lambda path: read_index(RegularFile(path))),
    "tokenizer": (".json", tokenizer_case),
    "config": (".json", config_case),
    "jsonl": (".jsonl", jsonl_case),
    "csv": (".csv", lambda path: records(path, ".csv")),
    "parquet": (".parquet", parquet_case),
}


def seeds():
    """Valid files, by reader."""
    made = safetensors_bytes(tiny_tensors())
    torch = [
        "torch/stream-2.6.bin",
        "torch/stream.bin",
        "torch/F16.bin",
        "torch/BF16.bin",
        "torch/protocol.bin",
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "config.json").write_text(json.dumps(TINY))
        (directory / "model.safetensors").write_bytes(made)
        packed = packed_bytes(directory)
    return {
        "safetensors": [made, safetensors_bytes({"a": np.ones(3), "b": np.ones((2, 2))})],
        "packed": [packed],
        "torch": [(DATA / name).read_bytes() for name in torch],
        "gguf": [gguf_bytes(model_metadata(), model_tensors())],
        "tensorflow": [
            (DATA / "openai" / name).read_bytes() for name in ("half/model.ckpt.index", "run1/model-1.index")
        ],
        "tokenizer": [(DATA / "tokenizer/saved/tokenizer.json").read_bytes()],
        "config": [json.dumps(TINY).encode()],
        "jsonl": [b'{"text": "a b", "n": 1}\n{"text": "\\u00e9"}\n'],
        "csv": [b'text,n\n"a, ""b""",1\nc d,2\n'],
        "parquet": [parquet_bytes()],
    }


def in_json(data, rng):
    """Another value somewhere in a JSON text."""
    value = json.loads(data)
    at = value
    while isinstance(at, dict | list) and at:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = keys[rng.integers(len(keys))]
        if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.2:
            at[key] = VALUES[rng.integers(len(VALUES))]
            break
        at = at[key]
    return json.dumps(value).encode()


def mutated(files, rng, reader):
    """One of the files, changed in one to three places."""
    data = files[rng.integers(len(files))]
    if reader in ("config", "tokenizer") and rng.random() < 0.5:
        return in_json(data, rng)
    if reader == "safetensors" and rng.random() < 0.4:
        end = 8 + int.from_bytes(data[:8], "little")
        header = in_json(data[8:end], rng)
        return len(header).to_bytes(8, "little") + header + data[end:]
    for _ in range(rng.integers(1, 4)):
        reach = len(data) if rng.random() < 0.5 else min(len(data), 400)  # headers are at the start
        a, b = sorted(int(x) for x in rng.integers(0, reach + 1, 2))
        kind = rng.integers(6)
        if kind == 0 and data:
            a = min(a, len(data) - 1)
            data = data[:a] + bytes([data[a] ^ 1 << int(rng.integers(8))]) + data[a + 1 :]
        elif kind == 1:
            data = data[:a]
        elif kind == 2:
            data = data[:a] + rng.bytes(int(rng.integers(1, 9))) + data[a:]
        elif kind == 3:
            data = data[:b] + data[a:b][:4096] + data[b:]
        elif kind == 4:
            data = data[:a] + files[rng.integers(len(files))][b:]
        else:
            number = struct.pack("<Q", EDGES[rng.integers(len(EDGES))])[: int(rng.choice((1, 2, 4, 8)))]
            data = data[:a] + number + data[a + len(number) :]
    return data


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def run(reader, data, directory):
    """The fault of one case, or None; and whether the file was accepted."""
    ending, call = READERS[reader]
    path = directory / f"case{ending}"
    path.write_bytes(data)
    before, began, accepted, fault = rss(), time.monotonic(), False, None
    try:
        call(path)
        accepted = True
    except (GPT2CError, Fault):
        pass
    except Exception as error:  # any other is what the gate looks for
        corpus = reader in ("jsonl", "csv", "parquet") and type(error) is ValueError
        if not (corpus and str(error).startswith(str(path))):
            fault = f"{type(error).__name__}: {str(error)[:200]}"
    if time.monotonic() - began > SECONDS:
        fault = f"took {time.monotonic() - began:.0f} s"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return fault or (f"{grown >> 20} MB more" if grown > MEGABYTES << 20 else None), accepted


def work(numbers, names, files, seed, shared, until):
    """The cases of a worker; shared: the number of the case, and how many are done, accepted and failed."""
    with tempfile.TemporaryDirectory() as name:
        for n in numbers:
            if time.monotonic() > until:
                break
            struct.pack_into("<q", shared, 0, n)
            reader = names[n % len(names)]
            rng = np.random.default_rng((seed, n, zlib.crc32(reader.encode())))
            fault, accepted = run(reader, mutated(files[reader], rng, reader), Path(name))
            done = struct.unpack_from("<3q", shared, 8)
            struct.pack_into("<3q", shared, 8, done[0] + 1, done[1] + accepted, done[2] + (fault is not None))
            if fault:
                print(f"case {n}, {reader}: {fault}", flush=True)


def start(*arguments):
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        finally:
            sys.stdout.flush()
            os._exit(0 if sys.exc_info()[0] is None else 3)
    return pid


def main():
    options = gate_parser(__doc__, 20_000, [*READERS], "readers").parse_args()
    files, began = seeds(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for reader, valid in files.items():
            for data in valid:
                if run(reader, data, Path(name)) != (None, True):
                    sys.exit(f"{reader}: a valid file is not accepted: {run(reader, data, Path(name))[0]}")
    until = began + 60 * options.minutes if options.minutes else float("inf")
    last = 2**40 if options.minutes else options.first + options.cases
    signals, running = 0, {}

    def begin(first, shared):
        numbers = range(first, last, WORKERS)
        running[start(numbers, options.only, files, options.seed, shared, until)] = [
            shared,
            -1,
            time.monotonic(),
        ]

    shares = [mmap.mmap(-1, 64) for _ in range(WORKERS)]
    for i, shared in enumerate(shares):
        begin(options.first + i, shared)
    while running:
        time.sleep(0.05)
        for pid, state in list(running.items()):
            n = struct.unpack_from("<q", state[0], 0)[0]
            if n != state[1]:
                state[1:] = n, time.monotonic()
            elif time.monotonic() - state[2] > SECONDS + 2:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                if status:
                    signals += 1
                    print(f"case {n}, {options.only[n % len(options.only)]}: status {status}", flush=True)
                    begin(n + WORKERS, state[0])
    done, accepted, failed = (
        sum(x) for x in zip(*(struct.unpack_from("<3q", s, 8) for s in shares), strict=True)
    )
    seconds = time.monotonic() - began
    print(
        f"{done + signals} cases, {accepted} accepted, {failed + signals} failed, "
        f"{seconds:.0f} s; seed {options.seed}"
    )
    return int(failed + signals > 0)


if __name__ == "__main__":
    sys.exit(main())
