"""gpt2c against TransformerLens: recorded answers (golden/), and a live comparison with ``pytest -m oracle``.

Every name, every kind of intervention on each of them, activation and path patching, the logit lens,
attributions and scores of heads: all within 1e-4.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from data.golden import recipe
from data.golden.interventions import arguments, interventions, other_ids, paths
from helpers import strategies, tolerance
from helpers.toys import gpt2
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_golden import hf_values

from gpt2c import edits
from gpt2c.introspection.hooks import hook_names

BOUND = 1e-4
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")  # those that TransformerLens has


def close(mine, theirs):
    """Equal to 1e-4, infinities in the same places."""
    assert mine.shape == theirs.shape
    finite = np.isfinite(theirs)
    assert np.array_equal(mine[~finite], theirs[~finite])
    assert np.abs(mine[finite] - theirs[finite]).max(initial=0) <= BOUND


# `run` below is a model, a text, what it computes, and the arrays of make_transformer_lens.record.


def looked(config, weights, ids, key, arrays):
    model = gpt2((config, weights, ids))
    ids = np.asarray(ids, np.int32)
    logits, cache = model.run_with_cache(ids, ("*", "*_in", "*_input", "*result"))
    return SimpleNamespace(model=model, ids=ids, key=key, logits=logits, cache=cache, theirs=arrays)


def compare_names(run):
    assert list(run.cache) == hook_names(run.model.config)
    assert {f"cache/{name}" for name in run.cache} == {n for n in run.theirs if n.startswith("cache/")}
    for name, value in run.cache.items():
        close(value, run.theirs[f"cache/{name}"])


def compare_edits(run):
    config = run.model.config
    _, other = run.model.run_with_cache(
        other_ids(run.key, run.ids, config.n_vocab), ("*", "*_in", "*_input", "*result")
    )

    def edit(one):
        where = arguments(one)
        if one.kind == "zero":
            return edits.zero(**where)
        if one.kind == "mean":
            return edits.mean(run.cache, other, **where)
        if one.kind == "scale":
            return edits.scale(one.factor, **where)
        if one.kind == "add":
            size = run.cache[one.name].shape[-1]
            vector = one.vector(size)
            return edits.add(vector if one.units is None else vector[one.units], **where)
        if one.kind == "replace":
            return edits.replace(other, **where)
        return lambda value, hook: np.where(one.mask(value.shape), np.tanh(value), value)

    wanted = interventions(config, len(run.ids))
    assert len(wanted) == len(run.theirs["edited"])
    moved = 0
    for (key, changes), theirs in zip(wanted.items(), run.theirs["edited"], strict=True):
        pairs = [(one.name, edit(one)) for one in changes]
        names = [one.name for one in changes]
        logits, cache = run.model.run_with_cache(run.ids, names, edits=pairs)
        try:
            close(logits, theirs)
            if key.startswith("several"):
                for name in names:
                    close(cache[name], run.theirs[f"several/{name}"])
        except AssertionError as error:
            raise AssertionError(f"{key} {changes}: {error}") from None
        moved += np.abs(logits - run.logits).max() > BOUND
    return moved / len(wanted)


def compare_lens(run):
    exact = run.theirs["lens"]  # [n_layer + 1, T, n_vocab]
    k, n_vocab = min(3, exact.shape[2]), exact.shape[2]
    lens = run.cache.logit_lens(k)
    close(lens.logprobs, np.take_along_axis(exact, lens.token_ids[None, :, None].astype(int), 2)[..., 0])
    close(lens.top_logprobs, -np.sort(-exact, axis=2)[..., :k])
    close(lens.top_logprobs, np.take_along_axis(exact, lens.top_ids.astype(int), 2))
    close(lens.entropies, -(np.exp(exact) * exact).sum(axis=2))
    for token in range(min(n_vocab, 5)):
        mine, theirs = run.cache.logit_lens(1, token), exact[..., token : token + 1]
        close(mine.logprobs, theirs[..., 0])
        assert (mine.ranks >= (exact > theirs + 2 * BOUND).sum(axis=2)).all()
        assert (mine.ranks <= (exact >= theirs - 2 * BOUND).sum(axis=2) - 1).all()


def compare_attributions(run):
    first, second = run.theirs["tokens"].tolist()
    config, T = run.model.config, len(run.ids)
    for i, pair in enumerate([(first,), (second,), (first, second)]):
        for position in range(T):
            found = run.cache.attribution(*pair, position=position)
            parts = dict(found.components)
            assert abs(parts.pop("rest")) <= BOUND
            close(np.array(parts.pop("bias")), run.theirs["bias"][i])
            close(np.array(list(parts.values())), run.theirs["components"][i, :, position])
            close(found.heads.reshape(-1), run.theirs["heads"][i, :, position])
            assert run.theirs["attn_bias"].shape == (3, config.n_layer, T)
            close(found.attn_bias, run.theirs["attn_bias"][i, :, position])


def compare_head_scores(run):
    """Theirs are means over all positions, ours over those that have such a key."""
    scores, T, ids = run.cache.head_scores(), len(run.ids), run.ids.tolist()
    n_again = sum(token in ids[:t] for t, token in enumerate(ids))
    for kind, n in (("previous_token", T - 1), ("duplicate_token", n_again), ("induction", n_again)):
        mine = np.nan_to_num(getattr(scores, kind)) * (n / T)
        close(mine, run.theirs[f"scores/{kind}"])


def compare_patches(run):
    (first, second), config, T = run.theirs["tokens"].tolist(), run.model.config, len(run.ids)
    clean = other_ids(run.key, run.ids, config.n_vocab)
    layers, positions, heads = range(config.n_layer), range(T), range(config.n_head)
    by_name = {name.removeprefix("patched/"): v for name, v in run.theirs.items() if "patched/" in name}
    assert len(by_name) == 15
    for name, theirs in by_name.items():
        if name in ("resid_pre", "resid_mid", "attn_out", "mlp_in", "mlp_out"):
            over = (name, layers, positions)
        elif name == "z by position":
            over = ("z", layers, positions, heads)
        else:
            over = (name, layers, "all", heads)
        mine = run.model.patch(clean, run.ids, over, lambda logits: logits[-1, first] - logits[-1, second])
        close(mine.values, theirs)


def compare_paths(run):
    """What Wang et al. (2022) do in two runs is, for a direct path, one addition to what its end reads."""
    ways = paths(run.model.config)
    assert len(ways) == len(run.theirs.get("paths", ()))
    if not ways:
        return
    _, clean = run.model.run_with_cache(other_ids(run.key, run.ids, run.model.config.n_vocab), "result")
    for way, theirs in zip(ways, run.theirs["paths"], strict=True):
        (layer, head), (to, receiver) = way.sender, way.receiver
        change = clean["result", layer][:, head] - run.cache["result", layer][:, head]
        edit = edits.add(change[:, None], heads=receiver)
        name = f"blocks.{to}.hook_{way.part}_input"
        close(run.model.run_with_cache(run.ids, (), edits=[(name, edit)])[0], theirs)


# -------------------------------------------------------------------------------- recorded


@pytest.fixture(scope="module", params=recipe.LENS_CASES, ids=lambda case: case.name)
def recorded(request):
    case = request.param
    with np.load(recipe.FOLDER / "transformer_lens.npz") as arrays:
        prefix = f"{case.name}/"
        theirs = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    weights, ids = case.weights(), case.ids()
    assert recipe.checksum(weights, ids) == str(theirs["sha256"])
    return looked(case.config, weights, ids, case.name, theirs)


def test_every_name(recorded):
    compare_names(recorded)


def test_interventions(recorded):
    assert compare_edits(recorded) > 0.9  # and nearly all of them changed something


def test_logit_lens(recorded):
    compare_lens(recorded)


def test_attributions(recorded):
    compare_attributions(recorded)


def test_head_scores(recorded):
    compare_head_scores(recorded)


def test_patches(recorded):
    compare_patches(recorded)


def test_paths(recorded):
    compare_paths(recorded)
    assert np.abs(recorded.theirs["paths"] - recorded.logits).max(axis=(1, 2)).min() > 10 * BOUND


# -------------------------------------------------------------------------------- live


@pytest.fixture(scope="module")
def oracle():
    """make_transformer_lens with torch behind it, on one thread and without gradients."""
    torch = pytest.importorskip("torch")
    transformer_lens = pytest.importorskip("transformer_lens")
    if "HookedTransformer" not in vars(transformer_lens):
        pytest.skip("this TransformerLens has no HookedTransformer: 3.2.1 has one")
    from data.golden import make_transformer_lens

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield make_transformer_lens
    torch.set_num_threads(threads)


@pytest.mark.oracle
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(model=strategies.models(max_ctx=20, multi_query=False), activation=st.sampled_from(ACTIVATIONS))
def test_live_random_models(oracle, model, activation):
    config, weights, ids = model
    config = replace(config, activation=activation, reorder_and_upcast_attn=False)
    assume(1 < len(ids) < config.n_ctx)  # detect_head wants it so
    assume(config.n_vocab != config.n_embd)  # TransformerLens 3.2.1 folds the last norm into the wrong axis
    assume(tolerance.model_bound(config, weights, ids) < BOUND / 4)  # what float32 computes is worth 1e-4
    run = looked(config, weights, ids, "live", oracle.record(hf_values(config), weights, ids, "live"))
    compare_names(run)
    compare_edits(run)
    compare_lens(run)
    compare_attributions(run)
    compare_head_scores(run)
    compare_patches(run)
    compare_paths(run)


@pytest.mark.oracle
@pytest.mark.parametrize("case", recipe.LENS_CASES, ids=lambda case: case.name)
def test_live_golden_models(oracle, case):
    """The recorded answers are what the TransformerLens of today says."""
    today = oracle.record(case.values, case.weights(), case.ids(), case.name)
    with np.load(recipe.FOLDER / "transformer_lens.npz") as arrays:
        for name, value in today.items():
            recorded = arrays[f"{case.name}/{name}"]
            finite = np.isfinite(recorded)
            assert np.array_equal(value[~finite], recorded[~finite]), name
            assert np.abs(value[finite] - recorded[finite]).max(initial=0) <= 1e-5, name
