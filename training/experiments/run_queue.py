"""A queue of training runs, one process per run: beside other queues, and continued where it stopped."""

import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from semipose.configs.console import plain_console
from semipose.training import checkpoint
from semipose.training.experiments.sweep_plan import Item
from semipose.training.run_folder import LOG_NAME, SWEEP_LOCK_NAME, is_held
from semipose.training.stopping import STOPS

RUN_SCRIPT = Path(__file__).resolve().parents[1] / "run.py"
GRACE_S = 120.0  # how long a run may take to save after SIGTERM
Outcome = Literal["finished", "stopped", "failed"]
console = plain_console(soft_wrap=True)


def work(items: list[Item], worker: "Worker") -> dict[Path, str]:
    """Train every run that is neither finished nor held by another sweep; a message per failed run."""
    failed: dict[Path, str] = {}
    is_moving = True
    while is_moving:  # again after each round, as another sweep may have given up a run meanwhile
        is_moving = False
        for number, item in enumerate(items, 1):
            if item.is_done or item.folder in failed:
                continue
            if worker.is_over:
                return failed
            with claim(item.folder) as lock:
                if lock is None or item.is_done:
                    continue
                outcome = worker.run(item, lock, f"[{number}/{len(items)}] {item.folder.name}")
            is_moving = True
            if outcome == "failed":
                failed[item.folder] = failure(item)
                console.print(failed[item.folder])
    return failed


@contextmanager
def claim(folder: Path) -> Iterator[int | None]:
    """The file descriptor of the sweep's lock, or None while another sweep or a run has the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / SWEEP_LOCK_NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock = None if is_held(folder) else file.fileno()
        except BlockingIOError:
            lock = None
        yield lock


class Worker:
    """The process of one sweep: at most one run at a time, until its time is up or a signal stops it."""

    def __init__(self, minutes: float | None) -> None:
        self.until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        self.is_told = False
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def is_over(self) -> bool:
        """Whether no further run is to be started."""
        return self.is_told or time.monotonic() >= self.until

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """SIGTERM, SIGHUP and SIGINT stop the run under way, and then the queue; unless they are ignored."""
        own = {number: signal.getsignal(number) for number in STOPS}
        before = {number: handler for number, handler in own.items() if handler != signal.SIG_IGN}
        for number in before:
            signal.signal(number, self.stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int | None = None, frame: FrameType | None = None) -> None:  # noqa: ARG002
        """Let the run under way save and end."""
        self.is_told = True
        if self.child is not None:
            self.child.terminate()

    def run(self, item: Item, lock: int, title: str) -> Outcome:
        """Start the run or go on with it, and see it to its end."""
        console.print(f"{title}: {'goes on' if checkpoint.kept_steps(item.folder) else 'starts'}")
        began = time.monotonic()
        with (item.folder / LOG_NAME).open("ab") as log:
            # A session of its own, so that Ctrl-C reaches this process alone and the run can save; the lock
            # is handed on, so that a run whose sweep was killed still keeps others away.
            self.child = subprocess.Popen(
                [sys.executable, str(RUN_SCRIPT), *item.words],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(lock,),
            )
            code = self.wait(self.child)
            self.child = None
        is_stopped = self.is_over and code <= 0  # below 0: by the signal, before it could be heard
        outcome: Outcome = "finished" if item.is_done else "stopped" if is_stopped else "failed"
        minutes = (time.monotonic() - began) / 60
        console.print(
            f"{title}: {outcome} after {minutes:.1f} min" + (f" (exit code {code})" if code else "")
        )
        return outcome

    def wait(self, child: "subprocess.Popen[bytes]") -> int:
        """The exit code of the run, which is stopped when time is up, and killed when it does not stop."""
        if self.is_told:  # between the start of the run and here
            child.terminate()
        while not self.is_over:
            try:
                return child.wait(timeout=max(0.0, min(self.until - time.monotonic(), 1.0)))
            except subprocess.TimeoutExpired:
                continue
        child.terminate()
        try:
            return child.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def failure(item: Item) -> str:
    """What became of a run, in one sentence, with the last word of its log."""
    log = item.folder / LOG_NAME
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{item.folder} failed, see {log}" + (f": {lines[-1]}" if lines else "")
