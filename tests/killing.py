"""Work that is killed before its n-th file operation; for scripts: importing it sets an audit hook."""

import os
import signal
import sys
from collections.abc import Callable

FILE_WORK = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
_left: int | None = None  # how much more file work this process may do; None: as much as it likes


def _die_in_time(event: str, _: tuple) -> None:
    global _left
    if _left is not None and event in FILE_WORK:
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
        _left -= 1


def run_and_die(work: Callable[[], object], allowed: int | None) -> int:
    """Do the work in a forked child that may do so much file work; the child's exit code (-9: killed)."""
    global _left
    child = os.fork()
    if child == 0:
        _left = allowed
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


sys.addaudithook(_die_in_time)
