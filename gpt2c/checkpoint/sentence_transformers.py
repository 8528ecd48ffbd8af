"""How a text becomes a vector, from the files of sentence-transformers beside a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import Config, Pooling
from ..errors import CheckpointError, ConfigError, shown
from .files import read_array, read_object

__all__ = ["with_pooling"]

_MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"
_TOKENIZER = "tokenizer_config.json"
_OF_TEXTS = "sentence_*_config.json"  # with the name of the model family

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_NEWER = {"weightedmean": "weighted_mean", "lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len"}


def with_pooling(config: Config, directory: Path) -> Config:
    """The Config with the pooling of sentence-transformers, from modules.json in the directory.

    Unsupported settings become a `problem`: the model can do everything else.

    Raises
    ------
    CheckpointError, ConfigError
        A file is missing, not JSON, or has wrong contents.
    """
    path = directory / _MODULES
    modules = [_module(module, path) for module in read_array(path)]
    kinds = [kind for kind, _ in modules]
    problem, mode = "", "mean"
    if kinds[:1] != ["Transformer"] or kinds[1:2] != ["Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        problem = (
            f"its {_MODULES} names the modules {', '.join(kinds) or 'of nothing'}; gpt2c supports "
            "Transformer, Pooling and, at the end, Normalize"
        )
    else:
        mode, problem = _mode(directory / modules[1][1] / "config.json")
    text = min(directory.glob(_OF_TEXTS), default=None)
    of_texts = {} if text is None else read_object(text)
    settings = read_object(directory / _SETTINGS) if (directory / _SETTINGS).exists() else {}
    prompt = settings.get("default_prompt_name")
    if prompt is not None and not problem:
        problem = f"its {_SETTINGS} asks for the prompt {shown(prompt)} before every text; prepend it"
    n_most = of_texts.get("max_seq_length")
    try:
        found = Pooling(
            mode, kinds[2:] == ["Normalize"], n_most, of_texts.get("do_lower_case", False), problem
        )
    except ConfigError as error:
        raise ConfigError(f"{text or path}: {error}") from None
    # Longer texts are always truncated there: at its own length, or else the tokenizer's.
    if n_most is None and (directory / _TOKENIZER).exists():
        n_most = read_object(directory / _TOKENIZER).get("model_max_length")
        n_most = n_most if isinstance(n_most, int | float) and n_most >= 1 else None
    most = config.n_ctx if n_most is None else int(min(n_most, config.n_ctx))
    return replace(config, pooling=replace(found, max_tokens=most))


def _module(module: Any, path: Path) -> tuple[str, str]:
    """The kind of a module, and its folder."""
    kind, folder = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(folder, str):
        raise CheckpointError(
            f"{path}: a module is {shown(module)}; needed: an object with a type and a path"
        )
    if folder.startswith("/") or ".." in folder or set(folder) & set("\\:\0"):
        raise CheckpointError(f"{path}: the path of a module is {shown(folder)}; needed: a folder beside it")
    return kind.rpartition(".")[2], folder


def _mode(path: Path) -> tuple[str, str]:
    """The pooling that a Pooling's file requests, or why it is not supported."""
    if not path.exists():
        return "mean", f"its {_MODULES} names {path.parent.name}, which has no {path.name}"
    values = read_object(path)
    modes = [
        _MODES.get(key, key) for key, value in values.items() if key.startswith("pooling_mode_") and value
    ]
    if isinstance(values.get("pooling_mode"), str):  # as newer versions write it
        modes = [_NEWER.get(values["pooling_mode"], values["pooling_mode"])]
    if len(modes) == 1 and modes[0] in _MODES.values():
        return modes[0], ""
    names = ", ".join(map(shown, modes)) or "nothing"
    return (
        "mean",
        f"its {path.parent.name}/{path.name} asks for {names}; gpt2c supports one of {', '.join(_MODES)}",
    )
