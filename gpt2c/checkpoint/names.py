"""The table of GPT-2's tensors: their names, their shapes, and the spelling of the names in files.

A Conv1D weight of GPT-2 is stored as [in, out] (``y = x @ w + b``) and stays so: nothing is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..config import Config

__all__ = ["canonical", "expected", "is_mask", "of_choice_head"]

_EMBEDDINGS = {
    "wte.weight": ("n_vocab", "n_embd"),
    "wpe.weight": ("n_ctx", "n_embd"),
}
_LAYER = {
    "ln_1.weight": ("n_embd",),
    "ln_1.bias": ("n_embd",),
    "attn.c_attn.weight": ("n_embd", "3 * n_embd"),
    "attn.c_attn.bias": ("3 * n_embd",),
    "attn.c_proj.weight": ("n_embd", "n_embd"),
    "attn.c_proj.bias": ("n_embd",),
    "ln_2.weight": ("n_embd",),
    "ln_2.bias": ("n_embd",),
    "mlp.c_fc.weight": ("n_embd", "n_inner"),
    "mlp.c_fc.bias": ("n_inner",),
    "mlp.c_proj.weight": ("n_inner", "n_embd"),
    "mlp.c_proj.bias": ("n_embd",),
}
_END = {
    "ln_f.weight": ("n_embd",),
    "ln_f.bias": ("n_embd",),
}
_HEAD = {"lm_head.weight": ("n_vocab", "n_embd")}

_PREFIX = "transformer."
_MASK = re.compile(r"h\.(0|[1-9][0-9]{0,3})\.attn\.(bias|masked_bias)")


def expected(config: Config) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Every tensor that a model of this configuration has: canonical name, shape in words and in numbers.

    ``lm_head.weight`` is among them only where the head is not tied to ``wte.weight``.
    """
    sizes = {name: getattr(config, name) for name in ("n_vocab", "n_ctx", "n_embd", "n_inner")}
    sizes["3 * n_embd"] = 3 * config.n_embd
    layers = {f"h.{i}.{name}": dims for i in range(config.n_layer) for name, dims in _LAYER.items()}
    head = {} if config.tie_word_embeddings else _HEAD
    for name, dims in (_EMBEDDINGS | layers | _END | head).items():
        yield name, dims, tuple(sizes[dim] for dim in dims)
    shapes = {} if config.head is None else config.head.shapes(config.n_embd)
    for name, shape in shapes.items():
        yield name, ("labels" if config.is_classifier else "1", "n_embd")[: len(shape)], shape


def canonical(stored: str) -> str:
    """The canonical name of a stored tensor. Those of the body may begin with "transformer."."""
    name = stored.removeprefix(_PREFIX)
    # The head is not part of the body: its name has no prefix.
    return stored if name in _HEAD else name


def is_mask(name: str, n_layer: int) -> bool:
    """Whether a canonical name is a causal mask or its fill value, which old files store for every layer."""
    found = _MASK.fullmatch(name)
    return found is not None and int(found[1]) < n_layer


def of_choice_head(name: str) -> bool:
    """Whether a canonical name belongs to the head that chooses between texts, beside a language model's."""
    return name.startswith("multiple_choice_head.summary.")
