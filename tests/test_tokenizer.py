"""Encoding, decoding, streaming, offsets: GPT-2's vocabulary, the bundled model's, and wrapped objects."""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import subprocess
import sys
import threading
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.llama_cpp import llama_cpp_vectors
from hypothesis import given
from hypothesis import strategies as st

import gpt2c
from gpt2c import TokenizerError, as_tokenizer, gpt2_tokenizer
from gpt2c.tokenizer import Tokenizer, load_tokenizer
from gpt2c.tokenizer.bpe import BPETokenizer

DATA = Path(__file__).parent / "data" / "tokenizer"
PACKAGE = Path(gpt2c.__file__).parent
MODEL = PACKAGE / "data" / "model"
GPT2 = gpt2_tokenizer()
STORY = load_tokenizer(MODEL, SimpleNamespace(n_vocab=4096))

# Whatever Unicode has, and what GPT-2's rule for words looks at.
texts = st.text() | st.text("aehnst '\n\t1\u00a0.é中🦙\u0301") | st.text("ab \n")
gpt2_ids = st.lists(st.integers(0, 50256), max_size=20)
# Bytes that begin, continue and break characters of two to four bytes.
characters = st.sampled_from([GPT2.encode(character) for character in "aé中🦙\u07ff\uffff"])
breaking_ids = st.lists(characters, max_size=6).flatmap(
    lambda several: st.permutations([token for ids in several for token in ids])
)


def test_the_gpt2_vocabulary_is_the_one_made_from_openai_files():
    data = (PACKAGE / "data" / "gpt2" / "ranks.bin").read_bytes()
    assert (
        hashlib.sha256(data).hexdigest() == "49968b5dca3ddcef314a032e538e5131828aac5afdecc524183644bf349a3e1f"
    )
    assert "Copyright (c) 2019 OpenAI" in (PACKAGE / "data" / "gpt2" / "LICENSE").read_text(encoding="utf-8")
    assert GPT2.n_vocab == 50257
    assert GPT2.special_tokens == {"<|endoftext|>": 50256}
    assert (GPT2.token_bytes(0), GPT2.token_bytes(220), GPT2.token_bytes(50256)) == (
        b"!",
        b" ",
        b"<|endoftext|>",
    )


def test_the_script_that_makes_it_refuses_other_files(tmp_path):
    script = PACKAGE / "data" / "make_gpt2_ranks.py"
    spec = importlib.util.spec_from_file_location("make_gpt2_ranks", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(SystemExit, match="sha256"):
        module.main(str(tmp_path / "encoder.json"), str(tmp_path / "encoder.json"))


def test_public_vectors():
    vectors = llama_cpp_vectors()
    assert len(vectors) == 47
    for text, ids in vectors:
        assert GPT2.encode(text) == ids
        assert GPT2.decode(ids) == text


@pytest.mark.parametrize("tokenizer", [GPT2, STORY], ids=["gpt2", "story"])
@given(text=texts)
def test_round_trip(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(type(token) is int and 0 <= token < tokenizer.n_vocab for token in ids)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


@pytest.mark.parametrize("tokenizer", [GPT2, STORY], ids=["gpt2", "story"])
def test_special_tokens_are_text_unless_allowed(tokenizer: Tokenizer):
    end = tokenizer.special_tokens["<|endoftext|>"]
    ids = tokenizer.encode("a<|endoftext|>b")
    assert end not in ids
    assert len(ids) > 3
    assert tokenizer.encode("a<|endoftext|>b", special=True) == [
        *tokenizer.encode("a"),
        end,
        *tokenizer.encode("b"),
    ]
    assert tokenizer.decode(ids) == tokenizer.decode([*ids[:1], end, *ids[-1:]]) == "a<|endoftext|>b"


def test_the_empty_text():
    assert GPT2.encode("") == GPT2.encode("", special=True) == []
    assert GPT2.decode([]) == ""
    assert GPT2.offsets("", []) == []
    assert GPT2.decoder().flush() == ""


@given(ids=gpt2_ids | breaking_ids)
def test_stream_is_decode(ids: list[int]):
    decoder, whole = GPT2.decoder(), b"".join(map(GPT2.token_bytes, ids)).decode("utf-8", "replace")
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.flush() == whole == GPT2.decode(ids)
    for n in range(len(ids) + 1):  # nothing is shown that later tokens could change
        assert whole.startswith("".join(pieces[:n]))
        assert GPT2.decode([*ids[:n], *GPT2.encode("x")]).startswith("".join(pieces[:n]))


def test_stream_holds_back_half_a_character():
    decoder, ids = GPT2.decoder(), GPT2.encode("🦙!")
    assert len(ids) == 4
    assert [decoder.push(token) for token in ids] == ["", "", "🦙", "!"]
    assert (decoder.push(ids[0]), decoder.flush(), decoder.push(ids[3])) == ("", "\ufffd", "!")


def test_offsets_in_whole_characters():
    text = "hi é🦙 x"
    ids = GPT2.encode(text)
    shown = [
        (GPT2.token_bytes(token), text[start:end])
        for token, (start, end) in zip(ids, GPT2.offsets(text, ids), strict=True)
    ]
    assert shown == [
        (b"hi", "hi"), (b" \xc3\xa9", " é"),
        (b"\xf0\x9f", "🦙"), (b"\xa6", "🦙"), (b"\x99", "🦙"), (b" x", " x"),
    ]  # fmt: skip


@given(ids=gpt2_ids | breaking_ids)
def test_offsets_cover_any_ids(ids: list[int]):
    text = GPT2.decode(ids)
    spans = GPT2.offsets(text, ids)
    assert len(spans) == len(ids)
    covered = 0
    for token, (start, end) in zip(ids, spans, strict=True):
        assert covered - 1 <= start < end and start <= covered  # no gap, and one shared character at most
        alone = GPT2.token_bytes(token).decode("utf-8", "replace")
        if "\ufffd" not in alone:
            assert text[start:end] == alone
        covered = max(covered, end)
    assert covered == len(text)


def test_offsets_of_another_text():
    assert GPT2.offsets("hello", GPT2.encode("goodbye")) is None


def test_ids_in_any_container():
    ids = GPT2.encode("one two")
    for container in (ids, tuple(ids), np.array(ids), np.array(ids, np.int32), iter(ids)):
        assert GPT2.decode(container) == "one two"
    assert GPT2.token_bytes(np.int64(0)) == b"!"
    for wrong in ("12", 12, [1.5], [[1, 2]], None, [None]):
        with pytest.raises(TypeError, match="token ids must be a flat list"):
            GPT2.decode(wrong)
    for outside in (-1, 50257, 2**40):
        with pytest.raises(ValueError, match=f"token id {outside} is outside the vocabulary: 0 to 50256"):
            GPT2.decode([1, outside])


def test_wrong_texts():
    with pytest.raises(TypeError, match=r"must be a str, not bytes; decode bytes first"):
        GPT2.encode(b"text")
    for wrong in (None, 1, ["text"]):
        with pytest.raises(TypeError, match=f"must be a str, not {type(wrong).__name__}"):
            GPT2.encode(wrong)
    with pytest.raises(TokenizerError, match=r"lone surrogate, U\+D83E, at character 3"):
        GPT2.encode("é1 \ud83e")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["^", "a", " ", "\n", "1", "中", "\u0301", "*-", "x", "' "])
def test_a_million_of_one_kind(text: str):
    long = text * (1_000_000 // len(text))
    for whole in (long, long + "x", "x" + long + "\n\ny" + long):
        assert GPT2.decode(GPT2.encode(whole)) == whole


@given(
    runs=st.lists(
        st.tuples(st.text("ab1.\x1c", max_size=2), st.text(" \n\u3000\u2028", min_size=1, max_size=12))
    ),
    end=st.text("a1", max_size=1),
)
def test_cutting_long_white_space_changes_nothing(runs: list[tuple[str, str]], end: str):
    from gpt2c.tokenizer import bpe

    text = "".join(a + b for a, b in runs) + end
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_LONG_RUN", 4)
        patch.setattr(bpe, "_LONG_RUNS", bpe.re.compile(bpe._LONG_RUNS.pattern.replace("20000", "4")))
        parts = list(bpe._without_long_runs(text))
    assert "".join(parts) == text
    assert [token for part in parts for token in GPT2.encode(part)] == GPT2.encode(text)
    lengths = [
        len([*run])
        for white, run in groupby(text.rstrip(" \n\u3000\u2028"), " \n\u3000\u2028".__contains__)
        if white
    ]
    assert len(parts) == 1 + sum(length >= 4 for length in lengths)


def test_a_panic_of_tiktoken_is_an_error(monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(text: str):
        raise PanicException("StackOverflow")

    tokenizer = load_tokenizer(MODEL, SimpleNamespace(n_vocab=4096))
    monkeypatch.setitem(tokenizer.__dict__, "_tiktoken", SimpleNamespace(encode_ordinary=panic))
    with pytest.raises(TokenizerError, match="tiktoken failed on a text of 4 characters: StackOverflow"):
        tokenizer.encode("text")
    monkeypatch.setitem(tokenizer.__dict__, "_tiktoken", SimpleNamespace(encode_ordinary=sys.exit))
    with pytest.raises(SystemExit):
        tokenizer.encode("text")


def test_importing_does_not_load_tiktoken():
    code = (
        "import sys, gpt2c; assert 'tiktoken' not in sys.modules\n"
        "t = gpt2c.gpt2_tokenizer(); assert t.decode(t.encode('hello world')) == 'hello world'\n"
        "assert not {'tokenizers', 'requests'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_from_several_threads():
    tokenizer = load_tokenizer(MODEL, SimpleNamespace(n_vocab=4096))  # its first encode() is in the threads
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(tokenizer.encode("once upon a time")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [STORY.encode("once upon a time")] * 8


@given(text=texts)
def test_the_bundled_model_against_tokenizers(text: str):
    tokenizers = pytest.importorskip("tokenizers")
    found = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(MODEL / "vocab.json"), str(MODEL / "merges.txt"))
    )
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert STORY.encode(text) == found.encode(text).ids
    source = Path(codecs.__file__).read_text(encoding="utf-8")
    assert STORY.encode(source) == found.encode(source).ids


# Objects of others


class Letters:
    """The smallest tokenizer one can write."""

    def encode(self, text):
        return [ord(letter) - 97 for letter in text]

    def decode(self, ids):
        return "".join(chr(97 + token) for token in ids)


def test_any_object():
    letters = as_tokenizer(Letters())
    assert letters.encode("abz") == letters.encode("abz", special=True) == [0, 1, 25]
    assert letters.decode(np.array([2, 0, 1])) == "cab"
    assert letters.token_bytes(3) == b"d"
    assert (letters.n_vocab, letters.special_tokens) == (2**31 - 1, {})
    assert "Letters" in letters.name
    decoder = letters.decoder()
    assert [decoder.push(token) for token in (7, 8)] + [decoder.flush()] == ["h", "i", ""]
    assert letters.offsets("hi", [7, 8]) == [(0, 1), (1, 2)]
    assert letters.offsets("HI", [7, 8]) is None
    assert as_tokenizer(letters) is letters


@pytest.mark.parametrize(
    "give", [tuple, np.array, lambda ids: np.array(ids, np.uint16), lambda ids: SimpleNamespace(ids=ids)]
)
def test_what_encode_may_give(give):
    wrapped = as_tokenizer(
        SimpleNamespace(encode=lambda text: give([1, 2] if text else []), decode=lambda ids: "")
    )
    assert wrapped.encode("x") == [1, 2]
    assert [type(token) for token in wrapped.encode("x")] == [int, int]


def test_objects_that_are_no_tokenizers():
    for wrong in (None, "gpt2", b"", SimpleNamespace(encode=len), SimpleNamespace(decode=len, encode=3)):
        with pytest.raises(TypeError, match="needs the methods encode and decode"):
            as_tokenizer(wrong)
    bad = as_tokenizer(SimpleNamespace(encode=lambda text: ["a"], decode=lambda ids: b"bytes"))
    with pytest.raises(TypeError, match="flat list"):
        bad.encode("x")
    with pytest.raises(TypeError, match="must return a str, not bytes"):
        bad.decode([1])
    with pytest.raises(TypeError, match="must be a str"):
        bad.encode(b"x")
    with pytest.raises(TokenizerError, match="ids from 0 to 25, but the model's are 0 to 9"):
        as_tokenizer(Letters(), n_vocab=10).encode("az")


def test_an_object_of_tiktoken():
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    encoding = tiktoken.Encoding(
        "t", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|end|>": 258}
    )
    wrapped = as_tokenizer(encoding)
    assert wrapped.encode("ab<|end|>") == [256, *b"<|end|>"]
    assert wrapped.encode("ab<|end|>", special=True) == [256, 258]
    assert (wrapped.n_vocab, wrapped.special_tokens) == (259, {"<|end|>": 258})
    assert (wrapped.token_bytes(256), wrapped.token_bytes(257), wrapped.decode([256, 257, 0xC3, 0xA9])) == (
        b"ab",
        b"",
        "abé",
    )
    assert wrapped.offsets("abé", [256, 0xC3, 0xA9]) == [(0, 2), (2, 3), (2, 3)]
    decoder = wrapped.decoder()
    assert [decoder.push(token) for token in (0xC3, 0xA9)] == ["", "é"]
    with pytest.raises(ValueError, match="token id 259"):
        wrapped.decode([259])


def tokenizers_story():
    tokenizers = pytest.importorskip("tokenizers")
    found = tokenizers.Tokenizer(
        tokenizers.models.BPE.from_file(str(MODEL / "vocab.json"), str(MODEL / "merges.txt"))
    )
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_special_tokens(["<|endoftext|>"])
    return found


def test_an_object_of_tokenizers():
    found = tokenizers_story()
    wrapped = as_tokenizer(found)
    assert wrapped.encode("a<|endoftext|>b") == STORY.encode("a<|endoftext|>b")
    assert wrapped.encode("a<|endoftext|>b", special=True) == STORY.encode("a<|endoftext|>b", special=True)
    wrapped.encode("a")
    assert 0 in found.encode("a<|endoftext|>b").ids, "the object itself is as it was"
    assert (wrapped.n_vocab, wrapped.special_tokens) == (4096, {"<|endoftext|>": 0})
    assert wrapped.decode([0]) == "<|endoftext|>"


@given(ids=st.lists(st.integers(0, 4095), max_size=8) | st.lists(st.integers(1, 256), max_size=12))
def test_streaming_without_bytes(ids: list[int]):
    wrapped = as_tokenizer(tokenizers_story())
    decoder = wrapped.decoder()
    pieces = [decoder.push(token) for token in ids]
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert "".join(pieces) + decoder.flush() == wrapped.decode(ids) == STORY.decode(ids)
    text = STORY.decode(ids)
    if "\ufffd" not in text:
        assert wrapped.offsets(text, ids) == STORY.offsets(text, ids)


@pytest.mark.oracle
def test_an_object_of_transformers():
    transformers = pytest.importorskip("transformers")
    found = transformers.GPT2TokenizerFast(str(MODEL / "vocab.json"), str(MODEL / "merges.txt"))
    wrapped = as_tokenizer(found)
    assert wrapped.encode("a<|endoftext|>b é") == STORY.encode("a<|endoftext|>b é")
    assert wrapped.encode("a<|endoftext|>b", special=True) == STORY.encode("a<|endoftext|>b", special=True)
    assert (wrapped.n_vocab, wrapped.special_tokens) == (4096, {"<|endoftext|>": 0})
    assert wrapped.decode(STORY.encode("a<|endoftext|>b é", True)) == "a<|endoftext|>b é"


def test_repr():
    assert isinstance(GPT2, BPETokenizer)
    assert repr(GPT2) == "<byte-level BPE (tiktoken): GPT-2's vocabulary, bundled with gpt2c>"


@pytest.mark.parametrize("late", ["threading.Thread(target=work).start()", "atexit.register(work)"])
def test_the_first_text_may_come_after_the_main_thread_has_ended(late):
    program = f"""
import atexit, threading
from gpt2c import GPT2
model = GPT2.from_pretrained(threads=1)
def work():
    if threading.current_thread() is not threading.main_thread():
        threading.main_thread().join()
    print(model.tokenizer.encode("Once upon a time"))
{late}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{STORY.encode('Once upon a time')}\n", done.stderr
