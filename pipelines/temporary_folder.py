"""Temporary folders that are removed with their process, or, if it was killed, when the next one starts."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

with suppress(ImportError):  # on Windows, where shards are not read
    import fcntl

_PREFIX = "semipose-"
_LOCK = "owner.lock"


def make_folder() -> tuple[Path, Callable[[], None]]:
    """Make a temporary folder that this process owns; returns it and the function that removes it.

    The owner holds a lock that ends with the process in any case. Folders whose lock is free are removed
    first.
    """
    _remove_orphans()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    aside = folder / f"{_LOCK}.new"
    lock = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with suppress(OSError):  # a disk without locks: only the owner removes the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        aside.rename(folder / _LOCK)  # so that no other process finds the lock before it is held
    return folder, partial(_remove, folder, lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _remove_orphans() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process may remove it at the same time
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(lock)
