"""The contents of a page about a text: gathered from one model, as JSON values.

Arrays are packed float32 or codes (see codes.py). Token ids stand for tokens everywhere; ``pieces`` has their
texts, in which a byte that is no UTF-8 by itself is a lone surrogate, U+DC80 for 0x80.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core import _engine
from ...core.checks import check_flag, check_index
from ...introspection.activations import of_head
from ...introspection.edits import Edit, described
from ...introspection.hooks import NamesFilter, full_name
from ...introspection.observer import checked_edits
from ...introspection.passes import capture
from ...scoring.options import ScoringOptions, check_outcome
from ...scoring.scoring import score_text
from ...version import __version__
from .codes import DEPTH, DIGITS, KNEE, digits, hidden_codes, packed, visible_codes

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...core.prompts import Prompt
    from ...introspection.passes import ActivationCache

__all__ = [
    "Edits",
    "about",
    "attention",
    "edited",
    "lens",
    "look",
    "names",
    "opening_head",
    "pieces",
    "scores",
    "walk",
]

Json = dict[str, Any]
Edits = tuple[tuple[str, Edit], ...]

SHOWN = 8  # tokens that the walk follows, at most
WIDTH = 8  # numbers of each vector that it shows
CANDIDATES = 40  # next tokens among which it samples by name
TEMPERATURES = [round(0.1 * i, 1) for i in range(1, 21)]
ALTERNATIVES = 5  # per token of the text, and per layer and token of the logit lens

FINE_CELLS = 200_000  # up to so many attention weights take 16 bits each, more take 8
HIDDEN_CELLS = 2_000_000  # up to so many, the scores behind the mask are told for every layer
ALL_CELLS = 16_000_000  # up to so many, the weights are


def names(layer: int) -> list[str]:
    """What has to be captured for a page whose walk goes through ``layer``."""
    everywhere = ["attn.hook_pattern", "attn.hook_q", "attn.hook_k", "hook_resid_pre", "hook_resid_post"]
    here = [
        *("ln1.*", "ln2.*", "attn.hook_v", "attn.hook_z", "mlp.*"),
        *("hook_attn_out", "hook_resid_mid", "hook_mlp_out"),
    ]
    return [
        *("hook_embed", "hook_pos_embed", "ln_final.*"),
        *(f"blocks.*.{name}" for name in everywhere),
        *(f"blocks.{layer}.{name}" for name in here),
    ]


def look(
    model: LoadedModel,
    text: Prompt,
    layer: int | None,
    head: int | None,
    names_of: Callable[[int], NamesFilter],
    special: bool = False,
    edits: Edits = (),
) -> tuple[ActivationCache, int, int]:
    """What ``names_of`` the layer names, captured of a text, and the layer and the head to begin with.

    Those are counted from 0. Default: the first layer, and its `opening_head`. Everything is as the edits
    leave it.
    """
    layer = 0 if layer is None else check_index("layer", layer, model.config.n_layer)
    if head is not None:
        head = check_index("head", head, model.config.n_head)
    prompts = model.encode([text], special=check_flag("special", special))
    [cache] = capture(model, prompts, names_of(layer), edits)
    check_outcome(edits, cache.logits)
    return cache, layer, opening_head(cache, layer) if head is None else head


def edited(model: LoadedModel, edits: Edits) -> Json:
    """The edits as they are told, and the layers of which scores or weights of attention are edited."""
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
        "version": __version__,
        "text": b"".join(map(model.token_bytes, token_ids.tolist())).decode("utf-8", "replace"),
        "tokens": token_ids.tolist(),
    }


def pieces(model: LoadedModel, token_ids: Iterable[int]) -> dict[int, str]:
    """The texts of tokens."""
    return {
        token: model.token_bytes(token).decode("utf-8", "surrogateescape") for token in sorted(set(token_ids))
    }


def opening_head(cache: ActivationCache, layer: int) -> int:
    """The head of the layer whose last token attends most to one other token than itself and the first."""
    last = cache["pattern", layer][:, -1]
    others = last[:, 1:-1] if last.shape[1] > 2 else last
    return int(others.max(axis=1).argmax())


# Attention


def attention(cache: ActivationCache, layer: int, *, hidden: bool, without: Iterable[int] = ()) -> Json:
    """The attention of all layers that were captured, or of ``layer`` alone where that is too much.

    Parameters
    ----------
    cache : ActivationCache
    layer : int
    hidden : bool
        Also tell the scores behind the mask and each row's log-sum-exp, from which the visible scores follow.
    without : iterable of int
        Layers whose scores are not told, since weights do not follow from query and key there.
    """
    config, T = cache.model.config, len(cache.token_ids)
    layers = [i for i in range(config.n_layer) if full_name(config, "pattern", i) in cache]
    if len(layers) * config.n_head * T * T > ALL_CELLS:
        layers = [layer]
    cells = len(layers) * config.n_head * T * T
    bits = 16 if cells <= FINE_CELLS else 8
    found: Json = {
        "causal": cache.causal,
        "layers": layers,
        "bits": bits,
        "knee": KNEE,
        "depth": DEPTH,
        "digits": DIGITS,
        "weights": packed(np.stack([visible_codes(cache["pattern", i], bits, cache.causal) for i in layers])),
    }
    told = [i for i in (layers if cells <= HIDDEN_CELLS else [layer]) if i not in without]
    if hidden and told:
        levels, text = (2**16, packed) if bits == 16 else (len(DIGITS), digits)
        codes, ends, sums = zip(*(_scores(cache, i, levels) for i in told), strict=True)
        found["scores"] = {
            "layers": told,
            "sums": packed(np.stack(sums)),
            "levels": levels,
            "hidden": text(np.stack(codes)),
            "ends": packed(np.stack(ends)),
        }
    return found


def _scores(cache: ActivationCache, layer: int, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a layer: codes of the scores behind the mask, their ends, and log-sum-exp of the others by row."""
    scores = _all_scores(cache, layer)
    seen = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    top = seen.max(axis=-1, keepdims=True)
    sums = top[..., 0] + np.log(np.exp(seen - top).sum(axis=-1))
    return *hidden_codes(scores, levels), sums.astype(np.float32)


def _all_scores(cache: ActivationCache, layer: int, heads: Any = slice(None)) -> np.ndarray:
    """Query times key, scaled, before the mask: float64 [n_head, T, T]."""
    q, k = (cache[name, layer].astype(np.float64) for name in ("q", "k"))
    q, k = q[:, heads], np.repeat(k, q.shape[1] // k.shape[1], axis=1)[:, heads]
    return np.einsum("qhd,khd->hqk", q, k) * cache.model.config.attention_scale(layer)


# The walk


def walk(cache: ActivationCache, layer: int, head: int, used: set[int]) -> Json:
    """One pass through a layer and a head with numbers, for some tokens: the last and those it attends to."""
    T = len(cache.token_ids)
    pattern = cache["pattern", layer][head]
    strongest = _engine.top(pattern[-1, :-1], SHOWN - 1)
    shown = np.sort(np.append(strongest, T - 1))
    scores = _all_scores(cache, layer, [head])[0]

    vectors = {
        "embed": cache["embed"],
        "pos_embed": cache["pos_embed"],
        "resid_pre": cache["resid_pre", layer],
        "normalized": cache["ln1.hook_normalized", layer],
        **{name: of_head(cache, name, layer, head) for name in ("q", "k", "v", "z")},
        "attn_out": cache["attn_out", layer],
        "resid_mid": cache["resid_mid", layer],
        "normalized2": cache["ln2.hook_normalized", layer],
        "pre": cache["mlp.hook_pre", layer],
        "post": cache["mlp.hook_post", layer],
        "mlp_out": cache["mlp_out", layer],
        "resid_post": cache["resid_post", layer],
        "resid_last": cache["resid_post", -1],
        "normalized_last": cache["ln_final.hook_normalized"],
    }
    columns = {
        "mean": cache["resid_pre", layer].mean(axis=1),
        "scale": cache["ln1.hook_scale", layer][:, 0],
        "mean_last": cache["resid_post", -1].mean(axis=1),
        "scale_last": cache["ln_final.hook_scale"][:, 0],
    }
    rows = cache.logits[shown]
    best = np.array([_engine.top(row[: cache.model.n_text_tokens], CANDIDATES) for row in rows])
    logits = rows.astype(np.float64)
    rest = logits.copy()
    np.put_along_axis(rest, best, -np.inf, axis=1)
    used.update(best.ravel().tolist())
    return {
        "layer": layer,
        "head": head,
        "scaling": cache.model.config.attention_scale(layer),
        "shown": shown.tolist(),
        "vectors": {name: packed(_float32(value[shown, :WIDTH])) for name, value in vectors.items()},
        "sizes": {name: value.shape[1] for name, value in vectors.items()},
        **{name: packed(_float32(value[shown])) for name, value in columns.items()},
        "scores": packed(_float32(scores[np.ix_(shown, shown)])),
        "row_max": packed(_float32(np.where(np.tri(T, dtype=bool), scores, -np.inf).max(axis=1)[shown])),
        "weights": packed(_float32(pattern[np.ix_(shown, shown)])),
        "temperatures": TEMPERATURES,
        "candidates": {
            "ids": packed(best.astype(np.uint32)),
            "logits": packed(_float32(np.take_along_axis(logits, best, axis=1))),
            "rest": packed(np.stack([_log_sum_exp(rest / t) for t in TEMPERATURES], axis=1)),
        },
    }


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    """Of the last axis, as float32; minus infinity, of nothing, is told as the lowest finite number."""
    top = x.max(axis=-1)
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(x - np.where(np.isfinite(top), top, 0)[..., None]).sum(axis=-1))
    return np.maximum(top + sums, np.finfo(np.float32).min).astype(np.float32)


# Logit lens and the text


def lens(cache: ActivationCache, used: set[int]) -> Json:
    """What every layer would answer."""
    found = cache.logit_lens(k=min(ALTERNATIVES, cache.model.n_text_tokens))
    used.update(found.top_ids.ravel().tolist(), found.token_ids.tolist())
    return {
        "names": list(found.names),
        "k": found.top_ids.shape[2],
        "asked": found.token_ids.tolist(),
        "top_ids": packed(found.top_ids.astype(np.uint32)),
        "top_logprobs": packed(_float32(found.top_logprobs)),
        "entropies": packed(_float32(found.entropies)),
        "ranks": packed(found.ranks.astype(np.uint32)),
        "logprobs": packed(_float32(found.logprobs)),
    }


def scores(model: LoadedModel, token_ids: Sequence[int], used: set[int], edits: Edits = ()) -> Json | None:
    """How probable every token but the first was; None where there is no other."""
    if len(token_ids) < 2:
        return None
    top = min(ALTERNATIVES, model.n_text_tokens)
    options = ScoringOptions.checked(model, bos=False, top=top, edits=edits)
    found = score_text(model, list(token_ids), options)
    assert found.top_ids is not None and found.top_logprobs is not None  # asked for with top
    used.update(found.top_ids.ravel().tolist())
    return {
        "k": found.top_ids.shape[1],
        "logprobs": packed(_float32(found.logprobs)),
        "ranks": packed(found.ranks.astype(np.uint32)),
        "entropies": packed(_float32(found.entropies)),
        "top_ids": packed(found.top_ids.astype(np.uint32)),
        "top_logprobs": packed(_float32(found.top_logprobs)),
        "perplexity": found.perplexity,
    }
