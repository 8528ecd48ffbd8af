"""What captured values mean: the logit lens, what adds up to a logit, and what heads attend to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _engine
from ._json import plain
from ._labels import fitted, label
from .generation import calls_of
from .prompts import token_ids
from .sampling import check_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .introspect import ActivationCache

__all__ = ["Attribution", "HeadScores", "LogitLens", "attribution", "head_scores", "logit_lens"]

CELL = 12  # columns of a token in a table


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens:
    """What the model would say next if it ended after a layer; ``str()`` is a table of its first choices.

    Each layer's residual stream goes through the final LayerNorm and the head, as the last one's does
    (nostalgebraist, "interpreting GPT: the logit lens", 2020). T is the number of tokens in the text, k how
    many of the most probable are wanted.

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
        How many tokens are more probable; 0 is the first choice.
    entropies : np.ndarray, float32 [n_layer + 1, T]
        How undecided the prediction is, in nats.
    top_ids : np.ndarray, int32 [n_layer + 1, T, k]
        The most probable tokens, the best first, equal ones by id; -1 where logits are not finite.
    top_logprobs : np.ndarray, float32 [n_layer + 1, T, k]
        The natural logarithms of their probabilities.
    top_tokens : list of list of list of str
        The text of each of ``top_ids``.
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

    def to_dict(self) -> dict[str, Any]:
        """Dictionaries, lists, strings and numbers, ready for ``json.dumps``; None for what is not finite."""
        return plain(vars(self))

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Draw the first choice after each layer for each token, coloured by its log-probability.

        Parameters
        ----------
        ax : matplotlib axes, optional
            To draw into, instead of a new figure.

        Returns
        -------
        matplotlib.figure.Figure
            It is not shown: that is ``matplotlib.pyplot.show()``, or a notebook's affair.

        Raises
        ------
        ImportError
            There is no matplotlib: ``pip install "gpt2c[plot]"``.
        """
        from .plots import plot_lens

        return plot_lens(self, ax)

    def _repr_html_(self) -> str:
        from .notebook import lens_html

        return lens_html(self)

    def __repr__(self) -> str:
        return f"<LogitLens of {len(self.tokens)} tokens: {len(self.names)} residual streams>"

    def __str__(self) -> str:
        rows = [["", *self.names]]
        for position, (text, token) in enumerate(zip(self.tokens, self.input_ids, strict=True)):
            best = [texts[position][0] for texts in self.top_tokens]
            rows.append([label(text, token), *map(label, best, self.top_ids[:, position, 0])])
        lines = ["  ".join(fitted(cell, CELL) for cell in row).rstrip() for row in rows]
        numbers = ["", *map(str, range(len(self.tokens)))]
        return "\n".join(f"{number:>4} {line}" for number, line in zip(numbers, lines, strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """What adds up to a logit, or to the difference of two; ``str()`` is a table.

    The residual stream is a sum, the head is linear, and so is the final LayerNorm once its scale is taken as
    it came out (frozen): then the logit is the sum of what every component of the stream adds to it (Elhage
    et al., "A Mathematical Framework for Transformer Circuits", 2021). A component c [n_embd] adds
    ``((c - mean(c)) / scale * gain) @ W_U[token]``.

    Attributes
    ----------
    token_id, against_id : int, int or None
        Whose logit it is, and that from which it is taken away.
    token, against : str, str or None
        Their texts.
    position : int
        Of the text's token after which this one comes.
    logit : float
        As the model gave it.
    components : dict of str to float
        "embed", "pos_embed", "attn 0", "mlp 0", "attn 1", ..., "bias" (what the bias of the final LayerNorm
        adds) and "rest". Their sum is ``logit``. The rest is what no component explains: float32's rounding
        (some 1e-6), the rounding of what the head multiplies in packed formats, and edits of the residual
        stream itself or of the final LayerNorm.
    heads : np.ndarray, float32 [n_layer, n_head]
        What each head's result adds: attn.hook_result where it was captured, otherwise made of attn.hook_z.
    attn_bias : np.ndarray, float32 [n_layer]
        What the bias of each layer's attention adds. With it the heads of a layer sum up to its "attn", but
        for rounding, which in packed formats is that of what attention's last matrix multiplies, and for
        edits of hook_attn_out.
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
        """Dictionaries, lists, strings and numbers, ready for ``json.dumps``; None for what is not finite."""
        return plain(vars(self))

    def plot(self) -> Figure:
        """Draw what each component adds as a bar, and what each head adds as a map.

        Returns
        -------
        matplotlib.figure.Figure
            It is not shown: that is ``matplotlib.pyplot.show()``, or a notebook's affair.

        Raises
        ------
        ImportError
            There is no matplotlib: ``pip install "gpt2c[plot]"``.
        """
        from .plots import plot_attribution

        return plot_attribution(self)

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
class HeadScores:
    """What each head attends to in a text; ``str()`` is a table for each score.

    A score is the weight that a head's attention pattern gives to keys of a kind, on the mean over those
    positions of the text for which there is such a key: 0 to 1, NaN where there is none. All are float32
    [n_layer, n_head].

    Previous token heads and induction heads are from Elhage et al., "A Mathematical Framework for Transformer
    Circuits" (2021), and Olsson et al., "In-context Learning and Induction Heads" (2022), who measure the
    latter (there: prefix matching) on random tokens repeated; duplicate token heads from Wang et al.,
    "Interpretability in the Wild" (2022). TransformerLens's ``detect_head`` (with "mul") takes the mean over
    all positions of the text instead, also those that have no such key: its score is this one times the share
    of positions that have one.

    Attributes
    ----------
    previous_token : np.ndarray
        The weight of the token before.
    duplicate_token : np.ndarray
        The weight of all earlier occurrences of the token.
    induction : np.ndarray
        The weight of the tokens that followed its earlier occurrences (the position itself where that is the
        token before).
    first_token : np.ndarray
        The weight of position 0, for later positions.
    entropy : np.ndarray
        The mean entropy of the pattern's rows, in nats: 0 where all weight is on one token, log n where n
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

    def plot(self) -> Figure:
        """Draw a map of layers and heads for each score; grey where no position has such a key.

        Returns
        -------
        matplotlib.figure.Figure
            It is not shown: that is ``matplotlib.pyplot.show()``, or a notebook's affair.

        Raises
        ------
        ImportError
            There is no matplotlib: ``pip install "gpt2c[plot]"``.
        """
        from .plots import plot_head_scores

        return plot_head_scores(self)

    def __repr__(self) -> str:
        n_layer, n_head = self.entropy.shape
        return f"<HeadScores of {n_layer} layers of {n_head} heads>"

    def __str__(self) -> str:
        lines = []
        for name, values in vars(self).items():
            lines.append(name.replace("_", " ") + (" (nats)" if name == "entropy" else ""))
            lines += _matrix(values, map(str, range(values.shape[1])))
        return "\n".join(lines)


def logit_lens(cache: ActivationCache, k: int = 5, tokens: int | Sequence[int] | None = None) -> LogitLens:
    """What :meth:`gpt2c.introspect.ActivationCache.logit_lens` does."""
    model, ids, n_layer = cache.model, cache.token_ids, cache.model.config.n_layer
    n_text = model.n_text_tokens
    k = check_integer("k", k, 1, n_text, ", the size of the vocabulary")
    targets = _asked(cache, tokens)
    streams = [cache["resid_pre", 0], *(cache["resid_post", layer] for layer in range(n_layer))]
    rows = np.arange(len(ids))
    found = []
    for part in calls_of([len(ids)] * len(streams)):
        some = streams[part]
        found.append(
            _engine.score(
                model.weights,
                [(model.new_cache(len(ids)), ids) for _ in some],
                [(rows, targets)] * len(some),
                top=k,
                n_text=n_text,
                threads=model.threads,
                start=(n_layer, np.concatenate(some)),
            )
        )
    logprobs, ranks, entropies, top_ids, top_logprobs, _ = (
        np.concatenate(parts).reshape(len(streams), len(ids), *parts[0].shape[1:])
        for parts in zip(*found, strict=True)
    )
    texts = {token: model.token_text(token) if token >= 0 else "" for token in np.unique(top_ids).tolist()}
    return LogitLens(
        names=["embed", *(f"layer {layer}" for layer in range(n_layer))],
        input_ids=ids,
        tokens=cache.tokens,
        token_ids=targets,
        logprobs=logprobs,
        ranks=ranks,
        entropies=entropies,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        top_tokens=[[[texts[token] for token in best] for best in layer] for layer in top_ids.tolist()],
    )


def _asked(cache: ActivationCache, tokens: int | Sequence[int] | None) -> np.ndarray:
    """A token for each position, int32 [T]: the one given, those given, or those that follow."""
    ids, n_vocab = cache.token_ids, cache.model.config.n_vocab
    if tokens is None:
        return np.append(ids[1:], np.int32(_most_probable(cache, -1)))
    if np.ndim(tokens) == 0:
        return np.full(len(ids), check_integer("tokens", tokens, 0, n_vocab - 1), np.int32)
    given = token_ids(tokens, n_vocab, "tokens")
    if len(given) != len(ids):
        raise ValueError(
            f"tokens holds {len(given)} token ids, but the text has {len(ids)} positions: give one id for "
            "each, or a single one for all"
        )
    return given


def attribution(
    cache: ActivationCache, token: int | None = None, against: int | None = None, position: int = -1
) -> Attribution:
    """What :meth:`gpt2c.introspect.ActivationCache.attribution` does."""
    model, config, n = cache.model, cache.model.config, len(cache.token_ids)
    position = check_integer("position", position, -n, n - 1, f" for a text of {n} tokens") % n
    row = position - n  # from the end: the first rows may have no logits
    if -row > len(cache.logits):
        raise ValueError(
            f"position {position} has no logits: those of the last {len(cache.logits)} of {n} tokens were "
            "kept; run with logits_to_keep=0, which keeps all"
        )
    if token is None:
        token = _most_probable(cache, row)
    chosen = [check_integer("token", token, 0, config.n_vocab - 1)]
    if against is not None:
        chosen.append(check_integer("against", against, 0, config.n_vocab - 1))

    def difference(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        return values[0] if against is None else values[0] - values[1]

    # Of what the last LayerNorm gives, and of what it is given. (Centring one factor of a product is enough.)
    after = difference(model.weights.unembedding(chosen))
    before = after * model.weights.tensors["ln_f.weight"]
    before = (before - before.mean()) / cache["ln_final.hook_scale"][row, 0]

    parts = {"embed": cache["embed"], "pos_embed": cache["pos_embed"]}
    heads = np.empty((config.n_layer, config.n_head), np.float32)
    attn_bias = np.empty(config.n_layer, np.float32)
    for layer in range(config.n_layer):
        parts[f"attn {layer}"], parts[f"mlp {layer}"] = cache["attn_out", layer], cache["mlp_out", layer]
        heads[layer] = _head_results(cache, layer, position, before)
        attn_bias[layer] = model.weights.tensors[f"h.{layer}.attn.c_proj.bias"] @ before
    components = {name: float(values[position] @ before) for name, values in parts.items()}
    components["bias"] = float(after @ model.weights.tensors["ln_f.bias"])
    logit = float(difference(cache.logits[row, chosen]))
    components["rest"] = logit - math.fsum(components.values())
    return Attribution(
        token_id=chosen[0],
        against_id=None if against is None else chosen[1],
        token=model.token_text(chosen[0]),
        against=None if against is None else model.token_text(chosen[1]),
        position=position,
        logit=logit,
        components=components,
        heads=heads,
        attn_bias=attn_bias,
    )


def _head_results(cache: ActivationCache, layer: int, position: int, direction: np.ndarray) -> np.ndarray:
    """The product of each head's result at a position and a direction: [n_head]."""
    if f"blocks.{layer}.attn.hook_result" in cache:
        return cache["result", layer][position] @ direction
    outward = cache.model.weights.output_projection(layer) @ direction  # [n_head, d_head]
    return (cache["z", layer][position] * outward).sum(axis=1)


def head_scores(cache: ActivationCache) -> HeadScores:
    """What :meth:`gpt2c.introspect.ActivationCache.head_scores` does."""
    config, ids = cache.model.config, cache.token_ids
    n = len(ids)
    earlier = np.tri(n, k=-1, dtype=bool) & (ids[:, None] == ids)  # [T, T]  key: the same token, before
    keys = {
        "previous_token": np.eye(n, k=-1, dtype=bool),
        "duplicate_token": earlier,
        "induction": np.pad(earlier, ((0, 0), (1, 0)))[:, :-1],  # key: one after it
        "first_token": np.tri(n, k=-1, dtype=bool) & (np.arange(n) == 0),
    }
    scores = {name: np.full((config.n_layer, config.n_head), np.nan, np.float32) for name in keys}
    entropy = np.empty((config.n_layer, config.n_head), np.float32)
    for layer in range(config.n_layer):
        pattern = cache["pattern", layer]  # [n_head, T, T]
        for name, wanted in keys.items():
            rows = wanted.any(axis=1)
            if rows.any():
                weights = np.where(wanted, pattern, 0).sum(axis=2, dtype=np.float64)
                scores[name][layer] = weights[:, rows].mean(axis=1)
        nats = -pattern * np.log(pattern, out=np.zeros_like(pattern), where=pattern > 0)
        entropy[layer] = nats.sum(axis=2, dtype=np.float64).mean(axis=1)
    return HeadScores(**scores, entropy=entropy)


def _most_probable(cache: ActivationCache, row: int) -> int:
    return int(cache.logits[row, : cache.model.n_text_tokens].argmax())


def _quoted(text: str, token: int) -> str:
    return f'"{label(text)}"' if text else label(text, token)


def _matrix(values: np.ndarray, columns: Iterable[str]) -> list[str]:
    """Lines of a table: layers down, heads across."""
    lines = [" " * 10 + " ".join(f"{name:>7}" for name in columns)]
    for layer, row in enumerate(values.tolist()):
        cells = ("      -" if math.isnan(value) else f"{value:7.3f}" for value in row)
        lines.append(f"  layer {layer:<2}" + " ".join(cells))
    return lines
