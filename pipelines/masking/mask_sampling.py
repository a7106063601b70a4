"""All random numbers of the masks, drawn on the device: which keypoints, and the rectangles over them.

As published (joint cutout of Xie et al., method of arXiv 2404.14835): joints uniformly without replacement,
half-sides as independent uniform integers 10..19 px, jitter 10 N(0, 1) px truncated to an integer, for a view
of 256 px height. Sizes and jitter scale with the height.
"""

from typing import NamedTuple

import torch
from torch import Tensor

PUBLISHED_HEIGHT_PX = 256
"""The view height for which the sizes below are published."""
HALF_SIDE_PX = (10, 19)
"""Smallest and largest half-side, both inclusive."""
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
    """(N, 2, 3) float32: the matrices from the weak to the strong views."""


def draw_masks(
    points_weak: Tensor,
    counts: Tensor,
    strong_from_weak: Tensor,
    view_hw: tuple[int, int],
    *,
    generator: torch.Generator,
) -> Masks:
    """Draw the masks in the weak view, for which sizes are published; the op moves them to the strong view.

    Random numbers are drawn for all K keypoints, so they do not depend on `counts`.

    Differs from docs/methods.md 9 row 11: the rectangle is painted in the strong view instead of being warped
    with the weak crop, because the strong view is sampled once from the stored pixels. Its centre moves with
    the joint and its sides scale with the view, so that it hides the same part of the body; but its sides
    stay upright, while the published ones rotate with the view.

    Args:
        points_weak: (N, K, 2) weak-view px, the keypoints of the teacher.
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
    """(N,) int64 on the generator's device: uniform integers from `fewest` to `most`, both inclusive."""
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
    """(N, K, 2) float32 px: 10 N(0, 1) truncated to an integer, times view height / 256."""
    normal = torch.randn((num_samples, num_keypoints, 2), generator=generator, device=generator.device)
    # `int` and not `trunc`, which would use all threads of a CPU for these few numbers
    return normal.mul_(JITTER_SD_PX).int() * (view_height_px / PUBLISHED_HEIGHT_PX)
