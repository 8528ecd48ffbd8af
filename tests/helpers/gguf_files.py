"""GGUF files for tests, written byte by byte after the format's description, not with the code under test."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from .tiny_checkpoints import TINY, encode, tiny_tensors

TYPES = {
    **{"F32": 0, "F16": 1, "F64": 28, "BF16": 30},
    **{"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14},
}
PARTS = {
    **{"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"},
    **{"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"},
    **{"ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
}

Tensor = tuple[int, list[int], bytes]
"""The number of the type, the sizes (the fastest dimension first) and the data."""


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def typed(value: Any) -> bytes:
    """A value with its type: of an int uint32, of a list of ints int32. Bytes are written as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    code, kind = {bool: ("?", 7), int: ("I", 4), float: ("f", 6)}[type(value)]
    return struct.pack(f"<I{code}", kind, value)


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
    offsets: Mapping[str, int] | None = None,
) -> bytes:
    """A whole file. ``counts``, of tensors and entries, and ``offsets`` of tensors may be given as others."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata))))
    head += b"".join(text(key) + typed(value) for key, value in metadata.items())
    data = b""
    for name, (kind, sizes, raw) in tensors.items():
        at = (offsets or {}).get(name, len(data))
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, at)
        data += raw + bytes(-len(raw) % alignment)
    return head + bytes(-len(head) % alignment) + data


def stored(array: np.ndarray, dtype: str = "F32") -> Tensor:
    return TYPES[dtype], list(reversed(array.shape)), encode(array, dtype)


def named(name: str) -> str:
    """The name of llama.cpp for a canonical one."""
    part, kind = name.rsplit(".", 1)
    layer = ""
    if part.startswith("h."):
        _, number, part = part.split(".", 2)
        layer = f"blk.{number}."
    return f"{layer}{PARTS[part]}.{kind}"


def model_metadata(sizes: Mapping[str, Any] = TINY) -> dict[str, Any]:
    return {
        "general.architecture": "gpt2",
        "gpt2.block_count": sizes["n_layer"],
        "gpt2.attention.head_count": sizes["n_head"],
        "gpt2.embedding_length": sizes["n_embd"],
        "gpt2.feed_forward_length": sizes["n_inner"],
        "gpt2.context_length": sizes["n_positions"],
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }


def model_tensors(sizes: Mapping[str, Any] = TINY, dtype: str = "F32") -> dict[str, Tensor]:
    """Those of `tiny_tensors`, dense layers as [out, in]."""
    return {
        named(name): stored(array.T if name.startswith("h.") and array.ndim == 2 else array, dtype)
        for name, array in tiny_tensors(sizes).items()
    }
