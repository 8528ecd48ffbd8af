"""kill -9 at random moments of what writes or serves: files are whole, and work done again gives the same.

    python tests/long/kills.py [--cases 20 | --minutes m] [--seed s] [--first i] [--only NAME …]

A case is a process that is killed while it starts, computes or writes: `convert` over a packed file that is
there or not, `score -o` and `generate -o` with a file of one of four formats (resumed, maybe killed again,
until it is done), a session that saves itself again and again, a server amid requests. Afterwards a file is
the old one, the new one or absent if it was; what another process then does gives the bytes of an undisturbed
run, and no temporary file remains.

Prints failures with what reproduces them, --seed s --first i --cases 1; status 1 if there were any.
"""

import contextlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers.command_line import command, environment
from helpers.gates import gate_parser, numbers_of, require
from helpers.operations import LONG
from helpers.served import ask
from helpers.text_files import made

from gpt2c.checkpoint import BUNDLED

PATIENCE = 120  # seconds; what takes longer hangs

SESSION = """
import sys
from gpt2c import GPT2
model = GPT2.from_pretrained(threads=1)
session = model.session(sys.argv[2])
for text in [sys.argv[2], sys.argv[3]] * (int(sys.argv[4]) // 2):
    session.text = text
    session.suggest(1)
    session.save(sys.argv[1])
    print(end=".", flush=True)
"""


class Address:
    """Where a server listens, as `helpers.served.ask` wants it."""

    def __init__(self, port):
        self.port = port


def contents(folder):
    """The bytes of all files in a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
    return subprocess.Popen(arguments, env=environment(), stdout=stdout, stderr=stderr)


def finish(arguments):
    """Run a process to its end."""
    with start(arguments) as process:
        status = process.wait(PATIENCE)
    require(status == 0, f"done again: status {status}")


def killed(process, rng, seconds, folder):
    """Kill a process at a random moment; gives whether it was killed before its end.

    Half of the moments are drawn from ``seconds``, half from just after it has begun to write.
    """
    before = sizes(folder)
    with process:
        if rng.random() < 0.5:
            time.sleep(rng.random() * seconds)
        else:
            while process.poll() is None and sizes(folder) == before:
                time.sleep(0.0002)
            time.sleep(rng.random() ** 3 * 0.02)
        process.kill()
        status = process.wait(PATIENCE)
    require(status in (0, -signal.SIGKILL), f"status {status}")
    return status != 0


def sizes(folder):
    """The sizes of all files in a folder, by name."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it may go away at any time
            found[str(path.relative_to(folder))] = path.stat().st_size
    return found


class Gate:
    """The kinds of work, and what each gives undisturbed."""

    def __init__(self, folder):
        self.folder = folder
        self.undisturbed = cache(self.undisturbed)
        self.texts = (LONG, LONG[:50] + LONG[200:900])
        (folder / "session").mkdir()
        saved = folder / "session" / "saved"
        self.allowed = []
        for texts in (self.texts, self.texts[::-1]):  # it ends with the second
            finish([sys.executable, "-c", SESSION, saved, *texts, "2"])
            self.allowed.append(saved.read_bytes())
        with self.server() as (address, _):
            self.answer = self.asked(address)

    def undisturbed(self, *work):
        """How many seconds some work takes, and the files that it leaves."""
        folder = self.folder / " ".join(work)
        folder.mkdir()
        begun = time.monotonic()
        finish(self.command(work, folder))
        return time.monotonic() - begun, contents(folder)

    def command(self, work, folder):
        """The command line of work whose files are in a folder."""
        if work[0] == "convert":
            return command("convert", BUNDLED, folder / "model.gpt2c", "--no-comparison", "-t", 1, *work[1:])
        kind, name = work
        source = self.folder / name
        if not source.exists():
            made(name, [f"{n} {LONG[n : n + 500]}" for n in range(50)], self.folder)
        sampled = ("-n", 9, "--seed", 7) if kind == "generate" else ()
        return command(kind, source, "-o", f"{folder}/", "-t", 1, *sampled)

    def convert(self, rng, folder):
        old = b""
        if rng.random() < 0.5:  # an older packed file, of another number format
            finish(self.command(("convert", "--dtype=int8"), folder))
            old = (folder / "model.gpt2c").read_bytes()
        seconds, whole = self.undisturbed("convert")
        was_killed = killed(start(self.command(("convert",), folder)), rng, seconds, folder)
        found = contents(folder).get("model.gpt2c", b"")
        require(found in (old, whole["model.gpt2c"]), "the packed file is damaged")
        finish(self.command(("convert",), folder))
        require(contents(folder) == whole, f"other files: {sorted(sizes(folder))}")
        return was_killed

    def score(self, rng, folder, kind="score"):
        name = rng.choice(("a.jsonl", "b.jsonl.zst", "c.csv", "d.parquet"))
        seconds, whole = self.undisturbed(kind, name)
        kills = 0
        for _ in range(rng.randrange(1, 4)):
            kills += killed(start(self.command((kind, name), folder)), rng, seconds, folder)
            require(contents(folder).get(name) in (None, whole[name]), f"a file of {kind} is not whole")
        finish(self.command((kind, name), folder))
        require(contents(folder) == whole, f"other files of {kind} {name}: {sorted(sizes(folder))}")
        return kills

    def generate(self, rng, folder):
        return self.score(rng, folder, "generate")

    def session(self, rng, folder):
        saved = folder / "saved"
        arguments = [sys.executable, "-c", SESSION, saved, *self.texts, "100000"]
        process = start(arguments, stdout=subprocess.PIPE)
        process.stdout.read(rng.randrange(1, 20))  # a point for every file that is complete
        killed(process, rng, 0.05, folder)
        require(saved.read_bytes() in self.allowed, "the saved session is neither of the two")
        finish([sys.executable, "-c", SESSION, saved, *self.texts, "2"])
        require(contents(folder) == {"saved": self.allowed[0]}, f"other files: {sorted(sizes(folder))}")
        return True

    @contextlib.contextmanager
    def server(self, port=0):
        """A server in a process of its own: its address and process."""
        process = start(command("serve", "--port", port, "-t", 1), stderr=subprocess.PIPE)
        with process:
            try:
                words = process.stderr.readline().decode()
                found = re.search(r"listening on http://127\.0\.0\.1:(\d+)\n", words)
                require(found, f"the server does not start: {words}")
                yield Address(int(found[1])), process
            finally:
                process.kill()

    def asked(self, address):
        wanted = {"prompt": LONG[:60], "max_tokens": 20, "seed": 7}
        return ask(address, "POST", "/v1/completions", wanted).json["choices"]

    def serve(self, rng, _):
        with self.server() as (address, process):
            killer = f"import os, time; time.sleep({rng.random() * 0.3}); os.kill({process.pid}, 9)"
            with subprocess.Popen([sys.executable, "-c", killer]):
                with contextlib.suppress(OSError, ValueError, HTTPException):
                    while True:
                        require(self.asked(address) == self.answer, "another answer before the kill")
                require(process.wait(PATIENCE) == -signal.SIGKILL, f"status {process.returncode}")
        with self.server(address.port) as (again, _):
            require(self.asked(again) == self.answer, "another answer of the next server")
        return True


KINDS = ("convert", "score", "generate", "session", "serve")


def main():
    arguments = gate_parser(__doc__, 20, KINDS, "kinds of work").parse_args()
    begun, done, failed, kills = time.monotonic(), 0, 0, Counter()
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        for number in numbers_of(arguments):
            kind = arguments.only[number % len(arguments.only)]
            own = Path(folder) / f"case-{number}"
            own.mkdir()
            try:
                kills[kind] += getattr(gate, kind)(random.Random(f"{arguments.seed} {number}"), own)
            except Exception as error:
                failed += 1
                again = f"--seed {arguments.seed} --first {number} --cases 1 --only {kind}"
                print(f"case {number}: {kind}: {type(error).__name__}: {error} ({again})", flush=True)
            done += 1
    found = ", ".join(f"{kind} {count}" for kind, count in kills.items())
    print(f"{done} cases, {kills.total()} kills ({found}); {failed} failed; {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
