"""Labels of texts and of tokens, and choices between texts.

The last hidden states come from the engine; heads are computed in float64, row by row, so that a result does
not depend on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.hf_head import class_of
from ..core.deadline import Deadline
from ..errors import ConfigError, shown
from .reading import Options, Reading, check_options, check_single, hidden_rows, read_all
from .results import Choice, Classification, Entity, Tag, Tagging

if TYPE_CHECKING:
    from ..config import Head
    from ..core.lm import LoadedModel

__all__ = ["choose", "classifications", "classify", "head_of", "tag"]

_METHODS = {"sequence": "classify", "token": "tag", "choice": "choose"}
_COMMANDS = {"sequence": "gpt2c classify", "token": "gpt2c classify", "choice": "in Python only"}


def head_of(model: LoadedModel, kind: str) -> Head:
    """The model's head, if it is of this kind, else a ConfigError."""
    head = model.config.head
    if head is not None and head.kind == kind:
        return head
    needed = f"model.{_METHODS[kind]} needs the head of a {class_of(model.config, kind)}"
    if head is None:
        what = "BERT" if model.config.is_bert else "language model"
        raise ConfigError(f"{model.name} is a {what} without another head; {needed}")
    raise ConfigError(
        f"{model.name} has the head of a {class_of(model.config, head.kind)}: use "
        f"model.{_METHODS[head.kind]} ({_COMMANDS[head.kind]}); {needed}"
    )


def classify(
    model: LoadedModel, texts: Any, *, deadline: Any = None, **how: Any
) -> Classification | list[Classification]:
    """See :meth:`gpt2c.GPT2.classify`."""
    head_of(model, "sequence")
    several, readings = read_all(model, texts, check_options(model, **how))
    found = list(classifications(model, readings, Deadline.of(deadline)))
    return found if several else found[0]


def classifications(
    model: LoadedModel, readings: Iterable[Reading], deadline: Deadline | None = None
) -> Iterator[Classification]:
    """The labels of texts, in order."""
    head = head_of(model, "sequence")

    def judged(reading: Reading) -> np.ndarray:
        """The last token that is not padding; the first if all are, as in transformers."""
        real = np.flatnonzero(reading.ids != (-1 if head.pad_token_id is None else head.pad_token_id))
        return real[-1:] if len(real) else np.zeros(1, np.intp)

    if head.pooled:
        pooler = _parameters(model, "pooler")
        weight, bias = _parameters(model, "classifier")
    else:
        weight, bias = model.weights["score.weight"], None

    for reading, rows in hidden_rows(model, readings, _first_row if head.pooled else judged, deadline):
        if head.pooled:
            inner = _exact(rows, *pooler)
            rows = np.tanh(inner) if head.activation == "tanh" else np.maximum(inner, 0)
        [logits] = _logits(rows, weight, bias, text=reading.text)
        probabilities = _probabilities(head, logits)
        label = max(probabilities, key=lambda name: probabilities[name]) if probabilities else None
        yield Classification(
            label,
            None if label is None else probabilities[label],
            probabilities,
            {} if probabilities else dict(zip(head.labels, logits.tolist(), strict=True)),
            logits,
            len(reading.ids),
            reading.truncated,
        )


def tag(model: LoadedModel, texts: Any, *, deadline: Any = None, **how: Any) -> Tagging | list[Tagging]:
    """See :meth:`gpt2c.GPT2.tag`."""
    head = head_of(model, "token")
    options = check_options(model, **how)
    several, readings = read_all(model, texts, options)
    check_single(readings, "tag")
    weights = _parameters(model, "classifier")
    found = [
        _tagging(model, head, reading, _logits(rows, *weights, text=reading.text), options)
        for reading, rows in hidden_rows(model, readings, _own_rows, Deadline.of(deadline))
    ]
    return found if several else found[0]


def _own_rows(reading: Reading) -> np.ndarray:
    return np.arange(reading.own.start, reading.own.stop)


def _tagging(
    model: LoadedModel, head: Head, reading: Reading, logits: np.ndarray, options: Options
) -> Tagging:
    ids = reading.ids[reading.own].tolist()
    text, places = reading.text, None
    if text is not None:
        places = model.tokenizer.offsets(text, ids, special=options.special)
    tags = []
    for i, (token, row) in enumerate(zip(ids, logits, strict=True)):
        probabilities = dict(zip(head.labels, _softmax(row).tolist(), strict=True))
        label = max(probabilities, key=lambda name: probabilities[name])
        start, end = (None, None) if places is None else places[i]
        piece = text[start:end] if text is not None and places is not None else model.token_text(token)
        tags.append(Tag(piece, start, end, token, label, probabilities[label], probabilities, row))
    return Tagging(tags, list(_entities(model, text, tags)), len(reading.ids), reading.truncated)


def _entities(model: LoadedModel, text: str | None, tags: list[Tag]) -> Iterator[Entity]:
    """Neighbours with the same kind of label; "B-" starts a new entity."""
    number, before = 0, ""
    numbered = []
    for one in tags:
        name = one.label[2:] if one.label.startswith(("B-", "I-")) else one.label
        number += name != before or one.label.startswith("B-")
        before = name
        numbered.append((number, one))
    for _, group in groupby(numbered, key=lambda pair: pair[0]):
        some = [one for _, one in group]
        first, last = some[0], some[-1]
        label = first.label.split("-", 1)[-1]
        if label == "O":
            continue
        if text is not None and first.start is not None:
            piece = text[first.start : last.end]
        else:
            piece = model.tokenizer.decode([one.token_id for one in some]) if model.has_tokenizer else ""
        probability = float(np.mean([one.probability for one in some]))
        yield Entity(label, probability, piece, first.start, last.end)


def choose(model: LoadedModel, texts: Any, *, deadline: Any = None, **how: Any) -> Choice:
    """See :meth:`gpt2c.GPT2.choose`."""
    head = head_of(model, "choice")
    several, readings = read_all(model, texts, check_options(model, **how))
    if not several or not readings:
        raise ValueError("choose takes the texts to choose from: a list of at least one")
    weights = [model.weights[f"multiple_choice_head.summary.{part}"] for part in ("weight", "bias")]
    rows = [row for _, row in hidden_rows(model, readings, _last_row, Deadline.of(deadline))]
    logits = _logits(np.concatenate(rows), *weights)[:, 0]
    if head.activation == "tanh":
        logits = np.tanh(logits.astype(np.float64)).astype(np.float32)
    return Choice(int(logits.argmax()), _softmax(logits).tolist(), logits)


def _first_row(reading: Reading) -> np.ndarray:
    return np.zeros(1, np.intp)


def _last_row(reading: Reading) -> np.ndarray:
    return np.array([len(reading.ids) - 1])


def _parameters(model: LoadedModel, part: str) -> tuple[np.ndarray, np.ndarray | None]:
    return model.weights[f"{part}.weight"], model.weights[f"{part}.bias"]


def _logits(
    rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, text: str | None = None
) -> np.ndarray:
    """The head's logits for rows [n, n_embd] of a text: float32 [n, labels], all finite."""
    with np.errstate(over="ignore"):
        found = _exact(rows, weight, bias).astype(np.float32)
    if not np.isfinite(found).all():
        of = "" if text is None else f" of {shown(text)}"
        raise ValueError(f"the logits{of} hold NaN or infinities: the weights are too large")
    return found


def _exact(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """A dense layer, weight [out, in], in float64."""
    exact = rows.astype(np.float64)
    # Sums along a row, whose order does not depend on the number of rows, unlike in a matrix product.
    found = np.stack([(exact * label).sum(axis=1) for label in weight.astype(np.float64)], axis=1)
    return found if bias is None else found + bias


def _probabilities(head: Head, logits: np.ndarray) -> dict[str, float]:
    """The probability of every label; none for a regression."""
    if head.problem == "regression":
        return {}
    exact = logits.astype(np.float64)
    # 1 / (1 + exp(-x)), which tanh computes without an overflow.
    found = _softmax(exact) if head.problem == "single" else 0.5 + 0.5 * np.tanh(0.5 * exact)
    return dict(zip(head.labels, found.tolist(), strict=True))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    weights = np.exp(exact - exact.max())
    return np.asarray(weights / weights.sum())
