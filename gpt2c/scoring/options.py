"""The options of scoring, and the one place where they are checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from ..core import _engine
from ..core.checks import check_flag, check_integer
from ..core.deadline import Deadline
from ..core.prefixes import NothingKept
from .vocabulary import word_edges

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prefixes import Prefixes
    from ..introspection.edits import Edit

MOST_TOP = 4096  # a call of the engine has room for this many per row

__all__ = ["ScoreKwargs", "ScoringOptions", "check_outcome", "default_stride", "start_of"]


class ScoreKwargs(TypedDict, total=False):
    """The options of ``GPT2.score`` as keyword arguments, for type checkers."""

    bos: bool | int
    repeat_bos: bool
    special: bool
    window: int | None
    stride: int | None
    min_context: int | None
    top: int
    mask: np.ndarray | None
    words: bool
    edits: Iterable[tuple[str, Edit]]
    deadline: float | Deadline | None


class ScoringOptions(NamedTuple):
    """How texts are scored, checked."""

    bos: bool | int  # the id of the token before every text, if it is not the model's own
    repeat_bos: bool
    special: bool
    window: int
    stride: int | None
    n_ctx: int  # of the model, for errors
    top: int
    masks: np.ndarray  # for the engine: the user's, if any, and that of word ends
    masked: bool  # whether there is one
    words: bool
    edits: Mapping[str, list[Edit]]  # by the name of the activation they change
    deadline: Deadline
    prefixes: Prefixes

    @classmethod
    def checked(
        cls,
        model: LoadedModel,
        *,
        bos: Any = True,
        repeat_bos: Any = False,
        special: Any = False,
        window: Any = None,
        stride: Any = None,
        min_context: Any = None,
        top: Any = 0,
        mask: Any = None,
        words: Any = False,
        edits: Iterable[tuple[str, Edit]] = (),
        deadline: float | Deadline | None = None,
        prefixes: Prefixes | None = None,
    ) -> ScoringOptions:
        """The options of ``GPT2.score``, or an error that says what is allowed."""
        model.check_language_model()
        special, words = check_flag("special", special), check_flag("words", words)
        n_ctx, n_vocab = model.config.n_ctx, model.config.n_vocab
        if not isinstance(bos, bool | np.bool_):
            bos = check_integer("bos", bos, 0, n_vocab - 1, ", a token id, or True or False")
        n_start = 0
        if check_flag("repeat_bos", repeat_bos):
            n_start = len(start_of(model, bos))
            if n_start == 0:
                raise ValueError(
                    "repeat_bos=True repeats the start token, but bos=False has none: use bos=True or bos=ID"
                )
        window, stride = checked_window(n_ctx, n_start, window, stride, min_context)
        if model.n_text_tokens <= MOST_TOP:
            most, which = model.n_text_tokens, ", the size of the vocabulary"
        else:
            most, which = MOST_TOP, "; model.forward(ids) returns whole rows of logits"
        top = check_integer("top", top, 0, most, which)
        changes = changes_of(model, edits)
        return cls(
            bool(bos) if isinstance(bos, np.bool_) else bos,
            n_start > 0,
            special,
            window,
            stride,
            n_ctx,
            top,
            _mask_bits(model, mask, words),
            mask is not None,
            words,
            changes,
            Deadline.of(deadline),
            NothingKept() if changes else prefixes or model.prefixes,
        )


def _mask_bits(model: LoadedModel, mask: Any, words: bool) -> np.ndarray:
    """The subsets of the vocabulary whose probabilities are wanted, in the engine's format."""
    n_vocab = model.config.n_vocab
    masks = []
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (n_vocab,):
            raise ValueError(
                f"mask must be an array of {n_vocab} bool, one for each token id, not {mask.dtype} "
                f"{list(mask.shape)}"
            )
        masks.append(mask)
    if words:
        masks.append(word_edges(model)[0])
    return _engine.mask_bits(np.array(masks, bool).reshape(-1, n_vocab))


def start_of(model: LoadedModel, bos: bool | int) -> tuple[int, ...]:
    """The start tokens of a text."""
    if isinstance(bos, bool | np.bool_):
        return model.start_ids if bos else ()
    return (bos,)


def checked_window(
    n_ctx: int, n_start: int, window: Any, stride: Any, min_context: Any
) -> tuple[int, int | None]:
    """The window and the stride, with ``n_start`` tokens before every window."""
    least = max(1, n_start)
    among = ", the model's positions"
    window = n_ctx if window is None else check_integer("window", window, least, n_ctx, among)
    if min_context is not None:
        if stride is not None:
            raise ValueError("stride and min_context set the same thing: give one of them")
        stride = window + 1 - check_integer("min_context", min_context, least, window, ", the window")
    if stride is not None:
        which = among if window == n_ctx else ", the window"
        if n_start > 1:
            which += f" and one more, less the {n_start} tokens that repeat_bos puts before each"
        stride = check_integer("stride", stride, 1, window + 1 - least, which)
    return window, stride


def changes_of(model: LoadedModel, edits: Any) -> dict[str, list[Edit]]:
    """The edits of each name, checked; the checker is imported only if there are any."""
    if isinstance(edits, tuple | list) and not edits:
        return {}
    from ..introspection.observer import checked_edits

    return checked_edits(model, edits)


def check_outcome(edits: Any, *values: np.ndarray) -> None:
    """Refuse edits that leave no valid probabilities, by the logits or values derived from them."""
    if edits and not all(np.isfinite(value).all() for value in values):
        raise ValueError(
            "the edits make logits infinite or NaN, so there are no probabilities: edit less, or by smaller "
            "numbers"
        )


def default_stride(model: LoadedModel, window: int | None = None) -> int:
    """The stride for texts of any length: half of the window, whose default is the model's positions."""
    return max(1, (window or model.config.n_ctx) // 2)
