"""Patches that are copied between strong views; the augmentations draw which ones."""

from typing import NamedTuple

import torch
from torch import Tensor

FARTHEST_PX = 1e6
"""Longer shifts are clamped to this before they become integers; no view is that large."""


class Patches(NamedTuple):
    """P patches per sample, pasted in this order, so that a later one covers an earlier one."""

    sources: Tensor
    """(N,) int64: the index in the batch of the image from which the patches come."""
    centres_xy: Tensor
    """(N, P, 2) float32, strong-view px of the sample: the centres of the pasted patches."""
    origins_xy: Tensor
    """(N, P, 2) float32, strong-view px of the source image: the points that are moved to the centres."""
    half_sizes: Tensor
    """(N, P, 2) float32 px: half-sides along x and y, for the source and the pasted rectangle."""


def paste(images: Tensor, strong: Tensor, patches: Patches) -> Tensor:
    """Paste `patches` of `strong` into `images`, in place; returns the images.

    For a centre (x, y) and half-sizes (a, b), the rectangle is that of `mask_keypoints`: columns in [x - a, x
    + a), rows in [y - b, y + b). The shift to the source, origin - centre, is rounded to whole pixels, so
    that pixels are copied bit for bit. A pixel whose source is outside the view is left unchanged, so
    rectangles are cut to what is inside both views. Values that are not finite paste nothing.

    Args:
        images: (N, 3, H, W), any strides.
        strong: (N, 3, H, W), of the same dtype, in separate memory.
        patches: on the same device.
    """
    num_samples, num_channels, height, width = images.shape
    source = _source_index(patches, (height, width))[:, None]
    pixels = strong.permute(0, 2, 3, 1).reshape(-1, num_channels)
    pixels = pixels.index_select(0, source.clamp_min(0).flatten())
    pixels = pixels.view(num_samples, height, width, num_channels).permute(0, 3, 1, 2)
    return images.copy_(torch.where(source >= 0, pixels, images))


def _source_index(patches: Patches, view_hw: tuple[int, int]) -> Tensor:
    """(N, H, W) int64: for each pixel, the index of its source in the flat batch (N * H * W), or -1."""
    height, width = view_hw
    device = patches.sources.device
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    offset = patches.origins_xy - patches.centres_xy
    # NaN fails every comparison in `_covered`, but would become an arbitrary integer
    offset_px = offset.nan_to_num(0.0).clamp(-FARTHEST_PX, FARTHEST_PX).round().long()
    is_finite = offset.isfinite().all(dim=-1)
    index = torch.full((len(patches.sources), height, width), -1, dtype=torch.int64, device=device)
    for patch in range(patches.centres_xy.shape[1]):
        centre, half, shift = (t[:, patch] for t in (patches.centres_xy, patches.half_sizes, offset_px))
        in_columns = _covered(columns, centre[:, 0], half[:, 0], shift[:, 0])
        in_rows = _covered(rows, centre[:, 1], half[:, 1], shift[:, 1]) & is_finite[:, patch, None]
        source_row = patches.sources[:, None] * height + rows + shift[:, 1, None]
        source = source_row[:, :, None] * width + (columns + shift[:, 0, None])[:, None, :]
        index = torch.where(in_rows[:, :, None] & in_columns[:, None, :], source, index)
    return index


def _covered(pixels: Tensor, centre: Tensor, half: Tensor, shift: Tensor) -> Tensor:
    """(N, L) bool: pixels 0..L-1 of a row or column inside the rectangle whose source is also in 0..L-1."""
    source = pixels + shift[:, None]
    is_within = (pixels >= (centre - half)[:, None]) & (pixels < (centre + half)[:, None])
    return is_within & (source >= 0) & (source < len(pixels))
