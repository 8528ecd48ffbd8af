"""The names in a torch file of tensors, their meaning, and why other names are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown

__all__ = ["DTYPES", "STORAGES", "Name", "Storage", "Tensor", "is_size", "named"]

# torch's names of element types -> safetensors' names, which the rest of the code uses.
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
_LARGEST = 2**62
# Packages of models and training settings: a file with these names may be genuine.
_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "accelerate", "peft", "trl", "deepspeed", "omegaconf", "numpy"),
    *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
    *("argparse", "collections", "datetime", "enum", "pathlib"),
)
_OF_NO_USE = {
    "torch._utils._rebuild_qtensor": "a quantized tensor: dequantize the model and save it again",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without data (on the device 'meta'): save "
    "the model once its weights are loaded",
}


class Storage(NamedTuple):
    """A run of elements in a torch file."""

    key: str
    dtype: str  # one of DTYPES
    numel: int


class Tensor(NamedTuple):
    """The elements of a storage that a tensor uses."""

    storage: Storage
    dtype: str
    offset: int  # of its first element in the storage, in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class Name(NamedTuple):
    """A function or class named in a pickle, and the meaning of calling it."""

    name: str
    call: Callable[..., Any] | None


def named(module: str, name: str, where: str, is_torch: bool) -> Name:
    """The function or class for a name in a pickle. CheckpointError if no file of tensors needs it."""
    full = f"{module}.{name}"
    if full in _CALLS:
        return Name(full, _CALLS[full])
    if module == "torch" and name in DTYPES:
        return Name(full, None)
    if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGES:
        return Name(full, None)
    if module.partition(".")[0] not in _LIBRARIES:
        raise CheckpointError(
            f"{where} is a pickle that would run {shown(full)} if torch or pickle loaded it: do not load it. "
            "If it is your own code, save model.state_dict() with the program that has it"
        )
    what = f"{where} is a pickle that names {shown(full)}: "
    if not is_torch:
        raise CheckpointError(
            f"{what}a table of characters holds only numbers, texts and dicts; make it again"
        )
    if full in _OF_NO_USE:
        raise CheckpointError(f"{where} holds {_OF_NO_USE[full]} ({full})")
    raise CheckpointError(
        f"{what}only tensors, numbers, texts, lists and dicts are read, and nothing is run. If torch is "
        "installed and you trust the file, save only its state dict: found = torch.load(FILE, "
        "weights_only=False); torch.save(found.state_dict(), 'pytorch_model.bin') if it is a model, "
        "found['state_dict'], if it has that key"
    )


def is_size(value: Any) -> bool:
    """Whether a value can be a number of elements."""
    return type(value) is int and 0 <= value <= _LARGEST


def _plain_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """torch._utils._rebuild_tensor."""
    return _checked(storage, offset, shape, strides, getattr(storage, "dtype", ""))


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> Tensor:
    """torch._utils._rebuild_tensor_v2."""
    _check_settings(requires_grad, metadata)
    return _plain_tensor(storage, offset, shape, strides)


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    """torch._utils._rebuild_tensor_v3: the storage is bytes, and the offset counts elements."""
    _check_settings(requires_grad, metadata)
    name = dtype.name.rpartition(".")[2] if isinstance(dtype, Name) else ""
    if name not in DTYPES:
        raise ValueError("a tensor has an unknown type of elements")
    return _checked(storage, offset, shape, strides, DTYPES[name])


def _check_settings(requires_grad: Any, metadata: Any = None) -> None:
    if type(requires_grad) is not bool:
        raise ValueError("a tensor has a requires_grad that is neither true nor false")
    if metadata:  # such as that its elements are negated
        raise ValueError("a tensor has metadata, which is not supported")


def _checked(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    for sizes in (shape, strides):
        if type(sizes) is not tuple or not all(map(is_size, sizes)):
            raise ValueError("a tensor has an invalid shape or strides")
    if len(shape) != len(strides) or not is_size(offset) or math.prod(shape) > _LARGEST:
        raise ValueError("a tensor has a shape, strides and an offset that do not match")
    return Tensor(storage, dtype, offset, shape, strides)


def _parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Any:
    """torch._utils._rebuild_parameter, or ..._with_state."""
    _check_settings(requires_grad)
    if not isinstance(data, Tensor):
        raise ValueError("a parameter is not a tensor")
    return data


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if pairs not in ((), []):
        raise ValueError("an OrderedDict needs pairs")
    return {}


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    if type(sizes) not in (tuple, list):
        raise ValueError("a torch.Size has a value that is not a size")
    return tuple(sizes)


def _text(*parts: Any) -> str:
    if not all(type(part) in (str, int) for part in parts):
        raise ValueError("a torch.device needs a name and a number")
    return ":".join(map(str, parts))


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _plain_tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "torch.device": _text,
}
