"""Interleaved timing, and what must stand beside a number for it to mean something."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import torch

from configs.versions import versions

NextBatch = Callable[[], object]
"""Produces one batch; it is ready when the call returns, except for work on a CUDA stream."""

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
IDLE_SHARE = 0.2
"""Of one core: below it the processes of a variant count as waiting."""
LONGEST_SETTLE_S = 5.0
SHORTEST_TIMING_S = 0.5
"""A timing of fewer seconds would be one of the clock and the scheduler."""


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    group: of its row. batch_size: persons of a call. batches: calls in one timing, at least. warmup: calls
    thrown away before each timing: their batches were prefetched while others ran.
    """

    name: str
    group: str
    next_batch: NextBatch
    batch_size: int
    batches: int
    warmup: int
    unit: str = "persons/s"


def measure(variants: Sequence[Variant], *, rounds: Iterable[int]) -> dict[str, list[float]]:
    """Time every variant once a round, starting each round with another one; rates by name.

    A timing covers at least `batches` batches and SHORTEST_TIMING_S, begins when nothing that ran before is
    still prefetching, and ends when the device has finished.
    """
    rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for number in rounds:
        turn = number % len(variants)
        for variant in (*variants[turn:], *variants[:turn]):
            batches, seconds = _time(variant)
            rates[variant.name].append(variant.batch_size * batches / seconds)
    return rates


def _time(variant: Variant) -> tuple[int, float]:
    settle()
    for _ in range(variant.warmup):
        variant.next_batch()
    wait_for_gpu()
    done, start, seconds = 0, time.perf_counter(), 0.0
    while seconds < SHORTEST_TIMING_S:
        for _ in range(variant.batches):
            variant.next_batch()
        wait_for_gpu()
        done, seconds = done + variant.batches, time.perf_counter() - start
    return done, seconds


def settle() -> None:
    """Wait until this process and its children are idle: until no loader fills its queues any more."""
    pause_s, deadline = 0.02, time.perf_counter() + LONGEST_SETTLE_S
    used = _cpu_seconds()
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        time.sleep(pause_s)
        before, used = used, _cpu_seconds()
        if used - before < IDLE_SHARE * (time.perf_counter() - began):
            return


def _cpu_seconds() -> float:
    """CPU time of this process and its children since they began."""
    total = 0.0
    process = psutil.Process()
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def wait_for_gpu() -> None:
    """Return when the device has done all that it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def describe_machine() -> dict[str, Any]:
    """Return what the numbers were taken on and with."""
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
        "versions": {name: found for name, found in versions(PACKAGES).items() if found},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """Return the commit of this checkout, with `+` where files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
