"""GPTSw3Tokenizer: what the matrix of folders does not show of it."""

from __future__ import annotations

import base64
import json
import sys
from types import SimpleNamespace

import pytest
from data.tokenizer import matrix_parts
from helpers.toys import random_gpt2
from test_tokenizer_matrix import FOLDERS, expected

from gpt2c import GPT2, TokenizerError
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.load import unpack

pytest.importorskip("sentencepiece")

NEW, UPPER, SEP = 600, 601, 602  # of "spiece-sw3-flags", behind the 600 pieces of its model


def folder(tmp_path, name, **files):
    """A folder of the matrix, some files changed."""
    changed = {key.replace("__", "."): json.dumps(value) for key, value in files.items()}
    return matrix_parts.write_folder(FOLDERS[name]["files"] | changed, tmp_path / name)


def load(tmp_path, name, n_vocab=None, **files):
    n_vocab = expected(FOLDERS[name])["last_id"] + 1 if n_vocab is None else n_vocab
    return load_tokenizer(folder(tmp_path, name, **files), SimpleNamespace(n_vocab=n_vocab))


def ids_of(tokenizer, *pieces):
    """The ids of pieces, from the model's own list."""
    from sentencepiece import SentencePieceProcessor

    model = base64.b64decode(tokenizer.packed()["sentencepiece"]["model"]["proto"])
    return SentencePieceProcessor(model_proto=model).piece_to_id(list(pieces))


@pytest.mark.parametrize(
    ("name", "bos", "eos"),
    [
        ("spiece-sw3", "<s>", "<|endoftext|>"),
        ("spiece-sw3-class-in-config", "<s>", "<|endoftext|>"),
        ("spiece-gpt-sw3-7b", "<|endoftext|>", "<|endoftext|>"),
        ("spiece-sw3-named", "[CLS]", "[SEP]"),
        ("spiece-sw3-legacy", "<s>", "</s>"),
    ],
)
def test_beginning_and_end(tmp_path, name, bos, eos):
    tokenizer = load(tmp_path, name)
    special = expected(FOLDERS[name])["special"]
    again = unpack(tokenizer.packed(), "model.gpt2c", tokenizer.n_vocab)
    for one in (tokenizer, again):
        assert (one.bos_token_id, one.eos_token_id) == (special[bos], special[eos])
    assert (tokenizer.prefix, tokenizer.suffix) == ((), ())


def test_one_model_has_other_tokens(tmp_path):
    settings = {"tokenizer_class": "GPTSw3Tokenizer", "bos_token": "<s>", "pad_token": None}
    tokenizer = load(tmp_path, "spiece-gpt-sw3-7b", tokenizer_config__json=settings)
    assert (tokenizer.bos_token_id, tokenizer.special_tokens["<s>"]) == (2, 2)
    assert "<pad>" not in tokenizer.special_tokens


# ---- text that goes in


def test_every_character_that_is_changed(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-spaces")
    kept = "\t\n"
    removed = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) not in kept]
    for char in (*removed, "\u00a0", "\u00ad", "\u200b"):
        assert tokenizer.encode(f"a{char}b") == tokenizer.encode("ab")
    for char in "\u2002\u2003\u2005\u2008\u2009\u200a\u202f\u3000\ufffc":
        assert tokenizer.encode(f"a{char}b") == tokenizer.encode("a b")
    for char in f"{kept}\u2004\u2007\u200c\u2028\ufeff":
        assert tokenizer.decode(tokenizer.encode(f"a{char}b")) == f"a{char}b"


def test_a_token_that_must_be_a_word(tmp_path):
    """Every part of the text gets a space before it; one that has taken the token in is a part of its own."""
    tokenizer = load(tmp_path, "spiece-sw3-flags")

    def parts(*texts):
        return [token for text in texts for token in ([UPPER] if text == "upper" else tokenizer.encode(text))]

    for text, right in {
        "upper": parts("upper"),
        "supper upper uppers": parts("supper", " ", "upper", " ", "uppers"),
        "\nupper\n": parts("\nupper", "\n"),
        "upperupper": parts("upperupper"),
    }.items():
        assert tokenizer.encode(text, special=True) == right, text


def test_the_longest_token_is_cut_out(tmp_path):
    tokens = ["<new>", "<new>er", "<newest"]
    added = {str(600 + i): matrix_parts.added(token, 600 + i) for i, token in enumerate(tokens)}
    settings = {"tokenizer_class": "GPTSw3Tokenizer", "added_tokens_decoder": added}
    tokenizer = load(tmp_path, "spiece-sw3-spaces", n_vocab=603, tokenizer_config__json=settings)
    assert tokenizer.encode("<new><new>er<newest", special=True) == [600, 601, 602]


# ---- text that goes on, and text that comes out


def test_a_space_at_the_seam_is_kept(tmp_path):
    """A model that drops the spaces before a text: those of a continuation are one, as inside a text."""
    tokenizer = load(tmp_path, "spiece-sw3")
    rows = expected(FOLDERS["spiece-sw3"])["texts"]
    whole = rows[matrix_parts.TEXTS.index("Hello world")]["ids"]
    for space in (" ", "   ", "\u3000", "\u200b "):
        assert tokenizer.encode("Hello") + tokenizer.encode(f"{space}world", continued=True) == whole
    ids = tokenizer.encode("Hello") + tokenizer.encode("world", continued=True)
    assert tokenizer.decode(ids) == "Helloworld"
    assert tokenizer.encode("  ", continued=True) == []


def test_every_space_at_the_seam_counts(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-spaces")
    for text in ("world", " world", "  world"):
        ids = tokenizer.encode("Hello") + tokenizer.encode(text, continued=True)
        assert tokenizer.decode(ids) == f"Hello{text}"
    ids = tokenizer.encode("llo<s> He", special=True, continued=True)
    assert ids == ids_of(tokenizer, "llo", "<s>", "\u2581\u2581", "He")


def test_what_was_shown_stays(tmp_path):
    """transformers puts a space before the text before a special token, when it decodes that token."""
    tokenizer = load(tmp_path, "spiece-sw3-flags")
    ids = ids_of(tokenizer, "\u2581He", "llo", "<|endoftext|>", "<s>", "\u2581He", "<0x6A>", "\u2581")
    ids += [UPPER, *ids_of(tokenizer, "\u2581\u2581"), SEP, *ids_of(tokenizer, "\u2581a")]
    assert tokenizer.decode(ids) == " Hello<|endoftext|><s>Hej  upper   <sep> a"  # as transformers 4.57.6
    decoder = tokenizer.decoder()
    pieces = ["He", "llo", "<|endoftext|>", "<s>", "He", "j", " ", " upper", "  ", " <sep>", " a"]
    assert [*map(decoder.push, ids), decoder.flush()] == [*pieces, ""]
    [start] = ids_of(tokenizer, "<s>")
    assert tokenizer.decoder().push(start) == " <s>" == tokenizer.decode([start])
    for cut in range(len(ids)):
        decoder = tokenizer.decoder(ids[:cut])
        assert [decoder.push(token) for token in ids[cut:]][1:] == pieces[cut + 1 :]


def test_bytes_of_a_character_that_arrive_one_by_one(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-spaces")
    ids = ids_of(tokenizer, "\u2581He", "<0xF0>", "<0x9D>", "<0x94>", "<0x98>", "<0xE3>", "llo")
    decoder = tokenizer.decoder()
    assert [*map(decoder.push, ids)] == ["He", "", "", "", "\U0001d518", "", "\ufffdllo"]


# ---- bytes and places


def test_bytes_of_tokens(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-flags")
    ids = ids_of(tokenizer, "\u2581He", "<0xF0>", "\u2581\u2581", "\u00e9", "<s>")
    found = [b" He", b"\xf0", b"  ", "\u00e9".encode(), b"<s>"]
    assert [tokenizer.token_bytes(token) for token in [*ids, NEW]] == [*found, b"<new>"]
    assert [tokenizer.begins_word(token) for token in ids] == [True, False, True, False, False]
    with pytest.raises(ValueError, match="0 to 602 are allowed"):
        tokenizer.token_bytes(603)
    larger = load(tmp_path, "spiece-sw3-flags", n_vocab=610)
    assert larger.token_bytes(605) == b"" and larger.decode([*ids[:1], 605, *ids[3:4]]) == "He\u00e9"
    # A control piece that no setting names has no text.
    [end] = ids_of(load(tmp_path, "spiece-sw3"), "</s>")
    assert load(tmp_path, "spiece-sw3").token_bytes(end) == b""


def test_places_in_a_text_that_the_tokenizer_changes(tmp_path):
    """Composed accents, another space, a character taken out, bytes, tokens that eat spaces."""
    tokenizer = load(tmp_path, "spiece-sw3-flags")
    text = "e\u0301 \u3000x\u00ad y <new> z\U0001d518 <sep>  He<s>"
    ids = tokenizer.encode(text, special=True)
    mark, two = "\u2581", "\u2581\u2581"
    pieces = [mark, "\u00e9", two, "x", mark, "y"]
    z = [two, "<0x7A>", "<0xF0>", "<0x9D>", "<0x94>", "<0x98>", mark]
    head, tail = ids_of(tokenizer, *pieces), ids_of(tokenizer, f"{mark}He", "<s>")
    assert ids == [*head, NEW, *ids_of(tokenizer, *z), SEP, *tail]
    places = [(0, 0), (0, 2), (2, 4), (4, 5), (6, 7), (7, 8), (9, 14)]
    places += [(14, 15), (15, 16), *[(16, 17)] * 4, (17, 18), (18, 23), (25, 27), (27, 30)]
    assert tokenizer.offsets(text, ids, special=True) == places
    assert tokenizer.offsets(text, ids) == places
    assert tokenizer.offsets(text, ids[:5]) == places[:5]
    for together in ("a\u0316\u0301", "A\u0f73\u0301", "\u1112\u1161\u11ab"):
        found = tokenizer.offsets(f"x{together}", tokenizer.encode(f"x{together}"))
        assert {*found} == {(0, 1), (1, 4)}
    text = "x\u0323\u0301a\u0323"  # marks that have no place in the character before, and one that has
    composed = tokenizer.offsets(text, tokenizer.encode(text))
    assert composed == [(0, 1), *[(1, 2)] * 2, *[(2, 3)] * 2, *[(3, 5)] * 3]


def test_places_of_other_ids(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-spaces")
    ids = ids_of(tokenizer, "\u2581", "<0x48>", "e", "l", "l", "o")
    assert tokenizer.decode(ids) == "Hello" and tokenizer.encode("Hello") != ids
    assert tokenizer.offsets("Hello", ids) == [(0, 1), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert tokenizer.offsets("He\u00ad", tokenizer.encode("He\u00ad", continued=True)) == [(0, 2)]


def test_a_token_without_text_behind_a_text(tmp_path):
    """A model that puts the space behind a text, not before it."""
    from sentencepiece import sentencepiece_model_pb2

    packed = load(tmp_path, "spiece-sw3-spaces").packed()
    model = packed["sentencepiece"]["model"]
    proto = sentencepiece_model_pb2.ModelProto.FromString(base64.b64decode(model["proto"]))
    proto.trainer_spec.treat_whitespace_as_suffix = True
    model["proto"] = base64.b64encode(proto.SerializeToString()).decode()
    tokenizer = unpack(packed, "model.gpt2c", 600)
    text = "<s>llo<s>llo\u00ad"
    ids = tokenizer.encode(text, special=True)
    assert ids == ids_of(tokenizer, *["<s>", "llo", "\u2581"] * 2)
    places = [(0, 3), (3, 6), (6, 6), (6, 9), (9, 12), (13, 13)]
    assert tokenizer.offsets(text, ids, special=True) == places


# ---- files


def test_the_model_goes_before_tokenizer_json(tmp_path):
    """The class has no form for that file, of which it takes the added tokens only."""
    other = {"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": []}
    other["added_tokens"].append(matrix_parts.added("<new>", 600, special=False))
    tokenizer = load(tmp_path, "spiece-sw3-spaces", n_vocab=601, tokenizer__json=other)
    assert tokenizer.encode("He<new>", special=True) == [*ids_of(tokenizer, "\u2581He"), 600]
    other["added_tokens"][0]["id"] = 17
    with pytest.raises(TokenizerError, match="'<new>' has the id 17; 600 is next"):
        load(tmp_path, "spiece-sw3-spaces", tokenizer__json=other)


@pytest.mark.parametrize(("name", "value"), [("do_lower_case", True), ("sp_model_kwargs", {"alpha": 0.1})])
def test_settings_that_are_refused(tmp_path, name, value):
    settings = {"tokenizer_class": "GPTSw3Tokenizer", name: value}
    with pytest.raises(TokenizerError, match=rf"spiece.model: the settings have {name} = .*tokenizer="):
        load(tmp_path, "spiece-sw3", tokenizer_config__json=settings)


def test_a_model_with_fewer_ids(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-flags", n_vocab=601)
    assert tokenizer.encode("<new>", special=True) == [NEW]
    with pytest.raises(TokenizerError, match="'<sep>' has the id 602, but the model's end at 600"):
        tokenizer.encode("<sep>", special=True)
    with pytest.raises(TokenizerError, match="belong to another model"):
        load(tmp_path, "spiece-sw3-flags", n_vocab=300)


def test_without_sentencepiece(tmp_path, monkeypatch):
    packed = load(tmp_path, "spiece-sw3").packed()
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for make in (lambda: load(tmp_path, "spiece-sw3"), lambda: unpack(packed, "model.gpt2c", 562)):
        with pytest.raises(TokenizerError, match=r"pip install \"gpt2c\[sentencepiece\]\""):
            make()


DAMAGE = {
    "no model": lambda packed: packed.pop("model"),
    "no base64": lambda packed: packed["model"].update(proto="\u00e9"),
    "no SentencePiece model": lambda packed: packed["model"].update(proto="AAAA"),
    "a model without an unknown": lambda packed: packed["model"].update(proto="CgMKAWE="),
    "names that are no list": lambda packed: packed["model"].update(named=None),
    "a token that is no object": lambda packed: packed["added_tokens"].append(3),
    "a token without a flag": lambda packed: packed["added_tokens"][0].pop("rstrip"),
    "an id that is no number": lambda packed: packed["added_tokens"][0].update(id="1"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_packed_files(tmp_path, damage):
    packed = json.loads(json.dumps(load(tmp_path, "spiece-sw3").packed()))
    damage(packed["sentencepiece"])
    with pytest.raises(TokenizerError, match=r"model\.gpt2c"):
        unpack(packed, "model.gpt2c", 562)


# ---- with a model


def test_generated_scored_and_packed(tmp_path):
    tokenizer = load(tmp_path, "spiece-sw3-spaces")
    model, _ = random_gpt2(3, n_vocab=600, n_ctx=64, tokenizer=tokenizer, bos_token_id=2, eos_token_ids=(3,))
    model.save(tmp_path / "model.gpt2c")
    text = "P\u00e5 svenska \u00e4r det <s>"
    for one in (model, GPT2.from_pretrained(tmp_path / "model.gpt2c")):
        found = one.generate(text, max_new_tokens=8, temperature=1.0, seed=1, special=True)
        assert found.prompt_token_ids == tokenizer.encode(text, special=True)
        prompt = tokenizer.decode(found.prompt_token_ids)
        assert not {0, 1, 2, 3} & {*found.token_ids}
        assert found.text == tokenizer.decode(found.prompt_token_ids + found.token_ids)[len(prompt) :]
        score = one.score("Hej  p\u00e5\u00ad dig", words=True)
        assert [row["text"] for row in score.rows()][-3:] == [" d", "i", "g"]
        assert score.n_bytes == len(b"Hej  p\xc3\xa5\xc2\xad dig")
        assert [word.text for word in score.words()] == ["Hej", "p\u00e5", "dig"]
