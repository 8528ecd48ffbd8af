"""Archives whose bytes depend on the names and the contents of their files alone.

    python .ci/releasing/archives.py SDIST DIRECTORY     writes an sdist again that way

Files are in the order of their names, their time is SOURCE_DATE_EPOCH (seconds since 1970; zip files cannot
hold a time before 1980), they belong to nobody, and everybody may read them.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path


def epoch() -> int:
    """The time that files get."""
    return int(os.environ["SOURCE_DATE_EPOCH"])


def mode(executable: bool) -> int:
    return 0o755 if executable else 0o644


def rewrite_sdist(path: Path, folder: Path) -> None:
    """Write the sdist ``path`` into ``folder``, under its own name."""
    with (
        tarfile.open(path) as source,
        (folder / path.name).open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=epoch()) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out,
    ):
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            if not member.isfile():
                continue  # folders come from the names; links would be a mistake
            clean = tarfile.TarInfo(member.name)
            clean.size, clean.mtime, clean.mode = member.size, epoch(), mode(bool(member.mode & 0o100))
            content = source.extractfile(member)
            assert content is not None
            out.addfile(clean, content)


def read_wheel(path: Path) -> dict[str, bytes]:
    """The files of a wheel, by name."""
    with zipfile.ZipFile(path) as source:
        return {info.filename: source.read(info) for info in source.infolist() if not info.is_dir()}


def write_wheel(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a wheel: the package first, then its .dist-info, as the format recommends."""
    date = time.gmtime(epoch())[:6]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            info = zipfile.ZipInfo(name, date)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix: the rights below hold
            info.external_attr = (0o100000 | mode(".so" in Path(name).name)) << 16
            out.writestr(info, files[name], compresslevel=9)
    path.write_bytes(packed.getvalue())


if __name__ == "__main__":
    sdist, folder = map(Path, sys.argv[1:])
    rewrite_sdist(sdist, folder)
