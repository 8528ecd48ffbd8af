"""Loads a model as the class that its files are for."""

from __future__ import annotations

import os
from typing import Any, cast

from .bert import BERT
from .model import GPT2

__all__ = ["from_pretrained"]


def from_pretrained(source: str | os.PathLike[str] | None = None, **how: Any) -> GPT2 | BERT:
    """A model of the class that fits its files; takes the options that both classes share."""
    from .checkpoint.loading import load

    return cast(GPT2 | BERT, load([GPT2, BERT], source, **how))
