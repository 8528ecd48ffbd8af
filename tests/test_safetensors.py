"""The safetensors reader: exact on good files, a named error on all others, never milder than the library."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_checkpoints import encode, safetensors_bytes, with_header
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt2c import CheckpointError
from gpt2c.checkpoint import safetensors
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.tensors import TensorInfo, read_tensor

try:
    import safetensors as library
except ImportError:
    library = None


def header_of(path):
    with RegularFile(path) as file:
        return safetensors.read_header(file)


def tensor_of(info, *rows):
    with RegularFile(info.file) as file:
        return read_tensor(file, info, *rows)


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and return its path."""

    def write(data: bytes) -> Path:
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        return path

    return write


# What is read


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("block", [1, 4, 5, 24, 25, 2**20])
def test_values_are_exact(file, monkeypatch, dtype, block):
    """Every value is widened exactly, whatever the edges of the blocks it is read in."""
    monkeypatch.setattr("gpt2c.checkpoint.tensors._BLOCK", block)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((4, 6)), rng.standard_normal(7) * 1e-6  # the second: subnormal in F16
    tensors = header_of(file(safetensors_bytes({"a": a, "b": b}, dtype)))
    for name, array in {"a": a, "b": b}.items():
        raw = np.frombuffer(encode(array, dtype), {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype])
        if dtype == "BF16":
            bits = [struct.unpack("<f", b"\0\0" + struct.pack("<H", half))[0] for half in raw]
            raw = np.array(bits)
        got = tensor_of(tensors[name])
        assert got.dtype == np.float32 and got.flags.c_contiguous and got.flags.writeable
        assert got.shape == array.shape
        assert np.array_equal(got.ravel().astype(np.float64), raw.astype(np.float64))


def test_every_finite_half_and_bfloat16(file):
    bits = np.arange(2**16, dtype=np.uint32)
    wide = (bits << 16).astype(np.uint32).view(np.float32)
    for dtype, values in {"F16": bits.astype(np.uint16).view(np.float16), "BF16": wide}.items():
        finite = values[np.isfinite(values.astype(np.float32))]
        info = header_of(file(safetensors_bytes({"x": finite}, dtype)))["x"]
        got = tensor_of(info)
        assert np.array_equal(
            got.view(np.uint32), finite.astype(np.float32).view(np.uint32)
        )  # signed zeros too


def test_header(file):
    path = file(
        safetensors_bytes({"a": np.zeros((2, 3)), "é\n": np.zeros(())}, "F16", __metadata__={"format": "pt"})
    )
    tensors = header_of(path)
    start = path.stat().st_size - 14
    assert tensors == {
        "a": TensorInfo("a", "F16", (2, 3), path, start, 12),
        "é\n": TensorInfo("é\n", "F16", (), path, start + 12, 2),
    }
    assert tensor_of(tensors["é\n"]).shape == ()


def test_order_in_the_header_is_free_and_alignment_is_not_asked_for(file):
    header = {
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "empty": {"dtype": "F32", "shape": [0, 4], "data_offsets": [1, 1]},
    }
    tensors = header_of(file(with_header(header, b"\7" + struct.pack("<f", 2.5))))
    assert list(tensors) == ["a", "empty", "b"]
    assert tensor_of(tensors["b"]).tolist() == [2.5]
    assert tensor_of(tensors["empty"]).shape == (0, 4)


def test_opening_reads_no_tensor_data(file):
    """A hole of 8 GiB opens at once."""
    size = 8 * 2**30
    path = file(with_header({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}))
    with open(path, "r+b") as sparse:
        sparse.truncate(path.stat().st_size + size)
    assert header_of(path)["a"].nbytes == size


# What is refused


def one(**changes) -> bytes:
    """The header of a file with one tensor, "a": eight bytes of F32, but for these changes."""
    return with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}, EIGHT)


def two(begin: int, end: int) -> bytes:
    """The same with a second tensor, "b", of eight bytes that begin and end here."""
    offsets = {"a": [0, 8], "b": [begin, end]}
    header = {name: {"dtype": "F32", "shape": [2], "data_offsets": ends} for name, ends in offsets.items()}
    return with_header(header, bytes(end))


EIGHT = bytes(8)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
NONE = r"is not a file of weights: it is neither safetensors nor written by torch\.save, nanoGPT"
BAD = {
    "gif": (b"GIF89a" + bytes(30), NONE),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), NONE),
    "npy": (b"\x93NUMPY\x01\0v\0{'descr'" + bytes(30), NONE),
    "a plain pickle": (pickle.dumps({"some": "words"}), NONE),
    "text": (b"just some words in a file", NONE),
    "empty file": (b"", r"has 0 bytes: too short for a safetensors file$"),
    "nine bytes": (bytes(9), r"has 9 bytes: too short"),
    "header length 0": (bytes(8) + b"{}", r"announces a header of 0 bytes but has 10 bytes in all$"),
    "header length 2**64 - 1": (
        b"\xff" * 8 + b"{}",
        r"announces a header of 18446744073709551615 bytes but has",
    ),
    "longer than the file": (
        (100).to_bytes(8, "little") + b"{}",
        r"is truncated or not a .* header of 100 bytes",
    ),
    "longer by one": ((3).to_bytes(8, "little") + b"{}", r"is truncated or not a .* header of 3 bytes"),
    "git lfs": (LFS, r"is a Git LFS pointer.*git lfs pull"),
    "html": (b"<!doctype html><html></html>", NONE),
    "not an object": (with_header(b"[1]"), NONE),
    "space first": (with_header(b" {}"), NONE),
    "utf-16": (with_header('{"a":1}'.encode("utf-16")), NONE),
    "not utf-8": (with_header(b'{"\xff":1}'), r"is not valid JSON: 'utf-8' codec"),
    "lone surrogate": (with_header(b'{"\\ud800":1}'), r"is not valid JSON: 'utf-8' codec .*surrogates"),
    "half of it": (with_header(b'{"a":'), r"is not valid JSON: Expecting value"),
    "two values": (with_header(b"{}{}"), r"is not valid JSON: Extra data"),
    "twice": (with_header(b'{"a":{}, "a":{}}'), r"is not valid JSON: the key 'a' occurs twice$"),
    "twice within": (with_header(b'{"a":{"dtype":"F32","dtype":"F16"}}'), r"the key 'dtype' occurs twice$"),
    "nan": (with_header(b'{"a":NaN}'), r"the number 'NaN' is not allowed$"),
    "float": (with_header(b'{"a":1.0}'), r"the number '1.0' is not allowed$"),
    "exponent": (with_header(b'{"a":1e3}'), r"the number '1e3' is not allowed$"),
    "negative": (with_header(b'{"a":-0}'), r"the number '-0' is not allowed$"),
    "2**63": (with_header(b'{"a":9223372036854775808}'), r"the number '9223372036854775808' is not allowed$"),
    "5,000 digits": (with_header(b'{"a":' + b"1" * 5000 + b"}"), r"the number '1{70,}\.\.\. is not allowed$"),
    "deep": (with_header(b'{"a":' + b"[" * 200_000), r"is nested too deeply for a model's JSON$"),
    "metadata": (with_header({"__metadata__": {"a": 1}}), r"__metadata__ is not an object of texts$"),
    "metadata list": (with_header({"__metadata__": []}), r"__metadata__ is not an object of texts$"),
    "entry is a list": (
        with_header({"a": [1]}),
        r"tensor 'a' needs dtype, shape and data_offsets, but has \[1\]$",
    ),
    "key missing": (
        with_header({"a": {"dtype": "F32"}}),
        r"tensor 'a' needs dtype, shape and data_offsets, but has",
    ),
    "key too many": (
        one(more=1),
        r"tensor 'a' needs dtype, shape and data_offsets, but has {'dtype': 'F32', ",
    ),
    "dtype unknown": (one(dtype="F4"), r"tensor 'a' has the unknown dtype 'F4'; known: BOOL, U8"),
    "dtype a list": (one(dtype=["F32"]), r"tensor 'a' has the unknown dtype \['F32'\]; known: "),
    "shape true": (
        one(shape=[2, True]),
        r"has the shape \[2, True\]; needed: a list of integers of at least 0$",
    ),
    "shape text": (one(shape="2"), r"has the shape '2'; needed: a list of integers of at least 0$"),
    "offsets true": (
        one(data_offsets=[False, 8]),
        r"has the data_offsets \[False, 8\]; needed: \[begin, end\]$",
    ),
    "offsets text": (one(data_offsets="08"), r"has the data_offsets '08'; needed: \[begin, end\]$"),
    "three offsets": (
        one(data_offsets=[0, 4, 8]),
        r"has the data_offsets \[0, 4, 8\]; needed: \[begin, end\]",
    ),
    "backwards": (one(data_offsets=[8, 0]), r"has the data_offsets \[8, 0\]; needed: \[begin, end\]$"),
    "shape too big": (one(shape=[3]), r"has 8 bytes of data, but its shape \[3\] of F32 takes 12$"),
    "overflow": (one(shape=[2**62, 4]), r"has the shape \[4611686018427387904, 4\]: larger than any file$"),
    "overflow to 0": (one(shape=[2**40, 2**40, 0], data_offsets=[0, 0]), r"larger than any file$"),
    "hole": (two(9, 17), r"of tensor 'b' starts at byte 9, but the tensor before it ends at byte 8$"),
    "hole first": (one(data_offsets=[1, 9]), r"tensor 'a' starts at byte 1, but .* at byte 0$"),
    "overlap": (two(4, 12), r"tensor 'b' starts at byte 4, but .* at byte 8$"),
    "same place": (two(0, 8), r"tensor '[ab]' starts at byte 0, but .* at byte 8$"),
    "truncated": (one()[:-1], r"is truncated: by its header it has \d+ bytes, but the file has \d+$"),
    "bytes left over": (
        one() + b"\0",
        r"has extra bytes at the end: by its header it has \d+ bytes, but the file has",
    ),
    "zip behind it": (one() + b"PK\3\4", r"has extra bytes at the end"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(file, case):
    data, message = BAD[case]
    path = file(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        header_of(path)
    text = str(caught.value)
    assert str(path) in text
    assert text.isprintable() and len(text) < 500 + len(str(path))
    stricter = case in ("key too many", "space first")  # the library does not mind these two
    if library is not None and not stricter:
        with pytest.raises(library.SafetensorError):
            library.deserialize(data)


def test_header_that_is_too_large(file):
    size = 256 * 1024
    assert header_of(file(with_header(b"{" + b" " * (size - 2) + b"}"))) == {}
    data = with_header(b"{" + b" " * (size - 1) + b"}")
    with pytest.raises(CheckpointError, match=f"announces a header of {size + 1} bytes; at most {size} are"):
        header_of(file(data))


def test_dimensions_that_are_too_many(file):
    def with_dimensions(n):
        return with_header(b'{"a":{"dtype":"U8","shape":[%s0],"data_offsets":[0,0]}}' % (b"1," * (n - 1)))

    assert len(header_of(file(with_dimensions(64)))["a"].shape) == 64
    with pytest.raises(CheckpointError, match="tensor 'a' has 65 dimensions; at most 64 are accepted"):
        header_of(file(with_dimensions(65)))


def test_truncated_anywhere(file):
    data = safetensors_bytes({"a": np.ones((2, 2)), "b": np.ones(3)}, "F16")
    header_of(file(data))
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            header_of(file(data[:length]))


def test_not_a_file(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"missing\.safetensors cannot be read: No such file or directory$"
    ):
        header_of(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match=r"is not a regular file$"):
        header_of(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match=r"pipe\.safetensors is not a regular file$"):
        header_of(tmp_path / "pipe.safetensors")  # and does not wait for ever


def test_file_that_shrinks_after_it_was_opened(file):
    path = file(safetensors_bytes({"a": np.ones(100)}))
    with RegularFile(path) as opened:
        info = safetensors.read_header(opened)["a"]
        assert opened.is_unchanged() and opened.is_still_named()
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(
            CheckpointError, match=r"has been truncated since it was opened: it ends inside tensor 'a'$"
        ):
            read_tensor(opened, info)
        assert not opened.is_unchanged() and not opened.is_still_named()


def test_short_reads_are_continued(file, monkeypatch):
    """The system may give less than was asked for: after a signal, or from a file system over a network."""
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:7]], offset))
    values = np.arange(100)
    assert tensor_of(header_of(file(safetensors_bytes({"a": values})))["a"]).tolist() == values.tolist()


def test_file_that_is_renamed_after_it_was_opened(file):
    path = file(safetensors_bytes({"a": np.ones(100)}))
    with RegularFile(path) as opened:
        info = safetensors.read_header(opened)["a"]
        path.rename(path.with_name("other"))
        assert read_tensor(opened, info).tolist() == [1] * 100
        assert opened.is_unchanged() and not opened.is_still_named()
        path.with_name("other").rename(path)
        assert opened.is_still_named()
    with pytest.raises(ValueError, match="closed"):
        read_tensor(opened, info)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite(file, monkeypatch, dtype, bad):
    monkeypatch.setattr("gpt2c.checkpoint.tensors._BLOCK", 4)
    values = np.ones((3, 3))
    values[0, 1] = values[2, 2] = bad  # in the first block and in the last
    path = file(safetensors_bytes({"h.0.w": values}, dtype))
    with pytest.raises(
        CheckpointError, match=r"tensor 'h\.0\.w' has NaN or infinity in 2 of its 9 values: the file is"
    ):
        tensor_of(header_of(path)["h.0.w"])


@pytest.mark.filterwarnings("error")
def test_signalling_nan_in_f16(file):
    header = {"a": {"dtype": "F16", "shape": [65], "data_offsets": [0, 130]}}
    with pytest.raises(CheckpointError, match=r"tensor 'a' has NaN or infinity in 65 of its 65 values"):
        tensor_of(header_of(file(with_header(header, b"\x01\x7c" * 65)))["a"])


@pytest.mark.parametrize("dtype", ["U8", "BOOL", "I64"])
def test_dtypes_that_are_not_read(file, dtype):
    info = header_of(file(safetensors_bytes({"a": np.ones(3)}, dtype)))["a"]
    assert info.dtype == dtype
    with pytest.raises(
        CheckpointError, match=rf"tensor 'a' has dtype {dtype}; weights are read from F64, F32, F16, BF16$"
    ):
        tensor_of(info)


# Beside the library: whatever it rejects, we reject; what both accept, both understand alike


def agree(path: Path, data: bytes) -> bool:
    """Hold our verdict on a file against the library's. Returns whether we accept it."""
    path.write_bytes(data)
    try:
        ours = header_of(path)
    except CheckpointError:
        return False
    theirs = dict(library.deserialize(data))  # raises where the library rejects
    assert set(ours) == set(theirs)
    for name, info in ours.items():
        assert theirs[name]["dtype"] == info.dtype
        assert tuple(theirs[name]["shape"]) == info.shape
        assert bytes(theirs[name]["data"]) == data[info.offset : info.offset + info.nbytes]
    return True


HARD = sorted({n for e in (0, 31, 32, 62, 63, 64) for n in (2**e - 1, 2**e, 2**e + 1)} | {-1, 10**30})


@pytest.mark.skipif(library is None, reason="the safetensors library is not installed")
def test_hard_numbers_in_every_field(tmp_path):
    path = tmp_path / "x"
    good = {
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [8, 16]},
    }
    data = bytes(16)
    assert agree(path, with_header(good, data))
    accepted = 0
    for name in good:
        for field, index in (("shape", 0), ("data_offsets", 0), ("data_offsets", 1)):
            for number in HARD:
                header = json.loads(json.dumps(good))
                header[name][field][index] = number
                accepted += agree(path, with_header(header, data))
                header[name]["shape"] = [number, 0, number]
                accepted += agree(path, with_header(header, data))
    for length in HARD:
        if 0 <= length < 2**64:
            accepted += agree(path, length.to_bytes(8, "little") + with_header(good, data)[8:])
    assert accepted < 20  # where the number happens to be the right one


names = st.sampled_from(["a", "b", "h.0.w", "", "__metadata__", "é", "\n"])
numbers = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 16, 24]) | st.sampled_from(HARD)
dtypes = st.sampled_from(["F32", "F16", "BF16", "U8", "BOOL", "F64", "F8_E4M3"] * 4 + ["F4", "C64", "f32"])


@st.composite
def files(draw):
    """Mostly well-formed files with one or two things wrong, in the header's fields or in any byte."""
    header, position = {}, 0
    for name in draw(st.lists(names, max_size=4, unique=True)):
        dtype, shape = draw(dtypes), draw(st.lists(st.integers(0, 3), max_size=3))
        itemsize = {"F32": 4, "U8": 1, "BOOL": 1, "F64": 8, "C64": 8, "F8_E4M3": 1}.get(dtype, 2)
        size = int(np.prod(shape)) * itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    for name in list(header):
        what = draw(st.integers(0, 30))
        if what == 0:
            header[name]["shape"].append(draw(numbers))
        elif what == 1:
            header[name]["data_offsets"][draw(st.integers(0, 1))] = draw(numbers)
        elif what == 2:
            header[name][draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = draw(
                numbers | st.none() | st.booleans() | st.lists(numbers | st.booleans(), max_size=3)
            )
        elif what == 3:
            header[name] = draw(
                st.none() | st.dictionaries(st.sampled_from("xy"), st.sampled_from(["t", 1]), max_size=2)
            )
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode() + b" " * draw(st.integers(0, 3))
    data = bytearray(with_header(text, bytes(max(0, position + draw(st.sampled_from([0] * 8 + [-1, 1]))))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, min(len(data), 8 + len(text)) - 1))
        data[place] = draw(st.integers(0, 255) | st.sampled_from(list(b'{}[]":,0-.e \\u')))
    return bytes(data)


@pytest.mark.skipif(library is None, reason="the safetensors library is not installed")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=files() | st.binary(max_size=60))
@example(data=with_header({}))
@example(data=with_header(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'))
def test_never_milder_than_the_library(tmp_path, data):
    agree(tmp_path / "x", data)


def test_the_fuzzer_makes_good_files_too():
    """Else the test above would say nothing: a share of its files has tensors and is accepted."""
    if library is None:
        pytest.skip("the safetensors library is not installed")
    verdicts = []

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(data=files())
    def run(data):
        try:
            verdicts.append(len(library.deserialize(data)) > 0)
        except library.SafetensorError:
            verdicts.append(False)

    run()
    assert 0.05 < np.mean(verdicts) < 0.9


def test_the_message_names_at_most_what_a_line_holds(file):
    name = "\x1b]0;" + "x" * 10_000
    with pytest.raises(CheckpointError) as caught:
        header_of(file(with_header({name: 1})))
    assert len(re.sub(r"\S*model\.safetensors", "", str(caught.value))) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_some_rows_of_a_tensor(tmp_path, dtype):
    path = tmp_path / "m.safetensors"
    array = np.arange(7 * 3 * 2, dtype=np.float32).reshape(7, 3, 2)
    path.write_bytes(safetensors_bytes({"before": np.ones(5), "a": array}, dtype))
    info = header_of(path)["a"]
    for begin, end in [(0, 7), (0, 1), (2, 5), (6, 7), (6, 99), (3, 3)]:
        assert np.array_equal(tensor_of(info, begin, end), array[begin:end])


@pytest.mark.parametrize("offset", [2**40, 2**63 - 1, 2**63, 2**64 + 40])
def test_behind_the_end_of_a_file_there_is_nothing(offset, tmp_path):
    """Damaged headers point there, further than the system can count."""
    path = tmp_path / "file"
    path.write_bytes(b"four")
    with RegularFile(path) as file:
        assert file.read(4, offset) == b""
        assert file.read(4, 2) == b"ur"
