"""Byte-level BPE vocabularies: compiled from a tokenizer's description, where tiktoken reproduces it exactly.

A description is the content of a ``tokenizer.json`` (vocab.json + merges.txt are first converted to that
form, see ``files``). If it asks for something that tiktoken does not do, `compile_vocabulary` raises
`NotExact`.

When is tiktoken exact? Of the neighbours in a word it joins those whose *concatenation* has the lowest rank,
while a BPE names the *pairs* it joins. The two agree if for every merge, "x y -> xy", in order:

1. no other merge makes the token xy;
2. x and y are single bytes or made by earlier merges;
3. the bytes of xy, by the earlier merges alone, become x and y.

Why this is enough: by 2, merges are applied in ascending order; and the bytes between two boundaries that no
merge has crossed were merged as if they were alone. So whenever two neighbours spell a token xy, 3 says that
they are x and y if that merge is still to come, and that they would already be one if its turn were past. For
the same reason a word that is a token (tiktoken looks that up first) becomes that token. Training yields only
such vocabularies, since it merges pairs just seen as neighbours; one made or edited by hand may break the
rules, and is refused.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TokenizerError, shown
from .postprocessor import Around, read_post_processor, steps

__all__ = [
    "BYTE_CHARS",
    "GPT2_SPLIT",
    "AddedToken",
    "NotExact",
    "Vocabulary",
    "check_unique",
    "compile_vocabulary",
    "gpt2_vocabulary",
    "spelled",
    "written",
]

# GPT-2's rule for cutting a text into words, in tiktoken's possessive form: same matches, no backtracking.
GPT2_SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_GPT2_SPLIT_AS_PUBLISHED = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# GPT-2's files write every byte as one printable character; this is also the order of the 256 byte tokens.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE_ORDER = [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]
_BYTE_CHARS = [*map(chr, _PRINTABLE), *(chr(0x100 + index) for index in range(256 - len(_PRINTABLE)))]
BYTE_CHARS = frozenset(_BYTE_CHARS)
_FROM_BYTES = "".join(char for _, char in sorted(zip(_BYTE_ORDER, _BYTE_CHARS, strict=True)))
_TO_BYTES = codecs.charmap_build(_FROM_BYTES)


# More than any vocabulary has; a larger id would only waste memory.
_LARGEST_ID = 2**22


class NotExact(Exception):
    """The description is sound, but tiktoken would not reproduce it; the message says why."""


class AddedToken(NamedTuple):
    """A token that is cut out of the text before the BPE sees it."""

    text: str
    id: int
    special: bool
    """Whether it has a meaning beyond its text, like <|endoftext|>."""
    late: bool
    """Whether it is looked for after the others ("normalized" in the files)."""
    lstrip: bool = False
    """Whether it takes in the white space before it."""
    rstrip: bool = False
    """Whether it takes in the white space after it."""


class Vocabulary(NamedTuple):
    """The data for encoding and decoding."""

    tokens: list[bytes]
    """The bytes of every token, by id."""
    ranks: dict[bytes, int]
    """The tokens that the BPE makes -> their index in merge order, bytes first."""
    ids: list[int]
    """The id of every rank."""
    added: list[AddedToken]
    around: Around
    """What the tokenizer puts before and after a text."""


def gpt2_vocabulary() -> Vocabulary:
    """OpenAI's GPT-2 vocabulary, from the file in the package (see data/make_gpt2_ranks.py)."""
    made = (Path(__file__).parent.parent / "data" / "gpt2" / "ranks.bin").read_bytes().split(b"\0")
    tokens = [*(bytes([byte]) for byte in _BYTE_ORDER), *made]
    ranks = dict(zip(tokens, range(len(tokens)), strict=True))
    end = AddedToken("<|endoftext|>", len(tokens), special=True, late=False)
    return Vocabulary([*tokens, b"<|endoftext|>"], ranks, list(range(len(tokens))), [end], Around())


def compile_vocabulary(description: dict[str, Any], where: str) -> Vocabulary:
    """Check the description of a tokenizer and make it ready for tiktoken.

    Parameters
    ----------
    description : dict
        The content of ``tokenizer.json``.
    where : str
        The file or directory, for messages.

    Raises
    ------
    NotExact
        tiktoken would give other tokens, or cannot be shown to give the same.
    TokenizerError
        The description contradicts itself.
    """
    model = description.get("model")
    if not isinstance(model, dict):
        raise TokenizerError(f'{where} is not a tokenizer.json: it has no "model"')
    around = read_post_processor(description.get("post_processor"), where)
    _require_plain(description, model)
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise TokenizerError(f"{where}: a BPE needs a vocabulary (token -> id) and a list of merges")

    _check_ids(vocab, where)
    ranks = _rank_merges(vocab, _pairs(merges, where), where)
    tokens = [b""] * (max(vocab.values()) + 1)
    for token, index in vocab.items():
        tokens[index] = spelled(token, where)
    added = _added_tokens(description.get("added_tokens") or [], vocab, ranks, tokens, where)
    if model.get("ignore_merges"):
        extra = vocab.keys() - ranks - {token.text for token in added}
        if extra:
            raise NotExact(f"it has ignore_merges, and no merge makes the token {shown(min(extra))}")
    for index in around.prefix + around.suffix:
        if index >= len(tokens):
            raise TokenizerError(f"{where}: the post_processor adds the unknown id {index}")
    return Vocabulary(
        tokens,
        {tokens[vocab[token]]: rank for token, rank in ranks.items()},
        [vocab[token] for token in ranks],
        added,
        around,
    )


def _require_plain(description: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse anything but plain byte-level BPE with GPT-2's splitting."""
    kind = model.get("type", "BPE")  # old files of GPT-2 have no type
    if kind != "BPE":
        raise NotExact(f"its model is {shown(kind)}, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise NotExact(f"it sets {name} = {shown(model[name])}")
    if description.get("normalizer") is not None:
        raise NotExact("it has a normalizer")

    pre = steps(description.get("pre_tokenizer"), "pretokenizers")
    split = {
        "type": "Split",
        "pattern": {"Regex": _GPT2_SPLIT_AS_PUBLISHED},
        "behavior": "Isolated",
        "invert": False,
    }
    splits_before = pre[:1] == [split]
    step = pre[-1] if len(pre) == 1 + splits_before else {}
    if step.get("type") != "ByteLevel" or bool(step.get("use_regex", True)) == splits_before:
        raise NotExact("its pre_tokenizer is not GPT-2's byte-level one")
    if step.get("add_prefix_space", True):
        raise NotExact("it puts a space before every text (add_prefix_space)")
    if [step.get("type") for step in steps(description.get("decoder"), "decoders")] != ["ByteLevel"]:
        raise NotExact("its decoder is not the byte-level one")


def _check_ids(vocab: dict[str, Any], where: str) -> None:
    """Check ids: integers of at least 0, each once; a missing one has no text."""
    if set(map(type, vocab.values())) != {int}:
        raise TokenizerError(
            f"{where}: the ids of the vocabulary must be integers, and at least one is needed"
        )
    check_unique(vocab, where)
    ids = vocab.values()
    if min(ids) < 0 or max(ids) > _LARGEST_ID:
        outside = min(ids) if min(ids) < 0 else max(ids)
        raise TokenizerError(f"{where}: a token has the id {outside}; allowed: 0 to {_LARGEST_ID}")


def check_unique(vocab: dict[str, int], where: str) -> None:
    """Refuse a vocabulary in which two tokens have one id."""
    if len(set(vocab.values())) < len(vocab):
        owner: dict[int, str] = {}
        for token, index in vocab.items():
            if owner.setdefault(index, token) != token:
                raise TokenizerError(
                    f"{where}: {shown(owner[index])} and {shown(token)} both have the id {index}"
                )


def _pairs(merges: list[Any], where: str) -> Iterator[tuple[str, str]]:
    """The merges, each written as "a b" or as ["a", "b"]."""
    for number, merge in enumerate(merges, 1):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TokenizerError(f"{where}: merge {number} must name two tokens, not {shown(merge)}")
        yield pair[0], pair[1]


def _rank_merges(vocab: dict[str, Any], merges: Iterator[tuple[str, str]], where: str) -> dict[str, int]:
    """The rank of every token that the BPE can make, 256 bytes first; checks the rules above."""
    ranks = {char: rank for rank, char in enumerate(_BYTE_CHARS)}
    lacking = [char for char in _BYTE_CHARS if char not in vocab]
    if lacking:
        raise NotExact(
            f"its vocabulary lacks {len(lacking)} of the 256 bytes, the first is {shown(lacking[0])}"
        )
    left, right = list(range(256)), list(range(256))  # the parts of every rank; a byte is its own
    made: dict[tuple[int, int], int] = {}
    for rank, (a, b) in enumerate(merges, 256):
        x, y, token = ranks.get(a), ranks.get(b), a + b
        if x is None or y is None or token in ranks or token not in vocab:
            name = f"merge {rank - 255}, {shown(a)} + {shown(b)},"
            for part in (a, b, token):
                if part not in vocab:
                    raise TokenizerError(
                        f"{where}: {name} needs the token {shown(part)}, which is not in the vocabulary"
                    )
            why = "makes a token a second time" if token in ranks else "joins what no earlier merge makes"
            raise NotExact(f"{name} {why}")
        if not _neighbours(x, y, rank, left, right, made):
            raise NotExact(f"merge {rank - 255}, {shown(a)} + {shown(b)}, is hidden by an earlier one")
        ranks[token] = made[x, y] = rank
        left.append(x)
        right.append(y)
    return ranks


def _neighbours(
    x: int, y: int, limit: int, left: list[int], right: list[int], made: dict[tuple[int, int], int]
) -> bool:
    """Whether the bytes of x and y, merged together by the merges below ``limit``, become exactly x and y.

    From (x, y) we go back in time, undoing the later of the two merges beside the boundary. At no moment may
    the two tokens there be a pair whose turn comes before ``limit``, the merge that happened to one of them
    next. Of equal pairs that overlap, the left one is merged.
    """
    while True:
        if made.get((x, y), limit) < limit:
            return False
        if max(x, y) < 256:
            return True
        if x > y:
            limit, x = x, right[x]
        else:
            limit, y = y + 1, left[y]


def spelled(token: str, where: str) -> bytes:
    """The bytes of a token as the vocabulary writes it; characters outside GPT-2's alphabet are kept."""
    try:
        return codecs.charmap_encode(token, "strict", _TO_BYTES)[0]
    except UnicodeEncodeError:
        return _utf8(token, where)


def written(token: bytes) -> str:
    """The bytes of a token as GPT-2's files write them; `spelled` gives them back."""
    return codecs.charmap_decode(token, "strict", _FROM_BYTES)[0]


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError(f"{where}: the token {shown(text)} is not valid Unicode") from None


def _added_tokens(
    entries: Any, vocab: dict[str, int], ranks: dict[str, int], tokens: list[bytes], where: str
) -> list[AddedToken]:
    """The added tokens; those that are not in the vocabulary are appended to ``tokens``."""
    added = []
    next_id = len(vocab)
    for entry in entries:
        text, index = entry["content"], entry["id"]
        if entry.get("single_word"):
            raise NotExact(f"its added token {shown(text)} has single_word")
        if text not in vocab:
            if index != next_id or (index < len(tokens) and tokens[index]):
                raise TokenizerError(
                    f"{where}: the added token {shown(text)} has the id {index}; {next_id} is next"
                )
            tokens += [b""] * (index + 1 - len(tokens))
        elif vocab[text] != index:
            raise TokenizerError(
                f"{where}: {shown(text)} has the id {vocab[text]} in the vocabulary, {index} as added"
            )
        tokens[index] = spelled(text, where)
        # Special ones that the BPE also makes are exempt: they are rarely recognized in a text.
        if tokens[index] != _utf8(text, where) and not (text in ranks and entry.get("special")):
            raise NotExact(f"its added token {shown(text)} is not decoded to its own text")
        next_id = max(next_id, index + 1)
        flags = (bool(entry.get(name)) for name in ("special", "normalized", "lstrip", "rstrip"))
        added.append(AddedToken(text, index, *flags))
    return added
