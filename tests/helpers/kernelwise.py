"""The model one kernel after the other: what the engine must give, bit by bit."""

import numpy as np

from gpt2c.core import _ops

from .rounding import CACHES, inputs_of


def dtype_of(dtype, name, config):
    """The number format of a tensor; None for those that are not the weights of a dense layer."""
    if name == ("wte.weight" if config.tie_word_embeddings else "lm_head.weight"):
        return "int8" if dtype == "int4" else dtype
    dense = name.startswith("h.") and name.endswith(("attn.weight", "proj.weight", "fc.weight"))
    return dtype if dense else None


def unpacked(config, tensors, dtype):
    """The tensors that a model of this dtype stands for."""
    result = dict(tensors)
    for name, w in tensors.items():
        kind = dtype_of(dtype, name, config)
        if kind is not None:
            w = w if name.startswith("h.") else np.ascontiguousarray(w.T)
            w = _ops.unpack(_ops.pack(w, dtype=kind), *w.shape, kind)
            result[name] = w if name.startswith("h.") else np.ascontiguousarray(w.T)
    return result


def kernel_by_kernel(config, tensors, ids, dtype, isa=None, seen=None):
    """The whole model out of _ops: what the engine must give, bit by bit.

    What is computed on the way is put into the dictionary `seen`, under the names of gpt2c.hooks.
    """
    seen = {} if seen is None else seen

    def norm(name, x):
        gain, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return _ops.layer_norm(x, gain, bias, config.layer_norm_epsilon, isa=isa)

    def dense(name, x, function="identity", residual=None):
        weight, kind = tensors[f"{name}.weight"], dtype_of(dtype, f"{name}.weight", config)
        transposed = not name.startswith("h.")
        panels = _ops.pack(weight, transposed=transposed, dtype=kind)
        n_out, bias = weight.shape[0 if transposed else 1], tensors.get(f"{name}.bias")
        return _ops.linear(
            x, panels, n_out, bias, function, residual, dtype=kind, inputs=inputs_of(name), isa=isa
        )

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
        mixed = np.empty_like(x)
        for i in range(config.n_head):
            first, d = i * config.head_dim, config.head_dim
            read = first if config.n_kv_head == config.n_head else 0  # or one head is read by all
            q, k, v = (part[:, at : at + d] for part, at in zip(parts, (first, read, read), strict=True))
            _ops.attention(
                *(q, k, v, config.attention_scale(layer), mixed[:, first : first + d]),
                dtype=CACHES[dtype],
                isa=isa,
            )
        seen[block + "attn.hook_z"] = mixed.reshape(heads)
        seen[block + "hook_attn_out"] = dense(f"h.{layer}.attn.c_proj", mixed)
        x = seen[block + "hook_resid_mid"] = dense(f"h.{layer}.attn.c_proj", mixed, residual=x)
        normed = norm(f"h.{layer}.ln_2", x)
        seen[block + "mlp.hook_pre"] = dense(f"h.{layer}.mlp.c_fc", normed)
        hidden = seen[block + "mlp.hook_post"] = dense(f"h.{layer}.mlp.c_fc", normed, config.activation)
        seen[block + "hook_mlp_out"] = dense(f"h.{layer}.mlp.c_proj", hidden)
        x = seen[block + "hook_resid_post"] = dense(f"h.{layer}.mlp.c_proj", hidden, residual=x)
    return dense(head, norm("ln_f", x))
