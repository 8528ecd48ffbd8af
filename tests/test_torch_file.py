"""Files that torch.save wrote: read to the last bit, and never run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_checkpoints import TINY, encode, tiny_tensors, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.checkpoint.directory import tensors_in
from gpt2c.checkpoint.files import RegularFile, is_torch_file
from gpt2c.checkpoint.pickled import read_pickle
from gpt2c.checkpoint.tensors import ITEMSIZE, TensorInfo, read_tensor
from gpt2c.checkpoint.torch_file import read_torch_file
from gpt2c.checkpoint.torch_names import DTYPES
from gpt2c.errors import CheckpointError

DATA = Path(__file__).parent / "data" / "torch"
EXPECTED = dict(np.load(DATA / "expected.npz"))
OLD = ["zip-1.13.bin", "stream-1.13.bin", "zip-2.3.bin", "stream-2.6.bin"]
ALIKE = ["zip.bin", "stream.bin", "views.bin", "protocol.bin", "F64.bin", *OLD]


def rounded(array, name):
    """What a file of this name keeps of a float32 array."""
    if name == "F16.bin":
        return array.astype(np.float16).astype(np.float32)
    if name == "BF16.bin":
        bits = array.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return array


def read(path):
    """What a torch file holds, with arrays for its tensors of floats."""

    def arrays(value):
        if isinstance(value, TensorInfo):
            return read_tensor(file, value) if value.dtype[0] in "FB" and value.dtype != "BOOL" else value
        if isinstance(value, dict):
            return {key: arrays(inner) for key, inner in value.items()}
        return type(value)(map(arrays, value)) if isinstance(value, list | tuple) else value

    with RegularFile(path) as file:
        assert is_torch_file(file)
        return arrays(read_torch_file(file))


# ---- what torch wrote


@pytest.mark.parametrize("name", [*ALIKE, "F16.bin", "BF16.bin"])
def test_tensors_are_those_of_torch(name):
    found = read(DATA / name)
    for key, array in EXPECTED.items():
        assert np.array_equal(found[f"transformer.{key}"], rounded(array, name))
        assert found[f"transformer.{key}"].dtype == np.float32


def test_what_a_training_run_keeps():
    found = read(DATA / "training.pt")
    assert np.array_equal(found["model"]["lm_head.weight"], EXPECTED["wte.weight"])
    assert found["optimizer"]["state"][0]["step"] == 3
    assert found["optimizer"]["param_groups"] == [{"betas": (0.9, 0.95)}]
    assert (found["epoch"], found["loss"], found["name"]) == (3, 2.5, "tiny")
    mask = found["model"]["transformer.h.0.attn.bias"]
    assert (mask.dtype, mask.shape) == ("U8", (1, 1, 9, 9))


@pytest.mark.parametrize("name", [*ALIKE, "F16.bin", "BF16.bin"])
def test_a_model_of_transformers(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    shutil.copy(DATA / name, tmp_path / "pytorch_model.bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "loads", None)  # nothing is unpickled
        checkpoint = open_checkpoint(tmp_path)
    for key, array in EXPECTED.items():
        assert np.array_equal(checkpoint.read(key), rounded(array, name))
    assert np.array_equal(
        checkpoint.read_rows("wte.weight", 3, 7), rounded(EXPECTED["wte.weight"], name)[3:7]
    )
    # The file itself may be named, whatever its name.
    os.rename(tmp_path / "pytorch_model.bin", tmp_path / "weights.pt")
    model = GPT2.from_pretrained(tmp_path / "weights.pt")
    plain = tmp_path / "plain"
    plain.mkdir()
    tensors = {key: rounded(array, name) for key, array in EXPECTED.items()}
    write_model(plain, TINY, tensors)
    assert np.array_equal(model.forward([1, 2, 3]), GPT2.from_pretrained(plain).forward([1, 2, 3]))
    assert any("weights.pt: " in note for note in model.notes)


def test_shards(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    stored = read(DATA / "zip.bin")
    shutil.copy(DATA / "zip.bin", tmp_path / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": dict.fromkeys(stored, "pytorch_model-00001-of-00001.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(tmp_path)
    assert np.array_equal(checkpoint.read("ln_f.bias"), EXPECTED["ln_f.bias"])
    index["weight_map"]["x"] = "model.safetensors"
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"the plain name of a \.bin file beside the index"):
        open_checkpoint(tmp_path)


def test_safetensors_come_first(tmp_path):
    write_model(tmp_path, TINY, tiny_tensors(seed=5))
    shutil.copy(DATA / "zip.bin", tmp_path / "pytorch_model.bin")
    assert np.array_equal(open_checkpoint(tmp_path).read("ln_f.bias"), tiny_tensors(seed=5)["ln_f.bias"])


def reworded(name, *changes):
    """A file of torch with other words of the same length in its pickle."""
    data = (DATA / name).read_bytes()
    for old, new in changes:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    return data


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ([], "model"),
        ([(b"X\x05\0\0\0model", b"X\x05\0\0\0mocel"), (b"X\x05\0\0\0epoch", b"X\x05\0\0\0model")], None),
        ([(b"X\x05\0\0\0model", b"X\x05\0\0\0mocel")], None),
    ],
)
def test_a_state_dict_among_other_things(changes, key, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "last.ckpt").write_bytes(reworded("training.pt", *changes))
    if key is None:
        with pytest.raises(
            CheckpointError,
            match="does not hold a model's tensors by name: save it",
        ):
            open_checkpoint(tmp_path / "last.ckpt")
        return
    checkpoint = open_checkpoint(tmp_path / "last.ckpt")
    assert np.array_equal(checkpoint.read("ln_f.bias"), EXPECTED["ln_f.bias"])
    assert checkpoint.notes[0] == f"last.ckpt: 33 tensors of F32 and U8, below the key {key!r}"


@pytest.mark.oracle
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_beside_torch(stream, protocol, tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(protocol)
    for _ in range(20):
        base = torch.from_numpy(rng.standard_normal(60).astype(np.float32))
        saved = {
            f"{i}": base.to(getattr(torch, name)).as_strided(shape, strides, offset)
            for i, (name, shape, strides, offset) in enumerate(
                [
                    ("float32", (3, 4), (4, 1), 2), ("float32", (3, 4), (1, 3), 7),
                    ("float64", (2, 3, 2), (6, 1, 3), 0),
                    ("float16", (5,), (7,), 3), ("bfloat16", (4, 4), (0, 1), 9), ("float32", (), (), 59),
                    ("float32", (0, 5), (5, 1), 0), ("int64", (3,), (2,), 1), ("bool", (4,), (1,), 0),
                ]
            )
        }  # fmt: skip
        path = tmp_path / "a.pt"
        torch.save(saved, path, _use_new_zipfile_serialization=not stream, pickle_protocol=protocol)
        # Its own careful reader knows older protocols only.
        expected = torch.load(path, weights_only=protocol < 4)
        for key, found in read(path).items():
            if isinstance(found, np.ndarray):
                assert np.array_equal(found, expected[key].float().numpy())
            else:
                assert DTYPES[str(expected[key].dtype).removeprefix("torch.")] == found.dtype


# ---- what is damaged


@pytest.mark.parametrize("name", ["zip.bin", "stream.bin", "training.pt"])
def test_files_that_are_cut_off(name, tmp_path):
    data = (DATA / name).read_bytes()
    path = tmp_path / name
    for end in {*range(0, len(data), 37), *range(len(data) - 60, len(data))}:
        path.write_bytes(data[:end])
        with RegularFile(path) as file, pytest.raises(CheckpointError) as error:
            read_torch_file(file)
        assert str(path) in str(error.value)


@settings(max_examples=400)
@given(st.data())
def test_files_with_other_bytes_end_in_an_error_or_in_values(tmp_path_factory, data):
    original = (DATA / data.draw(st.sampled_from(["zip.bin", "stream.bin", "training.pt"]))).read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.bin"
    path.write_bytes(changed)
    with RegularFile(path) as file:
        try:
            value = read_torch_file(file)
        except CheckpointError:
            return
        for info in value.values() if isinstance(value, dict) else ():
            if isinstance(info, TensorInfo) and info.dtype in ("F32", "F16", "BF16", "F64"):
                with contextlib.suppress(CheckpointError):
                    assert read_tensor(file, info).shape == info.shape


# ---- what is hostile


class Evil:
    """Something whose unpickling would run a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(data, members=(), compression=zipfile.ZIP_STORED, version=b"3\n"):
    """A zip archive with this data.pkl."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as packed:
        packed.writestr("archive/data.pkl", data)
        packed.writestr("archive/version", version)
        for name, content in members:
            packed.writestr(name, content)
    return out.getvalue()


def refused(path, data):
    """The message with which a file is refused; in bounded time and memory."""
    path.write_bytes(data)
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with RegularFile(path) as file, pytest.raises(CheckpointError) as error:
            read_torch_file(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 20 and peak < 2**20 + 200 * len(data)
    return str(error.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("call", [(os.mkdir, "made"), (eval, "1"), (getattr, "x", "upper"), (bytes, 5)])
def test_nothing_is_run(call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"a": Evil(*call)}, protocol)
    for whole in (archive(data), data):
        message = refused(tmp_path / "a.bin", whole)
        assert (
            "is a pickle that would run" in message
            or "has a pickle with" in message
            or "not a file" in message
        )
    assert not (tmp_path / "made").exists()
    if protocol >= 2:
        message = refused(tmp_path / "a.bin", archive(data))
        assert "do not load it" in message and "torch.load" not in message


@pytest.mark.parametrize(
    ("named", "advice"),
    [
        ("transformers.models.gpt2.modeling_gpt2 GPT2LMHeadModel", "found['state_dict'], if it has that key"),
        ("argparse Namespace", "found = torch.load(FILE, weights_only=False)"),
        ("pathlib PosixPath", "If torch is installed and you trust the file, save only its state"),
        ("model GPT", "would run 'model.GPT' if torch or pickle loaded it: do not load it"),
        ("torchx system", "do not load it"),
        ("torch._utils _rebuild_qtensor", "holds a quantized tensor: dequantize the model and save it"),
        (
            "torch._utils _rebuild_meta_tensor_no_storage",
            "holds a tensor without data (on the device 'meta')",
        ),
    ],
)
def test_what_to_do_with_a_pickle(named, advice, tmp_path):
    program = b"\x80\x02c" + named.replace(" ", "\n").encode() + b"\n."
    message = refused(tmp_path / "a.bin", archive(program))
    assert advice.lower() in message.lower() and named.replace(" ", ".") in message
    of_library = named.split(".")[0].split()[0] in ("transformers", "argparse", "pathlib")
    assert ("only its state dict" in message) == of_library


PROGRAMS = {
    "a class that is made": b"(ios\nsystem\n(S'x'\no.",
    "an instance": b"(S'x'\nios\nsystem\n.",
    "a new object": b"\x80\x02cos\nsystem\n)\x81.",
    "a call of what is no function": b"\x80\x02K\x01)R.",
    "a call of a storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "an extension": b"\x80\x02\x82\x01.",
    "a list whose items are no list": b"\x80\x02K\x01K\x02a.",
    "no values": b"\x80\x02.",
    "no end": b"\x80\x02]",
    "a frame that ends after it": b"\x80\x04\x95\x09\0\0\0\0\0\0\0K\x01.",
    "a memo that is not there": b"\x80\x02h\x05.",
    "a mark in the memo": b"\x80\x02(q\x00K\x01t.",
    "a mark at the end": b"\x80\x02(.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "state of a number": b"\x80\x02K\x01}b.",
    "a tensor without a storage": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))\x89NtR.",
    "too few arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a storage without a key": b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nK\x01K\x01K\x01tQ.",
    "a value that is dropped": b"\x80\x02K\x01K\x020.",
    "a memo of old": b"(lp0\n.",
    "an announced length": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a longer one": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
    "version 9": b"\x80\x09.",
    "a huge number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "a device that is a list": b"\x80\x02ctorch\ndevice\n]\x85R.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_other_programs_are_refused(program, tmp_path):
    message = refused(tmp_path / "a.bin", archive(program))
    assert message.startswith(f"{tmp_path / 'a.bin'} ")


def test_types_among_settings_are_told_by_name(tmp_path):
    program = b"\x80\x02}X\x05\0\0\0dtypectorch\nfloat16\ns."
    (tmp_path / "a.bin").write_bytes(archive(program))
    assert read(tmp_path / "a.bin") == {"dtype": "torch.float16"}


def test_values_that_grow(tmp_path):
    # Each list holds the one before twice: 2 ** 200 items, of 200 lists.
    doubled = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200))
    (tmp_path / "a.bin").write_bytes(archive(b"\x80\x02(]q\x00" + doubled + b"t."))
    assert len(read_torch_file(RegularFile(tmp_path / "a.bin"))) == 201
    itself = b"\x80\x02]q\x00h\x00a."
    assert "contains itself" in refused(tmp_path / "a.bin", archive(itself))
    deep = b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b"."
    assert "too deep" in refused(tmp_path / "a.bin", archive(deep))


def storage(numel=4, key="0", kind="FloatStorage", more=b""):
    name = f"ctorch\n{kind}\n".encode()
    return (
        b"(X\x07\0\0\0storage" + name + b"X" + struct.pack("<I", len(key)) + key.encode() + b"X\x03\0\0\0cpu"
        b"\x8a\x08" + struct.pack("<q", numel) + more + b"tQ"
    )


EMPTY = b"ccollections\nOrderedDict\n)R"


def tensor(numel=4, offset=0, shape=(4,), strides=(1,), settings=b"\x89" + EMPTY, **described):
    def sizes(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage(numel, **described) + b"\x8a\x08"
        + struct.pack("<q", offset) + sizes(shape) + sizes(strides) + settings + b"tR."
    )  # fmt: skip


def table(**items):
    """The instructions that make a dict."""
    names = [b"X" + struct.pack("<I", len(name)) + name.encode() for name in items]
    return b"}" + b"".join(name + value + b"s" for name, value in zip(names, items.values(), strict=True))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_where_training_programs_keep_the_model(key, tmp_path):
    one, path = tensor()[2:-1], tmp_path / "a.ckpt"

    def found(**items):
        path.write_bytes(archive(b"\x80\x02" + table(**items) + b".", [("archive/data/0", bytes(16))]))
        with RegularFile(path) as file:
            return tensors_in(file)

    states, number = table(state=one), b"K\x03"
    tensors, where = found(epoch=number, **{key: table(a=one)}, optimizer=states)
    assert list(tensors) == ["a"] and tensors["a"].shape == (4,) and where == f", below the key {key!r}"
    assert list(found(a=one, b=one)[0]) == ["a", "b"]
    for other in (table(a=one, b=number), table(), number):
        with pytest.raises(CheckpointError, match="does not hold a model's tensors"):
            found(**{key: other})
    with pytest.raises(CheckpointError, match=r"has two tensors called '1'"):
        both = b"}(K\x01" + one + b"X\x01\0\0\x001" + one + b"u"
        path.write_bytes(archive(b"\x80\x02" + both + b".", [("archive/data/0", bytes(16))]))
        with RegularFile(path) as file:
            tensors_in(file)
    with pytest.raises(
        CheckpointError, match=rf"holds several models, as '{key}' and as 'module'|as 'model'"
    ):
        found(**{key: table(a=one), "model" if key == "module" else "module": table(a=one)})


@pytest.mark.parametrize(
    "described",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (5,)},
        {"shape": (2, 2), "strides": (3, 1)},
        {"shape": (4,), "strides": (-1,)},
        {"shape": (4,), "strides": (1, 1)},
        {"shape": (2**31, 2**31, 2**31), "strides": (0, 0, 0)},
        {"shape": (2**20, 2**20), "strides": (0, 0)},
        {"numel": 5},
        {"numel": -4},
        {"numel": 2**62, "shape": (2**62,)},
        {"key": "1"},
        {"key": "../../etc/passwd"},
        {"kind": "DoubleStorage"},
        {"kind": "ByteStorage"},
        {"more": b"N"},  # as in a stream
        {"settings": b"K\x01"},
        {"settings": b"\x89" + EMPTY + EMPTY + b"K\x01"},
        {"settings": b"\x89" + EMPTY + b"}X\x03\0\0\0neg\x88s"},
        {"settings": b""},
        {"numel": 3, "shape": (3,)},
        {"kind": "QInt8Storage"},
    ],
    ids=str,
)
def test_tensors_that_cannot_be(described, tmp_path):
    good = archive(tensor(), [("archive/data/0", bytes(16))])
    (tmp_path / "good.bin").write_bytes(good)
    assert read(tmp_path / "good.bin").tolist() == [0] * 4
    refused(tmp_path / "a.bin", archive(tensor(**described), [("archive/data/0", bytes(16))]))


def test_a_storage_that_is_described_in_two_ways(tmp_path):
    one, other = tensor()[2:-1], tensor(8, kind="HalfStorage")[2:-1]
    data = b"\x80\x02" + table(a=one, b=other) + b"."
    message = refused(tmp_path / "a.bin", archive(data, [("archive/data/0", bytes(16))]))
    assert "a storage is described in two ways" in message


def test_archives_that_cannot_be(tmp_path):
    data, path = tensor(), tmp_path / "a.bin"
    bomb = archive(data, [("archive/data/0", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted" in refused(path, bomb)
    assert "no data.pkl" in refused(path, archive(b"").replace(b"data.pkl", b"data.pkk"))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(data, [("archive/data/0", bytes(16)), ("archive/data/0", bytes(16))])
    assert "two members called 'archive/data/0'" in refused(path, twice)
    good = bytearray(archive(data, [("archive/data/0", bytes(16)), ("archive/data/1", bytes(16))]))
    table = good.rindex(b"PK\x01\x02")
    first = good.index(b"PK\x01\x02")
    # The last member where the first one is.
    overlapping = good[: table + 42] + good[first + 42 : first + 46] + good[table + 46 :]
    assert "shares bytes with another" in refused(path, bytes(overlapping))
    for at, message in ((table + 38, "marked as a directory"), (table + 34, "in another file")):
        marked = good[:at] + b"\x10" + good[at + 1 :]
        assert message in refused(path, bytes(marked))
    assert "of several files" in refused(path, bytes(good[:-18] + b"\1" + good[-17:]))
    beyond = good[: table + 20] + struct.pack("<II", 2**30, 2**30) + good[table + 28 :]
    assert "file: it is truncated" in refused(path, bytes(beyond))
    elsewhere = good[: table + 42] + struct.pack("<I", 5) + good[table + 46 :]
    assert "is not where the archive's table says" in refused(path, bytes(elsewhere))
    assert "its end is missing" in refused(path, bytes(good) + b"more")
    many = good[:-10] + struct.pack("<I", 2**31) + good[-6:]
    assert "its table has 2147483648 bytes" in refused(path, bytes(many))
    assert "its table is not where its end says" in refused(path, b"PK\3\4" + bytes(good))
    beside = archive(data, [("archive/data/0", bytes(16)), ("other/data/1", bytes(16))])
    assert "'other/data/1', which is not in its folder archive/" in refused(path, beside)
    for version in (b"", b"x", b"11", b"0"):
        assert "of torch's format; supported: 1 to 10" in refused(path, archive(data, version=version))
    big = archive(data, [("archive/data/0", bytes(16)), ("archive/byteorder", b"big")])
    assert "is not little-endian" in refused(path, big)


def test_an_archive_with_64_bit_numbers(tmp_path, monkeypatch):
    """As those of more than 4 GiB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    good, path = archive(tensor(), [("archive/data/0", bytes(16))]), tmp_path / "a.bin"
    assert b"PK\6\6" in good
    path.write_bytes(good)
    assert read(path).tolist() == [0] * 4
    assert "its table is not where its end says" in refused(path, b"PK\3\4" + good)


def test_a_pickle_of_too_many_instructions(monkeypatch):
    monkeypatch.setattr("gpt2c.checkpoint.pickled._MOST_INSTRUCTIONS", 10)
    assert read_pickle(io.BytesIO(pickle.dumps([1, 2, 3], 2)), "a") == [1, 2, 3]
    with pytest.raises(CheckpointError, match="more than 10 instructions"):
        read_pickle(io.BytesIO(pickle.dumps([*range(20)], 2)), "a")


@pytest.mark.parametrize("data", [b"(.", b"](a.", b"}(K\x01s.", b"(\x85."])
def test_a_mark_is_no_value(data):
    with pytest.raises(CheckpointError, match="a has a damaged pickle: a value is missing"):
        read_pickle(io.BytesIO(b"\x80\x02" + data), "a")


def test_an_announced_length_is_not_trusted():
    """A few bytes cannot make the reader reserve gigabytes."""
    for opcode, size in (
        (b"B", "<I"),
        (b"\x8e", "<Q"),
        (b"X", "<I"),
        (b"\x8d", "<Q"),
    ):  # of bytes, and of texts
        data = io.BytesIO(b"\x80\x04" + opcode + struct.pack(size, 2**31) + b".")
        tracemalloc.start()
        with pytest.raises(CheckpointError, match="a value of 2147483648 bytes makes it larger"):
            read_pickle(data, "a")
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    st.integers(3, 5),
)
def test_plain_values_are_those_of_pickle(value, protocol):
    data = pickle.dumps(value, protocol)
    file = io.BytesIO(data + b"more")
    assert read_pickle(file, "a") == value == pickle.loads(data)
    assert file.read() == b"more"


# ---- matrices that are stored the other way


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
@pytest.mark.parametrize("shape", [(2000, 1300), (3, 1 << 19), (1 << 20, 3), (5, 0), (0, 5), (1, 7), (7, 1)])
def test_a_transposed_matrix_is_read_in_blocks(dtype, shape, tmp_path):
    values = np.random.default_rng(1).integers(-100, 100, shape).astype(np.float32)
    (tmp_path / "a").write_bytes(b"start" + encode(values.T, dtype))
    size = values.size * ITEMSIZE[dtype]
    info = TensorInfo("a", dtype, shape[::-1], tmp_path / "a", 5, size).transposed
    with RegularFile(tmp_path / "a") as file:
        tracemalloc.start()
        found = read_tensor(file, info)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.array_equal(found, values) and found.shape == shape and found.flags.c_contiguous
        # The matrix, and of two blocks of a million elements those that it needs.
        assert peak < values.nbytes + min(values.size, 2**20) * (4 + 1 + ITEMSIZE[dtype]) + 2**16
        assert np.array_equal(read_tensor(file, info, 1, 3), values[1:3])
        assert np.array_equal(read_tensor(file, info, -2), values[-2:])


def test_infinities_of_a_transposed_matrix_are_counted(tmp_path):
    values = np.ones((1500, 1500), np.float32)
    values[[3, 700, 1499], [8, 1, 1499]] = np.inf
    (tmp_path / "a").write_bytes(values.tobytes())
    info = TensorInfo("a", "F32", values.shape, tmp_path / "a", 0, values.nbytes).transposed
    with RegularFile(tmp_path / "a") as file, pytest.raises(CheckpointError, match="3 of its 2250000 values"):
        read_tensor(file, info)
