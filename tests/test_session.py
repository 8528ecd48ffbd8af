"""Sessions: whatever is done to the text, results are byte for byte those of the model for that text."""

import copy
import pickle
import random

import numpy as np
import pytest
from helpers.writing import edited, generation_options, same, same_score, same_search

import gpt2c
from gpt2c import GPT2
from gpt2c.core import _engine


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(request):
    return GPT2.from_pretrained(dtype=request.param, threads=2)


def asked(rng, session, model, step):
    """Ask a session something, and a model that has computed nothing of the text the same."""
    action = rng.randrange(6)
    text = session.text
    if action == 0:
        same(session.suggest(4), model.suggest(text, 4))
    elif action == 1:
        same_search(session.suggest_words(3), model.session(text).suggest_words(3))
    elif action == 2:
        how = {"n": rng.randrange(1, 4), "max_new_tokens": rng.randrange(1, 4)}
        same_search(session.complete(**how), model.session(text).complete(**how))
    elif action == 3:
        [expected] = model.score([(session.token_ids, " and then")], bos=False)
        same_score(session.score(" and then"), expected)
        assert session.n_reused + session.n_computed == len(session.token_ids)
    else:
        options, without_effect = generation_options(rng, step)
        same(session.generate(**options, **without_effect), model.generate(text, **options))


@pytest.mark.parametrize("seed", range(4))
def test_a_session_is_the_model_with_the_same_text(model, seed, tmp_path):
    """With the two models, 1,000 edits."""
    rng = random.Random(seed)
    session = model.session("Once upon a time")
    others, streams = [], []
    for step in range(125):
        session.text = edited(session.text, rng)[-400:]
        text = session.text
        if rng.random() < 0.1:
            others.append((session.fork(), text))
        if rng.random() < 0.1:
            session.save(tmp_path / "saved")
            session = model.open_session(tmp_path / "saved")
            assert session.text == text
        if others and rng.random() < 0.1:
            session, text = others.pop(rng.randrange(len(others)))
            assert session.text == text
        if rng.random() < 0.2:
            stream = session.stream(max_new_tokens=4)
            next(stream, None)  # it stays in use while the text changes
            streams.append((stream, model.generate(text, max_new_tokens=4)))
        asked(rng, session, model, step)
        assert session.text == text
        if len(streams) > 2:
            stream, expected = streams.pop(0)
            list(stream)
            same(stream.result, expected)


def test_only_what_follows_the_common_beginning_is_computed(model):
    session = model.session("Once upon a time there was a little girl")
    n = len(session.token_ids)
    session.suggest()
    assert (session.n_reused, session.n_computed) == (0, n)
    session.text += " who"
    assert len(session.token_ids) == n + 1
    session.suggest()
    assert (session.n_reused, session.n_computed) == (n, 1)
    session.suggest()
    assert (session.n_reused, session.n_computed) == (n, 1)
    before = session.token_ids
    session.text = session.text.replace("little", "big")
    common = next(i for i, (a, b) in enumerate(zip(before, session.token_ids, strict=False)) if a != b)
    session.generate(max_new_tokens=2)
    assert (session.n_reused, session.n_computed) == (common, len(session.token_ids) - common)


def test_a_score_goes_on_from_what_is_held(model):
    session = model.session("Once upon a time there was a little girl")
    session.suggest()
    n = len(session.token_ids)
    session.score(" who")
    assert (session.n_reused, session.n_computed) == (n - 1, 1)
    session.score(" and", bos=True)  # another text
    assert session.n_reused == 0


def test_a_generation_leaves_the_session_as_it_is(model):
    session = model.session("Once upon a time")
    first = session.generate(max_new_tokens=5)
    assert session.text == "Once upon a time"
    session.text += first.text
    session.text = "Once upon a time"
    same(session.generate(max_new_tokens=5), first)


def test_texts_longer_than_the_context(model):
    long = "Once upon a time there was a little girl. " * (model.config.n_ctx // 8)
    session = model.session(long)
    for overflow in ("truncate_left", "slide"):
        options = {"max_new_tokens": 9, "overflow": overflow}
        same(session.generate(**options), model.generate(long, **options))
    session.text += "She"
    same(
        session.generate(max_new_tokens=9, overflow="slide"),
        model.generate(session.text, max_new_tokens=9, overflow="slide"),
    )
    with pytest.raises(gpt2c.ContextLengthError):
        session.suggest()


def test_edits_see_the_whole_text(model):
    edits = [("blocks.0.hook_resid_post", gpt2c.edits.scale(0.5, positions=[0]))]
    session = model.session("Once upon a time")
    session.suggest()
    session.text += " there"
    same(session.suggest(edits=edits), model.suggest(session.text, edits=edits))
    same(
        session.generate(max_new_tokens=3, edits=edits),
        model.generate(session.text, max_new_tokens=3, edits=edits),
    )
    same(session.suggest(), model.suggest(session.text))


def test_token_ids_and_special_tokens(model):
    ids = model.encode(["Once upon a time"])[0]
    session = model.session(ids)
    assert (session.text, session.token_ids) == ("Once upon a time", ids.tolist())
    same(session.suggest(), model.suggest(ids))
    session.token_ids = [*ids.tolist(), 5]
    same(session.suggest(), model.suggest([*ids.tolist(), 5]))
    assert model.session("<|endoftext|>", special=True).token_ids == [model.config.eos_token_ids[0]]
    assert len(model.session("<|endoftext|>").token_ids) > 1
    assert model.session().token_ids == list(model.start_ids)


def test_what_is_no_text_is_refused_and_changes_nothing(model):
    session = model.session("Once")
    for wrong in (5, None, b"Once", ["Once"], [1, 2]):
        with pytest.raises(TypeError, match="must be a str"):
            session.text = wrong
    with pytest.raises(TypeError, match="takes token ids"):
        session.token_ids = "Once"
    with pytest.raises(ValueError, match="has token id"):
        session.token_ids = [model.config.n_vocab]
    with pytest.raises(TypeError):
        model.session(["a", "b"])
    assert session.text == "Once"


def test_an_interrupted_call_leaves_a_session_usable(model):
    session = model.session("Once upon a time " * 20)
    session.suggest()
    session.text = "Once upon a time " * 10 + "there was a dog. " * 10
    deadline = gpt2c.Deadline()
    deadline.cancel()
    with pytest.raises(gpt2c.DeadlineError):
        session.suggest(deadline=deadline)
    same(session.suggest(), model.suggest(session.text))
    assert session.n_reused > 0


def test_a_fork_goes_its_own_way(model):
    session = model.session("Once upon a time")
    session.suggest()
    fork = session.fork()
    session.text += " there"
    fork.text += " a"
    for one in (session, fork, session):
        same(one.suggest(), model.suggest(one.text))
        assert one.n_reused == len(one.token_ids) - 1
    assert np.array_equal(fork.token_ids, model.encode(["Once upon a time a"])[0])


def test_a_fork_leaves_what_was_computed(bundled):
    """What the one forgets, the other still holds: keys and values are not shared."""
    session = bundled.session("The king and the queen were")
    session.suggest()
    other = session.fork()
    other.text = "The wolf ran"
    other.suggest()
    session.text += " very"
    expected = bundled.suggest(session.text)
    assert session.suggest() == expected and session.n_computed == 1


def test_methods_of_the_model_take_a_session(model):
    session = model.session()
    text = "Once upon a time there was"
    same(model.suggest(text, session=session), model.suggest(text))
    assert session.text == text
    options = {"max_new_tokens": 4, "session": session}
    same(model.generate(text + " a", **options), model.generate(text + " a", max_new_tokens=4))
    assert session.n_reused == len(session.token_ids) - 1
    ids = model.encode([text + " a dog"])[0]
    stream = model.stream(ids, **options)
    list(stream)
    same(stream.result, model.generate(ids, max_new_tokens=4))
    several = model.generate(text, num_return_sequences=2, temperature=1, seed=1, **options)
    same(several, model.generate(text, num_return_sequences=2, temperature=1, seed=1, max_new_tokens=4))
    with pytest.raises(ValueError, match="a session takes one prompt, not a list of 2"):
        model.suggest(["a", "b"], session=session)
    with pytest.raises(ValueError, match="another model"):
        GPT2.from_pretrained().suggest("a", session=session)


def test_a_long_continuation_is_scored_in_windows(model):
    session = model.session("Once upon a time there was a little girl. " * 8)
    text = "She went to the woods and saw a big bear. " * 120
    for stride in (64, 256):
        [plain] = model.score([(session.token_ids, text)], bos=False, stride=stride)
        assert np.array_equal(session.score(text, stride=stride).logprobs, plain.logprobs)
        same(session.suggest(3), model.suggest(session.text, 3))


def test_token_ids_are_copied(model):
    given = model.encode(["Once upon a time there"])[0]
    session = model.session(given)
    session.suggest()
    given[1] = 1000
    assert session.token_ids == model.encode(["Once upon a time there"])[0].tolist()
    same(session.suggest(3), model.suggest("Once upon a time there", 3))


def test_a_session_without_a_tokenizer_forks(model):
    other = GPT2(model.weights).session([5, 6, 7]).fork()
    assert other.token_ids == [5, 6, 7]
    same(other.suggest(3), GPT2(model.weights).suggest([5, 6, 7], 3))


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_session_that_was_interrupted_before_its_cache_was_noted(model, monkeypatch, tmp_path):
    text = "Once upon a time there was"
    session = model.session(text)
    with monkeypatch.context() as patch:
        patch.setattr(session, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.suggest()
    session.save(tmp_path / "saved")
    same(model.open_session(tmp_path / "saved").suggest(3), model.suggest(text, 3))
    same(session.fork().suggest(3), model.suggest(text, 3))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_is_neither_copied_nor_pickled(model, copied):
    with pytest.raises(
        TypeError, match=r"session\.fork\(\) gives another one, and session\.save\(path\) writes"
    ):
        copied(model.session("Once"))


def test_batch_size_goes_with_a_session(model, monkeypatch):
    rows = []
    forward = _engine.forward

    def counted(weights, sequences, **how):
        rows.append(len(sequences))
        return forward(weights, sequences, **how)

    monkeypatch.setattr(_engine, "forward", counted)
    session = model.session()
    options = {"max_new_tokens": 3, "num_return_sequences": 4, "temperature": 1, "seed": 1}
    for call in (lambda **how: model.generate("Once", session=session, **how), session.generate):
        rows.clear()
        found = call(batch_size=2, **options)
        assert max(rows) == 2
        same(found, model.generate("Once", **options))
    with pytest.raises(ValueError, match="batch_size"):
        model.generate("Once", session=session, batch_size=0)


def test_a_cache_grows_with_its_text(model):
    session = model.session("Once")
    sizes = {session._cache.nbytes}
    for n in range(1, 40):
        session.text = "Once upon a time there was a girl. " * n
        same(session.suggest(2), model.suggest(session.text, 2))
        sizes.add(session._cache.nbytes)
    full = model.new_cache().nbytes
    assert min(sizes) <= full / 2 and max(sizes) == full
    assert len(sizes) <= 4  # and not with every token
