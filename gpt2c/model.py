"""The public class: a GPT-2 with its tokenizer, ready to continue, suggest and score texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from .core.foreign_names import OF_GENERATION, OF_LOADING, OF_PROMPTS
from .core.keywords import explains_keywords
from .core.prefixes import NothingKept
from .core.prompts import Item, Prompt, Prompts
from .generation import loop, streaming
from .generation.options import GenerateKwargs, lists_options
from .pretrained import Pretrained
from .scoring import scoring

if TYPE_CHECKING:
    from .core._engine import Weights
    from .core.deadline import Deadline
    from .core.prefixes import Prefixes
    from .generation.results import Generation
    from .generation.watermark import WatermarkingConfig, WatermarkScore
    from .heads.results import Choice
    from .introspection.edits import Edit
    from .scoring.options import ScoreKwargs
    from .scoring.results import Score, Suggestion
    from .session.prefix_cache import PrefixCache
    from .session.results import Ranked, WordSuggestion
    from .session.scheduler import Scheduler
    from .session.session import Session
    from .views.explanation import Explanation

__all__ = ["GPT2"]


class GPT2(Pretrained):
    """A GPT-2 language model. Make one with :meth:`from_pretrained`.

    **Prompts and texts** are strings, or token ids as a list, tuple or one-dimensional array of integers.
    Where several are allowed, give a list or tuple of them: a list whose first item is an integer is one
    prompt of token ids, any other list holds several prompts. One prompt gives one result, a list of prompts
    a list, in order. The empty string generates unconditionally: the model then sees only the begin-of-text
    token. In strings, "<|endoftext|>" and other special tokens are ordinary text, unless a method is called
    with ``special=True``.

    A model may be used from several Python threads at once. Copies share its weights. A pickle, as for the
    workers of a process pool, records the arguments of :meth:`from_pretrained`, except an access token, and
    loads the model again.

    Attributes
    ----------
    config : Config
        The architecture.
    weights : _engine.Weights
        The packed weights: immutable and shareable. As a mapping they return every tensor as a float32
        array: ``model.weights["h.3.attn.c_attn.weight"]``, with the names of :mod:`gpt2c.reference`.
    name : str
        The source of the model.
    notes : list of str
        What was read from the checkpoint, and what was ignored.
    generation_config : dict
        The checkpoint's own defaults for generation. They are not applied, except for the bos and eos ids.
    chat_template : str or None
        The tokenizer's Jinja template that writes a dialogue as one text, for programs that render it.

    Examples
    --------
    >>> from gpt2c import GPT2
    >>> model = GPT2.from_pretrained()  # the bundled model
    >>> model.generate("Once upon a time", max_new_tokens=12).text
    ' there was a man who had a son. He was a'
    """

    model_type = "gpt2"

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
        prefix_cache: int | str | None = None,
        progress: bool = False,
    ) -> GPT2:
        """Load a model.

        Parameters
        ----------
        source : str or path, optional
            A directory in Hugging Face layout; a file of weights (safetensors, or a state dict from
            torch.save) with config.json and the tokenizer's files beside it; checkpoints of OpenAI's program,
            nanoGPT, minGPT and llm.c, and GGUF files (docs/models.md); a packed file (see :meth:`save`); or
            the name of a model on the Hugging Face hub such as "gpt2". A LoRA adapter loads the base that it
            names, with the adapter merged into it. None is the bundled small model.
        dtype : str, optional
            The number format of the weights of dense layers: "float32" (the default), "bfloat16", "int8" or
            "int4", each about half as large as the one before and slightly less exact; which is fastest
            depends on the CPU (docs/number-formats.md). A packed file has a fixed format.
        cache_dtype : str, optional
            The number format of keys and values: "float32"; or "float16" or "bfloat16" in half the memory,
            which is faster for long texts. By default bfloat16 models use bfloat16, int8 and int4 ones
            float16.
        backend : str
            "native" is gpt2c's own arithmetic, with results that are equal bit for bit for any number of
            threads and any batch. "blas" multiplies matrices with NumPy's BLAS, without that guarantee.
        threads : int, optional
            1 to 1024; the default is OMP_NUM_THREADS, else the physical cores this process may use.
        tokenizer : str, path or object, optional
            Used instead of the checkpoint's own: a directory with tokenizer files, one such file
            (tokenizer.json, vocab.txt, spiece.model) or a GGUF file, the name of a model on the hub, from
            which only the tokenizer is fetched, or any object with ``encode(text)`` and ``decode(ids)``.
        adapter : str, path, list or mapping, optional
            LoRA adapters to merge into the weights: the directory of one as PEFT saves it, or its name
            on the hub; a list of these, or of pairs (adapter, weight); or a mapping adapter -> weight. A
            weight is a factor on the adapter's changes, by default 1.
        revision, subfolder, cache_dir, token, local_files_only
            For models on the hub, as in huggingface_hub: a branch, tag or commit; a folder inside the
            repository; the directory of downloads; an access token; never download. ``subfolder`` works for
            directories, too.
        map : bool, optional
            Map a packed file and use it in place; if False, read it into memory, so that nothing that happens
            to the file can disturb the model. By default files on network file systems are read, and all
            others mapped. Other kinds of files are always read.
        strict : bool
            Refuse a checkpoint with tensors that GPT-2 does not have, or with an index that names a tensor
            its shards lack. If False, :attr:`notes` list them instead. The tensors that GPT-2 needs must
            always exist, with the right shape and without NaN.
        prefix_cache : int or str, optional
            The maximum size, such as "256MB", of keys and values to keep for the starts of texts; by default
            none. ``generate``, ``stream``, ``suggest`` and ``score`` then compute a start that texts share,
            such as instructions before each prompt, once: in blocks of 128 tokens. Results never change;
            :attr:`prefix_cache` shows how much was reused.
        progress : bool
            Show a bar on stderr if loading takes longer than a second or two.

        Raises
        ------
        CheckpointError, ConfigError
            The files are missing, damaged or ask for something that gpt2c does not support.
        ValueError
            An option is not one of the values above.

        Notes
        -----
        Missing or unsupported tokenizer files are an error only once text is needed: token ids
        always work.

        Examples
        --------
        >>> GPT2.from_pretrained(dtype="int8").dtype
        'int8'
        """
        from .checkpoint.loading import load

        _prefixes(prefix_cache)  # refuse bad values before the long work
        model = load(
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
            map=map,
            strict=strict,
            progress=progress,
        )
        model.prefix_cache = prefix_cache
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        load, (cls, how) = super().__reduce__()
        kept = self.prefix_cache
        return load, (cls, {**how, "prefix_cache": None if kept is None else kept.size})

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """The cache of the starts of texts, see :meth:`from_pretrained`; may be set, also to None."""
        from .session.prefix_cache import PrefixCache

        return self.prefixes if isinstance(self.prefixes, PrefixCache) else None

    @prefix_cache.setter
    def prefix_cache(self, size: int | str | PrefixCache | None) -> None:
        self.prefixes = _prefixes(size, self.weights)

    def given(self, states: Any, tokens: Sequence[str] | None = None) -> GPT2:
        """A model with cross-attention, together with the output of an encoder.

        The keys and values of that output are computed here, once; all methods of the result then use them:
        ``model.given(states).generate("A picture of")``, or ``score``, ``stream``, ``forward``,
        ``run_with_cache``. The weights are shared. Such a model needs an encoder's output for any call.

        Parameters
        ----------
        states : array, [positions, n_embd]
            Any positive number of positions.
        tokens : list of str, optional
            Labels of the positions in plots of cross-attention; by default they are numbered.

        Returns
        -------
        GPT2
            It has no prefix cache, its sessions cannot be saved, and it cannot be pickled.

        Raises
        ------
        ConfigError
            The model has no cross-attention.
        ValueError, TypeError
            The states are not such an array, or hold NaN or infinity.

        Examples
        --------
        >>> states = dates.encode("the third of May, 1984")
        >>> dates.decoder.given(states).generate("", max_new_tokens=12).text
        '1984-05-03'
        """
        from .core.crossing import given

        return given(self, states, tokens)

    # To a type checker a string is also a sequence of strings; the first matching overload applies.
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        *,
        num_return_sequences: Literal[1] = 1,
        batch_size: int | None = None,
        session: Session | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> Generation: ...
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: Prompt,
        *,
        num_return_sequences: int,
        batch_size: int | None = None,
        session: Session | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> Generation | list[Generation]: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        session: Session | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> list[Generation]: ...
    @explains_keywords(OF_GENERATION)
    @lists_options
    def generate(
        self,
        prompts: Prompt | Prompts,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        session: Session | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> Generation | list[Generation]:
        """Continue one prompt or several.

        The text does not depend on its company: neither the other prompts of a list, nor ``batch_size``,
        ``threads`` or the number of continuations change it. So the same prompt twice in one list gives the
        same text twice; for different continuations use ``num_return_sequences``.

        Parameters
        ----------
        prompts : str, token ids, or a list of either
            See :class:`GPT2`.
        max_new_tokens : int, default 50
            The maximum number of new tokens, at least 1.
        min_new_tokens : int, default 0
            End-of-text tokens are forbidden before this many new tokens. Stop strings are not affected.
        eos_token_id : int or iterable of int, optional
            The tokens that end a text, instead of those in the model's configuration; ``[]``: none.
        temperature : float, default 0
            0 is greedy: always the most probable token, the lowest id if several are equal. Above 0, the
            logits are divided by it before sampling: below 1 is more conservative, above 1 more random.
        penalty_alpha : float, default 0
            Above 0, to 1: contrastive search (Su et al. 2022). Among the ``top_k`` most probable tokens (2 to
            1,024; 4 is usual) it chooses the one that maximizes ``(1 - penalty_alpha) * probability -
            penalty_alpha * similarity``, where similarity is the greatest cosine between its hidden state and
            those of the text so far. The last token needs a position, too.
        guidance_scale, negative_prompt : float and str or token ids, default 1 and None
            Classifier-free guidance (Sanchez et al. 2023): with the log-probabilities c after the prompt and
            u after the negative prompt, each followed by the same new tokens, ``u + guidance_scale * (c -
            u)`` replaces the logits. 1 is none, above 1 emphasizes the prompt. Without a negative
            prompt, u follows only the last token of the prompt.
        top_k : int, default 0
            Sample only among the k most probable tokens; 0: no limit.
        top_p : float, default 1
            Sample among the fewest most probable tokens whose probabilities add up to at least ``top_p``,
            0 < top_p <= 1; 1: no limit.
        min_p : float, default 0
            Remove tokens whose probability is below ``min_p`` times that of the most probable one, 0 to 1;
            0: no limit.
        typical_p : float, default 1
            Sample among the tokens whose surprisal is closest to its expectation, as few as reach a
            probability of ``typical_p`` (Meister et al. 2022); 1: no limit.
        top_n_sigma : float, default 0
            Remove tokens whose logit is more than ``top_n_sigma`` standard deviations of all logits below
            the greatest one (Tang et al. 2024); 0: no limit.
        xtc_probability, xtc_threshold : float, default 0 and 0.1
            With this probability, independently for each token: remove the most probable tokens, all that
            reach the threshold except the least probable of them ("exclude top choices").
        mirostat : {0, 2}, default 0
            2 keeps the surprisal of tokens near ``mirostat_tau`` by adapting how many improbable ones it
            removes (Basu et al. 2021, version 2). It follows all other filters, is meant to be used alone,
            and does not work with beam search. Like the four options before it, it needs a temperature above
            0.
        mirostat_tau, mirostat_eta : float, default 5 and 0.1
            The target surprisal of mirostat, in bits, and how fast it adapts.
        repetition_penalty : float, default 1
            Tokens that already occur in the text, including the prompt, have their logit divided by this if
            it is positive and multiplied if it is negative (as in transformers, Keskar et al. 2019); 1 has no
            effect.
        presence_penalty, frequency_penalty : float, default 0
            Subtracted from the logits of tokens that were already generated: once, and once per occurrence
            (as in OpenAI's API). The prompt does not count.
        dry_multiplier, dry_base : float, default 0 and 1.75
            "Don't repeat yourself": if the last n tokens, ``dry_allowed_length`` or more, occur earlier in
            the text, the logit of the token that followed them is lowered by ``dry_multiplier * dry_base **
            (n - dry_allowed_length)``. A multiplier of 0 turns it off.
        dry_allowed_length, dry_penalty_last_n : int, default 2 and -1
            The length from which a repetition counts, and the number of last tokens of the text, including
            the prompt, to search; -1: all.
        dry_sequence_breakers : str or iterable of str
            Repetitions do not extend over any of these. Default: a line break, a colon, a quotation mark and
            an asterisk.
        no_repeat_ngram_size : int, default 0
            No sequence of n tokens occurs twice in the text, including the prompt; 0 allows all.
        bad_words : iterable of str or of token ids, default ()
            Words that must not be generated. A string means its tokens, alone and after a space. Of several
            tokens the last is forbidden after the others.
        exponential_decay_length_penalty : (int, float), optional
            After this many new tokens, the end becomes more probable with each: its logit l grows by |l|
            times (factor ** tokens since then - 1).
        suppress_tokens : iterable of int, default ()
            Token ids that are never chosen.
        logit_bias : mapping of int to float, optional
            Added to the logits of these token ids; ``-inf`` forbids a token, -100 nearly does.
        sequence_bias : mapping of tuple of int to float, optional
            Added to the logit of the last token of each tuple when the text ends with the others.
        logits_processor : function or iterable of functions, default ()
            Each is called at every step as ``processor(token_ids, logits)`` with the text so far, int32, and
            the logits after the options above, float32 [n_vocab]; it returns the logits to use, and
            may modify its argument. To forbid a token, make its logit -inf. In beam search it gets
            log-probabilities.
        token_bitmask : function, optional
            Called at every step with the new token ids, int32; returns the allowed next tokens as int32
            [at least n_vocab / 32], bit i % 32 of word i // 32 for token i, or None for all of them.
            Libraries for grammars (llguidance, xgrammar) fill such masks.
        watermarking_config : WatermarkingConfig or mapping, optional
            Mark the text, so that :meth:`detect_watermark` can recognize it as generated: after all filters,
            a secret part of the vocabulary, a different one at every token, gets a bias. ``{}`` has the
            defaults.
        stop : str or iterable of str, default ()
            The text ends before the first of these strings, which may span tokens.
        special : bool, default False
            Whether special tokens such as ``<|endoftext|>`` or ``[SEP]`` are recognized in prompts, as
            dialogue models need. By default they are ordinary text, so that texts cannot inject them.
        skip_special_tokens : bool, default False
            Whether special tokens that the model generates are left out of the text. (The end token always
            is.)
        seed : int, optional
            0 to 2**64 - 1. None picks a random seed, which the result reports. The same seed reproduces the
            text.
        draft : "prompt" or GPT2, optional
            Guesses the next tokens, several of which one pass then verifies: the tokens that followed an
            earlier occurrence of the last ones ("prompt", for repetitive texts: quotes, code, lists), or the
            choices of a smaller model with the same vocabulary. Only the time changes: every token is chosen
            as without guesses. The number of guesses adapts to what pays off.
        heal : bool, default False
            Continue inside the last word of the prompt: "The king and the qu" becomes "een", which the tokens
            of "qu" prevent. The tokens before that word stay; it is respelled in all possible ways, each with
            its probability, until less than a thousandth remains unsearched. ``prompt_token_ids`` are the
            tokens before it, ``token_ids`` spell it and continue, and ``text`` starts after the prompt.
            Tokens that end inside the word do not count for ``max_new_tokens``.
        suffix : str, optional
            Fill-in-the-middle: the text after the gap to fill; the prompt is the text before it ("" is a gap
            at the end). For models such as StarCoder and SantaCoder, whose tokenizer has ``<fim_prefix>``,
            ``<fim_suffix>`` and ``<fim_middle>`` (or ``<fim-prefix>``, …). The text ends with the end token,
            and ``prompt_token_ids`` hold both texts with these marks.
        deadline : float or Deadline, optional
            After this many seconds every text ends, with the finish_reason "deadline". A Deadline can also be
            cancelled from another thread ("cancelled"). A running pass is abandoned within milliseconds.
        num_return_sequences : int
            Continuations per prompt, 1 to 65,536. They differ when sampling, and in beam search, which
            returns its best ones.
        num_beams : int, default 1
            Above 1, to 1,024: beam search for the most probable text, keeping that many texts at every step;
            with a temperature, their continuations are sampled.
        num_beam_groups, diversity_penalty : int and float, default 1 and 0
            In beam search: beams in this many groups of equal size, each of which searches separately
            (Vijayakumar et al. 2016). At every step a token costs ``diversity_penalty`` for each time that
            earlier groups just chose it. Scores of texts include this.
        length_penalty : float, default 1
            In beam search: texts are compared by their log-probability divided by their number of new tokens
            to this power. Above 0 favours longer texts, 0 is the joint probability itself.
        early_stopping : bool or "never", default False
            In beam search: True stops once ``num_beams`` texts have ended; False when the best live text
            would not beat the worst of these if it ended now; "never" when it could not at any length.
        overflow : {"error", "truncate_left", "slide"}
            What to do when the prompt and new tokens, except the last of ``max_new_tokens``, exceed the
            model's positions: raise an error; drop the start of the prompt, except for the tokenizer's
            prefix; or continue indefinitely, with the model seeing the latest part of the text, which is
            recomputed every ``hop`` tokens.
        hop : int, optional
            With "slide": the number of tokens at the start that the model drops whenever its positions are
            full, 1 to their number; default: half of them. A small hop keeps more context and takes longer.
        top_logprobs : int, default 0
            Return this many of the most probable tokens at each position, to 1,024, and their
            log-probabilities by the raw logits, as ``Generation.top_logprobs``.
        trace : bool, default False
            Record the candidates of every step, as ``Generation.trace``: for inspection; it takes time.
        edits : iterable of (str, function), default ()
            Interventions in every pass, as for :meth:`run_with_cache`: an edit sees the prompt first, then
            one position after the other.
        names_filter : str, iterable of str, function, or None, default ()
            The activations to capture in every pass, as for :meth:`run_with_cache`, in ``Generation.cache``.
        session : Session, optional
            A session from :meth:`session`, whose text becomes the single prompt: only tokens after its first
            change are computed.
        batch_size : int, optional
            The maximum number of texts that run together: more is faster and needs more memory for caches. By
            default as many as fit into 1 GiB of caches, and at most 64. In beam search each text counts.

        Returns
        -------
        Generation, or list of Generation
            One for a single prompt; for a list of prompts, or ``num_return_sequences`` above 1, a flat list
            with the continuations of each prompt adjacent. (Beam search returns fewer if the options allow
            fewer texts.)

        Raises
        ------
        ContextLengthError
            A prompt and its new tokens, except the last, exceed the model's positions. Nothing has been
            computed then.
        ValueError, TypeError
            A prompt or an option is invalid.

        Examples
        --------
        >>> model.generate("Once upon a time", max_new_tokens=12).text
        ' there was a man who had a son. He was a'
        >>> found = model.generate("A king", num_return_sequences=2, max_new_tokens=5, temperature=1, seed=1)
        >>> [one.text for one in found]
        [' laughs like the stead', ' those praised her too']
        """
        if session is not None:
            return session.following(self, prompts).generate(
                num_return_sequences=num_return_sequences, batch_size=batch_size, **options
            )
        return loop.generate(
            self, prompts, num_return_sequences=num_return_sequences, batch_size=batch_size, **options
        )

    @explains_keywords(OF_GENERATION, options=("num_return_sequences",))  # 1, or its own error
    @lists_options
    def stream(
        self, prompt: Prompt, *, session: Session | None = None, **options: Unpack[GenerateKwargs]
    ) -> streaming.Stream:
        """Continue one prompt, piece by piece: ``for piece in model.stream(...): print(piece, end="")``.

        Parameters
        ----------
        prompt : str or token ids
        session : Session, optional
            As for :meth:`generate`.
        **options
            As for :meth:`generate`, but only one continuation.

        Returns
        -------
        Stream
            An iterator of str; its ``result`` is the Generation once it has ended.

        Raises
        ------
        ContextLengthError, ValueError, TypeError
            As from :meth:`generate`; several prompts, continuations or beams.

        Examples
        --------
        >>> for piece in model.stream("Once upon a time", max_new_tokens=8):
        ...     print(piece, end="|")
         there| was| a| man| who| had| a| son|
        """
        if session is not None:
            return session.following(self, prompt).stream(**options)
        return streaming.stream(self, prompt, **options)

    def detect_watermark(
        self,
        text: Prompt,
        watermarking_config: WatermarkingConfig | Mapping[str, Any] | None = None,
        *,
        ignore_repeated_ngrams: bool = False,
    ) -> WatermarkScore:
        """Test whether a text was generated with ``watermarking_config=``.

        Parameters
        ----------
        text : str or token ids
            Without the prompt, which is not marked.
        watermarking_config : WatermarkingConfig or mapping, optional
            The configuration to test for; default: its defaults.
        ignore_repeated_ngrams : bool, default False
            Whether a token counts only once after the same tokens: repetitions are not evidence.

        Returns
        -------
        WatermarkScore
            A ``z_score`` above 4 is very unlikely by chance.

        Raises
        ------
        ValueError, TypeError
            The text is too short, or the configuration is invalid.

        Examples
        --------
        >>> out = model.generate("Once", max_new_tokens=80, temperature=1, seed=1, watermarking_config={})
        >>> model.detect_watermark(out.text).z_score > 4
        True
        """
        from .generation.watermark import detect

        return detect(self, text, watermarking_config, ignore_repeated_ngrams=ignore_repeated_ngrams)

    def session(self, text: Prompt = "", *, special: bool = False) -> Session:
        """A text that changes as it is written, with its computed keys and values.

        Parameters
        ----------
        text : str or token ids
            Its start; ``session.text`` may be set, also with ``session.text += "..."``.
        special : bool, default False
            Whether special tokens are recognized in it, as for :meth:`generate`.

        Returns
        -------
        Session
            With the methods of the model for its text: results are the same, byte for byte, and only tokens
            after the first change are computed.

        Raises
        ------
        ValueError, TypeError
            The text is neither a string nor token ids that the model has. (Its length matters only for the
            methods.)

        Examples
        --------
        >>> session = model.session("The king and the")
        >>> session.text += " qu"
        >>> [found.word for found in session.suggest_words(2)]
        ['queen', "queen's"]
        """
        from .session.session import Session

        return Session(self, text, special=special)

    def scheduler(
        self,
        *,
        max_texts: int = 64,
        max_tokens: int | None = None,
        max_waiting: int = 64,
        slice_tokens: int = 64,
    ) -> Scheduler:
        """A scheduler that continues the texts of many requests at once, for threads and asyncio.

        Parameters
        ----------
        max_texts : int, default 64
            The maximum number of running texts; each beam of a search counts. The others wait.
        max_tokens : int, optional
            The maximum number of tokens that the caches of running texts have room for: prompts, and
            ``max_new_tokens`` of each. By default as many as take 1 GiB, but at least the model's positions.
        max_waiting : int, default 64
            The maximum number of waiting requests; beyond it only one per client: others raise
            QueueFullError.
        slice_tokens : int, default 64
            The number of prompt tokens that a pass computes beside the next tokens of running texts.

        Returns
        -------
        Scheduler
            ``await scheduler.generate(...)``, ``async for piece in scheduler.stream(...)``,
            ``scheduler.submit(...)`` from threads; ``close()`` or a ``with`` block ends it.

        Raises
        ------
        ValueError
            A number is out of range.
        ConfigError
            The model does not continue texts, or needs the output of an encoder.

        Examples
        --------
        >>> with model.scheduler() as scheduler:
        ...     request = scheduler.submit(["Once upon a time", "A king"], max_new_tokens=4)
        ...     [found.text for found in request.future.result()]
        [' there was a man', "'s son was a"]
        """
        from .session.scheduler import Scheduler

        return Scheduler(
            self,
            max_texts=max_texts,
            max_tokens=max_tokens,
            max_waiting=max_waiting,
            slice_tokens=slice_tokens,
        )

    def open_session(self, path: str | os.PathLike[str]) -> Session:
        """Open a session written by :meth:`Session.save` with this model and this arithmetic.

        Parameters
        ----------
        path : str or path
            A file that :meth:`Session.save` wrote.

        Returns
        -------
        Session

        Raises
        ------
        CheckpointError
            It is damaged, or was made with other weights, another dtype or another version of gpt2c's
            arithmetic; with "bfloat16" also on another instruction set.

        Examples
        --------
        >>> model.session("The king and the").save("king.session")
        >>> model.open_session("king.session").text
        'The king and the'
        """
        from .session.session import Session

        return Session.open(self, path)

    @overload
    def suggest(  # type: ignore[overload-overlap]
        self,
        prompt: Prompt,
        k: int = 5,
        *,
        special: bool = False,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
        session: Session | None = None,
    ) -> list[Suggestion]: ...
    @overload
    def suggest(
        self,
        prompt: Prompts,
        k: int = 5,
        *,
        special: bool = False,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
        session: Session | None = None,
    ) -> list[list[Suggestion]]: ...
    @explains_keywords(OF_PROMPTS)
    def suggest(
        self,
        prompt: Prompt | Prompts,
        k: int = 5,
        *,
        special: bool = False,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
        session: Session | None = None,
    ) -> list[Suggestion] | list[list[Suggestion]]:
        """The ``k`` most probable next tokens, the most probable first (equal ones by id).

        Parameters
        ----------
        prompt : str, token ids, or a list of either
            A list of prompts gives a list of lists.
        k : int
            1 to the size of the vocabulary.
        special : bool, default False
            Whether special tokens are recognized in prompts, as for :meth:`generate`.
        edits : iterable of (str, function), default ()
            Interventions, as for :meth:`run_with_cache`; refused if they make logits infinite or NaN.
        deadline : float or Deadline, optional
            As for :meth:`generate`; raises DeadlineError when it passes, since no result exists then.
        session : Session, optional
            As for :meth:`generate`.

        Returns
        -------
        list of Suggestion, or list of these
            With ``text``, ``probability`` (0 to 1), ``token_id`` and ``bytes``.

        Raises
        ------
        ContextLengthError
            A prompt is longer than the model's positions.
        ValueError, TypeError
            ``k`` is out of range, or a prompt is neither a string nor token ids that the model has.

        Examples
        --------
        >>> [(found.text, round(found.probability, 4)) for found in model.suggest("The king and the", k=2)]
        [(' king', 0.1866), (' queen', 0.0978)]
        """
        if session is not None:
            return session.following(self, prompt).suggest(k, edits=edits, deadline=deadline)
        return scoring.suggest(self, prompt, k, special=special, edits=edits, deadline=deadline)

    def suggest_words(
        self,
        prompt: Prompt,
        k: int = 5,
        *,
        special: bool = False,
        deadline: float | Deadline | None = None,
        session: Session | None = None,
    ) -> Ranked[WordSuggestion]:
        """The ``k`` most probable words that complete the last word of a text, or follow it.

        "The king and the qu" gives "queen", and a text that ends with a space gives possible next words. The
        probabilities of all spellings of a word in tokens are summed.

        Parameters
        ----------
        prompt : str or token ids
        k : int
            1 to the size of the vocabulary. There may be fewer words if these have nearly all of the
            probability.
        special : bool, default False
            Whether special tokens are recognized in the prompt, as for :meth:`generate`.
        deadline : float or Deadline, optional
            When it passes, the words found so far are returned, with ``.finished`` False.
        session : Session, optional
            As for :meth:`generate`.

        Returns
        -------
        list of WordSuggestion
            With ``remaining``, the probability left unsearched, and ``finished``.

        Raises
        ------
        ValueError, TypeError
            As from :meth:`suggest`. (Of a text longer than the model's positions, the latest part is used.)
        TokenizerError
            The model has no tokenizer, or one whose tokens do not show word boundaries.

        Examples
        --------
        >>> [found.word for found in model.suggest_words("The king and the qu", k=2)]
        ['queen', "queen's"]
        """
        if session is None:
            session = self.session(special=special)
        return session.following(self, prompt).suggest_words(k, deadline=deadline)

    @overload
    def score(  # type: ignore[overload-overlap]
        self, texts: Prompt, **options: Unpack[ScoreKwargs]
    ) -> Score: ...
    @overload
    def score(self, texts: Sequence[Item], **options: Unpack[ScoreKwargs]) -> list[Score]: ...
    @overload
    def score(self, texts: Iterator[Item], **options: Unpack[ScoreKwargs]) -> Iterator[Score]: ...
    @explains_keywords(OF_PROMPTS)
    def score(
        self,
        texts: Prompt | Sequence[Item] | Iterator[Item],
        *,
        bos: bool | int = True,
        repeat_bos: bool = False,
        special: bool = False,
        window: int | None = None,
        stride: int | None = None,
        min_context: int | None = None,
        top: int = 0,
        mask: np.ndarray | None = None,
        words: bool = False,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
    ) -> Score | list[Score] | Iterator[Score]:
        """Score texts: each token's log-probability, rank and entropy; perplexity, bits per byte.

        Parameters
        ----------
        texts : str, token ids, a list of items, a column of a table, or an iterator of items
            An item is a text (a string or token ids) or a pair ``(context, continuation)`` of these: a tuple
            of two. Only the continuation of a pair is scored, given the context, which may be empty; the two
            are tokenized separately, the continuation without the space that the tokenizer puts before whole
            texts. (A tuple of two texts by itself is refused: ``[(a, b)]`` is a pair, ``[a, b]`` are two
            texts.) A column is from pandas, polars, Arrow or datasets, or an array of str.
        bos : bool or int
            True (the default) puts the start tokens before everything: the tokenizer's prefix, else the
            begin-of-text token, as GPT-2 was trained. A token id is used instead. False leaves a first token
            without context unscored, as nothing precedes it.
        repeat_bos : bool, default False
            Whether the start tokens are put before every window of a long text, or only the first. Windows
            then hold that many fewer tokens of the text, and the statements below remain true if start tokens
            are counted as tokens before a token.
        special : bool, default False
            Whether special tokens such as ``<|endoftext|>`` are recognized in strings, or ordinary text.
        window : int, optional
            The maximum number of tokens that the model sees at once; default: its number of positions.
        stride : int, optional
            1 to ``window``: texts longer than the window are scored in overlapping windows. The first scores
            all of its tokens, each other the next ``stride``, so that every token is scored once, and those
            beyond the first window with at least ``window - stride + 1`` tokens before them. A small stride
            gives more context and takes longer: the work of a window for ``stride`` tokens. Without a stride
            such texts are an error.
        min_context : int, optional
            1 to ``window``, another way to set the stride: the minimum number of tokens before those beyond
            the first window, ``stride = window - min_context + 1``.
        top : int
            The number of most probable tokens to report at each position, at most 4,096:
            ``top_ids`` and ``top_logprobs``.
        mask : array of bool, [n_vocab], optional
            A subset of the vocabulary; ``masses`` has its probability at each position.
        words : bool
            Also compute the probabilities of whole words: :meth:`Score.words`. This takes one more row per
            text, for the end of its last word; if the text fills the window, another window of work.
        edits : iterable of (str, function), default ()
            Interventions, as for :meth:`run_with_cache`. Every window is computed separately, with the tokens
            before the text, and edits see it as a whole: positions count from its start. Its last token is
            the text's, or the one before it for lack of room.
        deadline : float or Deadline, optional
            As for :meth:`generate`; raises DeadlineError when it passes. An iterator has yielded the earlier
            results by then.

        Returns
        -------
        Score, list of Score, or iterator of Score
            For a text, a list (an empty one for an empty list), or an iterator. The iterator consumes items
            as needed, a few thousand tokens ahead, and keeps none: any number of texts can be scored in
            constant memory. An error in an item, or in taking the next one, is raised after the results of
            all items before it.

        Raises
        ------
        ContextLengthError
            A text is longer than the window, without a stride.
        ValueError
            A text without a token to score; an invalid window, stride or mask; edits
            that make logits infinite or NaN.
        TokenizerError
            ``words`` with a tokenizer whose tokens do not show word boundaries.

        Examples
        --------
        >>> score = model.score("The king had three daughters.")
        >>> round(score.perplexity, 2), score.ranks.tolist()
        (230.02, [2207, 10, 1, 434, 7, 0])
        >>> good, bad = model.score([("The king and the", " queen"), ("The king and the", " wolf")])
        >>> good.logprob > bad.logprob
        True
        """
        return scoring.score(
            self,
            texts,
            bos=bos,
            repeat_bos=repeat_bos,
            special=special,
            window=window,
            stride=stride,
            min_context=min_context,
            top=top,
            mask=mask,
            words=words,
            edits=edits,
            deadline=deadline,
        )

    @explains_keywords(OF_PROMPTS)
    def choose(
        self, texts: Prompts, *, special: bool = False, deadline: float | Deadline | None = None
    ) -> Choice:
        """Choose the text that fits best, with the choice head of a GPT2DoubleHeadsModel.

        Parameters
        ----------
        texts : list of str or token ids
            Complete texts, each with its choice at the end: the last token of each is classified. A string
            gets the tokens that the tokenizer puts around a text.
        special : bool, default False
            Whether special tokens are recognized in strings, as for :meth:`generate`.
        deadline : float or Deadline, optional
            As for :meth:`classify`.

        Returns
        -------
        Choice
            ``index``, ``probabilities``, ``logits``.

        Raises
        ------
        ConfigError
            The model has no such head.
        ContextLengthError, ValueError
            A text is too long, or has no tokens.

        Examples
        --------
        >>> chooser.choose(["The king had three daughters.", "The king had three moons."]).index
        0
        """
        from .heads.heads import choose

        return choose(self, texts, special=special, deadline=deadline)

    @explains_keywords(OF_PROMPTS)
    def embed(
        self,
        texts: Prompt | Prompts,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_tokens: int | None = None,
        special: bool = False,
        deadline: float | Deadline | None = None,
    ) -> np.ndarray:
        """Texts as vectors, from the last hidden states, after the last LayerNorm. Works for every model.

        Parameters
        ----------
        texts, max_tokens, special, deadline
            As for :meth:`classify`.
        pooling : str, optional
            "mean", over all tokens, including those that the tokenizer puts around a text; "last", of the
            last token, the only one that has seen all others; or one of those of :meth:`gpt2c.BERT.embed`. By
            default that of the model's sentence-transformers files, else "mean".
        normalize : bool, optional
            Whether to scale vectors to length 1. By default as such files say, else not.

        Returns
        -------
        np.ndarray, float32 [n_embd], or [texts, n_embd] of a list

        Raises
        ------
        ContextLengthError, ValueError
            A text is too long, or has no tokens; the pooling is unknown.

        Examples
        --------
        >>> model.embed(["a king", "a queen"]).shape
        (2, 256)
        """
        from .heads.embedding import embed

        how: dict[str, Any] = {"max_tokens": max_tokens, "special": special, "deadline": deadline}
        return embed(self, texts, pooling=pooling, normalize=normalize, **how)

    @explains_keywords(OF_PROMPTS)
    def explain(
        self,
        text: Prompt,
        *,
        layer: int | None = None,
        head: int | None = None,
        layers: Sequence[int] | None = None,
        max_new_tokens: int = 8,
        num_beams: int = 3,
        temperature: float = 0.8,
        seed: int = 0,
        special: bool = False,
        edits: Iterable[tuple[str, Edit]] = (),
        lang: str = "en",
    ) -> Explanation:
        """Show how the model reads a text and continues it, as ``gpt2c explain`` does.

        Parameters
        ----------
        text : str or token ids
        layer, head : int, optional
            The attention head to begin with; negative ones count from the end. Default: the one with the most
            telling pattern: its tokens give most weight to one other token, but for themselves, their
            neighbours and the first token, where heads look in any text.
        layers : sequence of int, optional
            Of which layers the page of a long text tells the attention to every token. Default: all for which
            there is room.
        max_new_tokens : int
            The maximum number of new tokens, fewer if the model has no more positions.
        num_beams : int
            The width of the search for the most probable continuation; 1 turns it off.
        temperature, seed
            For the page's sampled continuation (top k 40, top p 0.95).
        special : bool
            Whether special tokens are recognized in the text, as for :meth:`generate`.
        edits : iterable of (str, function)
            Interventions in every pass, as for :meth:`run_with_cache`: everything shown is of the edited
            model, and the edits are listed. (The logit lens reads the edited residual stream through the
            model's original last LayerNorm.)
        lang : str
            The language of the page, such as "zh" for Chinese; an error names all.

        Returns
        -------
        gpt2c.views.explanation.Explanation
            A notebook shows its page, ``print`` its text; ``.save("page.html")`` writes the page, ``.html``
            is the page, ``.to_dict()`` has the arrays for JSON.

        Raises
        ------
        ContextLengthError
            The text is longer than the model's positions.
        ValueError
            The model has no such layer or head, the page no such language.

        Examples
        --------
        >>> model.explain("The king and the").save("page.html")
        """
        from .views.explanation import Explanation

        return Explanation(
            self,
            text,
            layer=layer,
            head=head,
            layers=layers,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            temperature=temperature,
            seed=seed,
            special=special,
            edits=edits,
            lang=lang,
        )


def _prefixes(size: int | str | PrefixCache | None, weights: Weights | None = None) -> Prefixes:
    """The prefix cache for the option ``prefix_cache``, for a model with these ``weights``."""
    if size is None:
        return NothingKept()
    from .session.prefix_cache import PrefixCache

    kept = size if isinstance(size, PrefixCache) else PrefixCache(size)
    if weights is not None:
        kept.belong_to(weights)
    return kept
