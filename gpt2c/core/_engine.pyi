from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import Config

NUMERICS_VERSION: int
OWN_BFLOAT16: tuple[str, ...]
TEAM: str
BACKENDS: tuple[str, ...]
DTYPES: tuple[str, ...]
CACHE_DTYPES: tuple[str, ...]
FUNCTIONS: dict[str, int]
PLACES: dict[str, str]
APART: int
SEE_PATTERN: int
CHANGE_PATTERN: int

def isas() -> list[str]: ...
def default_isa() -> str: ...
def aligned_empty(shape: int | tuple[int, ...]) -> NDArray[np.float32]: ...

class Weights:
    config: Config
    backend: str
    dtype: str
    isa: str
    nbytes: int
    tensors: dict[str, NDArray[Any]]
    def __init__(
        self,
        config: Config,
        read: Callable[[str], NDArray[np.float32]],
        *,
        read_rows: Callable[[str, int, int], NDArray[np.float32]] | None = None,
        panels: Callable[[str], NDArray[np.uint8]] | None = None,
        backend: str = "native",
        dtype: str = "float32",
        isa: str | None = None,
        threads: int = 1,
    ) -> None: ...
    def unembedding(self, ids: ArrayLike) -> NDArray[np.float32]: ...
    def output_projection(self, layer: int) -> NDArray[np.float32]: ...

class KVCache:
    weights: Weights
    n_ctx: int
    dtype: str
    @property
    def nbytes(self) -> int: ...
    def __init__(
        self,
        weights: Weights,
        n_ctx: int | None = None,
        dtype: str = "float32",
        prefix: KVCache | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def truncate(self, n: int) -> None: ...
    def follow(self, other: KVCache, n: int) -> None: ...
    def branch(self, n_ctx: int) -> KVCache: ...
    def fork(self, n_ctx: int | None = None) -> KVCache: ...

Sequences = Sequence[tuple[KVCache, NDArray[np.int32]]]

def forward(
    weights: Weights,
    sequences: Sequences,
    *,
    keep: int = 0,
    threads: int = 1,
    observer: Any = None,
    start: tuple[int, NDArray[np.float32]] | None = None,
    both_ways: bool = False,
) -> NDArray[np.float32]: ...
def mask_bits(masks: NDArray[np.bool_]) -> NDArray[np.uint16]: ...
def score(
    weights: Weights,
    sequences: Sequences,
    wanted: Sequence[tuple[NDArray[np.integer[Any]], NDArray[np.int32]]],
    *,
    top: int = 0,
    n_text: int | None = None,
    masks: NDArray[np.uint16] | None = None,
    threads: int = 1,
    start: tuple[int, NDArray[np.float32]] | None = None,
) -> tuple[
    NDArray[np.float32],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.int32],
    NDArray[np.float32],
    NDArray[np.float32],
]: ...
def log_sum_exp(logits: NDArray[np.float32]) -> float: ...
def top(values: NDArray[np.float32], n: int) -> NDArray[np.int32]: ...
def sample(
    logits: NDArray[np.float32],
    processed: NDArray[np.float32] | None = None,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    stream: int,
    position: int,
    isa: str | None = None,
) -> tuple[int, float]: ...
