"""Ctrl-C, SIGTERM and SIGHUP: a command ends with one line and the exit code that a shell expects."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

GRACE_S = 10
"""How long workers may finish their current photos before a stopped command kills them."""
LINE = "stopped: the same command continues after the last complete shard\n"
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_HELD = [number for number in _SIGNALS if number != signal.SIGTERM]


class Stopped(KeyboardInterrupt):
    """The process was asked to stop."""


@dataclass
class _Hold:
    """Whether stopping is currently deferred, and whether it was requested meanwhile."""

    is_on: bool = False
    is_asked: bool = False


_hold = _Hold()


def leave_when_stopped() -> None:
    """From now on exit at once on a signal: for the imports, when there is nothing to clean up."""
    for number in _answerable():
        signal.signal(number, _leave)


@contextmanager
def stoppable(line: str = LINE) -> Iterator[None]:
    """On a signal, raise `Stopped` inside, then exit with 128 + the number of the signal.

    A second signal, or work that does not end within `GRACE_S`, ends the process at once.
    """
    caught: list[int] = []
    patience: list[threading.Timer] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if caught:
            _leave(number, frame, line)
        caught.append(number)
        timer = threading.Timer(GRACE_S, _leave, (number, None, line))
        timer.daemon = True
        timer.start()
        patience.append(timer)
        _hold.is_asked = _hold.is_on
        if not _hold.is_on:
            raise Stopped

    before = {number: signal.signal(number, stop) for number in _answerable()}
    try:
        yield
    except BaseException:
        if not caught:
            raise
        _write(line)  # the stop may arrive as another exception, such as the death of a worker
        raise SystemExit(128 + caught[0]) from None
    finally:
        for timer in patience:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """Defer stopping until the end of what runs inside: the start of processes must not be interrupted.

    These processes never get Ctrl-C and SIGHUP, which a terminal sends to all of its processes, because their
    parent stops them.
    """
    can_mask = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD) if can_mask else set()
    _hold.is_on, _hold.is_asked = True, False
    try:
        yield
    finally:
        _hold.is_on = False
        if can_mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if _hold.is_asked:  # the mask is that of this thread only: another thread may have got the signal
        raise Stopped


def _answerable() -> list[int]:
    """Signals that this process was not told to ignore, as nohup does."""
    return [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _leave(number: int, _: FrameType | None, line: str = LINE) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    _write(line)
    os._exit(128 + number)


def _write(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        os.write(2, line.encode())
