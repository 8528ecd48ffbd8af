"""The command line in its surroundings: encodings, files, pipes, Ctrl-C, terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import termios
import time

import pytest
from helpers.command_line import GREEDY, TIMEOUT, command, environment, run

from gpt2c import GPT2
from gpt2c.checkpoint import BUNDLED

# ---- files and pipes


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "LANG": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_no_encoding_stops_the_output(env, bundled):
    text = "déjà 🙂"
    done = subprocess.run(
        command("generate", text, *GREEDY), capture_output=True, timeout=TIMEOUT, env=environment(**env)
    )
    assert done.returncode == 0
    if "LC_ALL" in env:  # nobody has chosen ASCII there, and UTF-8 has all characters
        assert done.stdout.startswith(text.encode()) and done.stderr == b""
    else:
        encoding = env["PYTHONIOENCODING"]
        assert done.stdout.startswith(text.encode(encoding, "backslashreplace"))
        (told,) = done.stderr.decode("ascii").splitlines()
        assert "PYTHONIOENCODING=utf-8" in told and " escapes " in told
    found = subprocess.run(
        command("generate", text, *GREEDY, "--json"),
        capture_output=True,
        timeout=TIMEOUT,
        env=environment(**env),
    )
    assert json.loads(found.stdout)["prompt"] == text  # JSON keeps every character in any encoding
    assert json.loads(found.stdout)["generations"][0]["text"] == bundled.generate(text, max_new_tokens=8).text


def test_without_utf8_the_text_of_a_terminal_view_is_escaped_too():
    done = subprocess.run(
        command("explain", "Caf\u00e9 \U0001f642", "--text"),
        capture_output=True,
        timeout=TIMEOUT,
        env=environment(PYTHONIOENCODING="latin-1"),
    )
    assert b"\\U0001f642" in done.stdout and b"?" not in done.stdout.split(b"The text:")[1].split(b"bits")[0]
    assert b"PYTHONIOENCODING=utf-8" in done.stderr


def test_output_to_a_file_appears_complete_or_not_at_all(tmp_path):
    target = tmp_path / "story.txt"
    expected = run("generate", "Ça alors", *GREEDY).stdout
    done = run("generate", "Ça alors", *GREEDY, "-o", target)
    assert (done.returncode, done.stdout) == (0, "")
    assert target.read_text(encoding="utf-8") == expected
    before = os.umask(0)
    os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o666 & ~before
    target.chmod(0o600)
    assert run("generate", "Ça alors", *GREEDY, "-o", target).returncode == 0
    assert target.stat().st_mode & 0o777 == 0o600  # what was private stays private
    assert run("generate", "x", "-n", "600", "-o", target).returncode == 1
    assert target.read_text(encoding="utf-8") == expected  # an error keeps what was there
    link = tmp_path / "link"
    link.symlink_to(target)
    assert run("suggest", "Once upon a", "-k", "1", "-o", link).returncode == 0
    assert link.is_symlink() and "time" in target.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "story.txt"]


def test_a_pipe_or_device_as_output_file_is_written_to_and_not_replaced(tmp_path):
    # A pipe of our own, never a real device: as root, a mistake here would replace it.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(command("suggest", "Once upon a", "-k", "1", "-o", pipe), env=environment())
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert process.wait(TIMEOUT) == 0
        assert b"time" in reader.read()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_closed_pipe_ends_quietly():
    for arguments in (["generate", "The king", "-n", "400", "--seed", "1"], ["info"], ["--help"]):
        process = subprocess.Popen(
            command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED=""),
        )
        if arguments[0] == "generate":
            os.read(process.stdout.fileno(), 8)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT) == 0
        process.stderr.close()


def test_a_full_disk_is_an_error():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("generate", "x", *GREEDY),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            env=environment(),
        )
    assert done.returncode == 1
    assert done.stderr == b"gpt2c: error: No space left on device\n"


def test_stdin_and_stdout_may_be_closed():
    line = " ".join(command("generate", *GREEDY)) + " <&- >&- ; echo $?"
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=TIMEOUT, env=environment())
    assert (done.stdout, done.stderr) == (b"0\n", b"no prompt: generating unconditionally\n")


def interrupt(process, after):
    time.sleep(after)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, errors, time.monotonic() - sent


def test_ctrl_c_while_text_is_made(tmp_path):
    target = tmp_path / "story.txt"
    for output in ([], ["-o", target]):
        process = subprocess.Popen(
            command(
                "generate",
                "The king",
                "-n",
                "500",
                "--min-new-tokens",
                "500",
                "--num-return-sequences",
                "50",
                *output,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        status, errors, seconds = interrupt(process, 0.8)
        assert (status, errors) == (130, b"")
        assert seconds < 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25])
def test_ctrl_c_while_python_imports_and_the_model_loads(after):
    # The sleeps fall somewhere into imports and loading, wherever those are on this machine.
    code = (
        "import sys; from gpt2c import cli; from gpt2c.cli import console; console.leave_at_interrupt(); "
        "print('ready', flush=True); sys.exit(cli.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "generate",
            "The king",
            "-n",
            "500",
            "--min-new-tokens",
            "500",
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdout.readline()
    status, errors, seconds = interrupt(process, after)
    assert (status, errors) == (130, b"")
    assert seconds < 2


# ---- on a terminal


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, *arguments, env=None):
        self.main, other = pty.openpty()
        self.settings = termios.tcgetattr(self.main)
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=_own_terminal,
            env=environment(**{"TERM": "xterm", **(env or {})}),
        )
        os.close(other)
        self.seen = ""

    def until(self, pattern):
        end = time.monotonic() + TIMEOUT
        while not re.search(pattern, self.seen):
            ready, _, _ = select.select([self.main], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern!r} did not appear in {self.seen!r}"
            try:
                data = os.read(self.main, 4096)
            except OSError:  # the other side has gone
                data = b""
            assert data or re.search(pattern, self.seen), f"{pattern!r} did not appear in {self.seen!r}"
            self.seen += data.decode("utf-8", "replace")

    def rest(self):
        with contextlib.suppress(AssertionError):
            self.until("(?!)")
        return self.seen

    def type(self, text):
        self.seen = ""
        os.write(self.main, text.encode("utf-8"))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait(TIMEOUT)
        os.close(self.main)
        return status


def _own_terminal():
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal():
    opened = []

    def start(*arguments, **settings):
        opened.append(Terminal(*arguments, **settings))
        return opened[-1]

    yield start
    for one in opened:
        with contextlib.suppress(OSError):
            one.close()


def test_on_a_terminal_the_prompt_is_bold_and_the_seed_is_noted(terminal):
    seen = terminal("generate", "The king", "-n", "5", "--top-k", "1").rest()
    assert seen.startswith("\x1b[1mThe king\x1b[0m") and re.search(r"\x1b\[2mseed \d+\x1b\[0m", seen)
    seen = terminal("generate", "-n", "5", "--temperature", "0").rest()
    assert "no prompt: generating unconditionally" in seen and "seed" not in seen


TITLE = "\x1b]0;title\x07"  # would change the title of the window
RED = "\x9b31m"  # the same as ESC [ 31m


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=str)
def test_control_characters_of_models_and_texts_are_shown_and_never_obeyed(terminal, bundled, tmp_path, env):
    escape = bundled.tokenizer.encode("\x1b")
    assert len(escape) == 1
    bias = ["--logit-bias", f"{escape[0]}=1000"]
    named = GPT2.from_pretrained()
    named.name = "model" + TITLE + RED
    path = tmp_path / f"{TITLE}.gpt2c"
    named.save(path)
    source = tmp_path / f"{RED}source"
    shutil.copytree(BUNDLED, source)
    text = tmp_path / f"{TITLE}.txt"
    text.write_text("Once upon a time")
    for arguments, shown in (
        (["generate", "The" + TITLE + RED, "-n", "3", *bias], ["The\\x1b]0;title\\x07\\x9b31m", "\\x1b" * 3]),
        (["generate", "The", "-n", "3", "--num-return-sequences", "2", *bias], ["\\x1b" * 3]),
        (["generate", "The" + RED, "-n", "3", "--json"], ["The\\u009b31m"]),
        (["generate", "The", "-n", "1", "--trace", *bias], ["\\x1b"]),
        (["score", "The" + TITLE + RED], ["\\x9b"]),
        (["info", path], ["model\\x1b]0;title\\x07\\x9b31m"]),
        (["explain", "The", "--text", "-m", path], ["\\x1b]0;title\\x07.gpt2c: 6"]),
        (["info", "no" + TITLE + RED, "--offline"], ["no\\x1b]0;title\\x07"]),
        (
            ["convert", source, f"{path}2", "--dtype", "int8", "--text", text],
            ["x1b]0;title\\x07.gpt2c2: ", "title\\x07.txt (4 tokens"],
        ),
        (["suggest", "The" + TITLE, "-m", path, "-k", "1"], ["%"]),
        (["generate", "The", "-n", "1", "--stats", "-m", path], ["1 new token"]),
        (
            ["score", text, "-o", tmp_path / f"{RED}scores"],
            ["31mscores/\\x1b]0;title\\x07.txt.jsonl: 1 record"],
        ),
        (["bench", "--recommend", "-m", path], ["\\x1b]0;title\\x07.gpt2c holds float32"]),
        (["info", "x", TITLE + RED], ["unrecognized arguments: \\x1b]0;title\\x07\\x9b31m"]),
        (["generate", "x", "-k", RED], ["unrecognized arguments: -k \\x9b31m"]),
    ):
        seen = re.sub(r"\x1b\[[0-9]+m", "", terminal(*arguments, env=env).rest())
        assert "\x1b" not in seen and "\x07" not in seen and "\x9b" not in seen, arguments
        for text in shown:
            assert text in seen, (arguments, seen)


def test_what_ctrl_c_says_is_not_obeyed_either():
    code = (
        "import os, signal; from gpt2c.cli import console; "
        f"console.leave_at_interrupt(lambda: {'in ' + TITLE + RED!r}); os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (130, b"in \\x1b]0;title\\x07\\x9b31m\n")


def test_in_a_pipe_every_character_of_a_text_is_kept(bundled):
    (escape,) = bundled.tokenizer.encode("\x1b")
    done = run("generate", "The" + TITLE, "-n", "3", "--logit-bias", f"{escape}=1000")
    assert done.stdout == "The" + TITLE + "\x1b" * 3 + "\n"


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_it_is_not_wanted(terminal, env):
    seen = terminal("generate", "The king", "-n", "5", env=env).rest()
    assert "\x1b" not in seen and "The king" in seen


def test_suggest_asks_again_and_again_where_a_terminal_can_do_no_more(terminal, bundled):
    keyboard = terminal("suggest", "-k", "3", env={"TERM": "dumb"})
    keyboard.until("> ")
    assert "Ctrl-D ends" in keyboard.seen
    text = "Once upon a"
    keyboard.type(text + "\n")
    keyboard.until(r"3 +[\d.]+%.*\n(.*)> ")
    assert re.search(r'1 +[\d.]+%  " time"', keyboard.seen)
    text += bundled.suggest(text, k=3)[0].text
    keyboard.type("\n")  # the first
    keyboard.until(re.escape(text) + r"(.|\n)*3 +[\d.]+%.*\n(.*)> ")
    text += bundled.suggest(text, k=3)[1].text
    keyboard.type("2\n")
    keyboard.until(re.escape(text.splitlines()[-1]) + r"(.|\n)*3 +[\d.]+%.*\n(.*)> ")
    keyboard.type(" king\n")
    keyboard.until(re.escape((text + " king").splitlines()[-1]) + r"(.|\n)*3 +[\d.]+%.*\n(.*)> ")
    keyboard.type("4\n")  # no suggestion: the text stays
    keyboard.until("suggestion 4 does not exist: 1 to 3(.|\n)*> ")
    keyboard.type("The\n")  # a new text
    keyboard.until(r"The(.|\n)*3 +[\d.]+%.*\n(.*)> ")
    keyboard.type("\x04")
    keyboard.rest()
    assert keyboard.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"PROMPT_TOOLKIT_NO_CPR": "1"}])
def test_ctrl_c_at_the_keyboard(terminal, env):
    keyboard = terminal("suggest", env=env)
    keyboard.until("ends\\.(.|\\n)*>")
    time.sleep(
        0.5
    )  # Python's input() misses a signal between its prompt and its waiting; no person is that fast
    keyboard.type("\x03")
    seen = keyboard.rest()
    assert keyboard.process.wait(TIMEOUT) == 130
    assert termios.tcgetattr(keyboard.main) == keyboard.settings
    assert "Traceback" not in seen


def test_ctrl_c_on_a_terminal_leaves_a_clean_line(terminal):
    one = terminal("generate", "The king", "-n", "500", "--min-new-tokens", "500")
    one.until("The king")
    one.type("\x03")
    seen = one.rest()
    assert one.process.wait(TIMEOUT) == 130
    assert "Traceback" not in seen and seen.endswith("\n")
