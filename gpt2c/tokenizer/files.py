"""The tokenizer files of a model directory, read into one form: that of ``tokenizer.json``.

Supported are ``tokenizer.json``; ``vocab.json`` + ``merges.txt``, also under OpenAI's names; ``vocab.txt``
(BertTokenizer's WordPiece); and SentencePiece models. Each may come with ``tokenizer_config.json``,
``special_tokens_map.json`` and ``added_tokens.json``. All are read as transformers 4.57 reads them; see
`classes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TokenizerError, shown
from .classes import BERT, Settings, apply_class, content, template
from .merges import from_vocab_and_merges
from .reading import read_bytes, read_json, read_text
from .spm import from_sentencepiece
from .wordpiece import from_vocab_txt

__all__ = ["FILES", "META", "OPENAI_PAIR", "PAIR", "SENTENCEPIECE", "pair_of", "read_description"]

SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "spm.model")
PAIR = ("vocab.json", "merges.txt")
OPENAI_PAIR = ("encoder.json", "vocab.bpe")
"""The same two files under OpenAI's names."""
FILES = ("tokenizer.json", *PAIR, "vocab.txt", *SENTENCEPIECE, *OPENAI_PAIR)
"""The files that may hold a vocabulary, in order of preference."""

META = "meta.pkl"
"""nanoGPT's table of characters, which checkpoint/nanogpt.py reads."""

_CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "distilbert": "DistilBertTokenizer",
}
"""Classes of models other than GPT-2, by model_type."""

_FLAGS = ("single_word", "lstrip", "rstrip")


class _Later(NamedTuple):
    """A token named in the files beside the vocabulary."""

    text: str
    id: int | None
    flags: dict[str, Any]
    wins: bool
    """Whether its flags override those in the vocabulary's file."""


class Description(NamedTuple):
    """The content of a model's tokenizer files."""

    content: dict[str, Any]
    """The content of ``tokenizer.json``, read or made from the other files."""
    where: str
    """The name for messages."""
    bos: str | None
    """The beginning-of-text token, if the settings name one."""
    eos: str | None
    """The end-of-text token, if they name one."""
    mask: str | None
    """The mask token, if they name one."""
    takes_bos: bool
    """Whether ``add_bos_token`` puts a bos token before every text, as it does without a tokenizer.json."""


def read_description(source: Path) -> Description | None:
    """Read the tokenizer files of a directory, or one file with the settings beside it.

    Returns
    -------
    Description or None
        None when the directory has no tokenizer files.

    Raises
    ------
    TokenizerError
        A file cannot be read or is damaged, or the files contradict each other, or need rules that gpt2c does
        not have or a package that is not installed.
    """
    directory = source if source.is_dir() else source.parent
    config = read_json(directory / "tokenizer_config.json", default={})
    names = {}
    if config.get("added_tokens_decoder") is None:
        names = read_json(directory / "special_tokens_map.json", default={})
    name = config.get("tokenizer_class")
    model: dict[str, Any] = {}
    if name is None and (directory / "config.json").is_file():
        model = read_json(directory / "config.json")
        name = model.get("tokenizer_class")
    given = config | names
    first, more = (one.get("additional_special_tokens") for one in (config, names))
    if isinstance(first, list) and isinstance(more, list):  # the only setting whose two values add up
        given["additional_special_tokens"] = [*first, *(token for token in more if token not in first)]
    settings = Settings.of(name, given, directory)
    path = _vocabulary_file(directory, settings) if source.is_dir() else source
    if path is None:
        return None
    if not settings.tokenizer_class:
        settings = _usual_class(path, given, model.get("model_type"))
    if pair_of(path):
        settings = settings.of_slow()
    later = _later_tokens(directory, config, settings)
    description, where = _read(path, settings, {token.text for token in later})
    ids = _merge_added(description, later, where)
    _add_post_processor(description, path, settings, ids)
    apply_class(description, settings, ids)
    bos, eos, mask = (content(settings.values.get(f"{name}_token")) for name in ("bos", "eos", "mask"))
    takes_bos = bool(pair_of(path)) and settings.family == "GPT2"
    return Description(description, where, bos, eos, mask, takes_bos)


def _vocabulary_file(directory: Path, settings: Settings) -> Path | None:
    """The file to read; among several without tokenizer.json, the class's own comes first."""
    there = [directory / name for name in FILES if (directory / name).is_file()]
    own = {"T5": SENTENCEPIECE, "GPTSw3": SENTENCEPIECE, **dict.fromkeys(BERT, ("vocab.txt",))}
    its = own.get(settings.family, ())
    first = its if settings.family == "GPTSw3" else ("tokenizer.json",)  # it cannot read tokenizer.json
    there.sort(key=lambda path: (path.name not in first, path.name not in its))
    return there[0] if there else None


def pair_of(path: Path) -> tuple[str, str] | None:
    """The names of both files of a pair, if this is one of them."""
    return next((pair for pair in (PAIR, OPENAI_PAIR) if path.name in pair), None)


def _usual_class(path: Path, given: dict[str, Any], model_type: Any) -> Settings:
    """The class for files that name none: as in transformers the model's, if it reads such files.

    For a GPT-2 transformers then reads only vocab.json and tokenizer.json.
    """
    for model, name in _CLASSES.items():
        if model == model_type and (name == "RobertaTokenizer" or not pair_of(path)):
            return Settings.of(name, given)
    if path.suffix == ".model":
        return Settings.of("T5Tokenizer", {"extra_ids": 0} | given)
    wordpiece = path.suffix == ".txt" and not pair_of(path)
    return Settings.of("BertTokenizer" if wordpiece else None, given)


def _read(path: Path, settings: Settings, added: set[str]) -> tuple[dict[str, Any], str]:
    """The description in one file (or two), without the additions of the class and other files; its name."""
    where, directory = str(path), path.parent
    if path.suffix == ".model":
        return from_sentencepiece(read_bytes(path), settings, where), where
    if (pair := pair_of(path)) is not None:
        vocab, merges = (directory / name for name in pair)
        for needed in (vocab, merges):
            if not needed.is_file():
                raise TokenizerError(f"{needed} is missing: a GPT-2 tokenizer needs {' and '.join(pair)}")
        where = f"{directory} ({', '.join(pair)})"
        return from_vocab_and_merges(read_json(vocab), read_text(merges), settings, added, where), where
    if path.suffix == ".txt":
        return from_vocab_txt(read_text(path), settings, where), where
    return read_json(path), where


def _add_post_processor(
    description: dict[str, Any], path: Path, settings: Settings, ids: dict[str, int]
) -> None:
    """What the class puts before and after a text, where no tokenizer.json specifies it."""
    values = settings.values
    if path.suffix == ".model" and settings.family == "T5":
        description["post_processor"] = template([], ["</s>"] if "</s>" in ids else [], ids)
    elif path.suffix == ".txt" and not pair_of(path):
        named = [values.get("cls_token") or "[CLS]"], [values.get("sep_token") or "[SEP]"]
        description["post_processor"] = template(*named, ids)
    elif pair_of(path) and settings.family == "GPT2":
        if values.get("add_bos_token"):
            description["post_processor"] = template([values.get("bos_token")], [], ids)
    elif pair_of(path):
        tokens = [content(values.get(name)) or "" for name in ("sep_token", "cls_token")]
        pairs = {name: [text, ids.get(text)] for name, text in zip(("sep", "cls"), tokens, strict=True)}
        flags = {"trim_offsets": True, "add_prefix_space": False}
        description["post_processor"] = {"type": "RobertaProcessing", **pairs, **flags}


def _later_tokens(directory: Path, config: dict[str, Any], settings: Settings) -> list[_Later]:
    """The tokens that transformers adds to those in the vocabulary's file.

    They come from ``added_tokens_decoder``, or else from ``added_tokens.json``; then come those that the
    settings name as bos_token and so on, which makes them special.
    """
    where = directory / "tokenizer_config.json"
    decoder = config.get("added_tokens_decoder")
    legacy = decoder is None
    if legacy:
        where = directory / "added_tokens.json"
        entries = [(index, text) for text, index in read_json(where, default={}).items()]
        if settings.family == "GPTSw3":  # it reads the added tokens of a tokenizer.json, too
            other = read_json(directory / "tokenizer.json", default={}).get("added_tokens")
            listed = other if isinstance(other, list) else []
            entries += [(token.get("id"), token) for token in listed if isinstance(token, dict)]
    elif isinstance(decoder, dict):
        entries = list(decoder.items())
    else:
        raise TokenizerError(f"{where}: added_tokens_decoder must be an object, not {shown(decoder)}")
    found: dict[str, _Later] = {}
    for key, token in entries:
        index = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 10 else key
        text = content(token)
        if not text or type(index) is not int or index < 0:
            raise TokenizerError(f"{where}: an added token needs a text and an id, not {shown([key, token])}")
        if text in found and found[text].id != index:
            raise _two_ids(str(where), text, found[text].id, index)
        found[text] = _Later(text, index, token if isinstance(token, dict) else {}, wins=not legacy)
    found = dict(sorted(found.items(), key=lambda item: item[1].id or 0))
    for token in settings.special_tokens():
        text = content(token) or ""
        known = found.get(text, _Later(text, None, token if isinstance(token, dict) else {}, wins=False))
        found[text] = known._replace(flags=known.flags | {"special": True})
    return list(found.values())


def _merge_added(description: dict[str, Any], later: list[_Later], where: str) -> dict[str, int]:
    """Complete the description's list of added tokens; returns the ids of all its tokens.

    A listed token keeps its id; a new one gets the id that the vocabulary has for it, or the next one.
    """
    listed = description.get("added_tokens") or []
    if not isinstance(listed, list):
        raise TokenizerError(f"{where}: the added tokens must be a list, not {shown(listed)}")
    vocab = _vocabulary(description)
    found: dict[str, dict[str, Any]] = {}
    for entry in listed:
        text, index = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or not text or type(index) is not int or index < 0:
            raise TokenizerError(f"{where}: an added token needs a text and an id, not {shown(entry)}")
        if text in found and found[text]["id"] != index:
            raise _two_ids(where, text, found[text]["id"], index)
        found[text] = entry
    last = max((entry["id"] for entry in found.values()), default=-1)
    for text, index, flags, wins in later:
        known = found.get(text, {})
        following = max(len(vocab), last + 1)
        has = known.get("id", vocab.get(text, following))
        if type(has) is not int:
            raise TokenizerError(f"{where}: the id of {shown(text)} must be an integer, not {shown(has)}")
        if index not in (None, has):
            if has == following:
                raise TokenizerError(
                    f"{where}: the added token {shown(text)} has the id {index}; {has} is next"
                )
            raise _two_ids(where, text, has, index)
        special = bool(flags.get("special", known.get("special")))
        usual = dict.fromkeys(_FLAGS, False) | {"normalized": not special}
        said = known if known and not wins else flags
        said = {name: bool(said[name]) for name in usual if name in said}
        found[text] = {"id": has, "content": text} | usual | said | {"special": special}
        last = max(last, has)
    description["added_tokens"] = sorted(found.values(), key=lambda entry: entry["id"])
    return vocab | {text: entry["id"] for text, entry in found.items()}


def _vocabulary(description: dict[str, Any]) -> dict[str, int]:
    """The tokens of a description's model and their ids."""
    model = description.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # a Unigram's, by id: [token, score]
        return dict(_numbered(vocab))
    return vocab if isinstance(vocab, dict) else {}


def _numbered(vocab: list[Any]) -> Iterator[tuple[str, int]]:
    for index, piece in enumerate(vocab):
        if isinstance(piece, list) and piece and isinstance(piece[0], str):
            yield piece[0], index


def _two_ids(where: str, text: str, one: Any, other: Any) -> TokenizerError:
    return TokenizerError(f"{where}: the token {shown(text)} has two ids, {one} and {other}")
