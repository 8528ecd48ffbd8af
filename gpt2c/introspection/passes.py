"""Passes over texts that capture activations or edit them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import _engine
from ..core.batching import calls_of
from ..core.checks import check_flag, check_integer
from ..core.display import Displayed
from ..core.prompts import Item, Prompt, check_lengths, separate
from ..errors import counted, shown
from ..heads.reading import Options, read_all
from . import lens
from .activations import Activations
from .crossing import CrossAttention, cross_attention
from .head_scores import head_scores
from .hooks import NamesFilter, matching
from .observer import Observer, Watch, checked_edits

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from .edits import Edit
    from .results import Attribution, HeadScores, LogitLens

__all__ = ["ActivationCache", "capture", "encoded", "run_with_cache"]


class ActivationCache(Displayed, Activations):
    """The activations of one text, with analyses of them.

    A mapping of names (see :mod:`gpt2c.introspection.hooks`) to float32 arrays:
    ``cache["blocks.3.attn.hook_pattern"]`` and the shorter ``cache["pattern", 3]`` are the same. Its
    attributes are those of :class:`gpt2c.introspection.activations.Activations`.

    Examples
    --------
    >>> logits, cache = model.run_with_cache("The king and the")
    >>> cache.tokens, cache["pattern", 3].shape, cache["resid_post", -1].shape
    (['The', ' king', ' and', ' the'], (4, 4, 4), (4, 256))
    """

    def logit_lens(self, k: int = 5, tokens: int | Sequence[int] | None = None) -> LogitLens:
        """The model's prediction if it ended after each layer; for a BERT, at the position of each token.

        The residual stream before the first layer and after every layer must have been captured.

        Parameters
        ----------
        k : int
            The number of most probable tokens, 1 to the size of the vocabulary.
        tokens : int or sequence of int, optional
            The tokens whose probabilities and ranks are wanted: one for each position, or one for all. By
            default the text's own next ones, and at the end the model's most probable; for a BERT, the most
            probable at each position.

        Returns
        -------
        gpt2c.introspection.results.LogitLens

        Raises
        ------
        KeyError
            A residual stream was not captured.
        ValueError
            ``k`` or ``tokens`` is out of range.

        Examples
        --------
        >>> logits, cache = model.run_with_cache("The king and the")
        >>> cache.logit_lens(k=1).logprobs.shape
        (7, 4)
        """
        return lens.logit_lens(self, k, tokens)

    def attribution(
        self, token: int | None = None, against: int | None = None, position: int = -1
    ) -> Attribution:
        """The contributions of components and heads to a logit (direct logit attribution).

        Parameters
        ----------
        token : int, optional
            The token of the logit; by default the most probable one.
        against : int, optional
            Attribute a difference of logits instead: that of ``token`` minus this one's.
        position : int
            The position of the token before it; negative ones count from the end.

        Returns
        -------
        gpt2c.introspection.results.Attribution

        Raises
        ------
        ValueError
            The position has no logits, as only the last ones were kept.

        Examples
        --------
        >>> logits, cache = model.run_with_cache("The king and the")
        >>> found = cache.attribution()
        >>> found.token, round(found.logit, 4), round(found.components["mlp 5"], 4)
        (' king', 5.8182, 1.9515)
        """
        return lens.attribution(self, token, against, position)

    def cross_attention(self, layer: int = -1, head: int | None = None) -> CrossAttention:
        """The positions of an encoder's output that each generated token attends to.

        Parameters
        ----------
        layer : int
            Its ``cross_attn.hook_pattern`` must have been captured; -1 is the last one.
        head : int, optional
            Default: the mean of all heads.

        Returns
        -------
        gpt2c.introspection.crossing.CrossAttention
            ``print`` shows a table, a notebook one with colours, and ``.plot()`` draws it.

        Raises
        ------
        KeyError
            The model has no cross-attention, or its pattern was not captured.
        ValueError
            It has no such layer or head.

        Examples
        --------
        >>> logits, cache = dates.run_with_cache("May 3rd, 1984", "1984-05-03")
        >>> cache.cross_attention(layer=1).weights.shape
        (11, 12)
        """
        return cross_attention(self, layer, head)

    def head_scores(self) -> HeadScores:
        """How much each head attends to the previous token, to earlier occurrences of the token, and so on.

        Returns
        -------
        gpt2c.introspection.results.HeadScores
            Documents the scores and their sources.

        Raises
        ------
        KeyError
            The attention pattern of a layer was not captured.

        Examples
        --------
        >>> logits, cache = model.run_with_cache("The king and the queen and the king")
        >>> round(float(cache.head_scores().previous_token.max()), 2)
        0.61
        """
        return head_scores(self)


def run_with_cache(
    model: LoadedModel,
    prompts: Prompt | Sequence[Item],
    names_filter: NamesFilter = None,
    edits: Iterable[tuple[str, Edit]] = (),
    *,
    types: Any = None,
    causal: bool = True,
    logits_to_keep: int = 0,
) -> tuple[np.ndarray, ActivationCache] | tuple[list[np.ndarray], list[ActivationCache]]:
    """See :meth:`gpt2c.GPT2.run_with_cache`; also used by :class:`gpt2c.BERT`."""
    keep = check_integer("logits_to_keep", logits_to_keep, 0)
    several, texts = separate(prompts)
    ids, kinds = encoded(model, texts, [types] if types is not None and not several else types)
    found = capture(model, ids, names_filter, edits, types=kinds, causal=causal, logits_to_keep=keep)
    if several:
        return [cache.logits for cache in found], found
    return found[0].logits, found[0]


def encoded(
    model: LoadedModel, texts: Sequence[Any], types: Sequence[Any] | None = None
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """The token ids and token types of texts, int32 [at least 1] each; types None: all 0.

    A BERT reads whole texts, or pairs of them, with the tokens around them, and masks.
    """
    kinds: list[np.ndarray | None]
    if model.config.is_bert:
        _, readings = read_all(model, texts, Options(None, special=True))
        ids, typed = [reading.ids for reading in readings], model.config.n_types > 0
        kinds = [reading.types if typed else None for reading in readings]
    else:
        ids, kinds = model.encode(texts), [None] * len(texts)
    if types is None:
        return ids, kinds
    if not model.config.n_types:
        raise ValueError("this model has no token types: leave types out")
    if len(types) != len(ids):
        raise ValueError(f"types has {len(types)} items for {counted(len(ids), 'text')}; needed: one each")
    return ids, [_checked_types(model, *each) for each in zip(ids, types, strict=True)]


def _checked_types(model: LoadedModel, ids: np.ndarray, types: Any) -> np.ndarray | None:
    if types is None:
        return None
    found, last = np.asarray(types), model.config.n_types - 1
    if found.shape != ids.shape or found.dtype.kind not in "iu":
        raise ValueError(
            f"types must be one integer for each of {counted(len(ids), 'token')}, not {shown(types)}"
        )
    if found.min() < 0 or found.max() > last:
        raise ValueError(f"types must be from 0 to {last}, the model's types, not {shown(types)}")
    return found.astype(np.int32)


def capture(
    model: LoadedModel,
    prompts: Sequence[np.ndarray],
    names_filter: NamesFilter = None,
    edits: Iterable[tuple[str, Edit]] = (),
    *,
    types: Sequence[np.ndarray | None] | None = None,
    causal: bool = True,
    logits_to_keep: int = 0,
) -> list[ActivationCache]:
    """The same for token ids, int32 [at least 1] each."""
    check_flag("causal", causal)
    names, changes = matching(model.config, names_filter), checked_edits(model, edits)
    check_lengths(prompts, model.config.n_ctx)
    watch = Watch(model.config, names, changes)
    causal = causal and not model.config.is_bert
    kinds = types or [None] * len(prompts)
    found = []
    for part in calls_of([len(ids) for ids in prompts]):
        group = prompts[part]
        sequences = [
            (model.new_cache(len(ids)), ids, kind) for ids, kind in zip(group, kinds[part], strict=True)
        ]
        observer = Observer(model, watch, sequences, changes, keep=logits_to_keep)
        logits = _engine.forward(
            model.weights,
            sequences,
            keep=logits_to_keep,
            threads=model.threads,
            observer=observer,
            bidirectional=not causal,
        )
        kept = np.split(logits, np.cumsum(observer.kept)[:-1])
        found += [
            ActivationCache(
                model, ids, {name: value for name, [value] in captured.items()}, rows, causal=causal
            )
            for ids, captured, rows in zip(group, observer.captured, kept, strict=True)
        ]
    return found
