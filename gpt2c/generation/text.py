"""One prompt, and one continuation of it, during generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine
from ..core.prefixes import NothingKept
from ..errors import ContextLengthError, counted
from .job import Job, Pending
from .processors import filtered
from .results import FinishReason, Generation
from .trace import new_trace

if TYPE_CHECKING:
    from ..core._engine import KVCache
    from ..core.prefixes import Prefixes
    from ..core.prompts import Prompt
    from ..introspection.activations import Captured
    from ..introspection.passes import ActivationCache
    from .healing import Healing

__all__ = ["ComputedPrompt", "Text"]

_SLIDE = "use overflow='slide' (--overflow slide)"
_CHOOSE = "choose an overflow (--overflow)"
_NO_IDS = np.empty(0, np.int32)


class ComputedPrompt:
    """A prompt: computed once, its cache then read by each of its continuations.

    Parameters
    ----------
    job : Job
    ids : int32 array [at least 1]
    name : str
        For errors.
    text : str or token ids
        The prompt that was tokenized.
    prefixes : Prefixes, optional
        A store of earlier texts; default: that of the job.
    """

    def __init__(
        self,
        job: Job,
        ids: np.ndarray,
        name: str = "the prompt",
        *,
        text: Prompt = "",
        prefixes: Prefixes | None = None,
    ) -> None:
        n_ctx, overflow = job.n_ctx, job.options.overflow
        ids, self.word = job.split(ids, text)
        # Respelling a word takes a position for each token, of at least one byte, that ends inside it.
        again, most_again = len(self.word.own), max(0, len(self.word.data) - 1)
        wanted = job.options.max_new_tokens
        new = wanted + again
        n_given = len(ids)
        # After one token. The last one needs no position, unless it is computed before it is chosen.
        most_new = n_ctx - 1 if job.options.penalty_alpha else n_ctx
        if overflow == "truncate_left" and new <= most_new:
            ids = _latest(ids, most_new + 1 - min(wanted + most_again, most_new), job.prefix)
        room = most_new + 1 - len(ids)
        if new > room and overflow != "slide":
            raise _too_long(job, name, len(ids), again, most_new)
        self.ids = ids
        self.truncated = len(ids) < n_given
        # Spellings of the word that do not fit are left out.
        self.most_again = most_again if overflow == "slide" else min(most_again, room - wanted)
        # If overflow slides: far enough for any spelling of the last word.
        begin = job.window(len(ids) + self.most_again)
        self.visible = ids[min(begin, len(ids) - 1) :]
        self.capacity = min(len(ids) + wanted + self.most_again, n_ctx)
        self.cache: KVCache | None = None  # it may hold part of the prompt until there are logits
        self.logits: np.ndarray | None = None  # float32 [n_vocab], of the token that follows the prompt
        self.n_reused = 0  # tokens that were in a cache already
        self.captured: Captured | None = None
        self.healing: Healing | None = None
        self.unstarted = 1 if job.options.num_beams > 1 else job.options.num_return_sequences
        self.prefixes = job.prefixes if prefixes is None else prefixes
        width = job.options.num_beams * job.options.n_candidates
        self.shared = max(self.unstarted, width) > 1 or self.prefixes.borrowed
        self.n_positions = width * self.capacity  # of all caches of one continuation
        self.streams: list[np.ndarray] = []  # after the last layer, if wanted
        self.negative: ComputedPrompt | None = None
        if job.options.guidance_scale != 1 and prefixes is None:
            other = self.ids[-1:] if job.negative is None else job.negative
            self.negative = ComputedPrompt(job, other, "the negative prompt", prefixes=NothingKept())
            self.n_positions += self.negative.n_positions

    @property
    def contexts(self) -> tuple[ComputedPrompt, ...]:
        """The prompts to compute before a text can start."""
        return (self,) if self.negative is None else (self, self.negative)

    @property
    def ready(self) -> bool:
        """Whether they are computed."""
        return all(context.logits is not None for context in self.contexts)

    def begun(self, job: Job) -> KVCache:
        """The cache with none or the start of it; at least one token is left to compute."""
        if self.cache is None:
            self.cache = self.prefixes.begin(job.model, self.visible, self.capacity)
            self.n_reused = len(self.cache)
        return self.cache

    def pending(self, job: Job, most: int | None = None) -> Pending:
        """The part to compute next, at most ``most`` tokens."""
        cache = self.begun(job)
        see = self.streams.append if job.options.penalty_alpha else None
        return Pending(cache, self.visible[len(cache) :][:most], 1, see)

    def heal(self, job: Job) -> None:
        """Find the ways to spell the last word, once the tokens before it are computed."""
        assert self.cache is not None and self.logits is not None
        if self.word.data:
            # Deferred, as most prompts are continued without healing.
            from .covers import Rows
            from .healing import Healing

            deadline, room = job.options.deadline, self.most_again
            rows = Rows(job.model, self.cache, [self.logits], deadline, self.word.own, room)
            self.healing = Healing(rows, self.word.data)

    def adopt_cache(self) -> KVCache:
        """A cache that holds the prompt, for one of its continuations."""
        self.unstarted -= 1
        cache = self.cache
        assert cache is not None  # the loop has computed the prompt
        if self.shared:
            cache = cache.branch(self.capacity)
        if self.unstarted == 0:
            self.cache = self.logits = None
        return cache


def _too_long(job: Job, name: str, n_ids: int, again: int, most_new: int) -> ContextLengthError:
    """The error for a prompt of ``n_ids`` tokens, if ``again`` new ones respell its last word."""
    options, n_ctx, wanted = job.options, job.n_ctx, job.options.max_new_tokens
    new = wanted + again
    or_slide = f", or {_SLIDE}" if options.slides else ""
    if options.overflow == "truncate_left":
        advice = f"lower max_new_tokens (-n) to at most {most_new - again}{or_slide}"
    elif (fit := most_new + 1 - n_ids - again) > 0:
        advice = (
            f"at most {fit} new token{'s fit' if fit > 1 else ' fits'} after it: lower "
            f"max_new_tokens (-n), shorten the prompt, or {_CHOOSE}"
        )
    elif new <= most_new:
        advice = f"shorten the prompt to at most {counted(most_new + 1 - new, 'token')}, or {_CHOOSE}"
    else:
        advice = f"shorten the prompt and lower max_new_tokens (-n){or_slide}"
    asked = f"{wanted} (besides {again} for its last word)" if again else wanted
    which, n = ("all but the last", new - 1) if most_new == n_ctx else ("all", new)
    return ContextLengthError(
        f"{name} has {counted(n_ids, 'token')} and max_new_tokens is {asked}: {which} of them need "
        f"{n_ids + n} positions, but the model has {n_ctx}; {advice}"
    )


def _latest(ids: np.ndarray, n: int, prefix: np.ndarray) -> np.ndarray:
    """The last n of token ids; if they start with the tokenizer's prefix, that stays."""
    k = len(prefix)
    if len(ids) <= n or k >= n or not np.array_equal(ids[:k], prefix):
        return ids[-n:]
    return np.concatenate([prefix, ids[len(ids) - (n - k) :]])


def _most_probable(job: Job, logits: np.ndarray, chosen: int, logprob: float) -> list[tuple[int, float]]:
    """The most probable tokens and their log-probabilities, as many as wanted."""
    ids = _engine.top(logits[: job.model.n_text_tokens], job.options.top_logprobs)
    logprobs = logits.take(ids).astype(np.float64) - _engine.log_sum_exp(logits)
    pairs = zip(ids.tolist(), logprobs.tolist(), strict=True)
    return [(token, logprob if token == chosen else value) for token, value in pairs]  # to the last bit


class Text:
    """One continuation in progress."""

    def __init__(self, job: Job, prompt: ComputedPrompt, prompt_index: int, sample_index: int) -> None:
        self.job, self.prompt = job, prompt
        self.prompt_index, self.sample_index = prompt_index, sample_index
        self.cache: KVCache | None = None
        self.finish_reason: FinishReason | None = None
        self.piece = ""  # what the last token added to the text
        self.logprobs: list[float] = []
        self.top_logprobs: list[list[tuple[int, float]]] = []
        self.trace = new_trace(job)
        self._captured: list[tuple[Captured, np.ndarray]] = []  # of each pass, with its row of logits
        self._tokens = self._guesses = _NO_IDS
        self._draw = None if job.shape is None else job.shape.draw(sample_index)
        self._drafter = job.new_drafter(sample_index)
        self._length = len(prompt.ids)
        self._writer = job.new_writer(prompt.ids, skip=prompt.word.n_shown)

    @property
    def done(self) -> bool:
        return self.finish_reason is not None

    def start(self) -> None:
        """Choose the first token from the prompt's logits, and take a separate cache for the next ones."""
        self._tokens = self.prompt.ids
        logits = self.prompt.logits
        assert logits is not None  # the loop has computed the prompt
        if self.prompt.captured is not None:
            self.capture(self.prompt.captured, logits)
        self.cache = self.prompt.adopt_cache()
        self.advance([logits])

    def capture(self, captured: Captured, logits: np.ndarray) -> None:
        """Remember what was captured in a pass, and its row of logits."""
        self._captured.append((captured, logits.copy()))

    def pending(self, n_texts: int) -> list[Pending]:
        """The tokens to compute next; ``n_texts`` advance in the same call."""
        begin, seen = self.job.window(self._length), self._length - 1
        if begin != self.job.window(seen):  # the positions of everything kept change
            self.cache, seen = self.job.model.new_cache(), begin
        assert self.cache is not None  # the text has not ended
        self._guesses = _NO_IDS
        if self._drafter is not None and seen == self._length - 1:
            # Guesses need positions; the last token does not.
            room = self.cache.n_ctx - len(self.cache) - 1
            left = self.job.options.max_new_tokens - (self._length - len(self.prompt.ids)) - 1
            self._guesses = self._drafter.propose(self._tokens[: self._length], min(room, left), n_texts)
        ids = self._tokens[seen : self._length]
        if len(self._guesses):
            ids = np.concatenate([ids, self._guesses])
        return [Pending(self.cache, ids, 1 + len(self._guesses))]

    def advance(self, rows: Sequence[np.ndarray]) -> None:
        """Choose the next tokens from their logits, float32 [n_vocab] each, as long as guesses are right."""
        pieces, guesses, n_right = [], self._guesses.tolist(), 0
        for logits in rows:
            self._choose(logits)
            pieces.append(self.piece)
            if self.done or n_right == len(guesses) or self._tokens[self._length - 1] != guesses[n_right]:
                break
            n_right += 1
        self.piece = "".join(pieces)
        if self._drafter is not None:
            self._drafter.observe(n_right, len(guesses))
            if guesses and self.cache is not None:
                self.cache.truncate(len(self.cache) - (len(guesses) - n_right))

    def _choose(self, logits: np.ndarray, guided: np.ndarray | None = None) -> None:
        """Choose the next token from its logits, or from the ``guided`` ones; see `_append`."""
        job, position = self.job, self._length
        ids = self._tokens[:position]
        removed: dict[int, str] | None = None if self.trace is None else {}
        given = logits if guided is None else guided
        processed = job.process(given, ids, len(self.prompt.ids), removed)
        if self.prompt.healing is not None:
            spelled = ids[len(self.prompt.ids) :].tolist()
            restricted = self.prompt.healing.restrict(processed, spelled)
            if restricted.max() == -np.inf:  # the word is already in the prompt: forbidding it comes too late
                restricted = self.prompt.healing.restrict(given, spelled)
            processed = restricted
        if self._draw is not None:
            token, logprob = self._draw(logits, processed, ids, removed)
        else:
            token, logprob = _engine.sample(
                logits, processed, stream=self.sample_index, position=position, **job.constants
            )
            if removed is not None and not job.options.greedy:
                filtered(processed, job.options, removed)
        scores = None if guided is None else guided.item
        self._append(token, logprob, logits, removed, scores)

    def _append(
        self,
        token: int,
        logprob: float,
        logits: np.ndarray,
        removed: dict[int, str] | None,
        scores: Callable[[int], float | None] | None = None,
    ) -> None:
        """Add a chosen token, and check whether the text ends with it.

        ``logits`` are the model's own; ``removed`` and ``scores`` are for the trace.
        """
        job, position = self.job, self._length
        n_new = position + 1 - len(self.prompt.ids)
        ids = self._tokens[:position]
        if self.trace is not None and removed is not None:
            new_ids = ids[len(self.prompt.ids) :]
            self.trace.add_choice(job, self.prompt.ids, new_ids, logits, removed, token, scores)
        if position == len(self._tokens):  # room is made as the text grows: it may end soon
            self._tokens = np.concatenate([ids, np.empty(max(64, position), np.int32)])
        self._tokens[position] = token
        self._length = position + 1
        self.logprobs.append(logprob)
        if job.options.top_logprobs:
            self.top_logprobs.append(_most_probable(job, logits, token, logprob))

        self.piece = ""
        if token not in job.unwritten:
            self.piece = self._writer.push(token)
        if token in job.eos:
            self.finish_reason = "eos"
        elif n_new - self._n_inside() == job.options.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason:
            self.piece += self._writer.finish()
        if self._writer.stopped:
            self.finish_reason = "stop"
        if self.finish_reason:
            self.cache = None

    def _n_inside(self) -> int:
        """The number of new tokens that end inside the prompt's last word: they do not count."""
        if self.prompt.healing is None:
            return 0
        return self.prompt.healing.n_inside(self._tokens[len(self.prompt.ids) : self._length].tolist())

    def cut(self, reason: FinishReason) -> None:
        """End the text as it is, unless it has ended, and free its caches."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self.piece = self._writer.cancel()
        self.cache = None
        for context in self.prompt.contexts:
            context.cache = context.logits = None

    def since(self, n: int) -> tuple[list[int], list[float], list[list[tuple[int, float]]]]:
        """The new tokens from the ``n``th on, their log-probabilities, and the most probable ones."""
        begin = len(self.prompt.ids) + n
        return self._tokens[begin : self._length].tolist(), self.logprobs[n:], self.top_logprobs[n:]

    def results(self) -> list[Generation]:
        assert self.finish_reason is not None
        n_prompt = len(self.prompt.ids)
        return [
            Generation(
                text=self._writer.text,
                token_ids=self._tokens[n_prompt : self._length].tolist(),
                logprobs=self.logprobs,
                finish_reason=self.finish_reason,
                prompt_index=self.prompt_index,
                sample_index=self.sample_index,
                prompt_token_ids=self.prompt.ids.tolist(),
                seed=self.job.seed,
                top_logprobs=self.top_logprobs,
                trace=self.trace,
                cache=self._cache(),
            )
        ]

    def _cache(self) -> ActivationCache | None:
        if not self._captured:
            return None
        from ..introspection.activations import joined
        from ..introspection.passes import ActivationCache

        parts = {name: [captured[name][0] for captured, _ in self._captured] for name in self.job.names}
        logits = np.stack([row for _, row in self._captured])
        return ActivationCache(self.job.model, self._tokens[: self._length - 1], joined(parts), logits)
