"""GPTSw3Tokenizer of transformers, which Swedish GPT-2s have: a SentencePiece model, run by sentencepiece.

The rules around it are those of the Python class in transformers 4.57: tokens outside the model are cut out
of a text first, and have a space on either side in decoded text.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, NamedTuple

from ..errors import TokenizerError
from .base import StreamDecoder, Tokenizer, check_size, id_list
from .library import LibraryTokenizer, Spans
from .spm import MODEL_TYPE, parsed
from .window import WindowDecoder

__all__ = ["GPTSw3Tokenizer", "is_gptsw3"]

_MARK = "\u2581"
# Control characters except tab and line feed, the no-break space, the soft hyphen, the zero-width space.
_REMOVED = {*range(9), *range(11, 32), *range(127, 161), 0xAD, 0x200B}
_SPACES = (0x2002, 0x2003, 0x2005, 0x2008, 0x2009, 0x200A, 0x202F, 0x3000, 0xFFFC)
_CLEANED = dict.fromkeys(_SPACES, " ") | dict.fromkeys(_REMOVED)


class _Added(NamedTuple):
    """A token that is cut out of a text, and its effect on its surroundings."""

    id: int
    lstrip: bool
    rstrip: bool
    single_word: bool


class _Run(NamedTuple):
    """A part of a text: the positions of its characters, and its token or its encoder."""

    places: Sequence[int]
    text: str
    token: int | None
    processor: Any


def is_gptsw3(description: dict[str, Any]) -> bool:
    """Whether a description from `read_description` is one for `GPTSw3Tokenizer`."""
    model = description.get("model")
    return isinstance(model, dict) and model.get("type") == MODEL_TYPE


class GPTSw3Tokenizer(LibraryTokenizer):
    """A SentencePiece model with the added tokens of its files.

    Decoded text has a space before every piece that ends with a special token, inserted when that token
    arrives: ``Hello`` is followed by `` Hello<s>``. The stream decoder, which has already shown the piece by
    then, leaves that space out.

    Parameters
    ----------
    description : dict
        The result of `gpt2c.tokenizer.files.read_description`.
    name : str
        See `Tokenizer`.
    n_ids : int, optional
        The number of ids that the model has.

    Raises
    ------
    TokenizerError
        The description is damaged, the vocabulary belongs to another model, or sentencepiece is not
        installed.
    """

    kind = "GPTSw3Tokenizer run by sentencepiece"

    def __init__(self, description: dict[str, Any], *, name: str, n_ids: int | None = None) -> None:
        self.name = name
        try:
            model = description["model"]
            self._model = base64.b64decode(model["proto"])
            self._named, additional = ({*map(str, model[key])} for key in ("named", "additional"))
            entries = [(token["content"], _read(token)) for token in description["added_tokens"]]
            self._added: dict[str, _Added] = dict(entries)
            self.special_tokens = {
                token["content"]: token["id"] for token in description["added_tokens"] if token["special"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise TokenizerError(f"the vocabulary in {name} is damaged: {error!r}") from None
        self._whole = self._processor(lambda proto: None)
        self._packed = {
            "model": {key: model[key] for key in ("type", "proto", "named", "additional")},
            "added_tokens": description["added_tokens"],
        }
        self._size: int = self._whole.vocab_size()
        self._texts = {token.id: text for text, token in self._added.items()}
        behind = {text for text in additional if text in self._added and self._added[text].id >= self._size}
        self._apart = (self._added.keys() - self._named) | behind
        self.n_vocab = max(self._size, 1 + max(self._texts, default=-1))
        self._n_ids = self.n_vocab if n_ids is None else n_ids
        check_size(name, self._size, self._n_ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self._decoded(id_list(ids), late=True)

    decode.__doc__ = Tokenizer.decode.__doc__

    def decoder(self, before: Iterable[int] = ()) -> StreamDecoder:
        return WindowDecoder(lambda ids: self._decoded(ids, late=False), id_list(before))

    decoder.__doc__ = Tokenizer.decoder.__doc__

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, without the spaces that decoding puts around an added token."""
        piece = self._known(token_id)
        if piece is None:
            return b""
        if token_id in self._texts:
            return piece.encode("utf-8")
        if self._whole.is_byte(token_id):
            return bytes.fromhex(piece[3:5])
        return b"" if self._whole.is_control(token_id) else piece.replace(_MARK, " ").encode("utf-8")

    def bytes_inside(self, token_id: int) -> bytes:
        # A space as a byte token, which no text encodes to, would not be dropped at the start of a text.
        is_space = token_id < self._size and self._token(token_id) == "<0x20>"
        return b"" if is_space or token_id == self._whole.unk_id() else self.token_bytes(token_id)

    bytes_inside.__doc__ = LibraryTokenizer.bytes_inside.__doc__

    def _packed_vocabulary(self) -> dict[str, Any]:
        return {
            "sentencepiece": self._packed,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
        }

    def _processor(self, change: Callable[[Any], None]) -> Any:
        """The library's object for the model with changed rules."""
        proto = parsed(self._model, self.name)
        change(proto.normalizer_spec)
        from sentencepiece import SentencePieceProcessor

        try:
            return SentencePieceProcessor(model_proto=proto.SerializeToString())
        except RuntimeError as error:
            raise TokenizerError(f"{self.name}: the sentencepiece library refuses it: {error}") from None

    @cached_property
    def _bare(self) -> Any:
        """The encoder for a text that continues another one: it adds no space before it."""

        def change(spec: Any) -> None:
            spec.add_dummy_prefix = False

        return self._processor(change)

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        """A pattern of the added tokens, the longest first; without any, one that never matches."""
        texts = sorted(self._added, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def _encoded(self, text: str, special: bool, continued: bool) -> tuple[list[int], Callable[[], Spans]]:
        runs, ids = list(self._runs(text, special, continued)), []
        for run in runs:
            if run.token is not None:
                ids.append(run.token)
                continue
            pieces = run.processor.encode(_clean(run.text), out_type=str)
            # An added token wins over a piece of the same text, even one for characters without a token.
            found = zip(pieces, run.processor.piece_to_id(pieces), strict=True)
            ids += [self._added[piece].id if piece in self._added else index for piece, index in found]
        return ids, lambda: list(chain.from_iterable(map(self._spans, runs)))

    def _runs(self, text: str, special: bool, continued: bool) -> Iterator[_Run]:
        """The parts of a text: added tokens, where they are recognized, and the text between them."""
        for number, places in enumerate(self._parts(text) if special else [range(len(text))]):
            words = _at(text, places)
            token = self._added.get(words) if special else None
            goes_on = continued and not number and token is None and not self._loses_space(words)
            if words:
                processor = self._bare if goes_on else self._whole
                yield _Run(places, words, token and token.id, processor)

    def _parts(self, text: str) -> list[Sequence[int]]:
        """A text cut at the added tokens: the positions of every part's characters."""
        ends = [0, *chain.from_iterable(found.span() for found in self._cut.finditer(text)), len(text)]
        parts: list[Sequence[int]] = [range(start, end) for start, end in pairwise(ends) if end > start]
        for i, part in enumerate(parts):
            token = self._added.get(_at(text, part))
            if token is None:
                continue
            left = parts[i - 1] if i > 0 else ()
            right = parts[i + 1] if i + 1 < len(parts) else ()
            if token.rstrip and right:
                parts[i + 1] = right[len(right) - len(_at(text, right).lstrip()) :]
            if token.lstrip and left:
                parts[i - 1] = left[: len(_at(text, left).rstrip())]
            # A token that must be a separate word is ordinary text where only a space is missing.
            if token.single_word and left and text[left[-1]] != " ":
                parts[i - 1], parts[i] = [*parts[i - 1], *part], ()
            elif token.single_word and right and text[right[0]] != " ":
                parts[i], parts[i + 1] = (), [*part, *parts[i + 1]]
        return parts

    def _loses_space(self, text: str) -> bool:
        """Whether a model that drops leading spaces would drop one at the start of this text."""
        drops: bool = self._bare.normalize(" .") == "."
        return drops and self._bare.normalize("." + _clean(text)).startswith("." + _MARK)

    def _spans(self, run: _Run) -> Spans:
        """The positions of a part's tokens in the whole text."""
        if run.token is not None:
            return [(run.places[0], run.places[-1] + 1)]
        from sentencepiece import sentencepiece_pb2

        # Each with its end, where a token without text may be.
        text, places = _clean(run.text), [*run.places, run.places[-1] + 1]
        sources = [*_sources(run.text), (len(run.text), len(run.text))]
        characters = [at for at, char in enumerate(text) for _ in char.encode("utf-8")] + [len(text)]
        found: Spans = []
        encoded = run.processor.encode(text, out_type="serialized_proto")
        following: Any = None
        for piece in reversed(sentencepiece_pb2.SentencePieceText.FromString(encoded).pieces):
            if piece.begin < piece.end:
                start, end = sources[characters[piece.begin]][0], sources[characters[piece.end - 1]][1]
                found.append((places[start], places[end - 1] + 1))
            elif following is not None and self._is_byte(piece) and self._is_byte(following):
                found.append(found[-1])  # the last byte of a character determines the position of all
            else:
                place = places[sources[characters[piece.begin]][0]]
                found.append((place, place))
            following = piece
        return found[::-1]

    def _is_byte(self, piece: Any) -> bool:
        found: bool = self._whole.is_byte(piece.id)
        return found

    def _token(self, index: int) -> str | None:
        """The text of a token in the vocabulary; None for an id without a token."""
        if index in self._texts:
            return self._texts[index]
        piece: str | None = self._whole.id_to_piece(index) if 0 <= index < self._size else None
        return piece

    def _decoded(self, ids: list[int], late: bool) -> str:
        """The text of tokens; ``late``: with the spaces that special tokens insert before earlier text."""
        texts: list[str] = []
        pieces: list[str] = []
        tokens = [token for token in map(self._token, ids) if token is not None]
        for token in tokens:
            if token not in self._apart:
                pieces.append(token)
                continue
            before = self._run_text(pieces, late)
            texts += [before, token] if before else [token]
            pieces = []
        return " ".join([*texts, self._run_text(pieces, late)] if pieces else texts)

    def _run_text(self, pieces: list[str], late: bool) -> str:
        """The text of pieces of the model and special tokens."""
        text, waiting, behind_special = "", [], False
        for piece in pieces:
            if piece not in self._named:
                waiting.append(piece)
                behind_special = False
                continue
            words = self._whole.decode(waiting)
            text += (" " if not behind_special and (late or not words) else "") + words + piece
            waiting, behind_special = [], True
        return text + str(self._whole.decode(waiting))


def _read(token: dict[str, Any]) -> _Added:
    """An added token of a description."""
    index, text = token["id"], token["content"]
    if type(index) is not int or index < 0 or not isinstance(text, str) or not text:
        raise ValueError("an added token needs a text and an id")
    return _Added(index, *(bool(token[flag]) for flag in ("lstrip", "rstrip", "single_word")))


def _at(text: str, places: Sequence[int]) -> str:
    """The characters at some places of a text."""
    if isinstance(places, range):
        return text[places.start : places.stop]
    return "".join(text[place] for place in places)


def _clean(text: str) -> str:
    """A text cleaned as the models' training text was."""
    return unicodedata.normalize("NFC", text.translate(_CLEANED))


def _sources(text: str) -> Spans:
    """Which characters of a text each character of ``_clean(text)`` comes from."""
    kept = [at for at, char in enumerate(text) if ord(char) not in _REMOVED]
    chars = text.translate(_CLEANED)
    if unicodedata.is_normalized("NFC", chars):
        return [(place, place + 1) for place in kept]
    found: Spans = []
    start = 0
    for end in range(1, len(chars) + 1):
        if end < len(chars) and not _stands_alone(chars[start:end], chars[end]):
            continue
        group, places = unicodedata.normalize("NFC", chars[start:end]), kept[start:end]
        if group == chars[start:end]:
            found += [(place, place + 1) for place in places]
        else:
            found += [(places[0], places[-1] + 1)] * len(group)
        start = end
    return found


def _stands_alone(before: str, char: str) -> bool:
    """Whether a character does not combine with those before it."""
    if before.isascii() and char.isascii():
        return True
    if unicodedata.combining(unicodedata.normalize("NFD", char)[0]):
        return False
    parts = "".join(unicodedata.normalize("NFC", part) for part in (before, char))
    return unicodedata.normalize("NFC", before + char) == parts
