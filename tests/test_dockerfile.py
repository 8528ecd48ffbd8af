"""What the Dockerfile starts, with other paths and another port, and what docs/serving.md says of it."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import command, environment

from gpt2c import GPT2

ROOT = Path(__file__).resolve().parent.parent
KEY_FILE, MODEL = "/run/secrets/gpt2c.key", "/model.gpt2c"


def instruction(name):
    """The arguments of one instruction in exec form, which no shell stands in front of: signals arrive."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    (found,) = re.findall(rf"^{name}\b[^\[\n]*(\[.*\])$", lines, re.MULTILINE)
    return json.loads(found)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "model.gpt2c"
    GPT2.from_pretrained(dtype="int8").save(path)
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def healthy(port):
    """Whether the image's own question finds the server in health, with proxies that nobody should ask."""
    python, *arguments = instruction("HEALTHCHECK")
    assert python == "python" and all("127.0.0.1:8000/" in argument for argument in arguments[1:])
    asked = [argument.replace(":8000/", f":{port}/") for argument in arguments]
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    return (
        subprocess.run(
            [sys.executable, *asked], env=environment(**proxies), stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )


def test_what_the_image_runs(packed, tmp_path):
    name, *arguments = instruction("ENTRYPOINT")
    assert name == "gpt2c" and arguments[arguments.index("--host") + 1] == "0.0.0.0"
    key = tmp_path / "key"
    key.write_text("secret\n")
    here = {MODEL: packed, KEY_FILE: key}
    assert here.keys() <= set(arguments)
    port = free_port()
    assert not healthy(port)
    started = command(*(here.get(argument, argument) for argument in arguments), "--port", port)
    with subprocess.Popen(started, env=environment(), stderr=subprocess.PIPE, text=True) as server:
        try:
            assert f"listening on http://0.0.0.0:{port}" in server.stderr.readline()
            assert healthy(port)
            # Mapped: containers of one image share the file's memory.
            maps = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
            assert any(line.endswith(str(packed)) and " r--" in line for line in maps)
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_the_page_says_what_the_image_needs():
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^docker run (?:.*\\\n)*.*$", page, re.MULTILINE)
    words = shlex.split(line.replace("\\\n", ""))
    mounted = dict(part.partition("=")[::2] for part in words[words.index("--mount") + 1].split(","))
    assert mounted["dst"] == KEY_FILE in instruction("ENTRYPOINT") and "readonly" in mounted
    host, _, container = words[words.index("-p") + 1].rpartition(":")
    assert host == "127.0.0.1:8000" and container == "8000"  # Docker would open it to the network otherwise
