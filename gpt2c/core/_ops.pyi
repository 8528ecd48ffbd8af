from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._kernels import FUNCTIONS as FUNCTIONS

_Floats = NDArray[np.float32]

def apply(
    name: str, x: _Floats, out: _Floats | None = None, *, isa: str | None = None, threads: int = 1
) -> _Floats: ...
def layer_norm(
    x: _Floats,
    gain: _Floats,
    bias: _Floats,
    epsilon: float,
    out: _Floats | None = None,
    *,
    isa: str | None = None,
    threads: int = 1,
) -> _Floats: ...
def pack(
    weight: _Floats, *, transposed: bool = False, dtype: str = "float32", threads: int = 1
) -> NDArray[Any]: ...
def unpack(panels: NDArray[Any], n_in: int, n_out: int, dtype: str = "float32") -> _Floats: ...
def encode(
    x: _Floats, dtype: str, *, inputs: str = "signed", row0: int = 0, isa: str | None = None
) -> NDArray[np.uint8]: ...
def linear(
    x: _Floats | NDArray[np.uint8],
    panels: NDArray[Any],
    n_out: int,
    bias: _Floats | None = None,
    function: str = "identity",
    residual: _Floats | None = None,
    out: _Floats | None = None,
    *,
    dtype: str = "float32",
    inputs: str = "signed",
    row0: int = 0,
    n_in: int | None = None,
    isa: str | None = None,
    threads: int = 1,
) -> _Floats: ...
def store(
    kind: str,
    group: NDArray[np.uint8],
    dtype: str,
    lane: int,
    first: int,
    d_head: int,
    x: _Floats,
    *,
    isa: str | None = None,
) -> None: ...
def attention(
    q: _Floats,
    k: _Floats,
    v: _Floats,
    scale: float,
    out: _Floats | None = None,
    *,
    tile: int = 24,
    beyond: float = ...,
    shared: int = 0,
    dtype: str = "float32",
    one_position: bool = False,
    isa: str | None = None,
    threads: int = 1,
    repeats: int = 1,
) -> _Floats: ...
def attention_scores(
    q: _Floats,
    k: _Floats,
    scale: float,
    *,
    beyond: float = ...,
    shared: int = 0,
    dtype: str = "float32",
    isa: str | None = None,
) -> _Floats: ...
def softmax(x: _Floats, *, isa: str | None = None) -> _Floats: ...
def attention_values(
    pattern: _Floats,
    v: _Floats,
    *,
    beyond: float = ...,
    shared: int = 0,
    dtype: str = "float32",
    isa: str | None = None,
) -> _Floats: ...
def log_sum(
    logits: _Floats, threshold: float, *, isa: str | None = None
) -> tuple[float, float, float, float, int]: ...
def subset_sum(
    logits: _Floats, mask: NDArray[np.bool_], *, isa: str | None = None
) -> tuple[float, float]: ...
def count_greater(logits: _Floats, threshold: float, *, isa: str | None = None) -> int: ...
def top(logits: _Floats, k: int, *, isa: str | None = None) -> tuple[NDArray[np.int32], _Floats]: ...
