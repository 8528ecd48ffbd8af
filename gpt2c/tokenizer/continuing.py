"""Texts that continue another one, in pipelines that put a space before every text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tokenizers

from .library import Spans
from .postprocessor import steps

__all__ = ["SMALL", "Continuing", "puts_space"]


class Continuing:
    """Encodes texts as the continuation of another text: their first word gets no space before it.

    A pipeline may put the space before every piece that is cut out of a text: after added tokens, or before
    every word. So the beginning of a text is encoded without the space, and the rest as usual.

    Parameters
    ----------
    whole, made : functions of a bool
        The pipeline, with or without special tokens, and an equal one that may be changed.
    description : dict
        Its tokenizer.json.
    """

    def __init__(
        self, whole: Callable[[bool], Any], made: Callable[[bool], Any], description: dict[str, Any]
    ) -> None:
        self._whole, self._made = whole, made
        self._added = {token["id"]: token for token in description["added_tokens"]}
        before, pre = _without_space(steps(description.get("pre_tokenizer"), "pretokenizers"))
        _, normalizers = _without_space(steps(description.get("normalizer"), "normalizers"))
        self._once = any(step.get("prepend_scheme") == "first" for step in _steps_before(description))

        def parts(pretokenizers: list[dict[str, Any]]) -> Any:
            small = SMALL | {
                "normalizer": {"type": "Sequence", "normalizers": normalizers},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": pretokenizers},
            }
            return tokenizers.Tokenizer.from_str(json.dumps(small))

        # Its tokens are the pieces that each get a space.
        self._pieces = parts(before) if before else None
        self._changed = parts(pre)
        self._without: dict[bool, Any] = {}

    def encode(self, text: str, special: bool) -> tuple[list[int], Spans]:
        """The ids of a text and their offsets."""
        whole, without = self._whole(special), self._without_space(special)
        cut = len(text) if self._once else self._beginning(text, special)
        head = without.encode(text[:cut], add_special_tokens=False)
        if text[:1].isspace() and (not head.offsets or head.offsets[0][0] > 0):
            cut = 0  # the text's own space is lost; the added one replaces it
            head = without.encode("", add_special_tokens=False)
        tail = whole.encode(text[cut:], add_special_tokens=False)
        return head.ids + tail.ids, head.offsets + [(cut + start, cut + end) for start, end in tail.offsets]

    def _without_space(self, special: bool) -> Any:
        """The pipeline without the space."""
        if special not in self._without:
            pipeline = self._made(special)
            pipeline.normalizer = self._changed.normalizer
            pipeline.pre_tokenizer = self._changed.pre_tokenizer
            self._without[special] = pipeline
        return self._without[special]

    def _beginning(self, text: str, special: bool) -> int:
        """The end of the first piece that gets a space."""
        end = len(text)
        if self._pieces is not None:
            first, *others = [start for start, _ in self._pieces.encode(text).offsets] or [0]
            end = next((start for start in others if start > first), end)
        found = self._whole(special).encode(text, add_special_tokens=False)
        for index, (start, stop) in zip(found.ids, found.offsets, strict=True):
            token = self._added.get(index)
            if token is None or start >= end or (token["special"] and not special):
                continue
            # The model itself produces some of them, such as the unknown token.
            if text[start:stop].strip() == token["content"].strip():
                return start
        return end


def puts_space(description: dict[str, Any]) -> bool:
    """Whether a pipeline puts a space before a text."""
    return any(map(_is_dummy, _steps_before(description)))


def _steps_before(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a pipeline that come before its model."""
    return [
        *steps(description.get("normalizer"), "normalizers"),
        *steps(description.get("pre_tokenizer"), "pretokenizers"),
    ]


def _is_dummy(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return step["prepend_scheme"] != "never"
    return step["type"] == "Prepend" or (step["type"] == "ByteLevel" and step["add_prefix_space"])


def _without_space(found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The steps before the first one that puts a space somewhere, and all of them without the space."""
    at = next((i for i, step in enumerate(found) if _is_dummy(step)), 0)
    never: dict[str, dict[str, Any]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
    }
    return found[:at], [step | never.get(step["type"], {}) for step in found if step["type"] != "Prepend"]


SMALL: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
}
