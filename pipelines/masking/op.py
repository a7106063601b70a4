"""`mask_keypoints`: paint rectangles over keypoints, in place, on the device of the images.

All kernels share one definition: the matrix M of its sample moves a point (x, y) with half-sizes (a, b) into
the image, the half-sizes grow by sqrt(|det M|), and the pixel with its centre at (column, row) is painted if
x - a <= column < x + a and y - b <= row < y + b; all in float32, with each operation rounded. A half-size of
10 covers exactly 20 pixels, like the published slices. A comparison with NaN is false, so a point that is not
finite paints nothing; rectangles are cut at the border of the image.

The random numbers are drawn beforehand (mask_sampling.py), so the op is deterministic and its kernels can be
compared. It is a registered op because `torch.compile` must not trace it: the CPU kernel uses Numba and the
CUDA kernel Triton, and each is imported at its first launch.
"""

import torch
from torch import Tensor

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
        from pipelines.masking.triton_kernel import launch
    else:
        from pipelines.masking.numba_kernel import launch
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
