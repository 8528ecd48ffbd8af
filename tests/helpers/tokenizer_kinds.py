"""Small tokenizers of the kinds that GPT-2 checkpoints have besides GPT-2's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2c import GPT2
from helpers.toys import random_gpt2

TEXT = "the king and the kings sing of 猫 and é. the end"


def _around(before: str, after: str, ids: dict[str, int]):
    from tokenizers.processors import TemplateProcessing

    single = " ".join(part for part in (before, "$A", after) if part)
    return TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[(t, ids[t]) for t in (before, after) if t]
    )


def _wordpiece():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "这",
        "是",
        "猫",
        "the",
        "king",
        "sing",
        "and",
        "of",
        "end",
        "é",
        ".",
        ",",
        "##s",
        "##ing",
        "##d",
        "a",
        "s",
        "i",
        "e",
    ]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = _around("[CLS]", "[SEP]", {"[CLS]": 2, "[SEP]": 3})
    return tokenizer


def _pieces() -> list[str]:
    words = [
        "▁the",
        "▁king",
        "▁sing",
        "▁and",
        "▁of",
        "▁end",
        "ing",
        "king",
        "s",
        "▁",
        "猫",
        "é",
        ".",
        ",",
        "and",
        "the",
        "d",
    ]
    return ["<unk>", "<s>", "</s>", *words, *(c for c in "abcdefghiklnoprtuw" if c not in words)]


def _metaspace():
    """A BPE over SentencePiece's alphabet, as of kogpt2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    single = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyz.,", "猫", "é"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("i", "n"), ("in", "g"), ("k", "ing"), ("▁", "king")]
    merges += [("a", "n"), ("an", "d"), ("▁", "and"), ("▁", "o"), ("▁o", "f")]
    vocab = {piece: i for i, piece in enumerate([*single, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = _around("<s>", "", {"<s>": 1})
    return tokenizer


def _unigram():
    """As of T5Tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - 0.01 * i) for i, piece in enumerate(_pieces())], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = _around("", "</s>", {"</s>": 2})
    return tokenizer


def _byte_fallback():
    """As of Llama: the space is put there by the normalizer, unknown characters become bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    single = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    single += [*"abcdefghijklmnopqrstuvwxyz.,"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("i", "n"), ("in", "g"), ("k", "ing"), ("▁", "king")]
    vocab = {piece: i for i, piece in enumerate([*single, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = _around("<s>", "", {"<s>": 1})
    return tokenizer


def _prefix_space():
    """GPT-2's bytes, with a space before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("i", "n"), ("in", "g"), ("k", "ing"), ("Ġ", "king")]
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    return tokenizer


def _wordlevel():
    """Whole words with holes among their ids, and no decoder: it puts spaces between tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["?", "the", "king", "kings", "and", "sing", "of", "end", "猫", "é.", "</s>"]
    tokenizer = Tokenizer(models.WordLevel({w: 3 * i + i % 2 for i, w in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def _suffix():
    """A BPE of characters with a mark at the end of words, as of GPT-1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [*"abcdefghijklmnopqrstuvwxyz.é猫"]
    merges = [("t", "h"), ("th", "e</w>"), ("i", "n"), ("in", "g</w>"), ("k", "ing</w>")]
    tokens = ["<unk>", *letters, *(f"{c}</w>" for c in letters), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


MAKERS: dict[str, Callable[[], Any]] = {
    "wordpiece": _wordpiece,
    "metaspace": _metaspace,
    "unigram": _unigram,
    "byte fallback": _byte_fallback,
    "prefix space": _prefix_space,
    "wordlevel": _wordlevel,
    "suffix": _suffix,
}


@cache
def kind(name: str, seed: int = 0) -> SimpleNamespace:
    """A tokenizer of a kind (``library``: the object of the tokenizers library), and a model that has it."""
    pytest.importorskip("tokenizers")
    from gpt2c import as_tokenizer

    library = MAKERS[name]()
    n_vocab = max(library.get_vocab().values()) + 1
    tokenizer = as_tokenizer(library, name=name, n_vocab=n_vocab)
    ends = [i for token in ("[SEP]", "</s>") if (i := library.token_to_id(token)) is not None]
    model, weights = random_gpt2(
        seed,
        n_vocab=n_vocab,
        n_ctx=64,
        tokenizer=tokenizer,
        bos_token_id=max(ends, default=0),
        eos_token_ids=tuple(ends),
    )
    library.encode_special_tokens = True
    return SimpleNamespace(
        name=name, library=library, tokenizer=tokenizer, model=model, weights=weights, n_vocab=n_vocab
    )


def decoded(kind: SimpleNamespace, ids: list[int]) -> str:
    """What the library makes of token ids."""
    return kind.library.decode(list(ids), skip_special_tokens=False)


def added(kind: SimpleNamespace, before: list[int], ids: list[int]) -> str:
    """What token ids add to the text of those before them."""
    return decoded(kind, [*before, *ids])[len(decoded(kind, before)) :]


def logprobs(model: GPT2, before: list[int], ids: list[int]) -> np.ndarray:
    """The log-probability of each of ``ids`` behind ``before``, from the logits of one pass, in float64."""
    logits = model.forward([*before, *ids]).astype(np.float64)[len(before) - 1 : -1]
    top = logits.max(axis=1, keepdims=True)
    rows = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return rows[np.arange(len(ids)), ids]
