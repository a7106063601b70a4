"""The CPU kernel of `mask_keypoints`. It is imported at its first launch, because Numba compiles it then."""

import numba
import numpy as np
import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def launch(
    images: Tensor,
    points_xy: Tensor,
    counts: Tensor,
    half_sizes: Tensor,
    order: Tensor,
    image_from_points: Tensor,
    fill: Tensor,
) -> None:
    """Paint as masks.py defines, which has checked the arguments.

    Painting copies bits, so values are treated as integers, because numpy has no bfloat16. With channels-last
    memory, a row is one line of values; with contiguous memory, there is one line per row and channel; images
    with other strides are painted in a copy.
    """
    num_samples, num_channels, height, width = images.shape
    if images.numel() == 0:
        return
    if images.is_contiguous(memory_format=torch.channels_last):
        whole = images
        lines = images.permute(0, 2, 3, 1).view(num_samples, 1, height, width * num_channels)
    else:
        lines = whole = images.contiguous()
    bits = _BITS[images.element_size()]
    _paint(
        lines.view(bits).numpy(),
        width,
        points_xy.contiguous().numpy(),
        counts.contiguous().numpy(),
        half_sizes.contiguous().numpy(),
        order.contiguous().numpy(),
        image_from_points.contiguous().numpy(),
        fill.to(images.dtype).view(bits).numpy(),
    )
    if whole is not images:
        images.copy_(whole)


@numba.njit(nogil=True)
def _paint(
    lines: np.ndarray,
    width: int,
    points_xy: np.ndarray,
    counts: np.ndarray,
    half_sizes: np.ndarray,
    order: np.ndarray,
    image_from_points: np.ndarray,
    fill: np.ndarray,
) -> None:
    """Paint `lines` (N, P, H, V): a row of `width` pixels has P lines of V values, 1 or 1 per channel."""
    num_samples, num_planes, height, num_values = lines.shape
    num_keypoints = order.shape[1]
    values_a_pixel = num_values // width
    painted = np.empty((num_planes, num_values), lines.dtype)
    for plane in range(num_planes):
        for value in range(num_values):
            painted[plane, value] = fill[plane + value % values_a_pixel]
    for sample in range(num_samples):
        (a, b, shift_x), (c, d, shift_y) = image_from_points[sample]
        scale = np.sqrt(np.abs(a * d - b * c))
        for rank in range(min(counts[sample], num_keypoints)):
            joint = order[sample, rank]
            if joint < 0 or joint >= num_keypoints:
                continue
            x, y = points_xy[sample, joint]
            half_x, half_y = half_sizes[sample, joint] * scale
            left, right = _bounds(a * x + b * y + shift_x, half_x, width)
            top, bottom = _bounds(c * x + d * y + shift_y, half_y, height)
            for plane in range(num_planes):
                for row in range(top, bottom):
                    line = lines[sample, plane, row]
                    # Unsigned, because for signed indices Numba checks each time whether they are negative.
                    for at in range(np.uint64(left * values_a_pixel), np.uint64(right * values_a_pixel)):
                        line[at] = painted[plane, at]


@numba.njit
def _bounds(centre: np.float32, half: np.float32, size: int) -> tuple[int, int]:
    """First and end index of the pixels in [centre - half, centre + half), within the image."""
    low, high = centre - half, centre + half
    if not low < high:  # also if one of them is NaN
        return 0, 0
    return _first_from(low, size), _first_from(high, size)


@numba.njit
def _first_from(edge: np.float32, size: int) -> int:
    """The first pixel of 0..size-1 at or beyond `edge`, or size."""
    return int(np.ceil(min(max(edge, np.float32(0)), np.float32(size))))
