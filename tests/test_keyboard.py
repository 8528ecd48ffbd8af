"""`gpt2c suggest` on a terminal: what the keys do, with prompt_toolkit's own input and output for tests."""

import threading
import time

import pytest

pytest.importorskip("prompt_toolkit")

from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from gpt2c import GPT2
from gpt2c.cli import keyboard


@pytest.fixture(scope="module")
def model():
    return GPT2.from_pretrained(threads=1)


@pytest.fixture
def typist(model, monkeypatch):
    """A function that types keys, each of them once what is suggested for the text before is there."""
    made = []
    init = keyboard._Searches.__init__
    monkeypatch.setattr(
        keyboard._Searches, "__init__", lambda self, *a: (made.append(self), init(self, *a))[1]
    )

    def wait(text):
        end = time.monotonic() + 30
        while not (made and made[0].found.text == text and made[0].found.ghost):
            assert time.monotonic() < end, (text, made and made[0].found)
            time.sleep(0.01)

    def type_keys(*steps):
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):

            def work():
                for expected, keys in steps:
                    wait(expected)
                    time.sleep(0.1)  # it reaches the screen
                    pipe.send_text(keys)

            thread = threading.Thread(target=work)
            thread.start()
            texts = keyboard.type_texts(model, 3, False)
            thread.join()
        return texts, made[0]

    return type_keys


def test_tab_completes_a_word_and_another_adds_the_next(typist, model):
    text = "The king and the queen"
    [after, *_] = model.suggest_words(text + " ")
    longer = f"{text} {after.text}"
    steps = [("", text[:-3]), (text[:-3], "\t"), (text, "\t"), (longer, "\r"), ("", "\x04")]
    texts, _ = typist(*steps)
    assert texts == [longer]


def test_other_words_and_the_text_behind_the_cursor(typist, model):
    words = model.suggest_words("Once upon a time ", 3)
    second = "Once upon a time " + words[1].text
    ghost = model.session(second).complete(1, max_new_tokens=keyboard.GHOST)[0].text
    texts, _ = typist(
        ("", "Once upon a time "),
        ("Once upon a time ", "\x1b2"),
        (second, "\x1b[C"),
        (second + ghost.split("\n")[0], "\r"),
        ("", "\x04"),
    )
    assert texts == [second + ghost.split("\n")[0]]


def test_what_is_wrong_is_shown(model):
    searches = keyboard._Searches(model, model.n_text_tokens + 1, False, lambda: None)
    searches.want("a")
    end = time.monotonic() + 30
    while not searches.found.problem:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert searches.found.problem.startswith("k must be from 1 to 4096")
    assert keyboard._toolbar(searches, "a") == [("", searches.found.problem)]


def test_a_newer_text_gives_up_the_search_for_an_older_one(model):
    changed = threading.Event()
    searches = keyboard._Searches(model, 3, False, changed.set)
    for n in range(1, 30):
        searches.want("The king and the queen went to"[:n])
    end = time.monotonic() + 30
    while searches.found.text != "The king and the queen went to"[:29] or not searches.found.ghost:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert searches.found.words[0].word


@pytest.mark.parametrize("key", ["\x04", "\x03"])
def test_no_search_is_left_behind(typist, key):
    before = set(threading.enumerate())
    try:
        typist(("", key))
    except KeyboardInterrupt:
        assert key == "\x03"
    time.sleep(0.1)  # of the typist's own
    assert set(threading.enumerate()) <= before
