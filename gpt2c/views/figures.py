"""What the figures share: axes, heat maps, labels, and fonts that have the characters of tokens."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

try:
    from matplotlib import colormaps, pyplot, rcParams
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
    from matplotlib.patches import Patch, Rectangle
except ImportError as error:
    raise ImportError(f'figures need matplotlib ({error}): pip install "gpt2c[plot]"') from error

from ..core.labels import label

__all__ = [
    "BAR",
    "CENTRED",
    "Axes",
    "Figure",
    "Patch",
    "Rectangle",
    "font_size",
    "heat_map",
    "ink",
    "new_axes",
    "numbered",
    "pyplot",
    "text_style",
    "ticks",
    "token_labels",
]

CENTRED = {"ha": "center", "va": "center"}
BAR = {"fraction": 0.03, "pad": 0.02, "aspect": 30}

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


def new_axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    if ax is None:
        return pyplot.subplots(figsize=size, layout="constrained")
    return ax.figure, ax


def heat_map(
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
    ax.set_xticks(*ticks(columns, most), rotation=rotation, **text_style(font_size(len(columns))))
    ax.set_yticks(*ticks(rows, most), **text_style(font_size(len(rows))))
    if numbers is None:
        numbers = max(values.shape) <= _NUMBERS_UP_TO
    for row, column in np.ndindex(*values.shape) if numbers else ():
        value = values[row, column]
        if value is not np.ma.masked:
            ax.text(column, row, f"{value:.2f}", color=ink(image, value), fontsize=7, **CENTRED)
    return image


def ink(image: Any, value: float) -> str:
    """Black or white, whichever can be read on the colour of a value."""
    if value is np.ma.masked:
        return "black"
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def ticks(labels: Sequence[str], most: int) -> tuple[range, list[str]]:
    """Where labels stand, and those that do: every one, or every n-th."""
    at = range(0, len(labels), math.ceil(len(labels) / most))
    return at, [labels[i] for i in at]


def font_size(n: int) -> float:
    return 9 if n <= 24 else 6


def text_style(size: float) -> dict[str, Any]:
    """How tokens are written: in fonts that have them, and a dollar is no beginning of a formula."""
    return {"fontsize": size, "fontfamily": list(_families()), "parse_math": False}


def numbered(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def token_labels(texts: Sequence[str], ids: Sequence[int]) -> list[str]:
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
