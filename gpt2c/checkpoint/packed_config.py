"""The configuration in the header of a packed file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from ..config import Config, Head, Pooling, Setting
from ..errors import ConfigError, GPT2CError, shown
from .files import parse_object

__all__ = ["check_keys", "config_from_header", "config_values"]

# Keys of the configuration, and of its head, that are left out if they have their defaults: files written
# before the alternatives existed lack them.
_LATER = ("n_kv_head", "model_type", "n_types", "masked_head", "add_cross_attention", "pooling")
_LATER_OF_HEADS = ("pooled",)


def config_values(config: Config) -> dict[str, Any]:
    """A configuration in the form of a header."""
    values = asdict(config)
    usual = {field.name: field.default for field in fields(Config)} | {"n_kv_head": config.n_head}
    for key in _LATER:
        if values[key] == usual[key]:
            del values[key]
    if values["head"] and not values["head"]["pooled"]:
        del values["head"]["pooled"]
    return values


def check_keys(found: Iterable[str], wanted: Iterable[str], what: str, error: type[GPT2CError]) -> None:
    """Require exactly the wanted keys."""
    found, wanted = dict.fromkeys(found), dict.fromkeys(wanted)
    for verb, keys in (
        ("lacks", [key for key in wanted if key not in found]),
        ("has the unknown", [key for key in found if key not in wanted]),
    ):
        if keys:
            raise error(f"{what} {verb} {', '.join(map(shown, keys[:4]))}{', …' * (len(keys) > 4)}")


def config_from_header(text: str) -> Config:
    """The configuration; ConfigError if a key is missing, unknown or has a wrong value."""
    values = parse_object(text.encode(), "its configuration")
    # Including those with a default, which need not be the model's value.
    known = [field.name for field in fields(Config)]
    check_keys([*values, *_LATER], known, "its configuration", ConfigError)
    head, report = values["head"], values["report"]
    if isinstance(head, dict):
        of_head = [field.name for field in fields(Head)]
        check_keys([*head, *_LATER_OF_HEADS], of_head, "its configuration's head", ConfigError)
        values["head"] = Head(**head)
    elif head is not None:
        raise ConfigError(f"its configuration's head is {shown(head)}; allowed: an object or null")
    if "pooling" in values:
        pooling = values["pooling"]
        if not isinstance(pooling, dict):
            raise ConfigError(f"its configuration's pooling is {shown(pooling)}; allowed: an object")
        of_pooling = [field.name for field in fields(Pooling)]
        check_keys(pooling, of_pooling, "its configuration's pooling", ConfigError)
        values["pooling"] = Pooling(**pooling)
    if not isinstance(report, list) or not all(map(_is_setting, report)):
        raise ConfigError(
            f"its configuration's report is {shown(report)}; allowed: lists [key, value, status, note]"
        )
    values["report"] = tuple(Setting(*line) for line in report)
    return Config(**values)


def _is_setting(line: Any) -> bool:
    return isinstance(line, list) and [type(item) for item in line[:1] + line[2:]] == [str, str, str]
