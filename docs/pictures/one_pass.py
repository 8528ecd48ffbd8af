"""Draws one-pass.svg: from a text to its next token, with the numbers of the bundled model.

python docs/pictures/one_pass.py
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from gpt2c import GPT2

HERE = Path(__file__).resolve().parent
TEXT = "The king and the"
TOP, ROW = 92, 44

STYLE = """
  .paper { fill: #ffffff } text { fill: #1f2328; font: 13px sans-serif } .middle { text-anchor: middle }
  .head { font-weight: bold; font-size: 15px } .small { font-size: 12px; fill: #59636e }
  .end { text-anchor: end } .line { fill: none; stroke: #59636e; stroke-width: 1.5 }
  .box { fill: #f6f8fa; stroke: #8c959f } .layer { fill: #ddf4ff; stroke: #0b5cad }
  .back { stroke-dasharray: 4 3 } .tip { fill: #59636e }
  .bar { fill: #0b5cad }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #f0f6fc } .small { fill: #9198a1 }
    .box { fill: #151b23; stroke: #656c76 } .layer { fill: #0c2d6b; stroke: #79c0ff }
    .line { stroke: #9198a1 } .tip { fill: #9198a1 } .bar { fill: #79c0ff }
  }
"""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="tip" d="M0 0 8 4 0 8z"/></marker>'
)


def heading(x: float, title: str, units: str) -> str:
    """A step and the size of what it gives."""
    return (
        f'<text class="head" x="{x}" y="34">{title}</text><text class="small" x="{x}" y="54">{units}</text>'
    )


def box(x: float, y: float, width: float, text: str) -> str:
    """A text in a box."""
    return (
        f'<rect class="box" x="{x}" y="{y}" width="{width}" height="32" rx="5"/>'
        f'<text class="middle" x="{x + width / 2:g}" y="{y + 21}">{text}</text>'
    )


def arrow(path: str, kind: str = "line") -> str:
    """A line that ends in a tip."""
    return f'<path class="{kind}" marker-end="url(#tip)" d="{path}"/>'


def rows(model: GPT2, ids: list[int]) -> list[str]:
    """A row for each token: the token, its embeddings, and the way through the layers."""
    lines = []
    for position, token in enumerate(ids):
        y = TOP + position * ROW
        name = escape(model.token_text(token).replace(" ", "␣"))
        lines += [
            box(24, y, 64, name),
            f'<text class="small" x="96" y="{y + 21}">{token}</text>',
            arrow(f"M124 {y + 16}H148"),
            box(150, y, 154, f"wte[{token}] + wpe[{position}]"),
            arrow(f"M304 {y + 16}H336"),
            f'<path class="line" d="M336 {y + 16}H504"/>',
        ]
    return lines


def layers(n_layer: int, n_rows: int) -> list[str]:
    """A column for each layer, across all rows."""
    height = n_rows * ROW
    lines = []
    for layer in range(n_layer):
        x = 340 + layer * 27
        lines += [
            f'<rect class="layer" x="{x}" y="{TOP - 6}" width="20" height="{height}" rx="5"/>',
            f'<text class="small middle" x="{x + 10}" y="{TOP + height + 12}">{layer}</text>',
        ]
    return lines


def best(model: GPT2) -> list[str]:
    """The most probable next tokens, each with a bar."""
    lines = []
    for place, found in enumerate(model.suggest(TEXT, k=5)):
        y = TOP + 16 + place * 30
        name = escape(found.text.replace(" ", "␣"))
        lines += [
            f'<text class="end" x="736" y="{y + 5}">{name}</text>',
            f'<rect class="bar" x="744" y="{y - 8}" width="{260 * found.probability:.1f}" height="16"/>',
            f'<text x="{750 + 260 * found.probability:.1f}" y="{y + 5}">{found.probability:.1%}</text>',
        ]
    return lines


def draw() -> str:
    """The picture."""
    model = GPT2.from_pretrained()
    config, ids = model.config, model.tokenizer.encode(TEXT)
    n, last = len(ids), TOP + (len(ids) - 1) * ROW + 16
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 850 340" width="850" height="340">',
        "<title>From a text to its next token: tokens, embeddings, layers, logits, probabilities</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{TIP}</defs>",
        '<rect class="paper" width="100%" height="100%" rx="8"/>',
        heading(24, "1 tokens", f"{n} ids"),
        heading(150, "2 embeddings", f"{n} \u00d7 {config.n_embd} numbers"),
        heading(340, "3 layers", "attention, feed-forward"),
        heading(520, "4 logits", f"{n} \u00d7 {config.n_vocab:,}"),
        heading(668, "5 probabilities", "softmax of the last row"),
        *rows(model, ids),
        *layers(config.n_layer, n),
        arrow(f"M500 {last}H518"),
        box(520, last - 16, 120, "ln_f, then · wte"),
        arrow(f"M640 {last}H656V{TOP + 60}H664"),
        *best(model),
        arrow(f"M770 {TOP + 156}V316H56V{TOP + n * ROW - 8}", "line back"),
        '<text class="small middle" x="413" y="308">'
        "the chosen token is appended, and the next pass begins</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "one-pass.svg").write_text(draw(), encoding="utf-8")
