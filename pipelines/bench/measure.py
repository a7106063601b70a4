"""Interleaved timing, and what must stand beside a number for it to mean something."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

NextBatch = Callable[[], object]
"""Produces one batch; it is ready when the call returns, but for work on a CUDA stream."""

PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda130", "opencv-python-headless", "numpy")


@dataclass(frozen=True)
class Row:
    """One variant's throughput over all rounds, in persons a second."""

    name: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return float(np.median(self.rounds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds lies below the first, a quarter above the second."""
        low, high = np.percentile(self.rounds, [25, 75])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        low, high = self.quartiles
        return {
            "name": self.name,
            "persons_per_s": round(self.median, 1),
            "iqr": [round(low, 1), round(high, 1)],
            "rounds": [round(value, 1) for value in self.rounds],
        }


def measure(
    variants: Mapping[str, NextBatch], *, batch_size: int, batches: int, warmup: int, rounds: Iterable[int]
) -> list[Row]:
    """Time every variant once a round, starting each round with another one.

    Before each timing `warmup` batches are thrown away: they were prefetched while the others ran.
    """
    names = list(variants)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in rounds:
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rates[name].append(batch_size * batches / _seconds(variants[name], batches, warmup))
    return [Row(name, tuple(values)) for name, values in rates.items()]


def _seconds(next_batch: NextBatch, batches: int, warmup: int) -> float:
    for _ in range(warmup):
        next_batch()
    _wait_for_gpu()
    start = time.perf_counter()
    for _ in range(batches):
        next_batch()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def describe_machine() -> dict[str, Any]:
    """Return what the numbers were taken on and with."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
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
