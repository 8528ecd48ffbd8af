"""Models of type gpt_bigcode, as transformers' GPTBigCode stores them: GPT-2 with torch's dense layers.

Dense layers are torch's Linear, [out, in]. With ``multi_query`` the outputs of c_attn are the queries of all
heads, one key and one value; without it they are query, key and value of one head after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..config import Config
from .names import canonical
from .tensors import TensorInfo
from .training import transposed

__all__ = ["as_gpt2"]

_C_ATTN = re.compile(r"h\.\d+\.attn\.c_attn\.(weight|bias)")


def as_gpt2(stored: Iterable[TensorInfo], config: Config) -> list[TensorInfo]:
    """The tensors of such a model, read in GPT-2's layout."""
    found = transposed(stored)
    if config.is_multi_query:
        return found
    return [
        tensor._replace(heads=config.n_head) if _C_ATTN.fullmatch(canonical(tensor.name)) else tensor
        for tensor in found
    ]
