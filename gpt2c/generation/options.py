"""The options of text generation: their defaults, and the one place where they are checked.

What they do: ``processors`` changes the logits of a step; ``_engine.sample`` then takes the largest
(temperature 0), or divides them by the temperature, removes improbable tokens by ``top_k``, ``top_p`` and
``min_p``, and samples one. ``drawing`` applies the options that `_engine.sample` lacks; ``beam`` searches for
the most probable text instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ..core.checks import check_flag, check_integer, check_number
from ..core.deadline import Deadline
from .option_names import GenerateKwargs, TokenBitmask
from .option_values import (
    LogitsProcessor,
    bad_words_of,
    biases_of,
    decay_of,
    ends_of,
    processors_of,
    sequence_of,
    strings_of,
    token_of,
    tokens_of,
)

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..introspection.edits import Edit
    from ..introspection.hooks import NamesFilter
    from .watermark import WatermarkingConfig

__all__ = ["GenerateKwargs", "SamplingOptions", "lists_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

SEEDS = 2**64
MOST_SEQUENCES = 2**16
MOST_BEAMS = 2**10
MOST_TOP = 2**10
OVERFLOWS = ("error", "truncate_left", "slide")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to continue a text. Every value is checked here, before anything is computed.

    Attributes
    ----------
    All are documented at :meth:`gpt2c.GPT2.generate`. Their types are those after the check, which accepts
    what `GenerateKwargs` lists.

    Raises
    ------
    ValueError, TypeError
        Names the option, what was given and what is allowed.
    """

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    eos_token_id: tuple[int, ...] | None = None
    temperature: float = 0.0
    penalty_alpha: float = 0.0
    guidance_scale: float = 1.0
    negative_prompt: str | tuple[int, ...] | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: Literal[0, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    no_repeat_ngram_size: int = 0
    bad_words: tuple[str | tuple[int, ...], ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    sequence_bias: Mapping[tuple[int, ...], float] = field(default_factory=dict)
    logits_processor: tuple[LogitsProcessor, ...] = ()
    token_bitmask: TokenBitmask | None = None
    watermarking_config: WatermarkingConfig | None = None
    stop: tuple[str, ...] = ()
    special: bool = False
    skip_special_tokens: bool = False
    seed: int | None = None
    heal: bool = False
    suffix: str | None = None
    draft: LoadedModel | Literal["prompt"] | None = None
    deadline: Deadline = field(default_factory=Deadline)
    num_return_sequences: int = 1
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    overflow: Literal["error", "truncate_left", "slide"] = "error"
    hop: int | None = None
    top_logprobs: int = 0
    trace: bool = False
    edits: tuple[tuple[str, Edit], ...] = ()
    names_filter: NamesFilter = ()

    def __post_init__(self) -> None:
        self._check_extent()
        self._check_draw()
        self._check_processors()
        self._check_overflow()
        self._check_inspection()
        self._check_beams()
        self._check_contrast()
        self._check_guidance()

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everybody else

    def _put_number(self, name: str, fits: Callable[[float], bool], allowed: str) -> None:
        self._put(name, check_number(name, getattr(self, name), fits, allowed))

    def _check_extent(self) -> None:
        """The length of the text, and where it ends."""
        self._put("max_new_tokens", check_integer("max_new_tokens", self.max_new_tokens, 1))
        self._put("min_new_tokens", check_integer("min_new_tokens", self.min_new_tokens, 0))
        note = "; for more, generate again with another seed"
        n = check_integer("num_return_sequences", self.num_return_sequences, 1, MOST_SEQUENCES, note)
        self._put("num_return_sequences", n)
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) must not be above max_new_tokens "
                f"({self.max_new_tokens})"
            )
        self._put("eos_token_id", ends_of(self.eos_token_id))
        self._put("stop", strings_of("stop", self.stop, "every text would end immediately"))
        self._put("deadline", Deadline.of(self.deadline))
        check_flag("special", self.special)
        check_flag("skip_special_tokens", self.skip_special_tokens)
        check_flag("heal", self.heal)
        if not isinstance(self.suffix, str | None):
            raise TypeError(
                f"suffix must be the text after the gap, or None, not {type(self.suffix).__name__}"
            )

    def _check_draw(self) -> None:
        """How a token is sampled."""
        self._put("top_k", check_integer("top_k", self.top_k, 0, note=" (0: no limit)"))
        if self.seed is not None:
            note = " (2**64 - 1), or None for a fresh one"
            self._put("seed", check_integer("seed", self.seed, 0, SEEDS - 1, note=note))
        self._put_number("temperature", lambda t: t >= 0, "0 (greedy) or above, and finite")
        self._put_number("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1 (1: no limit)")
        self._put_number("min_p", lambda p: 0 <= p <= 1, "from 0 (no limit) to 1")
        self._put_number("typical_p", lambda p: 0 < p <= 1, "above 0 and at most 1 (1: no limit)")
        self._put_number("top_n_sigma", lambda n: 0 <= n <= 1e6, "from 0 (no limit) to 1e6")
        self._put_number("xtc_probability", lambda p: 0 <= p <= 1, "from 0 (never) to 1 (always)")
        self._put_number("xtc_threshold", lambda p: 0 < p <= 1, "above 0 and at most 1")
        self._put("mirostat", check_integer("mirostat", self.mirostat, 0, 2, " (0 is none, 2 is version 2)"))
        if self.mirostat == 1:
            raise ValueError("mirostat must be 0 (none) or 2; version 1 is not supported: use 2")
        self._put_number("mirostat_tau", lambda bits: 0 < bits <= 1000, "above 0 and at most 1000")
        self._put_number("mirostat_eta", lambda eta: 0 <= eta <= 1000, "from 0 to 1000")
        for name in ("typical_p", "top_n_sigma", "xtc_probability", "mirostat"):
            if self.greedy and getattr(self, name) != SamplingOptions.__dataclass_fields__[name].default:
                raise ValueError(f"{name} is for sampling: give a temperature above 0 with it")

    def _check_processors(self) -> None:
        """The options that change the logits before sampling."""
        self._put_number("repetition_penalty", lambda r: 1e-6 <= r <= 1e6, "from 1e-6 to 1e6 (1 is none)")
        for name in ("presence_penalty", "frequency_penalty"):
            self._put_number(name, lambda p: abs(p) <= 1e6, "from -1e6 to 1e6 (0 is none)")
        n = check_integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, note=" (0 allows all)")
        self._put("no_repeat_ngram_size", n)
        self._check_dry()
        self._put("bad_words", bad_words_of(self.bad_words))
        decay = decay_of(self.exponential_decay_length_penalty)
        self._put("exponential_decay_length_penalty", decay)
        tokens = tokens_of("suppress_tokens", self.suppress_tokens, "a collection of token ids")
        self._put("suppress_tokens", tokens)
        self._put("logit_bias", biases_of("logit_bias", self.logit_bias, token_of))
        self._put("sequence_bias", biases_of("sequence_bias", self.sequence_bias, sequence_of))
        self._put("logits_processor", processors_of(self.logits_processor))
        if self.token_bitmask is not None and not callable(self.token_bitmask):
            raise TypeError(
                "token_bitmask must be a function of the new token ids, or None, not "
                f"{type(self.token_bitmask).__name__}"
            )
        if self.watermarking_config is not None:
            from .watermark import WatermarkingConfig

            self._put("watermarking_config", WatermarkingConfig.of(self.watermarking_config))

    def _check_dry(self) -> None:
        """The penalty of DRY, and its search for repetitions."""
        self._put_number("dry_multiplier", lambda x: 0 <= x <= 1e6, "from 0 (none) to 1e6")
        self._put_number("dry_base", lambda x: 1 <= x <= 1e6, "from 1 to 1e6")
        self._put("dry_allowed_length", check_integer("dry_allowed_length", self.dry_allowed_length, 1))
        n = check_integer("dry_penalty_last_n", self.dry_penalty_last_n, -1, note=" (-1 is the whole text)")
        self._put("dry_penalty_last_n", n)
        why = "it would match everywhere"
        breakers = strings_of("dry_sequence_breakers", self.dry_sequence_breakers, why)
        self._put("dry_sequence_breakers", breakers)

    def _check_overflow(self) -> None:
        """What happens when the text exceeds the model's positions."""
        if self.overflow not in OVERFLOWS:
            raise ValueError(
                f"overflow must be one of {', '.join(map(repr, OVERFLOWS))}, not {self.overflow!r}"
            )
        if self.hop is not None:
            if self.overflow != "slide":
                raise ValueError(f"hop goes with overflow='slide' only; overflow is {self.overflow!r}")
            self._put("hop", check_integer("hop", self.hop, 1))

        if self.suffix is not None:
            if self.overflow != "error":
                raise ValueError(
                    "suffix goes with overflow='error' only, as its prompt cannot be truncated; "
                    f"overflow is {self.overflow!r}"
                )
            if self.heal:
                raise ValueError("suffix goes without heal: a word before the gap cannot be completed")

    def _check_inspection(self) -> None:
        """The options to record, capture and edit."""
        check_flag("trace", self.trace)
        note = " (0 keeps none)"
        self._put("top_logprobs", check_integer("top_logprobs", self.top_logprobs, 0, MOST_TOP, note))
        # Iterators are read once; other non-collections are refused when names are looked up.
        if isinstance(self.edits, Iterable):
            self._put("edits", tuple(self.edits))
        if isinstance(self.names_filter, Iterable) and not isinstance(self.names_filter, str | tuple):
            self._put(
                "names_filter", [*self.names_filter] or ()
            )  # not a tuple, which can be a name and a layer
        if self.names_filter != ():
            if self.num_beams != 1:
                raise ValueError(
                    "names_filter captures the activations of one text: it goes with num_beams=1 only"
                )
            if self.overflow == "slide":
                raise ValueError("names_filter goes with overflow='error' or 'truncate_left' only")
        if self.heal and (self.edits or self.names_filter != ()):
            raise ValueError("heal searches without edits and names_filter: leave them out")

    def _check_beams(self) -> None:
        note = ", each with its own cache"
        self._put("num_beams", check_integer("num_beams", self.num_beams, 1, MOST_BEAMS, note))
        self._put_number("length_penalty", lambda p: abs(p) <= 100, "from -100 to 100")
        if not isinstance(self.early_stopping, bool | np.bool_) and self.early_stopping != "never":
            raise ValueError(f"early_stopping must be True, False or 'never', not {self.early_stopping!r}")
        self._check_groups()
        if self.num_beams > 1:
            if self.mirostat:
                raise ValueError("mirostat follows one text: it goes with num_beams=1 only")
            if self.top_logprobs:
                raise ValueError("top_logprobs goes with num_beams=1 only; trace=True records a search")
            if self.draft is not None:
                raise ValueError("draft goes with num_beams=1 only: a search computes several texts at once")
            if self.heal:
                raise ValueError(
                    "heal goes with num_beams=1 only; model.session(prompt).complete() searches inside words"
                )
            if self.num_return_sequences > self.num_beams:
                raise ValueError(
                    f"num_return_sequences ({self.num_return_sequences}) must not be above num_beams "
                    f"({self.num_beams}), the number of texts that a search returns"
                )
            return
        for name, default in (("length_penalty", 1.0), ("early_stopping", False)):
            if getattr(self, name) != default:
                raise ValueError(f"{name} is for beam search: give num_beams above 1 with it")

    def _check_groups(self) -> None:
        """Beams in groups."""
        self._put("num_beam_groups", check_integer("num_beam_groups", self.num_beam_groups, 1, MOST_BEAMS))
        self._put_number("diversity_penalty", lambda p: 0 <= p <= 1e6, "from 0 (none) to 1e6")
        groups, beams = self.num_beam_groups, self.num_beams
        if beams % groups:
            raise ValueError(
                f"num_beam_groups is {groups}; allowed: a divisor of num_beams, which is {beams}, as all "
                "groups have the same size"
            )
        if (groups > 1) != (self.diversity_penalty > 0):
            raise ValueError(
                f"num_beam_groups is {groups} and diversity_penalty {self.diversity_penalty:g}: give both, "
                "above 1 and above 0, as neither has an effect alone"
            )
        if groups > 1 and not self.greedy:
            raise ValueError(
                "num_beam_groups goes with temperature=0 only: sampled beams differ without groups"
            )

    def _check_contrast(self) -> None:
        """Contrastive search."""
        self._put_number("penalty_alpha", lambda a: 0 <= a <= 1, "from 0 (none) to 1")
        if not self.penalty_alpha:
            return
        if not 2 <= self.top_k <= MOST_BEAMS:
            raise ValueError(
                f"penalty_alpha chooses among top_k candidates; top_k is {self.top_k}, allowed: 2 to "
                f"{MOST_BEAMS} (4 is usual)"
            )
        if not self.greedy:
            raise ValueError("penalty_alpha goes with temperature=0 only: contrastive search does not sample")
        self._refuse("penalty_alpha", "num_beams", "draft", "heal", "edits", "names_filter")
        if self.overflow == "slide":
            raise ValueError(
                "penalty_alpha compares with the whole text: give overflow='error' or 'truncate_left' with it"
            )

    def _check_guidance(self) -> None:
        """Guidance by a second context."""
        self._put_number("guidance_scale", lambda s: abs(s) <= 1000, "from -1000 to 1000 (1 is none)")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            wanted = "one text, token ids, or None for the last token of the prompt"
            tokens = tokens_of("negative_prompt", self.negative_prompt, wanted)
            self._put("negative_prompt", tokens)
        if self.guidance_scale == 1:
            if self.negative_prompt is not None:
                raise ValueError(
                    "negative_prompt is for guidance: give a guidance_scale other than 1 with it"
                )
            return
        self._refuse("guidance_scale", "num_beams", "penalty_alpha", "draft", "heal", "edits", "names_filter")
        if self.overflow == "slide":
            raise ValueError(
                "guidance_scale needs two complete texts: give overflow='error' or 'truncate_left' with it"
            )

    def _refuse(self, name: str, *others: str) -> None:
        """Raise if another option is given that does not go with the one of this ``name``."""
        for other in others:
            if getattr(self, other) != SamplingOptions.__dataclass_fields__[other].default:
                raise ValueError(f"{name} goes without {other}: leave out one of them")

    @property
    def greedy(self) -> bool:
        """Whether the result is deterministic."""
        return self.temperature == 0

    @property
    def slides(self) -> bool:
        """Whether overflow="slide" may be given with the other options."""
        return not self.penalty_alpha and self.guidance_scale == 1

    @property
    def n_candidates(self) -> int:
        """The number of tokens computed before one of them is chosen."""
        return self.top_k if self.penalty_alpha else 1

    @property
    def n_places(self) -> int:
        """The number of rows of a text in a pass."""
        return self.num_beams * self.n_candidates * (1 if self.guidance_scale == 1 else 2)

    @property
    def plain(self) -> bool:
        """Whether `_engine.sample` has all sampling options in use."""
        unfiltered = self.typical_p == 1 and not (self.top_n_sigma or self.xtc_probability or self.mirostat)
        return unfiltered and self.watermarking_config is None


def lists_options(function: _Function) -> _Function:
    """Gives a function whose ``**options`` are `GenerateKwargs` a signature that lists them.

    Type checkers look into ``Unpack[GenerateKwargs]``; ``help()`` and the completion of notebooks do not.
    """
    defaults = {f.name: None if f.default is MISSING else f.default for f in fields(SamplingOptions)}
    listed = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name],
            annotation=getattr(annotation, "__forward_arg__", annotation),
        )
        for name, annotation in GenerateKwargs.__annotations__.items()
    ]
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    setattr(function, "__signature__", signature.replace(parameters=[*own, *listed]))  # noqa: B010
    return function
