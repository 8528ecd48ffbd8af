"""Reconciling a model's configuration with its tokenizer: the tokens that start and end a text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Setting
from ..errors import shown

if TYPE_CHECKING:
    from ..config import Config
    from ..tokenizer.base import Tokenizer

__all__ = ["with_tokenizer"]


def with_tokenizer(
    config: Config, tokenizer: Tokenizer | None, *, keeps_bos: bool = False
) -> tuple[Config, list[str]]:
    """The configuration with the bos and eos ids that apply with a tokenizer; and notes on them.

    Many config.json files still have the ids of the GPT-2 that training started from, which are ordinary
    words in the model's own vocabulary, or outside of it. So the configuration's ids apply if one is a
    special token of the tokenizer, or if the tokenizer names none instead that the model has; otherwise the
    tokenizer's do. With ``keeps_bos``, the bos always stays.
    """
    if tokenizer is None:
        return config, []
    notes, report = _around(tokenizer, config), list(config.report)
    bos, eos = config.bos_token_id, config.eos_token_ids
    if not keeps_bos and _gives_way(() if bos is None else (bos,), tokenizer.bos_token_id, tokenizer, config):
        bos = tokenizer.bos_token_id
        assert bos is not None
        notes.append(_note("bos_token_id", config.bos_token_id, bos, tokenizer, report))
    if _gives_way(eos, tokenizer.eos_token_id, tokenizer, config):
        assert tokenizer.eos_token_id is not None
        eos = (tokenizer.eos_token_id,)
        notes.append(_note("eos_token_id", list(config.eos_token_ids), eos[0], tokenizer, report))
    return replace(config, bos_token_id=bos, eos_token_ids=eos, report=tuple(report)), notes


def _gives_way(ids: tuple[int, ...], named: int | None, tokenizer: Tokenizer, config: Config) -> bool:
    """Whether the tokenizer's token replaces the configuration's ids."""
    if named is None or named >= config.n_vocab:
        return False
    return not {named, *tokenizer.special_tokens.values()} & {*ids}


def _note(key: str, value: object, counts: int, tokenizer: Tokenizer, report: list[Setting]) -> str:
    """The note when the tokenizer's token applies; also adds it to the report's line, if any."""
    why = f"the tokenizer's {_token(tokenizer, counts)} is used"
    for index, line in enumerate(report):
        if line.key == key:
            value = line.value
            status = "ignored" if line.status == "honoured" else line.status
            report[index] = line._replace(status=status, note="; ".join(filter(None, (line.note, why))))
    what = "names no token" if value in (None, []) else f"{shown(value)} is not a special token"
    return f"{key}: {what}, so {why}"


def _around(tokenizer: Tokenizer, config: Config) -> list[str]:
    """Notes on the tokens that a tokenizer puts around a text, their use, and on ids that the model lacks."""
    notes = []
    if tokenizer.prefix:
        before = ", ".join(_token(tokenizer, token) for token in tokenizer.prefix)
        done = "kept" if config.is_bert else "kept before prompts and scored texts"
        notes.append(f"the tokenizer puts {before} before a text: {done}")
    if tokenizer.suffix:
        after = ", ".join(_token(tokenizer, token) for token in tokenizer.suffix)
        done = "left out, since the text is continued"
        if config.is_bert or config.is_classifier:
            done = "kept" if config.is_bert else "kept where a text is classified"
        notes.append(f"the tokenizer puts {after} after a text: {done}")
    if config.n_vocab < tokenizer.n_vocab < 2**31 - 1:  # the latter means an unknown size
        notes.append(
            f"the vocabulary has ids up to {tokenizer.n_vocab - 1}, but the model's end at "
            f"{config.n_vocab - 1}: a text that needs one of the others is refused"
        )
    return notes


def _token(tokenizer: Tokenizer, index: int) -> str:
    """A token for a note: its text and its id."""
    names = {number: text for text, number in tokenizer.special_tokens.items()}
    return f"{shown(names.get(index) or tokenizer.decode([index]))} ({index})"
