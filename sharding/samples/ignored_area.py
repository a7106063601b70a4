"""The ignored area of a photo: crowds, and people without keypoints, as the bits of a fixed grid.

The grid of GRID x GRID cells is stretched over the whole photo. Its size does not depend on the photo, so a
batch needs neither a decoder nor padding for it.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import cv2
import msgspec
import numpy as np

from semipose.configs.load import InputError

GRID = 128
MASK_BYTES = GRID * GRID // 8
_LEAST_SHARE = 0.5 + 1e-9  # a rounding error must not decide about cells that are half covered
_FRACTION_BITS = 4  # OpenCV takes the corners of polygons in sixteenths of a pixel
_FAR_PX = 1e6


def encode_ignored(
    rows: Sequence[Mapping[str, Any]],
    outlines: Mapping[int, bytes],
    keypoints: Sequence[np.ndarray],
    size_wh: tuple[int, int],
    where: str,
) -> bytes:
    """The mask member of a photo: GRID x GRID bits, row by row, the first in the highest bit of its byte.

    A bit is set if more than half of its cell is ignored and no labelled keypoint is within one cell of it.
    rows: crowds and people without keypoints, in COCO form. outlines: `segmentation` as JSON, by id, of those
    that have none in their row. keypoints: (K, 3) of each person. All in pixels of the source photo, whose
    size is given. Raises InputError, which starts with `where`, for a segmentation that does not fit.
    """
    # Differs from the peers: they ignore labelled keypoints too if these are inside somebody's silhouette.
    cells = np.zeros((GRID, GRID), bool)
    if rows:
        pixels = np.zeros((size_wh[1], size_wh[0]), np.uint8)
        for row in rows:
            _paint(pixels, row, outlines, f"{where}: annotation {row['id']}")
        cells = _overlap(size_wh[1]) @ pixels @ _overlap(size_wh[0]).T > _LEAST_SHARE
    for points in keypoints:
        labelled = points[points[:, 2] > 0, :2].astype(np.float64)
        for column, row_index in np.floor((labelled + 0.5) / size_wh * GRID).clip(-2, GRID + 1).astype(int):
            cells[max(0, row_index - 1) : row_index + 2, max(0, column - 1) : column + 2] = False
    return np.packbits(cells).tobytes()


def decode_ignored(payload: bytes) -> np.ndarray:
    """(GRID, GRID) bool: the cells of a mask member. Raises InputError for one of another size."""
    if len(payload) != MASK_BYTES:
        raise InputError(
            f"a mask has {len(payload)} bytes instead of {MASK_BYTES}: the shards are damaged; build them "
            "again"
        )
    return np.unpackbits(np.frombuffer(payload, np.uint8)).reshape(GRID, GRID).astype(bool)


def _paint(pixels: np.ndarray, row: Mapping[str, Any], outlines: Mapping[int, bytes], where: str) -> None:
    """Set the pixels (H, W) of one row: those of its segmentation, or else those of its box."""
    segmentation = row.get("segmentation")
    if segmentation is None and row["id"] in outlines:
        segmentation = msgspec.json.decode(outlines[row["id"]])
    try:
        if isinstance(segmentation, Mapping):
            pixels |= _decode_runs(segmentation, pixels.shape)
            return
        polygons = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation or ()]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{where}: its segmentation cannot be read ({error}): correct it, or remove it so that the box "
            "counts"
        ) from error
    polygons = [polygon for polygon in polygons if len(polygon) > 2]
    if not polygons:
        x, y, width, height = row["bbox"]
        polygons = [np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])]
    for polygon in polygons:  # one by one: where polygons of one call overlap, OpenCV leaves a hole
        corners = (polygon.clip(-_FAR_PX, _FAR_PX) * 2**_FRACTION_BITS).round().astype(np.int32)
        cv2.fillPoly(pixels, [corners], 1, shift=_FRACTION_BITS)


def _decode_runs(segmentation: Mapping[str, Any], size_hw: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8 of COCO's run lengths, which count down the columns and begin with zeros.

    Raises ValueError for runs of another photo.
    """
    counts = segmentation["counts"]
    runs = _decompress(counts) if isinstance(counts, str) else [int(count) for count in counts]
    height, width = (int(side) for side in segmentation["size"])
    if (height, width) != tuple(size_hw):
        raise ValueError(
            f"it is of a photo of {width}x{height} pixels, and this one has {size_hw[1]}x{size_hw[0]}"
        )
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"its runs cover {sum(runs)} of {height * width} pixels")
    flat = np.zeros(height * width, np.uint8)
    for index, (start, end) in enumerate(pairwise(accumulate(runs, initial=0))):
        flat[start:end] = index % 2
    return flat.reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """The run lengths of COCO's compressed form: five bits per character, lowest first, a sixth if more come.

    From the fourth number on, each is the difference to the one before the last. Source: `rleFrString` of
    pycocotools.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode():
        value |= (code - 48 & 31) << shift
        shift += 5
        if code - 48 & 32:
            continue
        if code - 48 & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _overlap(size: int) -> np.ndarray:
    """(GRID, size): the share of each cell's length that each pixel covers, along one axis of a photo."""
    edges = np.linspace(0, size, GRID + 1)
    pixels = np.arange(size)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return inside.clip(0) * (GRID / size)
