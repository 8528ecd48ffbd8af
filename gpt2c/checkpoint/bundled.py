"""The models that come with gpt2c, and a look at what kind of model a folder holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["BUNDLED", "BUNDLED_MASKED", "ENCODER_DECODER", "is_encoder_decoder", "located"]

_DATA = Path(__file__).parent.parent / "data"
BUNDLED = _DATA / "model"
"""What GPT2 loads if no model is named."""
BUNDLED_MASKED = _DATA / "masked" / "model.gpt2c"
"""The same of BERT."""

# Names of models that come with gpt2c -> where they are.
_NAMES = {"dates": _DATA / "dates", "masked": BUNDLED_MASKED}

ENCODER_DECODER = "encoder-decoder"
"""The model_type of transformers' EncoderDecoderModel."""


def located(source: Any) -> Any:
    """Where a model that comes with gpt2c is, if its name is given and no file or folder has that name."""
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
