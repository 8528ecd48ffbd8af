"""The HTML of a page: the template, its style and its script, with the data put in safely."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache as once
from typing import TYPE_CHECKING, Any

from ...core.checks import check_integer
from ...core.prompts import separate
from ...generation.loop import continue_prompts
from ...generation.options import SamplingOptions
from ...introspection.head_scores import Opening, opening
from . import explanation
from .attention import PICTURES, ROOM, attention
from .beside import SIZE, beside, masked_for
from .continuation import continuations, generation, room, search
from .crossing import crossing
from .gallery import gallery
from .language import ENGLISH, check_language, said, words_of
from .matrices import matrices
from .parts import json_text, part, script_of, source_hash
from .walk import names, predicts, walk

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...core.prompts import Prompt
    from ...introspection.passes import ActivationCache

__all__ = ["assembled", "explain_page", "fragment", "framed", "reading"]

# The script in the order in which its parts use each other; page.js starts everything.
SCRIPTS = (
    *("data.js", "language.js", "pieces.js", "elements.js", "characters.js", "numbers.js", "sampling.js"),
    *(
        "scoring.js",
        "matrices.js",
        "beside.js",
        "bert.js",
        "walk.js",
        "map.js",
        "heads.js",
        "overview.js",
        "gallery.js",
        "cross.js",
        "masks.js",
        "scores.js",
    ),
    *("lens.js", "text.js", "generation.js", "search.js", "page.js"),
)
STYLES = ("base.css", "page.css", "walk.css", "narrow.css", "print.css")
WITHOUT_SCRIPT = "This page draws its pictures with its own script, which the browser has switched off."
TITLE_CHARACTERS = 60
LARGEST = 2_900_000  # bytes of a page
PIECES = 150_000  # of them for the texts of tokens
WALK = 600_000  # of them for the walk, at least
# Of a frame with attention, in pixels: what stands around the tokens, a token, and at most.
AROUND, PER_TOKEN, HIGHEST = 430, 26, 900


def explain_page(
    model: LoadedModel,
    text: Prompt,
    *,
    layer: int | None = None,
    head: int | None = None,
    layers: Sequence[int] | None = None,
    special: bool = False,
    source: str | None = None,
    max_new_tokens: int = 8,
    num_beams: int = 3,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 0.95,
    seed: int = 0,
    edits: explanation.Edits = (),
    lang: str = ENGLISH,
) -> str:
    """A page that shows how the model reads a text and goes on with it; it opens from a file, offline.

    Parameters
    ----------
    model : LoadedModel
    text : str or token ids
        The empty string is the beginning of a text.
    layer, head : int, optional
        The attention head to open with; negative ones count from the end. Default: the most telling one.
    layers : sequence of int, optional
        Of which, besides ``layer``, the page of a long text has all attention. Default: as there is room.
    max_new_tokens : int
        Tokens to generate and to search, at least 1; fewer where the model has no more positions.
    num_beams : int
        The width of the search; 1 leaves it out.
    source : str, optional
        What the encoder has read.
    special, temperature, top_k, top_p, seed, edits
        Of the text and of the generation: see :meth:`GPT2.generate`. Edits are made in every pass.
    lang : str
        The language of the page, such as "zh"; an error names all.

    Returns
    -------
    str
        The whole file, of at most 3 MB. Of longer texts it leaves out first the scores behind the mask, then
        all but the largest weights of each token, then layers, and says so.

    Raises
    ------
    ContextLengthError, ValueError, TypeError
        The text is longer than the model's positions, or an option is invalid.
    """
    _check(text, max_new_tokens, num_beams, lang)
    layer, head = explanation.checked_head(model, layer, head)
    layers = explanation.checked_layers(model, layers)
    cache = explanation.captured(model, text, names(model.config), special, edits)
    used = set(cache.token_ids.tolist())
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    data = {"words": words_of(lang), **_continuing(cache, max_new_tokens, num_beams, options, used, edits)}
    data |= reading(cache, opening(cache, layer, head), layers, data, used, edits)
    return assembled(data | _title(cache, text, source), lang)


def _title(cache: ActivationCache, text: Prompt, source: str | None) -> dict[str, str]:
    """What is above the page; nothing where it is the tokens' own text."""
    if source is not None:  # what is written for it begins behind the start token
        return {"source": source, "text": explanation.spelled(cache.model, cache.token_ids[1:])}
    return {"text": text} if isinstance(text, str) and text else {}  # the tokens may spell another one


def _check(text: Prompt, max_new_tokens: int, num_beams: int, lang: str) -> None:
    check_language(lang)
    check_integer("max_new_tokens", max_new_tokens, 1)
    check_integer("num_beams", num_beams, 1)
    several, given = separate(text)
    if several:
        raise TypeError(f"explain_page explains one text, not a list of {len(given)}")


def reading(
    cache: ActivationCache,
    place: Opening,
    layers: Sequence[int] | None,
    others: dict[str, Any],
    used: set[int],
    edits: explanation.Edits,
) -> dict[str, Any]:
    """How the model reads the text: as much as there is room for besides what else the page holds.

    The tokens that are shown are added to ``used``.
    """
    config = cache.model.config
    edited = explanation.edited(cache.model, edits)
    without = edited["edits"]["attention"] if edited else []
    data = {
        **explanation.about(cache.model, cache.token_ids),
        **edited,
        "start": place._asdict(),
        "gallery": gallery(cache, place),
        "matrices": matrices(cache.model),
    }
    if predicts(config):
        data["lens"] = explanation.lens(cache, used)
    if not config.is_bert:
        data["scores"] = explanation.scores(cache.model, cache.token_ids.tolist(), used, edits)
    if cache.model.cross is not None:
        data["cross"] = crossing(cache, used)
    left = LARGEST - PIECES - len(json_text({**others, **data})) - sum(map(len, _parts()))
    masked = masked_for(cache)
    left -= SIZE if masked else 0
    data["attention"] = attention(
        cache,
        place.layer,
        hidden=cache.causal,
        without=without,
        layers=layers,
        room=max(min(ROOM, left - WALK), PICTURES + WALK // 4),
    )
    left -= len(json_text(data["attention"]))
    data["walk"] = walk(cache, place, used, without=without, edited=bool(edits), room=left)
    if masked:
        data["beside"] = beside(cache, masked, place.token, data["walk"]["shown"], used)
    used.update(data["ends"])
    data["pieces"] = explanation.pieces(cache.model, used)
    return data


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
    place = opening(cache)
    data = {
        **explanation.about(cache.model, cache.token_ids),
        "words": words_of(ENGLISH),
        "start": place._asdict(),
        "attention": attention(cache, place.layer, hidden=False),
        "pieces": explanation.pieces(cache.model, cache.token_ids.tolist()),
    }
    height = min(AROUND + PER_TOKEN * max(5, len(cache.token_ids)), HIGHEST)
    return framed(assembled(data), "Attention", height)


def framed(page: str, title: str, height: int) -> str:
    """A page as a piece of HTML for notebooks: its script and style stay inside the frame."""
    return (
        f'<iframe title="{html.escape(title)}" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )


def assembled(data: dict[str, Any], lang: str = ENGLISH) -> str:
    """The HTML of a page with this data, in this language."""
    text = data["text"]
    printable = "".join(character if character.isprintable() else " " for character in text)
    title = " ".join(printable[: TITLE_CHARACTERS + 1].split())
    if len(text) > TITLE_CHARACTERS:
        title = title[:TITLE_CHARACTERS] + "…"
    template, style, script = _parts()
    return template.format(
        lang=lang,
        without_script=html.escape(said(lang, WITHOUT_SCRIPT)),
        title=html.escape(title),
        style=style,
        script=script,
        style_hash=source_hash(style),
        script_hash=source_hash(script),
        data=json_text(data),
    )


@once
def _parts() -> tuple[str, str, str]:
    """The template, the style and the script."""
    template, *styles = (part(__package__, name) for name in ("page.html", *STYLES))
    return template, "\n".join(styles), script_of(part(__package__, name) for name in SCRIPTS)
