"""The default number of threads, against made-up machines."""

import os

import pytest

from gpt2c.core import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that lays out a machine: the siblings of each CPU, and files of the control group."""

    def lay_out(siblings, allowed=None, **cgroup_files):
        for cpu, shared in enumerate(siblings):
            folder = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(shared + "\n")
        for name, content in cgroup_files.items():
            path = tmp_path / "cgroup" / name.replace("cpu_max", "cpu.max")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        monkeypatch.setattr(threads, "_CPU", tmp_path / "cpu")
        monkeypatch.setattr(threads, "_CGROUP", tmp_path / "cgroup")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid: set(range(len(siblings)) if allowed is None else allowed)
        )
        return threads.default_threads()

    return lay_out


def test_hardware_threads_of_a_core_count_once(machine):
    assert machine(["0,2", "1,3", "0,2", "1,3"]) == 2


def test_affinity_limits(machine):
    assert machine(["0", "1", "2", "3"], allowed=[1, 3]) == 2


@pytest.mark.parametrize(
    ("content", "expected"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 4)]
)
def test_quota_of_the_control_group(machine, content, expected):
    assert machine(["0", "1", "2", "3"], cpu_max=content) == expected


def test_quota_of_version_1(machine, tmp_path):
    folder = tmp_path / "cgroup" / "cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("200000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine(["0", "1", "2", "3"]) == 2


def test_unknown_topology_counts_cpus(machine):
    assert machine([], allowed=[0, 1, 2]) == 3


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("5,2", 5), ("0", None), ("-2", None), ("many", None), ("", None)]
)
def test_omp_num_threads_wins(machine, monkeypatch, value, expected):
    found = machine(["0", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.default_threads() == (expected or found)
