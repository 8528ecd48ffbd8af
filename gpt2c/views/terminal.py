"""A pass as text for a terminal: from tokens to the next word, then layers and heads.

Every function prints one part on a :class:`Screen`, which knows its width and its characters.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

import numpy as np

from ..core import _engine
from ..core.labels import RANK_NAMES, columns, fitted, harmless, label, rank_class, visible, wrapped
from ..introspection.activations import of_head
from ..scoring.results import pieces
from .ansi import bold, dim, paint

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..generation.results import Generation
    from ..introspection.head_scores import Opening
    from ..introspection.passes import ActivationCache
    from ..introspection.results import Attribution, HeadScores, LogitLens
    from ..scoring.results import Score, Suggestion

__all__ = [
    "Screen",
    "print_attention",
    "print_attribution",
    "print_continuations",
    "print_cross_attention",
    "print_embedding",
    "print_head_scores",
    "print_lens",
    "print_model",
    "print_next",
    "print_pattern",
    "print_suggestions",
    "print_text",
]

# Maximum rows of a table with a row per token: the others are summed or left out.
MOST_ROWS = 12
_RANK_COLOURS = ("32", "33", "35", "31")
_BLOCKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = "▏▎▍▌▋▊▉█"
_PLAIN = str.maketrans({"·": ".", "…": "~", "␣": "_", "◌": "_"})


class Screen:
    """The terminal that shows text.

    Parameters
    ----------
    out : text stream
        Colours appear if it is a terminal that wants them; blocks and other signs if its encoding has them,
        else plain ones.
    width : int
        Its columns; at least 72 are used.
    """

    def __init__(self, out: TextIO, width: int) -> None:
        self.out, self.width = out, max(width, 72)
        self._encoding, self._errors = out.encoding or "utf-8", out.errors or "backslashreplace"
        try:
            (_BLOCKS + _EIGHTHS + "░·…␣◌").encode(self._encoding)
            self.plain = False
        except UnicodeEncodeError:
            self.plain = True
        self.more = "~" if self.plain else "…"
        self.blocks = "-:=+*#%@" if self.plain else _BLOCKS

    def line(self, text: str = "") -> None:
        print((text.translate(_PLAIN) if self.plain else text).rstrip(), file=self.out)

    def title(self, text: str) -> None:
        self.line()
        self.line(bold(text, self.out))

    def text(self, text: str) -> str:
        """A text as it will appear: characters that the encoding lacks are escaped before it is measured."""
        if not self.plain:
            return text
        return text.translate(_PLAIN).encode(self._encoding, self._errors).decode(self._encoding)

    def token(self, text: str, token_id: int, width: int) -> str:
        """A token in exactly ``width`` columns."""
        return fitted(self.text(label(text, token_id)), width, self.more)

    def bar(self, share: float, width: int) -> str:
        """A bar of up to ``width`` columns for a number from 0 to 1, or a lighter one for 0 to -1."""
        eighths = round(min(abs(share), 1) * width * 8)
        if self.plain or share < 0:
            sign = "░" if not self.plain else "#" if share > 0 else "-"
            return (sign * round(eighths / 8)).ljust(width)
        full, rest = divmod(eighths, 8)
        return ("█" * full + _EIGHTHS[rest - 1 : rest]).ljust(width)

    def block(self, share: float) -> str:
        """One of `blocks` for a number from 0 to 1, by its square root: small ones differ. 0 is blank."""
        level = math.ceil(math.sqrt(min(share, 1)) * 8) if share > 0 else 0
        return self.blocks[level - 1] if level else " "


def print_model(screen: Screen, model: LoadedModel, edits: Sequence[str]) -> None:
    """The model, and the edits in the pass."""
    c = model.config
    about = (
        f"{harmless(model.name)}: {c.n_layer} layers of {c.n_head} heads, {c.n_embd} numbers per "
        f"token, {c.n_vocab:,} tokens"
    )
    for line in textwrap.wrap(about, screen.width):
        screen.line(line)
    if not edits:
        return
    screen.title("This is not the model as it is: these edits change what it computes")
    for one in edits:
        for line in wrapped("  " + screen.text("".join(map(visible, one))), screen.width):
            screen.line(line)


def print_embedding(screen: Screen, cache: ActivationCache) -> None:
    """Each token's row and its position's row, and their sum: the first numbers of each."""
    token_rows, position_rows = cache["hook_embed"], cache["hook_pos_embed"]  # [T, n_embd] each
    screen.title(
        f"Tokens: each is {cache.model.config.n_embd} numbers, and so is its position; they are added"
    )
    n = max(1, (screen.width - 26) // 21)
    heads = [f"{name:<{7 * n + 1}}" for name in ("token row", "+ position row", "= into layer 0")]
    screen.line(f"{'pos':>3} {'id':>6}  {'token':<12}  " + "".join(heads))
    tokens, first = cache.tokens, max(0, len(cache.tokens) - MOST_ROWS)
    if first:
        screen.line(f"    (after {first} more)")
    for at in range(first, len(tokens)):
        token = screen.token(tokens[at], cache.token_ids[at], 12)
        rows = (token_rows[at], position_rows[at], token_rows[at] + position_rows[at])
        numbers = "  ".join(_numbers(row, n) for row in rows)
        screen.line(f"{at:3} {cache.token_ids[at]:6}  {token} {numbers}")


def print_attention(screen: Screen, cache: ActivationCache, place: Opening) -> None:
    """One token in one head: its query and the keys give scores, then weights for values."""
    layer, head, row = place
    query, keys, values, result = (of_head(cache, name, layer, head) for name in "qkvz")  # [T, d_head] each
    seen = row + 1 if cache.causal else len(keys)
    scores, weights = (cache[name, layer][head, row, :seen] for name in ("attn_scores", "pattern"))  # [seen]
    tokens = cache.tokens
    asks = screen.token(tokens[row], cache.token_ids[row], 16).rstrip()
    screen.title(f"Attention, layer {layer}, head {head}: what token {row}, {asks}, takes from which")
    n = max(1, (screen.width - 36) // 21)
    screen.line(f"its query: {_numbers(query[row], 2 * n)} … ({len(query[row])} numbers)")
    heads = [f"{name:<{7 * n - 1}}" for name in ("key", "value", "weighted")]
    screen.line(
        f"{'pos':>3} {'token':<10} {heads[0]}  {'score':>6} {'weight':>6}        {heads[1]} {heads[2]}"
    )
    shown = sorted(_engine.top(weights, MOST_ROWS).tolist())
    for at in shown:
        token, bar = screen.token(tokens[at], cache.token_ids[at], 10), screen.bar(weights[at], 6)
        key, value, share = (_numbers(row, n) for row in (keys[at], values[at], weights[at] * values[at]))
        screen.line(f"{at:3} {token} {key}  {scores[at]:6.2f} {weights[at]:6.1%} {bar} {value} {share}")
    if len(shown) < seen:
        rest = float(np.delete(weights, shown).sum(dtype=np.float64))
        screen.line(f"    and {seen - len(shown)} more, {rest:.1%} together")
    screen.line(f"{'the sum of the weighted values':<{37 + 14 * n}}{_numbers(result[row], n)}")


def print_cross_attention(screen: Screen, cache: ActivationCache) -> None:
    """For each token that is written the positions of the source with the largest weights, on the mean."""
    found = cache.cross_attention()
    screen.title(f"{found.title[0].upper()}{found.title[1:]}: what is written, and where that looks")
    best = np.argsort(-found.weights, axis=1, kind="stable")[:, :4]
    for written, columns_, weights in zip(found.written, best.tolist(), found.weights, strict=True):
        shares = (f"{screen.text(found.sources[at])} {weights[at]:.0%}" for at in columns_)
        screen.line(f"{screen.text(written):<12} {'  '.join(shares)}"[: screen.width])


def print_pattern(screen: Screen, cache: ActivationCache, layer: int, head: int) -> None:
    """The weights of one head as a matrix: a row per query token, a column per key token."""
    pattern, tokens = cache["pattern", layer][head], cache.tokens
    size = min(len(tokens), (screen.width - 18) // 3, 32)
    first = len(tokens) - size
    which = f", last {size} tokens" if first else ""
    # Not if weights are edited.
    shares = ": each row shares out 100%" if np.allclose(pattern.sum(axis=1), 1, atol=1e-3) else ""
    screen.title(f"Pattern of layer {layer}, head {head}{which}{shares}")
    screen.line(" " * 17 + "".join(f"{at % 100:3}" for at in range(first, len(tokens))))
    for at in range(first, len(tokens)):
        hidden = at + 1 if cache.causal else len(tokens)
        cells = [screen.block(weight) * 2 for weight in pattern[at, first:hidden]]
        cells += ["··"] * (len(tokens) - hidden)
        screen.line(f"{at:3} {screen.token(tokens[at], cache.token_ids[at], 12)}  " + " ".join(cells))
    levels = (f"{block} {round(100 * (i / 8) ** 2)}%" for i, block in enumerate(screen.blocks, 1))
    screen.line("up to " + "  ".join(levels))
    if cache.causal:
        screen.line("·· comes later: its score is minus infinity, its weight exactly 0")


def print_attribution(screen: Screen, attribution: Attribution) -> None:
    """The contributions of attention and feed-forward layers to the logit of the most probable next token."""
    parts = attribution.components
    token = screen.token(attribution.token, attribution.token_id, 16).rstrip()
    screen.title(f"Contributions to the logit of the next token, {token}: {attribution.logit:.2f}")
    columns = {"attn": "attention", "cross_attn": "cross-attention", "mlp": "feed-forward"}
    columns = {kind: name for kind, name in columns.items() if f"{kind} 0" in parts}
    most, width = max(map(abs, parts.values())) or 1.0, (screen.width - 30) // len(columns)
    ends = [f"{name} {parts[name]:z.2f}" for name in ("embed", "pos_embed", "bias", "rest")]
    screen.line(f"{'':<10} " + "".join(f"{name:<{width + 10}}" for name in columns.values()))
    for layer in range(len(attribution.heads)):
        cells = [
            f"{value:7.2f} {screen.bar(value / most, width)}"
            for value in (parts[f"{kind} {layer}"] for kind in columns)
        ]
        screen.line(f"{f'layer {layer}':<10} " + "  ".join(cells))
    screen.line(f"{'besides':<10} " + ", ".join(ends))


def print_next(screen: Screen, suggestions: Sequence[Suggestion]) -> None:
    """The next tokens, with probabilities."""
    screen.title(f"Next: the {len(suggestions)} most probable of all tokens")
    print_suggestions(screen, suggestions)


def print_suggestions(screen: Screen, suggestions: Sequence[Suggestion]) -> None:
    """Tokens with their probabilities."""
    for suggestion in suggestions:
        token = screen.token(suggestion.text, suggestion.token_id, 16)
        bar = screen.bar(suggestion.probability, screen.width - 30)
        screen.line(f"{suggestion.probability:8.2%}  {token}  {bar}")


def print_lens(screen: Screen, lens: LogitLens) -> None:
    """The most probable token after each layer, for the last positions."""
    n_tokens = len(lens.tokens)
    n = min(n_tokens, (screen.width - 10) // 14)
    width = (screen.width - 10) // n - 1 if n < n_tokens else 13
    at = range(n_tokens - n, n_tokens)
    tokens = [screen.token(lens.tokens[i], lens.input_ids[i], width) for i in at]
    which = "token at each position" if lens.in_place else "next token"
    screen.title(f"Logit lens: the most probable {which} if this layer were the last")
    screen.line(" " * 10 + " ".join(tokens))
    for layer in reversed(range(len(lens.names))):
        cells = []
        for i in at:
            token = screen.token(lens.top_tokens[layer][i][0], lens.top_ids[layer, i, 0], width - 6)
            cell = f"{token} {math.exp(lens.top_logprobs[layer, i, 0]):4.0%} "
            settled = lens.top_ids[layer, i, 0] == lens.top_ids[-1, i, 0]
            cells.append(bold(cell, screen.out) if settled else cell)
        screen.line(f"{lens.names[layer]:<9} " + " ".join(cells))
    screen.line(f"{'the text':<9} " + " ".join(tokens if lens.in_place else [*tokens[1:], "?"]))


def print_text(screen: Screen, score: Score) -> None:
    """The text, each token's probability as a block under it, and its rank as a colour."""
    screen.title("The text: under each token its probability, given those before it")
    above: list[str] = []
    below: list[str] = []
    used = 0

    def end_line() -> None:
        nonlocal used
        screen.line("".join(above))
        screen.line("".join(below))
        above.clear()
        below.clear()
        used = 0

    unscored = score.text[: score.offsets[0][0]] if score.offsets and score.text is not None else ""
    for text, span in [(unscored, slice(0, 0))] * bool(unscored) + list(pieces(score)):
        shown = screen.text("".join(map(visible, text)) or label("", score.token_ids[span.start]) + " ")
        size = columns(shown)
        if used + size > screen.width and used:
            end_line()
        if span.start == span.stop:
            above.append(dim(shown, screen.out))
            below.append(" " * size)
        else:
            colour = _RANK_COLOURS[rank_class(score.ranks[span].max())]
            above.append(paint(shown, colour, screen.out))
            below.append(screen.block(math.exp(score.logprobs[span].sum())) * size)
        used += size
        if text.endswith("\n"):
            end_line()
    if used:
        end_line()
    coloured = paint("x", "1", screen.out) != "x"
    screen.line(f"{score.bits:.1f} bits, perplexity {score.perplexity:.2f}")
    if coloured:
        ranks = zip(RANK_NAMES, _RANK_COLOURS, strict=True)
        screen.line("rank: " + ", ".join(paint(name, colour, screen.out) for name, colour in ranks))


def print_head_scores(screen: Screen, scores: HeadScores, layer: int, head: int) -> None:
    """The chosen head's scores from its pattern, and the heads with the highest scores."""
    own = f"L{layer}H{head}"
    screen.title(f"Heads: mean weight on ..., here ({own}: layer {layer}, head {head}) and most")
    n = (screen.width - 30) // 14
    for name in ("previous_token", "duplicate_token", "induction", "first_token"):
        values = getattr(scores, name)  # [n_layer, n_head]
        order = np.argsort(-values, axis=None, kind="stable").tolist()
        best = [(*divmod(i, values.shape[1]), values.flat[i]) for i in order[:n]]
        cells = [f"{f'L{i}H{j}':<7} {share:4.0%}" for i, j, share in best if not math.isnan(share)]
        if cells:
            cells.insert(0, f"{own} {values[layer, head]:4.0%} ")
        screen.line(
            f"{name.replace('_', ' '):<16} " + "  ".join(cells or ["no token of this text qualifies"])
        )
    screen.line(f"{'entropy':<16} {own} {scores.entropy[layer, head]:.2f} nats")


def print_continuations(screen: Screen, generations: Iterable[tuple[int, Generation]]) -> None:
    """Continuations, each with its number of beams and its joint log-probability."""
    screen.title("Continued, and the log-probability of all new tokens together (nats)")
    for beams, generation in generations:
        name = "greedy" if beams == 1 else f"{beams} beams"
        begin = f"{name:<10} {sum(generation.logprobs):9.4f}  "
        shown = screen.text("".join(map(visible, generation.text)))
        for line in wrapped(shown, screen.width - len(begin)):
            screen.line(begin + line)
            begin = " " * len(begin)


def _numbers(row: np.ndarray, n: int) -> str:
    return " ".join(f"{value:z6.2f}" for value in row[:n].tolist())
