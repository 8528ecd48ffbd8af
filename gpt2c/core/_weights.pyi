from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

from ..config import Config
from ._kernels import BACKENDS as BACKENDS
from ._kernels import FUNCTIONS as FUNCTIONS

@disjoint_base
class Weights:
    config: Config
    backend: str
    dtype: str
    isa: str
    nbytes: int
    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]: ...
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
