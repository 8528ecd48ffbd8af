"""Figures of traces: what was weighed at every step of a continuation, and the tree of a search."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..generation.trace import Candidate, Trace
from .drawing import (
    CENTRED,
    axes_or_new,
    bands,
    colour_bar,
    heat_map,
    same_width,
    shortened,
    text_colour,
    text_style,
    title,
    token_labels,
)

__all__ = ["draw_choices", "draw_search"]

# Of the token that was chosen, and of the path that led to a text.
_CHOSEN = "#c0392b"


def draw_choices(trace: Trace, ax: Axes | None) -> Figure:
    """A column per step: the most probable tokens, and the chosen one in a frame."""
    columns = [step.branches[0].candidates for step in trace.steps]
    n_rows, n_steps = max(map(len, columns)), len(columns)
    probabilities = np.ma.masked_all((n_rows, n_steps))
    for step, candidates in enumerate(columns):
        probabilities[: len(candidates), step] = np.exp([candidate.logprob for candidate in candidates])
    orders = [str(row + 1) for row in range(n_rows)]
    positions = [str(step.position) for step in trace.steps]
    figure, places = bands(ax, n_steps, most=16, width=0.9, height=0.32 * n_rows + 1)
    for axes, at in places:
        values, names = probabilities[:, at.start : at.stop], positions[at.start : at.stop]
        image = heat_map(axes, values, orders, names, cmap="Blues", vmin=0, vmax=1, annotate=False)
        for column, step in enumerate(at):
            for row, candidate in enumerate(columns[step]):
                colour = text_colour(image, probabilities[row, step])
                _draw_candidate(axes, (column, row), candidate, colour)
        axes.set_ylabel("order of probability")
    same_width(places)
    title(places[0][0], "candidates of each step; framed: the chosen one; grey: left out")
    axes.set_xlabel("position in the text")
    colour_bar(image, [axes for axes, _ in places], "probability")
    return figure


def _draw_candidate(ax: Axes, at: tuple[int, int], candidate: Candidate, colour: str) -> None:
    """A token in its cell: grey if it was left out, in a frame if it was chosen."""
    column, row = at
    word = shortened(token_labels([candidate.text], [candidate.token_id])[0], 11)
    if candidate.removed_by:
        colour = {"black": "0.42", "white": "0.8"}[colour]
    ax.text(column, row, word, color=colour, **text_style(7), **CENTRED)
    if candidate.fate:
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=_CHOSEN, linewidth=1.6))


def draw_search(trace: Trace, path: tuple[int, ...], ax: Axes | None) -> Figure:
    """The texts of each step one below the other, joined to what became of them; ``path`` highlighted."""
    n_steps = len(trace.steps)
    n_beams = max(len(step.branches) for step in trace.steps)
    figure, ax = axes_or_new(ax, (1.15 * (n_steps + 1) + 1, 0.6 * (2 * n_beams) + 1))
    n_rows = n_beams
    for number, step in enumerate(trace.steps):
        # Texts that ended stand below the beams.
        next_free = n_beams
        for place, branch in enumerate(step.branches):
            for candidate in branch.candidates:
                if not candidate.fate:
                    continue
                if candidate.fate == "ended":
                    row, next_free = next_free, next_free + 1
                else:
                    row = int(candidate.fate.removeprefix("beam "))
                token_ids = (*branch.token_ids, candidate.token_id)
                on_path = bool(path) and path[: len(token_ids)] == token_ids
                _draw_edge(ax, (number, place), (number + 1, row), candidate, on_path)
        n_rows = max(n_rows, next_free)
    for place in range(len(trace.steps[0].branches)):
        ax.plot(0, place, "o", color="0.3")
    ax.set(
        xlim=(-0.4, n_steps + 0.6), ylim=(n_rows - 0.4, -0.6), xlabel="position in the text", ylabel="beam"
    )
    ax.set_xticks(range(1, n_steps + 1), [str(step.position) for step in trace.steps])
    ax.set_yticks(range(n_beams), list(map(str, range(n_beams))))
    title(ax, "the search: tokens and the sums of log-probabilities (nats); below: texts that ended", 10)
    return figure


def _draw_edge(
    ax: Axes, start: tuple[int, int], end: tuple[int, int], candidate: Candidate, on_path: bool
) -> None:
    """A line from a text to the token that goes on with it, which stands in a box with its score."""
    if on_path:
        colour, width = _CHOSEN, 2.2
    else:
        colour, width = "0.45" if candidate.fate == "ended" else "#3b6fb6", 1
    ax.plot(*zip(start, end, strict=True), color=colour, linewidth=width, zorder=1)
    word = token_labels([candidate.text], [candidate.token_id])[0]
    score = "" if candidate.score is None else f"\n{candidate.score:.2f}"
    ax.text(
        end[0],
        end[1],
        shortened(word, 12) + score,
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour},
        zorder=2,
        **text_style(7),
        **CENTRED,
    )
