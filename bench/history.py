"""The index of bench/results, and a plot of its ratios over time.

    python bench/history.py            (pip install "gpt2c[plot]" for the plot)

Reads every result in bench/results and writes there the table of README.md and history.svg. The plot shows,
by machine and number format, the share of the machine's roof (tables of bench/tables.py --only formats) and
gpt2c's rate over that of the best other engine with the same format (tables of bench/against_peers.py). Runs
that chose an instruction set (GPT2C_ISA) are left out. README.md there describes the form of a result.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from plots import STYLES

RESULTS = Path(__file__).resolve().parent / "results"
FORMAT_OF = {"Q8_0": "int8", "Q4_0": "int4"}
"""Formats of llama.cpp, and what they are compared with."""

SHARES = {
    "prompt of 512": "prompt of 512 tokens/s",
    "decoding": "decode tokens/s",
    "8 texts": "batch 8 tokens/s",
}
RATES = {"prompt of 512": "prefill", "decoding": "decode", "8 texts": "batch 8"}
"""What is drawn: the columns with it in the two kinds of tables."""

MARKS = ("o", "s", "^", "D", "v", "P")
HEAD = ("machine", "processor", "memory", "software", "beware")


@dataclass
class Table:
    """A table, and the command that measured it."""

    command: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Run:
    """One file of bench/results."""

    path: Path
    title: str
    day: datetime.date
    head: dict[str, str]
    tables: list[Table] = field(default_factory=list)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables_of(text: str) -> list[Table]:
    """The tables of a result, outside code; the command is that of the closest "Measured by:" above."""
    found: list[Table] = []
    command = ""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        lines = paragraph.strip().splitlines()
        if lines and lines[0].startswith("#"):
            command = "" if lines[0].startswith("## ") else command
        elif paragraph.strip().startswith("Measured by: "):
            command = " ".join(lines).removeprefix("Measured by: ")
        elif len(lines) > 2 and all(line.startswith("|") for line in lines):
            found.append(Table(command, cells(lines[0]), [cells(line) for line in lines[2:]]))
    return found


def read(path: Path) -> Run:
    """A result.

    Raises
    ------
    ValueError
        The file has not the form that README.md describes.
    """
    text = path.read_text(encoding="utf-8")
    title = re.match(r"# (\d{1,2} \w+ \d{4}): (.+)\n", text)
    if not title:
        raise ValueError(f'{path.name}: the first line must be "# 31 December 2026: SUBJECT"')
    day = datetime.datetime.strptime(title[1], "%d %B %Y").date()
    if not path.stem.startswith(day.isoformat()):
        raise ValueError(f"{path.name}: the title says {title[1]}; the name must begin with {day}")
    first, *others = tables_of(text)
    head = {row[0]: row[-1] for row in first.rows}
    if tuple(head) != HEAD:
        raise ValueError(f"{path.name}: the first table must have the rows {', '.join(HEAD)}")
    if not all(table.command for table in others):
        raise ValueError(f'{path.name}: a section has a table without "Measured by: `COMMAND`" above it')
    return Run(path, title[2], day, head, others)


def runs() -> list[Run]:
    """All results, the oldest first."""
    return [read(path) for path in sorted(RESULTS.glob("*.md")) if path.name != "README.md"]


def index(found: list[Run]) -> str:
    """The table of README.md, the newest result first."""
    lines = ["| date | machine | subject | measured by |", "|---|---|---|---|"]
    for run in sorted(found, key=lambda run: (run.day, run.path.name), reverse=True):
        text = run.path.read_text(encoding="utf-8")
        scripts = dict.fromkeys(re.findall(r"(?:bench|tests)/\w+\.py|gpt2c bench", text))
        link = f"[{run.title}]({run.path.name})"
        lines.append(
            f"| {run.day} | {run.head['machine']} | {link} | {', '.join(f'`{name}`' for name in scripts)} |"
        )
    return "\n".join(lines)


def number(text: str) -> float:
    """The first number of a cell."""
    return float(text.split()[0].replace(",", "").rstrip("%"))


def shares(table: Table) -> dict[tuple[str, str], float]:
    """(what, format) -> share of the roof, from a table of number formats."""
    if table.header[:2] != ["format", "MB per token"] or "GPT2C_ISA" in table.command:
        return {}
    at = {what: table.header.index(name) + 1 for what, name in SHARES.items() if name in table.header}
    return {(what, row[0]): number(row[i]) / 100 for row in table.rows for what, i in at.items()}


def ratios(table: Table) -> dict[tuple[str, str], float]:
    """(what, format) -> rate of gpt2c over that of the best other engine, from a table of engines."""
    found: dict[tuple[str, str], float] = {}
    if table.header[0] != "engine":
        return found
    for what, name in RATES.items():
        if name not in table.header:
            continue
        own, others = {}, {}
        for row in table.rows:
            engine, _, fmt = row[0].rpartition(" ")
            fmt, rate = FORMAT_OF.get(fmt, fmt), number(row[table.header.index(name)])
            if engine == "gpt2c":
                own[fmt] = rate
            else:
                others[fmt] = max(rate, others.get(fmt, 0))
        found |= {(what, fmt): own[fmt] / others[fmt] for fmt in own if fmt in others}
    return found


KINDS = {"share of the machine's roof": shares, "rate over the best other engine": ratios}


def points(found: list[Run]) -> list[tuple[str, str, str, Run, float]]:
    """What is drawn: (kind, what, format, run, value)."""
    return [
        (kind, what, fmt, run, value)
        for run in found
        for table in run.tables
        for kind, of in KINDS.items()
        for (what, fmt), value in of(table).items()
    ]


def digest(found: list[Run]) -> str:
    """A hash of what is drawn, which the plot holds so that a test can compare it."""
    lines = [f"{kind} {what} {fmt} {run.path.name} {v:.6f}\n" for kind, what, fmt, run, v in points(found)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def draw(found: list[Run], path: Path) -> None:
    """The plot."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gpt2c"  # the same results give the same file
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    marks = dict(zip(dict.fromkeys(run.head["machine"] for run in found), MARKS, strict=False))
    days, formats = sorted({run.day for run in found}), list(STYLES)
    figure, grid = plt.subplots(
        len(KINDS), len(SHARES), figsize=(10, 6.5), sharey="row", layout="constrained"
    )
    axes = {(kind, what): grid[i, j] for i, kind in enumerate(KINDS) for j, what in enumerate(SHARES)}
    for kind, what, fmt, run, value in points(found):
        x = days.index(run.day) + 0.15 * (formats.index(fmt) - 1.5)  # side by side
        axes[kind, what].plot(x, value, color=STYLES[fmt][0], marker=marks[run.head["machine"]], alpha=0.8)
    for (_, what), one in axes.items():
        one.axhline(1, color="grey", linewidth=1, linestyle="--")
        one.set(title=what, xlim=(-0.5, len(days) - 0.5), ylim=(0, None))
        one.set_xticks(range(len(days)), [f"{day.day} {day:%b}" for day in days])
        one.grid(alpha=0.3, axis="y")
    for line, kind in zip(grid, KINDS, strict=True):
        line[0].set_ylabel(kind)
    handles = [Line2D([], [], color=c, marker="s", linestyle="", label=fmt) for fmt, (c, _) in STYLES.items()]
    handles += [Line2D([], [], color="grey", marker=m, linestyle="", label=name) for name, m in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.suptitle(f"GPT-2 124M on two cores, {days[0].year}")
    figure.savefig(path, metadata={"Date": None, "Description": f"points: {digest(found)}"})
    plt.close(figure)


def main() -> None:
    found = runs()
    readme = RESULTS / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- index -->\n")
    _, _, after = rest.partition("<!-- end -->")
    readme.write_text(f"{before}<!-- index -->\n{index(found)}\n<!-- end -->{after}", encoding="utf-8")
    draw(found, RESULTS / "history.svg")
    print(readme, RESULTS / "history.svg", sep="\n")


if __name__ == "__main__":
    main()
