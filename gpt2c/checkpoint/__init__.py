"""Checkpoints: from a path or a name to a checked model on disk, and from there to a loaded model.

directory.py and hub.py find a model's files, hf_config.py reads its configuration, safetensors.py and
torch_file.py (with pickled.py and torch_names.py) its weights; tensorflow.py (with tf_bundle.py, crc32c.py)
reads what OpenAI's program writes, nanogpt.py, mingpt.py and llmc.py the formats of these, gguf_model.py GGUF
files (with gguf.py and gguf_quants.py); they share training.py. names.py holds the table of GPT-2's tensors
and validate.py checks the weights against it; bert_config.py and bert.py handle BERT's files.
opening.py combines these into the Checkpoint of checkpoint.py; adapter_config.py and adapter.py read LoRA
adapters, merging.py and deltas.py merge them into one; files.py is shared by all. packed.py is the format
of packed files, loading.py makes a model from either kind, export.py writes one for transformers and
gguf_export.py for llama.cpp.
"""

from .opening import BUNDLED, Checkpoint, open_checkpoint
from .tensors import TensorInfo

__all__ = ["BUNDLED", "Checkpoint", "TensorInfo", "open_checkpoint"]
