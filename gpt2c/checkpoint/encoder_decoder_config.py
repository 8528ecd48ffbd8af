"""config.json of an encoder-decoder model: those of a BERT and of a GPT-2 that attends to its output.

Every field of transformers' ``EncoderDecoderConfig`` that changes a result is honoured or refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..config import Config
from ..errors import ConfigError, shown
from .bert_config import bert_from_hf
from .bundled import ENCODER_DECODER
from .hf_config import BERTS, REFUSED, check_asked, config_from_hf, is_off, token_ids

__all__ = ["Pair", "pair_from_hf"]

_REFUSED = {key: why for key, why in REFUSED.items() if key != "is_encoder_decoder"} | {
    "tie_encoder_decoder": "weights that encoder and decoder share are not supported"
}
# The class without a head: the names of its tensors have no prefix.
_BODIES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "distilbert": "DistilBert"}


class Pair(NamedTuple):
    """The configurations of the two parts."""

    encoder: Config
    decoder: Config
    """Its bos is the token that the decoder starts a text with; it never appears in results."""


def pair_from_hf(values: Mapping[str, Any], generation_config: Mapping[str, Any]) -> Pair:
    """The configurations in the contents of a config.json and of a generation_config.json.

    Raises
    ------
    ConfigError
        A field is invalid, or asks for something gpt2c does not support.
    """
    if values.get("model_type") != ENCODER_DECODER:
        raise ConfigError(
            f"model_type is {shown(values.get('model_type'))}; gpt2c.EncoderDecoder loads models of the type "
            f"{ENCODER_DECODER!r}: gpt2c.GPT2 and gpt2c.BERT load the others"
        )
    check_asked(values, ("EncoderDecoderModel",), _REFUSED, "a BERT and a GPT-2")
    of_encoder, of_decoder = (_part(values, name) for name in ("encoder", "decoder"))
    encoder, decoder = _encoder(of_encoder), _decoder(of_decoder)
    width = of_decoder.get("cross_attention_hidden_size")
    if width is not None and (width != decoder.n_embd or encoder.n_embd != decoder.n_embd):
        raise ConfigError(
            f"decoder: cross_attention_hidden_size is {shown(width)}; allowed: null, or the width of both "
            f"parts; the encoder is {encoder.n_embd} wide, and the decoder {decoder.n_embd}"
        )
    said = (generation_config, values, of_decoder)
    start = _first(said, "decoder_start_token_id", "bos_token_id")
    found = token_ids(
        {"bos_token_id": start, "eos_token_id": _first(said, "eos_token_id")}, decoder.n_vocab, [], {}
    )
    if found["bos_token_id"] is None:
        raise ConfigError(
            f"decoder_start_token_id is {shown(start)}; allowed: a token id from 0 to {decoder.n_vocab - 1}, "
            "the token that the decoder starts with; set it in config.json or generation_config.json"
        )
    return Pair(encoder, replace(decoder, **found))


def _part(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"{name} is {shown(found)}; allowed: its configuration, a JSON object")
    return found


def _encoder(values: Mapping[str, Any]) -> Config:
    kind = values.get("model_type")
    if kind not in BERTS:
        raise ConfigError(f"encoder: model_type is {shown(kind)}; allowed: {', '.join(map(repr, BERTS))}")
    # Whatever its class was, it has no head here.
    return _naming("encoder", bert_from_hf, {**values, "architectures": [f"{_BODIES[kind]}Model"]})


def _decoder(values: Mapping[str, Any]) -> Config:
    kind = values.get("model_type")
    if kind != "gpt2":
        raise ConfigError(f"decoder: model_type is {shown(kind)}; allowed: 'gpt2'")
    if is_off(values.get("add_cross_attention")):
        raise ConfigError("decoder: add_cross_attention is false or missing; allowed: true")
    return _naming("decoder", config_from_hf, {**values, "architectures": ["GPT2LMHeadModel"]})


def _naming(part: str, read: Any, values: Mapping[str, Any]) -> Config:
    try:
        config: Config = read(values)
    except ConfigError as error:
        raise ConfigError(f"{part}: {error}") from None
    return config


def _first(said: tuple[Mapping[str, Any], ...], *keys: str) -> Any:
    """The first value that is not null: of the first key in any of the objects, then of the next key."""

    def all_values() -> Iterator[Any]:
        for key in keys:
            yield from (values.get(key) for values in said)

    return next((value for value in all_values() if value is not None), None)
