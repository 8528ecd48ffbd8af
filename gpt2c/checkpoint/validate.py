"""Checking, before reading any tensor, that the files hold exactly the configuration's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ..config import Config
from ..errors import CheckpointError, shown
from .names import (
    canonical,
    expected,
    head_of_another_task,
    is_mask,
    of_an_adapter,
    of_choice_head,
    shared_prefix,
)
from .tensors import FLOAT_DTYPES, READABLE, ZERO, TensorInfo

__all__ = ["LOOSE", "Names", "listed", "match", "unwrapped", "without_absent_head"]

_SHOWN = 4  # names in a message
# Appended to errors that strict=False turns into notes.
LOOSE = " (strict=False, or --no-strict on the command line, loads the model anyway)"


class Names(NamedTuple):
    """The names of a kind of model's tensors in files, and which of them are required."""

    model: str
    """The name of the model, for messages."""
    wanted: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
    """Name -> shape in words and in numbers."""
    usual: Callable[[str], str]
    """Maps a stored name to one of these, or to any other name."""
    of_another_task: Callable[[str], bool]
    """Whether such a name belongs to an unused head, if it is not wanted."""
    embedding: str = "wte.weight"
    head: str = "lm_head.weight"
    """The matrices that may be tied."""


def match(
    stored: Iterable[TensorInfo],
    config: Config,
    where: str,
    *,
    source: str = "its config.json",
    strict: bool = True,
    names: Names | None = None,
) -> tuple[dict[str, TensorInfo], list[str]]:
    """Find every tensor of a model among the stored ones; none may be missing, none unexpected.

    Parameters
    ----------
    stored : iterable of TensorInfo
        All tensors of the checkpoint.
    config : Config
        The configuration that they must fit.
    where : str
        The checkpoint's name for messages.
    source : str
        What the configuration was read from, for messages.
    strict : bool
        Refuse unexpected tensors; otherwise they are noted.
    names : Names, optional
        The names in the files, if they are not GPT-2's.

    Returns
    -------
    tensors : dict
        Name -> TensorInfo, in the order of the model: the canonical names, or those in ``names``.
    notes : list of str
        What was ignored, for display.

    Raises
    ------
    CheckpointError
        Tensors are missing, unexpected, stored twice, of the wrong shape, or of an unsupported dtype; the
        message names them.
    """
    if names is None:
        of_gpt2 = {name: (dims, shape) for name, dims, shape in expected(config)}
        names = Names("GPT-2", of_gpt2, canonical, head_of_another_task)
    wanted = names.wanted
    found, notes = _of_the_model(stored, config, names, where)
    if config.tie_word_embeddings and names.head in found:
        notes += _tie(found, names, where)
    missing = [name for name in wanted if name not in found]
    unexpected = [tensor.name for name, tensor in found.items() if name not in wanted]
    if missing or (unexpected and strict):
        parts = [f"{listed(missing)} missing"] if missing else []
        parts += [f"{listed(unexpected)} not expected"] if unexpected else []
        loose = "" if missing else LOOSE
        raise CheckpointError(
            f"{where} does not hold the {names.model} of {source}: {'; '.join(parts)}{loose}"
        )
    if unexpected:
        notes.append(f"{listed(unexpected)} ignored: {names.model} has no such tensors (strict=False)")
    for name, (dims, shape) in wanted.items():
        _check(found[name], dims, shape, where, source)
    return {name: found[name] for name in wanted}, notes


def unwrapped(stored: list[TensorInfo]) -> tuple[list[TensorInfo], list[str]]:
    """The tensors without an unknown prefix that all names share, and a note on it."""
    prefix = shared_prefix([tensor.name for tensor in stored])
    if not prefix:
        return stored, []
    bare = [tensor._replace(name=tensor.name.removeprefix(prefix)) for tensor in stored]
    return bare, [f"{shown(prefix)} is removed from every name"]


def without_absent_head(config: Config, stored: Iterable[TensorInfo]) -> tuple[Config, list[str]]:
    """The configuration without a choice head that is not stored, and a note on it."""
    head = config.head
    if head is None or head.kind != "choice" or any(of_choice_head(canonical(info.name)) for info in stored):
        return config, []
    return replace(config, head=None), [
        "the choice head of GPT2DoubleHeadsModel is not stored: this is only a language model"
    ]


def _of_the_model(
    stored: Iterable[TensorInfo], config: Config, names: Names, where: str
) -> tuple[dict[str, TensorInfo], list[str]]:
    """The stored tensors by usual name, without masks and unused heads; notes on those."""
    found: dict[str, TensorInfo] = {}
    masks, other_heads = 0, []
    for tensor in stored:
        name = names.usual(tensor.name)
        if is_mask(name, config.n_layer):
            masks += 1
        elif names.of_another_task(name) and name not in names.wanted:
            other_heads.append(name)
        elif of_an_adapter(tensor.name):
            raise CheckpointError(
                f"{where} holds a LoRA adapter that is not merged into the weights (tensor "
                f"{shown(tensor.name)}): with PEFT installed, "
                "model.merge_and_unload().save_pretrained(DIRECTORY) saves the merged model"
            )
        elif name in found and found[name]._replace(name=tensor.name) == tensor:
            pass  # another name for the same bytes, as tied heads have
        elif name in found:
            raise CheckpointError(
                f"{where} holds {name} twice, as {shown(found[name].name)} and as {shown(tensor.name)}"
            )
        else:
            found[name] = tensor
    notes = []
    if masks:
        notes.append(f"{masks} stored attention masks were skipped: the mask is always causal")
    if other_heads:
        user = "this model" if config.is_bert else "the language model"
        notes.append(f"{listed(other_heads)} skipped: {user} does not use this head")
    return found, notes


def _check(
    tensor: TensorInfo, dims: tuple[str, ...], shape: tuple[int, ...], where: str, source: str
) -> None:
    """Refuse a tensor of a shape other than the configuration's, or of an unsupported dtype."""
    if tensor.shape != shape:
        raise CheckpointError(
            f"{where}: tensor {shown(tensor.name)} has the shape {list(tensor.shape)}; {source} asks "
            f"for {list(shape)}, that is [{', '.join(dims)}]"
        )
    if tensor.dtype not in (*READABLE, ZERO):
        raise CheckpointError(
            f"{where}: tensor {shown(tensor.name)} has the dtype {tensor.dtype}; supported: "
            f"{', '.join(FLOAT_DTYPES)}. Convert it with the program that made it"
        )


def _tie(found: dict[str, TensorInfo], names: Names, where: str) -> list[str]:
    """Remove a stored head that is tied to the embedding. Notes: none if the bytes are equal."""
    head, embedding = found.pop(names.head), found.get(names.embedding)
    if embedding is None:
        # safetensors' save_model keeps one name of a matrix that has several, and it may be this one.
        found[names.embedding] = head
        return [f"{names.embedding} is stored under the name of the head that it is tied to, {names.head}"]
    if head.shape != embedding.shape:
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true, but {names.head} has the shape {list(head.shape)} and "
            f"{names.embedding} {list(embedding.shape)}"
        )
    if head._replace(name=embedding.name) == embedding:
        return []  # the same bytes
    return [
        f"{names.head} is stored, but tie_word_embeddings is true: {names.embedding} is used, as "
        "transformers does"
    ]


def listed(names: list[str]) -> str:
    """A few names for a message: "tensor 'a'", "tensors 'a', 'b'", "149 tensors 'a', 'b', 'c', 'd', …"."""
    first = ", ".join(shown(name) for name in names[:_SHOWN])
    if len(names) == 1:
        return f"tensor {first}"
    return f"{len(names)} tensors {first}{', …' if len(names) > _SHOWN else ''}"
