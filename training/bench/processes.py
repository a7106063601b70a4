"""Commands that may hang, crash or take too long, in processes of their own: a limit, a log, their memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LAST_LINES = 12
GRACE_S = 10.0
"""In which a command of the GPU check may end by itself and write what it has."""
POLL_S = 0.05
LOOK_EVERY_S = 0.2
WAIT_PER_LOOK = 20
"""A look at memory holds up allocations, and takes long at a process with a GPU: the wait is so many times
longer."""


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: its exit code, negative for a signal; hit_limit: whether it was stopped;
    peak_mib: the most memory that it and its children held at once, 0 if it was not watched."""

    code: int
    seconds: float
    hit_limit: bool
    log: Path
    peak_mib: float = 0.0

    @property
    def problem(self) -> str | None:
        """What went wrong, with where to look; None if nothing did."""
        if self.hit_limit:
            return f"stopped at its limit after {self.seconds:.0f} s; log: {self.log}"
        if self.code != 0:
            return (
                f"exit code {self.code} after {self.seconds:.0f} s; log: {self.log}; it ends:\n{self.tail()}"
            )
        return None

    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def run_command(
    words: Sequence[str],
    log: Path,
    *,
    seconds: float,
    grace_s: float = 0.0,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    watch_memory: bool = False,
) -> Ended:
    """Run a Python command (the words after the interpreter) to its end, or until its limit.

    Args:
        log: takes its output.
        seconds: its limit, at least a second more than `grace_s`.
        grace_s: so long before its limit it gets SIGINT, then SIGTERM, and SIGKILL at the limit.
        folder: where it runs; None stays here.
        environment: variables beside those of this process.
        watch_memory: whether its memory and that of its children is added up while it runs.

    Whatever it leaves behind is ended with it.
    """
    seconds = max(seconds, grace_s + 1.0)
    log.parent.mkdir(parents=True, exist_ok=True)
    # The project is found where it is not installed, libraries where PYTHONPATH has them.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})}
    began, signals, peak_mib, next_look_s = time.monotonic(), 0, 0.0, 0.0
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            passed_s = time.monotonic() - began
            for turn, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
                if signals == turn and seconds - passed_s <= grace_s * (1 - turn / 2):
                    send(child, number)
                    signals += 1
            if watch_memory and passed_s >= next_look_s:
                peak_mib = max(peak_mib, tree_mib(child.pid))
                look_s = time.monotonic() - began - passed_s
                next_look_s = passed_s + max(LOOK_EVERY_S, WAIT_PER_LOOK * look_s)
            time.sleep(POLL_S)
    finally:
        send(child, signal.SIGKILL)
        code = child.wait()
    return Ended(code, time.monotonic() - began, signals > 0, log, peak_mib)


def send(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a command and all its children, those in sessions of their own too."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(child.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def tree_mib(pid: int) -> float:
    """Memory of a process and its children in MiB: each page counted once (PSS)."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
    return total / 2**20
