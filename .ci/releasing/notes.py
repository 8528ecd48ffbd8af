"""The section of CHANGELOG.md about the version being released, as the notes of the release.

    python .ci/releasing/notes.py [--tag v0.2.0]     prints the notes
    python .ci/releasing/notes.py --date             prints the day of the release as seconds since 1970

The version is that of gpt2c/version.py. Exit status 1: the changelog has no dated section about it, something
follows in "Unreleased", or the tag is not its own.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## (\S+)(?: \((\d{4}-\d{2}-\d{2})\))?$", re.MULTILINE)


def version(root: Path = ROOT) -> str:
    """The version that gpt2c/version.py states."""
    text = (root / "gpt2c/version.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found


def section(root: Path = ROOT) -> tuple[datetime.date, str]:
    """Day and text of the changelog's section about the version."""
    text, wanted = (root / "CHANGELOG.md").read_text(encoding="utf-8"), version(root)
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    parts = {m[1]: (m[2], text[m.end() : end].strip()) for m, end in zip(headings, ends, strict=True)}
    if parts.get("Unreleased", ("", ""))[1]:
        sys.exit(f'CHANGELOG.md: move what is in "Unreleased" to the section of {wanted}')
    day, notes = parts.get(wanted, (None, ""))
    if not day or not notes:
        sys.exit(f'CHANGELOG.md has no section "## {wanted} (YYYY-MM-DD)", as gpt2c/version.py says')
    return datetime.date.fromisoformat(day), notes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tag", help="the tag of the release, which must be v and the version")
    parser.add_argument("--date", action="store_true")
    options = parser.parse_args()
    if options.tag and options.tag != f"v{version()}":
        sys.exit(f"the tag is {options.tag}, but gpt2c/version.py says {version()}: expected v{version()}")
    day, notes = section()
    if options.date:
        print(int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()))
    else:
        print(notes)


if __name__ == "__main__":
    main()
