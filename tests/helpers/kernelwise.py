"""The model one kernel after the other: what the engine must give, bit by bit."""

import numpy as np

from gpt2c.core import _ops

from .rounding import CACHES, inputs_of


def dtype_of(dtype, name, config):
    """The number format of a tensor; None for those that are not the weights of a dense layer."""
    if name == ("wte.weight" if config.tie_word_embeddings else "lm_head.weight"):
        return "int8" if dtype == "int4" else dtype
    dense = name.startswith("h.") and name.endswith(("_attn.weight", "proj.weight", "fc.weight"))
    dense &= "ln_cross_attn" not in name
    return dtype if dense or name == "transform.weight" else None


def unpacked(config, tensors, dtype):
    """The tensors that a model of this dtype stands for."""
    result = dict(tensors)
    for name, w in tensors.items():
        kind = dtype_of(dtype, name, config)
        if kind is not None:
            transposed = name.startswith(("wte", "lm_head"))
            w = np.ascontiguousarray(w.T) if transposed else w
            w = _ops.unpack(_ops.pack(w, dtype=kind), *w.shape, kind)
            result[name] = np.ascontiguousarray(w.T) if transposed else w
    return result


def kernels_of(config, tensors, dtype, isa):
    """LayerNorm, a dense layer, and attention of all heads, by the names of their tensors."""

    def norm(name, x):
        gain, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return _ops.layer_norm(x, gain, bias, config.layer_norm_epsilon, isa=isa)

    def dense(name, x, function="identity", residual=None):
        weight, kind = tensors[f"{name}.weight"], dtype_of(dtype, f"{name}.weight", config)
        transposed = name in ("wte", "lm_head")
        panels = _ops.pack(weight, transposed=transposed, dtype=kind)
        n_out = weight.shape[0 if transposed else 1]
        bias = tensors.get("lm_head.bias" if transposed else f"{name}.bias")
        return _ops.linear(
            x, panels, n_out, bias, function, residual, dtype=kind, inputs=inputs_of(name), isa=isa
        )

    def attend(layer, q, k, v, *, causal=True):
        mixed, d = np.empty_like(q), config.head_dim
        for i in range(config.n_head):
            first = i * d
            read = first if config.n_kv_head == config.n_head else 0  # or one head is read by all
            parts = (part[:, at : at + d] for part, at in zip((q, k, v), (first, read, read), strict=True))
            _ops.attention(
                *(*parts, config.attention_scale(layer), mixed[:, first : first + d]),
                one_position=not causal,
                dtype=CACHES[dtype],
                isa=isa,
            )
        return mixed

    return norm, dense, attend


def kernel_by_kernel(config, tensors, ids, dtype, isa=None, seen=None, encoded=None):
    """The whole model out of _ops: what the engine must give, bit by bit.

    What is computed on the way is put into the dictionary `seen`, under the names of gpt2c.hooks. ``encoded``
    is what layers with cross-attention also attend to, [positions, n_embd].
    """
    seen = {} if seen is None else seen
    norm, dense, attend = kernels_of(config, tensors, dtype, isa)
    head = "wte" if config.tie_word_embeddings else "lm_head"
    wte = unpacked(config, tensors, dtype)["wte.weight"]
    seen["hook_embed"], seen["hook_pos_embed"] = wte[ids], tensors["wpe.weight"][: len(ids)]
    x = wte[ids] + tensors["wpe.weight"][: len(ids)]
    for layer in range(config.n_layer):
        block, heads = f"blocks.{layer}.", (len(ids), config.n_head, config.head_dim)
        seen[block + "hook_resid_pre"] = x
        qkv = dense(f"h.{layer}.attn.c_attn", norm(f"h.{layer}.ln_1", x))
        n_kv = config.n_kv_head * config.head_dim
        parts = np.split(qkv, (config.n_embd, config.n_embd + n_kv), axis=1)
        for name, part in zip("qkv", parts, strict=True):
            seen[f"{block}attn.hook_{name}"] = part.reshape(len(ids), -1, config.head_dim)
        mixed = attend(layer, *parts)
        seen[block + "attn.hook_z"] = mixed.reshape(heads)
        seen[block + "hook_attn_out"] = dense(f"h.{layer}.attn.c_proj", mixed)
        x = seen[block + "hook_resid_mid"] = dense(f"h.{layer}.attn.c_proj", mixed, residual=x)
        if encoded is not None:
            q = dense(f"h.{layer}.crossattention.q_attn", norm(f"h.{layer}.ln_cross_attn", x))
            kv = np.split(dense(f"h.{layer}.crossattention.c_attn", encoded), 2, axis=1)
            x = dense(f"h.{layer}.crossattention.c_proj", attend(layer, q, *kv, causal=False), residual=x)
        normed = norm(f"h.{layer}.ln_2", x)
        seen[block + "mlp.hook_pre"] = dense(f"h.{layer}.mlp.c_fc", normed)
        hidden = seen[block + "mlp.hook_post"] = dense(f"h.{layer}.mlp.c_fc", normed, config.activation)
        seen[block + "hook_mlp_out"] = dense(f"h.{layer}.mlp.c_proj", hidden)
        x = seen[block + "hook_resid_post"] = dense(f"h.{layer}.mlp.c_proj", hidden, residual=x)
    return dense(head, norm("ln_f", x))


def bert_by_kernels(config, tensors, ids, types, dtype, isa=None, seen=None):
    """The same of a BERT: logits, or without a masked head the residual stream after the last layer."""
    seen = {} if seen is None else seen
    norm, dense, attend = kernels_of(config, tensors, dtype, isa)

    def plus(x, name, given):
        seen[f"{block}hook_{name}_out"] = dense(given[0], given[1])
        return dense(*given, residual=x)

    head = "wte" if config.tie_word_embeddings else "lm_head"
    x = seen["hook_embed"] = unpacked(config, tensors, dtype)["wte.weight"][ids]
    if config.n_types:
        seen["hook_token_type_embed"] = tensors["wtt.weight"][np.zeros_like(ids) if types is None else types]
        x = x + seen["hook_token_type_embed"]
    seen["hook_pos_embed"] = tensors["wpe.weight"][: len(ids)]
    x = seen["hook_full_embed"] = norm("ln_emb", x + seen["hook_pos_embed"])
    for layer in range(config.n_layer):
        block, part = f"blocks.{layer}.", f"h.{layer}."
        seen[block + "hook_resid_pre"] = x
        parts = np.split(dense(part + "attn.c_attn", x), 3, axis=1)
        for name, value in zip("qkv", parts, strict=True):
            seen[f"{block}attn.hook_{name}"] = value.reshape(len(ids), -1, config.head_dim)
        mixed = attend(layer, *parts, causal=False)
        seen[block + "attn.hook_z"] = mixed.reshape(len(ids), -1, config.head_dim)
        x = seen[block + "hook_resid_mid"] = plus(x, "attn", (part + "attn.c_proj", mixed))
        x = seen[block + "hook_normalized_resid_mid"] = norm(part + "ln_1", x)
        seen[block + "mlp.hook_pre"] = dense(part + "mlp.c_fc", x)
        hidden = seen[block + "mlp.hook_post"] = dense(part + "mlp.c_fc", x, config.activation)
        x = seen[block + "hook_resid_post"] = plus(x, "mlp", (part + "mlp.c_proj", hidden))
        x = seen[block + "hook_normalized_resid_post"] = norm(part + "ln_2", x)
    if not config.masked_head:
        return x
    x = norm("ln_head", dense("transform", x, config.activation))
    return dense(head, x)
