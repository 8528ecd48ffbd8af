"""What plots are made of: axes, heat maps, labels, and fonts that have the characters of tokens."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps, pyplot, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.image import AxesImage

from ..core.labels import label, labels

__all__ = [
    "CENTRED",
    "axes_or_new",
    "bands",
    "colour_bar",
    "drawable",
    "font_size",
    "heat_map",
    "new_figure",
    "same_width",
    "shortened",
    "text_colour",
    "text_style",
    "thinned",
    "title",
    "token_labels",
]

CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}

# Regular fonts with Chinese, Japanese and Korean characters, then with symbols, as systems have them; used
# where they are installed. matplotlib cannot use fonts in colours, as most with emoji are.
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK TC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "SimHei",
    "SimSun",
    "Yu Gothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Symbol",
    "Apple Symbols",
)
# Grey, for values that do not exist, such as masked ones.
_MISSING = "0.92"
# A map of at most this many rows and columns holds its numbers in the cells.
_ANNOTATED_SIZE = 12


class _ShownOnce(Figure):
    """A figure that a notebook shows once.

    At a cell's end notebooks show what pyplot holds, and a figure that is the cell's value would come twice.
    """

    def _ipython_display_(self) -> None:
        if "inline" in matplotlib.get_backend():
            pyplot.close(self)  # pyplot no longer holds it
        raise NotImplementedError  # IPython then shows it as it shows any figure


def new_figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A new figure of pyplot and its axes, as ``pyplot.subplots`` makes them."""
    return pyplot.subplots(rows, columns, FigureClass=_ShownOnce, layout="constrained", **options)


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The figure of ``ax``, and ``ax``; or a new figure of this size in inches, and its axes."""
    if ax is None:
        return new_figure(figsize=size)
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes of no figure cannot be drawn into
    return figure, ax


def bands(
    ax: Axes | None, n: int, *, most: int, width: float, height: float
) -> tuple[Figure, list[tuple[Axes, range]]]:
    """Axes for ``n`` columns, ``width`` inches each, and which columns each is for.

    As the lines of a text, a long row is broken into bands below each other, of at most ``most`` columns and
    ``height`` inches; in axes that were given it stays whole.
    """
    if ax is not None or n <= most:
        figure, ax = axes_or_new(ax, (max(width * n + 2, 5), max(height + 0.6, 3)))
        return figure, [(ax, range(n))]
    starts = range(0, n, most)
    size = (width * most + 2, height * len(starts) + 0.6)
    figure, axes = new_figure(len(starts), 1, figsize=size, squeeze=False)
    axes[-1, 0].set_frame_on(False)
    return figure, [(ax, range(at, min(at + most, n))) for ax, at in zip(axes.flat, starts, strict=True)]


def same_width(places: list[tuple[Axes, range]]) -> None:
    """Give the columns of the last band, of which there may be fewer, the width of the others."""
    for ax, _ in places:
        ax.set_xlim(-0.5, len(places[0][1]) - 0.5)


def title(ax: Axes, text: str, size: float = 12) -> None:
    """A title as wide as the axes at most, on several lines if need be."""
    points = ax.get_window_extent().width * 72 / ax.figure.dpi
    most = max(int(points / (0.55 * size)), 12)
    ax.set_title(textwrap.fill(text, most, break_on_hyphens=False), **text_style(size))


def colour_bar(image: AxesImage, ax: Axes | list[Axes], name: str, **options: Any) -> None:
    """The scale of an image, beside its axes."""
    figure = image.get_figure(root=True)
    assert figure is not None
    figure.colorbar(image, ax=ax, label=name, fraction=0.05, pad=0.02, aspect=30, **options)


def heat_map(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cmap: str,
    vmin: float | None = None,
    vmax: float | None = None,
    max_labels: int = 64,
    annotate: bool | None = None,
) -> AxesImage:
    """``values`` [rows, columns] as an image with labels, at most ``max_labels`` a side.

    ``annotate`` writes the numbers into the cells; by default only where there are few.
    """
    image = ax.imshow(
        values,
        cmap=colormaps[cmap].with_extremes(bad=_MISSING),
        vmin=vmin,
        vmax=vmax,
        aspect="auto",
        interpolation="antialiased",  # where cells are smaller than pixels, none is left out
    )
    rotation = 90 if max(map(len, columns)) > 2 else 0
    ax.set_xticks(*thinned(columns, max_labels), rotation=rotation, **text_style(font_size(len(columns))))
    ax.set_yticks(*thinned(rows, max_labels), **text_style(font_size(len(rows))))
    if annotate is None:
        annotate = max(values.shape) <= _ANNOTATED_SIZE
    for row, column in np.ndindex(*values.shape) if annotate else ():
        value = values[row, column]
        if value is not np.ma.masked:
            ax.text(
                column, row, f"{value:.2f}", color=text_colour(image, float(value)), fontsize=7, **CENTRED
            )
    return image


def text_colour(image: AxesImage, value: float) -> str:
    """Black or white, whichever can be read on the colour of a value."""
    if value is np.ma.masked:
        return "black"
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def thinned(labels: Sequence[str], most: int) -> tuple[range, list[str]]:
    """The positions and texts of at most ``most`` labels: all of them, or every n-th."""
    at = range(0, len(labels), math.ceil(len(labels) / most))
    return at, [labels[i] for i in at]


def font_size(n: int) -> float:
    """The size of a font for ``n`` labels side by side."""
    return 9 if n <= 24 else 6


def text_style(size: float) -> dict[str, Any]:
    """Options for the texts of tokens: fonts that have their characters, and no formulas between dollars."""
    return {"fontsize": size, "fontfamily": list(_families()), "parse_math": False}


def shortened(text: str, length: int) -> str:
    """A label of at most ``length`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def token_labels(texts: Sequence[str], ids: Sequence[int], *, join: bool = True) -> list[str]:
    """Labels of tokens, with a box for each character that no font here has.

    ``join=False`` is for tokens that do not follow each other: each is labelled on its own.
    """
    return list(map(drawable, labels(texts, ids) if join else map(label, texts, ids)))


def drawable(text: str) -> str:
    """A text with a box for each character that no font here has."""
    known = _characters(_families())
    return "".join(_drawable(character, known) for character in text)


def _drawable(character: str, known: frozenset[int]) -> str:
    """The character, or a box in its place; nothing for a combining one, which needs no place."""
    if ord(character) in known:
        return character
    return "" if unicodedata.category(character) in ("Mn", "Me") else "\u25a1"


def _families() -> tuple[str, ...]:
    """The fonts to look for characters in, in this order."""
    installed = {font.name for font in fontManager.ttflist}
    return (*rcParams["font.family"], *(name for name in _FALLBACKS if name in installed))


@lru_cache(maxsize=4)
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """The characters that fonts have."""
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return frozenset(code for font in fonts for code in font.get_charmap())
