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
    # Escape characters that the output's encoding may lack: a question mark would change the text.
    unicode = (out.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not unicode, indent=2)
    # Control characters that json does not escape: a terminal would act on them.
    print(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text), file=out)


def quoted(text: str) -> str:
    """A token with its spaces, line breaks and invisible characters made visible."""
    return "".join(map(visible, json.dumps(text, ensure_ascii=False)))


def size_text(n: int) -> str:
    """A number of bytes in the largest unit that fits, as in "1.5 MiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n} bytes"
