"""Hostile clients of `gpt2c serve`: any bytes, slow ones, those that leave, floods; and memory stays flat.

    python tests/long/server.py [--cases 1000 | --minutes m] [--seed s] [--first i] [--only KIND …]

The bundled model, with a chat template, is served in a process of its own. A case is a client:

fuzz     a request that is valid by the server's schemas, nearly valid or malformed, or bytes that are no HTTP
leave    goes away at a random moment: amid its request, before the answer, amid a stream
slow     sends a byte at a time, never finishes, announces a body that never comes, hardly reads or not at all
flood    one of 200 at once, more than the queue holds
crowd    one of 100 beside 480 idle connections, more than the server takes

Every answer must be valid HTTP with a documented status, errors in the documented form. Beside all of them,
another client asks for known results. After every round of some hundred cases, the known results of every
endpoint have the very same bytes, /health answers within a second, nothing runs, waits or stays open, and the
log has only lines of requests. At the end, after SIGTERM, running streams are finished, the status is 0, and
no process is left. Of 50 rounds or more, the last third takes the memory of the middle one, to 2 % or 4 MiB.

Prints failures with what repeats them, --seed s --first i --cases n --only KIND; status 1 if there were any.
"""

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers.any_requests import SAMPLE, http
from helpers.gates import Failure, gate_parser, numbers_of, require
from helpers.hostile import CASES, KNOWN, TEXT, VARYING, post
from helpers.visitors import Process, Visitor, ask, checked

from gpt2c import GPT2

CYCLE = (("fuzz", 250), ("leave", 150), ("fuzz", 200), ("slow", 100), ("flood", 200), ("crowd", 100))
AT_ONCE = {"fuzz": 16, "leave": 32}  # the others: all
ALLOWED = {"flood": (200, 429), "crowd": (200, 503)}  # for a known result; otherwise 200
HELD = 480  # idle connections in a crowd, of the 512 that a server takes
WORKERS = 40  # threads of anyio
HEALTH_SECONDS = 5  # for /health, beside the others
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


class Gate:
    """The server, its known results, and what was seen."""

    def __init__(self, server, arguments):
        self.server, self.arguments = server, arguments
        self.seen, self.failed, self.cases = Counter(), 0, 0
        self.samples, self.longest = [], 0.0
        self.known, self.files, self.threads = [], 0, 0

    async def begin(self):
        """The known results, and what the server holds when nothing happens; it remembers 64 sessions."""
        for number in range(64):
            body = {"prompt": SAMPLE[:1500], "session": f"{number}"}
            self.judge(await ask(self.server.port, post("/v1/suggest", body)), {200})
        self.known = [await self.result(i) for i in range(len(KNOWN))]
        self.files, self.threads = (self.server.sizes()[name] for name in ("files", "threads"))
        await self.settle()

    async def result(self, number, allowed=(200,)):
        """The bytes of a known result, without what differs each time; None if the server is busy."""
        path, body = KNOWN[number]
        answer = await ask(self.server.port, post(path, body))
        require(answer, f"no answer to {path}")
        checked(answer)
        self.seen[answer.status] += 1
        if answer.status in (200, 400):  # one of them is an error
            return VARYING.sub(b"", answer.body)
        require(answer.status in allowed, f"{path}: {answer.status}: {answer.body[:300]}")
        return None

    def same(self, number, found):
        wanted = self.known[number]
        require(found == wanted, f"{KNOWN[number]} gives other bytes: {found!r:.500}, not {wanted!r:.500}")

    async def settle(self):
        """After a round: the server does what it did before, and nothing is left."""
        end = time.monotonic() + 15
        while True:
            gauges, sizes = await self.server.gauges(), self.server.sizes()
            left = [gauges[f"gpt2c_{name}"] for name in ("running", "waiting", "reserved_positions")]
            if not any(left) and sizes["files"] <= self.files:
                break
            late = time.monotonic() > (end if not any(left) else end - 10)
            require(not late, f"{left} run, wait, are reserved; {sizes}; before: {self.files} files")
            await asyncio.sleep(0.1)
        require(sizes["threads"] <= self.threads + WORKERS, f"{sizes['threads']} threads")
        await self.check_health(1)
        for number in range(len(KNOWN)):
            self.same(number, await self.result(number))
        self.server.check_log()
        self.samples.append(self.server.sizes())

    async def check_health(self, most):
        """/health answers within some seconds."""
        begun = time.monotonic()
        health = await ask(self.server.port, http("GET", "/health"), "GET")
        seconds = time.monotonic() - begun
        require(health and health.status == 200 and seconds < most, f"/health: {health} in {seconds:.1f} s")

    # ---- rounds

    async def round(self, kind, numbers):
        """Some cases at once, and how the server is afterwards."""
        limit = asyncio.Semaphore(AT_ONCE.get(kind, len(numbers)))

        async def one(number):
            async with limit:
                try:
                    await CASES[kind](self, random.Random(f"{self.arguments.seed} {number}"))
                except (Failure, OSError, TimeoutError) as error:
                    alone = kind not in ALLOWED
                    self.report(f"case {number}", error, kind, [number] if alone else numbers)
            self.cases += 1

        try:
            async with contextlib.AsyncExitStack() as held:
                for _ in range(HELD if kind == "crowd" else 0):
                    await held.enter_async_context(Visitor(self.server.port))
                beside = asyncio.create_task(self.others(ALLOWED.get(kind, (200,))))
                await asyncio.gather(*(one(number) for number in numbers))
                beside.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beside
            if kind in ALLOWED and len(numbers) >= 100:
                require(self.seen[ALLOWED[kind][1]], f"a {kind} reaches no limit")
            await self.settle()
        except (Failure, OSError, TimeoutError) as error:
            self.report(f"round of {kind}", error, kind, numbers)

    async def others(self, allowed):
        """A well-behaved client beside the others, with one request after another."""
        while True:
            for number in range(len(KNOWN)):
                begun = time.monotonic()
                with contextlib.suppress(ConnectionError) if 503 in allowed else contextlib.nullcontext():
                    found = await self.result(number, allowed)
                    if found is not None:
                        self.same(number, found)
                self.longest = max(self.longest, time.monotonic() - begun)
                if 503 not in allowed:
                    await self.check_health(HEALTH_SECONDS)
                await asyncio.sleep(0.1)

    def report(self, what, error, kind, numbers):
        self.failed += 1
        again = f"--seed {self.arguments.seed} --first {numbers[0]} --cases {len(numbers)} --only {kind}"
        print(f"{what}: {type(error).__name__}: {error} ({again})", flush=True)

    def judge(self, answer, statuses, method="POST"):
        require(answer, "the connection ends without an answer")
        require(
            answer.status in statuses, f"{answer.status}, allowed: {sorted(statuses)}: {answer.body[:300]}"
        )
        checked(answer, method)
        self.seen[answer.status] += 1

    def thirds(self):
        """Whether memory is flat, as words; Failure if not."""
        n = len(self.samples) // 3
        middle, last = (
            sum(sample["MiB"] for sample in part) / n
            for part in (self.samples[n : 2 * n], self.samples[2 * n :][:n])
        )
        most = max(4.0, 0.02 * middle)
        words = f"memory in thirds: {middle:.1f} MiB, then {last:.1f} ({len(self.samples)} samples)"
        require(last - middle <= most, f"{words}: {[round(sample['MiB']) for sample in self.samples]}")
        return words

    async def end(self):
        """SIGTERM amid work: what runs is finished, and nothing is left."""
        body = {"prompt": TEXT, "max_tokens": 200, "stream": True, "ignore_eos": True, "seed": 1}
        async with contextlib.AsyncExitStack() as stack:
            some = [await stack.enter_async_context(Visitor(self.server.port)) for _ in range(12)]
            for visitor in some[:8]:
                await visitor.send(post("/v1/completions", body))
                await visitor.read(1)  # it has begun
            ending = asyncio.create_task(self.server.end())
            for visitor in some[:8]:
                visitor.left = b"H"  # the byte that was read
                answer = await visitor.answer()
                self.judge(answer, {200})
                require(answer.body.count(b'"ended_by":"length"') == 1, "a stream was cut off")
            for visitor in some[8:]:
                require(await visitor.read() == b"", "an idle connection was answered")
            status = await ending
        require(status == 0, f"the status after SIGTERM is {status}")
        self.server.check_log()
        require(not self.server.left(), f"processes are left: {self.server.left()}")


async def run(arguments, folder):
    """All rounds; the gate afterwards."""
    model = GPT2.from_pretrained(threads=1)
    model.export(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    gate = Gate(Process(), arguments)
    kinds = [kind for kind, n in CYCLE for _ in range(n) if kind in arguments.only]
    try:
        await gate.server.start("-m", folder, "-t", 1, "--prefix-cache", "8MB")
        await gate.begin()
        for (_, kind), some in groupby(numbers_of(arguments), lambda i: place(i, kinds)):
            await gate.round(kind, [*some])
            if gate.server.process.returncode is not None:
                raise Failure("the server has ended")
        if len(gate.samples) >= 50:
            print(gate.thirds())
        await gate.end()
    except (Failure, OSError, TimeoutError) as error:
        gate.failed += 1
        print(f"{type(error).__name__}: {error}")
    finally:
        await gate.server.kill()
    return gate


def place(number, kinds):
    """The round of a case, and its kind."""
    part, at = divmod(number, len(kinds))
    begun = next(i for i in range(at, -1, -1) if i == 0 or kinds[i - 1] != kinds[at])
    return (part, begun), kinds[at]


def main():
    arguments = gate_parser(__doc__, 1000, tuple(CASES), "kinds of clients").parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        gate = asyncio.run(run(arguments, Path(folder)))
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(gate.seen.items()))
    seconds = time.monotonic() - begun
    print(f"{gate.cases} cases, {gate.failed} failed, seed {arguments.seed}; {seconds:.0f} s")
    print(f"answers {statuses}; {gate.server.n_lines} lines of the log")
    print(f"the longest wait for a known result beside the others: {gate.longest:.1f} s")
    return 1 if gate.failed else 0


if __name__ == "__main__":
    sys.exit(main())
