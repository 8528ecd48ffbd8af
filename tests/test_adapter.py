"""LoRA adapters: merged while they are read, to the logits of PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_checkpoints import TINY, write_model

from gpt2c import GPT2

DATA = Path(__file__).parent / "data" / "peft"
LOGITS = dict(np.load(DATA / "logits.npz"))
IDS = [1, 5, 10, 0, 3, 3, 7, 2]


@pytest.fixture
def base(tmp_path):
    write_model(tmp_path / "base")
    return tmp_path / "base"


def base_of(name, tmp_path):
    write_model(tmp_path / "base", TINY | ({"tie_word_embeddings": False} if name == "untied" else {}))
    return tmp_path / "base"


def logits(model):
    return model.forward(IDS, logits_to_keep=0)


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_those_of_peft(name, tmp_path):
    model = GPT2.from_pretrained(base_of(name, tmp_path), adapter=DATA / name)
    np.testing.assert_allclose(logits(model), LOGITS[name], rtol=1e-5, atol=1e-5)
