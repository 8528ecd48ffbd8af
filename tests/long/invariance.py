"""Thousands of random calls that must give the same bytes as one plain call, counted by stratum.

    python tests/long/invariance.py [--cases 5000] [--seed s] [--dtypes …] [--isas …] [--model i]

For each random model some texts are computed at once: alone, on one thread. Every case is another call over
pieces of these texts, and must give the same logits (or scores) bit for bit: with another cut, in company, on
1 to 3 threads, on any instruction set, and with caches that are new, grown, truncated or forked, some having
held another text before. bfloat16 is compared within one instruction set where that one has an instruction of
its own for it, else among all.

Every stratum gets the same number of cases, for each dtype: rows of the call {1, 2 to 16, 17 and more} x
threads {1, 2, 3} x an edge of blocks {none, 127, 128, 129, 255, 256, 257} that a sequence begins or ends at
(or that is the number of rows) x instruction set. Prints the counts; at the first difference a reproducer,
and status 1. 5,000 cases take six to eight minutes on two cores, most of it for `generic`:
leave that out with --isas when time is short.
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
import numpy as np
from helpers.rounding import OWN_BFLOAT16
from helpers.strategies import ACTIVATIONS, AROUND_VECTOR, random_model

from gpt2c.config import Config
from gpt2c.core import _engine

ROWS = {"1": (1, 1), "2-16": (2, 16), "17+": (17, 300)}
THREADS = (1, 2, 3)
EDGES = (0, 127, 128, 129, 255, 256, 257)  # 0: none in particular
CASES_PER_MODEL = 25
WIDE_EVERY = 16  # one model of so many is wide
TEXTS = 3


def kin(dtype, isa):
    """Instruction sets that must agree have the same kin."""
    return isa if dtype == "bfloat16" and isa in OWN_BFLOAT16 else "all"


def extras(weights):
    """What scores have besides: the two most probable tokens, the mass of every third id."""
    return {"top": 2, "masks": _engine.mask_bits(np.arange(weights.config.n_vocab)[None] % 3 == 0)}


def random_config(rng, wide):
    """Small, of any shape; or so wide that sums are made of several blocks of 256 inputs."""
    n_head = int(rng.choice((1, 2, 3, 4, 12)))
    if wide:
        n_embd = n_head * (int(rng.integers(500, 790)) // n_head) if rng.random() < 0.5 else 768
        n_inner = int(rng.choice((513, 640, 767, 1025)))
    else:
        edges = [d for d in AROUND_VECTOR if 4 <= n_head * d <= 200]
        head_dim = rng.choice(edges) if rng.random() < 0.7 else rng.integers(4, 200 // n_head + 1)
        n_embd = n_head * int(head_dim)
        n_inner = 4 * n_embd if rng.random() < 0.4 else int(rng.integers(1, 530))
    shared = bool(rng.random() < 0.3)  # keys and values, by all heads
    return Config(
        n_layer=1 if wide else int(rng.integers(1, 4)),
        n_head=n_head,
        n_kv_head=1 if shared else n_head,
        n_embd=n_embd,
        n_inner=n_inner,
        n_ctx=int(rng.integers(258, 300 if wide else 401)),
        n_vocab=int(rng.choice((2, 63, 64, 65, 131, 257))),
        activation=str(rng.choice(ACTIVATIONS)),
        layer_norm_epsilon=1e-5,
        scale_attn_weights=bool(rng.random() < 0.8),
        scale_attn_by_inverse_layer_idx=bool(rng.random() < 0.3) and not (shared and n_head > 1),
        tie_word_embeddings=bool(rng.random() < 0.5),
    )


@dataclass
class Piece:
    """Part of a call: `n` tokens of a text after its first `past`, with a cache and how that came about."""

    text: int
    past: int
    n: int
    origin: str = ""
    cache: _engine.KVCache = None

    def __str__(self):
        return f"text {self.text}[{self.past}:{self.past + self.n}] with {self.cache} ({self.origin})"


@dataclass(eq=False)
class Living:
    """A cache that earlier cases left, and the text that it holds the beginning of."""

    cache: _engine.KVCache
    text: int


@dataclass
class Stand:
    """One model on one instruction set. The first living cache holds all of the first text, to be forked."""

    isa: str
    weights: _engine.Weights
    living: list = field(default_factory=list)


class Different(Exception):
    pass


class Model:
    """A random model, its texts and what every call must give; all drawn from (seed, index)."""

    def __init__(self, seed, index, dtype):
        self.rng = rng = np.random.default_rng((seed, index))
        self.dtype, self.calls = dtype, 0
        self.wide = index % WIDE_EVERY == WIDE_EVERY - 1
        self.config = config = random_config(rng, self.wide)
        # Not so large that attention sees one key only, where differences would vanish.
        std = min(0.2, 1.4 * config.n_embd**-0.5)
        tensors = random_model(config, rng, std)
        options = {} if dtype == "float32" else {"dtype": dtype}
        self.stands = {
            isa: Stand(isa, _engine.Weights(config, tensors.__getitem__, isa=isa, **options))
            for isa in _engine.isas()
        }
        # Texts that share beginnings, so that a truncated cache can go on with another one.
        first = rng.integers(config.n_vocab, size=config.n_ctx).astype(np.int32)
        self.texts, self.shared = [first], [config.n_ctx]
        for _ in range(TEXTS - 1):
            shared = int(rng.choice((0, *EDGES[1:], rng.integers(config.n_ctx))))
            self.texts.append(np.where(np.arange(config.n_ctx) < shared, first, rng.permutation(first)))
            self.shared.append(shared)
        plain = {}  # the widest instruction set of each kin
        for isa, stand in self.stands.items():
            plain[kin(dtype, isa)] = stand.weights
        self.truth = {name: self.at_once(weights) for name, weights in plain.items()}
        for stand in self.stands.values():
            cache = _engine.KVCache(stand.weights)
            self.compare(stand, [Piece(0, 0, config.n_ctx, "root", cache)], 2, "logits", 0)
            stand.living.append(Living(cache, 0))

    def at_once(self, weights):
        """Logits of every text, and scores (log-probability, rank, entropy, …) of the tokens that follow."""
        logits, scores = [], []
        for text in self.texts:
            logits.append(_engine.forward(weights, [(_engine.KVCache(weights), text)]))
            assert np.isfinite(logits[-1]).all()
            wanted = (np.arange(len(text)), np.roll(text, -1))
            scores.append(
                _engine.score(weights, [(_engine.KVCache(weights), text)], [wanted], **extras(weights))
            )
        return logits, scores

    # ---- drawing a case ----

    def draw_pieces(self, rows, edge):
        """Sequences that have so many rows together, one of which meets the edge."""
        rng, n_ctx = self.rng, self.config.n_ctx
        low, high = ROWS[rows]
        total = int(rng.integers(low, high + 1))
        if rows == "17+" and edge and rng.random() < 0.3:
            total, edge = edge, 0  # the edge is the number of rows
        count = min(total, int(rng.integers(2, 9)) if rng.random() < 0.6 else 1)
        cuts = np.sort(rng.choice(np.arange(1, total), count - 1, replace=False)) if count > 1 else []
        pieces = []
        for n in np.diff([0, *cuts, total]).tolist():
            n = min(n, n_ctx)
            past = rng.choice((0, rng.integers(min(40, n_ctx - n) + 1), rng.integers(n_ctx - n + 1)))
            if edge and not pieces:
                if n > edge and edge + n > n_ctx:
                    n = edge
                ends = n <= edge and (edge + n > n_ctx or rng.random() < 0.6)
                past = edge - n if ends else edge
            pieces.append(Piece(int(rng.choice(TEXTS, p=(0.6, 0.2, 0.2))), int(past), n))
        rng.shuffle(pieces)
        return pieces

    def find_cache(self, stand, piece, used):
        """A cache that holds the piece's past: new or living or forked, cut off and grown as needed."""
        rng, room = self.rng, piece.past + piece.n

        def common(living):
            if living.text == piece.text:
                return len(living.cache)
            return min(len(living.cache), self.shared[living.text], self.shared[piece.text])

        # Rarely grown far, and never in a wide model: that would take most of the time.
        new = 0.4 if piece.past <= 40 else 0.0 if self.wide else 0.1
        p = (new, 0.4 * (1 - new), 0.6 * (1 - new))
        origin = str(rng.choice(("new", "living", "forked"), p=p))
        candidates = [living for living in stand.living if common(living) or not piece.past]
        if origin == "living":
            candidates = [x for x in candidates[1:] if x not in used and x.cache.n_ctx >= room]
        if origin == "new" or not candidates:
            origin = "new"
            n_ctx = int(rng.choice((room, rng.integers(room, self.config.n_ctx + 1), self.config.n_ctx)))
            found = Living(_engine.KVCache(stand.weights, n_ctx), piece.text)
        else:
            candidates.sort(key=lambda living: max(piece.past - common(living), 0))
            found = candidates[int(rng.integers(min(2, len(candidates))))]
            keep = min(common(found), piece.past)
            if origin == "forked":
                n_ctx = int(rng.integers(max(len(found.cache), room), self.config.n_ctx + 1))
                found = Living(found.cache.fork(n_ctx), found.text)
            if len(found.cache) > keep:
                origin += ", truncated"
                found.cache.truncate(keep)
            if found.text != piece.text:
                origin += ", of another text"
            found.text = piece.text
        if len(found.cache) < piece.past:
            origin += ", grown"
            self.grow(stand, piece, found.cache)
        if found not in stand.living:
            stand.living.append(found)
        used.append(found)
        piece.cache, piece.origin = found.cache, origin

    def grow(self, stand, piece, cache):
        """Up to the piece's past, in steps of one size or at once; these calls must be right, too."""
        missing = piece.past - len(cache)
        step = max(int(self.rng.choice((missing, missing, 1, 2, 7, 16, 64, 127, 128, 129))), missing // 30)
        threads = int(self.rng.integers(1, 3))
        while len(cache) < piece.past:
            part = Piece(piece.text, len(cache), min(step, piece.past - len(cache)), "growing", cache)
            self.compare(stand, [part], threads, "logits", 0)

    def case(self, rows, threads, edge, isa):
        """One case; returns its circumstances, to be counted."""
        stand, used = self.stands[isa], []
        pieces = self.draw_pieces(rows, edge)
        total = sum(piece.n for piece in pieces)
        ends = {end for piece in pieces for end in (piece.past, piece.past + piece.n)}
        assert ROWS[rows][0] <= total <= ROWS[rows][1] and (not edge or edge in ends | {total})
        for piece in pieces:
            self.find_cache(stand, piece, used)
        what = str(self.rng.choice(("logits", "last logits", "scores"), p=(0.7, 0.15, 0.15)))
        keep = int(self.rng.integers(1, 5)) if what == "last logits" else 0
        self.compare(stand, pieces, threads, what, keep)
        while len(stand.living) > 5:
            del stand.living[int(self.rng.integers(1, len(stand.living)))]
        words = {"cache " + word for piece in pieces for word in piece.origin.split(", ")}
        words.add("a past" if any(piece.past for piece in pieces) else "no past")
        words.add("one sequence" if len(pieces) == 1 else "several sequences")
        return [what, *words]

    # ---- comparing ----

    def compare(self, stand, pieces, threads, what, keep):
        """Make the call; its results must be those of the texts computed at once."""
        self.calls += 1
        logits, scores = self.truth[kin(self.dtype, stand.isa)]
        ids = [self.texts[p.text][p.past : p.past + p.n] for p in pieces]
        description = "; ".join(map(str, pieces))  # before the call: the caches grow
        sequences = [(p.cache, one) for p, one in zip(pieces, ids, strict=True)]
        places = [(p.text, slice(p.past + max(0, p.n - (keep or p.n)), p.past + p.n)) for p in pieces]
        if what == "scores":
            targets = [np.roll(self.texts[p.text], -1)[p.past : p.past + p.n] for p in pieces]
            wanted = [(np.arange(len(some)), some) for some in targets]
            actual = _engine.score(stand.weights, sequences, wanted, threads=threads, **extras(stand.weights))
            expected = [np.concatenate([scores[t][i][at] for t, at in places]) for i in range(len(actual))]
        else:
            actual = [_engine.forward(stand.weights, sequences, keep=keep, threads=threads)]
            expected = [np.concatenate([logits[t][at] for t, at in places])]
        for mine, right in zip(actual, expected, strict=True):
            if mine.tobytes() != right.tobytes():
                unlike = mine.view(np.uint32) != right.view(np.uint32)
                rows = np.flatnonzero(unlike.reshape(len(right), -1).any(axis=1)).tolist()
                raise Different(
                    f"{what} of {len(rows)} of {len(right)} rows ({str(rows[:8])[1:-1]}…)"
                    f" by up to {np.abs(mine - right).max()}\n"
                    f"  isa {stand.isa}, threads {threads}, keep {keep}, {self.dtype}\n"
                    f"  sequences: {description}\n  {self.config}"
                )


def run(dtype, cases, seed, models, isas):
    """The cases of these models with one dtype; returns whether all were equal."""
    strata = list(itertools.product(ROWS, THREADS, EDGES, isas))
    np.random.default_rng(seed).shuffle(strata)
    counts, circumstances, calls, started = Counter(), Counter(), 0, time.perf_counter()
    shown = started
    for index in models:
        try:
            model = Model(seed, index, dtype)
            for number in range(index * CASES_PER_MODEL, min((index + 1) * CASES_PER_MODEL, cases)):
                stratum = strata[number % len(strata)]
                circumstances.update(model.case(*stratum))
                counts[stratum] += 1
        except Different as difference:
            again = f"--cases {cases} --seed {seed} --isas {' '.join(isas)}"
            print(f"DIFFERENT: {difference}")
            print(f"again: python tests/long/invariance.py --dtypes {dtype} {again} --model {index}")
            return False
        calls += model.calls
        if time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            print(f"{dtype}: {sum(counts.values())} cases after {shown - started:.0f} s", file=sys.stderr)

    print(f"{dtype}: {sum(counts.values()):,} cases, all equal, in {calls:,} calls; "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    print(f"  {'rows':6}{'threads':9}" + "".join(f"{edge or 'no edge':>9}" for edge in EDGES))
    for rows, threads in itertools.product(ROWS, THREADS):
        cells = [sum(counts[rows, threads, edge, isa] for isa in isas) for edge in EDGES]
        print(f"  {rows:6}{threads:<9}" + "".join(f"{cell:>9}" for cell in cells))
    by_isa = {isa: sum(n for stratum, n in counts.items() if stratum[3] == isa) for isa in isas}
    print("  " + ", ".join(f"{isa} {n}" for isa, n in by_isa.items()))
    print("  " + ", ".join(f"{name} {n}" for name, n in sorted(circumstances.items())))
    sys.stdout.flush()
    return True


def main():
    dtypes = getattr(_engine, "DTYPES", ("float32",))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000, help="for each dtype; default: 5000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, default=dtypes, metavar="DTYPE",
                        help=f"out of {', '.join(dtypes)}; default: all")  # fmt: skip
    parser.add_argument("--isas", nargs="+", choices=_engine.isas(), default=_engine.isas(), metavar="ISA",
                        help="instruction sets of the calls; default: all")  # fmt: skip
    parser.add_argument("--model", type=int, help="only the cases of this model, as a reproducer names it")
    options = parser.parse_args()
    models = range(-(-options.cases // CASES_PER_MODEL))
    if not models or options.seed < 0 or options.model not in (None, *models):
        parser.error(f"--cases is at least 1, --seed at least 0 and --model below {len(models)}")
    if options.model is not None:
        models = [options.model]
    equal = [run(dtype, options.cases, options.seed, models, options.isas) for dtype in options.dtypes]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
