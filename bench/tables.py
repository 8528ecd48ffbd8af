"""Where the time goes: tables in Markdown, with the roofs of the same run beside every time.

    python bench/tables.py [--quick] [--json FILE] [--only NAME ...]

Random weights of GPT-2's shapes. A share is the shortest time in which the machine could read the bytes or do
the arithmetic of a call, whichever is longer (gpt2c/cli/bench/cases.py says how both are counted and
measured), divided by the time the call took. Times are medians of alternating rounds. The whole takes about
half an hour, --quick a few minutes with fewer rounds and models; keep the machine quiet meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2c import GPT2, edits
from gpt2c.cli.bench import Case, Result, check_answers, cpu_name, measure, random_model, random_weights
from gpt2c.cli.bench.kernels import FEW_ROWS, KernelCase, dense
from gpt2c.config import Config
from gpt2c.core import _engine
from gpt2c.core.threads import default_threads
from gpt2c.generation.options import SamplingOptions
from gpt2c.generation.processors import LogitsProcessors

Table = dict[str, Any]


def table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str = "",
    points: Sequence[tuple[str, float, Result]] = (),
) -> Table:
    """``points`` are for bench/plots.py: name of a line, position along it, measurement."""
    return {
        "title": title,
        "header": list(header),
        "rows": [list(row) for row in rows],
        "note": note,
        "points": [{"line": line, "at": at, **result.report()} for line, at, result in points],
    }


def markdown(found: Table) -> str:
    lines = [f"### {found['title']}", ""]
    lines += [
        "| " + " | ".join(row) + " |"
        for row in [found["header"], ["---"] * len(found["header"]), *found["rows"]]
    ]
    return "\n".join([*lines, *(["", found["note"]] if found["note"] else []), ""])


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def share(result: Result) -> str:
    return f"{result.share:.0%} {result.roof}"


def gb(rate: float) -> str:
    return f"{rate / 1e9:.1f}"


def roofs_of(results: Sequence[Result]) -> str:
    """Arithmetic roofs in words."""
    rates = {dtype: rate for result in results for dtype, rate in result.rates.items()}
    return "Arithmetic roofs in Gop/s: " + ", ".join(f"{d} {r / 1e9:.0f}" for d, r in rates.items()) + "."


class ScoreCase(Case):
    """New texts, all of whose tokens one call scores."""

    def run(self) -> float:
        (ids,) = self.ids
        wanted = [(np.arange(len(ids)), np.roll(ids, -1))] * len(self.past)
        begin = time.perf_counter()
        for _ in range(self.repeats):
            sequences = [(self.model.new_cache(len(ids)), ids) for _ in self.past]
            _engine.score(self.model.weights, sequences, wanted, threads=self.threads)
        return (time.perf_counter() - begin) / self.repeats


class Tables:
    """Makes the tables; models are kept from one to the next, and checked before any speed is reported."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.o = options
        self.quick, self.dtypes = options.quick, options.dtypes
        self.rounds = options.rounds or (3 if self.quick else 5)
        self.team = f"{options.threads} thread{'s' * (options.threads != 1)}"
        self.seconds = 0.05 if self.quick else 0.1
        self.model = functools.lru_cache(maxsize=4)(self._model)

    def _model(self, dtype: str, shape: str = "124M") -> GPT2:
        model = random_model(shape, dtype=dtype, threads=self.o.threads)
        check_answers(model, 64)
        return model

    def case(self, name: str, model: GPT2, past: Sequence[int], rows: int = 1, **settings: Any) -> Case:
        return Case(name, model, past, rows, seconds=self.seconds, **settings)

    def measure(self, cases: Sequence[Case]) -> list[Result]:
        return measure(cases, self.rounds)

    def three(self, model: GPT2) -> list[Case]:
        """Decoding one sequence, decoding eight, and a prompt."""
        calls = 32 if self.quick else 128
        return [
            self.case("decode", model, [32], calls=calls),
            self.case("batch 8", model, [32] * 8, calls=calls // 4),
            self.case("prompt", model, [0], 512, keep=1),
        ]

    def formats(self) -> Table:
        cases = [case for dtype in self.dtypes for case in self.three(self.model(dtype))]
        results, rows = self.measure(cases), []
        for i, dtype in enumerate(self.dtypes):
            mine = results[3 * i : 3 * i + 3]
            cells = [c for r in mine for c in (f"{r.tokens_per_second:.0f}", share(r))]
            rows.append([dtype, f"{mine[0].bytes / 1e6:.0f}", *cells, gb(mine[0].read)])
        return table(
            f"Number formats, shape 124M, {self.team}, {_engine.default_isa()}",
            ("format", "MB per token", "decode tokens/s", "share", "batch 8 tokens/s", "share",
             "prompt of 512 tokens/s", "share", "reads GB/s"), rows, roofs_of(results))  # fmt: skip

    def context(self) -> Table:
        pasts, rows = (1, 30, 128, 256, 512, 1000), []
        points = []
        results = self.measure([self.case("", self.model(d), [past]) for d in self.dtypes for past in pasts])
        for i, dtype in enumerate(self.dtypes):
            mine = results[len(pasts) * i : len(pasts) * (i + 1)]
            base = mine[1]
            for past, r in zip(pasts, mine, strict=True):
                points.append((dtype, past, r))
                predicted = base.seconds * r.bytes / base.bytes
                rows.append([dtype, str(past), ms(r.seconds), ms(predicted), f"{r.seconds / predicted:.2f}",
                             f"{r.bytes / 1e6:.0f}", share(r), gb(r.read)])  # fmt: skip
        return table(f"One token after a context, shape 124M, {self.team}",
                     ("format", "past", "ms", "predicted ms", "ratio", "MB", "share", "reads GB/s"), rows,
                     "Predicted: the time after 30 times the ratio of the bytes read.", points)  # fmt: skip

    def batch(self) -> Table:
        return self._wide(
            "Sequences decoded together (past 64), shape 124M",
            "sequences",
            (1, 2, 4, 8, 16, 32),
            lambda model, n: self.case("", model, [64] * n),
        )

    def rows(self) -> Table:
        return self._wide(
            "Rows of one sequence (past 128; drafted tokens to verify), shape 124M",
            "rows",
            (1, 2, 4, 8, 16, 32, 64),
            lambda model, n: self.case("", model, [128], n),
        )

    def _wide(self, title: str, what: str, counts: Sequence[int], make: Callable[[GPT2, int], Case]) -> Table:
        rows, points = [], []
        for dtype in self.dtypes:
            results = self.measure([make(self.model(dtype), n) for n in counts])
            for n, r in zip(counts, results, strict=True):
                points.append((dtype, n, r))
                rows.append([dtype, str(n), ms(r.seconds), f"{r.tokens_per_second:.0f}",
                             f"{r.seconds / results[0].seconds:.2f}", share(r)])  # fmt: skip
        return table(f"{title}, {self.team}",
                     ("format", what, "ms", "tokens/s", "times one", "share"), rows, "", points)  # fmt: skip

    def linear(self) -> Table:
        """The dense layer alone; 768 inputs and 3,072 outputs, with few rows of twelve layers."""
        n_in, n_out, copies, counts = 768, 3072, 12, (1, 2, 4, 8, 16, 32, 64, 128, 256)
        how = {"isa": _engine.default_isa(), "threads": self.o.threads}
        rows = []
        weights = np.random.default_rng(0).standard_normal((n_in, copies * n_out), dtype=np.float32)

        def blas(count: int) -> KernelCase:
            layers = copies if count <= FEW_ROWS else 1
            w = np.ascontiguousarray(weights[:, : layers * n_out])
            x, out = np.ones((count, n_in), np.float32), np.empty((count, layers * n_out), np.float32)

            def work(n: int) -> None:
                for _ in range(n):
                    np.matmul(x, w, out=out)

            size = float(w.nbytes + x.nbytes)
            return KernelCase("NumPy", count, work, **how, bytes=size, pause=0.1,
                              operations={"float32": 2.0 * layers * count * n_in * n_out})  # fmt: skip

        for dtype in self.dtypes:
            ours = dense(dtype, n_in, n_out, copies, dtype, how, counts)
            theirs = [blas(n) for n in counts] if dtype == "float32" else []
            results = self.measure([*ours, *theirs])
            names = [dtype] * len(ours) + ["NumPy's BLAS"] * len(theirs)
            rows += [[name, str(r.tokens), ms(r.seconds), gb(r.bytes / r.seconds),
                      f"{sum(r.operations.values()) / r.seconds / 1e9:.0f}", share(r)]
                     for name, r in zip(names, results, strict=True)]  # fmt: skip
        note = (
            f"Up to {FEW_ROWS} rows, {copies} layers side by side. Rows are rounded to the number format "
            "before. The roof of reads is that of a cache where weights fit into one."
        )
        header = ("format", "rows", "ms", "GB/s", "Gop/s", "share")
        return table(f"The dense layer alone, {n_in} to {n_out}, {self.team}", header, rows, note)

    def threads(self) -> Table:
        counts, rows = sorted({1, self.o.threads}), []
        for dtype in self.dtypes:
            model = self.model(dtype)
            results = self.measure(
                [
                    self.case("", model, past, new, keep=1, threads=n)
                    for past, new in (([64], 1), ([64] * 8, 1), ([0], 512))
                    for n in counts
                ]
            )
            for i, name in enumerate(("decode", "batch 8", "prompt of 512")):
                mine = results[i * len(counts) : (i + 1) * len(counts)]
                cells = [c for r in mine for c in (ms(r.seconds), share(r), gb(r.read))]
                rows.append([dtype, name, *cells, f"{mine[0].seconds / mine[-1].seconds:.2f}"])
        header = [c for n in counts for c in (f"ms, {n} thread{'s' * (n != 1)}", "share", "reads GB/s")]
        return table("Threads, shape 124M", ("format", "call", *header, "speed-up"), rows)

    def shapes(self) -> Table:
        names = ("124M", "355M") if self.quick else ("124M", "355M", "774M", "1558M")
        rows, points = [], []
        for shape in names:
            for row, point in self._shape(shape):
                rows.append(row)
                points.append(point)
        return table(f"Model sizes, decoding after 64 tokens, {self.team}",
                     ("shape", "format", "MB per token", "decode tokens/s", "share",
                      "prompt of 512 tokens/s", "share", "reads GB/s", "s to make it"), rows, "",
                     points)  # fmt: skip

    def _shape(self, shape: str) -> list[tuple[list[str], tuple[str, float, Result]]]:
        self.model.cache_clear()  # the larger ones take gigabytes
        models, times = [], []
        # Not float32: the greatest would take 12 GB with its roof.
        for dtype in (d for d in self.dtypes if d != "float32"):
            begin = time.perf_counter()
            models.append(random_model(shape, dtype=dtype, threads=self.o.threads))
            times.append(time.perf_counter() - begin)
            check_answers(models[-1], 64)
        results = self.measure(
            [self.case("", m, past, n, keep=1) for m in models for past, n in (([64], 1), ([0], 512))]
        )
        rows = []
        for model, seconds, one, prompt in zip(models, times, results[::2], results[1::2], strict=True):
            cells = [c for r in (one, prompt) for c in (f"{r.tokens_per_second:.1f}", share(r))]
            row = [shape, model.dtype, f"{one.bytes / 1e6:.0f}", *cells, gb(one.read), f"{seconds:.0f}"]
            rows.append((row, (model.dtype, model.config.n_parameters, one)))
        return rows

    def isas(self) -> Table:
        rows = []
        for isa in _engine.isas()[1:]:  # the generic one is a proof, not a product
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "tables.json"
                command = [sys.executable, __file__, "--only", "formats", "--json", str(path)]
                command += ["--rounds", "3", "--threads", str(self.o.threads), "--quick"]
                command += ["--dtypes", *(["int8"] if self.quick else self.dtypes)]
                environment = {**os.environ, "GPT2C_ISA": isa}
                subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
                found = json.loads(path.read_text())["tables"]["formats"]
            rows += [[isa, *row] for row in found["rows"]]
        header = ("instruction set", *found["header"])
        return table("Instruction sets, shape 124M, each in a process of its own", header, rows)

    def sampling(self) -> Table:
        model = self.model("int8")
        token = self.measure([self.case("", model, [64])])[0]
        ids = np.arange(64, dtype=np.int32)
        logits = model.forward(ids, logits_to_keep=1)[0]
        rows = []
        settings: dict[str, dict[str, float]] = {
            "greedy": {"temperature": 0.0},
            "temperature 0.8": {"temperature": 0.8},
            "0.8, top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
            "0.8, top_k 50, top_p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
            "the same, repetition penalty 1.1": {
                "temperature": 0.8,
                "top_k": 50,
                "top_p": 0.95,
                "repetition_penalty": 1.1,
            },
        }
        for name, setting in settings.items():
            options = SamplingOptions(seed=1, **setting)
            processors = LogitsProcessors(model, options)
            times = []
            for position in range(200):
                begin = time.perf_counter()
                _engine.sample(
                    logits, processors(logits, ids, len(ids)), temperature=options.temperature,
                    top_k=options.top_k, top_p=options.top_p, min_p=0.0,
                    seed=1, stream=0, position=position)  # fmt: skip
                times.append(time.perf_counter() - begin)
            median = statistics.median(times)
            rows.append([name, f"{median * 1e6:.0f}", f"{median / token.seconds:.1%}"])
        note = f"A token takes {ms(token.seconds)} ms. The log-probability of the token drawn is part of it."
        return table(
            f"Drawing a token of {len(logits)}, beside decoding it: 124M, int8, {self.team}",
            ("options", "µs", "of a token's time"),
            rows,
            note,
        )

    def score(self) -> Table:
        rows = []
        for dtype in self.dtypes:
            case = ScoreCase("score", self.model(dtype), [0] * 4, 511, seconds=self.seconds)
            (result,) = self.measure([case])
            rows.append([dtype, f"{result.tokens / result.seconds:,.0f}", share(result)])
        return table(
            f"Four texts of 512 tokens scored by one call: 124M, {self.team}",
            ("format", "tokens/s", "of the roof"),
            rows,
            "The roof is the arithmetic of layers, attention and head, without what follows the logits.",
        )

    def search(self) -> Table:
        """Beam search beside the same number of greedy texts; random weights reorder beams often."""
        rng, rows, new = np.random.default_rng(2), [], 16 if self.quick else 64
        for dtype in self.dtypes:
            model = self.model(dtype)
            for n_prompt in (32, 500):
                prompt = rng.integers(1000, 50000, size=n_prompt).tolist()
                times: dict[str, list[float]] = {}
                for _ in range(self.rounds):
                    for name, options in (
                        ("batch", {"num_return_sequences": 4}),
                        ("search", {"num_beams": 4, "num_return_sequences": 4}),
                    ):
                        begin = time.perf_counter()
                        model.generate(prompt, max_new_tokens=new, min_new_tokens=new, **options)
                        times.setdefault(name, []).append(time.perf_counter() - begin)
                batch, search = (statistics.median(times[name]) for name in ("batch", "search"))
                ratios = [b / a for a, b in zip(times["batch"], times["search"], strict=True)]
                rows.append([dtype, str(n_prompt), ms(batch), ms(search), f"{statistics.median(ratios):.2f}"])
        return table(
            f"Beam search with 4 beams over {new} tokens, beside 4 greedy texts: 124M, {self.team}",
            ("format", "prompt", "4 texts, ms", "4 beams, ms", "ratio"),
            rows,
            "The prompt is part of both. The ratio is the median of the rounds' ratios.",
        )

    def look(self) -> Table:
        """A pass with captures beside a plain one, and decoding with an edit or captures."""
        looks = {"residual stream": "*.hook_resid_post", "patterns": "*.hook_pattern", "everything": None}
        steer = [("blocks.6.hook_resid_pre", edits.add(1.0))]
        rng, rows, new = np.random.default_rng(3), [], 16 if self.quick else 64
        for dtype in self.dtypes:
            model = self.model(dtype)
            for n in (16, 64, 512):
                ids = rng.integers(1000, 50000, size=n).astype(np.int32)
                calls = {"": functools.partial(model.forward, ids)}
                for name, names_filter in looks.items():
                    calls[name] = functools.partial(model.run_with_cache, ids, names_filter)
                rows.append([dtype, f"pass over {n}", *self._beside(calls), ""])
            prompt = rng.integers(1000, 50000, size=16).tolist()
            options = {"max_new_tokens": new, "min_new_tokens": new}
            calls = {"": functools.partial(model.generate, prompt, **options)}
            for name, names_filter in looks.items():
                calls[name] = functools.partial(model.generate, prompt, names_filter=names_filter, **options)
            calls["edit"] = functools.partial(model.generate, prompt, edits=steer, **options)
            rows.append([dtype, f"16 + {new} new", *self._beside(calls)])
        return table(
            f"What looking costs: 124M, {self.team}",
            ("format", "what", "unseen, ms", *looks, "a vector added in a layer"),
            rows,
            "Times of what is looked at or edited as multiples of the first: medians of the rounds' ratios.",
        )

    def _beside(self, calls: dict[str, Callable[[], Any]]) -> list[str]:
        """The time of the first call, and the others as multiples of it, in alternating rounds."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.rounds):
            for name, call in calls.items():
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
        plain, *others = times.values()
        ratios = [[b / a for a, b in zip(plain, other, strict=True)] for other in others]
        return [ms(statistics.median(plain)), *(f"{statistics.median(each):.2f}" for each in ratios)]

    def sizes(self) -> Table:
        rng, rows, worst = np.random.default_rng(1), [], (2.0, "")
        for number in range(4 if self.quick else 12):
            dtype = self.dtypes[number % len(self.dtypes)]
            head = int(rng.choice([32, 48, 64, 80, 96, 100]))
            heads = int(rng.integers(4, 1 + 1100 // head))
            config = Config(
                n_layer=int(rng.integers(3, 9)),
                n_head=heads,
                n_embd=head * heads,
                n_inner=int(rng.integers(2, 5)) * head * heads + int(rng.integers(0, 2)) * 24,
                n_ctx=1024,
                n_vocab=int(rng.integers(5_000, 50_258)),
                activation=str(rng.choice(["gelu_new", "gelu", "relu", "silu"])),
            )
            prompt, new = int(rng.integers(200, 701)), int(rng.integers(1, 13))
            model = GPT2(
                random_weights(config, dtype=dtype, threads=self.o.threads, seed=number),
                threads=self.o.threads,
            )
            check_answers(model, 64)
            cases = [self.case("prompt", model, [0], prompt, keep=1), self.case("rows", model, [prompt], new)]
            results = self.measure(cases)
            name = (
                f"{config.n_layer} layers, {heads} heads of {head}, {config.n_inner} inner, "
                f"{config.n_vocab} tokens, {config.activation}"
            )
            cells = [c for r in results for c in (ms(r.seconds), share(r))]
            rows.append([dtype, name, f"{prompt}", *cells[:2], f"{new}", *cells[2:]])
            for what, r in zip((f"prompt of {prompt}", f"{new} rows after {prompt}"), results, strict=True):
                worst = min(worst, (r.share, f"{dtype}, {name}: {what} at {share(r)}"))
        return table(f"Random sizes, {self.team}",
                     ("format", "model", "prompt", "ms", "share", "rows after it", "ms", "share"), rows,
                     f"The worst: {worst[1]}.")  # fmt: skip


NAMES = (
    "formats",
    "linear",
    "context",
    "batch",
    "rows",
    "threads",
    "sampling",
    "score",
    "search",
    "look",
    "sizes",
    "isas",
    "shapes",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and models")
    parser.add_argument("--json", metavar="FILE", help="write everything to FILE, too")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--dtypes", nargs="+", choices=_engine.DTYPES, default=list(_engine.DTYPES))
    parser.add_argument("--rounds", type=int, help="alternating rounds of each measurement (5; quick: 3)")
    options = parser.parse_args()
    tables = Tables(options)
    begin = time.perf_counter()
    print(f"{cpu_name()}, {_engine.TEAM}, {_engine.default_isa()}\n", flush=True)
    found = {}
    for name in options.only or NAMES:
        found[name] = getattr(tables, name)()
        print(markdown(found[name]), flush=True)
        print(f"{name} done after {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    if options.json:
        machine = {"cpu": cpu_name(), "isa": _engine.default_isa(), "threads": options.threads}
        Path(options.json).write_text(
            json.dumps({"machine": machine, "tables": found}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
