"""Files that appear once they are complete: what a kill leaves, links, full disks, the order of writes."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys

import pytest
from helpers.command_line import TIMEOUT, command, environment

from gpt2c.core.files import replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_killed_processes_left_of_a_file_is_removed(tmp_path):
    target = tmp_path / "model.gpt2c"
    code = (
        "import os, sys, signal; from gpt2c.core.files import replacing\n"
        "with replacing(sys.argv[1], binary=True) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):  # the second one removes what the first one left
        subprocess.run([sys.executable, "-c", code, target], timeout=TIMEOUT, env=environment())
        (left,) = names(tmp_path)
        assert left.startswith("model.gpt2c.") and left.endswith(".part")
    (tmp_path / "model.gpt2c.notes.part").write_text("not ours")
    (tmp_path / "other.gpt2c.0123abcd.part").write_text("of another file")
    with open(tmp_path / "model.gpt2c.0123abcd.part", "w") as busy:  # of a process that is still writing
        fcntl.flock(busy, fcntl.LOCK_EX)
        with replacing(str(target)) as file:
            file.write("whole")
        assert names(tmp_path) == [
            "model.gpt2c",
            "model.gpt2c.0123abcd.part",
            "model.gpt2c.notes.part",
            "other.gpt2c.0123abcd.part",
        ]
    assert target.read_text() == "whole"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    target = tmp_path / "file"
    with replacing(str(target)) as one, replacing(str(target)) as other:
        one.write("one")
        other.write("other")
    assert target.read_text() == "one" and names(tmp_path) == ["file"]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    target.chmod(0o640)
    with replacing(str(target)) as file:
        file.write("new")
    assert target.read_text() == "new" and target.stat().st_mode & 0o7777 == 0o640


def test_a_link_in_place_of_the_unfinished_file_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out.part").symlink_to(tmp_path / "precious")
    with (
        pytest.raises(OSError, match=r"out\.part is a link, and gpt2c never writes through links: remove it"),
        replacing(str(tmp_path / "out"), take_over=True),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
    assert names(tmp_path) == ["out.part", "precious"]


@pytest.mark.parametrize("take_over", [False, True])
def test_the_bytes_are_on_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch, take_over):
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        found = os.fstat(descriptor)
        calls.append("directory" if os.path.samestat(found, os.stat(tmp_path)) else found.st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), replace(*a)))
    with replacing(str(tmp_path / "file"), take_over=take_over) as file:
        file.write("five5")
    assert calls == [5, "rename", "directory"]


def test_file_systems_that_promise_little_are_written_to(tmp_path, monkeypatch):
    def refuse(number):
        def refused(*_):
            raise OSError(number, os.strerror(number))

        return refused

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))  # as some network file systems do
    monkeypatch.setattr(os, "listdir", refuse(errno.EACCES))  # a directory to write into, not to look into
    with replacing(str(tmp_path / "file")) as file:
        file.write("x")
    assert (tmp_path / "file").read_text() == "x"
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))  # found out late
    with (
        pytest.raises(OSError, match="cannot be written") as caught,
        replacing(str(tmp_path / "other")) as file,
    ):
        file.write("x")
    assert caught.value.filename == str(tmp_path / "other") and not (tmp_path / "other").exists()


@pytest.mark.parametrize("take_over", [False, True])
def test_nothing_is_left_of_a_file_that_cannot_be_emptied(take_over, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "ftruncate", refused)
    with (
        pytest.raises(OSError, match="cannot be written: Input/output error"),
        replacing(str(tmp_path / "file"), take_over=take_over),
    ):
        raise AssertionError("it was opened")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("binary", [False, True])
def test_a_full_disk_names_the_file(tmp_path, binary):
    with pytest.raises(OSError) as caught, replacing("/dev/full", binary=binary) as file:
        file.write(b"x" if binary else "x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    target = str(tmp_path / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # stands for a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught, replacing(target, binary=binary) as file:
            file.write((b"x" if binary else "x") * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, target)
    assert names(tmp_path) == []


def test_the_command_names_the_file_on_a_full_disk():
    done = subprocess.run(
        command("suggest", "x", "-o", "/dev/full"), capture_output=True, timeout=TIMEOUT, env=environment()
    )
    assert done.returncode == 1
    assert done.stderr == b"gpt2c: error: /dev/full: cannot be written: No space left on device\n"


def test_other_errors_keep_their_own_words(tmp_path):
    with pytest.raises(OSError, match=r"^mine$"), replacing(str(tmp_path / "file")):
        raise OSError("mine")
    assert names(tmp_path) == []
