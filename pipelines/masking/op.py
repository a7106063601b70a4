"""`mask_keypoints`: paint rectangles over keypoints, in place, on the device where the images are.

One definition for every kernel: with (x, y) the point and (a, b) its half-sizes, the pixel whose centre is
at (column, row) is painted where x - a <= column < x + a and y - b <= row < y + b, in float32. A half-size
of 10 covers exactly 20 pixels, as the published slices do. A comparison with "not a number" is false, so a
point that is not finite paints nothing; rectangles beyond the image are cut or paint nothing.

The random numbers are drawn beforehand (choice.py), so the op is deterministic and its kernels can be
compared. It is a custom op because `torch.compile` must not look inside: the CPU kernel loops over
rectangles in numpy, the CUDA kernel is Triton's, imported at its first launch.
"""

import numpy as np
import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.library.custom_op("semipose::mask_keypoints", mutates_args=("images",), device_types="cpu")
def mask_keypoints(
    images: Tensor, points_xy: Tensor, counts: Tensor, half_sizes: Tensor, order: Tensor, fill: Tensor
) -> None:
    """Paint the first `counts[i]` keypoints of `order[i]` in image i with `fill`, in place.

    Not differentiable: the images are inputs of a network, so one that needs a gradient is refused.

    Args:
        images: (N, C, H, W), any dtype and strides (contiguous and channels-last are both fast).
        points_xy: (N, K, 2) float32 px of the images: centres of the rectangles.
        counts: (N,) integers; below 0 counts as 0, above K as K.
        half_sizes: (N, K, 2) float32 px: half-sides along x and y.
        order: (N, K) integers: keypoints by rank; an entry that is no keypoint paints nothing.
        fill: (C,) the colour, cast to the images' dtype; zeros are the mean colour of normalised images.
    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or images that need a gradient.
    """
    _check(images, points_xy, counts, half_sizes, order, fill)
    # Painting copies bits, so the pixels are seen as integers: numpy has no bfloat16.
    bits = _BITS[images.element_size()]
    pixels = images.detach().view(bits).numpy()
    colour = fill.to(images.dtype).view(bits).numpy()
    rectangles = _painted_rectangles(
        points_xy.numpy(), counts.numpy(), half_sizes.numpy(), order.numpy(), images.shape[2:]
    )
    if images.is_contiguous(memory_format=torch.channels_last):
        _paint_channels_last(pixels.transpose(0, 2, 3, 1), rectangles, colour)
    else:
        _paint_channels_first(pixels, rectangles, colour)


@mask_keypoints.register_kernel("cuda")
def _mask_keypoints_cuda(
    images: Tensor, points_xy: Tensor, counts: Tensor, half_sizes: Tensor, order: Tensor, fill: Tensor
) -> None:
    from pipelines.masking.triton_kernel import launch

    _check(images, points_xy, counts, half_sizes, order, fill)
    launch(images, points_xy, counts, half_sizes, order, fill)


@mask_keypoints.register_fake
def _mask_keypoints_fake(
    images: Tensor, points_xy: Tensor, counts: Tensor, half_sizes: Tensor, order: Tensor, fill: Tensor
) -> None:
    _check(images, points_xy, counts, half_sizes, order, fill)


def _paint_channels_last(pixels: np.ndarray, rectangles: list[list[int]], colour: np.ndarray) -> None:
    """Paint in (N, H, W, C): from a painted row, so that numpy copies runs of it."""
    images, row = list(pixels), np.tile(colour, (pixels.shape[2], 1))
    for sample, left, top, right, bottom in rectangles:
        images[sample][top:bottom, left:right] = row[left:right]


def _paint_channels_first(pixels: np.ndarray, rectangles: list[list[int]], colour: np.ndarray) -> None:
    """Paint in (N, C, H, W)."""
    images, planes = list(pixels), colour[:, None, None]
    for sample, left, top, right, bottom in rectangles:
        images[sample][:, top:bottom, left:right] = planes


def _painted_rectangles(
    points_xy: np.ndarray, counts: np.ndarray, half_sizes: np.ndarray, order: np.ndarray, size_hw: torch.Size
) -> list[list[int]]:
    """[sample, left, top, right, bottom] of each rectangle that paints something; right, bottom excluded."""
    num_keypoints = points_xy.shape[1]
    is_chosen = (np.arange(num_keypoints) < counts[:, None]) & (order >= 0) & (order < num_keypoints)
    samples, ranks = np.nonzero(is_chosen)
    joints = order[samples, ranks]
    centres, halves = points_xy[samples, joints], half_sizes[samples, joints]
    with np.errstate(invalid="ignore", over="ignore"):
        edges = np.concatenate((centres - halves, centres + halves), axis=1)
    width, height = size_hw[1], size_hw[0]
    edges = np.ceil(edges.clip(0, np.array([width, height, width, height], np.float32)))
    # False for "not a number", which therefore never becomes an integer.
    is_painted = (edges[:, 0] < edges[:, 2]) & (edges[:, 1] < edges[:, 3])
    edges, samples = edges[is_painted].astype(np.int64), samples[is_painted]
    rectangles: list[list[int]] = np.concatenate((samples[:, None], edges), axis=1).tolist()
    return rectangles


def _check(
    images: Tensor, points_xy: Tensor, counts: Tensor, half_sizes: Tensor, order: Tensor, fill: Tensor
) -> None:
    if images.dim() != 4 or points_xy.dim() != 3:
        raise ValueError(
            f"images must be (N, C, H, W) and points_xy (N, K, 2), "
            f"not {tuple(images.shape)} and {tuple(points_xy.shape)}"
        )
    if images.requires_grad:
        raise ValueError("mask_keypoints has no gradient: mask the images before anything needs theirs")
    num_samples, num_keypoints = images.shape[0], points_xy.shape[1]
    expected = {
        "points_xy": (points_xy, (num_samples, num_keypoints, 2)),
        "counts": (counts, (num_samples,)),
        "half_sizes": (half_sizes, (num_samples, num_keypoints, 2)),
        "order": (order, (num_samples, num_keypoints)),
        "fill": (fill, (images.shape[1],)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device}, the images on {images.device}")
    for name, tensor in (("points_xy", points_xy), ("half_sizes", half_sizes)):
        # half precision cannot hold a pixel's place: bfloat16 steps by 1 px from 128 on
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} must be float32, not {tensor.dtype}")
    for name, tensor in (("counts", counts), ("order", order)):
        if tensor.is_floating_point():
            raise ValueError(f"{name} must be integers, not {tensor.dtype}")
