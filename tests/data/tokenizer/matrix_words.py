"""WordPiece, WordLevel and BPEs over characters of the tokenizer matrix."""

import matrix_parts as parts
from matrix_parts import END, FAST, GPT2, step, steps, with_json

BERT = {"tokenizer_class": "BertTokenizer"}


def word_piece_files() -> dict:
    """vocab.txt alone, with the class in one file or the other."""
    lower, cased = parts.word_piece(), parts.word_piece(lower=False)
    both = list(dict.fromkeys([*cased, *lower]))
    odd = ["[PAD]", *(f"[unused{i}]" for i in range(3)), *lower[1:], "the", "unfound"]
    german = parts.word_piece(special=("<pad>", "<unk>", "<s>", "</s>", "<mask>"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    shapes = {
        "": (both, BERT),
        "-fast": (both, {"tokenizer_class": "BertTokenizerFast"}),
        "-class-in-config": (both, None, GPT2 | BERT),
        "-cased": (both, BERT | {"do_lower_case": False}),
        "-cased-class-in-config": (both, {"do_lower_case": False}, GPT2 | BERT),
        "-keep-accents": (both, BERT | {"strip_accents": False}),
        "-cased-strip-accents": (both, BERT | {"do_lower_case": False, "strip_accents": True}),
        "-no-chinese": (both, BERT | {"tokenize_chinese_chars": False}),
        "-repeated-tokens": (odd, BERT),
        "-other-names": (german, BERT | names | {"mask_token": "<mask>"}),
        "-bos-eos": (both, BERT | {"bos_token": "[CLS]", "eos_token": "[SEP]"}),
        "-end-added": (both, BERT | {"bos_token": END, "eos_token": END}),
    }
    found = {
        f"vocab-txt{name}": (
            "tokenizers",
            {
                "vocab.txt": "\n".join(tokens) + "\n",
                "tokenizer_config.json": settings,
                "config.json": config[0] if config else GPT2,
            },
        )
        for name, (tokens, settings, *config) in shapes.items()
    }
    lines = {
        "crlf": "\r\n".join(both) + "\r\n",
        "no-last-newline": "\n".join(both),
        "odd-lines": "\n".join([*both, "hel ", "", "wor\u2028ld", "\u3000", "tes\x85t"]) + "\n\n",
    }
    for name, text in lines.items():
        found[f"vocab-txt-{name}"] = ("tokenizers", {"vocab.txt": text, "tokenizer_config.json": BERT})
    return found


def word_piece_json() -> dict:
    """tokenizer.json with WordPiece, as a class loads it and as it stands there."""
    tokens = list(dict.fromkeys([*parts.word_piece(lower=False), *parts.word_piece()]))
    vocab = {token: index for index, token in enumerate(tokens)}

    def content(model: dict | None = None, **pipeline) -> dict:
        model = step(
            "WordPiece",
            unk_token="[UNK]",
            continuing_subword_prefix="##",
            max_input_chars_per_word=100,
            vocab=vocab,
        ) | (model or {})
        defaults = {
            "added_tokens": parts.added_of(vocab, *parts.BERT_SPECIAL),
            "normalizer": parts.bert_normalizer(),
            "pre": step("BertPreTokenizer"),
            "post": parts.template(vocab, "[CLS] $A [SEP]"),
            "decoder": step("WordPiece", prefix="##", cleanup=True),
        }
        return parts.description(model, **defaults | pipeline)

    around = {"sep": ["[SEP]", vocab["[SEP]"]], "cls": ["[CLS]", vocab["[CLS]"]]}
    cased = parts.bert_normalizer(lowercase=False)
    flagged = parts.flagged(vocab)
    no_cleanup = step("WordPiece", prefix="##", cleanup=False)
    shapes = {
        "": (content(), FAST),
        "-bert": (content(), BERT | {"do_lower_case": True}),
        "-bert-processing": (content(post=step("BertProcessing", **around)), FAST),
        "-no-post": (content(post=None), FAST),
        "-cls-only": (content(post=parts.template(vocab, "[CLS] $A")), FAST),
        "-sep-only": (content(post=parts.template(vocab, "$A [SEP]")), FAST),
        "-no-cleanup": (content(decoder=no_cleanup), FAST),
        "-no-decoder": (content(decoder=None, post=None), FAST),
        "-cased": (content(normalizer=cased), FAST),
        "-bert-cased-by-settings": (content(), BERT | {"do_lower_case": False}),
        "-bert-lower-by-default": (content(normalizer=cased), BERT),
        "-bert-no-cleanup": (content(decoder=no_cleanup), BERT),
        "-bert-cls-only": (content(post=parts.template(vocab, "[CLS] $A")), BERT),
        "-no-normalizer": (content(normalizer=None), FAST),
        "-whitespace": (content(normalizer=None, pre=step("Whitespace")), FAST),
        "-added": (content(added_tokens=parts.added_of(vocab, *parts.BERT_SPECIAL) + flagged), FAST),
        "-short-words": (content(model={"max_input_chars_per_word": 6}), FAST),
        "-nfkc": (content(normalizer=steps("normalizers", step("NFKC"), step("Lowercase"))), FAST),
        "-class-in-config": (content(), None, GPT2 | {"tokenizer_class": "BertTokenizerFast"}),
        "-no-class": (content(), None),
        "-distilbert-class": (content(), {"tokenizer_class": "DistilBertTokenizerFast"}),
    }
    return {
        f"word-piece{name}": (
            "tokenizers",
            with_json(file, settings, *config),
        )
        for name, (file, settings, *config) in shapes.items()
    }


def character_bpe() -> dict:
    """BPE over characters whose words end with </w>, or without any mark."""
    special = ("<unk>", "<s>", "</s>")
    ends = parts.char_bpe(150, suffix="</w>", special=special)
    bare = parts.char_bpe(100, special=special)
    inner = parts.char_bpe(100, inner="##", special=special)

    def content(made: dict, **pipeline) -> dict:
        suffix = "</w>" if made is ends else None
        inside = "##" if made is inner else None
        model = parts.bpe(
            made, unk_token="<unk>", end_of_word_suffix=suffix, continuing_subword_prefix=inside
        )
        return parts.description(model, added_tokens=parts.added_of(made["vocab"], *special), **pipeline)

    lower = parts.bert_normalizer()
    decoder = step("BPEDecoder", suffix="</w>")
    white = step("Whitespace")
    shapes = {
        "char-bpe": content(ends, normalizer=lower, pre=step("BertPreTokenizer"), decoder=decoder),
        "char-bpe-cased": content(ends, pre=step("WhitespaceSplit"), decoder=decoder),
        "char-bpe-around": content(
            ends, pre=white, decoder=decoder, post=parts.template(ends["vocab"], "<s> $A </s>")
        ),
        "char-bpe-no-mark": content(bare, pre=white),
        "char-bpe-inner-mark": content(
            inner, pre=white, decoder=step("WordPiece", prefix="##", cleanup=False)
        ),
        "char-bpe-fused": content(bare, pre=None, decoder=step("Fuse")),
    }
    found = {
        name: ("tokenizers", with_json(file, FAST | {"unk_token": "<unk>"})) for name, file in shapes.items()
    }
    openai = {"tokenizer_class": "OpenAIGPTTokenizerFast", "unk_token": "<unk>"}
    found["char-bpe-openai-class"] = ("tokenizers", with_json(shapes["char-bpe"], openai))
    return found


def word_level() -> dict:
    """WordLevel: proteins, music, molecules, words; with and without holes and decoders."""
    amino = ["<unk>", END, "<pad>", *"ACDEFGHIKLMNPQRSTVWYXBZUO"]
    music = ["<unk>", END, *(f"Note_{i}" for i in range(58, 66)), *(f"Dur_{i}" for i in range(6)), "|", " "]
    smiles = ["<unk>", END, "C", "O", "c", "1", "(", ")", "=", "Cl", "N", "x", "+"]
    words = ["<unk>", END, *sorted({word for word in parts.CORPUS.split() if word.isalpha()}), ",", ".", "!"]
    every = step("Split", pattern={"Regex": ""}, behavior="Isolated", invert=False)
    atoms = step("Split", pattern={"Regex": r"Cl|Br|\[[^\]]+\]|."}, behavior="Isolated", invert=False)
    removed = step("Split", pattern={"String": " "}, behavior="Removed", invert=False)
    merged = step("Split", pattern={"Regex": r"\s"}, behavior="MergedWithNext", invert=False)

    inverted = step("Split", pattern={"Regex": r"\w+"}, behavior="Removed", invert=True)

    def content(tokens: list[str] | dict, added: bool = False, **pipeline) -> dict:
        vocab = tokens if isinstance(tokens, dict) else {token: i for i, token in enumerate(tokens)}
        names = [name for name in ("<unk>", END, "<pad>") if name in vocab]
        model = step("WordLevel", vocab=vocab, unk_token="<unk>")
        flagged = parts.flagged(vocab) if added else []
        return parts.description(model, added_tokens=parts.added_of(vocab, *names) + flagged, **pipeline)

    cleaned = step("WordPiece", prefix="##", cleanup=True)
    few = {"<unk>": 0, END: 1, "a": 2, "b": 5, "Hello": 6, "y": 7}
    sparse = {token: i + i // 3 * 2 for i, token in enumerate(words)}
    around = parts.template({END: 1}, f"{END} $A {END}")
    shapes = {
        "protein": content(amino, pre=every, decoder=step("Fuse")),
        "protein-around": content(amino, pre=every, decoder=step("Fuse"), post=around),
        "protein-no-decoder": content(amino, pre=every),
        "protein-threes": content(
            [*amino, "MKT", "AYI", "AKQ", "RQI"], pre=step("FixedLength", length=3), decoder=step("Fuse")
        ),
        "protein-added": content(amino, added=True, pre=every, decoder=step("Fuse")),
        "words-added": content(words, added=True, pre=step("Whitespace")),
        "words-merged-before": content(
            [*words, "the ", "fox "], pre=merged | {"behavior": "MergedWithPrevious"}, decoder=step("Fuse")
        ),
        "words-contiguous": content([*words, "  ", " "], pre=merged | {"behavior": "Contiguous"}),
        "words-matches": content(words, pre=inverted),
        "protein-spaced": content(amino, pre=step("WhitespaceSplit")),
        "protein-upper": content(
            amino, normalizer=step("Replace", pattern={"String": " "}, content=""), pre=every
        ),
        "music": content(music, pre=step("WhitespaceSplit")),
        "music-delimiter": content(music, pre=step("CharDelimiterSplit", delimiter="|")),
        "smiles": content(smiles, pre=atoms, decoder=step("Fuse")),
        "words": content(words, pre=step("Whitespace")),
        "words-lowercase": content(words, normalizer=step("Lowercase"), pre=step("Whitespace")),
        "words-removed-spaces": content(words, pre=removed),
        "words-with-spaces": content([*words, " the", " fox", " a"], pre=merged, decoder=step("Fuse")),
        "words-holes": content(sparse, pre=step("Whitespace")),
        "words-few-holes": content(few, pre=step("Whitespace")),
        "words-piece-decoder": content(words, pre=step("BertPreTokenizer"), decoder=cleaned),
        "words-no-pre": content([*words, "Hello world", "\n", "1234567890 3.14 1,000"]),
    }
    found = {name: with_json(file, FAST | {"unk_token": "<unk>"}) for name, file in shapes.items()}
    return {name: ("tokenizers", files) for name, files in found.items()}
