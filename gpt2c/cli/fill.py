"""`gpt2c fill`: words for the masks of a text."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from .console import open_output, read_text
from .formatting import print_json, quoted
from .loading import load_bert
from .suggest import suggestion_dict

if TYPE_CHECKING:
    from ..masks.results import Filling

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Fill the masks of a text."""
    text = read_text(arguments.text)
    if text is None:
        raise ValueError("no text to fill: give it as an argument, or on stdin")
    with open_output(arguments.output) as out:
        model = load_bert(arguments)
        found = model.fill(
            text,
            arguments.k,
            num_beams=arguments.num_beams,
            targets=arguments.targets,
            max_tokens=arguments.max_tokens,
        )
        if arguments.json:
            masks = [list(map(suggestion_dict, mask)) for mask in found.masks]
            fillings = list(map(_filling_dict, found))
            told = {"text": text, "fillings": fillings, "masks": masks, "truncated": found.truncated}
            print_json(told, out)
            return
        for filling in found:
            tokens = " ".join(quoted(token.text) for token in filling.tokens)
            print(f"{filling.probability:7.2%}  {tokens}  {quoted(filling.text)}", file=out)


def _filling_dict(filling: Filling) -> dict[str, Any]:
    return {**filling._asdict(), "tokens": list(map(suggestion_dict, filling.tokens))}
