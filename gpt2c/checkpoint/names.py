"""The table of GPT-2's tensors: their names, their shapes, and the spelling of the names in files.

A Conv1D weight of GPT-2 is stored as [in, out] (``y = x @ w + b``) and stays so: nothing is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ..config import Config

__all__ = [
    "Entry",
    "canonical",
    "expected",
    "from_llama_cpp",
    "head_of_another_task",
    "is_mask",
    "of_an_adapter",
    "of_choice_head",
    "of_llama_cpp",
    "of_transformers",
    "shared_prefix",
    "without_wrappers",
]

_Dims = dict[str, tuple[str, ...]]

_EMBEDDINGS: _Dims = {
    "wte.weight": ("n_vocab", "n_embd"),
    "wpe.weight": ("n_ctx", "n_embd"),
}
_LAYER: _Dims = {
    "ln_1.weight": ("n_embd",),
    "ln_1.bias": ("n_embd",),
    "attn.c_attn.weight": ("n_embd", "n_qkv"),
    "attn.c_attn.bias": ("n_qkv",),
    "attn.c_proj.weight": ("n_embd", "n_embd"),
    "attn.c_proj.bias": ("n_embd",),
    "ln_2.weight": ("n_embd",),
    "ln_2.bias": ("n_embd",),
    "mlp.c_fc.weight": ("n_embd", "n_inner"),
    "mlp.c_fc.bias": ("n_inner",),
    "mlp.c_proj.weight": ("n_inner", "n_embd"),
    "mlp.c_proj.bias": ("n_embd",),
}
_CROSS: _Dims = {
    "ln_cross_attn.weight": ("n_embd",),
    "ln_cross_attn.bias": ("n_embd",),
    "crossattention.q_attn.weight": ("n_embd", "n_embd"),
    "crossattention.q_attn.bias": ("n_embd",),
    "crossattention.c_attn.weight": ("n_embd", "2 * n_embd"),
    "crossattention.c_attn.bias": ("2 * n_embd",),
    "crossattention.c_proj.weight": ("n_embd", "n_embd"),
    "crossattention.c_proj.bias": ("n_embd",),
}
_END: _Dims = {
    "ln_f.weight": ("n_embd",),
    "ln_f.bias": ("n_embd",),
}
# A BERT's additional tensors; its ln_1 and ln_2 follow the attention and the feed-forward layer, as in GPT-1.
_TYPES: _Dims = {"wtt.weight": ("n_types", "n_embd")}
_AFTER_EMBEDDING: _Dims = {
    "ln_emb.weight": ("n_embd",),
    "ln_emb.bias": ("n_embd",),
}
_MASKED_HEAD: _Dims = {
    "transform.weight": ("n_embd", "n_embd"),
    "transform.bias": ("n_embd",),
    "ln_head.weight": ("n_embd",),
    "ln_head.bias": ("n_embd",),
    "lm_head.bias": ("n_vocab",),
}
_HEAD: _Dims = {"lm_head.weight": ("n_vocab", "n_embd")}

_PREFIX = "transformer."
# Prefixes of every name if torch.compile, parallel training, Lightning or PEFT wraps the model.
_WRAPPERS = re.compile(r"(?:(?:_orig_mod|module|model|base_model\.model)\.)*")
_WRAPPED = re.compile(r"(.+?\.)(?:transformer\.)?wte\.weight")
# Endings of 2018 and 2019: of LayerNorm, and as OpenAI's program names variables.
_OLD_ENDING = re.compile(r"(.*\b(?:ln_1|ln_2|ln_f|c_attn|c_proj|c_fc)\.)(gamma|beta|g|w|b)")
_ENDINGS = {"gamma": "weight", "beta": "bias", "g": "weight", "w": "weight", "b": "bias"}
# Whole names of that program: "model/wte", "model/h0/attn/c_attn/w".
_OF_OPENAI = re.compile(r"model/(?:h([0-9]+)/)?(.+)")
# Names in llama.cpp, without the ending; N is the number of a layer.
_OF_LLAMA_CPP = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "h.N.ln_1": "blk.N.attn_norm",
    "h.N.attn.c_attn": "blk.N.attn_qkv",
    "h.N.attn.c_proj": "blk.N.attn_output",
    "h.N.ln_2": "blk.N.ffn_norm",
    "h.N.mlp.c_fc": "blk.N.ffn_up",
    "h.N.mlp.c_proj": "blk.N.ffn_down",
    "ln_f": "output_norm",
    "lm_head": "output",
}
_FROM_LLAMA_CPP = {stored: part for part, stored in _OF_LLAMA_CPP.items()}
_NUMBER = re.compile(r"(?<=\.)(?:0|[1-9][0-9]*)(?=\.)")
_OLD_HEAD = {"lm_head.decoder.weight": "lm_head.weight"}
_OTHER_HEAD = re.compile(r"(multiple_choice_head\.(summary|linear)|v_head(\.summary)?)\.(weight|bias)")
# Parts that PEFT inserts into the names of layers that it wraps.
_ADAPTER = re.compile(r"(.*\.)?(lora_\w+|base_layer|modules_to_save|original_module)(\..*)?")
_MASK = re.compile(r"h\.(0|[1-9][0-9]{0,3})\.(?:cross)?att(?:n|ention)\.(bias|masked_bias)")


class Entry(NamedTuple):
    """A tensor to write into a file, and its source."""

    name: str  # its name in the file
    canonical: str
    is_turned: bool = False  # a matrix whose transpose is stored
    third: int | None = None  # which third of the columns, if not all


def expected(config: Config) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Every tensor that a model of this configuration has: canonical name, shape in words and in numbers.

    ``lm_head.weight`` is included only if the head is not tied to ``wte.weight``.
    """
    names = ("n_vocab", "n_ctx", "n_types", "n_embd", "n_qkv", "n_inner")
    sizes = {name: getattr(config, name) for name in names} | {"2 * n_embd": 2 * config.n_embd}
    words = {"n_qkv": "n_embd + 2 * head_dim" if config.is_multi_query else "3 * n_embd"}
    layer = _LAYER | (_CROSS if config.add_cross_attention else {})
    layers = {f"h.{i}.{name}": dims for i in range(config.n_layer) for name, dims in layer.items()}
    before, after = _EMBEDDINGS, _END
    if config.is_bert:
        before = _EMBEDDINGS | (_TYPES if config.n_types else {}) | _AFTER_EMBEDDING
        after = _MASKED_HEAD if config.masked_head else {}
    head = {} if config.tie_word_embeddings else _HEAD
    for name, dims in (before | layers | after | head).items():
        yield name, tuple(words.get(dim, dim) for dim in dims), tuple(sizes[dim] for dim in dims)
    shapes = {} if config.head is None else config.head.shapes(config.n_embd)
    for name, shape in shapes.items():
        first = "n_embd" if name.startswith("pooler.") else "labels" if config.is_classifier else "1"
        yield name, (first, "n_embd")[: len(shape)], shape


def canonical(stored: str) -> str:
    """The canonical name of a stored tensor.

    It may be preceded by the names of wrappers, then "transformer." if it belongs to the body; endings may be
    those of old versions.
    """
    bare = without_wrappers(_with_dots(stored))
    bare = _OLD_HEAD.get(bare, bare)
    name = bare.removeprefix(_PREFIX)
    if name in _HEAD:
        # The head is not part of the body: its name has no prefix.
        return name if name == bare else stored
    old = _OLD_ENDING.fullmatch(name)
    return old[1] + _ENDINGS[old[2]] if old else name


def without_wrappers(stored: str) -> str:
    """A stored name without the prefixes of wrappers."""
    return stored[_WRAPPERS.match(stored).end() :]  # type: ignore[union-attr]  # it matches nothing, too


def _with_dots(stored: str) -> str:
    """A name of OpenAI's program as one with dots: "wte.weight", "h.0.attn.c_attn.w"; others as they are."""
    found = _OF_OPENAI.fullmatch(stored)
    if found is None:
        return stored
    name = found[2].replace("/", ".")
    if found[1] is not None:
        return f"h.{found[1]}.{name}"
    return f"{name}.weight" if f"{name}.weight" in _EMBEDDINGS else name


def shared_prefix(stored: Collection[str]) -> str:
    """The common prefix of all names, if `canonical` does not know it: "net.gpt." for ``self.net.gpt``."""
    for name in stored:
        found = _WRAPPED.fullmatch(name)
        if found and canonical(name) != "wte.weight":
            return found[1] if all(other.startswith(found[1]) for other in stored) else ""
    return ""


def of_transformers(name: str) -> str:
    """The name in transformers of a tensor of a model with a head; tensors of heads have no prefix."""
    is_body = name.startswith(("wte.", "wpe.", "h.", "ln_f."))
    return _PREFIX + name if is_body else name


def of_llama_cpp(name: str) -> str:
    """The name of a language model's tensor in GGUF files."""
    return _translated(name, _OF_LLAMA_CPP)


def from_llama_cpp(stored: str) -> str:
    """The canonical name of a tensor of a GGUF file; unchanged if GPT-2 has no such tensor."""
    return _translated(stored, _FROM_LLAMA_CPP)


def _translated(name: str, table: Mapping[str, str]) -> str:
    part, _, kind = name.rpartition(".")
    number = _NUMBER.search(part)
    found = table.get(_NUMBER.sub("N", part, count=1))
    if found is None or kind not in ("weight", "bias"):
        return name
    return f"{found.replace('N', number[0]) if number else found}.{kind}"


def is_mask(name: str, n_layer: int) -> bool:
    """Whether a canonical name is a causal mask or its fill value, which old files store for every layer."""
    found = _MASK.fullmatch(name)
    return found is not None and int(found[1]) < n_layer


def head_of_another_task(name: str) -> bool:
    """Whether a canonical name belongs to a head for another task, which the language model does not use.

    That is the choice head of GPT2DoubleHeadsModel, or the value head that TRL trains beside a model.
    """
    return _OTHER_HEAD.fullmatch(name) is not None


def of_an_adapter(stored: str) -> bool:
    """Whether a stored tensor belongs to an adapter of PEFT, or to a layer that has one."""
    return _ADAPTER.fullmatch(stored) is not None


def of_choice_head(name: str) -> bool:
    """Whether a canonical name belongs to the head that chooses between texts, beside a language model's."""
    return name.startswith("multiple_choice_head.summary.")
