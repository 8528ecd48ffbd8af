"""`gpt2c embed`: the vector of a text, or those of files of texts."""

from __future__ import annotations

from argparse import Namespace

from .console import open_output, read_text
from .formatting import print_json
from .loading import load_any
from .text_or_files import FILES_ONLY, names_files, refuse_for_a_text

__all__ = ["run"]

_OPTIONS = ("pooling", "normalize", "max_tokens", "special")


def run(arguments: Namespace) -> None:
    """Print the vector of a text, or write those of files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and names_files(arguments):
        _embed_files(arguments)
    else:
        _embed_text(arguments)


def _embed_files(arguments: Namespace) -> None:
    # Deferred, because a single text does not need them.
    from ..corpus.embedding import EMBEDDINGS, Embedding
    from .corpora import Work, run_files

    options = {name: getattr(arguments, name) for name in _OPTIONS}
    work = Work(
        results="vectors",
        for_a_text="for one text: -f",
        of_a_text=("json",),
        columns=EMBEDDINGS,
        make_task=lambda _: Embedding(load_any(arguments), **options),
    )
    run_files(arguments, work)


def _embed_text(arguments: Namespace) -> None:
    from ..corpus.embedding import Embedding

    refuse_for_a_text(arguments, FILES_ONLY)
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to embed: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output, arguments.file) as out:
        task = Embedding(load_any(arguments), **{name: getattr(arguments, name) for name in _OPTIONS})
        [(_, [row])] = task.rows([("", text)])
        if row["embedding"] is None:
            raise ValueError(
                "the text is empty: it needs at least one token"
                if row["n_tokens"] == 0
                else "the vector of the text holds NaN or infinities: the weights are too large"
            )
        if arguments.json:
            print_json(row, out)
        else:
            print(*row["embedding"], file=out)
