"""The options of text generation, by name, and their types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from .option_values import LogitsProcessor

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..core.lm import LoadedModel
    from ..introspection.edits import Edit
    from ..introspection.hooks import NamesFilter
    from .watermark import WatermarkingConfig

__all__ = ["GenerateKwargs", "TokenBitmask"]

TokenBitmask = Callable[[np.ndarray], np.ndarray | None]


class GenerateKwargs(TypedDict, total=False):
    """The options of `SamplingOptions` as accepted, for type checkers.

    Without ``num_return_sequences``, which decides the type of the result.
    """

    max_new_tokens: int
    min_new_tokens: int
    eos_token_id: int | Iterable[int] | None
    temperature: float
    penalty_alpha: float
    guidance_scale: float
    negative_prompt: str | Iterable[int] | None
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    mirostat: Literal[0, 2]
    mirostat_tau: float
    mirostat_eta: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: str | Iterable[str]
    no_repeat_ngram_size: int
    bad_words: Iterable[str | Sequence[int]]
    exponential_decay_length_penalty: tuple[int, float] | None
    suppress_tokens: Iterable[int]
    logit_bias: Mapping[int, float] | None
    sequence_bias: Mapping[tuple[int, ...], float] | None
    logits_processor: LogitsProcessor | Iterable[LogitsProcessor]
    token_bitmask: TokenBitmask | None
    watermarking_config: WatermarkingConfig | Mapping[str, Any] | None
    stop: str | Iterable[str]
    special: bool
    skip_special_tokens: bool
    seed: int | None
    heal: bool
    suffix: str | None
    draft: LoadedModel | Literal["prompt"] | None
    deadline: float | Deadline | None
    num_beams: int
    num_beam_groups: int
    diversity_penalty: float
    length_penalty: float
    early_stopping: bool | Literal["never"]
    overflow: Literal["error", "truncate_left", "slide"]
    hop: int | None
    top_logprobs: int
    trace: bool
    edits: Iterable[tuple[str, Edit]]
    names_filter: NamesFilter
