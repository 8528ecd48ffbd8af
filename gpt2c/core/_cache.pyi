import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from ._kernels import DEFAULT_CACHE_DTYPES as DEFAULT_CACHE_DTYPES
from ._weights import Weights

@disjoint_base
class KVCache:
    weights: Weights
    n_ctx: int
    dtype: str
    cross: KVCache | None
    branches: int
    @property
    def nbytes(self) -> int: ...
    def __init__(
        self,
        weights: Weights,
        n_ctx: int | None = None,
        dtype: str | None = None,
        prefix: KVCache | None = None,
        cross: KVCache | None = None,
        *,
        of_encoder: bool = False,
    ) -> None: ...
    def __len__(self) -> int: ...
    def take(self, other: KVCache, begin: int, end: int) -> None: ...
    def state(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...
    def restore(self, keys: NDArray[np.uint8], values: NDArray[np.uint8], n: int) -> None: ...
    def truncate(self, n: int) -> None: ...
    def follow(self, other: KVCache, n: int) -> None: ...
    def branch(self, n_ctx: int) -> KVCache: ...
    def fork(self, n_ctx: int | None = None) -> KVCache: ...
