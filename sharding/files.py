"""Files written whole or not at all, and their hashes."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file aside, flush it to the disk, rename it into place; returns `path`."""
    return write_atomic_parts(path, [content])


def write_atomic_parts(path: Path, parts: Iterable[bytes]) -> Path:
    """`write_atomic` of a content that comes in parts."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    return aside.replace(path)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def replace_folder(aside: Path, target: Path) -> None:
    """Rename the finished folder `aside` to `target`; a folder of that name gives way."""
    if target.exists():
        old = aside.with_suffix(".old")
        target.replace(old)
        aside.replace(target)
        shutil.rmtree(old)
    else:
        aside.replace(target)
