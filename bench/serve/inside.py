"""The scheduler in this process: its rate, and how long texts wait while a long prompt arrives."""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter, sleep

import numpy as np

from gpt2c import GPT2

from .clients import N_VOCAB, THREADS, Goals, percentiles, progress

CLIENTS, NEW_TOKENS = 20, 40
LONG, SLICE = 1000, 64


def in_process(options: argparse.Namespace) -> tuple[list[dict], Goals]:
    """Twenty texts, four ways."""
    model = GPT2.from_pretrained(options.model, threads=THREADS)
    rng = random.Random(0)
    prompts = [[rng.randrange(N_VOCAB) for _ in range(32)] for _ in range(CLIENTS)]
    scheduler, how = model.scheduler(), {"max_new_tokens": NEW_TOKENS}

    async def scheduled() -> None:
        await asyncio.gather(
            *(scheduler.generate(ids, client=str(i), **how) for i, ids in enumerate(prompts))
        )

    async def streamed() -> None:
        async def one(i: int) -> None:
            async for _ in scheduler.stream(prompts[i], client=str(i), **how):
                pass

        await asyncio.gather(*map(one, range(CLIENTS)))

    def threads() -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda ids: list(model.stream(ids, **how)), prompts))

    ways: dict[str, Callable[[], object]] = {
        "one generate of the list": lambda: model.generate(prompts, **how),
        "scheduler": lambda: asyncio.run(scheduled()),
        "scheduler, streamed": lambda: asyncio.run(streamed()),
        f"{CLIENTS} threads with stream": threads,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with scheduler:
        for number in range(options.rounds + 1):
            progress(f"round {number} of {options.rounds}" if number else "warming up")
            for name, way in ways.items():
                begin = perf_counter()
                way()
                rates[name].append(CLIENTS * NEW_TOKENS / (perf_counter() - begin))
    medians = {name: statistics.median(found[1:]) for name, found in rates.items()}
    first, second, *_ = medians.values()
    rows = [{"how": name, "tokens/s": rate, "of generate": rate / first} for name, rate in medians.items()]
    return rows, [(f"scheduler: {second / first:.0%} of generate; goal: 90 %", second >= 0.9 * first)]


def long_prompt(options: argparse.Namespace) -> tuple[list[dict], Goals]:
    """Eight texts continue while a long prompt arrives."""
    model = GPT2.from_pretrained(options.model, threads=THREADS)
    rng = random.Random(0)
    slices, alone, beside = [], [], []
    with model.scheduler(slice_tokens=SLICE) as scheduler:
        for number in range(4 * options.rounds):
            progress(f"round {number + 1} of {4 * options.rounds}")
            ids = [rng.randrange(N_VOCAB) for _ in range(LONG)]
            slices += slices_alone(model, ids)
            times: list[list[float]] = [[] for _ in range(8)]
            running = [
                scheduler.submit(
                    ids[32 * i : 32 * i + 32],
                    notify=lambda steps, its=its: its.append(perf_counter()),
                    max_new_tokens=400,
                )
                for i, its in enumerate(times)
            ]
            while min(map(len, times)) < 30:
                sleep(0.01)
            all_run, arrives = max(its[0] for its in times), perf_counter()
            scheduler.submit(ids, client="long", max_new_tokens=1).future.result()
            computed = perf_counter()
            for one in running:
                one.cancel()
                one.future.result()
            gaps = [pair for its in times for pair in pairwise(its)]
            alone += [b - a for a, b in gaps if all_run <= a and b < arrives]
            beside += [b - a for a, b in gaps if b > arrives and a < computed]
    rows = [
        {"what": name, **percentiles("", found)}
        for name, found in (
            ("a step of 8 texts", alone),
            (f"a slice of {SLICE} tokens", slices),
            ("between tokens, a long prompt beside", beside),
        )
    ]
    both = statistics.median(alone) + statistics.median(slices)
    ratio = float(np.percentile(beside, 99)) / both
    return rows, [(f"p99 between tokens: {ratio:.2f} times a step and a slice; goal: 2", ratio <= 2)]


def slices_alone(model: GPT2, ids: Sequence[int]) -> Iterator[float]:
    """Seconds of the full slices of a prompt."""
    cache = model.new_cache()
    for start in range(0, len(ids) - SLICE + 1, SLICE):
        begin = perf_counter()
        model.forward(ids[start : start + SLICE], cache, logits_to_keep=1)
        yield perf_counter() - begin
