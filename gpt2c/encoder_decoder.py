"""The public class of encoder-decoder models: texts in, other texts out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Unpack, cast, overload

import numpy as np

from .bert import BERT
from .core.encoder_decoder import LoadedEncoderDecoder
from .core.foreign_names import OF_LOADING, OF_PROMPTS, OF_TRANSLATION
from .core.keywords import explains_keywords
from .core.prompts import Prompt, Prompts
from .generation.options import GenerateKwargs, lists_options
from .model import GPT2
from .translation import translating

if TYPE_CHECKING:
    from .core.deadline import Deadline
    from .generation.results import Generation
    from .generation.streaming import Stream
    from .introspection.edits import Edit
    from .introspection.hooks import NamesFilter
    from .introspection.passes import ActivationCache
    from .scoring.results import Score
    from .views.explanation import Explanation
    from .views.translation import ExplainKwargs

__all__ = ["EncoderDecoder"]


class EncoderDecoder(LoadedEncoderDecoder[BERT, GPT2]):
    """A BERT that reads a text, and a GPT-2 that writes another one. Make one with :meth:`from_pretrained`.

    The encoder reads the whole source; each layer of the decoder attends to its output, besides the text
    written so far. The decoder's keys and values of a source are computed once, for all continuations and
    beams. No result depends, by a single bit, on the other sources of a list, on ``threads`` or on
    ``batch_size``.

    **Sources** are strings, or token ids as a list, tuple or one-dimensional array of integers. A string gets
    the tokens that the encoder's tokenizer puts around a text, such as [CLS] and [SEP]; token ids are used as
    they are. One source gives one result, a list of sources a list, in order.

    Attributes
    ----------
    encoder : BERT
    decoder : GPT2
        Of little use without a source: see :meth:`given`. Its ``config.bos_token_id`` is the token that texts
        start with there (``decoder_start_token_id``).
    projection : Projection or None
        The dense layer between the two, if their widths differ.
    name : str
        The source of the model.
    notes : list of str
        What was read from the folder; ``encoder.notes`` and ``decoder.notes`` have more.
    """

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
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        map: bool | None = None,
        strict: bool = True,
        progress: bool = False,
    ) -> EncoderDecoder:
        """Load a model.

        Parameters
        ----------
        source : str or path
            A directory of transformers' EncoderDecoderModel, whose encoder is a BERT, RoBERTa or DistilBERT
            and whose decoder is a GPT-2; one that :meth:`save` wrote; or the name of a model on the Hugging
            Face hub.
        dtype, cache_dtype, backend, threads, revision, subfolder, cache_dir, token, local_files_only, \
        map, strict, progress
            As for :meth:`gpt2c.GPT2.from_pretrained`; they are for both parts.
        tokenizer : str, path or object, or a tuple of two
            As for :meth:`gpt2c.GPT2.from_pretrained`, for both parts; a tuple has the encoder's and the
            decoder's. By default those in the folders "encoder" and "decoder" beside the weights, if there
            are such folders, else the one beside the weights.

        Raises
        ------
        CheckpointError, ConfigError, ValueError
            As for :meth:`gpt2c.GPT2.from_pretrained`.
        """
        from .checkpoint.encoder_decoder import load_encoder_decoder

        return load_encoder_decoder(
            cls,
            (BERT, GPT2),
            source,
            dtype=dtype,
            cache_dtype=cache_dtype,
            backend=backend,
            threads=threads,
            tokenizer=tokenizer,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            map=map,
            strict=strict,
            progress=progress,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model into a folder of two packed files, which :meth:`from_pretrained` maps.

        See :meth:`gpt2c.GPT2.save`. The folder appears when complete.

        Parameters
        ----------
        path : str or path
            A new name for the folder, or an empty folder.
        """
        from .checkpoint.encoder_decoder import save_encoder_decoder

        save_encoder_decoder(self, path)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the model for transformers: a directory in Hugging Face layout, its weights in float32.

        See :meth:`gpt2c.GPT2.export`. Where encoder and decoder have tokenizers of their own, each is in a
        folder with the name of its part.

        Parameters
        ----------
        path : str or path
            A new name for the directory, or an empty directory. It appears once it is complete.

        Raises
        ------
        ValueError
            The weights are rounded: the model was not loaded in float32.
        """
        from .checkpoint.encoder_decoder_export import export_encoder_decoder

        export_encoder_decoder(self, path)

    @overload
    def encode(  # type: ignore[overload-overlap]
        self, sources: Prompt, *, max_tokens: int | None = None, special: bool = False
    ) -> np.ndarray: ...
    @overload
    def encode(
        self, sources: Prompts, *, max_tokens: int | None = None, special: bool = False
    ) -> list[np.ndarray]: ...
    @explains_keywords(OF_PROMPTS)
    def encode(
        self,
        sources: Prompt | Prompts,
        *,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """The decoder's view of sources: the encoder's last hidden states, in the decoder's width.

        Parameters
        ----------
        sources : str, token ids, or a list of either
        max_tokens : int, optional
            Longer sources are truncated to this many tokens, including those around them;
            without it, sources longer than the encoder's positions are an error.
        special : bool, default False
            Whether special tokens are recognized in strings.
        deadline : float or Deadline, optional
            After this many seconds raises DeadlineError.

        Returns
        -------
        float32 array [positions, decoder.config.n_embd], or a list of them
        """
        found = translating.encode(self, sources, max_tokens=max_tokens, special=special, deadline=deadline)
        return cast("np.ndarray | list[np.ndarray]", found)

    @explains_keywords(OF_PROMPTS)
    def given(self, source: Prompt, *, max_tokens: int | None = None, special: bool = False) -> GPT2:
        """The decoder together with one encoded source: see :meth:`gpt2c.GPT2.given`.

        It has all methods of a GPT-2: ``model.given(source).suggest(...)``, ``session``, ``run_with_cache``.
        Their prompts are texts of the decoder, and start with ``decoder.config.bos_token_id``.

        Parameters
        ----------
        source, max_tokens, special
            As for :meth:`encode`.
        """
        return cast(GPT2, translating.given(self, source, max_tokens=max_tokens, special=special))

    # To a type checker a string is also a sequence of strings; the first matching overload applies.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        sources: Prompt,
        *,
        num_return_sequences: Literal[1] = 1,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        sources: Prompt | Prompts,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> list[Generation]: ...
    @explains_keywords(OF_TRANSLATION)
    @lists_options
    def generate(
        self,
        sources: Prompt | Prompts,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> Generation | list[Generation]:
        """Write a text for each source: greedily, by sampling or by beam search.

        Parameters
        ----------
        sources, max_tokens
            As for :meth:`encode`.
        num_return_sequences, batch_size
            As for :meth:`gpt2c.GPT2.generate`.
        **options
            Those of :meth:`gpt2c.GPT2.generate`: temperature, num_beams, length_penalty and so on.
            ``max_new_tokens`` is by default 128, or the decoder's positions if there are fewer. Options that
            use the prompt, such as penalties, see the decoder's start token there, as in transformers.

        Returns
        -------
        Generation, or list of Generation
            One for one source; else all of the first source, then those of the next.
        """
        return translating.generate(
            self,
            sources,
            num_return_sequences=num_return_sequences,
            batch_size=batch_size,
            max_tokens=max_tokens,
            **options,
        )

    @explains_keywords(OF_TRANSLATION, options=("num_return_sequences",))  # 1, or its own error
    @lists_options
    def stream(
        self, source: Prompt, *, max_tokens: int | None = None, **options: Unpack[GenerateKwargs]
    ) -> Stream:
        """The text for a source, piece by piece: see :meth:`gpt2c.GPT2.stream`."""
        return translating.stream(self, source, max_tokens=max_tokens, **options)

    @explains_keywords(OF_PROMPTS)
    def score(
        self,
        sources: Prompt | Prompts,
        targets: Prompt | Prompts,
        *,
        max_tokens: int | None = None,
        special: bool = False,
        top: int = 0,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
    ) -> Score | list[Score]:
        """Score texts as outputs for sources.

        Parameters
        ----------
        sources, max_tokens
            As for :meth:`encode`.
        targets : str, token ids, or a list of either
            One for each source. A string gets nothing around it: with ``special`` and a token such as
            "<|endoftext|>" at the end, the end of the text is scored, too.
        special, top, edits, deadline
            As for :meth:`gpt2c.GPT2.score`; ``special`` is also for the sources.

        Returns
        -------
        Score, or list of Score
        """
        return translating.score(
            self,
            sources,
            targets,
            max_tokens=max_tokens,
            special=special,
            top=top,
            edits=edits,
            deadline=deadline,
        )

    @explains_keywords(OF_PROMPTS)
    def run_with_cache(
        self,
        source: Prompt,
        target: Prompt = "",
        names_filter: NamesFilter = None,
        *,
        edits: Iterable[tuple[str, Edit]] = (),
        special: bool = False,
        logits_to_keep: int = 0,
    ) -> tuple[np.ndarray, ActivationCache]:
        """Run the decoder over a target for a source, and capture its activations.

        Parameters
        ----------
        source : str or token ids
        target : str or token ids
            The output; the decoder's start token is put before it.
        names_filter, edits, logits_to_keep
            As for :meth:`gpt2c.GPT2.run_with_cache`; for the decoder. Cross-attention is
            ``"blocks.{i}.cross_attn.hook_pattern"``, [n_head, target, source], also by
            ``cache["cross_attn.pattern", i]``. (``encoder.run_with_cache`` looks into the encoder.)
        special : bool, default False
            Whether special tokens are recognized in strings.

        Returns
        -------
        logits : float32 array [kept, n_vocab]
        cache : ActivationCache
        """
        return translating.run_with_cache(
            self, source, target, names_filter, edits, special=special, logits_to_keep=logits_to_keep
        )

    def explain(
        self,
        source: Prompt,
        target: Prompt | None = None,
        *,
        special: bool = False,
        **options: Unpack[ExplainKwargs],
    ) -> Explanation:
        """Show how the decoder writes a target, and where it looks in the source, as ``gpt2c explain`` does.

        Parameters
        ----------
        source : str or token ids
        target : str or token ids, optional
            What is written; by default what greedy decoding finds.
        special : bool, default False
            Whether special tokens are recognised in strings.
        **options
            As for :meth:`gpt2c.GPT2.explain`.

        Returns
        -------
        gpt2c.views.explanation.Explanation
        """
        from .views.translation import explain

        return explain(self, source, target, special=special, **options)

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """A TypeError: calling a model is ambiguous here; in other libraries it is the forward pass."""
        raise TypeError(
            "an EncoderDecoder cannot be called: use generate or score for texts, or given(source).forward "
            "for the logits of token ids"
        )
