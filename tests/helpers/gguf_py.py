"""A small model, and the GGUF files that gguf-py makes of it, recorded by data/gguf/make_gguf.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.gguf_files import named
from helpers.saved_tokenizer import DESCRIPTION
from helpers.saved_tokenizer import write as write_tokenizer
from helpers.tiny_checkpoints import TINY, tiny_tensors, write_model

DTYPES = ("f32", "f16", "bf16", "q8_0")
# A width of the feed-forward layer of its own and no multiple of 32, an untied head, rows without a token,
# two tokens that end a text.
VALUES = TINY | {"n_embd": 64, "n_inner": 80, "vocab_size": 322, "tie_word_embeddings": False}
VALUES |= {"bos_token_id": 178, "eos_token_id": [178, 316]}
TEMPLATE = "{{ messages[0]['content'] }}"


def tensors() -> dict[str, np.ndarray]:
    """Random weights, and blocks with values where rounding is hard: ties, nothing, the very small."""
    found = tiny_tensors(VALUES)
    ties = np.array([127, 0.5, -0.5, 1.5, -1.5, 2.5, 126.5, -126.5, 0.49999997, *range(23)], np.float32)
    rows = found["wte.weight"].reshape(-1, 32)
    rows[:7] = [ties, 0 * ties, 1e-9 * ties, 1e-36 * ties, -ties / 127, 3e-7 * ties, (1 + 2.0**-8) * ties]
    return found


def write(folder: Path) -> Path:
    """The model, with the tokenizer of data/tokenizer/saved."""
    write_model(folder, VALUES, tensors())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return write_tokenizer(folder, {"tokenizer.json": DESCRIPTION})


def by_gguf_py(path: Path, dtype: str, name: str) -> None:
    """The model as gguf-py writes it, where the writer is told what llama.cpp's converter would tell it."""
    import gguf

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[dtype]
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_block_count(VALUES["n_layer"])
    writer.add_context_length(VALUES["n_positions"])
    writer.add_embedding_length(VALUES["n_embd"])
    writer.add_feed_forward_length(VALUES["n_inner"])
    writer.add_head_count(VALUES["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens, types = _tokens(gguf.TokenType)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in DESCRIPTION["model"]["merges"]])
    writer.add_bos_token_id(178)
    writer.add_eos_token_id(178)
    writer.add_eot_token_id(316)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)
    for source, tensor in tensors().items():
        matrix = tensor.T if source.startswith("h.") and tensor.ndim == 2 else tensor
        stored, number = _quantized(gguf, np.ascontiguousarray(matrix), source, dtype)
        writer.add_tensor(named(source), stored, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokens(kind: Any) -> tuple[list[str], list[Any]]:
    added = {token["id"]: token for token in DESCRIPTION["added_tokens"]}
    texts = {index: text for text, index in DESCRIPTION["model"]["vocab"].items()}
    texts |= {index: token["content"] for index, token in added.items()}
    types = [kind.NORMAL if index in texts else kind.UNUSED for index in range(VALUES["vocab_size"])]
    for index, token in added.items():
        types[index] = kind.CONTROL if token["special"] else kind.USER_DEFINED
    return [texts.get(index, f"[PAD{index}]") for index in range(VALUES["vocab_size"])], types


def _quantized(gguf: Any, matrix: np.ndarray, source: str, dtype: str) -> tuple[np.ndarray, Any]:
    exact = matrix.ndim == 1 or source == "wpe.weight"
    wanted = gguf.GGMLQuantizationType["F32" if exact else dtype.upper()]
    try:
        return gguf.quants.quantize(matrix, wanted), wanted
    except gguf.QuantError:
        wanted = gguf.GGMLQuantizationType.F16
        return gguf.quants.quantize(matrix, wanted), wanted
