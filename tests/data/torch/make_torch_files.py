"""Makes the files beside it, with torch: state dicts of a tiny GPT-2, with the tensors of expected.npz.

    pip install torch==2.13.0 numpy
    python tests/data/torch/make_torch_files.py

zip.bin, stream.bin: as transformers stored them, with masks and the tied head, in both formats of torch.
views.bin: transposed and sliced views of storages. F16.bin, BF16.bin, F64.bin: other types of elements.
protocol.bin: a newer protocol of pickle, in a dict that is no OrderedDict. training.pt: what a training run
keeps beside the model.
"""

import collections
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from helpers.tiny_checkpoints import TINY, tiny_tensors  # noqa: E402


def main():
    arrays = tiny_tensors()
    np.savez_compressed(HERE / "expected.npz", **arrays)
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
    torch.save(stored, HERE / "zip.bin")
    torch.save(stored, HERE / "stream.bin", _use_new_zipfile_serialization=False)
    views = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            views[name] = torch.nn.Parameter(tensor.t().contiguous().t())
        else:
            views[name] = torch.cat([torch.full((3,), torch.nan), tensor])[3:]
    torch.save(views, HERE / "views.bin")
    for name, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16), ("F64", torch.float64)):
        torch.save({key: tensor.to(dtype) for key, tensor in tensors.items()}, HERE / f"{name}.bin")
    torch.save(dict(tensors), HERE / "protocol.bin", pickle_protocol=5)
    training = {
        "model": stored,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95)}]},
        "epoch": 3,
        "loss": 2.5,
        "name": "tiny",
    }
    torch.save(training, HERE / "training.pt")


if __name__ == "__main__":
    main()
