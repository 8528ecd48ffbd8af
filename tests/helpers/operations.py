"""What users do with a model, as functions that give their results as bytes: for faults at any moment."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np

from gpt2c import GPT2
from gpt2c.checkpoint import BUNDLED
from gpt2c.cli.parser import build_parser
from helpers.served import ask, served

LONG = (BUNDLED / "sample.txt").read_text()[:1200]
SHORT = LONG[:60]
DRAWN = {"temperature": 1.0, "seed": 7, "max_new_tokens": 12, "eos_token_id": []}


class Subject:
    """A model and a session, used again and again, and a folder to write to."""

    def __init__(self, folder: Path, threads: int = 1):
        self.folder, self.threads = folder, threads
        self.model = GPT2.from_pretrained(dtype="int8", threads=threads, prefix_cache="8MB")
        self.session = self.model.session(LONG)
        self.texts = (LONG, SHORT + LONG[200:900])

    def healthy(self) -> bytes:
        """The bytes of a few short calls, through the session and the cache of prefixes."""
        found = [self.model.suggest(text, 3) for text in self.texts]
        for text in self.texts:
            self.session.text = text
            found.append(self.session.suggest(3))
        return repr(found).encode()


def joined(*arrays) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def load(subject):
    model = GPT2.from_pretrained(threads=subject.threads)
    return model.forward([1, 2, 3]).tobytes()


def forward(subject):
    return subject.model.forward(subject.model.encode([LONG])[0]).tobytes()


def generate(subject):
    found = subject.model.generate([SHORT, LONG], num_return_sequences=2, **DRAWN)
    return repr([each.token_ids for each in found]).encode()


def stream(subject):
    return repr([*subject.model.stream(LONG, **DRAWN)]).encode()


def beam_search(subject):
    return subject.model.generate(LONG, max_new_tokens=6, num_beams=4).text.encode()


def score(subject):
    found = subject.model.score([LONG, SHORT, LONG * 3], stride=200)
    return joined(*(values for each in found for values in (each.logprobs, each.ranks, each.entropies)))


def suggest(subject):
    return repr([subject.model.suggest(text, 5) for text in subject.texts]).encode()


def session_edit(subject):
    found = []
    for text in (LONG[:700], SHORT + LONG[100:600], LONG[:650] + " and then"):
        subject.session.text = text
        found.append(subject.session.suggest(3))
    return repr(found).encode()


def session_save(subject):
    subject.session.text = LONG
    first = subject.session.suggest(3)
    subject.session.save(subject.folder / "saved")
    opened = subject.model.open_session(subject.folder / "saved")
    return repr([first, opened.suggest(3)]).encode() + (subject.folder / "saved").read_bytes()


def save(subject):
    subject.model.save(subject.folder / "saved.gpt2c")
    return (subject.folder / "saved.gpt2c").read_bytes()


def command(*arguments) -> str:
    """What a command prints, run in this process."""
    from importlib import import_module

    given = build_parser().parse_args([str(each) for each in arguments])
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        import_module(f"gpt2c.cli.{arguments[0]}").run(given)
    return out.getvalue()


def convert(subject):
    target = subject.folder / "converted.gpt2c"
    command("convert", BUNDLED, target, "--dtype", "int8", "--no-comparison", "-t", subject.threads)
    return target.read_bytes()


def score_file(subject):
    source = subject.folder / "texts.jsonl"
    if not source.exists():
        lines = (json.dumps({"id": n, "text": f"{n} {LONG[n : n + 150]}"}) for n in range(12))
        source.write_text("\n".join(lines))
    target = subject.folder / "scores" / source.name
    target.unlink(missing_ok=True)
    command("score", source, "-o", f"{target.parent}/", "-t", subject.threads)
    return target.read_bytes()


def embed(subject):
    return joined(subject.model.embed([LONG, SHORT, SHORT[:9]]))


def run_with_cache(subject):
    logits, cache = subject.model.run_with_cache(LONG, ["*hook_resid_post", "*hook_pattern"])
    return joined(logits, *(cache[name] for name in sorted(cache)))


def serve(subject):
    """Ask a server, which is kept."""
    server = getattr(subject, "server", None)
    if server is None:
        subject.serving = contextlib.ExitStack()
        subject.server = server = subject.serving.enter_context(served(subject.model))
    wanted = {"prompt": SHORT, "max_tokens": 8, "seed": 7}
    answer = ask(server, "POST", "/v1/completions", wanted)
    if answer.status != 200:
        raise ServerError(answer.status, answer.body)
    return json.dumps(answer.json["choices"]).encode()


class ServerError(Exception):
    """A server answered, but not with what was asked for."""


OPERATIONS = {
    function.__name__: function
    for function in (
        load, forward, generate, stream, beam_search, score, suggest, session_edit, session_save, save,
        convert, score_file, embed, run_with_cache, serve,
    )
}  # fmt: skip
