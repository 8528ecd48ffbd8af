"""The tables that `gpt2c bench` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .cases import Result
from .formats import USES, Format, disturbed, fastest, reason
from .load import STEPS

__all__ = ["formats_table", "heading", "kernels_table", "load_table", "rates_table", "roofline_table"]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _range(found: Mapping[str, float], unit: float, digits: int = 0) -> str:
    """Median, and in brackets the spread."""
    median, low, high = (f"{found[key] / unit:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def heading(report: dict[str, Any]) -> list[str]:
    machine, model = report["machine"], report["model"]
    many = "s" * (machine["threads"] != 1)
    how = f": {model['dtype']}, {model['backend']}, {model['bytes'] / 1e6:.0f} MB" if "dtype" in model else ""
    return [
        f"{machine['cpu']}, {machine['threads']} thread{many} ({machine['team']}), {machine['isa']}",
        f"{model['name']}{how}",
        "medians, in brackets the spread",
    ]


def load_table(found: dict[str, Any]) -> list[str]:
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


def roofline_table(found: list[dict[str, Any]]) -> list[str]:
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


def kernels_table(results: Sequence[Result]) -> list[str]:
    rows = [["kernels", "rows", "µs", "GB/s", "Gop/s", "share of roof"]]
    for r in results:
        times = {"median": r.seconds, "low": r.low, "high": r.high}
        operations = sum(r.operations.values())
        rows.append([f"  {r.name}", str(r.tokens), _range(times, 1e-6, 1), f"{r.bytes / r.seconds / 1e9:.1f}",
                     f"{operations / r.seconds / 1e9:.1f}", _share(r)])  # fmt: skip
    return [*_columns(rows), *_disturbed(results)]


def rates_table(results: Sequence[Result]) -> list[str]:
    rows = [["model", "tokens/s", "share of roof"]]
    rows += [[f"  {r.name}", _range(r.report(), 1.0, 1), _share(r)] for r in results]
    return [*_columns(rows), *_disturbed(results)]


def formats_table(formats: Sequence[Format], max_loss: float, *, given: bool) -> list[str]:
    """What each number format is like, and the fastest for each use; ``given``: the user chose the limit."""
    rows = [["number formats", "MB", *(f"{use}, tokens/s" for use in USES), "loss", "same top token"]]
    rows += [
        [f"  {of.dtype}", f"{of.bytes / 1e6:.0f}", *(_range(of.speeds[use], 1.0) for use in USES),
         f"{of.cost['delta_percent']:+.3f} %", f"{of.cost['agreement_percent']:.2f} %"]
        for of in formats
    ]  # fmt: skip
    whose = "" if given else " (what bfloat16 costs, and at least 0; --max-loss allows more)"
    chosen = [(use, reason(formats, use, max_loss), fastest(formats, use, max_loss).dtype) for use in USES]
    return [
        *_columns(rows),
        *disturbed(formats),
        "",
        f"the fastest here within a loss of {max_loss:+.3f} %{whose}:",
        *(f"  {use}: {why}: --dtype {dtype}" for use, why, dtype in chosen),
    ]


def _disturbed(results: Sequence[Result]) -> list[str]:
    over = any(result.share > 1 for result in results)
    return ["above 100%: other work disturbed the measurement of the roof"] * over
