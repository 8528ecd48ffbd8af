"""`gpt2c info --check`: every kind of finding, in a model that was made so."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run
from helpers.small_tokenizers import FOLDERS, write_folder
from helpers.strategies import random_model
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors, write_model, write_shards
from helpers.tolerance import model_bound

from gpt2c import GPT2, Config, reference
from gpt2c.checkpoint import BUNDLED
from gpt2c.cli.checking import findings, rounding_bound
from gpt2c.core import _engine

TORCH = Path(__file__).parent / "data" / "torch"
NANOGPT = Path(__file__).parent / "data" / "nanogpt"


def checked(source, tokenizer=None, **options):
    """What is found, by check: (result, text)."""
    strict = options.get("strict", True)
    arguments = Namespace(model=source, adapter=None, revision=None, strict=strict, offline=False)
    model = GPT2.from_pretrained(source, tokenizer=tokenizer, **options)
    return {found.check: (found.result, found.text) for found in findings(model, arguments)}


def test_a_model_with_which_nothing_is_wrong():
    found = checked(None)
    assert {result for result, _ in found.values()} == {"ok"}
    assert found["tensors"][1].startswith("all that the model has: 76 of F16; 11.3 MiB")
    digest = hashlib.sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()
    assert found["SHA-256 of model.safetensors"] == ("ok", digest)
    values = json.loads((BUNDLED / "config.json").read_text())
    idle = {"n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "torch_dtype"} & values.keys()
    said = f"{len(values) - len(idle)} keys honoured, {len(idle)} without effect, "
    assert found["configuration"][1].startswith(said)
    assert found["eos"][1] == '"<|endoftext|>" (0)'


def test_what_the_command_prints_and_how_it_ends(tmp_path):
    done = run("info", "--check")
    assert done.returncode == 0 and "\nChecks\n" in done.stdout and "wrong" not in done.stdout
    assert "checks" not in json.loads(run("info", "--json").stdout)
    model = GPT2.from_pretrained(threads=1)
    model.save(tmp_path / "m.gpt2c")
    data = bytearray((tmp_path / "m.gpt2c").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "m.gpt2c").write_bytes(data)
    done = run("info", "--check", "--json", tmp_path / "m.gpt2c", "-o", tmp_path / "out")
    assert done.returncode == 1 and done.stderr == ""
    found = {one["check"]: one for one in json.loads((tmp_path / "out").read_text())["checks"]}
    assert found["checksum"]["result"] == "wrong"
    assert "write it again with gpt2c convert" in found["checksum"]["text"]


def test_keys_of_the_configuration(tmp_path):
    write_model(tmp_path, TINY | {"attn_pdrop": 0.1, "rope_theta": 10_000, "eos_token_id": 50256})
    result, text = checked(tmp_path)["configuration"]
    assert result == "note"
    assert text.startswith("9 keys honoured, 2 without effect, ")
    assert "; unknown and ignored: rope_theta. If one of them changes what the model computes" in text
    assert "; eos_token_id is 50256: 50256 outside the vocabulary of 11: left out" in text


def test_an_end_that_the_model_does_not_have(tmp_path):
    write_model(tmp_path, TINY | {"eos_token_id": 50256})
    result, text = checked(tmp_path)["configuration"]
    assert result == "note"
    assert text.endswith("; eos_token_id is 50256: 50256 outside the vocabulary of 11: left out")


def test_what_was_left_aside_is_a_note(tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(
        safetensors_bytes(tiny_tensors() | {"probe": np.ones(2, np.float32)})
    )
    found = checked(tmp_path, strict=False)
    assert found["strict"] == (
        "note",
        f"{tmp_path} does not hold the GPT-2 of its config.json: tensor 'probe' not expected (strict=False, "
        "or --no-strict on the command line, loads the model anyway)",
    )
    assert run("info", "--check", "--no-strict", tmp_path).returncode == 0
    write_model(tmp_path)
    assert "strict" not in checked(tmp_path, strict=False)


def test_checksums_of_torch(tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    target = tmp_path / "pytorch_model.bin"
    shutil.copy(TORCH / "zip.bin", target)
    assert checked(tmp_path)["checksum"] == ("ok", "the CRC-32 of every tensor is correct")
    data = bytearray(target.read_bytes())
    with zipfile.ZipFile(target) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith("/data/0"))
        header = member.header_offset
    begin = header + 30 + sum(struct.unpack("<HH", data[header + 26 : header + 30]))
    data[begin + 5] ^= 1
    target.write_bytes(data)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() == member.filename
    result, text = checked(tmp_path)["checksum"]
    assert result == "wrong" and f"{target}: the CRC-32 of {member.filename!r} does not match" in text
    assert run("info", "--check", tmp_path).returncode == 1
    # torch.serialization.set_crc32_options(False) leaves zeros.
    with zipfile.ZipFile(target) as archive:
        crcs = {info.CRC.to_bytes(4, "little") for info in archive.infolist()}
    for crc in crcs:
        data = data.replace(crc, bytes(4))
    target.write_bytes(data)
    assert "checksum" not in checked(tmp_path)
    shutil.copy(TORCH / "stream.bin", target)
    assert "checksum" not in checked(tmp_path)


def test_all_files_are_hashed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    index = write_shards(tmp_path, tiny_tensors())
    found = checked(tmp_path)
    for file in set(index["weight_map"].values()):
        digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        assert found[f"SHA-256 of {file}"] == ("ok", digest)


def test_a_checkpoint_of_nanogpt():
    found = checked(NANOGPT / "plain")
    assert found["configuration"][1] == "its sizes are those of the checkpoint, which has no more"
    assert "15 of F32, 13 zero by a rule of the format" in found["tensors"][1]
    assert found["bos"] == (
        "note",
        "no token starts a text: give a prompt, and score with --no-bos or --bos ID",
    )
    assert found["eos"][0] == "note" and "--stop" in found["eos"][1]
    assert found["vocabulary"] == ("ok", "65 tokens, as many as the embedding has rows")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_numbers_that_are_none(dtype, tmp_path):
    config = Config(2, 2, 8, 16, 12, 11, bos_token_id=1)
    weights = random_model(config, np.random.default_rng(1), 0.4)
    weights["h.1.ln_2.bias"][3] = np.nan
    GPT2(_engine.Weights(config, weights.__getitem__, dtype=dtype)).save(tmp_path / "m.gpt2c")
    found = checked(tmp_path / "m.gpt2c")
    assert found["values"][0] == "wrong" and "infinity in h.1.ln_2.bias: the file" in found["values"][1]
    assert "self-check" not in found and found["checksum"][0] == "ok"


# ---- the self-check


def test_the_hash_is_of_the_logits():
    ids = [(7 * i * i + 3 * i + 1) % 4096 for i in range(16)]
    for dtype in ("float32", "int8"):
        model = GPT2.from_pretrained(dtype=dtype)
        found = checked(None, dtype=dtype)
        digest = hashlib.sha256(model.forward(ids).tobytes()).hexdigest()
        result, text = found["self-check"]
        assert result == "ok" and f"SHA-256 {digest}, numerics {model.numerics}; the same wherever" in text
        assert ("reference" in found) == (dtype == "float32")
    assert "another machine's BLAS may round differently" in checked(None, backend="blas")["self-check"][1]
    assert checked(None, backend="blas")["reference"][0] == "ok"


def test_logits_that_are_off_are_wrong(monkeypatch):
    forward = _engine.forward
    exact = checked(None)["reference"]
    assert exact[0] == "ok"
    bound = float(exact[1].split()[-1])
    for change, result in ((0.5 * bound, "ok"), (2 * bound, "wrong")):
        off = np.float32(change)
        monkeypatch.setattr(_engine, "forward", lambda *of, by=off, **how: forward(*of, **how) + by)
        assert checked(None)["reference"][0] == result
    monkeypatch.setattr(_engine, "forward", lambda *of, **how: forward(*of, **how) * np.float32(np.inf))
    assert checked(None)["self-check"][0] == "wrong"


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_that_of_the_tests(seed):
    config = Config(3, 4, 32, 64, 16, 50, tie_word_embeddings=seed % 2 == 0)
    weights = random_model(config, np.random.default_rng(seed), 0.4)
    model = GPT2(_engine.Weights(config, weights.__getitem__))
    ids = list(range(3, 15))
    found = rounding_bound(model, ids, reference.forward(config, weights, ids))
    assert 1 / 3 < found / model_bound(config, weights, ids) < 3


def test_a_model_too_narrow_to_compare(tmp_path):
    write_model(tmp_path, TINY | {"n_embd": 2})
    assert checked(tmp_path)["reference"][0] == "note"


# ---- the tokenizer


def resized(tmp_path, name, rows):
    """A folder of `FOLDERS` whose embedding has other rows."""
    folder = write_folder(tmp_path / "model", name)
    values = json.loads((folder / "config.json").read_text())
    write_model(folder, values | {"vocab_size": rows, "bos_token_id": None, "eos_token_id": None})
    return folder


def test_more_tokens_than_rows(tmp_path):
    found = checked(resized(tmp_path, "gpt2", 301))
    assert found["vocabulary"] == (
        "wrong",
        "the embedding, of 301 rows, lacks 1 of the tokenizer's 302 tokens, among them "
        '"<|endoftext|>" (301): texts with them are refused. Give the tokenizer that the model was trained '
        "with, or resize the embedding and train it",
    )


def test_fewer_tokens_than_rows(tmp_path):
    result, text = checked(resized(tmp_path, "gpt2", 320))["vocabulary"]
    assert (result, text) == (
        "note",
        "302 tokens, 18 rows of the embedding without a token: never generated",
    )


def test_ordinary_words_begin_and_end_texts(tmp_path):
    folder = write_folder(tmp_path, "gpt2")  # it names no token in their place
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    description = json.loads((folder / "tokenizer.json").read_text())
    description["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    values = json.loads((folder / "config.json").read_text())
    write_model(folder, values | {"bos_token_id": 258, "eos_token_id": [258, 65]})
    word, letter = (next(t for t, i in description["model"]["vocab"].items() if i == n) for n in (258, 65))
    found = checked(folder)
    shown = f'"{word.replace("Ġ", " ")}" (258)'
    assert found["bos"][0] == found["eos"][0] == "note"
    assert found["bos"][1].startswith(f"{shown}, an ordinary token, precedes scored texts; --no-bos")
    assert found["eos"][1].startswith(f'{shown}, "{letter}" (65), an ordinary token, ends a text')


def test_what_stands_around_a_text(tmp_path):
    pytest.importorskip("tokenizers")
    found = checked(write_folder(tmp_path, "bert"))
    assert found["prefix"][0] == found["suffix"][0] == "note"
    assert '"[CLS]" (2) before every text; it is kept before prompts and' in found["prefix"][1]
    assert '"[SEP]" (3) after every text; it is left out' in found["suffix"][1]


def test_no_tokenizer_and_one_that_cannot_be_used(tmp_path):
    write_model(tmp_path / "none")
    assert checked(tmp_path / "none")["tokenizer"][0] == "note"
    folder = tmp_path / "damaged"
    shutil.copytree(tmp_path / "none", folder)
    (folder / "tokenizer.json").write_text("{")
    assert checked(folder)["tokenizer"][0] == "wrong"
    GPT2.from_pretrained(tmp_path / "none").save(tmp_path / "m.gpt2c")
    assert checked(tmp_path / "m.gpt2c")["tokenizer"][0] == "note"


def test_an_object_as_tokenizer(tmp_path):
    class Letters:
        def encode(self, text):
            return [ord(letter) % 11 for letter in text]

        def decode(self, ids):
            return "".join(chr(97 + index) for index in ids)

    write_model(tmp_path)
    found = checked(tmp_path, tokenizer=Letters())
    assert found["bos"][1].startswith('"b" (1), an ordinary token')
    assert found["vocabulary"] == ("ok", "11 tokens, as many as the embedding has rows")


def test_every_folder_is_checked(tmp_path):
    pytest.importorskip("tokenizers")
    for name in FOLDERS:
        found = checked(write_folder(tmp_path / name, name))
        assert all(result != "wrong" for result, _ in found.values()), (name, found)
