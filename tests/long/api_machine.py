"""Random sequences of API calls; after each step, everything equals a fresh computation on bytes.

    python tests/long/api_machine.py [--cases 200 | --minutes M] [--seed 0]

One case is a run of up to 12 steps with one model: caches are filled, truncated and forked; sessions edited,
forked, saved and opened; streams abandoned; texts generated, searched with beams, scored and scheduled, with
edits, a prefix cache and overlong prompts; the model is pickled. The fresh computation is made by a second
model with the same weights and no prefix cache, from the token ids alone. A failure is printed as the
shortest sequence of steps that hypothesis finds, with the seed that reproduces it; status 1.
"""

import argparse
import pickle
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
import numpy as np
from helpers.strategies import random_model
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gpt2c import GPT2, Config
from gpt2c.core import _engine
from gpt2c.edits import scale

BATCH = 50  # cases from one seed
CONFIG = Config(n_layer=2, n_head=2, n_embd=16, n_inner=64, n_ctx=160, n_vocab=40)
TENSORS = random_model(CONFIG, np.random.default_rng(1))
EDIT = [("blocks.0.hook_mlp_out", scale(0.5))]
tokens = st.integers(0, CONFIG.n_vocab - 1)
texts = st.one_of(
    st.lists(tokens, min_size=1, max_size=12),
    # long ones with a common start, for the blocks of the prefix cache
    st.lists(tokens, max_size=9).map(lambda end: [i * 7 % CONFIG.n_vocab for i in range(130)] + end),
)
numbers = st.integers(0, 2**16)
counts = {}


FOLDER = tempfile.TemporaryDirectory()  # a model with a file can be pickled
FILE = Path(FOLDER.name) / "model.gpt2c"
GPT2(_engine.Weights(CONFIG, TENSORS.__getitem__), threads=1).save(FILE)


def new_model():
    return GPT2.from_pretrained(FILE, threads=1)


FRESH = new_model()


def same(got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert got.tobytes() == wanted.tobytes()


def same_texts(got, wanted):
    got, wanted = ([x] if not isinstance(x, list) else x for x in (got, wanted))
    assert [list(x.token_ids) for x in got] == [list(x.token_ids) for x in wanted]
    for one, other in zip(got, wanted, strict=True):
        same(one.logprobs, other.logprobs)


def same_suggestions(got, wanted):
    assert [(x.token_id, x.probability) for x in got] == [(x.token_id, x.probability) for x in wanted]


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.model = new_model()
        self.model.prefix_cache = 10**6
        self.caches, self.sessions = [], []  # (object, its token ids)
        counts["runs"] = counts.get("runs", 0) + 1

    # ---- caches

    @rule(ids=texts)
    def new_cache(self, ids):
        cache = self.model.new_cache()
        same(self.model.forward(ids, cache), FRESH.forward(ids))
        self.caches = [*self.caches[-3:], (cache, ids)]

    @precondition(lambda self: self.caches)
    @rule(which=numbers, ids=st.lists(tokens, min_size=1, max_size=5))
    def extend_cache(self, which, ids):
        i = which % len(self.caches)
        cache, held = self.caches[i]
        if len(held) + len(ids) <= CONFIG.n_ctx:
            same(self.model.forward(ids, cache), FRESH.forward(held + ids)[-len(ids) :])
            self.caches[i] = cache, held + ids

    @precondition(lambda self: self.caches)
    @rule(which=numbers, n=numbers, fork=st.booleans())
    def truncate_or_fork_cache(self, which, n, fork):
        i = which % len(self.caches)
        cache, held = self.caches[i]
        n %= len(held) + 1
        if fork:
            cache = cache.fork()
            self.caches.append((cache, held))
            i = len(self.caches) - 1
        cache.truncate(n)
        self.caches[i] = cache, held[:n]

    # ---- sessions

    @rule(ids=texts)
    def new_session(self, ids):
        self.sessions = [*self.sessions[-3:], (self.model.session(ids), ids)]

    @precondition(lambda self: self.sessions)
    @rule(which=numbers, cut=numbers, ids=st.lists(tokens, min_size=1, max_size=5))
    def edit_session(self, which, cut, ids):
        i = which % len(self.sessions)
        session, held = self.sessions[i]
        held = (held[: cut % (len(held) + 1)] + ids)[-CONFIG.n_ctx :]
        session.token_ids = held
        self.sessions[i] = session, held

    @precondition(lambda self: self.sessions)
    @rule(which=numbers, saved=st.booleans())
    def copy_session(self, which, saved):
        session, held = self.sessions[which % len(self.sessions)]
        if saved:
            with tempfile.TemporaryDirectory() as folder:
                session.save(Path(folder) / "s")
                copy = self.model.open_session(Path(folder) / "s")
        else:
            copy = session.fork()
        self.sessions.append((copy, held))

    @precondition(lambda self: self.sessions)
    @rule(which=numbers, n=st.integers(1, 4), number=numbers)
    def ask_session(self, which, n, number):
        session, held = self.sessions[which % len(self.sessions)]
        options = {"max_new_tokens": n, "temperature": 0.9, "seed": number}
        same_texts(session.generate(**options), FRESH.generate(held, **options))
        same(session.score([1, 2]).logprobs, FRESH.score([(held, [1, 2])], bos=False)[0].logprobs)

    # ---- calls of the model

    @rule(ids=texts, number=numbers, n=st.integers(1, 6), beams=st.integers(1, 3))
    def generate(self, ids, number, n, beams):
        options = {"max_new_tokens": n, "num_beams": beams}
        if beams == 1:
            options |= {"temperature": 0.8, "seed": number, "num_return_sequences": 2}
        same_texts(self.model.generate(ids, **options), FRESH.generate(ids, **options))

    @rule(ids=texts, number=numbers)
    def truncate_prompt(self, ids, number):
        ids = (ids * CONFIG.n_ctx)[: CONFIG.n_ctx + number % 9]
        kept = ids[2 - CONFIG.n_ctx :]  # the last new token needs no position
        options = {"max_new_tokens": 3, "overflow": "truncate_left"}
        same_texts(self.model.generate(ids, **options), FRESH.generate(kept, max_new_tokens=3))

    @rule(ids=texts, n=st.integers(0, 4))
    def abandon_stream(self, ids, n):
        stream = self.model.stream(ids, max_new_tokens=5)
        for _, _ in zip(range(n), stream, strict=False):
            pass
        stream.close()

    @rule(several=st.lists(texts, min_size=1, max_size=3))
    def score(self, several):
        several = [[*ids, 5] for ids in several]  # at least one token with a context
        for got, ids in zip(self.model.score(several, bos=False), several, strict=True):
            same(got.logprobs, FRESH.score([ids], bos=False)[0].logprobs)

    @rule(ids=texts, edited=st.booleans())
    def run_with_cache(self, ids, edited):
        edits = EDIT if edited else []
        (got, held), (wanted, fresh) = (m.run_with_cache(ids, edits=edits) for m in (self.model, FRESH))
        same(got, wanted)
        assert list(held) == list(fresh)
        for name in held:
            same(held[name], fresh[name])
        if not edited:
            same(got.reshape(len(ids), -1), FRESH.forward(ids))

    @rule(several=st.lists(texts, min_size=1, max_size=3))
    def schedule(self, several):
        with self.model.scheduler(max_texts=2, slice_tokens=5) as scheduler:
            requests = [scheduler.submit(ids, max_new_tokens=3) for ids in several]
            for request, ids in zip(requests, several, strict=True):
                same_texts(request.future.result(60), FRESH.generate(ids, max_new_tokens=3))

    @rule()
    def pickle(self):
        self.model = pickle.loads(pickle.dumps(self.model))
        self.caches, self.sessions = [], []  # they belong to the other model

    # ---- after each step

    @invariant()
    def caches_hold_their_texts(self):
        counts["steps"] = counts.get("steps", 0) + 1
        for cache, held in self.caches:
            assert len(cache) == len(held)
            fresh = FRESH.new_cache()
            if held:
                FRESH.forward(held, fresh)
            if len(held) < CONFIG.n_ctx:
                same(self.model.forward([3], cache.fork()), FRESH.forward([3], fresh))

    @invariant()
    def sessions_suggest_what_the_model_does(self):
        for session, held in self.sessions:
            assert session.token_ids == held
            same_suggestions(session.suggest(3), FRESH.suggest(held, 3))


def run(number, cases):
    """One batch from its seed; whether nothing failed."""
    options = settings(
        max_examples=cases,
        stateful_step_count=12,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(number)(Machine), settings=options)
    except Exception:  # any failure is reported with its seed
        traceback.print_exc()
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begin, number, asked = time.time(), args.seed, 0
    while time.time() - begin < 60 * args.minutes if args.minutes else asked < args.cases:
        cases = BATCH if args.minutes else min(BATCH, args.cases - asked)
        if not run(number, cases):
            print(f"failed: python tests/long/api_machine.py --seed {number} --cases {cases}")
            return 1
        asked, number = asked + cases, number + 1
    seconds = time.time() - begin
    print(f"{counts['runs']} runs, {counts['steps']} steps, 0 failed, {seconds:.0f} s; next seed {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
