"""Checkpoints: from a path or a name to a checked model on disk, and from there to a loaded model.

directory.py and hub.py say where a model lies, safetensors.py reads the format, names.py holds the table of
GPT-2's tensors and validate.py compares the two; opening.py puts them together; files.py is what they share.
packed.py is the format of whole models, loading.py makes a model of either.
"""

from .opening import BUNDLED, Checkpoint, open_checkpoint
from .safetensors import TensorInfo

__all__ = ["BUNDLED", "Checkpoint", "TensorInfo", "open_checkpoint"]
