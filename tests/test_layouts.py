"""Models as programs of other years wrote them: the logits of those programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint

DATA = Path(__file__).parent / "data" / "layouts"
LOGITS = dict(np.load(DATA / "logits.npz"))
IDS = LOGITS["ids"].tolist()
MASKS = "stored attention masks were skipped: the mask is always causal"


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("2019", ["pytorch_model.bin: 44 tensors of F32", f"3 {MASKS}"]),
        ("masks", ["pytorch_model.bin: 46 tensors of BOOL and F32 and U8", f"6 {MASKS}"]),
        ("cerebras", ["pytorch_model.bin: 28 tensors of F16"]),
    ],
)
def test_logits(name, notes):
    assert open_checkpoint(DATA / name).notes == notes
    found = GPT2.from_pretrained(DATA / name).forward(IDS)
    assert np.abs(found - LOGITS[name]).max() < 2e-5 * np.abs(LOGITS[name]).max()


def test_cerebras_has_2048_positions_and_the_exact_gelu():
    config = open_checkpoint(DATA / "cerebras").config
    assert (config.n_ctx, config.activation, config.eos_token_ids) == (2048, "gelu", (16,))
