"""Text to token ids and back: GPT-2's byte-level BPE, run by tiktoken, offline.

`load_tokenizer` reads the files beside a model, `gpt2_tokenizer` is OpenAI's vocabulary from the package, and
`as_tokenizer` takes any other object with ``encode`` and ``decode``. Each gives a `Tokenizer`.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._bpe import GPT2_SPLIT, AddedToken, NotExact, Vocabulary, compile_vocabulary, gpt2_vocabulary, shown
from ._tokenizer_base import StreamDecoder, Tokenizer, check_text
from ._tokenizer_files import FOREIGN_FILES, read_description
from .errors import TokenizerError

if TYPE_CHECKING:
    from .config import Config

__all__ = [
    "BPETokenizer",
    "StreamDecoder",
    "Tokenizer",
    "as_tokenizer",
    "gpt2_tokenizer",
    "load_tokenizer",
    "unpack",
]

SEPARATOR = "\u0100"  # of tokens in a packed vocabulary: beyond Latin-1, in which their bytes are written

# tiktoken's regular expressions overflow their stack on about a million spaces in a row, hence
# _without_long_runs. White space is what they call \s: Unicode's White_Space, which is not quite Python's.
_LONG_RUN = 20_000
_WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LONG_RUNS = re.compile(f"(?<![{_WHITE}])[{_WHITE}]{{{_LONG_RUN},}}+")


def load_tokenizer(directory: str | Path, config: Config) -> Tokenizer:
    """The tokenizer that stands beside a model.

    Read are, in this order: ``tokenizer.json``; ``vocab.json`` + ``merges.txt``; with either, the added
    tokens in ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json``. Without any of
    them, a model with 50,257 tokens gets GPT-2's vocabulary. All this needs tiktoken only; files that ask for
    something that tiktoken does not reproduce exactly are run by ``tokenizers``, if that is installed.

    Parameters
    ----------
    directory : path
        Where the tokenizer files are.
    config : Config
        The model's configuration; ``n_vocab`` is used.

    Raises
    ------
    TokenizerError
        There are no tokenizer files (and the vocabulary is not GPT-2's size); or they are damaged, contradict
        each other or the model, or need ``tokenizers``, which is not installed.
    """
    directory = Path(directory)
    found = read_description(directory)
    if found is None:
        return _without_files(directory, config.n_vocab)
    description, where = found
    try:
        vocabulary = compile_vocabulary(description, where)
    except NotExact as reason:
        return _run_by_tokenizers(description, where, str(reason), config.n_vocab)
    return BPETokenizer(vocabulary, name=where, kind="byte-level BPE (tiktoken)", n_ids=config.n_vocab)


def _without_files(directory: Path, n_vocab: int) -> Tokenizer:
    foreign = [name for name in FOREIGN_FILES if (directory / name).is_file()]
    if not foreign and n_vocab == gpt2_tokenizer().n_vocab:
        return gpt2_tokenizer()
    what = f"only {', '.join(foreign)}, which gpt2c cannot read" if foreign else "no tokenizer files"
    raise TokenizerError(
        f"{directory} has {what}; needed is tokenizer.json, or vocab.json and merges.txt. Without them, give "
        "prompts as token ids, or a tokenizer with tokenizer="
    )


def _run_by_tokenizers(description: dict[str, Any], where: str, reason: str, n_vocab: int) -> Tokenizer:
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError(
            f"{where}: tiktoken cannot reproduce this tokenizer exactly: {reason}. Install the library that "
            'can: pip install "gpt2c[tokenizers]"; or give another tokenizer with tokenizer='
        ) from None
    try:
        found = tokenizers.Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # the library raises no narrower class
        raise TokenizerError(f"{where}: the tokenizers library refuses it: {error}") from None
    found.no_truncation()  # transformers decides both anew in every call, too
    found.no_padding()
    for entry in description["added_tokens"]:
        if found.token_to_id(entry["content"]) != entry["id"]:
            raise TokenizerError(
                f"{where}: the added token {shown(entry['content'])} has the id {entry['id']}, not the next"
            )
    tokenizer = as_tokenizer(found, name=where, n_vocab=n_vocab)
    tokenizer.description = description
    return tokenizer


def unpack(packed: dict[str, Any], where: str, n_vocab: int) -> Tokenizer:
    """The tokenizer that `Tokenizer.packed` has put in words, for a model of ``n_vocab`` tokens.

    Raises
    ------
    TokenizerError
        The words are damaged, do not belong to the model, or need ``tokenizers``, which is not installed.
    """
    if "tokenizers" in packed:
        return _run_by_tokenizers(packed["tokenizers"], where, "see its original files", n_vocab)
    try:
        tokens = [token.encode("latin-1") for token in packed["tokens"].split(SEPARATOR)]
        every = range(len(tokens))
        in_order = isinstance(packed["ids"], int)
        ids = every[: packed["ids"]] if in_order else [operator.index(index) for index in packed["ids"]]
        prefix = [operator.index(index) for index in packed["prefix"]]
        added = [AddedToken(*token) for token in packed["added"]]
        asked = [packed["ids"] - 1] if in_order else ids
        if not all(index in every for index in (*asked, *prefix, *(token.id for token in added))):
            raise IndexError("an id is outside the vocabulary")
        ranks = {tokens[i]: rank for rank, i in enumerate(ids)}
        ids = list(ids)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"the vocabulary in {where} is damaged: {error}") from None
    vocabulary = Vocabulary(tokens, ranks, ids, added, prefix)
    return BPETokenizer(vocabulary, name=where, kind="byte-level BPE (tiktoken)", n_ids=n_vocab)


@lru_cache(maxsize=1)
def gpt2_tokenizer() -> Tokenizer:
    """OpenAI's GPT-2 vocabulary of 50,257 tokens, from the package."""
    name, kind = "GPT-2's vocabulary, bundled with gpt2c", "byte-level BPE (tiktoken)"
    return BPETokenizer(gpt2_vocabulary(), name=name, kind=kind)


def as_tokenizer(obj: Any, *, name: str | None = None, n_vocab: int | None = None) -> Tokenizer:
    """Wrap any object that has ``encode(text)`` and ``decode(ids)``.

    Objects of tiktoken, tokenizers and transformers are known, and treated so that special tokens in the text
    are ordinary text unless allowed. Of any other object its own rules apply, whatever ``allow_special``
    says.

    Parameters
    ----------
    obj : object
        ``encode`` must give ids in a list, tuple or array (or in ``.ids``), ``decode`` must give a str.
        A `Tokenizer` is returned as it is.
    name : str, optional
        See `Tokenizer`; by default the class of the object.
    n_vocab : int, optional
        The number of ids that the model has; encoding to others is then an error.

    Raises
    ------
    TypeError
        The object lacks one of the methods.
    """
    if isinstance(obj, Tokenizer):
        return obj
    from ._tokenizer_foreign import ForeignTokenizer

    return ForeignTokenizer(obj, name=name, n_vocab=n_vocab)


class BPETokenizer(Tokenizer):
    """A byte-level BPE that tiktoken runs; made by `load_tokenizer` and `gpt2_tokenizer`.

    Parameters
    ----------
    vocabulary : Vocabulary
    name, kind : str
        See `Tokenizer`.
    n_ids : int, optional
        How many ids the model has, if that is not the size of the vocabulary. `encode` gives no id that the
        model lacks; `decode` takes every id that it has.

    Raises
    ------
    TokenizerError
        The model lacks ids that ordinary text needs.
    """

    def __init__(self, vocabulary: Vocabulary, *, name: str, kind: str, n_ids: int | None = None) -> None:
        self.name, self.kind = name, kind
        self._vocabulary = vocabulary
        self.n_vocab = len(vocabulary.tokens)
        self.special_tokens = {token.text: token.id for token in vocabulary.added if token.special}
        self._tokens, self._ranks, self._ids = vocabulary.tokens, vocabulary.ranks, vocabulary.ids
        self._prefix = tuple(vocabulary.prefix)
        self._added = {token.text: token.id for token in vocabulary.added}
        ordinary = [token for token in vocabulary.added if not token.special]
        self._patterns = {False: _patterns(ordinary), True: _patterns(vocabulary.added)}
        self._n_ids = self.n_vocab if n_ids is None else n_ids

        if max(self._ids) >= self._n_ids:
            raise TokenizerError(
                f"{name}: this vocabulary has ids up to {max(self._ids)}, but the model's end at "
                f"{self._n_ids - 1}: the tokenizer files belong to another model"
            )
        self._check(self._prefix)

    @cached_property
    def _tiktoken(self) -> Any:
        import tiktoken  # not at the top: only encode() needs it, and importing it takes longer than all else

        return tiktoken.Encoding("gpt2c", pat_str=GPT2_SPLIT, mergeable_ranks=self._ranks, special_tokens={})

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        check_text(text)
        ids = list(self._prefix)
        pieces: list[str | int] = [text] if text else []
        for pattern in self._patterns[bool(allow_special)]:
            pieces = [part for piece in pieces for part in self._cut_out(pattern, piece)]
        for piece in pieces:
            if isinstance(piece, int):
                self._check([piece])
                ids.append(piece)
            else:
                for part in _without_long_runs(piece):
                    ids += [self._ids[rank] for rank in self._encode_ordinary(part)]
        return ids

    encode.__doc__ = Tokenizer.encode.__doc__

    def token_bytes(self, token_id: int) -> bytes:
        index = operator.index(token_id)
        if 0 <= index < self.n_vocab:
            return self._tokens[index]
        if 0 <= index < self._n_ids:
            return b""  # rows that only pad the model's embedding
        last = max(self.n_vocab, self._n_ids) - 1
        raise ValueError(f"token id {index} is outside the vocabulary: 0 to {last} are allowed")

    token_bytes.__doc__ = Tokenizer.token_bytes.__doc__

    def packed(self) -> dict[str, Any]:
        v = self._vocabulary
        in_order = v.ids == list(range(len(v.ids)))
        return {
            "tokens": SEPARATOR.join(token.decode("latin-1") for token in v.tokens),
            "ids": len(v.ids) if in_order else v.ids,
            "added": [list(token) for token in v.added],
            "prefix": v.prefix,
        }

    packed.__doc__ = Tokenizer.packed.__doc__

    def _cut_out(self, pattern: re.Pattern[str], piece: str | int) -> Iterator[str | int]:
        """The parts of a text between the matches of a pattern, and the matches as ids."""
        if isinstance(piece, int):
            yield piece
            return
        for index, part in enumerate(pattern.split(piece)):
            if index % 2:
                yield self._added[part]
            elif part:
                yield part

    def _encode_ordinary(self, text: str) -> list[int]:
        """Ranks of a text's tokens."""
        try:
            return self._tiktoken.encode_ordinary(text)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's; not an Exception, and not to be imported
                raise
            raise TokenizerError(f"tiktoken failed on a text of {len(text)} characters: {error}") from None

    def _check(self, ids: Iterable[int]) -> None:
        for index in ids:
            if index >= self._n_ids:
                raise TokenizerError(
                    f"the token {shown(self._tokens[index].decode())} has the id {index}, but the model's "
                    f"end at {self._n_ids - 1}: its embedding was not resized when the token was added"
                )


def _patterns(added: list[AddedToken]) -> list[re.Pattern[str]]:
    """Patterns that cut added tokens out of a text, for use in turn; of several matches the longest wins."""
    groups = ([token.text for token in added if token.late == late] for late in (False, True))
    ordered = (sorted(group, key=len, reverse=True) for group in groups if group)
    return [re.compile(f"({'|'.join(map(re.escape, group))})") for group in ordered]


def _without_long_runs(text: str) -> Iterator[str]:
    """Cut a text where GPT-2's rule cuts very long runs of white space anyway: before a run's last character.

    If something follows a run, the rule makes its last character the beginning of that, or a piece of its
    own, and all before it one piece. A run at the end of a text is one piece, too; so both parts of the text
    are split as they are within the whole.
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
