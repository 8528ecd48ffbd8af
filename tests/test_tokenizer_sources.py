"""Where a tokenizer comes from: files cut, large and sound; tokenizer= and --tokenizer; packed files."""

from __future__ import annotations

import codecs
import json
import os
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.command_line import run
from helpers.saved_tokenizer import DESCRIPTION, SAVED, write
from helpers.tiny_checkpoints import TINY, write_model, write_shards

from gpt2c import GPT2, TokenizerError, gpt2_tokenizer
from gpt2c.checkpoint import BUNDLED
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.files import FILES, OPENAI_PAIR, PAIR

VOCAB = json.loads((BUNDLED / "vocab.json").read_text("utf-8"))
MERGES = (BUNDLED / "merges.txt").read_text("utf-8")
WORDS = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"}
WORD_LEVEL = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": WORDS,
}


def load(folder: Path, n_vocab: int = 4096):
    return load_tokenizer(folder, SimpleNamespace(n_vocab=n_vocab))


# Cut merges


def test_the_sound_files(tmp_path):
    write(tmp_path, {"vocab.json": VOCAB, "merges.txt": MERGES})
    assert load(tmp_path).encode("The king") == load(BUNDLED).encode("The king")


@pytest.mark.parametrize("size", [20, 4096, 8192, 20_000, len(MERGES.encode()) - 3, len(MERGES.encode()) - 8])
def test_cut_merges_are_refused(tmp_path, size):
    write(tmp_path, {"vocab.json": VOCAB, "merges.txt": MERGES.encode()[:size].decode("utf-8", "ignore")})
    with pytest.raises(TokenizerError, match=r"merges are truncated.*Get the file again"):
        load(tmp_path)


@pytest.mark.parametrize("lines", [1, 2, 500])
def test_merges_cut_between_lines_are_refused(tmp_path, lines):
    kept = MERGES.splitlines(keepends=True)[:-lines]
    write(tmp_path, {"vocab.json": VOCAB, "merges.txt": "".join(kept)})
    with pytest.raises(TokenizerError, match=r"merges are truncated: none of them makes '.*', the first of"):
        load(tmp_path)


def test_cut_merges_of_a_vocabulary_in_another_order(tmp_path):
    """Of many lines: a few cannot be told from tokens that are there for another reason."""
    order = np.random.default_rng(0).permutation(len(VOCAB)).tolist()
    vocab = {token: order[index] for token, index in VOCAB.items()}
    write(tmp_path, {"vocab.json": vocab, "merges.txt": MERGES})
    assert load(tmp_path).encode("The king") == [order[i] for i in load(BUNDLED).encode("The king")]
    write(tmp_path, {"merges.txt": "".join(MERGES.splitlines(keepends=True)[:-200])})
    with pytest.raises(TokenizerError, match=r"merges are truncated"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("front", "back", "added"),
    [
        (["<s>", "<pad>", "PAD", "in"], [], []),  # special tokens of a trainer have the first ids
        ([], ["<s>", "<pad>", "[MASK]", "madeupword0000", "madeupword0001"], []),
        ([], ["in", "hello"], ["in", "hello"]),
    ],
)
def test_tokens_without_a_merge_are_no_cut(tmp_path, front, back, added):
    """What stands in vocab.json beside the tokens of the merges."""
    tokens = [*front, *(token for token in VOCAB if len(token) == 1), "he", "ll", "hell", "s>", *back]
    vocab = {token: index for index, token in enumerate(tokens)}
    write(tmp_path, {"vocab.json": vocab, "merges.txt": "#version: 0.2\nh e\nl l\nhe ll\ns >\n"})
    write(tmp_path, {"added_tokens.json": {token: vocab[token] for token in added}})
    assert load(tmp_path, len(vocab)).encode("hell") == [vocab["hell"]]


# Sizes and byte order marks


@pytest.mark.parametrize(
    "name", [*FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_a_file_that_is_too_large_is_not_read(tmp_path, name):
    if name not in FILES:
        write(tmp_path, {"tokenizer.json": DESCRIPTION})
    pair = next((pair for pair in (PAIR, OPENAI_PAIR) if name in pair), ())
    write(tmp_path, dict(zip(pair, (VOCAB, MERGES), strict=bool(pair))))
    with open(tmp_path / name, "wb") as file:
        file.truncate(2**30)
    tracemalloc.start()
    with pytest.raises(
        TokenizerError, match=r"has 1,073,741,824 bytes, but .* may have at most 67,108,864: .*tokenizer="
    ):
        load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_vocabulary_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    assert load(tmp_path, 50257) is gpt2_tokenizer()  # a pipe is no file; and opening it would wait


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_files_with_a_byte_order_mark(tmp_path, name):
    for path in SAVED.iterdir():
        mark = codecs.BOM_UTF8 if path.name == name else b""
        write(tmp_path, {path.name: mark + path.read_bytes()})
    assert load(tmp_path, 319).encode("once<sep>") == load(SAVED, 319).encode("once<sep>")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_the_older_files_with_a_byte_order_mark(tmp_path, name):
    files = {"vocab.json": json.dumps(VOCAB), "merges.txt": MERGES}
    write(tmp_path, files | {name: "\ufeff" + files[name]})
    assert load(tmp_path).encode("The king") == load(BUNDLED).encode("The king")


def test_model_files_with_a_byte_order_mark(tmp_path):
    tensors = write_model(tmp_path / "one")
    write_shards(tmp_path / "two", tensors)
    write(tmp_path / "two", {"config.json": TINY})
    for folder in ("one", "two"):
        write(tmp_path / folder, {"generation_config.json": {"bos_token_id": 3}})
        for path in (tmp_path / folder).glob("*.json"):
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    one, two = (GPT2.from_pretrained(tmp_path / folder) for folder in ("one", "two"))
    assert one.forward([1, 2]).tobytes() == two.forward([1, 2]).tobytes()
    assert one.bos_token_id == two.bos_token_id == 3


# Vocabularies larger and smaller than the model


def test_a_vocabulary_a_little_larger_than_the_model(tmp_path):
    """The last tokens of the BPE, whose rows the model lacks, are refused where a text needs them."""
    write(tmp_path, {"vocab.json": VOCAB, "merges.txt": MERGES})
    last = max(VOCAB, key=VOCAB.get)
    assert VOCAB[last] == 4095
    tokenizer = load(tmp_path, 4095)
    assert tokenizer.encode("The king") == load(BUNDLED).encode("The king")
    text = load(BUNDLED).decode([4095])
    with pytest.raises(TokenizerError, match=r"has the id 4095, but the model's end at 4094"):
        tokenizer.encode(text)
    assert load(tmp_path, 3892).encode("The") == load(BUNDLED).encode("The")  # 204 of 4096 ids: 5 %
    with pytest.raises(
        TokenizerError, match=r"ids up to 4095, but the model's end at 3890: .* another model"
    ):
        load(tmp_path, 3891)


def test_the_same_for_the_tokenizers_library(tmp_path):
    pytest.importorskip("tokenizers")
    vocab = {f"w{index}": index for index in range(100)}
    described = WORD_LEVEL | {"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}}
    write(tmp_path, {"tokenizer.json": described})
    tokenizer = load(tmp_path, 95)
    assert tokenizer.encode("w94 w1") == [94, 1]
    with pytest.raises(TokenizerError, match=r"'w95' has the id 95, but the model's end at 94"):
        tokenizer.encode("w1 w95")
    with pytest.raises(TokenizerError, match=r"ids up to 99, but the model's end at 93: .* another model"):
        load(tmp_path, 94)


def test_tokens_that_the_class_adds_are_no_sign_of_another_model(tmp_path):
    """Three words and <|endoftext|>, for a model of three tokens."""
    pytest.importorskip("tokenizers")
    tokenizer = load(write(tmp_path, {"tokenizer.json": WORD_LEVEL}), 3)
    assert tokenizer.encode("b a <") == [1, 0, 2]
    assert tokenizer.special_tokens == {"<|endoftext|>": 3}
    with pytest.raises(TokenizerError, match=r"'<\|endoftext\|>' has the id 3, but the model's end at 2"):
        tokenizer.encode("<|endoftext|>", special=True)


PADDED = TINY | {"vocab_size": 50_304, "bos_token_id": 50_256, "eos_token_id": 50_256}


@pytest.mark.parametrize("given", [False, True], ids=["without files", "given"])
def test_gpt2s_tokenizer_in_a_padded_embedding_before_and_after_packing(tmp_path, given):
    write_model(tmp_path / "model", PADDED)
    model = GPT2.from_pretrained(tmp_path / "model", tokenizer=gpt2_tokenizer() if given else None)
    model.save(tmp_path / "packed.gpt2c")
    again = GPT2.from_pretrained(tmp_path / "packed.gpt2c")
    for tokenizer in (model.tokenizer, again.tokenizer):
        assert tokenizer.encode("Hello world") == [15496, 995]
        assert tokenizer.encode("<|endoftext|>", special=True) == [50256]
        assert tokenizer.special_tokens == {"<|endoftext|>": 50256}
        assert (tokenizer.n_vocab, tokenizer.decode([15496, 50303])) == (50257, "Hello")
        with pytest.raises(ValueError, match="token id 50304 is outside the vocabulary: 0 to 50303"):
            tokenizer.decode([50304])
    assert model.n_text_tokens == again.n_text_tokens == 50257
    one, two = (m.generate("Hello", max_new_tokens=4, temperature=0) for m in (model, again))
    assert one == two


# What is asked for with tokenizer=


@pytest.fixture
def other(tmp_path) -> Path:
    """A tokenizer for the bundled model that numbers the tokens backwards."""
    vocab = {token: len(VOCAB) - 1 - index for token, index in VOCAB.items()}
    return write(tmp_path / "other", {"vocab.json": vocab, "merges.txt": MERGES})


def backwards(text: str) -> list[int]:
    return [4095 - index for index in load(BUNDLED).encode(text)]


def test_a_folder_or_file_as_the_tokenizer(tmp_path, other):
    GPT2.from_pretrained(dtype="int8").save(tmp_path / "m.gpt2c")
    for source in (None, tmp_path / "m.gpt2c"):
        for given in (other, str(other), other / "vocab.json"):
            model = GPT2.from_pretrained(source, tokenizer=given)
            assert model.tokenizer.encode("The king") == backwards("The king")


def test_single_files_as_the_tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    described = WORD_LEVEL | {"model": WORDS | {"vocab": {"a": 7, "?": 9}}}
    write(tmp_path, {"mine.json": described, "words.txt": "[UNK]\n[CLS]\n[SEP]\nking\n"})
    assert GPT2.from_pretrained(tokenizer=tmp_path / "mine.json").tokenizer.encode("a b") == [7, 9]
    assert GPT2.from_pretrained(tokenizer=tmp_path / "words.txt").tokenizer.encode("King b") == [3, 0]


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.bin").touch()
    cases = {
        tmp_path / "empty": r"empty has no tokenizer files; it needs one of tokenizer.json, vocab.json",
        tmp_path / "model.bin": r"model.bin is not a tokenizer file, which ends with .json, .txt, .model",
        tmp_path / "none": r"no file or directory is named '.*none': tokenizer takes a directory",
        "": "no file or directory is named ''",
        "./none": "no file or directory is named './none'",
    }
    for given, message in cases.items():
        with pytest.raises(TokenizerError, match=message):
            GPT2.from_pretrained(tokenizer=given)
    with pytest.raises(TypeError, match="a tokenizer needs the methods encode and decode"):
        GPT2.from_pretrained(tokenizer=7)


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "The king", "-n", "2", "--temperature", "0"),
        ("score", "The king"),
        ("suggest", "The king"),
        ("info",),
        ("explain", "The king"),
        ("convert", BUNDLED, "--no-comparison"),
        ("bench", "model"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_a_tokenizer(tmp_path, other, command):
    output = {"explain": ("-o", tmp_path / "page.html"), "convert": (tmp_path / "m.gpt2c",)}
    command += output.get(command[0], ())
    failed = run(*command, "--tokenizer", tmp_path / "none")
    assert failed.returncode == 1
    assert "tokenizer takes a directory" in failed.stderr
    if command[0] != "bench":  # which takes long
        made = run(*command, "--tokenizer", other)
        assert made.returncode == 0, made.stderr
    if command[0] == "convert":
        packed = GPT2.from_pretrained(tmp_path / "m.gpt2c")
        assert packed.tokenizer.encode("The king") == backwards("The king")


def test_the_command_uses_it(tmp_path, other):
    told = json.loads(run("info", "--json", "--tokenizer", other).stdout)
    assert told["vocabulary"]["special_tokens"] == {"<|endoftext|>": 4095}
    score = json.loads(run("score", "--json", "--tokenizer", other, "The king").stdout)
    assert [token["token_id"] for token in score["per_token"]] == backwards("The king")


def test_scores_of_two_tokenizers_do_not_go_into_one_directory(tmp_path, other):
    (tmp_path / "texts.jsonl").write_text('{"text": "The king"}\n')
    command = ("score", tmp_path / "texts.jsonl", "-o", tmp_path / "out")
    assert run(*command).returncode == 0
    failed = run(*command, "--tokenizer", other)
    assert failed.returncode == 1
    assert "holds outputs with other settings (tokenizer_sha256 was" in failed.stderr
    copied = write(tmp_path / "copy", {path.name: path.read_bytes() for path in other.iterdir()})
    for source in (other, copied):
        assert run(*command[:-1], tmp_path / "second", "--tokenizer", source).returncode == 0


# A packed file whose tokenizer needs a package


def test_a_packed_file_works_with_ids_where_its_tokenizer_cannot_run(tmp_path, monkeypatch):
    """As the folder does that it was made from."""
    pytest.importorskip("tokenizers")
    write_model(tmp_path / "model")
    write(tmp_path / "model", {"tokenizer.json": WORD_LEVEL})
    model = GPT2.from_pretrained(tmp_path / "model")
    model.save(tmp_path / "m.gpt2c")
    expected = model.forward([1, 2]).tobytes()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for source in (tmp_path / "model", tmp_path / "m.gpt2c"):
        again = GPT2.from_pretrained(source)
        assert again.forward([1, 2]).tobytes() == expected
        assert not again.has_tokenizer
        assert any(
            "no tokenizer: " in note and 'pip install "gpt2c[tokenizers]"' in note for note in again.notes
        )
        with pytest.raises(TokenizerError, match=r"pip install \"gpt2c\[tokenizers\]\""):
            again.generate("a b")
        mine = SimpleNamespace(encode=lambda text: [1] * len(text), decode=lambda ids: "x" * len(ids))
        assert GPT2.from_pretrained(source, tokenizer=mine).tokenizer.encode("xx") == [1, 1]
