"""The CUDA kernel of `mask_keypoints`. It is imported at its first launch: Triton needs a Linux GPU build."""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_HW = (16, 64)
"""Pixels that a program paints at a time; published rectangles are 20 to 38 px wide in a 256 px view."""


def launch(
    images: Tensor,
    points_xy: Tensor,
    counts: Tensor,
    half_sizes: Tensor,
    order: Tensor,
    image_from_points: Tensor,
    fill: Tensor,
) -> None:
    """Paint as masks.py defines, which has checked the arguments. One program per image and entry of `order`.

    Rectangles that overlap are painted twice with the same colour, so their order does not matter.
    """
    num_samples, num_channels, height, width = images.shape
    num_keypoints = points_xy.shape[1]
    if images.numel() == 0 or num_keypoints == 0:
        return
    with torch.cuda.device_of(images):
        paint[(num_samples, num_keypoints)](
            images,
            points_xy.contiguous(),
            counts.contiguous(),
            half_sizes.contiguous(),
            order.contiguous(),
            image_from_points.contiguous(),
            fill.to(images.dtype).contiguous(),
            *images.stride(),
            num_channels,
            height,
            width,
            num_keypoints,
            TILE_H=TILE_HW[0],
            TILE_W=TILE_HW[1],
            # explicit, because Triton 3.9 warns that its default will change
            enable_fp_fusion=False,
        )


@triton.jit
def paint(  # type: ignore[no-untyped-def]  # Triton infers the types at launch
    images,
    points_xy,
    counts,
    half_sizes,
    order,
    image_from_points,
    fill,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    num_channels,
    height,
    width,
    num_keypoints,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    rank = tl.program_id(1)
    joint = tl.load(order + sample * num_keypoints + rank)
    is_painted = (rank < tl.load(counts + sample)) & (joint >= 0) & (joint < num_keypoints)
    pair = (sample * num_keypoints + tl.where(is_painted, joint, 0)) * 2
    matrix = image_from_points + sample * 6
    a, b, shift_x = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
    c, d, shift_y = tl.load(matrix + 3), tl.load(matrix + 4), tl.load(matrix + 5)
    scale = tl.sqrt_rn(tl.abs(a * d - b * c))
    half_x, half_y = tl.load(half_sizes + pair) * scale, tl.load(half_sizes + pair + 1) * scale
    point_x, point_y = tl.load(points_xy + pair), tl.load(points_xy + pair + 1)
    x = a * point_x + b * point_y + shift_x
    y = c * point_x + d * point_y + shift_y

    # The loops only limit the work; the comparisons inside decide which pixels are painted.
    first_column, end_column = _bounds(x - half_x, x + half_x, width)
    first_row, end_row = _bounds(y - half_y, y + half_y, height)
    end_row = tl.where(is_painted, end_row, 0)
    for top in range(first_row, end_row, TILE_H):
        rows = top + tl.arange(0, TILE_H)
        in_rows = (rows >= y - half_y) & (rows < y + half_y) & (rows < height)
        for left in range(first_column, end_column, TILE_W):
            columns = left + tl.arange(0, TILE_W)
            in_columns = (columns >= x - half_x) & (columns < x + half_x) & (columns < width)
            is_inside = in_rows[:, None] & in_columns[None, :]
            tile = rows.to(tl.int64)[:, None] * stride_h + columns.to(tl.int64)[None, :] * stride_w
            for channel in range(num_channels):
                colour = tl.load(fill + channel)
                colours = tl.zeros((TILE_H, TILE_W), dtype=colour.dtype) + colour
                tl.store(images + sample * stride_n + channel * stride_c + tile, colours, mask=is_inside)


@triton.jit
def _bounds(low, high, size):  # type: ignore[no-untyped-def]
    """First and end index of the pixels in [low, high); within the image even if these are not finite."""
    first = tl.where(low > 0, low, 0.0)
    first = tl.where(first < size, first, size)
    end = tl.where(high > 0, high, 0.0)
    end = tl.where(end < size, end, size)
    return first.to(tl.int32), tl.ceil(end).to(tl.int32)
