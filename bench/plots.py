"""Plots of the results of bench/tables.py: rate over context, batch and model size, with the roof of each.

    python bench/tables.py --only context batch shapes --json FILE
    python bench/plots.py FILE [-o DIRECTORY]           (pip install "gpt2c[plot]")

Writes context.svg, batch.svg and shapes.svg, as far as FILE has their points. A solid line is the measured
median, with bars from the lowest to the highest; the dashed line of the same colour is the roof: the rate of
a program that only reads the call's bytes, or only does its arithmetic, whichever takes longer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

AXES = {
    "context": "tokens before it",
    "batch": "texts decoded together",
    "shapes": "parameters",
}
# Colours that also people with colour-blindness tell apart (Okabe and Ito 2008), and marks of their own.
STYLES = {
    "float32": ("#000000", "o"),
    "bfloat16": ("#0072B2", "s"),
    "int8": ("#D55E00", "^"),
    "int4": ("#009E73", "v"),
}


def draw(name: str, found: dict, machine: dict, path: Path) -> None:
    """One plot."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gpt2c"  # the same points give the same file
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    lines = dict.fromkeys(point["line"] for point in found["points"])
    for line in lines:
        points = sorted((p for p in found["points"] if p["line"] == line), key=lambda p: p["at"])
        colour, mark = STYLES[line]
        at, rate = [p["at"] for p in points], [p["median"] for p in points]
        spread = [[p["median"] - p["low"] for p in points], [p["high"] - p["median"] for p in points]]
        axes.errorbar(at, rate, yerr=spread, color=colour, marker=mark, markersize=5, capsize=2, label=line)
        axes.plot(at, [p["median"] / p["share"] for p in points], color=colour, linestyle="--", linewidth=1)
    if name in ("batch", "shapes"):
        axes.set_xscale("log")
        ticks = sorted({p["at"] for p in found["points"]})
        labels = [f"{t / 1e6:.0f}M" if name == "shapes" else f"{t:g}" for t in ticks]
        axes.set_xticks(ticks, labels)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(AXES[name])
    axes.set_ylabel("tokens per second")
    axes.grid(alpha=0.3, which="both")
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(handles=[*handles, Line2D([], [], color="grey", linestyle="--", linewidth=1, label="roof")])
    axes.set_title(f"{found['title']}\n{machine['cpu']}, {machine['isa']}", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIRECTORY")
    parser.add_argument("--format", default="svg", choices=("svg", "png", "pdf"))
    options = parser.parse_args()
    found = json.loads(options.file.read_text(encoding="utf-8"))
    measured = found.get("tables", {})
    names = [name for name in AXES if measured.get(name, {}).get("points")]
    if not names:
        parser.error(
            f"{options.file} has no points of {', '.join(AXES)}: make it with bench/tables.py --json"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = options.output / f"{name}.{options.format}"
        draw(name, measured[name], found["machine"], path)
        print(path)


if __name__ == "__main__":
    main()
