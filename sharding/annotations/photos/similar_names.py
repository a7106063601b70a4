"""Which photo a wrong name may mean: the same except for case, ending, folders, `%20`, a tool's prefix."""

import os
import re
import unicodedata
from collections import defaultdict
from functools import cached_property
from urllib.parse import unquote

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos.base import Photos, is_photo

_LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


class NearNames:
    """The photos of a location by what their names share with wrong ones; listed when first needed."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def find(self, name: str) -> str | None:
        """The photo with nearly this name; None if there is none, or if the location cannot be listed.

        Of several, only one whose folders fit counts: clip2/0001.jpg is not clip1/0001.jpg.
        """
        for key in _keys(name):
            found = self._there.get(key, [])
            fitting = [each for each in found if _fits(name, each)]
            if fitting or len(found) == 1:
                return max(fitting or found, key=len)
        return None

    def told(self, name: str) -> str:
        """` (b.JPG is there)`, or nothing. A photo that is absent under its own name is a broken link."""
        near = self.find(name)
        if near == name:
            return " (a link to a file that is not there)"
        if near is None:
            return ""
        if unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name):  # they look the same
            return (
                f" ({near} is there, which differs only in the Unicode form of a letter: bring both names to "
                "the form NFC, as unicodedata.normalize of Python does)"
            )
        return f" ({near} is there)"

    @cached_property
    def _there(self) -> dict[tuple[int, str], list[str]]:
        there: dict[tuple[int, str], list[str]] = defaultdict(list)
        try:
            names = self.photos.names()
        except InputError:  # a web server lists nothing
            names = []
        for name in names:
            for key in _keys(name):
                there[key].append(name)
        return dict(there)


def _parts(name: str) -> list[str]:
    """The parts of a path as they are compared: without case, percent signs and forms of one letter."""
    plain = unicodedata.normalize("NFKC", unquote(unquote(name))).casefold()
    return [part.strip() for part in plain.replace("\\", "/").split("/")]


def _keys(name: str) -> list[tuple[int, str]]:
    """Keys to find a name by, nearest first: its last part, without suffix, without a tool's additions."""
    base = _parts(name)[-1]
    stem = os.path.splitext(base)[0]
    while is_photo(stem):  # 0001.jpg.jpg, where a system hides the ending
        stem = os.path.splitext(stem)[0]
    loose = _LEADING_ZEROS.sub("", re.sub(r"[\s_+]+", "_", _LABEL_STUDIO.sub("", stem)))
    return [(level, key) for level, key in enumerate((base, stem, loose)) if key]


def _fits(name: str, other: str) -> bool:
    """Whether two paths have the same folders, as far as both have any, counted from their ends."""
    pairs = zip(reversed(_parts(name)[:-1]), reversed(_parts(other)[:-1]), strict=False)
    return all(one == another for one, another in pairs)
