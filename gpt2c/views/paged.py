"""Explanations of one text: what they share, how they are shown, and how their pages are written to files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ..core.files import replacing
from ..core.prompts import separate
from ..errors import counted
from ..introspection.edits import Edit, described
from ..introspection.observer import checked_edits
from .pages import framed
from .pages.explanation import Edits, checked_head, checked_layers
from .pages.language import check_language, said

if TYPE_CHECKING:
    import numpy as np

    from ..core.lm import LoadedModel

__all__ = ["Paged", "check_one_text"]

# Of the frame in notebooks, in pixels.
HEIGHT = 720


class Paged:
    """An explanation of one text: ``html`` is its page, ``print`` writes it as text.

    Attributes
    ----------
    model : LoadedModel
    token_ids : np.ndarray
        The tokens of the text, int32 [T], with what the tokenizer puts around it.
    edits : list of str
        Descriptions of the edits in the pass.
    lang : str
        The language of the page.
    """

    token_ids: np.ndarray

    def __init__(
        self,
        model: LoadedModel,
        given: Any,
        *,
        layer: int | None,
        head: int | None,
        layers: Sequence[int] | None,
        edits: Iterable[tuple[str, Edit]],
        lang: str,
    ) -> None:
        check_language(lang)
        self.model, self._given, self.lang = model, given, lang
        self._layer, self._head = checked_head(model, layer, head)
        self._layers = checked_layers(model, layers)
        self._edits: Edits = tuple(edits) if isinstance(edits, Iterable) else (edits,)
        checked_edits(model, self._edits)
        self.edits = described(model.config, self._edits)

    if TYPE_CHECKING:

        @property
        def html(self) -> str:
            """The page: one HTML file, which works offline."""

        def print(self, out: TextIO, width: int) -> None:
            """Write it as text for a terminal of ``width`` columns."""

    def __repr__(self) -> str:
        edited = f", {counted(len(self.edits), 'edit')}" if self.edits else ""
        n_tokens = counted(len(self.token_ids), "token")
        return f"<Explanation of {n_tokens}{edited}: print it, or .save(path) its page>"

    def __str__(self) -> str:
        out = io.StringIO()
        self.print(out, 80)
        return out.getvalue().strip("\n")

    def _repr_html_(self) -> str:
        return framed(self.html, said(self.lang, "Explanation"), HEIGHT)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, which appears once it is complete."""
        page = self.html.encode("utf-8")
        with replacing(os.fspath(path), binary=True) as file:
            file.write(page)


def check_one_text(text: Any) -> None:
    """Raise TypeError for a list of texts."""
    several, given = separate(text)
    if several:
        raise TypeError(f"explain takes one text, not a list of {len(given)}: explain each of them")
