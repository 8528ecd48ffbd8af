"""Requests to the endpoints that read texts: their fields, defaults, and allowed combinations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..errors import shown
from .http import Schema

__all__ = [
    "CompletionRequest",
    "EmbeddingRequest",
    "ScoreRequest",
    "SuggestRequest",
]

MOST_TEXTS = 2048  # per request, as in OpenAI's API
MOST_STOPS = 16  # OpenAI's 4 are too few for some tasks of lm-eval

_TEXT = "a string or a list of token ids; to generate unconditionally, an empty string"
_TEXTS = "a string, a list of token ids, or a list of either"


def _is_text(value: Any) -> bool:
    """Whether it is a string or token ids: an empty list is not a text, and true is a number in Python."""
    ids = isinstance(value, list) and value and all(type(item) is int for item in value)
    return isinstance(value, str) or bool(ids)


def _text(value: Any, info: ValidationInfo) -> str | list[int]:
    """One text."""
    if not _is_text(value):
        raise ValueError(f"{info.field_name} is {shown(value)}; allowed: {_TEXT}")
    found: str | list[int] = value
    return found


def _texts(value: Any, info: ValidationInfo) -> list[str | list[int]]:
    """One text or several, as a list."""
    texts = value if isinstance(value, list) and value and isinstance(value[0], str | list) else [value]
    if len(texts) > MOST_TEXTS:
        raise ValueError(
            f"{info.field_name} has {len(texts)} texts; allowed: {MOST_TEXTS}. Send several requests"
        )
    if not all(map(_is_text, texts)):
        raise ValueError(f"{info.field_name} is {shown(value)}; allowed: {_TEXTS}")
    return texts


def _stops(value: Any) -> list[str]:
    """Stop strings, as a list."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError(f"stop is {shown(value)}; allowed: a string or a list of strings")
    if len(stops) > MOST_STOPS:
        raise ValueError(f"stop has {len(stops)} strings; allowed: {MOST_STOPS}")
    if "" in stops:
        raise ValueError("stop has an empty string: every text would end immediately; leave it out")
    return stops


def _biases(value: Any) -> Any:
    """The keys of JSON, which are strings, as token ids."""
    if not isinstance(value, dict):
        return value
    for key, bias in value.items():
        if type(bias) not in (int, float):
            raise ValueError(f"logit_bias has {shown(bias)} for token {shown(key)}; allowed: numbers")
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise ValueError(
                f'logit_bias has the key {shown(key)}; allowed: token ids, as in {{"50256": -100}}'
            )
    return {int(key): bias for key, bias in value.items()}


Text = Annotated[str | list[int], PlainValidator(_text)]
Texts = Annotated[list[str | list[int]], PlainValidator(_texts)]


class TextSchema(Schema):
    """The common fields. Null means the default, as in OpenAI's API."""

    model: str | None = None
    user: str = Field("", max_length=256)

    @model_validator(mode="before")
    @classmethod
    def _defaults_for_nulls(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {
            name: item for name, item in given.items() if item is not None or name not in cls.model_fields
        }


class StreamOptions(Schema):
    """The content of a stream beside the texts."""

    include_usage: bool = False


class CompletionRequest(TextSchema):
    """A request to /v1/completions: OpenAI's fields, then gpt2c's own.

    Fields are checked in this order, each with those before it.
    """

    prompt: Texts = [""]  # noqa: RUF012 (pydantic copies it)
    suffix: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: bool = False
    max_tokens: int = Field(16, ge=0)
    num_beams: int = Field(1, ge=1, le=64)
    num_beam_groups: int = Field(1, ge=1, le=64)
    diversity_penalty: float = Field(0.0, ge=0)
    n: int = Field(1, ge=1)
    best_of: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    logprobs: int | None = Field(None, ge=0)
    stop: Annotated[list[str], PlainValidator(_stops)] = Field(default_factory=list)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases)] = Field(default_factory=dict)
    seed: int | None = Field(None, ge=0, lt=2**64)

    top_k: int = Field(0, ge=0)
    penalty_alpha: float = Field(0.0, ge=0, le=1)
    guidance_scale: float = 1.0
    negative_prompt: Text | None = None
    min_p: float = Field(0.0, ge=0, le=1)
    typical_p: float = Field(1.0, gt=0, le=1)
    top_n_sigma: float = Field(0.0, ge=-1)
    xtc_probability: float = Field(0.0, ge=0, le=1)
    xtc_threshold: float = Field(0.1, gt=0, le=1)
    mirostat: Literal[0, 2] = 0
    mirostat_tau: float = Field(5.0, gt=0)
    mirostat_eta: float = Field(0.1, ge=0)
    repetition_penalty: float = 1.0
    dry_multiplier: float = Field(0.0, ge=0)
    dry_base: float = Field(1.75, ge=1)
    dry_allowed_length: int = Field(2, ge=1)
    dry_penalty_last_n: int = Field(-1, ge=-1)
    dry_sequence_breakers: list[str] = Field(["\n", ":", '"', "*"], fail_fast=True)
    exponential_decay_length_penalty: list[int | float] | None = Field(None, fail_fast=True)
    watermarking_config: dict[str, Any] | None = None
    no_repeat_ngram_size: int = Field(0, ge=0)
    length_penalty: float = 1.0
    min_tokens: int = Field(0, ge=0)
    ignore_eos: bool = False
    special: bool = False
    heal: bool = False
    json_schema: dict[str, Any] | None = None

    @field_validator("stream_options")
    @classmethod
    def _only_of_streams(cls, given: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if not info.data.get("stream"):
            raise ValueError("stream_options goes with stream=true only")
        return given

    @field_validator("max_tokens")
    @classmethod
    def _something_to_answer(cls, given: int, info: ValidationInfo) -> int:
        if given == 0 and not info.data.get("echo"):
            raise ValueError("max_tokens is 0; that goes with echo=true only, to get only the prompt")
        return given

    @field_validator("num_beams")
    @classmethod
    def _no_search_in_streams(cls, given: int, info: ValidationInfo) -> int:
        if given > 1 and info.data.get("stream"):
            raise ValueError("num_beams goes without stream: a search has no text before it ends")
        return given

    @field_validator("n")
    @classmethod
    def _as_many_beams(cls, given: int, info: ValidationInfo) -> int:
        beams = info.data.get("num_beams", 1)
        if 1 < beams < given:
            raise ValueError(
                f"n is {given}; allowed: up to num_beams ({beams}), the number of texts that a search returns"
            )
        return given

    @field_validator("best_of")
    @classmethod
    def _best_of_several(cls, given: int | None, info: ValidationInfo) -> int | None:
        n = info.data.get("n", 1)
        if given is not None and given < n:
            raise ValueError(f"best_of is {given}; allowed: n ({n}) or more")
        if given is not None and info.data.get("stream"):
            raise ValueError("best_of goes without stream: the best text is known only at the end")
        if given is not None and info.data.get("num_beams", 1) > 1:
            raise ValueError("best_of goes without num_beams: a search returns its best texts")
        return given

    @field_validator("logprobs")
    @classmethod
    def _alternatives_of_draws(cls, given: int | None, info: ValidationInfo) -> int | None:
        if given and info.data.get("num_beams", 1) > 1:
            raise ValueError(
                f"logprobs is {given}; allowed with num_beams: 0, which is for the chosen tokens"
            )
        return given

    @field_validator("min_tokens")
    @classmethod
    def _not_more_than_all(cls, given: int, info: ValidationInfo) -> int:
        most = info.data.get("max_tokens", given)
        if given > most:
            raise ValueError(f"min_tokens is {given}; allowed: up to max_tokens ({most})")
        return given

    @field_validator("heal")
    @classmethod
    def _heals_without_logprobs(cls, given: bool, info: ValidationInfo) -> bool:
        if given and info.data.get("logprobs") is not None:
            raise ValueError(
                "heal goes without logprobs: the last word of the prompt is respelled, so its tokens are no "
                "longer those of the prompt"
            )
        return given

    @field_validator("heal", "echo")
    @classmethod
    def _not_before_a_suffix(cls, given: bool, info: ValidationInfo) -> bool:
        if given and info.data.get("suffix") is not None:
            raise ValueError(f"{info.field_name} goes without suffix: the text is then between two others")
        return given

    @field_validator("json_schema")
    @classmethod
    def _ends_of_its_own(cls, given: Any, info: ValidationInfo) -> Any:
        for name in ("ignore_eos", "heal", "min_tokens"):
            if info.data.get(name):
                raise ValueError(f"json_schema goes without {name}: the schema decides what is written")
        return given

    @property
    def n_drawn(self) -> int:
        """The number of texts to generate for each prompt."""
        return self.best_of or self.n

    def options(self) -> dict[str, Any]:
        """The options of ``GPT2.generate``, except the seed, the deadline and the bitmask of a schema."""
        temperature = self.temperature
        if temperature is None:  # OpenAI's default; searches do not sample
            temperature = 1.0 if self.num_beams == 1 and not self.penalty_alpha else 0.0
        same = (
            *("top_p", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "top_k", "min_p"),
            *("typical_p", "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta"),
            *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
            *("dry_sequence_breakers", "exponential_decay_length_penalty", "watermarking_config"),
            *("repetition_penalty", "no_repeat_ngram_size", "num_beams", "length_penalty", "heal"),
            *("num_beam_groups", "diversity_penalty", "penalty_alpha", "guidance_scale", "negative_prompt"),
        )
        options = {name: getattr(self, name) for name in same}
        options |= {
            "max_new_tokens": self.max_tokens,
            "min_new_tokens": self.min_tokens,
            "temperature": temperature,
            "top_n_sigma": max(0.0, self.top_n_sigma),  # -1 means none for clients of llama.cpp
            "top_logprobs": self.logprobs or 0,
            "num_return_sequences": self.n_drawn,
        }
        if self.ignore_eos:
            options["eos_token_id"] = []
        return options


class EmbeddingRequest(TextSchema):
    """A request to /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    pooling: Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean"] | None = None
    normalize: bool | None = None
    special: bool = False

    @field_validator("dimensions", mode="before")
    @classmethod
    def _all_dimensions(cls, given: Any) -> Any:
        raise ValueError(
            "dimensions is not supported: the vectors of the model cannot be shortened; leave it out"
        )


class ScoreRequest(TextSchema):
    """A request to /v1/score."""

    input: Texts
    context: Text | None = None
    top: int = Field(0, ge=0)
    words: bool = False
    tokens: bool = True
    bos: bool = True
    special: bool = False
    stride: int | None = Field(None, ge=1)

    def options(self) -> dict[str, Any]:
        """The options of ``GPT2.score``."""
        return {name: getattr(self, name) for name in ("top", "words", "bos", "special", "stride")}


class SuggestRequest(TextSchema):
    """A request to /v1/suggest."""

    prompt: Text = ""
    kind: Literal["tokens", "words", "completions"] = "tokens"
    k: int = Field(5, ge=1, le=100)
    max_tokens: int | None = Field(None, ge=1, le=64)
    special: bool = False
    session: str | None = Field(None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _length_of_completions(self) -> Self:
        if self.max_tokens is not None and self.kind != "completions":
            raise ValueError('max_tokens goes with kind="completions" only')
        return self
