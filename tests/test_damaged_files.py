"""Damaged files of every format: those that fuzzing found, and the tools that find them (tests/long)."""

from __future__ import annotations

import io
import json
import zipfile
import zlib

import numpy as np
import pytest
from helpers.damage import damaged, in_packed
from helpers.damage_binary import in_table, in_torch
from helpers.oracles import LIBRARIES, Different, compare
from helpers.reading import READERS, attempt, corpus, missing, valid_files
from helpers.tf_tables import items_of


@pytest.mark.parametrize("reader", READERS)
def test_files_that_fuzzing_found_do_no_harm_and_are_read_as_their_library_does(reader, tmp_path):
    assert len(corpus(reader)) > 5
    faults = [attempt(reader, data, tmp_path).fault for data in corpus(reader)]
    assert [fault for fault in faults if fault] == []


@pytest.mark.parametrize("reader", READERS)
def test_valid_files_are_accepted_and_what_is_not_their_content_is_noticed(reader, tmp_path):
    if missing([reader]):
        pytest.skip(f"needs {LIBRARIES[reader]}")
    ending, read = READERS[reader]
    found = []
    for i, data in enumerate(valid_files(reader)):
        assert attempt(reader, data, tmp_path) == (True, None)
        (tmp_path / f"{i}{ending}").write_bytes(data)
        found.append(read(tmp_path / f"{i}{ending}"))
    with pytest.raises(Different):
        compare(reader, tmp_path / f"0{ending}", found[1])


def of_kind(reader, change):
    """Some files that a change makes of valid ones."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        files = valid_files(reader)
        yield change(files[seed % len(files)], rng)


def test_checksums_of_damaged_files_are_right():
    for data in of_kind("torch", lambda data, rng: in_torch(data, rng) if data[:2] == b"PK" else b""):
        if data:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                assert archive.testzip() is None
    for data in of_kind("packed", lambda data, rng: in_packed(valid_files("packed")[1], rng)):
        header = data[: 8 + int.from_bytes(data[:8], "little")]
        texts = json.loads(header[8:]).get("__metadata__")
        crc = texts.get("header_crc32") if isinstance(texts, dict) else None
        if crc is not None:
            plain = header.replace(f'"header_crc32":"{crc}"'.encode(), b'"header_crc32":"00000000"', 1)
            assert crc == f"{zlib.crc32(plain):08x}"
    for data in of_kind("tensorflow", in_table):
        try:
            items_of(data)
        except (ValueError, StopIteration, IndexError) as error:
            assert "checksum" not in str(error)


@pytest.mark.parametrize("reader", READERS)
def test_damage_is_repeated_by_its_seed_and_leaves_some_files_readable(reader, tmp_path):
    files = valid_files(reader)[:2]
    made = [damaged(reader, files[i % 2], files, np.random.default_rng(i)) for i in range(60)]
    assert made == [damaged(reader, files[i % 2], files, np.random.default_rng(i)) for i in range(60)]
    accepted = [attempt(reader, data, tmp_path, compared=False).accepted for data in made]
    assert 0 < sum(accepted) < 60


@pytest.mark.parametrize("problem", [ValueError("raw"), MemoryError(), KeyError("x")])
def test_errors_of_other_programs_are_faults(problem, tmp_path, monkeypatch):
    def read(path):
        raise problem

    monkeypatch.setitem(READERS, "gguf", (".gguf", read))
    assert type(problem).__name__ in attempt("gguf", b"", tmp_path).fault


def test_memory_is_measured(tmp_path, monkeypatch):
    def read(path):
        return len(b"x" * (80 << 20))

    monkeypatch.setitem(READERS, "config", (".json", read))
    for _ in range(2):  # also where the process had as much before
        assert "MB more" in attempt("config", b"", tmp_path, compared=False).fault
