"""A tokenizer whose tokens are single characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import TokenizerError, shown
from .base import Tokenizer, check_known, check_text

__all__ = ["CharacterTokenizer"]


class CharacterTokenizer(Tokenizer):
    """One token for each character that it knows; others cannot be encoded.

    Parameters
    ----------
    characters : sequence of str
        In order of their ids.
    name : str

    Raises
    ------
    TokenizerError
        One of them is not a single character, or occurs twice.
    """

    kind = "characters"

    def __init__(self, characters: Sequence[str], *, name: str) -> None:
        for character in characters:
            if not isinstance(character, str) or len(character) != 1:
                raise TokenizerError(f"{name}: {shown(character)} is not a single character")
            check_text(character)
        self.name, self.n_vocab, self.special_tokens = name, len(characters), {}
        self._characters = [character.encode() for character in characters]
        self._ids = {character: index for index, character in enumerate(characters)}
        if len(self._ids) != len(characters):
            raise TokenizerError(f"{name}: a character occurs twice")

    def encode(self, text: str, special: bool = False, *, continued: bool = False) -> list[int]:
        """See `Tokenizer`; an unknown character is an error."""
        check_text(text)
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            known = "".join(character.decode() for character in self._characters)
            raise TokenizerError(
                f"{shown(error.args[0])} has no token; the model knows the characters {shown(known)}"
            ) from None

    def token_bytes(self, token_id: int) -> bytes:
        """See `Tokenizer`."""
        check_known(token_id, self.n_vocab)
        return self._characters[token_id]

    def described(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        # One word per character, with unknown characters an error: "" is not a token.
        pattern = {"Regex": r"[\s\S]"}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False},
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": dict(self._ids), "unk_token": ""},
        }

    @classmethod
    def of_description(cls, description: dict[str, Any], name: str) -> CharacterTokenizer | None:
        """The tokenizer that `described` returned this for; None for any other description."""
        model = description.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) and model.get("type") == "WordLevel" else None
        if not isinstance(vocab, dict) or not all(
            len(character) == 1 and type(index) is int for character, index in vocab.items()
        ):
            return None
        found = cls(sorted(vocab, key=vocab.__getitem__), name=name)
        return found if found.described() == description else None

    def _packed_vocabulary(self) -> dict[str, Any]:
        return {"characters": b"".join(self._characters).decode()}
