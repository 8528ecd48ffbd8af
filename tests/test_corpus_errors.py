"""Bad records stop the work, or are left out or kept without scores, and are listed with their places."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.command_line import run
from pyarrow import parquet
from test_corpus import (
    COLUMNS,
    contents,
    corpus,
    jsonl,
    model,
    score_one,
    separated,
    start_until_second,
    told,
    with_prefix,
)

from gpt2c.corpus.jobs import FileOptions, claim, perform, plan

__all__ = ["corpus", "model"]  # the fixtures

NULLS = {**dict.fromkeys(COLUMNS), "n_tokens": 0, "n_bytes": 0, "truncated": False}


def scored(model, source, tmp_path, **options):
    """Score one file: its output, what is listed of bad records (None without a list), and the totals."""
    job, totals = score_one(model, source, tmp_path, **options)
    errors = Path(f"{job.target}.errors.jsonl")
    return Path(job.target), jsonl(errors) if errors.exists() else None, totals


def kept(model, *texts):
    return [with_prefix(NULLS if text is None else told(model, text)) for text in texts]


SURROGATE = "has half a surrogate pair (\\ud800 to \\udfff): not Unicode; it is "
TEXT = "must be a text or null; it is "
NAME = "not JSON: Expecting property name enclosed in double quotes"
UTF8 = "; convert the file, for example with iconv"
# Each line, why it is bad, the field, and whether the record can be copied.
LINES = [
    (b'{"text": "One"}', None),
    (b'{"text": 2009}', (f"{TEXT}2009", "text", True)),
    (b"", None),
    (b'{"text": "a", "n" : [{}] , "text": 1e2 }', (f"{TEXT}1e2", "text", True)),
    (b'{"id": 7, "text":true}', (f"{TEXT}true", "text", True)),
    (b'{"text": ["\\u00e9", "\xc3\xa9"], "b": {}}', (f'{TEXT}["\\u00e9", "\u00e9"]', "text", True)),
    (b'{"text": {"a" :1}}', (f'{TEXT}{{"a" :1}}', "text", True)),
    (b'{"text": ' + b"7" * 5000 + b"}", (f"{TEXT}{'7' * 60}\u2026", "text", True)),
    (b'{"text": "a\\ud800b"}', (f'{SURROGATE}"a\\ud800b"', "text", True)),
    (b'{"text": "caf\xe9"}', (f"not UTF-8 text: byte 13 is 0xe9{UTF8}", None, False)),
    (
        b"{'text': 1}",
        (f"{NAME}, at character 1, near {{'text': 1}}", None, False),
    ),
    (b"[1]", ("each line must be a JSON object, {...}; it starts with [1]", None, False)),
    (b'{"text": "x', ("not JSON: Unterminated string starting at, at character 9", None, False)),
    (b'{"text": "Two"}', None),
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"])
@pytest.mark.parametrize("on_error", ["null", "skip"])
def test_bad_lines_of_json(on_error, name, model, tmp_path):
    data = b"\n".join(line for line, _ in LINES)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    target, listed, totals = scored(model, tmp_path / name, tmp_path, on_error=on_error)
    written = target.read_bytes()
    written = (gzip.decompress(written) if name.endswith("gz") else written).split(b"\n")[:-1]
    expected = []
    bad = []
    for number, (line, wrong) in enumerate(LINES, 1):
        keep = wrong is None or (wrong[2] and on_error == "null")
        if line and keep:
            text = json.loads(line)["text"] if wrong is None else None
            (added,) = kept(model, text)
            expected.append(line.rstrip()[:-1] + b", " + json.dumps(added)[1:].encode())
        if wrong:
            place = {"file": str(tmp_path / name), "line": number}
            bad.append({**place, "field": wrong[1], "reason": wrong[0], "kept": keep})
    for found, reason in zip(listed, bad, strict=True):
        if found["reason"].startswith("not JSON: Unterminated"):
            found["reason"] = found["reason"].partition(", near")[0]
        assert found == reason
    assert written == expected
    assert (totals.faults, totals.records) == (len(bad), len(expected))


def test_the_field_that_is_meant_is_shown(model, tmp_path):
    lines = ['{"a": {"b": 1, "c": "x"}, "b": 2}', '{"a.b": 3, "a": {"b": 4}}', '{"a": {"b" :\t[ 5 ] }}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + '\n{"a.b": null}')
    _, listed, _ = scored(model, tmp_path / "a.jsonl", tmp_path, on_error="skip", text_field="a.b")
    assert [found["reason"] for found in listed] == [f"{TEXT}{value}" for value in ("1", "3", "[ 5 ]")]
    assert {found["field"] for found in listed} == {"a.b"}


def test_control_characters_do_not_reach_a_terminal(model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\x1b[31m\u202e')
    _, listed, _ = scored(model, tmp_path / "a.jsonl", tmp_path, on_error="skip")
    assert listed[0]["reason"].endswith("at character 0, near \\u001b[31m\\u202e")


@pytest.mark.parametrize("on_error", ["null", "skip"])
def test_bad_elements_of_an_array(on_error, model, tmp_path):
    data = b'[{"text": "One"},\n{"text": 5}, 7, {"text": "caf\xe9"}, {\'a\': ","}, {"text": "Two"}]'
    (tmp_path / "a.json").write_bytes(data)
    target, listed, _ = scored(model, tmp_path / "a.json", tmp_path, on_error=on_error)
    rows = [{"text": "One"}, {"text": 5}, {"text": "Two"}]
    found = [row | more for row, more in zip(rows, kept(model, "One", None, "Two"), strict=True)]
    assert json.loads(target.read_text()) == (found if on_error == "null" else found[::2])
    assert [(row["record"], row["field"], row["reason"].partition(";")[0]) for row in listed] == [
        (2, "text", "must be a text or null"),
        (3, None, "each element must be a JSON object, {...}"),
        (4, None, "not UTF-8 text: byte 13 is 0xe9"),
        (5, None, f"{NAME}, at character 1, near {{'a': \",\"}}"),
    ]


@pytest.mark.parametrize("on_error", ["null", "skip"])
def test_bad_rows_of_csv(on_error, model, tmp_path):
    data = (
        b'text,n\nOne,1\nx\n"a\nb",c,d\n"un"closed,1\n"a\ncaf\xe9",2\n'
        b'Two,"2\nThree,3\nFour,"4"\n"caf\xc3\xa9\n!",5\n\nFive,"6\nSix,7\n'
    )
    (tmp_path / "a.csv").write_bytes(data)
    target, listed, totals = scored(model, tmp_path / "a.csv", tmp_path, on_error=on_error)
    header, *rows = csv.reader(io.StringIO(target.read_bytes().decode(), newline=""))
    texts = ["One", "Three", "Four", "café\n!", "Six"]
    assert [row[:2] for row in rows] == [list(pair) for pair in zip(texts, "13457", strict=True)]
    for row, text in zip(rows, texts, strict=True):
        scores = with_prefix(told(model, text))
        assert dict(zip(header[2:], row[2:], strict=True)) == {k: json.dumps(v) for k, v in scores.items()}
    begins = "in a row that begins with "
    assert [(row["line"], row["reason"]) for row in listed] == [
        (3, "1 field, but the header has 2: x"),
        (4, '3 fields, but the header has 2: "a\\u000ab",c,d'),
        (6, f"not CSV: ',' expected after '\"', {begins}\"un\"closed,1"),
        (8, f"not UTF-8 text: byte 3 is 0xe9{UTF8}"),
        (9, f"not CSV: ',' expected after '\"', {begins}Two,\"2"),
        (15, f'not CSV: unexpected end of data, {begins}Five,"6'),
    ]
    assert totals.faults == 6 and not any(row["kept"] for row in listed)


@pytest.mark.parametrize("on_error", ["null", "skip"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.string()])
def test_bad_rows_of_parquet(kind, on_error, model, tmp_path):
    values = [b"One", b"caf\xe9", None, b"Two", b"\xff"] * 60
    column = pa.array(values, pa.binary())
    column = column if kind == pa.binary() else column.view(kind)
    table = pa.table({"id": range(300), "text": column})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=130)
    target, listed, totals = scored(model, tmp_path / "a.parquet", tmp_path, on_error=on_error)
    found = parquet.read_table(target)
    rows = [i for i in range(300) if on_error == "null" or i % 5 in (0, 2, 3)]
    assert found["id"].to_pylist() == rows
    assert found["text"].cast(pa.binary()).to_pylist() == [values[i] for i in rows]
    assert found.drop_columns(["id", "text"]).to_pylist() == kept(
        model, *({b"One": "One", b"Two": "Two"}.get(values[i]) for i in rows)
    )
    assert [(row["row"], row["reason"]) for row in listed] == [
        (i + 1, f"is not UTF-8 text: byte {3 * (i % 5 == 1)} is 0x{'e9' if i % 5 == 1 else 'ff'}")
        for i in range(300)
        if i % 5 in (1, 4)
    ]
    assert totals.faults == 120 and {row["kept"] for row in listed} == {on_error == "null"}


def test_bad_texts(model, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"One\ncaf\xe9\nTwo\r\n")
    target, listed, _ = scored(model, tmp_path / "a.txt", tmp_path, on_error="null", lines=True)
    assert [row["text"] for row in jsonl(target)] == ["One", "Two"]
    assert [row["line"] for row in listed] == [2]
    target, listed, _ = scored(model, tmp_path / "a.txt", tmp_path, on_error="null")
    assert target.read_bytes() == b"" and [row["line"] for row in listed] == [2]


def test_a_list_is_only_there_if_it_is_needed(model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1}\n{"text": "x"}')
    assert len(scored(model, tmp_path / "a.jsonl", tmp_path, on_error="skip")[1]) == 1
    (tmp_path / "a.jsonl").write_text('{"text": "x"}')
    assert scored(model, tmp_path / "a.jsonl", tmp_path, on_error="skip")[1] is None
    # What is wrong with the file, not with a record, is an error always.
    (tmp_path / "a.jsonl").write_text('{"text": 1}\n{"text": "x", "gpt2c_bits_per_byte": 1}')
    with pytest.raises(ValueError, match="there is a field"):
        scored(model, tmp_path / "a.jsonl", tmp_path, on_error="skip")
    options, task = separated(model, {"on_error": "skip"})
    (job,) = plan([str(tmp_path / "a.jsonl")], str(tmp_path / "new"), options)
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match="there is a field"):
        perform(job, options, task)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("on_error", ["null", "skip"])
def test_shards_take_every_bad_record_once(on_error, model, tmp_path):
    lines = [b'{"text": "Text %d"}' % i if i % 3 else b"x" if i % 2 else b'{"text": 1}' for i in range(20)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    target, listed, _ = scored(model, tmp_path / "a.jsonl", tmp_path, on_error=on_error)
    whole = jsonl(target)
    found, errors = [], []
    for shard in range(1, 5):
        part = scored(model, tmp_path / "a.jsonl", tmp_path, on_error=on_error, shard=(shard, 4))
        found += jsonl(part[0])
        errors += part[1]
        assert {row["line"] % 4 for row in part[1]} == {shard % 4}
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, whole))
    assert sorted(errors, key=lambda row: row["line"]) == listed


def test_the_choice_stands_in_the_settings(model, tmp_path):
    options, task = separated(model, {"on_error": "skip"})
    claim(str(tmp_path), task, options, ())
    assert json.loads((tmp_path / "_gpt2c.json").read_text())["on_error"] == "skip"
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="on_error was 'skip', now 'stop'"):
        claim(str(tmp_path), task, FileOptions(), ())
    with pytest.raises(ValueError, match="on_error must be one of stop, null, skip, not 'ignore'"):
        FileOptions(on_error="ignore")


def test_names_of_lists_that_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "a.jsonl.errors.jsonl"):
        (tmp_path / name).write_text("{}")
    assert len(plan(["a.jsonl", "a.jsonl.errors.jsonl"], "out", FileOptions())) == 2
    with pytest.raises(ValueError, match=r"would both be written to out/a\.jsonl\.errors\.jsonl"):
        plan(["a.jsonl", "a.jsonl.errors.jsonl"], "out", FileOptions(on_error="skip"))
    os.mkdir("sub")
    os.rename("a.jsonl", "sub/a.jsonl")
    with pytest.raises(ValueError, match=r"the output \./a\.jsonl\.errors\.jsonl would replace the input"):
        plan(["sub/a.jsonl", "a.jsonl.errors.jsonl"], ".", FileOptions(on_error="skip", prefix="x"))


# ---- the command


def test_bad_records_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "Once"}\n{"text": 1}\nx\n')
    done = run("score", "a.jsonl", "-o", "out")
    assert done.returncode == 1 and done.stderr == (
        "gpt2c: error: a.jsonl:2: 'text' must be a text or null; it is 1\n"
        "--on-error null or skip continues, and lists such records in a file\n"
    )
    done = run("score", "a.jsonl", "-o", "out", "--on-error", "null")
    assert done.returncode == 0
    first, second, last = done.stderr.splitlines()
    assert first.startswith("out/a.jsonl: 2 records (1 without a score, 2 bad) · ")
    assert second == "2 bad records, with place and reason: out/a.jsonl.errors.jsonl"
    assert last.startswith("1 file: 2 records (1 without a score, 2 bad) · ")
    assert [row["line"] for row in jsonl(tmp_path / "out" / "a.jsonl.errors.jsonl")] == [2, 3]
    done = run("score", "a.jsonl", "-o", "out", "--on-error", "ignore")
    assert done.returncode == 2 and "--on-error: invalid choice: 'ignore'" in done.stderr
    assert "--on-error is for files" in run("score", "The king", "--on-error", "skip").stderr


def test_kill_and_resume_with_bad_records(corpus, tmp_path):
    for name, opened in (("a.jsonl", open), ("b.jsonl.gz", gzip.open)):
        with opened(name, "at") as file:
            file.write('{"text": 1}\nx\n')
    arguments = ("score", *corpus, "--on-error", "null")
    assert run(*arguments, "-o", "undisturbed/").returncode == 0
    whole = contents(tmp_path / "undisturbed")
    lists = ["a.jsonl.errors.jsonl", "b.jsonl.gz.errors.jsonl"]
    assert sorted(whole) == sorted(["_gpt2c.json", *corpus, *lists])
    process = start_until_second([*corpus, "--on-error", "null"], tmp_path)
    process.kill()
    process.communicate()
    assert not (tmp_path / "out" / "b.jsonl.gz.errors.jsonl").exists()
    assert run(*arguments, "-o", "out").returncode == 0
    assert contents(tmp_path / "out") == whole
