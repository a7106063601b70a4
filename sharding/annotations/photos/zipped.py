"""Photos of a zip that is not unpacked."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos.base import (
    MOST_BYTES,
    Listing,
    Photos,
    absent_photo,
    no_location,
    safe_name,
    sort_out,
    too_large_photo,
)


@dataclass(frozen=True)
class ZipPhotos(Photos):
    """Photos of a zip that is not unpacked. `path` is the archive with its links resolved.

    If all members are in one folder (`train2017/` in COCO's `train2017.zip`), names may leave it out.
    """

    path: str

    def read(self, name: str, *, head: int | None = None) -> bytes:
        archive = self.opened()
        where = self.where(name)
        member = archive.table.get(safe_name(name, self.location))
        if member is None:
            raise absent_photo(where)
        if member.file_size > MOST_BYTES:
            raise too_large_photo(where)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The other methods cannot be unpacked piece by piece, so they would not keep to the limit.
            raise InputError(
                f"{where}: the zip compresses this photo with method {member.compress_type}: "
                "make the zip again, stored or deflated"
            )
        try:
            with archive.file.open(member) as file:
                return file.read(head or max(member.file_size, 1))  # unpacks no more than was declared
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise InputError(
                f"{where}: the zip is damaged here ({error}): download or make it again"
            ) from error

    def absent(self, names: Iterable[str]) -> set[str]:
        table = self.opened().table
        return {name for name in names if safe_name(name, self.location) not in table}

    def listing(self) -> Listing:
        return sort_out(self.opened().names)

    def opened(self) -> "_Archive":
        """The open archive, checked; opened once in each process, and again when the file changes."""
        try:
            state = os.stat(self.path)
        except OSError as error:
            raise no_location(self.location, "zip") from error
        return _open_zip(self, os.getpid(), (state.st_mtime_ns, state.st_size))


@dataclass(frozen=True)
class _Archive:
    """An open zip. `names`: one for each file; `table`: the files by every name that they can be read by."""

    file: zipfile.ZipFile
    names: list[str]
    table: dict[str, zipfile.ZipInfo]


@lru_cache(maxsize=4)
def _open_zip(photos: ZipPhotos, _pid: int, _state: tuple[int, int]) -> _Archive:
    location = photos.location
    try:
        file = zipfile.ZipFile(photos.path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise InputError(
            f"{location}: this file cannot be read as a zip ({error}): download or make it again, or give a "
            "folder (source.images=...)"
        ) from error
    full = {}
    for member in file.infolist():
        name = _member_name(member)
        safe = safe_name(f"{name}x" if member.is_dir() else name, location)  # a folder may be "."
        if member.flag_bits & 1:
            raise InputError(f"{location}: {name!r} is encrypted: zip the photos without a password")
        if not member.is_dir():
            full[safe] = member
    tops = {name.partition("/")[0] if "/" in name else "" for name in sort_out(full).photos}
    prefix = f"{min(tops)}/" if len(tops) == 1 else "/"
    short = {name.removeprefix(prefix): member for name, member in full.items() if name.startswith(prefix)}
    if full.keys() & short.keys():  # a name that would find two members
        short = {}
    return _Archive(file, list(short or full), full | short)


def _member_name(member: zipfile.ZipInfo) -> str:
    """The name; many tools write UTF-8 without saying so, which zipfile takes for code page 437."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename
