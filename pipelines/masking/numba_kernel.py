"""The CPU kernel of `mask_keypoints`. Imported at its first call only: Numba compiles it then."""

import numba
import numpy as np


def paint(
    pixels: np.ndarray,
    points_xy: np.ndarray,
    counts: np.ndarray,
    half_sizes: np.ndarray,
    order: np.ndarray,
    colour: np.ndarray,
) -> None:
    """Paint as op.py defines; arguments checked there. `pixels` (N, C, H, W), any strides.

    A row of pixels whose channels lie together is one run of values, which is written in wide pieces.
    """
    num_samples, num_channels, height, width = pixels.shape
    together = pixels.transpose(0, 2, 3, 1)
    if together.flags.c_contiguous:
        rows = together.reshape(num_samples, 1, height, width * num_channels)
        colours = np.tile(colour, width)[None]
    else:
        rows, colours = pixels, colour.repeat(width).reshape(num_channels, width)
    values_a_pixel = max(1, rows.shape[3] // max(1, width))  # 1 where there is no pixel, or no channel
    _paint_rows(rows, points_xy, counts, half_sizes, order, colours, values_a_pixel)


@numba.njit(nogil=True)
def _paint_rows(
    rows: np.ndarray,
    points_xy: np.ndarray,
    counts: np.ndarray,
    half_sizes: np.ndarray,
    order: np.ndarray,
    colours: np.ndarray,
    values_a_pixel: int,
) -> None:
    """Paint rows (N, P, H, W * values_a_pixel) of P planes with painted rows `colours` (P, the same)."""
    num_samples, num_planes, height, width = rows.shape
    width //= values_a_pixel
    num_keypoints = order.shape[1]
    for sample in range(num_samples):
        for rank in range(min(counts[sample], num_keypoints)):
            joint = order[sample, rank]
            if joint < 0 or joint >= num_keypoints:
                continue
            x, y = points_xy[sample, joint]
            half_x, half_y = half_sizes[sample, joint]
            left, right = _bounds(x - half_x, x + half_x, width)
            top, bottom = _bounds(y - half_y, y + half_y, height)
            for plane in range(num_planes):
                for row in range(top, bottom):
                    for value in range(left * values_a_pixel, right * values_a_pixel):
                        rows[sample, plane, row, value] = colours[plane, value]


@numba.njit
def _bounds(low: np.float32, high: np.float32, size: int) -> tuple[int, int]:
    """First and end index of the pixels in [low, high), within the image; none where one is not a number."""
    if not low < high:
        return 0, 0
    return _first_from(low, size), _first_from(high, size)


@numba.njit
def _first_from(edge: np.float32, size: int) -> int:
    """The first pixel of 0..size-1 at or beyond `edge`, or size."""
    return int(np.ceil(min(max(edge, np.float32(0)), np.float32(size))))
