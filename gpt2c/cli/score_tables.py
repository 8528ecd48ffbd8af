"""The score of one text as a table of its tokens or words: for reading, as CSV, or as JSON."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from typing import TYPE_CHECKING, Any, TextIO

from ..core.labels import columns, fitted, harmless
from ..json_values import plain
from ..views.ansi import is_terminal
from .formatting import counted, print_json, quoted

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..scoring.results import Score

__all__ = ["write_score"]


def write_score(model: LoadedModel, score: Score, arguments: Namespace, out: TextIO) -> None:
    """Write the output that ``--json``, ``--csv``, ``--words`` and ``--top`` request."""
    if arguments.json:
        print_json(plain(_to_dict(model, score, arguments.words)), out)
    elif arguments.csv:
        rows = _word_rows(score) if arguments.words else _flat(_token_rows(model, score))
        # RFC 4180, as csv writes: line ends of two characters, quotes where needed.
        table = csv.DictWriter(out, list(rows[0]) if rows else _WORD_COLUMNS)
        table.writeheader()
        table.writerows(map(_harmless, rows) if is_terminal(out) else rows)
    elif arguments.words:
        _print_words(score, out)
    else:
        _print_tokens(model, score, out)


_WORD_COLUMNS = ["text", "start", "end", "logprob", "surprisal", "first_token", "n_tokens"]
"""A text of only white space has no words; it always has tokens."""


def _word_rows(score: Score) -> list[dict[str, Any]]:
    return [{name: getattr(word, name) for name in _WORD_COLUMNS} for word in score.words()]


def _token_rows(model: LoadedModel, score: Score) -> list[dict[str, Any]]:
    """`Score.rows`, with the texts of the most probable tokens, if requested."""
    rows = score.rows()
    for row in rows:
        if "top_ids" in row:
            row["top_texts"] = [model.token_text(token) for token in row["top_ids"]]
    return rows


def _harmless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: harmless(value) if isinstance(value, str) else value for name, value in row.items()}


def _flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with a column for each value of a list: ``top_ids`` becomes ``top_id_1`` and so on."""
    flat = []
    for row in rows:
        lists = {name: values for name, values in row.items() if isinstance(values, list)}
        places = range(max(map(len, lists.values()), default=0))
        spread = {f"{name[:-1]}_{i + 1}": values[i] for i in places for name, values in lists.items()}
        flat.append({name: value for name, value in row.items() if name not in lists} | spread)
    return flat


def _to_dict(model: LoadedModel, score: Score, words: bool) -> dict[str, object]:
    return {
        "tokens": len(score),
        "logprob": score.logprob,
        "perplexity": score.perplexity,
        "bits": score.bits,
        "bits_per_byte": score.bits_per_byte,
        "bits_per_char": score.bits_per_char,
        "curvature": score.curvature,
        "per_token": _token_rows(model, score),
    } | ({"per_word": _word_rows(score)} if words else {})


def _print_tokens(model: LoadedModel, score: Score, out: TextIO) -> None:
    tokens = [quoted(model.token_text(token)) for token in score.token_ids]
    others = [
        ", ".join(
            f"{quoted(text)} {math.exp(logprob):.1%}"
            for text, logprob in zip(row.get("top_texts", ()), row.get("top_logprobs", ()), strict=True)
        )
        for row in _token_rows(model, score)
    ]
    header = "token"
    if any(others):
        width = max(map(columns, ("token", *tokens)))
        tokens = [f"{fitted(token, width)}  {other}" for token, other in zip(tokens, others, strict=True)]
        header = f"{fitted(header, width)}  most probable"
    print(f"{'logprob':>9} {'rank':>6} {'entropy':>8}  {header}", file=out)
    values = (score.logprobs.tolist(), score.ranks.tolist(), score.entropies.tolist(), tokens)
    for logprob, rank, entropy, token in zip(*values, strict=True):
        print(f"{logprob:9.4f} {rank:6} {entropy:8.4f}  {token}", file=out)
    print(f"\n{_summary(score)}", file=out)


def _print_words(score: Score, out: TextIO) -> None:
    words = score.words()
    print(f"{'surprisal':>9} {'logprob':>9} {'tokens':>6}  word", file=out)
    for word in words:
        print(f"{word.surprisal:9.4f} {word.logprob:9.4f} {word.n_tokens:6}  {quoted(word.text)}", file=out)
    print(f"\n{counted(len(words), 'word')} · {_summary(score)}", file=out)


def _summary(score: Score) -> str:
    per_byte = "" if score.bits_per_byte is None else f", {score.bits_per_byte:.4f} per byte"
    return (
        f"{counted(len(score), 'token')} · log-probability {score.logprob:.4f} · "
        f"perplexity {score.perplexity:.2f} · {score.bits:.1f} bits{per_byte}"
    )
