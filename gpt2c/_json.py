"""Values as JSON has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """A value, and all that dicts and lists hold: arrays as lists, NaN and the infinities as None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        finite = np.isfinite(value)
        return (value if finite.all() else np.where(finite, value.astype(object), None)).tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value
