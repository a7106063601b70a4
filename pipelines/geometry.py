"""Matrices and points: the only coordinate convention of the project, and its algebra.

* Pixel centres have integer coordinates: the centre of the first pixel is (0, 0), its corner (-0.5, -0.5).
* A matrix is 2x3 and acts on a column (x, y, 1). It is named `target_from_origin`, so that adjacent names
  cancel in products: `strong_from_weak @ weak_from_stored = strong_from_stored`.
* Cell i of a heatmap is at view pixel S * i, where S is the stride. Between heatmaps, the matrix of two views
  is therefore the same with its translation divided by S, and there is no half-pixel term.

Frames: `image` is the source photo, `stored` the crop in the shard, `view` (also `weak`, `strong`) the
network's input. All functions are batched over a leading N and differentiable. Shape letters: batch.py.
"""

import torch
from torch import Tensor


def identity(num_samples: int, device: torch.device) -> Tensor:
    """Return identity matrices (N, 2, 3) float32."""
    return torch.eye(2, 3, device=device).expand(num_samples, 2, 3)


def compose(a_from_b: Tensor, b_from_c: Tensor) -> Tensor:
    """Return `a_from_c`: first `b_from_c`, then `a_from_b`. All (N, 2, 3)."""
    linear = _product(a_from_b[..., :2], b_from_c[..., :2])
    shift = _product(a_from_b[..., :2], b_from_c[..., 2:]) + a_from_b[..., 2:]
    return torch.cat((linear, shift), dim=-1)


def invert(b_from_a: Tensor) -> Tensor:
    """Return `a_from_b` (N, 2, 3). A singular matrix gives infinities, without an error or a sync."""
    a, b = b_from_a[..., 0, 0], b_from_a[..., 0, 1]
    c, d = b_from_a[..., 1, 0], b_from_a[..., 1, 1]
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), -2)
    linear = adjugate / (a * d - b * c)[..., None, None]
    return torch.cat((linear, -_product(linear, b_from_a[..., 2:])), dim=-1)


def apply(target_from_origin: Tensor, points_xy: Tensor) -> Tensor:
    """Transform points (N, K, 2) with the matrix (N, 2, 3) of their sample."""
    return _product(points_xy, target_from_origin[..., :2].mT) + target_from_origin[..., 2][..., None, :]


def heatmap_matrix(target_from_origin: Tensor, stride: float) -> Tensor:
    """Return the matrix (N, 2, 3) between heatmaps that belongs to a matrix between views."""
    return torch.cat((target_from_origin[..., :2], target_from_origin[..., 2:] / stride), dim=-1)


def linear_scale(target_from_origin: Tensor) -> Tensor:
    """Return the factor (N,) by which lengths grow: the root of the absolute determinant."""
    a, b, _, c, d, _ = target_from_origin.float().flatten(-2).unbind(-1)
    return (a * d - b * c).abs().sqrt()


def flip_keypoints(
    points_xy: Tensor, visible: Tensor, flipped: Tensor, flip_order: Tensor
) -> tuple[Tensor, Tensor]:
    """Exchange left and right keypoints of mirrored samples, whose coordinates the matrix has moved already.

    points_xy (N, ..., K, 2), visible (N, ..., K), flipped (N,) bool and flip_order (K,) int64, as in
    `Skeleton.flip_order`, are on one device. Keypoint k of a mirrored person is the transformed keypoint
    flip_order[k].
    """
    mirrored = flipped.view(-1, *[1] * (visible.ndim - 1))
    return (
        torch.where(mirrored[..., None], points_xy[..., flip_order, :], points_xy),
        torch.where(mirrored, visible[..., flip_order], visible),
    )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a (..., n, 2) @ b (..., 2, m) as sums: with autocast or TF32 coordinates would have 8 to 11 bits."""
    return a[..., :1] * b[..., :1, :] + a[..., 1:] * b[..., 1:, :]
