"""Checks that a cache fits into the free memory of this machine, of the process's cgroup, or of a GPU."""

import os
from pathlib import Path

import psutil
import torch

from semipose.configs.load import InputError

GIB = 2**30
KEPT_SHARE = {"host": 0.1, "device": 0.25}
"""Share of all memory that must stay free; on the device for networks, gradients and activations."""

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def require_room(needed: int, home: str, device: torch.device, *, what: str) -> None:
    """Raise InputError if `needed` bytes do not fit.

    home: "host" or "device". On the host, every process of the machine needs as much.
    """
    on_gpu = home == "device" and device.type == "cuda"
    processes = 1 if on_gpu else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free, total = torch.cuda.mem_get_info(device) if on_gpu else host_memory()
    kept = int(KEPT_SHARE["device" if on_gpu else "host"] * total)
    if needed * processes <= free - kept:
        return
    per_process = f" in each of {processes} processes" if processes > 1 else ""
    where = "on the device" if on_gpu else "on this machine"
    cure = "host (kept by the machine, copied batch by batch) or none" if on_gpu else "none"
    raise InputError(
        f"data.cache: the decoded crops of {what} need {needed / GIB:.3g} GiB{per_process}, but of the "
        f"{free / GIB:.3g} GiB free {where}, {kept / GIB:.3g} are reserved for the rest of the run: set "
        f"data.cache to {cure}, or use more machines"
    )


def host_memory() -> tuple[int, int]:
    """Return the free and the total bytes that this process can use."""
    machine = psutil.virtual_memory()
    limits = [(machine.available, machine.total), *cgroup_memory()]
    return min(free for free, _ in limits), min(total for _, total in limits)


def cgroup_memory(mount: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[tuple[int, int]]:
    """Return the free and total bytes of each limited cgroup, version 1 or 2, that this process is in."""
    if not membership.is_file():
        return []
    limits_by_folder = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, base = ("memory.max", "memory.current", "inactive_file"), mount
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = mount / "memory"
        else:
            continue
        here = Path(path.lstrip("/"))
        # in a container the path can be that of the host: then only the mount itself exists
        limits_by_folder += [_free(base / folder, *names) for folder in (here, *here.parents)]
    return [limits for limits in limits_by_folder if limits is not None]


def _free(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> tuple[int, int] | None:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), (folder / usage_name).read_text()
        rows = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max" or int(limit) >= 2**60:  # version 1 writes a huge number for "no limit"
        return None
    # unused file pages are freed under pressure
    return int(limit) - int(usage) + int(rows.get(cache_name, 0)), int(limit)
