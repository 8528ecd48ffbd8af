"""bench/quality.py: the models with outliers that it makes of another one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gpt2c import GPT2, reference
from gpt2c.checkpoint import open_checkpoint
from gpt2c.scoring.comparison import SAMPLE, windows

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "quality.py"
spec = importlib.util.spec_from_file_location("bench_quality", SCRIPT)
quality = importlib.util.module_from_spec(spec)
spec.loader.exec_module(quality)


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(None)


@pytest.fixture(scope="module")
def ids():
    return windows(GPT2.from_pretrained(), SAMPLE.read_text(encoding="utf-8"))[0][:150]


def read(checkpoint):
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_loud_channels_leave_the_function_as_it_is(checkpoint, ids):
    weights, plain = quality.amplify(checkpoint), read(checkpoint)
    expected = reference.forward(checkpoint.config, plain, ids)
    changed = reference.forward(checkpoint.config, weights, ids)
    assert np.abs(changed - expected).max() < 1e-10 * np.abs(expected).max()  # powers of two
    assert not np.array_equal(weights["h.0.ln_1.weight"], plain["h.0.ln_1.weight"])


def test_planted_outliers_stand_at_every_position_and_cost_little(checkpoint, ids):
    weights, plain = quality.plant(checkpoint, ids[:-1]), read(checkpoint)
    loss = [-reference.log_probabilities(checkpoint.config, some, ids).mean() for some in (plain, weights)]
    before, after = (reference.embed(some, ids) for some in (plain, weights))
    added = after - before
    assert np.allclose(added, added[0], atol=1e-4)
    assert np.count_nonzero(np.abs(added[0]) > 10 * before.std()) == 3
    assert 0 < loss[1] - loss[0] < 0.1 * loss[0]
