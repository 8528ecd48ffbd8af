"""Files of prompts come out with continuations; bad records, shares and kills are as in scoring."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import json
import os
import random
import signal
import subprocess
import time
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
from helpers.command_line import TIMEOUT, command, environment, run
from pyarrow import parquet
from test_corpus import contents, corpus, jsonl

from gpt2c import GPT2
from gpt2c.corpus.formats import read, write
from gpt2c.corpus.jobs import FileOptions, perform, plan, survey
from gpt2c.corpus.tasks import Generating, continuation_columns
from gpt2c.errors import ContextLengthError
from gpt2c.generation.job import Job
from gpt2c.generation.loop import generate_rows
from gpt2c.generation.options import SamplingOptions
from gpt2c.scoring.rows import score_rows

__all__ = ["corpus"]  # the fixture

PROMPTS = ["The king", "", None, 'She said: "Go,', "Once upon a time\nthere", "The king"]
DRAWN = {"max_new_tokens": 9, "temperature": 1.2, "seed": 4}


@pytest.fixture(scope="module")
def model():
    return GPT2.from_pretrained(threads=1)


def told(model, prompt, **options):
    """What should be told of a prompt, by `model.generate`: a dict for each continuation."""
    several = options.get("num_return_sequences", 1) > 1
    if prompt is None:
        nothing = {"gpt2c_continuation": None, "gpt2c_continuation_tokens": 0}
        nothing |= {"gpt2c_continuation_logprob": None, "gpt2c_finish_reason": None}
        nothing |= {"gpt2c_prompt_truncated": False, "gpt2c_sample_index": 0}
        found = [nothing]
    else:
        found = [
            {
                "gpt2c_continuation": g.text,
                "gpt2c_continuation_tokens": len(g.token_ids),
                "gpt2c_continuation_logprob": sum(g.logprobs),
                "gpt2c_finish_reason": g.finish_reason,
                "gpt2c_prompt_truncated": False,
                "gpt2c_sample_index": g.sample_index,
            }
            for g in model.generate([prompt], **options)
        ]
    return (
        found if several else [{k: v for k, v in row.items() if k != "gpt2c_sample_index"} for row in found]
    )


def performed(model, source, out, *, on_error="stop", shard=(1, 1), **options):
    """Continue the prompts of a file: the output's path, and the totals."""
    out.mkdir(exist_ok=True)
    task = Generating(model, SamplingOptions(**options))
    of_files = FileOptions(columns=task.columns, on_error=on_error, shard=shard)
    (job,) = plan([str(source)], str(out), of_files)
    assert survey(job, of_files, task) >= 0
    totals = perform(job, of_files, task)
    return out / os.path.basename(job.target), totals


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 5},
        {**DRAWN, "num_return_sequences": 3, "stop": [" the", "\n"]},
        {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2},
        {**DRAWN, "mirostat": 2, "dry_multiplier": 1.0, "watermarking_config": {"bias": 3.0}},
        {**DRAWN, "guidance_scale": 2.0, "negative_prompt": [5, 6]},
        {"max_new_tokens": 4, "penalty_alpha": 0.5, "top_k": 3},
    ],
    ids=["greedy", "drawn", "beams", "marked", "guided", "contrastive"],
)
def test_continuations_of_every_format(options, model, tmp_path):
    records = [{"id": i, "text": text, "more": [i]} for i, text in enumerate(PROMPTS)]
    expected = [{**record, **row} for record in records for row in told(model, record["text"], **options)]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (tmp_path / "a.jsonl").write_text(lines)
    target, totals = performed(model, tmp_path / "a.jsonl", tmp_path / "out", **options)
    assert jsonl(target) == expected
    n_new = sum(row["gpt2c_continuation_tokens"] for row in expected)
    assert (totals.records, totals.empty, totals.tokens) == (len(PROMPTS), 1, n_new)

    (tmp_path / "b.json").write_text(json.dumps(records))
    target, _ = performed(model, tmp_path / "b.json", tmp_path / "out", **options)
    assert json.loads(target.read_text()) == expected

    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "c.parquet", row_group_size=4)
    target, _ = performed(model, tmp_path / "c.parquet", tmp_path / "out", **options)
    assert parquet.read_table(target).to_pylist() == expected

    with open(tmp_path / "d.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([r["id"], r["text"]] for r in records if r["text"])])
    target, _ = performed(model, tmp_path / "d.csv", tmp_path / "out", **options)
    with open(target, newline="") as file:
        found = list(csv.DictReader(file))
    wanted = [row for row in expected if row["text"]]
    assert [row["gpt2c_continuation"] for row in found] == [row["gpt2c_continuation"] for row in wanted]
    logprobs = [float(row["gpt2c_continuation_logprob"]) for row in found]
    assert logprobs == [row["gpt2c_continuation_logprob"] for row in wanted]

    (tmp_path / "e.txt").write_text("The king\nA fox\n")
    of_files = FileOptions(columns=continuation_columns(SamplingOptions(**options)), lines=True)
    (job,) = plan([str(tmp_path / "e.txt")], str(tmp_path / "out"), of_files)
    perform(job, of_files, Generating(model, SamplingOptions(**options)))
    found = jsonl(tmp_path / "out" / "e.txt.jsonl")
    assert found == [
        {"text": text, **row} for text in ("The king", "A fox") for row in told(model, text, **options)
    ]


def test_prompts_that_leave_no_room_are_bad_records(model, tmp_path):
    long = "The king went out. " * 200
    lines = [{"text": "a"}, {"text": long}, {"text": 3}, {"text": "b"}]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    reason = r"the prompt has 1\d\d\d tokens and max_new_tokens is 4: "
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: {reason}"):
        performed(model, source, tmp_path / "out", max_new_tokens=4)
    target, totals = performed(model, source, tmp_path / "null", max_new_tokens=4, on_error="null")
    expected = [told(model, text, max_new_tokens=4)[0] for text in ("a", None, None, "b")]
    assert jsonl(target) == [{**line, **row} for line, row in zip(lines, expected, strict=True)]
    assert (totals.faults, totals.empty) == (2, 2)
    listed = jsonl(tmp_path / "null" / "a.jsonl.errors.jsonl")
    assert [(row["line"], row["kept"]) for row in listed] == [(2, True), (3, True)]
    target, _ = performed(model, source, tmp_path / "skip", max_new_tokens=4, on_error="skip")
    assert [row["text"] for row in jsonl(target)] == ["a", "b"]
    options = {"max_new_tokens": 4, "overflow": "truncate_left"}
    target, totals = performed(model, source, tmp_path / "cut", on_error="null", **options)
    assert [row["gpt2c_prompt_truncated"] for row in jsonl(target)] == [False, True, False, False]
    assert jsonl(target)[1]["gpt2c_continuation"] == model.generate(long, **options).text
    assert totals.truncated == 1
    # Records of other shares are not looked at so closely.
    target, _ = performed(model, source, tmp_path / "shard", max_new_tokens=4, on_error="null", shard=(1, 2))
    assert [row["text"] for row in jsonl(target)] == ["a", 3]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:2]))
    target, _ = performed(model, source, tmp_path / "half", max_new_tokens=4, shard=(1, 2))
    assert [row["text"] for row in jsonl(target)] == ["a"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_continuations_are_quoted(delimiter, tmp_path):
    options = FileOptions(columns=dict.fromkeys(("a", "b"), str), delimiter=delimiter, prefix="x_")
    values = ["one\ntwo", "one\rtwo", "one\r\n", " a ", 'a "b"', "a,b;c\td|e", "", "'", "\n", None]
    (tmp_path / "a.csv").write_text(f"text{delimiter}n\nOne{delimiter}1\n")
    [job] = plan([str(tmp_path / "a.csv")], str(tmp_path / "out"), options)
    records = read(job, options)
    record = next(records)
    with open(tmp_path / "b.csv", "wb") as file:
        write(file, job, options, iter([(record, [{"a": value, "b": "z"} for value in values])]))
    with open(tmp_path / "b.csv", newline="") as file:
        found = list(csv.reader(file, delimiter=delimiter))
    assert found[0] == ["text", "n", "x_a", "x_b"]
    assert found[1:] == [["One", "1", value or "", "z"] for value in values]


def test_an_empty_field_of_csv_is_no_prompt(model, tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,\n2,a\n")
    target, totals = performed(model, tmp_path / "a.csv", tmp_path / "out", max_new_tokens=2)
    with open(target, newline="") as file:
        assert [bool(row["gpt2c_continuation"]) for row in csv.DictReader(file)] == [False, True]
    assert totals.empty == 1


def test_more_tokens_than_positions(model):
    with pytest.raises(ContextLengthError, match="max_new_tokens is 513, but the model has 512 positions"):
        Generating(model, SamplingOptions(max_new_tokens=513))
    assert Generating(model, SamplingOptions(max_new_tokens=513, overflow="slide")).seed is None
    with pytest.raises(ContextLengthError, match="shorten the prompt to at most 483 tokens, or choose"):
        model.generate([1] * 600, max_new_tokens=30)
    assert len(model.generate([1] * 483, max_new_tokens=30).token_ids) > 0


@pytest.mark.parametrize("option", [{"trace": True}, {"names_filter": "pattern"}])
def test_what_no_column_can_hold(option, model):
    with pytest.raises(ValueError, match="trace and names_filter record values that no column can hold"):
        Generating(model, SamplingOptions(**option))


def test_rows_are_taken_as_they_are_needed(model, monkeypatch):
    monkeypatch.setattr("gpt2c.generation.loop.TEXTS_AT_ONCE", 4)
    taken = []

    def rows():
        for i in range(100):
            taken.append(i)
            yield i, None if i % 5 == 0 else "The king" + " and the fox" * (i % 3)

    options = {"max_new_tokens": 3, "temperature": 1.0, "seed": 1}
    job = Job(model, SamplingOptions(**options))
    found = generate_rows(job, rows())
    first = list(islice(found, 10))
    assert len(taken) < 25
    rest = list(found)
    assert [key for key, _, _ in first + rest] == list(range(100))
    for key, results, cut in first + rest:
        assert not cut and len(results) == (key % 5 > 0)
    alone = model.generate("The king and the fox", **options)
    assert first[1][1][0].text == alone.text and first[1][1][0].logprobs == alone.logprobs


def test_caches_decide_how_many_texts_advance_together(model, monkeypatch):
    per_token = model.memory_plan()["cache_per_token"]
    together = []
    forward = __import__("gpt2c.core._engine", fromlist=["forward"]).forward

    def watching(weights, sequences, **options):
        together.append(len(sequences))
        return forward(weights, sequences, **options)

    prompts = [[1, 2, 3] + [4] * 8] * 6 + [[1] * 27]  # caches of 16 and 32 positions
    expected = [g.token_ids for g in model.generate(prompts, max_new_tokens=5)]
    monkeypatch.setattr("gpt2c.generation.job._engine.forward", watching)
    for room, most in ((48, 3), (47, 2), (1, 1)):
        monkeypatch.setattr("gpt2c.generation.loop.CACHE_BYTES", room * per_token)
        together.clear()
        assert [g.token_ids for g in model.generate(prompts, max_new_tokens=5)] == expected
        assert max(together) == most
    # A search has as many caches as beams.
    options = {"max_new_tokens": 5, "num_beams": 2}
    for room, most in ((64, 4), (63, 2)):
        monkeypatch.setattr("gpt2c.generation.loop.CACHE_BYTES", room * per_token)
        together.clear()
        model.generate(prompts[:-1], **options)
        assert max(together) == most
    together.clear()
    model.generate(prompts[:-1], batch_size=4, **options)
    assert max(together) == 4
    together.clear()
    model.generate(prompts, max_new_tokens=5, batch_size=7)
    assert max(together) == 7, "what is asked for counts"


def test_what_has_no_text_alone(model):
    job = Job(model, SamplingOptions())
    assert list(generate_rows(job, [(1, None), (2, None)])) == [(1, [], False), (2, [], False)]
    assert list(generate_rows(job, [])) == []


def test_rows_without_text_are_not_kept_waiting(model):
    taken = []

    def rows():
        for i in range(10_000):
            taken.append(i)
            yield i, "The king" if i == 5000 else None

    job = Job(model, SamplingOptions(max_new_tokens=2))
    found = generate_rows(job, rows())
    next(found)
    assert len(taken) < 2000
    rest = list(found)
    assert [key for key, _, _ in rest] == list(range(1, 10_000))
    assert [key for key, results, _ in rest if results] == [5000]
    taken.clear()
    scores = score_rows(model, rows())
    next(scores)
    assert len(taken) < 2000
    assert [key for key, score, _ in scores if score] == [5000]


def test_a_log_probability_of_minus_infinity_is_null(model, monkeypatch):
    task = Generating(model, SamplingOptions(max_new_tokens=1))
    result = dataclasses.replace(model.generate("a", max_new_tokens=1), logprobs=[-np.inf])
    monkeypatch.setattr("gpt2c.corpus.tasks.generate_rows", lambda job, texts: [(0, [result], False)])
    [(_, [row])] = task.rows([(0, "a")])
    assert row["continuation_logprob"] is None


def test_settings_are_json(model):
    options = SamplingOptions(
        logit_bias={5: -np.inf, 6: 1.5}, sequence_bias={(1, 2): -3}, bad_words=["x", [1, 2]], stop="a", seed=3
    )
    found = Generating(model, options).settings
    assert json.loads(json.dumps(found))["logit_bias"] == [[5, -np.inf], [6, 1.5]]
    assert found["sequence_bias"] == [[(1, 2), -3.0]]
    assert "trace" not in found and "logits_processor" not in found
    with pytest.raises(ValueError, match="temperature needs a seed here"):
        Generating(model, SamplingOptions(temperature=1.0))


# ---- the command


def journaled(directory):
    """The bytes of all journals, which may disappear while they are counted."""
    size = 0
    for path in directory.glob("_*.journal"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def test_kill_and_resume(corpus, tmp_path):
    for name, opened in (("a.jsonl", open), ("b.jsonl.gz", gzip.open)):
        with opened(name, "wt") as file:
            for i in range(200):
                print(json.dumps({"text": f"The {i}. king"}), file=file)
    arguments = ("generate", *corpus, "-n", "9", "-t", "1")
    done = run(*arguments, "-o", "undisturbed/", "--seed", "77")
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith(" · seed 77")
    whole = contents(tmp_path / "undisturbed")
    moments = random.Random(1)
    kills, seed = 0, ("--seed", "77")
    while len(contents(tmp_path / "out") if (tmp_path / "out").exists() else ()) < 4 or any(
        path.suffix in (".part", ".journal") for path in (tmp_path / "out").iterdir()
    ):
        process = subprocess.Popen(
            command(*arguments, "-o", "out", *seed), env=environment(), stderr=subprocess.DEVNULL
        )
        before = journaled(tmp_path / "out")
        wanted = before + moments.randrange(1, 9000) if kills < 3 else 10**9
        end = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < end:
            if journaled(tmp_path / "out") >= wanted:
                break
            time.sleep(0.001)
        process.kill()
        assert process.wait(TIMEOUT) in (0, -signal.SIGKILL)
        kills += process.returncode != 0
        seed = ()  # the directory remembers it
    assert kills >= 2
    assert contents(tmp_path / "out") == whole


def test_a_seed_is_chosen_once(corpus, tmp_path):
    first = run("generate", "a.jsonl", "-o", "out/", "-n", "2")
    seed = json.loads((tmp_path / "out" / "_gpt2c.json").read_text())["seed"]
    assert first.stderr.endswith(f" · seed {seed}\n")
    os.unlink(tmp_path / "out" / "a.jsonl")
    before = jsonl(tmp_path / "a.jsonl")
    assert run("generate", "a.jsonl", "-o", "out/", "-n", "2").returncode == 0
    model = GPT2.from_pretrained()
    options = {"max_new_tokens": 2, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": seed}
    expected = model.generate([record["text"] for record in before], **options)
    found = jsonl(tmp_path / "out" / "a.jsonl")
    assert [record["gpt2c_continuation"] for record in found] == [g.text for g in expected]
    done = run("generate", "a.jsonl", "-o", "out/", "-n", "2", "--seed", str(seed + 1))
    assert done.returncode == 1 and f"seed was {seed}, now {seed + 1}" in done.stderr
    done = run("generate", "a.jsonl", "-o", "out/", "-n", "3")
    assert done.returncode == 1 and "max_new_tokens was 2, now 3" in done.stderr
    done = run("score", "a.jsonl", "-o", "out/")
    assert done.returncode == 1 and "(task was 'generating', now 'scoring'): choose" in done.stderr
    done = run("generate", "a.jsonl", "-o", "shares/", "-n", "2", "--shard", "1/2")
    assert (
        done.returncode == 1
        and "--shard needs --seed N, the same for all shards, so that they" in done.stderr
    )
    assert run("generate", "b.jsonl.gz", "-o", "greedy/", "-n", "2", "--temperature", "0").returncode == 0
    done = run("generate", "b.jsonl.gz", "-o", "greedy/", "-n", "2")
    assert done.returncode == 1 and "(temperature was 0.0, now 0.8)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["a.jsonl"], 1, "continuations of files go to a directory: give it with -o DIR (for one prompt:"),
        (["a.jsonl", "-o", "b.csv"], 1, "with -o DIR; b.csv is the name of a file"),
        (["nofile.jsonl"], 1, "the file nofile.jsonl does not exist; if that is a text, give it on stdin"),
        (["The", "king"], 1, "the file The does not exist: several arguments, or one with -o DIR, are names"),
        (["a.jsonl", "-o", "out", "--json"], 1, "--json is for a single text"),
        (["a.jsonl", "-o", "out", "--stats"], 1, "--stats is for a single text"),
        (["a.jsonl", "-o", "out", "--trace"], 1, "--trace is for a single text"),
        (["a.jsonl", "-o", "out", "--no-prompt"], 1, "--no-prompt is for a single text"),
        (["The king", "--shard", "1/2"], 1, "--shard is for files of texts"),
        (["The king", "-q"], 1, "--quiet is for files of texts"),
        (["a.jsonl", "-o", "out", "--text-field", "prompt"], 1, "no record has a field 'prompt': choose"),
        (["a.jsonl", "-o", "out", "-n", "0"], 1, "max_new_tokens must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_explained(arguments, status, message, corpus, tmp_path):
    done = run("generate", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and not (tmp_path / "out" / "a.jsonl").exists()


def test_a_file_that_is_not_there_is_no_text_to_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["typo.jsonl"], ["typo.csv.gz", "-o", "out1"], ["typo.txt", "--json"]):
        done = run("score", *arguments)
        assert done.returncode == 1 and f"the file {arguments[0]} does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert run("score", "I read a.txt").returncode == 0
    assert run("score", "-", stdin=b"a.txt").returncode == 0
