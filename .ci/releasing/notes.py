"""The section of CHANGELOG.md about the version being released, as the notes of the release.

    python .ci/releasing/notes.py                    prints the notes
    python .ci/releasing/notes.py --date             prints the day of the release as seconds since 1970
    python .ci/releasing/notes.py --check v0.2.0     whether all is ready for a release with this tag

The version is that of gpt2c/version.py. Exit status 1: the changelog has no dated section about it; with
--check also: the tag is not its own, or something is in "Unreleased".
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


def sections(root: Path) -> dict[str, tuple[str | None, str]]:
    """Day and text of each section of the changelog, by version."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return {m[1]: (m[2], text[m.end() : end].strip()) for m, end in zip(headings, ends, strict=True)}


def section(root: Path = ROOT) -> tuple[datetime.date, str]:
    """Day and text of the section about the version."""
    wanted = version(root)
    day, notes = sections(root).get(wanted, (None, ""))
    if not day or not notes:
        sys.exit(f'CHANGELOG.md has no section "## {wanted} (YYYY-MM-DD)", as gpt2c/version.py says')
    return datetime.date.fromisoformat(day), notes


def check(tag: str, root: Path = ROOT) -> None:
    """Stop a release that is not ready."""
    wanted = version(root)
    if tag != f"v{wanted}":
        sys.exit(f"the tag is {tag}, but gpt2c/version.py says {wanted}: expected v{wanted}")
    if sections(root).get("Unreleased", (None, ""))[1]:
        sys.exit(f'CHANGELOG.md: move what is in "Unreleased" to the section of {wanted}')
    section(root)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", metavar="TAG")
    parser.add_argument("--date", action="store_true")
    options = parser.parse_args()
    if options.check:
        return check(options.check)
    day, notes = section()
    if options.date:
        print(int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()))
    else:
        print(notes)


if __name__ == "__main__":
    main()
