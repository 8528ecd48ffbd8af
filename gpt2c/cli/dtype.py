"""The number format in which `gpt2c score` works: the one named or, with ``--dtype auto``, measured."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from ..checkpoint.packed import packed_path
from ..core import _engine
from .console import note
from .loading import load_any, load_model

if TYPE_CHECKING:
    from ..bert import BERT
    from ..model import GPT2

__all__ = ["load_to_score", "recorded_dtype"]


def load_to_score(arguments: Namespace, directory: str | None = None) -> GPT2 | BERT:
    """Load the model, in a number format that is noted on stderr if the arguments leave it open.

    Parameters
    ----------
    arguments : Namespace
    directory : str, optional
        Where scores of files go; None for a single text, which takes less time than measuring would. If it
        already has scores, their format is used, so that the same command resumes.
    """
    if arguments.dtype != "auto":
        if arguments.max_loss is not None:
            raise ValueError("--max-loss is for --dtype auto, which chooses a format: give both or none")
        return load_any(arguments)
    packed = None if arguments.revision else packed_path(arguments.model)
    known = None if directory is None else recorded_dtype(directory)
    if packed is not None:
        why = f"{packed} has only that format"
    elif arguments.backend != "native":
        why = f"backend {arguments.backend!r} has only that format"
    elif directory is None:
        why = "auto measures formats for files of texts only: one text takes less time than measuring"
    elif known is not None:
        why = f"the format of the scores in {directory}"
    else:
        return _measured(arguments, directory)
    model = _load(arguments, known if packed is None else None)
    note(f"dtype {model.dtype}: {why}")
    return model


def recorded_dtype(directory: str) -> str | None:
    """The number format of the scores in a directory; None if it has no settings that name one."""
    # Deferred, as a single text has none.
    from ..corpus.jobs import recorded

    found = str(recorded(directory).get("numerics")).partition("-")[0]
    return found if found in _engine.DTYPES else None


def _load(arguments: Namespace, dtype: str | None) -> GPT2:
    return load_model(Namespace(**{**vars(arguments), "dtype": dtype}))


def _measured(arguments: Namespace, directory: str) -> GPT2:
    """The model in the fastest format for scoring that costs at most --max-loss."""
    # Deferred, as only this needs the measuring code.
    from ..scoring.comparison import SAMPLE
    from .bench import formats

    note("dtype auto measures number formats: some seconds for small models, half a minute for GPT-2 124M …")
    models = formats.load_formats(lambda dtype: _load(arguments, dtype))
    texts = formats.sample(models["float32"], SAMPLE.read_text(encoding="utf-8"))
    found = formats.measure_formats(models, texts, ("scoring",))
    limit = formats.allowed_loss(found, arguments.max_loss)
    dtype = formats.fastest(found, "scoring", limit).dtype
    # Another process may have started to write there meanwhile.
    known = recorded_dtype(directory)
    if known is not None:
        note(f"dtype {known}: the format of the scores in {directory}")
        return models[known]
    note(
        f"dtype {dtype}: {formats.reason(found, 'scoring', limit)}, on gpt2c's sample text; at most "
        f"{limit:+.3f} % is allowed{'' if arguments.max_loss is not None else ' (see --max-loss)'}"
    )
    for line in formats.disturbed(found):
        note(line)
    return models[dtype]
