"""Which keypoints to mask and with what rectangles: every random number of the masks, drawn on the device.

As published (X's joint cutout, methods of arXiv 2404.14835): joints uniformly without replacement,
half-sides independent uniform integers 10..19 px, jitter 10 N(0, 1) px cut to an integer, for a view
256 px high. Other heights scale all three.
"""

from typing import NamedTuple

import torch
from torch import Tensor

PUBLISHED_HEIGHT_PX = 256
"""Height of the view for which the sizes below are published."""
HALF_SIDE_PX = (10, 19)
"""Smallest and largest half-side, both included."""
JITTER_SD_PX = 10.0


class Masks(NamedTuple):
    """Rectangles over the keypoints of a view, in the order in which `mask_keypoints` takes them."""

    points_xy: Tensor
    """(N, K, 2) float32, weak-view px: the jittered centres."""
    counts: Tensor
    """(N,) int64: how many of `order` are masked."""
    half_sizes: Tensor
    """(N, K, 2) float32, weak-view px: half-sides along x and y."""
    order: Tensor
    """(N, K) int64: a permutation of the keypoints; the first `counts` of it are masked."""
    strong_from_weak: Tensor
    """(N, 2, 3) float32: where in the strong view they lie."""


def draw_masks(
    points_weak: Tensor,
    counts: Tensor,
    strong_from_weak: Tensor,
    view_hw: tuple[int, int],
    *,
    generator: torch.Generator,
) -> Masks:
    """Draw the masks in the weak view, for which the sizes are published; the op moves them on.

    Always draws for all K keypoints, so what is drawn does not depend on `counts`.

    Differs from docs/methods.md 9 row 11: the rectangle is laid in the strong view instead of being warped
    with the weak crop, because the strong view is sampled once from the stored pixels. Its centre moves
    with the joint and its sides grow with the view, so that it hides the same part of the body; only
    its sides stay upright where the published ones turn with the view.

    Args:
        points_weak: (N, K, 2) weak-view px, where the teacher sees the keypoints.
        counts: (N,) int64.
        strong_from_weak: (N, 2, 3) matrices.
        view_hw: height and width of both views in px.
        generator: on the device of the points.
    """
    num_samples, num_keypoints = points_weak.shape[:2]
    height_px = view_hw[0]
    order = draw_order(num_samples, num_keypoints, generator=generator)
    half_sizes = draw_half_sizes(num_samples, num_keypoints, height_px, generator=generator)
    jitter = draw_jitter(num_samples, num_keypoints, height_px, generator=generator)
    centres = points_weak.float() + jitter
    return Masks(centres, counts, half_sizes, order, strong_from_weak.float())


def draw_counts(num_samples: int, fewest: int, most: int, *, generator: torch.Generator) -> Tensor:
    """(N,) int64 on the generator's device: uniform integers from `fewest` to `most`, both included."""
    return torch.randint(fewest, most + 1, (num_samples,), generator=generator, device=generator.device)


def draw_order(num_samples: int, num_keypoints: int, *, generator: torch.Generator) -> Tensor:
    """(N, K) int64 on the generator's device: a uniform permutation of the keypoints for each sample."""
    keys = torch.rand(num_samples, num_keypoints, generator=generator, device=generator.device)
    return keys.argsort(dim=1, stable=True)


def draw_half_sizes(
    num_samples: int, num_keypoints: int, view_height_px: int, *, generator: torch.Generator
) -> Tensor:
    """(N, K, 2) float32 px: uniform integers 10..19 along x and y, times view height / 256."""
    low, high = HALF_SIDE_PX
    half_sides = torch.randint(
        low,
        high + 1,
        (num_samples, num_keypoints, 2),
        generator=generator,
        dtype=torch.float32,
        device=generator.device,
    )
    return half_sides.mul_(view_height_px / PUBLISHED_HEIGHT_PX)


def draw_jitter(
    num_samples: int, num_keypoints: int, view_height_px: int, *, generator: torch.Generator
) -> Tensor:
    """(N, K, 2) float32 px: 10 N(0, 1) cut toward 0 to an integer, times view height / 256."""
    normal = torch.randn((num_samples, num_keypoints, 2), generator=generator, device=generator.device)
    # to integers, as `trunc` would wake all threads of a CPU for these few numbers
    return normal.mul_(JITTER_SD_PX).int() * (view_height_px / PUBLISHED_HEIGHT_PX)
