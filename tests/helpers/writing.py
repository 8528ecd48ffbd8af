"""Someone who writes: edits of a text and questions about it, drawn at random, for comparisons of bytes."""

from __future__ import annotations

import numpy as np

WORDS = ["", "the", "a", "little", "girl", "who", "went", ".", ",", "and\n", "3,5", "naïve", "日本", "🙂"]


def edited(text, rng):
    """A text after something that a writer does."""
    at = rng.randrange(len(text) + 1)
    what = rng.random()
    if what < 0.5:
        return text + rng.choice(["", " "]) + rng.choice(WORDS)
    if what < 0.7:
        return text[:at]
    if what < 0.9:
        return text[:at] + rng.choice(WORDS) + text[at:]
    return text[: len(text) // 2] + text[at:]


def generation_options(rng, step):
    """Options of generate, and those that may be added without any change of the result."""
    options = {"max_new_tokens": 4, "temperature": rng.choice([0, 1.0]), "seed": step}
    kind = rng.randrange(4)
    if kind == 0:
        return options | {"num_beams": 3}, {}
    if kind == 1:
        options |= {"num_return_sequences": 3, "temperature": 1.0}
    options["heal"] = rng.random() < 0.5
    return options, {"draft": "prompt"} if rng.random() < 0.5 else {}


def same(one, other):
    """Equal results, floats by their bytes."""
    assert repr(one) == repr(other)
    assert one == other


def same_search(one, other):
    """The same of what a search found, and how much it left."""
    same(one, other)
    assert (one.remaining, one.finished) == (other.remaining, other.finished)


def same_score(one, other):
    """The same of scores."""
    assert one.token_ids == other.token_ids
    for name in ("logprobs", "ranks", "entropies", "variances", "contexts"):
        found, expected = getattr(one, name), getattr(other, name)
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes(), name
    assert np.array_equal(one.offsets, other.offsets)
