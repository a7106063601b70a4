"""`mask_keypoints`: paint rectangles over keypoints, in place, on the device where the images are.

One definition for every kernel: with (x, y) the point and (a, b) its half-sizes, the pixel whose centre is
at (column, row) is painted where x - a <= column < x + a and y - b <= row < y + b, in float32. A half-size
of 10 covers exactly 20 pixels, as the published slices do. A comparison with "not a number" is false, so a
point that is not finite paints nothing; rectangles beyond the image are cut or paint nothing.

The random numbers are drawn beforehand (choice.py), so the op is deterministic and its kernels can be
compared. It is a custom op because `torch.compile` must not look inside: the CPU kernel is Numba's, the
CUDA kernel Triton's, each imported at its first launch.
"""

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
    from pipelines.masking.numba_kernel import paint

    # Painting copies bits, so the pixels are seen as integers: numpy has no bfloat16.
    bits = _BITS[images.element_size()]
    pixels = images.detach().view(bits).numpy()
    colour = fill.to(images.dtype).view(bits).numpy()
    paint(pixels, points_xy.numpy(), counts.numpy(), half_sizes.numpy(), order.numpy(), colour)


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
