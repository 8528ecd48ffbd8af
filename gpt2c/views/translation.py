"""How an encoder-decoder model writes a text for another one, as an explanation of its decoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

from ..translation import translating
from .explanation import Explanation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.prompts import Prompt
    from ..introspection.edits import Edit

__all__ = ["ExplainKwargs", "explain"]


class ExplainKwargs(TypedDict, total=False):
    """The options of :meth:`gpt2c.GPT2.explain` for any model that writes."""

    layer: int | None
    head: int | None
    layers: Sequence[int] | None
    max_new_tokens: int
    num_beams: int
    temperature: float
    seed: int
    edits: Iterable[tuple[str, Edit]]
    lang: str


def explain(
    model: translating.Translator, source: Prompt, target: Prompt | None, *, special: bool, **options: Any
) -> Explanation:
    """What :meth:`gpt2c.EncoderDecoder.explain` does."""
    decoder = translating.given(model, source, special=special)
    ends = decoder.config.eos_token_ids
    if target is None:
        written: Any = translating.generate(model, source, special=special)
        ids = [token for token in written.token_ids if token not in ends]
    else:
        ids = decoder.encode_text(target, "the target", special=special).tolist()
    text = source if isinstance(source, str) else "".join(decoder.cross.tokens)
    return Explanation(decoder, [decoder.config.bos_token_id, *ids], source=text, **options)
