"""What the public classes share: how a model is written to files, and the labels that it gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from .core.foreign_names import OF_PROMPTS
from .core.keywords import explains_keywords
from .core.lm import LoadedModel
from .core.prompts import Item, Prompt

if TYPE_CHECKING:
    from .core.deadline import Deadline
    from .heads.results import Classification, Tagging

__all__ = ["Pretrained"]


class Pretrained(LoadedModel):
    """A model made by ``from_pretrained``: :class:`gpt2c.GPT2` or :class:`gpt2c.BERT`."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model into one packed file, with its configuration and tokenizer.

        :meth:`from_pretrained` maps such a file and uses it in place: in milliseconds, and in memory that all
        processes share. The weights are those of :attr:`dtype`; results are the same, bit for bit. The file
        appears once it is complete. Layout: docs/packed-files.md.

        Parameters
        ----------
        path : str or path
            Any name; .gpt2c is usual. A file of that name is replaced; who uses it keeps the old one.

        Raises
        ------
        ValueError
            The model is of back end "blas".
        TokenizerError
            Its tokenizer is an object of another library that was given: it cannot be written.
        """
        from .checkpoint.packed import save

        save(self, path)

    def export(self, path: str | os.PathLike[str], dtype: str | None = None) -> float:
        """Write the model for other programs: as a directory for transformers, or a GGUF file for llama.cpp.

        The directory is in Hugging Face layout: config.json, model.safetensors (float32, the tensors bit for
        bit), generation_config.json and the tokenizer's files: those that it was read from, as they are, else
        a tokenizer.json. A GGUF file holds weights, sizes and tokenizer. What is written appears once it is
        complete (docs/models.md).

        Parameters
        ----------
        path : str or path
            The file to write, if the name ends with .gguf: one of that name is replaced. Else a new name for
            the directory, or an empty directory.
        dtype : str, optional
            Of the matrices in a GGUF file: "f32", the default, "f16", "bf16" or "q8_0".

        Returns
        -------
        float
            How far what was written is from the weights: the root mean square of the differences, as a share
            of that of the weights. 0 where nothing was rounded.

        Raises
        ------
        ValueError
            The weights are rounded: :attr:`dtype` is not "float32". (To a GGUF file they are written as they
            are.) Or they are beyond the range of "f16" or "q8_0".
        ConfigError
            llama.cpp would compute something else: it knows no such activation, scaling or head.
        TokenizerError
            The tokenizer cannot be written: it is an object of another library, or a SentencePiece model out
            of a packed file; in a GGUF file, it is not a byte-level BPE with GPT-2's rules.
        OSError
            The directory is there and not empty, or cannot be written.
        """
        from .checkpoint.export import export

        return export(self, path, dtype)

    @overload
    def classify(  # type: ignore[overload-overlap]
        self,
        texts: Prompt,
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> Classification: ...
    @overload
    def classify(
        self,
        texts: Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> list[Classification]: ...
    @explains_keywords(OF_PROMPTS)
    def classify(
        self,
        texts: Prompt | Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> Classification | list[Classification]:
        """The labels of texts, by a model with the head of a ...ForSequenceClassification.

        Parameters
        ----------
        texts : str, token ids, or a list of either
            A string gets what the tokenizer puts before and after a text; token ids are taken as they are. Of
            these the last one that is not ``pad_token_id`` counts, in a BERT the first. In a list for a BERT,
            a tuple of two texts is a pair, such as a premise and a hypothesis.
        max_tokens : int, optional
            Longer texts are cut to this many tokens, with those that the tokenizer puts around them; without
            it, texts longer than the model's positions are an error.
        special : bool, default False
            Whether special tokens are recognised in strings, as for :meth:`generate`.
        deadline : float or Deadline, optional
            After so many seconds there is a DeadlineError.

        Returns
        -------
        Classification, or list of Classification
            ``label``, ``probability``, ``probabilities``, ``logits`` and more.

        Raises
        ------
        ConfigError
            The model has no such head.
        ContextLengthError, ValueError
            A text is too long, or has no tokens.
        """
        from .heads.heads import classify

        return classify(self, texts, max_tokens=max_tokens, special=special, deadline=deadline)

    @overload
    def tag(  # type: ignore[overload-overlap]
        self,
        texts: Prompt,
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> Tagging: ...
    @overload
    def tag(
        self,
        texts: Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> list[Tagging]: ...
    @explains_keywords(OF_PROMPTS)
    def tag(
        self,
        texts: Prompt | Sequence[Item],
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> Tagging | list[Tagging]:
        """The labels of every token of texts, by a model with the head of a ...ForTokenClassification.

        Parameters and errors are those of :meth:`classify`.

        Returns
        -------
        Tagging, or list of Tagging
            ``tags``, one for each token of the text, and ``entities``, neighbours of one kind.
        """
        from .heads.heads import tag

        return tag(self, texts, max_tokens=max_tokens, special=special, deadline=deadline)
