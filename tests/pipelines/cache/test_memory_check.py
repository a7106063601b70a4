"""What is free for a cache, and the refusal of one that does not fit."""

from pathlib import Path

import pytest
import torch

from semipose.configs.load import InputError
from semipose.pipelines.cache import memory_check
from semipose.pipelines.cache.memory_check import GIB, cgroup_memory, host_memory, require_room

CPU = torch.device("cpu")


def write_group(folder: Path, limit: object, usage: int, unused_pages: int, *, version: int = 2) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {unused_pages}\nfile 9\n")


def test_every_cgroup_above_a_process_limits_it(tmp_path: Path) -> None:
    mount, membership = tmp_path / "cgroup", tmp_path / "self"
    membership.write_text("0::/jobs/one\n")
    assert cgroup_memory(mount, membership) == []
    write_group(mount / "jobs" / "one", 8 * GIB, 3 * GIB, GIB)
    write_group(mount / "jobs", "max", 20 * GIB, 0)
    write_group(mount, 10 * GIB, 9 * GIB, 0)
    assert cgroup_memory(mount, membership) == [(6 * GIB, 8 * GIB), (GIB, 10 * GIB)]


def test_cgroups_of_version_1_and_of_a_container(tmp_path: Path) -> None:
    """A container sees its own group as the mount, by a path that is there on its host only."""
    mount, membership = tmp_path / "cgroup", tmp_path / "self"
    membership.write_text("7:cpu,cpuacct:/docker/5\n4:memory:/docker/5\n")
    write_group(mount / "memory", 4 * GIB, GIB, 0, version=1)
    assert cgroup_memory(mount, membership) == [(3 * GIB, 4 * GIB)]
    write_group(mount / "memory", 2**63 - 4096, GIB, 0, version=1)
    assert cgroup_memory(mount, membership) == []
    assert cgroup_memory(mount, tmp_path / "none") == []


def test_this_machine_has_memory() -> None:
    free, total = host_memory()
    assert 0 < free < total
    require_room(1000, "host", CPU, what="people")


@pytest.mark.parametrize("home", ["host", "device"])  # on a CPU run the host is the device
def test_what_does_not_fit_is_refused_with_its_size(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "host_memory", lambda: (12 * GIB, 20 * GIB))
    require_room(10 * GIB, home, CPU, what="people")
    with pytest.raises(
        InputError,
        match=r"data\.cache: the decoded crops of 9 people need 10\.5 GiB, but of the 12 GiB free on this "
        r"machine, 2 are reserved .*: set data\.cache to none",
    ):
        require_room(21 * GIB // 2, home, CPU, what="9 people")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    require_room(5 * GIB // 2, home, CPU, what="people")
    with pytest.raises(InputError, match=r"need 3 GiB in each of 4 processes"):
        require_room(3 * GIB, home, CPU, what="people")


def test_the_memory_of_a_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * GIB, 80 * GIB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    gpu = torch.device("cuda", 0)
    require_room(50 * GIB, "device", gpu, what="people")
    with pytest.raises(
        InputError, match=r"70 GiB free on the device, 20 are reserved .*set data\.cache to host"
    ):
        require_room(51 * GIB, "device", gpu, what="people")
    monkeypatch.setattr(memory_check, "host_memory", lambda: (500 * GIB, 900 * GIB))
    require_room(51 * GIB, "host", gpu, what="people")
    with pytest.raises(InputError, match=r"data\.cache to none"):
        require_room(52 * GIB, "host", gpu, what="people")
