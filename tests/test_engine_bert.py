"""The engine on BERTs and on layers with cross-attention: right, and equal however work is cut."""

import functools

import numpy as np
import pytest
from helpers import rounding, tolerance
from helpers.kernelwise import bert_by_kernels, kernel_by_kernel, unpacked
from helpers.strategies import ACTIVATIONS, berts, random_model, seeds, sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import reference, reference_bert
from gpt2c.config import Config
from gpt2c.core import _engine
from gpt2c.errors import ContextLengthError

ISAS = _engine.isas()
EQUAL_ISAS = [isa for isa in ISAS if isa not in rounding.OWN_BFLOAT16]
dtypes = st.sampled_from(_engine.DTYPES)
threads_of_calls = st.integers(1, 4)


def make(config, tensors, **how):
    return _engine.Weights(config, tensors.__getitem__, **how)


def bert_config(**changes):
    sizes = dict(n_layer=2, n_head=3, n_embd=48, n_inner=100, n_ctx=700, n_vocab=131, activation="gelu",
                 layer_norm_epsilon=1e-12, model_type="bert", n_types=2, masked_head=True)  # fmt: skip
    return Config(**(sizes | changes))


def cross_config(**changes):
    sizes = dict(
        n_layer=2, n_head=3, n_embd=48, n_inner=100, n_ctx=700, n_vocab=131, add_cross_attention=True
    )
    return Config(**(sizes | changes))


BERTS = {
    "3 heads of 16": bert_config(),
    "16 heads of 5": bert_config(n_layer=1, n_head=16, n_embd=80, n_inner=77, tie_word_embeddings=False),
    "3 heads of 33": bert_config(n_embd=99, n_inner=65, activation="relu", n_types=0),
    "1 head of 80": bert_config(n_layer=1, n_head=1, n_embd=80, n_inner=129, n_types=1),
}
CROSSES = {
    "3 heads of 16": cross_config(),
    "16 heads of 5": cross_config(n_layer=1, n_head=16, n_embd=80, n_inner=77, tie_word_embeddings=False),
    "3 heads of 33": cross_config(n_embd=99, n_inner=65),
}
LENGTHS = (1, 2, 7, 8, 9, 16, 17, 127, 128, 129, 256, 300)


@functools.cache
def tensors_of(config):
    return random_model(config, np.random.default_rng(1), 0.2)


@functools.cache
def weights_of(config, dtype="float32", isa=None):
    return make(config, tensors_of(config), dtype=dtype, isa=isa)


def ids_of(n, seed=0, n_vocab=131):
    return np.random.default_rng(seed).integers(n_vocab, size=n).astype(np.int32)


def types_of(config, n, seed=0):
    return (
        np.random.default_rng(seed).integers(config.n_types, size=n).astype(np.int32)
        if config.n_types
        else None
    )


def states_of(config, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, config.n_embd)).astype(np.float32)


class Eyes:
    """An observer of everything: keeps what comes from some places."""

    def __init__(self, config, *places):
        self.flags = np.full(config.n_layer + 1, _engine.UNFUSED | _engine.OBSERVE_PATTERN, np.uint8)
        self.places, self.seen = places, {}

    def wants(self, place, layer):
        return place in self.places

    def see(self, place, layer, found, source=None):
        self.seen[place, layer] = [part.copy() for part in found]


# ---- BERT ----


@given(berts(masked_head=True), st.sampled_from(_engine.BACKENDS), threads_of_calls)
@settings(max_examples=80)
def test_a_bert_agrees_with_the_reference(model, backend, threads):
    config, tensors, ids, types = model
    weights = make(config, tensors, backend=backend)
    actual = _engine.forward(weights, [(_engine.KVCache(weights), ids, types)], threads=threads)
    exact = functools.partial(reference_bert.forward, types=types)
    bound = tolerance.model_bound(config, tensors, ids, forward=exact)
    tolerance.check_logits(actual, exact(config, tensors, ids), bound)


@given(berts(), dtypes, st.sampled_from(ISAS), threads_of_calls)
@settings(max_examples=100)
def test_a_bert_is_its_kernels_one_after_the_other(model, dtype, isa, threads):
    config, tensors, ids, types = model
    weights = make(config, tensors, dtype=dtype, isa=isa, threads=threads)
    sequence = (_engine.KVCache(weights), ids, types)
    expected = bert_by_kernels(config, tensors, ids, types, dtype, isa)
    if config.masked_head:
        actual = _engine.forward(weights, [sequence], threads=threads)
    else:
        actual = _engine.hidden(weights, [sequence], [np.arange(len(ids))], threads=threads)
    assert actual.tobytes() == expected.tobytes()
    assert len(sequence[0]) == 0


@pytest.mark.parametrize("shape", BERTS)
@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_long_texts_alone_and_in_company(dtype, shape):
    """Several blocks of keys, more rows than a chunk of a GPT-2 has, and few rows, which it folds."""
    config = BERTS[shape]
    weights, sequences, expected = weights_of(config, dtype), [], []
    for n in (*LENGTHS, 600):
        ids, types = ids_of(n, n), types_of(config, n, n)
        expected.append(bert_by_kernels(config, tensors_of(config), ids, types, dtype).tobytes())
        for threads in (1, 3):
            alone = _engine.forward(weights, [(_engine.KVCache(weights), ids, types)], threads=threads)
            assert alone.tobytes() == expected[-1], (n, threads)
        sequences.append((_engine.KVCache(weights), ids, types))
    for threads in (1, 2, 5):
        together = _engine.forward(weights, sequences, threads=threads)
        assert together.tobytes() == b"".join(expected)


@given(st.lists(st.integers(1, 140), min_size=1, max_size=12), seeds, threads_of_calls, dtypes)
@settings(max_examples=40)
def test_company_changes_nothing_in_a_bert(lengths, seed, threads, dtype):
    config = BERTS["3 heads of 16"]
    weights = weights_of(config, dtype)
    texts = [
        (ids_of(n, seed + i), types_of(config, n, seed) if i % 2 else None) for i, n in enumerate(lengths)
    ]
    sequences = [(_engine.KVCache(weights), *text) for text in texts]
    together = _engine.forward(weights, sequences, threads=threads)
    alone = [_engine.forward(weights, [(_engine.KVCache(weights), *text)]) for text in texts]
    assert together.tobytes() == np.concatenate(alone).tobytes()


@given(berts(masked_head=True), st.sampled_from(["float32", "int8", "int4"]))
@settings(max_examples=30)
def test_every_isa_gives_the_same_bytes_of_a_bert(model, dtype):
    config, tensors, ids, types = model
    found = set()
    for isa in ISAS:
        weights = make(config, tensors, dtype=dtype, isa=isa)
        found.add(_engine.forward(weights, [(_engine.KVCache(weights), ids, types)]).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_wanted_rows_of_a_bert(dtype):
    """The last ones, some hidden states, and scores of some, are those of the whole."""
    config = BERTS["3 heads of 16"]
    weights = weights_of(config, dtype)
    texts = [(ids_of(n, n), types_of(config, n, n)) for n in (5, 130, 1, 64)]
    sequences = [(_engine.KVCache(weights), *text) for text in texts]
    whole = np.split(_engine.forward(weights, sequences), np.cumsum([5, 130, 1])[:3])
    for keep in (1, 3, 70):
        kept = _engine.forward(weights, sequences, keep=keep, threads=2)
        assert kept.tobytes() == np.concatenate([rows[-keep:] for rows in whole]).tobytes()
    rows = [np.array([0, 4]), np.arange(3, 130, 2), np.array([0]), np.array([], np.intp)]
    hidden = _engine.hidden(weights, sequences, rows)
    streams = [
        _engine.hidden(weights, [(_engine.KVCache(weights), *text)], [np.arange(len(text[0]))])
        for text in texts
    ]
    assert hidden.tobytes() == np.concatenate([s[r] for s, r in zip(streams, rows, strict=True)]).tobytes()
    wanted = [(some, ids[some]) for some, (ids, _) in zip(rows, texts, strict=True)]
    logprobs, ranks, *_ = _engine.score(weights, sequences, wanted, threads=2)
    logits = np.concatenate([part[some] for part, some in zip(whole, rows, strict=True)])
    targets = np.concatenate([each for _, each in wanted])
    chosen = logits[np.arange(len(logits)), targets]
    assert np.array_equal(ranks, (logits > chosen[:, None]).sum(axis=1))
    exact = reference.log_softmax(logits.astype(np.float64))[np.arange(len(logits)), targets]
    assert np.abs(logprobs - exact).max() <= 1e-5


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_types_and_positions_and_every_token_count(dtype):
    """What is 0 by default, and that each row depends on each token, and on its type."""
    config = BERTS["3 heads of 16"]
    weights, ids = weights_of(config, dtype), ids_of(9)

    def logits(ids, types=None):
        return _engine.forward(weights, [(_engine.KVCache(weights), ids, types)])

    before = logits(ids)
    assert before.tobytes() == logits(ids, np.zeros(9, np.int32)).tobytes()
    for at in range(9):
        other, types = ids.copy(), np.zeros(9, np.int32)
        other[at], types[at] = (ids[at] + 1) % 131, 1
        for changed in (logits(other), logits(ids, types)):
            assert (changed != before).any(axis=1).all()


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
def test_a_bert_leaves_its_caches_empty(dtype):
    config = BERTS["3 heads of 16"]
    weights, cache = weights_of(config), _engine.KVCache(weights_of(config), None, dtype)
    first = _engine.forward(weights, [(cache, ids_of(300))])
    _engine.forward(weights, [(cache, ids_of(140, 1))])
    assert len(cache) == 0
    assert _engine.forward(weights, [(cache, ids_of(300))]).tobytes() == first.tobytes()


def test_what_a_bert_refuses():
    config = BERTS["3 heads of 16"]
    weights, ids = weights_of(config), ids_of(3)

    def call(ids, types=None):
        return _engine.forward(weights, [(_engine.KVCache(weights), ids, types)])

    with pytest.raises(ValueError, match="every token needs one token type"):
        call(ids, np.zeros(2, np.int32))
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"the model has no token type {wrong}; allowed: 0 to 1"):
            call(ids, np.full(3, wrong, np.int32))
    with pytest.raises(ContextLengthError):
        call(ids_of(701))
    with pytest.raises(ValueError, match="no cross-attention"):
        _engine.cross_keys(weights, [states_of(config, 2)])


# ---- cross-attention ----


def exact_cross(config, tensors, ids, states):
    """A GPT-2 with cross-attention in float64."""
    eps = config.layer_norm_epsilon
    part = functools.partial(lambda name, end: tensors[f"{name}.{end}"].astype(np.float64))

    def norm(name, x):
        return reference.layer_norm(x, part(name, "weight"), part(name, "bias"), eps)

    def dense(name, x):
        return x @ part(name, "weight") + part(name, "bias")

    def attend(q, k, v, layer, mask):
        q, k, v = (x.reshape(len(x), config.n_head, -1).transpose(1, 0, 2) for x in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) * config.attention_scale(layer) + mask
        return (reference.softmax(scores) @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)

    x = part("wte", "weight")[ids] + part("wpe", "weight")[: len(ids)]
    future = np.where(np.triu(np.ones((len(ids), len(ids)), bool), 1), -np.inf, 0)
    for i in range(config.n_layer):
        h = f"h.{i}."
        qkv = np.split(dense(h + "attn.c_attn", norm(h + "ln_1", x)), 3, axis=1)
        x = x + dense(h + "attn.c_proj", attend(*qkv, i, future))
        q = dense(h + "crossattention.q_attn", norm(h + "ln_cross_attn", x))
        k, v = np.split(dense(h + "crossattention.c_attn", states.astype(np.float64)), 2, axis=1)
        x = x + dense(h + "crossattention.c_proj", attend(q, k, v, i, 0))
        hidden = dense(h + "mlp.c_fc", norm(h + "ln_2", x))
        x = x + dense(h + "mlp.c_proj", reference.activation(config.activation, hidden))
    return norm("ln_f", x) @ part("wte" if config.tie_word_embeddings else "lm_head", "weight").T


@st.composite
def crossed(draw):
    """(config, tensors, ids, states): a small GPT-2 with cross-attention, a text, what it also attends to."""
    n_head = draw(st.integers(1, 4))
    config = cross_config(
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_embd=n_head * draw(sizes(-(-4 // n_head), 40)),
        n_inner=draw(sizes(1, 129)),
        n_ctx=48,
        n_vocab=draw(sizes(2, 129)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )
    rng = np.random.default_rng(draw(seeds))
    ids = rng.integers(config.n_vocab, size=draw(st.integers(1, 48))).astype(np.int32)
    states = rng.standard_normal((draw(sizes(1, 300)), config.n_embd)).astype(np.float32)
    return config, random_model(config, rng), ids, states


def stepped(weights, ids, cross, pieces, threads=1):
    """All logits of a text that is given in pieces of these lengths, the last one repeated."""
    cache, found, done = _engine.KVCache(weights, cross=cross), [], 0
    for n in [*pieces, *[pieces[-1]] * len(ids)]:
        if done < len(ids):
            found.append(_engine.forward(weights, [(cache, ids[done : done + n])], threads=threads))
            done += n
    return np.concatenate(found)


@given(crossed(), st.sampled_from(_engine.BACKENDS), threads_of_calls)
@settings(max_examples=60)
def test_cross_attention_agrees_with_the_reference(model, backend, threads):
    config, tensors, ids, states = model
    weights = make(config, tensors, backend=backend)
    [cross] = _engine.cross_keys(weights, [states], threads=threads)
    actual = _engine.forward(weights, [(_engine.KVCache(weights, cross=cross), ids)], threads=threads)
    exact = functools.partial(exact_cross, states=states)
    bound = tolerance.model_bound(config, tensors, ids, forward=exact)
    tolerance.check_logits(actual, exact(config, tensors, ids), bound)


@given(crossed(), dtypes, st.sampled_from(ISAS), threads_of_calls, st.integers(1, 12))
@settings(max_examples=100)
def test_cross_attention_is_its_kernels_one_after_the_other(model, dtype, isa, threads, piece):
    config, tensors, ids, states = model
    weights = make(config, tensors, dtype=dtype, isa=isa)
    [cross] = _engine.cross_keys(weights, [states], threads=threads)
    actual = stepped(weights, ids, cross, [piece], threads)
    expected = kernel_by_kernel(config, tensors, ids, dtype, isa, encoded=states)
    assert actual.tobytes() == expected.tobytes()
    assert len(cross) == len(states)


@pytest.mark.parametrize("shape", CROSSES)
@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_cross_attention_of_long_texts_in_pieces_and_in_company(dtype, shape):
    """Several chunks of rows, long and short outputs of encoders, some with a past, in one call."""
    config = CROSSES[shape]
    weights, tensors = weights_of(config, dtype), tensors_of(config)
    states = [states_of(config, n, n) for n in (130, 1, 16, 600, 17)]
    crosses = _engine.cross_keys(weights, states, threads=2)
    for state, cross in zip(states, crosses, strict=True):  # made together as alone
        [alone] = _engine.cross_keys(weights, [state])
        ids = ids_of(3)
        assert stepped(weights, ids, cross, [3]).tobytes() == stepped(weights, ids, alone, [1]).tobytes()
    ids = ids_of(600, 3)
    whole = kernel_by_kernel(config, tensors, ids, dtype, encoded=states[0])
    for pieces in ([600], [512, 88], [7, 8, 9, 127, 1, 130], [1, 2, 300]):
        for threads in (1, 3):
            found = stepped(weights, ids, crosses[0], pieces, threads)
            assert found.tobytes() == whole.tobytes(), (pieces, threads)
    texts = [ids_of(n, n) for n in (9, 40, 1, 140, 530)]
    expected = [
        kernel_by_kernel(config, tensors, text, dtype, encoded=state)
        for text, state in zip(texts, states, strict=True)
    ]
    for past in (0, 1):
        caches = [_engine.KVCache(weights, cross=cross) for cross in crosses]
        pasts = [min(past, len(text) - 1) for text in texts]
        for cache, text, n in zip(caches, texts, pasts, strict=True):
            if n:
                _engine.forward(weights, [(cache, text[:n])])
        news = [text[n:] for text, n in zip(texts, pasts, strict=True)]
        together = _engine.forward(weights, list(zip(caches, news, strict=True)), threads=2)
        rows = [each[n:] for each, n in zip(expected, pasts, strict=True)]
        assert together.tobytes() == np.concatenate(rows).tobytes()


@given(crossed(), st.sampled_from(["float32", "int8", "int4"]))
@settings(max_examples=30)
def test_every_isa_gives_the_same_bytes_of_cross_attention(model, dtype):
    config, tensors, ids, states = model
    found = set()
    for isa in ISAS:
        weights = make(config, tensors, dtype=dtype, isa=isa)
        [cross] = _engine.cross_keys(weights, [states])
        found.add(stepped(weights, ids, cross, [len(ids)]).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_patterns_of_cross_attention(dtype):
    """Of several texts: what is shown is the softmax of the scores, and looking changes no bit."""
    config = CROSSES["3 heads of 16"]
    weights, tensors = weights_of(config, dtype), unpacked(config, tensors_of(config), dtype)
    states = [states_of(config, n, n) for n in (5, 130, 17)]
    texts = [ids_of(n, n) for n in (12, 3, 40)]
    crosses = _engine.cross_keys(weights, states)
    sequences = [(_engine.KVCache(weights, cross=c), t) for c, t in zip(crosses, texts, strict=True)]
    plain = _engine.forward(weights, sequences)
    eyes = Eyes(config, "resid_mid", "cross_pattern", "cross_attn_out", "resid_mid_cross")
    sequences = [(_engine.KVCache(weights, cross=c), t) for c, t in zip(crosses, texts, strict=True)]
    found = _engine.forward(weights, sequences, observer=eyes, threads=2)
    assert found.tobytes() == plain.tobytes()
    ends = np.cumsum([len(text) for text in texts])[:-1]
    for layer in range(config.n_layer):
        streams, outs, after = (
            np.split(np.stack(eyes.seen[place, layer]), ends)
            for place in ("resid_mid", "cross_attn_out", "resid_mid_cross")
        )
        for i, (pattern, state) in enumerate(zip(eyes.seen["cross_pattern", layer], states, strict=True)):
            assert pattern.shape == (3, len(texts[i]), len(state))
            assert after[i].tobytes() == (streams[i] + outs[i]).tobytes()
            name = f"h.{layer}.crossattention"
            gain, bias = (tensors[f"h.{layer}.ln_cross_attn.{end}"] for end in ("weight", "bias"))
            normed = reference.layer_norm(streams[i], gain, bias, config.layer_norm_epsilon)
            q = normed @ tensors[f"{name}.q_attn.weight"] + tensors[f"{name}.q_attn.bias"]
            kv = state @ tensors[f"{name}.c_attn.weight"].astype(np.float64) + tensors[f"{name}.c_attn.bias"]
            for head in range(3):
                at = slice(16 * head, 16 * head + 16)
                exact = reference.softmax(q[:, at] @ kv[:, at].T * config.attention_scale(layer))
                limit = {"float32": 1e-5, "bfloat16": 0.1, "int8": 0.05, "int4": 0.05}[dtype]
                assert np.abs(pattern[head] - exact).max() <= limit


def test_caches_keep_what_they_attend_to():
    config = CROSSES["3 heads of 16"]
    weights, ids = weights_of(config), ids_of(20)
    one, other = _engine.cross_keys(weights, [states_of(config, 9, 1), states_of(config, 9, 2)])
    cache = _engine.KVCache(weights, cross=one)
    whole = _engine.forward(weights, [(cache, ids)])
    fork = cache.fork()
    fork.truncate(12)
    assert _engine.forward(weights, [(fork, ids[12:])]).tobytes() == whole[12:].tobytes()
    elsewhere = _engine.forward(weights, [(_engine.KVCache(weights, cross=other), ids)])
    assert (elsewhere != whole).any(axis=1).all()


def test_what_cross_attention_refuses():
    config = CROSSES["3 heads of 16"]
    weights = weights_of(config)
    with pytest.raises(ValueError, match="attends to the output of an encoder: pass that through cross_keys"):
        _engine.forward(weights, [(_engine.KVCache(weights), ids_of(3))])
    for shape in ((0, 48), (3, 47), (48,)):
        with pytest.raises(ValueError, match="the output of the encoder has the shape"):
            _engine.cross_keys(weights, [np.zeros(shape, np.float32)])
