"""A BERT at the command line, in corpora, in gpt2c.ray, in the server: what gpt2c.BERT gives, bit for bit."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from data.bert import faces
from helpers.toys import same

from gpt2c import BERT, GPT2
from gpt2c.cli.command import main
from gpt2c.cli.formatting import quoted

TEXTS = ["the king had a son", "so", 'he was very fond, of his "old" horse\nand they went']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return faces.write(tmp_path_factory.mktemp("bert") / "model", "bytes")


@pytest.fixture(scope="module")
def model(folder):
    return BERT.from_pretrained(folder, threads=1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = faces.write(tmp_path_factory.mktemp("bert") / "labels", "labels")
    for file in folder.glob("tokenizer*.json"):
        file.unlink()
    for file, content in faces.BYTES.items():
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": len(faces.BYTES["vocab.json"])}
    (folder / "config.json").write_text(json.dumps(config))
    from helpers.tiny_checkpoints import read_safetensors, safetensors_bytes

    stored = read_safetensors(folder / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    stored[name] = np.resize(stored[name], (config["vocab_size"], 24))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def run(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == status, capsys.readouterr().err
    return capsys.readouterr().out if status == 0 else capsys.readouterr().err


# ---- fill


def test_fill(folder, model, capsys):
    text = "the king had a[MASK] and a[MASK]."
    told = run(capsys, "fill", text, "-m", folder, "-k", 3)
    found = model.fill(text, 3)
    assert len(told.splitlines()) == 3
    for line, filling in zip(told.splitlines(), found, strict=True):
        assert line.startswith(f"{filling.probability:7.2%}  ") and line.endswith(quoted(filling.text))
    told = json.loads(run(capsys, "fill", text, "-m", folder, "-k", 3, "--json"))
    assert told["text"] == text and told["truncated"] is False
    assert [one["text"] for one in told["fillings"]] == [one.text for one in found]
    assert [one["probability"] for one in told["fillings"]] == [one.probability for one in found]
    for mine, theirs in zip(told["masks"], found.masks, strict=True):
        assert [one["token_id"] for one in mine] == [one.token_id for one in theirs]
        assert [one["bytes"] for one in mine] == [one.bytes.hex() for one in theirs]


def test_fill_with_options(folder, model, capsys, tmp_path):
    how = ("-m", folder, "--json", "-o", tmp_path / "out")
    run(
        capsys,
        "fill",
        "a[MASK][MASK]",
        *how,
        "--num-beams",
        2,
        "-k",
        1,
        "--target",
        " king",
        "--target",
        " son",
    )
    told = json.loads((tmp_path / "out").read_text())
    [found] = model.fill("a[MASK][MASK]", 1, num_beams=2, targets=[" king", " son"])
    assert told["fillings"][0]["text"] == found.text
    assert len(told["masks"][0]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill", "a", "-m", "BERT"], r"the text has no mask: put '\[MASK\]'"),
        (["fill", "a[MASK]", "-m", "BERT", "-k", "0"], "k must be from 1"),
        (
            ["fill", "[MASK]", "-m", "BERT", "--target", "king son"],
            "has .* tokens, but a mask is one token: give words that",
        ),
        (["fill", "[MASK]", "-m", "LABELS"], "is a classifier of texts .* and predicts no tokens"),
        (
            ["generate", "a", "-m", "BERT"],
            r"is a BERT: load it with .*gpt2c fill, embed, score and classify take it",
        ),
        (["suggest", "a", "-m", "BERT"], "is a BERT"),
        (["score", "a", "-m", "BERT", "--stride", "3"], "--stride is for a GPT-2, but .* is a BERT"),
        (["score", "a", "-m", "BERT", "--no-bos"], "--bos or --no-bos is for a GPT-2"),
        (["score", "a", "-m", "BERT", "--words"], "--words is for a GPT-2"),
        (["score", "a", "--within-word"], "--within-word is for a BERT"),
        (["score", "a", "-m", "LABELS"], "is a classifier of texts .* and predicts no tokens"),
        (["bench", "model", "-m", "BERT"], "is a BERT"),
        (["classify", "a", "-m", "BERT"], "is a BERT without another head"),
        (["embed", "", "-m", "BERT"], "the text is empty: it needs at least one token"),
        (["embed", "a" * 50, "-m", "BERT"], "a text has 50 tokens, but the model has 40 positions"),
        (["embed", "a", "-f", "b", "-m", "BERT"], "give a text or a file"),
        (["embed", "a", "-m", "BERT", "--lines"], "--lines is for files of texts"),
        (["export", "BERT", "OUT.gguf"], "BERT"),
        (["convert", "BERT", "OUT.gpt2c", "--dtype", "int3"], None),
    ],
)
def test_what_is_refused(folder, classifier, capsys, tmp_path, arguments, message):
    names = {"BERT": str(folder), "LABELS": str(classifier), "OUT.gguf": str(tmp_path / "out.gguf")}
    arguments = [names.get(word, word) for word in arguments]
    if message is None:
        assert main(arguments) == 2
    else:
        assert re.search(message, run(capsys, *arguments, status=1))


# ---- embed


def test_embed_a_text(folder, model, capsys):
    for options, how in (
        ((), {}),
        (("--normalize",), {"normalize": True}),
        (("--pooling", "max", "--max-tokens", 3), {"pooling": "max", "max_tokens": 3}),
    ):
        told = run(capsys, "embed", TEXTS[0], "-m", folder, *options)
        wanted = model.embed(TEXTS[0], **how)
        assert same(np.array(told.split(), np.float32), wanted)
        told = json.loads(run(capsys, "embed", TEXTS[0], "-m", folder, "--json", *options))
        assert same(np.array(told["embedding"], np.float32), wanted)
        assert told["truncated"] is ("max_tokens" in how)


def test_embed_by_a_gpt2(capsys):
    told = run(capsys, "embed", "the king", "--pooling", "last")
    wanted = GPT2.from_pretrained(threads=1).embed("the king", pooling="last")
    assert same(np.array(told.split(), np.float32), wanted)


def test_embed_files(folder, model, capsys, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [*TEXTS, None, ""]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    pq.write_table(pa.table({"text": rows}), tmp_path / "b.parquet")
    with open(tmp_path / "c.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([i, text] for i, text in enumerate(TEXTS))])
    (tmp_path / "d.txt").write_text("so\nthe king\n")
    inputs = [tmp_path / name for name in ("a.jsonl", "b.parquet", "c.csv", "d.txt")]
    out = tmp_path / "out"
    arguments = ["embed", *inputs, "-o", out, "-m", folder, "--normalize", "--lines"]
    run(capsys, *arguments)
    wanted = model.embed(TEXTS, normalize=True)

    records = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    found = [record["gpt2c_embedding"] for record in records]
    assert same(np.array(found[:3], np.float32), wanted) and found[3:] == [None, None]
    assert [record["gpt2c_n_tokens"] for record in records[3:]] == [0, 0]

    table = pq.read_table(out / "b.parquet")
    assert table.schema.field("gpt2c_embedding").type == pa.list_(pa.float32())
    found = table.column("gpt2c_embedding").to_pylist()
    assert same(np.array(found[:3], np.float32), wanted) and found[3:] == [None, None]
    assert table.column("text").to_pylist() == rows

    with open(out / "c.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", "text", "gpt2c_embedding", "gpt2c_n_tokens", "gpt2c_truncated"]
    assert same(np.array([json.loads(line[2]) for line in lines], np.float32), wanted)
    assert [line[1] for line in lines] == TEXTS
    assert len((out / "d.txt.jsonl").read_text().splitlines()) == 2

    # The same command does nothing, another one is refused.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    run(capsys, *arguments)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "normalize was True, now False" in run(
        capsys, *arguments[:-2], "--no-normalize", "--lines", status=1
    )
    assert "mode was 'mean', now 'max'" in run(capsys, *arguments, "--pooling", "max", status=1)


def test_embedding_goes_on_where_it_was_stopped(model, tmp_path):
    from itertools import islice

    from gpt2c.corpus.embedding import EMBEDDINGS, Embedding
    from gpt2c.corpus.jobs import FileOptions, perform, plan

    many = [f"{i} {TEXTS[i % 3]}"[:30] for i in range(50)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in many))
    options = FileOptions(columns=EMBEDDINGS)

    def job(directory):
        (tmp_path / directory).mkdir(exist_ok=True)
        return plan([str(path)], str(tmp_path / directory), options)[0]

    perform(job("whole"), options, Embedding(model))
    task = Embedding(model)
    compute = task.rows

    def stopping(texts):
        yield from islice(compute(texts), 20)
        raise KeyboardInterrupt

    task.rows = stopping
    with pytest.raises(KeyboardInterrupt):
        perform(job("parts"), options, task)
    totals = perform(job("parts"), options, Embedding(model))
    assert totals.resumed == 20 and totals.records == 50
    assert (tmp_path / "parts" / "in.jsonl").read_bytes() == (tmp_path / "whole" / "in.jsonl").read_bytes()


def test_classify_text_and_files(classifier, capsys, tmp_path):
    model = BERT.from_pretrained(classifier, threads=1)
    told = json.loads(run(capsys, "classify", TEXTS[0], "-m", classifier, "--json"))
    assert told["logits"] == model.classify(TEXTS[0]).logits.tolist()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    run(capsys, "classify", tmp_path / "a.jsonl", "-o", f"{tmp_path / 'out'}/", "-m", classifier)
    records = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()]
    for record, found in zip(records, model.classify(TEXTS), strict=True):
        assert record["gpt2c_label"] == found.label and record["gpt2c_probability"] == found.probability


# ---- score


def test_score_a_text(folder, model, capsys):
    told = json.loads(run(capsys, "score", TEXTS[0], "-m", folder, "--json", "--top", 2))
    found = model.score(TEXTS[0], top=2)
    assert told["logprob"] == found.logprob and told["perplexity"] == found.perplexity
    assert [row["top_ids"] for row in told["per_token"]] == found.top_ids.tolist()
    told = json.loads(run(capsys, "score", TEXTS[0], "-m", folder, "--json", "--within-word"))
    assert told["logprob"] == model.score(TEXTS[0], within_word=True).logprob != found.logprob
    table = run(capsys, "score", TEXTS[0], "-m", folder)
    assert f"perplexity {found.perplexity:.2f}" in table and len(table.splitlines()) == len(found) + 3


def test_score_files(folder, model, capsys, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, None, ""])
    )
    out = tmp_path / "out"
    run(capsys, "score", tmp_path / "a.jsonl", "-o", f"{out}/", "-m", folder, "--within-word")
    records = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    for record, found in zip(records, model.score(TEXTS, within_word=True), strict=False):
        assert record["gpt2c_logprob"] == found.logprob and record["gpt2c_perplexity"] == found.perplexity
        assert record["gpt2c_n_tokens"] == len(found) and record["gpt2c_truncated"] is False
        assert record["gpt2c_n_bytes"] == len(record["text"].encode())
    assert [(record["gpt2c_logprob"], record["gpt2c_n_tokens"]) for record in records[3:]] == [(None, 0)] * 2
    again = run(capsys, "score", tmp_path / "a.jsonl", "-o", f"{out}/", "-m", folder, status=1)
    assert "within_word was True, now False" in again
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "a" * 50}))
    arguments = ["score", tmp_path / "b.jsonl", "-o", f"{tmp_path / 'cut'}/", "-m", folder]
    assert "a text has 50 tokens" in run(capsys, *arguments, status=1)
    run(capsys, *arguments, "--max-tokens", 30)
    record = json.loads((tmp_path / "cut" / "b.jsonl").read_text())
    assert record["gpt2c_truncated"] and record["gpt2c_n_tokens"] == record["gpt2c_n_bytes"] == 30
    assert record["gpt2c_logprob"] == model.score("a" * 50, max_tokens=30).logprob


# ---- what a model is


def test_info(folder, classifier, model, capsys):
    told = run(capsys, "info", folder)
    assert f"BERT with {model.config.n_parameters:,} parameters" in told
    assert re.search(r"token types +2\n", told) and re.search(rf"mask +{model.mask_token_id}\n", told)
    told = json.loads(run(capsys, "info", folder, "--json", "--check"))
    assert told["type"] == "bert" and told["sizes"]["n_types"] == 2 and told["pooling"] is None
    results = {one["check"]: one["result"] for one in told["checks"]}
    assert "wrong" not in results.values() and results["mask"] == results["reference"] == "ok"
    told = json.loads(run(capsys, "info", classifier, "--json", "--check"))
    [reference] = [one for one in told["checks"] if one["check"] == "reference"]
    assert reference["result"] == "ok" and reference["text"].startswith("hidden states differ by")
    assert told["head"]["class"] == "BertForSequenceClassification"


def test_info_of_a_gpt2_has_no_token_types(capsys):
    told = json.loads(run(capsys, "info", "--json"))
    assert told["type"] == "gpt2" and "n_types" not in told["sizes"]


def test_what_is_wrong_in_a_bert_is_found(folder, capsys, monkeypatch):
    from gpt2c import reference_bert

    compute = reference_bert.forward
    monkeypatch.setattr(reference_bert, "forward", lambda *given: compute(*given) * (1 + 1e-3))
    told = json.loads(run_any(capsys, "info", folder, "--json", "--check"))
    [reference] = [one for one in told["checks"] if one["check"] == "reference"]
    assert reference["result"] == "wrong"


def run_any(capsys, *arguments):
    capsys.readouterr()
    main([*map(str, arguments)])
    return capsys.readouterr().out


def test_convert_and_export(folder, classifier, model, capsys, tmp_path):
    run(capsys, "convert", folder, tmp_path / "model.gpt2c", "--dtype", "int8")
    packed = BERT.from_pretrained(tmp_path / "model.gpt2c", threads=1)
    assert packed.dtype == "int8" and packed.fill("a[MASK]")
    told = run(capsys, "export", folder, tmp_path / "exported")
    assert "transformers.AutoModelForMaskedLM" in told and "gpt2c fill TEXT" in told
    assert same(BERT.from_pretrained(tmp_path / "exported").forward([1, 2]), model.forward([1, 2]))
    told = run(capsys, "export", classifier, tmp_path / "labels")
    assert "transformers.AutoModelForSequenceClassification" in told and "gpt2c classify TEXT" in told


# ---- ray


def test_embedder(folder, model):
    import pickle

    from gpt2c.ray import Embedder

    wanted = model.embed(TEXTS, pooling="max", normalize=True)
    how = {"pooling": "max", "normalize": True}
    embedder = pickle.loads(pickle.dumps(Embedder(str(folder), **how)))
    found = embedder({"text": np.array(TEXTS, object), "id": np.arange(3)})
    assert list(found) == ["text", "id", "gpt2c_embedding", "gpt2c_n_tokens", "gpt2c_truncated"]
    assert same(found["gpt2c_embedding"], wanted)
    for text, vector in zip(TEXTS, wanted, strict=True):
        assert same(embedder({"text": [text]})["gpt2c_embedding"][0], vector)
    some = embedder({"text": [TEXTS[0], None, ""]})["gpt2c_embedding"]
    assert same(some[0], wanted[0]) and some[1] is None and some[2] is None
    assert same(
        Embedder()({"text": ["the king"]})["gpt2c_embedding"][0], GPT2.from_pretrained().embed("the king")
    )


def test_embedder_of_tables(folder, model):
    pa = pytest.importorskip("pyarrow")
    from gpt2c.ray import Embedder

    found = Embedder(str(folder))(pa.table({"text": [*TEXTS, None]}))
    assert found.column("gpt2c_embedding").type == pa.list_(pa.float32())
    vectors = found.column("gpt2c_embedding").to_pylist()
    assert same(np.array(vectors[:3], np.float32), model.embed(TEXTS)) and vectors[3] is None


def test_embedder_with_bad_rows(folder):
    from gpt2c.ray import Embedder

    with pytest.raises(ValueError, match="row 1 of the batch: a text has 50 tokens"):
        Embedder(str(folder))({"text": ["a", "a" * 50]})
    found = Embedder(str(folder), on_error="null")({"text": ["a", "a" * 50]})
    assert (
        found["gpt2c_embedding"][1] is None
        and "50 tokens" in found["error" if "error" in found else "gpt2c_error"][1]
    )
    assert Embedder(str(folder), max_tokens=9)({"text": ["a" * 50]})["gpt2c_truncated"].tolist() == [True]
    with pytest.raises(ValueError, match="pooling must be"):
        Embedder(str(folder), pooling="most")({"text": ["a"]})
    with pytest.raises(TypeError, match=r"Embedder has no option poling: did you mean pooling\?"):
        Embedder(str(folder), poling="max")


# ---- the server


@pytest.fixture(scope="module")
def server(model):
    for package in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    from helpers.served import served

    with served(model) as found:
        yield found


def test_embeddings_of_a_server(server, model):
    from helpers.served import ask

    for fields, how in (
        ({}, {}),
        ({"pooling": "cls"}, {"pooling": "cls"}),
        ({"normalize": True, "pooling": "max"}, {"normalize": True, "pooling": "max"}),
    ):
        found = ask(server, "POST", "/v1/embeddings", {"input": TEXTS, **fields})
        assert found.status == 200, found.body
        vectors = np.array([one["embedding"] for one in found.json["data"]], np.float32)
        assert same(vectors, model.embed(TEXTS, **how))
    assert ask(server, "POST", "/v1/embeddings", {"input": "a" * 50}).status == 400


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/score", {"input": "a"}),
        ("/v1/suggest", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_other_endpoints_of_a_server(server, path, fields):
    from helpers.served import ask

    found = ask(server, "POST", path, fields)
    if path == "/v1/chat/completions":  # there is no template either
        assert found.status in (400, 404) and found.error["message"]
    else:
        assert found.status == 400 and found.error["code"] == "not_a_language_model"
        assert "is a BERT, not a language model: it serves only /v1/embeddings" in found.error["message"]


def test_what_else_a_server_tells(server):
    from helpers.served import ask

    assert ask(server, "GET", "/health").json["status"] == "ok"
    assert ask(server, "GET", "/v1/models").status == 200
    assert ask(server, "GET", "/metrics").status == 200
    assert ask(server, "POST", "/tokenize", {"text": "so"}).json["count"] == 2


def test_a_scheduler_computes_anything_but_texts(model):
    from gpt2c import ConfigError, Scheduler

    with Scheduler(model) as scheduler:
        assert same(scheduler.run(model.embed, TEXTS).result(), model.embed(TEXTS))
        assert scheduler.run(model.fill, "a[MASK]").result() == model.fill("a[MASK]")
        with pytest.raises(ConfigError, match="is a BERT"):
            scheduler.submit("a", draft="prompt")
