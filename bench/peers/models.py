"""Makes a GPT-2 124M with random weights and converts it for every engine; run by against_peers.py prepare.

    python models.py [STEP …]      in the target directory; default: the missing steps

model      model/              Hugging Face layout: safetensors, config, a vocabulary of GPT-2's size
reference  reference.npz       prompts, greedy continuations, logits, log-probabilities by transformers
ct2        ct2-float32/, ct2-int8/
onnx       onnx/model.onnx, score.onnx   float32, keys and values in shared buffers (GroupQueryAttention)
openvino   ov-fp32/, ov-int8/, ov-int4/  stateful; score.xml without a state
gguf-f32   gguf/f32.gguf
gguf       gguf/bf16.gguf, q8_0, q4_0, q4_k_m, of gguf-f32
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
HERE = Path.cwd()
MODEL = HERE / "model"
L, H, E, CTX, V = 12, 12, 768, 1024, 50257
D = E // H


def byte_chars():
    """GPT-2's printable character for each of the 256 bytes, printable ones first."""
    first = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in first]
    return [chr(b) for b in first] + [chr(256 + i) for i in range(len(rest))]


def vocabulary():
    """Token texts: bytes, two merges, dummies, <|endoftext|>."""
    tokens = [*byte_chars(), "\u0120t", "\u0120a"]
    tokens += [f"tok{i}" for i in range(len(tokens), V - 1)] + ["<|endoftext|>"]
    assert len(set(tokens)) == V
    return tokens


MERGES = ["\u0120 t", "\u0120 a"]


def make_model():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V,
        n_positions=CTX,
        n_embd=E,
        n_layer=L,
        n_head=H,
        activation_function="gelu_new",
        bos_token_id=V - 1,
        eos_token_id=V - 1,
        architectures=["GPT2LMHeadModel"],
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0.0, 0.02)
            if ".ln_" in name and name.endswith("weight"):
                p.add_(1.0)
    model.save_pretrained(MODEL, safe_serialization=True)
    (MODEL / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(vocabulary())}, ensure_ascii=False), "utf-8"
    )
    (MODEL / "merges.txt").write_text("#version: 0.2\n" + "".join(m + "\n" for m in MERGES), "utf-8")
    (MODEL / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "GPT2Tokenizer",
                "model_max_length": CTX,
                "bos_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
            }
        )
    )


def torch_model():
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(2)
    return GPT2LMHeadModel.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="sdpa").eval()


def reference():
    import numpy as np
    import torch

    model = torch_model()
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, V - 1, (8, 32))  # prompt 0 is that of decoding, all of them batch 8
    long = rng.integers(0, V - 1, 512)
    forced = rng.integers(0, V - 1, 160)  # after a prompt of 32, one by one
    with torch.inference_mode():
        ids = torch.tensor(prompts)
        for _ in range(16):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        greedy = ids[:, 32:].numpy()
        forced_logits = model(torch.tensor(forced[None])).logits[0, 31:-1].numpy()  # of tokens 32...159
        rows = model(torch.tensor(long[None])).logits[0]
        long_logits = rows[-1].numpy()
        targets = torch.tensor(long[1:, None])
        long_logprobs = rows[:-1].log_softmax(-1).gather(-1, targets)[:, 0].numpy()
    np.savez(
        HERE / "reference.npz",
        prompts=prompts,
        greedy=greedy,
        long=long,
        long_logits=long_logits,
        long_logprobs=long_logprobs,
        forced=forced,
        forced_logits=forced_logits,
    )


def ct2():
    import ctranslate2

    for kind in ("float32", "int8"):
        ctranslate2.converters.TransformersConverter(str(MODEL)).convert(
            str(HERE / f"ct2-{kind}"), quantization=kind, force=True
        )


def state():
    """Tensors of the checkpoint as float32 arrays, names without "transformer."."""
    from safetensors.numpy import load_file

    return {k.removeprefix("transformer."): v for k, v in load_file(MODEL / "model.safetensors").items()}


def onnx_graph(score):
    """Build the graph from the fused operators of ONNX Runtime for CPUs.

    Its output: the logits of the last row; or, with ``score``, the log-probabilities of ``targets``.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    w, nodes, inits = state(), [], {}

    def const(name, value):
        inits.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(name, transpose=False):
        return const(name + ("T" if transpose else ""), w[name].T if transpose else w[name])

    def op(kind, inputs, outputs=1, domain="", **attributes):
        names = [f"{kind}_{len(nodes)}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        nodes.append(
            h.make_node(kind, inputs, names, name=f"{kind}_{len(nodes)}", domain=domain, **attributes)
        )
        return names[0] if len(names) == 1 else names

    ms = "com.microsoft"
    eps = 1e-5
    x = op(
        "Add",
        [
            op("Gather", [weight("wte.weight"), "input_ids"]),
            op("Gather", [weight("wpe.weight"), "position_ids"]),
        ],
    )
    y = op(
        "LayerNormalization", [x, weight("h.0.ln_1.weight"), weight("h.0.ln_1.bias")], axis=-1, epsilon=eps
    )
    for i in range(L):
        p = f"h.{i}."
        qkv = op("Add", [op("MatMul", [y, weight(p + "attn.c_attn.weight")]), weight(p + "attn.c_attn.bias")])
        q, k, v = op("Split", [qkv], 3, axis=-1, num_outputs=3)
        a = op(
            "GroupQueryAttention",
            [q, k, v, f"past.{i}.key", f"past.{i}.value", "seqlens_k", "total"],
            [f"attention_{i}", f"present.{i}.key", f"present.{i}.value"],
            ms,
            num_heads=H,
            kv_num_heads=H,
        )[0]
        a = op("MatMul", [a, weight(p + "attn.c_proj.weight")])
        y, _, _, x = op(
            "SkipLayerNormalization",
            [a, x, weight(p + "ln_2.weight"), weight(p + "ln_2.bias"), weight(p + "attn.c_proj.bias")],
            [f"ln2_{i}", "", "", f"x_{i}"],
            ms,
            epsilon=eps,
        )
        f = op(
            "FastGelu",
            [op("MatMul", [y, weight(p + "mlp.c_fc.weight")]), weight(p + "mlp.c_fc.bias")],
            domain=ms,
        )
        f = op("MatMul", [f, weight(p + "mlp.c_proj.weight")])
        n = f"h.{i + 1}.ln_1" if i + 1 < L else "ln_f"
        y, _, _, x = op(
            "SkipLayerNormalization",
            [f, x, weight(n + ".weight"), weight(n + ".bias"), weight(p + "mlp.c_proj.bias")],
            [f"ln1_{i}", "", "", f"xx_{i}"],
            ms,
            epsilon=eps,
        )
    if score:
        logs = op("LogSoftmax", [op("MatMul", [y, weight("wte.weight", True)])], axis=-1)
        column = op("Unsqueeze", ["targets", const("ax2", np.array([2]))])
        op("GatherElements", [logs, column], ["logprobs"], axis=2)
    else:
        last = op(
            "Slice",
            [
                y,
                const("m1", np.array([-1])),
                const("end", np.array([2**31 - 1])),
                const("ax1", np.array([1])),
            ],
        )
        op("MatMul", [last, weight("wte.weight", True)], ["logits"])

    def kv(name):
        return h.make_tensor_value_info(name, T.FLOAT, ["batch", H, "room", D])

    graph = h.make_graph(
        nodes,
        "gpt2",
        [
            h.make_tensor_value_info("input_ids", T.INT64, ["batch", "rows"]),
            h.make_tensor_value_info("position_ids", T.INT64, ["batch", "rows"]),
            h.make_tensor_value_info("seqlens_k", T.INT32, ["batch"]),
            h.make_tensor_value_info("total", T.INT32, [1]),
            *([h.make_tensor_value_info("targets", T.INT64, ["batch", "rows"])] if score else []),
            *[kv(f"past.{i}.{n}") for i in range(L) for n in ("key", "value")],
        ],
        [
            h.make_tensor_value_info("logprobs", T.FLOAT, ["batch", "rows", 1])
            if score
            else h.make_tensor_value_info("logits", T.FLOAT, ["batch", 1, V]),
            *[kv(f"present.{i}.{n}") for i in range(L) for n in ("key", "value")],
        ],
        list(inits.values()),
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18), h.make_opsetid(ms, 1)], ir_version=9)
    (HERE / "onnx").mkdir(exist_ok=True)
    onnx.save(model, HERE / f"onnx/{'score' if score else 'model'}.onnx")


def onnx_graphs():
    onnx_graph(False)
    onnx_graph(True)


def openvino_model(score):
    """GPT-2 on the modules of transformers' model: with keys and values as state, or to score."""
    import numpy as np
    import openvino as ov
    import openvino.opset13 as ops
    import torch
    import torch.nn.functional as F
    from openvino._offline_transformations import apply_make_stateful_transformation

    model = torch_model().transformer

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = model

        def forward(self, input_ids, position_ids, last, *past):
            """``last``: beam_idx with a state, else targets."""
            if past:
                past = [torch.index_select(p, 0, last) for p in past]
            x = self.m.wte(input_ids) + self.m.wpe(position_ids)
            present = []
            for i, block in enumerate(self.m.h):
                q, k, v = block.attn.c_attn(block.ln_1(x)).split(E, 2)
                q, k, v = (t.view(t.shape[0], t.shape[1], H, D).transpose(1, 2) for t in (q, k, v))
                if past:
                    k, v = torch.cat([past[2 * i], k], 2), torch.cat([past[2 * i + 1], v], 2)
                present += [k, v]
                # With a state this counts rows from its end, as wanted; a mask takes four times as long.
                a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + block.attn.c_proj(a.transpose(1, 2).reshape(x.shape))
                x = x + block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(x))))
            if not past:
                logs = F.linear(self.m.ln_f(x), self.m.wte.weight).log_softmax(-1)
                return logs.gather(-1, last[..., None])[..., 0]
            return (F.linear(self.m.ln_f(x[:, -1:]), self.m.wte.weight), *present)

    ids, at = torch.randint(0, V, (2, 3)), torch.arange(5, 8).repeat(2, 1)
    if score:
        m = ov.convert_model(Wrapper().eval(), example_input=(ids, at, ids))
        inputs, outputs = ["input_ids", "position_ids", "targets"], ["logprobs"]
    else:
        past = [torch.randn(2, H, 5, D) for _ in range(2 * L)]
        m = ov.convert_model(
            Wrapper().eval(), example_input=(ids, at, torch.arange(2, dtype=torch.int32), *past)
        )
        names = [f"past.{i}.{n}" for i in range(L) for n in ("key", "value")]
        inputs = ["input_ids", "position_ids", "beam_idx", *names]
        outputs = ["logits", *(n.replace("past", "present") for n in names)]
    for port, name in zip(m.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        shape = [-1, H, -1, D] if name.startswith("past") else [-1] if name == "beam_idx" else [-1, -1]
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    for port, name in zip(m.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    m.validate_nodes_and_infer_types()
    if not score:
        apply_make_stateful_transformation(m, {n: n.replace("past", "present") for n in names})
        # As optimum-intel does: an empty state to begin with.
        batch = ops.shape_of(m.input("input_ids"), output_type="i64")
        batch = ops.gather(batch, ops.constant([0]), ops.constant(0))
        for op in m.get_ops():
            if op.get_type_name() == "ReadValue" and op.get_input_size() == 0:
                dims = ops.concat([batch, ops.constant([H]), ops.constant([0]), ops.constant([D])], 0)
                op.set_arguments([ops.broadcast(ops.constant(np.zeros((), np.float32)), dims)])
        m.validate_nodes_and_infer_types()
    return m


def openvino():
    import nncf
    import openvino as ov

    modes = nncf.CompressWeightsMode
    for score, file in ((False, "model.xml"), (True, "score.xml")):
        for name, how in {
            "fp32": None,
            "int8": {"mode": modes.INT8_ASYM},
            "int4": {"mode": modes.INT4_SYM, "group_size": 64, "ratio": 1.0},
        }.items():
            m = openvino_model(score)
            m = nncf.compress_weights(m, **how) if how else m
            ov.save_model(m, HERE / f"ov-{name}" / file, compress_to_fp16=False)


def gguf_float32():
    import gguf as g
    import numpy as np

    (HERE / "gguf").mkdir(exist_ok=True)
    w = state()
    writer = g.GGUFWriter(HERE / "gguf/f32.gguf", "gpt2")
    writer.add_name("random GPT-2 124M")
    writer.add_block_count(L)
    writer.add_context_length(CTX)
    writer.add_embedding_length(E)
    writer.add_feed_forward_length(4 * E)
    writer.add_head_count(H)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(g.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary())
    writer.add_token_types([g.TokenType.NORMAL] * (V - 1) + [g.TokenType.CONTROL])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(V - 1)
    writer.add_eos_token_id(V - 1)
    names = {
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    top = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    for name, value in w.items():
        part, kind = name.rsplit(".", 1)
        if part.startswith("h."):
            _, i, rest = part.split(".", 2)
            if rest not in names:
                continue  # masks of old checkpoints
            new = f"blk.{i}.{names[rest]}.{kind}"
            if ".c_" in part and kind == "weight":
                value = value.T
        elif part in top:
            new = f"{top[part]}.{kind}"
        else:
            continue
        writer.add_tensor(new, np.ascontiguousarray(value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf():
    import ctypes

    import llama_cpp

    for name, kind in {
        "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
        "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
        "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
        "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    }.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.nthread, params.ftype = 1, kind
        if llama_cpp.llama_model_quantize(
            str(HERE / "gguf/f32.gguf").encode(),
            str(HERE / f"gguf/{name}.gguf").encode(),
            ctypes.byref(params),
        ):
            raise RuntimeError(name)


STEPS = {
    "model": (make_model, "model/model.safetensors"),
    "reference": (reference, "reference.npz"),
    "ct2": (ct2, "ct2-int8/model.bin"),
    "onnx": (onnx_graphs, "onnx/score.onnx"),
    "openvino": (openvino, "ov-int4/score.xml"),
    "gguf-f32": (gguf_float32, "gguf/f32.gguf"),
    "gguf": (gguf, "gguf/q4_0.gguf"),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or [n for n, (_, made) in STEPS.items() if not (HERE / made).exists()]:
        print("==", name, flush=True)
        STEPS[name][0]()
