"""The result of continuing a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..core.display import Displayed

if TYPE_CHECKING:
    from ..introspection.passes import ActivationCache
    from .trace import Trace

__all__ = ["FinishReason", "Generation"]

FinishReason = Literal["length", "eos", "stop", "deadline", "cancelled"]


@dataclass(frozen=True, slots=True)
class Generation(Displayed):
    """One continuation. ``str()`` gives its text.

    Attributes
    ----------
    text : str
        The continuation without the prompt, without the end-of-text token and without the stop string. Bytes
        that are not UTF-8 appear as U+FFFD. Empty when the model has no tokenizer.
    token_ids : list of int
        The new tokens, with the end-of-text token or the tokens of the stop string if one ended the text.
    logprobs : list of float
        The natural logarithm of the probability of each new token by the model's raw logits: before
        temperature, penalties, biases and filters.
    finish_reason : str
        "length" (max_new_tokens reached), "eos" (an end-of-text token), "stop" (a stop string), "deadline" or
        "cancelled" (before the end; a stream also when it is closed).
    prompt_index, sample_index : int
        Which prompt of the list, and which of its ``num_return_sequences`` continuations; both from 0.
    prompt_token_ids : list of int
        The prompt's tokens that the model saw.
    seed : int or None
        The same seed reproduces the text; None if nothing was sampled.
    top_logprobs : list of list of (int, float)
        With ``top_logprobs=n``: for each new token the ``n`` most probable ones at its position and the
        natural logarithms of their probabilities by the raw logits, the most probable first; otherwise empty.
    score : float or None
        For beam search: the sum of the log-probabilities after the options that change logits (and less the
        penalties for what other groups took), divided by the number of new tokens to the power of
        ``length_penalty``.
    trace : Trace or None
        With ``trace=True``: the candidates at every step.
    cache : ActivationCache or None
        With ``names_filter``: the activations of the prompt and of every new token except the last, which the
        model has not processed; byte for byte those of one pass over all of them (except
        ``attn.hook_result``, which NumPy multiplies).

    Examples
    --------
    >>> found = model.generate("The king", max_new_tokens=3)
    >>> found.text, found.finish_reason, found.token_ids
    ("'s daughter was", 'length', [370, 1047, 308])
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_index: int
    sample_index: int
    prompt_token_ids: list[int]
    seed: int | None
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    score: float | None = None
    trace: Trace | None = None
    cache: ActivationCache | None = None

    def __str__(self) -> str:
        return self.text
