"""The public class of BERT: a model that reads a text as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, overload

import numpy as np

from .core.foreign_names import OF_BERT, OF_LOADING
from .core.keywords import explains_keywords
from .core.prompts import Item, Prompt, Prompts
from .pretrained import Pretrained

if TYPE_CHECKING:
    from .core.deadline import Deadline
    from .introspection.edits import Edit
    from .masks.options import FillKwargs, MaskedScoreKwargs
    from .masks.results import Filled
    from .scoring.results import Score
    from .views.masked_explanation import MaskedExplanation

__all__ = ["BERT"]

_ABSENT = {
    "generate": "fill finds the words of masks; a GPT-2 continues texts",
    "stream": "fill finds the words of masks; a GPT-2 continues texts",
    "suggest": "fill returns the most probable tokens of a mask, also at the end of a text",
    "suggest_words": "fill returns the most probable tokens of a mask, also at the end of a text",
    "session": "a text is computed as a whole, so nothing of it can be cached",
    "scheduler": "lists of texts are computed together",
    "choose": "classify takes pairs of texts",
}


class BERT(Pretrained):
    """A BERT, RoBERTa or DistilBERT. Make one with :meth:`from_pretrained`.

    Every token sees the whole text, including later tokens: such a model fills masks, makes vectors of texts,
    labels texts and tokens, and scores texts by masking one token after the other. Unlike
    :class:`gpt2c.GPT2`, it does not continue texts.

    **Texts** are strings, or token ids as a list, tuple or one-dimensional array of integers. A string gets
    the tokens that the tokenizer puts around a text, such as [CLS] and [SEP]; token ids are used as they are.
    One text gives one result, a list of texts a list, in order, and a tuple of two texts in a list is a pair,
    whose second text has token type 1, if the model has token types. Nothing is padded, and no result
    depends, by a single bit, on the other texts of a list, on ``threads`` or on how many texts share a call.

    Attributes
    ----------
    config, weights, name, notes
        As for :class:`gpt2c.GPT2`; the names of tensors are those of :mod:`gpt2c.reference_bert`.
    """

    model_type = "bert"

    @classmethod
    @explains_keywords(OF_LOADING)
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        cache_dtype: str | None = None,
        backend: str = "native",
        threads: int | None = None,
        tokenizer: Any = None,
        adapter: Any = None,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        map: bool | None = None,
        strict: bool = True,
        progress: bool = False,
    ) -> BERT:
        """Load a model.

        Parameters
        ----------
        source : str or path, optional
            A directory of transformers or sentence-transformers; a file of weights with config.json and the
            tokenizer's files beside it; a packed file (see :meth:`save`); or the name of a model on the
            Hugging Face hub such as "bert-base-uncased". None is the bundled masked model, in int4.
        dtype, cache_dtype, backend, threads, tokenizer, revision, subfolder, cache_dir, token, \
        local_files_only, map, strict, progress
            As for :meth:`gpt2c.GPT2.from_pretrained`. Keys and values are kept only during a call.
        adapter
            Must be None: adapters are for GPT-2s.

        Raises
        ------
        CheckpointError, ConfigError, ValueError
            As for :meth:`gpt2c.GPT2.from_pretrained`; or the files are those of a GPT-2.
        """
        from .checkpoint.bundled import BUNDLED_MASKED
        from .checkpoint.loading import load

        return load(
            [cls],
            BUNDLED_MASKED if source is None else source,
            dtype=dtype,
            cache_dtype=cache_dtype,
            backend=backend,
            threads=threads,
            tokenizer=tokenizer,
            adapter=adapter,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            map=map,
            strict=strict,
            progress=progress,
        )

    @overload
    def fill(  # type: ignore[overload-overlap]
        self, texts: Prompt, k: int = 5, **options: Unpack[FillKwargs]
    ) -> Filled: ...
    @overload
    def fill(self, texts: Prompts, k: int = 5, **options: Unpack[FillKwargs]) -> list[Filled]: ...
    @explains_keywords(OF_BERT)
    def fill(
        self,
        texts: Prompt | Prompts,
        k: int = 5,
        *,
        num_beams: int = 5,
        targets: Sequence[str | int] | None = None,
        max_tokens: int | None = None,
        deadline: float | Deadline | None = None,
    ) -> Filled | list[Filled]:
        """The ``k`` most probable ways to fill the masks of a text, such as "The [MASK] had three daughters."

        With one mask they are its most probable tokens. Several masks are filled one after the other, first
        the one whose best token is most probable, and each is chosen given those before it: a search that
        keeps ``num_beams`` texts at every step, each with its own order. (A masked model has no joint
        probability: in another order, the same tokens may have another product.) The tokens for each mask
        while the others remain masks, as other libraries return them, are in :attr:`Filled.masks`.

        Parameters
        ----------
        texts : str, token ids, or a list of either
            With at least one mask, the token of :attr:`mask_token_id`. Special tokens are recognized in
            strings.
        k : int
            1 to the size of the vocabulary, at most 4,096.
        num_beams : int
            The number of texts that the search keeps, 1 to 1,024; at least ``k``.
        targets : list of str or int, optional
            The only tokens that may fill masks: words, each of which must be one token, or token ids.
            Probabilities remain those among all tokens.
        max_tokens, deadline
            As for :meth:`classify`.

        Returns
        -------
        Filled, or list of Filled
            A list of :class:`gpt2c.Filling`, with ``text``, ``probability`` and ``tokens``.

        Raises
        ------
        ConfigError, TokenizerError
            The model has no head that predicts tokens, or its tokenizer no mask.
        ContextLengthError, ValueError
            A text is too long, or has no mask; a target is not one token.
        """
        from .masks.filling import fill

        return fill(
            self, texts, k, num_beams=num_beams, targets=targets, max_tokens=max_tokens, deadline=deadline
        )

    @overload
    def score(  # type: ignore[overload-overlap]
        self, texts: Prompt, **options: Unpack[MaskedScoreKwargs]
    ) -> Score: ...
    @overload
    def score(self, texts: Prompts, **options: Unpack[MaskedScoreKwargs]) -> list[Score]: ...
    @overload
    def score(self, texts: Iterator[Prompt], **options: Unpack[MaskedScoreKwargs]) -> Iterator[Score]: ...
    @explains_keywords(OF_BERT)
    def score(
        self,
        texts: Prompt | Prompts | Iterator[Prompt],
        *,
        within_word: bool = False,
        top: int = 0,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> Score | list[Score] | Iterator[Score]:
        """Score the tokens of texts, each given all others: the pseudo-log-likelihood.

        Every token is masked in turn (Salazar et al., "Masked Language Model Scoring", 2020): a text of n
        tokens is computed n times. ``logprob`` is the sum, ``perplexity`` the pseudo-perplexity, which is
        comparable with that of other masked models of the same vocabulary, but not with a GPT-2's.

        Parameters
        ----------
        texts : str, token ids, a list of either, or an iterator of either
            An iterator is consumed as results are, in constant memory.
        within_word : bool
            Whether later tokens of the masked token's word are masked, too (Kauf and Ivanova 2023): otherwise
            words of several tokens seem more probable than they are, as their tokens reveal each other.
        top : int
            The number of most probable tokens to report at each position.
        max_tokens, special, deadline
            As for :meth:`classify`.

        Returns
        -------
        Score, list of Score, or iterator of Score
            As from :meth:`gpt2c.GPT2.score`; ``contexts`` is the number of unmasked tokens that the model
            saw. The tokens around a text are read, but not scored.

        Raises
        ------
        ConfigError, TokenizerError
            The model has no head that predicts tokens, or its tokenizer no mask.
        ContextLengthError, ValueError
            A text is too long, or has no tokens.
        """
        from .masks.scoring import score

        return score(
            self,
            texts,
            within_word=within_word,
            top=top,
            max_tokens=max_tokens,
            special=special,
            deadline=deadline,
        )

    @overload
    def hidden(  # type: ignore[overload-overlap]
        self,
        texts: Prompt,
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> np.ndarray: ...
    @overload
    def hidden(
        self,
        texts: Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> list[np.ndarray]: ...
    @explains_keywords(OF_BERT)
    def hidden(
        self,
        texts: Prompt | Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """The last hidden states of all tokens of texts, including those around them.

        Parameters
        ----------
        texts, max_tokens, special, deadline
            As for :meth:`classify`.

        Returns
        -------
        np.ndarray, float32 [tokens, n_embd], or a list of them
        """
        from .heads.embedding import hidden

        return hidden(self, texts, max_tokens=max_tokens, special=special, deadline=deadline)

    @explains_keywords(OF_BERT)
    def embed(
        self,
        texts: Prompt | Sequence[Item],
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> np.ndarray:
        """Texts as vectors, pooled from their last hidden states.

        The defaults come from the model's sentence-transformers files: the pooling, whether vectors are
        scaled to length 1, the length at which texts are truncated, whether they are lower-cased.

        Parameters
        ----------
        texts, special, deadline
            As for :meth:`classify`.
        pooling : str, optional
            "mean" of all tokens, including those around a text, the default without such files; "cls", the
            first token; "last", the last one; "max" over all of them, value by value; "mean_sqrt_len", their
            sum over the square root of their number; "weighted_mean", which gives the first token weight 1,
            the second 2, and so on.
        normalize : bool, optional
            Whether vectors are scaled to length 1, so that their products are cosines.
        max_tokens : int, optional
            Longer texts are truncated to this many tokens; without it, and without such files, texts longer
            than the model's positions are an error.

        Returns
        -------
        np.ndarray, float32 [n_embd], or [texts, n_embd] of a list

        Raises
        ------
        ConfigError
            The files of sentence-transformers ask for something gpt2c does not support, and ``pooling`` is
            not given.
        """
        from .heads.embedding import embed

        how: dict[str, Any] = {"max_tokens": max_tokens, "special": special, "deadline": deadline}
        return embed(self, texts, pooling=pooling, normalize=normalize, **how)

    def explain(
        self,
        text: Prompt,
        *,
        layer: int | None = None,
        head: int | None = None,
        layers: Sequence[int] | None = None,
        edits: Iterable[tuple[str, Edit]] = (),
        lang: str = "en",
    ) -> MaskedExplanation:
        """Show what the model finds for the masks of a text, and where its heads look to both sides.

        Parameters
        ----------
        text : str or token ids
            With or without masks; special tokens are recognised in strings.
        layer, head, layers, edits, lang
            As for :meth:`gpt2c.GPT2.explain`.

        Returns
        -------
        gpt2c.views.masked_explanation.MaskedExplanation
            A notebook shows its page, ``print`` its text; ``.save("page.html")`` writes the page, ``.html``
            is it, ``.to_dict()`` has the arrays for JSON.
        """
        from .views.masked_explanation import MaskedExplanation

        return MaskedExplanation(self, text, layer=layer, head=head, layers=layers, edits=edits, lang=lang)

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """A TypeError: calling a model is ambiguous here; in other libraries it is the forward pass."""
        raise TypeError(
            "a BERT cannot be called: use fill, score, embed, classify or tag for texts, or forward for the "
            "logits of token ids"
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """An AttributeError that says what to use instead of a method of GPT2."""
            hint = f": {_ABSENT[name]}" if name in _ABSENT else ""
            raise AttributeError(f"a BERT has no {name!r}{hint}")
