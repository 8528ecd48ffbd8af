"""gpt2c.ray: by itself; in Ray Data with a worker that is killed; in datasets with two processes."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.toys import bundled_tokenizer, random_gpt2

from gpt2c import GPT2
from gpt2c.checkpoint import BUNDLED
from gpt2c.ray import Generator, Scorer

TEXT = (BUNDLED / "sample.txt").read_text(encoding="utf-8")
TEXTS = [TEXT[at : at + 40 + 7 * (at % 23)] for at in range(0, 6000, 50)]  # 120 of 40 to 194 characters


@pytest.fixture(scope="module")
def model():
    return GPT2.from_pretrained(threads=1)


@pytest.fixture(scope="module")
def packed(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model.gpt2c"
    model.save(path)
    return str(path)


NUMBERS = ("n_bytes", "logprob", "perplexity", "bits_per_byte", "bits_per_char")
NAMES = ["gpt2c_n_tokens", *(f"gpt2c_{name}" for name in NUMBERS), "gpt2c_truncated"]


def test_dict_of_arrays(model):
    batch = {"id": np.arange(4), "text": np.array(["The king", "", None, "The queen was"], object)}
    found = Scorer()(batch)
    assert list(found) == ["id", "text", *NAMES] and list(batch) == ["id", "text"]
    for row, text in ((0, "The king"), (3, "The queen was")):
        score = model.score(text)
        assert found["gpt2c_n_tokens"][row] == len(score)
        for name in NUMBERS:
            assert found[f"gpt2c_{name}"][row] == getattr(score, name)
    assert found["gpt2c_n_tokens"][1:3].tolist() == found["gpt2c_n_bytes"][1:3].tolist() == [0, 0]
    assert all(np.isnan(found[name][1:3]).all() for name in NAMES[2:-1])
    assert [found[name].dtype for name in NAMES] == ["int64"] * 2 + ["float64"] * 4 + ["bool"]
    assert not found["gpt2c_truncated"].any()


def test_dict_of_lists_with_nothing_to_score():
    found = Scorer(prefix="small_", text_column="body")({"body": ["", None]})
    assert found["body"] == ["", None] and np.isnan(found["small_logprob"]).all()


def test_texts_without_tokens_and_the_numbers_of_rows(model):
    pa = pytest.importorskip("pyarrow")
    batch = {"text": [None, "", [], np.array([], np.int64), "The king"]}
    assert Scorer()(batch)["gpt2c_n_tokens"].tolist() == [0, 0, 0, 0, 2]
    with pytest.raises(TypeError, match="row 3 of the batch: the text must be a string or token ids"):
        Scorer()({"text": [None, "", "The king", 3]})
    with pytest.raises(ValueError, match="row 1 of the batch: the text has token id 4096"):
        Scorer()(pa.table({"text": [None, [4096]]}))


class Lower:
    """A tokenizer that changes the text: what size the scored part had is not known."""

    def encode(self, text):
        return list(text.lower().encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")


@pytest.fixture
def lower():
    """A Scorer with it."""
    return Scorer(bos=False, tokenizer=Lower())


def test_sizes_that_are_not_known(lower):
    found = lower({"text": ["ab", "AB", ""]})
    assert found["gpt2c_n_tokens"].tolist() == [1, 1, 0]
    assert np.array_equal(found["gpt2c_n_bytes"], [1, np.nan, 0], equal_nan=True)
    assert np.isnan(found["gpt2c_bits_per_char"]).tolist() == [False, True, True]
    pa = pytest.importorskip("pyarrow")
    table = lower(pa.table({"text": ["ab", "AB", ""]}))
    assert table["gpt2c_n_bytes"].to_pylist() == [1, None, 0]
    assert table.schema == lower(pa.table({"text": ["ab"]})).schema


def test_numbers_that_are_not_finite_are_null():
    huge, _ = random_gpt2(n_vocab=4096, tokenizer=bundled_tokenizer(), std=60)
    scorer = Scorer()
    scorer.model = huge
    assert huge.score("Once upon a time").perplexity == np.inf
    assert np.isnan(scorer({"text": ["Once upon a time"]})["gpt2c_perplexity"]).all()


def test_texts_of_any_length(model):
    long = TEXT[:4000]
    by_default = Scorer()({"text": [long]})["gpt2c_logprob"]
    assert by_default == [model.score(long, stride=256).logprob]
    asked = Scorer(window=64, min_context=40, bos=False)({"text": [long]})["gpt2c_logprob"]
    assert asked == [model.score(long, window=64, min_context=40, bos=False).logprob] != by_default
    narrow = Scorer(window=64)({"text": [long]})["gpt2c_logprob"]
    assert narrow == [model.score(long, window=64, stride=32).logprob]
    again = Scorer(window=64, repeat_bos=True)({"text": [long]})["gpt2c_logprob"]
    assert again == [model.score(long, window=64, stride=32, repeat_bos=True).logprob] != narrow
    asked = Scorer(window=64, stride=9)({"text": [long]})["gpt2c_logprob"]
    assert asked == [model.score(long, window=64, stride=9).logprob]


def test_a_single_token_without_bos(model):
    assert len(model.tokenizer.encode("The")) == 1
    assert Scorer(bos=False)({"text": ["The", "The king"]})["gpt2c_n_tokens"].tolist() == [0, 1]
    assert Scorer()({"text": ["The", "The king"]})["gpt2c_n_tokens"].tolist() == [1, 2]


def test_number_format():
    found = Scorer(dtype="int8")({"text": TEXTS[:1]})
    expected = GPT2.from_pretrained(dtype="int8", threads=1).score(TEXTS[0])
    assert found["gpt2c_logprob"] == [expected.logprob]


def test_arrow_table(model):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"text": ["The king", None, ""], "n": [1, 2, 3]})
    found = Scorer()(table)
    assert found.column_names == ["text", "n", *NAMES]
    assert found["gpt2c_n_tokens"].to_pylist() == [2, 0, 0]
    assert found["gpt2c_logprob"].to_pylist() == [model.score("The king").logprob, None, None]
    nothing = Scorer()(table.slice(1))
    assert nothing.schema == found.schema  # a file of nulls has the same types as others
    assert Scorer()(table.slice(3)).schema == found.schema


def test_data_frame(model):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": ["The king", None, float("nan"), pd.NA]}, index=[7, 9, 11, 12])
    found = Scorer()(frame)
    for column in (frame["text"].astype("string"), frame["text"].to_numpy()):
        assert Scorer()({"text": column})["gpt2c_n_tokens"].tolist() == [2, 0, 0, 0]
    assert list(found.index) == [7, 9, 11, 12] and list(frame) == ["text"]
    assert found["gpt2c_perplexity"][7] == model.score("The king").perplexity
    assert found["gpt2c_perplexity"].isna().tolist() == [False, True, True, True]


def test_pickle_leaves_the_model_out(packed):
    scorer = Scorer(packed, min_context=100)
    before = pickle.dumps(scorer)
    expected = scorer({"text": TEXTS[:3]})
    assert scorer.model.threads == 1
    assert pickle.dumps(scorer) == before and len(before) < 1000
    again = pickle.loads(before)({"text": TEXTS[:3]})
    assert (again["gpt2c_logprob"] == expected["gpt2c_logprob"]).all()


def test_wrong_batches():
    with pytest.raises(ValueError, match="no column is called 'body'; the columns are: text, n"):
        Scorer(text_column="body")({"text": ["a"], "n": [1]})
    with pytest.raises(ValueError, match="the rows already have gpt2c_logprob: choose another prefix="):
        Scorer()({"text": ["a"], "gpt2c_logprob": [1.0]})
    with pytest.raises(TypeError, match="row 1 of the batch: the text must be a string or token ids"):
        Scorer()({"text": ["a", 3]})
    with pytest.raises(ValueError, match="stride and min_context set the same thing: give one"):
        Scorer(stride=3, min_context=4)({"text": ["a"]})


BAD = ["The king", 5, None, "a\ud800", b"The queen", b"caf\xe9", [1, 2], "The fox"]
REASONS = {
    1: "the text must be a string or token ids in a list or array, not int",
    3: "the text has a lone surrogate, U+D800, at character 1",
    5: "the text is not UTF-8 text: byte 3 is 0xe9",
}


def of_bad(model):
    """The log-probability of each of the texts of BAD."""
    texts = ["The king", None, None, None, "The queen", None, [1, 2], "The fox"]
    return [None if text is None else model.score(text).logprob for text in texts]


@pytest.mark.parametrize("kind", [list, lambda texts: np.array([*texts, None], object)[:-1]])
def test_bad_rows_of_lists_and_arrays(kind, model, caplog):
    batch = {"id": kind(range(8)), "text": kind(BAD)}
    found = Scorer(on_error="null")(batch)
    assert list(found) == ["id", "text", *NAMES, "gpt2c_error"]
    assert [None if np.isnan(x) else x for x in found["gpt2c_logprob"]] == of_bad(model)
    for row, error in enumerate(found["gpt2c_error"]):
        reason = REASONS.get(row)
        assert error.startswith(f"row {row} of the batch: {reason}") if reason else error == ""
    assert caplog.records == []
    found = Scorer(on_error="skip")(batch)
    assert list(found["id"]) == [0, 2, 4, 6, 7] and type(found["id"]) is type(batch["id"])
    assert [None if np.isnan(x) else x for x in found["gpt2c_logprob"]] == [
        of_bad(model)[i] for i in found["id"]
    ]
    assert [record.getMessage()[:27] for record in caplog.records] == [
        f"left out: row {row} of the batch"[:27] for row in REASONS
    ]
    assert list(Scorer(on_error="skip")({"text": [5]})["gpt2c_logprob"]) == []


def test_bad_rows_of_arrow(model):
    pa = pytest.importorskip("pyarrow")
    values = [b"The king", b"caf\xe9", None, b"The fox"]
    logprobs = [model.score("The king").logprob, None, None, model.score("The fox").logprob]
    binary = pa.array(values, pa.binary())
    for column in (binary, binary.view(pa.string())):
        table = pa.table({"id": range(4), "text": column})
        found = Scorer(on_error="null")(table)
        assert found.column_names == ["id", "text", *NAMES, "gpt2c_error"]
        assert found["gpt2c_logprob"].to_pylist() == logprobs
        assert found["gpt2c_error"].to_pylist() == ["", f"row 1 of the batch: {REASONS[5]}", "", ""]
        assert Scorer(on_error="null")(table.slice(3)).schema == found.schema
        found = Scorer(on_error="skip")(table)
        assert found["id"].to_pylist() == [0, 2, 3]
        assert found["gpt2c_logprob"].to_pylist() == [logprobs[0], *logprobs[2:]]
        with pytest.raises(ValueError, match=f"row 1 of the batch: {REASONS[5]}"):
            Scorer()(table)


def test_bad_rows_of_a_data_frame(model):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": BAD}, index=range(10, 18), dtype=object)
    assert list(Scorer(on_error="skip")(frame).index) == [10, 12, 14, 16, 17]
    found = Scorer(on_error="null")(frame)
    assert [bool(error) for error in found["gpt2c_error"]] == [row in REASONS for row in range(8)]


def test_batches_of_which_nothing_is_left():
    pa = pytest.importorskip("pyarrow")
    for mapper in (Scorer(on_error="skip"), Generator(on_error="skip", max_new_tokens=2)):
        full = mapper(pa.table({"text": ["a"]}))
        assert mapper(pa.table({"text": pa.array([b"\xff"] * 2)})).num_rows == 0
        for batch in (pa.table({"text": [1, 2]}), pa.table({"text": pa.array([], pa.string())})):
            found = mapper(batch)
            assert found.num_rows == 0 and found.column_names == full.column_names
        assert {len(column) for column in mapper({"text": [1, 2], "n": np.arange(2)}).values()} == {0}


def test_one_row_is_left_out_and_another_comes_twice():
    found = Generator(on_error="skip", max_new_tokens=2, temperature=1.0, seed=1, num_return_sequences=2)(
        {"id": np.arange(3), "text": ["a", 5, "b"]}
    )
    assert found["id"].tolist() == [0, 0, 2, 2] and found["text"] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int5"}, "^dtype must be None or one of"),
        ({"stride": 0}, "^stride must be from 1 to 512"),
        ({"max_tokens": 0}, "^max_tokens must be at least 1, not 0"),
        ({"prefix": "a b"}, "^prefix must be made of letters"),
        ({"text_field": "a"}, "no option text_field"),
    ],
)
def test_wrong_options_are_no_fault_of_a_row(options, message, caplog):
    with pytest.raises((ValueError, TypeError), match=message):
        Scorer(on_error="skip", **options)({"text": ["x"]})
    assert caplog.records == []


def test_other_ways_with_errors():
    with pytest.raises(ValueError, match="on_error must be one of stop, null, skip, not 'raise'"):
        Scorer(on_error="raise")
    with pytest.raises(ValueError, match="the rows already have gpt2c_error"):
        Scorer(on_error="null")({"text": ["a"], "gpt2c_error": [""]})


def test_long_texts_are_cut(model):
    ids = model.tokenizer.encode(TEXT)[:9]
    found = Scorer(max_tokens=9)({"text": [TEXT, "The king", None, model.tokenizer.decode(ids)]})
    assert found["gpt2c_truncated"].tolist() == [True, False, False, False]
    assert found["gpt2c_n_tokens"].tolist() == [9, 2, 0, 9]
    assert found["gpt2c_logprob"][0] == found["gpt2c_logprob"][3] == model.score(ids).logprob
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        Scorer(max_tokens=0)({"text": ["a"]})


# ---- continuations

NEW = ["continuation", "continuation_tokens", "continuation_logprob", "finish_reason", "prompt_truncated"]
NEW = [f"gpt2c_{name}" for name in NEW]


def continued(model, text, **options):
    """What should be told of a text, by `model.generate`: a row for each continuation."""
    results = model.generate([text], **options)
    return [
        (g.text, len(g.token_ids), sum(g.logprobs), g.finish_reason, False, g.sample_index) for g in results
    ]


NOTHING = (None, 0, None, None, False, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 6},
        {"max_new_tokens": 9, "temperature": 1.0, "seed": 3, "num_return_sequences": 3, "stop": " the"},
        {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2},
    ],
)
def test_continuations(options, model):
    pa = pytest.importorskip("pyarrow")
    texts = ["The king", None, "", "Once upon a time there was", "The king"]
    expected, ids = [], []
    for row, text in enumerate(texts):
        found = [NOTHING] if text is None else continued(model, text, **options)
        expected += found
        ids += [row] * len(found)
    names = NEW + ["gpt2c_sample_index"] * ("num_return_sequences" in options)
    generate = Generator(threads=1, **options)
    table = generate(pa.table({"id": range(5), "text": texts}))
    assert table.column_names == ["id", "text", *names] and table["id"].to_pylist() == ids
    assert table["text"].to_pylist() == [texts[row] for row in ids]
    rows = [tuple(row[name] for name in names) for row in table.to_pylist()]
    assert rows == [row[: len(names)] for row in expected]
    # In any company: the last text is the first.
    several = len([row for row in ids if row == 0])
    assert rows[:several] == rows[-several:]
    arrays = generate({"id": np.arange(5), "text": texts})
    assert arrays["id"].tolist() == ids and arrays["text"] == [texts[row] for row in ids]
    assert list(arrays[names[0]]) == [row[0] for row in rows]
    assert [None if np.isnan(x) else x for x in arrays[names[2]]] == [row[2] for row in rows]


def test_continuations_in_a_data_frame(model):
    pd = pytest.importorskip("pandas")
    options = {"max_new_tokens": 5, "num_return_sequences": 2, "temperature": 1.0, "seed": 2}
    frame = Generator(**options)(pd.DataFrame({"text": ["The king", None]}, index=[7, 7]))
    assert list(frame.index) == [7, 7, 7]
    assert [None if pd.isna(text) else text for text in frame["text"]] == ["The king", "The king", None]
    found = [None if pd.isna(text) else text for text in frame["gpt2c_continuation"]]
    assert found == [*(row[0] for row in continued(model, "The king", **options)), None]


def test_prompts_that_leave_no_room(model):
    long = "The king went out. " * 200
    with pytest.raises(
        ValueError, match=r"row 1 of the batch: the prompt has 1\d+ tokens and max_new_tokens"
    ):
        Generator(max_new_tokens=4)({"text": ["a", long]})
    found = Generator(max_new_tokens=4, on_error="null")({"text": ["a", long]})
    assert found["gpt2c_continuation"].tolist() == [model.generate("a", max_new_tokens=4).text, None]
    assert found["gpt2c_error"][0] == "" and found["gpt2c_error"][1].startswith("row 1 of the batch: the pr")
    assert len(Generator(max_new_tokens=4, on_error="skip")({"text": ["a", long]})["text"]) == 1
    found = Generator(max_new_tokens=4, overflow="truncate_left")({"text": ["a", long]})
    assert found["gpt2c_prompt_truncated"].tolist() == [False, True]
    expected = model.generate(["a", long], max_new_tokens=4, overflow="truncate_left")
    assert found["gpt2c_continuation"].tolist() == [one.text for one in expected]


def test_options_of_continuations(packed):
    with pytest.raises(ValueError, match="temperature needs a seed here"):
        Generator(temperature=0.5)
    with pytest.raises(TypeError, match="no option max_length: max_new_tokens counts"):
        Generator(max_length=5)
    with pytest.raises(ValueError, match="top_p must be"):
        Generator(top_p=2)
    with pytest.raises(ValueError, match="the rows already have gpt2c_continuation"):
        Generator()({"text": ["a"], "gpt2c_continuation": ["b"]})
    generate = Generator(packed, max_new_tokens=3, temperature=1.0, seed=1)
    expected = generate({"text": TEXTS[:3]})["gpt2c_continuation"]
    again = pickle.loads(pickle.dumps(generate))
    assert (again({"text": TEXTS[:3]})["gpt2c_continuation"] == expected).all()
    # Scores and continuations can stand side by side.
    both = generate(Scorer(packed)({"text": TEXTS[:3]}))
    assert list(both) == ["text", *NAMES, *NEW]


# -------------------------------------------------------------------------------- inside others


class Dying:
    """Notes every batch, and once kills its process when a batch is done but not yet given.

    It begins when a second process has begun too.
    """

    def __init__(self, notes: str, **settings) -> None:
        super().__init__(**settings)
        self.notes = Path(notes)
        self.batches = 0

    def __call__(self, batch):
        first = batch["id"][0].as_py()
        (self.notes / f"{os.getpid()}-{first}-begun").touch()
        waited = time.monotonic()
        while len(processes(self.notes)) < 2 and time.monotonic() < waited + 60:
            time.sleep(0.05)
        found = super().__call__(batch)
        self.batches += 1
        if self.batches == 3:
            try:
                (self.notes / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        (self.notes / f"{os.getpid()}-{first}-done").touch()
        return found


class DyingScorer(Dying, Scorer):
    """Of scores."""


class DyingGenerator(Dying, Generator):
    """Of continuations."""


def processes(notes: Path) -> set[str]:
    """Those that have noted something."""
    return {path.name.split("-")[0] for path in notes.glob("*-*")}


DRAWN = {"max_new_tokens": 4, "temperature": 1.0, "seed": 5}


@pytest.mark.plugins
@pytest.mark.parametrize(("dying", "options"), [(DyingScorer, {}), (DyingGenerator, DRAWN)])
def test_ray_loses_and_repeats_no_row_when_a_worker_is_killed(
    dying, options, model, packed, tmp_path, monkeypatch
):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    for name in ("in", "out", "notes"):
        (tmp_path / name).mkdir()
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    for i in range(0, len(rows), 12):
        pq.write_table(pa.Table.from_pylist(rows[i : i + 12]), tmp_path / "in" / f"{i:03}.parquet")

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # workers find this file
    settings = {"num_cpus": 3, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    with ray.init("local", **settings):
        rows = ray.data.read_parquet(str(tmp_path / "in")).repartition(target_num_rows_per_block=12)
        rows.map_batches(
            dying,
            fn_constructor_kwargs={"notes": str(tmp_path / "notes"), "model": packed, **options},
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=1,
            batch_size=6,
            batch_format="pyarrow",
        ).write_parquet(str(tmp_path / "out"))

    notes = {path.name for path in (tmp_path / "notes").iterdir()} - {"killed"}
    lost = {name for name in notes if name.endswith("begun") and name.replace("begun", "done") not in notes}
    assert len(lost) == 1, "no worker was killed within a batch"
    assert len(processes(tmp_path / "notes")) == 3, "two workers, and one that was started again"

    found = pq.read_table(tmp_path / "out").sort_by("id")
    assert found["id"].to_pylist() == list(range(len(TEXTS)))
    assert found["text"].to_pylist() == TEXTS
    if dying is DyingGenerator:
        assert found["gpt2c_continuation"].to_pylist() == [g.text for g in model.generate(TEXTS, **options)]
        return
    scores = model.score(TEXTS)
    for name in NUMBERS:
        assert found[f"gpt2c_{name}"].to_pylist() == [getattr(score, name) for score in scores]
    assert found["gpt2c_n_tokens"].to_pylist() == [len(score) for score in scores]


@pytest.mark.plugins
def test_datasets_with_two_processes(model, packed, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": [*TEXTS, ""]})
    scorer = Scorer(packed)
    model.score(TEXTS[0])  # a model in use before the fork does no harm
    found = rows.map(scorer, batched=True, batch_size=16, num_proc=2)
    scores = model.score(TEXTS)
    assert found.column_names == ["text", *NAMES]
    logprobs = found["gpt2c_logprob"][:]
    assert logprobs[:-1] == [score.logprob for score in scores] and np.isnan(logprobs[-1])
    assert found["gpt2c_n_tokens"][:] == [*map(len, scores), 0]


@pytest.mark.parametrize("value", ["The king", b"The king", None])
def test_one_row_is_no_batch(value):
    with pytest.raises(TypeError, match=r"the column 'text' is .*, one value, but a batch has a list"):
        Scorer()({"text": value, "id": 3})
