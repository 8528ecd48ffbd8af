"""The model of dates that comes with gpt2c: what it writes, where it looks, and how it is shown and run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run
from helpers.toys import same

from gpt2c import EncoderDecoder, edits
from gpt2c.checkpoint import BUNDLED
from gpt2c.introspection.crossing import CrossAttention

FOLDER = Path(__file__).parent / "data" / "dates"
TEXT = "the third of May, 1984"
DATE = "1984-05-03"


@pytest.fixture(scope="module")
def model():
    return EncoderDecoder.from_pretrained("dates", threads=1)


def recorded():
    return json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))


def cases():
    lines = (FOLDER / "cases.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]


# ---- what it writes


@pytest.mark.parametrize("dtype", [None, "int8"])
def test_dates_that_it_has_not_seen_are_right(model, dtype):
    model = EncoderDecoder.from_pretrained("dates", dtype=dtype, threads=1) if dtype else model
    texts, dates = zip(*cases(), strict=True)
    found = model.generate(list(texts))
    right = sum(one.text == date for one, date in zip(found, dates, strict=True))
    assert len(dates) == 200 and right >= 198
    assert all(one.finish_reason == "eos" for one in found)


def test_tokens_and_texts_are_those_of_transformers(model):
    said = recorded()
    found = model.generate([one["text"] for one in said])
    for text, one in zip(found, said, strict=True):
        assert model.encoder.tokenizer.encode(one["text"]) == one["input_ids"]
        assert [0, *text.token_ids] == one["ids"]
        assert text.text == one["output"]


def test_logits_and_cross_attention_are_those_of_transformers(model):
    with np.load(FOLDER / "cross-attention.npz") as said:
        text, ids = str(said["text"]), said["ids"].tolist()
        logits, cache = model.run_with_cache(text, ids[1:-1])
        assert np.abs(logits - said["logits"]).max() <= 1e-4
        for layer in range(2):
            assert np.abs(cache["cross_attn.pattern", layer] - said["cross"][layer]).max() <= 1e-5


def test_a_stream_has_the_characters(model):
    assert "".join(model.stream(TEXT)) == DATE


def test_beams_hold_other_dates(model):
    best, *others = model.generate(TEXT, num_beams=4, num_return_sequences=4)
    assert best.text == DATE and all(len(other.text) == len(DATE) for other in others)
    assert len({DATE, *(other.text for other in others)}) == 4


def test_scores_tell_right_dates_from_wrong_ones(model):
    right, wrong = model.score([TEXT, TEXT], [DATE, "1984-06-03"])
    assert right.logprobs.sum() > -0.1 > -3 > wrong.logprobs.sum()
    whole = model.score(TEXT, f"{DATE}<|endoftext|>", special=True)
    assert len(whole) == len(right) + 1


@pytest.mark.parametrize(
    "options",
    [
        {"penalty_alpha": 0.3, "top_k": 4},
        {"guidance_scale": 1.5},
        {"draft": "prompt"},
        {"temperature": 0.5, "seed": 1},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"overflow": "slide"},
    ],
)
def test_every_way_of_writing_attends_to_the_source(model, options):
    texts = model.generate([TEXT, "June 1st, 2001"], **options)
    assert [text.text for text in texts] == [DATE, "2001-06-01"]
    assert model.generate(TEXT, **options).logprobs == texts[0].logprobs


def test_captures_and_edits_of_a_generation(model):
    names = "*cross_attn.hook_pattern"
    texts = model.generate([TEXT, "June 1st, 2001"], names_filter=names)
    crossed = texts[0].cache.cross_attention(1)
    assert [text.text for text in texts] == [DATE, "2001-06-01"]
    assert crossed.written[:10] == [*DATE] and len(crossed.sources) == 11
    whole = model.run_with_cache(TEXT, DATE)[1]["cross_attn.pattern", 1].mean(axis=0)
    assert same(crossed.weights, whole)
    silent = model.generate(TEXT, edits=[("*hook_cross_attn_out", edits.zero())])
    assert silent.text != DATE


def test_options_of_transformers_are_answered(model):
    for name, hint in (
        ("decoder_input_ids", r"model\.given\(source\)"),
        ("encoder_no_repeat_ngram_size", "the source is not counted"),
        ("max_length", "max_new_tokens"),
    ):
        with pytest.raises(TypeError, match=hint):
            model.generate(TEXT, **{name: 1})
    with pytest.raises(TypeError, match=r"model\.given\(states\)"):
        model.decoder.generate([0], encoder_hidden_states=1)


# ---- where it looks


def test_the_month_is_read_where_it_is_written(model):
    _, cache = model.run_with_cache(TEXT, DATE)
    crossed = cache.cross_attention()
    assert crossed.written == [*DATE, "<|endoftext|>"]
    assert "".join(crossed.sources).replace("␣", " ") == TEXT
    month = crossed.weights[crossed.written.index("5")]
    assert crossed.sources[month.argmax()] == "␣May" and month.max() > 0.5
    assert same(crossed.weights, cache["cross_attn.pattern", 1].mean(axis=0))
    assert same(cache.cross_attention(0, -1).weights, cache["cross_attn.pattern", 0][3])
    with pytest.raises(ValueError, match="head"):
        cache.cross_attention(head=4)
    with pytest.raises(KeyError, match="was not captured"):
        model.run_with_cache(TEXT, DATE, "*hook_embed")[1].cross_attention()


def test_cross_attention_is_shown():
    weights = np.array([[0.25, 0.75, 0], [1, 0, 0]], np.float32)
    crossed = CrossAttention(1, 2, weights, ["a", "bc"], ["x", "long source token", "z"])
    assert str(crossed).splitlines() == [
        "cross-attention, layer 1, head 2, in percent",
        "    x   long source… z",
        "a    25           75   0",
        "bc  100            0   0",
    ]
    assert "long source token" in crossed._repr_html_() and ">75<" in crossed._repr_html_()
    assert repr(crossed) == "<CrossAttention of 2 tokens to 3: cross-attention, layer 1, head 2>"
    wide = CrossAttention(0, None, np.full((1, 60), 1 / 60, np.float32), ["a"], ["word"] * 60)
    lines = str(wide).splitlines()
    assert max(map(len, lines)) <= 110 and len(lines) == 1 + 2 * 3
    assert sum(line.count("word") for line in lines) == 60


def test_cross_attention_is_plotted(model):
    pytest.importorskip("matplotlib")
    figure = model.run_with_cache(TEXT, DATE)[1].cross_attention(1, 0).plot()
    [axes, _] = figure.axes
    assert same(np.asarray(axes.images[0].get_array()), _pattern(model, 1, 0))
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["1", "9"]
    assert axes.get_title() == "cross-attention, layer 1, head 0"


def _pattern(model, layer, head):
    return model.run_with_cache(TEXT, DATE)[1]["cross_attn.pattern", layer][head]


def test_notebooks_show_captures_without_a_self_attention(model):
    _, cache = model.run_with_cache(TEXT, DATE, "*cross_attn.hook_pattern")
    assert cache._repr_html_() is None


def test_attribution_is_shown_with_cross_attention(model):
    _, cache = model.run_with_cache(TEXT, "198")
    parts = cache.attribution()
    assert "cross-attention" in parts._repr_html_()
    assert abs(parts.components["rest"]) < 1e-3


def test_without_cross_attention_it_knows_no_date(model):
    silent = [("blocks.*.hook_cross_attn_out", edits.zero())]
    logits, _ = model.run_with_cache(TEXT, DATE, edits=silent)
    assert "".join(model.decoder.token_text(int(token)) for token in logits.argmax(axis=1)[:-1]) != DATE


# ---- the command line


def test_generate_writes_the_date():
    done = run("generate", "-m", "dates", TEXT)
    assert (done.stdout, done.stderr, done.returncode) == (f"{DATE}\n", "", 0)
    done = run("generate", "-m", "dates", "--json", "--num-beams", "2", TEXT)
    told = json.loads(done.stdout)
    assert told["prompt"] == TEXT and told["generations"][0]["text"] == DATE
    told = json.loads(run("generate", "-m", "dates", "--json", TEXT).stdout)
    assert told["generations"][0]["seed"] is None  # nothing was drawn
    done = run("generate", "-m", "dates", "-n", "4", stdin=TEXT.encode())
    assert done.stdout == "1984\n"


def test_generate_writes_dates_of_files(tmp_path):
    records = [{"id": i, "text": text} for i, (text, _) in enumerate(cases())] + [{"text": None}]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    done = run("generate", "-m", "dates", tmp_path / "in.jsonl", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "in.jsonl").read_text().splitlines()
    found = [json.loads(line)["gpt2c_continuation"] for line in lines]
    assert found[-1] is None and len(found) == 201
    assert sum(one == date for one, (_, date) in zip(found, cases(), strict=False)) >= 198
    done = run("generate", "-m", "dates", tmp_path / "in.jsonl", "-o", tmp_path / "out")
    assert "nothing to do" in done.stderr
    options = ("--num-beams", "2", "--num-return-sequences", "2")
    done = run("generate", "-m", "dates", tmp_path / "in.jsonl", "-o", tmp_path / "two", *options)
    lines = [json.loads(line) for line in (tmp_path / "two" / "in.jsonl").read_text().splitlines()]
    assert len(lines) == 401 and [line["gpt2c_sample_index"] for line in lines[:4]] == [0, 1, 0, 1]
    assert [line["gpt2c_continuation"] for line in lines[:400:2]] == found[:-1]


def test_a_text_that_is_too_long_is_left_out(tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(f'{{"text": "{t}"}}\n' for t in (TEXT, "May " * 50, TEXT)))
    done = run("generate", "-m", "dates", tmp_path / "in.jsonl", "-o", tmp_path / "out")
    assert done.returncode == 1 and "in.jsonl:2" in done.stderr and "max_tokens=40" in done.stderr
    done = run("generate", "-m", "dates", tmp_path / "in.jsonl", "-o", tmp_path / "out", "--on-error", "null")
    lines = [json.loads(line) for line in (tmp_path / "out" / "in.jsonl").read_text().splitlines()]
    assert [line["gpt2c_continuation"] for line in lines] == [DATE, None, DATE]


def test_convert_and_info(tmp_path):
    done = run("convert", "dates", tmp_path / "packed", "--dtype", "int8")
    assert done.returncode == 0 and "encoder.gpt2c" in done.stdout
    assert run("generate", "-m", tmp_path / "packed", TEXT).stdout == f"{DATE}\n"
    done = run("convert", "dates", tmp_path / "more", "--json")
    assert json.loads(done.stdout)["dtype"] == "float32"
    told = json.loads(run("info", tmp_path / "packed", "--json").stdout)
    assert told["encoder"]["type"] == "bert" and told["decoder"]["type"] == "gpt2"
    done = run("info", "dates")
    assert "BERT" in done.stdout and "GPT-2" in done.stdout and done.returncode == 0


def test_it_is_exported_as_a_directory(model, tmp_path):
    done = run("export", "dates", "copy", cwd=tmp_path)
    assert "transformers.EncoderDecoderModel.from_pretrained('copy')" in done.stdout and not done.returncode
    assert "\nhere:      gpt2c generate TEXT -m copy\n" in done.stdout
    copy = EncoderDecoder.from_pretrained(tmp_path / "copy", threads=1)
    assert same(copy.encode(TEXT), model.encode(TEXT)) and copy.generate(TEXT).text == DATE
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt"}
    told = json.loads(run("export", "dates", "again", "--json", cwd=tmp_path).stdout)
    assert set(told["files"]) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "-m", "dates", "May " * 50], "in Python, max_tokens=40 truncates it"),
        (["generate", "-m", "dates", str(FOLDER / "cases.tsv"), "-o", "out", "-n", "99"], "32 positions"),
        (["generate", "-m", "dates", "x", "--adapter", "y"], "--adapter is for GPT-2s"),
        (["suggest", "-m", "dates", "x"], "gpt2c.EncoderDecoder.from_pretrained"),
        (["embed", "-m", "dates", "x"], "gpt2c.EncoderDecoder.from_pretrained"),
        (["serve", "-m", "dates"], "gpt2c.EncoderDecoder.from_pretrained"),
        (["info", "dates", "--check"], "--check is for a single model"),
        (["export", "dates", "dates.gguf"], "export a directory"),
    ],
)
def test_other_commands_refuse_it(arguments, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


# ---- tokenizers


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(BUNDLED.parent / "dates", tmp_path / "copy")


def swapped(folder):
    """A tokenizer with the digits 1 and 2 exchanged, in a folder."""
    folder.mkdir()
    vocabulary = json.loads((BUNDLED.parent / "dates" / "vocab.json").read_text(encoding="utf-8"))
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    for name in ("merges.txt", "tokenizer_config.json"):
        shutil.copy(BUNDLED.parent / "dates" / name, folder)
    return folder


def test_each_part_may_have_a_tokenizer_of_its_own(copied, tmp_path):
    other = swapped(tmp_path / "other")
    for tokenizer, date in (
        (other, "2984-05-03"),  # both, where the source has no such digits
        ((None, other), "2984-05-03"),
        ((other, None), DATE),
    ):
        model = EncoderDecoder.from_pretrained(copied, tokenizer=tokenizer)
        assert model.generate("the third of May, nineteen eighty-four").text == date
        assert pickle.loads(pickle.dumps(model)).generate("May 3rd, nineteen eighty-four").text == date
    swapped(copied / "decoder")
    own = EncoderDecoder.from_pretrained(copied)
    assert own.generate("the third of May, nineteen eighty-four").text == "2984-05-03"
    own.save(tmp_path / "packed")
    own.export(tmp_path / "exported")
    assert sorted(p.name for p in (tmp_path / "exported").iterdir() if p.is_dir()) == ["decoder", "encoder"]
    for written in ("packed", "exported"):
        again = EncoderDecoder.from_pretrained(tmp_path / written)
        assert again.generate("the third of May, nineteen eighty-four").text == "2984-05-03"


def test_the_first_token_need_not_be_the_tokenizers(copied, tmp_path):
    config = json.loads((copied / "config.json").read_text()) | {"decoder_start_token_id": 17}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "generation_config.json").unlink()
    model = EncoderDecoder.from_pretrained(copied)
    assert model.decoder.config.bos_token_id == 17
    model.save(tmp_path / "packed")
    assert EncoderDecoder.from_pretrained(tmp_path / "packed").decoder.config.bos_token_id == 17
    text = model.generate(TEXT, max_new_tokens=3)
    assert text.prompt_token_ids == [17]


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dates").mkdir()
    with pytest.raises(Exception, match=r"has no config\.json"):
        EncoderDecoder.from_pretrained("dates")
