"""How a model reads a text and continues it: as a page, as text for a terminal, as JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from ..core.checks import check_flag
from ..core.prompts import check_lengths
from ..generation.options import SamplingOptions
from ..introspection.activations import of_head
from ..introspection.edits import Edit
from ..introspection.hooks import NamesFilter
from ..introspection.observer import checked_edits
from ..json_values import plain
from ..scoring.scoring import score, suggest
from . import terminal
from .paged import Paged, check_one_text
from .pages import explain_page
from .pages.continuation import continuations, room
from .pages.explanation import Edits, look
from .pages.language import ENGLISH

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prompts import Prompt
    from ..generation.results import Generation
    from ..scoring.results import Score

__all__ = ["Explanation", "check_options"]

# The number of next tokens shown.
NEXT = 5


class Explanation(Paged):
    """What :meth:`gpt2c.GPT2.explain` returns. Pages, text and JSON are made when they are asked for.

    In a notebook it shows its page; ``print`` shows its text.

    Attributes
    ----------
    model : LoadedModel
    text : str
        The explained text; for token ids their text.
    token_ids : np.ndarray
        Its tokens, int32 [T], including the tokenizer's prefix.
    edits : list of str
        Descriptions of the edits in the pass.
    lang : str
        The language of the page.
    """

    def __init__(
        self,
        model: LoadedModel,
        text: Prompt,
        *,
        layer: int | None = None,
        head: int | None = None,
        layers: Sequence[int] | None = None,
        max_new_tokens: int = 8,
        num_beams: int = 3,
        temperature: float = 0.8,
        seed: int = 0,
        special: bool = False,
        source: str | None = None,
        edits: Iterable[tuple[str, Edit]] = (),
        lang: str = ENGLISH,
    ) -> None:
        model.check_language_model()
        check_options(max_new_tokens=max_new_tokens, num_beams=num_beams, temperature=temperature, seed=seed)
        check_one_text(text)
        super().__init__(model, text, layer=layer, head=head, layers=layers, edits=edits, lang=lang)
        [self.token_ids] = model.encode([text], special=check_flag("special", special))
        check_lengths([self.token_ids], model.config.n_ctx)
        self._special, self._source = special, source
        self._new: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
        self._drawn: dict[str, Any] = {"temperature": temperature, "seed": seed}
        known = b"".join(map(model.token_bytes, self.token_ids.tolist())).decode("utf-8", "replace")
        self.text = text if isinstance(text, str) else known

    @cached_property
    def html(self) -> str:
        """The page: one HTML file, which works offline."""
        return explain_page(
            self.model,
            self._given,
            layer=self._layer,
            head=self._head,
            layers=self._layers,
            special=self._special,
            source=self._source,
            edits=self._edits,
            lang=self.lang,
            **self._new,
            **self._drawn,
        )

    def print(self, out: TextIO, width: int) -> None:
        """Write it as text for a terminal of ``width`` columns."""
        values, screen = self._told, terminal.Screen(out, width)
        layer, head, _ = values.place
        terminal.print_model(screen, self.model, self.edits)
        terminal.print_embedding(screen, values.cache)
        terminal.print_attention(screen, values.cache, values.place)
        terminal.print_pattern(screen, values.cache, layer, head)
        if self.model.cross is not None:
            terminal.print_cross_attention(screen, values.cache)
        terminal.print_attribution(screen, values.attribution)
        terminal.print_next(screen, values.next)
        terminal.print_lens(screen, values.lens)
        if values.score is not None:
            terminal.print_text(screen, values.score)
        terminal.print_head_scores(screen, values.head_scores, layer, head)
        if values.generations:
            terminal.print_continuations(screen, values.generations)

    def to_dict(self) -> dict[str, Any]:
        """All of it for `json.dumps`: arrays as lists; None is minus infinity, or no value."""
        values, c = self._told, self.model.config
        layer, head, token = values.place
        of_one = {name: of_head(values.cache, name, layer, head) for name in ("q", "k", "v", "z")}
        of_pairs = {name: values.cache[name, layer][head] for name in ("attn_scores", "pattern")}
        of_cells, of_best, of_heads = "[n_layer + 1, T]", "[n_layer + 1, T, best]", "[n_layer, n_head]"
        return {
            "model": self.model.name,
            "numerics": self.model.numerics,
            "text": self.text,
            "edits": self.edits,
            "token_ids": self.token_ids.tolist(),
            "tokens": values.cache.tokens,
            "layer": layer,
            "head": head,
            "token": token,
            "sizes": {
                "T": len(self.token_ids),
                "n_layer": c.n_layer,
                "n_head": c.n_head,
                "n_embd": c.n_embd,
                "d_head": c.head_dim,
                "n_vocab": c.n_vocab,
                "best": values.lens.top_ids.shape[2],
            },
            "shapes": {
                **dict.fromkeys(of_one, "[T, d_head]"),
                **dict.fromkeys(of_pairs, "[T, T]"),
                **{f"logit_lens.{name}": of_cells for name in ("logprobs", "ranks", "entropies")},
                **{f"logit_lens.top_{name}": of_best for name in ("ids", "logprobs", "tokens")},
                "logit_lens.token_ids": "[T]",
                **{f"head_scores.{name}": of_heads for name in vars(values.head_scores)},
                "attribution.heads": of_heads,
                "attribution.attn_bias": "[n_layer]",
            },
            **plain({**of_one, **of_pairs}),
            "next": [{**one._asdict(), "bytes": one.bytes.hex()} for one in values.next],
            "logit_lens": values.lens.to_dict(),
            "attribution": values.attribution.to_dict(),
            "head_scores": values.head_scores.to_dict(),
            **self._cross(),
            "score": None if values.score is None else values.score.rows(),
            "generations": [
                {"num_beams": beams, "text": g.text, "token_ids": g.token_ids, "logprobs": g.logprobs}
                for beams, g in values.generations
            ],
        }

    def _cross(self) -> dict[str, Any]:
        """Where the decoder of an encoder-decoder model looks in the source, for `to_dict`."""
        model, cache = self.model, self._told.cache
        if model.cross is None:
            return {}
        patterns = [cache["cross_attn.pattern", i].tolist() for i in range(model.config.n_layer)]
        return {"cross_attention": {"sources": model.cross.tokens, "pattern": patterns}}

    @cached_property
    def _told(self) -> _Told:
        given, special = self._given, self._special
        # Scores start after the first token, which may be from the tokenizer.
        put = len(self.token_ids) > len(self.model.encode_text(given, "the text", special=special))
        scored: Any = None
        if len(self.token_ids) > 1:
            scored = score(self.model, given, bos=put, special=special, edits=self._edits)
        return _Told(self.model, self.token_ids, self._layer, self._head, scored, self._edits, **self._new)


class _Told:
    """The content of the text and of the JSON."""

    def __init__(
        self,
        model: LoadedModel,
        token_ids: Any,
        layer: int | None,
        head: int | None,
        score: Score | None,
        edits: Edits,
        *,
        max_new_tokens: int,
        num_beams: int,
    ) -> None:
        results = [name for name in checked_edits(model, edits) if name.endswith("hook_result")]
        self.cache, self.place = look(
            model, token_ids, layer, head, lambda layer: _names(layer, results), edits=edits
        )
        self.score = score
        self.lens = self.cache.logit_lens(min(NEXT, model.config.n_vocab))
        self.attribution = self.cache.attribution()
        self.head_scores = self.cache.head_scores()
        found: Any = suggest(model, token_ids, min(NEXT, model.n_text_tokens), edits=edits)
        self.next = found
        self.generations: list[tuple[int, Generation]] = []
        new = room(model, len(token_ids), max_new_tokens)
        if new:
            greedy, best = continuations(model, token_ids.tolist(), new, num_beams, edits=edits)
            self.generations = [(1, greedy), *((num_beams, one) for one in best[:1])]


def check_options(*, max_new_tokens: Any, num_beams: Any, temperature: Any, seed: Any) -> None:
    """Raise ValueError or TypeError for an invalid continuation."""
    SamplingOptions(max_new_tokens=max_new_tokens, num_beams=num_beams)
    SamplingOptions(temperature=temperature, seed=seed)


def _names(layer: int, results: Iterable[str]) -> NamesFilter:
    """The activations to capture: the largest ones only in ``layer``, and results of heads if edited."""

    def wanted(name: str) -> bool:
        place = name.rpartition(".")[2].removeprefix("hook_")
        here = name.startswith(f"blocks.{layer}.")
        return name in results or (
            place not in ("result", "pre", "post") and (here or place not in ("q", "k", "v", "attn_scores"))
        )

    return wanted
