"""`gpt2c explain`: the inside of a pass as a page, as text for a terminal, or as JSON."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..checkpoint.bundled import is_encoder_decoder
from ..views.explanation import check_options
from ..views.pages.continuation import room
from ..views.pages.language import ENGLISH, check_language
from .console import note, open_output, read_text
from .formatting import print_json, size_text
from .loading import load_any, load_encoder_decoder

if TYPE_CHECKING:
    from ..bert import BERT
    from ..model import GPT2
    from ..views.explanation import Explanation
    from ..views.masked_explanation import MaskedExplanation

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Show how the model reads a text and continues it."""
    given = vars(arguments)
    continued = {name: given[name] for name in ("max_new_tokens", "num_beams", "temperature", "seed")}
    # Refuse bad options before loading anything.
    check_options(**continued)
    if arguments.lang is not None:
        check_language(arguments.lang)
    output = arguments.output
    is_page = output is not None and not arguments.text_view and not arguments.json
    if arguments.open and (not is_page or output == "-"):
        raise ValueError("--open shows a page: give the file for it with -o FILE")
    if arguments.lang is not None and not is_page:
        raise ValueError("--lang is the language of a page: give the file for it with -o FILE")
    text = read_text(arguments.text)
    if not text and arguments.text != "":
        raise ValueError(
            'no text to explain: give it as an argument or on stdin; "" is the beginning of a text'
        )
    text = text or ""
    if len(text) < 256 and os.path.isfile(text):
        note(f"explaining the words {text!r}; for the contents of the file: gpt2c explain - < {text}")
    with open_output(output) as out:
        explanation = _explained(arguments, text, continued)
        if is_page:
            page = explanation.html.encode()
            # It declares UTF-8, so the encoding of stdout is not used.
            out.buffer.write(page)
        elif arguments.json:
            print_json(explanation.to_dict(), out)
        else:
            width = shutil.get_terminal_size().columns if out is sys.stdout else 80
            explanation.print(out, width)
    if is_page and output != "-":
        note(f"{output}: {size_text(len(page))}")
        if arguments.open:
            import webbrowser

            if not webbrowser.open(Path(output).resolve().as_uri()):
                note(f"no browser was found: open {output} with one")


def _explained(arguments: Namespace, text: str, continued: dict[str, Any]) -> Explanation | MaskedExplanation:
    """What the model makes of the text, with notes of what may surprise."""
    heads = {name: vars(arguments)[name] for name in ("layer", "head", "layers", "edits")}
    heads["lang"] = arguments.lang or ENGLISH
    if is_encoder_decoder(arguments.model):
        _check_single(arguments.second)
        both = load_encoder_decoder(arguments)
        return both.explain(text, special=arguments.special, **continued, **heads)
    model = load_any(arguments)
    if model.config.is_bert:
        second = arguments.second
        return cast("BERT", model).explain(text if second is None else (text, second), **heads)
    _check_single(arguments.second)
    explanation = cast("GPT2", model).explain(text, special=arguments.special, **continued, **heads)
    if not arguments.special:
        for token in model.tokenizer.special_tokens:
            if token in text:
                note(f"{token} is read as plain text; --special reads it as one token")
    wanted = arguments.max_new_tokens
    left = room(model, len(explanation.token_ids), wanted)
    if 0 <= left < wanted:
        note(f"room for {left} of {wanted} new tokens: the model has {model.config.n_ctx} positions")
    return explanation


def _check_single(second: str | None) -> None:
    """Raise ValueError for a pair of texts."""
    if second is not None:
        raise ValueError("--second is for a BERT, which reads pairs of texts: leave it out")
