"""Shared by the public classes: writing a model to files, its labels, and its activations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from .core.foreign_names import OF_PROMPTS
from .core.keywords import explains_keywords
from .core.lm import LoadedModel
from .core.prompts import Item, Prompt

if TYPE_CHECKING:
    from .core.deadline import Deadline
    from .heads.results import Classification, Tagging
    from .introspection.edits import Edit
    from .introspection.hooks import NamesFilter
    from .introspection.passes import ActivationCache
    from .introspection.patching import Metric
    from .introspection.results import Patching

__all__ = ["Pretrained"]


class Pretrained(LoadedModel):
    """A model made by ``from_pretrained``: :class:`gpt2c.GPT2` or :class:`gpt2c.BERT`."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model into one packed file, with its configuration and tokenizer.

        :meth:`from_pretrained` maps such a file and uses it in place: in milliseconds, and in memory that all
        processes share. The weights are those of :attr:`dtype`; results are the same, bit for bit. The file
        appears when complete. Layout: docs/packed-files.md.

        Parameters
        ----------
        path : str or path
            Any name; .gpt2c is usual. A file of that name is replaced; processes that have it open keep the
            old contents.

        Raises
        ------
        ValueError
            The model has backend "blas".
        TokenizerError
            Its tokenizer is an object of another library, which cannot be written.

        Examples
        --------
        >>> model.save("tales.gpt2c")
        >>> GPT2.from_pretrained("tales.gpt2c").generate("A king", max_new_tokens=4).text
        "'s son was a"
        """
        from .checkpoint.packed import save

        save(self, path)

    def export(self, path: str | os.PathLike[str], dtype: str | None = None) -> float:
        """Write the model for other programs: as a directory for transformers, or a GGUF file for llama.cpp.

        The directory is in Hugging Face layout: config.json, model.safetensors (float32, the tensors bit for
        bit), generation_config.json and the tokenizer's files: the originals, unchanged, or else a
        tokenizer.json. A GGUF file holds weights, sizes and tokenizer. The output appears when complete
        (docs/models.md).

        Parameters
        ----------
        path : str or path
            The file to write, if the name ends with .gguf: an existing one is replaced. Otherwise a new name
            for the directory, or an empty directory.
        dtype : str, optional
            The format of the matrices in a GGUF file: "f32", the default, "f16", "bf16" or "q8_0".

        Returns
        -------
        float
            The rounding error of the output: the root mean square of the differences, relative to that of the
            weights. 0 if nothing was rounded.

        Raises
        ------
        ValueError
            The weights are already rounded: :attr:`dtype` is not "float32". (To a GGUF file they are written
            as they are.) Or they exceed the range of "f16" or "q8_0".
        ConfigError
            llama.cpp would compute something different: it lacks this activation, scaling or head.
        TokenizerError
            The tokenizer cannot be written: it is an object of another library, or a SentencePiece model from
            a packed file; in a GGUF file, it is not a byte-level BPE with GPT-2's rules.
        OSError
            The directory exists and is not empty, or cannot be written.

        Examples
        --------
        >>> model.export("tales"), round(model.export("tales.gguf", "q8_0"), 4)
        (0.0, 0.0052)
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
            A string gets the tokens that the tokenizer puts around a text; token ids are used as they are.
            The text is classified at its last token that is not ``pad_token_id``, in a BERT at the first. In
            a list for a BERT, a tuple of two texts is a pair, such as a premise and a hypothesis.
        max_tokens : int, optional
            Longer texts are truncated to this many tokens, including those around them; without
            it, texts longer than the model's positions are an error.
        special : bool, default False
            Whether special tokens are recognized in strings, as for :meth:`generate`.
        deadline : float or Deadline, optional
            After this many seconds raises DeadlineError.

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

        Examples
        --------
        >>> found = classifier.classify("The king had three daughters.")
        >>> found.label, round(found.probability, 2)
        ('bad', 0.82)
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
            ``tags``, one for each token of the text, and ``entities``, neighbours of the same kind.

        Examples
        --------
        >>> found = tagger.tag("The king")
        >>> len(found.tags), found.tags[0].label, found.entities[0].label
        (8, 'I-PER', 'PER')
        """
        from .heads.heads import tag

        return tag(self, texts, max_tokens=max_tokens, special=special, deadline=deadline)

    @explains_keywords(OF_PROMPTS)
    def run_with_cache(
        self,
        prompts: Prompt | Sequence[Item],
        names_filter: NamesFilter = None,
        *,
        edits: Iterable[tuple[str, Edit]] = (),
        types: Any = None,
        causal: bool = True,
        logits_to_keep: int = 0,
    ) -> tuple[np.ndarray, ActivationCache] | tuple[list[np.ndarray], list[ActivationCache]]:
        """Run the model and capture its activations. Capturing never changes a result.

        Parameters
        ----------
        prompts : str, token ids, or a list of either
            For a BERT, which reads whole texts with the tokens around them, and in strings its masks, also
            tuples of two texts in a list.
        names_filter : str, (str, int), iterable of either, function, or None
            What to capture, by the names of :mod:`gpt2c.introspection.hooks` (those of TransformerLens), with
            wildcards: ``"blocks.3.attn.hook_pattern"``, ``["*.hook_resid_pre", "blocks.[0-3].mlp.*"]``; by
            short names as in the cache: ``"pattern"`` in all layers, ``("pattern", 3)`` in one; or a function
            that is called with each name. None, like ``"*"``, captures everything but ``attn.hook_result``,
            which is n_head times as large as the rest, and the inputs of parts such as ``hook_q_input``:
            these must be named, or matched by a pattern that ends as they do, in ``result``, ``_in`` or
            ``_input``.
        edits : iterable of (str, function)
            Interventions, in order: a name, wildcards allowed, and an edit (:mod:`gpt2c.edits`). Values
            are captured after the edits.
        types : list or array of int, or a list of them, optional
            The token types of a BERT: one for each token; by default 0 and 1 for pairs, else all 0.
        causal : bool
            False removes the mask: every position attends to the whole text, including later tokens, as in an
            auto-encoding model such as BERT, which never has a mask. GPT-2 was not trained for this; it is
            for teaching.
        logits_to_keep : int
            The number of last rows of logits wanted; 0: all. (Meaningless for a model that predicts no
            tokens.)

        Returns
        -------
        logits : float32 array [kept, n_vocab], or a list of them
        cache : ActivationCache, or a list of them

        Raises
        ------
        ContextLengthError
            A prompt is longer than the model's positions.
        ValueError
            A name that the model does not have; an edit that does not fit.

        Examples
        --------
        >>> logits, cache = model.run_with_cache("The king and the")
        >>> cache["pattern", 2].shape, cache["resid_post", -1].shape
        ((4, 4, 4), (4, 256))
        """
        from .introspection.passes import run_with_cache

        return run_with_cache(
            self,
            prompts,
            names_filter,
            edits,
            types=types,
            causal=causal,
            logits_to_keep=logits_to_keep,
        )

    @explains_keywords()
    def patch(
        self,
        clean: Any,
        corrupted: Any,
        over: tuple[Any, ...],
        metric: Metric,
        *,
        types: Sequence[Any] | None = None,
        logits_to_keep: int | None = None,
        progress: bool = False,
    ) -> Patching:
        """Activation patching: run a corrupted text repeatedly, each time with one value of a clean one.

        Only later layers, and in a GPT-2 later positions, are computed, many patches in one call; the results
        are those of whole runs with :func:`gpt2c.edits.replace`, bit for bit.

        Parameters
        ----------
        clean, corrupted : str or token ids
            Two texts with the same number of tokens; for a BERT also two pairs of texts.
        over : tuple
            ``(name, layers)``, ``(name, layers, positions)`` or ``(name, layers, positions, heads)``: a value
            by its short name ("resid_pre", "attn_out", "z", "mlp.post", ...; see
            :mod:`gpt2c.introspection.hooks`), and the layers, positions and heads to patch, one by one: lists
            or ranges. Positions and heads may be "all", which patches all of them at once and is the default.
        metric : function
            Called with the logits of a patched run, float32 [kept, n_vocab]; returns a number.
        types : sequence of two, optional
            The token types of both texts of a BERT, as for :meth:`run_with_cache`.
        logits_to_keep : int, optional
            The number of last rows of logits that the metric sees; 0: all. By default 1, for a BERT all.
        progress : bool
            Show a bar on stderr if it takes longer than a second or two.

        Returns
        -------
        gpt2c.introspection.results.Patching
            The metric of every patch: ``values``, [layers], [layers, positions], [layers, heads] or
            [layers, positions, heads], with the names of all axes; NumPy treats it as that array.

        Raises
        ------
        ContextLengthError
            The texts are longer than the model's positions.
        KeyError, ValueError
            The model has no such value, layer or head; the texts differ in length.

        Examples
        --------
        >>> king, fox = "The king gave his", "The fox gave his"
        >>> over = ("z", range(6), "all", [0, 1])  # heads 0 and 1 of every layer
        >>> model.patch(king, fox, over, lambda logits: logits[-1, 635]).values.shape
        (6, 2)
        """
        from .introspection.patching import patch

        return patch(
            self,
            clean,
            corrupted,
            over,
            metric,
            types=types,
            logits_to_keep=logits_to_keep,
            progress=progress,
        )
