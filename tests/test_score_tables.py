"""`gpt2c score` of one text: its tables of tokens and words, for people, as CSV and as JSON; its windows."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import pytest
from helpers.command_line import run

from gpt2c.cli import main

TEXT = 'The "old" queen, 3 fées 🙂,\r\nsat; =1+1 \t"by the window".\n\nThe end'


def table(text):
    """A CSV as Python's module reads it: header and rows of texts."""
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    return header, [dict(zip(header, row, strict=True)) for row in rows]


def read_back(row, like):
    """The values of a row of a CSV, of the types of those of another one."""
    return {name: type(like[name])(value) for name, value in row.items()}


def test_tokens_as_csv(bundled, tmp_path):
    target = tmp_path / "tokens.csv"
    done = run("score", TEXT, "--csv", "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    data = target.read_bytes()
    assert data.startswith(b"token_id,text,start,end,logprob,") and data.endswith(b"\r\n")
    header, rows = table(data.decode("utf-8"))
    expected = bundled.score(TEXT).rows()
    assert header == list(expected[0]) and "variance" in header
    assert [read_back(row, like) for row, like in zip(rows, expected, strict=True)] == expected
    assert run("score", "--csv", stdin=TEXT.encode()).stdout.encode() == data


def test_words_as_csv_and_json(bundled):
    score = bundled.score(TEXT, words=True)
    expected = [word._asdict() for word in score.words()]
    assert "".join(word["text"] for word in expected) == "".join(TEXT.split())
    header, rows = table(run("score", TEXT, "--words", "--csv").stdout)
    assert header == ["text", "start", "end", "logprob", "surprisal", "first_token", "n_tokens"]
    assert [read_back(row, like) for row, like in zip(rows, expected, strict=True)] == expected
    found = json.loads(run("score", TEXT, "--words", "--json").stdout)
    assert found["per_word"] == json.loads(json.dumps(expected))
    assert found["per_token"] == json.loads(json.dumps(score.rows()))
    assert found["curvature"] == score.curvature
    assert "per_word" not in json.loads(run("score", TEXT, "--json").stdout)


def test_words_for_people(bundled):
    lines = run("score", TEXT, "--words").stdout.splitlines()
    assert lines[0].split() == ["surprisal", "logprob", "tokens", "word"]
    words = bundled.score(TEXT, words=True).words()
    for line, word in zip(lines[1:-2], words, strict=True):
        surprisal, logprob, n_tokens, text = line.split(maxsplit=3)
        assert math.isclose(float(surprisal), -word.logprob / math.log(2), abs_tol=6e-5)
        assert math.isclose(float(logprob), word.logprob, abs_tol=6e-5)
        assert (int(n_tokens), json.loads(text)) == (word.n_tokens, word.text)
    plain = run("score", TEXT).stdout.splitlines()[-1]
    assert lines[-1] == f"{len(words)} words · {plain}"


def test_a_text_without_words():
    assert run("score", " ", "--words", "--csv").stdout.startswith("text,start,end,")
    assert run("score", " ", "--words").stdout.splitlines()[-1].startswith("0 words · 1 token · ")


def test_the_most_probable_tokens(bundled):
    text = "Once upon a fée"
    score = bundled.score(text, top=3)
    names = [[bundled.token_text(token) for token in ids] for ids in score.top_ids.tolist()]
    found = json.loads(run("score", text, "--top", "3", "--json").stdout)["per_token"]
    assert [row["top_texts"] for row in found] == names
    assert [row["top_ids"] for row in found] == score.top_ids.tolist()
    _, rows = table(run("score", text, "--top", "3", "--csv").stdout)
    for i, row in enumerate(rows):
        for k in range(3):
            assert row[f"top_text_{k + 1}"] == names[i][k]
            assert int(row[f"top_id_{k + 1}"]) == score.top_ids[i, k]
            assert float(row[f"top_logprob_{k + 1}"]) == score.top_logprobs[i, k]
        assert not any("s_" in name for name in row)
    lines = run("score", text, "--top", "3").stdout.splitlines()
    at = lines[0].index("most probable")
    shown = ", ".join(
        f"{json.dumps(name)} {math.exp(logprob):.1%}"
        for name, logprob in zip(names[1], score.top_logprobs[1].tolist(), strict=True)
    )
    assert '" upon"' in lines[2] and lines[2][at:] == shown
    assert all(
        line[at:].startswith(json.dumps(name[0])) for line, name in zip(lines[1:], names, strict=False)
    )


def test_windows_and_what_begins_them(bundled, tmp_path):
    story = "Once upon a time there was a king who had three daughters, and the youngest was fair. " * 3
    (tmp_path / "story").write_text(story, encoding="utf-8")
    for given, options in (
        (["--window", 16, "--stride", 5], {"window": 16, "stride": 5}),
        (
            ["--window", 16, "--min-context", 9, "--repeat-bos"],
            {"window": 16, "stride": 8, "repeat_bos": True},
        ),
    ):
        found = json.loads(run("score", "-f", tmp_path / "story", "--json", *given).stdout)
        score = bundled.score(story, **options)
        assert [row["logprob"] for row in found["per_token"]] == score.logprobs.tolist()
        assert [row["context"] for row in found["per_token"]] == score.contexts.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--csv", "--json"], "not allowed with argument"),
        (["--stride", 2, "--min-context", 2], "not allowed with argument"),
        (
            ["--words", "--top", 2],
            "--top shows tokens, --words shows words: leave one out, or use --json",
        ),
        (["--repeat-bos", "--no-bos"], "but bos=False has none"),
        (["--window", 0], "window must be from 1 to 512, the model's positions, not 0"),
        (["--top", 5000], "top must be from 0 to 4096"),
    ],
)
def test_what_does_not_go_together(arguments, message):
    done = run("score", "Once upon", *arguments)
    assert done.returncode != 0 and done.stdout == "" and message in done.stderr


@pytest.mark.parametrize(
    "option", ["--words", "--csv", "--top 0", "--json", "--edit blocks.0.hook_mlp_out:zero"]
)
def test_what_is_for_one_text(tmp_path, option):
    source = tmp_path / "a.txt"
    source.write_text("Once upon a time")
    done = run("score", source, "-o", tmp_path / "out", *option.split())
    assert done.returncode != 0
    assert f"{option.split()[0]} is for a single text; scores of files have the format" in done.stderr


def test_terminals_get_no_control_characters(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for options in ([], ["--words"], ["--csv"], ["--csv", "--words"], ["--top", "2"], ["--json"]):
        out = Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        main(["score", "a\x1b[2Jb\x9bc", *options])
        assert "b" in out.getvalue()
        assert not set(out.getvalue()) & {"\x1b", "\x9b"}, options
