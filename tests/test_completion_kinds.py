"""Completion inside words with tokenizers of every kind, against all ways to write a text, enumerated."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
from helpers.tokenizer_kinds import kind
from helpers.toys import random_gpt2
from test_word_completion import Enumeration

from gpt2c import TokenizerError, as_tokenizer
from gpt2c.core.deadline import Deadline
from gpt2c.generation.covers import REMAINING, best_of, covers_of
from gpt2c.generation.spelling import split_last
from gpt2c.tokenizer.characters import CharacterTokenizer

CHARACTERS = "\nab .'é\u0308\u2019"
UNKNOWN, END = "<unk>", "</s>"


def _library(model, *, decoder, normalizer=None, pre_tokenizer=None):
    from tokenizers import Tokenizer

    found = Tokenizer(model)
    found.decoder = decoder
    if normalizer is not None:
        found.normalizer = normalizer
    if pre_tokenizer is not None:
        found.pre_tokenizer = pre_tokenizer
    found.add_special_tokens([END])
    return found


def _wordpiece(cleanup):
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pieces = [END, UNKNOWN, "a", "b", "ab", "ba", "##a", "##b", "##ab", ".", "'", "é", "##é", "中"]
    return _library(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=UNKNOWN),
        decoder=decoders.WordPiece(cleanup=cleanup),
        normalizer=normalizers.BertNormalizer(lowercase=True, strip_accents=False),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
    )


def _unigram():
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    pieces = [END, UNKNOWN, "▁", "a", "b", "ab", "▁a", "▁b", "▁ab", "▁ba", ".", "'", "é", "▁é"]
    return _library(
        models.Unigram([(piece, -1.0 - 0.1 * i) for i, piece in enumerate(pieces)], 1),
        decoder=decoders.Metaspace(),
        normalizer=normalizers.Strip(left=False, right=True),
        pre_tokenizer=pre_tokenizers.Metaspace(),
    )


def _metaspace():
    from tokenizers import decoders, models, pre_tokenizers

    merges = [("▁", "a"), ("▁a", "b"), ("▁", "b"), ("a", "b"), ("b", "a")]
    pieces = [END, UNKNOWN, "▁", "a", "b", ".", "'", "é", *(left + right for left, right in merges)]
    return _library(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token=UNKNOWN),
        decoder=decoders.Metaspace(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
    )


def _byte_fallback():
    """As of Llama: decoding leaves out the first space of a text, and bytes make up other characters."""
    from tokenizers import decoders, models, normalizers

    merges = [("▁", "a"), ("▁a", "b"), ("▁", "b"), ("a", "b")]
    pieces = [END, UNKNOWN, "▁", "a", "b", ".", "'", "<0xC3>", "<0xA9>", "<0xA8>"]
    pieces += [left + right for left, right in merges]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _library(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, merges, unk_token=UNKNOWN, byte_fallback=True
        ),
        decoder=decoders.Sequence(steps),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    )


def _byte_level():
    from tokenizers import decoders, models, pre_tokenizers

    merges = [("Ġ", "a"), ("Ġa", "b"), ("Ġ", "b"), ("a", "b"), ("Ã", "©")]
    pieces = [END, "Ġ", "a", "b", ".", "'", "Ã", "©", "¨", *(left + right for left, right in merges)]
    return _library(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges),
        decoder=decoders.ByteLevel(),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
    )


MAKERS = {
    "wordpiece": lambda: _wordpiece(cleanup=False),
    "wordpiece that cleans up": lambda: _wordpiece(cleanup=True),
    "unigram": _unigram,
    "metaspace": _metaspace,
    "byte fallback": _byte_fallback,
    "byte level": _byte_level,
    "characters": lambda: CharacterTokenizer(CHARACTERS, name="characters"),
}
MARKS = ["a\u0308", "a\u0308b", "b a\u2019", "b a\u2019b", "a \u2019b", "a \u2019b\u2019 "]
TEXTS = ["", "a", "ab", "a ab", "ab ", "a b.", "a b'", "b é"]
every_text = pytest.mark.parametrize(
    ("name", "text"),
    [*((name, text) for name in MAKERS for text in TEXTS), *(("characters", text) for text in MARKS)],
)


@cache
def made(name: str) -> SimpleNamespace:
    """A tokenizer of a kind with a model, and what its tokens add behind others, by its library."""
    if name == "characters":
        tokenizer = MAKERS[name]()
        pieces = [character.encode() for character in CHARACTERS]
        ends = ()
    else:
        pytest.importorskip("tokenizers")
        library = MAKERS[name]()
        tokenizer = as_tokenizer(library, name=name, n_vocab=library.get_vocab_size())
        pieces = [added(library, token) for token in range(library.get_vocab_size())]
        ends = (0,)
    model, _ = random_gpt2(
        3, n_vocab=len(pieces), n_ctx=64, tokenizer=tokenizer, std=0.6, bos_token_id=0, eos_token_ids=ends
    )
    return SimpleNamespace(tokenizer=tokenizer, model=model, pieces=pieces)


def added(library, token):
    """What a token adds behind an "a"."""
    piece = library.id_to_token(token)
    if piece in (END, UNKNOWN):
        return b""
    if piece.startswith("<0x"):
        return bytes.fromhex(piece[3:5])
    if piece in ("Ã", "©", "¨"):  # the bytes of Latin-1
        return piece.encode("latin-1")
    before = [library.token_to_id("a")]
    return library.decode([*before, token])[len(library.decode(before)) :].encode()


# ---- all ways


@every_text
def test_the_ways_to_cover_a_word_are_all_there_are(name, text):
    check_covers(made(name), text)


def check_covers(of, text):
    session = of.model.session(text)
    context, word = session.unfinished(8)
    covers = covers_of(session.rows(context, Deadline()), word)
    exact = {tokens: p for tokens, _, p in Enumeration(of.model, context, of.pieces).covers(word)}
    total = sum(exact.values())
    assert total > 0 and covers.left <= REMAINING * (covers.mass + covers.left)
    assert covers.mass <= total * (1 + 1e-5) and total <= (covers.mass + covers.left) * (1 + 1e-5)
    found = {path.tokens: path.mass for path in best_of(covers.groups, of.model, len(of.pieces) ** 2)}
    assert found.keys() <= exact.keys()
    for tokens, mass in exact.items():
        assert found.get(tokens, 0.0) == pytest.approx(mass, rel=1e-4, abs=covers.left * (1 + 1e-5) + 1e-9)


@pytest.mark.parametrize("text", ["He", "Hello wo", "Hello ", "Hello p\u00e5", "x."])
def test_the_ways_to_cover_a_word_with_gptsw3(tmp_path, text):
    pytest.importorskip("sentencepiece")
    from test_tokenizer_gptsw3 import load

    tokenizer = load(tmp_path, "spiece-sw3-spaces")
    model, _ = random_gpt2(3, n_vocab=600, tokenizer=tokenizer, bos_token_id=2)
    pieces = []
    for token in range(600):
        piece = tokenizer._token(token)
        if piece.startswith("<0x"):
            pieces.append(bytes.fromhex(piece[3:5]).replace(b" ", b""))
        else:
            pieces.append(
                b"" if piece.startswith("<") and len(piece) > 1 else piece.replace("▁", " ").encode()
            )
    check_covers(SimpleNamespace(model=model, pieces=pieces), text)


@every_text
def test_words_have_the_probability_of_all_their_spellings(name, text):
    of = made(name)
    session = of.model.session(text)
    context, typed = session.unfinished(32)
    exact, left = Enumeration(of.model, context, of.pieces).words(typed, least=2e-4)
    found = session.suggest_words(5)
    assert found
    for word in found:
        assert word.probability <= exact[word.text] + left + 1e-6
        assert exact[word.text] <= word.probability + found.remaining + left + 1e-6
    seen, worst = {word.text for word in found}, found[-1].probability
    missed = [p for added, p in exact.items() if added not in seen]
    assert all(p <= max(worst, found.remaining) + left + 1e-6 for p in missed)


@every_text
def test_texts_that_are_added(name, text):
    """What is added is what the tokens found add to those of the text, as they are decoded."""
    of = made(name)
    context, typed = of.model.session(text).unfinished(8)
    shown = typed.decode()
    for found in of.model.session(text).complete(4, max_new_tokens=3):
        tokens = [token for token in found.token_ids if of.pieces[token]]
        data = b"".join(of.pieces[token] for token in tokens)
        assert data.startswith(typed)
        assert found.text == data.decode("utf-8", "ignore")[len(shown) :]
    for seed in range(4):
        options = {"max_new_tokens": 4, "temperature": 1.0, "seed": seed, "heal": True}
        healed = of.model.generate(text, **options)
        data = b"".join(of.pieces[token] for token in healed.token_ids)
        assert healed.prompt_token_ids == context.tolist() and data.startswith(typed)
        before = of.tokenizer.decode(healed.prompt_token_ids)
        whole = of.tokenizer.decode([*healed.prompt_token_ids, *healed.token_ids])
        if "\ufffd" not in whole and UNKNOWN not in whole and END not in whole[len(before) :]:
            assert whole == before + shown + healed.text
        assert of.model.session(text).generate(**options) == healed
        with of.model.stream(text, **options) as stream:
            assert "".join(stream) == healed.text


# ---- what is unfinished


SPLITS = {
    "wordpiece": [
        ("a ab", ["a"], b" ab"),
        ("A bAB", ["a"], b" bab"),
        ("ab ", ["ab"], b" "),
        ("ab \n", ["ab"], b" "),
        ("a.b", ["a", "."], b" b"),
        ("a zz", ["a", UNKNOWN], b""),
        ("a zz ", ["a", UNKNOWN], b" "),
        ("b中", ["b"], " 中".encode()),
    ],
    "wordpiece that cleans up": [("a.", ["a"], b"."), ("a 'b", ["a", "'"], b" b")],
    "unigram": [("a ab", ["▁a"], b" ab"), ("ab ", ["▁ab"], b" "), ("a bz", ["▁a", "▁b", UNKNOWN], b"")],
    "metaspace": [("ab a", ["▁ab"], b" a"), ("ab ", ["▁ab"], b" "), ("a b.", ["▁a", "▁b"], b".")],
    "byte fallback": [("a é", ["▁a"], " é".encode()), ("ab ", ["▁ab"], b" ")],
    "byte level": [("a é", ["a"], " é".encode()), ("ab ", ["ab"], b" ")],
    "characters": [("a ab", ["a"], b" ab"), ("ab ", ["a", "b"], b" "), ("a\n", ["a"], b"\n")],
}


@pytest.mark.parametrize(("name", "text", "kept", "rest"), [(n, *row) for n in SPLITS for row in SPLITS[n]])
def test_what_is_unfinished(name, text, kept, rest):
    of = made(name)
    [ids] = of.model.encode([text])
    n, last = split_last(of.model, ids, text)
    known = {"a": 1, "b": 2} if name == "characters" else MAKERS[name]().get_vocab()
    assert (ids[:n].tolist(), last) == ([known[piece] for piece in kept], rest)
    session = of.model.session(text)
    assert session.suggest_words(3) and session.complete(2, max_new_tokens=3)


def test_white_space_that_the_tokenizer_leaves_out_is_not_written_twice():
    of = made("wordpiece")
    words = of.model.suggest_words("ab ", 5)
    assert all(word.text == word.word and not word.text.startswith("##") for word in words)
    inside = of.model.suggest_words("ab", 5)
    assert any(word.word.startswith("ab") for word in inside)
    plain = of.model.generate("ab", max_new_tokens=5, heal=False, suppress_tokens=[6, 7, 8, 12])
    healed = of.model.generate("ab ", max_new_tokens=5, heal=True, suppress_tokens=[6, 7, 8, 12])
    assert healed.token_ids == plain.token_ids and plain.text == f" {healed.text}"


@pytest.mark.parametrize("folder", ["spiece-sw3", "spiece-sw3-spaces"])
def test_a_space_that_decoding_leaves_out_is_not_missed(tmp_path, folder):
    """Of GPT-SW3: behind a special token, where a text begins, the first word is shown without its space."""
    pytest.importorskip("sentencepiece")
    from test_tokenizer_gptsw3 import load

    tokenizer = load(tmp_path, folder)
    model, _ = random_gpt2(3, n_vocab=tokenizer.n_vocab, tokenizer=tokenizer, bos_token_id=2)
    for text in ("He", "Hej", "Hello wo", "P\u00e5 sven"):
        for seed in range(4):
            options = {"max_new_tokens": 3, "temperature": 1.0, "seed": seed, "heal": True}
            healed = model.generate(text, **options)
            shown = tokenizer.decode(healed.prompt_token_ids)
            whole = tokenizer.decode([*healed.prompt_token_ids, *healed.token_ids])
            if "\ufffd" not in whole and "<" not in whole[len(shown) :]:
                assert whole == shown + text.removeprefix(shown) + healed.text
        assert all(word.word.startswith(text.split()[-1]) for word in model.suggest_words(text, 3))
    for found in (*model.suggest_words("", 8), *model.session("").complete(8, max_new_tokens=2)):
        assert found.text and not found.text[0].isspace()
    spaced = model.suggest_words("Hello ", 5)
    assert spaced and not any(word.text[0].isspace() for word in spaced)


# ---- what cannot be


def test_decoders_that_do_not_tell_the_bytes():
    of = kind("suffix")
    for ask in (
        lambda: of.model.suggest_words("the ki"),
        lambda: of.model.session("the ki").complete(),
        lambda: of.model.generate("the ki", heal=True),
    ):
        with pytest.raises(TokenizerError, match=r"decoder BPEDecoder, .*words cannot be completed"):
            ask()
    assert of.model.generate("the king", max_new_tokens=2).token_ids


class Halves:
    """An object that knows texts only, of which "é" has two tokens."""

    n_vocab = 4

    def encode(self, text):
        return [token for char in text for token in {"a": [0], " ": [1], "é": [2, 3]}[char]]

    def decode(self, ids):
        return b"".join([b"a", b" ", b"\xc3", b"\xa9"][token] for token in ids).decode("utf-8", "replace")


def test_an_object_that_does_not_tell_the_bytes():
    model, _ = random_gpt2(3, n_vocab=4, tokenizer=as_tokenizer(Halves(), n_vocab=4), bos_token_id=1)
    with pytest.raises(TokenizerError, match=r"bytes of token 2, .*give its files"):
        model.suggest_words("a", 2)
