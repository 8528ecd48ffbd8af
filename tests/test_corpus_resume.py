"""Work on a file that was stopped goes on in it: what was computed is kept, and the bytes are the same."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from itertools import islice
from pathlib import Path

import pytest
from helpers.command_line import TIMEOUT, command, environment, run
from helpers.text_files import made
from test_corpus import TEXTS, contents, corpus, jsonl, model, separated

from gpt2c.corpus.jobs import perform, plan, survey

__all__ = ["corpus", "model"]  # the fixtures

MANY = [f"{i} {text}" if i % 7 else text for i, text in enumerate(TEXTS * 6)]


class Stopped(Exception):
    """What stops the work."""


def stopping(task, n):
    """The task, which counts the texts that it computes, and is stopped after n of them."""
    compute = task.rows
    computed = []

    def rows(texts):
        for record, found in islice(compute(texts), n):
            computed.append(record.text)
            yield record, found
        if len(computed) == n:
            raise Stopped

    task.rows = rows
    return computed


def performed(model, source, out, n=10**6, **options):
    """Work on a file until n texts are computed: the texts that were, the output's bytes, and the totals."""
    out.mkdir(exist_ok=True)
    options, task = separated(model, options)
    (job,) = plan([str(source)], str(out), options)
    computed = stopping(task, n)
    try:
        totals = perform(job, options, task)
    except Stopped:
        assert not os.path.exists(job.target)
        return computed, None, None
    assert {path.suffix for path in out.iterdir()} & {".part", ".journal"} == set()
    return computed, Path(job.target).read_bytes(), totals


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("options", [{}, {"max_tokens": 3, "prefix": "x"}, {"shard": (2, 3)}])
def test_what_was_computed_is_not_computed_again(name, options, model, tmp_path):
    source = made(name, MANY, tmp_path)
    texts, whole, totals = performed(model, source, tmp_path / "whole", **options)
    assert totals.records == len(texts) and totals.resumed == 0
    begun, after = 0, []
    for n in (1, 4, 3):
        computed, data, _ = performed(model, source, tmp_path / "out", n, **options)
        assert data is None
        begun += n
        after += computed
    computed, data, totals = performed(model, source, tmp_path / "out", **options)
    assert data == whole and after + computed == texts
    assert (totals.records, totals.resumed) == (len(texts), begun)


def test_bad_records_come_out_the_same(model, tmp_path):
    lines = [b'{"text": "One two"}', b'{"text": 5}', b"x", b'{"text": null}', b'{"text": "Three"}'] * 5
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    for on_error in ("null", "skip"):
        out = tmp_path / on_error
        _, whole, totals = performed(model, tmp_path / "a.jsonl", tmp_path / "whole", on_error=on_error)
        assert performed(model, tmp_path / "a.jsonl", out, 7, on_error=on_error)[1] is None
        computed, data, again = performed(model, tmp_path / "a.jsonl", out, on_error=on_error)
        assert data == whole and again.resumed == 7 and len(computed) == totals.records - 7
        assert again.faults == totals.faults == 10
        listed = (out / "a.jsonl.errors.jsonl").read_bytes()
        assert listed == (tmp_path / "whole" / "a.jsonl.errors.jsonl").read_bytes()


def longer(data):
    """As if the process had been killed while it wrote, and the machine had lost power."""
    return data + b'["0123'


DAMAGES = [
    (lambda data: data[:-1], 8),
    (lambda data: data[: len(data) // 2], None),
    (longer, 9),
    (lambda data: data + bytes(4096), 9),
    (lambda data: data + b"[]\n", 9),
    (lambda data: data + b'["0", [1]]\n', 9),
    (lambda data: data + b"[" * 100_000 + b"\n", 9),
    (lambda data: bytes(len(data)), 0),
    (lambda data: b"\n" + data, 0),
]


@pytest.mark.parametrize(("damage", "kept"), DAMAGES)
def test_a_damaged_journal_is_used_as_far_as_it_is_whole(damage, kept, model, tmp_path):
    source = made("a.jsonl", MANY, tmp_path)
    texts, whole, _ = performed(model, source, tmp_path / "whole")
    performed(model, source, tmp_path / "out", 9)
    journal = tmp_path / "out" / "_a.jsonl.journal"
    assert journal.read_bytes().count(b"\n") == 1 + 9  # the first is of the settings
    journal.write_bytes(damage(journal.read_bytes()))
    assert performed(model, source, tmp_path / "out", 2)[1] is None  # what follows the damage is kept, too
    computed, data, totals = performed(model, source, tmp_path / "out")
    assert data == whole and totals.resumed + len(computed) == len(texts)
    if kept is not None:
        assert totals.resumed == kept + 2


def test_what_has_changed_in_the_input_is_computed_anew(model, tmp_path):
    performed(model, made("a.jsonl", MANY, tmp_path), tmp_path / "out", 9)
    changed = [*MANY[:4], "Another text", *MANY[5:]]
    source = made("a.jsonl", changed, tmp_path)
    computed, _, _ = performed(model, source, tmp_path / "out", 1)
    assert computed == ["Another text"]
    assert (tmp_path / "out" / "_a.jsonl.journal").read_bytes().count(b"\n") == 1 + 5, "the rest is forgotten"
    computed, data, totals = performed(model, source, tmp_path / "out")
    assert totals.resumed == 5 and computed[0] == changed[5]
    assert data == performed(model, source, tmp_path / "whole")[1]
    for n in (3, 0):  # a journal that is longer than the input
        performed(model, made("b.jsonl", MANY, tmp_path), tmp_path / "out", 9)
        source = made("b.jsonl", MANY[:n], tmp_path)
        computed, data, totals = performed(model, source, tmp_path / "out")
        assert (computed, totals.resumed, data.count(b"\n")) == ([], n, n)
        os.unlink(tmp_path / "out" / "b.jsonl")


def test_a_journal_of_other_settings_is_of_no_use(model, tmp_path):
    source = made("a.jsonl", MANY, tmp_path)
    performed(model, source, tmp_path / "out", 9)
    performed(model, source, tmp_path / "other", stride=3)
    computed, data, totals = performed(model, source, tmp_path / "out", stride=3)
    assert totals.resumed == 0 and len(computed) == len(MANY)
    assert data == (tmp_path / "other" / "a.jsonl").read_bytes()


def test_null_and_the_empty_text_differ(model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n' * 3)
    performed(model, tmp_path / "a.jsonl", tmp_path / "out", 2)
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    assert performed(model, tmp_path / "a.jsonl", tmp_path / "out")[2].resumed == 0


def test_a_link_in_place_of_the_journal_is_refused(model, tmp_path):
    source = made("a.jsonl", MANY, tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out" / "_a.jsonl.journal").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"_a\.jsonl\.journal is a link, and gpt2c never writes through links"):
        performed(model, source, tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_survey_needs_no_journal(model, tmp_path):
    options, task = separated(model, {})
    (tmp_path / "out").mkdir()
    (job,) = plan([str(made("a.jsonl", MANY, tmp_path))], str(tmp_path / "out"), options)
    assert survey(job, options, task) == sum(len(text.encode()) for text in MANY)
    assert list((tmp_path / "out").iterdir()) == []


# ---- the command


def test_kills_at_random_moments(corpus, tmp_path):  # tests/long/kills.py has more of them
    name = "a.jsonl.zst"
    made(name, [f"The king had {i} daughters, and the youngest went. " * 5 for i in range(250)], tmp_path)
    assert run("score", name, "-o", "undisturbed/", "-t", "1").returncode == 0
    whole = contents(tmp_path / "undisturbed")
    moments = random.Random(name)
    journal, target = tmp_path / "out" / f"_{name}.journal", tmp_path / "out" / name

    def computed():
        with contextlib.suppress(FileNotFoundError):  # it may go away at any time
            return journal.stat().st_size
        return None

    kills = kept = 0
    while not target.exists():
        process = subprocess.Popen(
            command("score", name, "-o", "out", "-t", "1"), env=environment(), stderr=subprocess.DEVNULL
        )
        # Four moments: while it starts, computes, or writes; then it may come to its end.
        wanted = kept + moments.randrange(1, 9000) if kills < 4 else 10**9
        while process.poll() is None and (computed() or 0) < wanted:
            time.sleep(0.001)
        time.sleep(moments.random() / 100)
        process.kill()
        assert process.wait(TIMEOUT) in (0, -signal.SIGKILL)
        kills += process.returncode != 0
        size = computed() or 0
        assert size >= kept or target.exists(), "something that was computed was lost"
        kept = size
    assert kills >= 3
    # One that was killed between the renaming of its output and the removal of the journal left that to this.
    assert run("score", name, "-o", "out", "-t", "1").returncode == 0
    assert contents(tmp_path / "out") == whole


def test_a_run_that_goes_on_says_so(corpus, tmp_path):
    process = subprocess.Popen(
        command("score", "a.jsonl", "-o", "out", "-t", "1"), env=environment(), stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "out" / "_a.jsonl.journal"
    end = time.monotonic() + TIMEOUT
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.wait()
    known = journal.read_bytes().count(b"\n") - 1
    done = run("score", "a.jsonl", "-o", "out", "-t", "1")
    assert done.returncode == 0
    found = jsonl(tmp_path / "out" / "a.jsonl")
    assert len(found) == 30
    tokens = sum(record["gpt2c_n_tokens"] for record in found[known:])
    expected = f"out/a.jsonl: 30 records ({known} done by an earlier run) · {tokens:,} tokens · "
    assert done.stderr.startswith(expected), "what was done before is no work of this run"


def test_a_journal_beside_a_finished_output_is_removed(corpus, tmp_path):
    assert run("score", "a.jsonl", "-o", "out/").returncode == 0
    (tmp_path / "out" / "_a.jsonl.journal").write_bytes(b"of a process that was killed at the very end")
    assert run("score", "a.jsonl", "-o", "out/").returncode == 0
    assert sorted(contents(tmp_path / "out")) == ["_gpt2c.json", "a.jsonl"]
