"""What releases are made with: notes, archives of equal bytes, licences, bill of materials, pinned tools."""

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import gpt2c

ROOT = Path(__file__).resolve().parent.parent
RELEASING = ROOT / ".ci/releasing"
if not RELEASING.is_dir():
    pytest.skip("releases are made from a clone, not from an sdist", allow_module_level=True)
sys.path.insert(0, str(RELEASING))
import archives  # noqa: E402
import notes  # noqa: E402
import wheel  # noqa: E402

INFO = "gpt2c-1.0.dist-info"
LIBGOMP = "gpt2c.libs/libgomp-1234.so.1.0.0"


@pytest.fixture(autouse=True)
def date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1796083200")  # 2026-12-01


@pytest.fixture
def files():
    """A small wheel, as auditwheel leaves it."""
    return {
        "gpt2c/core/_kernels.abi3.so": b"code",
        "gpt2c/data/gpt2/ranks.bin": b"ranks",
        LIBGOMP: b"library",
        f"{INFO}/METADATA": b"Metadata-Version: 2.4\nName: gpt2c\nVersion: 1.0\nLicense-Expression: MIT\n"
        b"License-File: LICENSE\nRequires-Dist: numpy\n\nText.\n",
        f"{INFO}/RECORD": b"",
        f"{INFO}/licenses/LICENSE": b"MIT",
    }


def repository(folder, version, changelog):
    (folder / "gpt2c").mkdir()
    (folder / "gpt2c/version.py").write_text(f'__version__ = "{version}"\n')
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}")
    return folder


# ---- notes


def test_the_changelog_has_the_version_or_something_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert notes.version() == gpt2c.__version__
    assert re.search(rf"^## {re.escape(gpt2c.__version__)} \(\d{{4}}-\d\d-\d\d\)$", text, re.MULTILINE)


def test_the_notes_are_the_section_of_the_version(tmp_path):
    root = repository(
        tmp_path, "1.1", "## Unreleased\n\n## 1.1 (2026-12-02)\n\nNew.\n\n## 1.0 (2026-01-01)\n\nOld.\n"
    )
    day, text = notes.section(root)
    assert (day.isoformat(), text) == ("2026-12-02", "New.")


@pytest.mark.parametrize(
    ("changelog", "message"),
    [
        ("## Unreleased\n\nMore.\n\n## 1.1 (2026-12-02)\n\nNew.\n", "move what is in"),
        ("## 1.0 (2026-12-02)\n\nNew.\n", "no section"),
        ("## 1.1\n\nNew.\n", "no section"),
        ("## 1.1 (2026-12-02)\n\n## 1.0 (2026-01-01)\n\nOld.\n", "no section"),
    ],
)
def test_a_changelog_that_is_not_ready_stops_a_release(tmp_path, changelog, message):
    with pytest.raises(SystemExit, match=message):
        notes.check("v1.1", repository(tmp_path, "1.1", changelog))


def test_a_changelog_that_is_ready_lets_a_release_pass(tmp_path):
    notes.check("v1.1", repository(tmp_path, "1.1", "## Unreleased\n\n## 1.1 (2026-12-02)\n\nNew.\n"))


def test_a_tag_that_is_not_the_version_stops_a_release():
    done = subprocess.run(
        [sys.executable, RELEASING / "notes.py", "--check", "v0.0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and f"expected v{gpt2c.__version__}" in done.stderr


# ---- archives


def test_a_wheel_has_the_same_bytes_in_any_order_and_the_given_date(tmp_path, files):
    archives.write_wheel(tmp_path / "a.whl", files)
    archives.write_wheel(tmp_path / "b.whl", dict(reversed(files.items())))
    assert (tmp_path / "a.whl").read_bytes() == (tmp_path / "b.whl").read_bytes()
    assert archives.read_wheel(tmp_path / "a.whl") == files
    with zipfile.ZipFile(tmp_path / "a.whl") as made:
        assert {info.date_time for info in made.infolist()} == {(2026, 12, 1, 0, 0, 0)}
        assert [info.filename.startswith(INFO) for info in made.infolist()] == [False] * 3 + [True] * 3


def sdist(path, members):
    """An sdist with (name, mode, time, owner) of each member."""
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as out:
        for name, mode, time, owner in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime, info.uname = len(name), mode, time, owner
            out.addfile(info, io.BytesIO(name.encode()))
    return path


def test_an_sdist_has_the_same_bytes_whoever_packed_it_and_when(tmp_path):
    one = sdist(tmp_path / "one/x-1.tar.gz", [("x-1/a", 0o600, 5, "me"), ("x-1/run", 0o700, 6, "me")])
    other = sdist(tmp_path / "two/x-1.tar.gz", [("x-1/run", 0o755, 8.5, "you"), ("x-1/a", 0o664, 9, "you")])
    made = []
    for path in (one, other):
        folder = path.parent / "made"
        folder.mkdir()
        archives.rewrite_sdist(path, folder)
        made.append((folder / path.name).read_bytes())
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(made[0]))) as found:
        assert [(m.name, m.mode, m.mtime, m.uname) for m in found] == [
            ("x-1/a", 0o644, 1796083200, ""),
            ("x-1/run", 0o755, 1796083200, ""),
        ]


# ---- what a wheel holds


def test_a_finished_wheel_has_the_licences_of_libgomp_and_names_them(files):
    finished = wheel.with_licences(files)
    text = finished[f"{INFO}/METADATA"].decode()
    assert "License-Expression: MIT AND (GPL-3.0-or-later WITH GCC-exception-3.1)\n" in text
    assert text.endswith("Requires-Dist: numpy\n\nText.\n")
    named = re.findall(r"^License-File: (.+)$", text, re.MULTILINE)
    assert named == ["LICENSE", "libgomp/GCC-exception-3.1.txt", "libgomp/GPL-3.0.txt"]
    assert all(f"{INFO}/licenses/{name}" in finished for name in named)


def test_the_record_has_the_size_and_hash_of_every_file(files):
    rows = list(csv.reader(io.StringIO(wheel.with_record(files)[f"{INFO}/RECORD"].decode())))
    assert {row[0] for row in rows} == set(files)
    for name, digest, size in rows:
        if name == f"{INFO}/RECORD":
            assert digest == size == ""
            continue
        algorithm, _, value = digest.partition("=")
        assert base64.urlsafe_b64decode(value + "=") == hashlib.new(algorithm, files[name]).digest()
        assert int(size) == len(files[name])


def test_every_folder_of_data_has_its_licence_in_wheels_and_in_the_notices():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licences = {path for pattern in project["license-files"] for path in ROOT.glob(pattern)}
    text = (ROOT / "NOTICES.md").read_text(encoding="utf-8")
    for folder in (path for path in (ROOT / "gpt2c/data").iterdir() if path.is_dir() and path.name[0] != "_"):
        assert licences & {folder / "LICENSE", folder / "README.md"}, folder
        assert f"| gpt2c/data/{folder.name}/ |" in text


def test_the_bill_of_materials_has_every_part_with_its_hash(files):
    pytest.importorskip("cyclonedx")
    from bill import bill_of_materials

    assert bill_of_materials(files) == bill_of_materials(dict(reversed(files.items())))
    bill = json.loads(bill_of_materials(files))
    assert bill["metadata"]["timestamp"].startswith("2026-12-01T00:00:00")
    parts = {part["name"]: part for part in bill["components"]}
    assert set(parts) == {"libgomp", "Cython", "GPT-2's vocabulary"}
    (library,) = parts["libgomp"]["components"]
    assert library["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"library").hexdigest()}]
    for unknown in ("gpt2c/data/other/file", "gpt2c.libs/libother-1.so"):
        with pytest.raises(SystemExit, match="other"):
            bill_of_materials({**files, unknown: b""})


# ---- tools


def test_all_tools_are_pinned_with_hashes():
    wanted = re.findall(r"^[a-zA-Z][\w-]*", (RELEASING / "requirements.in").read_text(), re.MULTILINE)
    text = re.sub(r"^\s*#.*\n", "", (RELEASING / "requirements.txt").read_text(), flags=re.MULTILINE)
    pinned = re.split(r"\n(?=\S)", text.strip())
    for requirement in pinned:
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+$", requirement)
    assert {name.lower() for name in wanted} <= {requirement.partition("==")[0] for requirement in pinned}


@pytest.mark.parametrize("name", ["release", "tests"])
def test_workflows_pin_their_actions_and_call_scripts_that_exist(name):
    text = (ROOT / f".github/workflows/{name}.yml").read_text()
    uses = re.findall(r"(?:uses|container): (\S+)", text)
    assert uses and all(re.search(r"@(sha256:)?[0-9a-f]{40}", use) for use in uses)
    scripts = re.findall(r"(?:\.ci|tests)/[\w./-]+", text)
    assert scripts and all((ROOT / script).is_file() for script in scripts)


def test_every_supported_python_is_tested_with_the_oldest_and_the_newest_numpy():
    text = (ROOT / ".github/workflows/tests.yml").read_text()
    assert "python: [cp311-cp311, cp312-cp312, cp313-cp313]" in text and "numpy: [oldest, newest]" in text
    project = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11"' in project
