import numpy as np
from numpy.typing import NDArray

NUMERICS_VERSION: int
OWN_BFLOAT16: tuple[str, ...]
TEAMS: tuple[str, ...]
MOST_THREADS: int
BACKENDS: tuple[str, ...]
DTYPES: tuple[str, ...]
CACHE_DTYPES: tuple[str, ...]
DEFAULT_CACHE_DTYPES: dict[str, str]
FUNCTIONS: dict[str, int]
PLACE_TABLE: dict[int, tuple[str, str]]
PLACES: dict[str, str]

def team() -> str: ...
def choose_team(name: str) -> None: ...
def isas() -> list[str]: ...
def default_isa() -> str: ...
def aligned_empty(shape: int | tuple[int, ...]) -> NDArray[np.float32]: ...
def mask_bits(masks: NDArray[np.bool_]) -> NDArray[np.uint16]: ...
