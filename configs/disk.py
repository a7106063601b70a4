"""What the operating system says of a file or a disk, as one sentence with a cure."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semipose.configs.errors import InputError

_CURES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, as your quota of that disk is used up",
    errno.EACCES: "correct the permissions",
    errno.EPERM: "correct the permissions",
    errno.EROFS: "mount that disk so that it can be written, or choose another folder",
    errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`)",
    errno.ENFILE: "close other programs, as this machine has too many files open",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f unlimited`), or choose another disk",
    errno.ENOMEM: "free memory",
    errno.EAGAIN: "raise the limit of processes (`ulimit -u`), or take fewer workers",
    errno.ENOLCK: "mount that disk with file locks, or choose a folder on another disk",
    errno.EXDEV: "choose a folder without other disks mounted in it",
    errno.EBUSY: "end the program that uses it, or unmount the disk that is mounted there",
    errno.EIO: "check that disk, or choose a folder on another one",
    errno.ESTALE: "mount that network disk again",
    errno.ENOTDIR: "remove the file that stands where a folder should be, or choose another folder",
    errno.EEXIST: "remove the file that stands where a folder should be, or choose another folder",
    errno.EISDIR: "remove the folder that stands where a file should be",
    errno.ENOTEMPTY: "end the other program that writes there, or choose another folder",
    errno.ELOOP: "correct the links, which lead in a circle",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "correct the path, or put back what was removed",
    errno.EPIPE: "keep the program open that reads this output, or write the output to a file",
}


@contextmanager
def named_disk_errors(path: Path, *, then: str = "start the same command again") -> Iterator[None]:
    """Turn any OSError into an InputError that names `path`, says what the system said, and how to go on."""
    try:
        yield
    except OSError as error:
        name = _name(error)
        where = f": {name}" if name not in (None, str(path)) else ""
        text = f"{path}: it cannot be written ({_reason(error)}{where}): {_cure(error)}, then {then}"
        raise InputError(text) from error


def disk_error(error: OSError) -> str:
    """The sentence for an error that nothing closer to it has explained."""
    name = _name(error) or "a file"
    return f"{name}: it cannot be read or written ({_reason(error)}): {_cure(error)}"


def _name(error: OSError) -> str | None:
    """The file that the system names; not that which is written beside it first."""
    named = error.filename
    return re.sub(r"(\.\d+)?\.tmp$", "", str(named)) if isinstance(named, str | Path) else None


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _cure(error: OSError) -> str:
    return _CURES.get(error.errno or 0, "correct that")
