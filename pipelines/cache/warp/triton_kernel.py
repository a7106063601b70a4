"""The CUDA kernel. It is imported only for a run on a GPU, because Triton needs a Linux GPU build."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Number of values (three per pixel) that a program writes."""


def launch(
    pixels: Tensor,
    offsets: Tensor,
    sizes_hw: Tensor,
    stored_from_view: Tensor,
    colours: Tensor,
    size_hw: tuple[int, int],
) -> Tensor:
    """Return the views (N, H, W, 3) float32 of N crops.

    pixels (bytes,) uint8, offsets (N,) int64, sizes_hw (N, 2) int64, stored_from_view (N, 2, 3) float32,
    colours (3, 3) float32: grey levels beyond the crop, mean grey levels, 1 / deviations; all on one GPU.
    """
    height, width = size_hw
    num_values = height * width * 3
    views = torch.empty((len(offsets), height, width, 3), device=pixels.device)
    with torch.cuda.device_of(pixels):
        warp[(triton.cdiv(num_values, BLOCK), len(offsets))](
            pixels,
            offsets,
            sizes_hw,
            stored_from_view,
            colours,
            views,
            num_values,
            WIDTH=width,
            VALUES=BLOCK,
            # explicit, because Triton 3.9 warns that its default will change
            enable_fp_fusion=False,
        )
    return views


@triton.jit
def warp(  # type: ignore[no-untyped-def]  # Triton infers the types at launch
    pixels,
    offsets,
    sizes_hw,
    stored_from_view,
    colours,
    views,
    num_values,
    WIDTH: tl.constexpr,
    VALUES: tl.constexpr,
):
    sample = tl.program_id(1).to(tl.int64)
    value = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    channel, pixel = value % 3, value // 3
    x, y = (pixel % WIDTH).to(tl.float32), (pixel // WIDTH).to(tl.float32)
    matrix = stored_from_view + sample * 6
    stored_x = x * tl.load(matrix) + (y * tl.load(matrix + 1) + tl.load(matrix + 2))
    stored_y = x * tl.load(matrix + 3) + (y * tl.load(matrix + 4) + tl.load(matrix + 5))
    # Far away is beyond the crop, and so is NaN, which would otherwise become a value of the view.
    is_near = (tl.abs(stored_x) < 1e9) & (tl.abs(stored_y) < 1e9)
    stored_x, stored_y = tl.where(is_near, stored_x, -9.0), tl.where(is_near, stored_y, -9.0)
    left, top = tl.floor(stored_x), tl.floor(stored_y)
    share_x, share_y = stored_x - left, stored_y - top

    crop = pixels + tl.load(offsets + sample)
    height = tl.load(sizes_hw + 2 * sample).to(tl.int32)
    width = tl.load(sizes_hw + 2 * sample + 1).to(tl.int32)
    border = tl.load(colours + channel)
    top_left = _tap(crop, top, left, height, width, channel, border)
    top_right = _tap(crop, top, left + 1, height, width, channel, border)
    bottom_left = _tap(crop, top + 1, left, height, width, channel, border)
    bottom_right = _tap(crop, top + 1, left + 1, height, width, channel, border)
    above = top_left + share_x * (top_right - top_left)
    below = bottom_left + share_x * (bottom_right - bottom_left)
    grey = above + share_y * (below - above)
    # Above 1.5 * 2^23 float32 holds only integers, so this rounds, with halves to even, as OpenCV does.
    grey = (grey + 12582912.0) - 12582912.0
    normalised = (grey - tl.load(colours + 3 + channel)) * tl.load(colours + 6 + channel)
    tl.store(views + sample * num_values + value, normalised, mask=value < num_values)


@triton.jit
def _tap(crop, row, column, height, width, channel, border):  # type: ignore[no-untyped-def]
    """The level of a stored pixel, or of the border beyond the crop."""
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = tl.where(is_inside, row, 0.0).to(tl.int32), tl.where(is_inside, column, 0.0).to(tl.int32)
    grey = tl.load(crop + (row * width + column) * 3 + channel, mask=is_inside, other=0).to(tl.float32)
    return tl.where(is_inside, grey, border)
