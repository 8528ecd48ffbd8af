from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

from ..config import Config
from ._kernels import BACKENDS as BACKENDS
from ._kernels import FUNCTIONS as FUNCTIONS

@disjoint_base
class Weights(Mapping[str, NDArray[np.float32]]):
    config: Config
    backend: str
    dtype: str
    isa: str
    nbytes: int
    @property
    def packed(self) -> Mapping[str, NDArray[Any]]: ...
    def __init__(
        self,
        config: Config,
        read: Callable[[str], NDArray[np.float32]],
        *,
        read_rows: Callable[[str, int, int], NDArray[np.float32]] | None = None,
        panels: Callable[[str], NDArray[np.uint8]] | None = None,
        guard: Callable[[], None] | None = None,
        backend: str = "native",
        dtype: str = "float32",
        isa: str | None = None,
        threads: int = 1,
    ) -> None: ...
    def unembedding(self, ids: ArrayLike) -> NDArray[np.float32]: ...
    def __getitem__(self, name: str, /) -> NDArray[np.float32]: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
