"""The public face: a GPT-2 with its tokenizer, ready to continue, suggest and judge texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from . import _engine, generation, scoring
from .config import Config
from .errors import ConfigError, TokenizerError
from .generation import Generation, Stream
from .prompts import Item, Prompt, Prompts, separate, split_pair, token_ids
from .sampling import Options, SamplingOptions, check_integer
from .scoring import Score, Suggestion
from .threads import default_threads
from .words import word_edges

if TYPE_CHECKING:
    from .edits import Edit
    from .hooks import NamesFilter
    from .introspect import ActivationCache
    from .patching import Metric
    from .tokenizer import Tokenizer

__all__ = ["GPT2"]

MOST_THREADS = 1024


class GPT2:
    """A GPT-2 language model. Make one with :meth:`from_pretrained`.

    **Prompts and texts** are strings, or token ids as a list, tuple or one-dimensional array of integers.
    Where several are allowed, give a list or tuple of them: a list whose first item is an integer is one
    prompt made of token ids, any other list holds several prompts. One prompt gives one result, a list of
    prompts a list, in order. The empty string stands for the beginning of a text: the model then sees the
    begin-of-text token alone. In strings, "<|endoftext|>" and its like are ordinary text; their effect as
    special tokens is to be had with token ids.

    A model may be used from several Python threads at once.

    Attributes
    ----------
    config : Config
        The architecture.
    weights : _engine.Weights
        The packed weights: immutable, they may be shared.
    name : str
        Where the model comes from.
    notes : list of str
        What was read from the checkpoint, and what was left aside.
    generation_config : dict
        The checkpoint's own defaults for generation. They are not applied, except for the bos and eos ids.
    """

    def __init__(
        self,
        weights: _engine.Weights,
        tokenizer: Tokenizer | None = None,
        *,
        threads: int | None = None,
        name: str = "GPT-2",
        notes: Iterable[str] = (),
        generation_config: Mapping[str, Any] | None = None,
        cache_dtype: str = "float32",
    ) -> None:
        self.weights = weights
        self.config: Config = weights.config
        self.name = name
        self.notes = list(notes)
        self.generation_config = dict(generation_config or {})
        self.threads = threads
        self.cache_dtype = cache_dtype
        self._source_sha256: Callable[[], str] = str  # "": not from a file
        self._tokenizer = tokenizer
        self._no_tokenizer = "this model was made without a tokenizer: give token ids, or a tokenizer"

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        cache_dtype: str = "float32",
        backend: str = "native",
        threads: int | None = None,
        tokenizer: Any = None,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        progress: bool = False,
    ) -> GPT2:
        """Load a model.

        Parameters
        ----------
        source : str or path, optional
            A directory in Hugging Face layout, a .safetensors file with config.json and the tokenizer's files
            beside it, a packed file (see :meth:`save`), or the name of a model on the Hugging Face hub such
            as "gpt2". None is the small model that comes with gpt2c.
        dtype : str, optional
            How the weights of dense layers are kept in memory and multiplied: "float32" (the default),
            "bfloat16", "int8" or "int4", each about half as large as the one before, faster, and a little
            further from the checkpoint's numbers (README: number formats). A packed file has its own, and
            no other can be made of it.
        cache_dtype : str
            How keys and values are kept: "float32", or "float16" in half the memory, which reads faster in
            long texts.
        backend : str
            "native" is gpt2c's own arithmetic, with results that are equal bit by bit for any number of
            threads and any batch. "blas" multiplies matrices with NumPy's BLAS, without that promise.
        threads : int, optional
            1 to 1024; the default is OMP_NUM_THREADS, else the physical cores this process may use.
        tokenizer : object, optional
            Used instead of the checkpoint's own: anything with ``encode(text)`` and ``decode(ids)``.
        revision, subfolder, cache_dir, token, local_files_only
            For models of the hub, as in huggingface_hub: a branch, tag or commit; a folder inside the
            repository; where downloads are kept; an access token; never download. ``subfolder`` works for
            directories too.
        progress : bool
            Show a bar on stderr if loading takes longer than a second or two.

        Raises
        ------
        CheckpointError, ConfigError
            The files are missing, damaged or ask for something that gpt2c does not do.
        ValueError
            An option is not one of the values above.

        Notes
        -----
        Tokenizer files that are missing or of an unknown kind are no error before text is needed: token ids
        always work.
        """
        threads = _checked_threads(threads)  # before the long work
        from .loading import load

        loaded = load(
            source,
            dtype=dtype,
            backend=backend,
            threads=threads,
            tokenizer=tokenizer,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            progress=progress,
        )
        model = cls(
            loaded.weights,
            loaded.tokenizer,
            threads=threads,
            name=loaded.name,
            notes=loaded.notes,
            generation_config=loaded.generation_config,
            cache_dtype=cache_dtype,
        )
        model._source_sha256 = loaded.sha256
        model._no_tokenizer = loaded.no_tokenizer or model._no_tokenizer
        return model

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
        from ._files import replacing
        from .packed import write_packed

        vocabulary = None
        if self._tokenizer is not None:
            vocabulary = self._tokenizer.packed()
            if vocabulary is None:
                raise TokenizerError(
                    f"the tokenizer {self._tokenizer.name} cannot be written into a file: save the model "
                    "without it (load it with its own), and give tokenizer= again when it is used"
                )
        with replacing(os.fspath(path), binary=True) as file:
            write_packed(
                file,
                self.weights,
                vocabulary=vocabulary,
                name=self.name,
                generation_config=self.generation_config,
                source_sha256=self._source_sha256(),
            )

    # What the model is

    @property
    def threads(self) -> int:
        """How many threads a call uses, 1 to 1024; may be set (None: the default)."""
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        self._threads = _checked_threads(threads)

    @property
    def dtype(self) -> str:
        """How the weights of dense layers are kept: "float32", "bfloat16", "int8" or "int4"."""
        return self.weights.dtype

    @property
    def cache_dtype(self) -> str:
        """How new caches keep keys and values: "float32" or "float16"; may be set."""
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, dtype: str) -> None:
        self._cache_dtype = _checked_cache_dtype(dtype)

    @property
    def backend(self) -> str:
        """Which arithmetic the dense layers use: "native" or "blas"."""
        return self.weights.backend

    @property
    def numerics(self) -> str:
        """What results depend on besides the weights: dtypes, back end, version of gpt2c's arithmetic.

        With bfloat16 also the instruction set, where that has an arithmetic of its own for it.
        """
        cache = "" if self.cache_dtype == "float32" else f"-cache-{self.cache_dtype}"
        own = self.dtype == "bfloat16" and self.weights.isa in _engine.OWN_BFLOAT16
        dtype = f"{self.dtype}-{self.weights.isa}" if own else self.dtype
        return f"{dtype}-{self.backend}-{_engine.NUMERICS_VERSION}{cache}"

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can turn text into tokens and back."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; a TokenizerError says why where there is none."""
        if self._tokenizer is None:
            raise TokenizerError(self._no_tokenizer)
        return self._tokenizer

    @property
    def bos_token_id(self) -> int:
        """The token that stands for the beginning of a text: the configuration's bos, else its first eos.

        GPT-2 has one token, <|endoftext|>, for both. Without either there is a ConfigError.
        """
        if self.config.bos_token_id is not None:
            return self.config.bos_token_id
        if self.config.eos_token_ids:
            return self.config.eos_token_ids[0]
        raise ConfigError(
            "the configuration names neither a bos_token_id nor an eos_token_id, so there is no token for "
            "the beginning of a text: give a prompt that is not empty, and score with bos=False"
        )

    @property
    def n_text_tokens(self) -> int:
        """How many ids, from 0, the model may write.

        Those past the tokenizer's end, which pad the embedding to a round size in some models, are left out.
        """
        n_vocab = self.config.n_vocab
        return n_vocab if self._tokenizer is None else min(n_vocab, self._tokenizer.n_vocab)

    @cached_property
    def _word_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens begin with white space, and which end with it: bool [n_vocab] each.

        Both hold for the tokens that stand for the beginning and the end of a text. A TokenizerError tells
        where no token begins with white space.
        """
        return word_edges(self)

    def memory_plan(self) -> dict[str, int]:
        """Bytes that the model takes: weights once; a cache and a row of logits for every text in work."""
        full = (
            self.new_cache().nbytes
        )  # room for the whole context, of which the system gives what is touched
        plan = {
            "weights": self.weights.nbytes,
            "cache_per_token": -(-full // self.config.n_ctx),
            "cache_full_context": full,
            "logits_per_row": 4 * self.config.n_vocab,
        }
        plan["one_text_of_full_context"] = (
            plan["weights"] + plan["cache_full_context"] + plan["logits_per_row"]
        )
        return plan

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<GPT2 {self.name}: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, context "
            f"{c.n_ctx}, vocabulary {c.n_vocab}; "
            f"{self.dtype}, {self.backend}, {self.threads} thread{'s' * (self.threads != 1)}>"
        )

    # What it does

    def new_cache(self, n_ctx: int | None = None) -> _engine.KVCache:
        """An empty cache with room for ``n_ctx`` tokens, 1 to the model's context, which is the default.

        ``len(cache)`` is the number of tokens in it, ``cache.truncate(n)`` keeps the first n,
        ``cache.fork()`` copies.
        """
        if n_ctx is not None:
            n_ctx = check_integer("n_ctx", n_ctx, 1, self.config.n_ctx, note=", the model's context")
        return _engine.KVCache(self.weights, n_ctx, self.cache_dtype)

    def forward(
        self,
        ids: list[int] | tuple[int, ...] | np.ndarray,
        cache: _engine.KVCache | None = None,
        *,
        logits_to_keep: int = 0,
    ) -> np.ndarray:
        """Compute the logits that follow each of ``ids``.

        Parameters
        ----------
        ids : list, tuple or array of int, [n]
            At least one token id.
        cache : KVCache, optional
            What stands before ``ids``; they are added to it. None: nothing does.
        logits_to_keep : int
            0 gives the logits of all n tokens, m those of the last m.

        Returns
        -------
        np.ndarray, float32 [n or min(m, n), n_vocab]

        Raises
        ------
        ContextLengthError
            The tokens do not fit behind those in the cache; the cache is as it was.
        """
        keep = check_integer("logits_to_keep", logits_to_keep, 0, note=" (0 keeps all)")
        if isinstance(ids, str):
            raise TypeError("forward takes token ids, not text: use model.tokenizer.encode(text) first")
        tokens = token_ids(ids, self.config.n_vocab, "ids")
        if cache is None:
            cache = self.new_cache(min(len(tokens), self.config.n_ctx))
        return _engine.forward(self.weights, [(cache, tokens)], keep=keep, threads=self.threads)

    # To a type checker a string is also a sequence of strings; the first overload that fits counts.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        *,
        num_return_sequences: Literal[1] = 1,
        batch_size: int | None = None,
        **options: Unpack[Options],
    ) -> Generation: ...
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        *,
        num_return_sequences: int,
        batch_size: int | None = None,
        **options: Unpack[Options],
    ) -> Generation | list[Generation]: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        **options: Unpack[Options],
    ) -> list[Generation]: ...
    def generate(
        self,
        prompts: Prompt | Prompts,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        **options: Unpack[Options],
    ) -> Generation | list[Generation]:
        """Continue one prompt or several.

        The text is the same in any company: neither the other prompts of a list, nor ``batch_size``,
        ``threads`` or the number of continuations change it. The same prompt twice in one list therefore
        comes out twice the same; for different continuations use ``num_return_sequences``.

        Parameters
        ----------
        prompts : str, token ids, or a list of either
            See :class:`GPT2`.
        max_new_tokens : int, default 50
            At most so many tokens are added, at least 1.
        min_new_tokens : int, default 0
            End-of-text tokens are forbidden until so many tokens were added. Stop strings are not affected.
        temperature : float, default 0
            0 is greedy: always the most probable token, the lowest id where several are equal. Above 0, the
            logits are divided by it before the draw: below 1 is more careful, above 1 more daring.
        top_k : int, default 0
            Draw among the k most probable tokens only; 0 is no limit.
        top_p : float, default 1
            Draw among the fewest most probable tokens whose probabilities add up to at least ``top_p``,
            0 < top_p <= 1; 1 is no limit.
        min_p : float, default 0
            Leave out tokens whose probability is below ``min_p`` times that of the most probable one, 0 to 1;
            0 is no limit.
        repetition_penalty : float, default 1
            Tokens that already stand in the text, the prompt included, have their logit divided by this if it
            is positive and multiplied if it is negative (as transformers does, Keskar et al. 2019); 1 changes
            nothing.
        presence_penalty, frequency_penalty : float, default 0
            Subtracted from the logits of tokens that were added already: once, and as often as they were (as
            OpenAI does). The prompt does not count.
        no_repeat_ngram_size : int, default 0
            No n tokens in a row stand twice in the text, the prompt included; 0 allows all.
        bad_words : iterable of str or of token ids, default ()
            What must not be added. A string stands for its tokens, alone and after a space. Of several tokens
            the last is forbidden where the others have come.
        suppress_tokens : iterable of int, default ()
            Token ids that are never chosen.
        logit_bias : mapping of int to float, optional
            Added to the logits of these token ids; ``-inf`` forbids a token, -100 nearly does.
        sequence_bias : mapping of tuple of int to float, optional
            Added to the logit of the last token of each tuple where the text ends with the others.
        logits_processor : function or iterable of functions, default ()
            Each is called at every step as ``processor(token_ids, logits)`` with the text so far, int32, and
            the logits after the options above, float32 [n_vocab]; it returns the logits to go on with, and
            may change those given. To forbid a token, make its logit -inf. Beam search gives
            log-probabilities.
        token_bitmask : function, optional
            Called at every step with the new token ids, int32; returns which tokens may come next as int32
            [at least n_vocab / 32], bit i % 32 of word i // 32 for token i, or None for all of them.
            Libraries for grammars (llguidance, xgrammar) fill such masks.
        stop : str or iterable of str, default ()
            The text ends before the first of these strings, which may span tokens.
        seed : int, optional
            0 to 2**64 - 1. None draws a fresh seed, which the result reports.
        num_return_sequences : int
            Continuations per prompt, at least 1. They differ where chance plays a part, and in beam search,
            which gives its best ones.
        num_beams : int, default 1
            Above 1: beam search for the most probable text, keeping so many texts at every step; with a
            temperature, their continuations are drawn.
        length_penalty : float, default 1
            Of beam search: texts are compared by their log-probability divided by their number of new tokens
            to this power. Above 0 favours longer texts, 0 is the joint probability itself.
        early_stopping : bool or "never", default False
            Of beam search: True ends it once ``num_beams`` texts have ended; False when the best live text
            would not beat the worst of these if it ended now; "never" when it could not at any length.
        overflow : {"error", "truncate_left", "slide"}
            What to do when prompt and ``max_new_tokens`` together pass the model's positions: raise an error;
            leave out the beginning of the prompt; or go on without end, the model seeing the latest part of
            the text, which is computed anew every ``hop`` tokens.
        hop : int, optional
            With "slide": how many tokens at the beginning the model forgets whenever its positions are full,
            1 to their number; default: half of them. A small hop remembers more and takes longer.
        trace : bool, default False
            Record what was weighed at every step, as ``Generation.trace``: for reading, it takes time.
        edits : iterable of (str, function), default ()
            Interventions in every pass, as for :meth:`run_with_cache`: an edit sees the prompt first, then
            one position after the other.
        names_filter : str, iterable of str, function, or None, default ()
            What to keep of every pass, as for :meth:`run_with_cache`, in ``Generation.cache``.
        batch_size : int, optional
            How many texts advance together, at most: more is faster and takes more memory for caches. By
            default as many as fit into 1 GiB of caches, and no more than 64. Of beam search each text counts.

        Returns
        -------
        Generation, or list of Generation
            One for a single prompt; for a list of prompts, or ``num_return_sequences`` above 1, a flat list
            with the continuations of each prompt next to each other. (Beam search gives fewer where the
            options allow fewer texts.)

        Raises
        ------
        ContextLengthError
            A prompt and ``max_new_tokens`` together pass the model's context. Nothing has been computed then.
        ValueError, TypeError
            A prompt or an option is not what it should be.
        """
        checked = SamplingOptions(num_return_sequences=num_return_sequences, **options)
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        several, given = separate(prompts)
        results = generation.generate(self, self._encode_all(given), checked, batch_size)
        return results if several or num_return_sequences > 1 else results[0]

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Stream:
        """Continue one prompt, piece by piece: ``for piece in model.stream(...): print(piece, end="")``.

        Parameters
        ----------
        prompt : str or token ids
        **options
            As for :meth:`generate`, but one continuation only.

        Returns
        -------
        Stream
            An iterator of str; its ``result`` is the Generation, once it has ended.
        """
        several, given = separate(prompt)
        if several:
            raise TypeError(f"stream continues one prompt, but got a list of {len(given)}: use generate")
        checked = SamplingOptions(**options)
        if checked.num_return_sequences != 1:
            raise ValueError("stream gives one continuation: use generate for num_return_sequences above 1")
        if checked.num_beams != 1:
            raise ValueError("stream cannot tell the text of a beam search before its end: use generate")
        return Stream(self, self._encode_all(given)[0], checked)

    @overload
    def suggest(  # type: ignore[overload-overlap]
        self, prompt: Prompt, k: int = 5
    ) -> list[Suggestion]: ...
    @overload
    def suggest(self, prompt: Prompts, k: int = 5) -> list[list[Suggestion]]: ...
    def suggest(self, prompt: Prompt | Prompts, k: int = 5) -> list[Suggestion] | list[list[Suggestion]]:
        """The ``k`` most probable next tokens, the most probable first (of equal ones, the lowest id).

        Parameters
        ----------
        prompt : str, token ids, or a list of either
            A list of prompts gives a list of lists.
        k : int
            1 to the size of the vocabulary.
        """
        k = check_integer("k", k, 1, self.n_text_tokens, note=", the size of the vocabulary")
        several, given = separate(prompt)
        results = scoring.suggest(self, self._encode_all(given), k)
        return results if several else results[0]

    @overload
    def score(  # type: ignore[overload-overlap]
        self, texts: Prompt, **options: Unpack[scoring.Options]
    ) -> Score: ...
    @overload
    def score(self, texts: Sequence[Item], **options: Unpack[scoring.Options]) -> list[Score]: ...
    @overload
    def score(self, texts: Iterator[Item], **options: Unpack[scoring.Options]) -> Iterator[Score]: ...
    def score(
        self,
        texts: Prompt | Sequence[Item] | Iterator[Item],
        *,
        bos: bool = True,
        window: int | None = None,
        stride: int | None = None,
        min_context: int | None = None,
        top: int = 0,
        mask: np.ndarray | None = None,
        words: bool = False,
    ) -> Score | list[Score] | Iterator[Score]:
        """How probable texts are: each token's log-probability, rank and entropy; perplexity, bits per byte.

        Parameters
        ----------
        texts : str, token ids, a list of items, or an iterator of them
            An item is a text (a string or token ids) or a pair ``(context, continuation)`` of these: a tuple
            of two. Of a pair the continuation alone is scored, given the context, which may be empty; the
            two are tokenised apart. (A single pair must stand in a list: two texts are two texts.)
        bos : bool
            True (the default) lets the begin-of-text token stand before everything, as GPT-2 was trained to
            see it. False does not, and leaves a first token without context unscored: nothing stands before.
        window : int, optional
            How many tokens the model sees at once, at most; default: its number of positions.
        stride : int, optional
            1 to ``window``: texts longer than the window are scored in overlapping windows. The first scores
            all of its tokens, each other the next ``stride``, so that every token is scored once, and those
            beyond the first window with at least ``window - stride + 1`` tokens before them. A small stride
            judges more truly and takes longer: a window of work for ``stride`` tokens. Without a stride such
            texts are an error.
        min_context : int, optional
            1 to ``window``, another way to give the stride: how many tokens those beyond the first window
            have before them at least, ``stride = window - min_context + 1``.
        top : int
            How many of the most probable tokens to report in the place of each token: ``top_ids`` and
            ``top_logprobs``.
        mask : array of bool, [n_vocab], optional
            A subset of the vocabulary, of which ``masses`` is to tell the probability in the place of each
            token.
        words : bool
            Also find the probabilities of whole words: :meth:`Score.words`. It takes one more row for each
            text, for what can follow its last token; if the text fills the window, that is a window of work.

        Returns
        -------
        Score, list of Score, or iterator of Score
            For a text, a list (an empty one for an empty list), or an iterator. The iterator takes items as
            it needs them, some thousand tokens ahead, and keeps none: any number of texts can be scored in
            constant memory. An error in an item, or in taking the next one, is raised after the results of
            all items before it.

        Raises
        ------
        ContextLengthError
            A text is longer than the window, and there is no stride.
        ValueError
            A text without a token to score; a window, a stride or a mask that is not what is allowed.
        TokenizerError
            ``words``, and a tokenizer whose tokens do not tell where words begin.
        """
        options = scoring.ScoringOptions.checked(
            self,
            bos=bos,
            window=window,
            stride=stride,
            min_context=min_context,
            top=top,
            mask=mask,
            words=words,
        )
        if hasattr(texts, "__next__"):
            items = (self._passage(item, f"text {i}", options) for i, item in enumerate(texts))
            return scoring.score(self, items)
        if isinstance(texts, list | tuple) and not texts:
            return []
        several, given = separate(texts)
        if not several:
            return next(scoring.score(self, [self._passage(("", given[0]), "the text", options)]))
        items = [self._passage(item, f"text {i}", options) for i, item in enumerate(given)]
        return list(scoring.score(self, items))

    def run_with_cache(
        self,
        prompts: Prompt | Prompts,
        names_filter: NamesFilter = None,
        *,
        edits: Iterable[tuple[str, Edit]] = (),
        causal: bool = True,
        logits_to_keep: int = 0,
    ) -> tuple[np.ndarray, ActivationCache] | tuple[list[np.ndarray], list[ActivationCache]]:
        """Run the model and keep what it computes on the way. Looking changes no number.

        Parameters
        ----------
        prompts : str, token ids, or a list of either
        names_filter : str, iterable of str, function, or None
            What to keep, by the names of :mod:`gpt2c.hooks` (those of TransformerLens), with wildcards:
            ``"blocks.3.attn.hook_pattern"``, ``["*.hook_resid_pre", "blocks.[0-3].mlp.*"]``, or a function
            that is asked about each name. None keeps everything but ``attn.hook_result``, which is n_head
            times as large as the rest: it must be named.
        edits : iterable of (str, function)
            Interventions, in their order: a name, wildcards allowed, and an edit (:mod:`gpt2c.edits`). Values
            are kept as they are after the edits.
        causal : bool
            False takes the mask away: every position attends to all of the text, later tokens included, as
            in an auto-encoding model such as BERT. GPT-2 was not trained for it; it is a lesson.
        logits_to_keep : int
            How many last rows of logits are wanted; 0: all.

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
        """
        from .introspect import run_with_cache

        keep = check_integer("logits_to_keep", logits_to_keep, 0)
        several, given = separate(prompts)
        caches = run_with_cache(
            self, self._encode_all(given), names_filter, edits, causal=causal, logits_to_keep=keep
        )
        if several:
            return [cache.logits for cache in caches], caches
        return caches[0].logits, caches[0]

    def patch(
        self,
        clean: Prompt,
        corrupted: Prompt,
        over: tuple[Any, ...],
        metric: Metric,
        *,
        logits_to_keep: int = 1,
        progress: bool = False,
    ) -> np.ndarray:
        """Activation patching: run a corrupted text again and again, each time with one value of a clean one.

        Only later positions and later layers are computed, many patches in one call; the answers are those
        of whole runs with :func:`gpt2c.edits.replace`, bit for bit.

        Parameters
        ----------
        clean, corrupted : str or token ids
            Two texts with the same number of tokens.
        over : tuple
            ``(name, layers)``, ``(name, layers, positions)`` or ``(name, layers, positions, heads)``: a value
            by its short name ("resid_pre", "attn_out", "z", "mlp.post", ...; see :mod:`gpt2c.hooks`), and
            which layers, positions and heads are patched, one by one: lists or ranges. Positions and heads
            may be "all", which patches all of them at once and is the default.
        metric : function
            Called with the logits of a patched run, float32 [kept, n_vocab]; returns a number.
        logits_to_keep : int
            How many last rows of logits the metric sees; 0: all.
        progress : bool
            Show a bar on stderr if it takes longer than a second or two.

        Returns
        -------
        float64 array [layers], [layers, positions], [layers, heads] or [layers, positions, heads]
            What the metric said.
        """
        from .patching import patch

        keep = check_integer("logits_to_keep", logits_to_keep, 0)
        [clean_ids], [corrupted_ids] = self._encode_all([clean]), self._encode_all([corrupted])
        return patch(self, clean_ids, corrupted_ids, over, metric, logits_to_keep=keep, progress=progress)

    def token_bytes(self, token: int) -> bytes:
        """The text of a token as bytes; empty for a token without text, or without a tokenizer."""
        if self._tokenizer is None or token >= self.n_text_tokens:
            return b""
        return self._tokenizer.token_bytes(token)

    def token_text(self, token: int) -> str:
        """The text of a token, to be shown; bytes that are no UTF-8 by themselves are told as ``\\xe5``."""
        return self.token_bytes(token).decode("utf-8", "backslashreplace")

    def _encode_all(self, prompts: Sequence[Any]) -> list[np.ndarray]:
        """The token ids of prompts, int32 [at least 1] each, checked."""
        arrays = []
        for index, prompt in enumerate(prompts):
            name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
            if isinstance(prompt, str):
                prompt = self.tokenizer.encode(prompt) or [self.bos_token_id]
            arrays.append(token_ids(prompt, self.config.n_vocab, name))
        return arrays

    def _passage(self, item: Any, name: str, options: scoring.ScoringOptions) -> scoring.Passage:
        """What ``score`` has been given, tokenised and checked; errors call it ``name``."""
        context, text = split_pair(item)
        before, ids = self._ids(context, f"the context of {name}"), self._ids(text, name)
        if options.bos:
            before = np.concatenate([np.array([self.bos_token_id], np.int32), before])
        return scoring.Passage(name, before, text if isinstance(text, str) else None, ids, options)

    def _ids(self, text: Any, name: str) -> np.ndarray:
        """The token ids of a text, or of what should be token ids: int32 [any], checked."""
        if isinstance(text, str) and text:
            text = self.tokenizer.without_prefix(self.tokenizer.encode(text))
        empty = text.shape == (0,) if isinstance(text, np.ndarray) else text in ("", [], ())
        return np.empty(0, np.int32) if empty else token_ids(text, self.config.n_vocab, name)


def _checked_threads(threads: int | None) -> int:
    return default_threads() if threads is None else check_integer("threads", threads, 1, MOST_THREADS)


def _checked_cache_dtype(dtype: str) -> str:
    if dtype not in _engine.CACHE_DTYPES:
        allowed = " or ".join(map(repr, _engine.CACHE_DTYPES))
        raise ValueError(f"cache_dtype must be {allowed}; got {dtype!r}")
    return dtype
