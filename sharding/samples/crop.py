"""The part of a photo that a shard stores for one person: the kinds of crops and their geometry."""

import math
from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from pydantic import Field

from semipose.configs.settings import settings

BOX_PADDING = 1.25
"""Published factor from a person's box, extended to the aspect ratio, to the view at scale 1."""
JPEG_QUALITY = 95
Side = Annotated[int, Field(ge=1, le=65_535)]


@settings
class PersonCrop:
    """Store each person once, cut from the photo with the margin that the views need.

    The stored region is a square about the box, because views rotate. Of the pixels of a strong view (weak
    view times strong view: zoom-out up to 1.5625, 7 % of rotations beyond 60 degrees), 3.4 % are outside at
    margin 1.25, 0.7 % at 1.5, 0.4 % at 1.5625 and none at 1.95; of a weak view 1.0 %, 0.03 %, 0 and 0. The
    area to store and decode grows with the square of the margin, so the default is 1.5.
    """

    name: Literal["person"] = "person"
    margin: float = Field(default=1.5, gt=0, le=100)
    """Side of the stored square, relative to the longer side of the padded box."""
    input_size_wh: tuple[Side, Side] = (192, 256)
    """Largest network input (width, height) for which the shards are built; boxes get its aspect ratio."""
    oversample: float = Field(default=4 / 3, gt=0, le=100)
    """Largest number of stored pixels per input pixel at scale 1; 4/3 is the largest zoom of the weak
    view."""


@settings
class WholePhoto:
    """Store the whole photo, as its own file if possible (training then decodes whole photos)."""

    name: Literal["none"] = "none"
    longest_side: int | None = Field(default=None, ge=1)
    """Photos whose longer side has more pixels are scaled down to this and encoded again; null: keep
    sizes."""


Crop = Annotated[PersonCrop | WholePhoto, Field(discriminator="name")]


class Region(NamedTuple):
    """A rectangle of whole source pixels (right and bottom exclusive) and the size at which it is stored."""

    left: int
    top: int
    right: int
    bottom: int
    stored_wh: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        """Whether it contains no pixel of the photo."""
        return self.right <= self.left or self.bottom <= self.top


def person_region(
    box_xywh: tuple[float, float, float, float], source_size_wh: tuple[int, int], crop: PersonCrop
) -> Region:
    """The region that `crop` stores for a cleaned box, clipped to the photo.

    It is only ever scaled down, and only if the padded box has more pixels than `oversample` times the input.
    """
    x, y, width, height = box_xywh
    aspect = crop.input_size_wh[0] / crop.input_size_wh[1]
    padded_height = BOX_PADDING * max(height, width / aspect)
    half_side = crop.margin * padded_height * max(1.0, aspect) / 2
    centre_xy = (x + width / 2, y + height / 2)
    left, top = (max(0, math.floor(centre - half_side)) for centre in centre_xy)
    right, bottom = (
        min(size, math.ceil(centre + half_side) + 1)
        for centre, size in zip(centre_xy, source_size_wh, strict=True)
    )
    scale = min(1.0, crop.oversample * crop.input_size_wh[1] / padded_height)
    stored_wh = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    return Region(left, top, right, bottom, stored_wh)


def photo_region(source_size_wh: tuple[int, int], crop: WholePhoto) -> Region:
    """The whole photo, at the size at which `crop` stores it."""
    width, height = source_size_wh
    scale = min(1.0, (crop.longest_side or max(width, height)) / max(width, height))
    return Region(0, 0, width, height, (max(1, round(width * scale)), max(1, round(height * scale))))


def image_from_stored(region: Region) -> np.ndarray:
    """(2, 3) float64 matrix from stored pixels to source pixels, pixel centres at integers.

    Stored pixel i covers the source from a*i to a*(i+1), counted from the edge of the region, so its centre
    is at a*(i + 1/2) - 1/2 from the centre of the first pixel of the region. The two axes differ by the
    rounding of the stored size.
    """
    a = (region.right - region.left) / region.stored_wh[0]
    d = (region.bottom - region.top) / region.stored_wh[1]
    return np.array([[a, 0.0, region.left + (a - 1) / 2], [0.0, d, region.top + (d - 1) / 2]])


def move_box(box_xywh: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A box (4,), transformed by an axis-aligned matrix (2, 3)."""
    scale = matrix[[0, 1], [0, 1]]
    return np.concatenate([box_xywh[:2] * scale + matrix[:, 2], box_xywh[2:] * scale])


def move_keypoints(keypoints: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Keypoints (K, 3), transformed by a matrix (2, 3) in float64; unlabelled ones (v = 0) become zeros."""
    moved = keypoints.astype(np.float64)
    moved[:, :2] = moved[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return np.where(keypoints[:, 2:] > 0, moved, 0.0)


def cut(photo: np.ndarray, region: Region) -> np.ndarray:
    """The stored pixels (h, w, 3) uint8 of a region of the photo (H, W, 3) uint8."""
    pixels = photo[region.top : region.bottom, region.left : region.right]
    return scale_down(pixels, region.stored_wh)


def scale_down(pixels: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 pixels, scaled down to a size; the edges of the picture stay its edges.

    OpenCV's area interpolation is slow if the sizes have no integer ratio. Above 0.7, bilinear sampling is as
    good (both are 38 to 39 dB from Lanczos on COCO photos), and above 1/3 so is the mean of 2x2 bilinear
    samples; these take a fifth to a half of the time.
    """
    width, height = size_wh
    ratio = min(width / pixels.shape[1], height / pixels.shape[0])
    if size_wh == (pixels.shape[1], pixels.shape[0]):
        return pixels
    if ratio >= 0.7:
        return cv2.resize(pixels, size_wh, interpolation=cv2.INTER_LINEAR)
    if ratio >= 1 / 3:
        pixels = cv2.resize(pixels, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """RGB pixels (h, w, 3) uint8 as a JPEG file of quality 95 (4:2:0, as is usual for photos)."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), JPEG_QUALITY, "RGB", "420", fastdct=False)
