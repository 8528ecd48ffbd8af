"""Results in a notebook: the ``_repr_html_`` of scores, continuations, activations and what is made of them.

Everything that comes from a text is escaped; colours are translucent, so that they suit light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import singledispatch
from html import escape
from typing import Any

import numpy as np

from ..core.labels import label, labels, visible
from ..errors import counted
from ..generation.results import Generation
from ..generation.trace import Branch, Trace
from ..introspection.crossing import CrossAttention
from ..introspection.passes import ActivationCache
from ..introspection.results import Attribution, HeadScores, LogitLens, Patching
from ..scoring.results import Score, pieces

__all__ = ["html"]

_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;line-height:1.7"
_CELL = "text-align:left;padding:1px 6px;white-space:nowrap;font-family:monospace"


@singledispatch
def html(result: Any) -> str | None:
    """A result as HTML; None where notebooks show its ``repr``."""
    return None


@html.register
def _activations(cache: ActivationCache) -> str | None:
    """The attention patterns, if any were captured."""
    if not any(name.endswith(".attn.hook_pattern") for name in cache):
        return None
    from .pages import fragment

    return fragment(cache)


@html.register
def _score(score: Score) -> str:
    """A scored text: each token on the colour of its probability, its numbers when pointed at."""
    spans = []
    if score.offsets and score.text is not None and score.offsets[0][0]:
        spans.append(f"<span>{_shown(score.text[: score.offsets[0][0]])}</span>")
    for text, span in pieces(score):
        name = label(text, score.token_ids[span.start])
        probability = math.exp(score.logprobs[span].sum(dtype=float))
        numbers = [
            f"{name}: probability {probability:.3g}",
            *(
                f"token {score.token_ids[i]}: log-probability {score.logprobs[i]:.4f}, "
                f"rank {score.ranks[i]}, entropy {score.entropies[i]:.4f}"
                for i in range(span.start, span.stop)
            ),
        ]
        title = escape("\n".join(numbers))
        spans.append(
            f'<span title="{title}" style="{_background(probability)}">{_shown(text or name + " ")}</span>'
        )
    per_byte = "" if score.bits_per_byte is None else f", {score.bits_per_byte:.3f} per byte"
    return (
        f'<div dir="auto" style="{_TEXT}">{"".join(spans)}</div>'
        f"<div><small>{counted(len(score), 'token')}, perplexity {score.perplexity:.4g}, {score.bits:.1f} "
        f"bits{per_byte}; the stronger the colour, the more probable the token</small></div>"
    )


@html.register
def _generation(generation: Generation) -> str:
    """A continuation, what it ended by, and its trace if there is one."""
    notes = [
        counted(len(generation.token_ids), "token"),
        f"log-probability {sum(generation.logprobs):.4f}",
        f"ended by {generation.finish_reason}",
    ]
    notes += [] if generation.seed is None else [f"seed {generation.seed}"]
    notes += [] if generation.score is None else [f"score {generation.score:.4f}"]
    trace = "" if generation.trace is None else _trace_html(generation.trace)
    return (
        f'<div dir="auto" style="{_TEXT}">{_shown(generation.text)}</div>'
        f"<div><small>{', '.join(notes)}</small></div>{trace}"
    )


@html.register
def _lens(lens: LogitLens) -> str:
    """The most probable token after each layer, the last layer first; the next ones when pointed at."""
    tokens = labels(lens.tokens, lens.input_ids.tolist())
    head = "".join(f'<th style="{_CELL}"><bdi>{escape(token)}</bdi></th>' for token in tokens)
    what = "token in each place" if lens.in_place else "next token"
    caption = f"the {what}, if the model ended after the layer; the stronger the colour, the more probable"
    rows = []
    for layer in reversed(range(len(lens.names))):
        cells = []
        for i, texts in enumerate(lens.top_tokens[layer]):
            ids, logprobs = lens.top_ids[layer, i].tolist(), lens.top_logprobs[layer, i].tolist()
            lines = [
                f"{math.exp(logprob):.1%} {label(text, token)}"
                for text, token, logprob in zip(texts, ids, logprobs, strict=True)
            ]
            style = f"{_CELL};{_background(math.exp(logprobs[0]))}"
            cells.append(
                f'<td style="{style}" title="{escape(chr(10).join(lines))}">{_label(texts[0], ids[0])}</td>'
            )
        rows.append(f'<tr><th style="{_CELL}">{escape(lens.names[layer])}</th>{"".join(cells)}</tr>')
    return (
        f'<div style="overflow-x:auto"><table>{_caption(caption)}'
        f'<thead><tr><th style="{_CELL}">after</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


@html.register
def _attribution(attribution: Attribution) -> str:
    """What each component and each head adds, coloured by how much of it and in which direction."""
    parts, n_layer = attribution.components, len(attribution.heads)
    most = max(map(abs, parts.values()))
    columns = {"attn": "attention", "cross_attn": "cross-attention", "mlp": "feed-forward"}
    columns = {kind: name for kind, name in columns.items() if f"{kind} 0" in parts}
    rows = [(f"layer {i}", [parts[f"{kind} {i}"] for kind in columns]) for i in range(n_layer)]
    rows += [(name, [parts[name]]) for name in ("embed", "pos_embed", "bias", "rest")]
    heads = [(f"layer {i}", row) for i, row in enumerate(attribution.heads.tolist())]
    most_of_heads = max(abs(value) for _, row in heads for value in row)
    what = f"logit of {_label(attribution.token, attribution.token_id)}"
    if attribution.against_id is not None:
        what += f" minus {_label(attribution.against or '', attribution.against_id)}"
    return (
        f"<div>{what} after position {attribution.position}: {attribution.logit:.4g}, the sum of</div>"
        + _side_by_side(
            _map("components", columns.values(), rows, "+z.2f", most),
            _map("heads", _numbers(attribution.heads.shape[1]), heads, "+z.2f", most_of_heads),
        )
    )


@html.register
def _cross_attention(crossed: CrossAttention) -> str:
    """Where the model looks when it chooses each token, in percent."""
    rows = zip(crossed.written, (100 * crossed.weights).tolist(), strict=True)
    title = f"{crossed.title}, in percent; a row for each written token, a column for each source token"
    return _side_by_side(_map(title, crossed.sources, rows, ".0f", 100.0))


@html.register
def _head_scores(scores: HeadScores) -> str:
    """A map of layers and heads for each score."""
    maps = []
    for name, values in vars(scores).items():
        rows = [(f"layer {i}", row) for i, row in enumerate(values.tolist())]
        entropy = name == "entropy"
        most = float(values.max()) if entropy else 1.0
        title = name.replace("_", " ") + (" (nats)" if entropy else "")
        maps.append(_map(title, _numbers(values.shape[1]), rows, "z.2f", most))
    return _side_by_side(*maps)


@html.register
def _patching(patching: Patching) -> str:
    """What the metric said of every patch: colours for both signs if there are both, else from the least."""
    finite = patching.values[np.isfinite(patching.values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if least < 0 < most:
        least, most = 0.0, max(-least, most)
    maps = []
    for title, columns, values in patching.maps():
        rows = zip([f"layer {i}" for i in patching.layers], values.tolist(), strict=True)
        maps.append(_map(title, columns, rows, "+z.2f", most, least))
    return _side_by_side(*maps)


@html.register
def _trace(trace: Trace) -> str:
    """What was weighed at every step."""
    return _steps(trace)


def _side_by_side(*parts: str) -> str:
    style = "display:flex;flex-wrap:wrap;gap:1em;align-items:start;overflow-x:auto"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _map(
    title: str,
    columns: Iterable[str],
    rows: Iterable[tuple[str, Sequence[float]]],
    form: str,
    most: float,
    least: float = 0.0,
) -> str:
    """Numbers as a table; colours go from none at ``least`` to the strongest at ``most``, in red below it."""
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in ("", *columns))
    body, scale = [], most - least or 1.0
    for name, values in rows:
        cells = (
            f'<td style="{_CELL}">-</td>'
            if not math.isfinite(value)
            else f'<td style="{_CELL};{_background((value - least) / scale)}">{value:{form}}</td>'
            for value in values
        )
        body.append(f'<tr><th style="{_CELL}">{escape(name)}</th>{"".join(cells)}</tr>')
    return f"<table>{_caption(title)}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _caption(text: str) -> str:
    return f'<caption style="text-align:left">{escape(text)}</caption>'


def _numbers(n: int) -> list[str]:
    return list(map(str, range(n)))


def _trace_html(trace: Trace) -> str:
    return f"<details><summary>what was weighed at every step</summary>{_steps(trace)}</details>"


def _steps(trace: Trace) -> str:
    rows = []
    for step in trace.steps:
        for number, branch in enumerate(step.branches):
            place = f"{step.position}" if branch.score is None else f"{step.position}, beam {number}"
            cells = "".join(f'<td style="{style}">{text}</td>' for text, style in _candidates(branch))
            rows.append(f'<tr><th style="{_CELL}">{place}</th>{cells}</tr>')
    return f'<div style="overflow-x:auto"><table>{"".join(rows)}</table></div>'


def _candidates(branch: Branch) -> list[tuple[str, str]]:
    cells = []
    for candidate in branch.candidates:
        probability = math.exp(candidate.logprob)
        text = f"{_label(candidate.text, candidate.token_id)} {probability:.1%}"
        if candidate.fate:
            text = f"<b>{text}</b> ({escape(candidate.fate)})"
        elif candidate.removed_by:
            text = f"<s>{text}</s>"
        cells.append((text, f"{_CELL};{_background(probability)}"))
    return cells


def _background(share: float) -> str:
    """Blue for a share from 0 to 1, red for one from -1 to 0: the larger, the stronger."""
    colour = "70,130,200" if share >= 0 else "205,85,70"
    return f"background:rgba({colour},{0.65 * abs(share):.3f})"


def _label(text: str, token_id: int) -> str:
    return f"<bdi>{escape(label(text, token_id))}</bdi>"


def _shown(text: str) -> str:
    """Text as it is, except for characters that cannot be seen."""
    return escape("".join(c if c in "\n\t" else visible(c) for c in text))
