"""Packed files are mapped or read; what happens to a file in use is an error, not a signal."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from gpt2c import GPT2, EncoderDecoder
from gpt2c.checkpoint import mapping
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.packed import open_packed
from gpt2c.core import _engine

IDS = [*range(100, 140)]
USES = {
    "forward": "model.forward(IDS)",
    "generate": "model.generate('Once', max_new_tokens=3)",
    "stream": "[*model.stream('Once', max_new_tokens=3)]",
    "score": "model.score('Once upon a time')",
    "suggest": "model.suggest('Once')",
    "weights": "model.weights['h.5.attn.c_attn.weight']",
    "unembedding": "model.weights.unembedding([4000])",
    "save": "model.save('copy.gpt2c')",
}
SHORTEN = f"""
import os
from gpt2c import GPT2, CheckpointError
IDS = {IDS}
model = GPT2.from_pretrained('model.gpt2c', threads=2)
os.truncate('model.gpt2c', 4096)
try:
    USE
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("use", USES)
def test_a_file_truncated_while_mapped_is_an_error(packed, use):
    program = SHORTEN.replace("USE", USES[use])
    done = subprocess.run([sys.executable, "-c", program], cwd=packed.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "model.gpt2c was changed while it was in use: load the model again; replace such a file by renaming "
        "another over it, or load it with map=False (--no-map)\n"
    )
    assert os.listdir(packed.parent) == ["model.gpt2c"]


def test_contents_written_over_a_mapped_file_are_not_computed_with(packed):
    model = GPT2.from_pretrained(packed)
    size = packed.stat().st_size
    with open(packed, "r+b") as file:
        file.seek(size // 2)
        file.write(bytes(4096))
    with pytest.raises(Exception, match="was changed while it was in use"):
        model.forward(IDS)


def test_a_model_in_memory_does_not_need_its_file(packed):
    expected = GPT2.from_pretrained(packed).forward(IDS).tobytes()
    model = GPT2.from_pretrained(packed, map=False)
    os.truncate(packed, 0)
    assert model.forward(IDS).tobytes() == expected
    assert "read into memory: int8" in model.notes[0]


def test_a_file_is_read_to_its_last_byte_and_aligned(tmp_path):
    for size in (1, 63, 64, 65, 1001):
        content = np.random.default_rng(size).bytes(size)
        (tmp_path / "f").write_bytes(content)
        found, guard = mapping.bytes_of(RegularFile(tmp_path / "f"), map=False)
        assert (found.tobytes(), guard) == (content, None)
        assert found.ctypes.data % 64 == 0


def test_a_model_keeps_its_choice_in_a_pickle(packed):
    import pickle

    again = pickle.loads(pickle.dumps(GPT2.from_pretrained(packed, map=False)))
    assert "read into memory" in again.notes[0]


def test_both_parts_of_an_encoder_decoder_are_read(tmp_path):
    EncoderDecoder.from_pretrained("dates").save(tmp_path / "packed")
    model = EncoderDecoder.from_pretrained(tmp_path / "packed", map=False)
    assert all("read into memory" in part.notes[0] for part in (model.encoder, model.decoder))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ext4", False),
        ("overlay", False),
        ("fuseblk", False),
        ("nfs4", True),
        ("cifs", True),
        ("fuse.s3fs", True),
    ],
)
def test_files_on_network_file_systems_are_read(packed, tmp_path, monkeypatch, kind, expected):
    device = os.stat(packed).st_dev
    here = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:21 / /proc rw,nosuid - proc proc rw\n"
        f"36 35 {here} /a /home/caf\\303\\251 rw,noatime master:1 shared:2 - {kind} server:/a rw\n"
    )
    monkeypatch.setattr(mapping, "_MOUNTS", mounts)
    with RegularFile(packed) as file:
        assert mapping.is_on_network(file) is expected
    assert (open_packed(packed).guard is None) is expected
    assert open_packed(packed, map=True).guard is not None


def test_map_must_be_a_flag(packed):
    with pytest.raises(TypeError, match="map must be True or False, not 'no'"):
        GPT2.from_pretrained(packed, map="no")


def test_the_command_line_reads_with_no_map(packed):
    command = [sys.executable, "-m", "gpt2c", "info", str(packed), "--no-map"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "read into memory: int8" in done.stdout) == (0, True), done.stderr


def test_the_guard_is_called_before_panels_are_read():
    calls = []
    model = GPT2.from_pretrained(threads=1)
    weights = _engine.Weights(model.config, model.weights.__getitem__, guard=lambda: calls.append(1))
    GPT2(weights).forward(IDS)
    assert calls
