"""What transformers' AutoTokenizer gives for a folder, in the form that the tokenizer matrix keeps."""

import random
from pathlib import Path

N_LOOSE = 5


def record(folder: Path, texts: list[str]) -> dict:
    """Everything that is compared, for texts and for ids in random order; or the error of a failed load."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        return {"error": type(error).__name__}
    added = tokenizer.added_tokens_decoder
    return {
        "n_tokens": len(tokenizer),
        "last_id": max(tokenizer.get_vocab().values()),
        "is_fast": tokenizer.is_fast,
        "special": {str(added[index]): index for index in sorted(added) if added[index].special},
        "named": dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)),
        "texts": [_text(tokenizer, text) for text in texts],
        "loose": [_decoded(tokenizer, ids) | {"ids": ids} for ids in _loose(tokenizer, folder.name)],
    }


def _text(tokenizer, text: str) -> dict:
    """One text: its ids with and without what is put around it, read with special tokens, and offsets."""
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    ids = tokenizer(text, **plain)["input_ids"]
    around = tokenizer(text, add_special_tokens=True, split_special_tokens=True)["input_ids"]
    special = tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    found = {"ids": ids, "around": around, "special": special, "offsets": None}
    if tokenizer.is_fast:
        found["offsets"] = _offsets(tokenizer, text, split_special_tokens=True)
        if special != ids:
            found["special_offsets"] = _offsets(tokenizer, text, split_special_tokens=False)
    return found | _decoded(tokenizer, around)


def _offsets(tokenizer, text: str, **how: bool) -> list[int]:
    """Start, end, start, end … of the tokens of a text."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **how)
    return [place for pair in found["offset_mapping"] for place in pair]


def _decoded(tokenizer, ids: list[int]) -> dict:
    """The text of ids, and of their beginnings up to a few places."""
    cuts = sorted({1, len(ids) // 3, len(ids) - 1} & set(range(1, len(ids))))

    def decode(some: list[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return {"decoded": decode(ids), "before": {str(cut): decode(ids[:cut]) for cut in cuts}}


def _loose(tokenizer, name: str) -> list[list[int]]:
    """Ids as no text has them, holes of the vocabulary among them."""
    choose = random.Random(name)
    last = max(tokenizer.get_vocab().values())
    found = [[choose.randint(0, last) for _ in range(10)] for _ in range(N_LOOSE)]
    if not tokenizer.is_fast:  # its decoding has rules of its own beside added tokens
        added = sorted(tokenizer.added_tokens_decoder)
        found += [
            [choose.choice((choose.choice(added), choose.randint(0, last))) for _ in range(10)]
            for _ in range(N_LOOSE)
        ]
    return found
