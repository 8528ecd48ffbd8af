"""Figures with matplotlib (the extra ``plot``): what the ``plot`` methods of results draw.

Every function returns the figure and shows nothing; given ``ax``, it draws into these axes instead of
a figure of its own. The numbers drawn are those of the arrays, unchanged.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from matplotlib import colormaps, pyplot, rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
    from matplotlib.patches import Patch, Rectangle
except ImportError as error:
    raise ImportError(f'figures need matplotlib ({error}): pip install "gpt2c[plot]"') from error

from ._labels import RANK_NAMES, label, pieces, rank_class
from .hooks import index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .introspect import ActivationCache
    from .lens import Attribution, HeadScores, LogitLens
    from .scoring import Score
    from .trace import Trace

__all__ = ["plot_attention", "plot_attribution", "plot_head_scores", "plot_lens", "plot_score", "plot_trace"]

# Regular fonts with Chinese, Japanese and Korean characters, as systems have them; used where installed.
_CJK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)
_MISSING = "0.92"  # grey: a value that does not exist, such as a masked one
_NUMBERS_UP_TO = 12  # tokens: then every cell holds its number
_RANK_COLOURS = ("#4c9f70", "#d9b44a", "#d9793a", "#9e3d5f")


def plot_attention(
    cache: ActivationCache, layer: int, head: int | None = None, ax: Axes | None = None
) -> Figure:
    """Draw the attention pattern of one head, or of all heads of a layer; see ``ActivationCache.plot``."""
    layer = index("layer", layer, cache.model.config.n_layer)
    pattern = cache["pattern", layer]  # [n_head, T, T]
    n_head, n_tokens, _ = pattern.shape
    tokens = _labels(cache.tokens, cache.token_ids.tolist())
    hidden = np.triu(np.ones((n_tokens, n_tokens), bool), 1) & cache.causal
    if head is not None:
        head = index("head", head, n_head)
        side = min(max(0.3 * n_tokens + 2, 4), 12)
        figure, ax = _axes(ax, (side + 0.8, side))
        image = _heat_map(
            ax, np.ma.masked_where(hidden, pattern[head]), tokens, tokens, cmap="Blues", vmin=0, vmax=1
        )
        ax.set(
            title=f"attention pattern, layer {layer}, head {head}",
            xlabel="key: who answers",
            ylabel="query: who asks",
        )
        figure.colorbar(image, ax=ax, label="weight", **_BAR)
        return figure
    if ax is not None:
        raise ValueError("ax is for one head: name it with head, or leave ax out for a figure of all heads")
    n_columns = min(n_head, 4)
    n_rows = math.ceil(n_head / n_columns)
    side = min(max(0.14 * n_tokens + 1.2, 2.2), 4)
    figure, axes = pyplot.subplots(
        n_rows,
        n_columns,
        figsize=(side * n_columns + 1, side * n_rows + 0.8),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for number, ax in enumerate(axes.flat):
        if number >= n_head:
            ax.set_axis_off()
            continue
        values = np.ma.masked_where(hidden, pattern[number])
        image = _heat_map(ax, values, tokens, tokens, cmap="Blues", vmin=0, vmax=1, most=20, numbers=False)
        ax.set_title(f"head {number}", fontsize=9)
    figure.suptitle(f"attention patterns, layer {layer}")
    figure.supxlabel("key: who answers")
    figure.supylabel("query: who asks")
    figure.colorbar(image, ax=axes, label="weight", **_BAR)
    return figure


def plot_score(score: Score, ax: Axes | None = None) -> Figure:
    """Draw each token's surprisal beside its expectation, the entropy; see ``Score.plot``."""
    n = len(score)
    figure, ax = _axes(ax, (min(max(0.3 * n + 1.5, 5), 24), 4))
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
    ax.set_xticks(*_ticks(_labels(texts, score.token_ids), 90), rotation=90, **_text(_font_size(n)))
    ax.set(ylabel="surprisal (bits)", xlim=(-0.6, n - 0.4))
    ax.set_title(f"{n} tokens, perplexity {score.perplexity:.4g}")
    patches = [
        Patch(color=colour, label=name) for colour, name in zip(_RANK_COLOURS, RANK_NAMES, strict=True)
    ]
    ax.legend(handles=[*patches, expected], fontsize=7, framealpha=0.8)
    return figure


def plot_lens(lens: LogitLens, ax: Axes | None = None) -> Figure:
    """Draw what each layer holds for the next token; see ``LogitLens.plot``."""
    logprobs = lens.top_logprobs[:, :, 0]  # [n_layer + 1, T]
    n_layers, n_tokens = logprobs.shape
    width, height = 0.7 if n_tokens <= 16 else 0.42, 0.3
    figure, ax = _axes(ax, (max(width * n_tokens + 2, 5), max(height * n_layers + 1.8, 3)))
    words = [
        _labels([best[0] for best in texts], ids)
        for texts, ids in zip(lens.top_tokens, lens.top_ids[:, :, 0].tolist(), strict=True)
    ]
    image = _heat_map(
        ax,
        logprobs,
        list(lens.names),
        _labels(lens.tokens, lens.input_ids.tolist()),
        cmap="viridis",
        numbers=False,
        most=128,
    )
    size = 8 if n_tokens <= 16 else 5.5
    for row in range(n_layers):
        for column in range(n_tokens):
            word = words[row][column]
            word = word if len(word) <= 9 else word[:8] + "\u2026"
            ax.text(column, row, word, color=_ink(image, logprobs[row, column]), **_text(size), **_CENTRED)
    ax.invert_yaxis()  # the last layer on top, as towers of layers are drawn
    ax.set(title="logit lens: the next token, if the model ended after the layer", xlabel="after the token")
    figure.colorbar(image, ax=ax, label="log-probability of the word (nats)", **_BAR)
    return figure


def plot_attribution(attribution: Attribution) -> Figure:
    """Draw what each component and each head adds to the logit; see ``Attribution.plot``."""
    components, heads = attribution.components, attribution.heads  # heads [n_layer, n_head]
    n_layer, n_head = heads.shape
    figure, (left, right) = pyplot.subplots(
        1,
        2,
        figsize=(max(0.45 * n_head, 3) + 6, max(0.22 * len(components) + 1.4, 3.5)),
        width_ratios=(4, max(0.45 * n_head, 3)),
        layout="constrained",
    )
    values = list(components.values())
    left.barh(range(len(values)), values, color=["#3b6fb6" if value >= 0 else "#b6533b" for value in values])
    left.set_yticks(range(len(values)), list(components), fontsize=8)
    left.invert_yaxis()  # from the first component to the last
    left.axvline(0, color="black", linewidth=0.8)
    token = _labels([attribution.token], [attribution.token_id])[0]
    if attribution.against_id is not None:
        token += " minus " + _labels([attribution.against or ""], [attribution.against_id])[0]
    left.set_xlabel("adds to the logit")
    left.set_title(f"logit of {token}: {attribution.logit:.4g}", **_text(11))
    limit = float(np.abs(heads).max()) or 1.0
    image = _heat_map(
        right,
        heads,
        _numbers(n_layer),
        _numbers(n_head),
        cmap="RdBu",
        vmin=-limit,
        vmax=limit,
        numbers=n_head <= 12,
    )
    right.set(title="attention heads", xlabel="head", ylabel="layer")
    figure.colorbar(image, ax=right, label="adds to the logit", **_BAR)
    return figure


def plot_head_scores(scores: HeadScores) -> Figure:
    """Draw what each head does, as far as its pattern tells; see ``HeadScores.plot``."""
    names = ("previous_token", "duplicate_token", "induction", "first_token", "entropy")
    n_layer, n_head = scores.entropy.shape
    figure, axes = pyplot.subplots(
        1,
        len(names),
        figsize=(len(names) * max(0.24 * n_head + 1.3, 2.6), max(0.24 * n_layer + 1.8, 2.8)),
        sharey=True,
        layout="constrained",
    )
    for name, ax in zip(names, axes, strict=True):
        limits = {} if name == "entropy" else {"vmin": 0, "vmax": 1}
        values = np.ma.masked_invalid(getattr(scores, name))
        image = _heat_map(
            ax, values, _numbers(n_layer), _numbers(n_head), cmap="viridis", numbers=False, **limits
        )
        ax.set_title(name.replace("_", " "), fontsize=10)
        ax.set_xlabel("head")
        label = "nats" if name == "entropy" else "mean weight"
        figure.colorbar(image, ax=ax, label=label, location="bottom", shrink=0.9)
    axes[0].set_ylabel("layer")
    return figure


def plot_trace(trace: Trace, token_ids: Sequence[int] = (), ax: Axes | None = None) -> Figure:
    """Draw what was weighed at every step, or the tree of a search; see ``Trace.plot``."""
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
    figure, ax = _axes(ax, (max(0.9 * n_steps + 1.8, 4), 0.32 * n_rows + 1.6))
    image = _heat_map(
        ax,
        probabilities,
        [str(row + 1) for row in range(n_rows)],
        [str(step.position) for step in trace.steps],
        cmap="Blues",
        vmin=0,
        vmax=1,
        numbers=False,
        most=128,
    )
    for step, candidates in enumerate(columns):
        for row, candidate in enumerate(candidates):
            word = _labels([candidate.text], [candidate.token_id])[0]
            ink = "0.6" if candidate.removed_by else _ink(image, probabilities[row, step])
            ax.text(
                step,
                row,
                word if len(word) <= 11 else word[:10] + "\u2026",
                color=ink,
                **_text(7),
                **_CENTRED,
            )
            if candidate.fate:
                ax.add_patch(
                    Rectangle((step - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#c0392b", linewidth=1.6)
                )
    ax.set(
        title="candidates of each step; framed: the chosen one; grey: left out", xlabel="position in the text"
    )
    ax.set_ylabel("order of probability")
    figure.colorbar(image, ax=ax, label="probability", **_BAR)
    return figure


def _plot_search(trace: Trace, path: tuple[int, ...], ax: Axes | None) -> Figure:
    """The texts of each step under each other, joined to what became of them."""
    n_steps = len(trace.steps)
    n_beams = max(len(step.branches) for step in trace.steps)
    figure, ax = _axes(ax, (1.15 * (n_steps + 1) + 1, 0.6 * (2 * n_beams) + 1))
    ended_at: dict[int, int] = {}
    for number, step in enumerate(trace.steps):
        for place, branch in enumerate(step.branches):
            for candidate in branch.candidates:
                if not candidate.fate:
                    continue
                if candidate.fate == "ended":  # below the beams, one under the other
                    to = n_beams + ended_at.get(number, 0)
                    ended_at[number] = ended_at.get(number, 0) + 1
                else:
                    to = int(candidate.fate.removeprefix("beam "))
                token_ids = (*branch.token_ids, candidate.token_id)
                lit = bool(path) and path[: len(token_ids)] == token_ids
                colour = "#c0392b" if lit else "#3b6fb6" if candidate.fate != "ended" else "0.45"
                ax.plot(
                    [number, number + 1], [place, to], color=colour, linewidth=2.2 if lit else 1, zorder=1
                )
                word = _labels([candidate.text], [candidate.token_id])[0]
                score = "" if candidate.score is None else f"\n{candidate.score:.2f}"
                box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour}
                ax.text(
                    number + 1,
                    to,
                    (word if len(word) <= 12 else word[:11] + "\u2026") + score,
                    bbox=box,
                    zorder=2,
                    **_text(7),
                    **_CENTRED,
                )
    for place in range(len(trace.steps[0].branches)):
        ax.plot(0, place, "o", color="0.3")
    lowest = max([n_beams, *(n_beams + n for n in ended_at.values())]) - 1
    ax.set(
        xlim=(-0.4, n_steps + 0.6), ylim=(lowest + 0.6, -0.6), xlabel="position in the text", ylabel="beam"
    )
    ax.set_xticks(range(1, n_steps + 1), [str(step.position) for step in trace.steps])
    ax.set_yticks(range(n_beams), _numbers(n_beams))
    ax.set_title(
        "the search: tokens and the sums of log-probabilities (nats); below: texts that ended", fontsize=10
    )
    return figure


# ---- what the figures share

_CENTRED = {"ha": "center", "va": "center"}
_BAR = {"fraction": 0.03, "pad": 0.02, "aspect": 30}


def _axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    if ax is None:
        return pyplot.subplots(figsize=size, layout="constrained")
    return ax.figure, ax


def _heat_map(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cmap: str,
    vmin: float | None = None,
    vmax: float | None = None,
    most: int = 64,
    numbers: bool | None = None,
) -> Any:
    """``values`` [rows, columns] as an image with labels; ``numbers`` in the cells, by default if few."""
    image = ax.imshow(
        values,
        cmap=colormaps[cmap].with_extremes(bad=_MISSING),
        vmin=vmin,
        vmax=vmax,
        aspect="auto",
        interpolation="none",
    )
    rotation = 90 if max(map(len, columns)) > 2 else 0
    ax.set_xticks(*_ticks(columns, most), rotation=rotation, **_text(_font_size(len(columns))))
    ax.set_yticks(*_ticks(rows, most), **_text(_font_size(len(rows))))
    if numbers is None:
        numbers = max(values.shape) <= _NUMBERS_UP_TO
    for row, column in np.ndindex(*values.shape) if numbers else ():
        value = values[row, column]
        if value is not np.ma.masked:
            ax.text(column, row, f"{value:.2f}", color=_ink(image, value), fontsize=7, **_CENTRED)
    return image


def _ink(image: Any, value: float) -> str:
    """Black or white, whichever can be read on the colour of a value."""
    if value is np.ma.masked:
        return "black"
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _ticks(labels: Sequence[str], most: int) -> tuple[range, list[str]]:
    """Where labels stand, and those that do: every one, or every n-th."""
    at = range(0, len(labels), math.ceil(len(labels) / most))
    return at, [labels[i] for i in at]


def _font_size(n: int) -> float:
    return 9 if n <= 24 else 6


def _text(size: float) -> dict[str, Any]:
    """How tokens are written: in fonts that have them, and a dollar is no beginning of a formula."""
    return {"fontsize": size, "fontfamily": list(_families()), "parse_math": False}


def _numbers(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def _labels(texts: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Labels of tokens, with a box for each character that no font here has."""
    known = _characters(_families())
    return [
        "".join(map(lambda c: _drawn(c, known), label(text, token)))
        for text, token in zip(texts, ids, strict=True)
    ]


def _drawn(character: str, known: frozenset[int]) -> str:
    if ord(character) in known:
        return character
    return "" if unicodedata.category(character) in ("Mn", "Me") else "\u25a1"


def _families() -> tuple[str, ...]:
    installed = {font.name for font in fontManager.ttflist}
    return (*rcParams["font.family"], *(name for name in _CJK if name in installed))


@lru_cache(maxsize=4)
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """The characters of fonts."""
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return frozenset(code for font in fonts for code in font.get_charmap())
