"""Options and settings for all tests."""

import signal

from hypothesis import settings

settings.register_profile("gpt2c", deadline=None)  # the first example may build a model
settings.load_profile("gpt2c")


# Tests started in the background may inherit that SIGINT is ignored; Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--gpt2-dir",
        metavar="DIR",
        help="a folder with OpenAI's GPT-2 124M (config.json, model.safetensors), for -m real_gpt2",
    )
