from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

def apply(
    name: str, x: Floats, out: Floats | None = None, *, isa: str | None = None, threads: int = 1
) -> Floats: ...
def layer_norm(
    x: Floats,
    gain: Floats,
    bias: Floats,
    epsilon: float,
    out: Floats | None = None,
    *,
    isa: str | None = None,
    threads: int = 1,
) -> Floats: ...
def pack(
    weight: Floats, *, transposed: bool = False, dtype: str = "float32", threads: int = 1
) -> NDArray[Any]: ...
def unpack(panels: NDArray[Any], n_in: int, n_out: int, dtype: str = "float32") -> Floats: ...
def encode(x: Floats, dtype: str, *, isa: str | None = None) -> NDArray[np.uint8]: ...
def linear(
    x: Floats | NDArray[np.uint8],
    panels: NDArray[Any],
    n_out: int,
    bias: Floats | None = None,
    function: str = "identity",
    residual: Floats | None = None,
    out: Floats | None = None,
    *,
    dtype: str = "float32",
    n_in: int | None = None,
    isa: str | None = None,
    threads: int = 1,
) -> Floats: ...
def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    scale: float,
    out: Floats | None = None,
    *,
    tile: int = 6,
    beyond: float = ...,
    isa: str | None = None,
    threads: int = 1,
    repeats: int = 1,
) -> Floats: ...
def attention_scores(
    q: Floats, k: Floats, scale: float, *, beyond: float = ..., shared: int = 0, isa: str | None = None
) -> Floats: ...
def softmax(x: Floats, *, isa: str | None = None) -> Floats: ...
def attention_values(
    pattern: Floats, v: Floats, *, beyond: float = ..., shared: int = 0, isa: str | None = None
) -> Floats: ...
def log_sum(
    logits: Floats, threshold: float, *, isa: str | None = None
) -> tuple[float, float, float, int]: ...
def subset_sum(logits: Floats, mask: NDArray[np.bool_], *, isa: str | None = None) -> tuple[float, float]: ...
def count_greater(logits: Floats, threshold: float, *, isa: str | None = None) -> int: ...
def top(logits: Floats, k: int, *, isa: str | None = None) -> tuple[NDArray[np.int32], Floats]: ...
