"""Faults of photos, found before anything is written: absent files, damaged images, sizes that disagree."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from configs.load import InputError
from sharding.record import Person

_ORIENTATION = 0x0112
"""EXIF tag: 1 or absent for pixels that are stored upright."""


def absent_photos(persons: Iterable[Person], folder: Path) -> dict[str, Person]:
    """The photos that are not in the folder, each with the first person that names it.

    Raises InputError where the folder itself is not there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos: correct the path (source.images=...)")
    first_person: dict[str, Person] = {}
    for person in persons:
        first_person.setdefault(person.file_name, person)
    return {name: person for name, person in first_person.items() if not (folder / name).is_file()}


def absent_photo_error(absent: dict[str, Person], folder: Path) -> InputError:
    """The sentence about the first absent photo."""
    name, person = next(iter(absent.items()))
    more = f" (and {len(absent) - 1} more photos are absent)" if len(absent) > 1 else ""
    return InputError(
        f"{folder / name}: annotation {person.id} names this photo, but the file is absent{more}: "
        "put it there, correct source.images, or leave such persons out with missing_images=skip"
    )


def decode_photo(payload: bytes, *, size_wh: tuple[int, int] | None, where: str) -> tuple[np.ndarray, bool]:
    """Decode one photo strictly: (H, W, 3) uint8 RGB, and whether `payload` itself decodes to these pixels
    in a reader that obeys EXIF.

    COCO annotates the pixels as they are stored and pays no heed to EXIF, so the annotated size decides:
    stored pixels of that size are taken as they are, else they are turned upright as EXIF says, if that gives
    the annotated size. size_wh: that size; None takes the pixels as they are stored. where: photo and
    annotation, for the message. Raises InputError for truncated or damaged data, another size, and pixels of
    more than 8 bits. (Bytes altered inside a JPEG's compressed pixels may decode all the same, wrongly.)
    """
    cure = "replace the file, or leave its persons out with corrupt_images=skip"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata; damaged pixels are errors
            image: Image.Image = Image.open(io.BytesIO(payload))
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image format that can be read" if unknown else str(error)
        raise InputError(f"{where}: the image is damaged ({reason}): {cure}") from error
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"{where}: the image has more than 8 bits a channel ({image.mode}): convert it to 8 bits"
        )
    turned = image.getexif().get(_ORIENTATION, 1) != 1
    if turned and size_wh not in (None, image.size):
        image, turned = ImageOps.exif_transpose(image), False
    if size_wh is not None and image.size != size_wh:
        raise InputError(
            f"{where}: the image is {image.width}x{image.height}, but it was annotated at "
            f"{size_wh[0]}x{size_wh[1]}: put the original file there, or correct the annotations"
        )
    return np.asarray(image.convert("RGB")), not turned
