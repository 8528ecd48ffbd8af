"""Threads of Python that use one model at once: cases given by a seed and a number, and digests of results.

``python -m helpers.core_races`` reads lines of a seed and a number.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpt2c.core import _engine
from gpt2c.core.deadline import Deadline
from gpt2c.errors import CacheInUseError, DeadlineError

from .core_calls import Draw, digest, serve
from .core_passes import PASSES, Model, Pass, model_of
from .toys import random_gpt2

PER_MODEL = 20
THREADS = 3


class Busy(Draw):
    """Choices whose calls run on several threads each."""

    @property
    def threads(self):
        return self.upto(3, 2)


def calls(seed: int, number: int, model: Model) -> Callable[[int], list[str]]:
    """Any passes, in each thread others."""

    def work(thread):
        found = []
        for i in range(2):
            d = Busy(seed, (number * THREADS + thread) * 2 + i)
            d.isa = _engine.isas()[number % len(_engine.isas())]
            found.append(digest(d.among(PASSES)(Pass(d, model, 40))))
        return found

    return work


def branches(seed: int, number: int, model: Model) -> Callable[[int], list[str]]:
    """Passes that read the positions of one cache, and passes that are cancelled meanwhile."""
    d = Busy(seed, number)
    p = Pass(d, model, 40)
    n = d.upto(p.config.n_ctx // 2, 1)
    prefix = _engine.KVCache(p.weights) if p.config.is_bert else p.cache(n, p.config.n_ctx)
    if prefix.branches or p.config.is_bert:
        return calls(seed, number, model)

    def work(thread):
        d = Busy(seed, number * THREADS + thread)
        ids = d.rng.integers(p.config.n_vocab, size=d.upto(min(30, p.config.n_ctx - n), 1)).astype(np.int32)
        limit, found = Deadline(), []
        threading.Timer(d.upto(20) / 1000, limit.cancel).start()
        for _ in range(3):
            try:
                cache = prefix.branch(p.config.n_ctx)
            except (CacheInUseError, ValueError):  # another thread makes one, or the prefix has one itself
                continue
            try:
                _engine.forward(p.weights, [(cache, ids)], threads=2, deadline=limit)
            except DeadlineError:
                assert len(cache) == len(prefix)
        fork = None
        while fork is None:
            try:
                fork = prefix.fork(p.config.n_ctx)
            except CacheInUseError:
                time.sleep(0.001)
        found.append(digest([_engine.forward(p.weights, [(fork, ids)], threads=d.threads)]))
        return found

    return work


class Interrupted(Exception):
    """Raised by a signal."""


def interrupt(*_) -> None:
    raise Interrupted


def interrupted(seed: int, number: int, model: Model) -> Callable[[int], list[str]]:
    """Passes in the main thread until a signal ends one; the others are not disturbed."""
    p = Pass(Busy(seed, number), model, 40)
    sequences = p.sequences(empty=True)
    signal.signal(signal.SIGALRM, interrupt)

    def main():
        lengths = [len(each[0]) for each in sequences]
        with contextlib.suppress(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, p.d.upto(30, 1) / 1000)
            while True:
                _engine.forward(p.weights, sequences, bidirectional=True, threads=2)
        assert [len(each[0]) for each in sequences] == lengths
        return [digest([_engine.forward(p.weights, sequences, threads=2)])]

    others = calls(seed, number, model)
    return lambda thread: main() if thread is None else others(thread)


@functools.cache
def service():
    """A model and its scheduler."""
    gpt2, _ = random_gpt2()
    return gpt2, gpt2.scheduler(slice_tokens=7)


def scheduled(seed: int, number: int, model: Model) -> Callable[[int], list[str]]:
    """Requests to one scheduler of a model, some of them cancelled; captures beside it."""
    gpt2, scheduler = service()

    def work(thread):
        d = Busy(seed, number * THREADS + thread)
        ids = d.rng.integers(61, size=d.upto(20, 1)).tolist()
        asked = [scheduler.submit(ids, max_new_tokens=6, seed=i, temperature=1.0) for i in range(3)]
        asked[2].cancel()
        _, cache = gpt2.run_with_cache(ids, ["*hook_resid_post", "*hook_pattern"])
        texts = [[result.token_ids for result in each.future.result()] for each in asked[:2]]
        return [digest([cache[name] for name in sorted(cache)]), repr(texts)]

    return work


def call(seed: int, number: int) -> str:
    """One case: what all threads found, whoever was first."""
    model = model_of(seed, number // PER_MODEL)
    kind = Draw(seed, number).among((calls, branches, interrupted, scheduled))
    work = kind(seed, number, model)
    with ThreadPoolExecutor(THREADS) as pool, np.errstate(all="ignore"):
        others = [pool.submit(work, thread) for thread in range(THREADS)]
        found = [work(None) if kind is interrupted else [], *(each.result() for each in others)]
    return f"{zlib.crc32(repr(found).encode()):08x}"


if __name__ == "__main__":
    serve(call)
