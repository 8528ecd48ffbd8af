"""The tokens that begin and end a text, and those that a tokenizer puts around it.

Which ones the files name: data/golden/special_tokens.json, from AutoTokenizer of transformers 4.57.6 (5.24.0
reports the same).
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from data.golden.make_special_tokens import CASES
from data.golden.recipe import FOLDER
from helpers.command_line import run
from helpers.explained import data_of
from helpers.small_tokenizers import END, FOLDERS, write_files, write_folder

import gpt2c
from gpt2c import GPT2, ContextLengthError, TokenizerError, cli
from gpt2c.cli import suggest
from gpt2c.ray import Scorer
from gpt2c.tokenizer import as_tokenizer, load_tokenizer
from gpt2c.tokenizer.load import unpack

DATA = FOLDER.parent / "tokenizer"
RECORDED = json.loads((FOLDER / "special_tokens.json").read_text("utf-8"))["found"]
BY_TIKTOKEN = {"add-bos", "pair", "gpt2", "no settings", "class GPT2Tokenizer", "bos is null"}


def needs_tokenizers(name: str) -> None:
    if name not in BY_TIKTOKEN:
        pytest.importorskip("tokenizers")


def load(tmp_path, name: str, **options) -> GPT2:
    needs_tokenizers(name)
    return GPT2.from_pretrained(write_folder(tmp_path / name, name), threads=1, **options)


# -------------------------------------------------------------------------------- named by the files


@pytest.mark.parametrize("name", CASES)
def test_the_files_name_what_transformers_reports(tmp_path, name):
    needs_tokenizers(name)
    tokenizer = load_tokenizer(write_files(tmp_path, CASES[name]), SimpleNamespace(n_vocab=320))
    found = {"n_vocab": tokenizer.n_vocab, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    assert found == RECORDED[name]
    again = unpack(json.loads(json.dumps(tokenizer.packed())), "x", 320)
    assert (again.bos_token_id, again.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_live_transformers_and_its_objects(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(write_files(tmp_path, CASES[name])))
    assert {"bos": theirs.bos_token_id, "eos": theirs.eos_token_id}.items() <= RECORDED[name].items()
    wrapped = as_tokenizer(theirs)
    assert (wrapped.bos_token_id, wrapped.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}])
def test_a_sentencepiece_model_alone(tmp_path, settings):
    """T5Tokenizer of transformers 4.57.6 reports the id 2; without a class it reads no such file."""
    pytest.importorskip("sentencepiece")
    pytest.importorskip("tokenizers")
    (tmp_path / "spiece.model").write_bytes((DATA / "sentencepiece" / "unigram.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path, SimpleNamespace(n_vocab=400))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (None, 2)


@pytest.mark.parametrize("wrong", [-1, 302, True, "1", 1.0])
def test_a_damaged_packed_tokenizer(tmp_path, wrong):
    packed = load(tmp_path, "gpt2").tokenizer.packed()
    for name in ("bos_token_id", "eos_token_id"):
        with pytest.raises(TokenizerError, match=f"its {name} is "):
            unpack(packed | {name: wrong}, "x", 302)


def test_bundled_gpt2():
    tokenizer = gpt2c.gpt2_tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (50256, 50256)


def test_objects_of_other_libraries():
    """tiktoken and tokenizers name no bos: <|endoftext|> is both where it is a special token."""
    import tiktoken

    ranks = {bytes([i]): i for i in range(256)}
    for special, expected in (({END: 256}, 256), ({"<end>": 256}, None)):
        obj = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens=special)
        found = as_tokenizer(obj)
        assert (found.bos_token_id, found.eos_token_id) == (expected, expected)
    found = as_tokenizer(SimpleNamespace(encode=list, decode=str))
    assert (found.bos_token_id, found.eos_token_id) == (None, None)


# -------------------------------------------------------------------------------- with the configuration

# Folder -> the ids that count. config.json of "bert" names the tokenizer's; of "metaspace" and "pair"
# ordinary words; of the others none, which makes them 50256, outside of the vocabulary.
RESOLVED = {
    "bert": (2, (3,)),
    "other-ends": (0, (4,)),
    "metaspace": (1, (2,)),
    "end-only": (None, (2,)),
    "add-bos": (301, (301,)),
    "pair": (301, (301,)),
    "gpt2": (301, (301,)),
}


def ids(model: GPT2):
    return model.config.bos_token_id, model.config.eos_token_ids


@pytest.mark.parametrize("name", FOLDERS)
def test_the_ids_that_count(tmp_path, name):
    model = load(tmp_path, name)
    assert ids(model) == RESOLVED[name]
    model.save(tmp_path / "x.gpt2c")
    again = GPT2.from_pretrained(tmp_path / "x.gpt2c")
    assert ids(again) == RESOLVED[name]
    assert not [note for note in again.notes if "_token_id" in note]


def test_notes_say_which_ids_count(tmp_path):
    notes = [note for note in load(tmp_path, "pair").notes if "_token_id" in note]
    assert notes == [
        f"bos_token_id: 5 is not a special token, so the tokenizer's {END!r} (301) is used",
        f"eos_token_id: [5, 6] is not a special token, so the tokenizer's {END!r} (301) is used",
    ]
    model = load(tmp_path, "gpt2")
    report = {setting.key: setting for setting in model.config.report}
    assert report["eos_token_id"][1:] == (
        50256,
        "default",
        f"50256 outside the vocabulary of 302: left out; the tokenizer's {END!r} (301) is used",
    )
    model = load(tmp_path, "add-bos", tokenizer=None)
    assert any(note.startswith("bos_token_id: 50256 is not a special token") for note in model.notes)


def test_a_special_token_of_the_configuration_stands(tmp_path):
    pytest.importorskip("tokenizers")
    folder = write_folder(tmp_path, "bert")
    for given, expected in (
        ({"bos_token_id": 0, "eos_token_id": 4}, (0, (4,))),
        ({"bos_token_id": 3, "eos_token_id": [70, 0]}, (3, (70, 0))),
        ({"bos_token_id": None, "eos_token_id": None}, (2, (3,))),
        ({"bos_token_id": 70, "eos_token_id": [70, 71]}, (2, (3,))),
    ):
        (folder / "generation_config.json").write_text(json.dumps(given))
        model = GPT2.from_pretrained(folder)
        assert ids(model) == expected
        assert bool([n for n in model.notes if "_token_id" in n]) == (expected == (2, (3,)))


def test_a_token_that_the_model_lacks_does_not_count(tmp_path):
    """The embedding was not resized when <|endoftext|> was added."""
    folder = write_folder(tmp_path, "gpt2")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 301, "eos_token_id": 7}
    from helpers.tiny_checkpoints import write_model

    write_model(folder, config)
    model = GPT2.from_pretrained(folder)
    assert ids(model) == (None, (7,))
    assert "the vocabulary has ids up to 301, but the model's end at 300" in "\n".join(model.notes)
    with pytest.raises(TokenizerError, match="301"):
        model.generate(END, special=True)


def test_objects_with_special_tokens_count_and_others_change_nothing(tmp_path):
    import tiktoken

    ranks = {bytes([i]): i for i in range(256)}
    known = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens={END: 256})
    other = SimpleNamespace(encode=lambda text: list(text.encode()), decode=lambda ids: bytes(ids).decode())
    folder = write_folder(tmp_path, "pair")
    GPT2.from_pretrained(folder).save(tmp_path / "x.gpt2c")
    for source, own in ((folder, (5, (5, 6))), (tmp_path / "x.gpt2c", (301, (301,)))):
        assert ids(GPT2.from_pretrained(source, tokenizer=known)) == (256, (256,))
        assert ids(GPT2.from_pretrained(source, tokenizer=other)) == own


def test_an_empty_prompt_and_a_scored_text_begin_with_it(tmp_path):
    model = load(tmp_path, "pair")
    tokens = model.tokenizer.encode("the king")
    logits = model.forward([301, *tokens]).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(len(tokens)), tokens]
    assert model.score("the king").logprobs == pytest.approx(expected, abs=1e-5)
    assert model.generate("", max_new_tokens=1).prompt_token_ids == [301]


# -------------------------------------------------------------------------------- around a text


def test_notes_say_what_stands_around_a_text(tmp_path):
    assert load(tmp_path, "bert").notes[-2:] == [
        "the tokenizer puts '[CLS]' (2) before a text: kept before prompts and scored texts",
        "the tokenizer puts '[SEP]' (3) after a text: left out, since the text is continued",
    ]
    assert not [note for note in load(tmp_path, "gpt2").notes if "puts" in note]


@pytest.mark.parametrize(
    ("name", "prefix", "suffix", "bos", "eos"),
    [("bert", [2], [3], 2, [3]), ("end-only", [], [2], None, [2]), ("gpt2", [], [], 301, [301])],
)
def test_info_tells_of_it(tmp_path, name, prefix, suffix, bos, eos):
    needs_tokenizers(name)
    folder = write_folder(tmp_path, name)
    found = json.loads(run("info", folder, "--json").stdout)
    assert (found["vocabulary"]["prefix"], found["vocabulary"]["suffix"]) == (prefix, suffix)
    assert (found["bos_token_id"], found["eos_token_ids"]) == (bos, eos)
    lines = [" ".join(line.split()) for line in run("info", folder).stdout.splitlines()]
    assert f"beginning of a text {'none' if bos is None else bos}" in lines
    assert f"end of a text {eos[0]}" in lines
    assert ("put before a text 2" in lines, "put after a text 3" in lines) == (
        bool(prefix),
        name == "bert",
    )


# -------------------------------------------------------------------------------- special tokens in texts


def logprobs_of(model: GPT2, tokens: list[int]) -> np.ndarray:
    """Of every token but the first, in NumPy from logits."""
    logits = model.forward(tokens).astype(np.float64)[:-1]
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logprobs[np.arange(len(tokens) - 1), tokens[1:]]


# Texts, and what AutoTokenizer of transformers 4.57.6 gives for them with add_special_tokens=False: with
# split_special_tokens, and without it.
TYPED = {
    "gpt2": (
        f" the king{END} he",
        [258, 262, 60, 124, 101, 110, 100, 111, 102, 116, 101, 120, 116, 124, 62, 272],
        [258, 262, 301, 272],
    ),
    "bert": ("the king[SEP]he", [65, 66, 1, 23, 39, 50, 1, 70], [65, 66, 3, 70]),
}


@pytest.fixture(params=TYPED)
def typed(request, tmp_path):
    """A model's folder, a text, and what the model is to see of it: as text, and with special tokens."""
    text, plain, special = TYPED[request.param]
    needs_tokenizers(request.param)
    before = [2] if request.param == "bert" else []
    return write_folder(tmp_path, request.param), text, [*before, *plain], [*before, *special]


def test_generate_reads_them_on_request(typed):
    folder, text, plain, special = typed
    for options, expected in (([], plain), (["--special"], special)):
        arguments = ("-n", "3", "--temperature", "0", "--json", "-m", folder, *options)
        found = json.loads(run("generate", text, *arguments).stdout)
        (made,) = found["generations"]
        assert made["prompt_token_ids"] == expected
        assert (
            made["token_ids"] == GPT2.from_pretrained(folder).generate(expected, max_new_tokens=3).token_ids
        )


def test_suggest_reads_them_on_request(typed):
    folder, text, plain, special = typed
    model = GPT2.from_pretrained(folder)
    for options, tokens in (([], plain), (["--special"], special)):
        found = json.loads(run("suggest", text, "--json", "-m", folder, "-k", "1", *options).stdout)
        assert found["suggestions"][0]["token_id"] == model.forward(tokens)[-1].argmax()


def test_score_reads_them_on_request(typed):
    folder, text, plain, special = typed
    model = GPT2.from_pretrained(folder)
    begin = [] if plain[0] == 2 else [301]
    for options, tokens in (([], plain), (["--special"], special)):
        found = json.loads(run("score", text, "--json", "-m", folder, *options).stdout)
        assert [row["logprob"] for row in found["per_token"]] == pytest.approx(
            logprobs_of(model, [*begin, *tokens]), abs=1e-4
        )
        assert [row["token_id"] for row in found["per_token"]] == tokens[1 - len(begin) :]


@pytest.mark.parametrize("bos", [0, 1, 7])
def test_any_token_may_stand_before_a_text(tmp_path, bos):
    model = load(tmp_path, "gpt2")
    folder = tmp_path / "gpt2"
    (tmp_path / "a.jsonl").write_text('{"text": " the king had"}\n{"text": " he"}\n')
    expected = [logprobs_of(model, [bos, *tokens]) for tokens in ([258, 262, 265], [272])]
    found = json.loads(run("score", " the king had", "--bos", bos, "--json", "-m", folder).stdout)
    assert [row["logprob"] for row in found["per_token"]] == pytest.approx(expected[0], abs=1e-4)
    done = run("score", tmp_path / "a.jsonl", "-o", tmp_path / "out", "--bos", bos, "-m", folder)
    assert done.returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    assert [row["gpt2c_n_tokens"] for row in rows] == [3, 1]
    assert [row["gpt2c_logprob"] for row in rows] == pytest.approx([sum(e) for e in expected], abs=1e-4)
    scored = Scorer(folder, bos=bos)({"text": [" the king had", " he"]})
    assert scored["gpt2c_logprob"].tolist() == [row["gpt2c_logprob"] for row in rows]
    assert "bos was" in run("score", tmp_path / "a.jsonl", "-o", tmp_path / "out", "-m", folder).stderr
    pairs = model.score([(" the king", " had"), ([258, 262], [265])], bos=bos)
    assert [pair.logprob for pair in pairs] == pytest.approx([expected[0][2]] * 2, abs=1e-4)


@pytest.mark.parametrize(("bos", "most"), [(0, 48), (7, 48), (True, 48), (False, 49)])
def test_the_longest_text_behind_any_token(tmp_path, bos, most):
    model = load(tmp_path, "gpt2")
    assert len(model.score([258] * most, bos=bos)) == most - (bos is False)
    with pytest.raises(ContextLengthError, match=f"the model has 48 positions: at most {most} tokens"):
        model.score([258] * (most + 1), bos=bos)
    together = f"has 47 tokens after a context of 3, .*: together at most {most} tokens"
    with pytest.raises(ContextLengthError, match=together):
        model.score([([258] * 3, [258] * 47)], bos=bos)


def test_files_of_texts_with_special_tokens(typed, tmp_path):
    folder, text, plain, special = typed
    model = GPT2.from_pretrained(folder)
    begin = [] if plain[0] == 2 else [301]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    for options, tokens in (([], plain), (["--special"], special)):
        out = tmp_path / f"out{len(options)}"
        assert run("score", tmp_path / "a.jsonl", "-o", out, "-m", folder, *options).returncode == 0
        row = json.loads((out / "a.jsonl").read_text())
        expected = logprobs_of(model, [*begin, *tokens]).sum()
        assert row["gpt2c_logprob"] == pytest.approx(expected, abs=1e-3)
        scored = Scorer(folder, special=bool(options))({"text": [text]})
        assert scored["gpt2c_logprob"][0] == row["gpt2c_logprob"]
    done = run("score", tmp_path / "a.jsonl", "-o", tmp_path / "out0", "-m", folder, "--special")
    assert "special was False, now True" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--bos", "302"], 1, "bos must be from 0 to 301, a token id, or True or False, not 302"),
        (["--bos", "-1"], 1, "bos must be from 0 to 301"),
        (["--bos", "x"], 2, "argument --bos: invalid int value: 'x'"),
        (["--bos", "1", "--no-bos"], 2, "argument --no-bos: not allowed with argument --bos"),
    ],
)
def test_what_cannot_stand_before_a_text(tmp_path, arguments, status, message):
    folder = write_folder(tmp_path, "gpt2")
    (tmp_path / "a.txt").write_text("the")
    for what in (["the"], [tmp_path / "a.txt", "-o", tmp_path / "out"]):
        done = run("score", *what, "-m", folder, *arguments)
        assert done.returncode == status and message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_explain_reads_them_on_request(typed):
    folder, text, plain, special = typed
    model = GPT2.from_pretrained(folder)
    for options, tokens in (([], plain), (["--special"], special)):
        arguments = ("-m", folder, "-n", "2", *options)
        found = json.loads(run("explain", text, "--json", *arguments).stdout)
        assert found["token_ids"] == tokens
        # The first token is given: the tokenizer's [CLS], or the first of the text.
        assert [row["token_id"] for row in found["score"]] == tokens[1:]
        assert [row["logprob"] for row in found["score"]] == pytest.approx(
            logprobs_of(model, tokens), abs=1e-4
        )
        page = data_of(run("explain", text, "-o", "-", *arguments).stdout)
        assert page["tokens"] == tokens
        printed = run("explain", text, *arguments)
        assert printed.returncode == 0 and text in printed.stdout


def test_what_is_written_with_and_without_them(tmp_path):
    """A bias makes the model write [PAD] alone; transformers decodes that to " [PAD] [PAD]" behind "the"."""
    needs_tokenizers("bert")
    folder = write_folder(tmp_path, "bert")
    arguments = ("the", "-n", "2", "--temperature", "0", "--logit-bias", "0=1e30", "-m", folder)
    assert run("generate", *arguments).stdout == "the [PAD] [PAD]\n"
    assert run("generate", *arguments, "--skip-special-tokens").stdout == "the\n"


def test_the_keyboard_reads_them_on_request(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path, "gpt2")
    model = GPT2.from_pretrained(folder)
    monkeypatch.setattr(suggest, "read_text", lambda _: None)
    monkeypatch.setattr(suggest, "is_terminal", lambda _: True)
    monkeypatch.setenv("TERM", "dumb")
    typed = f" the king{END} he"
    for options, tokens in zip(([], ["--special"]), TYPED["gpt2"][1:], strict=True):
        lines = [typed]

        def line(_, lines=lines):
            if not lines:
                raise EOFError
            return lines.pop()

        monkeypatch.setattr("builtins.input", line)
        assert cli.main(["suggest", "-m", str(folder), "-k", "1", *options]) == 0
        logits = model.forward(tokens)[-1].astype(np.float64)
        best = 1 / np.exp(logits - logits.max()).sum()
        assert f"{best:7.2%}" in capsys.readouterr().out
