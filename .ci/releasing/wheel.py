"""Finishes a wheel that auditwheel repaired: licences and a bill of materials of everything in it.

    python .ci/releasing/wheel.py WHEEL DIRECTORY

auditwheel adds GNU libgomp, so the wheel gets libgomp's licences, and its metadata name them. The bill of
materials (CycloneDX) goes into the wheel, as PEP 770 says, and beside it. The wheel is written anew by
archives.py, so that equal contents give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from archives import read_wheel, write_wheel

LICENCES = Path(__file__).resolve().parent / "licences"
EXPRESSION = "MIT AND (GPL-3.0-or-later WITH GCC-exception-3.1)"


def dist_info(files: Mapping[str, bytes]) -> str:
    """The name of the folder with the metadata."""
    (found,) = {name.partition("/")[0] for name in files if name.partition("/")[0].endswith(".dist-info")}
    return found


def with_licences(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with the licences of libgomp; the metadata name them."""
    folder = dist_info(files)
    added = {f"libgomp/{path.name}": path.read_bytes() for path in sorted(LICENCES.iterdir())}
    head, blank, description = files[f"{folder}/METADATA"].decode().partition("\n\n")
    lines = head.splitlines()
    place = lines.index("License-Expression: MIT")
    lines[place] = f"License-Expression: {EXPRESSION}"
    last = max(i for i, line in enumerate(lines) if line.startswith("License-File: "))
    lines[last + 1 : last + 1] = [f"License-File: {name}" for name in added]
    metadata = "\n".join(lines) + blank + description
    return {
        **files,
        **{f"{folder}/licenses/{name}": text for name, text in added.items()},
        f"{folder}/METADATA": metadata.encode(),
    }


def with_record(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with a RECORD of their sizes and hashes."""
    name = f"{dist_info(files)}/RECORD"
    lines = []
    for path in sorted(set(files) - {name}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(files[path])}\n")
    return {**files, name: "".join([*lines, f"{name},,\n"]).encode()}


def finish(path: Path, folder: Path) -> None:
    """Write the finished wheel into ``folder``, and its bill of materials beside it."""
    from bill import bill_of_materials  # which needs cyclonedx-python-lib

    files = with_licences(read_wheel(path))
    bill = bill_of_materials(files)
    files[f"{dist_info(files)}/sboms/gpt2c.cdx.json"] = bill
    write_wheel(folder / path.name, with_record(files))
    (folder / f"{path.stem}.cdx.json").write_bytes(bill)


if __name__ == "__main__":
    finish(Path(sys.argv[1]), Path(sys.argv[2]))
