"""Makes matrix.json.gz: small tokenizers of every kind, and what transformers gives for them.

``python make_matrix.py PYTHON_4 PYTHON_5``: two interpreters, one with transformers 4.57.6 and tokenizers
0.22.2, one with transformers 5.24.0 and tokenizers 0.23.3, both with sentencepiece and protobuf. The first
makes the folders; each saves some of them again in its own way, and records what its AutoTokenizer gives for
all. Folders for which both give the same have one record. tests/test_tokenizer_matrix.py reads the file.
"""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = ("4.57.6", "5.24.0")
SAVED = (
    "files",
    "byte-template-around",
    "vocab-txt-cased",
    "unigram-end",
    "added-additional",
    "llama",
    "spiece-sw3-additional",
)
"""The folders that each version saves again."""


def main() -> None:
    if sys.argv[1] == "--step":
        STEPS[sys.argv[2]](Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory() as work:
        four, five = sys.argv[1:]
        for name, pythons in (("make", [four]), ("save", [four, five]), ("record", [four, five])):
            for python in pythons:
                subprocess.run([python, __file__, "--step", name, work], check=True)
        joined = join(Path(work))
    text = json.dumps(joined, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    (HERE / "matrix.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    report(joined)


def make(work: Path) -> None:
    """The folders made by hand."""
    import matrix_folders

    _write(work / "folders.json", matrix_folders.folders())


def save(work: Path) -> None:
    """Some folders as this version of transformers saves them."""
    import matrix_parts
    import transformers

    folders = _read(work / "folders.json")
    major = transformers.__version__.split(".")[0]
    for name in SAVED:
        source = matrix_parts.write_folder(folders[name]["files"], work / f"source{major}" / name)
        target = work / f"saved{major}" / name
        transformers.AutoTokenizer.from_pretrained(str(source)).save_pretrained(target)
        files = {path.name: _content(path) for path in sorted(target.iterdir())}
        files["config.json"] = folders[name]["files"]["config.json"]
        folders[f"{name}-saved-by-{major}"] = folders[name] | {"files": files}
    _write(work / "folders.json", folders)


def record(work: Path) -> None:
    """What this version of transformers gives for all folders."""
    import matrix_parts
    import matrix_record
    import transformers

    records = {}
    for name, folder in _read(work / "folders.json").items():
        place = matrix_parts.write_folder(folder["files"], work / transformers.__version__ / name)
        records[name] = matrix_record.record(place, matrix_parts.TEXTS)
    _write(work / f"{transformers.__version__}.json", records)


def join(work: Path) -> dict:
    """Folders with their records: one of both versions, or one of each with what to do about it."""
    import matrix_parts
    from matrix_folders import DIFFERENCES

    folders = _read(work / "folders.json")
    one, two = (_read(work / f"{version}.json") for version in VERSIONS)
    for name, folder in folders.items():
        differs = one[name] != two[name] or "error" in one[name]
        if differs != (name in DIFFERENCES):
            print(f"matrix_folders.DIFFERENCES is wrong about {name}")
        if differs:
            follows, why = DIFFERENCES.get(name, (VERSIONS[0], ""))
            folder |= {"follows": follows, "why": why}
            folder["records"] = dict(zip(VERSIONS, (one[name], two[name]), strict=True))
        else:
            folder["records"] = {"both": one[name]}
    return {"texts": matrix_parts.TEXTS, "folders": folders}


def report(joined: dict) -> None:
    """Say how many folders agree, and which fail."""
    every = joined["folders"]
    print(f"{len(every)} folders, {sum('both' in folder['records'] for folder in every.values())} agree")
    for name, folder in every.items():
        for version, found in folder["records"].items():
            if "error" in found:
                print(f"  {name}: {version} fails, {found['error']}")


def _read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def _content(path: Path):
    import matrix_parts

    binary = path.suffix == ".model"
    return matrix_parts.stored(path.read_bytes() if binary else path.read_text(encoding="utf-8"))


def _write(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True), encoding="utf-8")


STEPS = {"make": make, "save": save, "record": record}

if __name__ == "__main__":
    main()
