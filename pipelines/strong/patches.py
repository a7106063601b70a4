"""Patches of pixels carried between strong views: what they are, and how they are laid; parts draw which."""

from typing import NamedTuple

import torch
from torch import Tensor

FARTHEST_PX = 1e6
"""Longer ways between two pixels are cut to this before they become integers; no view is as large."""


class Patches(NamedTuple):
    """P patches for each sample, pasted in this order, so that a later one covers an earlier one."""

    sources: Tensor
    """(N,) int64: the image of the batch from which the sample's patches come."""
    centres_xy: Tensor
    """(N, P, 2) float32, strong-view px of the sample: where the patches are laid."""
    origins_xy: Tensor
    """(N, P, 2) float32, strong-view px of the source: what becomes the centre."""
    half_sizes: Tensor
    """(N, P, 2) float32 px: half-sides along x and y, of the cut and of the pasted rectangle alike."""


def paste(images: Tensor, strong: Tensor, patches: Patches) -> Tensor:
    """Lay `patches` of `strong` over `images`, in place; give the images.

    With (x, y) a centre and (a, b) the half-sizes, the rectangle is that of `mask_keypoints`: columns in
    [x - a, x + a), rows in [y - b, y + b). The way to the source, origin - centre, is rounded to whole
    pixels, so that pixels are copied bit for bit; a pixel whose own source lies outside the view is left as
    it is, so both rectangles are cut to what lies in both views. What is not finite pastes nothing.

    Args:
        images: (N, 3, H, W), any strides.
        strong: (N, 3, H, W) of the same dtype, not the same memory.
        patches: on the same device.
    """
    num_samples, num_channels, height, width = images.shape
    place = _place_of_source(patches, (height, width))[:, None]
    pixels = strong.permute(0, 2, 3, 1).reshape(-1, num_channels)
    pixels = pixels.index_select(0, place.clamp_min(0).flatten())
    pixels = pixels.view(num_samples, height, width, num_channels).permute(0, 3, 1, 2)
    return images.copy_(torch.where(place >= 0, pixels, images))


def _place_of_source(patches: Patches, view_hw: tuple[int, int]) -> Tensor:
    """(N, H, W) int64: for each pixel its source in the batch laid out as (N * H * W), or -1 for none."""
    height, width = view_hw
    device = patches.sources.device
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    way = patches.origins_xy - patches.centres_xy
    # "not a number" never meets a comparison of `_covered`, but would be any integer
    way_px = way.nan_to_num(0.0).clamp(-FARTHEST_PX, FARTHEST_PX).round().long()
    is_finite = way.isfinite().all(dim=-1)
    place = torch.full((len(patches.sources), height, width), -1, dtype=torch.int64, device=device)
    for patch in range(patches.centres_xy.shape[1]):
        centre, half, shift = (t[:, patch] for t in (patches.centres_xy, patches.half_sizes, way_px))
        in_columns = _covered(columns, centre[:, 0], half[:, 0], shift[:, 0])
        in_rows = _covered(rows, centre[:, 1], half[:, 1], shift[:, 1]) & is_finite[:, patch, None]
        source_row = patches.sources[:, None] * height + rows + shift[:, 1, None]
        source = source_row[:, :, None] * width + (columns + shift[:, 0, None])[:, None, :]
        place = torch.where(in_rows[:, :, None] & in_columns[:, None, :], source, place)
    return place


def _covered(pixels: Tensor, centre: Tensor, half: Tensor, shift: Tensor) -> Tensor:
    """(N, L) bool: pixels 0..L-1 of a row or column within the rectangle whose source lies in 0..L-1, too."""
    source = pixels + shift[:, None]
    is_within = (pixels >= (centre - half)[:, None]) & (pixels < (centre + half)[:, None])
    return is_within & (source >= 0) & (source < len(pixels))
