"""Heads for other tasks in config.json: labels of texts or tokens, or a choice between texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Config, Head, Setting
from ..errors import ConfigError, shown

__all__ = ["HEADS", "class_of", "head_from_hf", "head_to_hf"]

# The classes of transformers that have one -> its kind in gpt2c.
HEADS = {
    "GPT2ForSequenceClassification": "sequence",
    "GPT2ForTokenClassification": "token",
    "GPT2DoubleHeadsModel": "choice",
    "GPTBigCodeForSequenceClassification": "sequence",
    "GPTBigCodeForTokenClassification": "token",
    **{
        f"{family}For{kind}Classification": kind.lower()
        for family in ("Bert", "Roberta", "XLMRoberta", "DistilBert")
        for kind in ("Sequence", "Token")
    },
}
_PROBLEMS = {
    "regression": "regression",
    "single_label_classification": "single",
    "multi_label_classification": "multi",
}
# What the choice head may say of itself -> the allowed values, the default first. For "cls_index"
# transformers uses the last token, unless another one is passed with the text.
_SUMMARY = {
    "summary_type": ("cls_index", "last"),
    "summary_use_proj": (True,),
    "summary_proj_to_labels": (True,),
    "summary_activation": (None, "tanh"),
}
_MOST_LABELS = 65_536


def head_from_hf(values: Mapping[str, Any], report: list[Setting], pooling: str | None = None) -> Head | None:
    """The head that a ``config.json`` requests, if any; adds the keys read to the report.

    ``pooling`` is the activation of the layer after the first token of a text in BERT.

    Raises
    ------
    ConfigError
        It names several heads, or one that gpt2c cannot honour.
    """
    kinds = {HEADS[name] for name in values.get("architectures") or () if name in HEADS}
    if len(kinds) > 1:
        raise ConfigError(
            f"architectures names several heads, {shown(values['architectures'])}: keep only the one that "
            "the model has"
        )
    for kind in kinds:
        if kind == "choice":
            return _choice(values, report)
        labels = _labels(values, report)
        if kind == "token":
            return Head(kind, labels)
        problem = _problem(values, len(labels), report)
        if pooling is not None:
            return Head(kind, labels, problem, activation=pooling, pooled=True)
        return Head(kind, labels, problem, _pad(values, report))
    return None


def class_of(config: Config, kind: str) -> str:
    """The class of transformers that has a head of this kind, for a model of this configuration."""
    family = "Bert" if config.is_bert else "GPTBigCode" if config.is_multi_query else "GPT2"
    names = [name for name, other in HEADS.items() if other == kind]
    return next((name for name in names if name.startswith(family)), names[0])


def head_to_hf(head: Head) -> dict[str, Any]:
    """The keys of a head in ``config.json``, as `head_from_hf` and transformers read them."""
    if head.kind == "choice":
        return {key: values[0] for key, values in _SUMMARY.items()} | {"summary_activation": head.activation}
    found: dict[str, Any] = {"id2label": {str(i): label for i, label in enumerate(head.labels)}}
    found["label2id"] = {label: i for i, label in enumerate(head.labels)}
    if head.kind == "sequence":
        [found["problem_type"]] = [name for name, problem in _PROBLEMS.items() if problem == head.problem]
    if head.kind == "sequence" and not head.pooled:
        found["pad_token_id"] = head.pad_token_id
    return found


def _given(values: Mapping[str, Any], key: str, default: Any, report: list[Setting], note: str = "") -> Any:
    """The value of a key, or its default; adds the line to the report."""
    report.append(Setting(key, values.get(key, default), "honoured" if key in values else "default", note))
    return values.get(key, default)


def _labels(values: Mapping[str, Any], report: list[Setting]) -> tuple[str, ...]:
    """The names of the labels, by id."""
    names, number = values.get("id2label"), values.get("num_labels")
    if number is not None and (type(number) is not int or not 1 <= number <= _MOST_LABELS):
        raise ConfigError(f"num_labels is {shown(number)}; allowed: an integer from 1 to {_MOST_LABELS}")
    if "num_labels" in values or names is None:
        _given(values, "num_labels", 2, report)
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(number or 2))
    _given(values, "id2label", None, report)
    ids = {str(i) for i in range(len(names))} if isinstance(names, Mapping) else set()
    if not ids or set(map(str, names)) != ids:
        raise ConfigError(
            f"id2label is {shown(names)}; allowed: an object with a name for each id from 0, without gaps"
        )
    if number is not None and number != len(names):
        raise ConfigError(f"num_labels is {number}, but id2label names {len(names)} labels: they must agree")
    by_id = {int(key): name for key, name in names.items()}
    if not all(type(name) in (str, int) for name in by_id.values()):
        raise ConfigError(f"id2label is {shown(names)}; allowed: names that are texts")
    return tuple(str(by_id[i]) for i in range(len(by_id)))


def _problem(values: Mapping[str, Any], n_labels: int, report: list[Setting]) -> str:
    """The meaning of the logits, as the text-classification pipeline of transformers decides."""
    given = values.get("problem_type")
    if given is not None and (not isinstance(given, str) or given not in _PROBLEMS):
        raise ConfigError(
            f"problem_type is {shown(given)}; allowed: null or one of {', '.join(map(repr, _PROBLEMS))}"
        )
    found = "single" if given is None else _PROBLEMS[given]
    if n_labels == 1 and found == "single":
        found = "multi"
    means = {"single": "softmax", "multi": "a sigmoid for each label", "regression": "logits are the values"}
    _given(values, "problem_type", None, report, means[found])
    return found


def _pad(values: Mapping[str, Any], report: list[Setting]) -> int | None:
    given: int | None = values.get("pad_token_id")
    note = "the last token counts" if given is None else "the last token other than this one counts"
    return _given(values, "pad_token_id", None, report, note)  # checked by Head


def _choice(values: Mapping[str, Any], report: list[Setting]) -> Head:
    found = {}
    for key, allowed in _SUMMARY.items():
        found[key] = _given(values, key, allowed[0], report)
        if not any(found[key] is value or found[key] == value for value in allowed):
            raise ConfigError(
                f"{key} is {shown(found[key])}; the choice head of GPT2DoubleHeadsModel supports only "
                f"{' or '.join(map(repr, allowed))}. To load it as a language model only, put "
                'GPT2LMHeadModel in "architectures"'
            )
    return Head("choice", activation=found["summary_activation"])
