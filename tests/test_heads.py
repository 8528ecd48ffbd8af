"""Classifiers, taggers, choices and embeddings: what transformers says (tests/data/heads), to 1e-5."""

import csv
import importlib.util
import json
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.strategies import random_model
from helpers.tiny_checkpoints import safetensors_bytes
from helpers.toys import random_gpt2, same

import gpt2c
from gpt2c import GPT2, Classification, ConfigError, ContextLengthError
from gpt2c.checkpoint.hf_config import config_from_hf
from gpt2c.cli.command import main
from gpt2c.config import Config, Head
from gpt2c.core import _engine
from gpt2c.corpus.tasks import Classifying
from gpt2c.errors import CheckpointError

DATA = Path(__file__).parent / "data" / "heads"
TOLD = json.loads((DATA / "heads.json").read_text())
EXPECTED = dict(np.load(DATA / "expected.npz"))
TENSORS = dict(np.load(DATA / "tensors.npz"))
LENGTHS, TEXTS = TOLD["lengths"], TOLD["texts"]
IDS = {int(name[4:]): ids.tolist() for name, ids in EXPECTED.items() if name.startswith("ids ")}
RAGGED = [IDS[n] for n in LENGTHS]
CLOSE = dict(rtol=0, atol=1e-5)


def write(folder, name, *, config=None, suffix=False, leave_out=(), change=None):
    """A folder as transformers saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = TOLD["cases"][name]["config"] | (config or {})
    (folder / "config.json").write_text(json.dumps(config))
    stored = {f"transformer.{key}": array for key, array in TENSORS.items() if "/" not in key}
    stored |= {key.split("/")[1]: array for key, array in TENSORS.items() if key.startswith(f"{name}/")}
    stored = {key: array for key, array in stored.items() if key not in leave_out}
    stored |= {key: function(stored[key]).astype(np.float32) for key, function in (change or {}).items()}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored, __metadata__={"format": "pt"}))
    if suffix:
        shutil.copy(DATA / "with_suffix.json", folder / "tokenizer.json")
    else:
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(DATA / file, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    return {name: write(root / name, name) for name in TOLD["cases"]}


@pytest.fixture(scope="module")
def load(folders):
    return lambda name, **how: GPT2.from_pretrained(folders[name], threads=1, **how)


# ---- what transformers says


@pytest.mark.parametrize("backend", ["native", "blas"])
@pytest.mark.parametrize("name", ["single", "multi", "padded"])
def test_ragged_texts_in_one_call(load, name, backend):
    found = load(name, backend=backend).classify(RAGGED)
    assert np.allclose([one.logits for one in found], EXPECTED[name], **CLOSE)
    assert [one.n_tokens for one in found] == LENGTHS
    assert found[0].logits.dtype == np.float32


def test_the_last_token_that_does_not_fill_up_counts(load):
    found = load("padded").classify(TOLD["with_pads"])
    assert np.allclose([one.logits for one in found], EXPECTED["with pads"], **CLOSE)


@pytest.mark.parametrize("suffix", [False, True])
@pytest.mark.parametrize("name", ["single", "multi", "one"])
def test_labels_of_texts(tmp_path, name, suffix):
    model = GPT2.from_pretrained(write(tmp_path / name, name, suffix=suffix))
    of_texts = TOLD["cases"][name]["of_texts"]["suffixed" if suffix else "plain"]
    for text, expected in zip(TEXTS, of_texts, strict=True):
        found = model.classify(text)
        assert isinstance(found, Classification)
        assert found.probabilities == pytest.approx(expected, rel=0, abs=1e-5)
        assert found.label == max(expected, key=expected.get)
        assert found.probability == found.probabilities[found.label]
        assert list(found.probabilities) == list(model.config.head.labels)  # in the order of their ids
        assert found.values == {} and found.value is None and not found.truncated
        assert found.n_tokens == len(text.encode()) + suffix


def test_numbers_of_a_regression(load):
    for name in ("number", "numbers"):
        model = load(name)
        for found, expected in zip(
            model.classify(TEXTS), TOLD["cases"][name]["of_texts"]["plain"], strict=True
        ):
            assert found.values == pytest.approx(expected, rel=0, abs=1e-5)
            assert (found.label, found.probability, found.probabilities) == (None, None, {})
            assert found.value == (found.values["stars"] if name == "number" else None)


@pytest.mark.parametrize("length", [1, 5, 64, 200])
def test_labels_of_tokens(load, length):
    found = load("tokens").tag(IDS[length])
    assert np.allclose([tag.logits for tag in found.tags], EXPECTED[f"tokens {length}"], **CLOSE)
    assert [tag.token_id for tag in found.tags] == IDS[length]
    assert {tag.start for tag in found.tags} == {None}
    assert found.n_tokens == length


@pytest.mark.parametrize("suffix", [False, True])
def test_tags_and_entities_of_texts(tmp_path, suffix):
    model = GPT2.from_pretrained(write(tmp_path / "model", "tokens", suffix=suffix))
    of_texts = TOLD["cases"]["tokens"]["of_texts"]
    kind = "suffixed" if suffix else "plain"
    found = model.tag(TEXTS)
    for text, one, tags, entities in zip(
        TEXTS, found, of_texts[f"{kind} none"], of_texts[f"{kind} simple"], strict=True
    ):
        assert [(tag.label, tag.start, tag.end) for tag in one.tags] == [
            (tag["entity"], tag["start"], tag["end"]) for tag in tags
        ]
        assert [tag.probability for tag in one.tags] == pytest.approx(
            [tag["score"] for tag in tags], abs=1e-5
        )
        assert [tag.text for tag in one.tags] == [text[tag["start"] : tag["end"]] for tag in tags]
        assert [(entity.label, entity.start, entity.end) for entity in one.entities] == [
            (entity["entity_group"], entity["start"], entity["end"]) for entity in entities
        ]
        assert [entity.probability for entity in one.entities] == pytest.approx(
            [entity["score"] for entity in entities], abs=1e-5
        )
        assert one.n_tokens == len(text.encode()) + suffix
        assert [entity.text for entity in one.entities] == [text[e.start : e.end] for e in one.entities]
    # There is something of everything.
    labels = {tag["entity"] for tags in of_texts[f"{kind} none"] for tag in tags}
    assert {"O", "B-PER", "I-PER", "I-LOC"} <= labels


@pytest.mark.parametrize("name", ["choice", "tanh"])
def test_choices(load, name):
    model = load(name)
    texts = [IDS[n] for n in (3, 9, 5)]
    found = model.choose(texts)
    assert np.allclose(found.logits, EXPECTED[name], **CLOSE)
    exact = np.exp(EXPECTED[name].astype(np.float64))
    assert found.probabilities == pytest.approx((exact / exact.sum()).tolist(), abs=1e-5)
    assert found.index == EXPECTED[name].argmax()
    # It is a language model as well.
    assert len(model.generate([1, 2, 3], max_new_tokens=2).token_ids) == 2


def test_embeddings(load, folders):
    model = load("single")
    for pooling in ("mean", "last"):
        found = model.embed(RAGGED, pooling=pooling)
        assert found.dtype == np.float32
        assert np.allclose(found, EXPECTED[pooling], **CLOSE)
        assert same(model.embed(RAGGED[4], pooling=pooling), found[4])
    assert model.embed([]).shape == (0, 8)
    assert model.embed("a").shape == (8,)


def test_embeddings_of_any_model():
    model, _ = random_gpt2()
    _, cache = model.run_with_cache([3, 1, 4, 1, 5], "*hook_normalized")
    exact = cache["ln_final.hook_normalized"] * model.weights["ln_f.weight"] + model.weights["ln_f.bias"]
    assert np.allclose(model.embed([3, 1, 4, 1, 5], pooling="last"), exact[-1], **CLOSE)
    assert np.allclose(model.embed([3, 1, 4, 1, 5]), exact.mean(axis=0), **CLOSE)


# ---- exactness


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_neither_company_nor_threads_matter(folders, dtype):
    for name, method in (("single", "classify"), ("tokens", "tag")):
        model = GPT2.from_pretrained(folders[name], dtype=dtype, threads=1)
        find = getattr(model, method)
        together = find(RAGGED)
        for threads in (1, 3):
            model.threads = threads
            for one, ids in zip(together[::3], RAGGED[::3], strict=True):
                assert same(logits(find(ids)), logits(one))
            assert same(model.embed(RAGGED)[5], model.embed(RAGGED[5]))
        assert all(np.isfinite(logits(one)).all() for one in together)


def logits(found):
    return found.logits if isinstance(found, Classification) else np.array([tag.logits for tag in found.tags])


def test_a_token_has_its_logits_whatever_follows():
    labels = tuple(f"l{i}" for i in range(5))
    sizes = dict(n_layer=1, n_head=2, n_embd=200, n_inner=20, n_ctx=64, n_vocab=31)
    config = Config(**sizes, head=Head("token", labels))
    rng = np.random.default_rng(3)
    tensors = random_model(Config(**sizes), rng, 0.3)
    tensors |= {
        "classifier.weight": rng.standard_normal((5, 200)).astype(np.float32),
        "classifier.bias": rng.standard_normal(5).astype(np.float32),
    }
    model = GPT2(_engine.Weights(config, tensors.__getitem__), threads=1)
    whole = logits(model.tag(list(range(31))))
    for n in range(1, 31):
        assert same(logits(model.tag(list(range(n)))), whole[:n])


@pytest.mark.parametrize("name", ["single", "tokens", "choice", "padded", "numbers"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_packed_files_keep_the_head(load, tmp_path, name, dtype):
    model = load(name, dtype=dtype)
    model.save(tmp_path / "model.gpt2c")
    packed = GPT2.from_pretrained(tmp_path / "model.gpt2c")
    assert packed.config == model.config and packed.config.head == model.config.head
    if name == "choice":
        assert same(packed.choose(RAGGED[:3]).logits, model.choose(RAGGED[:3]).logits)
        return
    method = "tag" if name == "tokens" else "classify"
    for one, other in zip(getattr(packed, method)(RAGGED), getattr(model, method)(RAGGED), strict=True):
        assert same(logits(one), logits(other))


@pytest.mark.parametrize("finding", ["classify", "embed"])
def test_caches_of_many_short_texts_stay_small(load, monkeypatch, finding):
    model = load("single")
    most = 3 * model.new_cache(1).nbytes
    monkeypatch.setattr("gpt2c.core.batching.CACHE_BYTES", most)
    compute, calls = _engine.hidden, []

    def hidden(weights, sequences, *rest, **how):
        calls.append([cache.nbytes for cache, *_ in sequences])
        return compute(weights, sequences, *rest, **how)

    monkeypatch.setattr(_engine, "hidden", hidden)
    texts = [[i] for i in range(10)] + [RAGGED[-1], [1]]
    found = getattr(model, finding)(texts)
    assert [len(call) for call in calls] == [3, 3, 3, 1, 1, 1]
    assert all(sum(call) <= most or len(call) == 1 for call in calls)
    for one, ids in zip(found, texts, strict=True):
        alone = getattr(model, finding)(ids)
        assert same(one, alone) if finding == "embed" else same(one.logits, alone.logits)


# ---- what the configuration says

ARCHITECTURE = {"sequence": "GPT2ForSequenceClassification", "token": "GPT2ForTokenClassification",
                "choice": "GPT2DoubleHeadsModel"}  # fmt: skip


def head(kind, **values):
    return config_from_hf({"architectures": [ARCHITECTURE[kind]], **values})


def test_labels_and_what_they_mean():
    assert head("sequence").head == Head("sequence", ("LABEL_0", "LABEL_1"))
    assert head("sequence", num_labels=3).head.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    by_id = {str(i): f"l{i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert head("token", id2label=by_id, num_labels=11).head.labels == tuple(f"l{i}" for i in range(11))
    assert head("token", id2label={"0": 5, "1": 7}).head.labels == ("5", "7")
    for problem, n, expected in [
        (None, 2, "single"),
        ("single_label_classification", 2, "single"),
        ("single_label_classification", 1, "multi"),
        (None, 1, "multi"),
        ("multi_label_classification", 2, "multi"),
        ("regression", 2, "regression"),
    ]:
        assert head("sequence", problem_type=problem, num_labels=n).head.problem == expected
    assert config_from_hf({"architectures": ["GPT2LMHeadModel"], "num_labels": 3}).head is None


def test_the_report_tells_what_is_honoured():
    config = head("sequence", id2label={"0": "a"}, pad_token_id=7, tie_word_embeddings=False)
    told = {setting.key: (setting.status, setting.note) for setting in config.report}
    assert told["id2label"] == ("honoured", "")
    assert told["problem_type"] == ("default", "a sigmoid for each label")
    assert told["pad_token_id"] == ("honoured", "the last token other than this one counts")
    assert told["tie_word_embeddings"] == ("ignored", "a classifier stores no head for tokens")
    assert config.tie_word_embeddings
    told = {setting.key: setting.status for setting in head("choice", summary_activation="tanh").report}
    assert (told["summary_activation"], told["summary_type"]) == ("honoured", "default")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("sequence", {"num_labels": 3, "id2label": {"0": "a"}},
         "num_labels is 3, but id2label names 1 labels: they must agree"),
        ("sequence", {"num_labels": 0}, "num_labels is 0; allowed: an integer from 1 to 65536"),
        ("token", {"num_labels": True}, "num_labels is True; allowed"),
        ("token", {"id2label": {"1": "a", "2": "b"}}, "id2label is .*; allowed: .* each id from 0"),
        ("token", {"id2label": {}}, "id2label is {}; allowed"),
        ("token", {"id2label": ["a", "b"]}, r"id2label is \['a', 'b'\]; allowed"),
        ("token", {"id2label": {"0": "a", "1": "a"}}, "two labels have the name 'a'"),
        ("token", {"id2label": {"0": [1]}}, "names that are texts"),
        ("sequence", {"problem_type": "ranking"}, "problem_type is 'ranking'; allowed: null or one of 'regr"),
        ("sequence", {"problem_type": []}, r"problem_type is \[\]; allowed"),
        ("sequence", {"pad_token_id": "x"}, "pad_token_id is 'x'; allowed: a token id or null"),
        ("choice", {"summary_type": "mean"}, "summary_type is 'mean'; .* only 'cls_index' or 'last'"),
        ("choice", {"summary_use_proj": False}, "summary_use_proj is False; .* only True"),
        ("choice", {"summary_proj_to_labels": False}, "summary_proj_to_labels is False"),
        ("choice", {"summary_activation": "relu"}, "summary_activation is 'relu'; .* only None or 'tanh'"),
        ("choice", {"architectures": [*ARCHITECTURE.values()]}, "architectures names several heads"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        head(kind, **values)


def test_very_many_labels_are_checked_quickly():
    begin = time.monotonic()
    assert len(head("sequence", num_labels=65_536).head.labels) == 65_536
    with pytest.raises(ConfigError, match="two labels have the name 'l7'"):
        Head("token", (*(f"l{i}" for i in range(65_535)), "l7"))
    assert time.monotonic() - begin < 20  # against comparing each with each, which takes minutes


def test_heads_made_by_hand_are_checked():
    sizes = dict(n_layer=1, n_head=1, n_embd=4, n_inner=4, n_ctx=4, n_vocab=4)
    for make, message in [
        (lambda: Head("other", ("a",)), "kind is 'other'"),
        (lambda: Head("token"), "labels is .*; allowed: none for a choice, else at least one"),
        (lambda: Head("choice", ("a",)), "labels is"),
        (lambda: Head("token", "ab"), "labels is 'ab'; allowed: a tuple of str"),
        (lambda: Head("sequence", ("a",), "any"), "problem is 'any'"),
        (lambda: Config(**sizes, head=Head("token", ("a",)), tie_word_embeddings=False), "tie_word_embed"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make()


def test_parameters_are_counted():
    sizes = dict(n_layer=1, n_head=1, n_embd=4, n_inner=4, n_ctx=4, n_vocab=4)
    more = Config(**sizes, head=Head("token", ("a", "b", "c"))).n_parameters - Config(**sizes).n_parameters
    assert more == 3 * 4 + 3


def test_a_head_of_another_size_names_both_numbers(tmp_path):
    folder = write(tmp_path / "model", "single", config={"id2label": {"0": "x", "1": "y"}})
    with pytest.raises(
        CheckpointError, match=r"'score.weight' has the shape \[3, 8\]; its config.json asks for \[2, 8\]"
    ):
        GPT2.from_pretrained(folder)
    write(folder, "single", leave_out=["score.weight"])
    with pytest.raises(CheckpointError, match=r"'score.weight' missing"):
        GPT2.from_pretrained(folder)


def test_double_heads_without_their_second_head(tmp_path):
    parts = [f"multiple_choice_head.summary.{part}" for part in ("weight", "bias")]
    model = GPT2.from_pretrained(write(tmp_path / "model", "choice", leave_out=parts))
    assert model.config.head is None
    assert any("the choice head of GPT2DoubleHeadsModel is not stored" in note for note in model.notes)
    with pytest.raises(ConfigError, match=r"is a language model without another head; model.choose needs"):
        model.choose(RAGGED)
    with pytest.raises(CheckpointError, match=r"'multiple_choice_head.summary.bias' missing"):
        GPT2.from_pretrained(write(tmp_path / "half", "choice", leave_out=parts[1:]))


# ---- refusals


def test_a_classifier_is_no_language_model(load):
    runs = [
        lambda model: model.generate("a"),
        lambda model: next(iter(model.stream("a"))),
        lambda model: model.suggest("a"),
        lambda model: model.score("ab"),
        lambda model: model.forward([1]),
        lambda model: model.explain("ab"),
        lambda model: model.patch("ab", "cd", ("z", [0]), lambda logits: 0.0),
    ]
    for name, method in (("single", "classify"), ("tokens", "tag")):
        for run in runs:
            with pytest.raises(ConfigError, match=rf"is a classifier of .* labels .*use model.{method}"):
                run(load(name))
        cache = load(name).run_with_cache("ab")[1]
        assert cache["resid_post", 1].shape == (2, 8)
        for run in (cache.logit_lens, cache.attribution):
            with pytest.raises(ConfigError, match=rf"is a classifier of .* labels .*use model.{method}"):
                run()


def test_a_head_that_is_not_there(load):
    for name, method, message in [
        (
            "single",
            "tag",
            r"GPT2ForSequenceClassification: use model.classify \(gpt2c classify\); model.tag needs",
        ),
        ("tokens", "classify", "has the head of a GPT2ForTokenClassification: use model.tag"),
        ("choice", "classify", r"GPT2DoubleHeadsModel: use model.choose \(in Python only\)"),
        ("single", "choose", "model.choose needs the head of a GPT2DoubleHeadsModel"),
    ]:
        with pytest.raises(ConfigError, match=message):
            getattr(load(name), method)(["a"])
    model, _ = random_gpt2()
    with pytest.raises(ConfigError, match=r"is a language model without another head; model.classify needs"):
        model.classify([1])


def test_wrong_texts(load, tmp_path):
    model = load("single")
    assert model.classify([]) == []
    with pytest.raises(
        ContextLengthError, match=r"text 1 has 1025 tokens, but the model has 1024 positions: with max_"
    ):
        model.classify(["a", "b" * 1025])
    with pytest.raises(ValueError, match="text 1 is empty: it needs at least one token"):
        model.classify(["a", ""])
    with pytest.raises(ValueError, match="the text is empty"):
        model.embed("")
    with pytest.raises(ValueError, match="token id 257"):
        model.classify([257])
    with pytest.raises(TypeError, match="text 1 must be a string or token ids"):
        model.classify(["a", None])
    with pytest.raises(
        ValueError, match="max_tokens must be from 1 to 1024, the model's positions, not 2000"
    ):
        model.classify("a", max_tokens=2000)
    with pytest.raises(ValueError, match=r"pooling must be 'mean', .* or 'weighted_mean', not 'most'"):
        model.embed("a", pooling="most")
    with pytest.raises(TypeError, match="special must be True or False"):
        model.classify("a", special=1)
    with pytest.raises(TypeError, match=r"no option truncation: .*classify, tag and embed have max_tokens="):
        model.classify("a", truncation=True)
    for texts in ([], "a", [1, 2]):
        with pytest.raises(ValueError, match="choose takes the texts to choose from: a list"):
            load("choice").choose(texts)
    suffixed = GPT2.from_pretrained(write(tmp_path / "model", "single", suffix=True))
    with pytest.raises(ValueError, match=r"puts 1 token around a text, .*: max_tokens .* at least 2"):
        suffixed.classify("a", max_tokens=1)


@pytest.mark.parametrize(
    ("name", "method", "tensor"),
    [("single", "classify", "score.weight"), ("number", "classify", "score.weight"),
     ("tokens", "tag", "classifier.weight"), ("choice", "choose", "multiple_choice_head.summary.weight")],
)  # fmt: skip
def test_logits_that_overflow_are_no_labels(tmp_path, name, method, tensor):
    folder = write(tmp_path / "model", name, change={tensor: lambda array: 3e38 * np.sign(array)})
    of = "" if method == "choose" else " of 'ab'"
    with pytest.raises(ValueError, match=rf"the logits{of} hold NaN or infinities: the weights are"):
        getattr(GPT2.from_pretrained(folder), method)(["ab", "cd"])


def test_longer_texts_are_cut_and_keep_the_suffix(load, tmp_path):
    plain, suffixed = load("single"), GPT2.from_pretrained(write(tmp_path / "model", "single", suffix=True))
    found = plain.classify("abcdef", max_tokens=3)
    assert (found.truncated, found.n_tokens) == (True, 3)
    assert same(found.logits, plain.classify("abc").logits)
    found = suffixed.classify("abcdef", max_tokens=3)
    assert (found.truncated, found.n_tokens) == (True, 3)
    ids = [*suffixed.tokenizer.encode("ab"), 256]
    assert same(found.logits, suffixed.classify(ids).logits)
    assert not suffixed.classify("ab", max_tokens=3).truncated
    # Special tokens are text, unless they are asked for.
    assert plain.classify("<|endoftext|>").n_tokens == 13
    assert plain.classify("<|endoftext|>", special=True).n_tokens == 1
    tagged = load("tokens").tag("abcdef", max_tokens=3)
    assert [tag.text for tag in tagged.tags] == ["a", "b", "c"] and tagged.truncated


def test_an_empty_text_is_what_the_tokenizer_puts_around_it(load, tmp_path):
    suffixed = GPT2.from_pretrained(write(tmp_path / "model", "single", suffix=True))
    found = suffixed.classify("")
    # What the pipeline of transformers 4.57.6 gives.
    assert found.probabilities == pytest.approx(
        {"bad": 0.621147871017456, "so-so": 0.3767000436782837, "great": 0.00215207994915545}, abs=1e-5
    )
    assert found.n_tokens == 1
    tagged = GPT2.from_pretrained(write(tmp_path / "tagger", "tokens", suffix=True)).tag(["", "a"])
    assert (tagged[0].tags, tagged[0].entities) == ([], []) and len(tagged[1].tags) == 1
    assert same(suffixed.embed(""), suffixed.embed([256]))
    assert main(["classify", "-f", str(tmp_path / "tagger" / "empty"), "-m", str(tmp_path / "tagger")]) == 1
    (tmp_path / "empty").touch()
    assert main(["classify", "-f", str(tmp_path / "empty"), "-m", str(tmp_path / "tagger")]) == 0


def test_results_show_what_they_have(load):
    single, number = load("single").classify("a"), load("number").classify("a")
    assert "values" not in repr(single) and "label='" in repr(single)
    assert repr(number) == f"Classification(values={number.values}, n_tokens=1, truncated=False)"


def test_several_texts_are_a_list(load):
    with pytest.raises(TypeError, match=r"\(list\(texts\) makes one of an iterator\), not generator"):
        load("single").classify(text for text in ["a"])


def test_texts_before_an_error_are_classified(load):
    def texts():
        yield from [(0, "a"), (1, None), (2, "b")]
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        found.extend(key for key, _ in Classifying(load("single")).rows(texts()))
    assert found == [0, 1, 2]


def test_no_room_for_any_text_is_said_once(tmp_path, capsys):
    folder = write(tmp_path / "model", "single", suffix=True)
    (tmp_path / "in.txt").write_text("a\nb\n")
    words = ["classify", str(tmp_path / "in.txt"), "-o", str(tmp_path / "o"), "-m", str(folder)]
    assert main([*words, "--max-tokens", "1", "--on-error", "null"]) == 1
    assert capsys.readouterr().err == (
        "gpt2c: error: the tokenizer puts 1 token around a text, which leaves none for the text: max_tokens "
        "(--max-tokens) must be at least 2\n"
    )


def test_public_names():
    assert {"Choice", "Classification", "Tagging"} <= set(gpt2c.__all__)


# ---- the command


def test_the_command_prints_labels(folders, capsys, tmp_path):
    expected = TOLD["cases"]["single"]["of_texts"]["plain"][1]
    assert main(["classify", TEXTS[1], "-m", str(folders["single"])]) == 0
    rows = sorted(((value, label) for label, value in expected.items()), reverse=True)
    assert capsys.readouterr().out == "".join(f"{value:7.2%}  {label}\n" for value, label in rows)
    (tmp_path / "text").write_text(TEXTS[1] + "\n")
    assert main(["classify", "-f", str(tmp_path / "text"), "--json", "-m", str(folders["single"])]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert (told["n_tokens"], told["truncated"], len(told["logits"])) == (29, False, 3)
    assert main(["classify", TEXTS[1], "-m", str(folders["number"])]) == 0
    value = TOLD["cases"]["number"]["of_texts"]["plain"][1]["stars"]
    assert capsys.readouterr().out == f"{value:9.4f}  stars\n"


def test_the_command_prints_tags(folders, capsys):
    tags = TOLD["cases"]["tokens"]["of_texts"]["plain none"][1]
    entities = TOLD["cases"]["tokens"]["of_texts"]["plain simple"][1]
    assert main(["classify", TEXTS[1], "-m", str(folders["tokens"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    n = len(tags) + 1
    assert lines[0].split() == ["probability", "label", "token"]
    assert [line.split()[1] for line in lines[1:n]] == [tag["entity"] for tag in tags]
    assert lines[n] == "" and lines[n + 1].split() == ["probability", "label", "entity"]
    assert [line.split()[1] for line in lines[n + 2 :]] == [one["entity_group"] for one in entities]
    assert main(["classify", TEXTS[1], "--json", "-m", str(folders["tokens"])]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(tag["label"], tag["start"]) for tag in told["tags"]] == [(t["entity"], t["start"]) for t in tags]
    assert len(told["entities"]) == len(entities)


def test_files_of_texts(folders, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate([*TEXTS, "", None]))
    )
    with open(tmp_path / "in.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    names = [str(tmp_path / name) for name in ("in.jsonl", "in.csv")]
    out = tmp_path / "out"
    assert main(["classify", *names, "-o", str(out), "-m", str(folders["single"]), "-t1"]) == 0
    assert "6 records (2 without a label)" in capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "in.jsonl").read_text().splitlines()]
    expected = TOLD["cases"]["single"]["of_texts"]["plain"]
    for row, of_text in zip(rows, expected, strict=False):
        for label, probability in of_text.items():
            assert math.isclose(row[f"gpt2c_probability_{label}"], probability, abs_tol=1e-5)
        assert row["gpt2c_label"] == max(of_text, key=of_text.get)
        assert row["gpt2c_probability"] == max(row[f"gpt2c_probability_{label}"] for label in of_text)
        assert (row["gpt2c_n_tokens"], row["gpt2c_truncated"]) == (len(row["text"].encode()), False)
    for row in rows[-2:]:
        assert (row["gpt2c_label"], row["gpt2c_probability_bad"], row["gpt2c_n_tokens"]) == (None, None, 0)
    with open(out / "in.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["gpt2c_label"] for row in table] == [row["gpt2c_label"] for row in rows[:-2]]
    # Again, there is nothing to do; with other settings, it is refused.
    assert main(["classify", *names, "-o", str(out), "-m", str(folders["single"]), "-t1"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    more = ["--max-tokens", "5"]
    assert main(["classify", *names, "-o", str(out), "-m", str(folders["single"]), *more]) == 1
    assert "max_tokens" in capsys.readouterr().err


def test_files_for_a_regression_and_long_texts(folders, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a" * 1100}) + "\n")
    words = [
        "classify",
        str(tmp_path / "in.jsonl"),
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(folders["numbers"]),
    ]
    assert main(words) == 1
    assert "has 1100 tokens, but the model has 1024 positions" in capsys.readouterr().err
    assert main([*words, "--max-tokens", "4"]) == 0
    [row] = [json.loads(line) for line in (tmp_path / "out" / "in.jsonl").read_text().splitlines()]
    expected = GPT2.from_pretrained(folders["numbers"]).classify("aaaa").values
    assert {name: row[f"gpt2c_value_{name}"] for name in expected} == expected
    assert row["gpt2c_truncated"] is True and "gpt2c_label" not in row


def test_what_the_command_refuses(folders, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a\n")
    for words, message in [
        ([str(tmp_path / "in.txt"), "-o", str(tmp_path / "o"), "-m", str(folders["tokens"])],
         "labels tokens, and a record has many"),
        (["a", "-m", str(folders["choice"])], "use model.choose"),
        (["a"], "is a language model without another head; model.classify needs the head of a GPT2ForSeq"),
        (["a", "-q", "-m", str(folders["single"])], "--quiet is for files of texts"),
        ([str(tmp_path / "in.txt"), "--json", "-o", str(tmp_path / "o"), "-m", str(folders["single"])],
         "--json is for a single text"),
    ]:  # fmt: skip
        assert main(["classify", *words]) == 1
        assert message in capsys.readouterr().err
    assert main(["generate", "a", "-m", str(folders["single"])]) == 1
    assert "use model.classify (gpt2c classify)" in capsys.readouterr().err


@pytest.mark.parametrize("parts", [[], ["load"], ["--recommend"]])
def test_bench_refuses_a_classifier_before_it_measures(folders, tmp_path, capsys, parts, load):
    load("single").save(tmp_path / "m.gpt2c")
    sources = [folders["single"]] if "--recommend" in parts else [folders["single"], tmp_path / "m.gpt2c"]
    for source in sources:
        assert main(["bench", *parts, "-m", str(source)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"gpt2c: error: {source} is a classifier; bench measures language models")


@pytest.mark.parametrize("name", TOLD["cases"])
def test_info_tells_of_the_head(name, folders, capsys):
    config = TOLD["cases"][name]["config"]
    [architecture] = config["architectures"]
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    labels = [] if architecture == "GPT2DoubleHeadsModel" else [names[key] for key in sorted(names)]
    assert main(["info", str(folders[name])]) == 0
    said = capsys.readouterr().out
    title = (
        "GPT-2 with .* parameters, (a classifier of (texts|tokens)|with a head that chooses between texts)"
    )
    assert re.search(title, said.splitlines()[0]) and f"Head of a {architecture}" in said
    assert re.findall(r"^  label \d+ +(.*)$", said, re.MULTILINE) == labels
    assert main(["info", str(folders[name]), "--json"]) == 0
    head = json.loads(capsys.readouterr().out)["head"]
    assert (head["class"], head["labels"]) == (architecture, labels)


def test_info_shows_some_of_very_many_labels(tmp_path, capsys):
    change = {"score.weight": lambda array: np.zeros((40, array.shape[1]))}
    folder = write(tmp_path / "m", "single", config={"id2label": {i: f"x{i}" for i in range(40)},
                                                     "num_labels": 40}, change=change)  # fmt: skip
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "x31" in said and "x32" not in said and re.search("more labels +8; --json has all", said)


def test_a_classifier_is_converted(folders, tmp_path, capsys):
    target = str(tmp_path / "model.gpt2c")
    assert main(["convert", str(folders["single"]), target, "--dtype", "int8"]) == 0
    assert "a classifier has no log-loss" in capsys.readouterr().err
    assert main(["classify", "a", "-m", target]) == 0
    assert main(["info", target]) == 0


# ---- live


@pytest.mark.oracle
def test_it_is_what_transformers_says_now(tmp_path):
    spec = importlib.util.spec_from_file_location("make_heads", DATA / "make_heads.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    rng = np.random.default_rng(7)
    arrays = {
        name: 0.7 * rng.standard_normal(array.shape).astype(np.float32) for name, array in TENSORS.items()
    }
    texts = {n: rng.integers(256, size=n).tolist() for n in (*range(1, 40), 129, 600, 1024)}
    for name in ("single", "multi", "padded"):
        make.write_folder(tmp_path / name, name, arrays)
        model = GPT2.from_pretrained(tmp_path / name)
        expected = make.of_lengths(tmp_path / name, name, texts)
        found = [one.logits for one in model.classify(list(texts.values()))]
        assert np.allclose(found, expected[name], rtol=0, atol=1e-5)
        for pooling in {"mean", "last"} & expected.keys():
            found = model.embed(list(texts.values()), pooling=pooling)
            assert np.allclose(found, expected[pooling], rtol=0, atol=1e-5)


# ---- other ways to a model with a head


@pytest.mark.parametrize("name", TOLD["cases"])
def test_a_head_is_exported(name, load, folders, tmp_path):
    model = load(name)
    model.export(tmp_path / "out")
    again = GPT2.from_pretrained(tmp_path / "out")
    assert again.config == model.config and [*again.weights] == [*model.weights]
    assert all(same(again.weights[key], model.weights[key]) for key in model.weights)
    header = (tmp_path / "out" / "model.safetensors").read_bytes()
    stored = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    given = (folders[name] / "model.safetensors").read_bytes()
    expected = json.loads(given[8 : 8 + int.from_bytes(given[:8], "little")])
    assert stored.keys() == expected.keys()
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["architectures"] == TOLD["cases"][name]["config"]["architectures"]


@pytest.mark.parametrize(
    ("name", "loads", "command"),
    [("single", "AutoModelForSequenceClassification", "classify"),
     ("tokens", "AutoModelForTokenClassification", "classify"),
     ("choice", "GPT2DoubleHeadsModel", "generate")],
)  # fmt: skip
def test_export_tells_what_loads_it(name, loads, command, folders, tmp_path, capsys):
    assert main(["export", str(folders[name]), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"transformers.{loads}.from_pretrained(" in said and f"gpt2c {command} TEXT -m" in said


@pytest.mark.parametrize("name", TOLD["cases"])
def test_nothing_is_wrong_with_it(name, folders, capsys):
    assert main(["info", str(folders[name]), "--check", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {"self-check", "reference"} <= {check["check"] for check in checks}
    assert not [check for check in checks if check["result"] == "wrong"]


def test_the_check_knows_that_a_classifier_keeps_the_suffix(tmp_path, capsys):
    folder = write(tmp_path / "model", "single", suffix=True)
    assert main(["info", str(folder), "--check", "--json"]) == 0
    [found] = [one for one in json.loads(capsys.readouterr().out)["checks"] if one["check"] == "suffix"]
    assert found["text"].endswith("after every text, also where one is classified")


@pytest.mark.oracle
@pytest.mark.parametrize("name", TOLD["cases"])
def test_transformers_loads_what_is_exported(name, load, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model = load(name)
    model.export(tmp_path / "out")
    [architecture] = TOLD["cases"][name]["config"]["architectures"]
    theirs, told = getattr(transformers, architecture).from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(told.values())
    state = theirs.state_dict()
    for key, values in model.config.head.shapes(model.config.n_embd).items():
        assert state[key].shape == values and np.array_equal(state[key].numpy(), model.weights[key])
    if model.config.head.kind == "sequence":
        with torch.no_grad():
            logits = theirs.eval()(torch.tensor([RAGGED[3]])).logits[0].numpy()
        assert np.allclose(model.classify(RAGGED[3]).logits, logits, **CLOSE)
