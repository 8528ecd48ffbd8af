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
from ..core.labels import RANK_NAMES, label, parts, rank_class
from ..errors import counted
from ..generation.results import Generation
from ..generation.trace import Trace
from ..introspection.crossing import CrossAttention
from ..introspection.passes import ActivationCache
from ..introspection.results import Attribution, HeadScores, LogitLens, Patching
from ..scoring.results import Score, pieces

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from .drawing import (
        CENTRED,
        axes_or_new,
        bands,
        colour_bar,
        drawable,
        font_size,
        heat_map,
        new_figure,
        same_width,
        shortened,
        text_colour,
        text_style,
        thinned,
        title,
        token_labels,
    )
    from .tracing import draw_choices, draw_search
except ImportError as error:
    raise ImportError(f'figures need matplotlib ({error}): pip install "gpt2c[plot]"') from error

__all__ = ["plot"]

_RANK_COLOURS = ("#4c9f70", "#d9b44a", "#d9793a", "#9e3d5f")


@singledispatch
def plot(result: Any) -> Figure:
    """Draw a result; :meth:`gpt2c.core.display.Displayed.plot` says what is drawn of which, and how."""
    raise TypeError(f"a {type(result).__name__} has no figure")


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
    side = max(min(max(0.3 * len(tokens) + 2, 4), 12), 0.02 * len(tokens))
    figure, ax = axes_or_new(ax, (side + 0.8, side))
    _plot_weights(ax, weights[head], tokens, tokens)
    title(ax, f"attention pattern, layer {layer}, head {head}")
    ax.set(xlabel="key token", ylabel="query token")
    return figure


def _plot_heads(weights: np.ma.MaskedArray, tokens: list[str], layer: int) -> Figure:
    """The patterns of all heads of a layer, [n_head, T, T]."""
    n_columns = min(len(weights), 4)
    n_rows = math.ceil(len(weights) / n_columns)
    side = min(max(0.14 * len(tokens) + 1.2, 2.2), 4)
    figure, axes = new_figure(
        n_rows,
        n_columns,
        figsize=((side + 0.7) * n_columns, side * n_rows + 0.8),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for ax in axes.flat[len(weights) :]:
        ax.set_axis_off()
    for head, (ax, values) in enumerate(zip(axes.flat, weights, strict=False)):
        _plot_weights(ax, values, tokens, tokens, max_labels=20, annotate=False)
        title(ax, f"head {head}", 9)
    figure.suptitle(f"attention patterns, layer {layer}")
    figure.supxlabel("key token")
    figure.supylabel("query token")
    return figure


def _plot_weights(ax: Axes, weights: np.ndarray, queries: list[str], keys: list[str], **options: Any) -> None:
    """A pattern [queries, keys] on a scale of its own, which its colour bar shows.

    The scale ends at the largest weight. A query with a single key, such as the first token, gives it all its
    attention whatever the head does; it does not count, and is drawn in the colour of the scale's end.
    """
    choosing = weights[np.ma.count(weights, axis=1) > 1]
    most = float(choosing.max()) if choosing.size else 1.0
    image = heat_map(ax, weights, queries, keys, cmap="Blues", vmin=0, vmax=most, **options)
    colour_bar(image, ax, "attention weight", extend="max" if weights.max() > most else "neither")


@plot.register
def _cross_attention(crossed: CrossAttention, *, ax: Axes | None = None) -> Figure:
    """Draw where the model looks when it chooses each token."""
    rows, columns = (list(map(drawable, names)) for names in (crossed.written, crossed.sources))
    width, height = (min(max(0.3 * len(names) + 2, 4), 12) for names in (columns, rows))
    figure, ax = axes_or_new(ax, (width + 0.8, height))
    _plot_weights(ax, crossed.weights, rows, columns)
    title(ax, crossed.title)
    ax.set(xlabel="source token", ylabel="written token")
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
        label="expected: the entropy",
    )
    names: list[str] = []
    for text, span in pieces(score):
        names += parts(drawable(label(text, score.token_ids[span.start])), span.stop - span.start)
    ax.set_xticks(*thinned(names, 90), rotation=90, **text_style(font_size(n)))
    ax.set(xlabel="token", ylabel="surprisal (bits)", xlim=(-0.6, n - 0.4))
    title(ax, f"{counted(n, 'token')}, perplexity {score.perplexity:.4g}")
    patches = [
        Patch(color=colour, label=name) for colour, name in zip(_RANK_COLOURS, RANK_NAMES, strict=True)
    ]
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])  # room for the legend above the bars
    ax.legend(
        handles=[*patches, expected], fontsize=7, loc="upper center", ncols=3, title="rank", title_fontsize=7
    )
    return figure


@plot.register
def _lens(lens: LogitLens, *, ax: Axes | None = None) -> Figure:
    """Draw what each layer holds for the next token."""
    logprobs = lens.top_logprobs[:, :, 0]  # [n_layer + 1, T]
    n_layers, n_tokens = logprobs.shape
    tokens = token_labels(lens.tokens, lens.input_ids.tolist())
    words = [
        token_labels([best[0] for best in texts], ids, join=False)
        for texts, ids in zip(lens.top_tokens, lens.top_ids[:, :, 0].tolist(), strict=True)
    ]
    figure, places = bands(ax, n_tokens, most=24, width=0.62, height=0.3 * n_layers + 1.2)
    for axes, at in places:
        shown = logprobs[:, at.start : at.stop]
        limits = {"vmin": logprobs.min(), "vmax": logprobs.max()}
        names = tokens[at.start : at.stop]
        image = heat_map(axes, shown, list(lens.names), names, cmap="viridis", annotate=False, **limits)
        for row, column in np.ndindex(*shown.shape):
            colour = text_colour(image, float(shown[row, column]))
            word = shortened(words[row][at.start + column], 9)
            axes.text(column, row, word, color=colour, **text_style(7), **CENTRED)
        # The last layer is on top, as towers of layers are drawn.
        axes.invert_yaxis()
    what, where = ("token", "in the place of") if lens.in_place else ("next token", "after")
    same_width(places)
    title(places[0][0], f"logit lens: the {what}, if the model ended after the layer")
    axes.set_xlabel(f"{where} the token")
    colour_bar(image, [axes for axes, _ in places], "log-probability of the word (nats)")
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
    left.set(xlabel="contribution to the logit", ylabel="component")
    title(left, f"logit of {token}: {attribution.logit:.4g}", 11)
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
    right.set(xlabel="head", ylabel="layer")
    title(right, "attention heads", 11)
    colour_bar(image, right, "contribution to the logit")
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
        values = np.ma.masked_invalid(getattr(scores, name))
        # Entropies have no natural end; weights begin at 0, and each map ends at its largest.
        limits = {} if name == "entropy" else {"vmin": 0, "vmax": values.max() if values.count() else 1}
        image = heat_map(
            ax,
            values,
            list(map(str, range(n_layer))),
            list(map(str, range(n_head))),
            cmap="viridis",
            annotate=False,
            **limits,
        )
        title(ax, name.replace("_", " "), 10)
        ax.set_xlabel("head")
        if not values.count():
            ax.text(0.5, 0.5, "no such token", transform=ax.transAxes, fontsize=8, color="0.35", **CENTRED)
        what = "entropy (nats)" if name == "entropy" else "mean attention weight"
        figure.colorbar(image, ax=ax, label=what, location="bottom", shrink=0.9)
    axes[0].set_ylabel("layer")
    return figure


@plot.register
def _patching(patching: Patching) -> Figure:
    """Draw what the metric said of every patch."""
    maps = patching.maps()
    n_layer, n_columns = maps[0][2].shape
    size = (len(maps) * max(0.45 * n_columns + 1.3, 2.6) + 1, max(0.3 * n_layer + 1.8, 2.8))
    figure, axes = new_figure(1, len(maps), figsize=size, sharey=True, squeeze=False)
    finite = patching.values[np.isfinite(patching.values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    # Colours for the two signs only where there are two. One scale for all maps, to compare positions by.
    cmap = "RdBu" if low < 0 < high else "viridis"
    if low < 0 < high:
        low, high = -max(-low, high), max(-low, high)
    layers = list(map(str, patching.layers))
    for (name, columns, values), ax in zip(maps, axes[0], strict=True):
        names = list(map(drawable, columns))
        image = heat_map(ax, np.ma.masked_invalid(values), layers, names, cmap=cmap, vmin=low, vmax=high)
        title(ax, drawable(name), 10)
    axes[0, 0].set_ylabel("layer")
    if patching.positions and not patching.heads:
        axes[0, 0].set_xlabel("position and token of the corrupted text")
    colour_bar(image, axes[0].tolist(), "metric")
    return figure


@plot.register
def _trace(trace: Trace, token_ids: Sequence[int] = (), *, ax: Axes | None = None) -> Figure:
    """Draw what was weighed at every step, or the tree of a search."""
    if not trace.steps:
        raise ValueError("the trace has no steps: there is nothing to draw")
    searched = any(branch.score is not None for branch in trace.steps[0].branches)
    return draw_search(trace, tuple(token_ids), ax) if searched else draw_choices(trace, ax)


@plot.register
def _generation(generation: Generation, *, ax: Axes | None = None) -> Figure:
    """Draw the trace of a continuation, with its own path highlighted."""
    if generation.trace is None:
        raise ValueError("this continuation has no trace to draw: generate it with trace=True")
    return _trace(generation.trace, generation.token_ids, ax=ax)
