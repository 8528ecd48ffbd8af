"""Every kind of tokenizer that GPT-2 checkpoints come with, against transformers: recorded, and live.

``data/tokenizer/matrix.json.gz`` holds the folders and what AutoTokenizer of transformers 4.57.6 and 5.24
gives for them (data/tokenizer/README.md). ``pytest -m oracle`` compares with the transformers that is
installed, also on random texts.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from data.tokenizer import matrix_parts, matrix_record

from gpt2c import TokenizerError
from gpt2c.tokenizer import load_tokenizer
from gpt2c.tokenizer.bpe import BPETokenizer
from gpt2c.tokenizer.load import unpack

DATA = Path(__file__).parent / "data" / "tokenizer" / "matrix.json.gz"
MATRIX = json.loads(gzip.decompress(DATA.read_bytes()))
TEXTS, FOLDERS = MATRIX["texts"], MATRIX["folders"]
OLD, NEW = "4.57.6", "5.24.0"


def expected(folder: dict) -> dict:
    """The record that gpt2c follows."""
    records = folder["records"]
    if folder.get("follows") == "tokenizers":
        tokenizers = pytest.importorskip("tokenizers")
        newer = tuple(map(int, tokenizers.__version__.split(".")[:2])) >= (0, 23)
        return records[NEW if newer else OLD]
    if folder.get("follows") in FOLDERS:
        return expected(FOLDERS[folder["follows"]])
    return records.get("both") or records[folder["follows"]]


READ = sorted(name for name in FOLDERS if FOLDERS[name]["runs_on"] != "refused")
REFUSED = sorted(FOLDERS.keys() - set(READ))


@pytest.fixture(scope="module", params=READ)
def case(request, tmp_path_factory):
    """A folder's tokenizer, and its record. Where it is not needed, ``tokenizers`` cannot be imported."""
    folder = FOLDERS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        if folder["runs_on"] in ("tiktoken", "sentencepiece"):
            patch.setitem(sys.modules, "tokenizers", None)
        else:
            pytest.importorskip("tokenizers")
        if any(name.endswith(".model") for name in folder["files"]):
            pytest.importorskip("sentencepiece")
        record = expected(folder)
        directory = matrix_parts.write_folder(folder["files"], tmp_path_factory.mktemp("m") / request.param)
        n_vocab = record["last_id"] + 1
        tokenizer = load_tokenizer(directory, SimpleNamespace(n_vocab=n_vocab))
        yield SimpleNamespace(tokenizer=tokenizer, record=record, directory=directory, **folder)


def ids_of(tokenizer, texts: list[str], record: dict) -> tuple[dict, dict]:
    """What `encode` gives for the texts, and what it should give."""
    prefix, suffix = list(tokenizer.prefix), list(tokenizer.suffix)
    got, right = {}, {}
    for text, row in zip(texts, record["texts"], strict=True):
        ids, special = tokenizer.encode(text), tokenizer.encode(text, special=True)
        got[text] = (ids, special, prefix + ids + suffix)
        right[text] = (row["ids"], row["special"], row["around"])
    return got, right


def offsets_of(tokenizer, texts: list[str], record: dict) -> tuple[dict, dict]:
    got, right = {}, {}
    for text, row in zip(texts, record["texts"], strict=True):
        for ids, offsets in ((row["ids"], "offsets"), (row["special"], "special_offsets")):
            places = row.get(offsets)
            if places is not None:
                got[text, offsets] = tokenizer.offsets(text, ids, special=offsets == "special_offsets")
                right[text, offsets] = list(zip(places[::2], places[1::2], strict=True))
    return got, right


def decoded_of(tokenizer, record: dict) -> tuple[list, list]:
    """The text of ids and of their beginnings, and what it should be."""
    got, right = [], []
    for ids, row in rows_of(record):
        cuts = {cut: tokenizer.decode(ids[: int(cut)]) for cut in row["before"]}
        got.append((ids, tokenizer.decode(ids), cuts))
        right.append((ids, row["decoded"], row["before"]))
    return got, right


def streamed_of(tokenizer, record: dict) -> tuple[list, list]:
    """What comes out token by token, from the beginning and behind the first tokens, and what should."""
    got, right = [], []
    for ids, row in rows_of(record):
        for cut, text in {"0": "", **row["before"]}.items():
            at = int(cut)
            decoder = tokenizer.decoder(ids[:at])
            got.append((ids, at, "".join([*map(decoder.push, ids[at:]), decoder.flush()])))
            right.append((ids, at, row["decoded"][len(text) :]))
            if not record["is_fast"] and {*record["named"].values()} & {*ids[at:]}:
                # A space that a special token puts before text: it has been shown. See test_gptsw3.py.
                shown = row["decoded"].replace(" ", "")[len(text.replace(" ", "")) :]
                got[-1], right[-1] = (*got[-1][:2], got[-1][2].replace(" ", "")), (ids, at, shown)
    return got, right


def rows_of(record: dict) -> list[tuple[list[int], dict]]:
    """The ids of every record of decoded text."""
    return [(row["around"], row) for row in record["texts"]] + [(row["ids"], row) for row in record["loose"]]


def check_all(tokenizer, texts: list[str], record: dict) -> None:
    for got, right in (
        ids_of(tokenizer, texts, record),
        offsets_of(tokenizer, texts, record),
        decoded_of(tokenizer, record),
        streamed_of(tokenizer, record),
    ):
        assert got == right


def test_the_matrix_is_large_enough():
    agree = {name for name in READ if "both" in FOLDERS[name]["records"]}
    assert len(agree) >= 60 and len(TEXTS) >= 40
    assert all(FOLDERS[name]["why"] for name in set(READ) - agree)
    assert len(REFUSED) <= 3


def test_who_runs_it(case):
    assert isinstance(case.tokenizer, BPETokenizer) == (case.runs_on == "tiktoken")


def test_ids(case):
    got, right = ids_of(case.tokenizer, TEXTS, case.record)
    assert got == right


def test_sizes_and_special_tokens(case):
    assert case.tokenizer.special_tokens == case.record["special"]
    assert case.record["named"].items() <= case.tokenizer.special_tokens.items()
    assert case.tokenizer.n_vocab == case.record["last_id"] + 1


def test_offsets(case):
    got, right = offsets_of(case.tokenizer, TEXTS, case.record)
    assert got == right


def test_decoded_text(case):
    got, right = decoded_of(case.tokenizer, case.record)
    assert got == right


def test_streamed_text(case):
    got, right = streamed_of(case.tokenizer, case.record)
    assert got == right


def test_packed(case):
    packed = json.loads(json.dumps(case.tokenizer.packed()))
    again = unpack(packed, "model.gpt2c", case.record["last_id"] + 1)
    assert (again.prefix, again.suffix) == (case.tokenizer.prefix, case.tokenizer.suffix)
    assert again.special_tokens == case.record["special"]
    check_all(again, TEXTS, case.record)


def test_a_larger_embedding(case):
    larger = load_tokenizer(case.directory, SimpleNamespace(n_vocab=case.record["last_id"] + 8))
    got, right = ids_of(larger, TEXTS, case.record)
    assert got == right


CONTINUED = {
    "byte-json-prefix-space": "byte-json",
    "byte-json-prefix-space-inside": "byte-json",
    "byte-prepend": "byte-json",
    "files-prefix-space": "files",
    "llama": "llama-never",
    "llama-bos": "llama-never",
    "llama-first": "llama-never",
    "metaspace-always": "metaspace-never",
    "metaspace-around": "metaspace-never",
    "metaspace-first": "metaspace-never",
    "metaspace-legacy": "metaspace-never",
    "spiece-sw3-spaces": "spiece-sw3-spaces-never",
    "unigram": "unigram-never",
    "unigram-end": "unigram-never",
}
"""Folders that put a space before a text, and the same that do not: both are recorded."""


@pytest.mark.parametrize("name", sorted(FOLDERS.keys() & CONTINUED))
def test_a_text_that_goes_on_behind_another(name, tmp_path):
    pytest.importorskip("tokenizers")
    record = expected(FOLDERS[name])
    directory = matrix_parts.write_folder(FOLDERS[name]["files"], tmp_path)
    tokenizer = load_tokenizer(directory, SimpleNamespace(n_vocab=record["last_id"] + 1))
    rows = expected(FOLDERS[CONTINUED[name]])["texts"]
    special = set(record["special"].values())
    got, right = {}, {}
    for text, whole, row in zip(TEXTS, record["texts"], rows, strict=True):
        if "\u2581" in text:  # it is what the space becomes
            continue
        got[text] = [tokenizer.encode(text, special=read, continued=True) for read in (False, True)]
        # Behind a special token, transformers puts the space again.
        at, place = (first(special, found) for found in (row["special"], whole["special"]))
        right[text] = [row["ids"], row["special"][:at] + whole["special"][place:]]
    assert got == right
    assert [row["ids"] for row in record["texts"]] != [row["ids"] for row in rows]


def first(special: set[int], ids: list[int]) -> int:
    """Where the first special token stands; the length where there is none."""
    return next((at for at, token in enumerate(ids) if token in special), len(ids))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    pytest.importorskip("tokenizers")
    directory = matrix_parts.write_folder(FOLDERS[name]["files"], tmp_path)
    with pytest.raises(TokenizerError):
        load_tokenizer(directory, SimpleNamespace(n_vocab=1000))


def random_texts(name: str) -> list[str]:
    """Twelve texts of pieces of the recorded ones."""
    choose = random.Random(f"texts of {name}")
    pieces = [text[at : at + 4] for text in TEXTS for at in range(0, len(text), 4)]
    pieces += ["<new>", "upper", "[SEP]", "</s>", "<sep>", "<|endoftext|>", " ", "\u2581", "\n"]
    return ["".join(choose.choices(pieces, k=choose.randint(1, 12))) for _ in range(12)]


@pytest.mark.oracle
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_live(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    for library in ("tokenizers", "sentencepiece", "google.protobuf"):
        pytest.importorskip(library)
    version = transformers.__version__
    if version not in (OLD, NEW):
        pytest.skip(f"{OLD} and {NEW} are recorded, not {version}")
    folder = FOLDERS[name]
    directory = matrix_parts.write_folder(folder["files"], tmp_path / name)
    record = matrix_record.record(directory, TEXTS)
    assert json.loads(json.dumps(record)) == (folder["records"].get("both") or folder["records"][version])

    if name in READ and record == expected(folder):
        tokenizer = load_tokenizer(directory, SimpleNamespace(n_vocab=record["last_id"] + 1))
        texts = random_texts(name)
        check_all(tokenizer, texts, matrix_record.record(directory, texts))
