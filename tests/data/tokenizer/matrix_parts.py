"""The parts that the folders of the tokenizer matrix are made of: texts, small vocabularies, JSON of steps.

Everything here gives the same on every run and with every version of a library.
"""

import base64
import io
import json
import re
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

CORPUS = """Once upon a time there was a fox, and the fox wanted to see the sea. "Is it far?" he asked.
"It isn't," she said; "in 1919 they'd have walked there and back!!" Hello world, hello.
Testing the word again.
这是一个测试。今天天气很好\uff0c我们去公园。这个模型是中文的。
日本語のテキストです。今日はいい天気ですね。テストのための文章、テスト。
한국어 문장입니다. 오늘은 날씨가 좋습니다. 한국어 모델.
På svenska är det åäö. Det är en bra dag och vi går ut. Straße und Übermut: das ist ein Text auf Deutsch.
Привет, мир. Это текст на русском языке. مرحبا بالعالم هذا نص
MKTAYIAKQRQISFVKSHFSRQ MKVLAAGIVGLLLA GSHMKTAYIAK
def f(x):
    return x + 1
caf\u00e9 \U0001f999 \U0001f469\u200d\U0001f467 3.14 1,000
"""

TEXTS = [
    "",
    " ",
    "   ",
    "Hello world",
    " Hello",
    "Hello  world ",
    "  two   spaces  ",
    "\n",
    "a\nb\n\nc\n",
    "\tx\ty \r\n",
    "\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u30c6\u30b9\u30c8 !",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.",
    "P\u00e5 svenska \u00e4r det \u00e5\u00e4\u00f6",
    "Stra\u00dfe und \u00dcbermut",
    "cafe\u0301 caf\u00e9 a\u030a\u0323",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",
    "<|endoftext|>",
    "a<|endoftext|> b",
    "x [SEP] y [CLS]",
    "<s>a</s> <pad> <unk>",
    "[MASK][UNK] [PAD]",
    'Hello, world! It\'s (really) "good" ...',
    "1234567890 3.14 1,000",
    "MKTAYIAKQRQISFVKSHFSRQ",
    "M K T A Y",
    "a\u00a0b \u00a0",
    "a\u3000b\u3000",
    "##ing go##ing testing",
    "\u2581Hello \u2581 \u2581",
    "supercalifragilistic" * 8,
    "def f(x):\n    return x + 1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "\ufb01ne \uff21\uff22\uff23 \uff76\uff85",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u200b\ufeffz\ufffd",
    "the <new> word<new>s  <sep>  upper SUPPER upper",
    "Note_60 Dur_4 | Note_64",
    "\U0001d518\U0001d52b \u2211 \u2260 \u00bd",
    "don't DON'T we'll'd",
    "HELLO \u00c9COLE \u0130stanbul",
]

GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4}
"""config.json."""
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
"""tokenizer_config.json of a tokenizer.json that is run as it stands."""

END = "<|endoftext|>"
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
"""GPT-2's character for every byte."""

CHARS_MAP = [("\ufb01", "fi"), ("\u3000", " "), ("\u00a0", " "), ("\u00bd", "1/2"), ("e\u0301", "\u00e9")]
CHARS_MAP += [(chr(0xFEE0 + code), chr(code)) for code in range(0x21, 0x7F)]
"""A small part of SentencePiece's nmt_nfkc, whose own map is 240 kB long."""


def merge_pairs(words: list[list[str]], n_merges: int, prefix: str = "") -> list[tuple[str, str]]:
    """The merges that BPE training finds; of equally frequent pairs, the first in the alphabet."""
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((left, right))
        joined = left + right.removeprefix(prefix)
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == (left, right):
                    word[at : at + 2] = [joined]
                at += 1
    return merges


def byte_level(n_merges: int = 120, special: tuple[str, ...] = (END,), first: bool = False) -> dict:
    """A byte-level BPE: vocab and merges; the special tokens at the end, or at the beginning."""
    words = [
        [BYTES[byte] for byte in word.encode()]
        for word in re.findall(r" ?[^\W\d]+| ?\d+| ?[^\w\s]+|\s+", CORPUS)
    ]
    merges = merge_pairs(words, n_merges)
    tokens = [BYTES[byte] for byte in (*_PRINTABLE, *_OTHERS)] + [a + b for a, b in merges]
    tokens = [*special, *tokens] if first else [*tokens, *special]
    return {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}


def char_bpe(
    n_merges: int, *, mark: str = "", suffix: str = "", inner: str = "", special: tuple[str, ...] = ()
) -> dict:
    """A BPE over characters; words begin with ``mark`` or end with ``suffix``, or go on with ``inner``."""
    words = [[mark + word[:1], *(inner + char for char in word[1:])] for word in CORPUS.split()]
    if mark:
        words = [[mark, word[0].removeprefix(mark), *word[1:]] for word in words]
    for word in words:
        word[-1] += suffix
    alphabet = sorted({char for word in words for char in word} | {char for char in CORPUS if char > " "})
    merges = merge_pairs(words, n_merges, inner)
    made = [a + b.removeprefix(inner) for a, b in merges]
    tokens = dict.fromkeys([*special, *alphabet, *made])
    return {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}


def word_piece(special: tuple[str, ...] = tuple(BERT_SPECIAL), lower: bool = True) -> list[str]:
    """Tokens of a WordPiece vocabulary: characters, inner characters, words, endings."""
    text = CORPUS + "".join(map(chr, range(0x21, 0x7F)))
    text = text.lower() + "\u00e9\u0301" if lower else text
    words = Counter(re.findall(r"[a-z\u00e5\u00e4\u00f6]{3,}|[\u30a0-\u30ff]{2,}|[A-Z][a-z]+", text))
    chars = sorted({char for char in text if char > " " and char not in "~^`"})
    inner = [f"##{char}" for char in chars if char.isalnum()]
    endings = ["##ing", "##ed", "##er", "##en", "##\u30b9\u30c8"]
    return list(dict.fromkeys([*special, *chars, *inner, *sorted(words), *endings]))


def sentence_piece(kind: str, size: int, mapped: bool = True, **options) -> bytes:
    """A SentencePiece model trained on the corpus, with the small map of characters or without one."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.tsv")
        lines = (
            "\t".join(" ".join(f"{ord(char):04X}" for char in side) for side in rule) for rule in CHARS_MAP
        )
        rules.write_text("\n".join(lines) + "\n")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS.splitlines()),
            model_writer=model,
            model_type=kind,
            vocab_size=size,
            **{"normalization_rule_tsv": str(rules)} if mapped else {"normalization_rule_name": "identity"},
            num_threads=1,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")  # the path of a temporary file
    return proto.SerializeToString(deterministic=True)


def pieces_of(model: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """The pieces with their scores, and the map of characters of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    pieces = [(piece.piece, round(piece.score, 4)) for piece in proto.pieces]
    return pieces, proto.normalizer_spec.precompiled_charsmap


def without_dummy(model: bytes) -> bytes:
    """A SentencePiece model that puts no space before a text."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = False
    return proto.SerializeToString(deterministic=True)


def added(text: str, index: int, **flags: bool) -> dict:
    """An added token; special and not normalized unless said."""
    names = ("single_word", "lstrip", "rstrip", "normalized")
    values = {name: bool(flags.get(name)) for name in names}
    return {"id": index, "content": text} | values | {"special": flags.get("special", True)}


def added_of(vocab: dict[str, int], *texts: str) -> list[dict]:
    """Special tokens that are in the vocabulary."""
    return [added(text, vocab[text]) for text in sorted(texts, key=vocab.__getitem__)]


def flagged(vocab: dict[str, int]) -> list[dict]:
    """An added token with each flag, behind the vocabulary unless they are in it."""
    flags = ({"lstrip": True}, {"single_word": True, "normalized": True}, {"rstrip": True})
    found = []
    for text, flag in zip(("<new>", "upper", "<sep>"), flags, strict=True):
        new = sum(token["id"] >= len(vocab) for token in found)
        found.append(added(text, vocab.get(text, len(vocab) + new), special=text == "<sep>", **flag))
    return found


def description(model: dict, *, added_tokens=(), normalizer=None, pre=None, post=None, decoder=None) -> dict:
    """The content of tokenizer.json."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added_tokens),
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": post,
        "decoder": decoder,
        "model": model,
    }


def bpe(parts: dict, **options) -> dict:
    """The model of tokenizer.json."""
    defaults = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
    }
    merges = [" ".join(pair) for pair in parts["merges"]]
    return defaults | options | {"vocab": parts["vocab"], "merges": merges}


def step(name: str, **options) -> dict:
    """A step of a pipeline."""
    return {"type": name, **options}


def steps(key: str, *items: dict) -> dict:
    """Steps in turn; ``key`` is the name that their list has."""
    return {"type": "Sequence", key: list(items)}


def bert_normalizer(lowercase: bool = True) -> dict:
    settings = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    return step("BertNormalizer", **settings, lowercase=lowercase)


def byte_step(space: bool = False, trim: bool = True, use_regex: bool = True) -> dict:
    return step("ByteLevel", add_prefix_space=space, trim_offsets=trim, use_regex=use_regex)


def template(vocab: dict[str, int], single: str) -> dict:
    """A TemplateProcessing from a form such as ``[CLS] $A [SEP]``."""
    names = single.split()

    def piece(name: str, letter: str) -> dict:
        if name == "$A":
            return {"Sequence": {"id": letter, "type_id": 0}}
        return {"SpecialToken": {"id": name, "type_id": 0}}

    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in names if name != "$A"}
    one, two = ([piece(name, letter) for name in names] for letter in "AB")
    return {"type": "TemplateProcessing", "single": one, "pair": one + two, "special_tokens": special}


def with_json(content: dict, settings: dict | None = FAST, config: dict = GPT2, **files) -> dict:
    """The files of a folder with tokenizer.json."""
    return {
        "tokenizer.json": content,
        "tokenizer_config.json": settings,
        "config.json": config,
    } | files


def stored(value: object) -> str | dict:
    """A file as the matrix keeps it: text, or base64 of bytes."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_folder(files: dict[str, str | dict], folder: Path) -> Path:
    """Write the files of a folder as they were stored."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        data = base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode("utf-8")
        (folder / name).write_bytes(data)
    return folder
