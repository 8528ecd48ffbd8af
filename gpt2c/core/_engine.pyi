from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._cache import KVCache as KVCache
from ._call import EDIT_PATTERN as EDIT_PATTERN
from ._call import OBSERVE_PATTERN as OBSERVE_PATTERN
from ._call import UNFUSED as UNFUSED
from ._kernels import BACKENDS as BACKENDS
from ._kernels import CACHE_DTYPES as CACHE_DTYPES
from ._kernels import DEFAULT_CACHE_DTYPES as DEFAULT_CACHE_DTYPES
from ._kernels import DTYPES as DTYPES
from ._kernels import MOST_THREADS as MOST_THREADS
from ._kernels import NUMERICS_VERSION as NUMERICS_VERSION
from ._kernels import OWN_BFLOAT16 as OWN_BFLOAT16
from ._kernels import PLACES as PLACES
from ._kernels import TEAMS as TEAMS
from ._kernels import aligned_empty as aligned_empty
from ._kernels import choose_team as choose_team
from ._kernels import default_isa as default_isa
from ._kernels import isas as isas
from ._kernels import mask_bits as mask_bits
from ._kernels import team as team
from ._weights import Weights as Weights
from .deadline import Deadline

__all__ = [
    "BACKENDS",
    "CACHE_DTYPES",
    "DEFAULT_CACHE_DTYPES",
    "DTYPES",
    "EDIT_PATTERN",
    "MOST_THREADS",
    "NUMERICS_VERSION",
    "OBSERVE_PATTERN",
    "OWN_BFLOAT16",
    "PLACES",
    "TEAMS",
    "UNFUSED",
    "KVCache",
    "Weights",
    "aligned_empty",
    "choose_team",
    "cross_keys",
    "default_isa",
    "forward",
    "hidden",
    "isas",
    "log_sum_exp",
    "mask_bits",
    "sample",
    "score",
    "team",
    "top",
]

_Sequences = Sequence[
    tuple[KVCache, NDArray[np.int32]] | tuple[KVCache, NDArray[np.int32], NDArray[np.int32] | None]
]

def cross_keys(
    weights: Weights, states: Sequence[NDArray[np.float32]], *, dtype: str | None = None, threads: int = 1
) -> list[KVCache]: ...
def forward(
    weights: Weights,
    sequences: _Sequences,
    *,
    keep: int | Sequence[int] = 0,
    threads: int = 1,
    observer: Any = None,
    start: tuple[int, NDArray[np.float32]] | None = None,
    bidirectional: bool = False,
    deadline: Deadline | None = None,
) -> NDArray[np.float32]: ...
def hidden(
    weights: Weights,
    sequences: _Sequences,
    wanted: Sequence[NDArray[np.integer[Any]]],
    *,
    threads: int = 1,
    deadline: Deadline | None = None,
) -> NDArray[np.float32]: ...
def score(
    weights: Weights,
    sequences: _Sequences,
    wanted: Sequence[tuple[NDArray[np.integer[Any]], NDArray[np.int32]]],
    *,
    top: int = 0,
    n_text: int | None = None,
    masks: NDArray[np.uint16] | None = None,
    threads: int = 1,
    observer: Any = None,
    start: tuple[int, NDArray[np.float32]] | None = None,
    deadline: Deadline | None = None,
) -> tuple[
    NDArray[np.float32],
    NDArray[np.int64],
    NDArray[np.float32],
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
