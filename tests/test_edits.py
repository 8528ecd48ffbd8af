"""Interventions: they do what they say, to what they name, and to nothing else; patches are whole runs."""

import functools
import gc

import numpy as np
import pytest
from helpers import tolerance
from helpers.strategies import models, seeds
from helpers.toys import gpt2, random_gpt2, same
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import edits, reference
from gpt2c.core import _engine
from gpt2c.introspection.hooks import Hook, axes, full_name, hook_names

EVERYTHING = ("*", "*_in", "*_input", "*result")


def changing(name, seed):
    """A change of part of a value, as a function of a float array of any precision."""

    def change(value):
        rng = np.random.default_rng(seed)
        chosen = rng.random(value.shape) < 0.3
        other = np.where(
            np.isfinite(value), value * rng.choice((0.5, -1.0, 1.5)) + rng.choice((0, 0.25)), value
        )
        if name.endswith("hook_scale"):
            other = value * 1.5
        if name.endswith("hook_pattern"):
            other = np.where(value > 0, 0.25 * value, 0)
        return np.where(chosen, other, value)

    return change


def compatible(names):
    """Not the LayerNorm of the residual stream, and what heads read instead of it, in one layer."""
    norms = {name.split(".")[1] for name in names if ".ln1." in name}
    inputs = {name.split(".")[1] for name in names if name.endswith(("attn_in", "_input"))}
    return not norms & inputs


@given(models(max_ctx=20), st.data())
@settings(max_examples=150)
def test_edits_of_every_value_as_in_the_reference(model, data):
    config, tensors, ids = model
    some = st.lists(st.sampled_from(hook_names(config)), min_size=1, max_size=3)
    names = data.draw(some.filter(compatible))
    seed, causal = data.draw(seeds), data.draw(st.booleans())
    changes = {name: changing(name, seed) for name in names}

    def look(name, value):
        return changes[name](value) if name in changes else value

    edited = functools.partial(reference.forward, look=look, causal=causal)
    pairs = [(name, lambda value, hook: changes[hook.name](value)) for name in changes]
    logits, _ = gpt2(model).run_with_cache(ids, (), edits=pairs, causal=causal)
    bound = tolerance.model_bound(config, tensors, ids, forward=edited)
    tolerance.check_logits(logits, edited(config, tensors, ids), bound)


@given(models(max_ctx=20), st.sampled_from(_engine.DTYPES))
@settings(max_examples=40)
def test_an_edit_that_changes_nothing_changes_nothing(model, dtype):
    looked, ids = gpt2(model, dtype=dtype), model[2]
    plain = looked.forward(ids)
    for edit in (lambda value, hook: value, lambda value, hook: None, edits.scale(1.0)):
        logits, cache = looked.run_with_cache(ids, EVERYTHING, edits=[(EVERYTHING, edit)])
        assert same(logits, plain)
    _, seen = looked.run_with_cache(ids, EVERYTHING)
    assert all(same(cache[name], seen[name]) for name in seen)


@given(models(max_ctx=30), st.data())
@settings(max_examples=60)
def test_an_edit_reaches_only_what_depends_on_it(model, data):
    """Other heads and positions of a changed pattern keep their bits, and so do earlier positions."""
    config, _, ids = model
    looked = gpt2(model, dtype=data.draw(st.sampled_from(_engine.DTYPES)))
    layer = data.draw(st.integers(0, config.n_layer - 1))
    head, position = data.draw(st.integers(0, config.n_head - 1)), data.draw(st.integers(0, len(ids) - 1))
    name = full_name(config, data.draw(st.sampled_from(["pattern", "attn_scores"])), layer)
    logits, cache = looked.run_with_cache(ids)
    changed, other = looked.run_with_cache(
        ids, edits=[(name, edits.add(-0.5, heads=head, positions=position, units=0))]
    )
    same_z = np.array([[same(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(
        cache["z", layer], other["z", layer], strict=True)])  # fmt: skip
    same_z[position, head] = True
    assert same_z.all()
    assert same(changed[:position], logits[:position])
    for before in range(layer):
        assert same(other["resid_post", before], cache["resid_post", before])


def test_what_an_edit_changed_in_one_layer_is_forgotten_in_the_next():
    model, _ = random_gpt2()
    ids = list(range(30))
    change = ("blocks.0.attn.hook_pattern", edits.scale(0.5, heads=1))
    once, _ = model.run_with_cache(ids, edits=[change])
    again, _ = model.run_with_cache(ids, edits=[change, ("blocks.1.attn.hook_pattern", edits.scale(1.0))])
    assert same(once, again)


# ---- the usual edits ----

HOOKS = {
    "blocks.1.hook_resid_pre": (7, 24),
    "blocks.1.attn.hook_z": (7, 2, 12),
    "blocks.1.attn.hook_pattern": (2, 7, 7),
    "blocks.0.mlp.hook_post": (7, 96),
}


def applied(edit, name, value, start=0):
    value = value.copy()
    T = value.shape[axes(name).index("positions")]
    assert edit(value, Hook(name, 0, range(start, start + T))) is None
    return value


@pytest.mark.parametrize("name", HOOKS)
def test_what_is_chosen(name):
    value = np.random.default_rng(0).standard_normal(HOOKS[name]).astype(np.float32)
    at = axes(name).index("positions")

    def expect(change, **chosen):
        """`change` of the same part, found with boolean masks instead of indices."""
        part = np.ones(value.shape, bool)
        for what, indices in chosen.items():
            axis = axes(name).index(what)
            along = np.isin(np.arange(value.shape[axis]), indices)
            part &= along.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
        return np.where(part, change(value), value).astype(np.float32)

    assert same(applied(edits.zero(), name, value), np.zeros_like(value))
    assert same(applied(edits.zero(positions=3), name, value), expect(lambda v: 0, positions=[3]))
    assert same(
        applied(edits.scale(2, positions=[1, 5], units=range(3, 7)), name, value),
        expect(lambda v: 2 * v, positions=[1, 5], units=[3, 4, 5, 6]),
    )
    assert same(
        applied(edits.scale(-1, positions=slice(2, None)), name, value),
        expect(lambda v: -v, positions=[2, 3, 4, 5, 6]),
    )
    if "heads" in axes(name):
        assert same(applied(edits.zero(heads=1), name, value), expect(lambda v: 0, heads=[1]))
        assert same(applied(edits.zero(heads=[0], positions=6), name, value), expect(
            lambda v: 0, heads=[0], positions=[6]))  # fmt: skip
    else:
        with pytest.raises(ValueError, match=f"{name} has no heads; leave heads out"):
            applied(edits.zero(heads=0), name, value)
    vector = np.arange(value.shape[-1], dtype=np.float32)
    assert same(applied(edits.add(vector), name, value), value + vector)
    other = np.random.default_rng(1).standard_normal(HOOKS[name]).astype(np.float32)
    for source in (other, {name: other}):
        assert same(applied(edits.replace(source), name, value), other)
        assert same(
            applied(edits.replace(source, positions=[2, 4]), name, value),
            expect(lambda v: other, positions=[2, 4]),
        )
    # Later rows of a text: positions are those of the text.
    later = applied(edits.zero(positions=[12, 3]), name, value, start=10)
    assert same(later, expect(lambda v: 0, positions=[2]))
    longer = np.concatenate([np.zeros_like(other), other], axis=at)
    assert same(applied(edits.replace(longer), name, value, start=7), other)


def test_what_begins_beyond_a_value_is_refused():
    value = np.zeros((7, 2, 12), np.float32)
    pairs = ("heads", 2), ("heads", 9), ("units", 12), ("positions", 7), ("positions", 900)
    for what, first in pairs:
        sizes = {"heads": 2, "units": 12, "positions": 7}
        for complete in (True, False):
            hook = Hook("blocks.1.attn.hook_z", 1, range(7), complete)
            chosen = edits.add(1, **{what: slice(first, None)})
            if what == "positions" and not complete:  # they may still come
                chosen(value, hook)
                assert not value.any()
                continue
            allowed = rf"{what} of blocks.1.attn.hook_z must be from 0 to {sizes[what] - 1}, not {first}"
            with pytest.raises(ValueError, match=allowed):
                chosen(value, hook)
    last = edits.add(1, heads=slice(1, None), units=slice(11, None), positions=slice(6, None))
    last(value, Hook("blocks.1.attn.hook_z", 1, range(7), True))
    assert value.sum() == value[6, 1, 11] == 1


def test_numbers_that_float32_does_not_hold_are_refused():
    for make in (edits.scale, edits.add):
        for number in (1e39, -1e39):
            with pytest.raises(ValueError, match=r", which exceeds float32's maximum, 3\.4e38"):
                make(number)
    with pytest.raises(ValueError, match="exceeds float32"):
        edits.add(np.array([1, 1e39]))
    with pytest.raises(TypeError, match="needs a number or an array of numbers, not 'x'"):
        edits.add("x")
    with pytest.raises(TypeError, match="needs a number, not None"):
        edits.scale(None)
    # Hidden keys are what infinities are for.
    value = np.ones((1, 2, 2), np.float32)
    edits.add(-np.inf, units=1)(value, Hook("blocks.0.attn.hook_attn_scores", 0, range(2)))
    assert value.tolist() == [[[1, -np.inf]] * 2]


def test_edits_after_which_there_are_no_probabilities(recwarn):
    model, _ = random_gpt2()
    name = "blocks.1.hook_resid_pre"
    for pairs in (
        [("ln_final.hook_scale", edits.zero())],
        [(name, edits.add(100)), (name, edits.scale(1e38))],
        [(name, edits.add(3e38)), (name, edits.add(3e38, units=0))],
        [("blocks.0.attn.hook_attn_scores", edits.scale(-1))],
        [("blocks.1.attn.hook_result", edits.add(3e38))],
    ):
        for attempt in (model.suggest, model.score, model.explain):
            with pytest.raises(ValueError, match="the edits make logits infinite or NaN"):
                str(attempt([1, 2, 3], edits=pairs))  # an explanation is made when it is looked at
    calls = []

    def break_the_second(value, hook):
        calls.append(value)
        if len(calls) == 2:
            value[:] = np.nan

    scores = model.score(iter([[1, 2], [3, 9]]), edits=[("hook_embed", break_the_second)])
    assert np.isfinite(next(scores).logprobs).all()  # as for other errors, those before come first
    with pytest.raises(ValueError, match="the edits make logits infinite or NaN"):
        next(scores)
    assert not recwarn.list


def test_what_an_edit_does_itself_is_warned_of():
    model, _ = random_gpt2()

    def divide(value, hook):
        value[:] = value / np.zeros_like(value)

    with pytest.warns(RuntimeWarning, match="divide by zero"):
        model.run_with_cache([1, 2], (), edits=[("hook_embed", divide)])


def test_nan_is_ablated_too():
    value = np.full((3, 4), np.nan, np.float32)
    assert same(applied(edits.zero(positions=1), "blocks.0.hook_mlp_out", value)[1], np.zeros(4, np.float32))


def test_an_edit_may_keep_what_it_was_shown():
    model, _ = random_gpt2(n_ctx=600)
    kept = {}

    def keep(value, hook):
        kept[hook.name] = value, value.copy()

    last = [
        "blocks.1.mlp.hook_post",
        "blocks.1.hook_mlp_out",
        "blocks.1.hook_resid_post",
        "blocks.1.attn.hook_z",
    ]
    model.run_with_cache([5] * 600, (), edits=[(last, keep)])  # nothing later uses the same memory
    gc.collect()
    others = [np.full(4 * 600 * n + 64, 7, np.uint8) for n in (24, 72, 96) for _ in range(20)]
    assert list(kept) == [last[3], *last[:3]] and others
    for name, (value, then) in kept.items():
        assert same(value, then), name


def test_the_last_norm_of_part_of_a_text_is_put_where_it_was():
    model, _ = random_gpt2()
    ids = list(range(14))
    whole, _ = model.run_with_cache(ids)
    _, part = model.run_with_cache(ids, logits_to_keep=5)
    same_again = edits.replace(part, positions=[10, 12])
    logits, _ = model.run_with_cache(ids, (), edits=[("ln_final.hook_normalized", same_again)])
    assert same(logits, whole)
    with pytest.raises(ValueError, match=r"the other ln_final.hook_normalized has positions 9 to 13, not 2"):
        model.run_with_cache(ids, (), edits=[("ln_final.hook_normalized", edits.replace(part, positions=2))])


def test_means():
    model, _ = random_gpt2()
    _, [a, b] = model.run_with_cache([[1, 2, 3], [4, 5, 6, 7, 8]])
    for name in ("blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"):
        mean = np.concatenate([a[name], b[name]]).astype(np.float64).mean(axis=0).astype(np.float32)
        _, other = model.run_with_cache([9, 10], edits=[(name, edits.mean(a, b))])
        assert same(other[name], np.stack([mean, mean]))
    _, other = model.run_with_cache([9, 10], edits=[("*.hook_z", edits.mean(a, heads=1))])
    _, plain = model.run_with_cache([9, 10])
    assert same(other["z", 0][:, 0], plain["z", 0][:, 0])
    with pytest.raises(ValueError, match="hook_pattern has no mean over positions"):
        model.run_with_cache([9, 10], edits=[("*.hook_pattern", edits.mean(a))])
    for wrong in ((), ("x",), (a, None)):
        with pytest.raises(TypeError, match="at least one text"):
            edits.mean(*wrong)


def test_edits_come_one_after_the_other_and_captures_after_them():
    model, _ = random_gpt2()
    seen = []

    def note(value, hook):
        seen.append((hook, value.copy()))

    name = "blocks.1.hook_mlp_out"
    pairs = [(name, edits.zero()), (name, edits.add(3)), (name, note)]
    _, cache = model.run_with_cache([1, 2], edits=pairs)
    assert seen[0][0] == Hook(name, 1, range(2), True)
    assert (seen[0][1] == 3).all() and (cache[name] == 3).all()
    model.run_with_cache([1, 2], edits=[("hook_embed", note)])
    assert seen[1][0] == Hook("hook_embed", None, range(2), True)
    model.run_with_cache([1, 2], edits=[("ln_final.hook_normalized", note)], logits_to_keep=1)
    assert seen[2][0] == Hook("ln_final.hook_normalized", None, range(1, 2), True)
    assert seen[2][1].shape == (1, 24)
    seen.clear()
    model.generate([1, 2], max_new_tokens=2, edits=[("hook_embed", note)])
    assert [hook for hook, _ in seen] == [Hook("hook_embed", None, r, False) for r in (range(2), range(2, 3))]


def test_each_text_of_a_list_is_edited_alone():
    model, _ = random_gpt2()
    texts = [[1, 2, 3], [4, 5]]
    shapes = []
    edit = ("*.hook_resid_mid", lambda value, hook: shapes.append((value.shape, hook.positions)))
    model.run_with_cache(texts, edits=[edit])
    assert shapes == [((3, 24), range(3)), ((2, 24), range(2))] * 2
    pairs = [("blocks.0.attn.hook_z", edits.zero(positions=1, heads=1))]
    together, _ = model.run_with_cache(texts, edits=pairs)
    for ids, logits in zip(texts, together, strict=True):
        assert same(model.run_with_cache(ids, edits=pairs)[0], logits)


@pytest.mark.parametrize("dtype", ["float32", "int4"])
def test_edits_while_generating(dtype):
    """Every step is what one pass over the whole text would be with the same edits."""
    model, _ = random_gpt2(n_ctx=60, dtype=dtype)
    steer = np.random.default_rng(0).standard_normal(24)
    pairs = [
        ("blocks.1.hook_resid_pre", edits.add(steer, positions=slice(4, None))),
        ("*.attn.hook_pattern", edits.zero(units=0, heads=1)),
    ]
    prompts = [[5, 6, 7], [8]]
    plain = model.generate(prompts, max_new_tokens=40)
    steered = model.generate(prompts, max_new_tokens=40, edits=pairs, names_filter="*.hook_pattern")
    for one, other in zip(plain, steered, strict=True):
        assert one.token_ids != other.token_ids
        logits, cache = model.run_with_cache(other.cache.token_ids, "*.hook_pattern", edits=pairs)
        n = len(other.token_ids)
        assert logits[-n:].argmax(axis=1).tolist() == other.token_ids
        assert same(logits[-n:], other.cache.logits)
        assert all(same(cache[name], other.cache[name]) for name in cache)
    assert model.generate(prompts, max_new_tokens=40)[0].token_ids == plain[0].token_ids
    for beam in model.generate(prompts, max_new_tokens=5, edits=pairs, num_beams=3, num_return_sequences=3):
        ids = beam.prompt_token_ids + beam.token_ids
        logits, _ = model.run_with_cache(ids[:-1], (), edits=pairs, logits_to_keep=5)
        exact = reference.log_softmax(logits)[np.arange(5), beam.token_ids]
        assert beam.score == pytest.approx(exact.sum() / 5, abs=1e-5)


@pytest.mark.parametrize("cache_dtype", _engine.CACHE_DTYPES)
def test_edits_of_texts_that_share_a_prompt(cache_dtype):
    """Keys that lie in another cache, and several blocks of them."""
    model, _ = random_gpt2(n_ctx=200)
    model.cache_dtype = cache_dtype
    halves = ("*.attn.hook_attn_scores", edits.scale(0.5, heads=1))
    found = model.generate(
        list(range(45)),
        max_new_tokens=100,
        num_return_sequences=3,
        temperature=1.0,
        seed=1,
        edits=[halves],
        names_filter=["*.hook_z", "*.hook_pattern"],
    )
    assert len({tuple(one.token_ids) for one in found}) == 3
    for one in found:
        logits, cache = model.run_with_cache(one.cache.token_ids, list(one.cache), edits=[halves])
        assert same(logits[-100:], one.cache.logits)
        assert all(same(cache[name], one.cache[name]) for name in cache)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.1.attn.hook_z",
        "blocks.*.hook_resid_mid",
        "blocks.*.hook_q_input",
        "blocks.1.hook_mlp_in",
        "ln_final.hook_scale",
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_scores_and_suggestions_under_edits_are_those_of_the_edited_run(name, dtype):
    model, _ = random_gpt2(n_ctx=24, dtype=dtype)

    def tilt(value, hook):  # no LayerNorm takes it away again
        return value + 0.25 * (hook.positions[-1] % 5) * (np.arange(value.shape[-1]) % 3 != 1)

    pairs = [(name, edits.scale(0.5)), (name, tilt)]
    texts = [[5, 9, 11, 2, 7, 7, 1], [3, 4], list(range(24)), ([5, 9, 11], [2, 7]), ([5, 9, 11], [8])]
    scores = model.score(texts, bos=False, top=4, edits=pairs)
    for text, score in zip(texts, scores, strict=True):
        context, ids = text if isinstance(text, tuple) else ([], text)
        whole, first = context + ids, max(1, len(context))
        logits, cache = model.run_with_cache(whole, "blocks.1.hook_resid_post", edits=pairs)
        rows = np.arange(first - 1, len(whole) - 1)
        exact = logits[rows].astype(np.float64)
        exact -= np.log(np.exp(exact - exact.max(1, keepdims=True)).sum(1, keepdims=True)) + exact.max(
            1, keepdims=True
        )
        targets = np.array(whole[first:])
        assert np.abs(score.logprobs - exact[np.arange(len(rows)), targets]).max() < 1e-6
        of_target = logits[rows, targets][:, None]
        assert score.ranks.tolist() == (logits[rows] > of_target).sum(1).tolist()
        order = np.argsort(-logits[rows], axis=1, kind="stable")[:, :4]
        assert same(score.top_ids, order.astype(np.int32))
        if not name.startswith("ln_final"):  # the engine goes on from the edited stream, without edits
            found = _engine.score(
                model.weights,
                [(model.new_cache(), np.array(whole, np.int32))],
                [(rows, targets.astype(np.int32))],
                start=(2, cache["resid_post", 1]),
            )
            assert same(score.logprobs, found[0]) and same(score.entropies, found[2])
        (alone,) = model.score([text], bos=False, top=4, edits=pairs)
        assert same(alone.logprobs, score.logprobs)
        [suggestion] = model.suggest(whole, 1, edits=pairs)
        assert suggestion.token_id == logits[-1].argmax()
        probability = np.exp(logits[-1].astype(np.float64) - logits[-1].max())
        assert suggestion.probability == pytest.approx((probability / probability.sum()).max(), rel=1e-12)
    assert not same(scores[0].logprobs, model.score(texts[0], bos=False).logprobs)


def test_scores_under_edits_of_windows_contexts_and_single_positions():
    model, _ = random_gpt2(n_ctx=8)
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 61, 21)]
    pairs = [("blocks.0.hook_resid_pre", edits.zero(positions=2))]
    score = model.score(ids, bos=False, stride=3, edits=pairs)
    expected = []
    for begin in range(0, 15, 3):  # each window is a text of its own, whose third position is edited
        window = ids[begin : begin + 8]
        logits, _ = model.run_with_cache(window, (), edits=pairs)
        exact = logits.astype(np.float64)
        exact -= np.log(np.exp(exact).sum(1, keepdims=True))
        scored = range(0 if begin == 0 else 5, min(8, len(ids) - 1 - begin))
        expected += [exact[at, ids[begin + at + 1]] for at in scored]
    assert np.abs(score.logprobs - expected).max() < 1e-6
    # The value of another run at all positions of the text, its last one included.
    text, other = ids[:6], ids[6:12]
    _, source = model.run_with_cache(other, "blocks.0.hook_resid_pre")
    patched = model.score(text, bos=False, edits=[("blocks.0.hook_resid_pre", edits.replace(source))])
    logits = model.run_with_cache(other)[0].astype(np.float64)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    assert np.abs(patched.logprobs - logits[np.arange(5), text[1:]]).max() < 1e-6
    with pytest.raises(TypeError, match="edits are pairs"):
        model.score(text, edits=["blocks.0.attn.hook_z"])
    with pytest.raises(ValueError, match="no_such_hook"):
        model.suggest(text, edits=[("no_such_hook", edits.zero())])


def test_a_head_that_sees_nothing_adds_nothing():
    model, _ = random_gpt2()

    def blind(value, hook):
        value[1, 3] = -np.inf

    _, cache = model.run_with_cache(list(range(20)), edits=[("blocks.0.attn.hook_attn_scores", blind)])
    assert (cache["pattern", 0][1, 3] == 0).all() and (cache["z", 0][3, 1] == 0).all()
    assert (cache["z", 0][3, 0] != 0).all() and (cache["z", 0][4, 1] != 0).all()


# ---- what does not fit ----


def test_errors_of_edits():
    model, _ = random_gpt2()

    def run(name, edit, ids=(1, 2, 3)):
        return model.run_with_cache(list(ids), edits=[(name, edit)])

    with pytest.raises(ValueError, match=r"returned an array \[3\]; needed: \[3, 24\], or None"):
        run("hook_embed", lambda value, hook: value[:, 0])
    with pytest.raises(TypeError, match=r"pairs of a name and a function.*not \('hook_embed', 0\)"):
        run("hook_embed", 0)
    with pytest.raises(TypeError, match="pairs of a name and a function"):
        model.run_with_cache([1], edits=["hook_embed"])
    with pytest.raises(ValueError, match=r"this model has no value called 'blocks.7"):
        run("blocks.7.hook_resid_pre", edits.zero())
    with pytest.raises(ValueError, match=r"heads of blocks.0.attn.hook_z must be from 0 to 1, not 2"):
        run("blocks.0.attn.hook_z", edits.zero(heads=2))
    with pytest.raises(ValueError, match=r"units of hook_embed must be from 0 to 23, not 24"):
        run("hook_embed", edits.zero(units=24))
    with pytest.raises(ValueError, match=r"positions of hook_embed must be at least 0, not -1"):
        model.generate([1, 2], max_new_tokens=2, edits=[("hook_embed", edits.zero(positions=-1))])
    with pytest.raises(ValueError, match="positions of hook_embed must be from 0 to 2, not 3"):
        run("hook_embed", edits.zero(positions=[0, 3]))
    with pytest.raises(TypeError, match=r"edits.zero makes an edit: call it, edits.zero\(...\)"):
        run("hook_embed", edits.zero)
    with pytest.raises(ValueError, match=r"slice\(-2, None, None\); allowed: ends of at least 0"):
        run("hook_embed", edits.zero(positions=slice(-2, None)))
    with pytest.raises(ValueError, match=r"an array \[5\] cannot be added to \[3, 24\] of hook_embed"):
        run("hook_embed", edits.add(np.ones(5)))
    with pytest.raises(ValueError, match="has positions 0 to 1, not 2"):
        run("hook_embed", edits.replace(np.zeros((2, 24))))
    for shape in ((3,), (3, 10), (3, 30)):
        with pytest.raises(ValueError, match=r"replace needs .* \[positions, 24\] for hook_embed, not \[3"):
            run("hook_embed", edits.replace(np.zeros(shape)))
    with pytest.raises(ValueError, match=r"needs .* \[2, positions, 3\] for blocks.0.attn.hook_pattern"):
        run("blocks.0.attn.hook_pattern", edits.replace(np.zeros((2, 2, 2))))
    for wrong in (0.5, [0.5], "1", [True, False], np.array([True, False]), 1.7, True):
        with pytest.raises(TypeError, match="heads"):
            run("blocks.0.attn.hook_z", edits.zero(heads=wrong))
    assert model.run_with_cache([1], edits=[("*.hook_z", edits.zero(heads=np.array([1])))])
    with pytest.raises(ValueError, match="this model has no value called"):
        model.generate([1], edits=[("nonsense", edits.zero())])


def test_an_edit_that_fails_leaves_everything_usable():
    model, _ = random_gpt2()
    before = model.forward([1, 2, 3])

    def fail(value, hook):
        if hook.positions.start == 5:
            raise RuntimeError("enough")

    stream = model.stream([1, 2, 3], max_new_tokens=10, edits=[("*.hook_z", fail)])
    with pytest.raises(RuntimeError, match="enough"):
        for _ in stream:
            pass
    assert len(stream.result.token_ids) == 3 and stream.result.finish_reason == "cancelled"
    assert same(model.forward([1, 2, 3]), before)


# ---- patching ----

PATCHES = [
    ("resid_pre", [0, 1], range(9)),
    ("resid_mid", [1], [0, 4, 8]),
    ("resid_post", [0, 1], [3]),
    ("attn_out", [0, 1]),
    ("mlp_out", [0], "all"),
    ("z", [0, 1], "all", [0, 1]),
    ("q", [0], [2, 7], [1]),
    ("k", [1], [2], "all"),
    ("v", [0, 1], range(9), [0, 1]),
    ("pattern", [1], "all", [1, 0]),
    ("attn_scores", [0], [5, 6]),
    ("mlp.post", [1], [8, 0]),
    ("ln1.normalized", [1], [1]),
    ("result", [0], [3], [1]),
    ("attn_in", [0, 1], [3, 8], "all"),
    ("q_input", [0, 1], range(9), [0, 1]),
    ("k_input", [1], "all", [0]),
    ("v_input", [0], [2], [1, 0]),
    ("mlp_in", [0, 1], [4, 0]),
]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("keep", [1, 4, 0])
@pytest.mark.parametrize("over", PATCHES, ids=lambda over: over[0])
def test_a_patch_is_a_whole_run(over, keep, dtype, monkeypatch):
    monkeypatch.setattr("gpt2c.core.batching.ROWS_PER_CALL", 20)  # several calls
    model, _ = random_gpt2(dtype=dtype)
    clean, corrupted = [3, 1, 4, 1, 5, 9, 2, 6, 5], [3, 1, 4, 7, 5, 9, 8, 6, 5]
    name, layers, positions, heads = (*over, "all", "all")[:4]
    seen = []

    def metric(logits):
        seen.append(logits.copy())
        return logits[-1, 7] - logits[-1, 8]

    found = model.patch(clean, corrupted, over, metric, logits_to_keep=keep).values
    places = [full_name(model.config, name, layer) for layer in layers]
    _, source = model.run_with_cache(clean, places)
    expected = []
    for place in places:
        for position in [None] if positions == "all" else positions:
            for head in [None] if heads == "all" else heads:
                edit = edits.replace(source, positions=position, heads=head)
                expected.append(
                    model.run_with_cache(corrupted, (), edits=[(place, edit)], logits_to_keep=keep)[0]
                )
    if name == "result":  # NumPy's own sums over more or fewer rows
        assert np.abs(np.stack(seen) - np.stack(expected)).max() <= 1e-5
    else:
        assert all(same(a, b) for a, b in zip(seen, expected, strict=True))
    shape = [len(layers), *(len(several) for several in (positions, heads) if several != "all")]
    assert found.shape == tuple(shape) and found.dtype == np.float64
    assert np.array_equal(found.ravel(), [logits[-1, 7] - logits[-1, 8] for logits in seen])


@pytest.mark.parametrize("over", [("v", [-1, 0], [3, 140, 279]), ("pattern", [1], [130], [0, 1])])
def test_patches_of_long_texts(over):
    """Several blocks of keys, which are kept in float16."""
    model, _ = random_gpt2(n_ctx=280)
    model.cache_dtype = "float16"
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(61, size=(2, 280))
    name, layers, positions, *heads = over
    seen = []
    model.patch(clean, corrupted, over, lambda logits: seen.append(logits.copy()) or 0.0, logits_to_keep=0)
    _, source = model.run_with_cache(clean)
    expected = []
    for layer in layers:
        for position in positions:
            for head in heads[0] if heads else [None]:
                edit = edits.replace(source, positions=position, heads=head)
                place = full_name(model.config, name, layer)
                expected.append(model.run_with_cache(corrupted, (), edits=[(place, edit)])[0])
    assert all(same(a, b) for a, b in zip(seen, expected, strict=True))


def test_a_patch_of_everything_is_the_clean_run(monkeypatch):
    monkeypatch.setattr("gpt2c.introspection.patching.CACHE_BYTES", 1)  # one patch after the other
    model, _ = random_gpt2()
    clean, corrupted = list(range(8)), list(range(8, 16))
    found = model.patch(clean, corrupted, ("resid_pre", [0, 1]), lambda logits: logits[0, 5])
    assert np.array_equal(found, np.full(2, model.forward(clean)[-1, 5]))
    found = model.patch(clean, corrupted, ("resid_pre", [1], range(8)), lambda logits: logits[0, 5]).values
    assert len(set(found.ravel())) == 8


def test_patching_names_its_axes():
    model, _ = random_gpt2()
    clean, corrupted = [3, 1, 4, 1], [3, 1, 7, 1]

    def run(*over):
        answers = iter(range(100))
        return model.patch(clean, corrupted, over, lambda logits: next(answers))

    found = run("resid_pre", [-1, 0], range(1, 4))
    assert (found.name, found.layers, found.positions, found.heads) == ("resid_pre", [1, 0], [1, 2, 3], None)
    assert found.token_ids.tolist() == corrupted and found.tokens == [""] * 4
    assert np.asarray(found).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.array(found, np.float32).dtype == np.float32 and np.ptp(found) == 5
    assert str(found).splitlines() == [
        "resid_pre",
        "          1 token 1     2 token 7     3 token 1",
        "  layer 1 0.000         1.000         2.000",
        "  layer 0 3.000         4.000         5.000",
    ]
    heads = run("z", [0], "all", [-1])
    assert str(heads).splitlines() == ["z", "          head 1", "  layer 0 0.000"]
    both = run("z", [0], [2], [0, 1])
    assert str(both).splitlines()[0] == "z at 2 token 7" and both.to_dict()["values"] == [[[0, 1]]]
    assert str(run("attn_out", [1])).splitlines() == ["attn_out", "          all", "  layer 1 0.000"]


def test_errors_of_patching():
    model, _ = random_gpt2()

    def patch(over, clean=(1, 2, 3), corrupted=(1, 5, 3), metric=np.mean):
        return model.patch(list(clean), list(corrupted), over, metric)

    with pytest.raises(
        ValueError, match="clean text has 3 tokens and the corrupted one 2; both must have the same"
    ):
        patch(("z", [0]), corrupted=(1, 2))
    with pytest.raises(TypeError, match="over must be a tuple"):
        patch("z")
    with pytest.raises(TypeError, match="over must be a tuple"):
        patch(("z",))
    with pytest.raises(TypeError, match="layers must be a list or range of integers, not 'all'"):
        patch(("z", "all"))
    with pytest.raises(TypeError, match=r"positions must be a list or range .*, or 'all' .*, not 3"):
        patch(("z", [0], 3))
    with pytest.raises(ValueError, match="one of the positions must be from 0 to 2, not 3"):
        patch(("z", [0], [3]))
    with pytest.raises(ValueError, match="resid_pre has no heads: leave them out"):
        patch(("resid_pre", [0], [1], [1]))
    with pytest.raises(ValueError, match="there are no heads to patch"):
        patch(("z", [0], [1], []))
    with pytest.raises(ValueError, match="one of the layers must be from -2 to 1"):
        patch(("z", [2]))
    with pytest.raises(KeyError, match="no value 'zz' in a layer"):
        patch(("zz", [0]))
    for answer in (np.zeros(3), "3", None):
        with pytest.raises(TypeError, match="metric must return one number, not"):
            patch(("z", [0]), metric=lambda logits, answer=answer: answer)
    with pytest.raises(TypeError, match="metric must be a function"):
        patch(("z", [0]), metric=3)
