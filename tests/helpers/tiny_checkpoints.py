"""Small checkpoints for tests, written byte by byte, not with the code under test or the library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TINY = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 6,
    "n_inner": 10,
    "n_positions": 9,
    "vocab_size": 11,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_tensors(values: Mapping[str, Any] = TINY, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors for a config.json, under canonical names; lm_head.weight if it is not tied."""
    c, inner = values["n_embd"], values["n_inner"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (values["vocab_size"], c),
        "wpe.weight": (values["n_positions"], c),
    }
    for i in range(values["n_layer"]):
        for name, shape in {
            "ln_1.weight": (c,), "ln_1.bias": (c,),
            "attn.c_attn.weight": (c, 3 * c), "attn.c_attn.bias": (3 * c,),
            "attn.c_proj.weight": (c, c), "attn.c_proj.bias": (c,),
            "ln_2.weight": (c,), "ln_2.bias": (c,),
            "mlp.c_fc.weight": (c, inner), "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (inner, c), "mlp.c_proj.bias": (c,),
        }.items():  # fmt: skip
            shapes[f"h.{i}.{name}"] = shape
    shapes |= {"ln_f.weight": (c,), "ln_f.bias": (c,)}
    if values.get("tie_word_embeddings") is False:
        shapes["lm_head.weight"] = shapes["wte.weight"]
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values, as uint16: bfloat16, rounded towards zero."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def encode(array: np.ndarray, dtype: str) -> bytes:
    """The bytes of an array as a safetensors dtype."""
    if dtype == "BF16":
        return bfloat16(array).tobytes()
    numpy_dtypes = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "U8": "u1", "BOOL": "?", "I64": "<i8"}
    return array.astype(numpy_dtypes[dtype]).tobytes()


def safetensors_bytes(
    tensors: Mapping[str, np.ndarray], dtypes: str | Mapping[str, str] = "F32", **extra: Any
) -> bytes:
    """A whole safetensors file. ``dtypes``: one for all, or one a name; ``extra``: more header entries."""
    header: dict[str, Any] = dict(extra)
    data = b""
    for name, array in tensors.items():
        dtype = dtypes if isinstance(dtypes, str) else dtypes[name]
        raw = encode(array, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return with_header(header, data)


def with_header(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with this header: a JSON value, or the bytes of one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    found: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(data[begin:end], np.float32).reshape(entry["shape"])
    return found


def write_model(
    directory: Path,
    values: Mapping[str, Any] = TINY,
    tensors: Mapping[str, np.ndarray] | None = None,
    dtypes: str | Mapping[str, str] = "F32",
    prefix: str = "transformer.",
) -> dict[str, np.ndarray]:
    """Write config.json and model.safetensors; returns the tensors under canonical names."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(values))
    tensors = tiny_tensors(values) if tensors is None else dict(tensors)
    stored = {name if name == "lm_head.weight" else prefix + name: array for name, array in tensors.items()}
    (directory / "model.safetensors").write_bytes(safetensors_bytes(stored, dtypes))
    return tensors


def write_shards(directory: Path, tensors: Mapping[str, np.ndarray], count: int = 2) -> dict[str, Any]:
    """Write tensors as shards with their index; returns the index."""
    directory.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for k in range(count):
        file = f"model-{k + 1:05}-of-{count:05}.safetensors"
        part = {name: array for i, (name, array) in enumerate(tensors.items()) if i % count == k}
        (directory / file).write_bytes(safetensors_bytes(part))
        weight_map |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in tensors.values())},
        "weight_map": weight_map,
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index
