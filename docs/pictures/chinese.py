"""Translates the words of the pictures: for each NAME.svg of the guide it writes NAME.zh.svg.

    python docs/pictures/chinese.py

The words are in chinese.json, where {} is any number.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORDS = json.loads((HERE / "chinese.json").read_text(encoding="utf-8"))
NAMES = sorted(path.stem for path in HERE.glob("*.svg") if not path.stem.endswith(".zh"))
# What stays as it is: numbers, names of the model's parts, and tokens.
KEPT = re.compile(
    r"[\d.,%\u00d7\u2192 ]+|[+-]|softmax|GELU|c_fc|c_proj|wte\[.*|3 May 1984|\u2423\w+|As|king|The.*"
)
TEXTS = re.compile(r"(<(?:text|title)\b[^>]*>)([^<]*)(</)")


def translated(text: str) -> str:
    """A text in Chinese; an error if it is neither among the words nor one that stays."""
    for english, chinese in WORDS.items():
        pattern = re.escape(english).replace(r"\{\}", r"(\d+)")
        if found := re.fullmatch(pattern, text):
            return chinese.format(*found.groups())
    if KEPT.fullmatch(text):
        return text
    raise ValueError(f"docs/pictures/chinese.json has no Chinese for {text!r}: add it")


def draw(name: str) -> str:
    """A picture with its words in Chinese."""
    picture = (HERE / f"{name}.svg").read_text(encoding="utf-8")
    return TEXTS.sub(lambda found: found[1] + translated(found[2]) + found[3], picture)


if __name__ == "__main__":
    for name in NAMES:
        (HERE / f"{name}.zh.svg").write_text(draw(name), encoding="utf-8")
