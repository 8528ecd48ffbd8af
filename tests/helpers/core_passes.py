"""Random calls of the engine over random models, each given by a seed and a number, and digests of results.

Models: GPT-2s, some with shared keys and values or cross-attention, and BERTs; of any dtype and instruction
set. Every PER_MODEL calls have one model, whose panels end where their memory ends.
``python -m helpers.core_passes`` reads lines of a seed and a number: of calls of the engine or of a kernel.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpt2c.config import Config
from gpt2c.core import _engine
from gpt2c.core.deadline import Deadline
from gpt2c.core.turns import Turns

from . import core_calls
from .core_calls import Draw, digest, serve
from .strategies import ACTIVATIONS, random_model

__all__ = ["PASSES", "Model", "Pass", "model_of"]

PER_MODEL = 60
KINDS = ("gpt2", "gpt2", "shared", "cross", "bert")


def random_config(d: Draw) -> Config:
    """Of any kind and odd sizes."""
    kind, slow = d.among(KINDS), d.isa == "generic"
    n_head = d.among((1, 2, 3, 4, 12)) if kind != "shared" else d.among((2, 5, 26))
    n_embd = n_head * d.size(max(1, 130 // n_head), -(-4 // n_head))
    more = {"n_kv_head": 1} if kind == "shared" else {}
    if kind == "cross":
        more = {"add_cross_attention": True}
    if kind == "bert":
        masked = bool(d.upto(2))
        more = {"model_type": "bert", "n_types": d.upto(3), "masked_head": masked}
    tied = bool(d.upto(1)) or not more.get("masked_head", True)
    return Config(
        n_layer=d.upto(2, 1), n_head=n_head, n_embd=n_embd, n_inner=d.size(100 if slow else 300),
        n_ctx=d.among((d.upto(40, 2), d.upto(300, 130))), n_vocab=d.size(100 if slow else 300, 2),
        activation=d.among(ACTIVATIONS), tie_word_embeddings=tied, **more,
    )  # fmt: skip


class Model:
    """A random model of one dtype."""

    def __init__(self, seed: int, index: int):
        d = Draw(seed, 10**9 + index)
        self.config, self.dtype = random_config(d), d.among(_engine.DTYPES)
        self.tensors = {name: d.exact(w) for name, w in random_model(self.config, d.rng, 0.2).items()}
        self.made: dict[str, _engine.Weights] = {}

    def weights(self, isa: str) -> _engine.Weights:
        """Made in one block of memory first, then of panels that have memory of their own."""
        if isa not in self.made:
            first = _engine.Weights(self.config, self.tensors.__getitem__, dtype=self.dtype, isa=isa)

            def panels(name):
                found = _engine.aligned_empty(first.packed[name].nbytes // 4).view(np.uint8)
                found[...] = first.packed[name].reshape(-1)
                return found.reshape(first.packed[name].shape)

            self.made[isa] = _engine.Weights(
                self.config, self.tensors.__getitem__, panels=panels, dtype=self.dtype, isa=isa
            )
        return self.made[isa]


@lru_cache(2)
def model_of(seed: int, index: int) -> Model:
    return Model(seed, index)


class Pass:
    """One call's model, and the sequences for it."""

    def __init__(self, d: Draw, model: Model, limit: int = 10**9):
        self.d, self.config, self.weights = d, model.config, model.weights(d.isa)
        self.limit = limit // (4 if d.isa == "generic" else 1)  # on the rows of a sequence

    def ids(self, n):
        return self.d.rng.integers(self.config.n_vocab, size=n).astype(np.int32)

    def rows(self, most):
        """The number of rows of a sequence."""
        d = self.d
        return min(most, self.limit, d.among((1, 1, d.upto(9, 1), d.size(70), d.upto(300, 1))))

    def cache(self, past, n_ctx):
        """A cache that holds some positions, made in one of several ways."""
        d, dtype = self.d, self.d.among((None, *_engine.CACHE_DTYPES))
        cross = None
        if self.config.add_cross_attention:
            states = d.floats(d.upto(20, 1), self.config.n_embd, family="normal")
            (cross,) = _engine.cross_keys(self.weights, [states], dtype=dtype, threads=d.threads)
        cache = _engine.KVCache(self.weights, n_ctx, dtype, cross=cross)
        if not past:
            return cache
        more = d.upto(n_ctx - past)
        for part in np.array_split(self.ids(past + more), d.upto(3, 1)):
            if len(part):
                _engine.forward(self.weights, [(cache, part)], keep=1, threads=d.threads)
        cache.truncate(past)
        way = d.among(("as it is", "fork", "branch", "taken", "followed", "restored"))
        if way == "fork":
            return cache.fork(d.upto(n_ctx, past))
        if way == "branch":
            return cache.branch(d.upto(n_ctx, past))
        if way == "as it is":
            return cache
        other = _engine.KVCache(self.weights, d.upto(n_ctx, past), dtype, cross=cross)
        if way == "taken":
            other.take(cache, 0, past)
        elif way == "followed":
            other.follow(cache, 0)
        else:
            other.restore(*cache.state(), past)
        return other

    def sequences(self, *, empty=False, room=0):
        """Some sequences with rows of any number, after past positions unless `empty`."""
        found = []
        for _ in range(self.d.among((1, 1, 2, self.d.upto(9, 1)))):
            n = self.rows(self.config.n_ctx - room)
            past = self.d.among((0, self.rows(self.config.n_ctx - n - room + 1) - 1))
            if empty or self.config.is_bert or past < 0:
                past = 0
            least = past + n + room
            cache = self.cache(past, self.d.among((least, self.d.upto(self.config.n_ctx, least))))
            if cache.n_ctx < least:
                cache = cache.fork(least)
            entry = [cache, self.ids(n)]
            if self.config.is_bert and self.config.n_types and self.d.upto(1):
                entry.append(self.d.rng.integers(self.config.n_types, size=n).astype(np.int32))
            found.append(tuple(entry))
        return found

    def deadline(self):
        """None, or one by which a pass is cut into turns."""
        if self.d.upto(3):
            return None
        limit = Deadline()
        limit.turns, limit.turn_rows = Turns(), self.d.upto(40, 1)
        return limit

    def wanted(self, sequences, most=6):
        """Some rows of each sequence, ascending."""
        return [np.sort(self.d.rng.integers(len(each[1]), size=self.d.upto(most, 1))) for each in sequences]


class Meddler:
    """An observer that keeps what it sees and changes some of it."""

    def __init__(self, p: Pass):
        self.p, self.rng, self.seen = p, p.d.rng, []
        kinds = (0, 1, 3, 7)  # none, UNFUSED, with OBSERVE_PATTERN, with EDIT_PATTERN
        self.flags = p.d.exact(self.rng.choice(kinds, p.config.n_layer + 1).astype(np.uint8))
        self.flags[-1] &= 1
        self.wanted: dict[tuple[str, int], bool] = {}

    def wants(self, place, layer):
        return self.wanted.setdefault((place, layer), self.rng.random() < 0.6)

    def see(self, place, layer, shown, *more):
        for array in shown if isinstance(shown, list) else [shown]:
            self.seen.append(array.copy())
            if place != "cross_pattern" and self.rng.random() < 0.5:
                array[..., int(self.rng.integers(array.shape[-1]))] = 0.25
        if place == "attn_in" and not self.p.config.is_bert:
            rows, config = len(shown), self.p.config
            inputs = self.rng.standard_normal((rows, config.n_head, config.n_embd)).astype(np.float32)
            n, parts = int(self.rng.integers(1, 30)), [0] if config.n_kv_head == 1 else [0, 1, 2]
            which = self.rng.integers(rows, size=n), self.rng.integers(config.n_head, size=n)
            self.seen.append(more[0](inputs, *which, parts))


# ---- passes: each is given a Pass, and returns arrays


def forward(p):
    sequences = p.sequences()
    keep = p.d.among((0, 1, [p.d.upto(3) for _ in sequences]))
    return [_engine.forward(p.weights, sequences, keep=keep, threads=p.d.threads, deadline=p.deadline())]


def generate(p):
    """Some tokens for every sequence, one step after the other."""
    if p.config.is_bert or p.config.n_ctx < 8:
        return forward(p)
    sequences, found = p.sequences(room=4), []
    for _ in range(4):
        logits = _engine.forward(p.weights, sequences, keep=1, threads=p.d.threads)
        how = {"temperature": 1.0, "top_k": 0, "top_p": 0.9, "min_p": 0.0}
        drawn = [
            _engine.sample(row, **how, seed=1, stream=i, position=len(found), isa=p.d.isa)[0]
            for i, row in enumerate(logits)
        ]
        found.append(logits)
        caches = [each[0] for each in sequences]
        sequences = [(cache, np.array([one], np.int32)) for cache, one in zip(caches, drawn, strict=True)]
    return found


def score(p):
    sequences, n = p.sequences(), p.config.n_vocab
    rows = p.wanted(sequences)
    wanted = [(each, p.d.rng.integers(-1, n, size=len(each)).astype(np.int32)) for each in rows]
    n_text = p.d.upto(n, 1)
    masks = _engine.mask_bits(p.d.rng.random((p.d.upto(3), n)) < 0.5) if p.d.upto(1) else None
    how = {"top": p.d.upto(n_text), "n_text": n_text, "masks": masks, "deadline": p.deadline()}
    return list(_engine.score(p.weights, sequences, wanted, **how, threads=p.d.threads))


def hidden(p):
    sequences = p.sequences()
    how = {"threads": p.d.threads, "deadline": p.deadline()}
    return [_engine.hidden(p.weights, sequences, p.wanted(sequences), **how)]


def observed(p):
    p.limit = min(p.limit, 30)
    sequences, meddler = p.sequences(), Meddler(p)
    logits = _engine.forward(p.weights, sequences, threads=p.d.threads, observer=meddler)
    return [logits, *meddler.seen]


def started(p):
    """A pass that begins at some layer."""
    sequences = p.sequences()
    rows = sum(len(each[1]) for each in sequences)
    start = p.d.upto(p.config.n_layer), p.d.floats(rows, p.config.n_embd, family="normal")
    return [_engine.forward(p.weights, sequences, start=start, threads=p.d.threads)]


def both_ways(p):
    sequences = p.sequences(empty=True)
    return [_engine.forward(p.weights, sequences, bidirectional=True, threads=p.d.threads)]


PASSES = (forward, forward, generate, generate, score, hidden, observed, observed, started, both_ways)


def call(seed: int, number: int) -> str:
    """One call: of three, two are of kernels."""
    if number % 3:
        return core_calls.call(seed, number)
    d = Draw(seed, number // 3)
    with np.errstate(all="ignore"):
        p = Pass(d, model_of(seed, number // PER_MODEL), 100)
        return digest(d.among(PASSES)(p))


if __name__ == "__main__":
    serve(call)
