"""Ctrl-C, forks and new processes at random moments of what users do: latency, and the same bytes afterwards.

    python tests/long/interrupts.py [--cases 100 | --minutes m] [--seed s] [--first i] [--only NAME …]

In every case another process sends SIGINT while an operation of `helpers.operations` runs, on one thread
or two; the time from the signal to the KeyboardInterrupt is the latency. Then this process forks while one of
its threads computes: parent and child must get the bytes of an undisturbed run. In every fifth case a process
made by "spawn" or "forkserver" takes the model.

Prints latencies (--p99 and --max set what fails), and failures with what reproduces them; status 1 if any. A
hundred cases take about a minute on two cores.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers.gates import Failure, gate_parser, numbers_of, require
from helpers.operations import OPERATIONS, Subject

PATIENCE = 60  # seconds; what takes longer hangs
# Of the other two, the command `score` ends its process at Ctrl-C, and a server its main thread.
NAMES = [name for name in OPERATIONS if name not in ("serve", "score_file")]

SENDER = """
import os, sys, time, signal
for line in sys.stdin:
    time.sleep(float(line))
    now = time.monotonic()
    os.kill(os.getppid(), signal.SIGINT)
    print(now, flush=True)
"""


class CtrlC:
    """Another process that sends SIGINT to this one. Outside of :meth:`during` it has no effect."""

    def __init__(self):
        self.armed = False
        signal.signal(signal.SIGINT, self.handle)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def handle(self, *_):
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def during(self, call, after):
        """Interrupt a call after some seconds; gives the latency in seconds, None if it was over."""
        caught = None
        self.process.stdin.write(f"{after}\n")
        self.process.stdin.flush()
        try:
            self.armed = True
            call()
            self.armed = False
        except KeyboardInterrupt:
            caught = time.monotonic()
        sent = float(self.process.stdout.readline())
        return caught and max(caught - sent, 0.0)


class Stand:
    """Subjects on one thread and two, and what each operation must give."""

    def __init__(self, folder):
        self.subjects = []
        for threads in (1, 2):
            (folder / str(threads)).mkdir()
            self.subjects.append(Subject(folder / str(threads), threads))
        self.expected, self.seconds = {}, {}
        for name in NAMES:
            for subject in self.subjects:
                OPERATIONS[name](subject)  # imports modules, creates files
                begun = time.monotonic()
                found = OPERATIONS[name](subject)
                self.seconds[name, subject.threads] = time.monotonic() - begun
                require(self.expected.setdefault(name, found) == found, f"{name} differs between threads")
        self.healthy = self.subjects[0].healthy()
        self.files = {subject.threads: names(subject.folder) for subject in self.subjects}

    def check(self, subject, name):
        """Everything is usable, and gives what it gave."""
        leftovers = names(subject.folder) - self.files[subject.threads]
        require(not leftovers, f"{name} left {sorted(leftovers)}")
        require(subject.healthy() == self.healthy, f"other suggestions after {name}")
        require(OPERATIONS[name](subject) == self.expected[name], f"other bytes from {name}")
        left = names(subject.folder) ^ self.files[subject.threads]
        require(not left, f"after {name} was done again: {sorted(left)}")


def names(folder):
    """The names of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def interrupt(stand, rng, only, ctrl_c):
    """One SIGINT; gives the operation and the latency."""
    subject, name = rng.choice(stand.subjects), rng.choice(only)
    after = rng.random() * stand.seconds[name, subject.threads]
    latency = ctrl_c.during(lambda: OPERATIONS[name](subject), after)
    stand.check(subject, name)
    return name, latency


def fork(stand, rng, only, _):
    """A fork while a thread computes: the child asks the same model, and the thread goes on."""
    names = [name for name in only if name not in UNFORKED] or ["suggest"]
    subject = rng.choice(stand.subjects)
    under_way, asked = rng.choice(names), rng.choice(names)
    found = []
    worker = threading.Thread(target=lambda: found.append(OPERATIONS[under_way](subject)))
    worker.start()
    time.sleep(rng.random() * stand.seconds[under_way, subject.threads])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)  # a child that hangs
        status = 3
        try:
            status = 0 if OPERATIONS[asked](subject) == stand.expected[asked] else 2
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    worker.join(PATIENCE)
    what = f"fork during {under_way}, {asked} in the child, {subject.threads} threads"
    require(status == 0, f"{what}: status {status} (2: other bytes; 3: an error; -14: hung)")
    require(found == [stand.expected[under_way]], f"{what}: the parent's call gave other bytes or hung")
    return "fork", None


# A session and a file have one user at a time, and output that is redirected is the whole process's.
UNFORKED = ("session_edit", "session_save", "save", "convert")


def ask_model(model):
    return model.forward([1, 2, 3]).tobytes() + repr(model.suggest("Once upon", 3)).encode()


def new_process(stand, rng, *_):
    """A process made by multiprocessing takes the model, while a thread of this one computes."""
    subject, method = rng.choice(stand.subjects), rng.choice(["spawn", "forkserver"])
    done = threading.Event()
    wrong = []

    def work():
        while not done.is_set():
            found = OPERATIONS["score"](subject)
            if found != stand.expected["score"]:
                wrong.append(found)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with multiprocessing.get_context(method).Pool(1) as pool:
            found = pool.apply_async(ask_model, (subject.model,)).get(PATIENCE)
    except multiprocessing.TimeoutError:
        raise Failure(f"a process made by {method} hung") from None
    finally:
        done.set()
        worker.join(PATIENCE)
    require(found == ask_model(subject.model), f"other bytes in a process made by {method}")
    require(not wrong, f"other scores in the parent beside {method}")
    return method, None


def main():
    parser = gate_parser(__doc__, 100, NAMES, "operations")
    parser.add_argument("--p99", type=float, default=50, metavar="MS", help="of the latencies, at most")
    parser.add_argument("--max", type=float, default=250, metavar="MS", help="the longest latency, at most")
    arguments = parser.parse_args()
    begun = time.monotonic()
    done, failed = Counter(), 0
    latencies = defaultdict(list)
    multiprocessing.set_forkserver_preload(["gpt2c"])
    with tempfile.TemporaryDirectory() as folder, CtrlC() as ctrl_c:
        stand = Stand(Path(folder))
        for number in numbers_of(arguments):
            for kind in (interrupt, fork, new_process)[: 3 if number % 5 == 0 else 2]:
                rng = random.Random(f"{arguments.seed} {number} {kind.__name__}")
                try:
                    name, latency = kind(stand, rng, arguments.only, ctrl_c)
                    done[kind.__name__] += 1
                    if latency is not None:
                        latencies[name].append(latency * 1000)
                except Exception as error:
                    failed += 1
                    again = f"--seed {arguments.seed} --first {number} --cases 1"
                    print(f"case {number}: {type(error).__name__}: {error} ({again})", flush=True)
    slow = report(latencies, arguments)
    kinds = ", ".join(f"{count} {kind}" for kind, count in done.items())
    print(f"{kinds}; {failed} failed; {time.monotonic() - begun:.0f} s")
    return 1 if failed or slow else 0


def described(found):
    return f"{len(found)} interrupted, median {median(found):.1f} ms, max {max(found):.1f} ms"


def report(latencies, arguments):
    """Print the latencies; gives whether they are too long."""
    found = sorted(each for several in latencies.values() for each in several)
    for name, several in sorted(latencies.items()):
        print(f"{name:15} {described(several)}")
    if not found:
        return False
    p99 = found[min(len(found) - 1, int(0.99 * len(found)))]
    print(f"all: {described(found)}, p99 {p99:.1f} ms")
    return p99 > arguments.p99 or found[-1] > arguments.max


if __name__ == "__main__":
    sys.exit(main())
