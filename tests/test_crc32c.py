"""CRC-32C against published values and the division bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2c.checkpoint import crc32c as module
from gpt2c.checkpoint.crc32c import crc32c, crc32c_of_file, masked
from gpt2c.checkpoint.files import RegularFile
from gpt2c.errors import CheckpointError

# RFC 3720, B.4, and the usual check value.
PUBLISHED = {
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(reversed(range(32))): 0x113FDB5C,
    b"123456789": 0xE3069283,
    b"": 0,
}


def divided(data):
    """The remainder, bit by bit, of x^32 + x^28 + … + 1 written with the lowest power first."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def of_file(path, data, offset=0):
    path.write_bytes(b"." * offset + data + b"more")
    with RegularFile(path) as file:
        return crc32c_of_file(file, offset, len(data))


@pytest.mark.parametrize(("data", "expected"), PUBLISHED.items())
def test_published_values(data, expected, tmp_path):
    assert crc32c(data) == divided(data) == of_file(tmp_path / "a", data, 3) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 1000, 45479, 45480, 45481, 100_003])
def test_lengths(n, tmp_path):
    data = np.random.default_rng(n).bytes(n)
    assert crc32c(data) == of_file(tmp_path / "a", data) == divided(data)


@pytest.mark.parametrize("words", [7000, 8192])
def test_files_of_several_pieces(words, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WORDS", words)
    for n in (8 * words - 1, 8 * words, 8 * words + 1, 24 * words + 5):
        data = np.random.default_rng(n).bytes(n)
        assert of_file(tmp_path / "a", data, 1) == crc32c(data), n


def test_the_multiple_is_one_of_the_divisor():
    total = 0
    for degree in (5685, 1362, 426, 0):
        total ^= 1 << degree
    divisor = 0x11EDC6F41  # x^32 + x^28 + ..., the highest power first
    while total.bit_length() > 32:
        total ^= divisor << (total.bit_length() - 33)
    assert total == 0


def test_a_file_that_ends_early(tmp_path):
    (tmp_path / "a").write_bytes(bytes(10))
    with RegularFile(tmp_path / "a") as file, pytest.raises(CheckpointError, match="truncated since it was"):
        crc32c_of_file(file, 5, 6)


def test_masked():
    # A file of records of TensorFlow begins with a length of 8 bytes and the masked checksum of those; this
    # is how one begins that holds the event "brain.Event:2" (24 bytes).
    assert masked(crc32c((24).to_bytes(8, "little"))) == 0x224B7FA3
