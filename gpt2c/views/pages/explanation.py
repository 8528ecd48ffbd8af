"""The contents of a page about a text: gathered from one model, as JSON values.

Arrays are packed float32 or codes (see codes.py). Token ids stand for tokens everywhere; ``pieces`` has their
texts, in which a byte that is not UTF-8 by itself is a lone surrogate, U+DC80 for 0x80.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.checks import check_flag, check_index
from ...errors import ConfigError
from ...introspection.edits import Edit, described
from ...introspection.head_scores import Opening, opening
from ...introspection.hooks import NamesFilter, full_name
from ...introspection.observer import checked_edits
from ...introspection.passes import capture
from ...scoring.options import ScoringOptions, check_outcome
from ...scoring.scoring import score_text
from ...version import __version__
from .codes import float32, packed

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...core.prompts import Prompt
    from ...introspection.passes import ActivationCache

__all__ = [
    "Edits",
    "Json",
    "about",
    "captured",
    "checked_head",
    "checked_layers",
    "edited",
    "lens",
    "look",
    "pieces",
    "scores",
    "spelled",
]

Json = dict[str, Any]
Edits = tuple[tuple[str, Edit], ...]

ALTERNATIVES = 5  # per token of the text, and per layer and token of the logit lens

LENS_CELLS = 36_000  # so many alternatives in the lens, at most: fewer per token of a long text


def look(
    model: LoadedModel,
    text: Prompt,
    layer: int | None,
    head: int | None,
    names_of: Callable[[int], NamesFilter],
    special: bool = False,
    edits: Edits = (),
) -> tuple[ActivationCache, Opening]:
    """What ``names_of`` the layer names, captured of a text, and the place to begin with.

    Default: the most telling head (`introspection.head_scores.opening`), of all or of the layer that is
    given. Everything is as the edits leave it.
    """
    layer, head = checked_head(model, layer, head)
    if layer is None:
        layer, head, _ = opening(captured(model, text, "attn.hook_pattern", special, edits), layer, head)
    cache = captured(model, text, names_of(layer), special, edits)
    return cache, opening(cache, layer, head)


def checked_head(model: LoadedModel, layer: int | None, head: int | None) -> tuple[int | None, int | None]:
    """A layer and a head counted from 0, or an IndexError that says which there are."""
    return (
        None if layer is None else check_index("layer", layer, model.config.n_layer),
        None if head is None else check_index("head", head, model.config.n_head),
    )


def checked_layers(model: LoadedModel, layers: Sequence[int] | None) -> list[int] | None:
    """Several layers, counted from 0."""
    return None if layers is None else [check_index("layers", i, model.config.n_layer) for i in layers]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The log-probabilities of rows of logits: float64 [rows, n_vocab]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def captured(
    model: LoadedModel, text: Prompt, names: NamesFilter, special: bool = False, edits: Edits = ()
) -> ActivationCache:
    """What is named, captured of a text, as the edits leave it."""
    prompts = model.encode([text], special=check_flag("special", special))
    [cache] = capture(model, prompts, names, edits)
    check_outcome(edits, cache.logits)
    return cache


def edited(model: LoadedModel, edits: Edits) -> Json:
    """The edits in words, and the layers of which scores or weights of attention are edited."""
    if not edits:
        return {}
    names = checked_edits(model, edits)
    of_attention = ("attn_scores", "pattern")
    layers = [
        i
        for i in range(model.config.n_layer)
        if any(full_name(model.config, name, i) in names for name in of_attention)
    ]
    return {"edits": {"told": described(model.config, edits), "attention": layers}}


def about(model: LoadedModel, token_ids: np.ndarray) -> Json:
    """Which model made the page, and the tokens."""
    c = model.config
    name = os.path.basename(os.path.realpath(model.name)) if os.path.exists(model.name) else model.name
    return {
        "model": {
            "name": name,
            "dtype": model.dtype,
            "numerics": model.numerics,
            "n_layer": c.n_layer,
            "n_head": c.n_head,
            "n_kv_head": c.n_kv_head,
            "n_embd": c.n_embd,
            "n_inner": c.n_inner,
            "d_head": c.head_dim,
            "n_vocab": c.n_vocab,
            "activation": c.activation,
        },
        "starts": list(_starts(model)),
        "ends": list(c.eos_token_ids),
        "version": __version__,
        "text": spelled(model, token_ids),
        "tokens": token_ids.tolist(),
    }


def spelled(model: LoadedModel, token_ids: np.ndarray) -> str:
    """The text of tokens."""
    return b"".join(map(model.token_bytes, token_ids.tolist())).decode("utf-8", "replace")


def _starts(model: LoadedModel) -> tuple[int, ...]:
    """The tokens that begin a text, if the model knows any."""
    try:
        return model.start_ids
    except ConfigError:
        return ()


def pieces(model: LoadedModel, token_ids: Iterable[int]) -> dict[int, str]:
    """The texts of tokens."""
    return {
        token: model.token_bytes(token).decode("utf-8", "surrogateescape") for token in sorted(set(token_ids))
    }


# Logit lens and the text


def lens(cache: ActivationCache, used: set[int]) -> Json:
    """What every layer would answer."""
    cells = (cache.model.config.n_layer + 1) * len(cache.token_ids)
    k = min(ALTERNATIVES, max(1, LENS_CELLS // cells), cache.model.n_text_tokens)
    found = cache.logit_lens(k=k)
    of_ids = np.uint16 if cache.model.config.n_vocab <= 2**16 else np.uint32
    used.update(found.top_ids.ravel().tolist(), found.token_ids.tolist())
    return {
        "names": list(found.names),
        "k": found.top_ids.shape[2],
        "asked": found.token_ids.tolist(),
        "top_ids": packed(found.top_ids.astype(of_ids)),
        "top_logprobs": packed(float32(found.top_logprobs)),
        "entropies": packed(float32(found.entropies)),
        "ranks": packed(found.ranks.astype(of_ids)),
        "logprobs": packed(float32(found.logprobs)),
    }


def scores(model: LoadedModel, token_ids: Sequence[int], used: set[int], edits: Edits = ()) -> Json | None:
    """How probable every token but the first was; None without another."""
    if len(token_ids) < 2:
        return None
    top = min(ALTERNATIVES, model.n_text_tokens)
    options = ScoringOptions.checked(model, bos=False, top=top, edits=edits)
    found = score_text(model, list(token_ids), options)
    assert found.top_ids is not None and found.top_logprobs is not None  # asked for with top
    used.update(found.top_ids.ravel().tolist())
    return {
        "k": found.top_ids.shape[1],
        "logprobs": packed(float32(found.logprobs)),
        "ranks": packed(found.ranks.astype(np.uint32)),
        "entropies": packed(float32(found.entropies)),
        "top_ids": packed(found.top_ids.astype(np.uint32)),
        "top_logprobs": packed(float32(found.top_logprobs)),
        "perplexity": found.perplexity,
    }
