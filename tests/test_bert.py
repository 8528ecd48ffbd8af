"""gpt2c.BERT: loading, vectors, labels. Expected values are those of transformers (tests/data/bert)."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from data.bert import faces, models
from helpers.berts import loader, random_bert
from helpers.tiny_checkpoints import safetensors_bytes
from helpers.toys import random_gpt2, same
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import BERT, GPT2, CheckpointError, ConfigError, ContextLengthError, reference_bert
from gpt2c.checkpoint import BUNDLED, open_checkpoint
from gpt2c.config import Config, Head, Pooling
from gpt2c.core import _engine

TOLD = json.loads(faces.RECORDED.read_text())
RECORDED = np.load(models.FOLDER / "bert.npz")
CLOSE = dict(rtol=0, atol=2e-5)
MASKED = [name for name, (_, head, *_) in faces.FACES.items() if head == "ForMaskedLM"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    return loader(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def folder(tmp_path):
    return faces.write(tmp_path / "model", "bytes")


# ---- what transformers says


@pytest.mark.parametrize("name", models.CASES)
def test_logits_and_labels_of_token_ids(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(models.values(name)))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(models.tensors(name)))
    model = BERT.from_pretrained(tmp_path, threads=1)
    ids, types = models.text(name)
    config, head = model.config, model.config.head
    if config.masked_head:
        found = model.forward(ids, types=types if config.n_types else None)
        assert np.allclose(found, RECORDED[f"{name}/logits"], **CLOSE)
    # A text of its own has no types but 0.
    checkpoint = open_checkpoint(tmp_path)
    weights = {tensor: checkpoint.read(tensor) for tensor in checkpoint.tensors}
    hidden = reference_bert.hidden_states(config, weights, ids, None)
    assert np.allclose(model.hidden(ids), hidden, **CLOSE)
    if head is not None:
        expected = reference_bert.classify(config, weights, ids, None)
        if head.kind == "sequence":
            found = model.classify(ids).logits
        else:
            found = np.array([tag.logits for tag in model.tag(ids).tags])
        assert np.allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("backend", ["native", "blas"])
@pytest.mark.parametrize("name", MASKED)
def test_embeddings(load, name, backend):
    model = load(name, backend=backend)
    for pooling, expected in TOLD[name]["embed"].items():
        found = model.embed(list(faces.TEXTS), pooling=pooling)
        assert found.dtype == np.float32 and found.shape == (len(faces.TEXTS), 24)
        assert np.allclose(found, expected, **CLOSE), pooling
    assert same(model.embed(list(faces.TEXTS)), model.embed(list(faces.TEXTS), pooling="mean"))


@pytest.mark.parametrize("name", ["labels", "roberta labels"])
def test_labels_of_texts_and_pairs(load, name):
    model, expected = load(name), TOLD[name]["classify"]
    found = model.classify(list(faces.TEXTS))
    assert np.allclose([one.logits for one in found], expected["single"], **CLOSE)
    found = model.classify(list(faces.PAIRS))
    assert np.allclose([one.logits for one in found], expected["pairs"], **CLOSE)
    assert {one.label for one in found} <= set(models.LABELS)
    assert found[0].probability == max(found[0].probabilities.values())
    both = model.classify([faces.TEXTS[0], faces.PAIRS[0]])
    assert same(both[1].logits, found[0].logits)


@pytest.mark.parametrize("name", ["labels", "roberta labels"])
def test_how_pairs_are_read_and_cut(load, name, monkeypatch):
    model = load(name)
    compute, seen = _engine.hidden, []

    def hidden(weights, sequences, *rest, **how):
        seen.extend(sequences)
        return compute(weights, sequences, *rest, **how)

    monkeypatch.setattr(_engine, "hidden", hidden)
    truncated = []
    for pair in faces.PAIRS:
        truncated += [model.classify([pair])[0].truncated]
        for most in faces.MAX_TOKENS:
            try:
                [found] = model.classify([pair], max_tokens=most)
            except ValueError:
                pytest.fail("no room")
            truncated.append(found.truncated)
    told = TOLD[name]["pairs"]
    assert [[ids.tolist(), types.tolist()] for _, ids, types in seen] == told
    whole = {i: len(told[i - i % 5][0]) for i in range(len(told))}
    assert truncated == [len(ids) < whole[i] for i, (ids, _) in enumerate(told)]


def test_labels_of_tokens(load):
    model = load("tags")
    for text, expected in zip(faces.TEXTS, TOLD["tags"]["tag"], strict=True):
        found = model.tag(text)
        assert np.allclose([tag.logits for tag in found.tags], expected, **CLOSE)
        assert "".join(text[tag.start : tag.end] for tag in found.tags) == text.replace(" ", "")
    with pytest.raises(TypeError, match="tag takes texts, not pairs of texts:"):
        model.tag([faces.PAIRS[0]])


# ---- equal bits


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 160), min_size=1, max_size=9),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(_engine.DTYPES),
    threads=st.integers(1, 4),
    pooling=st.sampled_from(faces.POOLINGS),
    normalize=st.booleans(),
)
def test_a_vector_is_the_same_in_any_company(lengths, seed, dtype, threads, pooling, normalize):
    model, _ = random_bert(dtype=dtype, threads=threads)
    draw = np.random.default_rng(seed)
    texts = [draw.integers(0, 61, n).tolist() for n in lengths]
    how = {"pooling": pooling, "normalize": normalize}
    together = model.embed(texts, **how)
    model.threads = 1
    for text, vector in zip(texts, together, strict=True):
        assert same(model.embed(text, **how), vector)
    for text, rows in zip(texts, model.hidden(texts), strict=True):
        assert same(model.hidden(text), rows)
    if normalize:
        assert np.allclose((together.astype(np.float64) ** 2).sum(axis=1), 1, atol=1e-6)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(_engine.DTYPES),
    activation=st.sampled_from(["tanh", "relu"]),
)
def test_labels_are_the_same_in_any_company(lengths, seed, dtype, activation):
    head = Head("sequence", ("a", "b", "c"), activation=activation, pooled=True)
    model, weights = random_bert(dtype=dtype, threads=2, head=head)
    draw = np.random.default_rng(seed)
    pairs = [tuple(draw.integers(0, 61, n).tolist() for n in both) for both in lengths]
    together = model.classify(pairs)
    model.threads = 1
    for pair, one in zip(pairs, together, strict=True):
        assert same(model.classify([pair])[0].logits, one.logits)
        if dtype == "float32":
            ids, types = [*pair[0], *pair[1]], [0] * len(pair[0]) + [1] * len(pair[1])
            expected = reference_bert.classify(model.config, weights, np.array(ids), np.array(types))
            assert np.allclose(one.logits, expected, rtol=0, atol=1e-4)


def test_many_and_long_texts():
    model, weights = random_bert(n_ctx=700)
    draw = np.random.default_rng(1)
    texts = [draw.integers(0, 61, n).tolist() for n in (700, 1, 513, 3, 512, 700, 2)] * 2
    found = model.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        assert same(vector, model.embed(text))
    expected = reference_bert.hidden_states(model.config, weights, np.array(texts[2]), None)
    assert np.allclose(model.hidden(texts[2]), expected, rtol=0, atol=1e-4)


# ---- files


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_a_packed_file_gives_the_same(folder, tmp_path, dtype):
    model = BERT.from_pretrained(folder, dtype=dtype, threads=1)
    model.save(tmp_path / "model.gpt2c")
    again = BERT.from_pretrained(tmp_path / "model.gpt2c", threads=1)
    assert again.config == model.config and again.dtype == dtype
    assert same(again.forward([1, 2, 3]), model.forward([1, 2, 3]))
    assert again.fill("the king had a[MASK].") == model.fill("the king had a[MASK].")
    assert same(again.embed("the king"), model.embed("the king"))


def test_what_is_exported_is_the_same_model(folder, tmp_path):
    model = BERT.from_pretrained(folder, threads=1)
    model.export(tmp_path / "exported")
    again = BERT.from_pretrained(tmp_path / "exported", threads=1)
    assert same(again.forward([1, 2, 3]), model.forward([1, 2, 3]))
    assert again.fill("the[MASK].") == model.fill("the[MASK].")


def test_copies_and_pickles(folder):
    model = BERT.from_pretrained(folder, threads=1)
    for other in (pickle.loads(pickle.dumps(model)), model.__copy__(), model.__deepcopy__({})):
        assert type(other) is BERT and same(other.forward([4, 2]), model.forward([4, 2]))


def test_each_class_names_the_other(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"model is a BERT: load it with gpt2c\.BERT\.from_pretrained; on"):
        GPT2.from_pretrained(folder)
    with pytest.raises(ConfigError, match=r"is a GPT-2, not a BERT: load it with gpt2c\.GPT2\.from_pre"):
        BERT.from_pretrained(BUNDLED)
    BERT.from_pretrained(folder).save(tmp_path / "bert.gpt2c")
    random_gpt2()[0].save(tmp_path / "gpt2.gpt2c")
    with pytest.raises(ConfigError, match=r"bert\.gpt2c is a BERT"):
        GPT2.from_pretrained(tmp_path / "bert.gpt2c")
    with pytest.raises(ConfigError, match=r"gpt2\.gpt2c is a GPT-2"):
        BERT.from_pretrained(tmp_path / "gpt2.gpt2c")
    from gpt2c.any_model import from_pretrained

    assert type(from_pretrained(folder)) is BERT
    assert type(from_pretrained(tmp_path / "gpt2.gpt2c", dtype="float32")) is GPT2


# ---- sentence-transformers


def as_sentences(
    folder, *, modules=("Transformer", "Pooling", "Normalize"), pooling=None, texts=None, more=None
):
    paths = ["", "1_Pooling", "2_Normalize", "3_Other"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(modules, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens")}
    asked = modes | ({"pooling_mode_mean_tokens": True} if pooling is None else pooling)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24} | asked))
    if texts is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(texts))
    if more is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(more))
    return BERT.from_pretrained(folder, threads=1)


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted_mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_pooling_is_that_of_sentence_transformers(folder, tmp_path, asked, mode):
    plain = BERT.from_pretrained(folder, threads=1)
    model = as_sentences(folder, pooling=asked, modules=("Transformer", "Pooling"))
    assert model.config.pooling == Pooling(mode, max_tokens=40)
    text = "the king had a son"
    assert same(model.embed(text), plain.embed(text, pooling=mode))
    assert same(model.embed(text, pooling="max"), plain.embed(text, pooling="max"))
    model.save(tmp_path / "packed")
    again = BERT.from_pretrained(tmp_path / "packed", threads=1)
    assert again.config == model.config and same(again.embed(text), model.embed(text))


def test_vectors_of_length_1_and_texts_that_are_cut(folder):
    plain = BERT.from_pretrained(folder, threads=1)
    model = as_sentences(folder, texts={"max_seq_length": 5, "do_lower_case": True})
    assert model.config.pooling == Pooling("mean", True, 5, True)
    long = "The KING had a son and he was very fond of him"
    exact = plain.embed(long.lower(), max_tokens=5).astype(np.float64)
    assert np.allclose(model.embed(long), exact / np.sqrt((exact**2).sum()), rtol=0, atol=1e-7)
    assert same(model.embed(long, normalize=False), plain.embed(long.lower(), max_tokens=5))
    assert same(model.embed([long, "A"], normalize=False)[1], plain.embed("a"))
    assert same(model.embed(long, normalize=False, max_tokens=7), plain.embed(long.lower(), max_tokens=7))
    # Elsewhere texts are what they are.
    with pytest.raises(ContextLengthError):
        model.score(long * 9)
    # As sentence-transformers 5 and later write it.
    of_tokenizer = folder / "tokenizer_config.json"
    usual = json.loads(of_tokenizer.read_text())
    for length, wanted in ((7, 7), (10**30, 40), (1e30, 40), (None, 40), ("7", 40)):
        of_tokenizer.write_text(json.dumps(usual | {"model_max_length": length}))
        assert as_sentences(folder, texts={}).config.pooling.max_tokens == wanted
        assert as_sentences(folder, texts={"max_seq_length": 9}).config.pooling.max_tokens == 9
    very_long = as_sentences(folder, texts={"max_seq_length": 512})
    assert very_long.config.pooling.max_tokens == 40
    assert same(very_long.embed(long * 9), very_long.embed(long * 9, max_tokens=40))


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"modules": ("Transformer", "Pooling", "Dense")}, "names the modules Transformer, Pooling, Dense"),
        ({"modules": ("Transformer", "CNN")}, "names the modules Transformer, CNN"),
        ({"modules": ()}, "names the modules of nothing"),
        (
            {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
            "1_Pooling/config.json asks for 'cls', 'mean'",
        ),
        ({"pooling": {}}, "asks for nothing"),
        ({"pooling": {"pooling_mode_of_2030": True}}, "asks for 'pooling_mode_of_2030'"),
        ({"more": {"default_prompt_name": "query", "prompts": {}}}, "asks for the prompt 'query'"),
    ],
)
def test_what_of_it_is_not_done(folder, how, problem):
    plain = BERT.from_pretrained(folder, threads=1)
    model = as_sentences(folder, **how)
    with pytest.raises(ConfigError, match=r"gpt2c supports|prepend it") as error:
        model.embed("a")
    assert problem in str(error.value) and "pooling= (--pooling) chooses" in str(error.value)
    assert same(model.embed("a king", pooling="mean", normalize=False), plain.embed("a king"))
    assert model.fill("[MASK]") == plain.fill("[MASK]")


def test_a_pooling_that_is_missing(folder):
    as_sentences(folder)
    (folder / "1_Pooling" / "config.json").unlink()
    model = BERT.from_pretrained(folder, threads=1)
    with pytest.raises(ConfigError, match=r"names 1_Pooling, which has no config\.json\. pooling= "):
        model.embed("a")
    assert model.embed("a", pooling="mean").shape == (24,)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("modules.json", "{", "modules.json"),
        ("modules.json", '{"a": 1}', "must hold a JSON array"),
        ("modules.json", "[1]", "a module is 1; needed: an object"),
        ("modules.json", '[{"type": "a.Transformer"}]', "needed: an object with a type and a path"),
        ("modules.json", '[{"type": "a.Transformer", "path": "/etc"}]', "needed: a folder beside it"),
        ("1_Pooling/config.json", "[]", "1_Pooling/config.json"),
        (
            "sentence_bert_config.json",
            '{"max_seq_length": 0}',
            "max_seq_length is 0; allowed: an integer of at least 1",
        ),
        ("sentence_bert_config.json", '{"max_seq_length": "5"}', "max_seq_length is '5'; allowed"),
        ("sentence_bert_config.json", '{"do_lower_case": 1}', "lower is 1; allowed: true or false"),
    ],
)
def test_damaged_files_of_it(folder, file, content, problem):
    as_sentences(folder)
    (folder / file).write_text(content)
    with pytest.raises((CheckpointError, ConfigError)) as error:
        BERT.from_pretrained(folder)
    assert problem in str(error.value)


@given(content=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "path", "pooling_mode", "max_seq_length", "do_lower_case"]) | st.text(),
        inner, max_size=4),
    max_leaves=8,
), file=st.sampled_from(["modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
                         "config_sentence_transformers.json"]))  # fmt: skip
def test_no_such_file_breaks_loading(tmp_path_factory, content, file):
    from gpt2c.checkpoint.sentence_transformers import with_pooling

    folder = tmp_path_factory.mktemp("model")
    config = Config(1, 1, 4, 4, 8, 9)
    for name, usual in (
        ("modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True}),
        ("sentence_bert_config.json", {}),
        ("config_sentence_transformers.json", {}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content if name == file else usual))
    try:
        found = with_pooling(config, folder)
    except (CheckpointError, ConfigError) as error:
        assert str(folder) in str(error)
    else:
        assert found.pooling.max_tokens <= 8


@pytest.mark.oracle
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_live_sentence_transformers(name, mode, normalize, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    parts = pytest.importorskip("sentence_transformers.models")
    folder = faces.write(tmp_path / "model", name)
    modules = [
        parts.Transformer(str(folder), max_seq_length=12),
        parts.Pooling(24, pooling_mode=mode),
        *[parts.Normalize()] * normalize,
    ]
    theirs = library.SentenceTransformer(modules=modules, device="cpu")
    theirs.save(str(tmp_path / "saved"))
    model = BERT.from_pretrained(tmp_path / "saved", threads=1)
    assert model.config.pooling.normalize is normalize and not model.config.pooling.problem
    assert np.allclose(model.embed(list(faces.TEXTS)), theirs.encode(list(faces.TEXTS)), **CLOSE)


# ---- what is not there


@pytest.mark.parametrize("name", ["generate", "stream", "suggest", "suggest_words", "session", "choose"])
def test_methods_of_gpt2(name):
    model, _ = random_bert()
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=rf"a BERT has no '{name}': .*(fill|text)"):
        getattr(model, name)
    with pytest.raises(AttributeError, match=r"a BERT has no 'nothing'$"):
        _ = model.nothing
    with pytest.raises(TypeError, match="a BERT cannot be called: use fill, score, embed, classify or tag"):
        model("text")


def test_pairs_of_strings_and_ids(folder):
    model = BERT.from_pretrained(folder, threads=1)
    with pytest.raises(
        TypeError, match="text 1 is a pair of a string and of token ids: give both as strings"
    ):
        model.embed(["a", ("a", [1, 2])])


def test_functions_of_language_models_refuse():
    model, _ = random_bert()
    for ask in (
        lambda: gpt2c.scoring.scoring.score(model, [1, 2, 3]),
        lambda: gpt2c.scoring.scoring.suggest(model, [1, 2, 3]),
    ):
        with pytest.raises(
            ConfigError, match="is a BERT, which reads a text as a whole and cannot continue it"
        ):
            ask()


def test_wrong_arguments():
    model, _ = random_bert()
    head = Head("sequence", ("a", "b"), activation="tanh", pooled=True)
    classifier, _ = random_bert(head=head)
    bare, _ = random_bert(masked_head=False)
    with pytest.raises(
        ConfigError, match=r"is a BERT without another head; .* a BertForSequenceClassification"
    ):
        model.classify([1])
    with pytest.raises(
        ConfigError, match=r"classifier of texts with the labels 'a', 'b', and predicts no tokens"
    ):
        classifier.forward([1])
    with pytest.raises(ConfigError, match="has no head that predicts tokens, as a BertForMaskedLM has"):
        bare.forward([1])
    with pytest.raises(ValueError, match="a BERT reads a text as a whole: pass all of it, without a cache"):
        model.forward([1], model.new_cache())
    with pytest.raises(ValueError, match="types has token id 2"):
        model.forward([1, 2], types=[0, 2])
    with pytest.raises(ValueError, match="every token needs one token type"):
        model.forward([1, 2], types=[0])
    with pytest.raises(ContextLengthError, match="161 new tokens exceed its room for 160"):
        model.forward([1] * 161)
    with pytest.raises(ContextLengthError, match="the text has 161 tokens, but the model has 160 positions"):
        model.embed([1] * 161)
    with pytest.raises(TypeError, match="can mean two texts, or one pair"):
        classifier.classify(([1, 2], [3]))
    with pytest.raises(TypeError, match="text 0 must hold integers only"):
        classifier.classify([([1, 2], 3.5)])
    with pytest.raises(ValueError, match="the text is empty"):
        model.embed([]) if False else model.embed("") if False else classifier.classify(np.empty(0, np.int32))
    with pytest.raises(
        TypeError, match=r"embed has no option poling: did you mean pooling\?.*help\(BERT\.embed\)"
    ):
        model.embed([1], poling="max")
    with pytest.raises(TypeError, match="no option normalize_embeddings: embed has normalize=True"):
        model.embed([1], normalize_embeddings=True)
    with pytest.raises(TypeError, match=r"help\(BERT\.classify\)"):
        classifier.classify([1], maximum=3)
    with pytest.raises(TypeError, match=r"no option torch_dtype: dtype takes"):
        BERT.from_pretrained("x", torch_dtype="float16")
    with pytest.raises(TypeError, match=r"BERT\.from_pretrained\('x'\) loads a model"):
        BERT("x")
    assert model.embed([]).shape == (0, 24) and classifier.classify([]) == []


# ---- looking inside


def test_what_is_computed_on_the_way(folder):
    model = BERT.from_pretrained(folder, threads=1)
    text = "the king had a[MASK]."
    logits, cache = model.run_with_cache(text)
    ids = model.tokenizer.encode(text, True)
    assert same(logits, model.forward(ids))
    assert same(cache["blocks.1.hook_normalized_resid_post"], model.hidden(ids))
    pattern = cache["pattern", 0]
    assert pattern.shape == (3, len(ids), len(ids)) and np.allclose(pattern.sum(axis=-1), 1)
    several, caches = model.run_with_cache([text, ("the king", "so")], "*.hook_pattern", logits_to_keep=1)
    assert [found.shape for found in several] == [(1, model.config.n_vocab)] * 2 and len(caches) == 2
    silenced, _ = model.run_with_cache(text, (), edits=[("blocks.0.attn.hook_z", gpt2c.edits.zero())])
    assert not np.allclose(silenced, logits)
    typed, _ = model.run_with_cache(ids, (), types=np.ones(len(ids), np.int32))
    assert same(typed, model.forward(ids, types=[1] * len(ids)))


def test_patching(folder):
    model = BERT.from_pretrained(folder, threads=1)
    clean, corrupted = "the king had a[MASK].", "the horse had a[MASK]."
    assert len(model.tokenizer.encode(clean, True)) == len(model.tokenizer.encode(corrupted, True))
    place = model.tokenizer.encode(clean, True).index(model.mask_token_id)
    found = model.patch(clean, corrupted, ("resid_pre", [0, 1]), lambda logits: float(logits[place, 7]))
    wanted = model.forward(model.tokenizer.encode(clean, True))[place, 7]
    assert np.asarray(found).tolist() == [wanted, wanted]
