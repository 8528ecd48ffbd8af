"""The page of an explanation as a file: what it holds, how large it is, what it refuses."""

import base64
import hashlib
import json
import math
import re

import numpy as np
import pytest
from helpers.explained import NASTY, TEXT, Page, data_of
from helpers.toys import bundled_tokenizer, random_gpt2
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import GPT2, Config, __version__
from gpt2c.cli.bench.models import random_weights
from gpt2c.tokenizer import gpt2_tokenizer
from gpt2c.views.pages import codes, explain_page, fragment


def test_nothing_is_loaded_and_nothing_foreign_can_run(told):
    page = Page(told.page)
    for element in page.elements:
        attributes = element.attributes
        assert not any(name.startswith("on") for name in attributes)
        assert not {"src", "srcset", "action", "background", "style"} & set(attributes)
        assert attributes.get("href", "data:,") == "data:,"
    assert len(page.all("script")) == 2
    assert not re.search(
        r"\bimport\b|url\(|@import|innerHTML|insertAdjacent|document\.write|eval\(", told.page
    )
    policy = next(
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for rule, text in (("script-src", page.text("script")), ("style-src", page.text("style"))):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_language_title_and_what_made_it(told, bundled):
    page = Page(told.page)
    assert [element.attributes for element in page.all("html")] == [{"lang": "en"}]
    assert page.text("title") == f"{TEXT} · gpt2c explain"
    data = data_of(told.page)
    assert data["version"] == __version__
    assert data["model"]["numerics"] == bundled.numerics and data["model"]["dtype"] == "float32"


@pytest.mark.parametrize("text", NASTY)
def test_a_text_is_only_text(bundled, text):
    html = explain_page(bundled, text, max_new_tokens=1, num_beams=1)
    harmless = explain_page(bundled, "a", max_new_tokens=1, num_beams=1)
    assert [one.tag for one in Page(html).elements] == [one.tag for one in Page(harmless).elements]
    raw = html[html.index('id="data">') + 10 : html.rindex("</script>\n<script>")]
    assert raw.isascii() and not set("<>&") & set(raw)
    assert data_of(html)["text"] == text


def test_a_long_title_is_cut(bundled):
    text = "word " * 40
    title = Page(explain_page(bundled, text, max_new_tokens=1, num_beams=1)).text("title")
    assert title.startswith("word word") and "…" in title and len(title) < 90


@pytest.mark.parametrize(
    ("n_tokens", "scored", "layers"),
    [(6, 12, 12), (93, 12, 12), (124, 0, 12), (125, 0, 12), (300, 0, 11), (900, 0, 3)],
)
def test_a_page_has_at_most_3_mb_and_says_what_is_in_it(n_tokens, scored, layers):
    """Twelve layers of twelve heads: first scores behind the mask are left out, then weights, then layers."""
    config = Config(
        n_layer=12, n_head=12, n_embd=192, n_inner=768, n_ctx=1024, n_vocab=50257, bos_token_id=50256
    )
    model = GPT2(random_weights(config), gpt2_tokenizer(), name="random")
    ids = np.random.default_rng(0).integers(0, 50257, n_tokens).tolist()
    page = explain_page(model, ids)
    assert len(page.encode("utf-8")) < 3_000_000
    data = data_of(page)
    assert set(data) >= {"attention", "gallery", "walk", "lens", "scores", "generation", "search"}
    attention = data["attention"]
    assert len(attention.get("scores", {"layers": []})["layers"]) == scored
    assert len(attention["layers"]) == layers and data["start"]["layer"] in attention["layers"]
    assert ("kept" in attention) == (n_tokens > 124)
    assert len(data["walk"]["shown"]) == min(n_tokens, 16)
    assert {data["start"]["token"], n_tokens - 1} <= set(data["walk"]["shown"])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_strongest_weights_of_each_row_are_kept(T, kept, seed):
    pattern = np.random.default_rng(seed).dirichlet(np.ones(T), (2, T)).astype(np.float32)
    kept = min(T, kept)
    keys, found = codes.strongest_codes(pattern, kept)
    assert (np.sort(keys, axis=2)[:, :, 1:] != np.sort(keys, axis=2)[:, :, :-1]).all()
    weights = np.take_along_axis(pattern, keys.astype(int), axis=2)
    assert np.array_equal(weights, -np.sort(-pattern, axis=2)[:, :, :kept])
    assert np.array_equal(found, codes.weight_codes(weights, 8))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30))
def test_steps_are_even_and_as_precise_as_promised(values):
    array = np.array(values, np.float32)
    told = codes.stepped(array)
    assert told["type"] == "uint16" and (told["low"], told["high"]) == (array.min(), array.max())
    found = np.frombuffer(base64.b64decode(told["data"]), "<u2") * ((told["high"] - told["low"]) / 65535)
    assert np.abs(found + told["low"] - array).max() <= (told["high"] - told["low"]) / 131070 * 1.0001


def test_chosen_layers_are_those_of_a_long_text(bundled):
    ids = np.random.default_rng(0).integers(1, 4096, 500).tolist()
    how = {"layer": 2, "max_new_tokens": 1, "num_beams": 1}
    pages = [explain_page(bundled, ids, layers=layers, **how) for layers in (None, [-1], [0, 1, 3, 4])]
    every, few, some = [data_of(page)["attention"] for page in pages]
    assert [one["layers"] for one in (every, few, some)] == [[0, 1, 2, 3, 4, 5], [2, 5], [0, 1, 2, 3, 4]]
    assert "kept" not in few and some["kept"] > every["kept"]  # the fewer layers, the more of each
    assert [one["pictures"]["layers"] for one in (every, few, some)] == [[0, 1, 2, 3, 4, 5]] * 3


def decoded(weights_codes, bits):
    """The inverse of weight_codes by its description: even steps above the knee, even logarithms below."""
    top = 12 + 16 - 1
    place = np.asarray(weights_codes, np.float64) * (top / (2**bits - 1)) - 12
    return np.where(
        weights_codes == 0, 0, np.where(place >= 0, (place + 1) / 16, np.exp(np.minimum(place, 0)) / 16)
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.sampled_from([8, 16]))
def test_weight_codes_are_as_precise_as_promised(weights, bits):
    weights = np.array(weights)
    found = decoded(codes.weight_codes(weights, bits), bits)
    step = 27 / (2**bits - 1)
    allowed = np.where(weights >= 1 / 16, step / 32, weights * math.expm1(step / 2))
    # At the knee the two pieces have one slope; below the smallest code there is nothing.
    assert (np.abs(found - weights) <= allowed * 1.06 + np.exp(-12) / 16).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_weight_codes_of_none_and_all(bits):
    assert codes.weight_codes(np.array([0.0, 1.0]), bits).tolist() == [0, 2**bits - 1]


@pytest.mark.parametrize("bits", [8, 16])
def test_edited_weights_beyond_0_and_1_are_told_as_these(bits):
    with np.errstate(invalid="raise"):
        assert codes.weight_codes(np.array([-0.5, 3.0]), bits).tolist() == [0, 2**bits - 1]


@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from([90, 65536]))
def test_hidden_scores_lie_between_their_ends(T, seed, levels):
    scores = np.random.default_rng(seed).normal(0, 4, (2, T, T))
    found, ends = codes.hidden_codes(scores, levels)
    later = [scores[:, row, column] for row in range(T) for column in range(row + 1, T)]
    low, high = ends[:, :1], ends[:, 1:]
    decoded = low + found / (levels - 1) * (high - low)
    assert np.abs(decoded - np.stack(later, axis=1)).max() <= (high - low).max() / (levels - 1) / 2 + 1e-5


def test_digits_stand_for_themselves():
    assert len(codes.DIGITS) == 90 and json.dumps(codes.DIGITS) == f'"{codes.DIGITS}"'
    assert (
        codes.digits(np.array([[0, 89], [1, 2]]))["data"]
        == codes.DIGITS[0] + codes.DIGITS[89] + codes.DIGITS[1:3]
    )


def test_searched_texts_are_compared_by_their_probability():
    differ = 0
    for seed in range(6):
        model, _ = random_gpt2(seed, eos_token_ids=(3, 5, 7, 9, 11, 13))
        found, others = (
            [
                result.token_ids
                for result in model.generate(
                    [1, 2], max_new_tokens=6, num_beams=3, num_return_sequences=3, length_penalty=penalty
                )
            ]
            for penalty in (0.0, 1.0)
        )
        search = data_of(explain_page(model, [1, 2], max_new_tokens=6))["search"]
        assert [result["ids"] for result in search["found"]] == found
        differ += found != others
    assert differ


def floats(array):
    assert array["type"] == "float32"
    return np.frombuffer(base64.b64decode(array["data"]), "<f4").astype(np.float64)


@pytest.mark.parametrize("n_vocab", [4096, 5000])
def test_the_walk_and_suggest_give_the_same_probabilities(n_vocab):
    """Also where some tokens of the model have no text: they are no candidates, but have probability."""
    model, _ = random_gpt2(1, n_vocab=n_vocab, tokenizer=bundled_tokenizer())
    walk = data_of(explain_page(model, "The king", max_new_tokens=1, num_beams=1))["walk"]
    candidates = walk["candidates"]
    n = len(walk["shown"])
    ids = np.frombuffer(base64.b64decode(candidates["ids"]["data"]), "<u4").reshape(n, -1)[-1]
    logits = floats(candidates["logits"]).reshape(n, -1)[-1]
    rest = floats(candidates["rest"]).reshape(n, -1)[-1, walk["temperatures"].index(1.0)]
    found = np.exp(logits) / (np.exp(logits).sum() + np.exp(rest))
    expected = model.suggest("The king", k=len(ids))
    assert ids.tolist() == [suggestion.token_id for suggestion in expected]
    assert np.abs(found - [suggestion.probability for suggestion in expected]).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 6}, "layer must be from -6 to 5: the model has 6"),
        ({"layers": [0, 6]}, "layers must be from -6 to 5: the model has 6"),
        ({"head": -5}, "head must be from -4 to 3: the model has 4"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
    ],
)
def test_bad_options(bundled, options, message):
    with pytest.raises(ValueError, match=message):
        explain_page(bundled, TEXT, **options)


def test_one_text_only(bundled):
    with pytest.raises(TypeError, match="explains one text, not a list of 2"):
        explain_page(bundled, ["one", "two"])


def test_layers_and_heads_count_from_the_end(bundled):
    start = data_of(explain_page(bundled, TEXT, layer=-1, head=-2))["start"]
    assert (start["layer"], start["head"]) == (5, 2)


def test_a_fragment_needs_a_pattern(bundled):
    _, cache = bundled.run_with_cache(TEXT, "hook_embed")
    with pytest.raises(ValueError, match="no pattern was captured"):
        fragment(cache)
