"""Work that is killed before its n-th file operation; for scripts: importing it sets an audit hook."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

FILE_WORK = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
READING = ("r", "rb")
_left: int | None = None  # how much more file work this process may do; None: as much as it likes
_within: Path | None = None  # only changes to files under this folder count; None: all file work, reads too


def _die_in_time(event: str, args: tuple) -> None:
    global _left
    if _left is not None and event in FILE_WORK and (_within is None or _changes(event, args)):
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
        _left -= 1


def _changes(event: str, args: tuple) -> bool:
    if event == "open" and args[1] in READING:
        return False
    return any(isinstance(arg, str | os.PathLike) and str(_within) in os.fspath(arg) for arg in args[:2])


def run_and_die(work: Callable[[], object], allowed: int | None, *, within: Path | None = None) -> int:
    """Do the work in a forked child that may do so much file work; the child's exit code (-9: killed)."""
    global _left, _within
    child = os.fork()
    if child == 0:
        _left, _within = allowed, within
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


sys.addaudithook(_die_in_time)
