"""The HTML of a page: the template, its style and its script, with the data put in safely."""

from __future__ import annotations

import html
from functools import cache
from typing import TYPE_CHECKING, Any

from ...core.checks import check_integer
from ...core.prompts import separate
from ...generation.loop import continue_prompts
from ...generation.options import SamplingOptions
from . import explanation
from .continuation import continuations, generation, room, search
from .parts import json_text, part, script_of, source_hash

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...core.prompts import Prompt
    from ...introspection.passes import ActivationCache

__all__ = ["explain_page", "fragment", "framed"]

# The script in the order in which its parts use each other; page.js starts everything.
SCRIPTS = (
    *("data.js", "pieces.js", "elements.js", "characters.js", "walk.js", "heads.js", "scores.js"),
    *("lens.js", "text.js", "generation.js", "search.js", "page.js"),
)
STYLES = ("base.css", "page.css", "print.css")
TITLE_CHARACTERS = 60
# Of a frame with attention, in pixels: what stands around the tokens, a token, and at most.
AROUND, PER_TOKEN, HIGHEST = 430, 26, 900


def explain_page(
    model: LoadedModel,
    text: Prompt,
    *,
    layer: int | None = None,
    head: int | None = None,
    special: bool = False,
    max_new_tokens: int = 8,
    num_beams: int = 3,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 0.95,
    seed: int = 0,
    edits: explanation.Edits = (),
) -> str:
    """A page that shows how the model reads a text and goes on with it; it opens from a file, offline.

    Parameters
    ----------
    model : LoadedModel
    text : str or token ids
        The empty string is the beginning of a text.
    layer, head : int, optional
        The attention head that the page opens with; negative ones count from the end. Default: the first
        layer, and its head whose last token attends most to one other token.
    max_new_tokens : int
        Tokens to generate and to search, at least 1; fewer where the model has no more positions.
    num_beams : int
        The width of the search; 1 leaves it out.
    special, temperature, top_k, top_p, seed, edits
        Of the text and of the generation: see :meth:`GPT2.generate`. Edits are made in every pass.

    Returns
    -------
    str
        The whole file. It grows with the square of the text's length: 0.95 MB for 12 layers of 12 heads and
        64 tokens. Beyond 117 tokens of such a model, scores before the mask are in it for one layer only;
        beyond 333, so is attention.

    Raises
    ------
    ContextLengthError
        The text is longer than the model's positions.
    ValueError, TypeError
        A layer or head that the model does not have, or an invalid option.
    """
    check_integer("max_new_tokens", max_new_tokens, 1)
    check_integer("num_beams", num_beams, 1)
    several, given = separate(text)
    if several:
        raise TypeError(f"explain_page explains one text, but got a list of {len(given)}")
    activations, layer, head = explanation.look(model, text, layer, head, explanation.names, special, edits)
    used = set(activations.token_ids.tolist())
    data = _reading(activations, layer, head, used, edits)
    data |= {"text": text} if isinstance(text, str) and text else {}  # the tokens may spell another one
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    data |= _continuing(activations, max_new_tokens, num_beams, options, used, edits)
    data["pieces"] = explanation.pieces(model, used)
    return _document(data)


def _reading(
    cache: ActivationCache, layer: int, head: int, used: set[int], edits: explanation.Edits
) -> dict[str, Any]:
    """How the model reads the text; the tokens that are shown are added to ``used``."""
    edited = explanation.edited(cache.model, edits)
    without = edited["edits"]["attention"] if edited else ()
    return {
        **explanation.about(cache.model, cache.token_ids),
        **edited,
        "start": {"layer": layer, "head": head},
        "attention": explanation.attention(cache, layer, hidden=True, without=without),
        "walk": explanation.walk(cache, layer, head, used),
        "lens": explanation.lens(cache, used),
        "scores": explanation.scores(cache.model, cache.token_ids.tolist(), used, edits),
    }


def _continuing(
    cache: ActivationCache,
    max_new_tokens: int,
    num_beams: int,
    options: dict[str, Any],
    used: set[int],
    edits: explanation.Edits,
) -> dict[str, Any]:
    """How the text goes on, drawn and searched: nothing where the model has no more positions."""
    model, ids = cache.model, cache.token_ids.tolist()
    n_new = room(model, len(ids), max_new_tokens)
    if not n_new:
        return {}
    sampling = SamplingOptions(
        max_new_tokens=n_new,
        trace=True,
        names_filter="blocks.*.attn.hook_pattern",
        edits=edits,
        **options,
    )
    [drawn] = continue_prompts(model, [cache.token_ids], sampling)
    data = {"generation": generation(drawn, options, used)}
    if num_beams > 1:
        greedy, found = continuations(model, ids, n_new, num_beams, trace=True, edits=edits)
        data["search"] = search(found, greedy, num_beams, used)
    return data


def fragment(cache: ActivationCache) -> str:
    """The attention that a cache holds, as a piece of HTML for notebooks: an inline frame with all it needs.

    Parameters
    ----------
    cache : ActivationCache
        With attn.hook_pattern of at least one layer.

    Raises
    ------
    ValueError
        No pattern was captured.
    """
    config = cache.model.config
    layers = [i for i in range(config.n_layer) if f"blocks.{i}.attn.hook_pattern" in cache]
    if not layers:
        raise ValueError(
            "the page shows attention, but no pattern was captured: leave names_filter of run_with_cache "
            'out, or let it match "blocks.0.attn.hook_pattern"'
        )
    data = {
        **explanation.about(cache.model, cache.token_ids),
        "start": {"layer": layers[0], "head": explanation.opening_head(cache, layers[0])},
        "attention": explanation.attention(cache, layers[0], hidden=False),
        "pieces": explanation.pieces(cache.model, cache.token_ids.tolist()),
    }
    height = min(AROUND + PER_TOKEN * max(5, len(cache.token_ids)), HIGHEST)
    return framed(_document(data), "Attention", height)


def framed(page: str, title: str, height: int) -> str:
    """A page as a piece of HTML for notebooks: its script and style stay inside the frame."""
    return (
        f'<iframe title="{html.escape(title)}" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )


def _document(data: dict[str, Any]) -> str:
    text = data["text"]
    printable = "".join(character if character.isprintable() else " " for character in text)
    title = " ".join(printable[: TITLE_CHARACTERS + 1].split())
    if len(text) > TITLE_CHARACTERS:
        title = title[:TITLE_CHARACTERS] + "…"
    template, style, script = _parts()
    return template.format(
        title=html.escape(title),
        style=style,
        script=script,
        style_hash=source_hash(style),
        script_hash=source_hash(script),
        data=json_text(data),
    )


@cache
def _parts() -> tuple[str, str, str]:
    """The template, the style and the script."""
    template, *styles = (part(__package__, name) for name in ("page.html", *STYLES))
    return template, "\n".join(styles), script_of(part(__package__, name) for name in SCRIPTS)
