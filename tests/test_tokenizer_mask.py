"""Tokenizers of BERT: the mask, what stands around a text, and the class that goes with the model.

Ids are those of AutoTokenizer of transformers 4.57.6 for folders with these files: of the text with its
special tokens, and of the text as it stands (``split_special_tokens=True``).
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from helpers.saved_tokenizer import write

from gpt2c import Config, TokenizerError
from gpt2c.checkpoint.special_tokens import with_tokenizer
from gpt2c.tokenizer import as_tokenizer, load_tokenizer
from gpt2c.tokenizer.load import unpack
from gpt2c.tokenizer.saving import write_tokenizer

BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHARS = [*map(chr, BYTES), *(chr(0x100 + index) for index in range(256 - len(BYTES)))]
MADE = ["he", "ll", "hell", "##", "Ġw"]
MERGES = "#version: 0.2\nh e\nl l\nhe ll\n# #\nĠ w\n"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "h", "Hello", "e", "这"]
VOCAB_TXT = "\n".join(WORDS) + "\n"


def numbered(tokens):
    return {token: index for index, token in enumerate(tokens)}


OF_ROBERTA = {
    "vocab.json": numbered(["<s>", "<pad>", "</s>", "<unk>", *CHARS, *MADE, "<mask>"]),
    "merges.txt": MERGES,
}
OF_GPT2 = {
    "vocab.json": numbered([*CHARS, *MADE, "<|endoftext|>", "[MASK]"]),
    "merges.txt": MERGES,
}
GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
WORDPIECE = {
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [{"id": i, "content": WORDS[i], "special": True} | FLAGS for i in range(5)],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                   "strip_accents": None, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100, "vocab": numbered(WORDS)},
}  # fmt: skip
TEXT = "Hello worlds [MASK] e 这"
ROBERTAS = "hell <mask> w##"
HELLO = (
    [39, 68, 257, 78, 260, 78, 81, 75, 67, 82, 220, 262, 220, 68, 220, 164, 123, 247],
    [39, 68, 257, 78, 260, 78, 81, 75, 67, 82, 220, 58, 44, 32, 50, 42, 60, 220, 68, 220, 164, 123, 247],
)

# name -> model_type, files, mask, prefix, suffix, text, its ids with special tokens, and without any
FOLDERS = {
    "bert": (
        "bert", {"vocab.txt": VOCAB_TXT}, 4, (2,), (3,),
        TEXT, [5, 6, 7, 4, 10, 11], [5, 6, 7, 1, 1, 1, 10, 11],
    ),
    "cased": (
        "bert", {"vocab.txt": VOCAB_TXT, "tokenizer_config.json": {"do_lower_case": False}}, 4, (2,), (3,),
        TEXT, [9, 6, 7, 4, 10, 11], [9, 6, 7, 1, 1, 1, 10, 11],
    ),
    "tokenizer.json": (
        "bert", {"tokenizer.json": WORDPIECE}, 4, (2,), (3,),
        TEXT, [5, 6, 7, 4, 10, 11], [5, 6, 7, 1, 1, 1, 10, 11],
    ),
    "distilbert": (
        "distilbert", {"tokenizer.json": WORDPIECE, "tokenizer_config.json": {"do_lower_case": False}},
        4, (2,), (3,), TEXT, [9, 6, 7, 4, 10, 11], [9, 6, 7, 1, 1, 1, 10, 11],
    ),
    "roberta": (
        "roberta", OF_ROBERTA, 265, (0,), (2,),
        ROBERTAS, [262, 265, 264, 263], [262, 224, 31, 80, 68, 86, 78, 33, 264, 263],
    ),
    "byte-level": (
        "bert", OF_GPT2 | {"tokenizer_config.json": GPT2 | {"mask_token": "[MASK]"}}, 262, (), (),
        TEXT, *HELLO,
    ),
    "byte-level, no class": (
        "bert", OF_GPT2 | {"tokenizer_config.json": {"mask_token": "[MASK]"}}, 262, (), (),
        TEXT, *HELLO,
    ),
    "byte-level, special_tokens_map": (
        "bert",
        OF_GPT2 | {"tokenizer_config.json": GPT2}
        | {"special_tokens_map.json": {"mask_token": {"content": "[MASK]"} | FLAGS}},
        262, (), (), TEXT, *HELLO,
    ),
}  # fmt: skip

NATIVE = ("byte-level", "roberta")


def folder_of(path, name):
    model_type, files, *_ = FOLDERS[name]
    return write(path, files | {"config.json": {"model_type": model_type}})


def loaded(path, name):
    """The tokenizer of a folder; those that are no byte-level BPE as GPT-2's need the library tokenizers."""
    if not name.startswith(NATIVE):
        pytest.importorskip("tokenizers")
    return load_tokenizer(folder_of(path, name), SimpleNamespace(n_vocab=300))


def check(tokenizer, name):
    _, _, mask, prefix, suffix, text, special, plain = FOLDERS[name]
    assert tokenizer.mask_id == mask
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)
    assert tokenizer.encode(text, special=True) == special
    assert tokenizer.encode(text) == plain


@pytest.mark.parametrize("name", FOLDERS)
def test_it_is_the_tokenizer_of_transformers(name, tmp_path):
    tokenizer = loaded(tmp_path, name)
    check(tokenizer, name)
    assert ("tiktoken" in tokenizer.kind) == name.startswith(NATIVE)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_survives_packing(name, tmp_path):
    tokenizer = loaded(tmp_path, name)
    packed = json.loads(json.dumps(tokenizer.packed()))
    check(unpack(packed, "there", 300), name)
    check(as_tokenizer(tokenizer, n_vocab=280), name)
    for wrong in (-1, 10**6, "[MASK]", True):
        with pytest.raises(TokenizerError, match=r"vocabulary in there is damaged: its mask_id is"):
            unpack(packed | {"mask_id": wrong}, "there", 300)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_survives_an_export(name, tmp_path):
    tokenizer = loaded(tmp_path / "own", name)
    tokenizer.source = None  # as one from a packed file
    (tmp_path / "out").mkdir()
    write_tokenizer(tokenizer, tmp_path / "out", 64)
    check(load_tokenizer(tmp_path / "out", SimpleNamespace(n_vocab=300)), name)


def test_a_tokenizer_without_a_mask(tmp_path):
    folder = write(tmp_path, OF_GPT2 | {"tokenizer_config.json": GPT2})
    tokenizer = load_tokenizer(folder, SimpleNamespace(n_vocab=300))
    assert tokenizer.mask_id is None
    assert "mask_id" not in tokenizer.packed()
    # one that the vocabulary has, but no file names
    assert tokenizer.encode("[MASK]", special=True) == [58, 44, 32, 50, 42, 60]


def test_a_sentencepiece_model_of_xlm_roberta_is_refused(tmp_path):
    files = {"sentencepiece.bpe.model": b"", "config.json": {"model_type": "xlm-roberta"}}
    with pytest.raises(TokenizerError, match=r"name 'XLMRobertaTokenizer', whose rules gpt2c does not know"):
        load_tokenizer(write(tmp_path, files), SimpleNamespace(n_vocab=300))


@pytest.mark.oracle
@pytest.mark.parametrize("name", [name for name in FOLDERS if not name.endswith("no class")])
def test_live(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder_of(tmp_path, name))
    _, _, mask, prefix, suffix, text, special, plain = FOLDERS[name]
    assert theirs.mask_token_id == mask
    assert theirs.encode(text) == [*prefix, *special, *suffix]
    assert theirs.encode(text, split_special_tokens=True) == [*prefix, *plain, *suffix]
    check(as_tokenizer(theirs), name)


def test_notes_say_that_what_stands_around_a_text_is_kept(tmp_path):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_inner": 4, "n_ctx": 9, "n_vocab": 300}
    _, notes = with_tokenizer(Config(**sizes, model_type="bert"), loaded(tmp_path, "bert"))
    assert notes == [
        "the tokenizer puts '[CLS]' (2) before a text: kept",
        "the tokenizer puts '[SEP]' (3) after a text: kept",
    ]
