"""Which number format is recommended or taken: the choice, from given numbers; no speed is asserted."""

import json
import re

import numpy as np
import pytest

from gpt2c import GPT2
from gpt2c.cli import main, parser
from gpt2c.cli.bench import command, formats
from gpt2c.cli.bench.formats import Format, allowed_loss, fastest, reason
from gpt2c.cli.bench.report import formats_table
from gpt2c.scoring import comparison

DTYPES = ("float32", "bfloat16", "int8", "int4")


def measured(scoring, generating, losses):
    """Formats of these speeds and losses."""
    return [
        Format(
            dtype,
            1000,
            {
                use: {"median": speed, "low": speed, "high": speed}
                for use, speed in (("scoring", a), ("generating", b))
            },
            {"delta_percent": loss, "agreement_percent": 99.0, "kl": 0.0},
        )
        for dtype, a, b, loss in zip(DTYPES, scoring, generating, losses, strict=True)
    ]


# Speeds as on a machine with AMX: scoring in bfloat16 is the fastest, generating in int4.
AMX = measured((100, 203, 160, 91), (50, 90, 160, 200), (0.0, 0.002, 0.023, 0.72))


@pytest.mark.parametrize(
    ("max_loss", "scoring", "generating"),
    [
        (0.0, "float32", "float32"),
        (0.0019, "float32", "float32"),
        (0.002, "bfloat16", "bfloat16"),
        (0.023, "bfloat16", "int8"),
        (0.71, "bfloat16", "int8"),
        (0.72, "bfloat16", "int4"),
        (50.0, "bfloat16", "int4"),
    ],
)
def test_the_fastest_within_a_loss(max_loss, scoring, generating):
    assert fastest(AMX, "scoring", max_loss).dtype == scoring
    assert fastest(AMX, "generating", max_loss).dtype == generating


def test_without_a_limit_bfloat16_qualifies():
    assert allowed_loss(AMX) == 0.002
    assert allowed_loss(AMX, 0.5) == 0.5 and allowed_loss(AMX, 0.0) == 0.0
    # Where bfloat16 is better by chance, float32 still qualifies, and int8 does not.
    lucky = measured((1, 2, 3, 4), (1, 2, 3, 4), (0.0, -0.004, 0.035, 1.0))
    assert allowed_loss(lucky) == 0.0
    assert fastest(lucky, "scoring", 0.0).dtype == "bfloat16"


def test_a_less_exact_format_must_be_clearly_faster():
    close = measured((100, 104, 104.9, 103), (100, 104, 106, 110), (0.0, 0.0, 0.0, 0.0))
    assert fastest(close, "scoring", 1.0).dtype == "float32"
    assert fastest(close, "generating", 1.0).dtype == "int8"  # int4 is not clearly faster than that


def test_a_format_without_a_loss_does_not_qualify():
    broken = measured((1, 2, 3, 4), (1, 2, 3, 4), (0.0, float("nan"), float("inf"), float("nan")))
    assert fastest(broken, "scoring", allowed_loss(broken)).dtype == "float32"


def test_the_reason_is_told():
    assert reason(AMX, "scoring", 0.002) == "2.0 times as fast as float32 here, loss +0.002 %"
    assert reason(AMX, "scoring", 0.0) == "no other format within the allowed loss is clearly faster here"
    *_, limit, scoring, generating = formats_table(AMX, 0.8, given=True)
    assert limit == "the fastest here within a loss of +0.800 %:"
    assert scoring.endswith("--dtype bfloat16") and generating.endswith("--dtype int4")
    assert "what bfloat16 costs" in "\n".join(formats_table(AMX, 0.002, given=False))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(formats, "ROUNDS", 2)
    monkeypatch.setattr(formats, "RUN_SECONDS", 1e-4)
    monkeypatch.setattr(formats, "DOCUMENTS", 40)
    monkeypatch.setattr(formats, "DECODE", 2)
    monkeypatch.setattr(formats, "COMPARED", 300)


def recommend(*words):
    command.run(parser.build_parser().parse_args(["bench", "--recommend", "-t1", *words]))


def test_recommend_measures_every_format(quick, capsys):
    recommend("--json", "--max-loss", "0.5%")
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["machine", "model", "recommend"]
    found = report["recommend"]
    assert found["max_loss_percent"] == 0.5 and found["text"] is None and found["tokens"] == 299
    assert [of["dtype"] for of in found["formats"]] == list(DTYPES)
    # The same losses from the scoring kernel, whose logarithms are another code than NumPy's.
    ids = comparison.windows(GPT2.from_pretrained(), comparison.SAMPLE.read_text())[0][:300]
    losses = [-GPT2.from_pretrained(dtype=dtype).score(ids, bos=False).logprob for dtype in DTYPES]
    for of, loss in zip(found["formats"], losses, strict=True):
        assert of["cost"]["delta_percent"] == pytest.approx(100 * (loss / losses[0] - 1), abs=1e-3)
        for speed in of["speeds"].values():
            assert 0 < speed["low"] <= speed["median"] <= speed["high"]
    assert [of["bytes"] for of in found["formats"]] == [
        GPT2.from_pretrained(dtype=dtype).weights.nbytes for dtype in DTYPES
    ]
    assert set(found["dtype"]) == {"scoring", "generating"}


def test_recommend_on_a_text(quick, capsys, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time there was a king.")
    recommend("-f", str(path))
    told = capsys.readouterr()
    lines = told.out.rstrip().splitlines()
    assert re.match(r"  int4 +4 ", lines[8]) and lines[8].endswith(" %")
    assert re.fullmatch("  generating: .*: --dtype (float32|bfloat16|int8|int4)", lines[-1])
    n_tokens = len(GPT2.from_pretrained().tokenizer.encode(path.read_text()))
    assert f"and the loss of {n_tokens} tokens" in told.err
    path.write_text("")
    with pytest.raises(ValueError, match="too short: give one of a few thousand words"):
        recommend("-f", str(path))


def test_recommend_refuses_what_it_cannot_compare(tmp_path):
    path = str(tmp_path / "small.gpt2c")
    GPT2.from_pretrained(dtype="int8").save(path)
    for words, message in (
        (["-m", path], "holds int8 and no other format to compare it with: give the original model"),
        (["--shape", "124M"], "random weights (--shape) have none: give -m MODEL"),
        (["--dtype", "int8"], "measures every dtype: leave out --dtype int8"),
        (["--backend", "blas"], "'blas' has float32 only"),
        (["load", "model"], "--recommend is a separate measurement: leave out load model"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            recommend(*words)
    for words in (["--max-loss", "1"], ["-f", "x"]):
        with pytest.raises(ValueError, match="is for --recommend: give both or none"):
            command.run(parser.build_parser().parse_args(["bench", *words]))


@pytest.mark.parametrize("word", ["-1", "nan", "inf", "many", "%"])
def test_a_loss_is_a_percentage(word, capsys):
    with pytest.raises(SystemExit):
        parser.build_parser().parse_args(["bench", f"--max-loss={word}"])
    assert f"{word!r} is not a percentage of at least 0, such as 0.1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["generate", "suggest", "explain", "info", "bench"])
def test_auto_is_for_score(name, capsys):
    with pytest.raises(SystemExit):
        parser.build_parser().parse_args([name, "--dtype", "auto"])
    assert "--dtype: auto is for gpt2c score: elsewhere name a format" in capsys.readouterr().err


def test_auto_is_not_for_python():
    with pytest.raises(ValueError, match="not 'auto'; gpt2c bench --recommend shows which is fastest"):
        GPT2.from_pretrained(dtype="auto")


# ---- gpt2c score --dtype auto


@pytest.fixture
def corpus(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "Once upon a time, {name}"}}\n')
    return tmp_path


@pytest.fixture
def no_measuring(monkeypatch):
    def fail(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(formats, "measure_formats", fail)


@pytest.fixture
def speeds(monkeypatch):
    """Instead of measuring: these speeds and losses, which may be changed."""
    found = [measured((100, 203, 310, 91), (1, 1, 1, 1), (0.0, 0.002, 0.023, 0.72))]
    monkeypatch.setattr(formats, "measure_formats", lambda models, texts, uses: found[0])
    return found


def score(corpus, directory, *words, inputs="ab"):
    files = [str(corpus / f"{name}.jsonl") for name in inputs]
    return main(["score", *files, "-o", str(corpus / directory), "-q", "-t1", *words])


def outputs(corpus, directory):
    return {path.name: path.read_bytes() for path in (corpus / directory).iterdir()}


def test_auto_takes_the_fastest_within_the_loss(corpus, speeds, capsys):
    assert score(corpus, "auto", "--dtype", "auto", "--max-loss", "0.1") == 0
    told = capsys.readouterr().err
    assert "dtype int8: 3.1 times as fast as float32 here, loss +0.023 %, on gpt2c's sample text" in told
    assert "at most +0.100 % is allowed" in told
    assert score(corpus, "named", "--dtype", "int8") == 0
    assert outputs(corpus, "auto") == outputs(corpus, "named")
    assert score(corpus, "default", "--dtype", "auto") == 0
    assert "dtype bfloat16: 2.0 times" in capsys.readouterr().err
    assert "bfloat16" in json.loads(outputs(corpus, "default")["_gpt2c.json"])["numerics"]


def test_resuming_takes_the_format_of_the_scores(corpus, speeds, capsys, monkeypatch):
    words = ("--dtype", "auto", "--max-loss", "0.1")
    assert score(corpus, "out", *words) == 0
    whole = outputs(corpus, "out")
    (corpus / "out" / "b.jsonl").unlink()
    # The same command where another format would be the fastest.
    speeds[0] = measured((100, 203, 110, 91), (1, 1, 1, 1), (0.0, 0.002, 0.023, 0.72))
    capsys.readouterr()
    assert score(corpus, "out", *words) == 0
    assert f"dtype int8: the format of the scores in {corpus / 'out'}" in capsys.readouterr().err
    assert outputs(corpus, "out") == whole


@pytest.mark.usefixtures("no_measuring")
def test_resuming_does_not_measure(corpus, capsys):
    assert score(corpus, "out", "--dtype", "int4", inputs="a") == 0
    assert score(corpus, "out", "--dtype", "auto") == 0
    assert outputs(corpus, "out").keys() == {"_gpt2c.json", "a.jsonl", "b.jsonl"}
    assert score(corpus, "other", "--dtype", "int4") == 0
    assert outputs(corpus, "out") == outputs(corpus, "other")
    (corpus / "out" / "_gpt2c.json").write_text("[1]")
    assert score(corpus, "out", "--dtype", "auto") == 1
    assert "_gpt2c.json is damaged: choose another directory" in capsys.readouterr().err


def test_another_process_may_begin_meanwhile(corpus, monkeypatch):
    """Of two that start together in a directory, the second takes the format of the first."""

    def slow(models, texts, uses):
        assert score(corpus, "out", "--dtype", "int4", inputs="a") == 0
        return AMX

    monkeypatch.setattr(formats, "measure_formats", slow)
    assert score(corpus, "out", "--dtype", "auto", inputs="b") == 0
    assert score(corpus, "named", "--dtype", "int4") == 0
    assert outputs(corpus, "out") == outputs(corpus, "named")


@pytest.mark.usefixtures("no_measuring")
def test_auto_where_there_is_nothing_to_choose(corpus, capsys):
    assert main(["score", "Once upon a time", "--dtype", "auto", "-t1"]) == 0
    told = capsys.readouterr()
    assert "dtype float32: auto measures formats for files of texts only: one text" in told.err
    assert main(["score", "Once upon a time", "-t1"]) == 0
    assert capsys.readouterr().out == told.out
    assert score(corpus, "blas", "--dtype", "auto", "--backend", "blas") == 0
    assert "dtype float32: backend 'blas' has only that format" in capsys.readouterr().err
    path = str(corpus / "small.gpt2c")
    GPT2.from_pretrained(dtype="int8").save(path)
    assert score(corpus, "packed", "--dtype", "auto", "-m", path) == 0
    assert f"dtype int8: {path} has only that format" in capsys.readouterr().err
    assert main(["score", "Once", "--max-loss", "1"]) == 1
    assert "--max-loss is for --dtype auto, which chooses a format" in capsys.readouterr().err


def test_documents_are_the_beginning_of_the_text():
    texts = [np.arange(5), np.arange(4), np.arange(3)]
    assert [ids.tolist() for ids in formats._first(texts, 7)] == [[0, 1, 2, 3, 4], [0, 1]]
    assert [len(ids) for ids in formats._first(texts, 6)] == [5]  # a single token has nothing to score
    assert [len(ids) for ids in formats._first(texts, 99)] == [5, 4, 3]


@pytest.mark.parametrize(
    ("low", "high", "busy"),
    [(50.0, 101.0, True), (50.0, 100.0, False), (80.0, 81.0, False), (0.0, 1.0, True)],
)
def test_speeds_that_differ_much_are_told(low, high, busy):
    quiet = {"median": 80.0, "low": 80.0, "high": 81.0}
    cost = {"delta_percent": 0.0, "agreement_percent": 100.0, "kl": 0.0}
    one = Format("float32", 1, {"scoring": quiet, "generating": quiet}, cost)
    other = Format(
        "int8", 1, {"scoring": quiet, "generating": {"median": 80.0, "low": low, "high": high}}, cost
    )
    found = formats.disturbed([one, other])
    assert len(found) == busy and formats.disturbed([one]) == []
    table = formats_table([one, other], 0.0, given=True)
    assert any("the machine was busy" in line for line in table) == busy


def test_auto_tells_of_a_busy_machine(corpus, monkeypatch, capsys):
    steady = [of._replace(speeds={"scoring": {"median": 9.0, "low": 9.0, "high": 9.0}}) for of in AMX]
    wild = [of._replace(speeds={"scoring": {"median": 9.0, "low": 3.0, "high": 9.0}}) for of in AMX]
    for name, found in (("one", steady), ("two", wild)):
        monkeypatch.setattr(formats, "measure_formats", lambda *args, found=found: found)
        assert score(corpus, name, "--dtype", "auto") == 0
        assert ("the machine was busy" in capsys.readouterr().err) == (found is wild)
