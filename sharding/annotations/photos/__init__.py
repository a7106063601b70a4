"""Where photos are read from: a folder, a zip that is not unpacked, or any address that fsspec knows.

A name is relative to the location and written with slashes; a leading `./` and backslashes are normalised. A
name that leads out of the location is refused. Every class is a small frozen record that can be pickled; each
process opens its own files.
"""

import os
import re
from pathlib import Path

from semipose.sharding.annotations.photos.base import (
    IMAGE_SUFFIXES,
    MOST_BYTES,
    Photos,
    below_location,
    no_location,
)
from semipose.sharding.annotations.photos.folder import FolderPhotos
from semipose.sharding.annotations.photos.url import UrlPhotos, file_system
from semipose.sharding.annotations.photos.zipped import ZipPhotos

__all__ = [
    "IMAGE_SUFFIXES",
    "MOST_BYTES",
    "FolderPhotos",
    "Photos",
    "UrlPhotos",
    "ZipPhotos",
    "below_location",
    "open_photos",
]


def open_photos(location: str | Path) -> Photos:
    """The photos at a folder, a zip or an address such as `s3://bucket/folder`.

    Raises InputError if nothing is there, for a zip that is damaged, encrypted or has members that lead
    out of it, and for an address whose protocol is unknown or needs a missing package.
    """
    text = re.sub("^(file|local)://", "", str(location))
    if "://" in text or "::" in text:
        file_system(text, os.getpid())
        return UrlPhotos(text)
    path = os.path.realpath(text)
    if os.path.isdir(path):
        return FolderPhotos(str(location), path)
    if not os.path.isfile(path):
        raise no_location(str(location), "zip" if path.lower().endswith(".zip") else "folder")
    zipped = ZipPhotos(str(location), path)
    zipped.opened()
    return zipped
