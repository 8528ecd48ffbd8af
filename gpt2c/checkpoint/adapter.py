"""LoRA adapters as PEFT saves them: what adapter_config.json says, and what the tensors beside it change.

Names and formulae are those of PEFT 0.21 (``tuners/lora`` and ``utils/save_and_load.py``). A pair A, B adds
``scaling * B A`` to a matrix; for GPT-2's dense layers, which are stored as [in, out], and for embeddings its
transpose. What an adapter stores whole, such as ``modules_to_save`` and trained biases, replaces.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown
from .directory import ADAPTER_CONFIG as CONFIG
from .directory import ADAPTER_FILES as FILES
from .directory import open_weights
from .files import RegularFile, read_object
from .hub import looks_like_name
from .names import canonical
from .tensors import TensorInfo

__all__ = [
    "CONFIG",
    "FILES",
    "HEAD",
    "WTE",
    "Adapter",
    "LowRank",
    "Settings",
    "base_of",
    "needed_by",
    "open_adapter",
    "read_settings",
    "refusal",
]

WTE, HEAD = "wte.weight", "lm_head.weight"

# They decide what was trained, and so which tensors there are, but not what these do.
_IGNORED = (
    "task_type auto_mapping peft_version inference_mode target_modules exclude_modules lora_dropout "
    "fan_in_fan_out bias layers_to_transform layers_pattern loftq_config eva_config corda_config "
    "lora_ga_config runtime_config megatron_core qalora_group_size"
)
_HONOURED = (
    "peft_type r lora_alpha rank_pattern alpha_pattern use_rslora use_dora lora_bias modules_to_save "
    "trainable_token_indices ensure_weight_tying base_model_name_or_path revision init_lora_weights"
)
# Others change the base's weights as well when training begins.
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")

_NAME = re.compile(
    r"(?P<module>.+?)\."
    r"(?:(?P<kind>lora_[AB])(?:\.\w+)?\.(?P<pair>weight|bias)"
    r"|(?P<embedding>lora_embedding_[AB])(?:\.\w+)?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.\w+)??(?:\.weight)?"
    r"|(?P<rows>token_adapter\.trainable_tokens_delta)(?:\.\w+)?"
    r"|(?:(?P<base>(?:token_adapter\.)?base_layer|original_module)\.|(?P<own>modules_to_save)\.(?:\w+\.)?)?(?P<whole>weight|bias))"
)
# Of a tensor; those of GPT-2 have less than 100 characters.
_LONGEST_NAME = 200
# What there must be, too.
_PARTNERS = {
    "lora_B.weight": ("lora_A.weight",),
    "lora_embedding_B": ("lora_embedding_A",),
    "lora_magnitude_vector": ("lora_A.weight", "lora_embedding_A"),
}


class LowRank(NamedTuple):
    """What a pair A, B adds to a matrix."""

    a: TensorInfo  # [r, in]
    b: TensorInfo  # [out, r]
    scaling: float
    transposed: bool  # the matrix is stored as [in, out]
    magnitude: TensorInfo | None = None  # of DoRA: the norms that outputs have afterwards


class Settings(NamedTuple):
    """What adapter_config.json says."""

    rank: int
    alpha: float
    ranks: dict[str, int]  # patterns of modules -> what counts for them
    alphas: dict[str, float]
    is_rank_stabilised: bool
    is_dora: bool
    own: tuple[str, ...]  # modules that are stored whole
    tokens: dict[str, list[int]]  # modules -> the rows of them that are stored
    ties: bool  # the embedding and the head, whatever was trained
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
        """Whether a module, or one that it is in, is among those that are stored whole."""
        parts = module.split(".")
        return any(".".join(parts[: n + 1]).endswith(self.own) for n in range(len(parts)))

    def _key(self, patterns: Mapping[str, Any], module: str) -> str:
        return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


class Adapter(NamedTuple):
    """An adapter on disk. The names are canonical ones."""

    path: Path
    name: str  # for display
    weight: float
    settings: Settings
    files: list[RegularFile]
    pairs: dict[str, LowRank]
    biases: dict[str, tuple[TensorInfo, float]]  # what is added to a bias, and the factor on it
    rows: dict[str, tuple[list[int], TensorInfo]]  # rows that are replaced
    base: dict[str, TensorInfo]  # tensors of the base itself, as it was changed or enlarged
    own: dict[str, TensorInfo]  # modules_to_save, which take the place of the base's

    @property
    def replaced(self) -> set[str]:
        """The tensors that are not added to but replaced, in whole or in part."""
        return {*self.rows, *self.base, *self.own}


def open_adapter(path: Path, name: str, weight: float, stack: contextlib.ExitStack) -> Adapter:
    """Read an adapter's configuration and the names of its tensors.

    Parameters
    ----------
    path : Path
        A directory with adapter_config.json and adapter_model.safetensors, or else .bin.
    name : str
        For display.
    weight : float
        A factor on what it adds.
    stack : ExitStack
        Its file is entered into it.

    Raises
    ------
    CheckpointError
        It is damaged, or asks for something that gpt2c does not do.
    """
    if not (path / CONFIG).exists():
        inside = path.parent if path.is_file() else path
        hint = f": give the directory that it is in, {inside}" if (inside / CONFIG).exists() else ""
        raise CheckpointError(f"{path} is no adapter, which is a directory with {CONFIG}{hint}")
    settings = read_settings(path / CONFIG)
    file = next((path / name for name in FILES if (path / name).exists()), None)
    if file is None:
        raise CheckpointError(f"{path} has no {' and no '.join(FILES)}: the adapter's weights are missing")
    files, stored, _ = open_weights(file, stack)
    adapter = Adapter(path, name, weight, settings, files, {}, {}, {}, {}, {})
    _sort(adapter, stored, file)
    if not adapter.pairs and not adapter.biases and not adapter.replaced:
        raise CheckpointError(f"{file} holds nothing: save the adapter again")
    if settings.tokens and not adapter.rows:
        raise CheckpointError(f"{path / CONFIG} has trainable_token_indices, but {file} holds no such tokens")
    return adapter


# ---- the base


def base_of(path: Path, name: str) -> tuple[str, str | None]:
    """The model that the adapter in a directory was trained on, as it says: a path, or a name and revision.

    Raises CheckpointError, which tells how to give it.
    """
    settings = read_settings(path / CONFIG)
    base = settings.base
    if base is None:
        raise CheckpointError(
            f"{name} is a LoRA adapter that does not say for which model: {_give_base(name)}"
        )
    place = next((place for place in (path / base, Path(base)) if place.exists()), None)
    if place is None and not looks_like_name(base):
        raise CheckpointError(
            f"{name} is a LoRA adapter for {base!r}, which is not there: {_give_base(name)}"
        )
    return (base, settings.revision) if place is None else (str(place), None)


@contextlib.contextmanager
def needed_by(name: str) -> Iterator[None]:
    """A context for opening the base of an adapter, whose errors tell how to give it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(
            f"{name} is a LoRA adapter, and its base cannot be opened: {error}. If the base is elsewhere, "
            f"{_give_base(name)}"
        ) from error


def _give_base(name: str) -> str:
    return f"give its base: from_pretrained(BASE, adapter={name!r}), or -m BASE --adapter {name} as options"


# ---- adapter_config.json


def refusal(where: object, what: str) -> CheckpointError:
    """An error for what only PEFT can do."""
    return CheckpointError(
        f"{where} {what}, which gpt2c does not do: merge the adapter with PEFT, "
        "`model.merge_and_unload().save_pretrained(DIRECTORY)`, and load that directory"
    )


def read_settings(path: Path) -> Settings:
    """What an adapter_config.json says; a CheckpointError where gpt2c cannot do it."""
    values = read_object(path)
    if values.get("peft_type") != "LORA":
        raise refusal(path, f"says peft_type {shown(values.get('peft_type'))}")
    known = {*_IGNORED.split(), *_HONOURED.split()}
    for key, value in values.items():
        if key not in known and value not in (None, False, "", [], {}):
            raise refusal(path, f"says {key} {shown(value)}")
    beginning = values.get("init_lora_weights", True)
    if not (isinstance(beginning, bool) or beginning in _INITIALISATIONS):
        raise refusal(path, f"says init_lora_weights {shown(beginning)}, by which the base changes too")
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
    """The values of an adapter_config.json, each checked when it is taken."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def error(self, key: str, allowed: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {key} is {shown(self.values.get(key))}; {allowed} is needed: "
            "get the adapter again, or correct it"
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
            # How many ways there are to match a name, each of which may be tried in vain.
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


# ---- the tensors


def _sort(adapter: Adapter, stored: list[TensorInfo], file: Path) -> None:
    """Find out what each tensor is for."""
    parts: dict[tuple[str, str], TensorInfo] = {}
    spellings: dict[str, str] = {}
    for tensor in stored:
        name = tensor.name.removeprefix("base_model.model.")
        found = _NAME.fullmatch(name) if len(name) <= _LONGEST_NAME else None
        if found is None or (found["kind"], found["pair"]) == ("lora_A", "bias"):
            raise CheckpointError(f"{file}: tensor {shown(tensor.name)} is none of a LoRA adapter's")
        module = found["module"]
        other = spellings.setdefault(canonical(f"{module}.weight"), module)
        if other != module:
            raise CheckpointError(f"{file} has one module twice, as {shown(other)} and as {shown(module)}")
        kind = found["kind"] and f"{found['kind']}.{found['pair']}"
        kind = kind or found["embedding"] or found["magnitude"] or found["rows"]
        if kind is None:
            is_own = not found["base"] and adapter.settings.is_own(module)
            kind = f"{found['own'] or ('own' if is_own else 'base')}.{found['whole']}"
        if (module, kind) in parts:
            raise CheckpointError(
                f"{file} holds {shown(tensor.name)} and {shown(parts[module, kind].name)}, of which one "
                "alone can count: is it a file of two adapters?"
            )
        parts[module, kind] = tensor
    settings = adapter.settings
    for (module, kind), tensor in parts.items():
        weight = canonical(f"{module}.weight")
        if kind.startswith("own."):
            adapter.own[canonical(f"{module}.{kind[4:]}")] = tensor
        elif kind.startswith("modules_to_save."):
            # PEFT stores it once more where the vocabulary was resized.
            adapter.own.setdefault(canonical(f"{module}.{kind.split('.')[1]}"), tensor)
        elif kind.startswith("base."):
            adapter.base[canonical(f"{module}.{kind[5:]}")] = tensor
        elif kind.startswith("token_adapter"):
            rows = next((rows for key, rows in settings.tokens.items() if module.endswith(key)), [])
            adapter.rows[weight] = (rows, tensor)
        elif kind == "lora_B.bias":
            adapter.biases[canonical(f"{module}.bias")] = (tensor, settings.scaling_of(module))
        elif kind in ("lora_A.weight", "lora_embedding_A"):
            adapter.pairs[weight] = _pair(parts, module, kind, settings, file)
        else:  # B or a magnitude
            partners = _PARTNERS[kind]
            if not any((module, partner) in parts for partner in partners):
                raise CheckpointError(f"{file} has {shown(tensor.name)}, but not the {partners[0]} for it")


def _pair(
    parts: Mapping[tuple[str, str], TensorInfo], module: str, kind: str, settings: Settings, file: Path
) -> LowRank:
    """A and B of one module."""
    a, b = parts[module, kind], parts.get((module, kind.replace("A", "B")))
    if b is None:
        raise CheckpointError(f"{file} has {shown(a.name)}, but not the {kind.replace('A', 'B')} for it")
    rank = settings.rank_of(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
        raise CheckpointError(
            f"{file}: {shown(a.name)} and its B have the shapes {list(a.shape)} and {list(b.shape)}, but "
            f"{CONFIG} says rank {rank}: [{rank}, in] and [out, {rank}] are needed"
        )
    # Dense layers of GPT-2 are stored as [in, out], as embeddings are; heads are torch's Linear, [out, in].
    transposed = "embedding" in kind or canonical(module).startswith("h.")
    magnitude = parts.get((module, "lora_magnitude_vector"))
    if (magnitude is not None) != settings.is_dora:
        there = "there is" if magnitude else "there is no"
        raise CheckpointError(
            f"{file}: {CONFIG} says use_dora {str(settings.is_dora).lower()}, but {there} "
            f"lora_magnitude_vector for {module}"
        )
    return LowRank(a, b, settings.scaling_of(module), transposed, magnitude)
