"""What tiktoken is trusted with: the same ids as BPE by its definition, and as the tokenizers library."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from helpers.saved_tokenizer import BYTE_LEVEL, described
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gpt2c.tokenizer.bpe import BPETokenizer
from gpt2c.tokenizer.load import unpack
from gpt2c.tokenizer.vocabulary import NotExact, compile_vocabulary

# GPT-2's characters for the 256 bytes.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHARS = [*map(chr, PRINTABLE), *map(chr, range(0x100, 0x200 - len(PRINTABLE)))]

texts = st.text() | st.text("aehnst '\n\t1\u00a0.é中🦙\u0301") | st.text("ab \n", max_size=30)


def shuffled(tokens: list[str], merges: list[tuple[str, str]], seed: int) -> dict:
    ids = list(range(len(tokens)))
    random.Random(seed).shuffle(ids)
    vocab = dict(zip(tokens, ids, strict=True))
    return {
        "model": {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]},
        "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL, "added_tokens": [],
    }  # fmt: skip


def apply_merges(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """BPE as it is defined: again and again the first possible merge of the list, at its leftmost place."""
    parts = list(word)
    while True:
        possible = [pair for pair in merges if pair in pairwise(parts)]
        if not possible:
            return parts
        at = [*pairwise(parts)].index(possible[0])
        parts[at : at + 2] = ["".join(possible[0])]


@st.composite
def hand_made_merges(draw) -> list[tuple[str, str]]:
    """Any merges whatever over a, b, c; most lists break the rules somewhere."""
    tokens, merges = list("abc"), []
    for _ in range(draw(st.integers(1, 7))):
        pair = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        if pair not in merges and len(pair[0] + pair[1]) < 12:
            merges.append(pair)
            tokens.append("".join(pair))
    return list(draw(st.permutations(merges)) if draw(st.booleans()) else merges)


@settings(max_examples=400)
@given(
    merges=hand_made_merges(), words=st.lists(st.text("abc", max_size=14), min_size=5), seed=st.integers(0, 9)
)
def test_what_is_accepted_is_exact(merges, words, seed):
    made = ["".join(pair) for pair in merges]
    description = shuffled([*CHARS, *dict.fromkeys(made)], merges, seed)
    known = set("abc")
    rules_hold = True
    for rank, (x, y) in enumerate(merges):
        rules_hold &= {x, y} <= known and x + y not in known and apply_merges(x + y, merges[:rank]) == [x, y]
        known.add(x + y)
    try:
        vocabulary = compile_vocabulary(description, "here")
    except NotExact:
        event("refused")
        assert not rules_hold
        return
    event("accepted")
    assert rules_hold
    vocab = description["model"]["vocab"]
    tokenizer = BPETokenizer(vocabulary, name="", kind="")
    for word in [*words, *made]:
        assert tokenizer.encode(word) == [vocab[part] for part in apply_merges(word, merges)]


def test_the_rules_are_needed():
    # In "abc" the merge "b c" comes first, so "a b" and "ab c" never do; but tiktoken would find abc.
    hidden = [("b", "c"), ("a", "b"), ("ab", "c")]
    description = shuffled([*CHARS, "bc", "ab", "abc"], hidden, 0)
    assert apply_merges("abc", hidden) == ["a", "bc"]
    with pytest.raises(NotExact, match=r"merge 3, 'ab' \+ 'c', is hidden by an earlier one"):
        compile_vocabulary(description, "here")


@settings(max_examples=150, deadline=None)
@given(
    corpus=st.lists(texts, min_size=1, max_size=5), probes=st.lists(texts, max_size=5), seed=st.integers(0, 9)
)
def test_trained_vocabularies_against_tokenizers(corpus, probes, seed):
    tokenizers = pytest.importorskip("tokenizers")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(corpus * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    description = shuffled(list(model["vocab"]), [tuple(pair) for pair in model["merges"]], seed)
    oracle = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", **described(**description)}))
    tokenizer = BPETokenizer(compile_vocabulary(description, "here"), name="", kind="")
    for text in [*corpus, *probes, *(a + b for a in corpus for b in probes)]:
        assert tokenizer.encode(text) == oracle.encode(text).ids


added = st.lists(st.text("zq[", min_size=2, max_size=4), unique=True, max_size=5)


flags = st.lists(st.booleans(), min_size=5, max_size=5)
# Of the last ones, U+0085 and U+3000 are white space, U+001F and U+200B are not (Unicode's White_Space).
letters = "zq[é \n\x85\u3000\x1f\u200b"


@settings(max_examples=300)
@given(tokens=added, late=flags, left=flags, right=flags, text=st.text(letters, max_size=30))
def test_added_tokens_against_tokenizers(tokens, late, left, right, text):
    tokenizers = pytest.importorskip("tokenizers")
    entries = [
        {"id": 316 + n, "content": token, "single_word": False, "special": False}
        | {"normalized": late[n], "lstrip": left[n], "rstrip": right[n]}
        for n, token in enumerate(tokens)
    ]
    description = described(added_tokens=entries)
    oracle = tokenizers.Tokenizer.from_str(json.dumps(description))
    tokenizer = BPETokenizer(compile_vocabulary(description, "here"), name="", kind="")
    assert tokenizer.encode(text) == oracle.encode(text).ids
    if not (any(left) or any(right)):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    packed = json.loads(json.dumps(tokenizer.packed()))
    assert unpack(packed, "there", 400).encode(text) == tokenizer.encode(text)
    again = compile_vocabulary(tokenizer.described(), "there")
    assert BPETokenizer(again, name="", kind="").encode(text) == tokenizer.encode(text)


def test_added_tokens_that_overlap():
    entries = [
        {"id": 316, "content": "zq", "normalized": True}, {"id": 317, "content": "zqz", "normalized": True},
        {"id": 318, "content": "q[", "normalized": False},
    ]  # fmt: skip
    tokenizer = BPETokenizer(compile_vocabulary(described(added_tokens=entries), "here"), name="", kind="")
    assert tokenizer.encode("zqzqzqzq") == [317, tokenizer.encode("q")[0], 317, tokenizer.encode("q")[0]]
    assert tokenizer.encode("zq[zq") == [*tokenizer.encode("z"), 318, 316]
