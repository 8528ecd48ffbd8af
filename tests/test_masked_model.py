"""The masked model that comes with gpt2c, and the float16 weights that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run

from gpt2c import BERT, GPT2
from gpt2c.checkpoint.bundled import BUNDLED, BUNDLED_MASKED

SOURCE = Path(__file__).parent.parent / "bench" / "training" / "masked"
KING = "Once upon a [MASK] there was a king who had three daughters."


@pytest.fixture(scope="module")
def model():
    return BERT.from_pretrained(threads=1)


@pytest.fixture(scope="module")
def source():
    return BERT.from_pretrained(SOURCE, threads=1)


@pytest.fixture(scope="module")
def recorded():
    """What transformers says of the source in float32."""
    with np.load(Path(__file__).parent / "data" / "masked" / "reference.npz") as found:
        arrays = dict(found)
    names = ("input_ids", "logits", "top_ids", "top_probabilities")
    return [
        (str(text), *(arrays[f"{name}_{i}"] for name in names)) for i, text in enumerate(arrays["sentences"])
    ]


def test_it_is_what_its_source_becomes(tmp_path):
    made = BERT.from_pretrained(SOURCE, dtype="int4")
    made.name = "masked"
    made.save(tmp_path / "model.gpt2c")
    assert (tmp_path / "model.gpt2c").read_bytes() == BUNDLED_MASKED.read_bytes()


def test_both_names_load_it(model):
    named = BERT.from_pretrained("masked", threads=1)
    assert named.name == model.name == "the bundled masked model" and named.dtype == model.dtype == "int4"
    assert named.fill(KING) == model.fill(KING)


def test_logits_of_the_source_are_those_of_transformers(source, recorded):
    prefix, suffix = source.tokenizer.prefix, source.tokenizer.suffix
    for text, ids, logits, *_ in recorded:
        assert [*prefix, *source.tokenizer.encode(text, special=True), *suffix] == ids.tolist()
        assert np.abs(source.forward(ids) - logits).max() <= 1e-4


def test_fillings_of_the_source_are_those_of_transformers(source, recorded):
    for text, _, _, tokens, probabilities in recorded:
        found = source.fill(text)
        assert [filling.tokens[0].token_id for filling in found] == tokens.tolist()
        assert np.allclose([filling.probability for filling in found], probabilities, rtol=0, atol=1e-5)


def test_rounding_to_int4_costs_little(model, source):
    """The loss of text that neither was trained on: the card says 2 % more."""
    texts = (BUNDLED / "sample.txt").read_text(encoding="utf-8").split("\n")
    texts = [text for text in texts if 60 < len(text) < 400][:10]
    losses = [
        -np.concatenate([score.logprobs for score in each.score(texts)]).mean() for each in (source, model)
    ]
    assert len(texts) == 10 and 2 < losses[0] < 4
    assert losses[1] / losses[0] < 1.05


def test_both_sides_count(model):
    """GPT-2 sees the left side alone."""
    texts = ["The [MASK] sang in the trees.", "The [MASK] sang a song for the queen."]
    left, right = (filling[0].tokens[0].text for filling in model.fill(texts))
    assert left != right


def test_texts_of_tales_are_more_probable_than_shuffled_ones(model):
    tale = "The old king had three sons, and the youngest was the fairest of them all."
    words = tale.rstrip(".").split()
    shuffled = " ".join(words[i] for i in np.random.default_rng(0).permutation(len(words))) + "."
    assert model.score(tale).perplexity * 5 < model.score(shuffled).perplexity


def test_gpt2_has_the_same_vocabulary_but_for_the_mask(model):
    gpt2 = GPT2.from_pretrained()
    text = "The wolf said: “Good day!” and went into the forest."
    assert model.tokenizer.encode(text) == gpt2.tokenizer.encode(text)
    assert model.config.n_vocab == gpt2.config.n_vocab + 1 == 4097
    assert model.tokenizer.mask_id == 4096


def test_the_command_fills_without_a_model_being_named(model, tmp_path):
    done = run("fill", KING, "-k", "3", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
    assert " time" in done.stdout.splitlines()[0]
    told = json.loads(run("fill", KING, "--json", "-m", "masked", cwd=tmp_path).stdout)
    assert [f["text"] for f in told["fillings"]] == [filling.text for filling in model.fill(KING)]
