"""Draws attention-heads.svg: four attention heads of GPT-2 124M.

    python docs/pictures/attention_heads.py

The weights are those that poloclub/transformer-explainer published (tests/data/real_gpt2/recorded.json names
the files). The heads were chosen by what is printed: of all 144 the one with the largest score of its kind.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RECORDED = HERE.parents[1] / "tests/data/real_gpt2"
PROMPT = 2  # of the five recorded the only one with a token that comes twice
CELL, LEFT, TOP, GAP = 38, 122, 118, 26

STYLE = """
  .paper { fill: #ffffff } text { fill: #1f2328; font: 12px sans-serif } .strong { font-weight: bold }
  .axis { fill: #59636e } .on-dark { fill: #ffffff }
  .cell { fill: #0b5cad } .grid { fill: none; stroke: #d1d9e0 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #f0f6fc } .axis { fill: #9198a1 }
    .on-dark, .on-middle { fill: #0d1117 } .cell { fill: #79c0ff } .grid { stroke: #3d444d }
  }
"""


def scores(maps: np.ndarray, tokens: list[str]) -> dict[str, np.ndarray]:
    """How much of its attention a head gives to what, on average over all positions but the first.

    ``[n_layer, n_head, T, T]`` to one number per head for each kind; for "all tokens" it is the entropy.
    """
    later = maps[:, :, 1:]
    rows = np.arange(1, len(tokens))
    same = np.array([[asks == answers for answers in tokens] for asks in tokens[1:]])
    return {
        "the same token": (later * same).sum(-1).mean(-1),
        "the token before": maps[:, :, rows, rows - 1].mean(-1),
        "the first token": later[..., 0].mean(-1),
        "all tokens": entropy(later).mean(-1),
    }


def entropy(maps: np.ndarray) -> np.ndarray:
    """Of each row, in nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(maps > 0, maps * np.log(maps), 0).sum(-1)


def panel(x: float, tokens: list[str], weights: np.ndarray, name: str) -> str:
    """One head: a row for each token that asks, a column for each that answers."""
    middle = TOP + len(tokens) * CELL / 2
    lines = [
        f'<text class="strong" x="{x + LEFT}" y="24">{escape(name)}</text>',
        f'<text class="axis" x="{x + LEFT}" y="42">attention weights; key token →</text>',
        f'<text class="axis" transform="translate({x + 22} {middle:g}) rotate(-90)" '
        'text-anchor="middle">query token</text>',
    ]
    for i, token in enumerate(tokens):
        shown = escape(token.replace(" ", "␣"))
        middle = (i + 0.5) * CELL
        lines.append(
            f'<text x="{x + LEFT - 8}" y="{TOP + middle + 4:g}" text-anchor="end">{shown}</text>'
            f'<text transform="translate({x + LEFT + middle + 2:g} {TOP - 8}) rotate(-50)">{shown}</text>'
        )
        for j in range(i + 1):
            weight = float(weights[i, j])
            at = f'x="{x + LEFT + j * CELL}" y="{TOP + i * CELL}" width="{CELL}" height="{CELL}"'
            kind = "on-dark" if weight > 0.7 else "on-middle" if weight > 0.58 else ""
            lines.append(
                f'<rect class="cell" {at} fill-opacity="{weight:.3f}"/><rect class="grid" {at}/>'
                f'<text class="{kind}" x="{x + LEFT + (j + 0.5) * CELL:g}" y="{TOP + middle + 4:g}" '
                f'text-anchor="middle">{weight:.2f}</text>'
            )
    return "\n".join(lines)


def draw() -> tuple[str, dict[str, tuple[int, int, float]]]:
    """The picture, and (layer, head, score) of each kind."""
    recorded = json.loads((RECORDED / "recorded.json").read_text(encoding="utf-8"))
    text = recorded["transformer_explainer"]["prompts"][PROMPT]["text"]
    words = text.split(" ")  # each word of it is one token
    tokens = words[:1] + [f" {word}" for word in words[1:]]
    maps = np.load(RECORDED / "transformer_explainer.npz")[f"attention_{PROMPT}"].astype(np.float64)

    across, down = LEFT + len(tokens) * CELL + GAP, TOP + len(tokens) * CELL + GAP
    size = f'width="{2 * across}" height="{2 * down}"'
    chosen, panels = {}, []
    for number, (kind, found) in enumerate(scores(maps, tokens).items()):
        layer, head = map(int, np.unravel_index(found.argmax(), found.shape))
        chosen[kind] = layer, head, float(found.max())
        row, column = divmod(number, 2)
        inside = panel(column * across, tokens, maps[layer, head], f"layer {layer}, head {head}")
        panels.append(f'<g transform="translate(0 {row * down})">\n{inside}\n</g>')
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * across} {2 * down}" {size}>',
        "<title>Attention of four heads of GPT-2 124M</title>",
        f"<style>{STYLE}</style>",
        '<rect class="paper" width="100%" height="100%" rx="8"/>',
        *panels,
        "</svg>",
    ]
    return "\n".join(lines) + "\n", chosen


def main() -> None:
    drawing, chosen = draw()
    (HERE / "attention-heads.svg").write_text(drawing, encoding="utf-8")
    for kind, (layer, head, score) in chosen.items():
        print(f"{kind}: layer {layer}, head {head}, {score:.3f}")


if __name__ == "__main__":
    main()
