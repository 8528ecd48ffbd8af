"""Finding a tokenizer: with a model, in a packed file, in the package, or an object of another library."""

from __future__ import annotations

import operator
from copy import copy
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TokenizerError, shown
from .base import Tokenizer
from .bpe import SEPARATOR, BPETokenizer
from .characters import CharacterTokenizer
from .postprocessor import Around
from .vocabulary import AddedToken, NotExact, Vocabulary, compile_vocabulary, gpt2_vocabulary

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["as_tokenizer", "gpt2_tokenizer", "load_tokenizer", "made_from", "unpack"]

_KIND = "byte-level BPE (tiktoken)"
# GPT-2's vocabulary, and its size in embeddings that trainers pad to a multiple of 64 or 128.
_GPT2_SIZES = (50_257, 50_304)


def load_tokenizer(directory: str | Path, config: Config) -> Tokenizer:
    """The tokenizer in a model's directory.

    It is read from ``tokenizer.json``, ``vocab.json`` + ``merges.txt``, ``vocab.txt`` (WordPiece), a
    SentencePiece model or OpenAI's ``encoder.json`` + ``vocab.bpe``, whichever comes first in this order,
    with the settings and added tokens in ``tokenizer_config.json``, ``special_tokens_map.json`` and
    ``added_tokens.json``, and the chat template. Without any vocabulary, a model with 50,257 tokens, or
    50,304 after padding, gets GPT-2's. Byte-level BPE needs only tiktoken; files that ask for something
    tiktoken does not reproduce exactly are run by ``tokenizers``, if it is installed.

    Parameters
    ----------
    directory : path
        Contains the tokenizer files; or one of them, with the settings beside it.
    config : Config
        The model's configuration; ``n_vocab`` is used.

    Raises
    ------
    TokenizerError
        There are no tokenizer files (and the vocabulary is not GPT-2's size); or they are damaged, contradict
        each other or the model, or need ``tokenizers``, which is not installed.
    """
    directory = Path(directory)
    # Imported here because packed models do not need them.
    from .chat_template import read_chat_template
    from .files import read_description

    found = read_description(directory)
    template = read_chat_template(directory if directory.is_dir() else directory.parent)
    if found is None:
        tokenizer = _without_files(directory, config.n_vocab)
        if template is not None:
            tokenizer = copy(tokenizer)  # other models share the original
            tokenizer.chat_template = template
        return tokenizer
    tokenizer = made_from(found.content, found.where, config.n_vocab)
    tokenizer.source, tokenizer.chat_template = directory, template
    special, tokenizer.takes_bos = tokenizer.special_tokens, found.takes_bos
    tokenizer.bos_token_id, tokenizer.eos_token_id = (
        special.get(found.bos or ""),
        special.get(found.eos or ""),
    )
    tokenizer.mask_id = special.get(found.mask or "")
    return tokenizer


def made_from(description: dict[str, Any], where: str, n_vocab: int) -> Tokenizer:
    """The tokenizer of a description, run by tiktoken where that is exact."""
    from .gptsw3 import GPTSw3Tokenizer, is_gptsw3

    if is_gptsw3(description):
        return GPTSw3Tokenizer(description, name=where, n_ids=n_vocab)
    if (characters := CharacterTokenizer.of_description(description, where)) is not None:
        return characters
    try:
        vocabulary = compile_vocabulary(description, where)
    except NotExact as reason:
        return _run_by_tokenizers(description, where, str(reason), n_vocab)
    return BPETokenizer(vocabulary, name=where, kind=_KIND, n_ids=n_vocab)


def _without_files(directory: Path, n_vocab: int) -> Tokenizer:
    if n_vocab in _GPT2_SIZES:
        return as_tokenizer(gpt2_tokenizer(), n_vocab=n_vocab)
    raise TokenizerError(
        f"{directory} has no tokenizer files; gpt2c needs tokenizer.json, vocab.json and merges.txt, "
        "vocab.txt, a SentencePiece model or nanoGPT's meta.pkl. Give one with "
        "tokenizer= (--tokenizer); in Python, token ids work without"
    )


def _run_by_tokenizers(description: dict[str, Any], where: str, reason: str, n_vocab: int) -> Tokenizer:
    try:
        import_module("tokenizers")
    except ImportError:
        raise TokenizerError(
            f"{where}: tiktoken cannot reproduce this tokenizer exactly: {reason}. Install the library that "
            'can: pip install "gpt2c[tokenizers]"; or give another with tokenizer= (--tokenizer)'
        ) from None
    from .huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer(description, name=where, n_ids=n_vocab)


def unpack(packed: dict[str, Any], where: str, n_vocab: int) -> Tokenizer:
    """The tokenizer that `Tokenizer.packed` described, for a model of ``n_vocab`` tokens.

    Raises
    ------
    TokenizerError
        The description is damaged, belongs to another model, or needs ``tokenizers``, which is not installed.
    """
    tokenizer: Tokenizer
    if not all(isinstance(packed.get(name, {}), dict) for name in ("tokenizers", "sentencepiece")):
        raise TokenizerError(f"the vocabulary in {where} is damaged: a description must be an object")
    if not isinstance(packed.get("characters", ""), str):
        raise TokenizerError(f"the vocabulary in {where} is damaged: its characters must be a text")
    if "tokenizers" in packed:
        tokenizer = _run_by_tokenizers(packed["tokenizers"], where, "see its original files", n_vocab)
    elif "sentencepiece" in packed:
        from .gptsw3 import GPTSw3Tokenizer

        tokenizer = GPTSw3Tokenizer(packed["sentencepiece"], name=where, n_ids=n_vocab)
    elif "characters" in packed:
        tokenizer = CharacterTokenizer(packed["characters"], name=where)
    else:
        tokenizer = BPETokenizer(_unpacked(packed, where), name=where, kind=_KIND, n_ids=n_vocab)
    for name in ("bos_token_id", "eos_token_id", "mask_id"):
        index = packed.get(name)
        if index is not None and (type(index) is not int or not 0 <= index < tokenizer.n_vocab):
            raise TokenizerError(f"the vocabulary in {where} is damaged: its {name} is {shown(index)}")
        setattr(tokenizer, name, index)
    tokenizer.takes_bos = bool(packed.get("takes_bos"))
    template = packed.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"the vocabulary in {where} is damaged: its chat_template is {shown(template)}")
    tokenizer.chat_template = template
    return tokenizer


def _unpacked(packed: dict[str, Any], where: str) -> Vocabulary:
    """The vocabulary that `BPETokenizer.packed` wrote."""
    try:
        tokens = [token.encode("latin-1") for token in packed["tokens"].split(SEPARATOR)]
        every = range(len(tokens))
        in_order = isinstance(packed["ids"], int)
        ids = every[: packed["ids"]] if in_order else [operator.index(index) for index in packed["ids"]]
        prefix, suffix = (tuple(map(operator.index, packed.get(name, ()))) for name in ("prefix", "suffix"))
        around = Around(prefix, suffix, *(bool(packed.get(name)) for name in ("trims", "spares_first")))
        added = [AddedToken(*token) for token in packed["added"]]
        asked = [packed["ids"] - 1] if in_order else ids
        if not all(index in every for index in (*asked, *prefix, *suffix, *(token.id for token in added))):
            raise IndexError("an id is outside the vocabulary")
        ranks = {tokens[i]: rank for rank, i in enumerate(ids)}
        ids = list(ids)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"the vocabulary in {where} is damaged: {error}") from None
    return Vocabulary(tokens, ranks, ids, added, around)


@lru_cache(maxsize=1)
def gpt2_tokenizer() -> Tokenizer:
    """OpenAI's GPT-2 vocabulary of 50,257 tokens, from the package.

    Examples
    --------
    >>> tokenizer = gpt2c.gpt2_tokenizer()
    >>> tokenizer.encode("The king"), tokenizer.decode([464, 5822])
    ([464, 5822], 'The king')
    """
    tokenizer = BPETokenizer(gpt2_vocabulary(), name="GPT-2's vocabulary, bundled with gpt2c", kind=_KIND)
    tokenizer.bos_token_id = tokenizer.eos_token_id = tokenizer.special_tokens["<|endoftext|>"]
    return tokenizer


def as_tokenizer(obj: Any, *, name: str | None = None, n_vocab: int | None = None) -> Tokenizer:
    """Wrap any object that has ``encode(text)`` and ``decode(ids)``.

    Objects of tiktoken, tokenizers and transformers are recognized: special tokens in the text are ordinary
    text unless allowed. Any other object applies its own rules, regardless of ``special``.

    Parameters
    ----------
    obj : object
        ``encode`` must return ids in a list, tuple or array (or in ``.ids``), ``decode`` a str. A `Tokenizer`
        is returned as it is if it fits ``n_vocab``; otherwise a copy that fits is.
    name : str, optional
        See `Tokenizer`; by default the class of the object.
    n_vocab : int, optional
        The number of ids that the model has; encoding to any other id is an error.

    Raises
    ------
    TypeError
        The object lacks one of the methods.

    Examples
    --------
    >>> class Letters:
    ...     def encode(self, text):
    ...         return [ord(letter) for letter in text]
    ...     def decode(self, ids):
    ...         return "".join(map(chr, ids))
    >>> gpt2c.as_tokenizer(Letters(), n_vocab=128).encode("king")
    [107, 105, 110, 103]
    """
    if isinstance(obj, Tokenizer):
        packed = obj.packed() if n_vocab not in (None, obj.n_vocab) else None
        return obj if packed is None or n_vocab is None else unpack(packed, obj.name, n_vocab)
    from .foreign import wrap

    return wrap(obj, name, n_vocab)
