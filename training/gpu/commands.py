"""Commands that may hang, crash or take too long: run side by side, each to its end or to the limit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAST_LINES = 12


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: its exit code, negative for a signal; `hit_limit` where it was stopped."""

    code: int
    seconds: float
    hit_limit: bool
    log: Path

    @property
    def problem(self) -> str | None:
        """What went wrong, with where to look; None where nothing did."""
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


class _Running:
    """A started command and the session of its own that it and its children make up."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.log = log
        self.began = time.monotonic()
        self.pressed = 0
        log.parent.mkdir(parents=True, exist_ok=True)
        # The project is found where it is not installed, libraries where PYTHONPATH has them, but no plugin
        # of pytest that happens to be on this machine.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        self.kill(signal.SIGKILL)  # what it may have left behind
        return Ended(code, time.monotonic() - self.began, self.pressed > 0, self.log)

    def press(self, *, left_s: float, grace_s: float) -> None:
        """Ask it to end, harder and harder, in the last `grace_s` before its limit."""
        for turn, number in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL)):
            if self.pressed == turn and left_s <= grace_s * (1 - turn / 2):
                self.kill(number)
                self.pressed += 1

    def kill(self, number: int) -> None:
        """Send a signal to the command and all its children."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def run_all(
    commands: Mapping[str, Sequence[str]],
    logs: Path,
    *,
    seconds: float,
    each_s: float = float("inf"),
    at_once: int = 1,
    grace_s: float = 10.0,
) -> Iterator[tuple[str, Ended]]:
    """Run Python commands (words after the interpreter), `at_once` side by side; yield each as it ends.

    `seconds` is the limit of all together, `each_s` that of each. What still runs `grace_s` before its limit
    gets SIGINT, then SIGTERM, at last SIGKILL; what has not begun by then is not begun and not yielded.
    Output goes to `logs/NAME.log`.
    """
    deadline = time.monotonic() + seconds
    waiting, running = dict(commands), dict[str, _Running]()
    try:
        while running or (waiting and time.monotonic() < deadline - grace_s):
            while waiting and len(running) < at_once and time.monotonic() < deadline - grace_s:
                name = next(iter(waiting))
                running[name] = _Running(waiting.pop(name), logs / f"{name}.log")
            for name, each in list(running.items()):
                left_s = min(deadline, each.began + each_s) - time.monotonic()
                each.press(left_s=left_s, grace_s=grace_s)
                if (ended := each.ended()) is not None:
                    del running[name]
                    yield name, ended
            time.sleep(0.05)
    finally:
        for each in running.values():
            each.kill(signal.SIGKILL)


def run_one(words: Sequence[str], log: Path, *, seconds: float, grace_s: float = 10.0) -> Ended:
    """`run_all` of one command, which is begun however little time there is."""
    limit = max(seconds, grace_s + 1.0)
    ((_, ended),) = run_all({log.stem: words}, log.parent, seconds=limit, grace_s=grace_s)
    return ended
