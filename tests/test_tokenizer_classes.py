"""Tokenizer files as transformers loads them, class by class; vocab.txt and SentencePiece models alone.

The ids are those of AutoTokenizer of transformers 4.57.6 for folders with these files and a config.json of
the type "gpt2": ``encode(text, split_special_tokens=True)``, what is put around a text included. Where
transformers cannot load a folder (no class beside vocab.txt or a SentencePiece model), it is what it gives
with the class BertTokenizer, or T5Tokenizer and extra_ids=0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.saved_tokenizer import write

from gpt2c import TokenizerError
from gpt2c.tokenizer import load_tokenizer

pytest.importorskip("tokenizers")

SENTENCEPIECE = Path(__file__).parent / "data" / "tokenizer" / "sentencepiece"
BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHARS = [*map(chr, BYTES), *(chr(0x100 + index) for index in range(256 - len(BYTES)))]
VOCAB = {
    token: index for index, token in enumerate([*CHARS, "he", "ll", "hell", "##", "<s>", "</s>", "<unk>"])
}
VOCAB["<pad>"] = 263
MERGES = ["h e", "l l", "he ll", "# #"]
MERGES_TXT = "#version: 0.2\nh e\nl l\nhe ll\n# #\n"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def bpe(**changes):
    """A tokenizer.json with a byte-level BPE that puts a space before every text."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL, "post_processor": BYTE_LEVEL, "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": VOCAB, "merges": MERGES},
    } | changes  # fmt: skip


def wordpiece(**normalizer):
    """A tokenizer.json with a WordPiece."""
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] hello world ##s h Hello é e 这"
    vocab = {word: index for index, word in enumerate(words.split())}
    return bpe(
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False}
        | {"strip_accents": False, "lowercase": False},
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=None,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 100, "vocab": vocab},
    )  # fmt: skip


def load(folder, n_vocab):
    return load_tokenizer(folder, SimpleNamespace(n_vocab=n_vocab))


def whole(tokenizer, text, special=False):
    return [*tokenizer.prefix, *tokenizer.encode(text, special), *tokenizer.suffix]


def of(name, **settings):
    return {"tokenizer_class": name, **settings}


# tokenizer.json and its class

END = {"<|endoftext|>": 264}
ANGLED = {"<s>": 260, "</s>": 261, "<unk>": 262}
NOT_USED = {"<mask>": 264, "<s>NOTUSED": 265, "</s>NOTUSED": 266, "<unk>NOTUSED": 267}
XLNET = {"<pad>": 263, "<sep>": 264, "<cls>": 265, "<mask>": 266, "<eop>": 267, "<eod>": 268}
CLASSES = {
    "silent": ({}, [258, 220, 256], END),
    "silent fast": (of("PreTrainedTokenizerFast"), [258, 220, 256], {}),
    "prefix space": ({"add_prefix_space": True}, [220, 258, 220, 256], END),
    "no prefix space": (of("PreTrainedTokenizerFast", add_prefix_space=False), [258, 220, 256], {}),
    "llama": (of("LlamaTokenizer"), [260, 220, 258, 220, 256], ANGLED),
    "llama eos": (
        of("LlamaTokenizerFast", add_bos_token=False, add_eos_token=True),
        [220, 258, 220, 256, 261],
        ANGLED,
    ),
    "neox": (of("GPTNeoXTokenizerFast"), [258, 220, 256], END),
    "camembert": (of("CamembertTokenizer"), [258, 220, 256], ANGLED | {"<pad>": 263} | NOT_USED),
    "xlnet": (of("XLNetTokenizer"), [258, 220, 256], ANGLED | XLNET),
    "t5": (
        of("T5Tokenizer", extra_ids=2),
        [220, 258, 220, 256],
        {"</s>": 261, "<unk>": 262, "<pad>": 263, "<extra_id_0>": 264, "<extra_id_1>": 265},
    ),
    "bloom": (of("BloomTokenizerFast"), [258, 220, 256], ANGLED | {"<pad>": 263}),
}


@pytest.mark.parametrize(("config", "ids", "special"), CLASSES.values(), ids=CLASSES)
def test_byte_level_bpe_as_its_class_loads_it(tmp_path, config, ids, special):
    write(tmp_path, {"tokenizer.json": bpe(), **({"tokenizer_config.json": config} if config else {})})
    tokenizer = load(tmp_path, 264)
    assert whole(tokenizer, "hell he") == ids
    assert tokenizer.special_tokens == special


def test_the_class_may_stand_in_config_json(tmp_path):
    config = {"model_type": "gpt2", "tokenizer_class": "LlamaTokenizer"}
    write(tmp_path, {"tokenizer.json": bpe(), "config.json": config})
    assert whole(load(tmp_path, 264), "hell he") == CLASSES["llama"][1]
    write(tmp_path, {"tokenizer_config.json": of("BloomTokenizerFast")})  # this one comes first
    assert whole(load(tmp_path, 264), "hell he") == CLASSES["bloom"][1]
    write(tmp_path, {"tokenizer_config.json": of(7)})
    with pytest.raises(TokenizerError, match="tokenizer_class must be the name of a class, not 7"):
        load(tmp_path, 264)


def test_a_step_inside_a_sequence_is_not_changed(tmp_path):
    sequence = {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}
    write(tmp_path, {"tokenizer.json": bpe(pre_tokenizer=sequence)})
    write(tmp_path, {"tokenizer_config.json": {"add_prefix_space": False}})
    assert load(tmp_path, 264).encode("hell he") == [220, 258, 220, 256]


@pytest.mark.parametrize(("given", "shown"), [(True, "▁hell"), (False, "hell")])
def test_metaspace_of_an_old_file_keeps_its_prefix_space(tmp_path, given, shown):
    """True means prepend_scheme "always"; false meant "never", before the library refused it."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": given}
    model = {"type": "WordLevel", "vocab": {"▁hell": 0, "hell": 1, "?": 2}, "unk_token": "?"}
    written = bpe(pre_tokenizer=metaspace, decoder=metaspace, post_processor=None, model=model)
    config = of("PreTrainedTokenizerFast", add_prefix_space=not given)
    tokenizer = load(write(tmp_path, {"tokenizer.json": written, "tokenizer_config.json": config}), 3)
    assert tokenizer.encode("hell") == [model["vocab"][shown]]


WORDPIECE = {
    "lower": (of("BertTokenizer"), [5, 11, 12, 8]),
    "cased": (of("BertTokenizerFast", do_lower_case=False, strip_accents=True), [9, 11, 12, 8]),
    "chinese": (of("BertTokenizer", tokenize_chinese_chars=False), [5, 11, 1]),
    "fast": (of("PreTrainedTokenizerFast", do_lower_case=True), [9, 10, 1]),
    "none": ({"do_lower_case": True}, [9, 10, 1]),
}


@pytest.mark.parametrize(("config", "ids"), WORDPIECE.values(), ids=WORDPIECE)
def test_the_normalizer_follows_bert_tokenizer(tmp_path, config, ids):
    write(tmp_path, {"tokenizer.json": wordpiece(), "tokenizer_config.json": config})
    assert whole(load(tmp_path, 13), "Hello é 这h") == ids


# Added tokens


def added(content, index, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": index, "content": content} | usual | flags


def test_added_tokens_of_later_files(tmp_path):
    """What tokenizer_config.json says of a token wins; what special_tokens_map.json names is special."""
    files = {"tokenizer.json": bpe(added_tokens=[added("<q>", 264)])}
    decoder = {"264": added("<q>", 264, lstrip=True), "265": added("<r>", 265, special=True)}
    files["tokenizer_config.json"] = of("PreTrainedTokenizerFast", added_tokens_decoder=decoder)
    files["special_tokens_map.json"] = {"eos_token": "<not read>"}
    tokenizer = load(write(tmp_path / "decoder", files), 266)
    assert tokenizer.encode("he   <q>") == [256, 264]
    assert tokenizer.encode("he<r>", special=True) == [256, 265]
    assert tokenizer.special_tokens == {"<r>": 265}

    files["tokenizer_config.json"] = of("PreTrainedTokenizerFast", additional_special_tokens=["<w>"])
    files["added_tokens.json"] = {"<r>": 265}
    named = {"sep_token": {"content": "<z>", "lstrip": True}, "pad_token": "<q>"}
    files["special_tokens_map.json"] = named | {"additional_special_tokens": ["<y>"]}
    tokenizer = load(write(tmp_path / "older", files), 269)
    assert tokenizer.special_tokens == {"<q>": 264, "<z>": 266, "<w>": 267, "<y>": 268}
    assert tokenizer.encode("he  <z> <q><r>", special=True) == [256, 266, 220, 264, 265]
    assert tokenizer.encode("<q><r>") == [27, 80, 29, 265]


def test_a_vocabulary_without_the_end_of_text_gets_the_next_id(tmp_path):
    write(tmp_path, {"vocab.json": VOCAB, "merges.txt": MERGES_TXT})
    tokenizer = load(tmp_path, 264)
    assert tokenizer.encode("<|endoftext|>he") == [27, 91, 68, 77, 67, 78, 69, 83, 68, 87, 83, 91, 29, 256]
    assert tokenizer.special_tokens == END
    with pytest.raises(TokenizerError, match=r"'<|endoftext|>' has the id 264, but the model's end at 263"):
        tokenizer.encode("<|endoftext|>he", special=True)
    assert load(tmp_path, 265).encode("<|endoftext|>he", special=True) == [264, 256]


# vocab.json and merges.txt

HELLO = [258, 78, 220, 259, 220, 258]
PAIRS = {
    "as saved": (MERGES_TXT, {}, HELLO),
    "line breaks of windows": (MERGES_TXT.replace("\n", "\r\n"), {}, HELLO),
    "byte order mark": ("\ufeff" + MERGES_TXT, {}, HELLO),
    # transformers takes the first line for the version, and nothing behind the last line break
    "without version": ("\n".join(MERGES) + "\n", {}, [71, 68, 257, 78, 220, 259, 220, 71, 68, 257]),
    "no last line break": (MERGES_TXT[:-1], {}, [258, 78, 220, 2, 2, 220, 258]),
    "bos": (MERGES_TXT, {"add_bos_token": True}, [264, *HELLO]),
    "prefix space": (MERGES_TXT, {"add_prefix_space": True}, [220, *HELLO]),
    "roberta": (MERGES_TXT, of("RobertaTokenizer"), [260, *HELLO, 261]),
}


@pytest.mark.parametrize(("merges", "config", "ids"), PAIRS.values(), ids=PAIRS)
def test_vocab_and_merges(tmp_path, merges, config, ids):
    write(tmp_path, {"vocab.json": VOCAB, "merges.txt": merges, "tokenizer_config.json": config})
    assert whole(load(tmp_path, 265), "hello ## hell") == ids


# vocab.txt alone

VOCAB_TXT = (
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n##s\nh\n这\n是\ncafe\ncafé\nH\n##ello\nhello\n这是\n"
)
TEXTS = ["Hello worlds", "这是 Café", "[SEP]hello [MASK]", "éclair", ""]
BERT = {
    "bert": (of("BertTokenizer"), [[2, 15, 6, 7, 3], [2, 9, 10, 11, 3], [2, 3, 15, 4, 3], [2, 1, 3], [2, 3]]),
    "none": ({}, [[2, 15, 6, 7, 3], [2, 9, 10, 11, 3], [2, 3, 15, 4, 3], [2, 1, 3], [2, 3]]),
    "cased": (
        of("BertTokenizer", do_lower_case=False),
        [[2, 13, 14, 6, 7, 3], [2, 9, 10, 1, 3], [2, 3, 15, 4, 3], [2, 1, 3], [2, 3]],
    ),
    "plain": (
        of("BertTokenizer", tokenize_chinese_chars=False, strip_accents=False),
        [[2, 15, 6, 7, 3], [2, 16, 12, 3], [2, 3, 15, 4, 3], [2, 1, 3], [2, 3]],
    ),
    "named": (
        of("BertTokenizerFast", sep_token="<sep>"),
        # the next id is the number of different tokens: here also that of 这是
        [[2, 15, 6, 7, 16], [2, 9, 10, 11, 16], [2, 1, 1, 1, 15, 4, 16], [2, 1, 16], [2, 16]],
    ),
}


@pytest.mark.parametrize(("config", "ids"), BERT.values(), ids=BERT)
def test_vocab_txt_alone(tmp_path, config, ids):
    files = {"vocab.txt": VOCAB_TXT, "tokenizer_config.json": config}
    tokenizer = load(write(tmp_path, files), 18)
    assert [whole(tokenizer, text, special=True) for text in TEXTS] == ids
    assert tokenizer.encode("[SEP]hello [MASK]") == [1, 1, 1, 15, 1, 1, 1]
    assert tokenizer.decode(tokenizer.encode("hello worlds")) == "hello worlds"


def test_lines_of_vocab_txt(tmp_path):
    """Only a line feed ends a line; of a repeated token the last id counts."""
    text = "\ufeff[UNK]\r\n[CLS]\n[SEP]\nx\n\na\u2028b\nx"
    tokenizer = load(write(tmp_path, {"vocab.txt": text}), 7)
    assert whole(tokenizer, "x") == [1, 6, 2]
    assert tokenizer.token_bytes(5) == "a\u2028b".encode()
    assert (tokenizer.token_bytes(3), tokenizer.token_bytes(4)) == (b"", b"")


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "XLNetTokenizer", "GPT2Tokenizer"])
def test_vocab_txt_of_another_class(tmp_path, name):
    write(tmp_path, {"vocab.txt": VOCAB_TXT, "tokenizer_config.json": of(name)})
    with pytest.raises(TokenizerError, match=rf"vocab.txt: the files name '{name}', .*tokenizer="):
        load(tmp_path, 17)


def test_a_vocab_txt_without_the_unknown_token(tmp_path):
    with pytest.raises(TokenizerError, match=r"the unknown token '\[UNK\]' is not in it: .*one token a line"):
        load(write(tmp_path, {"vocab.txt": "a\nb\n"}), 2)


# SentencePiece models alone

SENTENCES = [
    "Hello  world ",
    "the\tfox <sep> 吾輩は猫である。",
    "quick</s> [CLS]b",
    "\uff21B <extra_id_0>",
    "",
]
UNIGRAM_FOX = [8, 0, 45, 82, 44, 4, 7, 30, 37, 38, 35, 31, 2]
BPE_FOX = [19, 0, 48, 109, 0, 114, 112, 128, 0, 95, 152, 2]
NOT_EXTRA = [0, 75, 44, 67, 74, 63, 0, 47, 65, 0, 2]
BPE_NOT_EXTRA = [0, 112, 146, 121, 113, 125, 0, 143, 123, 0, 2]
T5 = {
    ("unigram", "usual"): (
        of("T5Tokenizer"),
        [[5, 9, 2], UNIGRAM_FOX, [15, 2, 3, 32, 69, 2], [32, 63, 0, 183, 2], [2]],
    ),
    ("unigram", "none"): (
        {},
        [[5, 9, 2], UNIGRAM_FOX, [15, 2, 3, 32, 69, 2], [32, 63, 0, 32, *NOT_EXTRA], [2]],
    ),
    ("unigram", "not legacy"): (
        of("T5Tokenizer", extra_ids=1, legacy=False, cls_token="[CLS]", pad_token="[PAD]"),
        [[5, 9, 2], UNIGRAM_FOX, [15, 2, 3, 69, 2], [32, 63, 0, 84, 2], [2]],
    ),
    ("unigram", "no prefix space"): (
        of("T5Tokenizer", extra_ids=0, add_prefix_space=False),
        [[68, 75, 76, 76, 82, 9, 2], [67, 68, 75, *UNIGRAM_FOX[1:]], [46, 72, 47, 48, 71, 2, 3, 69, 2],
         [63, 0, 32, *NOT_EXTRA], [2]],
    ),
    ("bpe", "usual"): (
        of("T5Tokenizer"),
        [[93, 24, 2], BPE_FOX, [45, 2, 109, 0, 118, 2], [109, 0, 259, 2], [2]],
    ),
    ("bpe", "none"): (
        {},
        [[93, 24, 2], BPE_FOX, [45, 2, 109, 0, 118, 2], [109, 0, 109, *BPE_NOT_EXTRA], [2]],
    ),
    ("bpe", "not legacy"): (
        of("T5Tokenizer", extra_ids=1, legacy=False, cls_token="[CLS]", pad_token="[PAD]"),
        [[93, 24, 2], BPE_FOX, [45, 2, 162, 118, 2], [109, 0, 160, 2], [2]],
    ),
    ("bpe", "no prefix space"): (
        of("T5Tokenizer", extra_ids=0, add_prefix_space=False),
        [[82, 10, 24, 2], [121, 4, *BPE_FOX[1:]], [41, 42, 2, 109, 0, 118, 2], [0, 109, *BPE_NOT_EXTRA], [2]],
    ),
}  # fmt: skip


def model(name):
    return (SENTENCEPIECE / f"{name}.model").read_bytes()


@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.model"])
@pytest.mark.parametrize(
    ("which", "config", "ids"), [(k[0], *v) for k, v in T5.items()], ids=map("-".join, T5)
)
def test_sentencepiece_alone(tmp_path, file, which, config, ids):
    pytest.importorskip("sentencepiece")
    write(tmp_path, {file: model(which), "tokenizer_config.json": config})
    tokenizer = load(tmp_path, 300)
    assert [whole(tokenizer, text, special=True) for text in SENTENCES] == ids
    assert tokenizer.decode(ids[0]) == {"unigram": "hello", "bpe": "Hello"}[which] + " world</s>"


def test_a_control_piece_is_special_and_a_user_defined_one_is_not(tmp_path):
    pytest.importorskip("sentencepiece")
    tokenizer = load(write(tmp_path, {"spiece.model": model("unigram")}), 85)
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "[CLS]": 3, "<pad>": 84}
    assert tokenizer.encode("the <sep> fox") == [8, 4, 17]


@pytest.mark.parametrize("name", ["LlamaTokenizer", "XLNetTokenizer"])
def test_sentencepiece_of_another_class(tmp_path, name):
    write(tmp_path, {"spiece.model": model("bpe"), "tokenizer_config.json": of(name)})
    with pytest.raises(TokenizerError, match=rf"spiece.model: the files name '{name}', .*tokenizer="):
        load(tmp_path, 160)


def test_sentencepiece_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match=r"spiece.model: .*pip install \"gpt2c\[sentencepiece\]\""):
        load(write(tmp_path, {"spiece.model": model("bpe")}), 160)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "without pieces"), (b"\x07x", "is damaged: it is not a SentencePiece model")],
)
def test_a_damaged_sentencepiece_model(tmp_path, data, message):
    pytest.importorskip("sentencepiece")
    with pytest.raises(TokenizerError, match=message):
        load(write(tmp_path, {"spiece.model": data}), 160)


# Several vocabularies in one folder


def test_which_file_is_read(tmp_path):
    """tokenizer.json; else what the class reads; else vocab.json and merges.txt."""
    write(tmp_path, {"vocab.txt": VOCAB_TXT, "vocab.json": VOCAB, "merges.txt": MERGES_TXT})
    assert load(tmp_path, 265).encode("hell") == [258]
    write(tmp_path, {"tokenizer_config.json": of("BertTokenizer")})
    assert load(tmp_path, 265).encode("hello") == [15]
    write(tmp_path, {"tokenizer.json": wordpiece()})
    assert load(tmp_path, 265).encode("hello") == [5]
    (tmp_path / "tokenizer_config.json").unlink()
    assert load(tmp_path / "vocab.txt", 18).encode("hello") == [15]
    assert load(tmp_path / "merges.txt", 265).encode("hell") == [258]


# Against transformers


@pytest.mark.oracle
def test_live_descriptions(tmp_path):
    """The description of every folder above is what AutoTokenizer runs."""
    transformers = pytest.importorskip("transformers")
    if not transformers.__version__.startswith("4.57."):
        pytest.skip("the rules are those of transformers 4.57")
    from gpt2c.tokenizer.files import read_description

    folders = [{"tokenizer.json": bpe(), "tokenizer_config.json": case[0]} for case in CLASSES.values()]
    folders += [
        {"tokenizer.json": wordpiece(), "tokenizer_config.json": case[0]} for case in WORDPIECE.values()
    ]
    folders += [
        {"vocab.json": VOCAB, "merges.txt": merges, "tokenizer_config.json": config}
        for merges, config, _ in PAIRS.values()
    ]
    folders += [
        {"vocab.txt": VOCAB_TXT, "tokenizer_config.json": case[0]} for case in BERT.values() if case[0]
    ]
    folders += [
        {"spiece.model": model(key[0]), "tokenizer_config.json": case[0]}
        for key, case in T5.items()
        if case[0]
    ]
    for number, files in enumerate(folders):
        config = {"model_type": "gpt2", "vocab_size": 300}
        folder = write(tmp_path / str(number), {"config.json": config, **files})
        theirs = json.loads(transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
        import tokenizers

        ours = json.loads(
            tokenizers.Tokenizer.from_str(json.dumps(read_description(folder).content)).to_str()
        )
        for described in (ours, theirs):
            (described["post_processor"] or {}).pop("pair", None)
            vocab = described["model"]["vocab"]
            if isinstance(vocab, list):  # the library does not read scores to the last bit
                described["model"]["vocab"] = [[piece, round(score, 9)] for piece, score in vocab]
        assert ours == theirs, files.get("tokenizer_config.json")
