"""Photos to pixels, strictly: what is damaged or of another size than annotated is refused."""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from configs.load import InputError

MOST_PIXELS = 64_000_000
"""A photo of more pixels is refused by its header: so many take half a gigabyte while they are decoded."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_STORED_FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "BMP"}
"""Formats that decode to the same pixels in the training's reader (DALI): GIF does not, TIFF not always."""
UPRIGHT = 1
"""EXIF orientation of pixels that are stored upright."""


def decode_photo(payload: bytes, *, size_wh: tuple[int, int] | None, where: str) -> tuple[np.ndarray, bool]:
    """Decode one photo strictly: (H, W, 3) uint8 RGB, and whether `payload` itself decodes to these pixels
    in any reader, whether or not it obeys EXIF.

    COCO annotates the pixels as they are stored and pays no heed to EXIF, so the annotated size decides:
    stored pixels of that size are taken as they are, else they are turned upright as EXIF says, if that gives
    the annotated size. size_wh: that size; None takes the pixels as they are stored. where: photo and
    annotation, for the message. Raises InputError for truncated or damaged data, another size, more than
    MOST_PIXELS, pixels of more than 8 bits, and several pictures in one file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd metadata; damaged pixels are errors
            image = _open_image(payload, where)
            is_storable = image.format in _STORED_FORMATS
            is_rotated = orientation(image) != UPRIGHT
            if is_rotated and size_wh not in (None, image.size):
                image = ImageOps.exif_transpose(image)
            pixels = _pixels(image, payload)
    except InputError:
        raise
    except Exception as error:  # on damaged files PIL raises whatever its readers run into
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image format that can be read" if unknown else str(error) or type(error).__name__
        raise InputError(
            f"{where}: the image is damaged ({reason}): replace the file, or leave its persons out with "
            "corrupt_images=skip"
        ) from error
    if size_wh is not None and image.size != size_wh:
        raise InputError(
            f"{where}: the image is {image.width}x{image.height}, but it was annotated at "
            f"{size_wh[0]}x{size_wh[1]}: put the original file there, or correct the annotations"
        )
    return pixels, is_storable and not is_rotated


def orientation(image: Image.Image) -> object:
    """The EXIF orientation of an open image, 1 to 8 or whatever the file says; UPRIGHT where it has none."""
    return image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)


def _pixels(image: Image.Image, payload: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image opened from `payload`, and perhaps turned since."""
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        # PIL's JPEG reader lets altered bytes pass; this one refuses whatever libjpeg warns of.
        return simplejpeg.decode_jpeg(payload, "RGB", strict=True)
    return np.asarray(image.convert("RGB"))


def _open_image(payload: bytes, where: str) -> Image.Image:
    """The image before its pixels are decoded. Raises InputError for what its header tells already."""
    too_many = f"the most is {MOST_PIXELS:,} pixels: make the photo smaller, with its annotations"
    try:
        image = Image.open(io.BytesIO(payload), formats=_FORMATS)
    except Image.DecompressionBombError as error:  # PIL's own limit is higher
        size = str(error).partition(" exceeds")[0]
        raise InputError(f"{where}: the image is too large ({size}), {too_many}") from error
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"{where}: the image is too large ({image.width}x{image.height}), {too_many}")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # of an MPO the first is the photo
        raise InputError(f"{where}: the file holds several pictures: keep the one that was annotated")
    bits = [str(tile[3]) for tile in image.tile if ";16" in str(tile[3])]
    if image.mode.startswith(("I", "F")) or bits:
        mode = image.mode if not bits else bits[0]
        raise InputError(f"{where}: the image has more than 8 bits a channel ({mode}): convert it to 8 bits")
    return image
