"""Every reader of files: how gpt2c reads one, valid files to begin with, and how an attempt is judged."""

from __future__ import annotations

import io
import json
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gpt2c
from gpt2c.checkpoint.files import RegularFile, read_object
from gpt2c.checkpoint.gguf import read_gguf
from gpt2c.checkpoint.hf_config import config_from_hf
from gpt2c.checkpoint.packed import Packed, open_packed
from gpt2c.checkpoint.safetensors import read_header
from gpt2c.checkpoint.tf_bundle import read_index
from gpt2c.checkpoint.torch_file import checksums, read_torch_file
from gpt2c.corpus.formats import read
from gpt2c.corpus.records import Fault, FileOptions, Job
from gpt2c.errors import CheckpointError, GPT2CError
from gpt2c.tokenizer.files import read_description
from gpt2c.tokenizer.load import made_from, unpack
from helpers.gguf_files import TYPES, gguf_bytes, model_metadata, model_tensors
from helpers.oracle_tokenizers import TEXTS
from helpers.oracles import LIBRARIES, Different, compare
from helpers.saved_tokenizer import described
from helpers.tf_tables import items_of, table
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors
from helpers.tokenizer_kinds import MAKERS

__all__ = [
    "CORPUS",
    "MEGABYTES",
    "READERS",
    "SECONDS",
    "Attempt",
    "attempt",
    "corpus",
    "missing",
    "valid_files",
]

DATA = Path(__file__).parents[1] / "data"
CORPUS = DATA / "corpus"
"""A folder per reader: small files, each of which the code handles in its own way."""
SECONDS, MEGABYTES = 10, 64
os.environ["RUST_BACKTRACE"] = "0"  # else a panic in tokenizers, which is caught, reads 67 MB of symbols
_N_VOCAB = 1000


class Attempt(NamedTuple):
    """What became of a file."""

    accepted: bool
    fault: str | None
    """What should not have happened."""


# ---- how gpt2c reads them


def _packed(path: Path) -> Packed:
    packed = open_packed(path, False)
    packed.weights()
    if packed.vocabulary is not None:
        unpack(packed.vocabulary, str(path), packed.config.n_vocab)
    return packed


def _torch(path: Path) -> Any:
    file = RegularFile(path)
    found = read_torch_file(file)
    if not all(is_right for _, is_right in checksums(file)):  # of the elements, as `gpt2c info --check` does
        raise CheckpointError("a checksum is wrong")
    return found


def _tokenizer(path: Path) -> Any:
    description = read_description(path)
    assert description is not None
    found = made_from(description.content, str(path), _N_VOCAB)
    for text in TEXTS:
        found.encode(text)
    return found


def _config(path: Path) -> dict[str, Any]:
    values = read_object(path)
    config_from_hf(values)
    return values


def _texts(path: Path) -> list[str | None]:
    job = Job(str(path), "", path.suffix, "")
    return [record.text for record in read(job, FileOptions(on_error="stop"))]


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "safetensors": (".safetensors", lambda path: read_header(RegularFile(path))),
    "packed": (".gpt2c", _packed),
    "torch": (".bin", _torch),
    "gguf": (".gguf", lambda path: read_gguf(RegularFile(path))),
    "tensorflow": (".index", lambda path: read_index(RegularFile(path))),
    "tokenizer": (".json", _tokenizer),
    "config": (".json", _config),
    "jsonl": (".jsonl", _texts),
    "csv": (".csv", _texts),
    "parquet": (".parquet", _texts),
}
"""The end of a file's name, and what reads it."""


def missing(readers: Sequence[str]) -> list[str]:
    """Those of the readers that are not compared, with the library that is not installed."""
    absent = {name: library for name, library in LIBRARIES.items() if find_spec(library) is None}
    return [f"{name} ({absent[name]} is not installed)" for name in readers if name in absent]


# ---- one attempt


def attempt(reader: str, data: bytes, folder: Path, *, compared: bool = True) -> Attempt:
    """Read one file, and compare what is accepted with what the format's library reads, if ``compared``."""
    ending, call = READERS[reader]
    path = folder / f"case{ending}"
    path.unlink(missing_ok=True)  # file systems flush a file that is truncated and written again
    path.write_bytes(data)
    before, began = _settled(), time.monotonic()
    found, accepted, fault = None, False, None
    try:
        found = call(path)
        accepted = True
    except (GPT2CError, Fault):
        pass
    except Exception as error:  # any other is what is looked for
        of_file = type(error) is ValueError and str(error).startswith(str(path))
        if not (call is _texts and of_file):
            fault = f"{type(error).__name__}: {str(error)[:200]}"
    seconds, grown = time.monotonic() - began, _peak() - before
    if seconds > SECONDS:
        fault = f"took {seconds:.0f} s"
    if grown > MEGABYTES << 20:
        fault = f"{grown >> 20} MB more"
    if accepted and compared and fault is None:
        try:
            compare(reader, path, found)
        except Different as error:
            fault = str(error)
    return Attempt(accepted, fault)


def _peak() -> int:
    """The most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _settled() -> int:
    """The memory of the process, in bytes. Its peak is forgotten if that would hide another."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    if _peak() - now > MEGABYTES << 18:  # a quarter
        Path("/proc/self/clear_refs").write_text("5")
    return now


# ---- what to begin with


@cache
def corpus(reader: str) -> tuple[bytes, ...]:
    """The small files that fuzzing found, in the order of their names."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / reader).glob("*")))


@cache
def valid_files(reader: str) -> tuple[bytes, ...]:
    """Files that are read, of every kind."""
    made = _VALID[reader]()
    return tuple(data if isinstance(data, bytes) else json.dumps(data).encode() for data in made)


def _valid_safetensors() -> list[Any]:
    several = {"a": np.ones(3), "b": np.ones((2, 2)), "c": np.zeros((0, 4)), "d": np.float32(1)}
    dtypes = {"a": "BF16", "b": "I64", "c": "F32", "d": "F16"}
    described = {"__metadata__": {"format": "pt", "é": "\u2028"}}
    return [
        safetensors_bytes(tiny_tensors()),
        safetensors_bytes({"a": np.ones(3), "b": np.ones((2, 2))}),
        safetensors_bytes(several, dtypes, **described),
        safetensors_bytes({}),
    ]


def _valid_packed() -> list[Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), []
        (folder / "config.json").write_text(json.dumps(TINY))
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tiny_tensors()))
        for dtype, letters in (("float32", None), ("int8", "abcdefghijk"), ("int4", None)):
            tokenizer = (
                None
                if letters is None
                else gpt2c.tokenizer.characters.CharacterTokenizer(list(letters), name="letters")
            )
            model = gpt2c.GPT2.from_pretrained(name, tokenizer=tokenizer, dtype=dtype)
            model.save(folder / "small.gpt2c")
            files.append((folder / "small.gpt2c").read_bytes())
    return files


def _valid_torch() -> list[Any]:
    return [path.read_bytes() for path in sorted((DATA / "torch").glob("*.[bp][it]*"))]


def _valid_gguf() -> list[Any]:
    metadata = model_metadata() | {
        "general.alignment": 64,
        "tokens": ["a", "é", ""],
        "flags": [1, -2],
        "b": True,
    }
    kinds = {name: (kind, [256], bytes(_bytes_of(name))) for name, kind in TYPES.items()}
    return [
        gguf_bytes(model_metadata(), model_tensors()),
        gguf_bytes(metadata, kinds, alignment=64),
        gguf_bytes({}, {}, version=2),
    ]


def _bytes_of(kind: str) -> int:
    """The bytes of 256 elements."""
    blocks = {"Q4_0": 144, "Q4_1": 160, "Q5_0": 176, "Q5_1": 192, "Q8_0": 272}
    return (blocks | {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "F32": 1024, "F64": 2048}).get(kind, 512)


def _valid_tensorflow() -> list[Any]:
    files = [
        (DATA / "openai" / name).read_bytes() for name in ("half/model.ckpt.index", "run1/model-1.index")
    ]
    return [*files, table(items_of(files[0]), in_a_block=2)]


def _valid_tokenizers() -> list[Any]:
    plain = described()
    ids = plain["model"]["vocab"]
    token = next(text for text in ids if len(text) == 1)
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]}}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    around = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    kinds = [json.loads(make().to_str()) for make in MAKERS.values()] if find_spec("tokenizers") else []
    return [plain, described(post_processor=around), *kinds]


def _valid_configs() -> list[Any]:
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "problem_type": None}
    more = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True}
    classifier = {"architectures": ["GPT2ForSequenceClassification"], "pad_token_id": 3}
    return [TINY, TINY | more, TINY | classifier | labels]


def _valid_parquet() -> list[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.table({"text": ["a", "bc", "d é", None] * 3, "n": list(range(12))})
    files = []
    for how in (
        {},
        {"use_dictionary": False, "compression": "none", "row_group_size": 5, "write_page_checksum": True},
        {"version": "1.0", "data_page_version": "2.0", "compression": "zstd", "store_schema": False},
        {
            "column_encoding": {"text": "DELTA_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED"},
            "use_dictionary": False,
        },
    ):
        out = io.BytesIO()
        parquet.write_table(texts.slice(len(files)), out, **how)
        files.append(out.getvalue())
    return files


_VALID: dict[str, Callable[[], list[Any]]] = {
    "safetensors": _valid_safetensors,
    "packed": _valid_packed,
    "torch": _valid_torch,
    "gguf": _valid_gguf,
    "tensorflow": _valid_tensorflow,
    "tokenizer": _valid_tokenizers,
    "config": _valid_configs,
    "jsonl": lambda: [b'{"text": "a b", "n": 1}\n{"text": "\\u00e9"}\n', b'\xef\xbb\xbf{"text": null}\r\n\n'],
    "csv": lambda: [
        b'text,n\n"a, ""b""",1\nc d,2\n',
        b'\xef\xbb\xbfn;text\r\n1;"a\r\nb"\r\n',
        b"text\na\n\nb",
    ],
    "parquet": _valid_parquet,
}
