"""The tokenizer requested with ``tokenizer=`` or ``--tokenizer``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TokenizerError
from ..tokenizer.files import FILES, META
from ..tokenizer.load import as_tokenizer, load_tokenizer
from .files import is_gguf
from .hub import fetch_tokenizer, looks_like_name

if TYPE_CHECKING:
    from ..config import Config
    from ..tokenizer.base import Tokenizer

__all__ = ["find_tokenizer", "tokenizer_at"]

_NAMES = (*FILES, META)
_SUFFIXES = (".json", ".txt", ".model", ".bpe", ".pkl", ".gguf")


def find_tokenizer(given: Any, config: Config, **hub: Any) -> Tokenizer:
    """The given tokenizer, for a model of this configuration.

    Parameters
    ----------
    given : str, path or object
        A directory with tokenizer files; one such file (tokenizer.json, vocab.txt, spiece.model, nanoGPT's
        meta.pkl, a GGUF file), read with the settings beside it; if the path does not exist, the name of a
        model on the Hugging Face hub, from which only the tokenizer is fetched; or an object, see
        `as_tokenizer`.
    config : Config
    hub
        cache_dir, token and local_files_only of `fetch_tokenizer`.

    Raises
    ------
    TokenizerError
        The tokenizer does not exist, cannot be read, or is another model's.
    CheckpointError
        The hub does not have it.
    """
    if not isinstance(given, (str, os.PathLike)):
        return as_tokenizer(given, n_vocab=config.n_vocab)
    path = Path(os.path.expanduser(given))
    if not os.fspath(given) or not path.exists():
        if not isinstance(given, str) or not looks_like_name(given):
            raise TokenizerError(
                f"no file or directory is named {os.fspath(given)!r}: tokenizer takes a directory with "
                f"tokenizer files, one of them ({', '.join(_NAMES)}), or a name on the Hugging Face hub"
            )
        path = fetch_tokenizer(given, **hub)
    if path.is_dir() and not any((path / file).is_file() for file in _NAMES):
        raise TokenizerError(f"{path} has no tokenizer files; it needs one of {', '.join(_NAMES)}")
    if not path.is_dir() and not (path.is_file() and path.suffix in _SUFFIXES):
        raise TokenizerError(
            f"{path} is not a tokenizer file, which ends with {', '.join(_SUFFIXES)}: give that file, or the "
            "directory with the tokenizer's files"
        )
    return tokenizer_at(path, config)


def tokenizer_at(path: Path, config: Config) -> Tokenizer:
    """The tokenizer in a directory, where nanoGPT's meta.pkl comes first, or in such a file or GGUF."""
    if is_gguf(path):
        from .gguf_model import read_gguf_tokenizer  # deferred, as most models are not GGUF

        return read_gguf_tokenizer(path, config.n_vocab)
    meta = path / META if path.is_dir() else path
    if meta.suffix == ".pkl" and meta.exists():
        from .nanogpt import read_meta  # deferred, as most models have none

        return read_meta(meta, config.n_vocab)
    return load_tokenizer(path, config)
