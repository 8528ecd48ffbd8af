"""Texts and their tokens by llama.cpp, in data/tokenizer."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "tokenizer"


def llama_cpp_vectors() -> list[tuple[str, list[int]]]:
    separated = (DATA / "llama_cpp_gpt2.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (DATA / "llama_cpp_gpt2.out").read_text(encoding="utf-8").split("\n")
    return [(text, [*map(int, line.split())]) for text, line in zip(separated, lines, strict=True)]
