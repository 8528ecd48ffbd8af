"""BPE and Unigram with "\u2581" for the spaces, and SentencePiece models, of the tokenizer matrix."""

from functools import cache

import matrix_parts as parts
from matrix_parts import FAST, GPT2, step, steps, stored, with_json

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MARK = "\u2581"


@cache
def characters() -> dict:
    """A BPE over characters whose words begin with the mark."""
    return parts.char_bpe(150, mark=MARK, special=SPECIAL)


def metaspace() -> dict:
    """BPE over characters, as Korean models have it."""
    made = characters()
    tokens = parts.added_of(made["vocab"], *SPECIAL)
    flagged = parts.flagged(made["vocab"])
    settings = FAST | NAMES | {"pad_token": "<pad>"}

    def content(prepend: str | None = "always", fuse: bool = False, pipeline=(), **options) -> dict:
        scheme = {"prepend_scheme": prepend, "split": True} if prepend else {}
        mark = step("Metaspace", replacement=MARK, **scheme | options)
        model = parts.bpe(made, unk_token="<unk>", fuse_unk=fuse)
        steps_of_it = {"added_tokens": tokens, "pre": mark, "decoder": mark} | dict(pipeline)
        return parts.description(model, **steps_of_it)

    around = parts.template(made["vocab"], "<s> $A </s>")
    shapes = {
        "always": content(),
        "first": content("first"),
        "never": content("never"),
        "no-split": content(split=False),
        "fuse-unknown": content(fuse=True),
        "around": content(pipeline={"post": around}),
        "legacy": content(None, add_prefix_space=True),
        "legacy-false": content("never", add_prefix_space=False),
        "legacy-false-alone": content(None, add_prefix_space=False),
        "added": content(pipeline={"added_tokens": tokens + flagged}),
        "first-added": content("first", pipeline={"added_tokens": tokens + flagged}),
        "nfkc": content(pipeline={"normalizer": step("NFKC")}),
        "no-decoder": content(pipeline={"decoder": None}),
    }
    found = {name: with_json(file, settings) for name, file in shapes.items()}
    found["legacy-settings-false"] = with_json(shapes["legacy"], settings | {"add_prefix_space": False})
    found["never-settings-true"] = with_json(shapes["never"], settings | {"add_prefix_space": True})
    return {f"metaspace-{name}": ("tokenizers", files) for name, files in found.items()}


def llama() -> dict:
    """BPE over characters with bytes for what it lacks; a normaliser puts the marks."""
    made = characters()
    vocab = made["vocab"]
    vocab = vocab | {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    model = parts.bpe(made | {"vocab": vocab}, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    into_mark = step("Replace", pattern={"String": " "}, content=MARK)
    from_mark = step("Replace", pattern={"String": MARK}, content=" ")
    bytes_back = (from_mark, step("ByteFallback"), step("Fuse"))
    strip = step("Strip", content=" ", start=1, stop=0)
    pipeline = {
        "added_tokens": parts.added_of(vocab, *SPECIAL),
        "normalizer": steps("normalizers", step("Prepend", prepend=MARK), into_mark),
        "decoder": steps("decoders", *bytes_back, strip),
    }
    bos = {"post": parts.template(vocab, "<s> $A")}
    bare = {"normalizer": into_mark, "decoder": steps("decoders", *bytes_back)}
    mark = step("Metaspace", replacement=MARK, prepend_scheme="first", split=False)
    shapes = {"llama": {}, "llama-bos": bos, "llama-never": bare}
    shapes["llama-first"] = {"normalizer": None, "pre": mark}
    return {
        name: ("tokenizers", with_json(parts.description(model, **pipeline | other), FAST | NAMES))
        for name, other in shapes.items()
    }


@cache
def t5_model() -> bytes:
    return parts.sentence_piece("unigram", 300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@cache
def rinna_model() -> bytes:
    names = {"user_defined_symbols": ["<new>"], "control_symbols": ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]}
    return parts.sentence_piece("unigram", 310, unk_id=0, bos_id=1, eos_id=2, **names)


@cache
def bpe_model() -> bytes:
    return parts.sentence_piece(
        "bpe", 560, byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, add_dummy_prefix=True
    )


@cache
def sw3_model() -> bytes:
    """As GPT-SW3's: every space counts, digits are alone, and the special tokens are in the vocabulary."""
    return parts.sentence_piece(
        "bpe",
        600,
        mapped=False,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<|new|>"],
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        eos_piece="<|endoftext|>",
    )


def unigram() -> dict:
    """Unigram with "▁" and SentencePiece's map of characters, as Japanese models have it."""
    pieces, chars_map = parts.pieces_of(rinna_model())
    vocab = {piece: index for index, (piece, _) in enumerate(pieces)}
    tokens = parts.added_of(vocab, "<unk>", "<s>", "</s>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
    precompiled = step("Precompiled", precompiled_charsmap=stored(chars_map)["base64"])
    spaces = step("Replace", pattern={"Regex": " {2,}"}, content=" ")
    mark = step("Metaspace", replacement="\u2581", prepend_scheme="always", split=True)
    settings = FAST | {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
    end = parts.template(vocab, "$A </s>")

    def content(model: dict | None = None, **pipeline) -> dict:
        model = step("Unigram", unk_id=0, vocab=pieces, byte_fallback=False) | (model or {})
        defaults = {
            "added_tokens": tokens,
            "normalizer": steps("normalizers", precompiled, spaces),
            "pre": steps("pretokenizers", step("WhitespaceSplit"), mark),
            "decoder": mark,
        }
        return parts.description(model, **defaults | pipeline)

    bytes_too = [*pieces, *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    strip = steps("normalizers", step("Strip", strip_left=False, strip_right=True), precompiled)
    decoder = steps("decoders", step("ByteFallback"), mark)
    one = step("Replace", pattern={"Regex": r"\s+"}, content=" ")
    right = step("Strip", strip_left=False, strip_right=True)
    never = mark | {"prepend_scheme": "never"}
    shapes = {
        "unigram": content(),
        "unigram-never": content(
            normalizer=steps("normalizers", precompiled, one, right), pre=never, decoder=never
        ),
        "unigram-added": content(added_tokens=tokens + parts.flagged(vocab)),
        "unigram-end": content(post=end),
        "unigram-no-split": content(pre=mark),
        "unigram-strip": content(normalizer=strip, pre=mark),
        "unigram-no-normalizer": content(normalizer=None),
        "unigram-nmt": content(normalizer=steps("normalizers", step("Nmt"), step("NFKC"), spaces)),
        "unigram-bytes": content({"vocab": bytes_too, "byte_fallback": True}, decoder=decoder),
        "unigram-first": content(pre=mark | {"prepend_scheme": "first"}),
    }
    found = {name: ("tokenizers", with_json(file, settings)) for name, file in shapes.items()}
    t5 = settings | {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    found["unigram-t5-class"] = ("tokenizers", with_json(content(post=end), t5))
    for name in ("Albert", "XLNet", "Camembert", "XLMRoberta", "Reformer", "Llama"):
        other = settings | {"tokenizer_class": f"{name}TokenizerFast"}
        found[f"unigram-{name.lower()}-class"] = ("tokenizers", with_json(content(), other))
    return found


REFUSED = ("spiece-albert", "spiece-reformer", "spiece-llama")
"""SentencePiece models with a class whose rules gpt2c does not know."""


def sentence_piece_files() -> dict:
    """A SentencePiece model alone."""
    t5 = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    shapes = {
        "spiece-t5": (t5_model(), "spiece.model", t5),
        "spiece-t5-extra": (t5_model(), "spiece.model", t5 | {"extra_ids": 5}),
        "spiece-t5-named": (
            rinna_model(),
            "spiece.model",
            t5 | {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"},
        ),
        "spiece-t5-class-in-config": (
            rinna_model(),
            "spiece.model",
            None,
            GPT2 | {"tokenizer_class": "T5Tokenizer"},
        ),
        "spiece-t5-rinna": (
            rinna_model(),
            "spiece.model",
            t5
            | {
                "additional_special_tokens": [],
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
            }
            | {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"},
        ),
        "spiece-albert": (
            rinna_model(),
            "spiece.model",
            {"tokenizer_class": "AlbertTokenizer", "keep_accents": True},
        ),
        "spiece-reformer": (bpe_model(), "spiece.model", {"tokenizer_class": "ReformerTokenizer"}),
        "spiece-llama": (bpe_model(), "tokenizer.model", {"tokenizer_class": "LlamaTokenizer"}),
    }
    return {
        name: (
            "refused" if name in REFUSED else "tokenizers",
            {file: model, "tokenizer_config.json": settings, "config.json": config[0] if config else GPT2},
        )
        for name, (model, file, settings, *config) in shapes.items()
    }


def gpt_sw3() -> dict:
    """SentencePiece models of GPTSw3Tokenizer, which has no form that the tokenizers library runs."""
    sw3 = {"tokenizer_class": "GPTSw3Tokenizer"}
    pieces, _ = parts.pieces_of(sw3_model())
    behind = parts.flagged({piece: index for index, (piece, _) in enumerate(pieces)})
    behind[2] |= {"special": True}
    decoder = {str(token["id"]): {name: token[name] for name in token if name != "id"} for token in behind}
    some = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": None}
    shapes = {
        "spiece-sw3": (bpe_model(), sw3),
        "spiece-sw3-spaces": (sw3_model(), sw3),
        "spiece-sw3-spaces-never": (parts.without_dummy(sw3_model()), sw3),
        "spiece-sw3-class-in-config": (sw3_model(), None, GPT2 | sw3),
        "spiece-gpt-sw3-7b": (sw3_model(), sw3 | {"bos_token": None}),
        "spiece-sw3-flags": (sw3_model(), sw3 | {"added_tokens_decoder": decoder}),
        "spiece-sw3-additional": (
            sw3_model(),
            sw3 | {"added_tokens_decoder": decoder, "additional_special_tokens": ["<sep>", "<|new|>"]},
        ),
        "spiece-sw3-named": (rinna_model(), sw3 | some | {"additional_special_tokens": ["[MASK]"]}),
    }
    found = {
        name: {"spiece.model": model, "tokenizer_config.json": settings, "config.json": (*config, GPT2)[0]}
        for name, (model, settings, *config) in shapes.items()
    }
    n_pieces = len(parts.pieces_of(rinna_model())[0])
    # Characters that the model lacks are one piece, perhaps of the text of an added token.
    unknown = {"\uff76\uff85": n_pieces, "upper": n_pieces + 1}
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": True}, "unk_token": "<unk>"}
    found["spiece-sw3-legacy"] = found["spiece-sw3-named"] | {
        "tokenizer_config.json": sw3,
        "added_tokens.json": unknown,
        "special_tokens_map.json": named | {"pad_token": "[PAD]"},
    }
    return {name: ("sentencepiece", files) for name, files in found.items()}
