"""What a model can do, and errors for asking it for anything else."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import Config
from ..errors import ConfigError, shown
from .crossing import Encoded, check_given

__all__ = ["check_language_model", "check_predicts_tokens", "wrong_class"]


def check_language_model(config: Config, name: str, cross: Encoded | None = None) -> None:
    """Raise ConfigError unless the model predicts the next token."""
    check_given(config, name, cross)
    _check_no_classifier(config, name)
    if config.is_bert:
        raise ConfigError(
            f"{name} is a BERT, which reads a text as a whole and cannot continue it: "
            "use fill, score or embed of gpt2c.BERT (gpt2c fill, gpt2c embed)"
        )


def check_predicts_tokens(config: Config, name: str) -> None:
    """Raise ConfigError unless the model predicts tokens: the next ones, or masked ones."""
    _check_no_classifier(config, name)
    if config.is_bert and not config.masked_head:
        raise ConfigError(
            f"{name} has no head that predicts tokens, as a BertForMaskedLM has: use model.embed (gpt2c "
            "embed)"
        )


def _check_no_classifier(config: Config, name: str) -> None:
    head = config.head
    if head is None or not config.is_classifier:
        return
    what, method = ("texts", "classify") if head.kind == "sequence" else ("tokens", "tag")
    predicts = "predicts no tokens" if config.is_bert else "not a language model"
    raise ConfigError(
        f"{name} is a classifier of {what} with the labels {_listed(head.labels)}, and {predicts}: use "
        f"model.{method} (gpt2c classify), or model.embed"
    )


def wrong_class(config: Config, name: str) -> ConfigError:
    """The error for a model that is loaded by a class of another type."""
    if config.is_bert:
        return ConfigError(
            f"{name} is a BERT: load it with gpt2c.BERT.from_pretrained; on the command line, gpt2c fill, "
            "embed, score and classify take it"
        )
    return ConfigError(f"{name} is a GPT-2, not a BERT: load it with gpt2c.GPT2.from_pretrained")


def _listed(labels: Sequence[str]) -> str:
    """A few labels for a message."""
    return ", ".join(map(shown, labels[:4])) + ", …" * (len(labels) > 4)
