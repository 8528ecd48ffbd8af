"""The options of text generation: their defaults, and the one place where they are checked.

What they do: ``processors`` changes the logits of a step; ``_engine.sample`` then takes the largest
(temperature 0), or divides them by the temperature, leaves out the improbable by ``top_k``, ``top_p`` and
``min_p``, and draws one. ``beam`` searches for the most probable text instead.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import numpy as np

from ..core.checks import as_float, check_flag, check_integer, check_number
from ..core.deadline import Deadline
from ..errors import shown

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..introspection.edits import Edit
    from ..introspection.hooks import NamesFilter

__all__ = ["GenerateKwargs", "SamplingOptions", "lists_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

SEEDS = 2**64
MOST_SEQUENCES = 2**16
MOST_BEAMS = 2**10
MOST_TOP = 2**10
LARGEST_BIAS = 3.4e38  # still finite as float32
OVERFLOWS = ("error", "truncate_left", "slide")

LogitsProcessor = Callable[[np.ndarray, np.ndarray], np.ndarray]
TokenBitmask = Callable[[np.ndarray], np.ndarray | None]


class GenerateKwargs(TypedDict, total=False):
    """The options of :class:`SamplingOptions` as they may be given, for type checkers.

    Without ``num_return_sequences``, which decides the type of the result.
    """

    max_new_tokens: int
    min_new_tokens: int
    eos_token_id: int | Iterable[int] | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    bad_words: Iterable[str | Sequence[int]]
    suppress_tokens: Iterable[int]
    logit_bias: Mapping[int, float] | None
    sequence_bias: Mapping[tuple[int, ...], float] | None
    logits_processor: LogitsProcessor | Iterable[LogitsProcessor]
    token_bitmask: TokenBitmask | None
    stop: str | Iterable[str]
    special: bool
    skip_special_tokens: bool
    seed: int | None
    heal: bool
    suffix: str | None
    draft: LoadedModel | Literal["prompt"] | None
    deadline: float | Deadline | None
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    overflow: Literal["error", "truncate_left", "slide"]
    hop: int | None
    top_logprobs: int
    trace: bool
    edits: Iterable[tuple[str, Edit]]
    names_filter: NamesFilter


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a text is to be continued. Every value is checked here, before anything is computed.

    Attributes
    ----------
    All of them, by name, are explained at :meth:`gpt2c.GPT2.generate`. Their types are those after the check:
    it accepts what `GenerateKwargs` says.

    Raises
    ------
    ValueError, TypeError
        Naming the option, what was given and what is allowed.
    """

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    eos_token_id: tuple[int, ...] | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[str | tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    sequence_bias: Mapping[tuple[int, ...], float] = field(default_factory=dict)
    logits_processor: tuple[LogitsProcessor, ...] = ()
    token_bitmask: TokenBitmask | None = None
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

    def _put(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everybody else

    def _put_number(self, name: str, fits: Callable[[float], bool], allowed: str) -> None:
        self._put(name, check_number(name, getattr(self, name), fits, allowed))

    def _check_extent(self) -> None:
        """How much is generated, and where it ends."""
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
        self._put("eos_token_id", _ends(self.eos_token_id))
        self._put("stop", _stop_strings(self.stop))
        self._put("deadline", Deadline.of(self.deadline))
        check_flag("special", self.special)
        check_flag("skip_special_tokens", self.skip_special_tokens)
        check_flag("heal", self.heal)
        if not isinstance(self.suffix, str | None):
            raise TypeError(
                f"suffix must be the text behind the gap, or None; got {type(self.suffix).__name__}"
            )

    def _check_draw(self) -> None:
        """How a token is drawn."""
        self._put("top_k", check_integer("top_k", self.top_k, 0, note=" (0 is no limit)"))
        if self.seed is not None:
            note = " (2**64 - 1), or None for a fresh one"
            self._put("seed", check_integer("seed", self.seed, 0, SEEDS - 1, note=note))
        self._put_number("temperature", lambda t: t >= 0, "0 (greedy) or above, and finite")
        self._put_number("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1 (1 is no limit)")
        self._put_number("min_p", lambda p: 0 <= p <= 1, "from 0 (no limit) to 1")

    def _check_processors(self) -> None:
        """What changes the logits before the draw."""
        self._put_number("repetition_penalty", lambda r: 1e-6 <= r <= 1e6, "from 1e-6 to 1e6 (1 is none)")
        for name in ("presence_penalty", "frequency_penalty"):
            self._put_number(name, lambda p: abs(p) <= 1e6, "from -1e6 to 1e6 (0 is none)")
        n = check_integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, note=" (0 allows all)")
        self._put("no_repeat_ngram_size", n)
        self._put("bad_words", _bad_words(self.bad_words))
        tokens = _tokens("suppress_tokens", self.suppress_tokens, "a collection of token ids")
        self._put("suppress_tokens", tokens)
        self._put("logit_bias", _biases("logit_bias", self.logit_bias, _token))
        self._put("sequence_bias", _biases("sequence_bias", self.sequence_bias, _sequence))
        self._put("logits_processor", _processors(self.logits_processor))
        if self.token_bitmask is not None and not callable(self.token_bitmask):
            raise TypeError(
                "token_bitmask must be a function of the new token ids, or None; got "
                f"{type(self.token_bitmask).__name__}"
            )

    def _check_overflow(self) -> None:
        """What happens where the text passes the model's positions."""
        if self.overflow not in OVERFLOWS:
            raise ValueError(
                f"overflow must be one of {', '.join(map(repr, OVERFLOWS))}; got {self.overflow!r}"
            )
        if self.hop is not None:
            if self.overflow != "slide":
                raise ValueError(f"hop goes with overflow='slide' only; overflow is {self.overflow!r}")
            self._put("hop", check_integer("hop", self.hop, 1))

        if self.suffix is not None:
            if self.overflow != "error":
                raise ValueError(
                    "suffix goes with overflow='error' only, as nothing of its prompt can be left out; "
                    f"overflow is {self.overflow!r}"
                )
            if self.heal:
                raise ValueError("suffix goes without heal: no word can be written anew before the gap")

    def _check_inspection(self) -> None:
        """What is recorded, captured and edited."""
        check_flag("trace", self.trace)
        note = " (0 keeps none)"
        self._put("top_logprobs", check_integer("top_logprobs", self.top_logprobs, 0, MOST_TOP, note))
        # Iterators are read once; what else is no collection is refused where names are looked up.
        if isinstance(self.edits, Iterable):
            self._put("edits", tuple(self.edits))
        if isinstance(self.names_filter, Iterable) and not isinstance(self.names_filter, str | tuple):
            self._put("names_filter", [*self.names_filter] or ())  # no tuple, which can be a name and a layer
        if self.names_filter != ():
            if self.num_beams != 1:
                raise ValueError(
                    "names_filter keeps what was computed of one text: it goes with num_beams=1 only"
                )
            if self.overflow == "slide":
                raise ValueError("names_filter goes with overflow='error' or 'truncate_left' only")
        if self.heal and (self.edits or self.names_filter != ()):
            raise ValueError(
                "heal looks for ways to write a word without edits and names_filter: leave them out"
            )

    def _check_beams(self) -> None:
        note = ", each with a cache of its own"
        self._put("num_beams", check_integer("num_beams", self.num_beams, 1, MOST_BEAMS, note))
        self._put_number("length_penalty", lambda p: abs(p) <= 100, "from -100 to 100")
        if not isinstance(self.early_stopping, bool | np.bool_) and self.early_stopping != "never":
            raise ValueError(f"early_stopping must be True, False or 'never'; got {self.early_stopping!r}")
        if self.num_beams > 1:
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
                    f"({self.num_beams}), the number of texts that a search ends with"
                )
            return
        for name, default in (("length_penalty", 1.0), ("early_stopping", False)):
            if getattr(self, name) != default:
                raise ValueError(f"{name} is for beam search: give num_beams above 1 with it")

    @property
    def greedy(self) -> bool:
        """Whether chance plays no part."""
        return self.temperature == 0


def lists_options(function: _Function) -> _Function:
    """A function whose ``**options`` are `GenerateKwargs`, with a signature that lists them.

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


def _token(name: str, token: Any) -> int:
    return check_integer(f"a token id in {name}", token, 0)


def _tokens(name: str, tokens: Any, wanted: str) -> tuple[int, ...]:
    if isinstance(tokens, str | bytes | Mapping) or not isinstance(tokens, Iterable):
        raise TypeError(f"{name} must be {wanted}; got {shown(tokens)} ({type(tokens).__name__})")
    return tuple(_token(name, token) for token in tokens)


def _ends(tokens: Any) -> tuple[int, ...] | None:
    if tokens is None:
        return None
    several = tokens if isinstance(tokens, Iterable) else (tokens,)
    return _tokens("eos_token_id", several, "a token id, a list of them, or None for the model's own")


def _sequence(name: str, tokens: Any) -> tuple[int, ...]:
    sequence = _tokens(f"a key of {name}", tokens, "a tuple of token ids")
    if not sequence:
        raise ValueError(f"{name} must not hold an empty sequence of tokens")
    return sequence


def _bad_words(words: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(words, str | bytes | Mapping) or not isinstance(words, Iterable):
        raise TypeError(f"bad_words must be a list of words; got {shown(words)} ({type(words).__name__})")
    checked: list[str | tuple[int, ...]] = []
    for word in words:
        if not isinstance(word, str):
            word = _tokens("bad_words", word, "a list of strings or of lists of token ids")
        if not word:
            raise ValueError("bad_words must not hold an empty word")
        checked.append(word)
    return tuple(checked)


def _processors(processors: Any) -> tuple[LogitsProcessor, ...]:
    several = (processors,) if callable(processors) else processors
    if isinstance(several, str | bytes) or not isinstance(several, Iterable):
        raise TypeError(
            "logits_processor must be a function of (token_ids, logits), or several; got "
            f"{type(processors).__name__}"
        )
    several = tuple(several)
    for processor in several:
        if not callable(processor):
            raise TypeError(f"logits_processor must hold functions only; got {type(processor).__name__}")
    return several


def _stop_strings(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, bytes) or not isinstance(stop, Iterable):
        raise TypeError(
            f"stop must be a string or several strings; got {shown(stop)} ({type(stop).__name__})"
        )
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    for text in strings:
        if not isinstance(text, str):
            raise TypeError(f"stop must hold strings only; got {text!r} ({type(text).__name__})")
        if not text:
            raise ValueError("stop must not hold an empty string: every text would end at once; leave it out")
    return tuple(dict.fromkeys(strings))


def _biases(name: str, bias: Any, key: Callable[[str, Any], Any]) -> Mapping[Any, float]:
    if bias is None:
        return MappingProxyType({})
    if not isinstance(bias, Mapping):
        what, example = (
            ("token ids", "{42: -100}") if key is _token else ("tuples of token ids", "{(42, 7): -5}")
        )
        raise TypeError(f"{name} must map {what} to numbers, such as {example}; got {type(bias).__name__}")
    checked = {}
    for of, value in bias.items():
        of = key(name, of)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name}[{of}] must be a number; got {shown(value)} ({type(value).__name__})")
        value = as_float(value)
        if not value <= LARGEST_BIAS:  # also true of NaN
            raise ValueError(
                f"{name}[{of}] must be a finite float32, or -inf to forbid the token; got {value:g}"
            )
        checked[of] = value if value >= -LARGEST_BIAS else -math.inf
    return MappingProxyType(checked)
