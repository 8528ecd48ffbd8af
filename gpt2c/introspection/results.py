"""Results of the logit lens, attribution, head scores and patching."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.display import Displayed
from ..core.labels import fitted, label
from ..errors import counted
from ..json_values import plain

__all__ = ["Attribution", "HeadScores", "LogitLens", "Patching"]

CELL = 12  # columns of a token in a table


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Displayed):
    """The model's prediction if it ended after a layer; ``str()`` is a table of the first choices.

    Each layer's residual stream goes through the final LayerNorm and the head, as the last one's does
    (nostalgebraist, "interpreting GPT: the logit lens", 2020); for a BERT through its whole head, which
    predicts the token at each position. T is the number of tokens in the text, k the number of most probable
    tokens wanted.

    Attributes
    ----------
    names : list of str, n_layer + 1
        "embed" is the stream before the first layer, "layer 0" that after it, and so on. The last is the
        model's own prediction.
    input_ids : np.ndarray, int32 [T]
        The text.
    tokens : list of str, T
        The text of each of its tokens.
    token_ids : np.ndarray, int32 [T]
        The tokens asked about, one for each position.
    logprobs : np.ndarray, float32 [n_layer + 1, T]
        The natural logarithms of their probabilities.
    ranks : np.ndarray, int64 [n_layer + 1, T]
        The number of tokens that are more probable; 0 is the first choice.
    entropies : np.ndarray, float32 [n_layer + 1, T]
        The entropy of the prediction, in nats.
    top_ids : np.ndarray, int32 [n_layer + 1, T, k]
        The most probable tokens, the best first, equal ones by id; -1 if logits are not finite.
    top_logprobs : np.ndarray, float32 [n_layer + 1, T, k]
        The natural logarithms of their probabilities.
    top_tokens : list of list of list of str
        The text of each of ``top_ids``.
    in_place : bool
        Whether predictions are of the token at each position, as a BERT's are, not of the next one.
    """

    names: list[str]
    input_ids: np.ndarray
    tokens: list[str]
    token_ids: np.ndarray
    logprobs: np.ndarray
    ranks: np.ndarray
    entropies: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    top_tokens: list[list[list[str]]]
    in_place: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers, ready for ``json.dumps``; None if not finite."""
        return plain(vars(self))

    def __repr__(self) -> str:
        return f"<LogitLens of {counted(len(self.tokens), 'token')}: {len(self.names)} residual streams>"

    def __str__(self) -> str:
        rows = [["", *self.names]]
        for position, (text, token) in enumerate(zip(self.tokens, self.input_ids, strict=True)):
            best = [texts[position][0] for texts in self.top_tokens]
            rows.append([label(text, token), *map(label, best, self.top_ids[:, position, 0])])
        lines = ["  ".join(fitted(cell, CELL) for cell in row).rstrip() for row in rows]
        numbers = ["", *map(str, range(len(self.tokens)))]
        return "\n".join(f"{number:>4} {line}" for number, line in zip(numbers, lines, strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Displayed):
    """The contributions to a logit, or to the difference of two; ``str()`` is a table.

    The residual stream is a sum, the head is linear, and so is the final LayerNorm once its scale is frozen
    at its value: then the logit is the sum of the contributions of all components of the stream (Elhage et
    al., "A Mathematical Framework for Transformer Circuits", 2021). A component c [n_embd] contributes ``((c
    - mean(c)) / scale * gain) @ W_U[token]``.

    Attributes
    ----------
    token_id, against_id : int, int or None
        The token of the logit, and the one whose logit is subtracted.
    token, against : str, str or None
        Their texts.
    position : int
        Position of the text's token before it.
    logit : float
        The model's value.
    components : dict of str to float
        "embed", "pos_embed", "attn 0", "mlp 0", "attn 1", ..., "bias" (from the bias of the final LayerNorm)
        and "rest". Their sum is ``logit``. The rest is what no component explains: float32's rounding (about
        1e-6), the rounding of the head's input in packed formats, and edits of the residual stream itself or
        of the final LayerNorm.
    heads : np.ndarray, float32 [n_layer, n_head]
        The contribution of each head: from attn.hook_result if captured, otherwise from attn.hook_z.
    attn_bias : np.ndarray, float32 [n_layer]
        The contribution of the bias of each layer's attention. With it the heads of a layer sum to its
        "attn", except for rounding, which in packed formats includes that of the input of attention's last
        matrix, and for edits of hook_attn_out.
    """

    token_id: int
    against_id: int | None
    token: str
    against: str | None
    position: int
    logit: float
    components: dict[str, float]
    heads: np.ndarray
    attn_bias: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers, ready for ``json.dumps``; None if not finite."""
        return plain(vars(self))

    def __repr__(self) -> str:
        return f"<Attribution of {self._of()}: {self.logit:.4g}>"

    def __str__(self) -> str:
        lines = [f"{self._of()} after position {self.position}: {self.logit:.4f}"]
        lines += [f"  {name:<10} {value:9.4f}" for name, value in self.components.items()]
        lines.append("heads, and the bias of their layer")
        values = np.column_stack([self.heads, self.attn_bias])
        return "\n".join(lines + _matrix(values, [*map(str, range(self.heads.shape[1])), "bias"]))

    def _of(self) -> str:
        name = f"logit of {_quoted(self.token, self.token_id)}"
        if self.against is not None and self.against_id is not None:
            name += f" minus {_quoted(self.against, self.against_id)}"
        return name


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Displayed):
    """What each head attends to in a text; ``str()`` is a table for each score.

    A score is the weight that a head's attention pattern gives to keys of a kind, averaged over those
    positions of the text that have such a key: 0 to 1, NaN if none has. All are float32 [n_layer, n_head].

    Previous token heads and induction heads are from Elhage et al., "A Mathematical Framework for Transformer
    Circuits" (2021), and Olsson et al., "In-context Learning and Induction Heads" (2022), who measure the
    latter (there: prefix matching) on random tokens repeated; duplicate token heads from Wang et al.,
    "Interpretability in the Wild" (2022). TransformerLens's ``detect_head`` (with "mul") averages over all
    positions of the text instead, including those without such a key: its score is this one times the share
    of positions that have one.

    Attributes
    ----------
    previous_token : np.ndarray
        The weight of the previous token.
    duplicate_token : np.ndarray
        The weight of all earlier occurrences of the token.
    induction : np.ndarray
        The weight of the tokens that followed its earlier occurrences (the position itself if that is the
        previous token).
    first_token : np.ndarray
        The weight of position 0, for later positions.
    entropy : np.ndarray
        The mean entropy of the pattern's rows, in nats: 0 if all weight is on one token, log n if n
        tokens share it.
    """

    previous_token: np.ndarray
    duplicate_token: np.ndarray
    induction: np.ndarray
    first_token: np.ndarray
    entropy: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Lists of numbers by name, ready for ``json.dumps``; None for NaN."""
        return plain(vars(self))

    def __repr__(self) -> str:
        n_layer, n_head = self.entropy.shape
        return f"<HeadScores of {n_layer} layers of {n_head} heads>"

    def __str__(self) -> str:
        lines: list[str] = []
        for name, values in vars(self).items():
            lines.append(name.replace("_", " ") + (" (nats)" if name == "entropy" else ""))
            lines += _matrix(values, map(str, range(values.shape[1])))
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class Patching(Displayed):
    """A metric for every patch; ``str()`` is a table. NumPy treats it as the array ``values``.

    Attributes
    ----------
    name : str
        The short name of the patched value.
    layers : list of int
        The patched layers.
    positions, heads : list of int, or None
        The patched positions and heads; None: all of them at once.
    token_ids : np.ndarray, int32 [T]
        The corrupted text.
    tokens : list of str, T
        The text of each of its tokens.
    values : np.ndarray, float64
        [layers], [layers, positions], [layers, heads] or [layers, positions, heads].
    """

    name: str
    layers: list[int]
    positions: list[int] | None
    heads: list[int] | None
    token_ids: np.ndarray
    tokens: list[str]
    values: np.ndarray

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype) if copy else np.asarray(self.values, dtype)

    def maps(self) -> list[tuple[str, list[str], np.ndarray]]:
        """The values as maps, each with its title and the names of its columns: [layers, columns].

        One for each position, if heads were patched one by one at each; otherwise a single one.
        """
        places = [f"{i} {label(self.tokens[i], self.token_ids[i])}" for i in self.positions or ()]
        heads = [f"head {i}" for i in self.heads or ()]
        if places and heads:
            return [(f"{self.name} at {at}", heads, self.values[:, i]) for i, at in enumerate(places)]
        columns = places or heads or ["all"]
        return [(self.name, columns, self.values.reshape(len(self.layers), -1))]

    def to_dict(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers, ready for ``json.dumps``; None if not finite."""
        return plain(vars(self))

    def __repr__(self) -> str:
        return f"<Patching of {self.name}: {self.values.size} patches>"

    def __str__(self) -> str:
        lines = []
        for title, columns, values in self.maps():
            lines += [title, (" " * 10 + "  ".join(fitted(name, CELL) for name in columns)).rstrip()]
            for layer, row in zip(self.layers, values.tolist(), strict=True):
                cells = "  ".join(f"{f'{value:.3f}':<{CELL}}" for value in row)
                lines.append(f"  layer {layer:<2}{cells}".rstrip())
        return "\n".join(lines)


def _quoted(text: str, token: int) -> str:
    return f'"{label(text)}"' if text else label(text, token)


def _matrix(values: np.ndarray, columns: Iterable[str]) -> list[str]:
    """Lines of a table: layers down, heads across."""
    lines = [" " * 10 + " ".join(f"{name:>7}" for name in columns)]
    for layer, row in enumerate(values.tolist()):
        cells = ("      -" if math.isnan(value) else f"{value:7.3f}" for value in row)
        lines.append(f"  layer {layer:<2}" + " ".join(cells))
    return lines
