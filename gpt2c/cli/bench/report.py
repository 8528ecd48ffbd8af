"""`gpt2c bench`: measures, and prints tables or JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...core import _engine
from ...model import GPT2
from ..parser import BENCH_PARTS
from .cases import Result, rates
from .kernels import kernels
from .load import STEPS, load
from .models import random_model
from .roofs import roofline

__all__ = ["cpu_name", "main_bench"]


def main_bench(arguments: Namespace) -> int:
    """Measure what was asked for. Tables are printed as they are made; JSON holds all of it, at the end.

    JSON: ``machine`` and ``model`` describe what was measured; the rest as asked for, with seconds, bytes,
    bytes per second and operations per second: ``load`` (`load.load`), ``roofline`` (`roofs.roofline`),
    ``kernels`` and ``rates`` (`cases.Result.report` of each).
    """
    if arguments.shape and arguments.model:
        raise ValueError("give --shape or --model, not both")
    wanted = [part for part in BENCH_PARTS if part in (arguments.parts or BENCH_PARTS)]
    if arguments.backend == "blas":  # its dense layers are NumPy's, and packed files are not for it
        without = ("kernels", "load") if arguments.shape else ("kernels",)
        if refused := [part for part in arguments.parts if part in without]:
            raise ValueError(
                f"{' and '.join(refused)} cannot be measured with --backend blas"
                + (" and --shape" if "load" in refused else "")
                + ": leave out one or the other"
            )
        wanted = [part for part in wanted if part not in without]
    print(f"measuring {', '.join(wanted)}; keep the machine quiet …", file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    how = {"dtype": arguments.dtype, "backend": arguments.backend, "threads": arguments.threads}
    if arguments.shape:
        model = random_model(arguments.shape, **how | {"dtype": arguments.dtype or "float32"})
        if "load" in wanted:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.gpt2c")
                model.save(path)
                found["load"] = load(path, threads=arguments.threads)
    else:
        source = _local(arguments)
        if "load" in wanted:  # before this process has mapped a file: the system could not forget it
            found["load"] = load(source, **how)
        model = GPT2.from_pretrained(source, **how)
    isa, threads = model.weights.isa, model.threads
    report: dict[str, Any] = {
        "machine": {"cpu": cpu_name(), "isa": isa, "threads": threads, "team": _engine.TEAM},
        "model": {"name": arguments.model or model.name, "dtype": model.dtype,
                  "backend": model.weights.backend, "bytes": model.weights.nbytes},
        **found,
    }  # fmt: skip

    def show(lines: Iterable[str]) -> None:
        if not arguments.json:
            print(*lines, "", sep="\n", flush=True)

    show(_heading(report))
    if "load" in wanted:
        show(_load(report["load"]))
    if "roofline" in wanted:
        report["roofline"] = roofline(isa, threads)
        show(_roofline(report["roofline"]))
    if "kernels" in wanted:
        results = kernels(model.config, model.dtype, isa=isa, threads=threads)
        report["kernels"] = [result.report() for result in results]
        show(_kernels(results))
    if "model" in wanted:
        results = rates(model)
        report["rates"] = [result.report() for result in results]
        show(_rates(results))
    if arguments.json:
        print(json.dumps(report, indent=2))
    return 0


def _local(arguments: Namespace) -> str | None:
    """What other processes can load again and again: a hub's model is fetched once."""
    source, revision = arguments.model, arguments.revision
    if source is None or (revision is None and os.path.exists(os.path.expanduser(source))):
        return source
    from ...checkpoint import open_checkpoint

    found = open_checkpoint(source, revision=revision, local_files_only=arguments.offline)
    return str(found.directory)


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


# ---- tables


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _range(found: dict[str, float], unit: float, digits: int = 0) -> str:
    """Median, and in brackets the spread."""
    median, low, high = (f"{found[key] / unit:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _heading(report: dict[str, Any]) -> list[str]:
    machine, model = report["machine"], report["model"]
    many = "s" * (machine["threads"] != 1)
    return [
        f"{machine['cpu']}, {machine['threads']} thread{many} ({machine['team']}), {machine['isa']}",
        f"{model['name']}: {model['dtype']}, {model['backend']}, {model['bytes'] / 1e6:.0f} MB",
        "medians, in brackets the spread",
    ]


def _load(found: dict[str, Any]) -> list[str]:
    def state(name: str) -> str:
        share = found[name]["cached_share"]
        known = "unknown" if share is None else f"{share:.0%}"
        return f"{known} of it in the page cache"

    rows = [["load: a new process, ms", *(state(name) for name in ("cached", "uncached"))]]
    rows += [
        [f"  {step}", *(_range(found[name][step], 1e-3) for name in ("cached", "uncached"))]
        for step in (*STEPS, "process")
    ]
    lines = [f"files: {found['files'] / 1e6:.0f} MB", *_columns(rows)]
    if "processes" in found:
        of = found["processes"]
        lines.append(
            f"memory of {of['count']} at once: {of['together'] / 2**20:.0f} MiB together; each "
            f"{of['resident'] / 2**20:.0f} MiB resident, {of['private'] / 2**20:.0f} of them private"
        )
    return lines


def _roofline(found: list[dict[str, Any]]) -> list[str]:
    rows = [["roofline, by threads", *(str(of["threads"]) for of in found)]]
    for name, text, unit in (
        ("read_memory", "reads of 256 MiB, GB/s", 1e9),
        ("read_cache", "reads of 0.5 MiB each, GB/s", 1e9),
        ("float32", "float32, Gop/s", 1e9),
        ("bfloat16", "bfloat16, Gop/s", 1e9),
        ("int8", "int8, Gop/s", 1e9),
        ("phase", "all threads wait for one another, ns", 1e-9),
        ("region", "a parallel region, ns", 1e-9),
    ):
        rows.append([f"  {text}", *(_range(of[name], unit) for of in found)])
    return _columns(rows)


def _share(result: Result) -> str:
    return f"{result.share:.0%} of {'reads' if result.roof == 'read' else 'arithmetic'}"


def _kernels(results: Sequence[Result]) -> list[str]:
    rows = [["kernels", "rows", "µs", "GB/s", "Gop/s", "share of roof"]]
    for r in results:
        times = {"median": r.seconds, "low": r.low, "high": r.high}
        operations = sum(r.operations.values())
        rows.append([f"  {r.name}", str(r.tokens), _range(times, 1e-6, 1), f"{r.bytes / r.seconds / 1e9:.1f}",
                     f"{operations / r.seconds / 1e9:.1f}", _share(r)])  # fmt: skip
    return [*_columns(rows), *_disturbed(results)]


def _rates(results: Sequence[Result]) -> list[str]:
    rows = [["model", "tokens/s", "share of roof"]]
    rows += [[f"  {r.name}", _range(r.report(), 1.0, 1), _share(r)] for r in results]
    return [*_columns(rows), *_disturbed(results)]


def _disturbed(results: Sequence[Result]) -> list[str]:
    over = any(result.share > 1 for result in results)
    return ["above 100%: other work disturbed the measurement of the roof"] * over
