"""How the text of a page goes on, drawn and searched: as JSON values, like those of explanation.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...generation.loop import continue_prompts
from ...generation.options import SamplingOptions
from .codes import packed, weight_codes
from .explanation import Edits, Json

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...generation.results import Generation
    from ...generation.trace import Branch, Candidate

__all__ = ["continuations", "generation", "room", "search"]

DROPPED = 2  # continuations that each beam shows besides those that live on


def room(model: LoadedModel, n_tokens: int, max_new_tokens: int) -> int:
    """How many tokens to generate after the text: fewer than wanted where the model has no more positions."""
    return min(max_new_tokens, model.config.n_ctx - n_tokens)


def continuations(
    model: LoadedModel,
    token_ids: Sequence[int],
    n_new: int,
    num_beams: int,
    *,
    trace: bool = False,
    edits: Edits = (),
) -> tuple[Generation, list[Generation]]:
    """What greedy decoding finds, and all that a beam search does; nothing of the latter with one beam."""
    prompts = [np.array(token_ids, np.int32)]
    [greedy] = continue_prompts(model, prompts, SamplingOptions(max_new_tokens=n_new, edits=edits))
    if num_beams == 1:
        return greedy, []
    options = SamplingOptions(
        max_new_tokens=n_new,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=0.0,  # texts are compared by their probability itself
        trace=trace,
        edits=edits,
    )
    return greedy, continue_prompts(model, prompts, options)


def generation(result: Generation, options: Mapping[str, Any], used: set[int]) -> Json:
    """A traced generation with its patterns, step by step: how each step's new row attends, by layer."""
    assert result.trace is not None and result.cache is not None  # asked for
    steps = []
    for step in result.trace.steps:
        (branch,) = step.branches
        steps.append([_candidate(candidate, used) for candidate in branch.candidates])
    used.update(result.token_ids)
    first = len(result.prompt_token_ids) - 1
    layers = range(result.cache.model.config.n_layer)
    rows = [result.cache["pattern", i][:, first:].mean(axis=0) for i in layers]
    return {
        "prompt": len(result.prompt_token_ids),
        "token_ids": result.token_ids,
        "logprobs": result.logprobs,
        "finish_reason": result.finish_reason,
        "options": {**options, "seed": result.seed},
        "steps": steps,
        "attention": packed(weight_codes(np.stack(rows), 8)),  # [n_layer, steps, all tokens but the last]
    }


def search(results: Sequence[Generation], greedy: Generation, num_beams: int, used: set[int]) -> Json:
    """The steps of a traced beam search, what it found, and what greedy decoding finds."""
    trace = results[0].trace
    assert trace is not None  # asked for
    steps = []
    for step in trace.steps:
        branches = []
        for branch in step.branches:
            candidates = [_candidate(candidate, used) for candidate in _told(branch)]
            branches.append({"ids": branch.token_ids, "score": branch.score, "candidates": candidates})
        steps.append(branches)
    used.update(token for result in (*results, greedy) for token in result.token_ids)
    return {
        "num_beams": num_beams,
        "steps": steps,
        "found": [_joint(result) for result in results],
        "greedy": _joint(greedy),
    }


def _told(branch: Branch) -> list[Candidate]:
    """The candidates that live on, and some of the others."""
    others = [candidate for candidate in branch.candidates if not candidate.fate and not candidate.removed_by]
    return [candidate for candidate in branch.candidates if candidate.fate or candidate in others[:DROPPED]]


def _candidate(candidate: Candidate, used: set[int]) -> Json:
    used.add(candidate.token_id)
    return {
        "id": candidate.token_id,
        "logprob": candidate.logprob,
        **({} if candidate.score is None else {"score": candidate.score}),
        **({"removed_by": candidate.removed_by} if candidate.removed_by else {}),
        **({"fate": candidate.fate} if candidate.fate else {}),
    }


def _joint(result: Generation) -> Json:
    return {
        "ids": result.token_ids,
        "logprobs": result.logprobs,
        "joint": sum(result.logprobs),
        "finish_reason": result.finish_reason,
    }
