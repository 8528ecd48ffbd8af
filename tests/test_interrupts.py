"""Ctrl-C at any moment: session, model, prefix cache and files stay usable, and results the same bytes."""

import linecache
import os
import random
import signal
import sys

import pytest
from helpers.toys import random_gpt2
from helpers.writing import same, same_score, same_search

import gpt2c
from gpt2c import GPT2
from gpt2c.core import _engine
from gpt2c.core.files import create, replacing
from gpt2c.session.prefix_cache import BLOCK

ROOT = os.path.dirname(gpt2c.__file__)
BEFORE = "Once upon a time there was a little girl who lived in the wo"
AFTER = "Once upon a time there was a little dog and a ki"


class InterruptAtLine:
    """A KeyboardInterrupt before the n-th line of gpt2c that runs."""

    def __init__(self, n):
        self.left = n

    def trace(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        # A tracer, unlike a signal, also comes between the end of a with block and its __exit__.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not line.startswith("with "):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace

    def run(self, call):
        """Whether the call was interrupted."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def interrupted_at_every_line(call, step=1):
    """Interrupt a call of ``call()``'s function before each of its lines; yield the argument afterwards."""
    n = 1
    while True:
        argument, function = call()
        if not InterruptAtLine(n).run(function):
            return
        yield argument
        n += step


@pytest.fixture(scope="module")
def model():
    model = GPT2.from_pretrained(threads=1)
    model.source_sha256()
    return model


@pytest.mark.parametrize(
    ("ask", "step"),
    [
        (lambda session: session.suggest(3), 1),
        (lambda session: session.score(" dog"), 7),
        (lambda session: session.generate(max_new_tokens=2, heal=True, draft="prompt"), 23),
        (lambda session: list(session.stream(max_new_tokens=2)), 17),
        (lambda session: session.suggest_words(2), 83),
        (lambda session: session.complete(2, max_new_tokens=2), 29),
        (lambda session: session.fork(), 1),
    ],
)
def test_a_session_is_usable_after_an_interrupt_at_any_line(model, ask, step):
    expected = {text: model.suggest(text, 3) for text in (BEFORE, AFTER)}

    def begun():
        session = model.session(BEFORE)
        session.suggest_words(2)
        session.text = AFTER
        return session, lambda: ask(session)

    for number, session in enumerate(interrupted_at_every_line(begun, step)):
        assert session.text == AFTER
        for text in (BEFORE, AFTER):
            session.text = text
            if number % 7 == 3:
                same_search(session.suggest_words(3), model.suggest_words(text, 3))
            same(session.fork().suggest(3), expected[text])
            same(session.suggest(3), expected[text])
    assert number > 2


@pytest.mark.parametrize("what", ["text", "token_ids"])
def test_an_interrupted_change_of_the_text_is_whole_or_none(model, what):
    new = {"text": AFTER, "token_ids": model.session(AFTER).token_ids}[what]
    states = {True: model.session(BEFORE), False: model.session(new)}

    def begun():
        session = model.session(BEFORE)
        return session, lambda: setattr(session, what, new)

    for session in interrupted_at_every_line(begun):
        expected = states[session.text == BEFORE]
        assert (session.token_ids, session.is_text) == (expected.token_ids, expected.is_text)


@pytest.mark.parametrize("number", range(2))
def test_an_interrupted_session_is_saved_as_it_is(model, number, tmp_path):
    def begun():
        session = model.session(BEFORE)
        session.suggest(1)
        session.text = AFTER
        return session, lambda: session.suggest(1)

    for session in interrupted_at_every_line(begun, 5):
        session.save(tmp_path / "saved")
        session = model.open_session(tmp_path / "saved")
        session.text = (BEFORE, AFTER)[number]
        same(session.suggest(3), model.suggest(session.text, 3))


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_save_leaves_the_file_that_was_there_or_the_new_one(model, there, tmp_path):
    path = tmp_path / "saved"
    session = model.session(BEFORE)
    session.suggest(1)
    session.save(path)
    old = path.read_bytes()
    session.text = AFTER
    session.suggest(1)
    session.save(path)
    allowed = (old if there else None, path.read_bytes())

    def begun():
        path.write_bytes(old) if there else path.unlink(missing_ok=True)
        return None, lambda: session.save(path)

    for _ in interrupted_at_every_line(begun):
        assert (path.read_bytes() if path.exists() else None) in allowed
        assert {file.name for file in tmp_path.iterdir()} <= {"saved"}
    assert path.read_bytes() == allowed[1]


def test_interrupts_leave_no_unfinished_files_and_no_locks(tmp_path):
    def replaced(**how):
        with replacing(str(tmp_path / "file"), **how) as file:
            file.write("new")

    for call in (replaced, lambda: create(str(tmp_path / "made"), b"new")):
        for _ in interrupted_at_every_line(lambda call=call: (None, call)):
            assert {file.name for file in tmp_path.iterdir()} <= {"file", "made"}
    for _ in interrupted_at_every_line(lambda: (None, lambda: replaced(take_over=True))):
        replaced(take_over=True)  # it is not locked
        assert (tmp_path / "file").read_text() == "new"


def toy(n_blocks):
    model, _ = random_gpt2(1, n_ctx=600)
    model.prefix_cache = n_blocks * _engine.KVCache(model.weights, BLOCK).nbytes
    return model


@pytest.mark.parametrize("act", ["suggest", "clear"])
def test_a_prefix_cache_keeps_its_room_after_interrupts(act):
    model, plain = toy(2), toy(2)
    plain.prefix_cache = None
    texts = [[number, *range(40), *range(40)] * 4 for number in range(3)]
    expected = [plain.suggest(ids) for ids in texts]
    model.suggest(texts[0])
    numbers = iter(range(10**6))

    def begun():
        number = next(numbers) % 3
        return (
            number,
            lambda: model.suggest(texts[number]) if act == "suggest" else model.prefix_cache.clear(),
        )

    for number in interrupted_at_every_line(begun):
        same(model.suggest(texts[number]), expected[number])
        found = model.prefix_cache.n_reused
        same(model.suggest(texts[number]), expected[number])
        assert model.prefix_cache.n_reused == found + 2 * BLOCK  # there is room for what is new
        assert model.prefix_cache.nbytes == model.prefix_cache.size


def question(rng, path):
    """What is asked of a session, at random."""
    kind = rng.randrange(8)
    how = {"max_new_tokens": 3, "temperature": 1.0, "seed": kind}
    return [
        lambda session: session.suggest(3),
        lambda session: session.generate(**how, heal=True),
        lambda session: session.generate(**how, num_return_sequences=2, draft="prompt"),
        lambda session: list(session.stream(**how)),
        lambda session: session.complete(2, max_new_tokens=3),
        lambda session: session.suggest_words(3),
        lambda session: session.score(" and then"),
        lambda session: session.save(path),
    ][kind]


@pytest.mark.parametrize("threads", [1, 2])
def test_150_moments_of_ctrl_c_leave_everything_usable(threads, tmp_path):
    """With one thread and two, 300."""
    model, plain = (GPT2.from_pretrained(dtype="int8", threads=threads) for _ in range(2))
    model.prefix_cache = 2 * _engine.KVCache(model.weights, BLOCK).nbytes
    rng = random.Random(threads)
    path = tmp_path / "saved"
    long = "There was once a king who had three daughters. " * 12
    session = model.session(long)
    session.suggest(1)
    text = long
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    n_interrupted = 0
    try:
        for number in range(150):
            previous, text = text, (long if number % 3 else BEFORE)[: rng.randrange(20, 560)]
            session.text = text
            ask = question(rng, path)
            ask_model = rng.random() < 0.3  # through the prefix cache
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 0.01))
                    if ask_model:
                        model.generate(text, max_new_tokens=2)
                    ask(session)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                n_interrupted += 1
            assert {file.name for file in tmp_path.iterdir()} <= {"saved"}
            assert session.text == text
            session.text = previous
            same(session.suggest(3), plain.suggest(previous, 3))
            session.text = text
            fresh = plain.session(text)
            if number % 5 == 0:
                same_search(session.complete(2, max_new_tokens=2), fresh.complete(2, max_new_tokens=2))
            same(session.suggest(3), fresh.suggest(3))
            same_score(session.score(" dog"), fresh.score(" dog"))
            same(model.suggest(text, 3), fresh.suggest(3))
            if path.exists():
                opened = model.open_session(path)
                same(opened.suggest(3), plain.suggest(opened.text, 3))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert n_interrupted > 20
