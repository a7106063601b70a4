"""Atomic writing of files and folders, and hashes of files."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from semipose.configs.load import InputError


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a temporary file, flush it to the disk and rename it; returns `path`."""
    return write_atomic_parts(path, [content])


def write_atomic_parts(path: Path, parts: Iterable[bytes]) -> Path:
    """`write_atomic` of a content that comes in parts."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        return aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def names_in(folder: Path) -> list[str]:
    """The names in a folder to write into, sorted; none if it is not there. Raises InputError for a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file: choose a folder with output=")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refuse_strangers(folder: Path, strangers: Sequence[str]) -> None:
    """Raise InputError, which names some of them, if a folder to write into holds files of somebody else."""
    if strangers:
        raise InputError(
            f"{folder}: the folder holds something else ({', '.join(strangers[:3])}): choose another one "
            "with output="
        )


def require_name(folder: Path) -> None:
    """Raise ValueError if a path does not end in a name, so that no folder can be made beside it."""
    if folder.name in ("", "..") or "\0" in str(folder):
        raise ValueError(
            f"{str(folder)!r} does not name a folder to make: give a path that ends in a name, such as "
            "shards/coco"
        )


def follow_links(folder: Path) -> Path:
    """The absolute path of a folder to make, behind all links.

    The last part of a link's target may be absent. Raises InputError if more of it is absent, because
    otherwise the wrong disk would be filled if one is not mounted.
    """
    for part in (folder, *folder.parents):
        target = Path(os.path.realpath(part))
        if part.is_symlink() and not part.exists() and (target.is_symlink() or not target.parent.is_dir()):
            raise InputError(
                f"{folder}: the link {part} leads to {os.readlink(part)}, which is not there: mount that "
                "disk, correct the link, or choose another folder"
            )
    return Path(os.path.realpath(folder))


@contextmanager
def making_folder(target: Path, doing: str, *, keeps: str, waits: bool = False) -> Iterator[Path]:
    """The hidden folder in which `target` is made, locked for this process: `.NAME.DOING` beside it.

    A target that is already a folder stays, because it may be a mount point or the current folder of a shell;
    then the hidden folder is `target/.DOING`, on the same disk. At the end the hidden folder is removed,
    unless it holds the file `keeps`, from which another process can continue. waits: wait for a process that
    makes the same target instead of raising InputError.
    """
    beside, within = _hidden(target, doing)
    folder = within if target.is_dir() and not beside.exists() else beside
    lock = FileLock(folder / "lock")
    while not lock.is_locked:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, target, waits=waits)
        if not (folder / "lock").exists():  # the process that held it has just removed the folder
            lock.release()
    try:
        yield folder
    finally:
        if not (folder / keeps).exists():
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _acquire(lock: FileLock, target: Path, *, waits: bool) -> None:
    """Acquire a lock whose folder may vanish at any moment; InputError if another process holds it."""
    with suppress(FileNotFoundError):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            if not waits:
                raise InputError(
                    f"{target}: another build is writing this folder: wait for it, or choose another "
                    "output=..."
                ) from error
            sys.stderr.write(f"{target}: waiting for another build, which makes this folder\n")
            lock.acquire()


def _hidden(target: Path, doing: str) -> tuple[Path, Path]:
    return target.with_name(f".{target.name}.{doing}"), target / f".{doing}"


def was_left_unfinished(target: Path, doing: str) -> bool:
    """Whether `making_folder` has a hidden folder, of a running process or of a killed one."""
    return any(folder.exists() for folder in _hidden(target, doing))


def holds_anything(folder: Path, doing: str) -> bool:
    """Whether a folder holds more than the hidden folder in which it is made."""
    return any(path.name != f".{doing}" for path in folder.iterdir())


def put_in_place(made: Path, target: Path, *, last: str) -> None:
    """Rename the finished folder `made` to `target`, or move its files into an existing `target`.

    The file `last` means that the others are complete: it is removed from the target first and moved there
    last, so that after a kill in between `made` still has that file and the same call completes the work.
    """
    if not target.is_dir():
        made.replace(target)
        return
    (target / last).unlink(missing_ok=True)
    for path in sorted(made.iterdir(), key=lambda path: path.name == last):
        shutil.move(path, target / path.name)
