"""The models that come with gpt2c, and a look at what kind of model a folder holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["BUNDLED", "ENCODER_DECODER", "is_encoder_decoder", "located"]

_DATA = Path(__file__).parent.parent / "data"
BUNDLED = _DATA / "model"
"""The model that is loaded if none is named."""

# The other bundled models -> their folders.
_NAMES = {"dates": _DATA / "dates"}

ENCODER_DECODER = "encoder-decoder"
"""The model_type of transformers' EncoderDecoderModel."""


def located(source: Any) -> Any:
    """The folder of a bundled model, if a source is its name and not an existing path."""
    known = isinstance(source, str) and source in _NAMES and not os.path.exists(source)
    return _NAMES[source] if known else source


def is_encoder_decoder(source: Any) -> bool:
    """Whether a source is the folder of an encoder-decoder model."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = Path(os.path.expanduser(located(source))) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # the loader reports what is wrong
    return isinstance(values, dict) and values.get("model_type") == ENCODER_DECODER
