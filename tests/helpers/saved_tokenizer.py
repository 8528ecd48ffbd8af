"""The tokenizer in data/tokenizer/saved and its variants, for the tests of tokenizer files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

SAVED = Path(__file__).parents[1] / "data" / "tokenizer" / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))
DESCRIPTION = json.loads((SAVED / "tokenizer.json").read_text(encoding="utf-8"))
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def described(**changes: Any) -> dict[str, Any]:
    """The saved tokenizer.json with other parts; model and pre_tokenizer are updated, not replaced."""
    description = copy.deepcopy(DESCRIPTION)
    for key, value in changes.items():
        merged = key in ("model", "pre_tokenizer") and isinstance(value, dict)
        description[key] = description[key] | value if merged else value
    return description


def write(folder: Path, files: dict[str, Any]) -> Path:
    """A folder with these files: bytes, text, or what JSON holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (folder / name).write_bytes(content)
    return folder
