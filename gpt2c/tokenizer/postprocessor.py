"""The tokens that a tokenizer's post-processor puts around a text."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import TokenizerError, shown

__all__ = ["Around", "read_post_processor", "steps"]


_KINDS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")


class Around(NamedTuple):
    """The ids around the tokens of a text, and the change to their offsets.

    Attributes
    ----------
    prefix, suffix : tuple of int
    trims : bool
        Whether a token's offsets leave out the spaces at its ends.
    spares_first : bool
        Whether one space at the start of a text is kept.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    trims: bool = False
    spares_first: bool = False


def read_post_processor(post_processor: Any, where: str) -> Around:
    """The ids that the ``post_processor`` of a tokenizer.json adds, and its change to offsets.

    Raises
    ------
    TokenizerError
        It is damaged, of a kind unknown to the tokenizers library, or adds ids inside the text.
    """
    found = Around()
    for step in steps(post_processor, "processors"):
        kind = step.get("type")
        if kind not in _KINDS:
            raise TokenizerError(f"{where}: its post_processor {shown(kind)} is not known")
        before: list[Any] = []
        after: list[Any] = []
        try:
            if kind == "TemplateProcessing":
                before, after = _template(step)
            elif kind != "ByteLevel":
                before, after = [step["cls"][1]], [step["sep"][1]]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise TokenizerError(f"{where}: the post_processor is damaged") from None
        for index in (*before, *after):
            if type(index) is not int or index < 0:
                raise TokenizerError(f"{where}: the post_processor adds {shown(index)}, not a token id")
        found = found._replace(prefix=(*before, *found.prefix), suffix=(*found.suffix, *after))
        if kind in ("ByteLevel", "RobertaProcessing") and step.get("trim_offsets", True):
            found = found._replace(trims=True, spares_first=bool(step.get("add_prefix_space", True)))
    return found


def steps(node: Any, children: str) -> list[dict[str, Any]]:
    """The steps of a (possibly nested) sequence, one step, or none."""
    if node is None:
        return []
    if not isinstance(node, dict):
        return [{}]
    if node.get("type") != "Sequence":
        return [node]
    inner = node.get(children) or []
    return [step for child in inner for step in steps(child, children)] if isinstance(inner, list) else [{}]


def _template(step: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The ids before and after the text, in a template for one text."""
    before: list[Any] = []
    after: list[Any] | None = None
    for piece in step["single"]:
        if "Sequence" in piece:
            if after is not None:
                raise ValueError("the text occurs in it twice")
            after = []
        else:
            ids = step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
            if not isinstance(ids, list):
                raise TypeError("the ids of a token are not a list")
            (before if after is None else after).extend(ids)
    if after is None:
        raise ValueError("the text does not occur in it")
    return before, after
