"""A measured process and its children: started, watched for their memory, ended."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
from pydantic import TypeAdapter

from configs.schema import plain
from training.bench.settings import Measured, StepTimes
from training.files import write_json

SAMPLE_EVERY_S = 0.2
WAIT_PER_LOOK = 20
"""A look holds up allocations, and takes long at a process with a GPU: the wait is so many times longer."""
LAST_LINES = 3


@dataclass(frozen=True)
class Watched:
    """What a measured process found, and the most memory that it and its children held at once."""

    times: StepTimes | None
    peak_mib: float
    problem: str | None = None
    """Why there are no times."""


def run_measured(spec: Measured, *, longest_s: float, processes: int = 1) -> Watched:
    """Run `spec` in a process of its own, or as so many ranks, to its end or for `longest_s`."""
    spec.output.parent.mkdir(parents=True, exist_ok=True)
    spec.output.unlink(missing_ok=True)
    told = spec.output.with_suffix(".told.json")
    write_json(told, plain(spec))
    module, variables = ["-m", "training.bench.child", str(told)], dict(os.environ)
    if processes > 1:
        variables["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
        module = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *module]
    log_path = spec.output.with_suffix(".log")
    with log_path.open("w") as log:
        child = subprocess.Popen(
            [sys.executable, *module], env=variables, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            peak_mib, is_late = watch(child, longest_s)
        finally:
            end_tree(child)
    if is_late:
        return Watched(None, peak_mib, f"it took longer than {longest_s:.0f} s")
    if child.returncode or not spec.output.exists():
        said = " / ".join(log_path.read_text().splitlines()[-LAST_LINES:])
        return Watched(None, peak_mib, f"it ended with code {child.returncode}: {said}")
    return Watched(TypeAdapter(StepTimes).validate_json(spec.output.read_bytes()), peak_mib)


def watch(child: subprocess.Popen[bytes], longest_s: float) -> tuple[float, bool]:
    """Wait for the end of a process; the peak of its tree's memory in MiB, and whether it took too long."""
    peak, deadline = 0.0, time.monotonic() + longest_s
    tree = psutil.Process(child.pid)
    while child.poll() is None:
        if time.monotonic() > deadline:
            return peak, True
        began = time.monotonic()
        peak = max(peak, tree_mib(tree))
        time.sleep(max(SAMPLE_EVERY_S, WAIT_PER_LOOK * (time.monotonic() - began)))
    return peak, False


def tree_mib(process: psutil.Process) -> float:
    """Memory of a process and its children in MiB: each page counted once (PSS)."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += each.memory_full_info().pss
    return total / 2**20


def end_tree(child: subprocess.Popen[bytes]) -> None:
    """End a process with all its children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in psutil.Process(child.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    child.kill()
    child.wait()
