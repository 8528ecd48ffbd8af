"""The named activations of a forward pass: what can be captured and edited.

The names are TransformerLens's. T is the number of tokens, d_head the width of a head; where all heads share
keys and values (multi-query attention), hook_k, hook_v and the inputs of these have one head, and there is no
hook_attn_in::

    hook_embed                  [T, n_embd]           the token's row of wte
    hook_pos_embed              [T, n_embd]           the position's row of wpe
    blocks.{i}.hook_resid_pre   [T, n_embd]           the residual stream before layer i
      .hook_attn_in             [T, n_head, n_embd]   the same, as each head alone reads it
      .hook_q_input .hook_k_input .hook_v_input       the same, as it reads it for queries, keys and values
      .ln1.hook_scale           [T, 1]                LayerNorm's divisor: sqrt(variance + epsilon)
      .ln1.hook_normalized      [T, n_embd]           (x - mean) / scale, before LayerNorm's gain and bias
      .attn.hook_q .hook_k .hook_v  [T, n_head, d_head]   queries, keys and values
      .attn.hook_attn_scores    [n_head, T, T]        query times key, scaled; -inf where a key is hidden
      .attn.hook_pattern        [n_head, T, T]        its softmax: a row per query, a column per key
      .attn.hook_z              [T, n_head, d_head]   values weighted by the pattern, summed
      .attn.hook_result         [T, n_head, n_embd]   each head's addition to the residual stream
      .hook_attn_out            [T, n_embd]           the sum of these and the bias
      .hook_resid_mid           [T, n_embd]           the residual stream between attention and feed-forward
      .cross_attn.hook_pattern  [n_head, T, S]        each token's weights on the encoder's S positions
      .hook_cross_attn_out      [T, n_embd]           cross-attention's addition to the residual stream
      .hook_resid_mid_cross     [T, n_embd]           the residual stream after it
      .hook_mlp_in              [T, n_embd]           the same, as the feed-forward layer alone reads it
      .ln2.hook_scale .ln2.hook_normalized            as for ln1, of hook_mlp_in
      .mlp.hook_pre .mlp.hook_post  [T, n_inner]      feed-forward before and after the activation function
      .hook_mlp_out             [T, n_embd]           its addition to the residual stream
      .hook_resid_post          [T, n_embd]           the residual stream after layer i
    ln_final.hook_scale .hook_normalized              as for ln1, of the rows whose logits are wanted

Only models with cross-attention have its three values; its pattern can be captured, but not edited.

The inputs of parts, hook_attn_in to hook_v_input and hook_mlp_in, are copies of the residual stream for
edits: a change reaches only that part and not the stream itself, as path patching needs. An edited
hook_attn_in is the initial value of the other three (TransformerLens has either it or them). A head that
reads something other than the stream has its own LayerNorm, which has no name: ln1 is that of the stream.

A BERT has the names of TransformerLens's HookedEncoder. LayerNorm follows each sum there, and its output is
the residual stream from then on: ln1 comes after hook_resid_mid, ln2 after hook_resid_post::

    hook_embed hook_pos_embed   [T, n_embd]           as above, and between them
    hook_token_type_embed       [T, n_embd]           the token type's row of wtt, if the model has types
    ln_embed.hook_scale .hook_normalized              LayerNorm of the sum of these
    hook_full_embed             [T, n_embd]           its output: the residual stream before layer 0
    blocks.{i}.hook_resid_pre to .hook_attn_out       as above, without ln1
      .hook_resid_mid           [T, n_embd]           the residual stream plus attention's output
      .ln1.hook_scale .ln1.hook_normalized            LayerNorm of that
      .hook_normalized_resid_mid [T, n_embd]          its output, the residual stream from here on
      .hook_mlp_in              [T, n_embd]           the same, as the feed-forward layer alone reads it
      .mlp.hook_pre .mlp.hook_post .hook_mlp_out      as above
      .hook_resid_post          [T, n_embd]           the residual stream plus that
      .ln2.hook_scale .ln2.hook_normalized            LayerNorm of that
      .hook_normalized_resid_post [T, n_embd]         its output: the residual stream after layer i
    ln_final.hook_scale .hook_normalized              LayerNorm in the head that predicts tokens, if any

(TransformerLens writes "embed." before the names of the embedding, and calls the norms there embed.ln and
mlm_head.ln; it has no hook_normalized_resid_mid; and its hook_mlp_in comes before ln1, where other parts read
it, too.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ..config import Config
from ..core.checks import check_index
from ..errors import shown

__all__ = [
    "Hook",
    "NamesFilter",
    "axes",
    "full_name",
    "heads_of",
    "hook_names",
    "matching",
    "place_of",
    "table_of",
]

# The places at which the engine can stop (core._engine.PLACES) -> the values there.
OUTSIDE = ("embed", "token_type_embed", "pos_embed", "ln_emb", "ln_final")
PLACES = {
    "embed": ("hook_embed",),
    "pos_embed": ("hook_pos_embed",),
    "resid_pre": ("hook_resid_pre",),
    "attn_in": ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input"),
    "ln1": ("ln1.hook_scale", "ln1.hook_normalized"),
    "qkv": ("attn.hook_q", "attn.hook_k", "attn.hook_v"),
    "attn_scores": ("attn.hook_attn_scores",),
    "pattern": ("attn.hook_pattern",),
    "z": ("attn.hook_z",),
    "attn_out": ("attn.hook_result", "hook_attn_out"),
    "resid_mid": ("hook_resid_mid",),
    "cross_pattern": ("cross_attn.hook_pattern",),
    "cross_attn_out": ("hook_cross_attn_out",),
    "resid_mid_cross": ("hook_resid_mid_cross",),
    "mlp_in": ("hook_mlp_in",),
    "ln2": ("ln2.hook_scale", "ln2.hook_normalized"),
    "pre": ("mlp.hook_pre",),
    "post": ("mlp.hook_post",),
    "mlp_out": ("hook_mlp_out",),
    "resid_post": ("hook_resid_post",),
    "ln_final": ("ln_final.hook_scale", "ln_final.hook_normalized"),
}
PLACES_OF_BERT = {
    "embed": PLACES["embed"],
    "token_type_embed": ("hook_token_type_embed",),
    "pos_embed": PLACES["pos_embed"],
    "ln_emb": ("ln_embed.hook_scale", "ln_embed.hook_normalized", "hook_full_embed"),
    "resid_pre": PLACES["resid_pre"],
    "attn_in": PLACES["attn_in"],
    "qkv": PLACES["qkv"],
    "attn_scores": PLACES["attn_scores"],
    "pattern": PLACES["pattern"],
    "z": PLACES["z"],
    "attn_out": PLACES["attn_out"],
    "resid_mid": PLACES["resid_mid"],
    "ln1": (*PLACES["ln1"], "hook_normalized_resid_mid"),
    "mlp_in": PLACES["mlp_in"],
    "pre": PLACES["pre"],
    "post": PLACES["post"],
    "mlp_out": PLACES["mlp_out"],
    "resid_post": PLACES["resid_post"],
    "ln2": (*PLACES["ln2"], "hook_normalized_resid_post"),
    "ln_final": PLACES["ln_final"],
}
# Inputs of parts -> the values they are copies of until edited.
COPIES = dict.fromkeys(PLACES["attn_in"], "hook_resid_pre") | {"hook_mlp_in": "hook_resid_mid"}


class Table(NamedTuple):
    """The values in models of a type: at each place; copies and their originals; where these apply."""

    places: dict[str, tuple[str, ...]]
    copies: dict[str, str]
    effects: dict[str, str]


TABLES = {
    "gpt2": Table(
        {place: names for place, names in PLACES.items() if "cross" not in place},
        COPIES,
        {"attn_in": "qkv", "mlp_in": "ln2"},
    ),
    "cross": Table(
        PLACES, COPIES | {"hook_mlp_in": "hook_resid_mid_cross"}, {"attn_in": "qkv", "mlp_in": "ln2"}
    ),
    "bert": Table(
        PLACES_OF_BERT,
        COPIES | {"hook_mlp_in": "hook_normalized_resid_mid"},
        {"attn_in": "qkv", "mlp_in": "pre"},
    ),
}
"""By the type of a model; "cross" is a GPT-2 with cross-attention."""
PLACE_OF = {
    name: place for table in TABLES.values() for place, names in table.places.items() for name in names
}
ONLY_BY_NAME = ("attn.hook_result", *COPIES)  # not part of "everything": large, or copies
ENDS = ("result", "_in", "_input")  # endings of these
OF_HEADS = ("attn_in", "q_input", "k_input", "v_input", "q", "k", "v", "z", "result")
OF_KV_HEADS = ("k_input", "v_input", "k", "v")

Name = str | tuple[str, int]
NamesFilter = Name | Iterable[Name] | Callable[[str], bool] | None


class Hook(NamedTuple):
    """The origin of a value, passed to an edit with it.

    Attributes
    ----------
    name : str
        The full name, such as "blocks.3.attn.hook_pattern".
    layer : int or None
        3 of it; None outside layers.
    positions : range
        The positions of the value's rows, as the model counts them: all of them in one pass over a text;
        during generation those of the prompt first, then one at a time. (When ``overflow="slide"`` moves the
        window, the remaining text starts at 0 again.)
    complete : bool
        Whether no further positions will follow; False during generation.
    """

    name: str
    layer: int | None
    positions: range
    complete: bool = False


def table_of(config: Config) -> Table:
    """The values that a model has."""
    return TABLES["cross" if config.add_cross_attention else config.model_type]


def hook_names(config: Config) -> list[str]:
    """All names of a model, in order of computation."""
    before, in_layer, after = _parts(config)
    layers = [f"blocks.{layer}.{name}" for layer in range(config.n_layer) for name in in_layer]
    return [*before, *layers, *after]


def _parts(config: Config) -> tuple[list[str], list[str], list[str]]:
    """The names before the layers, in each of them, and after them."""
    absent = {
        # inputs per head, where heads share the result
        "hook_attn_in": config.is_multi_query,
        "hook_token_type_embed": not config.n_types,
        **dict.fromkeys(PLACES["ln_final"], config.is_bert and not config.masked_head),
    }
    parts: tuple[list[str], list[str], list[str]] = [], [], []
    for place, names in table_of(config).places.items():
        which = 1 if place not in OUTSIDE else 2 if place == "ln_final" else 0
        parts[which].extend(name for name in names if not absent.get(name))
    return parts


def full_name(config: Config, short: str, layer: int | None = None) -> str:
    """The full name of "pattern", "attn.pattern" or "attn.hook_pattern" in a layer, or of "embed".

    A full name is returned unchanged. Layers count from 0, negative ones from the end. A KeyError lists the
    names.
    """
    asked: Any = layer
    if layer is None and short.startswith("blocks.") and short.count(".") > 1:
        _, number, short = short.split(".", 2)
        asked = int(number) if number.isdecimal() and len(number) < 10 else number
    before, in_layer, after = _parts(config)
    names, prefix = ([*before, *after], "") if asked is None else (in_layer, "blocks.{}.")
    if asked is not None:
        try:
            prefix = prefix.format(check_index("layer", asked, config.n_layer))
        except (TypeError, ValueError) as error:
            raise KeyError(str(error)) from None
    for name in names:
        if short in _spellings(name):
            return prefix + name
    where = "outside layers" if asked is None else "in a layer"
    shorter = ", ".join(name.replace("hook_", "") for name in names)
    inside = asked is None and any(short in _spellings(name) for name in in_layer)
    hint = f"; in a layer: cache[{short!r}, 0]" if inside else ""
    raise KeyError(f"no value {short!r} {where}; there are {shorter}{hint}")


def _spellings(name: str) -> tuple[str, ...]:
    """The names of a value in its layer: "attn.hook_z", "attn.z" or "z"."""
    part = name.replace("hook_", "")
    return (name, part) if part.startswith(("ln", "cross_attn.")) else (name, part, part.rpartition(".")[2])


def matching(config: Config, names_filter: NamesFilter) -> list[str]:
    """The names that a filter selects, in order of computation.

    Parameters
    ----------
    names_filter : str, (str, int), iterable of either, function, or None
        A name, with ``*``, ``?`` and ``[...]`` as in file names; a short one, as for `full_name`, for all
        layers, or in a pair with a layer; several of these; or a function that is called with each name. None
        means ``"*"``. Wildcards match attn.hook_result and the inputs of parts, which are large or copies,
        only in patterns that end like these: in ``result``, ``_in`` or ``_input``.

    Raises
    ------
    ValueError
        A name that the model does not have, or a pattern that matches none.
    TypeError
        Anything else.
    """
    names = hook_names(config)
    if names_filter is None:
        names_filter = "*"
    if callable(names_filter):
        return [name for name in names if names_filter(name)]
    alone = isinstance(names_filter, str) or _is_pair(names_filter)
    if not alone and not isinstance(names_filter, Iterable):
        raise _no_name(names_filter)
    chosen = {
        name
        for asked in ([names_filter] if alone else names_filter)
        for name in _called(config, names, asked)
    }
    return [name for name in names if name in chosen]


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern matches a name; large values and copies only if it ends as they do."""
    ends = not name.endswith(ONLY_BY_NAME) or pattern.endswith(ENDS)
    return ends and fnmatchcase(name, pattern)


def _is_pair(asked: Any) -> bool:
    return isinstance(asked, tuple) and len(asked) == 2 and not isinstance(asked[1], str)


def _no_name(asked: Any) -> TypeError:
    return TypeError(
        "names_filter is a name, a pair such as ('pattern', 3), several of these, a function of a name, or "
        f"None, not {shown(asked)} ({type(asked).__name__})"
    )


def _called(config: Config, names: list[str], asked: Any) -> list[str]:
    """The names requested by a name or a pair."""
    if _is_pair(asked) and isinstance(asked[0], str):
        try:
            return [full_name(config, *asked)]
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    if not isinstance(asked, str):
        raise _no_name(asked)
    found = [name for name in names if _fits(name, asked)] or [
        name for name in names if asked in _short_names(name)
    ]
    if not found:
        wider = [f"*.{asked}", f"*{asked}"]
        wider = [other for other in wider if any(_fits(name, other) for name in names)]
        close = [*map(repr, wider[:1])] or [*map(repr, get_close_matches(asked, names, n=3))]
        hint = f"did you mean {' or '.join(close)}?" if close else f"names start with {', '.join(names[:6])}"
        raise ValueError(f"this model has no value called {shown(asked)}; {hint}")
    return found


def _short_names(name: str) -> list[str]:
    """The spellings of a full name: for a value in a layer with the layer, or without, for all layers."""
    if not name.startswith("blocks."):
        return [*_spellings(name)]
    blocks, layer, name = name.split(".", 2)
    return [start + short for short in _spellings(name) for start in ("", f"{blocks}.{layer}.")]


def place_of(name: str) -> tuple[str, int | None]:
    """The place of the engine where a value appears, and its layer."""
    if not name.startswith("blocks."):
        return PLACE_OF[name], None
    _, layer, name = name.split(".", 2)
    return PLACE_OF[name], int(layer)


def heads_of(config: Config, name: str) -> int:
    """The number of heads of a value that has heads."""
    return config.n_kv_head if name.rpartition("hook_")[2] in OF_KV_HEADS else config.n_head


def axes(name: str) -> tuple[str, ...]:
    """The axes of a value: "positions", "heads" and "units", in their order."""
    last = name.rpartition("hook_")[2]
    if last in ("attn_scores", "pattern"):
        return "heads", "positions", "units"
    return ("positions", "heads", "units") if last in OF_HEADS else ("positions", "units")
