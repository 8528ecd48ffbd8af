"""Looking inside a BERT: captures are what is computed, looking changes no bit, edits take effect."""

import functools
import html
import io
import json
import re

import numpy as np
import pytest
from data.bert import faces
from data.bert import models as recorded
from helpers import berts as berts_of_tests
from helpers import tolerance
from helpers.kernelwise import bert_by_kernels
from helpers.strategies import berts, random_model, seeds
from helpers.tiny_checkpoints import safetensors_bytes
from helpers.toys import random_gpt2, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2c import edits, reference_bert
from gpt2c.checkpoint import open_checkpoint
from gpt2c.config import Config
from gpt2c.core import _engine
from gpt2c.core.lm import LoadedModel
from gpt2c.errors import ConfigError, ContextLengthError
from gpt2c.introspection.hooks import TABLES, full_name, hook_names, matching
from gpt2c.introspection.passes import run_with_cache
from gpt2c.introspection.patching import patch
from gpt2c.views.terminal import Screen, print_head_scores, print_lens, print_pattern

ISAS = _engine.isas()
EVERYTHING = ("*", "*_in", "*_input", "*result")
U = tolerance.U
CONFIG = Config(n_layer=3, n_head=4, n_embd=36, n_inner=50, n_ctx=300, n_vocab=61, activation="gelu",
                model_type="bert", n_types=2, masked_head=True, layer_norm_epsilon=1e-12)  # fmt: skip
TENSORS = random_model(CONFIG, np.random.default_rng(0), 0.3)


def loaded(model, *, threads=1, **how):
    config, tensors, *_ = model
    return LoadedModel(_engine.Weights(config, tensors.__getitem__, **how), threads=threads)


def bert(dtype="float32", **changes):
    config = CONFIG if not changes else Config(**(vars(CONFIG) | changes | {"report": ()}))
    tensors = TENSORS if not changes else random_model(config, np.random.default_rng(0), 0.3)
    return loaded((config, tensors), dtype=dtype)


def ids_of(n, seed=0):
    return np.random.default_rng(seed).integers(CONFIG.n_vocab, size=n).astype(np.int32)


def plain(model, ids, types=None):
    """Logits of a call that nobody looks at."""
    return _engine.forward(model.weights, [(model.new_cache(), ids, types)])


# ---- captures ----


@given(berts(), st.sampled_from(_engine.DTYPES), st.sampled_from(ISAS), st.integers(1, 3))
@settings(max_examples=60)
def test_captures_are_what_the_kernels_compute(model, dtype, isa, threads):
    config, tensors, ids, types = model
    looked = loaded(model, dtype=dtype, isa=isa, threads=threads)
    logits, cache = run_with_cache(looked, ids, EVERYTHING, types=types)
    assert same(logits, plain(looked, ids, types)), "looking changes no number"
    assert list(cache) == hook_names(config) and not cache.causal
    seen = {}
    found = bert_by_kernels(config, tensors, ids, types, dtype, isa, seen)
    if config.masked_head:
        assert same(logits, found)
    for name, value in seen.items():
        assert same(cache[name], value), name
    assert len(seen) == 3 + bool(config.n_types) + 13 * config.n_layer


@given(berts(masked_head=True), st.integers(1, 3))
@settings(max_examples=60)
def test_captures_are_those_of_the_reference(model, threads):
    config, tensors, ids, types = model
    seen = {}

    def look(name, value):
        assert name not in seen
        seen[name] = value
        return value

    exact = reference_bert.forward(config, tensors, ids, types, look)
    looked = loaded(model, threads=threads)
    logits, cache = run_with_cache(looked, ids, EVERYTHING, types=types)
    forward = functools.partial(reference_bert.forward, types=types)
    tolerance.check_logits(logits, exact, tolerance.model_bound(config, tensors, ids, forward=forward))
    assert cache.keys() == seen.keys()

    def captured(config, tensors, ids):
        """All values in a row, as if they were logits."""
        found = {}
        reference_bert.forward(config, tensors, ids, types, lambda name, x: found.setdefault(name, x))
        return np.concatenate([np.ravel(found[name]) / size for name, size in sizes.items()])

    sizes = {name: max(1.0, float(np.abs(value).max())) for name, value in seen.items()}
    bound = tolerance.model_bound(config, tensors, ids, forward=captured)
    for name, value in cache.items():
        assert value.shape == seen[name].shape, name
        assert np.abs(value - seen[name]).max() <= bound * sizes[name], name


@pytest.mark.parametrize("dtype", _engine.DTYPES)
@pytest.mark.parametrize("cache_dtype", _engine.CACHE_DTYPES)
def test_long_texts_and_several(dtype, cache_dtype):
    model = bert(dtype, n_ctx=700)
    model.cache_dtype = cache_dtype
    texts = [ids_of(n, n) for n in (600, 1, 129, 700, 9)]
    types = [None, None, ids_of(129) % 2, None, np.ones(9, np.int32)]
    names = ["*.hook_pattern", "*.hook_z", "*resid*", "ln*"]
    logits, caches = run_with_cache(model, texts, names, types=types)
    for ids, kinds, row, cache in zip(texts, types, logits, caches, strict=True):
        sequence = (_engine.KVCache(model.weights, None, cache_dtype), ids, kinds)
        assert same(row, _engine.forward(model.weights, [sequence]))
        alone_logits, alone = run_with_cache(model, ids, names, types=kinds)
        assert same(row, alone_logits) and list(alone) == list(cache)
        for name in cache:
            assert same(cache[name], alone[name]), name


@given(berts(), seeds)
@settings(max_examples=30)
def test_any_choice_of_names_gives_the_same(model, seed):
    config, _, ids, types = model
    looked = loaded(model, dtype=_engine.DTYPES[seed % 4], threads=1 + seed % 2)
    logits, everything = run_with_cache(looked, ids, EVERYTHING, types=types)
    for name in np.random.default_rng(seed).choice(hook_names(config), size=4).tolist():
        others, cache = run_with_cache(looked, ids, name, types=types)
        assert same(logits, others) and list(cache) == [name]
        assert same(cache[name], everything[name]), name


@given(berts(), st.sampled_from(["float32", "int8", "int4"]))
@settings(max_examples=20)
def test_every_isa_captures_the_same_bytes(model, dtype):
    half = [("*.hook_pattern", edits.scale(0.5, heads=0)), ("*resid_mid", edits.scale(1.5))]
    seen = set()
    for isa in ISAS:
        looked = loaded(model, dtype=dtype, isa=isa)
        logits, cache = run_with_cache(looked, model[2], edits=half, types=model[3])
        seen.add(b"".join([logits.tobytes(), *(value.tobytes() for value in cache.values())]))
    assert len(seen) == 1


def test_blas_can_be_looked_at_too():
    blas, native = loaded((CONFIG, TENSORS), backend="blas"), bert()
    ids = ids_of(30)
    logits, cache = run_with_cache(blas, ids, EVERYTHING, edits=[("*.hook_mlp_in", lambda x, hook: x)])
    assert np.abs(logits - plain(blas, ids)).max() <= 1e-4
    for name, value in run_with_cache(native, ids, EVERYTHING)[1].items():
        assert np.abs(cache[name] - value).max() <= 1e-4 * max(1, np.abs(value).max()), name


def test_how_many_rows_of_logits():
    model, ids = bert("int8"), ids_of(12)
    whole, everything = run_with_cache(model, ids)
    for keep in (1, 5, 12, 20):
        logits, cache = run_with_cache(model, ids, logits_to_keep=keep)
        assert same(logits, whole[-keep:]) and same(cache.logits, logits)
        for name, value in cache.items():
            rows = everything[name][-keep:] if name.startswith("ln_final") else everything[name]
            assert same(value, rows), name


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_a_pass_can_begin_at_any_layer(dtype):
    model, ids = bert(dtype), ids_of(20)
    logits, cache = run_with_cache(model, ids, types=ids % 2)
    streams = [cache["resid_pre", layer] for layer in range(3)] + [cache["normalized_resid_post", 2]]
    for layer, stream in enumerate(streams):
        found = _engine.forward(model.weights, [(model.new_cache(), ids)], start=(layer, stream))
        assert same(found, logits)
    for layer in range(3):
        assert same(cache["resid_mid", layer], cache["resid_pre", layer] + cache["attn_out", layer])
        middle = cache["normalized_resid_mid", layer]
        assert same(cache["resid_post", layer], middle + cache["mlp_out", layer])
        assert same(streams[layer + 1], cache["normalized_resid_post", layer])
    assert same(cache["full_embed"], streams[0])


# ---- as transformers ----


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def of_transformers(folder, name):
    """A recorded model, read from files as transformers writes them."""
    folder = folder / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(recorded.values(name)))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(recorded.tensors(name)))
    checkpoint = open_checkpoint(folder)
    return LoadedModel(_engine.Weights(checkpoint.config, checkpoint.read), threads=1)


def text_of(name):
    ids, types = recorded.text(name)
    return ids.astype(np.int32), None if types is None else types.astype(np.int32)


@pytest.mark.parametrize("name", recorded.CASES)
def test_captures_are_those_of_transformers(name, folders):
    """Recorded in float64 by data/bert/make_bert.py."""
    answers = np.load(recorded.FOLDER / "bert.npz")
    model, (ids, types) = of_transformers(folders, name), text_of(name)
    logits, cache = run_with_cache(model, ids, types=types)
    last = model.config.n_layer - 1
    assert np.abs(cache["normalized_resid_post", last] - answers[f"{name}/hidden"]).max() <= 1e-4
    if model.config.masked_head:
        assert np.abs(logits - answers[f"{name}/logits"]).max() <= 1e-4
        for layer, pattern in enumerate(answers[f"{name}/patterns"]):
            assert np.abs(cache["pattern", layer] - pattern).max() <= 1e-5


def of_lens(name):
    """Our name of what TransformerLens calls so."""
    for theirs, ours in (("embed.ln.", "ln_embed."), ("mlm_head.ln.", "ln_final."), ("embed.", "")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


@pytest.mark.parametrize("name", recorded.LENS)
def test_captures_and_edits_are_those_of_transformer_lens(name, folders):
    """Recorded by data/bert/make_lens.py."""
    told = np.load(recorded.FOLDER / "lens.npz")
    model, (ids, types) = of_transformers(folders, name), text_of(name)
    _, cache = run_with_cache(model, ids, EVERYTHING, types=types)
    theirs = {key.rpartition("/")[2] for key in told if key.startswith(f"{name}/cache/")}
    assert {of_lens(key) for key in theirs} == {
        key for key in cache if not key.endswith(("attn_in", "mlp_in", "normalized_resid_mid"))
    }
    for key in theirs:
        expected = told[f"{name}/cache/{key}"]
        assert np.abs(cache[of_lens(key)] - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), key
    plain_logits = plain(model, ids, types)
    for key in recorded.EDITED:
        change = [(of_lens(key), edits.scale(0.5, units=0))]
        logits, _ = run_with_cache(model, ids, [], change, types=types)
        assert np.abs(logits - told[f"{name}/edited/{key}"]).max() <= 1e-4, key
        assert np.abs(logits - plain_logits).max() > 1e-3, key


@pytest.mark.oracle
@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.builds("{}-ForMaskedLM-{}".format, st.sampled_from(recorded.KINDS), st.integers(2, 10**6)))
def test_live_captures_of_random_models(folders, name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.bert import make_bert

    theirs = make_bert.model_of(recorded.values(name), recorded.tensors(name))
    (ids, types), model = recorded.text(name), of_transformers(folders, name)
    given = {} if types is None else {"token_type_ids": torch.tensor(types[None])}
    with torch.no_grad():
        found = theirs(torch.tensor(ids[None]), **given, output_hidden_states=True, output_attentions=True)
    ids, types = text_of(name)
    logits, cache = run_with_cache(model, ids, types=types)
    assert np.abs(logits - found.logits[0].numpy()).max() <= 1e-4
    ours = [cache["full_embed"], *(cache["normalized_resid_post", i] for i in range(model.config.n_layer))]
    for one, other in zip(ours, found.hidden_states, strict=True):
        assert np.abs(one - other[0].numpy()).max() <= 1e-4
    for layer, pattern in enumerate(found.attentions):
        assert np.abs(cache["pattern", layer] - pattern[0].numpy()).max() <= 1e-5


# ---- names ----


def test_names():
    names = hook_names(CONFIG)
    assert len(names) == len(set(names)) == 6 + 25 * 3 + 2
    assert names[:3] == ["hook_embed", "hook_token_type_embed", "hook_pos_embed"]
    assert names[3:5] == ["ln_embed.hook_scale", "ln_embed.hook_normalized"]
    assert names[5:7] == ["hook_full_embed", "blocks.0.hook_resid_pre"]
    assert matching(CONFIG, None) == [
        name for name in names if not name.endswith(("result", "_in", "_input"))
    ]
    assert full_name(CONFIG, "normalized_resid_post", -1) == "blocks.2.hook_normalized_resid_post"
    assert full_name(CONFIG, "token_type_embed") == "hook_token_type_embed"
    assert full_name(CONFIG, "ln_embed.scale") == "ln_embed.hook_scale"
    assert matching(CONFIG, ["mlp_in", "full_embed"]) == [
        "hook_full_embed",
        *(f"blocks.{layer}.hook_mlp_in" for layer in range(3)),
    ]
    without = Config(**(vars(CONFIG) | {"n_types": 0, "masked_head": False}))
    absent = {"hook_token_type_embed", "ln_final.hook_scale", "ln_final.hook_normalized"}
    assert hook_names(without) == [name for name in names if name not in absent]
    gpt2 = random_gpt2()[0].config
    assert {*hook_names(gpt2)} < {*names}


def test_places_have_one_order():
    order = [place for place in _engine.PLACES if place in TABLES["bert"].places]
    norms = ("ln1", "ln2")  # which follow sums
    assert [place for place in TABLES["bert"].places if place not in norms] == [
        place for place in order if place not in norms
    ]


@pytest.mark.parametrize(
    "wrong", ["hook_tokens", "blocks.3.*", "ln_emb.scale", ("normalized_resid_pre", 0), ("pattern", 3)]
)
def test_names_that_a_bert_does_not_have(wrong):
    with pytest.raises(ValueError):
        run_with_cache(bert(), [1], wrong)


def test_names_that_only_a_bert_has():
    gpt2 = random_gpt2()[0]
    for name in ("hook_token_type_embed", "normalized_resid_mid", "hook_full_embed", "ln_embed*"):
        with pytest.raises(ValueError, match="this model has no value called"):
            gpt2.run_with_cache([1], name)
    with pytest.raises(ValueError, match="this model has no value called 'hook_token_type_embed'"):
        run_with_cache(bert(n_types=0), [1], "hook_token_type_embed")
    with pytest.raises(ValueError, match=r"this model has no value called 'ln_final\.\*'"):
        run_with_cache(bert(masked_head=False), [1], "ln_final.*")


# ---- edits ----


@given(berts(masked_head=True), seeds)
@settings(max_examples=60)
def test_edits_at_any_place_are_those_of_the_reference(model, seed):
    config, tensors, ids, types = model
    rng = np.random.default_rng(seed)
    name = str(rng.choice(hook_names(config)))
    row = rng.integers(len(ids))

    def changed(value):
        at = (slice(None), row) if name.endswith(("scores", "pattern")) else row
        value = np.array(value)
        value[at] = 0.75 * value[at] + 0.125
        return value

    def look(at, value):
        return changed(value) if at == name else value

    forward = functools.partial(reference_bert.forward, types=types, look=look)
    change = [(name, lambda value, hook: changed(value))]
    _, before = run_with_cache(loaded(model), ids, name, types=types)
    logits, after = run_with_cache(loaded(model), ids, name, change, types=types)
    assert same(after[name], changed(before[name]))
    bound = tolerance.model_bound(config, tensors, ids, forward=forward)
    tolerance.check_logits(logits, forward(config, tensors, ids), bound)


@pytest.mark.parametrize("dtype", _engine.DTYPES)
@pytest.mark.parametrize(
    "name", ["hook_full_embed", "resid_pre", "normalized_resid_mid", "resid_mid", "normalized_resid_post"]
)
def test_the_stream_of_another_text_gives_its_logits(dtype, name):
    """From there on nothing is left of the text that was there."""
    model, one, other = bert(dtype), ids_of(130, 1), ids_of(130, 2)
    for layer in range(3):
        logits, cache = run_with_cache(model, other, types=one % 2)
        place = full_name(CONFIG, name, None if name == "hook_full_embed" else layer)
        found, edited = run_with_cache(model, one, edits=[(place, edits.replace(cache))])
        assert same(found, logits)
        for later in hook_names(CONFIG)[hook_names(CONFIG).index(place) :]:
            if later in cache:
                assert same(edited[later], cache[later]), later
        assert not same(edited["embed"], cache["embed"])


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_an_edit_that_changes_nothing_changes_nothing(dtype):
    model, ids = bert(dtype), ids_of(40)
    everywhere = [(name, lambda value, hook: value.copy()) for name in EVERYTHING]
    logits, cache = run_with_cache(model, ids, EVERYTHING, everywhere)
    assert same(logits, plain(model, ids))
    for name, value in run_with_cache(model, ids, EVERYTHING)[1].items():
        assert same(cache[name], value), name


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_what_a_part_alone_reads(dtype):
    """The stream itself is as it was, and what a part makes of another is what it makes of that stream."""
    model, one, other = bert(dtype), ids_of(33, 1), ids_of(33, 2)
    _, seen = run_with_cache(model, one)
    _, source = run_with_cache(model, other, EVERYTHING)
    _, changed = run_with_cache(model, one, edits=[("blocks.1.hook_mlp_in", edits.replace(source))])
    for name in ("mlp.pre", "mlp.post", "mlp_out"):
        assert same(changed[name, 1], source[name, 1])
    assert same(changed["normalized_resid_mid", 1], seen["normalized_resid_mid", 1])
    assert same(changed["resid_post", 1], seen["normalized_resid_mid", 1] + source["mlp_out", 1])

    change = [("blocks.1.hook_q_input", edits.replace(source, heads=2))]
    _, changed = run_with_cache(model, one, edits=change)
    assert same(changed["q", 1][:, 2], source["q", 1][:, 2])
    for head in (0, 1, 3):
        assert same(changed["q", 1][:, head], seen["q", 1][:, head])
    assert same(changed["k", 1], seen["k", 1]) and same(changed["resid_pre", 1], seen["resid_pre", 1])
    assert same(changed["resid_mid", 1], seen["resid_pre", 1] + changed["attn_out", 1])
    assert not same(changed["attn_out", 1], seen["attn_out", 1])

    _, changed = run_with_cache(model, one, edits=[("blocks.0.hook_attn_in", edits.replace(source))])
    for name in ("q", "k", "v", "pattern", "z", "attn_out"):
        assert same(changed[name, 0], source[name, 0])
    assert same(changed["resid_mid", 0], seen["resid_pre", 0] + source["attn_out", 0])


# ---- patching, lens, scores ----


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    "over",
    [
        ("resid_pre", range(3), range(7)),
        ("mlp_in", [1], range(7)),
        ("z", [0, 2], "all", range(4)),
        ("q_input", [1], [2, 5], [0, 3]),
    ],
)
def test_patching_is_replacing(dtype, over):
    model, clean, corrupted = bert(dtype), ids_of(7, 1), ids_of(7, 2)
    types = [np.arange(7) // 4, np.zeros(7, int)]
    name, layers, positions, heads = [*over, None][:4]

    def metric(logits):
        assert len(logits) == 7
        return float(logits[3, 5])

    found = patch(model, clean, corrupted, over, metric, types=types, logits_to_keep=0)
    _, source = run_with_cache(model, clean, EVERYTHING, types=types[0])
    for i, layer in enumerate(layers):
        for j, position in enumerate([None] if positions == "all" else positions):
            for k, head in enumerate(heads or [None]):
                change = edits.replace(source, positions=position, heads=head)
                place = full_name(CONFIG, name, layer)
                logits, _ = run_with_cache(model, corrupted, [], [(place, change)], types=types[1])
                at = (i, *([j] if positions != "all" else []), *([k] if heads else []))
                assert found.values[at] == metric(logits)
    assert str(found) and found.layers == list(layers)


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_the_logit_lens_reads_through_the_masked_head(dtype):
    model, ids = bert(dtype), ids_of(21)
    logits, cache = run_with_cache(model, ids)
    lens = cache.logit_lens(k=3)
    assert lens.in_place and lens.names == ["embed", "layer 0", "layer 1", "layer 2"]
    assert same(lens.token_ids, logits.argmax(axis=1).astype(np.int32))
    assert (lens.ranks[-1] == 0).all() and same(lens.top_ids[-1, :, 0], lens.token_ids)
    streams = [cache["resid_pre", 0], *(cache["normalized_resid_post", i] for i in range(3))]
    for i, stream in enumerate(streams):
        rows = _engine.forward(model.weights, [(model.new_cache(), ids)], start=(3, stream))
        exact = rows - np.log(np.exp(rows.astype(np.float64)).sum(axis=1, keepdims=True))
        assert np.abs(lens.logprobs[i] - exact[np.arange(21), lens.token_ids]).max() <= 1e-5
        assert same(lens.top_ids[i, :, 0], rows.argmax(axis=1).astype(np.int32))
    own = cache.logit_lens(tokens=ids)
    assert same(own.token_ids, ids)
    _, cache = run_with_cache(model, ids, logits_to_keep=1)
    assert same(cache.logit_lens(tokens=7).logprobs[-1], cache.logit_lens(tokens=[7] * 21).logprobs[-1])
    with pytest.raises(ValueError, match="logits of the last 1 of 21 tokens were kept"):
        cache.logit_lens()


def test_what_a_bert_cannot_be_asked():
    _, cache = run_with_cache(bert(), [1, 2])
    with pytest.raises(ConfigError, match="LayerNorm follows every sum, so a logit is not the sum of"):
        cache.attribution()
    headless = bert(masked_head=False)
    _, cache = run_with_cache(headless, [1, 2])
    with pytest.raises(ConfigError, match="no head that predicts tokens"):
        cache.logit_lens()
    with pytest.raises(ConfigError, match="no head that predicts tokens"):
        patch(headless, [1], [2], ("z", [0]), float)


def test_head_scores_of_a_text_seen_as_a_whole():
    _, cache = run_with_cache(bert(), [7, 8, 7, 8, 9])
    scores = cache.head_scores()
    for layer in range(3):
        pattern = cache["pattern", layer].astype(np.float64)
        previous = np.mean([pattern[:, i, i - 1] for i in range(1, 5)], axis=0)
        assert np.abs(scores.previous_token[layer] - previous).max() <= 1e-6
        entropy = -(pattern * np.log(pattern)).sum(axis=2).mean(axis=1)
        assert np.abs(scores.entropy[layer] - entropy).max() <= 1e-5
        assert (pattern > 0).all()


# ---- texts and pictures ----


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    return berts_of_tests.loader(tmp_path_factory.mktemp("faces"))


@pytest.mark.parametrize("name", ["bert", "roberta", "bytes", "distilbert"])
def test_texts_are_read_whole_with_masks(load, name):
    model = load(name)
    tokenizer, text = model.tokenizer, faces.masked(name, "the king {} had")
    ids = [*tokenizer.prefix, *tokenizer.encode(text, special=True), *tokenizer.suffix]
    assert ids.count(model.mask_token_id) == 1
    logits, cache = run_with_cache(model, text)
    assert cache.token_ids.tolist() == ids and same(logits, model.forward(ids))
    several, caches = run_with_cache(model, [text, "a", (text, "a b")])
    assert same(several[0], logits)
    assert caches[1].token_ids.tolist() == [*tokenizer.prefix, *tokenizer.encode("a"), *tokenizer.suffix]
    first = len(ids) - len(tokenizer.suffix) + len(tokenizer.between)
    pair = [*ids[: len(ids) - len(tokenizer.suffix)], *tokenizer.between, *tokenizer.encode("a b")]
    pair += tokenizer.suffix
    assert caches[2].token_ids.tolist() == pair
    assert same(caches[2]["normalized_resid_post", -1], model.hidden([(text, "a b")], special=True)[0])
    if model.config.n_types > 1:
        types = [0] * first + [1] * (len(pair) - first)
        assert same(caches[2]["token_type_embed"], model.weights["wtt.weight"][types])
        assert same(several[2], model.forward(pair, types=types))
        logits, cache = run_with_cache(model, text, types=[1] * len(ids))
        assert same(cache["token_type_embed"], model.weights["wtt.weight"][[1] * len(ids)])
        assert same(logits, model.forward(ids, types=[1] * len(ids)))
    with pytest.raises(TypeError, match="a tuple of two texts can mean two texts, or one pair"):
        run_with_cache(model, ("a", "b"))


def test_patching_of_texts_and_pairs(load):
    model = load("bytes")
    for clean, corrupted in (("a[MASK]c", "b[MASK]c"), (("a", "[MASK]"), ("b", "[MASK]"))):
        logits, _ = model.run_with_cache([clean])
        found = model.patch(
            clean, corrupted, ("resid_pre", [0], "all"), lambda x: x[1, 7] if len(x) > 1 else 0
        )
        assert found.values == [logits[0][1, 7]]
        last = model.patch(clean, corrupted, ("z", [0]), lambda x: len(x), logits_to_keep=1)
        assert last.values == [1]
    with pytest.raises(ValueError, match="the clean text has 1 token and the corrupted one 2"):
        model.patch([1], [1, 2], ("z", [0]), float)
    types = [[0, 1], [1, 1]]
    logits, _ = model.run_with_cache([5, 6], types=types[0])
    other, _ = model.run_with_cache([5, 6], types=types[1])
    assert not same(logits, other)
    found = model.patch([5, 6], [5, 6], ("resid_pre", [0]), lambda x: x[0, 7], types=types)
    assert found.values == [logits[0, 7]]
    with pytest.raises(ValueError, match="types has 1 items for 2 texts"):
        model.patch([5], [6], ("z", [0]), float, types=[[0]])


def test_pictures_of_a_text_seen_as_a_whole():
    _, cache = run_with_cache(bert(), ids_of(9))
    screen = Screen(out := io.StringIO(), 100)
    print_pattern(screen, cache, 1, 2)
    rows = [line[18:].ljust(26) for line in out.getvalue().splitlines() if re.match(r" *\d+ token", line)]
    drawn = [[row[3 * i : 3 * i + 2] for i in range(9)] for row in rows]
    assert drawn == [[screen.block(weight) * 2 for weight in row] for row in cache["pattern", 1][2]]
    assert "·" not in out.getvalue() and "comes later" not in out.getvalue()

    lens = cache.logit_lens()
    print_lens(Screen(out := io.StringIO(), 200), lens)
    title, head, *_, text = out.getvalue().strip().splitlines()
    assert text.removeprefix("the text").split() == head.split()
    assert title == "Logit lens: the most probable token at each position if this layer were the last"
    print_head_scores(Screen(out := io.StringIO(), 100), cache.head_scores(), 0, 1)
    assert "previous token" in out.getvalue()

    assert "<iframe" in cache._repr_html_() and html.escape('"causal":false') in cache._repr_html_()
    assert cache.head_scores()._repr_html_() and lens._repr_html_()
    assert lens.to_dict()["in_place"] is True


def test_figures_of_a_text_seen_as_a_whole():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _, cache = run_with_cache(bert(), ids_of(9))
    for figure, at in ((cache.plot(1), 2), (cache.plot(1, 2), 0)):
        shown = figure.axes[at].images[0].get_array()
        assert not np.ma.getmaskarray(shown).any() and np.array_equal(shown, cache["pattern", 1][2])
    ax = cache.logit_lens().plot().axes[0]
    assert ax.get_xlabel() == "in the place of the token"
    assert ax.get_title() == "logit lens: the token, if the model ended after the layer"
    cache.head_scores().plot()
    pyplot.close("all")


# ---- bad input ----


def test_types_are_checked():
    model = bert()
    for wrong in ([0], [0, 1, 0.5], "010", [[0, 1, 0]], [True, False, True]):
        with pytest.raises(ValueError, match="types must be one integer for each of 3 tokens"):
            run_with_cache(model, [1, 2, 3], types=wrong)
    for wrong in ([0, 1, 2], [0, -1, 0], [2**40, 0, 0]):
        with pytest.raises(ValueError, match="types must be from 0 to 1, the model's types"):
            run_with_cache(model, [1, 2, 3], types=wrong)
    with pytest.raises(ValueError, match="types has 1 items for 2 texts"):
        run_with_cache(model, [[1], [2]], types=[[0]])
    for other in (bert(n_types=0), random_gpt2()[0]):
        with pytest.raises(ValueError, match="this model has no token types"):
            run_with_cache(other, [1], types=[0])
    with pytest.raises(ContextLengthError, match="has 301 tokens, but the model has 300 positions"):
        run_with_cache(model, ids_of(301))
