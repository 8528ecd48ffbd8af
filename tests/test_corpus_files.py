"""Files of texts as other programs write them: their formats, separators, compressions, marks and nesting."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import struct
import tracemalloc

import pyarrow as pa
import pytest
from helpers.command_line import run
from helpers.text_files import write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from test_corpus import COLUMNS, TEXTS, jsonl, model, records, scored, separated, told, with_prefix, zstd

from gpt2c.corpus.jobs import FileOptions, perform, plan, survey

__all__ = ["model"]  # the fixture

LINES = "".join(f'{{"text": "Text {i}"}}\n' for i in range(4)).encode()


def expected(model, record, text):
    return {**record, **with_prefix(told(model, text))}


def refused(path, tmp_path, model, **options):
    """The message of both passes over a file that is wrong."""
    options, task = separated(model, options)
    (job,) = plan([str(path)], str(tmp_path / "out"), options)
    (tmp_path / "out").mkdir(exist_ok=True)
    messages = set()
    for attempt in (lambda: survey(job, options, task), lambda: perform(job, options, task)):
        with pytest.raises(ValueError) as error:
            attempt()
        messages.add(str(error.value))
    (message,) = messages
    return message


# ---- JSON


@pytest.mark.parametrize("name", ["a.ndjson", "a.json"])
def test_lines_of_json_by_other_names(name, model, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / name).write_bytes(LINES)
    target = scored(model, tmp_path / name, tmp_path)
    assert target.name == name
    assert target.read_bytes() == scored(model, tmp_path / "a.jsonl", tmp_path).read_bytes()


@given(records, st.booleans(), st.sampled_from([None, 2]), st.integers(1, 9))
@settings(max_examples=40)
def test_arrays_of_json(model, tmp_path_factory, found, ascii, indent, chunk):
    tmp_path = tmp_path_factory.mktemp("json")
    data = json.dumps(found, ensure_ascii=ascii, indent=indent)
    (tmp_path / "a.json").write_bytes(f" \n{data}\n".encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt2c.corpus.jsonl.CHUNK", chunk)
        written = scored(model, tmp_path / "a.json", tmp_path).read_text(encoding="utf-8")
    # As text, in which NaN equals itself.
    assert json.dumps(json.loads(written)) == json.dumps([expected(model, r, r["text"]) for r in found])
    assert len([line for line in written.split(chr(10)) if line.startswith("{")]) == len(found)


def test_elements_are_copied_as_they_are(model, tmp_path):
    elements = ['{"n": 1e2, "text": "a,\\"[{"}', '{\n  "text": "b\\\\",\n  "x": [1, {}]\n}', "{ }"]
    (tmp_path / "a.json").write_text(" , ".join(elements).join("[]"))
    found = [json.dumps(with_prefix(told(model, text)))[1:] for text in ('a,"[{', "b\\", None)]
    assert scored(model, tmp_path / "a.json", tmp_path).read_text() == (
        f'[\n{{"n": 1e2, "text": "a,\\"[{{", {found[0]},\n'
        f'{{\n  "text": "b\\\\",\n  "x": [1, {{}}], {found[1]},\n'
        f"{{ {found[2]}\n]\n"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('[{"text": "a"}, 3]', ", record 2: each element must be a JSON object, {...}; it starts with 3"),
        ('[{"text": "a"}, ]', ", record 2: not JSON: Expecting value"),
        ('[{"text": "a"},, {}]', ", record 2: not JSON: Expecting value"),
        ("[{'text': 1}]", ", record 1: not JSON: Expecting property name"),
        ('[{"text": 2}]', ", record 1: 'text' must be a text or null"),
        ('[{"text": "a"}, {"text"', ": truncated after record 1: the array has no end"),
        ('[{"text": "a"}]]', ": the array ends after record 1, but the file continues"),
        ('[{"text": "a"}}', ": the array ends after record 1, but the file continues"),
        ('[{"text": "a"}] [{"text": "b"}]', ": the array ends after record 1, but the file continues"),
        ('[{"Text": "a"}]', ": no record has a field 'text': choose with --text-field, such as 'Text'"),
        ('[{"text": "caf\udce9"}]', ", record 1: not UTF-8 text: byte 13 is 0xe9"),
        ('{\n "text": "a"\n}', ":1: not JSON: Expecting property name"),
    ],
)
def test_damaged_arrays(data, message, model, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(data.encode("utf-8", "surrogateescape"))
    assert refused(path, tmp_path, model).startswith(f"{path}{message}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize(
    ("data", "kind", "ending"),
    [
        (gzip.compress(b"x"), "gzip", ".gz"),
        (zstd.compress(b"x"), "Zstandard", ".zst"),
        (bz2.compress(b"x"), "bzip2", ".bz2"),
        (lzma.compress(b"x"), "xz", ".xz"),
        (b"PAR1...PAR1", "Parquet", ".parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_under_a_wrong_name(data, kind, ending, name, model, tmp_path):
    (tmp_path / name).write_bytes(data)
    said = refused(tmp_path / name, tmp_path, model)
    assert said == f"{tmp_path / name} is a {kind} file: give it a name that ends with {ending}"


def test_a_file_of_which_nothing_can_be_read(model, tmp_path):
    (tmp_path / "a.jsonl").write_text("text,n\nOne,1\nTwo,2\n")
    for options in ({"on_error": "null"}, {"on_error": "skip"}, {"on_error": "skip", "shard": (3, 3)}):
        said = refused(tmp_path / "a.jsonl", tmp_path, model, **options)
        assert "none of the 3 records can be read; " in said and "a.jsonl:1: not JSON" in said
    (tmp_path / "a.jsonl").write_text('x\n{"text": 1}\n')
    assert scored(model, tmp_path / "a.jsonl", tmp_path, on_error="null").read_bytes().count(b"\n") == 1


def test_other_separators_are_named(model, tmp_path):
    (tmp_path / "a.csv").write_text("id|text\n1|a\n")
    said = refused(tmp_path / "a.csv", tmp_path, model)
    assert said.endswith(
        "such as 'id|text'; if another character separates the fields, name it with --delimiter"
    )


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ('{\n "text": "a"\n}', "; a .json file is an array of objects, or has one on each line"),
        ('{"rows": [{"text": "a"}]}', "; if the records are in 'rows', write them into a separate file"),
    ],
)
def test_a_file_that_is_one_object(data, hint, model, tmp_path):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(data)
        said = refused(tmp_path / name, tmp_path, model)
        assert (hint in said) == (name == "a.json")


def test_memory_does_not_grow_with_an_array(model, tmp_path):
    peaks = []
    for n in (150, 450):
        rows = [{"other": "x" * 50_000, "text": f"Text {i} " * 8} for i in range(n)]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        tracemalloc.start()
        scored(model, tmp_path / "a.json", tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_shards_of_an_array(model, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": f"Text {i}"} for i in range(5)]))
    whole = json.loads(scored(model, tmp_path / "a.json", tmp_path).read_text())
    for shard in (1, 2):
        target = scored(model, tmp_path / "a.json", tmp_path, shard=(shard, 2))
        assert json.loads(target.read_text()) == whole[shard - 1 :: 2]


# ---- nested fields


def test_a_nested_field(model, tmp_path):
    found = [
        {"a": {"b": "One", "text": "no"}, "b": "no"},
        {"a.b": "Two", "a": {"b": "no"}},
        {"a": {"b": None}},
        {"a": ["b"]},
        {"x": 1},
        {"a": {"b": "Once\n"}},
    ]
    texts = ["One", "Two", None, None, None, "Once\n"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    assert jsonl(scored(model, tmp_path / "a.jsonl", tmp_path, text_field="a.b")) == [
        expected(model, record, text) for record, text in zip(found, texts, strict=True)
    ]
    assert "no record has a field 'a.c'" in refused(tmp_path / "a.jsonl", tmp_path, model, text_field="a.c")


def test_nested_columns_of_parquet(model, tmp_path):
    rows = [{"b": {"c": "One"}, "n": 1}, None, {"b": None, "n": 2}, {"b": {"c": "Two"}, "n": 3}]
    table = pa.table({"a": rows, "a.x": ["p", "q", "r", "s"], "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    for field, texts in (("a.b.c", ["One", None, None, "Two"]), ("a.x", ["p", "q", "r", "s"])):
        found = parquet.read_table(scored(model, tmp_path / "a.parquet", tmp_path, text_field=field))
        assert found.select(table.column_names).equals(table)
        assert found["gpt2c_logprob"].to_pylist() == [told(model, text)["logprob"] for text in texts]
    for field, message in [
        ("a.b", "the column 'a.b' holds struct<c: string>"),
        ("a.n", "'a.n' holds int64"),
        ("a.z", "no column is called 'a.z'"),
        ("n.a", "no column is called 'n.a'"),
    ]:
        assert message in refused(tmp_path / "a.parquet", tmp_path, model, text_field=field)


# ---- CSV


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_separators(name, delimiter, model, tmp_path):
    rows = [[text, "a,b;c\td|e", str(i)] for i, text in enumerate(TEXTS)]
    whole = io.StringIO(newline="")
    csv.writer(whole, delimiter=delimiter).writerows([["text", "a,b;c", "n"], *rows])
    (tmp_path / name).write_bytes(whole.getvalue().encode())
    found = delimiter == "\t" or (name == "a.csv" and delimiter != "|")
    options = {} if found else {"delimiter": delimiter}
    target = scored(model, tmp_path / name, tmp_path, **options)
    assert target.name == name
    written = io.StringIO(target.read_bytes().decode(), newline="")
    header, *written = csv.reader(written, delimiter=delimiter, strict=True)
    assert header == ["text", "a,b;c", "n", *with_prefix(dict.fromkeys(COLUMNS))]
    for row, (text, *others) in zip(written, rows, strict=True):
        scores = ["" if v is None else json.dumps(v) for v in told(model, text).values()]
        assert row == [text, *others, *scores]


def test_the_separator_is_not_guessed(model, tmp_path):
    (tmp_path / "a.csv").write_text("a;b;c,text\n1;2;3,Once\n")  # more semicolons
    assert "Once,1," in scored(model, tmp_path / "a.csv", tmp_path).read_text()
    (tmp_path / "b.csv").write_text('"text"\nOne; two, "three"\n')  # only one column: nothing to separate
    assert "1: 2 fields" not in (message := refused(tmp_path / "b.csv", tmp_path, model))
    assert "b.csv:2: 2 fields, but the header has 1" in message
    (tmp_path / "c.csv").write_text("a;b;c\n1;2;3\n")
    assert "no column is called 'text': choose with --text-field, such as 'a', 'b', 'c'" in refused(
        tmp_path / "c.csv", tmp_path, model
    )


@pytest.mark.parametrize("delimiter", ["", ";;", "a", "1", ".", '"', "\n"])
def test_characters_that_separate_nothing(delimiter):
    with pytest.raises(ValueError, match="delimiter must be one character, such as ';' or a tab"):
        FileOptions(delimiter=delimiter)


def test_the_separator_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in (("a.csv", "n;text\n1;Once\n"), ("b.csv", "n,text\n1,Once\n"), ("c.csv", "n|text\n")):
        (tmp_path / name).write_text(data)
    done = run("score", "a.csv", "b.csv", "-o", "out")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "separated" in line] == [
        "a.csv: the fields are separated by ';', not by ','"
    ]
    done = run("score", "c.csv", "-o", "out2", "--delimiter", "|")
    assert done.returncode == 0 and "separated" not in done.stderr
    (tmp_path / "d.tsv").write_text("n\ttext\n1\tOnce\n")
    done = run("score", "d.tsv", "-o", "out3", "--delimiter", r"\t")
    assert done.returncode == 0


# ---- bytes around texts


@pytest.mark.parametrize(("ending", "library"), [("bz2", bz2), ("xz", lzma), ("gz", gzip), ("zst", zstd)])
@pytest.mark.parametrize("format", ["jsonl", "ndjson", "json", "csv", "tsv", "txt"])
def test_compressions(format, ending, library, model, tmp_path):
    data = {"csv": b"text\nOne\n", "tsv": b"text\tn\nOne\t1\n", "txt": b"One\nTwo\n"}.get(format, LINES)
    (tmp_path / f"a.{format}").write_bytes(data)
    (tmp_path / f"b.{format}.{ending}").write_bytes(library.compress(data[:9]) + library.compress(data[9:]))
    plain = scored(model, tmp_path / f"a.{format}", tmp_path).read_bytes()
    target = scored(model, tmp_path / f"b.{format}.{ending}", tmp_path)
    assert target.name == f"b.{'txt.jsonl' if format == 'txt' else format}.{ending}"
    assert library.decompress(target.read_bytes()) == plain


@pytest.mark.parametrize(("ending", "library"), [("bz2", bz2), ("xz", lzma)])
def test_damaged_archives(ending, library, model, tmp_path):
    path = tmp_path / f"a.jsonl.{ending}"
    for data in (LINES, library.compress(LINES)[:-12]):
        path.write_bytes(data)
        assert "the file is damaged or truncated after line" in refused(path, tmp_path, model)


@pytest.mark.parametrize(("ending", "library"), [("bz2", bz2), ("xz", lzma), ("gz", gzip), ("zst", zstd)])
@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_an_archive_of_nothing_holds_no_records(format, ending, library, model, tmp_path):
    (tmp_path / f"a.{format}.{ending}").write_bytes(b"")
    target = scored(model, tmp_path / f"a.{format}.{ending}", tmp_path)
    assert library.decompress(target.read_bytes()) == b""


@pytest.mark.parametrize("log", [27, 28, 31])
def test_zstd_with_any_window(log, model, tmp_path):
    # RFC 8878: magic; no size, no checksum; the window; a last block of raw bytes with its size.
    block = struct.pack("<I", 1 | len(LINES) << 3)[:3] + LINES
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + block)
    target = scored(model, tmp_path / "a.jsonl.zst", tmp_path)
    assert [json.loads(line)["text"] for line in zstd.decompress(target.read_bytes()).splitlines()] == [
        f"Text {i}" for i in range(4)
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.tsv", "array.json"])
def test_a_mark_at_the_beginning_is_no_text(name, model, tmp_path):
    data = {"txt": "Once\n", "csv": "text\nOnce\n", "tsv": "text\nOnce\n"}.get(name[2:], '{"text": "Once"}')
    data = f"[{data}]" if name == "array.json" else data
    outputs = []
    for mark in ("", "\ufeff"):
        (tmp_path / name).write_text(mark + data, encoding="utf-8")
        outputs += [
            scored(model, tmp_path / name, tmp_path, lines=lines).read_text(encoding="utf-8")
            for lines in (False, True)
        ]
    assert {text.removeprefix("\ufeff") for text in outputs} == {outputs[0]}
    # Only Excel needs it.
    assert outputs[2].startswith("\ufeff") == (name in ("a.csv", "a.tsv"))
    assert json.dumps(told(model, "Once")["logprob"]) in outputs[2]


@pytest.mark.parametrize("by", ["file", "stdin"])
def test_a_mark_before_a_single_text(by, tmp_path):
    data = "\ufeffOnce upon a time\n"
    (tmp_path / "a").write_text(data, encoding="utf-8")
    arguments = ("-f", str(tmp_path / "a")) if by == "file" else ("-",)
    done = run("score", *arguments, stdin=data.encode())
    assert done.stdout == run("score", "Once upon a time").stdout != ""


# ---- Parquet


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_binary_texts(kind, model, tmp_path):
    table = pa.table({"text": pa.array([text.encode() for text in TEXTS] + [None], kind)})
    write_parquet(table, tmp_path / "a.parquet")
    found = parquet.read_table(scored(model, tmp_path / "a.parquet", tmp_path))
    assert found.select(["text"]).equals(parquet.read_table(tmp_path / "a.parquet"))
    assert found["gpt2c_logprob"].to_pylist() == [told(model, text)["logprob"] for text in [*TEXTS, None]]
    parquet.write_table(pa.table({"text": pa.array([b"a", b"caf\xe9"], kind)}), tmp_path / "b.parquet")
    assert ", row 2: 'text' is not UTF-8 text" in refused(tmp_path / "b.parquet", tmp_path, model)


@pytest.mark.parametrize("compliant", [True, False])
def test_each_column_keeps_its_codec(compliant, model, tmp_path):
    table = pa.table({"text": ["One"], "list": [["a"]], "s": [{"x": 1, "y": "b"}], "a.b": [1]})
    item = "element" if compliant else "item"
    codecs = {"text": "ZSTD", f"list.list.{item}": "GZIP", "s.x": "NONE", "s.y": "SNAPPY", "a.b": "BROTLI"}
    parquet.write_table(
        table, tmp_path / "a.parquet", compression=codecs, use_compliant_nested_type=compliant
    )
    used = []
    for path in (tmp_path / "a.parquet", scored(model, tmp_path / "a.parquet", tmp_path)):
        group = parquet.read_metadata(path).row_group(0)
        used.append([group.column(i).compression for i in range(group.num_columns)])
    assert used[0] == ["ZSTD", "GZIP", "UNCOMPRESSED", "SNAPPY", "BROTLI"]
    assert used[1] == used[0] + ["ZSTD"] * len(COLUMNS)
