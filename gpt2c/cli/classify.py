"""`gpt2c classify`: the labels of a text, or of files of texts, by a model that was trained for it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any, TextIO

from ..core.labels import columns, fitted, harmless
from ..errors import ConfigError
from .console import open_output, read_text
from .formatting import print_json, quoted
from .loading import load_any
from .text_or_files import FILES_ONLY, names_files, refuse_for_a_text

if TYPE_CHECKING:
    from ..heads.results import Classification, Tagging
    from ..pretrained import Pretrained

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Print the labels of a text, or write those of files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and names_files(arguments):
        _classify_files(arguments)
    else:
        _classify_text(arguments)


def _classify_files(arguments: Namespace) -> None:
    # Deferred, because a single text does not need them.
    from ..corpus.tasks import Classifying
    from .corpora import Work, run_files

    model = load_any(arguments)
    if _tags(model):
        raise ConfigError(
            f"{model.name} labels tokens, and a record has many: gpt2c classify TEXT --json prints those "
            "of one text, and model.tag in Python those of many"
        )
    # The columns are named after the labels, so the model is loaded before the files are read.
    task = Classifying(model, max_tokens=arguments.max_tokens, special=arguments.special)
    work = Work(
        results="labels",
        for_a_text="for one text: -f",
        of_a_text=("json",),
        columns=task.columns,
        make_task=lambda _: task,
    )
    run_files(arguments, work)


def _tags(model: Pretrained) -> bool:
    return model.config.head is not None and model.config.head.kind == "token"


def _classify_text(arguments: Namespace) -> None:
    refuse_for_a_text(arguments, FILES_ONLY)
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to classify: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output, arguments.file) as out:
        model = load_any(arguments)
        how: dict[str, Any] = {"max_tokens": arguments.max_tokens, "special": arguments.special}
        if _tags(model):
            _write_tags(model.tag(text, **how), arguments.json, out)
        else:
            _write_labels(model.classify(text, **how), arguments.json, out)


def _write_labels(found: Classification, as_json: bool, out: TextIO) -> None:
    if as_json:
        told = {name: getattr(found, name) for name in ("label", "probability", "probabilities", "values")}
        cut = {"n_tokens": found.n_tokens, "truncated": found.truncated}
        print_json({**told, "logits": found.logits.tolist(), **cut}, out)
        return
    for name, value in found.values.items():
        print(harmless(f"{value:9.4f}  {name}"), file=out)
    for label, probability in sorted(found.probabilities.items(), key=lambda item: -item[1]):
        print(harmless(f"{probability:7.2%}  {label}"), file=out)


def _write_tags(found: Tagging, as_json: bool, out: TextIO) -> None:
    if as_json:
        tags = [{**tag._asdict(), "logits": tag.logits.tolist()} for tag in found.tags]
        entities = [entity._asdict() for entity in found.entities]
        cut = {"n_tokens": found.n_tokens, "truncated": found.truncated}
        print_json({"tags": tags, "entities": entities, **cut}, out)
        return
    width = max([5, *(columns(tag.label) for tag in found.tags)])
    for name, rows in (("token", found.tags), ("entity", found.entities)):
        if rows and name == "entity":
            print(file=out)
        if rows:
            print(f"probability  {'label':<{width}}  {name}", file=out)
        for row in rows:
            label = fitted(harmless(row.label), width)
            print(f"{row.probability:11.2%}  {label}  {quoted(row.text)}", file=out)
