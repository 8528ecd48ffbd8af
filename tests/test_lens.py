"""Looking inside a pass: logit lens, attribution of logits, scores of heads."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from helpers import tolerance
from helpers.kernelwise import unpacked
from helpers.strategies import configs, models, random_model, seeds
from helpers.toys import gpt2, random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import edits, reference
from gpt2c.core import _engine
from gpt2c.introspection.passes import ActivationCache
from gpt2c.introspection.results import HeadScores

HOW = {name: {"dtype": name} for name in _engine.DTYPES} | {"blas": {"backend": "blas"}}


def looked(config, tensors, ids, how="float32", **options):
    return gpt2((config, tensors, ids), **HOW[how]).run_with_cache(np.asarray(ids, np.int32), **options)[1]


def head_of(config, tensors):
    return tensors["wte.weight" if config.tie_word_embeddings else "lm_head.weight"].astype(np.float64)


@pytest.mark.parametrize("how", HOW)
@given(config=configs(), seed=seeds)
@settings(max_examples=20)
def test_weights_that_contributions_are_computed_with(how, config, seed):
    """Rows of the head are exactly what the panels stand for."""
    tensors = random_model(config, np.random.default_rng(seed))
    weights = gpt2((config, tensors, None), **HOW[how]).weights
    if how != "blas":
        tensors = unpacked(config, tensors, how)
    ids = np.random.default_rng(seed).integers(config.n_vocab, size=5)
    assert np.array_equal(weights.unembedding(ids), head_of(config, tensors)[ids])


def test_rows_that_a_model_does_not_have(bundled):
    for ids in ([4096], [-1]):
        with pytest.raises(ValueError, match=rf"ids must be .* from 0 to 4095, not \[{ids[0]}\]"):
            bundled.weights.unembedding(ids)


# -------------------------------------------------------------------------------- logit lens


def check_that_layers_are_shorter_models(how, config, tensors, ids, k):
    """After each layer the lens says, to the bit, what the model says that has no further layers."""
    lens = looked(config, tensors, ids, how, names_filter="*.hook_resid_*").logit_lens(k)
    ids = np.asarray(ids, np.int32)
    for n_layer in range(1, config.n_layer + 1):
        shorter = gpt2((dataclasses.replace(config, n_layer=n_layer), tensors, ids), **HOW[how])
        logprobs, ranks, entropies, _, top_ids, top_logprobs, _ = _engine.score(
            shorter.weights,
            [(shorter.new_cache(), ids)],
            [(np.arange(len(ids)), lens.token_ids)],
            top=k,
        )
        assert lens.names[n_layer] == f"layer {n_layer - 1}"
        for mine, other in (
            (lens.logprobs, logprobs),
            (lens.ranks, ranks),
            (lens.entropies, entropies),
            (lens.top_ids, top_ids),
            (lens.top_logprobs, top_logprobs),
        ):
            assert mine.dtype == other.dtype and np.array_equal(mine[n_layer], other)


@pytest.mark.parametrize("how", _engine.DTYPES)
@given(model=models(), data=st.data())
@settings(max_examples=15)
def test_each_layer_says_what_a_model_without_the_others_says(how, model, data):
    config, tensors, ids = model
    k = data.draw(st.integers(1, config.n_vocab))
    check_that_layers_are_shorter_models(how, config, tensors, ids, k)


def test_a_text_whose_layers_need_several_calls():
    model, tensors = random_gpt2(n_ctx=900)
    ids = np.random.default_rng(0).integers(61, size=900)
    check_that_layers_are_shorter_models("float32", model.config, tensors, ids, 3)


@given(models(), st.sampled_from(_engine.BACKENDS))
def test_every_stream_goes_through_the_last_norm_and_the_head(model, backend):
    config, tensors, ids = model
    how, block = ("blas", None) if backend == "blas" else ("float32", tolerance.BLOCK)
    cache = looked(config, tensors, ids, how)
    lens = cache.logit_lens(k=min(3, config.n_vocab))
    gain, bias = tensors["ln_f.weight"], tensors["ln_f.bias"]
    head = head_of(config, tensors).T
    assert lens.names == ["embed", *(f"layer {i}" for i in range(config.n_layer))]
    streams = [cache["resid_pre", 0], *(cache["resid_post", i] for i in range(config.n_layer))]
    for i, x in enumerate(streams):
        normed = reference.layer_norm(x, gain, bias, config.layer_norm_epsilon)
        exact = reference.log_softmax(normed @ head)
        d_norm = tolerance.layer_norm_bound(x, gain, bias, config.layer_norm_epsilon)
        d_logit = d_norm @ np.abs(head) + tolerance.dense_bound(np.abs(normed) + d_norm, head, block=block)
        # A sum of exponentials within 4 ulp each, of arguments rounded once; and the result is rounded
        size = np.abs(exact).max(axis=1, keepdims=True)
        bound = 2 * d_logit.max(axis=1, keepdims=True) + 2 * tolerance.U * (size + 8)
        of_token = np.take_along_axis(exact, lens.token_ids[:, None].astype(int), 1)
        assert (np.abs(lens.logprobs[i][:, None] - of_token) <= bound).all()
        above, close = exact > of_token + 2 * bound, np.abs(exact - of_token) <= 2 * bound
        assert (above.sum(1) <= lens.ranks[i]).all()
        assert (lens.ranks[i] <= (above | close).sum(1) - 1).all()  # it is close to itself
        of_top = np.take_along_axis(exact, lens.top_ids[i].astype(int), 1)
        assert (np.abs(lens.top_logprobs[i] - of_top) <= bound).all()
        best = -np.sort(-exact, axis=1)[:, : of_top.shape[1]]
        assert (of_top >= best - 2 * bound).all()
        entropy = -(np.exp(exact) * exact).sum(1)
        # A change of b in all logits moves the probabilities by 2 b of themselves, and what they weigh by 2 b
        assert (np.abs(lens.entropies[i] - entropy) <= (bound * (2 + size))[:, 0]).all()


def test_the_tokens_asked_about(bundled):
    _, cache = bundled.run_with_cache("Once upon a time there was")
    n = len(cache.token_ids)
    lens = cache.logit_lens()
    best = int(cache.logits[-1].argmax())
    assert lens.token_ids.tolist() == [*cache.token_ids[1:].tolist(), best]
    assert lens.token_ids.dtype == np.int32 and lens.top_ids.shape == (7, n, 5)
    assert lens.ranks[-1, -1] == 0 and lens.top_ids[-1, -1, 0] == best
    assert np.array_equal(lens.input_ids, cache.token_ids) and lens.tokens == cache.tokens
    text = bundled.token_bytes(best).decode()
    assert lens.top_tokens[-1][-1][0] == text and lens.top_tokens[0][2] == [
        bundled.token_bytes(token).decode("utf-8", "backslashreplace")
        for token in lens.top_ids[0, 2].tolist()
    ]
    one, all_of_them = cache.logit_lens(1, 17), cache.logit_lens(4096, np.full(n, 17))
    assert one.token_ids.tolist() == [17] * n and np.array_equal(one.logprobs, all_of_them.logprobs)
    places = (all_of_them.top_ids == 17).argmax(axis=2)
    assert np.array_equal(one.ranks, all_of_them.ranks) and np.array_equal(one.ranks, places)
    assert np.array_equal(
        one.logprobs, np.take_along_axis(all_of_them.top_logprobs, places[..., None], 2)[..., 0]
    )
    assert np.array_equal(one.entropies, lens.entropies)


def test_an_edit_reaches_the_layers_after_it(bundled):
    prompt = "Once upon a time"
    clean = bundled.run_with_cache(prompt)[1].logit_lens()
    cache = bundled.run_with_cache(prompt, edits=[("blocks.3.hook_mlp_out", edits.zero())])[1]
    lens = cache.logit_lens()
    assert np.array_equal(lens.top_logprobs[:4], clean.top_logprobs[:4])
    assert (lens.top_logprobs[4:] != clean.top_logprobs[4:]).any(axis=(1, 2)).all()
    scored = reference.log_softmax(cache.logits)
    assert np.abs(lens.top_logprobs[-1, :, 0] - scored.max(axis=1)).max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be from 1 to 4096, the size of the vocabulary, not 0"),
        ({"tokens": 4096}, ValueError, "tokens must be from 0 to 4095, not 4096"),
        ({"tokens": [1, 2]}, ValueError, "tokens holds 2 token ids, but the text has 4 positions"),
        ({"tokens": [1, 2, 3, -1]}, ValueError, "tokens has token id -1, but the vocabulary has 4096"),
        ({"tokens": "time"}, TypeError, "tokens must be an integer, from 0 to 4095, not 'time'"),
    ],
)
def test_what_the_lens_does_not_take(bundled, arguments, error, message):
    cache = bundled.run_with_cache("Once upon a time")[1]
    with pytest.raises(error, match=re.escape(message)):
        cache.logit_lens(**arguments)


def test_what_the_lens_needs(bundled):
    cache = bundled.run_with_cache("Once upon a time", "*.hook_resid_post")[1]
    with pytest.raises(KeyError, match=r"blocks\.0\.hook_resid_pre was not captured: name it"):
        cache.logit_lens()


# -------------------------------------------------------------------------------- attribution


def directions(cache, tensors, chosen, position):
    """What the head and the frozen last norm multiply: the difference of rows of the head, and their gain."""
    config = cache.model.config
    rows = head_of(config, tensors)[list(chosen)]
    after = rows[0] - (rows[1] if len(rows) == 2 else 0)
    scale = float(cache["ln_final.hook_scale"][position, 0])

    def adds(c):
        c = np.asarray(c, np.float64)
        return float((c - c.mean()) / scale * tensors["ln_f.weight"] @ after)

    return after, adds


def check_attribution(how, config, tensors, ids, data):
    cache = looked(config, tensors, ids, how)
    if how in _engine.DTYPES:
        tensors = unpacked(config, tensors, how)
    n, token_ids = len(ids), st.integers(0, config.n_vocab - 1)
    position = data.draw(st.integers(-n, n - 1))
    token, against = data.draw(st.one_of(st.none(), token_ids)), data.draw(st.one_of(st.none(), token_ids))
    found = cache.attribution(token, against, position)
    if token is None:
        token = int(cache.logits[position].argmax())
    assert (found.token_id, found.against_id, found.position) == (token, against, position % n)
    chosen = [token] if against is None else [token, against]
    logits = cache.logits[position, chosen].astype(np.float64)
    assert found.logit == logits[0] - logits[1:].sum()
    assert sum(found.components.values()) == pytest.approx(found.logit, rel=1e-12, abs=1e-12)

    after, adds = directions(cache, tensors, chosen, position)
    names = [f"{kind} {layer}" for layer in range(config.n_layer) for kind in ("attn", "mlp")]
    assert list(found.components) == ["embed", "pos_embed", *names, "bias", "rest"]
    expected = {"embed": adds(cache["embed"][position]), "pos_embed": adds(cache["pos_embed"][position])}
    expected["bias"] = float(tensors["ln_f.bias"].astype(np.float64) @ after)
    for layer in range(config.n_layer):
        expected[f"attn {layer}"] = adds(cache["attn_out", layer][position])
        expected[f"mlp {layer}"] = adds(cache["mlp_out", layer][position])
    # float64 of the same float32 inputs, summed up in another order
    size = sum(map(abs, expected.values())) + np.abs(after).sum() + 1
    for name, value in expected.items():
        assert abs(found.components[name] - value) <= 1e-11 * size, name

    # The head's own rounding, that of the last norm, and one rounding for each addition to the stream
    x = cache["resid_post", -1][position : position + 1 or None]
    gain, bias = tensors["ln_f.weight"], tensors["ln_f.bias"]
    rows = head_of(config, tensors)[chosen].T
    normed = reference.layer_norm(x, gain, bias, config.layer_norm_epsilon)
    d_norm = tolerance.layer_norm_bound(x, gain, bias, config.layer_norm_epsilon)
    packed = how not in ("float32", "blas")
    kind = "int8" if how == "int4" else how
    if packed:
        # with their signs, as a step may be a part of the distance from the least to the greatest
        inputs = np.copysign(np.abs(normed) + d_norm, normed)
        d_norm = d_norm + tolerance.half_steps("lm_head", inputs, kind)
    block = None if how == "blas" else tolerance.BLOCK
    allowed = d_norm @ np.abs(rows) + tolerance.dense_bound(np.abs(normed) + d_norm, rows, block=block)
    streams = [
        cache[name, i][position] for i in range(config.n_layer) for name in ("resid_mid", "resid_post")
    ]
    of_stream = tolerance.U * np.abs([cache["resid_pre", 0][position], *streams]).sum(axis=0)
    through = np.abs(gain * after) / cache["ln_final.hook_scale"][position, 0]
    shifted = of_stream @ through + of_stream.mean() * through.sum()
    assert abs(found.components["rest"]) <= allowed.sum() + shifted + 1e-11 * size

    for layer in range(config.n_layer):
        matrix, z = tensors[f"h.{layer}.attn.c_proj.weight"], cache["z", layer][position]
        for head in range(config.n_head):
            alone = np.zeros_like(z, np.float64)
            alone[head] = z[head]
            value = adds(alone.reshape(-1) @ matrix.astype(np.float64))
            assert abs(found.heads[layer, head] - value) <= tolerance.U * abs(value) + 1e-11 * size
        value = adds(tensors[f"h.{layer}.attn.c_proj.bias"])
        assert abs(found.attn_bias[layer] - value) <= tolerance.U * abs(value) + 1e-11 * size
        # Together they are what the whole attention adds, but for the rounding of its last matrix
        z = z.reshape(1, -1)
        d_out = tolerance.dense_bound(z, matrix, tensors[f"h.{layer}.attn.c_proj.bias"], block=block)[0]
        if packed:
            steps = tolerance.half_steps(f"h.{layer}.attn.c_proj", np.abs(z), kind)
            d_out = d_out + (steps * 1.01)[0] @ np.abs(matrix)
        allowed = (
            d_out @ through
            + d_out.mean() * through.sum()
            + 2 * tolerance.U * np.abs(found.heads[layer]).sum()
        )
        together = found.heads[layer].sum(dtype=np.float64) + found.attn_bias[layer]
        whole = found.components[f"attn {layer}"]
        assert abs(together - whole) <= allowed + tolerance.U * abs(value) + 1e-11 * size


@pytest.mark.parametrize("how", HOW)
@given(model=models(), data=st.data())
@settings(max_examples=15)
def test_components_and_heads_add_up(how, model, data):
    check_attribution(how, *model, data)


@given(model=models(), data=st.data())
def test_an_added_vector_is_the_rest(model, data):
    """What is put into the stream by an edit belongs to no component, and its share is known."""
    config, tensors, ids = model
    layer = data.draw(st.integers(0, config.n_layer - 1))
    name = data.draw(st.sampled_from(("hook_resid_pre", "hook_resid_mid", "hook_resid_post")))
    vector = np.random.default_rng(1).standard_normal(config.n_embd).astype(np.float32)
    cache = looked(config, tensors, ids, edits=[(f"blocks.{layer}.{name}", edits.add(vector))])
    found = cache.attribution(0)
    _, adds = directions(cache, tensors, [0], -1)
    clean = looked(config, tensors, ids).attribution(0)
    size = 1 + np.abs(list(found.components.values())).sum() + np.abs(adds(np.abs(vector)))
    assert found.components["rest"] == pytest.approx(adds(vector), abs=1e-5 * size)
    assert abs(clean.components["rest"]) <= 1e-5 * size


def test_heads_are_those_that_were_captured(bundled):
    """An edited result counts, if it was captured: without it the heads are made of z."""
    names = ("attn.hook_result", "attn.hook_z", "hook_*_out")
    change = [("blocks.2.attn.hook_result", edits.scale(2.0, heads=1))]
    prompt, wanted = "Once upon a time", ["hook_*", "ln_final.*", *(f"*.{name}" for name in names)]
    cache = bundled.run_with_cache(prompt, wanted, edits=change)[1]
    from_z = bundled.run_with_cache(prompt, edits=change)[1].attribution()
    from_result = cache.attribution()
    ratio = from_result.heads / from_z.heads
    expected = np.ones((6, 4))
    expected[2, 1] = 2
    assert np.allclose(ratio, expected, rtol=1e-4, atol=0)
    together = from_result.heads.sum(axis=1) + from_result.attn_bias
    assert np.allclose(together, [from_result.components[f"attn {i}"] for i in range(6)], rtol=0, atol=1e-5)


def test_positions_whose_logits_were_kept(bundled):
    prompt = "Once upon a time there was"
    everything = bundled.run_with_cache(prompt)[1]
    some = bundled.run_with_cache(prompt, logits_to_keep=2)[1]
    for position in (-1, -2, 4, 5):
        one, other = everything.attribution(position=position), some.attribution(position=position)
        assert one.components == other.components and one.logit == other.logit
    with pytest.raises(ValueError, match=r"position 3 has no logits: those of the last 2 of 6 tokens were"):
        some.attribution(position=3)
    with pytest.raises(ValueError, match="position must be from -6 to 5 for a text of 6 tokens, not 6"):
        everything.attribution(position=6)
    with pytest.raises(ValueError, match="against must be from 0 to 4095, not -1"):
        everything.attribution(5, -1)
    with pytest.raises(TypeError, match="token must be an integer, from 0 to 4095, not ' a'"):
        everything.attribution(" a")


# -------------------------------------------------------------------------------- scores of heads


def slow_scores(pattern, ids):
    """The definitions, position by position: [T, T] -> five numbers."""
    kinds = {"previous_token": [], "duplicate_token": [], "induction": [], "first_token": []}
    entropies = []
    for t, row in enumerate(pattern.astype(np.float64)):
        before = [s for s in range(t) if ids[s] == ids[t]]
        if t > 0:
            kinds["previous_token"].append(row[t - 1])
            kinds["first_token"].append(row[0])
        if before:
            kinds["duplicate_token"].append(sum(row[s] for s in before))
            kinds["induction"].append(sum(row[s + 1] for s in before))
        entropies.append(-sum(p * math.log(p) for p in row if p > 0))
    means = {name: sum(values) / len(values) if values else math.nan for name, values in kinds.items()}
    return means | {"entropy": sum(entropies) / len(entropies)}


@given(models(), st.integers(1, 6), st.booleans())
def test_scores_are_means_over_positions(model, n_different, causal):
    config, tensors, ids = model
    cache = looked(config, tensors, ids % n_different, causal=causal)
    scores = cache.head_scores()
    for layer in range(config.n_layer):
        for head in range(config.n_head):
            expected = slow_scores(cache["pattern", layer][head], cache.token_ids.tolist())
            for name, value in expected.items():
                found = getattr(scores, name)
                assert found.shape == (config.n_layer, config.n_head) and found.dtype == np.float32
                assert found[layer, head] == pytest.approx(value, rel=1e-6, abs=1e-7, nan_ok=True), name


def test_heads_that_do_one_thing():
    """Patterns made by hand: a head that only looks back by one, only at doubles, only after them, ..."""
    model, _ = random_gpt2()
    ids = np.array([7, 5, 8, 5, 8, 5], np.int32)
    n = len(ids)
    previous, duplicate, induction, uniform = np.zeros((4, n, n), np.float32)
    for t in range(n):
        before = [s for s in range(t) if ids[s] == ids[t]]
        previous[t, max(t - 1, 0)] = 1
        uniform[t, : t + 1] = 1 / (t + 1)
        duplicate[t, before or [0]] = 1 / max(len(before), 1)
        induction[t, [s + 1 for s in before] or [0]] = 1 / max(len(before), 1)
    values = {
        "blocks.0.attn.hook_pattern": np.stack([previous, duplicate]),
        "blocks.1.attn.hook_pattern": np.stack([induction, uniform]),
    }
    scores = ActivationCache(model, ids, values, np.zeros((n, 61), np.float32)).head_scores()
    assert scores.previous_token[0, 0] == scores.duplicate_token[0, 1] == scores.induction[1, 0] == 1
    assert scores.entropy[0, 0] == 0 and scores.duplicate_token[0, 0] == 0
    assert scores.induction[0, 0] == 1  # 5 8 5 8 5: the token before followed an earlier one each time
    assert scores.first_token[1, 1] == pytest.approx(np.mean([1 / (t + 1) for t in range(1, n)]), rel=1e-6)
    assert scores.entropy[1, 1] == pytest.approx(np.mean(np.log(np.arange(1, n + 1))), rel=1e-6)


def test_texts_in_which_no_position_qualifies(bundled):
    scores = bundled.run_with_cache([5])[1].head_scores()
    for name in ("previous_token", "duplicate_token", "induction", "first_token"):
        assert np.isnan(getattr(scores, name)).all()
    assert (scores.entropy == 0).all()
    scores = bundled.run_with_cache([5, 6, 7])[1].head_scores()
    assert np.isnan(scores.duplicate_token).all() and np.isnan(scores.induction).all()
    assert np.isfinite(scores.previous_token).all() and np.isfinite(scores.first_token).all()


# -------------------------------------------------------------------------------- shown


def test_plain_data_are_the_arrays(bundled):
    cache = bundled.run_with_cache("Once upon a time")[1]
    for found in (cache.logit_lens(), cache.attribution(5, 6), cache.head_scores()):
        data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert data.keys() == vars(found).keys()
        for name, value in vars(found).items():
            if isinstance(value, np.ndarray):
                kept = np.array(data[name], float)  # None becomes NaN
                assert np.array_equal(kept.astype(value.dtype), value, equal_nan=value.dtype.kind == "f")
            else:
                assert data[name] == value
    assert cache.head_scores().to_dict()["induction"] == [[None] * 4] * 6


def test_plain_data_are_json_whatever_the_numbers(bundled):
    cache = bundled.run_with_cache("Once upon a time")[1]
    lens, attribution, scores = cache.logit_lens(2), cache.attribution(5), cache.head_scores()
    bad = np.array([np.nan, -np.inf, np.inf], np.float32)

    def spoilt(values):
        values = values.copy()
        values.flat[:3] = bad
        return values

    for found, name in (
        (lens, "logprobs"),
        (lens, "top_logprobs"),
        (attribution, "heads"),
        (scores, "entropy"),
    ):
        changed = dataclasses.replace(found, **{name: spoilt(getattr(found, name))})
        told = json.loads(json.dumps(changed.to_dict(), allow_nan=False))[name]
        flat = np.array(told, object).ravel()
        assert flat[:3].tolist() == [None] * 3
        assert flat[3:].tolist() == getattr(found, name).ravel()[3:].tolist()
    changed = dataclasses.replace(
        attribution, logit=-math.inf, components={**attribution.components, "rest": -math.inf}
    )
    told = json.loads(json.dumps(changed.to_dict(), allow_nan=False))
    assert told["logit"] is told["components"]["rest"] is None
    assert told["components"]["embed"] == attribution.components["embed"]


def numbers(text):
    return [float(word) for word in re.findall(r"(?<![\w.])-?\d+\.\d+", text)]


def test_tables_show_the_numbers(bundled):
    cache = bundled.run_with_cache("Once upon a time, once upon a")[1]
    lens = cache.logit_lens()
    head, *rows = str(lens).splitlines()
    assert re.split(r"\s{2,}", head.strip()) == lens.names and len(rows) == len(lens.tokens)
    for position, row in enumerate(rows):
        words = [lens.tokens[position], *(layer[position][0] for layer in lens.top_tokens)]
        words = [word.replace(" ", "\u2423") for word in words]
        words = [word if len(word) <= 12 else word[:11] + "\u2026" for word in words]
        assert row == f"{position:4} " + "  ".join(f"{word:<12}" for word in words).rstrip()
    found = cache.attribution(5, 6)
    head, *rows = str(found).splitlines()
    title = f'logit of "{found.token}" minus "{found.against}"'
    assert head == f"{title} after position {len(lens.tokens) - 1}: {found.logit:.4f}"
    n = len(found.components)
    expected = [f"  {name:<10} {value:9.4f}" for name, value in found.components.items()]
    assert rows[:n] == expected
    shown = np.array([numbers(row) for row in rows[n + 2 :]])
    assert np.abs(shown - np.column_stack([found.heads, found.attn_bias])).max() <= 0.0005001
    assert repr(found) == f"<Attribution of {title}: {found.logit:.4g}>"
    scores = cache.head_scores()
    shown = np.array(numbers(str(scores))).reshape(5, 6, 4)
    assert np.abs(shown - np.stack(list(vars(scores).values()))).max() <= 0.0005001
    assert [line for line in str(scores).splitlines() if line[0] != " "] == [
        "previous token",
        "duplicate token",
        "induction",
        "first token",
        "entropy (nats)",
    ]


def test_tables_without_a_tokenizer_and_without_a_score():
    model, _ = random_gpt2()
    cache = model.run_with_cache([3])[1]
    assert f"   0 token 3       token {cache.logit_lens().top_ids[0, 0, 0]}" in str(cache.logit_lens())
    assert str(cache.attribution(9)).startswith("logit of token 9 after position 0: ")
    nan = np.full((1, 2), np.nan, np.float32)
    text = str(HeadScores(nan, nan, nan, nan, np.zeros((1, 2), np.float32)))
    assert text.splitlines()[1:3] == ["                0       1", "  layer 0       -       -"]
