"""The threads of a call: OpenMP or the pool, with the same bits; and calls where no thread can be started."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from gpt2c.core import _engine

PATHS = [p for p in sys.path if p]
BOTH = pytest.mark.parametrize("team", _engine.TEAMS)


def run(script, **environment):
    script = f"import sys; sys.path[:0] = {PATHS!r}\n" + textwrap.dedent(script)
    environment = {name: value for name, value in {**os.environ, **environment}.items() if value}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_the_environment_chooses_the_team():
    script = "from gpt2c.core import _engine; print(_engine.team())"
    for team in _engine.TEAMS:
        assert run(script, GPT2C_TEAM=team).stdout == f"{team}\n"
    assert run(script, GPT2C_TEAM="").stdout == f"{_engine.TEAMS[0]}\n"
    done = run(script, GPT2C_TEAM="cilk")
    assert f"GPT2C_TEAM is 'cilk'; allowed: {', '.join(map(repr, _engine.TEAMS))}" in done.stderr
    assert done.returncode == 1


@BOTH
def test_calls_of_many_threads_at_once_have_the_same_bits(team):
    script = """
        import threading
        import test_engine as t
        weights = t.make(t.CONFIG, t.TENSORS)
        ids = t.ids_of(300)
        expected = t.logits_of(weights, ids, threads=1).tobytes()
        wrong = []
        def compute():
            for threads in (2, 5, 3, 1, 4) * 4:
                if t.logits_of(weights, ids, threads=threads).tobytes() != expected:
                    wrong.append(threads)
        workers = [threading.Thread(target=compute) for _ in range(4)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(wrong)
    """
    done = run(script, GPT2C_TEAM=team)
    assert done.stdout == "[]\n", done.stderr


@BOTH
def test_forked_children_have_a_team_of_their_own(team):
    script = """
        import os
        import test_engine as t
        from gpt2c.core import _engine
        weights = t.make(t.CONFIG, t.TENSORS)
        ids = t.ids_of(300)
        expected = t.logits_of(weights, ids, threads=3).tobytes()
        def fork(depth):
            child = os.fork()
            if child == 0:
                same = t.logits_of(weights, ids, threads=3).tobytes() == expected
                threads = len(os.listdir("/proc/self/task"))
                right = same and threads == 3 and _engine.team() == "pool" and (depth == 0 or fork(depth - 1))
                os._exit(0 if right else 3)
            return os.waitpid(child, 0)[1] == 0
        print([fork(1) for _ in range(5)], t.logits_of(weights, ids, threads=3).tobytes() == expected)
    """
    done = run(script, GPT2C_TEAM=team)
    assert done.stdout == f"{[True] * 5} True\n", done.stderr


@BOTH
@pytest.mark.parametrize("threads_used_before", [1, 2])
def test_where_no_thread_can_be_started_a_call_runs_on_fewer_and_warns(team, threads_used_before):
    """A limit on processes holds for those who are not root, so the script becomes somebody else."""
    script = f"""
        import os, resource, warnings
        import test_engine as t
        from gpt2c.core import _engine
        weights = t.make(t.CONFIG, t.TENSORS)
        ids = t.ids_of(300)
        expected = t.logits_of(weights, ids, threads={threads_used_before}).tobytes()
        if os.getuid() == 0:
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert t.logits_of(weights, ids, threads=4).tobytes() == expected
        print([w.category.__name__ for w in caught], _engine.team())
        print(caught[0].message)
    """
    done = run(script, GPT2C_TEAM=team)
    assert done.stdout.startswith("['RuntimeWarning'] pool\n"), done.stdout + done.stderr
    ran_on = threads_used_before if team == "pool" else 1
    assert f"a call ran on {ran_on}. Results are the same" in done.stdout
    assert "libgomp" not in done.stderr


@BOTH
def test_signals_reach_the_thread_of_the_program(team):
    """The pool's workers block signals: Python's handlers run in the main thread, between panels."""
    script = """
        import signal, time
        import test_engine as t
        weights, ids = t.slow_model()
        signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
        cache = t._engine.KVCache(weights)
        t.logits_of(t.make(t.CONFIG, t.TENSORS), t.ids_of(20), threads=2)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        began = time.monotonic()
        try:
            while True:
                t._engine.forward(weights, [(t._engine.KVCache(weights), ids)], keep=1, threads=2)
        except ZeroDivisionError:
            print(time.monotonic() - began < 5)
    """
    done = run(script, GPT2C_TEAM=team)
    assert done.stdout == "True\n", done.stderr
