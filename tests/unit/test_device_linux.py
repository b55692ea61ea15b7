"""Linux as a tree of files: memory limits of both cgroup versions and their parents, cores, and CPU features."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.device import detect
from edgeinfer.device.linux import cores, memory

GIB = 1 << 30


class Machine:
    """A root folder with the given files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {16 << 20} kB\nMemFree: {1 << 20} kB\nMemAvailable: {12 << 20} kB\n")
        self.write("proc/self/cgroup", "")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_limits_all_of_memory_is_the_ceiling(machine: Machine) -> None:
    found = memory(machine.root)
    assert (found.total_bytes, found.available_bytes, found.ceiling_bytes) == (16 * GIB, 12 * GIB, 16 * GIB)
    assert "meminfo" in found.ceiling_source


def test_v2_limit_and_its_use(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/user/app\n")
    machine.write("sys/fs/cgroup/user/app/memory.max", f"{4 * GIB}\n")
    machine.write("sys/fs/cgroup/user/app/memory.current", f"{3 * GIB}\n")
    machine.write("sys/fs/cgroup/user/app/memory.stat", f"anon {GIB}\ninactive_file {2 * GIB}\n")
    found = memory(machine.root)
    assert found.ceiling_bytes == 4 * GIB
    assert found.available_bytes == 3 * GIB  # the inactive file cache can be given back
    assert found.ceiling_source == "control group limit (/sys/fs/cgroup/user/app)"


def test_v2_a_parent_may_be_tighter_and_max_means_none(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/user/app\n")
    machine.write("sys/fs/cgroup/user/app/memory.max", "max\n")
    machine.write("sys/fs/cgroup/user/memory.max", f"{2 * GIB}\n")
    assert memory(machine.root).ceiling_bytes == 2 * GIB


def test_v2_high_throttles_before_max(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/app\n")
    machine.write("sys/fs/cgroup/app/memory.max", f"{4 * GIB}\n")
    machine.write("sys/fs/cgroup/app/memory.high", f"{3 * GIB}\n")
    assert memory(machine.root).ceiling_bytes == 3 * GIB


def test_v1_limit_and_the_huge_number_that_means_none(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "5:cpuset:/x\n4:memory:/docker/abc\n0::/\n")
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n")
    assert memory(machine.root).ceiling_bytes == 16 * GIB
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", f"{GIB}\n")
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", f"{GIB // 2}\n")
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.stat", f"cache 1\ntotal_inactive_file {GIB // 4}\n")
    found = memory(machine.root)
    assert (found.ceiling_bytes, found.available_bytes) == (GIB, GIB * 3 // 4)


def test_a_container_sees_its_group_at_the_mount(machine: Machine) -> None:
    """The path in /proc is the host's and does not exist in the container; the mount is the container's group."""
    machine.write("proc/self/cgroup", "0::/kubepods/pod7/c1\n")
    machine.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert memory(machine.root).ceiling_bytes == GIB


def test_a_group_over_its_limit_leaves_nothing(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/app\n")
    machine.write("sys/fs/cgroup/app/memory.max", f"{GIB}\n")
    machine.write("sys/fs/cgroup/app/memory.current", f"{2 * GIB}\n")
    assert memory(machine.root).available_bytes == 0


def cpus(machine: Machine, capacities: list[int], siblings: list[str]) -> None:
    for n, (capacity, threads) in enumerate(zip(capacities, siblings, strict=True)):
        machine.write(f"sys/devices/system/cpu/cpu{n}/cpu_capacity", f"{capacity}\n")
        machine.write(f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list", f"{threads}\n")


def test_only_fast_cores_count(machine: Machine) -> None:
    cpus(machine, [1024, 1024, 780, 780, 250, 250], ["0", "1", "2", "3", "4", "5"])
    assert cores(machine.root) == 4


def test_two_threads_of_a_core_count_once(machine: Machine) -> None:
    cpus(machine, [1024] * 4, ["0,2", "1,3", "0,2", "1,3"])
    assert cores(machine.root) == 2


def test_a_cpu_quota_of_either_cgroup_version(machine: Machine) -> None:
    cpus(machine, [1024] * 8, [str(n) for n in range(8)])
    machine.write("proc/self/cgroup", "1:cpu,cpuacct:/app\n0::/app\n")
    assert cores(machine.root) == 8
    machine.write("sys/fs/cgroup/app/cpu.max", "250000 100000\n")
    assert cores(machine.root) == 3
    machine.write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "150000\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n")
    assert cores(machine.root) == 2
    machine.write("sys/fs/cgroup/app/cpu.max", "max 100000\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "-1\n")
    assert cores(machine.root) == 8


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux only")
def test_detect_agrees_with_proc_on_this_machine() -> None:
    found = detect()
    total = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024
    assert found.total_bytes == total
    assert 0 < found.available_bytes <= total and 0 < found.ceiling_bytes <= total
    assert found.n_cores >= 1 and found.bandwidth_bytes_per_s > 10**8
    assert {speed.backend for speed in found.speeds} >= {"gguf"}
    assert not found.named


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max data size             {data:<20} unlimited            bytes
Max address space         {space:<20} unlimited            bytes
"""


@pytest.mark.parametrize(
    ("space", "data", "ceiling", "available", "source"),
    [
        (2 * GIB, "unlimited", 2 * GIB, GIB, "limit of this process's address space (ulimit -v)"),
        ("unlimited", 3 * GIB, 3 * GIB, 5 * GIB // 2, "limit of this process's data size (ulimit -d)"),
        (8 * GIB, 2 * GIB, 2 * GIB, 3 * GIB // 2, "limit of this process's data size (ulimit -d)"),
        (GIB // 2, "unlimited", GIB // 2, 0, "limit of this process's address space (ulimit -v)"),
        (64 * GIB, "unlimited", 16 * GIB, 12 * GIB, "all of memory (/proc/meminfo)"),
    ],
)
def test_process_limits_lower_the_ceiling(
    machine: Machine, space: int | str, data: int | str, ceiling: int, available: int, source: str
) -> None:
    machine.write("proc/self/limits", LIMITS.format(space=space, data=data))
    machine.write("proc/self/status", f"VmPeak:\t{3 << 20} kB\nVmSize:\t{1 << 20} kB\nVmData:\t{1 << 19} kB\n")
    found = memory(machine.root)
    assert (found.ceiling_bytes, found.available_bytes, found.ceiling_source) == (ceiling, available, source)


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="Linux only")
def test_a_limit_set_on_this_process_is_seen() -> None:
    code = (
        "import resource; from pathlib import Path; from edgeinfer.device.linux import memory\n"
        "before = memory(Path('/'))\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({GIB}, resource.RLIM_INFINITY))\n"
        "after = memory(Path('/'))\n"
        f"assert after.ceiling_bytes == min({GIB}, before.ceiling_bytes)\n"
        f"assert after.available_bytes < {GIB}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
