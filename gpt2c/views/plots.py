"""Figures with matplotlib (the extra ``plot``): what ``plot()`` of results draws.

Every function returns the figure and shows nothing; given ``ax``, it draws into these axes instead of
a figure of its own. The numbers drawn are those of the arrays, unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from ..core.checks import check_index
from ..core.labels import RANK_NAMES, rank_class
from ..errors import counted
from ..generation.results import Generation
from ..generation.trace import Candidate, Trace
from ..introspection.crossing import CrossAttention
from ..introspection.passes import ActivationCache
from ..introspection.results import Attribution, HeadScores, LogitLens, Patching
from ..scoring.results import Score, pieces

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    from .drawing import (
        CENTRED,
        COLORBAR,
        axes_or_new,
        drawable,
        font_size,
        heat_map,
        new_figure,
        shortened,
        text_colour,
        text_style,
        thinned,
        token_labels,
    )
except ImportError as error:
    raise ImportError(f'figures need matplotlib ({error}): pip install "gpt2c[plot]"') from error

__all__ = ["plot"]

_RANK_COLOURS = ("#4c9f70", "#d9b44a", "#d9793a", "#9e3d5f")
# Of the token that was chosen, and of the path that led to a text.
_CHOSEN = "#c0392b"


@singledispatch
def plot(result: Any) -> Figure:
    """Draw a result; :meth:`gpt2c.core.display.Displayed.plot` says what is drawn of which, and how."""
    raise TypeError(f"there is no figure of a {type(result).__name__}")


@plot.register
def _attention(
    cache: ActivationCache, layer: int, head: int | None = None, *, ax: Axes | None = None
) -> Figure:
    """Draw the attention pattern of one head, or of all heads of a layer."""
    layer = check_index("layer", layer, cache.model.config.n_layer)
    pattern = cache["pattern", layer]  # [n_head, T, T]
    tokens = token_labels(cache.tokens, cache.token_ids.tolist())
    hidden = ~np.tri(len(tokens), dtype=bool) & cache.causal
    weights = np.ma.masked_where(np.broadcast_to(hidden, pattern.shape), pattern)
    if head is None:
        if ax is not None:
            raise ValueError(
                "ax is for one head: name it with head, or leave ax out for a figure of all heads"
            )
        return _plot_heads(weights, tokens, layer)
    head = check_index("head", head, len(pattern))
    side = min(max(0.3 * len(tokens) + 2, 4), 12)
    figure, ax = axes_or_new(ax, (side + 0.8, side))
    image = heat_map(ax, weights[head], tokens, tokens, cmap="Blues", vmin=0, vmax=1)
    ax.set(
        title=f"attention pattern, layer {layer}, head {head}",
        xlabel="key: who answers",
        ylabel="query: who asks",
    )
    figure.colorbar(image, ax=ax, label="weight", **COLORBAR)
    return figure


def _plot_heads(weights: np.ma.MaskedArray, tokens: list[str], layer: int) -> Figure:
    """The patterns of all heads of a layer, [n_head, T, T]."""
    n_columns = min(len(weights), 4)
    n_rows = math.ceil(len(weights) / n_columns)
    side = min(max(0.14 * len(tokens) + 1.2, 2.2), 4)
    figure, axes = new_figure(
        n_rows,
        n_columns,
        figsize=(side * n_columns + 1, side * n_rows + 0.8),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for ax in axes.flat[len(weights) :]:
        ax.set_axis_off()
    for head, (ax, values) in enumerate(zip(axes.flat, weights, strict=False)):
        image = heat_map(
            ax, values, tokens, tokens, cmap="Blues", vmin=0, vmax=1, max_labels=20, annotate=False
        )
        ax.set_title(f"head {head}", fontsize=9)
    figure.suptitle(f"attention patterns, layer {layer}")
    figure.supxlabel("key: who answers")
    figure.supylabel("query: who asks")
    figure.colorbar(image, ax=axes, label="weight", **COLORBAR)
    return figure


@plot.register
def _cross_attention(crossed: CrossAttention, *, ax: Axes | None = None) -> Figure:
    """Draw where the model looks when it chooses each token."""
    rows, columns = (list(map(drawable, names)) for names in (crossed.written, crossed.sources))
    width, height = (min(max(0.3 * len(names) + 2, 4), 12) for names in (columns, rows))
    figure, ax = axes_or_new(ax, (width, height))
    image = heat_map(ax, crossed.weights, rows, columns, cmap="Blues", vmin=0, vmax=1)
    ax.set(title=crossed.title, xlabel="source", ylabel="written")
    figure.colorbar(image, ax=ax, label="weight", **COLORBAR)
    return figure


@plot.register
def _score(score: Score, *, ax: Axes | None = None) -> Figure:
    """Draw each token's surprisal beside its expectation, the entropy."""
    n = len(score)
    figure, ax = axes_or_new(ax, (min(max(0.3 * n + 1.5, 5), 24), 4))
    at = np.arange(n)
    colours = [_RANK_COLOURS[rank_class(rank)] for rank in score.ranks.tolist()]
    ax.bar(at, score.surprisals, color=colours, width=0.85)
    (expected,) = ax.plot(
        at,
        score.entropies.astype(np.float64) / math.log(2),
        "_",
        color="black",
        markersize=8,
        label="entropy: the surprisal expected",
    )
    texts = [""] * n
    for text, span in pieces(score):
        for i in range(span.start, span.stop):
            texts[i] = text if i == span.start else "\ufffd"
    ax.set_xticks(*thinned(token_labels(texts, score.token_ids), 90), rotation=90, **text_style(font_size(n)))
    ax.set(ylabel="surprisal (bits)", xlim=(-0.6, n - 0.4))
    ax.set_title(f"{counted(n, 'token')}, perplexity {score.perplexity:.4g}")
    patches = [
        Patch(color=colour, label=name) for colour, name in zip(_RANK_COLOURS, RANK_NAMES, strict=True)
    ]
    ax.legend(handles=[*patches, expected], fontsize=7, framealpha=0.8)
    return figure


@plot.register
def _lens(lens: LogitLens, *, ax: Axes | None = None) -> Figure:
    """Draw what each layer holds for the next token."""
    logprobs = lens.top_logprobs[:, :, 0]  # [n_layer + 1, T]
    n_layers, n_tokens = logprobs.shape
    width, height = 0.7 if n_tokens <= 16 else 0.42, 0.3
    figure, ax = axes_or_new(ax, (max(width * n_tokens + 2, 5), max(height * n_layers + 1.8, 3)))
    words = [
        token_labels([best[0] for best in texts], ids)
        for texts, ids in zip(lens.top_tokens, lens.top_ids[:, :, 0].tolist(), strict=True)
    ]
    image = heat_map(
        ax,
        logprobs,
        list(lens.names),
        token_labels(lens.tokens, lens.input_ids.tolist()),
        cmap="viridis",
        annotate=False,
        max_labels=128,
    )
    size = 8 if n_tokens <= 16 else 5.5
    for row in range(n_layers):
        for column in range(n_tokens):
            word = shortened(words[row][column], 9)
            ax.text(
                column,
                row,
                word,
                color=text_colour(image, logprobs[row, column]),
                **text_style(size),
                **CENTRED,
            )
    # The last layer is on top, as towers of layers are drawn.
    ax.invert_yaxis()
    what, where = ("token", "in the place of") if lens.in_place else ("next token", "after")
    title = f"logit lens: the {what}, if the model ended after the layer"
    ax.set(title=title, xlabel=f"{where} the token")
    figure.colorbar(image, ax=ax, label="log-probability of the word (nats)", **COLORBAR)
    return figure


@plot.register
def _attribution(attribution: Attribution) -> Figure:
    """Draw what each component and each head adds to the logit."""
    components, heads = attribution.components, attribution.heads  # heads [n_layer, n_head]
    n_layer, n_head = heads.shape
    figure, (left, right) = new_figure(
        1,
        2,
        figsize=(max(0.45 * n_head, 3) + 6, max(0.22 * len(components) + 1.4, 3.5)),
        width_ratios=(4, max(0.45 * n_head, 3)),
    )
    values = list(components.values())
    left.barh(range(len(values)), values, color=["#3b6fb6" if value >= 0 else "#b6533b" for value in values])
    left.set_yticks(range(len(values)), list(components), fontsize=8)
    # The first component is on top.
    left.invert_yaxis()
    left.axvline(0, color="black", linewidth=0.8)
    token = token_labels([attribution.token], [attribution.token_id])[0]
    if attribution.against_id is not None:
        token += " minus " + token_labels([attribution.against or ""], [attribution.against_id])[0]
    left.set_xlabel("adds to the logit")
    left.set_title(f"logit of {token}: {attribution.logit:.4g}", **text_style(11))
    limit = float(np.abs(heads).max()) or 1.0
    image = heat_map(
        right,
        heads,
        list(map(str, range(n_layer))),
        list(map(str, range(n_head))),
        cmap="RdBu",
        vmin=-limit,
        vmax=limit,
        annotate=n_head <= 12,
    )
    right.set(title="attention heads", xlabel="head", ylabel="layer")
    figure.colorbar(image, ax=right, label="adds to the logit", **COLORBAR)
    return figure


@plot.register
def _head_scores(scores: HeadScores) -> Figure:
    """Draw what each head does, as far as its pattern tells."""
    names = ("previous_token", "duplicate_token", "induction", "first_token", "entropy")
    n_layer, n_head = scores.entropy.shape
    figure, axes = new_figure(
        1,
        len(names),
        figsize=(len(names) * max(0.24 * n_head + 1.3, 2.6), max(0.24 * n_layer + 1.8, 2.8)),
        sharey=True,
    )
    for name, ax in zip(names, axes, strict=True):
        limits = {} if name == "entropy" else {"vmin": 0, "vmax": 1}
        values = np.ma.masked_invalid(getattr(scores, name))
        image = heat_map(
            ax,
            values,
            list(map(str, range(n_layer))),
            list(map(str, range(n_head))),
            cmap="viridis",
            annotate=False,
            **limits,
        )
        ax.set_title(name.replace("_", " "), fontsize=10)
        ax.set_xlabel("head")
        label = "nats" if name == "entropy" else "mean weight"
        figure.colorbar(image, ax=ax, label=label, location="bottom", shrink=0.9)
    axes[0].set_ylabel("layer")
    return figure


@plot.register
def _patching(patching: Patching) -> Figure:
    """Draw what the metric said of every patch."""
    maps = patching.maps()
    n_layer, n_columns = maps[0][2].shape
    size = (len(maps) * max(0.45 * n_columns + 1.3, 2.6) + 1, max(0.3 * n_layer + 1.8, 2.8))
    figure, axes = new_figure(1, len(maps), figsize=size, sharey=True, squeeze=False)
    limit = float(np.abs(patching.values[np.isfinite(patching.values)]).max(initial=0)) or 1.0
    layers = list(map(str, patching.layers))
    for (title, columns, values), ax in zip(maps, axes[0], strict=True):
        names = list(map(drawable, columns))
        image = heat_map(
            ax, np.ma.masked_invalid(values), layers, names, cmap="RdBu", vmin=-limit, vmax=limit
        )
        ax.set_title(drawable(title), **text_style(10))
    axes[0, 0].set_ylabel("layer")
    figure.colorbar(image, ax=axes[0].tolist(), label="metric", **COLORBAR)
    return figure


@plot.register
def _trace(trace: Trace, token_ids: Sequence[int] = (), *, ax: Axes | None = None) -> Figure:
    """Draw what was weighed at every step, or the tree of a search."""
    if not trace.steps:
        raise ValueError("the trace has no steps: there is nothing to draw")
    searched = any(branch.score is not None for branch in trace.steps[0].branches)
    return _plot_search(trace, tuple(token_ids), ax) if searched else _plot_choices(trace, ax)


def _plot_choices(trace: Trace, ax: Axes | None) -> Figure:
    """A column per step: the most probable tokens, and the chosen one in a frame."""
    columns = [step.branches[0].candidates for step in trace.steps]
    n_rows, n_steps = max(map(len, columns)), len(columns)
    probabilities = np.ma.masked_all((n_rows, n_steps))
    for step, candidates in enumerate(columns):
        probabilities[: len(candidates), step] = np.exp([candidate.logprob for candidate in candidates])
    figure, ax = axes_or_new(ax, (max(0.9 * n_steps + 1.8, 4), 0.32 * n_rows + 1.6))
    image = heat_map(
        ax,
        probabilities,
        [str(row + 1) for row in range(n_rows)],
        [str(step.position) for step in trace.steps],
        cmap="Blues",
        vmin=0,
        vmax=1,
        annotate=False,
        max_labels=128,
    )
    for step, candidates in enumerate(columns):
        for row, candidate in enumerate(candidates):
            word = token_labels([candidate.text], [candidate.token_id])[0]
            colour = "0.6" if candidate.removed_by else text_colour(image, probabilities[row, step])
            ax.text(step, row, shortened(word, 11), color=colour, **text_style(7), **CENTRED)
            if candidate.fate:
                ax.add_patch(
                    Rectangle((step - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=_CHOSEN, linewidth=1.6)
                )
    ax.set(
        title="candidates of each step; framed: the chosen one; grey: left out", xlabel="position in the text"
    )
    ax.set_ylabel("order of probability")
    figure.colorbar(image, ax=ax, label="probability", **COLORBAR)
    return figure


def _plot_search(trace: Trace, path: tuple[int, ...], ax: Axes | None) -> Figure:
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
    ax.set_title(
        "the search: tokens and the sums of log-probabilities (nats); below: texts that ended", fontsize=10
    )
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


@plot.register
def _generation(generation: Generation, *, ax: Axes | None = None) -> Figure:
    """Draw the trace of a continuation, with its own path highlighted."""
    if generation.trace is None:
        raise ValueError("this continuation has no trace to draw: generate it with trace=True")
    return _trace(generation.trace, generation.token_ids, ax=ax)
