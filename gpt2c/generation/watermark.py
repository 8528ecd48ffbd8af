"""Watermarks in generated text, and their detection (Kirchenbauer et al. 2023, arXiv 2301.10226, 2306.04634).

At every token a part of the vocabulary is green, chosen by a hash of the preceding tokens, and its logits are
raised: anyone with the key can count the green tokens of a text. The green tokens are those of transformers
4.57 on a CPU: torch's random permutations are reproduced here in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import _engine
from ..core.checks import check_flag, check_integer, check_number
from ..errors import counted, shown

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prompts import Prompt

__all__ = ["Watermark", "WatermarkScore", "WatermarkingConfig", "detect"]

SCHEMES = ("lefthash", "selfhash")
TABLE_SIZE = 1_000_003  # entries of the hash of a token, for "selfhash"
MOST_TRIED = 40  # of the most probable tokens, for "selfhash"


@dataclass(frozen=True, kw_only=True)
class WatermarkingConfig:
    """How a text is marked. Names, defaults and meaning are those of transformers.

    Attributes
    ----------
    greenlist_ratio : float
        The share of the vocabulary that is green, above 0 and below 1.
    bias : float
        Added to the logits of green tokens.
    hashing_key : int
        The secret, 0 to 2**63 - 1: anyone who knows it can detect and remove the mark.
    seeding_scheme : {"lefthash", "selfhash"}
        What is hashed: the token before; or the last ``context_width`` tokens, including the new one, which
        is harder to discover, and slower: the 40 most probable tokens are tried.
    context_width : int
        The number of tokens that "selfhash" hashes, at least 1. With "lefthash" it is only the number of
        tokens that a text needs before it is marked.

    Raises
    ------
    ValueError, TypeError
        Names the field, what was given and what is allowed.

    Examples
    --------
    >>> from gpt2c import WatermarkingConfig
    >>> mark = WatermarkingConfig(bias=4.0, hashing_key=12345)
    >>> out = model.generate("Once", max_new_tokens=40, temperature=1, seed=1, watermarking_config=mark)
    >>> model.detect_watermark(out.text, mark).z_score > 4, model.detect_watermark(out.text).z_score > 4
    (True, False)
    """

    greenlist_ratio: float = 0.25
    bias: float = 2.0
    hashing_key: int = 15_485_863
    seeding_scheme: str = "lefthash"
    context_width: int = 1

    def __post_init__(self) -> None:
        name = "greenlist_ratio of watermarking_config"
        check_number(name, self.greenlist_ratio, lambda part: 0 < part < 1, "above 0 and below 1")
        check_number(
            "bias of watermarking_config", self.bias, lambda bias: abs(bias) <= 1e6, "from -1e6 to 1e6"
        )
        check_integer("hashing_key of watermarking_config", self.hashing_key, 0, 2**63 - 1)
        check_integer("context_width of watermarking_config", self.context_width, 1)
        if self.seeding_scheme not in SCHEMES:
            raise ValueError(
                f"seeding_scheme of watermarking_config must be {' or '.join(map(repr, SCHEMES))}, not "
                f"{shown(self.seeding_scheme)}"
            )

    @classmethod
    def of(cls, given: Any) -> WatermarkingConfig:
        """A configuration, from one or from a mapping of its fields.

        Parameters
        ----------
        given : WatermarkingConfig or mapping
            ``{}`` has the defaults.

        Raises
        ------
        ValueError, TypeError
            It has another field, or a value that is not allowed.

        Examples
        --------
        >>> WatermarkingConfig.of({"bias": 4.0}).bias
        4.0
        """
        if isinstance(given, cls):
            return given
        names = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            raise TypeError(
                "watermarking_config must be a WatermarkingConfig, a mapping of its fields, or None, not "
                f"{shown(given)} ({type(given).__name__})"
            )
        for name in given:
            if name not in names:
                raise ValueError(
                    f"watermarking_config has no field {shown(name)}; allowed: {', '.join(names)}"
                )
        return cls(**given)


class Watermark:
    """A mark for the texts of one vocabulary."""

    def __init__(self, config: WatermarkingConfig, n_vocab: int) -> None:
        self.config, self.n_vocab = config, n_vocab
        self._n_green = int(n_vocab * config.greenlist_ratio)

    def add(self, row: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Logits of the token after ``ids``, with those of green tokens raised."""
        if len(ids) < self.config.context_width or not self._n_green:
            return row
        raised = row.copy()
        if self.config.seeding_scheme == "lefthash":
            green = _first(self._seed(ids), self.n_vocab, self._n_green)
        else:
            tried = _engine.top(row.astype(np.float32, copy=False), MOST_TRIED).tolist()
            green = np.array([token for token in tried if self.is_green(ids, token)], np.intp)
        raised[green] += row.dtype.type(self.config.bias)
        return raised

    def is_green(self, ids: np.ndarray, token: int) -> bool:
        """Whether a token is green after ``ids``."""
        context = ids if self.config.seeding_scheme == "lefthash" else np.append(ids, token)
        return self._n_green > 0 and _is_first(self._seed(context), self.n_vocab, self._n_green, token)

    def _seed(self, ids: np.ndarray) -> int:
        key = self.config.hashing_key
        if self.config.seeding_scheme == "lefthash":
            return key * int(ids[-1]) % (2**64 - 1)
        # A pseudorandom function of each token; int64 wraps around.
        table = _first(key, TABLE_SIZE, min(self.n_vocab, TABLE_SIZE))
        hashed = 1 + table[ids[-self.config.context_width :] % TABLE_SIZE]
        return int((np.int64(key) * hashed * hashed[-1]).min()) % (2**64 - 1)


def _swaps(seed: int, n: int, k: int) -> np.ndarray:
    """The indices with which each of the first k is swapped, in turn, when torch shuffles n."""
    words = np.random.RandomState(seed & 0xFFFFFFFF).randint(0, 2**32, k, np.uint32)  # MT19937
    places = np.arange(k)
    return places + words % (n - places)


@lru_cache(maxsize=64)
def _first(seed: int, n: int, k: int) -> np.ndarray:
    """The first k numbers of the permutation of n that belongs to a seed, int64."""
    moved: dict[int, int] = {}
    first = []
    for place, other in enumerate(_swaps(seed, n, k).tolist()):
        first.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return np.array(first, np.int64)


def _is_first(seed: int, n: int, k: int, number: int) -> bool:
    """Whether a number is among `_first`: only this number is followed through the swaps."""
    swaps, place, done = _swaps(seed, n, k), number, 0
    while True:
        if (swaps[done : min(place, k)] == place).any():
            return True
        if place >= k:
            return False
        if swaps[place] == place:
            return True
        place, done = int(swaps[place]), place + 1


@dataclass(frozen=True, slots=True)
class WatermarkScore:
    """How much a text looks marked.

    Attributes
    ----------
    n_tokens : int
        The number of tokens examined.
    n_green : int
        The number of these that are green; without a mark, about ``greenlist_ratio`` of them.
    z_score : float
        The excess over that, in standard deviations. Above 4 is very unlikely by chance.
    p_value : float
        The probability of at least this many in an unmarked text, by the normal distribution.

    Examples
    --------
    >>> found = model.detect_watermark("The king had three daughters.")
    >>> found.n_tokens, found.z_score > 4
    (5, False)
    """

    n_tokens: int
    n_green: int
    z_score: float
    p_value: float


def detect(
    model: LoadedModel, text: Prompt, config: Any = None, *, ignore_repeated_ngrams: bool = False
) -> WatermarkScore:
    """See :meth:`gpt2c.GPT2.detect_watermark`."""
    checked = WatermarkingConfig() if config is None else WatermarkingConfig.of(config)
    check_flag("ignore_repeated_ngrams", ignore_repeated_ngrams)
    mark = Watermark(checked, model.config.n_vocab)
    ids = list(model.tokenizer.encode(text)) if isinstance(text, str) else model.encode([text])[0].tolist()
    before = checked.context_width - (checked.seeding_scheme == "selfhash")
    windows = [tuple(ids[i : i + before + 1]) for i in range(len(ids) - before)]
    if ignore_repeated_ngrams:
        windows = list(dict.fromkeys(windows))
    if not windows:
        raise ValueError(
            f"the text has {counted(len(ids), 'token')}; detecting a watermark needs at least {before + 1}"
        )
    n, part = len(windows), checked.greenlist_ratio
    green = sum(mark.is_green(np.array(window[:-1], np.int64), window[-1]) for window in windows)
    z = (green - part * n) / math.sqrt(n * part * (1 - part))
    return WatermarkScore(n, green, z, math.erfc(z / math.sqrt(2)) / 2)
