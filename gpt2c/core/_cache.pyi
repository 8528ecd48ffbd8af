from typing_extensions import disjoint_base

from ._kernels import CACHE_DTYPES as CACHE_DTYPES
from ._weights import Weights

@disjoint_base
class KVCache:
    weights: Weights
    n_ctx: int
    dtype: str
    branches: int
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
