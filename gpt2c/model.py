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
    prompt made of token ids, any other list holds several prompts. One prompt gives one result, a list of
    prompts a list, in order. The empty string stands for the beginning of a text: the model then sees the
    begin-of-text token alone. In strings, "<|endoftext|>" and its like are ordinary text, unless a method
    is called with ``special=True``.

    A model may be used from several Python threads at once. Copies share its weights. A pickle, as for the
    workers of a process pool, holds where the model comes from: the arguments of :meth:`from_pretrained`,
    but for an access token, load it again.

    Attributes
    ----------
    config : Config
        The architecture.
    weights : _engine.Weights
        The packed weights: immutable, they may be shared. As a mapping they give every tensor as a float32
        array: ``model.weights["h.3.attn.c_attn.weight"]``, with the names of :mod:`gpt2c.reference`.
    name : str
        Where the model comes from.
    notes : list of str
        What was read from the checkpoint, and what was left aside.
    generation_config : dict
        The checkpoint's own defaults for generation. They are not applied, except for the bos and eos ids.
    chat_template : str or None
        How the tokenizer writes a dialogue as one text: a template of Jinja, for programs that render it.
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
        strict: bool = True,
        prefix_cache: int | str | None = None,
        progress: bool = False,
    ) -> GPT2:
        """Load a model.

        Parameters
        ----------
        source : str or path, optional
            A directory in Hugging Face layout; a file of weights (safetensors, or a state dict that
            torch.save wrote) with config.json and the tokenizer's files beside it; what OpenAI's program,
            nanoGPT, minGPT or llm.c write, and GGUF files (docs/models.md); a packed file (see :meth:`save`);
            or the name of a model on the Hugging Face hub such as "gpt2". A LoRA adapter stands for the base
            that it names, with the adapter merged into it. None is the small model that comes with gpt2c.
        dtype : str, optional
            How the weights of dense layers are kept in memory and multiplied: "float32" (the default),
            "bfloat16", "int8" or "int4", each about half as large as the one before and a little further
            from the checkpoint's numbers; which is the fastest depends on the CPU (README: number formats).
            A packed file has its own, and no other can be made of it.
        cache_dtype : str, optional
            How keys and values are kept: "float32"; or "float16" or "bfloat16" in half the memory, which
            reads faster in long texts. By default bfloat16 models keep bfloat16, int8 and int4 ones float16.
        backend : str
            "native" is gpt2c's own arithmetic, with results that are equal bit by bit for any number of
            threads and any batch. "blas" multiplies matrices with NumPy's BLAS, without that promise.
        threads : int, optional
            1 to 1024; the default is OMP_NUM_THREADS, else the physical cores this process may use.
        tokenizer : str, path or object, optional
            Used instead of the checkpoint's own: a directory with tokenizer files, one such file
            (tokenizer.json, vocab.txt, spiece.model) or a GGUF file, the name of a model on the hub, of which
            only the tokenizer is fetched, or any object with ``encode(text)`` and ``decode(ids)``.
        adapter : str, path, list or mapping, optional
            LoRA adapters that are merged into the weights: the directory of one as PEFT saves it, or its name
            on the hub; a list of these, or of pairs (adapter, weight); or a mapping adapter -> weight. A
            weight is a factor on what the adapter adds, by default 1.
        revision, subfolder, cache_dir, token, local_files_only
            For models of the hub, as in huggingface_hub: a branch, tag or commit; a folder inside the
            repository; where downloads are kept; an access token; never download. ``subfolder`` works for
            directories too.
        strict : bool
            Refuse a checkpoint with tensors that GPT-2 does not have, or with an index that names a tensor
            that its shards lack. With False, :attr:`notes` tell of them instead. What GPT-2 needs must be
            there in any case, in its shape and without NaN.
        prefix_cache : int or str, optional
            How many bytes of keys and values may be kept of the beginnings of texts, such as "256MB"; by
            default none are. ``generate``, ``stream``, ``suggest`` and ``score`` then compute a beginning
            that texts share, such as instructions before each prompt, once: in blocks of 128 tokens. No
            result changes; :attr:`prefix_cache` tells how much was reused.
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
        from .checkpoint.loading import load

        _prefixes(prefix_cache)  # refused before the long work
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
        """What is kept of the beginnings of texts, see :meth:`from_pretrained`; may be set, also to None."""
        from .session.prefix_cache import PrefixCache

        return self.prefixes if isinstance(self.prefixes, PrefixCache) else None

    @prefix_cache.setter
    def prefix_cache(self, size: int | str | PrefixCache | None) -> None:
        self.prefixes = _prefixes(size, self.weights)

    def given(self, states: Any, tokens: Sequence[str] | None = None) -> GPT2:
        """A model with cross-attention together with what it attends to: the output of an encoder.

        The keys and values that its layers make of that are computed here, once; all of the methods then use
        them: ``model.given(states).generate("A picture of")``, or ``score``, ``stream``, ``forward``,
        ``run_with_cache``. The weights are shared. Without it, such a model is good for nothing.

        Parameters
        ----------
        states : array, [positions, n_embd]
            Any positive number of positions.
        tokens : list of str, optional
            What the positions are called in pictures of cross-attention; by default they are numbered.

        Returns
        -------
        GPT2
            It has no prefix cache, its sessions are not saved, and it is not pickled.

        Raises
        ------
        ConfigError
            The model has no cross-attention.
        ValueError, TypeError
            The states are not such an array, or hold NaN or infinity.
        """
        from .core.crossing import given

        return given(self, states, tokens)

    # To a type checker a string is also a sequence of strings; the first overload that fits counts.
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
        eos_token_id : int or iterable of int, optional
            The tokens that end a text, instead of those that the model's configuration names; ``[]``: none.
        temperature : float, default 0
            0 is greedy: always the most probable token, the lowest id where several are equal. Above 0, the
            logits are divided by it before the draw: below 1 is more careful, above 1 more daring.
        penalty_alpha : float, default 0
            Above 0, to 1: contrastive search (Su et al. 2022). Of the ``top_k`` most probable tokens (2 to
            1,024; 4 is usual) the one is taken for which ``(1 - penalty_alpha) * probability - penalty_alpha
            * similarity`` is greatest, where the similarity is the greatest cosine of its hidden state and
            those of the text so far. It needs a position for the last token, too.
        guidance_scale, negative_prompt : float and str or token ids, default 1 and None
            Classifier-free guidance (Sanchez et al. 2023): with the log-probabilities c after the prompt and
            u after the negative prompt, each followed by the same new tokens, ``u + guidance_scale * (c -
            u)`` takes the place of the logits. 1 is none, above 1 stresses the prompt. Without a negative
            prompt, u is after the last token of the prompt alone.
        top_k : int, default 0
            Draw among the k most probable tokens only; 0 is no limit.
        top_p : float, default 1
            Draw among the fewest most probable tokens whose probabilities add up to at least ``top_p``,
            0 < top_p <= 1; 1 is no limit.
        min_p : float, default 0
            Leave out tokens whose probability is below ``min_p`` times that of the most probable one, 0 to 1;
            0 is no limit.
        typical_p : float, default 1
            Draw among the tokens whose surprise is nearest to what the model expects, as few as add up to a
            probability of ``typical_p`` (Meister et al. 2022); 1 is no limit.
        top_n_sigma : float, default 0
            Leave out tokens whose logit is more than ``top_n_sigma`` standard deviations of all logits below
            the greatest one (Tang et al. 2024); 0 is no limit.
        xtc_probability, xtc_threshold : float, default 0 and 0.1
            With this probability, anew for each token: leave out the most probable tokens, all that reach the
            threshold but the least probable of them ("exclude top choices").
        mirostat : {0, 2}, default 0
            2 keeps the surprise of tokens near ``mirostat_tau``, by how many improbable ones it leaves out
            (Basu et al. 2021, version 2). It comes after all other filters, is meant to stand alone, and does
            not go with beam search. Like the four options before it, it needs a temperature above 0.
        mirostat_tau, mirostat_eta : float, default 5 and 0.1
            The surprise that mirostat aims at, in bits, and how fast it corrects itself.
        repetition_penalty : float, default 1
            Tokens that already stand in the text, the prompt included, have their logit divided by this if it
            is positive and multiplied if it is negative (as transformers does, Keskar et al. 2019); 1 changes
            nothing.
        presence_penalty, frequency_penalty : float, default 0
            Subtracted from the logits of tokens that were added already: once, and as often as they were (as
            OpenAI does). The prompt does not count.
        dry_multiplier, dry_base : float, default 0 and 1.75
            "Don't repeat yourself": where the last n tokens, ``dry_allowed_length`` or more, stand in the
            text before, the token that followed them there loses ``dry_multiplier * dry_base ** (n -
            dry_allowed_length)`` of its logit. With the multiplier 0, nothing does.
        dry_allowed_length, dry_penalty_last_n : int, default 2 and -1
            From which length a repetition counts, and how many of the last tokens of the text, the prompt
            included, are looked at; -1: all.
        dry_sequence_breakers : str or iterable of str
            Repetitions begin anew behind each of these. Default: a line break, a colon, a quotation mark and
            an asterisk.
        no_repeat_ngram_size : int, default 0
            No n tokens in a row stand twice in the text, the prompt included; 0 allows all.
        bad_words : iterable of str or of token ids, default ()
            What must not be added. A string stands for its tokens, alone and after a space. Of several tokens
            the last is forbidden where the others have come.
        exponential_decay_length_penalty : (int, float), optional
            After so many new tokens, the end becomes more probable with each: its logit l grows by |l| times
            (factor ** tokens since then - 1).
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
        watermarking_config : WatermarkingConfig or mapping, optional
            Mark the text, so that :meth:`detect_watermark` can tell that it was generated: after all filters,
            a secret part of the vocabulary, another one at every token, gets a bias. ``{}`` has the defaults.
        stop : str or iterable of str, default ()
            The text ends before the first of these strings, which may span tokens.
        special : bool, default False
            Whether special tokens such as ``<|endoftext|>`` or ``[SEP]`` are recognised in prompts, as
            dialogue models need. By default they are ordinary text, which cannot inject them.
        skip_special_tokens : bool, default False
            Whether special tokens that the model writes are left out of the text. (The end of the text always
            is.)
        seed : int, optional
            0 to 2**64 - 1. None draws a fresh seed, which the result reports.
        draft : "prompt" or GPT2, optional
            What guesses the next tokens, several of which one pass then confirms: what followed the last
            tokens in the text before ("prompt", for texts that repeat themselves: quotes, code, lists), or a
            smaller model with the same vocabulary. Nothing changes but the time it takes: every token is
            chosen as without guesses. As many are made as pay, or none.
        heal : bool, default False
            Go on inside the last word of the prompt: "The king and the qu" becomes "een", which the tokens of
            "qu" forbid. The tokens before that word stay; it is written again in all ways that spell it, each
            with its probability, until less than a thousandth is left unsearched. ``prompt_token_ids`` are
            the tokens before it, ``token_ids`` spell it and go on, and ``text`` begins behind the prompt.
            Tokens that end inside the word do not count for ``max_new_tokens``.
        suffix : str, optional
            What stands behind the gap that is to be filled, of which the prompt is what stands before it (""
            is a gap at the end): fill-in-the-middle, for models such as StarCoder and SantaCoder, whose
            tokenizer has ``<fim_prefix>``, ``<fim_suffix>`` and ``<fim_middle>`` (or ``<fim-prefix>``, …).
            The text ends with the end token, and ``prompt_token_ids`` hold both texts with these marks.
        deadline : float or Deadline, optional
            After so many seconds every text ends as it is, with the finish_reason "deadline". A Deadline
            can also be cancelled from another thread ("cancelled"). A pass that is under way is given up
            within milliseconds.
        num_return_sequences : int
            Continuations per prompt, 1 to 65,536. They differ where chance plays a part, and in beam search,
            which gives its best ones.
        num_beams : int, default 1
            Above 1, to 1,024: beam search for the most probable text, keeping that many texts at every step;
            with a temperature, their continuations are drawn.
        num_beam_groups, diversity_penalty : int and float, default 1 and 0
            Of beam search: beams in this many groups of equal size, each of which searches by itself
            (Vijayakumar et al. 2016). At every step a token costs ``diversity_penalty`` for each time that
            the groups before have just taken it. Scores of texts include that.
        length_penalty : float, default 1
            Of beam search: texts are compared by their log-probability divided by their number of new tokens
            to this power. Above 0 favours longer texts, 0 is the joint probability itself.
        early_stopping : bool or "never", default False
            Of beam search: True ends it once ``num_beams`` texts have ended; False when the best live text
            would not beat the worst of these if it ended now; "never" when it could not at any length.
        overflow : {"error", "truncate_left", "slide"}
            What to do when prompt and new tokens, but for the last of ``max_new_tokens``, pass the model's
            positions: raise an error; leave out the beginning of the prompt, but for what the tokenizer puts
            there; or go on without end, the model seeing the latest part of the text, which is computed anew
            every ``hop`` tokens.
        hop : int, optional
            With "slide": how many tokens at the beginning the model forgets whenever its positions are full,
            1 to their number; default: half of them. A small hop remembers more and takes longer.
        top_logprobs : int, default 0
            Keep this many of the most probable tokens in each place, to 1,024, and their log-probabilities by
            the raw logits, as ``Generation.top_logprobs``.
        trace : bool, default False
            Record what was weighed at every step, as ``Generation.trace``: for reading, it takes time.
        edits : iterable of (str, function), default ()
            Interventions in every pass, as for :meth:`run_with_cache`: an edit sees the prompt first, then
            one position after the other.
        names_filter : str, iterable of str, function, or None, default ()
            What to keep of every pass, as for :meth:`run_with_cache`, in ``Generation.cache``.
        session : Session, optional
            One of :meth:`session`, whose text becomes the prompt, of which there is one then: only what comes
            after the first change is computed.
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
            A prompt and its new tokens, but for the last, pass the model's positions. Nothing has been
            computed then.
        ValueError, TypeError
            A prompt or an option is not what it should be.
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
            As for :meth:`generate`, but one continuation only.

        Returns
        -------
        Stream
            An iterator of str; its ``result`` is the Generation, once it has ended.
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
        """How much a text looks as if it was generated with ``watermarking_config=``.

        Parameters
        ----------
        text : str or token ids
            Without the prompt, which has no mark.
        watermarking_config : WatermarkingConfig or mapping, optional
            The one that the text may have been marked with; default: its defaults.
        ignore_repeated_ngrams : bool, default False
            Whether a token counts once only after the same tokens: repetitions are no evidence.

        Returns
        -------
        WatermarkScore
            Its ``z_score`` is above 4 where chance hardly explains the text.

        Raises
        ------
        ValueError, TypeError
            The text is too short, or the configuration is not what it should be.
        """
        from .generation.watermark import detect

        return detect(self, text, watermarking_config, ignore_repeated_ngrams=ignore_repeated_ngrams)

    def session(self, text: Prompt = "", *, special: bool = False) -> Session:
        """A text that changes as it is written, and what was computed of it.

        Parameters
        ----------
        text : str or token ids
            Its beginning; ``session.text`` may be set, ``session.text += "..."`` included.
        special : bool, default False
            Whether special tokens are recognised in it, as for :meth:`generate`.

        Returns
        -------
        Session
            With the methods of the model for its text: results are the same, byte for byte, and only what
            comes after the first change is computed.
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
        """What continues the texts of many requests at once, for threads and for asyncio.

        Parameters
        ----------
        max_texts : int, default 64
            How many texts run at once, at most; each beam of a search counts. The others wait.
        max_tokens : int, optional
            For how many tokens the texts that run have room in their caches, at most: prompts, and
            ``max_new_tokens`` of each. By default as many as take 1 GiB, but at least the model's positions.
        max_waiting : int, default 64
            How many requests may wait; beyond, only one of each client: for more there is a QueueFullError.
        slice_tokens : int, default 64
            How many tokens of prompts a pass computes beside the next tokens of the texts that run.

        Returns
        -------
        Scheduler
            ``await scheduler.generate(...)``, ``async for piece in scheduler.stream(...)``,
            ``scheduler.submit(...)`` from threads; ``close()`` ends it, or a ``with`` block.
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
        """A session that :meth:`Session.save` has written, with this model and this arithmetic.

        Raises
        ------
        CheckpointError
            It is damaged, or was made with other weights, another dtype or another version of gpt2c's
            arithmetic; with "bfloat16" also on another instruction set.
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
        """The ``k`` most probable next tokens, the most probable first (of equal ones, the lowest id).

        Parameters
        ----------
        prompt : str, token ids, or a list of either
            A list of prompts gives a list of lists.
        k : int
            1 to the size of the vocabulary.
        special : bool, default False
            Whether special tokens are recognised in prompts, as for :meth:`generate`.
        edits : iterable of (str, function), default ()
            Interventions, as for :meth:`run_with_cache`; refused where they make logits infinite or NaN.
        deadline : float or Deadline, optional
            As for :meth:`generate`; a DeadlineError when it passes, as there is nothing to show then.
        session : Session, optional
            As for :meth:`generate`.
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
        """The ``k`` most probable words that the last word of a text may become, or that follow it.

        "The king and the qu" gives "queen", and a text that ends with a space the words that may come. What a
        word could be written as in tokens is summed up.

        Parameters
        ----------
        prompt : str or token ids
        k : int
            1 to the size of the vocabulary. There may be fewer words, if these have nearly all of the
            probability.
        special : bool, default False
            Whether special tokens are recognised in the prompt, as for :meth:`generate`.
        deadline : float or Deadline, optional
            When it passes, what was found is returned, with ``.finished`` False.
        session : Session, optional
            As for :meth:`generate`.

        Returns
        -------
        list of WordSuggestion
            With ``remaining``, how much of the probability was left unsearched, and ``finished``.
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
        """How probable texts are: each token's log-probability, rank and entropy; perplexity, bits per byte.

        Parameters
        ----------
        texts : str, token ids, a list of items, a column of a table, or an iterator of items
            An item is a text (a string or token ids) or a pair ``(context, continuation)`` of these: a tuple
            of two. Of a pair the continuation alone is scored, given the context, which may be empty; the
            two are tokenised apart, the continuation without a space that the tokenizer puts before whole
            texts. (A tuple of two texts alone is refused: ``[(a, b)]`` is a pair, ``[a, b]`` are two texts.)
            A column is of pandas, polars, Arrow or datasets, or an array of str.
        bos : bool or int
            True (the default) lets what begins a text stand before everything: what the tokenizer puts there,
            else the begin-of-text token, as GPT-2 was trained to see it. A token id stands there instead.
            False leaves a first token without context unscored: nothing stands before it.
        repeat_bos : bool, default False
            Whether what begins a text stands before every window of a long text, or the first alone. Windows
            then hold that many tokens of the text less, and what is said of them below stays true: tokens
            before a token are counted with those that begin the text.
        special : bool, default False
            Whether special tokens such as ``<|endoftext|>`` are recognised in strings, or ordinary text.
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
            How many of the most probable tokens to report in the place of each token, at most 4,096:
            ``top_ids`` and ``top_logprobs``.
        mask : array of bool, [n_vocab], optional
            A subset of the vocabulary, of which ``masses`` is to tell the probability in the place of each
            token.
        words : bool
            Also find the probabilities of whole words: :meth:`Score.words`. It takes one more row for each
            text, for what can follow its last token; if the text fills the window, that is a window of work.
        edits : iterable of (str, function), default ()
            Interventions, as for :meth:`run_with_cache`. Every window is computed by itself, with what stands
            before the text, and is what they see: positions count from its beginning. Its last token is the
            text's, or the one before it where there is no room.
        deadline : float or Deadline, optional
            As for :meth:`generate`; a DeadlineError when it passes. An iterator has given what was scored
            before.

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
            A text without a token to score; a window, a stride or a mask that is not what is allowed; edits
            that make logits infinite or NaN.
        TokenizerError
            ``words``, and a tokenizer whose tokens do not tell where words begin.
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
        """Which of several texts fits best, by the choice head of a GPT2DoubleHeadsModel.

        Parameters
        ----------
        texts : list of str or token ids
            Complete texts, each with its choice at the end: the last token of each is judged. A string gets
            what the tokenizer puts around a text.
        special : bool, default False
            Whether special tokens are recognised in strings, as for :meth:`generate`.
        deadline : float or Deadline, optional
            As for :meth:`classify`.

        Returns
        -------
        Choice
            ``index``, ``probabilities``, ``logits``.
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
        """Texts as vectors: the last hidden states, after the last LayerNorm. Every model has them.

        Parameters
        ----------
        texts, max_tokens, special, deadline
            As for :meth:`classify`.
        pooling : str, optional
            "mean", over all tokens, with those that the tokenizer puts around a text; "last", of the last
            token, which alone has seen all others; or one of those of :meth:`gpt2c.BERT.embed`. By default
            what files of sentence-transformers beside the model say, else "mean".
        normalize : bool, optional
            Whether vectors get the length 1. By default what such files say, else not.

        Returns
        -------
        np.ndarray, float32 [n_embd], or [texts, n_embd] of a list
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
    ) -> Explanation:
        """Show how the model reads a text and goes on with it, as ``gpt2c explain`` does.

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
            How many tokens to go on, fewer where the model has no more positions.
        num_beams : int
            The width of the search for the most probable continuation; 1 leaves it out.
        temperature, seed
            Of the page's drawn continuation (top k 40, top p 0.95).
        special : bool
            Whether special tokens are recognised in the text, as for :meth:`generate`.
        edits : iterable of (str, function)
            Interventions in every pass, as for :meth:`run_with_cache`: all that is shown is of the model so
            changed, and the edits are named. (The logit lens reads the changed residual stream through the
            last LayerNorm as the model has it.)

        Returns
        -------
        gpt2c.views.explanation.Explanation
            A notebook shows its page, ``print`` its text; ``.save("page.html")`` writes the page, ``.html``
            is it, ``.to_dict()`` has the arrays for JSON.
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
        )


def _prefixes(size: int | str | PrefixCache | None, weights: Weights | None = None) -> Prefixes:
    """What is kept of the beginnings of texts, by the option ``prefix_cache``, for a model of ``weights``."""
    if size is None:
        return NothingKept()
    from .session.prefix_cache import PrefixCache

    kept = size if isinstance(size, PrefixCache) else PrefixCache(size)
    if weights is not None:
        kept.belong_to(weights)
    return kept
