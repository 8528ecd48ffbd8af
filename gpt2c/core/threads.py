"""The number of threads a model uses."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from ._engine import MOST_THREADS
from .checks import check_integer

__all__ = ["check_threads", "default_threads"]

_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def check_threads(threads: int | None) -> int:
    """The given number of threads, or the default for None."""
    return default_threads() if threads is None else check_integer("threads", threads, 1, MOST_THREADS)


def default_threads() -> int:
    """The number of threads for this process: OMP_NUM_THREADS, or the cores that it may use.

    Without OMP_NUM_THREADS: the physical cores among the CPUs that the process is allowed to run on (two
    hardware threads of a core share its arithmetic units), but no more than the CPU quota of its control
    group (containers).

    Returns
    -------
    int
        At least 1.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list sets nested regions
    if asked.isascii() and asked.isdigit() and int(asked) > 0:
        return min(int(asked), MOST_THREADS)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, min(_physical_cores(allowed), _cgroup_quota()))


def _physical_cores(cpus: Iterable[int]) -> int:
    """The number of different cores that the hardware threads belong to."""
    return len({_read(_CPU / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in cpus})


def _cgroup_quota() -> int:
    """CPUs that the control group (version 2 or 1) may use, rounded up; a huge number if unlimited."""
    quota, period = [*(_read(_CGROUP / "cpu.max") or "").split(), "", ""][:2]
    if not quota:
        quota = _read(_CGROUP / "cpu" / "cpu.cfs_quota_us") or ""
        period = _read(_CGROUP / "cpu" / "cpu.cfs_period_us") or ""
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # "max" or "-1": unlimited
        return 1 << 20
    return max(1, math.ceil(int(quota) / int(period)))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
