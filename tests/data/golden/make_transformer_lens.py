"""Asks TransformerLens what a pass computes, and what interventions make of it. Run it as a script.

Needs transformer-lens 3.2.1 (4.0 has no HookedTransformer any more), transformers 4.57.6 and torch 2.13. The
models are those of recipe.LENS_CASES, in float32, with all of TransformerLens's changes of weights off, so
that every value is that of the original network; only the attributions are computed on a copy of the model
whose final LayerNorm is folded into the head, for which logit_attrs is made. transformer_lens.npz receives,
under "<case>/...":

    cache/<name>          every named value, without the batch dimension
    edited                logits after each of the interventions of interventions.py, [n, T, n_vocab]
    several/<name>        what the cache holds of the values that "several" and "several inputs" change
    lens                  log-probabilities after each layer (accumulated_resid), [n_layer + 1, T, n_vocab]
    components, heads     logit_attrs of decompose_resid and stack_head_results for two tokens and their
                          difference, [3, n, T]; the bias of each attention, and that of the head
    attn_bias, bias       [3, n_layer, T], [3]
    scores/<kind>         detect_head(error_measure="mul"), [n_layer, n_head]
    tokens                the two tokens
    patched/<name>        activation patching from the other text: how far the first token's logit is above
                          the second's at the last position, for each layer, position and head patched
    paths                 logits after path patching from the other text along each of interventions.paths, as
                          Wang et al. (2022, arXiv 2211.00593) define it: the sender's z is that of the other
                          text, all other heads and feed-forward layers are frozen, and of what comes of that
                          the receiver's queries, keys or values alone are put into an ordinary run
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.golden import make_golden, recipe  # noqa: E402  (the tests' folder is not a package)
from data.golden.interventions import (  # noqa: E402
    INPUTS_OF_HEADS,
    HeadPath,
    Intervention,
    interventions,
    other_ids,
    paths,
)
from transformer_lens import HookedTransformer, HookedTransformerConfig, patching  # noqa: E402
from transformer_lens.head_detector import detect_head  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # noqa: E402

from gpt2c.checkpoint.hf_config import config_from_hf  # noqa: E402

FOLDER = Path(__file__).parent
KINDS_OF_HEADS = ("previous_token", "duplicate_token", "induction")
PATCHES = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "z by position": patching.get_act_patch_attn_head_out_by_pos,
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "q": patching.get_act_patch_attn_head_q_all_pos,
    "k": patching.get_act_patch_attn_head_k_all_pos,
    "v": patching.get_act_patch_attn_head_v_all_pos,
    "pattern": patching.get_act_patch_attn_head_pattern_all_pos,
}
PATCHES_OF_INPUTS = {
    name: partial(
        patching.generic_activation_patch,
        patch_setter=setter,
        activation_name=name,
        index_axis_names=("layer", *("pos" if name == "mlp_in" else "head",)),
    )
    for name, setter in {
        **dict.fromkeys(INPUTS_OF_HEADS, patching.layer_head_vector_patch_setter),
        "mlp_in": patching.layer_pos_patch_setter,
    }.items()
}


def hooked(hf: torch.nn.Module, *, fold_last: bool = False, attn_result: bool = True) -> HookedTransformer:
    """HookedTransformer with the weights of a GPT2LMHeadModel as they are.

    With `fold_last` the gains and biases of LayerNorm become part of the weights after it; `attn_result` is
    whether the heads are multiplied apart, so that hook_result exists.
    """
    c = hf.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_ctx=c.n_positions,
        d_head=c.n_embd // c.n_head,
        n_heads=c.n_head,
        d_mlp=c.n_inner or 4 * c.n_embd,
        d_vocab=c.vocab_size,
        act_fn=c.activation_function,
        eps=c.layer_norm_epsilon,
        use_attn_scale=c.scale_attn_weights,
        scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx,
        normalization_type="LN",
        use_attn_result=attn_result,
        default_prepend_bos=False,
        device="cpu",
        seed=0,
    )
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf, config),
        fold_ln=fold_last,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def build(values: dict, weights: dict[str, np.ndarray], **options: bool) -> HookedTransformer:
    """The same from weights."""
    return hooked(make_golden.build(values, weights, torch.float32), **options)


def hook_of(one: Intervention, own: dict, other: dict) -> Any:
    """The intervention as a hook; `own` and `other` are the values of both texts."""

    def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
        x = value[0]
        if one.kind == "zero":
            new = torch.zeros_like(x)
        elif one.kind == "mean":
            new = torch.cat([own[one.name], other[one.name]]).mean(dim=0).expand(x.shape)
        elif one.kind == "scale":
            new = x * one.factor
        elif one.kind == "add":
            new = x + torch.from_numpy(one.vector(x.shape[-1]))
        elif one.kind == "replace":
            new = other[one.name]
        else:
            new = torch.tanh(x)
        return torch.where(torch.from_numpy(one.mask(x.shape)), new, x)[None]

    return hook


@contextmanager
def reading(model: HookedTransformer, names: Iterable[str]) -> Iterator[None]:
    """The model with the inputs of parts that are named; hook_attn_in has no effect beside the others."""
    names = [name.rpartition("hook_")[2] for name in names]
    model.set_use_attn_in("attn_in" in names)
    model.set_use_split_qkv_input(any(name in names for name in INPUTS_OF_HEADS[1:]))
    model.set_use_hook_mlp_in("mlp_in" in names)
    yield
    model.set_use_attn_in(False)
    model.set_use_split_qkv_input(False)
    model.set_use_hook_mlp_in(False)


def along(model: HookedTransformer, way: HeadPath, tokens: torch.Tensor, own: Any, other: Any) -> np.ndarray:
    """Logits after patching a path; `own` and `other` are what is computed of both texts."""
    (layer, head), (to, receiver) = way.sender, way.receiver

    def put(value: torch.Tensor, hook: Any, new: torch.Tensor, heads: Any = slice(None)) -> torch.Tensor:
        value = value.clone()
        value[:, :, heads] = new[None][:, :, heads]
        return value

    parts = [name for name in own if name.endswith(("hook_z", "hook_mlp_out"))]
    frozen = [(name, partial(put, new=own[name])) for name in parts]
    sender = f"blocks.{layer}.attn.hook_z"
    frozen.append((sender, partial(put, new=other[sender], heads=head)))
    name = f"blocks.{to}.attn.hook_{way.part}"
    with model.hooks(fwd_hooks=frozen):
        _, sent = model.run_with_cache(tokens, names_filter=name, remove_batch_dim=True)
    received = [(name, partial(put, new=sent[name], heads=receiver))]
    return model.run_with_hooks(tokens, fwd_hooks=received)[0].numpy()


def record(values: dict, weights: dict[str, np.ndarray], ids: np.ndarray, key: str) -> dict[str, np.ndarray]:
    """Everything that is asked about one model and a text of at least two tokens, fewer than n_ctx."""
    model, config = build(values, weights), config_from_hf(values)
    tokens, others = (
        torch.from_numpy(some.astype(np.int64))[None] for some in (ids, other_ids(key, ids, config.n_vocab))
    )
    _, cache = model.run_with_cache(tokens, remove_batch_dim=True)
    _, other = model.run_with_cache(others, remove_batch_dim=True)
    names = [f"hook_{name}" for name in (*INPUTS_OF_HEADS, "mlp_in")]
    with reading(model, names):
        for ids_of, into in ((tokens, cache), (others, other)):
            _, inputs = model.run_with_cache(ids_of, remove_batch_dim=True)
            into.cache_dict.update({n: v for n, v in inputs.items() if n.rpartition(".")[2] in names})
    found = {f"cache/{name}": value.numpy() for name, value in cache.items() if "unembed" not in name}
    edited_logits = []
    for name, changes in interventions(config, len(ids)).items():
        hooks = [(one.name, hook_of(one, cache, other)) for one in changes]
        with reading(model, [one.name for one in changes]), model.hooks(fwd_hooks=hooks):
            logits, edited = model.run_with_cache(tokens, remove_batch_dim=True)
        edited_logits.append(logits[0].numpy())
        if name.startswith("several"):
            found |= {f"several/{one.name}": edited[one.name].numpy() for one in changes}
    found["edited"] = np.stack(edited_logits)
    if ways := paths(config):
        found["paths"] = np.stack([along(model, way, tokens, cache, other) for way in ways])

    streams = cache.accumulated_resid(apply_ln=True)  # each with statistics of its own
    found["lens"] = (streams @ model.W_U + model.b_U).log_softmax(dim=-1).numpy()

    folded = build(values, weights, fold_last=True)
    _, cache = folded.run_with_cache(tokens, remove_batch_dim=True)
    first, second = int(ids[0]), int(ids[-1] + 1) % config.n_vocab
    asked = [(first, None), (second, None), (first, second)]
    stacks = {
        "components": cache.decompose_resid(),
        "heads": cache.stack_head_results(),
        "attn_bias": torch.stack([block.attn.b_O.expand(len(ids), -1) for block in folded.blocks]),
    }
    for name, stack in stacks.items():
        found[name] = np.stack([cache.logit_attrs(stack, *pair, has_batch_dim=False) for pair in asked])
    b = folded.b_U.numpy()
    found["bias"] = np.array([b[first], b[second], b[first] - b[second]])
    found["tokens"] = np.array([first, second])

    folded.to_tokens = lambda ids: ids  # detect_head takes strings, and there is no tokenizer
    for kind in KINDS_OF_HEADS:
        found[f"scores/{kind}"] = detect_head(folded, tokens, f"{kind}_head", error_measure="mul").numpy()

    patching.tqdm = lambda rows: rows  # no bars
    for name, patch in (PATCHES | PATCHES_OF_INPUTS).items():
        with reading(model, [f"hook_{name}"]):
            _, clean = model.run_with_cache(others)
            patched = patch(model, tokens, clean, lambda logits: logits[0, -1, first] - logits[0, -1, second])
        found[f"patched/{name}"] = patched.numpy()
    return found


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    logging.disable()
    arrays = {"made_with": np.array([f"{name} {version(name)}" for name in ("transformer-lens", "torch")])}
    for case in recipe.LENS_CASES:
        weights, ids = case.weights(), case.ids()
        found = record(case.values, weights, ids, case.name)
        arrays |= {f"{case.name}/{name}": value for name, value in found.items()}
        arrays[f"{case.name}/sha256"] = np.array(recipe.checksum(weights, ids))
        print(f"{case.name:20} {len(found)} arrays, {sum(value.nbytes for value in found.values())} bytes")
    np.savez_compressed(FOLDER / "transformer_lens.npz", **arrays)


if __name__ == "__main__":
    main()
