"""Reading and writing config.json of BERT, RoBERTa, XLM-RoBERTa and DistilBERT, as transformers does.

Every field of transformers' ``BertConfig``, ``RobertaConfig`` and ``DistilBertConfig`` that changes a result
is honoured or refused by name. Meanings and defaults are those of transformers 4.57.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..config import Config, Setting
from ..errors import ConfigError, shown
from .hf_config import IGNORED, REFUSED, check_asked, left_over, take, token_ids, token_ids_to_hf
from .hf_head import class_of, head_from_hf, head_to_hf

__all__ = ["FAMILIES", "bert_from_hf", "bert_to_hf", "names_no_class", "said"]

_EPSILON = 1e-12


class _Family(NamedTuple):
    """Names for the models of one model_type, and the keys of their fields."""

    model: str  # for messages
    classes: str  # prefix of its class names
    keys: Mapping[str, tuple[str, ...]]  # name in Config -> keys in config.json, the usual one first
    defaults: Mapping[str, Any]


_KEYS = {
    "n_layer": ("num_hidden_layers",),
    "n_head": ("num_attention_heads",),
    "n_embd": ("hidden_size",),
    "n_inner": ("intermediate_size",),
    "n_ctx": ("max_position_embeddings",),
    "n_vocab": ("vocab_size",),
    "n_types": ("type_vocab_size",),
    "activation": ("hidden_act",),
    "layer_norm_epsilon": ("layer_norm_eps",),
    "tie_word_embeddings": ("tie_word_embeddings",),
}
_DISTILBERT_KEYS = {
    "n_layer": ("n_layers", "num_hidden_layers"),
    "n_head": ("n_heads", "num_attention_heads"),
    "n_embd": ("dim", "hidden_size"),
    "n_inner": ("hidden_dim",),
    "n_ctx": ("max_position_embeddings",),
    "n_vocab": ("vocab_size",),
    "activation": ("activation",),
    "tie_word_embeddings": ("tie_word_embeddings",),
}
_DEFAULTS = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_inner": 3072,
    "n_ctx": 512,
    "n_vocab": 30522,
    "n_types": 2,
    "activation": "gelu",
    "layer_norm_epsilon": _EPSILON,
    "tie_word_embeddings": True,
}
FAMILIES = {
    "bert": _Family("BERT", "Bert", _KEYS, _DEFAULTS),
    "roberta": _Family("RoBERTa", "Roberta", _KEYS, _DEFAULTS | {"n_vocab": 50265}),
    "xlm-roberta": _Family("XLM-RoBERTa", "XLMRoberta", _KEYS, _DEFAULTS),
    "distilbert": _Family("DistilBERT", "DistilBert", _DISTILBERT_KEYS, _DEFAULTS | {"n_layer": 6}),
}
_ROBERTA_PAD = 1
_ROBERTA_TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 2}
_CLASSES = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
_MASKED = ("ForMaskedLM", "ForPreTraining")

_REFUSED = REFUSED | {
    "is_decoder": "decoders, whose tokens attend only to earlier ones, are not supported",
    "add_cross_attention": "cross-attention to an encoder is not supported",
}
_IGNORED = IGNORED | {
    key: why
    for why, keys in {
        "for training only": (
            "hidden_dropout_prob attention_probs_dropout_prob dropout attention_dropout qa_dropout "
            "seq_classif_dropout"
        ),
        "the table of positions is stored": "sinusoidal_pos_embds",
        "given by tie_word_embeddings": "tie_weights_",
        "not read by transformers": (
            "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers "
            "pooler_size_per_head pooler_type"
        ),
    }.items()
    for key in keys.split()
}


def bert_from_hf(values: Mapping[str, Any]) -> Config:
    """Make a Config from the contents of a ``config.json`` whose model_type is one of `hf_config.BERTS`.

    If it names no class, the Config has the head that predicts tokens, which need not be stored.

    Raises
    ------
    ConfigError
        A field is invalid, or asks for something gpt2c does not support.
    """
    kind = values["model_type"]
    family, of_roberta = FAMILIES[kind], kind in ("roberta", "xlm-roberta")
    classes = [family.classes + name for name in _CLASSES + (("ForPreTraining",) if kind == "bert" else ())]
    check_asked(values, classes, _REFUSED, family.model)
    report = [
        Setting(key, values[key], "honoured") for key in ("model_type", "architectures") if key in values
    ]
    head = head_from_hf(values, report, pooling="relu" if kind == "distilbert" else "tanh")
    masked = _is_masked(values, head is not None)
    fields = {
        name: take(values, name, keys, family.defaults[name], report) for name, keys in family.keys.items()
    }
    _check_sizes(fields, family)
    if kind != "distilbert":
        _check_positions(values, report)
    if of_roberta:
        fields["n_ctx"] -= _skipped(values, fields["n_ctx"], report)
        if masked and fields["activation"] != "gelu" and not values.get("architectures"):
            masked = False
        elif masked and fields["activation"] != "gelu":
            raise ConfigError(
                f"hidden_act is {shown(values['hidden_act'])}; a {family.model} that predicts "
                "tokens allows only 'gelu', which its head always uses"
            )
    if not masked and fields["tie_word_embeddings"] is False:
        fields["tie_word_embeddings"] = True
        at = next(i for i, setting in enumerate(report) if setting.key == "tie_word_embeddings")
        report[at] = report[at]._replace(status="ignored", note="this model has no head for tokens")
    config = Config(
        **{"layer_norm_epsilon": _EPSILON} | fields, head=head, model_type="bert", masked_head=masked
    )
    ids = token_ids(values, config.n_vocab, report, _ROBERTA_TOKEN_IDS if of_roberta else {})
    seen = {setting.key for setting in report}
    report += [
        left_over(key, values[key], _REFUSED, _IGNORED, family.model) for key in values if key not in seen
    ]
    return replace(config, **ids, report=tuple(report))


def bert_to_hf(config: Config) -> dict[str, Any]:
    """The config.json that `bert_from_hf` and transformers read as this Config.

    It describes a BERT, or a DistilBERT if there are no token types.

    Raises
    ------
    ConfigError
        Neither can describe this model.
    """
    kind = "bert" if config.n_types else "distilbert"
    family, head = FAMILIES[kind], config.head
    pooling = "tanh" if config.n_types else "relu"
    if head is not None and head.pooled and head.activation != pooling:
        raise ConfigError(
            f"the head's activation is {head.activation!r}; in transformers a {family.model} always has "
            f"{pooling!r}"
        )
    if kind == "distilbert" and config.layer_norm_epsilon != _EPSILON:
        raise ConfigError(
            f"layer_norm_epsilon is {config.layer_norm_epsilon}; in transformers a {family.model} always has "
            f"{_EPSILON}"
        )
    name = family.classes + ("ForMaskedLM" if config.masked_head else "Model")
    if head is not None:
        name = family.classes + class_of(config, head.kind).removeprefix("Bert")
    return {
        "architectures": [name],
        "model_type": kind,
        **(head_to_hf(head) if head else {}),
        **{keys[0]: getattr(config, field) for field, keys in family.keys.items()},
        **token_ids_to_hf(config),
        **_tokenizer_class(config),
        "dtype": "float32",
    }


def _tokenizer_class(config: Config) -> dict[str, str]:
    """The class of the tokenizer, if it is not the one that goes with the written model_type."""
    classes = {"roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
    found = classes.get(said(config).get("model_type", ""))
    return {} if found is None else {"tokenizer_class": found}


def said(config: Config) -> dict[str, Any]:
    """The values of the keys in a Config's config.json, or their defaults."""
    return {setting.key: setting.value for setting in config.report}


def names_no_class(config: Config) -> bool:
    """Whether its config.json leaves the model's head open."""
    return not said(config).get("architectures")


def _is_masked(values: Mapping[str, Any], has_head: bool) -> bool:
    """Whether the model has the head that predicts tokens."""
    names = values.get("architectures") or ()
    found = any(name.endswith(_MASKED) for name in names)
    if found and has_head:
        raise ConfigError(
            f"architectures names several heads, {shown(names)}: keep only the one that the model has"
        )
    return found or not names


def _check_sizes(fields: Mapping[str, Any], family: _Family) -> None:
    """Refuse values that are not sizes, by their keys; `Config` refuses those that are too large."""
    for name in ("n_layer", "n_head", "n_embd", "n_inner", "n_ctx", "n_vocab", "n_types"):
        if name in fields and (type(fields[name]) is not int or fields[name] < 1):
            raise ConfigError(
                f"{family.keys[name][0]} is {shown(fields[name])}; allowed: an integer of at least 1"
            )
    if fields["n_embd"] % fields["n_head"]:
        width, heads = family.keys["n_embd"][0], family.keys["n_head"][0]
        raise ConfigError(f"{width} {fields['n_embd']} is not a multiple of {heads} {fields['n_head']}")


def _check_positions(values: Mapping[str, Any], report: list[Setting]) -> None:
    """Refuse position embeddings other than absolute ones."""
    kind = values.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ConfigError(
            f"position_embedding_type is {shown(kind)}; allowed: 'absolute'. Relative positions in "
            "attention are not supported"
        )
    report.append(
        Setting(
            "position_embedding_type", kind, "honoured" if "position_embedding_type" in values else "default"
        )
    )


def _skipped(values: Mapping[str, Any], n_positions: int, report: list[Setting]) -> int:
    """The unused rows of RoBERTa's position table: positions start at pad_token_id + 1."""
    pad = values.get("pad_token_id", _ROBERTA_PAD)
    if type(pad) is not int or not 0 <= pad < n_positions - 1:
        raise ConfigError(
            f"pad_token_id is {shown(pad)}; allowed: an integer from 0 to {n_positions - 2}, since positions "
            f"start after it and max_position_embeddings is {n_positions}"
        )
    status = "honoured" if "pad_token_id" in values else "default"
    report.append(Setting("pad_token_id", pad, status, f"positions start at {pad + 1}"))
    return pad + 1
