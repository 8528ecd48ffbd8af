"""Values of JSON, written and read strictly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import shown

__all__ = ["plain", "unique_keys"]


def plain(value: Any) -> Any:
    """A value for JSON, nested ones included: arrays become lists; NaN and the infinities become None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of :func:`json.loads` that refuses a key that occurs twice (ValueError)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} occurs twice")
            seen.add(key)
    return found
