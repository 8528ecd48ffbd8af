"""Pages that show what a model does with a text: one HTML file each, which needs nothing but a browser."""

from .document import explain_page, fragment, framed
from .masked import masked_page

__all__ = ["explain_page", "fragment", "framed", "masked_page"]
