"""What has a page: how it is shown in notebooks and written to files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..core.files import replacing
from .pages import framed
from .pages.language import said

__all__ = ["Paged"]

# Of the frame in notebooks, in pixels.
HEIGHT = 720


class Paged:
    """An explanation whose ``html`` is a page."""

    lang: str

    if TYPE_CHECKING:

        @property
        def html(self) -> str:
            """The page: one HTML file, which needs no network."""

    def _repr_html_(self) -> str:
        return framed(self.html, said(self.lang, "Explanation"), HEIGHT)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, which appears once it is complete."""
        page = self.html.encode("utf-8")
        with replacing(os.fspath(path), binary=True) as file:
            file.write(page)
