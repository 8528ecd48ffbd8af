"""Byte-level BPE, run by tiktoken."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import tiktoken  # here, not on first use: importing it fails once the main thread has ended

from ..errors import TokenizerError
from .base import Tokenizer, check_id, check_known, check_memory, check_size, check_text, id_list, is_failure
from .vocabulary import GPT2_SPLIT, AddedToken, Vocabulary

__all__ = ["SEPARATOR", "BPETokenizer"]

# Separates tokens in a packed vocabulary. It is outside Latin-1, in which their bytes are written.
SEPARATOR = "\u0100"

# tiktoken's regular expressions overflow their stack on about a million spaces in a row, hence
# _without_long_runs. White space is their \s: Unicode's White_Space, which differs from Python's.
_LONG_RUN = 20_000
# tiktoken gets a text in parts of about this many characters, so that it needs little memory at a time. For
# each byte of one it takes fewer than this: 40 were measured (tiktoken 0.14), on a word of random letters.
_PART = 1 << 16
_PER_BYTE = 48
# Its own vocabulary took 260 bytes for each of GPT-2's tokens.
_PER_TOKEN = 400
_WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPACES = "".join(filter(re.compile(f"[{_WHITE}]").match, map(chr, range(0x3001))))
_WORD_END = re.compile(f"(?<=[^{_WHITE}])(?=[{_WHITE}])")
_LONG_RUNS = re.compile(f"(?<![{_WHITE}])[{_WHITE}]{{{_LONG_RUN},}}+")


class BPETokenizer(Tokenizer):
    """A byte-level BPE that tiktoken runs; made by `load_tokenizer` and `gpt2_tokenizer`.

    Parameters
    ----------
    vocabulary : Vocabulary
    name, kind : str
        See `Tokenizer`.
    n_ids : int, optional
        The number of ids that the model has, if it is not the size of the vocabulary. `encode` never returns
        an id that the model lacks; `decode` takes every id that it has.

    Raises
    ------
    TokenizerError
        The vocabulary belongs to another model.
    """

    def __init__(self, vocabulary: Vocabulary, *, name: str, kind: str, n_ids: int | None = None) -> None:
        self.name, self.kind = name, kind
        self._vocabulary = vocabulary
        self.n_vocab = len(vocabulary.tokens)
        self.special_tokens = {token.text: token.id for token in vocabulary.added if token.special}
        self._tokens, self._ranks, self._ids = vocabulary.tokens, vocabulary.ranks, vocabulary.ids
        self.prefix, self.suffix = vocabulary.around.prefix, vocabulary.around.suffix
        self._added = {token.text: token for token in vocabulary.added}
        self._greedy = {token.id: token for token in vocabulary.added if token.lstrip or token.rstrip}
        self._patterns = _patterns(vocabulary.added)
        self._n_ids = self.n_vocab if n_ids is None else n_ids

        check_size(name, 1 + max(self._ids), self._n_ids)
        self._check(self.prefix)

    @cached_property
    def _tiktoken(self) -> Any:
        check_memory("", 0, _PER_TOKEN * self.n_vocab)
        return tiktoken.Encoding("gpt2c", pat_str=GPT2_SPLIT, mergeable_ranks=self._ranks, special_tokens={})

    def encode(self, text: str, special: bool = False, *, continued: bool = False) -> list[int]:
        check_text(text)
        ids: list[int] = []
        pieces: list[str | int] = [text] if text else []
        for pattern in self._patterns:
            pieces = [part for piece in pieces for part in self._cut_out(pattern, piece, special)]
        for piece in pieces:
            if isinstance(piece, int):
                ids.append(piece)
            else:
                for part in _parts(piece):
                    ids += [self._ids[rank] for rank in self._encode_ordinary(part)]
        if ids and max(ids) >= self._n_ids:
            self._check(ids)
        return ids

    encode.__doc__ = Tokenizer.encode.__doc__

    def token_bytes(self, token_id: int) -> bytes:
        index = operator.index(token_id)
        if 0 <= index < self.n_vocab:
            return self._tokens[index]
        check_known(index, max(self.n_vocab, self._n_ids))
        return b""  # a padding row of the model's embedding

    token_bytes.__doc__ = Tokenizer.token_bytes.__doc__

    def offsets(
        self, text: str, ids: Iterable[int], *, special: bool = False
    ) -> list[tuple[int, int]] | None:
        ids = id_list(ids)
        spans = super().offsets(text, ids, special=special)
        around = self._vocabulary.around
        if spans is None or not around.trims:
            return spans
        trimmed = []
        for token, (start, stop) in zip(ids, spans, strict=True):
            piece = self._tokens[token]
            leading = len(piece) - len(piece.lstrip(b" "))
            start = min(start + max(0, leading - (around.spares_first and start == 0)), stop)
            trimmed.append((start, max(start, stop - (len(piece) - len(piece.rstrip(b" "))))))
        return trimmed

    offsets.__doc__ = Tokenizer.offsets.__doc__

    def _pieces(self, text: str, ids: list[int], special: bool) -> list[bytes]:
        """Tokens that take in white space hold it, too."""
        if not self._greedy:
            return super()._pieces(text, ids, special)
        pieces, at = [], 0
        for index in ids:
            piece, token = self.token_bytes(index), self._greedy.get(index)
            if token is not None and (special or not token.special):
                rest = text.encode()[at:].decode("utf-8", "replace")
                left = rest[: len(rest) - len(rest.lstrip(_SPACES))] if token.lstrip else ""
                right = rest[len(left) + len(token.text) :]
                right = right[: len(right) - len(right.lstrip(_SPACES))] if token.rstrip else ""
                piece = f"{left}{token.text}{right}".encode()
            pieces.append(piece)
            at += len(piece)
        return pieces

    def _packed_vocabulary(self) -> dict[str, Any]:
        v = self._vocabulary
        in_order = v.ids == list(range(len(v.ids)))
        return {
            "tokens": SEPARATOR.join(token.decode("latin-1") for token in v.tokens),
            "ids": len(v.ids) if in_order else v.ids,
            "added": [list(token if token.lstrip or token.rstrip else token[:4]) for token in v.added],
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "takes_bos": self.takes_bos,
        } | v.around._asdict()

    def described(self) -> dict[str, Any]:
        from .describing import describe  # few models are exported

        return describe(self._vocabulary, self.name)

    described.__doc__ = Tokenizer.described.__doc__

    def _cut_out(self, pattern: re.Pattern[str], piece: str | int, special: bool) -> Iterator[str | int]:
        """The parts of a text between the matches of a pattern, and the matches as ids.

        A special token read as ordinary text is skipped as a whole, as in the tokenizers library.
        """
        if isinstance(piece, int):
            yield piece
            return
        plain, token = "", None
        for index, part in enumerate(pattern.split(piece)):
            if index % 2 and (special or part not in self.special_tokens):
                token = self._added[part]
                if token.lstrip:
                    plain = plain.rstrip(_SPACES)
                if plain:
                    yield plain
                yield token.id
                plain = ""
            else:
                plain += part.lstrip(_SPACES) if token is not None and token.rstrip else part
                token = None
        if plain:
            yield plain

    def _encode_ordinary(self, text: str) -> list[int]:
        """The ranks of a text's tokens."""
        encoding = self._tiktoken
        check_memory(text, _PER_BYTE)
        try:
            return encoding.encode_ordinary(text)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise TokenizerError(f"tiktoken failed on a text of {len(text)} characters: {error}") from None

    def _check(self, ids: Iterable[int]) -> None:
        for index in ids:
            check_id(index, self._tokens[index].decode("utf-8", "replace"), self._n_ids)


def _patterns(added: list[AddedToken]) -> list[re.Pattern[str]]:
    """Patterns that cut added tokens out of a text, to apply in turn; the longest match wins."""
    groups = ([token.text for token in added if token.late == late] for late in (False, True))
    ordered = (sorted(group, key=len, reverse=True) for group in groups if group)
    return [re.compile(f"({'|'.join(map(re.escape, group))})") for group in ordered]


def _parts(text: str) -> Iterator[str]:
    """Cut a text where GPT-2's rule cuts anyway: before white space that follows something else."""
    begin = 0
    while len(text) - begin > _PART and (end := _WORD_END.search(text, begin + _PART)):
        yield from _without_long_runs(text[begin : end.start()])
        begin = end.start()
    yield from _without_long_runs(text[begin:])


def _without_long_runs(text: str) -> Iterator[str]:
    """Cut a text where GPT-2's rule cuts very long runs of white space anyway: before a run's last character.

    If something follows a run, the rule gives its last character to what follows, or makes it a piece of its
    own, and makes one piece of all before it. A run at the end of a text is one piece, too; so both parts of
    the text are split as they are within the whole.
    """
    half = _LONG_RUN // 2  # every long run contains one of these windows
    if not any(text[at : at + half].isspace() for at in range(0, len(text) - half + 1, half)):
        yield text
        return
    begin = 0
    for run in _LONG_RUNS.finditer(text):
        if run.end() < len(text):
            yield text[begin : run.end() - 1]
            begin = run.end() - 1
    yield text[begin:]
