"""The interface of every source of photos, and the rules of names that all share."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from semipose.configs.load import InputError

MOST_BYTES = 256_000_000
"""The most bytes of one photo, so that memory stays bounded whatever the source says."""
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"}
)


class Listing(NamedTuple):
    """The relative names of photos and of other files, both sorted, without hidden files."""

    photos: list[str]
    others: list[str]


@dataclass(frozen=True)
class Photos(ABC):
    """Photos by name. `location` is what the user gave, for messages."""

    location: str

    @abstractmethod
    def read(self, name: str, *, head: int | None = None) -> bytes:
        """The bytes of one photo; head: only the first so many.

        Raises InputError with location and name if it is absent, unreadable, larger than MOST_BYTES, or if
        the name leads out of the location (LeadsOutError if a link does so).
        """

    @abstractmethod
    def absent(self, names: Iterable[str]) -> set[str]:
        """The names without a file. Raises InputError for a name that leads out."""

    @abstractmethod
    def listing(self) -> Listing:
        """All files, those with one of IMAGE_SUFFIXES as photos; hidden ones and `__MACOSX` are left out."""

    def names(self) -> list[str]:
        """All photos, sorted."""
        return self.listing().photos

    def where(self, name: str) -> str:
        """The photo as messages name it."""
        return f"{self.location.rstrip('/')}/{name}"


class UnreachableError(InputError):
    """A server refuses photos in a way that holds for all of them, so no others are asked for."""


class LeadsOutError(InputError):
    """A photo is a link that leads out of the location."""


def is_absolute(name: str) -> bool:
    """Whether a name is an absolute path of any operating system."""
    has_drive = name[1:2] == ":" and re.match(r"[A-Za-z]:[\\/]", name) is not None
    return has_drive or name.startswith(("/", "\\"))


def below_location(names: Sequence[str], photos: Photos) -> list[str]:
    """The names with absolute ones made relative, if the photos are there by the remaining part.

    The same beginning is removed from all absolute names, the shortest with which most of them name photos
    that exist. If none does, the names stay as they are.
    """
    absolute = {name: name.replace("\\", "/") for name in names if is_absolute(name)}
    if not absolute:
        return list(names)
    folders = zip(*(path.split("/")[:-1] for path in absolute.values()), strict=False)
    num_shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, folders))
    best: dict[str, str] = {}
    fewest_absent = len(absolute)
    for depth in range(1, num_shared + 1):
        relative = {name: "/".join(path.split("/")[depth:]) for name, path in absolute.items()}
        inside = [each for each in relative.values() if ".." not in each.split("/")]
        num_absent = len(relative) - len(inside) + len(photos.absent(inside))
        if num_absent < fewest_absent:
            best, fewest_absent = relative, num_absent
    return [best.get(name, name) for name in names]


def safe_name(name: str, location: str) -> str:
    """The name with slashes, without `./`. Raises InputError if it is empty or leads out of the location."""
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    if is_absolute(name) or ".." in parts or "\0" in name or not any(parts):
        raise InputError(
            f"{location}: the photo name {name!r} leads out of this location: "
            "name photos relative to it, without '..'"
        )
    return "/".join(part for part in parts if part)


def by_folder(names: Iterable[str], location: str) -> dict[str, list[tuple[str, str]]]:
    """Names by their sub-folder, each as (its last part, the name as given)."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        folder, _, base = safe_name(name, location).rpartition("/")
        folders.setdefault(folder, []).append((base, name))
    return folders


def sort_out(names: Iterable[str]) -> Listing:
    """The listing of relative names."""
    shown = sorted(name for name in names if not any(map(is_left_out, name.split("/"))))
    listing = Listing([], [])
    for name in shown:
        (listing.photos if is_photo(name) else listing.others).append(name)
    return listing


def is_photo(name: str) -> bool:
    """Whether a relative name has the suffix of a photo."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_left_out(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def no_location(location: str, kind: str = "folder") -> InputError:
    return InputError(f"{location}: no such {kind} of photos: correct the path (source.images=...)")


def absent_photo(where: str) -> InputError:
    return InputError(f"{where}: the photo is absent: put it there, or correct source.images or its name")


def too_large_photo(where: str) -> InputError:
    return InputError(f"{where}: the photo is larger than {MOST_BYTES // 10**6} MB: put a smaller file there")
