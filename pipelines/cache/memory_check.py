"""How much memory is free for a cache: on this machine, in this process's cgroup, on a GPU."""

import os
from pathlib import Path

import psutil
import torch

from configs.load import InputError

GIB = 2**30
KEPT_SHARE = {"host": 0.1, "device": 0.25}
"""Share of all memory that stays free; on the device for networks, gradients and activations."""

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def require_room(needed: int, home: str, device: torch.device, *, what: str) -> None:
    """Refuse to keep `needed` bytes where they do not fit. Raises InputError.

    home: "host" or "device". On the host every process of the machine keeps as much.
    """
    on_gpu = home == "device" and device.type == "cuda"
    processes = 1 if on_gpu else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free, total = torch.cuda.mem_get_info(device) if on_gpu else host_memory()
    kept = int(KEPT_SHARE["device" if on_gpu else "host"] * total)
    if needed * processes <= free - kept:
        return
    each = f" in each of {processes} processes" if processes > 1 else ""
    where = "on the device" if on_gpu else "on this machine"
    cure = "host (kept by the machine, copied batch by batch) or none" if on_gpu else "none"
    raise InputError(
        f"data.cache: the decoded crops of {what} need {needed / GIB:.3g} GiB{each}, but of the "
        f"{free / GIB:.3g} GiB free {where} {kept / GIB:.3g} are kept for the rest of the run: set "
        f"data.cache to {cure}, or spread the run over more machines"
    )


def host_memory() -> tuple[int, int]:
    """Return the bytes that this process can still have, and all that it could ever have."""
    machine = psutil.virtual_memory()
    limits = [(machine.available, machine.total), *cgroup_memory()]
    return min(free for free, _ in limits), min(total for _, total in limits)


def cgroup_memory(mount: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[tuple[int, int]]:
    """Return free and total bytes of each cgroup with a limit that this process is in, version 1 or 2."""
    if not membership.is_file():
        return []
    found = []
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
        # in a container the path can be that of its host: only the mount itself is there then
        found += [_free(base / folder, *names) for folder in (here, *here.parents)]
    return [limits for limits in found if limits is not None]


def _free(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> tuple[int, int] | None:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), (folder / usage_name).read_text()
        rows = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max" or int(limit) >= 2**60:  # version 1 says "no limit" by a huge number
        return None
    # file pages that nobody uses are given back under pressure
    return int(limit) - int(usage) + int(rows.get(cache_name, 0)), int(limit)
