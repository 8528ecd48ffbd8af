"""The state shared by all texts of one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import _engine
from ..core.prefixes import NothingKept
from ..tokenizer.writing import Writer
from .processors import LogitsProcessors

if TYPE_CHECKING:
    from ..core._engine import KVCache
    from ..core.lm import LoadedModel
    from ..core.prefixes import Prefixes
    from ..core.prompts import Prompt
    from ..introspection.activations import Captured
    from ..introspection.observer import Watch
    from .drawing import Shape
    from .options import SamplingOptions
    from .speculate import Costs, Drafter

__all__ = ["Job", "LastWord", "Pending"]


class Pending(NamedTuple):
    """A text's part of the next pass."""

    cache: KVCache
    ids: np.ndarray
    """The tokens to compute after the cache."""
    n_rows: int
    """The number of last rows of logits wanted."""
    see: Callable[[np.ndarray], object] | None = None
    """Takes the residual stream after the last layer, float32 [n, n_embd], once the pass is done."""


class LastWord(NamedTuple):
    """The last word of a prompt, which is respelled."""

    data: bytes = b""
    n_shown: int = 0
    """The number of its characters in the prompt."""
    own: tuple[int, ...] = ()
    """Its tokens in the prompt, except the last one."""


class Job:
    """What all texts of one call share: the model, the options, and values derived from them."""

    def __init__(
        self,
        model: LoadedModel,
        options: SamplingOptions,
        prefixes: Prefixes | None = None,
        costs: Costs | None = None,
    ) -> None:
        model.check_language_model()
        tokenizer = model.tokenizer if options.stop or model.has_tokenizer else None
        self.model = model
        self.options = options
        self.process = LogitsProcessors(model, options)
        self._tokenizer = tokenizer
        self.prefix = np.array(() if tokenizer is None else tokenizer.prefix, np.int32)
        self.eos = self.process.eos
        self.unwritten = self.eos  # tokens that are not part of the text
        if options.skip_special_tokens and tokenizer is not None:
            self.unwritten |= frozenset(tokenizer.special_tokens.values())
        self.n_ctx = model.config.n_ctx
        self.hop = max(1, self.n_ctx // 2) if options.hop is None else options.hop
        if self.hop > self.n_ctx:
            raise ValueError(f"hop is {self.hop}; allowed: 1 to {self.n_ctx}, the model's positions")
        self.names: list[str] = []
        self.edits: dict[str, list[Any]] = {}
        self._watch: Watch | None = None
        if options.edits or options.names_filter != ():
            from ..introspection.hooks import matching
            from ..introspection.observer import Watch, checked_edits

            self.names = matching(model.config, options.names_filter)
            self.edits = checked_edits(model, options.edits)
            self._watch = Watch(model.config, self.names, self.edits, complete=False)
        # Captures, edits and comparisons need all of a text.
        whole = self._watch is not None or options.penalty_alpha
        self.prefixes = NothingKept() if whole else prefixes or model.prefixes
        self.costs: Costs | None = None  # of passes, if tokens are guessed
        if options.draft is not None:
            from .speculate import Costs, check_draft

            check_draft(options.draft, model)
            self.costs = costs or Costs()
        self.seed = options.seed
        if self.seed is None and not options.greedy:
            self.seed = int.from_bytes(os.urandom(4))  # short enough to type again
        # Set if the compiled sampler lacks an option.
        self.shape = None if options.plain else _shape(options, self.seed or 0, model.config.n_vocab)
        self.negative: np.ndarray | None = None
        if options.negative_prompt is not None:
            [self.negative] = model.encode([options.negative_prompt], special=options.special)
        self.constants: dict[str, Any] = {
            "temperature": options.temperature,
            "top_k": min(options.top_k, model.config.n_vocab),
            "top_p": max(options.top_p, 1e-30),  # not 0 as float32
            "min_p": options.min_p,
            "seed": self.seed or 0,
        }

    def new_drafter(self, sample_index: int) -> Drafter | None:
        """The guesser of a text's next tokens, if any."""
        if self.costs is None or self._watch is not None:
            return None
        from .speculate import new_drafter

        n_text = self.model.n_text_tokens
        options = self.options
        return new_drafter(options.draft, self.constants, sample_index, n_text, self.costs, options.deadline)

    def forward(
        self, parts: Sequence[Pending], *, only_steps: bool = False
    ) -> tuple[np.ndarray, list[Captured] | None]:
        """The wanted rows of logits, float32 [n, n_vocab], and the captures of each part.

        ``only_steps``: there are no prompts among the parts, so the pass shows the cost of rows. Raises
        DeadlineError, with the caches unchanged, if the time runs out.
        """
        sequences = [(part.cache, part.ids) for part in parts]
        observer: Any = None
        streams = None
        if any(part.see for part in parts):
            from .hidden import Streams

            observer = streams = Streams(self.model.config)
        elif self._watch is not None:
            from ..introspection.observer import Observer

            observer = Observer(self.model, self._watch, sequences, self.edits, keep=1)
        begin = perf_counter()
        logits = _engine.forward(
            self.model.weights,
            sequences,
            keep=[part.n_rows for part in parts],
            threads=self.model.threads,
            observer=observer,
            deadline=self.options.deadline,
        )
        if only_steps and self.costs is not None:
            self.costs.add(sum(len(part.ids) for part in parts), perf_counter() - begin)
        if streams is not None:
            for part, rows in zip(parts, streams.of(len(part.ids) for part in parts), strict=True):
                if part.see is not None:
                    part.see(rows)
        return logits, observer.captured if self.names else None

    def split(self, ids: np.ndarray, text: Prompt) -> tuple[np.ndarray, LastWord]:
        """The tokens of a prompt that stay, and its last word, if it is healed."""
        if not self.options.heal:
            return ids, LastWord()
        from .spelling import drops_space, n_characters, split_last

        n, word = split_last(self.model, ids, text if isinstance(text, str) else "")
        # Something must precede the first token.
        kept = ids[:n] if n else np.array(self.model.start_ids, np.int32)
        shown = n_characters(word) - (word[:1] == b" " and drops_space(self.model, kept))
        return kept, LastWord(word, shown, tuple(ids[n:-1].tolist()))

    def new_writer(self, before: Iterable[int], skip: int = 0) -> Writer:
        """A writer of the text after the token ids ``before``, without its first ``skip`` characters."""
        decoder = None if self._tokenizer is None else self._tokenizer.decoder(before)
        return Writer(decoder, self.options.stop, skip)

    def written(self, before: Iterable[int], new_ids: Iterable[int]) -> Writer:
        """A writer with all of a continuation of ``before``, except the `unwritten` tokens."""
        writer = self.new_writer(before)
        for token in new_ids:
            if token not in self.unwritten:
                writer.push(token)
        return writer

    def window(self, length: int) -> int:
        """The index of the first token that the model sees of a text of ``length`` tokens.

        It depends only on the length: a text continues in the same way however it was produced.
        """
        return max(0, -((self.n_ctx - length) // self.hop)) * self.hop


def _shape(options: SamplingOptions, seed: int, n_vocab: int) -> Shape:
    """The distributions for options that the compiled sampler lacks."""
    from .drawing import Shape

    watermark = None
    if options.watermarking_config is not None:
        from .watermark import Watermark

        watermark = Watermark(options.watermarking_config, n_vocab)
    return Shape(options, seed, watermark)
