"""Fill-in-the-middle: prompts for the text between two others.

Models that support it were trained on texts whose middle was moved to the end, after marks (Bavarian et al.,
"Efficient Training of Language Models to Fill in the Middle", 2022). The prompt is the text before the gap
and the one after it, each preceded by its mark, and then the mark of the middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prompts import Prompt

__all__ = ["in_the_middle"]

# StarCoder's and SantaCoder's marks of the text before, the text after, and the middle.
_MARKS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
)


def in_the_middle(
    model: LoadedModel, before: Prompt, after: str, name: str, *, special: bool = False
) -> np.ndarray:
    """The tokens of a prompt for the text between two others, int32; errors call the first ``name``.

    Raises
    ------
    ValueError
        The tokenizer does not have the marks, so the model cannot know them.
    """
    tokenizer = model.tokenizer
    known = tokenizer.special_tokens
    marks = next((marks for marks in _MARKS if known.keys() >= {*marks}), None)
    if marks is None:
        raise ValueError(
            f"suffix needs a tokenizer with the special tokens {', '.join(_MARKS[0])}, or {_MARKS[1][0]} "
            f"etc., which {tokenizer.name} does not have: this model was not trained to fill in the middle"
        )
    first, behind, middle = ([known[mark]] for mark in marks)
    start = list(tokenizer.prefix) if isinstance(before, str) else []
    texts = [
        model.encode_text(text, called, special=special)
        for text, called in ((before, name), (after, "suffix"))
    ]
    return np.array([*start, *first, *texts[0], *behind, *texts[1], *middle], np.int32)
