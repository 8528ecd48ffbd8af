"""A text that changes as a user writes it, and the keys and values of its unchanged part."""

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
_STEP = 256  # minimum room of a cache, in tokens


class Session:
    """A text with its computed keys and values; made by :meth:`gpt2c.GPT2.session`.

    The text may be changed in any way. The next call computes only the tokens after the longest common prefix
    with the previous text. Results are byte for byte those of the model's methods for the same text. Only one
    thread at a time may use a session; others need a :meth:`fork`.

    Attributes
    ----------
    model : LoadedModel
    special : bool
        Whether special tokens such as ``<|endoftext|>`` are recognized in the text.
    is_text : bool
        Whether the text was set as a string, not as token ids.
    n_reused, n_computed : int
        Tokens of the text that the latest call reused, and computed.

    Examples
    --------
    >>> session = model.session("The king and the")
    >>> session.suggest(1)[0].text
    ' king'
    >>> session.text += " queen"
    >>> session.suggest(1)[0].text, session.n_reused, session.n_computed
    (' were', 4, 1)
    """

    borrowed = True

    def __init__(self, model: LoadedModel, text: Prompt = "", *, special: bool = False) -> None:
        self.model, self.special = model, check_flag("special", special)
        self.n_reused = self.n_computed = 0
        self._cache: KVCache = model.new_cache(min(_STEP, model.config.n_ctx))
        self._held: np.ndarray = _NO_IDS  # the tokens that the cache holds
        self._logits: np.ndarray | None = None  # after them, if known
        self._text, self._ids = "", _NO_IDS
        self.is_text = True
        if isinstance(text, str):
            self.text = text
        else:
            self.token_ids = text

    @property
    def text(self) -> str:
        """The text; may be set, also with ``+=``. If token ids were set, their text."""
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(
                f"session.text must be a str, not {type(text).__name__} (token ids: session.token_ids)"
            )
        ids = self.model.encode([text], special=self.special)[0]
        self._ids, self._text, self.is_text = ids, text, True  # atomically: an interrupt may come in between

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the text, including the tokenizer's prefix; may be set."""
        ids: list[int] = self._ids.tolist()
        return ids

    @token_ids.setter
    def token_ids(self, ids: Any) -> None:
        if isinstance(ids, str):
            raise TypeError("session.token_ids takes token ids; set session.text to a string")
        ids = self.model.encode([ids])[0].copy()  # the caller may change them
        text = self.model.tokenizer.decode(ids) if self.model.has_tokenizer else ""
        self._ids, self._text, self.is_text = ids, text, False

    def following(self, model: LoadedModel, prompt: Any) -> Session:
        """The session itself, with this prompt as its text, for a method of ``model``."""
        if model is not self.model:
            raise ValueError(f"the session belongs to another model, {self.model.name}, not to {model.name}")
        several, [first, *others] = separate(prompt)
        if several or others:
            raise ValueError(f"a session takes one prompt, not a list of {1 + len(others)}")
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
        """Continue the text, with the options, results and errors of :meth:`gpt2c.GPT2.generate`.

        Examples
        --------
        >>> model.session("Once upon a time").generate(max_new_tokens=6).text
        ' there was a man who had'
        """
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
        """Continue the text piece by piece, as :meth:`gpt2c.GPT2.stream` does.

        Examples
        --------
        >>> list(model.session("Once upon a time").stream(max_new_tokens=4))
        [' there', ' was', ' a', ' man']
        """
        return streaming.stream(self.model, self._prompt(options), prefixes=self, **options)

    def suggest(
        self,
        k: int = 5,
        *,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
    ) -> list[Suggestion]:
        """The ``k`` most probable next tokens: options and errors of :meth:`gpt2c.GPT2.suggest`.

        Examples
        --------
        >>> [found.text for found in model.session("The king and the").suggest(2)]
        [' king', ' queen']
        """
        found = scoring.suggest(self.model, self._ids, k, edits=edits, deadline=deadline, prefixes=self)
        return cast("list[Suggestion]", found)

    def score(self, continuation: Prompt, **options: Unpack[ScoreKwargs]) -> Score:
        """The score of a continuation: options and errors of :meth:`gpt2c.GPT2.score` for the pair.

        No token precedes the text, unless ``bos`` adds one; then nothing held can be reused.

        Examples
        --------
        >>> session = model.session("The king and the")
        >>> session.score(" queen").logprob > session.score(" wolf").logprob
        True
        """
        options.setdefault("bos", False)
        pairs: list[Item] = [(self._ids, continuation)]
        [result] = cast("list[Score]", scoring.score(self.model, pairs, prefixes=self, **options))
        return result

    def suggest_words(
        self, k: int = 5, *, deadline: float | Deadline | None = None
    ) -> Ranked[WordSuggestion]:
        """The most probable words: options and errors of :meth:`gpt2c.GPT2.suggest_words`.

        Examples
        --------
        >>> [found.word for found in model.session("The king and the qu").suggest_words(2)]
        ['queen', "queen's"]
        """
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
            The number of texts wanted, and of beams.
        max_new_tokens : int
            The number of tokens of each, including the one that completes the last word of the text.
        deadline : float or Deadline, optional
            When it passes, the texts so far are returned, with ``.finished`` False.

        Returns
        -------
        list of Completion
            With ``remaining``, the probability left unsearched, and ``finished``.

        Raises
        ------
        ValueError
            A number is out of range.

        Examples
        --------
        >>> [found.text for found in model.session("The king and the qu").complete(2, max_new_tokens=4)]
        ['een, who had', 'een, who was']
        """
        from .completion import complete

        n = check_integer("n", n, 1, 1024, note=", each with its own cache")
        half = self.model.config.n_ctx // 2
        most = check_integer("max_new_tokens", max_new_tokens, 1, half, note=", half of the context")
        context, typed = self.unfinished(most)
        rows = partial(self.rows, context)
        return complete(self.model, typed, rows, n, most, Deadline.of(deadline))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session into a file, which :meth:`gpt2c.GPT2.open_session` opens with the same model.

        The file has the text and its keys and values; it appears when complete.

        Parameters
        ----------
        path : str or path
            A file of that name is replaced.

        Raises
        ------
        OSError
            The file cannot be written.
        ValueError
            The model has cross-attention.

        Examples
        --------
        >>> model.session("The king and the").save("king.session")
        >>> model.open_session("king.session").text
        'The king and the'
        """
        from .saving import Saved, write_session

        if self.model.cross is not None:
            raise ValueError(
                "a session of a model with cross-attention cannot be saved: the file would lack the "
                "encoder's output; keep that and the text, and make a new session of model.given(states)"
            )
        if len(self._cache) > len(self._held):  # a call was interrupted before it was recorded
            self._cache.truncate(len(self._held))
        text = self._text if self.is_text else self.token_ids
        write_session(path, self.model, Saved(text, self.special, self._held, *self._cache.state()))

    @classmethod
    def open(cls, model: LoadedModel, path: str | os.PathLike[str]) -> Session:
        """See :meth:`gpt2c.GPT2.open_session`.

        Examples
        --------
        >>> model.session("The king and the").save("king.session")
        >>> gpt2c.Session.open(model, "king.session").text
        'The king and the'
        """
        from .saving import read_session

        saved = read_session(path, model)
        session = cls(model, saved.text, special=saved.special)
        session._cache = model.new_cache(session._room(len(saved.ids)))
        session._cache.restore(saved.keys, saved.values, len(saved.ids))
        session._held = saved.ids
        return session

    def fork(self) -> Session:
        """An independent session with the same text.

        Examples
        --------
        >>> session = model.session("The king and the")
        >>> other = session.fork()
        >>> other.text += " queen"
        >>> session.text
        'The king and the'
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _cache=self._cache.fork())
        other.n_reused = other.n_computed = 0
        return other

    def _prompt(self, options: GenerateKwargs) -> Prompt:
        """The text as a prompt: its tokens, or, if its last word is healed, the text itself."""
        options["special"] = self.special
        return self._text if self.is_text and options.get("heal") else self._ids

    def __reduce__(self) -> NoReturn:
        """A TypeError for pickling and copying, which would share or include the cache."""
        raise TypeError(
            "a session cannot be copied or pickled: session.fork() gives another one, and "
            "session.save(path) writes a file for model.open_session(path)"
        )

    # ---- for completion

    def unfinished(self, room: int) -> tuple[np.ndarray, bytes]:
        """The tokens before the text's unfinished end, and the bytes of that end.

        Of a long text only the latest part, so that there is room for as many more tokens.
        """
        n, typed = self._split()
        # Something must precede the first token.
        context = self._ids[:n] if n else np.array(self.model.start_ids, np.int32)
        if not typed and drops_space(self.model, context):
            typed = b" "  # the space of the first word, which is not shown
        n_ctx = self.model.config.n_ctx
        most = max(1, n_ctx - room - len(typed))
        if len(context) > most:  # the start moves in strides, so that the cache can be reused
            stride = max(1, most // 2)
            context = context[-((most - len(context)) // stride) * stride :]
        return context, typed

    def _split(self) -> tuple[int, bytes]:
        """The index of the token at which the last word starts, and its bytes."""
        return split_last(self.model, self._ids, self._text if self.is_text else "")

    def rows(self, ids: np.ndarray, deadline: Deadline) -> Rows:
        """The model's predictions after paths from the first tokens of the text."""
        last = self._ids[self._split()[0] :][: self.model.config.n_ctx - len(ids) + 1]
        own = last[:-1].tolist()
        if self._logits is not None and np.array_equal(self._held, ids):
            return Rows(self.model, self._cache, [self._logits], deadline, own)
        # In the same pass, the last word's own tokens: usually its likeliest spelling.
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
        # In this order, as an interrupt may come between: the cache may hold more than is recorded, never
        # less.
        self._held, self._logits = self._held[:n], None
        self._cache.truncate(n)
        self.n_reused, self.n_computed = n, len(ids) - n
        return self._cache

    def _room(self, n_tokens: int) -> int:
        """The capacity of a cache for ``n`` tokens: it does not grow with every token."""
        return min(max(n_tokens + n_tokens // 2, _STEP), self.model.config.n_ctx)

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """Record the contents of the session's cache."""
        self._held = ids
