"""Which head of a model tells most about a text, on patterns whose answer is known."""

import numpy as np
import pytest
from helpers.toys import bundled_tokenizer, random_gpt2

from gpt2c import GPT2, Config
from gpt2c.cli.bench.models import random_weights
from gpt2c.introspection.activations import Activations
from gpt2c.introspection.head_scores import Opening, opening, selectivity, telling_weights
from gpt2c.views.pages.gallery import gallery

T = 12


def rows(**weights):
    """A causal pattern [T, T]: all weight on the first token, but for what "row_key" takes of it."""
    pattern = np.zeros((T, T), np.float32)
    pattern[:, 0] = 1
    for name, weight in weights.items():
        row, key = map(int, name.strip("r").split("_"))
        pattern[row, key] += weight
        pattern[row, 0] -= weight
    return pattern


SINK = rows()
ITSELF = np.eye(T, dtype=np.float32)
PREVIOUS = np.eye(T, k=-1, dtype=np.float32) + np.eye(T, dtype=np.float32)[:, :] * (np.arange(T) == 0)
FAINT = np.tril(np.ones((T, T), np.float32)) / np.arange(1, T + 1, dtype=np.float32)[:, None]
PRONOUN = rows(r8_2=0.7, r9_2=0.5, r10_4=0.4)
TELLING = rows(r8_2=0.9, r9_2=0.8, r10_4=0.6)


def cache_of(*layers, ids=None):
    """What a pass with these patterns, one list of heads for each layer, would have captured."""
    n_head = len(layers[0])
    config = Config(
        n_layer=len(layers),
        n_head=n_head,
        n_embd=8 * n_head,
        n_inner=8,
        n_ctx=T,
        n_vocab=4096,
        bos_token_id=0,
    )
    model = GPT2(random_weights(config), bundled_tokenizer())
    values = {f"blocks.{i}.attn.hook_pattern": np.stack(heads) for i, heads in enumerate(layers)}
    ids = np.arange(T, dtype=np.int32) if ids is None else np.array(ids, np.int32)
    return Activations(model, ids, values, np.zeros((T, 4096), np.float32))


@pytest.mark.parametrize("dull", [SINK, ITSELF, PREVIOUS])
def test_where_heads_look_in_any_text_tells_nothing(dull):
    assert telling_weights(dull[None]).max() == 0
    assert selectivity(telling_weights(dull[None])).tolist() == [0]


def test_a_telling_weight_is_the_largest_on_another_token():
    found = telling_weights(TELLING[None])[0]
    assert found[[8, 9, 10]] == pytest.approx([0.9, 0.8, 0.6])
    assert found.sum() == pytest.approx(0.9 + 0.8 + 0.6)


def test_without_a_mask_the_ends_and_both_neighbours_do_not_count():
    pattern = np.zeros((1, 6, 6), np.float32)
    pattern[0, 0, [1, 5]] = 0.5
    pattern[0, 2, [0, 3, 4]] = [0.2, 0.7, 0.1]
    assert telling_weights(pattern, causal=False)[0].tolist() == pytest.approx([0, 0, 0.1, 0, 0, 0])


def test_selectivity_is_the_mean_of_the_largest_quarter():
    assert selectivity(telling_weights(TELLING[None]))[0] == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    # A uniform head gives 1/4 to key 1 in row 3, 1/5 in row 4 and 1/6 in row 5.
    assert selectivity(telling_weights(FAINT[None]))[0] == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)


def test_the_most_telling_head_and_token_are_found_in_all_layers():
    cache = cache_of([SINK, PREVIOUS], [PRONOUN, ITSELF], [FAINT, TELLING], [SINK, SINK])
    assert opening(cache) == Opening(2, 1, 8)
    assert opening(cache, layer=1) == Opening(1, 0, 8)
    assert opening(cache, head=0) == Opening(1, 0, 8)
    assert opening(cache, layer=2, head=0) == Opening(2, 0, 3)


def test_where_nothing_tells_the_last_token_shows_what_there_is():
    cache = cache_of([ITSELF, ITSELF], [ITSELF, PREVIOUS])
    assert opening(cache) == Opening(1, 1, T - 1)


def test_one_token_has_a_first_head():
    model, _ = random_gpt2()
    _, cache = model.run_with_cache([5], "attn.hook_pattern")
    assert opening(cache) == Opening(0, 0, 0)


def heads_of(cache):
    return {one["kind"]: one for one in gallery(cache, opening(cache))["heads"]}


def test_the_gallery_finds_each_kind_of_head():
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 9, 10]  # 2 and 3 occur twice
    duplicate, induction = rows(r8_1=0.9, r9_2=0.7), rows(r8_2=0.8, r9_3=0.6)
    cache = cache_of([SINK, PREVIOUS, ITSELF], [FAINT, duplicate, induction], ids=ids)
    found = heads_of(cache)
    places = {kind: (one["layer"], one["head"]) for kind, one in found.items() if "layer" in one}
    assert places == {
        "telling": (1, 1),
        "previous_token": (0, 1),
        "itself": (0, 2),
        "first_token": (0, 0),
        "duplicate_token": (1, 1),
        "induction": (1, 2),
    }
    assert found["duplicate_token"]["score"] == pytest.approx((0.9 + 0.7) / 2)
    assert (found["duplicate_token"]["token"], found["duplicate_token"]["key"]) == (8, 1)
    assert found["induction"]["score"] == pytest.approx((0.8 + 0.6) / 2)
    assert (found["induction"]["token"], found["induction"]["key"]) == (8, 2)
    assert found["previous_token"]["score"] == pytest.approx(1)
    assert found["first_token"]["weight"] == pytest.approx(1)
    assert found["pronoun"] == {"kind": "pronoun"}


def test_kinds_that_a_text_does_not_have_have_no_head():
    found = heads_of(cache_of([SINK, PREVIOUS]))
    assert found["duplicate_token"] == {"kind": "duplicate_token"}
    assert found["induction"] == {"kind": "induction"}


def test_a_pronoun_looks_back_at_a_noun_and_not_at_the_words_between(bundled):
    text = "The animal didn't cross the street because it was too tired"
    ids = bundled.tokenizer.encode(text)
    assert [bundled.token_text(ids[at]) for at in (1, 2, 8)] == [" animal", " didn", " it"]
    to_animal, to_verb = rows(r8_1=0.5), rows(r8_2=0.9)
    cache = cache_of([to_verb, to_animal], ids=ids)
    found = heads_of(cache)["pronoun"]
    assert (found["layer"], found["head"], found["token"], found["key"]) == (0, 1, 8, 1)
    assert found["weight"] == found["score"] == pytest.approx(0.5)
