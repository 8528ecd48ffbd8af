"""How commands write JSON, tokens, counts and sizes."""

from __future__ import annotations

import json
import re
from typing import TextIO

from ..core.labels import visible
from ..errors import counted

__all__ = ["counted", "print_json", "quoted", "size_text"]


def print_json(value: object, out: TextIO) -> None:
    """Print ``value`` as indented JSON."""
    # Escapes where the output's encoding might lack a character: a question mark would be another text.
    unicode = (out.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not unicode, indent=2)
    # The control characters that json leaves as they are: a terminal would obey them.
    print(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text), file=out)


def quoted(text: str) -> str:
    """A token so that its spaces, line breaks and characters without a look of their own can be seen."""
    return "".join(map(visible, json.dumps(text, ensure_ascii=False)))


def size_text(n: int) -> str:
    """A number of bytes in the largest unit that it fills, as in "1.5 MiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n} bytes"
