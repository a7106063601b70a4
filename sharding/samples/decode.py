"""Decodes photos strictly: damaged ones, and those with another size than annotated, are refused."""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault
from semipose.sharding.annotations.photos.file_kinds import say_why
from semipose.sharding.samples.jpeg import decode_jpeg, find_excess

MOST_PIXELS = 64_000_000
"""Photos with more pixels are refused by their header; so many need half a gigabyte for decoding."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_STORED_FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "BMP"}
"""Formats that DALI decodes to the same pixels in training: GIF does not, and TIFF not always."""
UPRIGHT = 1
"""The EXIF orientation of pixels that are stored upright."""
_INVERSE = {6: 8, 8: 6}
"""Orientations and their inverse; all others are their own inverse."""

TURNED = Fault("EXIF rotation, obeyed: nobody annotated the photo as it is stored", "corrected", "", "photo")
TURNED_TO_SIZE = Fault(
    "EXIF rotation, obeyed: the photo turned upright has the annotated size", "corrected", "", "photo"
)
NOT_TURNED = Fault(
    "EXIF rotation, not obeyed: joints are taken to lie in the pixels as they are stored",
    "kept",
    "look at the sheet that check=only draws; if they do not, turn the photo and remove the tag",
    "photo",
)
MADE_SOUND = Fault(
    "JPEG with stray bytes or without an end, taken: its pixels are complete", "corrected", "", "photo"
)


class Decoded(NamedTuple):
    """The pixels of a photo.

    pixels: (H, W, 3) uint8 RGB. is_faithful: whether the file itself decodes to these pixels in any reader,
    with or without EXIF rotation. notes: what was done to decode it, if the user may want to know.
    """

    pixels: np.ndarray
    is_faithful: bool
    notes: tuple[Fault, ...]


class PhotoSizeError(InputError):
    """A photo is intact but has another size than annotated. `detail`: both sizes."""

    def __init__(self, where: str, size_wh: tuple[int, int], annotated_wh: tuple[int, int]) -> None:
        actual, wanted = (f"{width}x{height}" for width, height in (size_wh, annotated_wh))
        self.detail = f"{actual}, annotated at {wanted}"
        super().__init__(
            f"{where}: the image is {actual}, but it was annotated at {wanted}: put the original file there, "
            "or correct the annotations"
        )


def decode_photo(
    payload: bytes, *, size_wh: tuple[int, int] | None, where: str, upright: bool = False
) -> Decoded:
    """Decode one photo strictly.

    COCO annotates the pixels as they are stored and ignores EXIF, so the annotated size decides: stored
    pixels of that size are used unchanged; otherwise they are turned upright by EXIF, if that gives the
    annotated size. size_wh: that size; None uses the stored pixels unchanged. upright: turn the photo upright
    whatever its size, see `Annotations`. where: photo and annotation, for the message. Raises InputError for
    truncated or damaged data, another size (PhotoSizeError), more than MOST_PIXELS, pixels with more than 8
    bits, and several pictures in one file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata; damaged pixels are errors
            image = _open_image(payload, where)
            tag, is_tagged = orientation(image), _orientation_tag(image) != UPRIGHT
            pixels, was_sound = _stored_pixels(image, payload)
    except InputError:
        raise
    except Exception as error:  # PIL raises many types for damaged files
        raise InputError(
            f"{where}: the image is damaged ({_say_reason(error, payload)}): replace the file, or leave out "
            "its people with corrupt_images=skip"
        ) from error
    notes = [] if was_sound else [MADE_SOUND]
    if tag != UPRIGHT:
        has_size = size_wh in (None, _size_wh(pixels))
        if upright or not has_size:
            pixels = turn_upright(pixels, tag)
        notes.append(TURNED if upright else NOT_TURNED if has_size else TURNED_TO_SIZE)
    if size_wh is not None and _size_wh(pixels) != size_wh:
        raise PhotoSizeError(where, _size_wh(pixels), size_wh)
    is_faithful = image.format in _STORED_FORMATS and not is_tagged and was_sound
    return Decoded(pixels, is_faithful, tuple(notes))


def _say_reason(error: Exception, payload: bytes) -> str:
    """The reason, in one line, why PIL could not open or decode these bytes."""
    if isinstance(error, UnidentifiedImageError):
        return say_why(payload)
    return " ".join(str(error).split()) or type(error).__name__


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; UPRIGHT if it has none or an invalid one."""
    tag = _orientation_tag(image)
    return int(tag) if isinstance(tag, int) and 1 <= tag <= 8 else UPRIGHT


def _orientation_tag(image: Image.Image) -> object:
    return image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)


def turn_upright(pixels: np.ndarray, tag: int) -> np.ndarray:
    """Stored pixels (H, W, C), turned and mirrored as their EXIF orientation says.

    From 5 to 8 height and width are exchanged. Source: the EXIF standard, 4.6.5.1, tag 0x0112.
    """
    if tag in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def photo_sizes(payload: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of a photo as it is stored, and after EXIF has turned it upright.

    payload: the file, or enough of its start. Raises ValueError with the reason, in one line.
    """
    excess = find_excess(payload)
    if excess is not None:
        raise ValueError(excess)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata
            image = Image.open(io.BytesIO(payload))
            is_turned = orientation(image) in (5, 6, 7, 8)
    except Exception as error:  # PIL raises many types for damaged files
        raise ValueError(_say_reason(error, payload)) from error
    swapped = (image.height, image.width)
    if not is_turned:
        return image.size, image.size
    return (swapped, image.size) if image.format == "TIFF" else (image.size, swapped)


def _stored_pixels(image: Image.Image, payload: bytes) -> tuple[np.ndarray, bool]:
    """(H, W, 3) uint8 RGB of an image opened from `payload`, not turned; and whether the file was intact."""
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        pixels, was_made_sound = decode_jpeg(payload)
        return pixels, not was_made_sound
    tag = orientation(image)
    pixels = np.asarray(image.convert("RGB"))
    if image.format == "TIFF" and tag != UPRIGHT:  # PIL's TIFF reader has turned it already
        pixels = turn_upright(pixels, _INVERSE.get(tag, tag))
    return pixels, True


def _size_wh(pixels: np.ndarray) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _open_image(payload: bytes, where: str) -> Image.Image:
    """The image before its pixels are decoded. Raises InputError for faults that its header shows."""
    excess = find_excess(payload)
    if excess is not None:
        raise InputError(f"{where}: the image would take minutes to decode ({excess}): save it again")
    too_many = f"at most {MOST_PIXELS:,} pixels are allowed: make the photo smaller, with its annotations"
    try:
        image = Image.open(io.BytesIO(payload), formats=_FORMATS)
    except Image.DecompressionBombError as error:  # PIL's own limit is higher
        size = str(error).partition(" exceeds")[0]
        raise InputError(f"{where}: the image is too large ({size}), {too_many}") from error
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"{where}: the image is too large ({image.width}x{image.height}), {too_many}")
    if (
        getattr(image, "is_animated", False) and image.format != "MPO"
    ):  # the first picture of an MPO is the photo
        raise InputError(f"{where}: the file holds several pictures: keep the one that was annotated")
    bits = [str(tile[3]) for tile in image.tile if ";16" in str(tile[3])]
    if image.mode.startswith(("I", "F")) or bits:
        mode = image.mode if not bits else bits[0]
        raise InputError(
            f"{where}: the image has more than 8 bits per channel ({mode}): convert it to 8 bits"
        )
    return image
