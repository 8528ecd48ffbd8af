"""The public class of BERT: a model that sees a text as a whole, and what it makes of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from .core.foreign_names import OF_LOADING, OF_PROMPTS
from .core.keywords import explains_keywords
from .core.prompts import Item, Prompt
from .model import GPT2
from .pretrained import Pretrained

if TYPE_CHECKING:
    from .core.deadline import Deadline

__all__ = ["BERT", "from_pretrained"]

_ABSENT = {
    "generate": "fill finds the words of masks; a GPT-2 goes on with texts",
    "stream": "fill finds the words of masks; a GPT-2 goes on with texts",
    "suggest": "fill tells the most probable tokens of a mask, also of one at the end of a text",
    "suggest_words": "fill tells the most probable tokens of a mask, also of one at the end of a text",
    "session": "a text is computed as a whole, so that nothing of it can be kept",
    "scheduler": "lists of texts are computed together",
    "choose": "classify takes pairs of texts",
    "explain": "run_with_cache shows what is computed",
}


class BERT(Pretrained):
    """A BERT, RoBERTa or DistilBERT. Make one with :meth:`from_pretrained`.

    Every token sees the whole text, what follows it too: such a model fills masks, makes vectors of texts,
    labels texts and tokens, and judges texts by masking one token after the other. It does not go on with
    texts, as :class:`gpt2c.GPT2` does.

    **Texts** are strings, or token ids as a list, tuple or one-dimensional array of integers. A string gets
    what the tokenizer puts around a text, such as [CLS] and [SEP]; token ids are taken as they are. One text
    gives one result, a list of texts a list, in order, and a tuple of two texts in a list is a pair, whose
    second text has the token type 1, where the model has it. Nothing is padded, and no result depends on the
    other texts of a list, on ``threads`` or on how many texts share a call, by a single bit.

    Attributes
    ----------
    config, weights, name, notes
        As of :class:`gpt2c.GPT2`; the names of tensors are those of :mod:`gpt2c.reference_bert`.
    """

    model_type = "bert"

    @classmethod
    @explains_keywords(OF_LOADING)
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
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
        strict: bool = True,
        progress: bool = False,
    ) -> BERT:
        """Load a model.

        Parameters
        ----------
        source : str or path
            A directory in Hugging Face layout, of transformers or of sentence-transformers; a file of weights
            with config.json and the tokenizer's files beside it; a packed file (see :meth:`save`); or the
            name of a model on the Hugging Face hub such as "bert-base-uncased".
        dtype, cache_dtype, backend, threads, tokenizer, revision, subfolder, cache_dir, token, \
        local_files_only, strict, progress
            As for :meth:`gpt2c.GPT2.from_pretrained`. Keys and values are kept for the time of a call alone.
        adapter
            Must be None: adapters are merged into models of GPT-2 only.

        Raises
        ------
        CheckpointError, ConfigError
            The files are missing, damaged, those of a GPT-2, or ask for something that gpt2c does not do.
        ValueError
            An option is not one of the values above.
        """
        from .checkpoint.loading import load

        return load(
            [cls],
            source,
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
            strict=strict,
            progress=progress,
        )

    @explains_keywords(OF_PROMPTS)
    def hidden(
        self,
        texts: Prompt | Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """The last hidden states of all tokens of texts, with those that the tokenizer puts around them.

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

    @explains_keywords(OF_PROMPTS)
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
        """Texts as vectors, made of their last hidden states.

        What the files of sentence-transformers beside a model say is the default: how, whether vectors get
        the length 1, at which length texts are cut, whether they are written in lower case.

        Parameters
        ----------
        texts, special, deadline
            As for :meth:`classify`.
        pooling : str, optional
            "mean" of all tokens, with those that the tokenizer puts around a text, the default without such
            files; "cls", the first token; "last", the last one; "max" over all of them, value by value;
            "mean_sqrt_len", their sum over the square root of their number; "weighted_mean", which gives the
            first token the weight 1, the second 2, and so on.
        normalize : bool, optional
            Whether vectors get the length 1, so that their products are the cosines of their angles.
        max_tokens : int, optional
            Longer texts are cut to this many tokens; without it, and without such files, texts longer than
            the model's positions are an error.

        Returns
        -------
        np.ndarray, float32 [n_embd], or [texts, n_embd] of a list

        Raises
        ------
        ConfigError
            The files of sentence-transformers ask for what gpt2c does not do, and ``pooling`` is not given.
        """
        from .heads.embedding import embed

        how: dict[str, Any] = {"max_tokens": max_tokens, "special": special, "deadline": deadline}
        return embed(self, texts, pooling=pooling, normalize=normalize, **how)

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """A TypeError: what a call would do is not clear here, where it is the forward pass elsewhere."""
        raise TypeError(
            "a BERT cannot be called: use fill, score, embed, classify or tag for texts, or forward for the "
            "logits of token ids"
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """An AttributeError, which tells what to use in place of a method of GPT2."""
            hint = f": {_ABSENT[name]}" if name in _ABSENT else ""
            raise AttributeError(f"a BERT has no {name!r}{hint}")


def from_pretrained(source: str | os.PathLike[str] | None = None, **how: Any) -> GPT2 | BERT:
    """A model of either class, by its type; the options are those that both have."""
    from .checkpoint.loading import load

    return cast(GPT2 | BERT, load([GPT2, BERT], source, **how))
