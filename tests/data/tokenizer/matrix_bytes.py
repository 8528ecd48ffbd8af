"""Byte-level BPEs of the tokenizer matrix."""

import random
from functools import cache

import matrix_parts as parts
from matrix_parts import END, FAST, GPT2, byte_step, step, steps, with_json

GPT2_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


@cache
def small() -> dict:
    """The byte-level BPE of most folders."""
    return parts.byte_level()


def byte_json(made: dict | None = None, added=None, model: dict | None = None, **pipeline) -> dict:
    """tokenizer.json of a byte-level BPE, with GPT-2's steps unless others are given."""
    made = made or small()
    pipeline = {"pre": byte_step(), "post": byte_step(trim=False), "decoder": byte_step()} | pipeline
    added = parts.added_of(made["vocab"], END) if added is None else added
    return parts.description(parts.bpe(made, **(model or {})), added_tokens=added, **pipeline)


def byte_level_json() -> dict:
    """tokenizer.json of byte-level BPEs."""
    first = parts.byte_level(special=(END,), first=True)
    split = step("Split", pattern={"Regex": GPT2_SPLIT}, behavior="Isolated", invert=False)
    digits = split | {"pattern": {"Regex": GPT2_SPLIT.replace(r"\p{N}+", r"\p{N}")}}
    free = byte_step(use_regex=False)
    no_space = prefix_space(inside=True)
    shapes = {
        "byte-json": ("tiktoken", byte_json()),
        "byte-json-first-ids": ("tiktoken", byte_json(first)),
        "byte-json-no-post": ("tiktoken", byte_json(post=None)),
        "byte-json-trim-offsets": ("tiktoken", byte_json(post=byte_step(trim=True))),
        "byte-json-merges-as-lists": ("tiktoken", merges_as_lists(byte_json())),
        "byte-json-ignore-merges": ("tiktoken", byte_json(model={"ignore_merges": True})),
        "byte-json-prefix-space": ("tokenizers", prefix_space(), FAST | {"add_prefix_space": True}),
        "byte-json-prefix-space-inside": ("tokenizers", no_space),
        "byte-json-old": ("tiktoken", as_old_files(byte_json())),
        "byte-json-truncation": ("tiktoken", byte_json() | cut_and_padded()),
        "byte-split-gpt2": ("tiktoken", byte_json(pre=steps("pretokenizers", split, free))),
        "byte-split-digits": ("tokenizers", byte_json(pre=steps("pretokenizers", digits, free))),
        "byte-no-regex": ("tokenizers", byte_json(pre=free)),
    }
    return {name: (runs_on, with_json(*files)) for name, (runs_on, *files) in shapes.items()}


def byte_level_around() -> dict:
    """Post-processors, with the special tokens of Russian and Arabic models."""
    made = parts.byte_level(special=ROBERTA, first=True)
    vocab = made["vocab"]
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    around = {"sep": ["</s>", vocab["</s>"]], "cls": ["<s>", vocab["<s>"]]}
    trims = step("RobertaProcessing", trim_offsets=True, add_prefix_space=False, **around)
    keeps = step("RobertaProcessing", trim_offsets=False, add_prefix_space=True, **around)
    bos = parts.template(vocab, "<s> $A")
    both = steps("processors", byte_step(trim=False), bos)
    shapes = {
        "byte-roberta-trim": ("tiktoken", {"post": trims}),
        "byte-roberta-space": ("tokenizers", {"post": keeps, "pre": byte_step(space=True)}),
        "byte-bert-processing": ("tiktoken", {"post": step("BertProcessing", **around)}),
        "byte-template-around": ("tiktoken", {"post": parts.template(vocab, "<s> $A </s>")}),
        "byte-template-eos": ("tiktoken", {"post": parts.template(vocab, "$A </s>")}),
        "byte-template-bos": ("tiktoken", {"post": bos}),
        "byte-template-twice": ("tiktoken", {"post": parts.template(vocab, "<s> <mask> $A")}),
        "byte-post-sequence": ("tiktoken", {"post": both}),
    }
    found = {}
    for name, (runs_on, pipeline) in shapes.items():
        content = byte_json(made, parts.added_of(vocab, *ROBERTA), **pipeline)
        settings = FAST | names | {"add_prefix_space": name == "byte-roberta-space"}
        found[name] = (runs_on, with_json(content, settings))
    return found


def as_old_files(content: dict) -> dict:
    """Without what files of tokenizers 0.8 do not say."""
    del content["model"]["type"]
    for key in ("pre_tokenizer", "post_processor", "decoder"):
        del content[key]["use_regex"]
    return content


def cut_and_padded() -> dict:
    """Settings of tokenizer.json that transformers turns off in every call."""
    pad = {"strategy": {"Fixed": 30}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 376}
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    return {"truncation": cut, "padding": pad | {"pad_type_id": 0, "pad_token": END}}


def prefix_space(inside: bool = False) -> dict:
    """A byte-level step that puts a space before every text, alone or inside a sequence."""
    pre = steps("pretokenizers", byte_step(space=True)) if inside else byte_step(space=True)
    return byte_json(pre=pre, post=byte_step(space=True, trim=False))


def merges_as_lists(content: dict) -> dict:
    content["model"]["merges"] = [merge.split(" ") for merge in content["model"]["merges"]]
    return content


def byte_level_settings() -> dict:
    """The same tokenizer.json with other settings beside it."""
    plain, space = byte_json(), prefix_space()
    composed = byte_json(normalizer=step("NFC"))
    gpt2 = {"tokenizer_class": "GPT2Tokenizer", "bos_token": END, "eos_token": END, "unk_token": END}
    shapes = {
        "settings-none": (plain, None),
        "settings-no-class": (plain, {"model_max_length": 1024}),
        "settings-gpt2": (plain, gpt2),
        "settings-gpt2-fast": (plain, gpt2 | {"tokenizer_class": "GPT2TokenizerFast"}),
        "settings-class-in-config": (composed, None, GPT2 | FAST),
        "settings-gpt2-in-config": (plain, None, GPT2 | {"tokenizer_class": "GPT2Tokenizer"}),
        "settings-prefix-space-silent": (space, FAST),
        "settings-prefix-space-only-there": (plain, FAST | {"add_prefix_space": True}),
        "settings-prefix-space-false": (space, FAST | {"add_prefix_space": False}),
        "settings-gpt2-normalizer": (composed, gpt2),
        "settings-none-normalizer": (composed, None),
        "settings-bos-with-json": (plain, gpt2 | {"add_bos_token": True}),
        "settings-bos-false-with-json": (plain, gpt2 | {"add_bos_token": False}),
        "settings-bos-with-json-no-post": (byte_json(post=None), gpt2 | {"add_bos_token": True}),
        "settings-bos-fast-class": (plain, FAST | {"add_bos_token": True, "bos_token": END}),
        "settings-bos-eos-fast-class-no-post": (
            byte_json(post=None),
            FAST | {"add_bos_token": True, "bos_token": END, "add_eos_token": True, "eos_token": END},
        ),
        "settings-clean-up": (plain, gpt2 | {"clean_up_tokenization_spaces": True}),
    }
    needs = {"settings-class-in-config", "settings-gpt2-normalizer", "settings-none-normalizer"}
    needs |= {"settings-prefix-space-only-there"}
    return {
        name: (
            "tokenizers" if name in needs else "tiktoken",
            with_json(content, settings, *config),
        )
        for name, (content, settings, *config) in shapes.items()
    }


def byte_level_classes() -> dict:
    """The same tokenizer.json with the class of another model."""
    names = {"bos_token": END, "eos_token": END, "unk_token": END}
    more = names | {"pad_token": END, "mask_token": END, "sep_token": END, "cls_token": END}
    shapes = {
        "roberta": ("tiktoken", "RobertaTokenizerFast", {}),  # its <mask> takes the spaces before it
        "roberta-named": ("tiktoken", "RobertaTokenizerFast", more),
        "bart": ("tiktoken", "BartTokenizerFast", names),
        "neox": ("tiktoken", "GPTNeoXTokenizerFast", names),
        "llama": ("tiktoken", "LlamaTokenizerFast", names),
        "qwen": ("tiktoken", "Qwen2TokenizerFast", names),
        "unknown": ("tiktoken", "MyTokenizer", names),
        "slow-base": ("tiktoken", "PreTrainedTokenizer", names),
        "backend": ("tiktoken", "TokenizersBackend", names),
    }
    return {
        f"class-{name}": (runs_on, with_json(byte_json(), settings | {"tokenizer_class": tokenizer_class}))
        for name, (runs_on, tokenizer_class, settings) in shapes.items()
    }


def byte_level_steps() -> dict:
    """Normalisers and pre-tokenisers before the byte-level step; vocabularies with gaps."""
    holes = parts.byte_level()
    holes["vocab"] = {token: index + 3 * (index > 100) for token, index in holes["vocab"].items()}
    russian = parts.byte_level(special=("<unk>", END), first=True)
    russian["vocab"] = {token: i for i, token in enumerate(t for t in russian["vocab"] if t not in "~^")}
    spaces = {"pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    before = {
        "nfc": {"normalizer": step("NFC")},
        "nfkc": {"normalizer": step("NFKC")},
        "nfkd": {"normalizer": step("NFKD")},
        "in-normalizer": {"normalizer": step("ByteLevel"), "pre": None},
        "nfd-strip-accents": {"normalizer": steps("normalizers", step("NFD"), step("StripAccents"))},
        "lowercase": {"normalizer": step("Lowercase")},
        "replace": {"normalizer": step("Replace", pattern={"String": "\n"}, content=" ")},
        "replace-regex": {"normalizer": step("Replace", pattern={"Regex": " {2,}"}, content=" ")},
        "strip": {"normalizer": step("Strip", strip_left=True, strip_right=True)},
        "prepend": {"normalizer": step("Prepend", prepend=" ")},
        "sequence": {"normalizer": steps("normalizers", step("NFKC"), step("Lowercase"), step("NFC"))},
        "digits": {
            "pre": steps("pretokenizers", step("Digits", individual_digits=True), byte_step()),
        },
        "punctuation": {
            "pre": steps("pretokenizers", step("Punctuation", behavior="Isolated"), byte_step()),
        },
        "whitespace": {"pre": steps("pretokenizers", step("Whitespace"), byte_step(use_regex=False))},
        "split-before": {"pre": steps("pretokenizers", step("Split", **spaces), byte_step(use_regex=False))},
        "digits-grouped": {
            "pre": steps("pretokenizers", step("Digits", individual_digits=False), byte_step())
        },
        "scripts": {"pre": steps("pretokenizers", step("UnicodeScripts"), byte_step())},
    }
    found = {
        f"byte-{name}": ("tokenizers", with_json(byte_json(**pipeline))) for name, pipeline in before.items()
    }
    shuffled = parts.byte_level()
    order = random.Random(1).sample(range(len(shuffled["vocab"])), len(shuffled["vocab"]))
    shuffled["vocab"] = dict(zip(shuffled["vocab"], order, strict=True))
    found["byte-shuffled"] = ("tiktoken", with_json(byte_json(shuffled)))
    found["byte-holes"] = ("tiktoken", with_json(byte_json(holes)))
    unknown = byte_json(russian, parts.added_of(russian["vocab"], "<unk>", END), model={"unk_token": "<unk>"})
    found["byte-lacks-bytes"] = ("tokenizers", with_json(unknown, FAST | {"unk_token": "<unk>"}))
    return found


def pair_of_files(made: dict, version: bool = True, end: str = "\n") -> dict:
    """vocab.json and merges.txt."""
    lines = ["#version: 0.2"] * version + [" ".join(pair) for pair in made["merges"]]
    return {"vocab.json": made["vocab"], "merges.txt": "\n".join(lines) + end}


def byte_level_files() -> dict:
    """vocab.json with merges.txt, and how the latter is written."""
    made = small()
    files = pair_of_files(made)
    tokens = [*made["vocab"], "##", "####"]
    hashes = [("#", "#"), ("##", "##")]

    def more(merges: list, n_more: int) -> dict:
        known = tokens[: len(made["vocab"]) + n_more]
        return {"vocab": {token: index for index, token in enumerate(known)}, "merges": merges}

    first = more([*hashes[:1], *made["merges"]], 1)
    last = more([*made["merges"], *hashes[:1]], 1)
    shapes = {
        "files": files,
        "files-no-version": pair_of_files(first, version=False),
        "files-no-last-newline": pair_of_files(last, end=""),
        "files-crlf": files | {"merges.txt": files["merges.txt"].replace("\n", "\r\n")},
        "files-hash-merges": pair_of_files(more([*hashes, *made["merges"]], 2)),
    }
    return {name: ("tiktoken", content) for name, content in shapes.items()}


def byte_level_files_with_settings() -> dict:
    """vocab.json with merges.txt, and the files beside them."""
    files, last = pair_of_files(small()), len(small()["vocab"])
    bare = pair_of_files(parts.byte_level(special=()))
    inside = pair_of_files(parts.byte_level(special=("<pad>", END), first=True))
    russian = pair_of_files(parts.byte_level(special=ROBERTA, first=True))
    names = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": "<pad>"}
    angled = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    gpt2 = {"tokenizer_class": "GPT2Tokenizer"}
    in_map = {"special_tokens_map.json": names}
    pad = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    bos = {"bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": True}
    settings = {
        "files-class": (files, gpt2),
        "files-bos": (files, gpt2 | {"add_bos_token": True}),
        "files-prefix-space": (files, gpt2 | {"add_prefix_space": True}),
        "files-errors": (files, gpt2 | {"errors": "ignore"}),
        "files-russian-named": (russian, gpt2 | angled),
        "files-bos-named": (russian, gpt2 | bos),
        "files-roberta-class": (russian, {"tokenizer_class": "RobertaTokenizer"}),
    }
    shapes = {name: pair | {"tokenizer_config.json": given} for name, (pair, given) in settings.items()}
    shapes |= {
        "files-added": files | in_map | {"added_tokens.json": {"<pad>": last, "<new>": last + 1}},
        "files-class-in-config": files | {"config.json": GPT2 | {"tokenizer_class": "GPT2TokenizerFast"}},
        "files-pad-inside": inside | in_map,
        "files-russian": russian | {"special_tokens_map.json": pad},
        "files-no-end": bare,
        "files-no-end-named": bare | in_map,
    }
    others = ("files-prefix-space",)
    return {
        name: ("tokenizers" if name in others else "tiktoken", files_of) for name, files_of in shapes.items()
    }


def added_tokens() -> dict:
    """Added tokens with every flag, and of every form."""
    made = small()
    vocab, last = made["vocab"], len(made["vocab"])
    base = parts.added_of(vocab, END)
    flags = {
        "special": {},
        "ordinary": {"special": False},
        "normalized": {"special": False, "normalized": True},
        "lstrip": {"lstrip": True},
        "rstrip": {"rstrip": True, "special": False},
        "single-word": {"single_word": True, "special": False, "normalized": True},
    }
    tokens = {
        name: [parts.added("<new>", last, **flag), parts.added("upper", last + 1, **flag)]
        for name, flag in flags.items()
    }

    def ordinary(*texts: str) -> list[dict]:
        return [parts.added(text, vocab.get(text, last + i), special=False) for i, text in enumerate(texts)]

    tokens["odd-texts"] = ordinary("<\u7528\u6237>", "a b")
    tokens["accents"] = [*ordinary("\u00e9"), *ordinary("f\u00e9")]
    tokens["word-of-vocabulary"] = ordinary("en")
    tokens["nested"] = [parts.added("<new>", last), parts.added("<new>word", last + 1, special=False)]
    others = ("single-word", "accents")
    found = {
        f"added-{name}": (
            "tokenizers" if name in others else "tiktoken",
            with_json(byte_json(added=sorted([*base, *more], key=lambda token: token["id"]))),
        )
        for name, more in tokens.items()
    }
    upper = parts.added("UPPER", last, special=False, normalized=True)
    lower = byte_json(added=[*base, upper, parts.added("[SEP]", last + 1)], normalizer=step("Lowercase"))
    found["added-normalized-lowercase"] = ("tokenizers", with_json(lower))
    return found


def added_tokens_elsewhere() -> dict:
    """Added tokens that the files beside tokenizer.json name."""
    last = len(small()["vocab"])
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    decoder = {
        str(last + i): {"content": text, "special": True} | flags for i, text in enumerate(("<pad>", "<sep>"))
    }
    named = FAST | {"bos_token": END, "eos_token": END, "pad_token": "<pad>"}
    settings = {
        "decoder": FAST | {"added_tokens_decoder": decoder},
        "decoder-named": named | {"added_tokens_decoder": decoder, "sep_token": "<sep>"},
        "pad-named": named,
        "additional": named | {"additional_special_tokens": ["<sep>", "<new>"]},
        "extra-list": FAST | {"extra_special_tokens": ["<sep>", "<new>"]},
        "extra-dict": FAST | {"extra_special_tokens": {"image_token": "<sep>"}},
    }
    found = {name: with_json(byte_json(), value) for name, value in settings.items()}
    end = FAST | {"bos_token": END, "eos_token": END, "unk_token": END}
    in_map = {"special_tokens_map.json": {"pad_token": "<pad>", "additional_special_tokens": ["<sep>"]}}
    listed = {"added_tokens.json": {"<new>": last, "upper": last + 1}}
    found["map"] = with_json(byte_json(), end, **in_map)
    found["file"] = with_json(byte_json(), end, **listed)
    return {f"added-{name}": ("tiktoken", files) for name, files in found.items()}
