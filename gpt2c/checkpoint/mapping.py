"""The bytes of a whole file: mapped, or read into memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..core import _engine
from ..errors import CheckpointError
from .files import RegularFile, reading

__all__ = ["bytes_of", "is_on_network"]

# Where another machine can truncate a file, or the network can fail, while it is mapped.
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2"),
    *("orangefs", "smb3", "smbfs", "virtiofs"),
}
_MOUNTS = Path("/proc/self/mountinfo")


def is_on_network(file: RegularFile) -> bool:
    """Whether a file lies in a network file system, or in one of a program (FUSE)."""
    try:
        device = os.fstat(file.fileno()).st_dev
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no /proc
        return False
    here = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:  # proc_pid_mountinfo(5)
        before, _, after = line.partition(" - ")
        if before.split(" ", 3)[2:3] == [here]:
            kind = after.split(" ", 1)[0]
            return kind in _NETWORK or kind.startswith("fuse.")
    return False


def bytes_of(file: RegularFile, map: bool | None = None) -> tuple[np.ndarray, Callable[[], None] | None]:
    """All bytes of a file, aligned to 64, and what to call before they are used again.

    Parameters
    ----------
    file : RegularFile
    map : bool, optional
        Map them, read-only; if False, read them. By default they are mapped unless `is_on_network`.

    Returns
    -------
    np.ndarray
        uint8.
    callable or None
        For mapped bytes: raises CheckpointError if the file has been changed since. To touch pages beyond the
        end of a truncated file would end the process with SIGBUS.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was changed meanwhile.
    """
    path = file.path
    mapped = not is_on_network(file) if map is None else map
    if mapped:
        with reading(path):
            found = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    else:
        found = _engine.aligned_empty(-(-file.size // 4)).view(np.uint8)[: file.size]
        file.read_into(found.data, 0)
    if not file.is_unchanged():
        raise CheckpointError(
            f"{path} was changed while opening it: load it again when the program that writes it has finished"
        )

    def check() -> None:
        if not file.is_unchanged():
            raise CheckpointError(
                f"{path} was changed while it was in use: load the model again; replace such a file by "
                "renaming another over it, or load it with map=False (--no-map)"
            )

    return found, check if mapped else None
