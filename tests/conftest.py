"""Options and settings for all tests."""

import signal

import pytest
from hypothesis import Phase, settings

settings.register_profile("gpt2c", deadline=None)  # the first example may build a model
# For long/mutations.py: whether anything fails, not the smallest example of it.
settings.register_profile("mutations", deadline=None, database=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile("gpt2c")


# Tests started in the background may inherit that SIGINT is ignored; Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def interrupts():
    """Signals do the same after a test as before: the command line in this process ends it at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def bundled():
    """The model that comes with gpt2c."""
    from gpt2c import GPT2

    return GPT2.from_pretrained(threads=1)


@pytest.fixture
def packed(tmp_path):
    """That model as a packed file, which a test may damage."""
    from gpt2c import GPT2

    path = tmp_path / "model.gpt2c"
    GPT2.from_pretrained(dtype="int8").save(path)
    return path


@pytest.fixture(scope="session")
def masked():
    """The masked model that comes with gpt2c."""
    from gpt2c import BERT

    return BERT.from_pretrained(threads=1)


@pytest.fixture(scope="session")
def browser():
    """Chromium, for all tests."""
    from helpers.browser import Browser, chromium

    if chromium() is None:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def screen(browser):
    """The browser, for tests that change what a page is shown on; afterwards it is as it was."""
    yield browser
    browser.resize(1200, 900)
    browser.media()


@pytest.fixture(scope="session")
def told(bundled):
    """A page of `gpt2c explain`, and what it must say."""
    from helpers.explained import explained

    return explained(bundled)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder for pages."""
    return tmp_path_factory.mktemp("pages")


def pytest_addoption(parser):
    parser.addoption(
        "--gpt2-dir",
        metavar="DIR",
        help="a folder with OpenAI's GPT-2 124M (config.json, model.safetensors), for -m real_gpt2",
    )
    parser.addoption(
        "--bert-dir", metavar="DIR", help="a folder with packages that hold BERTs, for -m real_bert"
    )
