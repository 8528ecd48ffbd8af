"""Reading and writing config.json and generation_config.json, as transformers does (now and in 2019).

Every field of transformers' ``GPT2Config`` and ``GPTBigCodeConfig`` that changes a result is honoured or
refused by name; the others are listed in :attr:`Config.report` as ignored. Meanings and defaults are those of
transformers 4.57. `bert_config` does the same for BERT.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config import Config, Setting
from ..errors import ConfigError, shown
from .bundled import ENCODER_DECODER
from .hf_head import HEADS, class_of, head_from_hf, head_to_hf

__all__ = [
    "ACTIVATION_NAMES",
    "BERTS",
    "IGNORED",
    "REFUSED",
    "check_asked",
    "config_from_hf",
    "config_to_hf",
    "is_bigcode",
    "is_off",
    "left_over",
    "take",
    "token_ids",
    "token_ids_to_hf",
    "with_generation_config",
]

# Every name in transformers of gpt2c's activations -> the name in gpt2c. "gelu_new",
# "gelu_accurate", "gelu_python_tanh" and "gelu_pytorch_tanh" are one formula, 0.5 x (1 + tanh(sqrt(2/pi) (x +
# 0.044715 x^3))); "gelu_fast" writes sqrt(2/pi) with ten digits, the same float32. "gelu" is the exact one,
# with erf.
ACTIVATION_NAMES = {
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# The name in Config -> the keys of config.json, the usual one first (transformers maps the other one to it).
_KEYS = {
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_inner": ("n_inner",),
    "n_ctx": ("n_positions", "max_position_embeddings"),
    "n_vocab": ("vocab_size",),
    "activation": ("activation_function",),
    "layer_norm_epsilon": ("layer_norm_epsilon",),
    "scale_attn_weights": ("scale_attn_weights",),
    "scale_attn_by_inverse_layer_idx": ("scale_attn_by_inverse_layer_idx",),
    "reorder_and_upcast_attn": ("reorder_and_upcast_attn",),
    "tie_word_embeddings": ("tie_word_embeddings",),
}
_DEFAULTS = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_inner": None,
    "n_ctx": 1024,
    "n_vocab": 50257,
    "activation": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
}
_BIGCODE_DEFAULTS = {"activation": "gelu_pytorch_tanh"}
_DEFAULT_TOKEN_IDS = {"bos_token_id": 50256, "eos_token_id": 50256}

BERTS = ("bert", "roberta", "xlm-roberta", "distilbert")
"""The values of model_type that `bert_config` handles."""

# model_type -> the names of its classes.
_BIGCODE = "gpt_bigcode"
_ARCHITECTURES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Model", *(name for name in HEADS if name.startswith("GPT2"))),
    _BIGCODE: (
        *("GPTBigCodeForCausalLM", "GPTBigCodeModel"),
        *(name for name in HEADS if name.startswith("GPTBigCode")),
    ),
}
# Fields that models of type gpt_bigcode lack; the keys that only they have -> why they are not read.
_GPT2_ALONE = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
_BIGCODE_ALONE = {
    "attention_softmax_in_fp32": "attention is always in float32",
    "scale_attention_softmax_in_fp32": "attention is always in float32",
    "num_key_value_heads": "given by multi_query",
    **dict.fromkeys(
        (
            *("inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length"),
            *("pre_allocate_kv_cache", "validate_runner_input"),
        ),
        "a choice of transformers' implementation",
    ),
}

# Keys that would change the result in a way gpt2c does not support -> why. Null, false and empty values are
# accepted.
REFUSED = {
    "is_encoder_decoder": 'only encoder-decoder models with model_type "encoder-decoder" are supported',
    "pruned_heads": "pruned attention heads are not supported",
    "quantization_config": "quantized weights are not supported: use the original float checkpoint",
    "compression_config": "compressed weights are not supported: use the original float checkpoint",
}

# Keys that change nothing here -> why. Also every key that starts with "summary_".
IGNORED = {
    key: why
    for why, keys in {
        "for training only": (
            "attn_pdrop embd_pdrop resid_pdrop initializer_range gradient_checkpointing finetuning_task "
            "tf_legacy_loss classifier_dropout"
        ),
        "for classifiers of texts": "problem_type",
        "for classifiers of texts or tokens": "id2label num_labels _num_labels",
        "the reverse of id2label": "label2id",
        "a choice of transformers' implementation": (
            "use_cache output_past output_attentions output_hidden_states return_dict torchscript "
            "use_bfloat16 attn_implementation _attn_implementation _attn_implementation_autoset "
            "chunk_size_feed_forward keys_to_ignore_at_inference"
        ),
        "the tensors carry their own type; gpt2c chooses its own": "dtype torch_dtype",
        "a record of where the file came from": "transformers_version name_or_path _name_or_path "
        "_commit_hash",
        "decided by the tokenizer's files": "tokenizer_class pad_token_id sep_token_id prefix",
        "for other kinds of models": (
            "is_decoder tie_encoder_decoder cross_attention_hidden_size decoder_start_token_id n_special "
            "predict_special_tokens"
        ),
        "a default for sampling: shown, not applied": (
            "task_specific_params temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff "
            "do_sample max_length max_new_tokens min_length min_new_tokens num_beams num_beam_groups "
            "num_return_sequences early_stopping diversity_penalty repetition_penalty length_penalty "
            "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids forced_bos_token_id "
            "forced_eos_token_id suppress_tokens begin_suppress_tokens remove_invalid_values "
            "exponential_decay_length_penalty output_scores return_dict_in_generate"
        ),
    }.items()
    for key in keys.split()
}


def config_from_hf(values: Mapping[str, Any]) -> Config:
    """Make a Config from the contents of a ``config.json``.

    Parameters
    ----------
    values : mapping
        The JSON object. Missing fields have transformers' defaults (those of GPT-2 124M). ``n_positions``
        is the number of positions; the old ``n_ctx`` is used only if ``n_positions`` is missing.

    Raises
    ------
    ConfigError
        A field is invalid, or asks for something gpt2c does not support. Keys that change no result are not
        an error: see :attr:`Config.report`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"a configuration is a JSON object, not {shown(values)}")
    _refuse(values)
    report = [
        Setting(key, values[key], "honoured") for key in ("model_type", "architectures") if key in values
    ]
    head = head_from_hf(values, report)
    of_bigcode = values.get("model_type") == _BIGCODE
    defaults = _DEFAULTS | (_BIGCODE_DEFAULTS if of_bigcode else {})
    fields = {
        name: take(values, name, keys, defaults[name], report)
        for name, keys in _KEYS.items()
        if not (of_bigcode and name in _GPT2_ALONE)
    }
    if of_bigcode:
        fields["n_kv_head"] = 1 if _multi_query(values, report) else fields["n_head"]
    fields["add_cross_attention"] = _cross_attention(values, of_bigcode, report)
    if head is not None and head.kind != "choice" and fields["tie_word_embeddings"] is False:
        fields["tie_word_embeddings"] = True
        at = next(i for i, setting in enumerate(report) if setting.key == "tie_word_embeddings")
        report[at] = report[at]._replace(status="ignored", note="a classifier stores no head for tokens")
    config = Config(**fields, head=head)
    ids = token_ids(values, config.n_vocab, report, _DEFAULT_TOKEN_IDS)
    model, ignored = ("GPTBigCode", IGNORED | _BIGCODE_ALONE) if of_bigcode else ("GPT-2", IGNORED)
    seen = {setting.key for setting in report}
    report += [left_over(key, values[key], REFUSED, ignored, model) for key in values if key not in seen]
    return replace(config, **ids, report=tuple(report))


def is_bigcode(config: Config) -> bool:
    """Whether it was made from a config.json of type gpt_bigcode, whose weights have another layout."""
    return Setting("model_type", _BIGCODE, "honoured") in config.report


def with_generation_config(config: Config, values: Mapping[str, Any]) -> Config:
    """The same model with the bos and eos ids of a generation_config.json, which override config.json's.

    A missing key overrides nothing. All other keys are defaults for sampling and change nothing.
    """
    report: list[Setting] = []
    ids = token_ids(values, config.n_vocab, report, {})
    found = tuple(
        setting._replace(note="; ".join(filter(None, (setting.note, "from generation_config.json"))))
        for setting in report
    )
    keys = {setting.key for setting in found}
    kept = tuple(setting for setting in config.report if setting.key not in keys)
    return replace(config, **ids, report=kept + found)


def config_to_hf(config: Config) -> dict[str, Any]:
    """The config.json that `config_from_hf` and transformers read as this Config."""
    shared = config.is_multi_query
    kind = _BIGCODE if shared else "gpt2"
    fields = {
        keys[0]: getattr(config, name) for name, keys in _KEYS.items() if not (shared and name in _GPT2_ALONE)
    }
    return {
        "architectures": [class_of(config, config.head.kind) if config.head else _ARCHITECTURES[kind][0]],
        "model_type": kind,
        **(head_to_hf(config.head) if config.head else {}),
        **(fields | {"multi_query": True} if shared else fields),
        **({"add_cross_attention": True} if config.add_cross_attention else {}),
        **token_ids_to_hf(config),
        "dtype": "float32",
    }


def token_ids_to_hf(config: Config) -> dict[str, Any]:
    """The special token ids for config.json and generation_config.json."""
    eos = config.eos_token_ids
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if len(eos) > 1 else eos[0] if eos else None,
    }


def take(
    values: Mapping[str, Any], name: str, keys: Sequence[str], default: Any, report: list[Setting]
) -> Any:
    """The value of one field, from that of its keys that is present; adds its line to the report."""
    present = [key for key in keys if key in values]
    if keys[0] == "n_positions" and "n_ctx" in values:
        if present:
            report.append(Setting("n_ctx", values["n_ctx"], "ignored", "n_positions counts"))
        else:
            present = ["n_ctx"]
    if not present:
        report.append(Setting(keys[0], default, "default"))
        return ACTIVATION_NAMES[default] if name == "activation" else default
    value, note = values[present[0]], ""
    for other in present[1:]:
        if values[other] != value:
            raise ConfigError(
                f"{present[0]} is {shown(value)} but {other}, another name for it, is "
                f"{shown(values[other])}: they must agree"
            )
    if name == "activation":
        if not isinstance(value, str) or value not in ACTIVATION_NAMES:
            raise ConfigError(
                f"{present[0]} (activation) is {shown(value)}; allowed: one of "
                f"{', '.join(sorted(ACTIVATION_NAMES))}"
            )
        note = "" if ACTIVATION_NAMES[value] == value else f"the same function as {ACTIVATION_NAMES[value]}"
        report.append(Setting(present[0], value, "honoured", note))
        return ACTIVATION_NAMES[value]
    if name == "reorder_and_upcast_attn":
        note = "attention is always in float32"
    if name == "n_inner" and value is None:
        note = "4 * n_embd"
    report += [Setting(key, values[key], "honoured", note) for key in present]
    return value


def _multi_query(values: Mapping[str, Any], report: list[Setting]) -> bool:
    """Whether all heads share one head of keys and values; adds its line to the report."""
    found = values.get("multi_query", True)
    if not isinstance(found, bool):
        raise ConfigError(f"multi_query is {shown(found)}; allowed: true or false")
    note = "all heads share one head of keys and values" if found else "each head has its own keys and values"
    report.append(Setting("multi_query", found, "honoured" if "multi_query" in values else "default", note))
    return found


def _cross_attention(values: Mapping[str, Any], of_bigcode: bool, report: list[Setting]) -> bool:
    """Whether layers attend to the output of an encoder; adds its line to the report, if any."""
    found = values.get("add_cross_attention")
    if not (found is None or isinstance(found, bool)) or (of_bigcode and found):
        allowed = "false, in models of type gpt_bigcode" if of_bigcode else "true or false"
        raise ConfigError(f"add_cross_attention is {shown(found)}; allowed: {allowed}")
    if "add_cross_attention" in values:
        report.append(Setting("add_cross_attention", found, "honoured", "" if found else "not requested"))
    return found is True


def token_ids(
    values: Mapping[str, Any], n_vocab: int, report: list[Setting], defaults: Mapping[str, int]
) -> dict[str, Any]:
    """The special token ids in ``values``, as fields of Config; ids outside the vocabulary are left out.

    Such ids are common in real files (GPT-2's defaults with a smaller vocabulary) and harmless: the model can
    neither produce nor receive such a token. ``defaults`` has the values of missing keys; keys without a
    default are left out.
    """
    found: dict[str, Any] = {}
    for key, name in (("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_ids")):
        if key not in values and key not in defaults:
            continue
        value = values.get(key, defaults.get(key))
        several = isinstance(value, list) and key == "eos_token_id"
        ids = list(value) if several else [] if value is None else [value]
        if not all(type(token) is int for token in ids):
            allowed = (
                "a token id, a list of token ids, or null" if key == "eos_token_id" else "a token id or null"
            )
            raise ConfigError(f"{key} is {shown(value)}; allowed: {allowed}")
        usable = list(dict.fromkeys(token for token in ids if 0 <= token < n_vocab))
        outside = [str(token) for token in ids if not 0 <= token < n_vocab]
        note = f"{', '.join(outside[:4])} outside the vocabulary of {n_vocab}: left out" if outside else ""
        read = "ignored" if outside and not usable else "honoured"
        report.append(Setting(key, value, read if key in values else "default", note))
        found[name] = tuple(usable) if name == "eos_token_ids" else (usable[0] if usable else None)
    return found


def _refuse(values: Mapping[str, Any]) -> None:
    """Raise for models of another kind and for settings that cannot be honoured."""
    model_type = "gpt2" if values.get("model_type") is None else values["model_type"]
    if model_type == ENCODER_DECODER:
        raise ConfigError(
            f"model_type is {model_type!r}: load it with gpt2c.EncoderDecoder.from_pretrained; on the "
            "command line, gpt2c generate, info and convert take it"
        )
    if model_type not in tuple(_ARCHITECTURES):
        known = [f'"{kind}"' for kind in (*_ARCHITECTURES, *BERTS)]
        raise ConfigError(
            f"model_type is {shown(model_type)}; gpt2c runs {', '.join(known[:-1])} and {known[-1]}"
        )
    check_asked(values, _ARCHITECTURES[model_type], REFUSED, "GPT-2")


def check_asked(
    values: Mapping[str, Any], architectures: Sequence[str], refused: Mapping[str, str], model: str
) -> None:
    """Raise for classes other than these, for refused keys, and for a model with its own code."""
    named = values.get("architectures")
    if named is not None and not isinstance(named, list):
        raise ConfigError(f"architectures is {shown(named)}; allowed: a list of names, or null")
    for name in named or ():
        if name not in architectures:
            raise ConfigError(f"architectures names {shown(name)}; gpt2c runs {', '.join(architectures)}")
    for key, why in refused.items():
        value = values.get(key)
        if not is_off(value):
            raise ConfigError(
                f"{key} is {shown(value)}; allowed: null or left out. {why[0].upper()}{why[1:]}"
            )
    auto_map = values.get("auto_map")
    if auto_map is not None and not isinstance(auto_map, Mapping):
        raise ConfigError(f"auto_map is {shown(auto_map)}; allowed: an object, or null")
    for key in auto_map or {}:
        if key.startswith(("AutoModel", "TFAutoModel", "FlaxAutoModel")):
            raise ConfigError(
                f"auto_map names {shown(key)}: this model brings its own Python code and may compute "
                f"something other than {model}; gpt2c does not run it"
            )


def is_off(value: Any) -> bool:
    """Whether a value of config.json requests nothing."""
    return value is None or value is False or value in ({}, [])


def left_over(
    key: str, value: Any, refused: Collection[str], ignored: Mapping[str, str], model: str
) -> Setting:
    """The report's line for a key that is not read."""
    if key in refused:
        return Setting(key, value, "honoured", "not requested")
    if key == "auto_map":
        return Setting(key, value, "ignored", "the model's own code is never run")
    why = "for GPT2DoubleHeadsModel" if key.startswith("summary_") else ignored.get(key)
    if why:
        return Setting(key, value, "ignored", why)
    return Setting(key, value, "unknown", f"not a field of {model}")
