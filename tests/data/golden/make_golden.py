"""Asks transformers for the golden answers. Needs transformers 4.57.6 and torch 2.13; run it as a script.

For every case of recipe.py, and for the bundled model: GPT2LMHeadModel with attn_implementation="eager" (the
other implementations ignore scale_attn_weights and scale_attn_by_inverse_layer_idx), float32, one thread;
then the same model in float64, which tells torch's own rounding error. golden.npz receives, under
"<case>/...":

    torch32, torch64    logits for the teacher-forced ids, at the rows and columns of recipe.sample
    choices             the most probable token of every row, by float32
    greedy, gaps        200 tokens continued greedily from the first 8 ids (nothing stops it), float32, with a
                        key-value cache; how far the chosen logit was above the second
    bundled/ids, bundled/prompt_ids    the bundled model's texts as its tokenizer in transformers reads them

and golden.json the checksum of weights and ids, the largest and the root mean square error of torch over all
logits against its own float64, and their standard deviation.

initializer_range is 0.2 for the small models: ten times the usual, so that attention is sharp and no error
hides in uniform distributions; the logits' standard deviation is then 1 to 2 (less in the narrowest). The
models of width 768 and 1,600 have GPT-2's own 0.02, and 0.6 to 0.8. LayerNorm gains and all biases are random
throughout. torch's own error stays below 3e-5 everywhere, so that 1e-4 between two float32 programs is a fair
demand; to that end untied_silu_no_scale has 8 heads (with 4, unscaled scores took torch's error to 7e-5).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.golden import recipe  # noqa: E402  (the tests' folder is not a package)

BUNDLED = Path(__file__).parents[3] / "gpt2c" / "data" / "model"


def build(values: dict, weights: dict[str, np.ndarray], dtype: torch.dtype) -> torch.nn.Module:
    """GPT2LMHeadModel with these weights, in evaluation mode."""
    values = dict(values, attn_implementation="eager")
    if dtype == torch.float64:
        values["reorder_and_upcast_attn"] = False  # True would make attention float32
    values.pop("model_type")
    with torch.device("meta"):  # no time for an initialisation that is overwritten
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values))
    model = model.to(dtype).to_empty(device="cpu")
    state = {
        name if name == "lm_head.weight" else f"transformer.{name}": torch.from_numpy(w)
        for name, w in weights.items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    for block in model.transformer.h:  # the buffers that to_empty left undefined
        n = model.config.n_positions
        block.attn.bias = torch.tril(torch.ones((n, n), dtype=torch.bool)).view(1, 1, n, n)
    return model.eval()


def logits(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """[T] -> [T, n_vocab] in the model's own type."""
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()


def greedy(model: torch.nn.Module, prompt: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n most probable tokens one after the other, and each one's lead over the second."""
    ids, gaps = [], []
    step, cache = torch.from_numpy(prompt.astype(np.int64))[None], None
    with torch.no_grad():
        for _ in range(n):
            out = model(step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            top = out.logits[0, -1].topk(2)
            ids.append(int(out.logits[0, -1].argmax()))
            gaps.append(float(top.values[0] - top.values[1]))
            step = torch.tensor([[ids[-1]]])
    return np.array(ids, np.int32), np.array(gaps, np.float32)


def answers(name: str, model32, model64, ids: np.ndarray, prompt: np.ndarray) -> tuple[dict, dict]:
    """The arrays and the numbers to keep of one model."""
    l32, l64 = logits(model32, ids), logits(model64, ids)
    rows, columns = recipe.sample(name, *l32.shape)
    continuation, gaps = greedy(model32, prompt, recipe.GREEDY)
    error = l32.astype(np.float64) - l64
    arrays = {
        "torch32": l32[np.ix_(rows, columns)],
        "torch64": l64[np.ix_(rows, columns)],
        "choices": l32.argmax(axis=1).astype(np.uint16),
        "greedy": continuation.astype(np.uint16),
        "gaps": gaps,
    }
    numbers = {
        "torch_error_max": float(np.abs(error).max()),
        "torch_error_rms": float(np.sqrt((error**2).mean())),
        "logits_std": float(l64.std()),
    }
    return {f"{name}/{key}": a for key, a in arrays.items()}, numbers


def main() -> None:
    parser = argparse.ArgumentParser(description="Write golden.npz and golden.json.")
    parser.add_argument("--bundled", type=Path, default=BUNDLED, metavar="DIR", help="the bundled model")
    bundled = parser.parse_args().bundled
    torch.set_num_threads(1)

    arrays: dict[str, np.ndarray] = {}
    report = {"transformers": transformers.__version__, "torch": torch.__version__, "cases": {}}
    for case in recipe.CASES:
        weights, ids = case.weights(), case.ids()
        models = [build(case.values, weights, dtype) for dtype in (torch.float32, torch.float64)]
        found, numbers = answers(case.name, *models, ids, ids[: recipe.PROMPT])
        arrays |= found
        report["cases"][case.name] = {"sha256": recipe.checksum(weights, ids)} | numbers
        print(f"{case.name:24}", *(f"{k} {v:.3g} " for k, v in numbers.items()), flush=True)

    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled)
    ids, prompt = (np.array(tokenizer.encode(t)) for t in (recipe.BUNDLED_TEXT, recipe.BUNDLED_PROMPT))
    models = [
        transformers.GPT2LMHeadModel.from_pretrained(bundled, attn_implementation="eager", dtype=dtype).eval()
        for dtype in (torch.float32, torch.float64)
    ]
    found, numbers = answers("bundled", *models, ids, prompt)
    arrays |= found | {"bundled/ids": ids.astype(np.uint16), "bundled/prompt_ids": prompt.astype(np.uint16)}
    report["cases"]["bundled"] = numbers
    print("bundled", len(ids), numbers)
    print(tokenizer.decode(found["bundled/greedy"].tolist()))

    np.savez_compressed(recipe.FOLDER / "golden.npz", **arrays)
    (recipe.FOLDER / "golden.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
