"""What the numbers were taken on, and the limits of its GPU, which no loader and no kernel can beat."""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import torch

from semipose.configs.versions import versions
from semipose.pipelines.masking.masks import Masks, mask_keypoints
from semipose.training.bench import masking
from semipose.training.bench.settings import LoaderBenchSettings

PACKAGES = (
    "torch",
    "torchvision",
    "nvidia-dali-cuda130",
    "triton",
    "kornia",
    "opencv-python-headless",
    "pillow",
    "numpy",
    "numba",
)
COPY_BYTES = 1 << 28
REPEATS = 7


def describe_machine() -> dict[str, Any]:
    """The hardware, the load before anything is measured, versions, and the commit."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
        "versions": {name: version for name, version in versions(PACKAGES).items() if version},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """The commit of this checkout, with `+` if files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def gpu_limits(cfg: LoaderBenchSettings) -> dict[str, float]:
    """Bandwidths in GB/s, and the time of the masking op beside the least that its writes can take, in us."""
    device = torch.device("cuda:0")
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    source, target = (torch.empty(COPY_BYTES, dtype=torch.uint8, device=device) for _ in range(2))
    into_s = _seconds(lambda: source.copy_(host, non_blocking=True))
    fill_s = _seconds(lambda: target.fill_(1))
    copy_s = _seconds(lambda: target.copy_(source))
    step = masking.make_step(cfg.batch_size, cfg.keypoints, cfg.views.size_hw, device)
    masks = masking.choose(step, masking.count(step))
    painted = painted_bytes(step, masks)
    write_bandwidth = COPY_BYTES / fill_s
    return {
        "host_to_device_gb_per_s": COPY_BYTES / into_s / 1e9,
        "device_write_gb_per_s": write_bandwidth / 1e9,
        "device_copy_gb_per_s": 2 * COPY_BYTES / copy_s / 1e9,
        "masking_op_us": 1e6 * _seconds(lambda: mask_keypoints(step.images, *masks, step.fill)),
        "masking_all_us": 1e6 * _seconds(lambda: masking.mask(step)),
        "masking_floor_us": 1e6 * painted / write_bandwidth,
        "masking_painted_mb": painted / 1e6,
    }


def painted_bytes(step: masking.MaskingStep, masks: Masks) -> int:
    """Bytes that differ once everything chosen is painted: each painted pixel once."""
    blank = torch.zeros_like(step.images)
    mask_keypoints(blank, *masks, torch.ones_like(step.fill))
    return int(blank.sum()) * blank.element_size()


def _seconds(call: Callable[[], object], *, calls: int = 20) -> float:
    """Median time of a call on the device, from events around many of them, so that launches overlap."""
    for _ in range(3):
        call()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times)
