"""The record of a generation: the candidates at every step, what removed them, and their fate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import _engine
from ..core.display import Displayed

if TYPE_CHECKING:
    from .job import Job

__all__ = ["Branch", "Candidate", "Step", "Trace", "new_trace"]

MOST_PROBABLE = 10  # candidates to record at each step, besides the chosen ones


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have come next.

    Attributes
    ----------
    token_id : int
    text : str
        The token as text.
    logprob : float
        Its log-probability (nats) by the raw logits.
    score : float or None
        In beam search: the score of the text with it, before the length penalty. In contrastive search: the
        score by which candidates compete. With guidance: the guided log-probability. None if it was removed,
        and otherwise.
    removed_by : str or None
        The option that removed it.
    fate : str
        "chosen"; in beam search "beam N", the index at which the text with it lives on, or "ended"; else "".
    """

    token_id: int
    text: str
    logprob: float
    score: float | None
    removed_by: str | None
    fate: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A text of the step: the only one, or one of the beams.

    Attributes
    ----------
    text : str
        Its continuation so far.
    token_ids : list of int
        The continuation as tokens.
    score : float or None
        In beam search: the sum of log-probabilities so far.
    greedy : int
        The token that is most probable by the raw logits: what greedy decoding would choose here.
    candidates : list of Candidate
        The most probable tokens and those that were chosen, the most probable first.
    """

    text: str
    token_ids: list[int]
    score: float | None
    greedy: int
    candidates: list[Candidate]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``position`` is where the new token stands in the text, ``branches`` are the texts."""

    position: int
    branches: list[Branch]


@dataclass(eq=False, repr=False)
class Trace(Displayed):
    """The record of one generation, or of one search; ``str()`` is it as indented text.

    Attributes
    ----------
    steps : list of Step
    """

    steps: list[Step] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it as dictionaries, lists, strings and numbers, ready for ``json.dumps``."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"<Trace of {len(self.steps)} steps>"

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            lines.append(f"position {step.position}")
            for number, branch in enumerate(step.branches):
                score = "" if branch.score is None else f"beam {number}  {branch.score:9.4f}  "
                lines.append(f"  {score}{branch.text!r}")
                lines += [f"    {_line(candidate, branch)}" for candidate in branch.candidates]
        return "\n".join(lines)

    def add_choice(
        self,
        job: Job,
        prompt: np.ndarray,
        new_ids: np.ndarray,
        logits: np.ndarray,
        removed: dict[int, str],
        token: int,
        scores: Callable[[int], float | None] | None = None,
    ) -> None:
        """Record a step in which ``token`` was chosen for one text, by ``scores`` if there are any."""
        removed.pop(token, None)  # at a boundary float64 may decide differently
        normaliser = _engine.log_sum_exp(logits)
        new = new_ids.tolist()
        branch = _branch(job, prompt, new, None, logits, normaliser, removed, {token: "chosen"}, scores)
        self.steps.append(Step(len(prompt) + len(new), [branch]))

    def add_search(
        self,
        job: Job,
        prompt: np.ndarray,
        beams: Sequence[tuple[list[int], float]],
        rows: Sequence[np.ndarray],
        normalisers: Sequence[float],
        logprobs: Sequence[np.ndarray],
        removed: Sequence[dict[int, str]],
        fates: Sequence[dict[int, str]],
    ) -> None:
        """Record a step of beam search: for each beam its new tokens, score, logits, and their fates."""
        branches = [
            _branch(job, prompt, new_ids, score, row, normaliser, out, fate, _added(score, processed))
            for (new_ids, score), row, normaliser, processed, out, fate in zip(
                beams, rows, normalisers, logprobs, removed, fates, strict=True
            )
        ]
        self.steps.append(Step(len(prompt) + len(beams[0][0]), branches))


def new_trace(job: Job) -> Trace | None:
    """A trace to fill, if requested."""
    if not job.options.trace:
        return None
    return Trace()


def _branch(
    job: Job,
    prompt: np.ndarray,
    new_ids: list[int],
    score: float | None,
    logits: np.ndarray,
    normaliser: float,
    removed: dict[int, str],
    fates: dict[int, str],
    scores: Callable[[int], float | None] | None = None,
) -> Branch:
    best = _engine.top(logits, MOST_PROBABLE).tolist()
    shown = sorted({*best, *fates}, key=lambda token: (-float(logits[token]), token))
    return Branch(
        _text(job, prompt, new_ids),
        new_ids,
        score,
        best[0],
        [
            Candidate(
                token,
                job.model.token_text(token),
                float(logits[token]) - normaliser,
                None if scores is None or token in removed else scores(token),
                removed.get(token),
                fates.get(token, ""),
            )
            for token in shown
        ],
    )


def _added(score: float, logprobs: np.ndarray) -> Callable[[int], float]:
    """The score of a text with one more token."""
    return lambda token: score + float(logprobs[token])


def _text(job: Job, prompt: np.ndarray, new_ids: Iterable[int]) -> str:
    writer = job.written(prompt, new_ids)
    writer.finish()
    return writer.text


def _line(candidate: Candidate, branch: Branch) -> str:
    notes = [candidate.fate] if candidate.fate else []
    if candidate.removed_by:
        notes.append(f"removed by {candidate.removed_by}")
    if candidate.token_id == branch.greedy and candidate.fate != "chosen":
        notes.append("greedy would choose it")
    name = repr(candidate.text) if candidate.text else f"token {candidate.token_id}"
    score = "" if candidate.score is None else f"{candidate.score:9.4f}  "
    return f"{np.exp(candidate.logprob):8.2%}  {score}{name:<16}  {', '.join(notes)}".rstrip()
