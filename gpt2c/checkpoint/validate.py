"""Checking, before any tensor is read, that the files hold exactly the tensors of the configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

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

__all__ = ["LOOSE", "listed", "match", "unwrapped", "without_absent_head"]

_SHOWN = 4  # names in a message
# What messages say of errors that strict=False makes notes of.
LOOSE = " (strict=False, --no-strict on the command line, loads what is needed all the same)"


def match(
    stored: Iterable[TensorInfo],
    config: Config,
    where: str,
    *,
    source: str = "its config.json",
    strict: bool = True,
) -> tuple[dict[str, TensorInfo], list[str]]:
    """Find every tensor of a model among the stored ones; none may be missing, and no others present.

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
        Refuse tensors that are not expected; else they are noted.

    Returns
    -------
    tensors : dict
        Canonical name -> TensorInfo, in the order of the model.
    notes : list of str
        What was ignored, for display.

    Raises
    ------
    CheckpointError
        Tensors are missing, unexpected, stored twice, of another shape, or of a dtype that is not read; they
        are named.
    """
    wanted = {name: (dims, shape) for name, dims, shape in expected(config)}
    found, notes = _of_the_model(stored, config, wanted, where)
    if config.tie_word_embeddings and "lm_head.weight" in found:
        notes += _tie(found, where)
    missing = [name for name in wanted if name not in found]
    unexpected = [tensor.name for name, tensor in found.items() if name not in wanted]
    if missing or (unexpected and strict):
        parts = [f"{listed(missing)} missing"] if missing else []
        parts += [f"{listed(unexpected)} not expected"] if unexpected else []
        loose = "" if missing else LOOSE
        raise CheckpointError(f"{where} does not hold the GPT-2 of {source}: {'; '.join(parts)}{loose}")
    if unexpected:
        notes.append(f"{listed(unexpected)} left aside: GPT-2 has no such tensors (strict=False)")
    for name, (dims, shape) in wanted.items():
        _check(found[name], dims, shape, where, source)
    return {name: found[name] for name in wanted}, notes


def unwrapped(stored: list[TensorInfo]) -> tuple[list[TensorInfo], list[str]]:
    """The tensors without an unknown prefix that all their names share, and the note on that."""
    prefix = shared_prefix([tensor.name for tensor in stored])
    if not prefix:
        return stored, []
    bare = [tensor._replace(name=tensor.name.removeprefix(prefix)) for tensor in stored]
    return bare, [f"{shown(prefix)} before every name is taken away"]


def without_absent_head(config: Config, stored: Iterable[TensorInfo]) -> tuple[Config, list[str]]:
    """The configuration without a choice head that is not stored, and the note on that."""
    head = config.head
    if head is None or head.kind != "choice" or any(of_choice_head(canonical(info.name)) for info in stored):
        return config, []
    return replace(config, head=None), [
        "the choice head of GPT2DoubleHeadsModel is not stored: this is a language model alone"
    ]


def _of_the_model(
    stored: Iterable[TensorInfo], config: Config, wanted: Collection[str], where: str
) -> tuple[dict[str, TensorInfo], list[str]]:
    """The stored tensors by canonical name, without masks and a head that is not used; the notes on those."""
    found: dict[str, TensorInfo] = {}
    masks, other_heads = 0, []
    for tensor in stored:
        name = canonical(tensor.name)
        if is_mask(name, config.n_layer):
            masks += 1
        elif head_of_another_task(name) and name not in wanted:
            other_heads.append(name)
        elif of_an_adapter(tensor.name):
            raise CheckpointError(
                f"{where} holds a LoRA adapter that is not merged into the weights (tensor "
                f"{shown(tensor.name)}): where PEFT is installed, "
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
        notes.append(f"{listed(other_heads)} skipped: the language model does not use this head")
    return found, notes


def _check(
    tensor: TensorInfo, dims: tuple[str, ...], shape: tuple[int, ...], where: str, source: str
) -> None:
    """Refuse a tensor of another shape than the configuration asks for, or of a dtype that is not read."""
    if tensor.shape != shape:
        raise CheckpointError(
            f"{where}: tensor {shown(tensor.name)} has the shape {list(tensor.shape)}; {source} asks "
            f"for {list(shape)}, that is [{', '.join(dims)}]"
        )
    if tensor.dtype not in (*READABLE, ZERO):
        raise CheckpointError(
            f"{where}: tensor {shown(tensor.name)} has the dtype {tensor.dtype}; weights are read from "
            f"{', '.join(FLOAT_DTYPES)}: convert it with the program that made it"
        )


def _tie(found: dict[str, TensorInfo], where: str) -> list[str]:
    """Remove a stored head that is tied to the embedding. Notes: none where the bytes are equal."""
    head = found.pop("lm_head.weight")
    if "wte.weight" not in found:
        # safetensors' save_model keeps one name of a matrix that has several, and it may be this one.
        found["wte.weight"] = head
        return ["wte.weight is stored under the name of the head that it is tied to, lm_head.weight"]
    if head.shape != found["wte.weight"].shape:
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true, but lm_head.weight has the shape {list(head.shape)} and "
            f"wte.weight {list(found['wte.weight'].shape)}"
        )
    if head._replace(name=found["wte.weight"].name) == found["wte.weight"]:
        return []  # the same bytes
    return [
        "lm_head.weight is stored, but tie_word_embeddings is true: wte.weight is used, as transformers does"
    ]


def listed(names: list[str]) -> str:
    """A few names for a message: "tensor 'a'", "tensors 'a', 'b'", "149 tensors 'a', 'b', 'c', 'd', …"."""
    first = ", ".join(shown(name) for name in names[:_SHOWN])
    if len(names) == 1:
        return f"tensor {first}"
    return f"{len(names)} tensors {first}{', …' if len(names) > _SHOWN else ''}"
