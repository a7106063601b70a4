"""Photos of a folder."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos.base import (
    MOST_BYTES,
    LeadsOutError,
    Listing,
    Photos,
    absent_photo,
    by_folder,
    is_left_out,
    no_location,
    safe_name,
    sort_out,
    too_large_photo,
)


@dataclass(frozen=True)
class FolderPhotos(Photos):
    """Photos of a folder and its sub-folders. `path` is the folder with its links resolved."""

    path: str

    def read(self, name: str, *, head: int | None = None) -> bytes:
        path = self._inside(name)
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{self.where(name)}: this is not a file: correct the name of the photo")
            if found.st_size > MOST_BYTES:
                raise too_large_photo(self.where(name))
            with open(path, "rb") as file:
                return file.read(head)
        except FileNotFoundError as error:
            raise absent_photo(self.where(name)) from error
        except OSError as error:
            raise InputError(
                f"{self.where(name)}: the file cannot be read ({error.strerror}): correct its permissions"
            ) from error

    def absent(self, names: Iterable[str]) -> set[str]:
        """One listing for each sub-folder that the names speak of."""
        missing: set[str] = set()
        for folder, wanted in by_folder(names, self.location).items():
            try:
                with os.scandir(self._inside(folder) if folder else self.path) as entries:
                    there = {entry.name for entry in entries if _is_file(entry)}
            except (FileNotFoundError, NotADirectoryError) as error:
                if not os.path.isdir(self.path):
                    raise no_location(self.location) from error
                there = set()
            except OSError as error:
                self._cannot_list(error)
            missing.update(name for base, name in wanted if base not in there)
        return missing

    def listing(self) -> Listing:
        found: list[str] = []
        for folder, subfolders, files in os.walk(self.path, onerror=self._cannot_list):
            subfolders[:] = [each for each in subfolders if not is_left_out(each)]
            prefix = os.path.relpath(folder, self.path) + "/" if folder != self.path else ""
            links = [each for each in subfolders if os.path.islink(os.path.join(folder, each))]
            for each in links:
                self._inside(prefix + each)  # one that leads out is refused, another's files have own names
            found += [prefix + each for each in files]
        listing = sort_out(found)
        for name in listing.photos:
            self._check_writable(name)
        return listing

    def _check_writable(self, name: str) -> None:
        """Find out whether a name found on the disk can stand in annotations and shards."""
        if "\\" in name or any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes that are no UTF-8
            raise InputError(
                f"{self.location}: the file name {name!r} holds a backslash or is not UTF-8: rename the file"
            )

    def _inside(self, name: str) -> str:
        """The absolute path of a name, links resolved."""
        path = os.path.realpath(os.path.join(self.path, safe_name(name, self.location)))
        if not path.startswith(self.path.rstrip("/") + "/"):
            raise LeadsOutError(
                f"{self.location}: {name!r} is a link to a file outside this folder: put the file itself "
                "there (cp -L copies what a link points to), or give the folder that contains it"
            )
        return path

    def _cannot_list(self, error: OSError) -> NoReturn:
        raise InputError(
            f"{error.filename}: this folder cannot be listed ({error.strerror}): correct its permissions"
        ) from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
