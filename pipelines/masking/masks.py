"""The masks of keypoints: which ones, behind what rectangles, and the op that paints them on the device.

As published (joint cutout of Xie et al., method of arXiv 2404.14835): joints uniformly without replacement,
half-sides as independent uniform integers 10..19 px, jitter 10 N(0, 1) px truncated to an integer, for a view
of 256 px height. Sizes and jitter scale with the height.

`mask_keypoints` paints the rectangles in place. All kernels share one definition: the matrix M of a sample
moves a point (x, y) with half-sizes (a, b) into the image, the half-sizes grow by sqrt(|det M|), and the
pixel with its centre at (column, row) is painted if x - a <= column < x + a and y - b <= row < y + b; all in
float32, with each operation rounded. A half-size of 10 covers exactly 20 pixels, like the published slices. A
comparison with NaN is false, so a point that is not finite paints nothing; rectangles are cut at the border
of the image.

The random numbers are drawn beforehand, so the op is deterministic and its kernels can be compared. It is a
registered op because `torch.compile` must not trace it: the CPU kernel uses Numba and the CUDA kernel Triton,
and each is imported at its first launch.
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

    Random numbers are drawn for all K keypoints, so they do not depend on `counts`. Keypoints that are not
    finite come last in the order.

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
    exists = points_weak.isfinite().all(dim=-1)
    order = draw_order(num_samples, num_keypoints, exists, generator=generator)
    half_sizes = draw_half_sizes(num_samples, num_keypoints, height_px, generator=generator)
    jitter = draw_jitter(num_samples, num_keypoints, height_px, generator=generator)
    centres = points_weak.float() + jitter
    return Masks(centres, counts, half_sizes, order, strong_from_weak.float())


def draw_counts(num_samples: int, fewest: int, most: int, *, generator: torch.Generator) -> Tensor:
    """(N,) int64 on the generator's device: uniform integers from `fewest` to `most`, both inclusive."""
    return torch.randint(fewest, most + 1, (num_samples,), generator=generator, device=generator.device)


def draw_order(
    num_samples: int, num_keypoints: int, exists: Tensor | None = None, *, generator: torch.Generator
) -> Tensor:
    """(N, K) int64 on the generator's device: a uniform permutation of the keypoints for each sample.

    Those that do not exist, by `exists` (N, K) bool, come last.
    """
    keys = torch.rand(num_samples, num_keypoints, generator=generator, device=generator.device)
    if exists is not None:
        keys = keys.masked_fill(~exists, 1.0)  # all others are below 1
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


torch.library.define(
    "semipose::mask_keypoints",
    "(Tensor(a!) images, Tensor points_xy, Tensor counts, Tensor half_sizes, Tensor order, "
    "Tensor image_from_points, Tensor fill) -> ()",
)

_op = torch.ops.semipose.mask_keypoints.default


def mask_keypoints(
    images: Tensor,
    points_xy: Tensor,
    counts: Tensor,
    half_sizes: Tensor,
    order: Tensor,
    image_from_points: Tensor,
    fill: Tensor,
) -> None:
    """Paint the first `counts[i]` keypoints of `order[i]` in image i with `fill`, in place.

    The op is not differentiable; images that need a gradient are refused.

    Args:
        images: (N, C, H, W), any dtype and strides (contiguous and channels-last are both fast).
        points_xy: (N, K, 2) float32: centres of the rectangles, in any frame.
        counts: (N,) integers, clamped to 0..K.
        half_sizes: (N, K, 2) float32, in the points' frame: half-sides along x and y.
        order: (N, K) integers: an order of the keypoints; an entry that is no keypoint paints nothing.
        image_from_points: (N, 2, 3) float32 matrices from the points' frame to pixels of the images.
        fill: (C,), the colour, cast to the dtype of the images; 0 is the mean colour of normalised images.
    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or images that need a gradient.
    """
    _op(images, points_xy, counts, half_sizes, order, image_from_points, fill)


@torch.library.impl("semipose::mask_keypoints", ("cpu", "cuda"))
def _paint(images: Tensor, *masks: Tensor) -> None:
    if images.is_cuda:
        from semipose.pipelines.masking.triton_kernel import launch
    else:
        from semipose.pipelines.masking.numba_kernel import launch
    _check(images, *masks)
    launch(images, *masks)
    torch.autograd.graph.increment_version(images)


@torch.library.register_fake("semipose::mask_keypoints")
def _paint_nothing(images: Tensor, *masks: Tensor) -> None:
    _check(images, *masks)


def _check(
    images: Tensor,
    points_xy: Tensor,
    counts: Tensor,
    half_sizes: Tensor,
    order: Tensor,
    image_from_points: Tensor,
    fill: Tensor,
) -> None:
    if images.dim() != 4 or points_xy.dim() != 3:
        raise ValueError(
            f"images must be (N, C, H, W) and points_xy (N, K, 2), "
            f"not {tuple(images.shape)} and {tuple(points_xy.shape)}"
        )
    if images.requires_grad:
        raise ValueError("mask_keypoints has no gradient: mask images that need none")
    num_samples, num_keypoints = images.shape[0], points_xy.shape[1]
    expected = {
        "points_xy": (points_xy, (num_samples, num_keypoints, 2)),
        "counts": (counts, (num_samples,)),
        "half_sizes": (half_sizes, (num_samples, num_keypoints, 2)),
        "order": (order, (num_samples, num_keypoints)),
        "image_from_points": (image_from_points, (num_samples, 2, 3)),
        "fill": (fill, (images.shape[1],)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device}, the images on {images.device}")
    exact = {"points_xy": points_xy, "half_sizes": half_sizes, "image_from_points": image_from_points}
    for name, tensor in exact.items():
        # half precision is too coarse for positions: bfloat16 has steps of 1 px from 128 on
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, not {tensor.dtype}")
    for name, tensor in (("counts", counts), ("order", order)):
        if tensor.is_floating_point():
            raise ValueError(f"{name} must be integers, not {tensor.dtype}")
