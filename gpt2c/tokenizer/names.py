"""Which tokens a model's files name as the beginning and the end of a text."""

from __future__ import annotations

from pathlib import Path

from .classes import Settings, content
from .files import SENTENCEPIECE
from .reading import read_json

__all__ = ["beginning_and_end"]


def beginning_and_end(source: Path, special_tokens: dict[str, int]) -> tuple[int | None, int | None]:
    """The ids of the bos and the eos token, None for one that is not named.

    As AutoTokenizer of transformers 4.57 reports them: ``special_tokens_map.json`` comes before
    ``tokenizer_config.json`` unless that lists the added tokens itself, a null there names none, and what
    neither file mentions has the default of the tokenizer's class, which for GPT-2's is ``<|endoftext|>``.

    Parameters
    ----------
    source : Path
        The directory with the files, or one of them.
    special_tokens : dict of str to int
        Those of the tokenizer that was made from them.
    """
    directory = source if source.is_dir() else source.parent
    given = read_json(directory / "tokenizer_config.json", default={})
    if given.get("added_tokens_decoder") is None:
        given |= read_json(directory / "special_tokens_map.json", default={})
    name = given.get("tokenizer_class")
    if name is None:
        name = read_json(directory / "config.json", default={}).get("tokenizer_class")
    if not name:
        name = _class_of_files(source)
    values = Settings.of(name, given, directory).values
    texts = (content(values.get(key)) or "" for key in ("bos_token", "eos_token"))
    bos, eos = map(special_tokens.get, texts)
    return bos, eos


def _class_of_files(source: Path) -> str | None:
    """The class for files that name none: GPT-2's, None, unless there is another's vocabulary alone."""
    names = {path.name for path in source.iterdir()} if source.is_dir() else {source.name}
    if names & {"tokenizer.json", "vocab.json", "merges.txt"}:
        return None
    if "vocab.txt" in names:
        return "BertTokenizer"
    return "T5Tokenizer" if names & {*SENTENCEPIECE} else None
