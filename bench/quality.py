"""What a number format costs in quality: each dtype against float32 on the same text, and gates.

    python bench/quality.py --text FILE [--model DIR] [--dtypes bfloat16 int8 int4] [--json]

The documents of the text are separated by lines of <|endoftext|>, and read in windows of up to n_ctx tokens,
each after the begin-of-text token, as `model.score` reads them. The gates are meant for the bundled model on
its validation text: the last 2 % of each of its books (gpt2c/data/model/README.md), which is not in the
repository. With another model or text they are only a hint.

Measured on the model and on two others with outliers, which trained models often have. "planted": three
channels of the residual stream carry a large constant, at every position and before every layer. "loud": the
same function as the model's, but three channels of each LayerNorm are 16 times as large, and the weights that
read them a 16th.

Exit status 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from gpt2c import GPT2, reference
from gpt2c.checkpoint import Checkpoint, open_checkpoint
from gpt2c.checkpoint.safetensors import write_tensors
from gpt2c.scoring.comparison import compare, windows

DTYPES = ("float32", "bfloat16", "int8", "int4")
GATES = {  # (model, dtype): at most this Δ of the log-loss in %, at least this agreement in %
    ("plain", "float32"): (0.0, 100.0),
    ("plain", "bfloat16"): (0.1, 99.0),
    ("plain", "int8"): (0.1, 97.5),
    ("planted", "float32"): (0.0, 100.0),
    ("planted", "int8"): (0.5, 97.0),
    ("loud", "float32"): (0.0, 99.9),
    ("loud", "int8"): (0.5, 95.45),
}
OUTLIER = 40.0  # standard deviations of the stream at the embeddings
LOUD = 16.0


def variances(checkpoint: Checkpoint, weights: reference.Weights, ids: np.ndarray) -> dict[str, float]:
    """The variance of the residual stream over its channels before each layer norm, the mean over ``ids``."""
    config, found = checkpoint.config, {}

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        found[name] = float(x.var(axis=-1).mean())
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return reference.layer_norm(x, weight, bias, config.layer_norm_epsilon)

    x = reference.embed(weights, ids)
    for i in range(config.n_layer):
        h = norm(f"h.{i}.ln_1", x)[:, None]
        x = x + reference.attention(config, weights, i, [h, h, h])
        x = x + reference.feed_forward(config, weights, i, norm(f"h.{i}.ln_2", x))
    norm("ln_f", x)
    return found


def three_channels(n_embd: int) -> list[int]:
    return [n_embd // 6, n_embd // 2, 5 * n_embd // 6]


def amplify(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The tensors of a model of the same function, with three loud channels in each layer norm."""
    weights = {name: checkpoint.read(name) for name in checkpoint.tensors}
    channels = three_channels(checkpoint.config.n_embd)
    for layer in range(checkpoint.config.n_layer):
        for norm, dense in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            weights[f"h.{layer}.{norm}.weight"][channels] *= LOUD
            weights[f"h.{layer}.{norm}.bias"][channels] *= LOUD
            weights[f"h.{layer}.{dense}.weight"][channels] /= LOUD
    return weights


def plant(checkpoint: Checkpoint, ids: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a model like the given one, with outliers; ``ids`` are a text to measure the stream on.

    The position embedding puts the constant into three channels. It inflates the divisor of every layer norm
    by, so the gains of the other channels grow until their outputs have their size again; those of the three
    stay. What the constant then adds to the output of a dense layer is taken from its bias (after the last
    layer norm, from the norm's own), or little would be left of the model.
    """
    weights = {name: checkpoint.read(name) for name in checkpoint.tensors}
    stream = variances(checkpoint, weights, ids)
    n_embd = checkpoint.config.n_embd
    planted = np.zeros(n_embd, bool)
    planted[three_channels(n_embd)] = True
    constant = np.where(planted, OUTLIER * math.sqrt(stream["h.0.ln_1"]), 0.0)
    weights["wpe.weight"] += constant.astype(np.float32)
    for name, variance in stream.items():
        gain = weights[f"{name}.weight"]
        deviation = math.sqrt(variance + constant.var())
        gain[~planted] *= deviation / math.sqrt(variance)
        shift = (constant - constant.mean()) / deviation * gain
        if name == "ln_f":
            weights["ln_f.bias"] -= shift.astype(np.float32)
        else:
            dense = name.replace("ln_1", "attn.c_attn").replace("ln_2", "mlp.c_fc")
            weights[f"{dense}.bias"] -= (shift @ weights[f"{dense}.weight"]).astype(np.float32)
    return weights


def write(directory: Path, checkpoint: Checkpoint, weights: dict[str, np.ndarray]) -> None:
    """Write a checkpoint without a tokenizer: the configuration of one, other weights, in float32."""
    with open(directory / "model.safetensors", "wb") as file:
        write_tensors(file, weights, {"format": "pt"})
    shutil.copy(checkpoint.directory / "config.json", directory)


def measure(
    kind: str, source: str | Path | None, texts: list[np.ndarray], dtypes: list[str]
) -> dict[str, object]:
    """The results for one model, "plain", "planted" or "loud"."""
    expected = GPT2.from_pretrained(source, dtype="float32")
    others = {dtype: GPT2.from_pretrained(source, dtype=dtype) for dtype in dtypes}
    loss, found = compare(texts, expected, others)
    for dtype, row in found.items():
        row["bytes"] = others[dtype].weights.nbytes
        row["gate"] = row["holds"] = None
        if (kind, dtype) in GATES:
            delta, agreement = row["gate"] = GATES[kind, dtype]
            row["holds"] = row["delta_percent"] <= delta and row["agreement_percent"] >= agreement
    return {"model": kind, "loss": loss, "bytes": expected.weights.nbytes, "dtypes": found}


def show(result: dict) -> None:
    print(f"\n{result['model']}: float32 {result['loss']:.4f} nats per token, {result['bytes'] / 1e6:.1f} MB")
    print(f"{'dtype':<10}{'MB':>8}{'Δ loss %':>11}{'top-1 %':>9}{'KL nats':>10}  gate")
    for dtype, row in result["dtypes"].items():
        verdict = "none"
        if row["gate"]:
            delta, agreement = row["gate"]
            verdict = f"{'holds' if row['holds'] else 'FAILS'} (≤ {delta:g} %, ≥ {agreement:g} %)"
        print(
            f"{dtype:<10}{row['bytes'] / 1e6:>8.1f}{row['delta_percent']:>+11.4f}"
            f"{row['agreement_percent']:>9.2f}{row['kl']:>10.2e}  {verdict}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="the text to measure on, UTF-8")
    parser.add_argument("--model", help="directory, file or hub name; default: the bundled model")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES[1:])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()

    checkpoint = open_checkpoint(options.model)
    texts = windows(
        GPT2.from_pretrained(options.model, dtype="float32"), options.text.read_text(encoding="utf-8")
    )
    if not texts:
        parser.error(f"{options.text} is empty")
    n_tokens = sum(len(ids) - 1 for ids in texts)
    if not options.json:
        print(f"{checkpoint.name} on {options.text.name}: {n_tokens} tokens in {len(texts)} windows")
    with tempfile.TemporaryDirectory() as directory:
        longest = max(texts, key=len)[:-1]
        folders = {kind: Path(directory, kind) for kind in ("planted", "loud")}
        for kind, weights in (("planted", plant(checkpoint, longest)), ("loud", amplify(checkpoint))):
            folders[kind].mkdir()
            write(folders[kind], checkpoint, weights)
        results = []
        for kind, source in (("plain", options.model), *folders.items()):
            results.append(measure(kind, source, texts, options.dtypes))
            if not options.json:
                show(results[-1])
    if options.json:
        about = {
            "name": checkpoint.name,
            "text": options.text.name,
            "windows": len(texts),
            "tokens": n_tokens,
        }
        print(json.dumps(about | {"results": results}, indent=1))
    return int(any(row["holds"] is False for result in results for row in result["dtypes"].values()))


if __name__ == "__main__":
    sys.exit(main())
