"""Makes the files beside it, with torch: state dicts of a tiny GPT-2, with the tensors of expected.npz.

    pip install torch==2.13.0 numpy
    python tests/data/torch/make_torch_files.py [DIRECTORY]

zip.bin, stream.bin: as transformers stored them, with masks and the tied head, in both formats of torch.
views.bin: transposed and sliced views of storages. F16.bin, BF16.bin, F64.bin: other types of elements.
protocol.bin: a newer protocol of pickle, in a dict that is no OrderedDict. training.pt: what a training run
keeps beside the model.

zip-1.13.bin, stream-1.13.bin, zip-2.3.bin, stream-2.6.bin: zip.bin and stream.bin as torch 1.13.1, 2.3.1
and 2.6.0 write them (with "numpy<2"). All eight kinds were made with torch 1.13.1, 2.0.1, 2.3.1, 2.6.0,
2.10.0 and 2.13.0. Byte for byte, archives of 1.13 are those of 2.0, those of 2.3 are 2.6's, and those of
2.10 are 2.13's; streams differ from run to run, in the names of storages. gpt2c read every tensor as
torch.load of the version that wrote it, with weights_only=True where that reads the file: it does not read
protocol 5, nor in 1.13 training.pt.
"""

import collections
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from helpers.tiny_checkpoints import TINY, tiny_tensors  # noqa: E402


def main(directory):
    arrays = tiny_tensors()
    np.savez_compressed(directory / "expected.npz", **arrays)
    tensors = collections.OrderedDict(
        (f"transformer.{name}", torch.from_numpy(array.copy())) for name, array in arrays.items()
    )
    stored = collections.OrderedDict(tensors)
    for layer in range(TINY["n_layer"]):
        size = TINY["n_positions"]
        stored[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, size, size, dtype=torch.uint8).tril()
        stored[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    stored["lm_head.weight"] = stored["transformer.wte.weight"]
    stored._metadata = collections.OrderedDict(transformer={"version": 1})
    torch.save(stored, directory / "zip.bin")
    torch.save(stored, directory / "stream.bin", _use_new_zipfile_serialization=False)
    views = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            views[name] = torch.nn.Parameter(tensor.t().contiguous().t())
        else:
            views[name] = torch.cat([torch.full((3,), torch.nan), tensor])[3:]
    torch.save(views, directory / "views.bin")
    for name, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16), ("F64", torch.float64)):
        torch.save({key: tensor.to(dtype) for key, tensor in tensors.items()}, directory / f"{name}.bin")
    torch.save(dict(tensors), directory / "protocol.bin", pickle_protocol=5)
    training = {
        "model": stored,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95)}]},
        "epoch": 3,
        "loss": 2.5,
        "name": "tiny",
    }
    torch.save(training, directory / "training.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE)
