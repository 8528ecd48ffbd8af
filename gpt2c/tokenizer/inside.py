"""The text that a token adds after others, by the decoder of a tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import TokenizerError

__all__ = ["inside"]

# The clean-up of the tokenizers library's WordPiece decoder, in this order, in each token.
_CLEANED = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")]
_CLEANED += [(" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]

_Change = Callable[[str], str]


def inside(steps: Sequence[dict[str, Any]], name: str) -> _Change:
    """The text of a token of the vocabulary after others.

    Parameters
    ----------
    steps : sequence of dict
        The steps of the decoder; without any, the library puts spaces between tokens.
    name : str
        The tokenizer's name, for errors.

    Raises
    ------
    TokenizerError
        After one of the steps, the text of a token may depend on the next token.
    """
    changes: list[_Change] = [] if steps else [lambda piece: f" {piece}"]
    fused = False
    for step in steps:
        change = _change(step, fused)
        if change is None:
            raise TokenizerError(
                f"the tokenizer {name} has the decoder {step['type']}, with which the bytes of a token "
                "depend on its neighbours: words cannot be completed with it; use suggest, or generate "
                "without heal"
            )
        changes.append(change)
        fused = fused or step["type"] == "Fuse"

    def changed(piece: str) -> str:
        for change in changes:
            piece = change(piece)
        return piece

    return changed


def _change(step: dict[str, Any], fused: bool) -> _Change | None:
    """The effect of a step on a token after others; None if it depends on anything else."""
    kind = step["type"]
    if kind in ("Fuse", "ByteFallback", "ByteLevel"):
        return lambda piece: piece
    if kind == "Metaspace":
        return lambda piece: piece.replace(step["replacement"], " ")
    if (
        kind == "Replace"
        and "String" in step["pattern"]
        and (not fused or len(step["pattern"]["String"]) == 1)
    ):
        return lambda piece: piece.replace(step["pattern"]["String"], step["content"])
    if kind == "Strip" and fused and step["stop"] == 0:  # the beginning of the text
        return lambda piece: piece
    if kind == "WordPiece":
        return lambda piece: _wordpiece(piece, step["prefix"], step["cleanup"])
    return None


def _wordpiece(piece: str, prefix: str, cleanup: bool) -> str:
    piece = piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"
    if cleanup:
        for old, new in _CLEANED:
            piece = piece.replace(old, new)
    return piece
