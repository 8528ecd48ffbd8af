"""Makes checkpoints as OpenAI's program and gpt-2-simple write them, and what TensorFlow reads in them.

    pip install tensorflow-cpu==2.21.0
    python tests/data/openai/make_openai.py

The graph is written from the description of OpenAI's model.py (https://github.com/openai/gpt-2): variables
below the scope "model", dense layers as convolutions of width 1, GPT-2's approximation of GELU, the embedding
as the head. ``run1`` is a fine-tune, with a vocabulary, of which two steps are kept; ``sharded`` has files of
data for each of two devices, and the state of Adam; ``half`` has variables of bfloat16, float16 and float64.
expected.json has the SHA-256 of every variable as float32, read by TensorFlow; logits.npz has the graph's in
float64.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import tensorflow

tf = tensorflow.compat.v1
tf.disable_eager_execution()

HERE = Path(__file__).parent
IDS = [5, 1, 18, 3, 3, 2, 17, 0]
SIZES = {"n_vocab": 19, "n_ctx": 10, "n_embd": 12, "n_head": 3, "n_layer": 2}
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ k", "in g", "Ġk ing"]


def shapes(sizes):
    """The variables in the order in which the program makes them."""
    n = sizes["n_embd"]
    yield "model/wpe", (sizes["n_ctx"], n)
    yield "model/wte", (sizes["n_vocab"], n)
    for layer in range(sizes["n_layer"]):
        for name, n_in, n_out in (
            ("ln_1", 0, n), ("attn/c_attn", n, 3 * n), ("attn/c_proj", n, n),
            ("ln_2", 0, n), ("mlp/c_fc", n, 4 * n), ("mlp/c_proj", 4 * n, n),
        ):  # fmt: skip
            yield f"model/h{layer}/{name}/{'w' if n_in else 'g'}", (1, n_in, n_out) if n_in else (n_out,)
            yield f"model/h{layer}/{name}/b", (n_out,)
    yield from (("model/ln_f/g", (n,)), ("model/ln_f/b", (n,)))


def logits(of, sizes, ids):
    """The graph; ``of`` gives a variable by its name."""

    def norm(x, name):
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
        return (x - mean) * tf.rsqrt(variance + 1e-5) * of(f"{name}/g") + of(f"{name}/b")

    def dense(x, name):
        return x @ of(f"{name}/w")[0] + of(f"{name}/b")

    n, heads = len(ids), sizes["n_head"]
    x = tf.gather(of("model/wte"), ids) + of("model/wpe")[:n]
    for layer in range(sizes["n_layer"]):
        h = f"model/h{layer}"
        parts = tf.split(dense(norm(x, f"{h}/ln_1"), f"{h}/attn/c_attn"), 3, axis=-1)
        q, k, v = (tf.transpose(tf.reshape(part, (n, heads, -1)), (1, 0, 2)) for part in parts)
        scores = tf.matmul(q, k, transpose_b=True) / np.sqrt(sizes["n_embd"] // heads)
        scores += np.triu(np.full((n, n), -1e10), 1)
        mixed = tf.reshape(tf.transpose(tf.matmul(tf.nn.softmax(scores), v), (1, 0, 2)), (n, -1))
        x += dense(mixed, f"{h}/attn/c_proj")
        inner = dense(norm(x, f"{h}/ln_2"), f"{h}/mlp/c_fc")
        inner = 0.5 * inner * (1 + tf.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * tf.pow(inner, 3))))
        x += dense(inner, f"{h}/mlp/c_proj")
    return tf.matmul(norm(x, "model/ln_f"), of("model/wte"), transpose_b=True)


def write(prefix, sizes, dtypes=("float32",), *, steps=(None,), adam=False, devices=1):
    """Write a checkpoint; returns what is in the last one, by name, and the logits of it."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    with tf.Graph().as_default():
        variables = []
        for number, (name, shape) in enumerate(shapes(sizes)):
            value = tf.constant(rng.standard_normal(shape) * 0.3, tf.as_dtype(dtypes[number % len(dtypes)]))
            with tf.device(f"/cpu:{number % devices}"):
                variables.append(tf.get_variable(name, initializer=value, use_resource=False))
        saved = list(variables)
        training = tf.group([tf.assign_add(one, tf.ones_like(one)) for one in variables[-2:]])
        if adam:
            step = tf.train.get_or_create_global_step()
            loss = tf.add_n([tf.reduce_sum(tf.square(one)) for one in variables])
            training = tf.train.AdamOptimizer(0.01).minimize(loss, global_step=step)
            saved = tf.global_variables()
        saver = tf.train.Saver(saved, max_to_keep=5, sharded=devices > 1)
        settings = tf.ConfigProto(device_count={"CPU": devices}, allow_soft_placement=True)
        with tf.Session(config=settings) as session:
            session.run(tf.global_variables_initializer())
            for step in steps:
                session.run(training)
                saver.save(session, str(prefix), global_step=step, write_meta_graph=False)
        names = {variable.op.name for variable in variables}
    path = tensorflow.train.latest_checkpoint(str(prefix.parent))
    reader = tensorflow.train.load_checkpoint(path)
    found = {name: reader.get_tensor(name) for name in sorted(names)}
    found = {name: value.astype(np.float32) for name, value in found.items()}
    with tf.Graph().as_default(), tf.Session() as session:
        graph = logits(lambda name: tf.constant(found[name].astype(np.float64)), sizes, IDS)
        return {**found, "logits": session.run(graph)}


def vocabulary():
    """encoder.json and vocab.bpe of a byte-level BPE with few merges, as OpenAI's bytes_to_unicode has it."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    characters = [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(others))]
    tokens = [*characters, *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, "\n".join(["#version: 0.2", *MERGES, ""])


def main():
    encoder, merges = vocabulary()
    results, hashes = {"ids": np.array(IDS)}, {}
    for name, prefix, sizes, how in (
        ("run1", "model", SIZES | {"n_vocab": len(encoder)}, {"steps": (1, 2)}),
        ("sharded", "model.ckpt", SIZES | {"n_layer": 1}, {"adam": True, "devices": 2}),
        ("half", "model.ckpt", SIZES, {"dtypes": ("bfloat16", "float16", "float64")}),
    ):
        shutil.rmtree(HERE / name, ignore_errors=True)
        found = write(Path(name) / prefix, sizes, **how)
        results[name] = found.pop("logits")
        hashes[name] = {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in found.items()}
        (HERE / name / "hparams.json").write_text(json.dumps(sizes, indent=2) + "\n")
    (HERE / "run1" / "encoder.json").write_text(json.dumps(encoder))
    (HERE / "run1" / "vocab.bpe").write_text(merges, encoding="utf-8")
    (HERE / "run1" / "counter").write_text("2\n")
    (HERE / "expected.json").write_text(json.dumps(hashes, indent=1) + "\n")
    np.savez_compressed(HERE / "logits.npz", **results)


if __name__ == "__main__":
    os.chdir(HERE)  # TensorFlow writes down the path that it is given
    main()
