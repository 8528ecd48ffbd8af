"""Files of texts: what goes in comes out with its scores, and a run that is killed goes on where it was."""

from __future__ import annotations

import csv
import errno
import fcntl
import gzip
import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.command_line import TIMEOUT, command, environment, run
from helpers.text_files import write_parquet, zstd
from helpers.toys import bundled_tokenizer, random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import gpt2c
from gpt2c import GPT2, cli
from gpt2c.cli.progress import Progress
from gpt2c.core.files import replacing
from gpt2c.corpus.jobs import FileOptions, Job, claim, perform, plan, survey
from gpt2c.corpus.tasks import Scoring
from gpt2c.scoring.rows import score_rows

TEXTS = ["Once upon a time", "déjà 🙂\nzwei Zeilen", "", "x", "The king went out. " * 30, "a, \"b\"; 'c'\t"]
COLUMNS = ["n_tokens", "n_bytes", "logprob", "perplexity", "bits_per_byte", "bits_per_char", "truncated"]
N_CTX = 40


@pytest.fixture(scope="module")
def model():
    return random_gpt2(n_vocab=4096, n_ctx=N_CTX, tokenizer=bundled_tokenizer())[0]


def told(model, text, *, max_tokens=None, **options):
    """What should be told of a text, by `model.score`."""
    options = {"stride": N_CTX // 2, **options}
    ids = model.tokenizer.encode(text) if text else []
    scored = min(len(ids), max_tokens or len(ids)) - (not options.get("bos", True))
    cut = max_tokens is not None and len(ids) > max_tokens
    if scored < 1:
        return dict(zip(COLUMNS, [0, 0, None, None, None, None, cut], strict=True))
    score = model.score(ids[:max_tokens] if cut else text, **options)
    return {
        "n_tokens": scored,
        **{name: getattr(score, name) for name in COLUMNS[1:-1]},
        "truncated": cut,
    }


def separated(model, options):
    """The options of files, and the task with the others."""
    of_files = {name: options[name] for name in options if name in FileOptions.__dataclass_fields__}
    return FileOptions(**of_files), Scoring(
        model, **{name: options[name] for name in options if name not in of_files}
    )


def score_one(model, source, tmp_path, **options):
    """Score one file; its job and the totals."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    options, task = separated(model, options)
    (job,) = plan([str(source)], str(out), options)
    survey(job, options, task)
    totals = perform(job, options, task)
    assert [path for path in out.iterdir() if path.suffix in (".part", ".journal")] == []
    return job, totals


def scored(model, source, tmp_path, **options):
    """Score one file; the path of the output."""
    return Path(score_one(model, source, tmp_path, **options)[0].target)


def jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def with_prefix(values, prefix="gpt2c_"):
    return {prefix + name: value for name, value in values.items()}


# ---- scores


def test_scores_of_jsonl_are_those_of_the_model(model, tmp_path):
    records = [{"id": i, "text": text} for i, text in enumerate(TEXTS)] + [{"text": None}, {"id": 7}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = jsonl(scored(model, tmp_path / "a.jsonl", tmp_path))
    assert found == [{**r, **with_prefix(told(model, r.get("text")))} for r in records]
    assert found[4]["gpt2c_n_tokens"] > N_CTX and found[2]["gpt2c_logprob"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"bos": False},
        {"stride": 3},
        {"max_tokens": 3},
        {"max_tokens": 1},
        {"max_tokens": 3, "bos": False},
        {"max_tokens": 1, "bos": False},
    ],
    ids=str,
)
def test_options_arrive(options, model, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"t": text}) + "\n" for text in TEXTS))
    found = jsonl(scored(model, tmp_path / "a.jsonl", tmp_path, text_field="t", prefix="gpt2_", **options))
    assert found == [{"t": text, **with_prefix(told(model, text, **options), "gpt2_")} for text in TEXTS]


@pytest.mark.parametrize(
    "options",
    [{"window": 16}, {"window": 16, "stride": 3}, {"window": 16, "min_context": 9}, {"repeat_bos": True}],
)
def test_windows(options, model, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[4]}))
    [found] = jsonl(scored(model, tmp_path / "a.jsonl", tmp_path, **options))
    by_default = (
        {} if {"stride", "min_context"} & options.keys() else {"stride": options.get("window", N_CTX) // 2}
    )
    score = model.score(TEXTS[4], **options, **by_default)
    assert found["gpt2c_logprob"] == score.logprob != model.score(TEXTS[4], stride=N_CTX // 2).logprob


def test_a_text_of_just_the_allowed_tokens_is_not_cut(model, tmp_path):
    n = len(model.tokenizer.encode(TEXTS[0]))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    (found,) = jsonl(scored(model, tmp_path / "a.jsonl", tmp_path, max_tokens=n))
    assert found["gpt2c_truncated"] is False and found["gpt2c_n_tokens"] == n
    (found,) = jsonl(scored(model, tmp_path / "a.jsonl", tmp_path, max_tokens=n - 1))
    assert found["gpt2c_truncated"] is True and found["gpt2c_n_tokens"] == n - 1


def test_a_txt_file_is_one_text_or_one_a_line(model, tmp_path):
    data = "Once upon a time\n\nthere\u2028was\r\n\n"
    (tmp_path / "a.txt").write_bytes(data.encode())
    text = data[:-1]
    assert jsonl(scored(model, tmp_path / "a.txt", tmp_path)) == [
        {"text": text, **with_prefix(told(model, text))}
    ]
    assert jsonl(scored(model, tmp_path / "a.txt", tmp_path, lines=True)) == [
        {"text": line, **with_prefix(told(model, line))}
        for line in ["Once upon a time", "", "there\u2028was", ""]
    ]


def test_infinite_perplexity_is_null_in_json(tmp_path):
    huge, _ = random_gpt2(n_vocab=4096, n_ctx=N_CTX, tokenizer=bundled_tokenizer(), std=60)
    (tmp_path / "a.jsonl").write_text('{"text": "Once upon a time"}')
    assert huge.score("Once upon a time").perplexity == math.inf
    line = scored(huge, tmp_path / "a.jsonl", tmp_path).read_text()
    assert "Infinity" not in line and json.loads(line)["gpt2c_perplexity"] is None


# ---- what is copied

names = st.text(max_size=8).filter(lambda name: not name.startswith("gpt2c_"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
records = st.lists(
    st.builds(
        lambda other, text: {**other, "text": text}, st.dictionaries(names, values), st.text(max_size=20)
    ),
    max_size=5,
)


@given(records, st.booleans(), st.sampled_from(["\n", "\r\n", " \n\n"]))
@settings(max_examples=40)
def test_lines_of_json_are_copied_byte_for_byte(model, tmp_path_factory, found, ascii, end):
    tmp_path = tmp_path_factory.mktemp("jsonl")
    lines = [json.dumps(record, ensure_ascii=ascii) for record in found]
    (tmp_path / "a.jsonl").write_bytes("".join(line + end for line in lines).encode("utf-8", "surrogatepass"))
    written = scored(model, tmp_path / "a.jsonl", tmp_path).read_text(encoding="utf-8")
    added = [with_prefix(told(model, record["text"])) for record in found]
    assert written == "".join(
        f"{line[:-1]}, {json.dumps(new)[1:]}\n" for line, new in zip(lines, added, strict=True)
    )


def test_json_without_fields_and_with_spaces(model, tmp_path):
    lines = ["{}", "{ }", '  {"a": 1 }\t', '{"text": "Once" , "b": "{" }']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    nothing, once = (json.dumps(with_prefix(told(model, text)))[1:] for text in (None, "Once"))
    assert scored(model, tmp_path / "a.jsonl", tmp_path).read_text().split("\n") == [
        "{" + nothing,
        "{ " + nothing,
        '  {"a": 1 , ' + nothing,
        '{"text": "Once" , "b": "{" , ' + once,
        "",
    ]


fields = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(fields, fields, fields), max_size=5), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_rows_of_csv_are_copied(model, tmp_path_factory, rows, ended, all_quoted):
    tmp_path = tmp_path_factory.mktemp("csv")
    whole = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(whole, lineterminator="\r\n", quoting=quoting)  # quotes both characters
    writer.writerows([("a,b", "text", ""), *rows])
    data = whole.getvalue() if ended else whole.getvalue().removesuffix("\r\n")
    (tmp_path / "a.csv").write_bytes(data.encode())
    written = scored(model, tmp_path / "a.csv", tmp_path).read_bytes().decode()
    header, *found = csv.reader(io.StringIO(written, newline=""), strict=True)
    assert header == ["a,b", "text", "", *with_prefix(dict.fromkeys(COLUMNS))]
    assert [tuple(row[:3]) for row in found] == rows
    for row in found:
        expected = told(model, row[1]).values()
        assert row[3:] == ["" if value is None else json.dumps(value) for value in expected]


def test_csv_of_excel_keeps_its_mark_and_its_line_ends(model, tmp_path):
    (tmp_path / "a.csv").write_bytes('\ufefftext;x,b\r\nOnce,"1\r\n2"\r\n\r\nupon,3'.encode())
    written = scored(model, tmp_path / "a.csv", tmp_path, text_field="text;x").read_bytes().decode()
    one, two = (
        ",".join("" if v is None else json.dumps(v) for v in told(model, t).values())
        for t in ("Once", "upon")
    )
    assert written == (
        f"\ufefftext;x,b,{','.join(with_prefix(dict.fromkeys(COLUMNS)))}\r\n"
        f'Once,"1\r\n2",{one}\r\nupon,3,{two}\n'
    )


TABLE = pa.table(
    {
        "id": pa.array(range(len(TEXTS) + 1), pa.int16()),
        "text": [*TEXTS, None],
        "tags": [["a"], [], None, ["b", "c"], [], [], []],
        "kind": pa.array(["x", "y", "x", None, "x", "y", "y"]).dictionary_encode(),
    },
    metadata={"from": "a test"},
)


@pytest.mark.parametrize("compression", ["NONE", "SNAPPY", "GZIP", "ZSTD", "LZ4", "BROTLI"])
def test_parquet_keeps_schema_row_groups_and_compression(compression, model, tmp_path):
    parquet.write_table(TABLE, tmp_path / "a.parquet", row_group_size=3, compression=compression)
    with parquet.ParquetFile(scored(model, tmp_path / "a.parquet", tmp_path)) as file:
        found, metadata = file.read(), file.metadata
    source = parquet.read_table(tmp_path / "a.parquet")
    assert found.select(TABLE.column_names).equals(source, check_metadata=True)
    assert found.schema.metadata == TABLE.schema.metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 1]
    with parquet.ParquetFile(tmp_path / "a.parquet") as file:
        used = file.metadata.row_group(0).column(0).compression
    for i in range(metadata.num_columns):
        assert metadata.row_group(0).column(i).compression == used
    kinds = [pa.int64(), pa.int64(), *[pa.float64()] * 4, pa.bool_()]
    assert found.schema.types[4:] == kinds
    new = found.select(range(4, 11)).to_pylist()
    assert new == [with_prefix(told(model, text)) for text in TABLE["text"].to_pylist()]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_with_other_kinds_of_text(kind, model, tmp_path):
    table = pa.table(
        {"text": pa.array(TEXTS).cast(kind) if kind != pa.string_view() else pa.array(TEXTS, kind)}
    )
    write_parquet(table, tmp_path / "a.parquet")
    found = parquet.read_table(scored(model, tmp_path / "a.parquet", tmp_path))
    assert found.schema.field("text").type == kind and found["text"].to_pylist() == TEXTS
    assert found["gpt2c_logprob"].to_pylist() == [told(model, text)["logprob"] for text in TEXTS]


def test_large_row_groups_are_divided(model, tmp_path, monkeypatch):
    table = pa.table({"text": [f"Text {i}" for i in range(1000)]})
    parquet.write_table(table, tmp_path / "a.parquet")
    whole = parquet.read_table(scored(model, tmp_path / "a.parquet", tmp_path))
    monkeypatch.setattr("gpt2c.corpus.parquet.ROW_GROUP", 1)
    target = scored(model, tmp_path / "a.parquet", tmp_path)
    assert parquet.ParquetFile(target).metadata.num_row_groups == 8
    assert parquet.read_table(target).equals(whole) and whole.select(["text"]).equals(table)


@pytest.mark.parametrize("nfiles", [0, 5])
@pytest.mark.parametrize("format", [".jsonl", ".csv", ".txt"])
@pytest.mark.parametrize(("ending", "library"), [(".gz", gzip), (".zst", zstd)])
def test_what_comes_compressed_goes_compressed(ending, library, format, nfiles, model, tmp_path):
    line = '{"text": "Once"}\n' if format == ".jsonl" else "Once\n"
    data = (("text\n" if format == ".csv" else "") + line * nfiles).encode()
    (tmp_path / f"a{format}").write_bytes(data)
    plain = scored(model, tmp_path / f"a{format}", tmp_path, lines=True).read_bytes()
    # Two parts, one after the other, are one file.
    (tmp_path / f"b{format}{ending}").write_bytes(library.compress(data[:9]) + library.compress(data[9:]))
    target = scored(model, tmp_path / f"b{format}{ending}", tmp_path, lines=True)
    assert target.name == f"b{'.txt.jsonl' if format == '.txt' else format}{ending}"
    packed = target.read_bytes()
    assert library.decompress(packed) == plain
    if ending == ".gz":
        assert packed[3:8] == bytes(5)  # no name, no time: nothing that differs between two runs


# ---- shards


@given(st.integers(0, 12), st.integers(1, 5))
@settings(max_examples=15)
def test_shards_take_every_record_once(model, tmp_path_factory, nfiles, n_shards):
    tmp_path = tmp_path_factory.mktemp("shards")
    lines = [f'{{"text": "Text {i}"}}' for i in range(nfiles)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = pa.table({"text": pa.array([f"Text {i}" for i in range(nfiles)], pa.string())})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    for ending, read in ((".jsonl", jsonl), (".parquet", lambda path: parquet.read_table(path).to_pylist())):
        whole = read(scored(model, tmp_path / f"a{ending}", tmp_path))
        assert [record["text"] for record in whole] == [f"Text {i}" for i in range(nfiles)]
        for shard in range(1, n_shards + 1):
            target = scored(model, tmp_path / f"a{ending}", tmp_path, shard=(shard, n_shards))
            part = f".{shard}-of-{n_shards}" if n_shards > 1 else ""
            assert target.name == f"a{part}{ending}"
            assert read(target) == whole[shard - 1 :: n_shards]


# ---- what is wrong is told, with its place


def damaged(data):
    return data[: len(data) // 2]


LINE = b'{"text": "Once"}\n'
PARQUET = pa.BufferOutputStream()
parquet.write_table(pa.table({"text": ["a"], "n": [1]}), PARQUET)
PARQUET = PARQUET.getvalue().to_pybytes()


def fewer_rows(data):
    """A Parquet file of one row whose row group announces none, and whose footer one."""
    at = data.rindex(b"\x16\x02")  # a field of 1, in a 64-bit integer of Thrift
    return data[: at + 1] + b"\0" + data[at + 2 :]


NOISE = b"".join(b'{"text": "%d"}\n' % (i * i) for i in range(5000))


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("a.jsonl", LINE + b"\n{'text': 1}\n", {}, ":3: not JSON: Expecting property name"),
        ("a.jsonl", b'"Once"\n', {}, ':1: each line must be a JSON object, {...}; it starts with "Once"'),
        ("a.jsonl", LINE + b'{"text": 2009}\n', {}, ":2: 'text' must be a text or null; it is 2009"),
        ("a.jsonl", LINE + b'{"text": ["a"]}\n', {}, ":2: 'text' must be a text or null; it is [\"a\"]"),
        ("a.jsonl", LINE + b'{"text": "caf\xe9"}\n', {}, ":2: not UTF-8 text: byte 13 is 0xe9"),
        ("a.jsonl", LINE + b'{"text": "\\ud800"}\n', {}, ":2: 'text' has half a surrogate pair"),
        ("a.jsonl", b"[" * 100_000 + b"\n", {}, ":1: JSON nested too deeply"),
        ("a.jsonl", b'{"Text": "a", "b": 1}\n', {}, "no record has a field 'text': choose with -"),
        ("a.jsonl", b'{"text": "a", "gpt2c_logprob": 1}', {}, ":1: there is a field 'gpt2c_logp"),
        ("a.jsonl", LINE + b"\xef\xbb\xbf\n", {}, ":2: not JSON: Unexpected UTF-8 BOM"),
        ("a.jsonl", LINE + b"\xef\xbb\n", {}, ":2: not UTF-8 text: byte 0 is 0xef"),
        ("a.csv", b"", {}, ": an empty file, or one of empty lines: a CSV file starts with the names of"),
        ("a.csv", b"\n\r\n", {}, ": an empty file, or one of empty lines: a CSV file starts with the names"),
        ("a.csv", b"a,b\n1,2\n", {}, ":1: no column is called 'text': choose with --text-field"),
        ("a.csv", b"text,text\n1,2\n", {}, ":1: two columns are called 'text'"),
        ("a.csv", b"text,gpt2c_n_tokens\n", {}, ":1: there is a field 'gpt2c_n_tokens' already"),
        ("a.csv", b'text,b\n"1\n2",3\n4\n', {}, ":4: 1 field, but the header has 2"),
        ("a.csv", b'text,b\n1,2\n"1\n2,3\n', {}, ":3: not CSV: unexpected end of data"),
        ("a.txt", b"one\ncaf\xe9\n", {}, ":2: not UTF-8 text: byte 3 is 0xe9"),
        ("a.txt", b"one\ncaf\xe9\n", {"lines": True}, ":2: not UTF-8 text: byte 3 is 0xe9"),
        ("a.jsonl.gz", damaged(gzip.compress(NOISE)), {}, "the file is damaged or truncated after line"),
        ("a.jsonl.gz", LINE, {}, "the file is damaged or truncated after line 0: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(LINE)[:-8] + bytes(8), {}, "is damaged or truncated after line"),
        ("a.jsonl.zst", damaged(zstd.compress(NOISE)), {}, "the file is damaged or truncated after line"),
        ("a.jsonl.zst", LINE, {}, "the file is damaged or truncated after line 0"),
        ("a.parquet", PARQUET, {"text_field": "b"}, ": no column is called 'b': choose with "),
        ("a.parquet", PARQUET, {"text_field": "n"}, ": the column 'n' holds int64; needed: texts"),
        ("a.parquet", damaged(PARQUET), {}, ": not a complete Parquet file: "),
        ("a.parquet", fewer_rows(PARQUET), {}, ": not a complete Parquet file: it has 0 rows, but"),
        ("a.parquet", PARQUET.replace(b"text", b"\xffext"), {}, ": not a complete Parquet file: 'utf-8'"),
        ("a.parquet", b"", {}, ": not a complete Parquet file: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_damages_are_told_with_their_place(name, data, options, message, model, tmp_path):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "out").mkdir()
    options, task = separated(model, options)
    (job,) = plan([str(tmp_path / name)], str(tmp_path / "out"), options)
    for attempt in (lambda: survey(job, options, task), lambda: perform(job, options, task)):
        with pytest.raises(ValueError) as error:
            attempt()
        assert str(error.value).startswith(job.source) and message in str(error.value)
    # What was computed of the records before is kept for another attempt, and nothing else.
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {f"_{Path(job.target).name}.journal"}


def test_parquet_text_that_is_no_utf8(model, tmp_path):
    text = pa.array([b"a", b"caf\xe9"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    options, task = separated(model, {})
    (job,) = plan([str(tmp_path / "a.parquet")], str(tmp_path / "out"), options)
    with pytest.raises(ValueError, match=r"a\.parquet, row 2: 'text' is not UTF-8 text"):
        survey(job, options, task)


def test_what_hinders_reading_is_no_damage(model, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(PARQUET)
    options, task = separated(model, {})
    (job,) = plan([str(path)], str(tmp_path / "out"), options)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        survey(job, options, task)


def test_numbers_that_python_would_not_read_are_copied(model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Once", "n": %s, "x": 1e999}' % ("7" * 5000))
    written = scored(model, tmp_path / "a.jsonl", tmp_path).read_text()
    assert written.startswith('{"text": "Once", "n": 7777') and '"x": 1e999, "gpt2c_n_tokens"' in written


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        (["a.jsonl", "-"], ValueError, "stdin has no name"),
        (["sub"], OSError, "sub is a directory: give its files, such as sub/*.jsonl"),
        (["b.jsonl"], OSError, "the file b.jsonl does not exist"),
        (["a.md"], ValueError, "a.md is of an unknown format: file names must end with .txt, .jsonl, "),
        (["a.parquet.gz"], ValueError, "a.parquet.gz is of an unknown format"),
        (["a.jsonl", "sub/a.jsonl"], ValueError, "a.jsonl and sub/a.jsonl would both be written to "),
        (["a.jsonl", "./a.jsonl"], ValueError, "./a.jsonl is given twice"),
        (["a.txt", "a.txt.jsonl"], ValueError, "a.txt and a.txt.jsonl would both be written to "),
        (["out/c.jsonl"], ValueError, "the output out/c.jsonl would replace the input out/c.jsonl"),
        (["link.jsonl"], ValueError, "the output out/link.jsonl would replace the input link.jsonl"),
        (["pipe.jsonl"], ValueError, "pipe.jsonl is not a regular file, and"),
    ],
    ids=str,
)
def test_inputs_that_cannot_be(inputs, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("sub")
    os.mkdir("out")
    for name in (
        "a.jsonl",
        "sub/a.jsonl",
        "a.txt",
        "a.txt.jsonl",
        "a.md",
        "a.parquet.gz",
        "out/c.jsonl",
        "out/link.jsonl",
    ):
        (tmp_path / name).write_bytes(LINE)
    os.symlink("out/link.jsonl", "link.jsonl")
    os.mkfifo("pipe.jsonl")
    with pytest.raises(kind) as error:
        plan(inputs, "out", FileOptions())
    assert message in str(error.value)
    assert (tmp_path / "out/c.jsonl").read_bytes() == LINE


def test_a_delimiter_is_for_files_that_have_one(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINE)
    with pytest.raises(ValueError, match=r"delimiter ';' is for \.csv and \.tsv files, but there are none"):
        plan([str(tmp_path / "a.jsonl")], str(tmp_path), FileOptions(delimiter=";"))


def test_a_missing_library_is_named(tmp_path):
    for name, hint in (
        ("a.parquet", 'pip install "gpt2c[parquet]"'),
        ("a.jsonl.zst", 'pip install "gpt2c[zstd]"'),
    ):
        (tmp_path / name).write_bytes(b"")
        code = (
            "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'backports', 'compression']));"
            "from gpt2c import cli; sys.exit(cli.main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "score", str(tmp_path / name), "-o", str(tmp_path / "out")],
            capture_output=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 1 and hint in done.stderr.decode() and b"Traceback" not in done.stderr


# ---- one directory, one way of scoring


def test_a_directory_is_for_one_way_of_scoring(model, tmp_path):
    directory = str(tmp_path)

    def claims(model=model, jobs=(), **options):
        options, task = separated(model, options)
        claim(directory, task, options, jobs)

    claims()
    claims()  # the same again
    for path in tmp_path.iterdir():
        path.unlink()
    claims(max_tokens=5)
    claims(max_tokens=5, stride=N_CTX // 2)  # the same, said in words
    for options, word in [
        ({}, "max_tokens was 5, now None"),
        ({"max_tokens": 5, "stride": 3}, "stride was 20, now 3"),
        ({"max_tokens": 5, "shard": (1, 2)}, "shards was 1, now 2"),
        ({"max_tokens": 5, "bos": False}, "bos was True, now False"),
    ]:
        with pytest.raises(ValueError, match=f"holds outputs with other settings .*{word}"):
            claims(**options)
    other = GPT2.from_pretrained(threads=1)
    with pytest.raises(ValueError, match="weights_sha256 was"):
        claims(other, max_tokens=5, stride=20)
    for damage in ("", "{", "3", "[1]"):
        (tmp_path / "_gpt2c.json").write_text(damage)
        with pytest.raises(ValueError, match=r"_gpt2c\.json is damaged"):
            claims()
    (tmp_path / "_gpt2c.json").unlink()
    (tmp_path / "a.jsonl").write_bytes(b"")
    job = Job("x/a.jsonl", str(tmp_path / "a.jsonl"), ".jsonl", "")
    with pytest.raises(ValueError, match=r"a\.jsonl exists, but was not made by this command"):
        claims(jobs=[job])


def test_of_processes_that_begin_at_once_one_decides(tmp_path):
    # They wait for each other before they record.
    code = (
        "import sys, time; from gpt2c import GPT2; from gpt2c.corpus.jobs import FileOptions, claim;"
        "from gpt2c.corpus.tasks import Scoring;"
        "task = Scoring(GPT2.from_pretrained(), stride=int(sys.argv[2]));"
        "print('ready', flush=True); sys.stdin.readline(); claim(sys.argv[1], task, FileOptions(), ())"
    )
    for attempt in range(5):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(directory), str(stride)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for stride in (5, 6)
        ]
        for process in processes:
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        errors = [process.communicate(timeout=TIMEOUT)[1].decode() for process in processes]
        codes = [process.returncode for process in processes]
        assert sorted(codes) == [0, 1] and "holds outputs with other settings" in errors[codes.index(1)]
        found = json.loads((directory / "_gpt2c.json").read_text())
        assert found["stride"] == (5, 6)[codes.index(0)]
        assert [path.name for path in directory.iterdir()] == ["_gpt2c.json"]


def test_memory_does_not_grow_with_texts_that_are_none(model, tmp_path):
    peaks = []
    for n in (3000, 9000):
        (tmp_path / "a.jsonl").write_text(('{"text": null, "other": "' + "x" * 2000 + '"}\n') * n)
        tracemalloc.start()
        scored(model, tmp_path / "a.jsonl", tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_memory_does_not_grow_with_the_file(model, tmp_path):
    filler = "x" * 50_000
    peaks = []
    for nfiles in (150, 450):
        with open(tmp_path / "a.jsonl", "w") as file:
            for i in range(nfiles):
                print(json.dumps({"other": filler, "text": f"Text {i} " * 8}), file=file)
        tracemalloc.start()
        scored(model, tmp_path / "a.jsonl", tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]  # the file has grown by 15 MB


# ---- the command


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Three files, of about a second each, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(gpt2c.__file__)))
    texts = [f"The king had {i} daughters, and the youngest went into the wood. " * 4 for i in range(30)]
    with open("a.jsonl", "w") as file, gzip.open("b.jsonl.gz", "wt") as packed:
        for text in texts:
            print(json.dumps({"text": text}), file=file)
            print(json.dumps({"text": text}), file=packed)
    parquet.write_table(pa.table({"text": texts}), "c.parquet", row_group_size=8)
    return ["a.jsonl", "b.jsonl.gz", "c.parquet"]


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def start_until_second(corpus, tmp_path):
    """The command, when its first output is there and the second is being written."""
    process = subprocess.Popen(
        command("score", *corpus, "-o", "out"),
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + TIMEOUT
    begun = [tmp_path / "out" / name for name in ("b.jsonl.gz.part", "_b.jsonl.gz.journal")]
    while not all(path.exists() for path in begun):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    assert (tmp_path / "out" / "a.jsonl").exists()
    assert not (tmp_path / "out" / "b.jsonl.gz").exists()
    return process


def test_kill_and_resume(corpus, tmp_path):
    done = run("score", *corpus, "-o", "undisturbed/")
    assert done.returncode == 0 and done.stdout == ""
    whole = contents(tmp_path / "undisturbed")
    assert sorted(whole) == ["_gpt2c.json", *corpus]
    process = start_until_second(corpus, tmp_path)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == -signal.SIGKILL
    left = sorted(contents(tmp_path / "out"))
    assert left == ["_b.jsonl.gz.journal", "_gpt2c.json", "a.jsonl", "b.jsonl.gz.part"]
    with open("out/b.jsonl.gz.part", "ab") as file:  # a killed run may have come further than this one's end
        file.write(bytes(100_000))
    first = (tmp_path / "out" / "a.jsonl").stat()
    done = run("score", *corpus, "-o", "out")
    assert done.returncode == 0 and done.stderr.startswith("already in out: 1 of 3 outputs\n")
    assert contents(tmp_path / "out") == whole
    assert (tmp_path / "out" / "a.jsonl").stat().st_ino == first.st_ino  # not made again
    done = run("score", *corpus, "-o", "out")
    assert (done.returncode, done.stderr) == (0, "already in out: 3 of 3 outputs: nothing to do\n")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_is_finished_whole(number, status, corpus, tmp_path):
    process = start_until_second(corpus, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status and b"Traceback" not in errors
    assert re.fullmatch(
        r"stopped: 1 of 3 files finished in out(, [1-9]\d* records? of the next done)?; the same command .*",
        errors.decode().splitlines()[-1],
    )
    assert sorted(contents(tmp_path / "out")) == ["_b.jsonl.gz.journal", "_gpt2c.json", "a.jsonl"]
    assert len(jsonl(tmp_path / "out" / "a.jsonl")) == 30


def test_without_a_terminal_there_are_lines(corpus, tmp_path, monkeypatch, capsys):
    name = corpus[0]
    assert cli.main(["score", name, "-o", "usual"]) == 0
    usual = capsys.readouterr()
    assert len(usual.err.splitlines()) == 2, "of the file, and of all; it took less than half a minute"
    monkeypatch.setattr("gpt2c.cli.progress.EVERY", 0.0)
    assert cli.main(["score", name, "-o", "often"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 + len(jsonl(tmp_path / "often" / name)), "one more for every record"
    line = r"(\d+)% of 0\.\d MB · [\d,]+ tokens/s · about \d\d:\d\d left"
    shares = [re.fullmatch(line, said) for said in lines[:-2]]
    assert all(shares) and shares[-1][1] == "100" and shares[-1][0].endswith("about 00:00 left")
    assert [int(share[1]) for share in shares] == sorted(int(share[1]) for share in shares)
    assert cli.main(["score", name, "-o", "quiet", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert contents(tmp_path / "quiet") == contents(tmp_path / "often") == contents(tmp_path / "usual")


def test_the_time_left_is_that_of_new_work(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("gpt2c.cli.progress.perf_counter", lambda: now[0])
    monkeypatch.setattr("gpt2c.cli.progress.EVERY", 0.0)
    progress = Progress("scoring", 1000, "B", 2, "out", quiet=False)
    progress.advance(600, None)
    now[0] += 10
    progress.advance(100, 50)
    assert capsys.readouterr().err.splitlines()[-1] == "70% of 0.0 MB · 5 tokens/s · about 00:30 left"
    finished = "stopped: 0 of 2 files finished in out, 2 records of the next done; "
    assert progress._done() == finished + "the same command resumes here"
    progress.finish()
    assert progress._done() == "stopped: 1 of 2 files finished in out; the same command resumes here"


def test_two_processes_do_not_write_one_file(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    with open("out/a.jsonl.part", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("of another process")
        file.flush()
        done = run("score", "a.jsonl", "-o", "out")
        assert done.returncode == 1
        assert (
            "out/a.jsonl is being written by another process: wait for it or choose another name"
            in done.stderr
        )
        assert (tmp_path / "out" / "a.jsonl.part").read_text() == "of another process"


def test_a_file_that_gets_its_name_meanwhile_is_not_emptied(tmp_path, monkeypatch):
    target, part = tmp_path / "a", tmp_path / "a.part"
    part.write_bytes(b"whole")
    flock = fcntl.flock

    def late(descriptor, operation):
        if not target.exists():
            part.rename(target)  # by the process that had the lock until now
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with replacing(str(target), binary=True, take_over=True) as file:
        file.write(b"again")
        assert target.read_bytes() == b"whole"
    assert target.read_bytes() == b"again" and list(tmp_path.iterdir()) == [target]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "a.part").write_bytes(b"of a killed process")
    with replacing(str(tmp_path / "a"), binary=True, take_over=True) as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_what_is_told(corpus, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "Once upon a time"}\n{"text": ""}\n')
    done = run("score", "d.jsonl", "c.parquet", "-o", "out/", "--max-tokens", "40", "-t", "1")
    first, second, last = done.stderr.splitlines()
    speed = r"[\d,]+ tokens · [\d.]+ MB in [\d.]+ s · [\d,]+ tokens/s · [\d.]+ MB/s"
    assert re.fullmatch(rf"out/d\.jsonl: 2 records \(1 without a score\) · {speed}", first)
    assert re.fullmatch(rf"out/c\.parquet: 30 records \(30 cut\) · {speed}", second)
    cost = r" · [\d,.]+ vCPU-hours per GB with 1 thread"
    assert re.fullmatch(rf"2 files: 32 records \(1 without a score, 30 cut\) · {speed}{cost}", last)
    tokens, hours = (
        float(re.search(p, last)[1].replace(",", "")) for p in (r"([\d,]+) tokens ", r"([\d,.]+) vCPU")
    )
    found = jsonl(tmp_path / "out" / "d.jsonl") + parquet.read_table("out/c.parquet").to_pylist()
    assert tokens == sum(record["gpt2c_n_tokens"] for record in found)
    seconds = float(re.search(r"in ([\d.]+) s", last)[1])
    n_bytes = sum(record["gpt2c_n_bytes"] for record in found)
    assert abs(hours * n_bytes / 1e9 * 3600 - seconds) <= 0.1  # seconds are told with one decimal


def test_on_a_terminal_there_is_a_bar(corpus):
    main, other = pty.openpty()
    termios.tcsetwinsize(other, (24, 100))
    process = subprocess.Popen(
        command("score", "a.jsonl", "-o", "out"), stderr=other, env=environment(TERM="xterm")
    )
    os.close(other)
    seen = b""
    try:
        while data := os.read(main, 4096):
            seen += data
    except OSError:  # the other side has gone
        pass
    os.close(main)
    assert process.wait(TIMEOUT) == 0
    assert re.search(rb"scoring: +\d+%\|.*\[[\d:]+<[\d:]+, .*B/s, [\d,]+ tokens/s\]", seen)


def test_all_bad_files_are_told_before_anything_is_scored(corpus, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "Once"}\n{"text": 1}\n')
    (tmp_path / "e.jsonl").write_text("x\n")
    done = run("score", "a.jsonl", "d.jsonl", "e.jsonl", "-o", "out")
    assert done.returncode == 1
    assert re.fullmatch(
        r"gpt2c: error: d\.jsonl:2: .*\ne\.jsonl:1: .*\n--on-error null or skip .*\n", done.stderr
    )
    assert not (tmp_path / "out").exists(), "other settings can still be chosen"


def test_a_single_file_gives_the_same_as_the_text(corpus, tmp_path):
    (tmp_path / "one.txt").write_text("Once upon a time\n")
    assert run("score", "one.txt", "-o", "out").returncode == 0
    (record,) = jsonl(tmp_path / "out" / "one.txt.jsonl")
    found = json.loads(run("score", "-f", "one.txt", "--json").stdout)
    assert (record["gpt2c_logprob"], record["gpt2c_n_tokens"]) == (found["logprob"], found["tokens"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sub"], "sub is a directory: give its files, such as sub/*.jsonl; if that is a text, give it on"),
        (["sub", "-o", "new"], "sub is a directory"),
        (["sub/", "-o", "new"], "sub/ is a directory"),
        (["story", "-o", "new"], "story is of an unknown format"),
        (["-f", "a.jsonl", "-o", "a.jsonl"], "the output a.jsonl would replace the file that the text is"),
        (["-f", "packed", "--json"], "packed is a gzip file, not text: decompress it first"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_there_is_no_text(arguments, message, corpus, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "story").write_text("Once upon a time")
    (tmp_path / "packed").write_bytes(gzip.compress(b"Once"))
    before = contents(tmp_path / "sub") | {"a.jsonl": (tmp_path / "a.jsonl").read_bytes()}
    done = run("score", *arguments)
    assert (done.returncode, done.stdout) == (1, "") and message in done.stderr
    assert contents(tmp_path / "sub") | {"a.jsonl": (tmp_path / "a.jsonl").read_bytes()} == before
    assert not (tmp_path / "new").exists()


def test_the_file_on_stdin_is_not_replaced(corpus, tmp_path):
    (tmp_path / "story").write_text("Once upon a time")
    for name in ("score", "generate"):
        with open("story", "rb") as file:
            done = subprocess.run(
                command(name, "-", "-o", "story"), stdin=file, capture_output=True, env=environment()
            )
        assert done.returncode == 1 and b"would replace the file that the text is from" in done.stderr
    assert (tmp_path / "story").read_text() == "Once upon a time"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["a.jsonl"], 1, "give it with -o DIR (for one text token by token: -f a.jsonl)"),
        (["a.jsonl", "-o", "b.jsonl.gz"], 1, "with -o DIR; b.jsonl.gz is the name of a file"),
        (["a.jsonl", "-o", "new.jsonl"], 1, "with -o DIR; new.jsonl is the name of a file"),
        (["a.jsonl", "-o", "out", "--json"], 1, "--json is for a single text"),
        (["a.jsonl", "-f", "a.jsonl"], 1, "give a text or a file (-f), not both"),
        (["The", "king"], 1, "the file The does not exist: several arguments, or one with -o DIR, are names"),
        (["The", "king", "-o", "new"], 1, "text of several words in quotes, without -o DIR"),
        (["a.jsonl", "b.jsonl.gz"], 1, "scores of files go to a directory"),
        (["The", "king", "-o", "out"], 1, "the file The does not exist: several arguments, or one with"),
        (["The king", "-o", "."], 1, "the file The king does not exist"),
        (["a.jsonl", "-o", ""], 1, "-o takes the name of a directory, not an empty one"),
        (["-o", "."], 1, ". is a directory: give the files whose scores it is for, or -o FILE"),
        (["The king", "--max-tokens", "3"], 1, "--max-tokens is for files of texts: give them as arg"),
        (["The king", "--max-tokens", "0"], 1, "--max-tokens is for files of texts: give them as arg"),
        (["-f", "a.jsonl", "--text-field", "x"], 1, "--text-field is for files of texts"),
        (["a.jsonl", "-o", "out", "--max-tokens", "0"], 1, "max_tokens must be at least 1, not 0"),
        (["a.jsonl", "-o", "out", "--stride", "0"], 1, "stride must be from 1 to 512, the"),
        (["a.jsonl", "-o", "out", "--stride", "513"], 1, "stride must be from 1 to 512, the model's"),
        (["a.jsonl", "-o", "out", "--prefix", "a b"], 1, "prefix must be made of letters, digits and _"),
        (["a.jsonl", "-o", "out", "--shard", "0/2"], 2, "argument --shard: '0/2' is not of the form I/N"),
        (["a.jsonl", "-o", "out", "--shard", "3/2"], 2, "'3/2' is not of the form I/N with I"),
        (["a.jsonl", "-o", "out", "--shard", "2"], 2, "'2' is not of the form I/N with I"),
        (["a.jsonl", "-o", "out", "-m", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["a.jsonl", "-o", "a.jsonl/"], 1, "with -o DIR; a.jsonl is the name of a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_are_explained(arguments, status, message, corpus, tmp_path):
    done = run("score", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and not (tmp_path / "out" / "a.jsonl").exists()


def test_options_may_stand_between_files(corpus, tmp_path):
    for name in ("d.jsonl", "e.jsonl", "f.jsonl"):
        (tmp_path / name).write_bytes(LINE)
    assert run("score", "d.jsonl", "-o", "out", "e.jsonl", "--no-bos", "f.jsonl").returncode == 0
    assert sorted(contents(tmp_path / "out")) == ["_gpt2c.json", "d.jsonl", "e.jsonl", "f.jsonl"]


def test_a_single_text_needs_nothing_of_this():
    code = (
        "import sys; from gpt2c import cli; cli.main(['score', 'x']);"
        "sys.exit(' '.join({'pyarrow', 'tqdm', 'backports', 'zipfile', 'pickletools', 'gpt2c.corpus.jobs'}"
        " & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT).stderr == b"\n"


def test_each_text_is_tokenised_once(bundled, monkeypatch):
    texts, encoded = ["The king.", "A fox ran away.", None, ""], []
    encode = type(bundled.tokenizer).encode

    def counting(tokenizer, text, *args, **options):
        encoded.append(text)
        return encode(tokenizer, text, *args, **options)

    monkeypatch.setattr(type(bundled.tokenizer), "encode", counting)
    found = list(score_rows(bundled, enumerate(texts), max_tokens=3))
    assert [score is None for _, score, _ in found] == [False, False, True, True]
    assert [text for text in encoded if text] == texts[:2]
