"""`gpt2c explain`: the inside of a pass as a page, as text for a terminal, or as JSON."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..core.labels import harmless
from ..generation.options import SamplingOptions
from ..json_values import plain
from ..views import terminal
from ..views.pages import explain_page
from ..views.pages.explanation import continuations, look, room
from .console import note, open_output, read_text
from .formatting import print_json, size_text
from .loading import load_model
from .suggest import suggestion_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..generation.results import Generation
    from ..model import GPT2
    from ..scoring.results import Score

__all__ = ["run"]

# How many next tokens are shown.
NEXT = 5


def run(arguments: Namespace) -> None:
    """Show how the model reads a text and continues it."""
    options = {"max_new_tokens": arguments.max_new_tokens, "num_beams": arguments.num_beams}
    # Bad options are refused before anything is loaded.
    SamplingOptions(**options)
    SamplingOptions(temperature=arguments.temperature, seed=arguments.seed)
    output = arguments.output
    is_page = output is not None and not arguments.text_view and not arguments.json
    if arguments.open and (not is_page or output == "-"):
        raise ValueError("--open shows a page: name the file to write it to, with -o FILE")
    text = read_text(arguments.text)
    if not text:
        raise ValueError("no text to explain: give it as an argument or on stdin")
    if len(text) < 256 and os.path.isfile(text):
        note(f"explaining the words {text!r}; for what is in the file: gpt2c explain - < {text}")
    with open_output(output) as out:
        model = load_model(arguments)
        wanted = arguments.max_new_tokens
        special = arguments.special
        left = room(model, len(model.encode([text], special=special)[0]), wanted)
        if 0 <= left < wanted:
            note(f"room for {left} of {wanted} new tokens: the model has {model.config.n_ctx} positions")
        if is_page:
            drawn = {"temperature": arguments.temperature, "seed": arguments.seed}
            page = explain_page(
                model,
                text,
                special=special,
                layer=arguments.layer,
                head=arguments.head,
                **options,
                **drawn,
            ).encode()
            # It says that it is UTF-8, so the encoding of stdout is not used.
            out.buffer.write(page)
        else:
            story = _Story(model, text, arguments.layer, arguments.head, special=special, **options)
            if arguments.json:
                print_json(story.to_dict(), out)
            else:
                width = shutil.get_terminal_size().columns if out is sys.stdout else 80
                story.print(out, width)
    if is_page and output != "-":
        note(f"{output}: {size_text(len(page))}")
        if arguments.open:
            import webbrowser

            if not webbrowser.open(Path(output).resolve().as_uri()):
                note(f"no browser was found: open {output} with one")


class _Story:
    """What is printed of a text, or written as JSON, instead of the page."""

    def __init__(
        self,
        model: GPT2,
        text: str,
        layer: int | None,
        head: int | None,
        *,
        max_new_tokens: int,
        num_beams: int,
        special: bool = False,
    ) -> None:
        self.model, self.text = model, text
        self.cache, self.layer, self.head = look(model, text, layer, head, _names, special)
        ids = self.cache.token_ids.tolist()
        self.lens = self.cache.logit_lens(NEXT)
        self.attribution = self.cache.attribution()
        self.head_scores = self.cache.head_scores()
        self.next = model.suggest(ids, min(NEXT, model.n_text_tokens))
        # Scored is what stands behind the first token, which may be one that the tokenizer put there.
        put = len(ids) > len(model.encode_text(text, "the text", special=special))
        self.score: Score | None = model.score(text, bos=put, special=special) if len(ids) > 1 else None
        self.generations: list[tuple[int, Generation]] = []
        new = room(model, len(ids), max_new_tokens)
        if new:
            greedy, found = continuations(model, ids, new, num_beams)
            self.generations = [(1, greedy), *((num_beams, best) for best in found[:1])]

    def print(self, out: TextIO, width: int) -> None:
        """Print it for a terminal of this width."""
        screen, c = terminal.Screen(out, width), self.model.config
        about = (
            f"{harmless(self.model.name)}: {c.n_layer} layers of {c.n_head} heads, {c.n_embd} numbers per "
            f"token, {c.n_vocab:,} tokens"
        )
        for line in textwrap.wrap(about, screen.width):
            screen.line(line)
        terminal.print_embedding(screen, self.cache)
        terminal.print_attention(screen, self.cache, self.layer, self.head)
        terminal.print_pattern(screen, self.cache, self.layer, self.head)
        terminal.print_attribution(screen, self.attribution)
        terminal.print_next(screen, self.next)
        terminal.print_lens(screen, self.lens)
        if self.score is not None:
            terminal.print_text(screen, self.score)
        terminal.print_head_scores(screen, self.head_scores, self.layer, self.head)
        if self.generations:
            terminal.print_continuations(screen, self.generations)

    def to_dict(self) -> dict[str, Any]:
        """All of it for `json.dumps`: arrays as lists; None is minus infinity, or no value."""
        c, cache = self.model.config, self.cache
        of_head = {name: cache[name, self.layer][:, self.head] for name in ("q", "k", "v", "z")}
        of_pairs = {name: cache[name, self.layer][self.head] for name in ("attn_scores", "pattern")}
        of_cells, of_best, of_heads = "[n_layer + 1, T]", "[n_layer + 1, T, best]", "[n_layer, n_head]"
        return {
            "model": self.model.name,
            "numerics": self.model.numerics,
            "text": self.text,
            "token_ids": cache.token_ids.tolist(),
            "tokens": cache.tokens,
            "layer": self.layer,
            "head": self.head,
            "sizes": {
                "T": len(cache.token_ids),
                "n_layer": c.n_layer,
                "n_head": c.n_head,
                "n_embd": c.n_embd,
                "d_head": c.head_dim,
                "n_vocab": c.n_vocab,
                "best": self.lens.top_ids.shape[2],
            },
            "shapes": {
                **dict.fromkeys(of_head, "[T, d_head]"),
                **dict.fromkeys(of_pairs, "[T, T]"),
                **{f"logit_lens.{name}": of_cells for name in ("logprobs", "ranks", "entropies")},
                **{f"logit_lens.top_{name}": of_best for name in ("ids", "logprobs", "tokens")},
                "logit_lens.token_ids": "[T]",
                **{f"head_scores.{name}": of_heads for name in vars(self.head_scores)},
                "attribution.heads": of_heads,
                "attribution.attn_bias": "[n_layer]",
            },
            **plain({**of_head, **of_pairs}),
            "next": list(map(suggestion_dict, self.next)),
            "logit_lens": self.lens.to_dict(),
            "attribution": self.attribution.to_dict(),
            "head_scores": self.head_scores.to_dict(),
            "score": None if self.score is None else self.score.rows(),
            "generations": [
                {"num_beams": beams, "text": g.text, "token_ids": g.token_ids, "logprobs": g.logprobs}
                for beams, g in self.generations
            ],
        }


def _names(layer: int) -> Callable[[str], bool]:
    """The activations to capture: the largest ones in ``layer`` only."""

    def wanted(name: str) -> bool:
        place = name.rpartition(".")[2].removeprefix("hook_")
        here = name.startswith(f"blocks.{layer}.")
        return place not in ("result", "pre", "post") and (
            here or place not in ("q", "k", "v", "attn_scores")
        )

    return wanted
