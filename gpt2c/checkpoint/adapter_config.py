"""The adapter_config.json of a LoRA adapter: its settings and its base."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown
from .directory import ADAPTER_CONFIG
from .files import read_object
from .hub import looks_like_name

__all__ = ["Settings", "base_of", "needed_by", "read_settings", "refusal"]

# They decide what was trained, so which tensors exist, but not what these do.
_IGNORED = (
    "task_type auto_mapping peft_version inference_mode target_modules exclude_modules lora_dropout "
    "fan_in_fan_out bias layers_to_transform layers_pattern loftq_config eva_config corda_config "
    "lora_ga_config runtime_config megatron_core qalora_group_size"
)
_HONOURED = (
    "peft_type r lora_alpha rank_pattern alpha_pattern use_rslora use_dora lora_bias modules_to_save "
    "trainable_token_indices ensure_weight_tying base_model_name_or_path revision init_lora_weights"
)
# Others also change the base's weights when training starts.
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")


class Settings(NamedTuple):
    """The contents of an adapter_config.json."""

    rank: int
    alpha: float
    ranks: dict[str, int]  # patterns of modules -> their rank
    alphas: dict[str, float]
    is_rank_stabilised: bool
    is_dora: bool
    own: tuple[str, ...]  # modules stored whole
    tokens: dict[str, list[int]]  # modules -> their stored rows
    ties: bool  # ties the embedding and the head, whatever was trained
    base: str | None
    revision: str | None
    where: str

    def rank_of(self, module: str) -> int:
        """The rank of a module's pair."""
        return self.ranks.get(self._key(self.ranks, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """The factor on a module's B A."""
        rank = self.rank_of(module)
        alpha = self.alphas.get(self._key(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)

    def is_own(self, module: str) -> bool:
        """Whether a module, or one that contains it, is stored whole."""
        parts = module.split(".")
        return any(".".join(parts[: n + 1]).endswith(self.own) for n in range(len(parts)))

    def _key(self, patterns: Mapping[str, Any], module: str) -> str:
        return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def refusal(where: object, what: str) -> CheckpointError:
    """An error for features that only PEFT has."""
    return CheckpointError(
        f"{where} {what}, which gpt2c does not support: merge the adapter with PEFT, "
        "`model.merge_and_unload().save_pretrained(DIRECTORY)`, and load that directory"
    )


def read_settings(path: Path) -> Settings:
    """Read an adapter_config.json; a CheckpointError for anything gpt2c does not support."""
    values = read_object(path)
    if values.get("peft_type") != "LORA":
        raise refusal(path, f"says peft_type {shown(values.get('peft_type'))}")
    known = {*_IGNORED.split(), *_HONOURED.split()}
    for key, value in values.items():
        if key not in known and value not in (None, False, "", [], {}):
            raise refusal(path, f"says {key} {shown(value)}")
    beginning = values.get("init_lora_weights", True)
    if not (isinstance(beginning, bool) or beginning in _INITIALISATIONS):
        raise refusal(path, f"says init_lora_weights {shown(beginning)} (it also changes the base)")
    read = _Values(values, path)
    return Settings(
        rank=read.number("r", 8, int),
        alpha=read.number("lora_alpha", 8, float),
        ranks=read.patterns("rank_pattern", int),
        alphas=read.patterns("alpha_pattern", float),
        is_rank_stabilised=read.flag("use_rslora"),
        is_dora=read.flag("use_dora"),
        own=tuple(read.texts("modules_to_save")),
        tokens=read.tokens(),
        ties=read.flag("ensure_weight_tying"),
        base=read.text("base_model_name_or_path"),
        revision=read.text("revision"),
        where=str(path),
    )


class _Values:
    """The values of an adapter_config.json, each checked when it is read."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def error(self, key: str, allowed: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {key} is {shown(self.values.get(key))}; allowed: {allowed}. "
            "Get the adapter again or correct it"
        )

    def number(self, key: str, default: float, kind: type) -> Any:
        value = default if self.values.get(key) is None else self.values[key]
        if not _is_number(value, kind):
            raise self.error(key, "a number above 0" if kind is int else "a number")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value not in (None, True, False):
            raise self.error(key, "true or false")
        return bool(value)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if not isinstance(value, str | None):
            raise self.error(key, "a text")
        return value or None

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "a list of texts")
        return value

    def patterns(self, key: str, kind: type) -> dict[str, Any]:
        value = self.values.get(key) or {}
        if not isinstance(value, dict) or not all(_is_number(item, kind) for item in value.values()):
            raise self.error(key, "an object of numbers by names of modules")
        for pattern in value:
            # The number of ways to match a name, each of which may be tried in vain.
            ways = math.prod(part.count("|") + 1 for part in re.split("[()]", pattern))
            ways *= 2 ** pattern.count("?") * 50 ** len(re.findall("[*+{]", pattern))
            if re.search(r"\)[*+{?]", pattern) or ways > 10**6:
                raise self.error(key, "a pattern without repeated groups, and with few repetitions,")
            try:
                re.compile(pattern)
            except re.error:
                raise self.error(key, "a regular expression for each name") from None
        return value

    def tokens(self) -> dict[str, list[int]]:
        value = self.values.get("trainable_token_indices") or {}
        value = {"wte": value} if isinstance(value, list) else value
        if not isinstance(value, dict) or not all(
            isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)
            for rows in value.values()
        ):
            raise self.error("trainable_token_indices", "a list of token ids, or an object of such lists,")
        return value


def _is_number(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and 1 <= value <= 2**20
    return type(value) in (int, float) and abs(value) < 1e30


# ---- the base


def base_of(path: Path, name: str) -> tuple[str, str | None]:
    """The base model named by the adapter in a directory: a path, or a name and revision.

    Raises CheckpointError, which says how to give the base.
    """
    settings = read_settings(path / ADAPTER_CONFIG)
    base = settings.base
    if base is None:
        raise CheckpointError(
            f"{name} is a LoRA adapter that does not name its base; give it: {_give_base(name)}"
        )
    place = next((place for place in (path / base, Path(base)) if place.exists()), None)
    if place is None and not looks_like_name(base):
        raise CheckpointError(
            f"{name} is a LoRA adapter for {base!r}, which does not exist; give the base: {_give_base(name)}"
        )
    return (base, settings.revision) if place is None else (str(place), None)


@contextlib.contextmanager
def needed_by(name: str) -> Iterator[None]:
    """A context for opening the base of an adapter; its errors say how to give the base."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(
            f"{name} is a LoRA adapter, and its base cannot be opened: {error}. If the base is elsewhere, "
            f"give it: {_give_base(name)}"
        ) from error


def _give_base(name: str) -> str:
    return f"from_pretrained(BASE, adapter={name!r}), or -m BASE --adapter {name} as options"
