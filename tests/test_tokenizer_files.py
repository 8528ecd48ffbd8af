"""Tokenizer files: what is read, when the tokenizers library is needed, and what is said of damage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.saved_tokenizer import BYTE_LEVEL, DESCRIPTION, EXPECTED, SAVED, described, write

import gpt2c
from gpt2c import TokenizerError, gpt2_tokenizer
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.bpe import BPETokenizer
from gpt2c.tokenizer.load import unpack

MODEL = Path(gpt2c.__file__).parent / "data" / "model"
MERGES = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in DESCRIPTION["model"]["merges"])
GPT2_REGEX = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def load(folder: Path, n_vocab: int):
    return load_tokenizer(folder, SimpleNamespace(n_vocab=n_vocab))


# What is read


def test_as_transformers_saves_it():
    tokenizer = load(SAVED, EXPECTED["n_vocab"])
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.n_vocab == EXPECTED["n_vocab"]
    names = EXPECTED["special_tokens"]
    assert (
        set(tokenizer.special_tokens)
        == {names["eos_token"], names["pad_token"]}
        == {"<|endoftext|>", "[PAD]"}
    )
    for case in EXPECTED["cases"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.encode(case["text"], special=True) == case["ids_with_special"]
        assert tokenizer.decode(case["ids_with_special"]) == case["decoded"] == tokenizer.decode(case["ids"])


def test_the_older_layout_of_the_same(tmp_path):
    model = DESCRIPTION["model"]
    files = {
        "vocab.json": model["vocab"],
        "merges.txt": "#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])) + "\n",
        "added_tokens.json": {"upper": 318, "[PAD]": 316, "<sep>": 317},
        "special_tokens_map.json": {"pad_token": {"content": "[PAD]"}, "eos_token": "<|endoftext|>"},
    }
    older = load(write(tmp_path, files), 319)
    saved = load(SAVED, 319)
    assert isinstance(older, BPETokenizer)
    assert older.special_tokens == saved.special_tokens
    for case in EXPECTED["cases"]:
        assert older.encode(case["text"]) == case["ids"]
        assert older.encode(case["text"], special=True) == case["ids_with_special"]
    files["merges.txt"] = files["merges.txt"].replace("\n", "\r\n")
    assert load(write(tmp_path, files), 319).encode("once upon a time") == saved.encode("once upon a time")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"merges": [" ".join(pair) for pair in DESCRIPTION["model"]["merges"]]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}},
        {"pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "invert": False, "behavior": "Isolated", "pattern": {
                    "Regex": GPT2_REGEX}},
                BYTE_LEVEL | {"use_regex": False},
            ],
        }},
        {"post_processor": None, "truncation": {"max_length": 2}, "padding": {"pad_id": 1}},
    ],
    ids=["merges as strings", "sequence of one", "split before", "no post-processor"],
)  # fmt: skip
def test_other_ways_to_write_the_same(tmp_path, changes):
    description = described()
    description |= {**changes, "model": description["model"] | changes.get("model", {})}
    tokenizer = load(write(tmp_path, {"tokenizer.json": description}), 319)
    assert isinstance(tokenizer, BPETokenizer)
    assert [tokenizer.encode(case["text"]) for case in EXPECTED["cases"]] == [
        case["ids"] for case in EXPECTED["cases"]
    ]


def test_a_file_of_2019_has_no_type_and_names_its_specials_elsewhere(tmp_path):
    description = described(added_tokens=[])
    del description["model"]["type"], description["pre_tokenizer"]["use_regex"]
    description["model"]["merges"] = [" ".join(pair) for pair in description["model"]["merges"]]
    files = {"tokenizer.json": description, "tokenizer_config.json": {"model_max_length": 1024}}
    tokenizer = load(write(tmp_path, files), 316)
    assert tokenizer.special_tokens == {"<|endoftext|>": 178}
    assert tokenizer.encode("once upon a time") == load(SAVED, 319).encode("once upon a time")
    files["tokenizer_config.json"] = {"eos_token": {"content": "Ċ"}, "additional_special_tokens": ["he"]}
    tokenizer = load(write(tmp_path, files), 316)
    assert set(tokenizer.special_tokens) == {"<|endoftext|>", "he", "Ċ"}
    assert tokenizer.decode(tokenizer.encode("he\n")) == "he\n", "the BPE's token Ċ remains a line feed"


def test_without_files(tmp_path):
    assert load(tmp_path, 50257) is gpt2_tokenizer()
    with pytest.raises(
        TokenizerError,
        match=r"has no tokenizer files; gpt2c needs tokenizer.json, .*tokenizer= \(--tokenizer\)",
    ):
        load(tmp_path, 50258)


def test_bos_before_every_text(tmp_path):
    step = {"type": "TemplateProcessing", "pair": [], "special_tokens": {"<|endoftext|>": {"ids": [178]}}}
    single = [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    in_json = write(tmp_path / "a", {"tokenizer.json": described(post_processor=step | {"single": single})})
    files = {
        "vocab.json": DESCRIPTION["model"]["vocab"],
        "merges.txt": MERGES,
        "tokenizer_config.json": {"add_bos_token": True, "bos_token": "<|endoftext|>"},
    }
    plain = load(SAVED, 319)
    for tokenizer in (load(in_json, 319), load(write(tmp_path / "b", files), 316)):
        assert (tokenizer.prefix, tokenizer.suffix) == ((178,), ())
        ids = tokenizer.encode("a é")
        assert ids == plain.encode("a é")
        assert tokenizer.encode("") == []
        assert tokenizer.offsets("a é", ids) == plain.offsets("a é", ids)
        assert tokenizer.decode([178, *ids]) == "<|endoftext|>a é"
    files["tokenizer_config.json"]["bos_token"] = None
    with pytest.raises(TokenizerError, match=r"put the token None around every text, but the files lack it"):
        load(write(tmp_path / "b", files), 316)


AROUND = [
    ({"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "b", "type_id": 0}}],
      "special_tokens": {"a": {"ids": [178, 316]}, "b": {"ids": [5]}}}, (178, 316), (5,)),
    ({"type": "BertProcessing", "cls": ["a", 178], "sep": ["b", 316]}, (178,), (316,)),
    ({"type": "RobertaProcessing", "cls": ["a", 316], "sep": ["b", 178], "trim_offsets": False},
     (316,), (178,)),
    ({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "trim_offsets": False},
        {"type": "BertProcessing", "cls": ["a", 178], "sep": ["b", 316]},
        {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "c", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "special_tokens": {"c": {"ids": [7]}}}]}, (7, 178), (316,)),
]  # fmt: skip


@pytest.mark.parametrize(("post_processor", "prefix", "suffix"), AROUND)
def test_what_is_put_around_a_text(tmp_path, post_processor, prefix, suffix):
    tokenizer = load(write(tmp_path, {"tokenizer.json": described(post_processor=post_processor)}), 319)
    assert isinstance(tokenizer, BPETokenizer)
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)
    assert tokenizer.encode("once upon") == load(SAVED, 319).encode("once upon")


def test_a_vocabulary_with_holes(tmp_path):
    vocab = DESCRIPTION["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    files = {"tokenizer.json": described(model={"vocab": vocab | {last: 400}}, added_tokens=[])}
    tokenizer, plain = load(write(tmp_path, files), 401), load(SAVED, 319)
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.n_vocab == 401
    assert [tokenizer.token_bytes(index) for index in (315, 399)] == [b"", b""]
    assert tokenizer.token_bytes(400) == plain.token_bytes(315)
    text = "once upon " + plain.decode([315])
    assert tokenizer.encode(text) == [400 if token == 315 else token for token in plain.encode(text)]
    assert tokenizer.decode(tokenizer.encode(text)) == text


# Which ids the model has


def test_a_model_with_fewer_ids_than_the_vocabulary():
    with pytest.raises(
        TokenizerError, match=r"ids up to 315, but the model's end at 299: .* belong to another model"
    ):
        load(SAVED, 300)


def test_an_added_token_that_the_model_lacks():
    tokenizer = load(SAVED, 317)  # the embedding has a row for [PAD], but none for <sep>
    assert tokenizer.encode("[PAD]", special=True) == [316]
    with pytest.raises(TokenizerError, match=r"the token '<sep>' has the id 317, but the model's end at 316"):
        tokenizer.encode("a<sep>b")


def test_padding_rows_of_the_embedding_have_no_text():
    tokenizer = load(SAVED, 384)
    assert tokenizer.n_vocab == 319
    assert (tokenizer.token_bytes(383), tokenizer.decode([383, 318])) == (b"", "upper")
    with pytest.raises(ValueError, match="token id 384 is outside the vocabulary: 0 to 383"):
        tokenizer.token_bytes(384)


# Against transformers


@pytest.mark.oracle
def test_live_against_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    older = {name: (MODEL / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")}
    write(tmp_path / "bos", older | {"tokenizer_config.json": config | {"tokenizer_class": "GPT2Tokenizer"}})
    for source, n_vocab in ((MODEL, 4096), (SAVED, 319), (tmp_path / "bos", 4096)):
        oracle = transformers.GPT2TokenizerFast.from_pretrained(source)
        for step in range(2):  # as it stands there, and with more tokens, saved again
            tokenizer = load(source, n_vocab + 2 * step)
            for text in ("Once upon a time [PAD]<sep> <x>", "\n\n é<|endoftext|>", "", "[PAD2]<sep2>"):
                for special in (False, True):
                    ids = [*tokenizer.prefix, *tokenizer.encode(text, special), *tokenizer.suffix]
                    assert ids == oracle.encode(text, split_special_tokens=not special)
            oracle.add_tokens(["<sep2>"])
            oracle.add_special_tokens({"pad_token": "[PAD2]"})
            source = tmp_path / f"{n_vocab}{source.name}"
            oracle.save_pretrained(source)


# What needs the tokenizers library

FOREIGN = [
    ({"model": {"type": "WordPiece"}}, "its model is 'WordPiece', not BPE"),
    ({"model": {"dropout": 0.1}}, "it sets dropout = 0.1"),
    ({"model": {"end_of_word_suffix": "</w>"}}, "it sets end_of_word_suffix = '</w>'"),
    ({"model": {"continuing_subword_prefix": "##"}}, "it sets continuing_subword_prefix"),
    ({"model": {"byte_fallback": True}}, "it sets byte_fallback"),
    ({"normalizer": {"type": "NFC"}}, "it has a normalizer"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is not GPT-2's byte-level one"),
    ({"pre_tokenizer": {"use_regex": False}}, "its pre_tokenizer is not GPT-2's byte-level one"),
    ({"pre_tokenizer": None}, "its pre_tokenizer is not GPT-2's byte-level one"),
    ({"pre_tokenizer": {"add_prefix_space": True}}, "it puts a space before every text"),
    ({"decoder": None}, "its decoder is not the byte-level one"),
    ({"added_tokens": [{"id": 316, "content": "<m>", "single_word": True}]},
     "its added token '<m>' has single_word"),
    ({"model": {"vocab": {t: i for t, i in DESCRIPTION["model"]["vocab"].items() if i < 300}, "merges": []}},
     "its vocabulary lacks .* of the 256 bytes"),
    ({"model": {"ignore_merges": True, "merges": DESCRIPTION["model"]["merges"][:-1]}, "added_tokens": []},
     "it has ignore_merges, and no merge makes the token"),
    ({"model": {"merges": [["Ġ", "t"], ["Ġ", "t"]]}}, "merge 2, .* makes a token a second time"),
    ({"model": {"merges": [["Ġt", "he"]]}}, "merge 1, .* joins what no earlier merge makes"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "why"), FOREIGN, ids=[why[:40] for _, why in FOREIGN])
def test_what_tiktoken_cannot_do_names_the_library(tmp_path, monkeypatch, changes, why):
    config = {"add_prefix_space": "add_prefix_space" in (changes.get("pre_tokenizer") or ())}
    write(tmp_path, {"tokenizer.json": described(**changes), "tokenizer_config.json": config})
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    with pytest.raises(
        TokenizerError, match=rf"{why}.*pip install \"gpt2c\[tokenizers\]\"; or give another"
    ) as caught:
        load(tmp_path, 319)
    assert "tokenizer.json" in str(caught.value)


def test_the_library_runs_the_rest(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    description = described(pre_tokenizer={"add_prefix_space": True}, truncation={
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0})  # fmt: skip
    files = {"tokenizer.json": description, "tokenizer_config.json": {"add_prefix_space": True}}
    tokenizer = load(write(tmp_path, files), 319)
    assert tokenizer.kind == "tokenizer run by tokenizers"
    assert tokenizer.encode("once upon [PAD]") == load(SAVED, 319).encode(" once upon [PAD]")
    assert tokenizer.encode("[PAD]", special=True) == [316]
    assert tokenizer.special_tokens == {"<|endoftext|>": 178, "[PAD]": 316}
    assert tokenizer.decode(tokenizer.encode("once é")) == " once é"
    with pytest.raises(TokenizerError, match=r"ids up to 315, but the model's end at 99: .* another model"):
        load(tmp_path, 100)
    older = {"vocab.json": DESCRIPTION["model"]["vocab"], "tokenizer_config.json": {"add_prefix_space": True}}
    older["merges.txt"] = MERGES
    assert load(write(tmp_path / "older", older), 316).encode("once <") == load(SAVED, 319).encode(" once <")
    # The setting beside it wins, as in transformers.
    plain = write(tmp_path, {"tokenizer_config.json": {"add_prefix_space": False}})
    assert load(plain, 319).encode("once") == load(SAVED, 319).encode("once")

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    write(tmp_path / "words", {"tokenizer.json": words.to_str()})
    assert load(tmp_path / "words", 3).encode("b a x") == [1, 0, 2]
    twice = json.loads(words.to_str())
    twice["model"]["vocab"]["b"] = 0
    write(tmp_path / "words", {"tokenizer.json": twice})
    with pytest.raises(TokenizerError, match="'a' and 'b' both have the id 0"):
        load(tmp_path / "words", 3)
    write(tmp_path / "words", {"tokenizer.json": {"model": {"type": "Nonsense"}}})
    with pytest.raises(TokenizerError, match="the tokenizers library refuses it"):
        load(tmp_path / "words", 3)


# Damage


def test_damaged_files(tmp_path):
    vocab, merges = DESCRIPTION["model"]["vocab"], DESCRIPTION["model"]["merges"]
    last = max(vocab, key=vocab.get)
    cases = [
        ("{", r"tokenizer.json is damaged: it is not valid JSON: Expecting"),
        ('{"a": NaN}', r"is not valid JSON: NaN is not a number of JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("[" * 100_000, "is damaged: it is nested too deeply for a tokenizer's JSON$"),
        ("[]", r"tokenizer.json must hold a JSON object, not \[\]"),
        ({}, 'is not a tokenizer.json: it has no "model"'),
        (described(model={"vocab": None}), "a BPE needs a vocabulary"),
        (described(model={"merges": None}), "a BPE needs a vocabulary"),
        (described(model={"vocab": {}}), "must be integers, and at least one is needed"),
        (described(model={"vocab": vocab | {last: "1"}}), "must be integers"),
        (described(model={"vocab": vocab | {last: True}}), "must be integers"),
        (described(model={"vocab": vocab | {"<|endoftext|>": "7"}}, added_tokens=[]),
         r"the id of '<\|endoftext\|>' must be an integer, not '7'"),
        (described(model={"vocab": vocab | {last: 7}}), "both have the id 7"),
        (described(model={"merges": [*merges, ["q", "zz"]]}), "merge 60, 'q' .* needs the token 'zz'"),
        (described(model={"merges": [*merges, "q z"]}), "needs the token 'qz', which is not in the"),
        (described(model={"merges": [["a"]]}), r"merge 1 must name two tokens, not \['a'\]"),
        (described(model={"merges": ["a b c"]}), "merge 1 must name two tokens, not 'a b c'"),
        (described(model={"merges": [7]}), "merge 1 must name two tokens, not 7"),
        (described(added_tokens=[{"id": 320, "content": "<x>"}]), "'<x>' has the id 320; 316 is next"),
        (described(added_tokens=[{"id": 3, "content": "he"}]), "'he' ha. (two ids|the id)"),
        (described(added_tokens=[{"content": "x"}]), "an added token needs a text and an id, not"),
        (described(added_tokens=[{"id": 316, "content": ""}]), "an added token needs a text and an id, not"),
        (described(added_tokens=["x"]), "an added token needs a text and an id, not 'x'"),
        (described(added_tokens={}), None),
        (described(added_tokens=[{"id": 316, "content": "\ud800"}]), "is not valid Unicode"),
        (described(model={"vocab": vocab | {last: -1}}), "a token has the id -1; allowed: 0 to"),
        (described(model={"vocab": vocab | {last: 2**40}}), f"a token has the id {2**40}; allowed: 0 to"),
        (described(post_processor={"type": "TemplateProcessing"}), "the post_processor is damaged"),
        (described(post_processor={"type": "RobertaProcessing"}), "the post_processor is damaged"),
        (described(post_processor={"type": "Sequence", "processors": 1.5}), "its post_processor None is not"),
        (described(post_processor={"type": "Nonsense"}), "its post_processor 'Nonsense' is not known"),
        (described(post_processor={"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "a"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"a": {"ids": {}}}}),
         "the post_processor is damaged"),
        (described(post_processor={"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "x"}}, {"Sequence": {}}], "special_tokens": {"x": {"ids": [999]}}}),
         "the post_processor adds the unknown id 999"),
    ]  # fmt: skip
    for content, message in cases:
        write(tmp_path, {"tokenizer.json": content})
        if message is None:
            load(tmp_path, 319)
            continue
        with pytest.raises(TokenizerError, match=message) as caught:
            load(tmp_path, 319)
        assert str(tmp_path) in str(caught.value)


def test_damage_beside_the_tokenizer(tmp_path):
    write(tmp_path, {"tokenizer.json": DESCRIPTION})
    cases = {
        "tokenizer_config.json": [
            ("", r"tokenizer_config.json is damaged"),
            (
                {"added_tokens_decoder": {"316": {"content": "<x>"}}},
                r"added token '<x>' has the id 316; 319 is next",
            ),
            ({"added_tokens_decoder": {"316.5": {"content": "x"}}}, r"needs a text and an id, not"),
            ({"added_tokens_decoder": {"317": {"content": "[PAD]"}}}, r"'\[PAD\]' has two ids, 316 and 317"),
            (
                {"tokenizer_class": "T5Tokenizer", "extra_ids": 10**12},
                "extra_ids must be an integer from 0",
            ),
            ({"added_tokens_decoder": [1]}, r"added_tokens_decoder must be an object, not \[1\]"),
        ],
        "added_tokens.json": [
            ({"[PAD]": 3}, "has two ids"),
            ({"x": "y"}, "needs a text and an id"),
            ({"x": [1]}, "needs a text and an id"),
        ],
        "special_tokens_map.json": [
            ("[1]", "must hold a JSON object"),
            ({"eos_token": 3, "x_token": None}, None),
        ],
    }
    for name, contents in cases.items():
        for content, message in contents:
            write(tmp_path, {name: content})
            if message is None:
                assert load(tmp_path, 319).n_vocab == 319
            else:
                with pytest.raises(TokenizerError, match=message):
                    load(tmp_path, 319)
        (tmp_path / name).unlink()


def test_damage_of_the_older_layout(tmp_path):
    vocab = json.dumps(DESCRIPTION["model"]["vocab"])
    write(tmp_path, {"vocab.json": vocab})
    with pytest.raises(
        TokenizerError, match=r"merges.txt is missing: a GPT-2 tokenizer needs vocab.json and merges.txt"
    ):
        load(tmp_path, 316)
    write(tmp_path, {"merges.txt": MERGES.replace("Ġ t\n", "Ġ t\nĠt\n")})
    with pytest.raises(
        TokenizerError, match=r"vocab.json, merges.txt\): merge 3 must name two tokens, not 'Ġt'"
    ):
        load(tmp_path, 316)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match=r"merges.txt is damaged: it is not UTF-8"):
        load(tmp_path, 316)
    write(tmp_path, {"merges.txt": "", "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"}})
    with pytest.raises(
        TokenizerError, match=r"the files name 'CLIPTokenizer', whose rules gpt2c does not know.*tokenizer="
    ):
        load(tmp_path, 316)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(TokenizerError, match=r"vocab.json is missing"):
        load(tmp_path, 316)


@pytest.mark.parametrize("packed", [{"tokenizers": None}, {"sentencepiece": []}])
def test_a_packed_description_that_is_no_object(packed):
    with pytest.raises(
        TokenizerError, match="the vocabulary in there is damaged: a description must be an obj"
    ):
        unpack(packed, "there", 10)
