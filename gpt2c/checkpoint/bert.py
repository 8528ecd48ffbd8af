"""The tensors of BERT, RoBERTa and DistilBERT, as transformers stores them, and their mapping to gpt2c's.

Dense layers are torch's Linear, [out, in]. Queries, keys and values come from three of them, which are read
side by side as one. The matrices of a classifier stay [out, in], as for GPT-2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ..config import Config
from ..errors import shown
from .bert_config import FAMILIES, names_no_class, said
from .names import Entry, expected, without_wrappers
from .tensors import TensorInfo, side_by_side
from .validate import Names, match

__all__ = ["entries", "match_bert"]


class _Spelling(NamedTuple):
    """Names of tensors, without their endings: name in gpt2c -> name in files."""

    prefix: str  # before the names of the body if the model has a head
    layer: str  # before the names of a layer
    layers: dict[str, str]
    others: dict[str, str]
    pooler: str  # the layer before the labels of a text, and the labels' own
    classifier: str
    bias: tuple[str, ...]  # names of the token bias, the effective one first


_QKV = ("attn.query", "attn.key", "attn.value")
_BERT = _Spelling(
    "bert.",
    "encoder.layer.",
    {
        "attn.query": "attention.self.query",
        "attn.key": "attention.self.key",
        "attn.value": "attention.self.value",
        "attn.c_proj": "attention.output.dense",
        "ln_1": "attention.output.LayerNorm",
        "mlp.c_fc": "intermediate.dense",
        "mlp.c_proj": "output.dense",
        "ln_2": "output.LayerNorm",
    },
    {
        "wte": "embeddings.word_embeddings",
        "wpe": "embeddings.position_embeddings",
        "wtt": "embeddings.token_type_embeddings",
        "ln_emb": "embeddings.LayerNorm",
        "transform": "cls.predictions.transform.dense",
        "ln_head": "cls.predictions.transform.LayerNorm",
        "lm_head": "cls.predictions.decoder",
    },
    "pooler.dense",
    "classifier",
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
)
_ROBERTA = _BERT._replace(
    prefix="roberta.",
    others=_BERT.others
    | {"transform": "lm_head.dense", "ln_head": "lm_head.layer_norm", "lm_head": "lm_head.decoder"},
    pooler="classifier.dense",
    classifier="classifier.out_proj",
    bias=("lm_head.decoder.bias", "lm_head.bias"),
)
_DISTILBERT = _Spelling(
    "distilbert.",
    "transformer.layer.",
    {
        "attn.query": "attention.q_lin",
        "attn.key": "attention.k_lin",
        "attn.value": "attention.v_lin",
        "attn.c_proj": "attention.out_lin",
        "ln_1": "sa_layer_norm",
        "mlp.c_fc": "ffn.lin1",
        "mlp.c_proj": "ffn.lin2",
        "ln_2": "output_layer_norm",
    },
    _BERT.others
    | {"transform": "vocab_transform", "ln_head": "vocab_layer_norm", "lm_head": "vocab_projector"},
    "pre_classifier",
    "classifier",
    ("vocab_projector.bias",),
)
_SPELLINGS = {"bert": _BERT, "roberta": _ROBERTA, "xlm-roberta": _ROBERTA, "distilbert": _DISTILBERT}

_LAYER = re.compile(r"h\.(\d+)\.(.+)")
_OLD_ENDING = re.compile(r"(.*\bLayerNorm\.)(gamma|beta)")
_ENDINGS = {"gamma": "weight", "beta": "bias"}
# Integers that old versions store with the weights.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Tensors of the next-sentence head and of pooler_output; of the head that predicts tokens.
_OF_PAIRS = re.compile(r"(pooler\.dense|cls\.seq_relationship)\.(weight|bias)")
_OF_TOKENS = re.compile(
    r"(cls\.predictions|cls\.predictions\.(transform\.(dense|LayerNorm)|decoder)"
    r"|lm_head|lm_head\.(dense|layer_norm|decoder)|vocab_(transform|layer_norm|projector))\.(weight|bias)"
)


class _Stored(NamedTuple):
    """A tensor, or a part of one, in a file."""

    canonical: str  # name of the whole
    name: str  # without a prefix
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    is_dense: bool


def match_bert(
    stored: Iterable[TensorInfo], config: Config, where: str, *, source: str, strict: bool
) -> tuple[Config, dict[str, TensorInfo], list[str]]:
    """Find every tensor of a model, as `validate.match` does.

    Returns
    -------
    config : Config
        Without the head that predicts tokens if no class is named and the head is not stored.
    tensors : dict
        Canonical name -> TensorInfo, in the order of the model.
    notes : list of str
    """
    keys = said(config)
    kind = keys["model_type"]
    spelling = _SPELLINGS[kind]
    named, notes = _bare(stored, spelling)
    there = {tensor.name for tensor in named}
    bias = next((name for name in spelling.bias if name in there), _usual_bias(spelling))
    named, remarks = _one_bias(named, spelling.bias, bias)
    is_open = config.masked_head and names_no_class(config)
    if is_open and not any(_OF_TOKENS.fullmatch(tensor.name) for tensor in named):
        config = replace(config, masked_head=False, tie_word_embeddings=True)
        notes.append("the head that predicts tokens is not stored: hidden states only")
    whole = list(_whole(config, spelling, bias, keys["max_position_embeddings"]))
    unused = (_OF_PAIRS,) if config.masked_head else (_OF_PAIRS, _OF_TOKENS)
    names = Names(
        FAMILIES[kind].model,
        {part.name: (part.dims, part.shape) for part in whole},
        str,
        lambda name: any(head.fullmatch(name) for head in unused),
        *(f"{spelling.others[matrix]}.weight" for matrix in ("wte", "lm_head")),
    )
    found, told = match(named, config, where, source=source, strict=strict, names=names)
    return config, _assembled(whole, found, config), [*notes, *remarks, *told]


def entries(config: Config) -> Iterator[Entry]:
    """The contents of a file of weights for `bert_config.bert_to_hf`."""
    spelling = _BERT if config.n_types else _DISTILBERT
    has_head = config.masked_head or config.head is not None
    for part in _whole(config, spelling, _usual_bias(spelling), config.n_ctx):
        is_body = part.name.startswith(("embeddings.", spelling.layer, "pooler."))
        third = next((i for i, name in enumerate(_QKV) if f".{spelling.layers[name]}." in part.name), None)
        prefix = spelling.prefix if has_head and is_body else ""
        yield Entry(prefix + part.name, part.canonical, part.is_dense, third)


def _whole(config: Config, spelling: _Spelling, bias: str, n_rows: int) -> Iterator[_Stored]:
    """The tensors of a model in files, in order; their position table has ``n_rows`` rows."""
    pooled = config.head is not None and config.head.pooled
    others = spelling.others | {
        "pooler": spelling.pooler,
        "classifier": spelling.classifier if pooled else "classifier",
    }
    for canonical, dims, shape in expected(config):
        part, _, ending = canonical.rpartition(".")
        layer = _LAYER.fullmatch(part)
        is_dense = len(shape) == 2 and (layer is not None or part == "transform")
        if is_dense:
            dims, shape = dims[::-1], shape[::-1]
        if layer is not None and layer[2] == "attn.c_attn":
            dims, shape = ("n_embd", *dims[1:]), (config.n_embd, *shape[1:])
            for third in _QKV:
                name = f"{spelling.layer}{layer[1]}.{spelling.layers[third]}.{ending}"
                yield _Stored(canonical, name, dims, shape, is_dense)
            continue
        if layer is not None:
            name = f"{spelling.layer}{layer[1]}.{spelling.layers[layer[2]]}.{ending}"
        elif canonical == "lm_head.bias":
            name = bias
        else:
            name = f"{others[part]}.{ending}"
        if part == "wpe":
            dims, shape = ("max_position_embeddings", "n_embd"), (n_rows, config.n_embd)
        yield _Stored(canonical, name, dims, shape, is_dense)


def _bare(stored: Iterable[TensorInfo], spelling: _Spelling) -> tuple[list[TensorInfo], list[str]]:
    """The tensors under their current names, without prefixes; notes on the prefixes."""
    found = [tensor._replace(name=without_wrappers(tensor.name)) for tensor in stored]
    embedding = f"{_BERT.others['wte']}.weight"
    prefix = next(
        (tensor.name.removesuffix(embedding) for tensor in found if tensor.name.endswith(embedding)), ""
    )
    prefix = prefix.removesuffix(spelling.prefix)
    if not all(tensor.name.startswith(prefix) for tensor in found):
        prefix = ""
    notes = [f"{shown(prefix)} is removed from every name"] if prefix else []
    bare = []
    for tensor in found:
        name = tensor.name.removeprefix(prefix).removeprefix(spelling.prefix)
        old = _OLD_ENDING.fullmatch(name)
        name = old[1] + _ENDINGS[old[2]] if old else name
        if name not in _BUFFERS:
            bare.append(tensor._replace(name=name))
    return bare, notes


def _usual_bias(spelling: _Spelling) -> str:
    """The current name of the token bias."""
    return min(spelling.bias, key=len)


def _one_bias(
    stored: list[TensorInfo], names: tuple[str, ...], counts: str
) -> tuple[list[TensorInfo], list[str]]:
    """The tensors without the token bias under its other name; a note if that has its own bytes."""
    kept = [tensor for tensor in stored if tensor.name == counts or tensor.name not in names]
    first = next((tensor for tensor in kept if tensor.name == counts), None)
    others = [t for t in stored if t.name in names and t.name != counts and t._replace(name=counts) != first]
    return kept, [
        f"{other.name} is stored, but is the same parameter as {counts}, which is used, as transformers does"
        for other in others
    ]


def _assembled(whole: list[_Stored], found: dict[str, TensorInfo], config: Config) -> dict[str, TensorInfo]:
    """The tensors to read, by canonical name."""
    parts: dict[str, list[TensorInfo]] = {}
    for part in whole:
        tensor = found[part.name]
        parts.setdefault(part.canonical, []).append(tensor.transposed if part.is_dense else tensor)
    tensors = {
        name: several[0] if len(several) == 1 else side_by_side(name, tuple(several))
        for name, several in parts.items()
    }
    positions = tensors["wpe.weight"]
    tensors["wpe.weight"] = positions.without_rows(positions.shape[0] - config.n_ctx)
    return tensors
