"""Where memory ends, tokenizing raises: the libraries would end the process."""

from __future__ import annotations

import random
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2c.tokenizer import bpe, gpt2_tokenizer

LIMITED = """
import resource, sys
from gpt2c.tokenizer import gpt2_tokenizer
{made}
text = {text}
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + {room}, size + {room}))
try:
    tokenizer.{call}
except MemoryError as error:
    print(error)
"""
OWN = "tokenizer = gpt2_tokenizer(); tokenizer.encode('Once')"
OTHER = """
import json, tempfile, pathlib
from types import SimpleNamespace
from gpt2c.tokenizer import load_tokenizer
folder = pathlib.Path(tempfile.mkdtemp())
described = gpt2_tokenizer().described()
described["normalizer"] = {"type": "Lowercase"}
(folder / "tokenizer.json").write_text(json.dumps(described))
tokenizer = load_tokenizer(folder, SimpleNamespace(n_vocab=50257))
tokenizer.encode("Once")
"""


@pytest.mark.parametrize(
    ("made", "text", "room"),
    [
        (OWN, "'ab' * 4_000_000", 100 << 20),
        (OWN, "'word ' * 2_000_000", 1 << 20),
        (OWN, "'Once upon a time'", 1 << 19),
        ("tokenizer = gpt2_tokenizer()", "'Once upon a time'", 4 << 20),
        pytest.param(
            *(OTHER, "'a b ' * 1_000_000", 100 << 20),
            marks=pytest.mark.skipif(find_spec("tokenizers") is None, reason="tokenizers is not installed"),
        ),
    ],
    ids=["a long word", "a long text", "a short text", "the vocabulary", "tokenizers"],
)
def test_a_process_without_memory_gets_an_error(made, text, room):
    refused(made=made, text=text, room=room, call="encode(text)")


@pytest.mark.skipif(find_spec("tokenizers") is None, reason="tokenizers is not installed")
def test_so_does_one_that_wants_the_places_of_tokens():
    refused(made=OTHER, text="'a b ' * 1_000_000", room=100 << 20, call="offsets(text, [1, 2])")


def refused(**parts):
    """In a process with little memory, MemoryError says what to do."""
    done = subprocess.run([sys.executable, "-c", LIMITED.format(**parts)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "which the system does not give: split the text, or raise the limit" in done.stdout


PIECES = st.sampled_from([" ", "  ", "\n", "\u3000", "\x1c", "a", "'s", "don't", "12", "!?", "é", "的"])


@given(st.lists(PIECES, max_size=60).map("".join), st.integers(1, 20))
def test_a_text_in_parts_has_the_tokens_of_the_whole(text, part):
    tokenizer = gpt2_tokenizer()
    expected = [tokenizer._ids[rank] for rank in tokenizer._tiktoken.encode_ordinary(text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_PART", part)
        assert tokenizer.encode(text) == expected


def test_long_texts_are_cut_and_have_the_tokens_of_the_whole():
    words = random.Random(0).choices(["one", "two's", "  three", "\n\n", "4", "…"], k=100_000)
    text = " ".join(words)
    tokenizer = gpt2_tokenizer()
    assert len([*bpe._parts(text)]) > 3
    assert tokenizer.encode(text) == [tokenizer._ids[r] for r in tokenizer._tiktoken.encode_ordinary(text)]
