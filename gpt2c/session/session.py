"""A text that changes as someone writes it, and the keys and values of what has stayed the same."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, cast

import numpy as np

from ..core import _engine
from ..core.checks import check_flag, check_integer
from ..core.deadline import Deadline
from ..core.prefixes import common_length
from ..core.prompts import separate
from ..generation import loop, streaming
from ..generation.covers import Rows
from ..generation.spelling import drops_space, split_last
from ..scoring import scoring

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core._engine import KVCache
    from ..core.lm import LoadedModel
    from ..core.prefixes import Model
    from ..core.prompts import Item, Prompt
    from ..generation.options import GenerateKwargs
    from ..generation.results import Generation
    from ..introspection.edits import Edit
    from ..scoring.options import ScoreKwargs
    from ..scoring.results import Score, Suggestion
    from .results import Completion, Ranked, WordSuggestion

__all__ = ["Session"]

_NO_IDS = np.empty(0, np.int32)
_STEP = 256  # tokens that a cache has room for at least


class Session:
    """A text and what the model has computed of it; made by :meth:`gpt2c.GPT2.session`.

    The text may be changed in any way. What is asked for next computes the tokens after the longest beginning
    that the text has in common with the one before, and no others. Results are byte for byte those of the
    model's methods for the same text. One thread at a time may use a session; others need a :meth:`fork`.

    Attributes
    ----------
    model : LoadedModel
    special : bool
        Whether special tokens such as ``<|endoftext|>`` are recognised in the text.
    is_text : bool
        Whether a string was set, and not token ids.
    n_reused, n_computed : int
        Of the latest call: how many tokens of the text it had no need to compute, and how many it computed.
    """

    borrowed = True

    def __init__(self, model: LoadedModel, text: Prompt = "", *, special: bool = False) -> None:
        self.model, self.special = model, check_flag("special", special)
        self.n_reused = self.n_computed = 0
        self._cache: KVCache = model.new_cache(min(_STEP, model.config.n_ctx))
        self._held: np.ndarray = _NO_IDS  # the tokens that it holds
        self._logits: np.ndarray | None = None  # after them, if they are known
        self._text, self._ids = "", _NO_IDS
        self.is_text = True
        if isinstance(text, str):
            self.text = text
        else:
            self.token_ids = text

    @property
    def text(self) -> str:
        """The text; may be set, also with ``+=``. Where token ids were set, theirs."""
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(
                f"session.text must be a str; got {type(text).__name__} (token ids: session.token_ids)"
            )
        ids = self.model.encode([text], special=self.special)[0]
        self._ids, self._text, self.is_text = ids, text, True  # at once: an interrupt may come before

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the text, with what the tokenizer puts before it; may be set."""
        ids: list[int] = self._ids.tolist()
        return ids

    @token_ids.setter
    def token_ids(self, ids: Any) -> None:
        if isinstance(ids, str):
            raise TypeError("session.token_ids takes token ids; set session.text to a string")
        ids = self.model.encode([ids])[0].copy()  # their owner may change them
        text = self.model.tokenizer.decode(ids) if self.model.has_tokenizer else ""
        self._ids, self._text, self.is_text = ids, text, False

    def following(self, model: LoadedModel, prompt: Any) -> Session:
        """The session itself, with this prompt as its text, for a method of ``model``."""
        if model is not self.model:
            raise ValueError(f"the session is one of {self.model.name}, another model than {model.name}")
        several, [first, *others] = separate(prompt)
        if several or others:
            raise ValueError(f"a session has one text, but got a list of {1 + len(others)} prompts")
        if isinstance(first, str):
            self.text = first
        else:
            self.token_ids = first
        return self

    def __repr__(self) -> str:
        return f"<Session: {len(self._ids)} tokens, {len(self._held)} computed, of {self.model.name}>"

    # ---- what can be asked

    def generate(
        self,
        *,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        **options: Unpack[GenerateKwargs],
    ) -> Generation | list[Generation]:
        """Continue the text, as :meth:`gpt2c.GPT2.generate` does; the text stays as it is."""
        prompt = self._prompt(options)
        return loop.generate(
            self.model,
            prompt,
            num_return_sequences=num_return_sequences,
            batch_size=batch_size,
            prefixes=self,
            **options,
        )

    def stream(self, **options: Unpack[GenerateKwargs]) -> streaming.Stream:
        """Continue the text piece by piece, as :meth:`gpt2c.GPT2.stream` does."""
        return streaming.stream(self.model, self._prompt(options), prefixes=self, **options)

    def suggest(
        self,
        k: int = 5,
        *,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
    ) -> list[Suggestion]:
        """The ``k`` most probable next tokens, as of :meth:`gpt2c.GPT2.suggest`."""
        found = scoring.suggest(self.model, self._ids, k, edits=edits, deadline=deadline, prefixes=self)
        return cast("list[Suggestion]", found)

    def score(self, continuation: Prompt, **options: Unpack[ScoreKwargs]) -> Score:
        """How probable a continuation of the text is, as of :meth:`gpt2c.GPT2.score` for the pair.

        Nothing stands before the text, unless ``bos`` says so; then nothing that is held can be used.
        """
        options.setdefault("bos", False)
        pairs: list[Item] = [(self._ids, continuation)]
        [result] = cast("list[Score]", scoring.score(self.model, pairs, prefixes=self, **options))
        return result

    def suggest_words(
        self, k: int = 5, *, deadline: float | Deadline | None = None
    ) -> Ranked[WordSuggestion]:
        """The ``k`` most probable words that the last word of the text may become, or that follow it."""
        from .words import LONGEST, suggest_words

        k = check_integer("k", k, 1, self.model.n_text_tokens, note=", the size of the vocabulary")
        context, typed = self.unfinished(LONGEST)
        return suggest_words(self.model, typed, partial(self.rows, context), k, Deadline.of(deadline))

    def complete(
        self, n: int = 3, *, max_new_tokens: int = 8, deadline: float | Deadline | None = None
    ) -> Ranked[Completion]:
        """The ``n`` most probable continuations that a beam search finds, from inside the last word on.

        Parameters
        ----------
        n : int
            How many texts are wanted; the search has as many beams.
        max_new_tokens : int
            How many tokens each has, the one that completes the last word of the text included.
        deadline : float or Deadline, optional
            When it passes, the texts are as long as they have become; ``.finished`` is False then.
        """
        from .completion import complete

        n = check_integer("n", n, 1, 1024, note=", each with a cache of its own")
        half = self.model.config.n_ctx // 2
        most = check_integer("max_new_tokens", max_new_tokens, 1, half, note=", half of the context")
        context, typed = self.unfinished(most)
        rows = partial(self.rows, context)
        return complete(self.model, typed, rows, n, most, Deadline.of(deadline))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session into a file, which :meth:`gpt2c.GPT2.open_session` opens with the same model.

        The file has the text, and what was computed of it; it appears once it is complete.
        """
        from .saving import Saved, write_session

        if self.model.cross is not None:
            raise ValueError(
                "a session of a model with cross-attention cannot be saved: the file would lack what the "
                "model was given; keep that and the text, and make a new session of model.given(states)"
            )
        if len(self._cache) > len(self._held):  # a call was interrupted before it was noted
            self._cache.truncate(len(self._held))
        text = self._text if self.is_text else self.token_ids
        write_session(path, self.model, Saved(text, self.special, self._held, *self._cache.state()))

    @classmethod
    def open(cls, model: LoadedModel, path: str | os.PathLike[str]) -> Session:
        """What :meth:`gpt2c.GPT2.open_session` does."""
        from .saving import read_session

        saved = read_session(path, model)
        session = cls(model, saved.text, special=saved.special)
        session._cache = model.new_cache(session._room(len(saved.ids)))
        session._cache.restore(saved.keys, saved.values, len(saved.ids))
        session._held = saved.ids
        return session

    def fork(self) -> Session:
        """Another session with the same text, which goes its own way from here on."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _cache=self._cache.fork())
        other.n_reused = other.n_computed = 0
        return other

    def _prompt(self, options: GenerateKwargs) -> Prompt:
        """The text as a prompt: its tokens, or where its last word is healed, what was written."""
        options["special"] = self.special
        return self._text if self.is_text and options.get("heal") else self._ids

    def __reduce__(self) -> NoReturn:
        """A TypeError, for pickles and copies: they would share the cache, or hold all of it."""
        raise TypeError(
            "a session is neither copied nor pickled: session.fork() gives another one, and "
            "session.save(path) writes a file for model.open_session(path)"
        )

    # ---- for completion

    def unfinished(self, room: int) -> tuple[np.ndarray, bytes]:
        """The tokens before what the end of the text may yet become, and the bytes of that.

        Of a long text they are its latest part, so that there is room for as many tokens more.
        """
        n, typed = self._split()
        # Something has to stand before the first token.
        context = self._ids[:n] if n else np.array(self.model.start_ids, np.int32)
        if not typed and drops_space(self.model, context):
            typed = b" "  # that of the first word, which is not shown
        n_ctx = self.model.config.n_ctx
        most = max(1, n_ctx - room - len(typed))
        if len(context) > most:  # the beginning moves in strides, so that what is kept can be used again
            stride = max(1, most // 2)
            context = context[-((most - len(context)) // stride) * stride :]
        return context, typed

    def _split(self) -> tuple[int, bytes]:
        """Where in the tokens the last word begins, and the bytes of that."""
        return split_last(self.model, self._ids, self._text if self.is_text else "")

    def rows(self, ids: np.ndarray, deadline: Deadline) -> Rows:
        """What the model says after paths from the first tokens of the text."""
        last = self._ids[self._split()[0] :][: self.model.config.n_ctx - len(ids) + 1]
        own = last[:-1].tolist()
        if self._logits is not None and np.array_equal(self._held, ids):
            return Rows(self.model, self._cache, [self._logits], deadline, own)
        # In the same pass, the last word as the text has it: that is mostly the likeliest way to write it.
        cache = self.begin(self.model, ids, len(ids) + len(last))
        found = _engine.forward(
            self.model.weights,
            [(cache, np.concatenate([ids[len(cache) :], last[:-1]]))],
            keep=max(1, len(last)),
            threads=self.model.threads,
            deadline=deadline,
        )
        cache.truncate(len(ids))
        self._held, self._logits = ids, found[0]  # in this order: an interrupt may come between
        return Rows(self.model, self._cache, list(found), deadline, own)

    # ---- what is kept: core/prefixes.py

    def begin(self, model: Model, ids: np.ndarray, capacity: int) -> KVCache:
        """The session's cache, with as much of ``ids`` as it holds."""
        n = min(common_length(self._held, ids), len(ids) - 1)
        if capacity > self._cache.n_ctx:
            self._cache = self._cache.fork(self._room(capacity))
        elif self._cache.branches:  # a stream reads it; what it has is not lost
            self._cache = self._cache.fork()
        # In this order, as an interrupt may come between: the cache may hold more than is noted, never less.
        self._held, self._logits = self._held[:n], None
        self._cache.truncate(n)
        self.n_reused, self.n_computed = n, len(ids) - n
        return self._cache

    def _room(self, n_tokens: int) -> int:
        """For how many tokens a cache is made that has to hold so many: it does not grow with every token."""
        return min(max(n_tokens + n_tokens // 2, _STEP), self.model.config.n_ctx)

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """What the session's cache holds."""
        self._held = ids
