"""Records what gguf-py and llama.cpp make of GGUF files.

pip install gguf==0.19.0 llama-cpp-python==0.3.36
PYTHONPATH=tests python tests/data/gguf/make_gguf.py

blocks.npz   blocks of every quantised type, and their values by gguf-py
small.gguf   a GPT-2 with random weights of many types, written and quantised by gguf-py
small.json   SHA-256 of the values of its tensors by gguf-py; tokens of texts by llama.cpp
sha256.json  SHA-256 of the files that gguf-py writes of the model in tests/helpers/gguf_py.py
"""

import hashlib
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize, quantize
from helpers.gguf_py import DTYPES, by_gguf_py

HERE = Path(__file__).parent
QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
SCALES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
C, INNER, N_CTX, N_LAYER = 32, 64, 8, 2

MERGES = """Ġ t|Ġ a|h e|i n|r e|o n|Ġt he|e r|Ġ s|a t|Ġ w|Ġ o|e n|Ġ c|i t|i s|a n|o r|e s|Ġ b|e d|Ġ f
in g|Ġ p|o u|Ġa n|a l|a r|Ġt o|Ġ m|Ġo f|Ġ in|Ġ d|Ġ h|Ġan d|Ġ Ġ|Ã ©""".replace("\n", "|").split("|")
TEXTS = [
    "the king and the queen of another land",
    "  two spaces, then\n\n\tlines\r\n and 1234 numbers!",
    "café é ÉÉ 你好 🙂 \u00a0\u3000x",
    "one<br>two<|endoftext|>three <br><br> <|endoftext|>",
    "don't we'll THEY'RE it's",
    "",
    " ",
]


def blocks():
    """Random blocks, and those of all bits set and of none, with scales that are finite."""
    rng = np.random.default_rng(0)
    found = {}
    for name in QUANTISED:
        kind = gguf.GGMLQuantizationType[name]
        elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (512 // elements, nbytes), dtype=np.uint8)
        raw = np.concatenate([raw, np.full((1, nbytes), 255, np.uint8), np.zeros((1, nbytes), np.uint8)])
        for at in SCALES.get(name, [0]):
            scales = rng.standard_normal(len(raw)).astype("<f2")
            raw[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        found[name] = raw
        found[f"{name} values"] = dequantize(raw, kind).reshape(-1)
    np.savez_compressed(HERE / "blocks.npz", **found)


def alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printable), *map(chr, range(0x100, 0x100 + 256 - len(printable)))]


def small():
    tokens = alphabet() + [merge.replace(" ", "") for merge in MERGES]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    end = len(tokens)
    tokens += ["<|endoftext|>", "<br>", "[PAD0]", "[PAD1]"]
    types += [gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED] + [gguf.TokenType.UNUSED] * 2
    writer = gguf.GGUFWriter(HERE / "small.gguf", "gpt2")
    writer.add_name("random")
    writer.add_block_count(N_LAYER)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(C)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.GUESSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    rng = np.random.default_rng(1)
    hashes = {}

    def add(name, dtype, *shape):
        kind = gguf.GGMLQuantizationType[dtype]
        values = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        data = quantize(values, kind)
        hashes[name] = hashlib.sha256(dequantize(data, kind).astype("<f4").tobytes()).hexdigest()
        writer.add_tensor(name, data, raw_dtype=None if dtype in ("F32", "F16") else kind)

    add("token_embd.weight", "Q8_0", len(tokens), C)
    add("position_embd.weight", "F32", N_CTX, C)
    of = iter(["F16", "Q5_0", "Q4_1", "Q4_0", "BF16", "F32", "Q5_1", "Q8_0"])
    for layer in range(N_LAYER):
        for part, n_out, n_in in (
            *(("attn_qkv", 3 * C, C), ("attn_output", C, C)),
            *(("ffn_up", INNER, C), ("ffn_down", C, INNER)),
        ):
            add(f"blk.{layer}.{part}.weight", next(of), n_out, n_in)
            add(f"blk.{layer}.{part}.bias", "F32", n_out)
        for part in ("attn_norm", "ffn_norm"):
            for kind in ("weight", "bias"):
                add(f"blk.{layer}.{part}.{kind}", "F32", C)
    for kind in ("weight", "bias"):
        add(f"output_norm.{kind}", "F32", C)
    add("output.weight", "F16", len(tokens), C)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashes


def exports():
    hashes = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            file = Path(folder) / dtype
            by_gguf_py(file, dtype, "small")
            hashes[dtype] = hashlib.sha256(file.read_bytes()).hexdigest()
    (HERE / "sha256.json").write_text(json.dumps(hashes, indent=1) + "\n")


def main():
    blocks()
    exports()
    hashes = small()
    model = llama_cpp.Llama(str(HERE / "small.gguf"), vocab_only=True, verbose=False)
    tokens = [
        {"text": text}
        | {
            name: model.tokenize(text.encode(), add_bos=False, special=special)
            for name, special in (("plain", False), ("special", True))
        }
        for text in TEXTS
    ]
    found = {"values": hashes, "tokens": tokens}
    (HERE / "small.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
