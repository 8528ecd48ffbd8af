"""Hashes of results, to be compared between two checkouts: has a change moved a bit?

    python tests/long/fingerprints.py > before.txt      (in one checkout, and with it installed)
    python tests/long/fingerprints.py > after.txt       (in the other)
    diff before.txt after.txt

For the bundled model and three random ones, in every number format and with both kinds of cache: the logits
of prompts of several lengths, continuations (greedy, drawn, several at once, beam search), scores,
suggestions, captured activations, and the packed file. Only the public API is used, so that the script runs
in any checkout. GPT2C_ISA chooses the instruction set. Takes about half a minute.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from gpt2c import GPT2

DTYPES = ("float32", "bfloat16", "int8", "int4")
LENGTHS = (1, 2, 9, 65)
CONFIGS = {  # widths of heads that are and are not whole vectors, a head of its own, other activations
    "narrow": {"n_layer": 2, "n_head": 3, "n_embd": 60, "n_positions": 150, "vocab_size": 301},
    "wide": {"n_layer": 3, "n_head": 4, "n_embd": 256, "n_positions": 300, "vocab_size": 1009},
    "odd": {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 34,
        "n_positions": 140,
        "vocab_size": 77,
        "n_inner": 99,
        "activation_function": "gelu",
        "tie_word_embeddings": False,
        "scale_attn_by_inverse_layer_idx": True,
    },
}


def write_checkpoint(folder, config, rng):
    """A checkpoint of random weights, in float32."""
    width, inner = config["n_embd"], config.get("n_inner", 4 * config["n_embd"])
    shapes = {"wte.weight": (config["vocab_size"], width), "wpe.weight": (config["n_positions"], width)}
    for i in range(config["n_layer"]):
        for name, shape in (
            *(("ln_1", (width,)), ("attn.c_attn", (width, 3 * width)), ("attn.c_proj", (width, width))),
            *(("ln_2", (width,)), ("mlp.c_fc", (width, inner)), ("mlp.c_proj", (inner, width))),
        ):
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    header, data = {}, b""
    for name, shape in shapes.items():
        array = (rng.standard_normal(shape) * 0.3 + ("ln_" in name and "weight" in name)).astype("<f4")
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "bos_token_id": 0, "eos_token_id": 0, **config})
    )


def tell(*what):
    """One line: what it is, and the hash of the last item."""
    *name, value = what
    arrays = value if isinstance(value, list | tuple) else [value]
    data = b"".join(
        array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes() for array in arrays
    )
    print(*name, hashlib.sha256(data).hexdigest()[:32], flush=True)


def results(name, model):
    """All that a model gives, as (what, arrays)."""
    rng = np.random.default_rng(7)
    prompts = [rng.integers(1, model.config.n_vocab, n).tolist() for n in LENGTHS]
    for prompt in prompts:
        cache = model.new_cache()
        parts = [model.forward(prompt[:3], cache), *(model.forward([token], cache) for token in prompt[3:9])]
        yield f"logits-{len(prompt)}", [model.forward(prompt), *parts]
    drawn = {"temperature": 0.9, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "seed": 3}
    penalties = {"repetition_penalty": 1.2, "presence_penalty": 0.3, "no_repeat_ngram_size": 3}
    for what, options in (
        ("greedy", {}),
        ("drawn", drawn),
        ("several", {**drawn, **penalties, "num_return_sequences": 3}),
        ("beams", {"num_beams": 4, "length_penalty": 0.8, "num_return_sequences": 2}),
        ("slide", {**drawn, "overflow": "slide", "hop": 40}),
    ):
        found = model.generate(prompts, max_new_tokens=100 if what == "slide" else 20, **options)
        yield what, [np.array([*out.token_ids, *out.logprobs]) for out in found]
    scores = model.score([*prompts[1:], (prompts[2], prompts[3])], top=3, stride=50)
    yield (
        "score",
        [
            array
            for score in scores
            for array in (score.logprobs, score.ranks, score.entropies, score.top_ids, score.top_logprobs)
        ],
    )
    yield "variances", [score.variances for score in scores]
    found = model.suggest(prompts[2], k=7)
    yield "suggest", np.array([(each.token_id, each.probability) for each in found])
    logits, activations = model.run_with_cache(prompts[3])
    yield "captured", [logits, *activations.values()]
    yield "lens", activations.logit_lens(3).logprobs


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # names of models are part of packed files
        for seed, (name, config) in enumerate(CONFIGS.items()):
            write_checkpoint(Path(name), config, np.random.default_rng(seed))
        for source in (None, *CONFIGS):
            for dtype in DTYPES:
                for cache_dtype, threads in (("float32", 1), ("float16", 2)):
                    model = GPT2.from_pretrained(
                        source, dtype=dtype, cache_dtype=cache_dtype, threads=threads
                    )
                    for what, arrays in results(source, model):
                        tell(source, dtype, cache_dtype, what, arrays)
                model.save("packed.gpt2c")
                tell(source, dtype, "packed", Path("packed.gpt2c").read_bytes())


if __name__ == "__main__":
    main()
