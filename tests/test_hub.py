"""Models by their hub name, from a small hub on this machine: what is asked for, what every failure says.

huggingface_hub reads its environment when it is imported, so a process of its own opens the models; the hub
is here.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import pytest
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors, write_model, write_shards

import gpt2c
from gpt2c import CheckpointError
from gpt2c.checkpoint import BUNDLED, hub, open_checkpoint

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL_FILES = {name: b'{"x": "%s"}' % name.encode() for name in hub._SMALL_FILES}  # all different


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that loading a model uses."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    requests: ClassVar[list[str]] = []
    no_lists = False  # requests for the list of files are answered with 500
    withheld = ""  # this file is announced but not delivered
    foreign = False  # answers to questions for files lack what the Hub says with them

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(self.path.split("?")[0]).strip("/")
        self.requests.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            name, _, revision = path.removeprefix("api/models/").partition("/revision/")
            revision, file = revision or "main", None
        else:
            name, _, rest = path.partition("/resolve/")
            revision = next((r for r in (COMMIT, "main", "v1", "refs/pr/1") if rest.startswith(r + "/")), "?")
            file = rest.removeprefix(revision + "/")
        if name == "old-name":  # renamed, as "gpt2" is "openai-community/gpt2" today
            location = self.path.replace("old-name", "owner/tiny")
            return self.reply(307, b"", {"Location": location})
        if name == "owner/private" and self.headers.get("Authorization") != "Bearer secret":
            return self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        if name == "owner/gated" and (file or self.no_lists):  # on the real Hub the list is public
            return self.reply(
                403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            )
        files = self.repositories.get(name)
        if files is None:
            return self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in (COMMIT, "main", "v1", "refs/pr/1"):
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if file is None:
            if self.no_lists:
                return self.reply(500, b"", {})
            siblings = [{"rfilename": file} for file in files]
            info = {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            return self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        if file not in files:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        if self.withheld == file and self.command == "GET":
            return self.reply(403, b"", {})
        etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
        if self.foreign:
            return self.reply(200, files[file], {})
        self.reply(200, files[file], {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, body)

    def reply(self, status: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


WORKER = """
import json, sys
from gpt2c.checkpoint import open_checkpoint
assert "huggingface_hub" not in sys.modules
open_checkpoint()
assert "huggingface_hub" not in sys.modules, "imported although no hub name was given"
for line in sys.stdin:
    try:
        asked = json.loads(line)
        if asked.pop("only_tokenizer", False):
            from gpt2c.checkpoint.hub import fetch_tokenizer
            print(json.dumps({"directory": str(fetch_tokenizer(asked.pop("source"), **asked))}), flush=True)
            continue
        if asked.pop("encoder_decoder", False):
            from gpt2c import EncoderDecoder
            model = EncoderDecoder.from_pretrained(**asked)
            found = model.generate("May 3rd, 1984").text
            print(json.dumps({"text": found, "name": model.name, "notes": model.notes}), flush=True)
            continue
        if "tokenizer" in asked:
            from gpt2c import GPT2
            model = GPT2.from_pretrained(**asked)
            tokenizer = model.tokenizer
            print(json.dumps({"ids": tokenizer.encode("The king"), "name": tokenizer.name}), flush=True)
            continue
        checkpoint = open_checkpoint(**asked)
        answer = {"directory": str(checkpoint.directory), "name": checkpoint.name, "notes": checkpoint.notes}
        answer["read"] = all(checkpoint.read(name).size for name in checkpoint.tensors)
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Client:
    """A process that opens checkpoints, one after the other."""

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        kept = {
            key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING"))
        }
        kept = {key: value for key, value in kept.items() if not key.upper().endswith("_PROXY")}
        paths = [str(Path(gpt2c.__file__).parent.parent), kept.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=home,
            env=kept
            | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
            | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            | environment,
        )

    def __call__(self, source: str, **options: object) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"source": source, **options}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    """The files of a good model."""
    write_model(tmp_path / "source")
    return {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}


@pytest.fixture
def shards(tmp_path) -> dict[str, bytes]:
    """The files of a good model in two shards."""
    write_shards(tmp_path / "shards", tiny_tensors())
    (tmp_path / "shards" / "config.json").write_text(json.dumps(TINY))
    return {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(endpoint, home) -> Iterator[Client]:
    client = Client(endpoint, home)
    yield client
    client.close()


@pytest.fixture
def ask(client, tmp_path, monkeypatch):
    """Open a model with an empty cache; returns the answer and the sorted requests."""
    monkeypatch.setattr(Hub, "repositories", {})

    def ask(
        source: str, repository: dict[str, bytes] | None = None, **options: object
    ) -> tuple[dict, list[str]]:
        if repository is not None:
            Hub.repositories[source] = repository
        Hub.requests.clear()
        answer = client(source, **{"cache_dir": str(tmp_path / "cache"), **options})
        return answer, sorted(Hub.requests)

    return ask


def fetched(requests: list[str]) -> list[str]:
    """The names of the files that were fetched, sorted."""
    return sorted(
        request.split("/")[-1] for request in requests if request.startswith("GET") and "/resolve/" in request
    )


def test_only_the_files_that_are_needed(ask, files, tmp_path):
    others = [
        "pytorch_model.bin",
        "tf_model.h5",
        "README.md",
        "onnx/model.onnx",
        "model.fp16.safetensors",
        "64.tflite",
    ]
    answer, requests = ask("owner/tiny", files | SMALL_FILES | dict.fromkeys(others, b"x" * 1000))
    assert answer["name"] == "owner/tiny"
    assert answer["read"]
    assert answer["notes"] == [
        f"from the Hub: owner/tiny at commit {COMMIT[:12]}",
        "model.safetensors: 28 tensors of F32",
    ]
    assert fetched(requests) == [
        "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
        "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
        "vocab.json",
    ]  # fmt: skip
    assert {path.name for path in Path(answer["directory"]).iterdir()} == set(fetched(requests))
    assert Path(answer["directory"]).is_relative_to(tmp_path / "cache")
    assert not any("resolve" in request and request.split("/")[-1] in others for request in requests)

    answer, requests = ask("owner/tiny")  # again: two small questions, no file
    assert answer["read"]
    assert requests == ["GET api/models/owner/tiny", "HEAD owner/tiny/resolve/main/config.json"]


def test_other_vocabularies_are_fetched_where_there_is_no_tokenizer_json(ask, files):
    others = {
        "vocab.txt": b"[UNK]",
        "spiece.model": b"x",
        "tokenizer.model": b"y",
        "sentencepiece.vocab": b"",
    }
    _, requests = ask("owner/tiny", files | others)
    assert fetched(requests) == [
        "config.json", "model.safetensors", "spiece.model", "tokenizer.model", "vocab.txt",
    ]  # fmt: skip
    _, requests = ask("owner/other", files | others | {"tokenizer.json": b"{}"})
    assert fetched(requests) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_files_of_sentence_transformers(ask, files):
    """Those that say how texts become vectors are fetched, also out of the folder of a module."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    more = {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
        "sentence_bert_config.json": b'{"max_seq_length": 7}',
        "config_sentence_transformers.json": b"{}",
    }
    unused = {"2_Dense/config.json": b"{}", "2_Dense/model.safetensors": b"x", "onnx/config.json": b"{}"}
    answer, requests = ask("owner/tiny", files | more | unused)
    assert answer["read"]
    names = [request.partition(f"resolve/{COMMIT}/")[2] for request in requests if request.startswith("GET")]
    assert sorted(filter(None, names)) == sorted([*more, "model.safetensors"])
    again, _ = ask("owner/tiny", local_files_only=True)
    assert again["read"]


def test_only_a_tokenizer(ask, files, tmp_path):
    small = {name: data for name, data in SMALL_FILES.items() if name != "generation_config.json"}
    answer, requests = ask("owner/tiny", files | SMALL_FILES, only_tokenizer=True)
    assert fetched(requests) == sorted(["config.json", *small])
    for name, data in small.items():
        assert (Path(answer["directory"]) / name).read_bytes() == data
    again, requests = ask("owner/tiny", only_tokenizer=True, local_files_only=True)
    assert again == answer
    assert requests == []

    answer, requests = ask("owner/words", {"vocab.txt": b"[UNK]", "README.md": b""}, only_tokenizer=True)
    assert fetched(requests) == ["vocab.txt"]
    again, _ = ask("owner/words", only_tokenizer=True, local_files_only=True)
    assert again == answer


def test_a_hub_name_as_the_tokenizer(ask, files, tmp_path):
    """For a model on this machine: of the other one only the tokenizer is fetched."""
    files |= {name: (BUNDLED / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    write_model(tmp_path / "model", TINY | {"vocab_size": 4096})
    answer, requests = ask(str(tmp_path / "model"), tokenizer="owner/none")
    assert "nor a model of that name on the Hub" in answer["message"]
    Hub.repositories["owner/tiny"] = files
    answer, requests = ask(str(tmp_path / "model"), tokenizer="owner/tiny")
    assert answer["ids"] == [335, 635]
    assert COMMIT in answer["name"]
    assert fetched(requests) == ["config.json", "merges.txt", "vocab.json"]


def test_an_encoder_decoder_model(ask):
    folder = BUNDLED.parent / "dates"
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    answer, requests = ask("owner/dates", there, encoder_decoder=True)
    assert (answer["text"], answer["name"]) == ("1984-05-03", "owner/dates")
    assert answer["notes"][0] == f"from the Hub: owner/dates at commit {COMMIT[:12]}"
    assert fetched(requests) == sorted(set(there) - {"README.md"})
    answer, _ = ask("owner/dates")
    assert "gpt2c.EncoderDecoder.from_pretrained" in answer["message"]
    answer, requests = ask(
        "owner/other", there | {"config.json": b'{"model_type": "t5"}'}, encoder_decoder=True
    )
    assert "model_type is 't5'" in answer["message"] and fetched(requests) == ["config.json"]


def test_a_tokenizer_that_is_not_there(ask, files):
    answer, _ = ask("owner/tiny", files, only_tokenizer=True)
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "'owner/tiny' has no tokenizer at revision main; it needs one of tokenizer.json, vocab.json, "
    )
    answer, _ = ask("owner/none", only_tokenizer=True)
    assert "nor a model of that name on the Hub" in answer["message"]
    answer, _ = ask("owner/tiny", only_tokenizer=True, local_files_only=True)
    assert "tokenizer.json of 'owner/tiny': not in the Hub's cache on this machine" in answer["message"]


def test_shards(ask, shards):
    answer, requests = ask("owner/tiny", shards | {"model-00003-of-00003.safetensors": b"not in the index"})
    assert answer["notes"][1] == "2 shards: 28 tensors of F32"
    assert fetched(requests) == sorted(shards)


def test_one_file_comes_before_shards(ask, files, shards):
    answer, requests = ask("tiny", shards | files)
    assert answer["notes"][1] == "model.safetensors: 28 tensors of F32"
    assert fetched(requests) == ["config.json", "model.safetensors"]


def test_renamed_models_are_found(ask, files):
    Hub.repositories["owner/tiny"] = files
    answer, _ = ask("old-name")
    assert answer["name"] == "old-name"
    assert answer["read"]


def test_revision_and_subfolder(ask, files):
    deep = {f"a/b/{name}": data for name, data in files.items()} | {"vocab.json": b"{}", "a/merges.txt": b""}
    answer, requests = ask("owner/tiny", deep, revision="refs/pr/1", subfolder="a/b")
    assert answer["directory"].endswith(f"{COMMIT}/a/b")
    assert fetched(requests) == ["config.json", "model.safetensors"]
    assert "HEAD owner/tiny/resolve/refs/pr/1/a/b/config.json" in requests
    assert "GET api/models/owner/tiny/revision/refs/pr/1" in requests
    answer, _ = ask("owner/tiny", subfolder="a")
    assert answer["message"] == (
        "'owner/tiny' has no config.json in its subfolder 'a': it does not hold a model as transformers "
        "saves it"
    )


@pytest.fixture
def adapter() -> dict[str, bytes]:
    """The files of a LoRA adapter for owner/base."""
    folder = Path(__file__).parent / "data" / "peft" / "attention"
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "owner/base", "revision": "v1"}
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights}


def test_an_adapter_and_its_base(ask, files, adapter):
    Hub.repositories["owner/base"] = files
    others = {"adapter_model.bin": b"x", "optimizer.pt": b"x", "vocab.json": b"{}"}
    answer, requests = ask("owner/adapter", adapter | others)
    assert answer["name"] == "owner/base + owner/adapter" and answer["read"]
    assert answer["directory"].endswith(COMMIT) and "owner--adapter" in answer["directory"]
    assert fetched(requests) == [
        "adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors", "vocab.json"
    ]  # fmt: skip
    assert "HEAD owner/base/resolve/v1/config.json" in requests
    assert f"from the Hub: adapter owner/adapter at commit {COMMIT[:12]}" in answer["notes"]
    offline, requests = ask("owner/adapter", local_files_only=True)
    assert (offline["read"], requests) == (True, [])


def test_an_adapter_of_torch_for_a_model_that_is_given(ask, files, adapter, tmp_path):
    torch_file = Path(__file__).parent / "data" / "peft" / "gaussian" / "adapter_model.bin"
    del adapter["adapter_model.safetensors"]
    Hub.repositories["owner/adapter"] = adapter | {"adapter_model.bin": torch_file.read_bytes()}
    answer, requests = ask(str(tmp_path / "source"), adapter=[["owner/adapter", 0.5]])
    assert answer["read"] and any(
        note.startswith("adapter owner/adapter: rank 3 on 2 matrices, weight 0.5") for note in answer["notes"]
    )
    assert fetched(requests) == ["adapter_config.json", "adapter_model.bin"]
    answer, _ = ask(str(tmp_path / "source"), adapter="owner/nothing")
    assert "nor a model of that name on the Hub" in answer["message"]


def test_an_adapter_whose_base_is_not_there(ask, adapter):
    answer, _ = ask("owner/adapter", adapter)
    assert "is a LoRA adapter, and its base cannot be opened" in answer["message"]
    assert "'owner/base'" in answer["message"]
    assert "from_pretrained(BASE, adapter='owner/adapter')" in answer["message"]


def test_an_adapter_of_itself(ask, adapter):
    config = json.loads(adapter["adapter_config.json"]) | {"base_model_name_or_path": "owner/adapter"}
    answer, requests = ask("owner/adapter", adapter | {"adapter_config.json": json.dumps(config).encode()})
    assert "it is for 'owner/adapter', which is also an adapter" in answer["message"]
    assert len(requests) < 10


def test_an_adapter_beside_the_weights(ask, files, adapter):
    answer, _ = ask("owner/tiny", files | adapter)
    assert "adapter='owner/tiny' (--adapter owner/tiny) merges it" in answer["message"]
    answer, _ = ask("owner/tiny", adapter=[])
    assert answer["read"] and answer["name"] == "owner/tiny"


def test_token(ask, files):
    Hub.repositories["owner/private"] = files
    answer, _ = ask("owner/private")
    assert (
        "If the model is private, log in (`hf auth login`), set HF_TOKEN, or pass token=" in answer["message"]
    )
    answer, _ = ask("owner/private", token="secret")
    assert answer["read"]
    answer, _ = ask("owner/private")  # what was fetched once stays usable, as huggingface_hub has it
    assert answer["read"]
    assert answer["notes"][1].startswith("the cached copy was used: the Hub answered: ")
    assert "401" in answer["notes"][1]
    assert "secret" not in json.dumps(answer)


def test_offline_from_the_cache(ask, files, endpoint, home, tmp_path):
    first, _ = ask("owner/tiny", files | SMALL_FILES)
    again, requests = ask("owner/tiny", local_files_only=True)
    assert requests == []
    assert again["directory"] == first["directory"]
    assert again["notes"][1] == "the cached copy was used: local_files_only (--offline) is set"

    offline = Client(endpoint, home, HF_HUB_OFFLINE="1")
    Hub.requests.clear()
    again = offline("owner/tiny", cache_dir=str(tmp_path / "cache"))
    assert again["directory"] == first["directory"]
    assert again["notes"][1] == "the cached copy was used: HF_HUB_OFFLINE is set"
    again = offline("owner/other", cache_dir=str(tmp_path / "cache"))
    assert again["error"] == "CheckpointError"
    assert again["message"] == (
        "no file or directory here is named 'owner/other', so gpt2c looked in the Hub's cache: "
        "config.json of 'owner/other': not in the Hub's cache on this machine, and HF_HUB_OFFLINE is set. "
        "Fetch the model on another machine (`hf download owner/other --local-dir DIRECTORY`), copy the "
        "directory here and give its path"
    )
    offline.close()
    assert Hub.requests == []


def test_offline_and_not_cached(ask, files):
    answer, requests = ask("owner/tiny", files, local_files_only=True)
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "no file or directory here is named 'owner/tiny', so gpt2c looked in the Hub's cache: "
        "config.json of 'owner/tiny': not in the Hub's cache on this machine, and local_files_only "
        "(--offline) is set. Fetch the model on another machine (`hf download owner/tiny"
    )
    assert "with a connection" not in answer["message"]
    assert requests == []


def test_offline_and_only_partly_cached(ask, files, shards):
    """A download that was interrupted, or one by another program that needed less."""
    for source, repository, missing in (
        ("one", files, "model.safetensors"),
        ("two", shards, sorted(shards)[1]),
    ):
        answer, _ = ask(source, repository)
        (Path(answer["directory"]) / missing).unlink()
        answer, _ = ask(source, local_files_only=True)
        assert answer["error"] == "CheckpointError"
        assert "local_files_only (--offline) is set. Fetch the model on another machine" in answer["message"]
        assert (
            missing in answer["message"] if source == "two" else "the weights of 'one'" in answer["message"]
        )
        answer, requests = ask(source)
        assert answer["read"]
        assert fetched(requests) == [] or fetched(requests) == [missing]


def test_hub_down_after_the_first_use(ask, files, monkeypatch):
    ask("owner/tiny", files)
    monkeypatch.setattr(Hub, "no_lists", True)
    answer, _ = ask("owner/tiny")
    assert answer["read"]
    assert answer["notes"][1].startswith("the cached copy was used: the Hub answered: ")
    assert "500" in answer["notes"][1]


def test_no_connection(files, home, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]  # nobody listens there
    client = Client(f"http://127.0.0.1:{port}", home)
    answer = client("owner/tiny", cache_dir=str(tmp_path / "cache"))
    client.close()
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "no file or directory here is named 'owner/tiny', so gpt2c looked on the Hub: "
        "config.json of 'owner/tiny': not in the Hub's cache on this machine, and the Hub cannot be reached "
        "(Conn"
    )


def test_not_found(ask):
    answer, requests = ask("owner/typo")
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "there is neither a file or directory 'owner/typo' here nor a model of that name on the Hub: check "
        "the spelling"
    )
    assert len(requests) <= 2


def test_no_such_revision(ask, files):
    answer, _ = ask("owner/tiny", files, revision="v9")
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith("'owner/tiny' has no revision 'v9': give a branch, tag or commit")


@pytest.mark.parametrize("no_lists", [False, True])
def test_gated(ask, files, monkeypatch, no_lists):
    monkeypatch.setattr(Hub, "no_lists", no_lists)
    answer, _ = ask("owner/gated", files)
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "access to 'owner/gated' is restricted: ask for it on the model's page on the Hub, then log"
    )


def test_file_that_does_not_arrive(ask, files, monkeypatch):
    monkeypatch.setattr(Hub, "withheld", "model.safetensors")
    answer, _ = ask("owner/tiny", files)
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "model.safetensors of 'owner/tiny' could not be fetched from the Hub: HfHubHTTPError: "
    )
    monkeypatch.setattr(Hub, "withheld", "")
    answer, _ = ask("owner/tiny", files)
    assert answer["read"]


def test_server_that_is_no_hub(ask, files, monkeypatch):
    monkeypatch.setattr(Hub, "foreign", True)
    answer, _ = ask("owner/tiny", files)
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith("config.json of 'owner/tiny' could not be fetched from the Hub: ")


def test_no_config(ask, files):
    answer, _ = ask("owner/tiny", {"model.safetensors": files["model.safetensors"]})
    assert (
        answer["message"]
        == "'owner/tiny' has no config.json: it does not hold a model as transformers saves it"
    )


def test_weights_of_torch_alone(ask, files):
    data = (Path(__file__).parent / "data" / "torch" / "zip.bin").read_bytes()
    answer, requests = ask("owner/tiny", {"config.json": files["config.json"], "pytorch_model.bin": data})
    assert answer["read"] and answer["notes"][1].startswith("pytorch_model.bin: ")
    assert fetched(requests) == ["config.json", "pytorch_model.bin"]


def test_no_weights(ask, files):
    answer, requests = ask("owner/tiny", {"config.json": files["config.json"], "tf_model.h5": b"x" * 100})
    assert answer["error"] == "CheckpointError"
    assert answer["message"].startswith(
        "'owner/tiny' has no model.safetensors at revision main: tf_model.h5 is in a format that"
    )
    assert answer["message"].endswith("adds safetensors, revision='refs/pr/NUMBER' loads that")
    assert fetched(requests) == ["config.json"]


def test_weights_by_another_name(ask, files):
    answer, _ = ask(
        "owner/tiny", {"config.json": files["config.json"], "best.pt": b"x", "training_args.bin": b"x"}
    )
    assert answer["message"].startswith(
        "'owner/tiny' has no model.safetensors at revision main: it has best.pt; to load one of them, fetch "
        "it (`hf download owner/tiny --local-dir DIRECTORY`) and give its path. If its page"
    )


def test_another_architecture_is_refused_before_its_weights_are_fetched(ask, files):
    answer, requests = ask("owner/llama", files | {"config.json": b'{"model_type": "llama"}'})
    assert answer["error"] == "ConfigError"
    assert "config.json: model_type is 'llama'; gpt2c runs \"gpt2\", " in answer["message"]
    assert fetched(requests) == ["config.json"]


def test_index_that_leads_elsewhere(ask, shards):
    index = json.loads(shards["model.safetensors.index.json"])
    index["weight_map"]["wte.weight"] = "../../secret.safetensors"
    answer, requests = ask(
        "owner/tiny", shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    )
    assert answer["error"] == "CheckpointError"
    assert "the plain name of a .safetensors file beside the index" in answer["message"]
    assert fetched(requests) == ["config.json", "model.safetensors.index.json"]


def test_damaged_weights_on_the_hub(ask, files):
    answer, _ = ask("owner/tiny", files | {"model.safetensors": safetensors_bytes(tiny_tensors())[:-4]})
    assert answer["error"] == "CheckpointError"
    assert "model.safetensors is truncated" in answer["message"]


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "microsoft/DialoGPT-small", "a", "a.b/c_d-1"])
def test_names(name):
    assert hub.looks_like_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "./gpt2", "/gpt2", "a/b/c", "a//b", "a/", "~/x", "-a", "a b", "a\\b", "C:/x",
        "a..b", "a--b", "a.", "a-/b", "a.git", "x.safetensors", "x.gpt2c", "a/x.bin", "x" * 97, "gpt2\n", "é",
    ],
)  # fmt: skip
def test_names_that_are_paths(name):
    assert not hub.looks_like_name(name)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = (
        r"^no file or directory is named 'no/such'; .* needs the package .*: pip install huggingface_hub$"
    )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint("no/such")
