"""Matrices and points: the one convention of the project, and its algebra.

* Pixel centres lie at integer coordinates: the first pixel's centre is (0, 0), its corner (-0.5, -0.5).
* A matrix is 2x3 and acts on a column (x, y, 1). It is named `target_from_origin`, so that products cancel
  as they read: `strong_from_weak @ weak_from_stored = strong_from_stored`.
* Cell i of a heatmap sits at view pixel S * i, S being the stride. A matrix between views is therefore the
  same matrix between their heatmaps with the translation over S, and no half-pixel term.

Frames: `image` is the source photo, `stored` the crop in the shard, `view` (also `weak`, `strong`) the
network's input. All functions are batched over a leading N and differentiable. Shape letters: batch.py.
"""

import torch
from torch import Tensor


def identity(num_samples: int, device: torch.device) -> Tensor:
    """Return matrices (N, 2, 3) float32 that leave every point where it is."""
    return torch.eye(2, 3, device=device).expand(num_samples, 2, 3)


def compose(a_from_b: Tensor, b_from_c: Tensor) -> Tensor:
    """Return `a_from_c`: first `b_from_c`, then `a_from_b`. All (N, 2, 3)."""
    linear = _product(a_from_b[..., :2], b_from_c[..., :2])
    shift = _product(a_from_b[..., :2], b_from_c[..., 2:]) + a_from_b[..., 2:]
    return torch.cat((linear, shift), dim=-1)


def invert(b_from_a: Tensor) -> Tensor:
    """Return `a_from_b` (N, 2, 3). A singular matrix gives infinities: no error, no sync."""
    a, b = b_from_a[..., 0, 0], b_from_a[..., 0, 1]
    c, d = b_from_a[..., 1, 0], b_from_a[..., 1, 1]
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), -2)
    linear = adjugate / (a * d - b * c)[..., None, None]
    return torch.cat((linear, -_product(linear, b_from_a[..., 2:])), dim=-1)


def apply(target_from_origin: Tensor, points_xy: Tensor) -> Tensor:
    """Move points (N, K, 2) by their sample's matrix (N, 2, 3)."""
    return _product(points_xy, target_from_origin[..., :2].mT) + target_from_origin[..., 2][..., None, :]


def heatmap_matrix(target_from_origin: Tensor, stride: float) -> Tensor:
    """Return the matrix (N, 2, 3) between heatmap cells that equals the given one between view pixels."""
    return torch.cat((target_from_origin[..., :2], target_from_origin[..., 2:] / stride), dim=-1)


def linear_scale(target_from_origin: Tensor) -> Tensor:
    """Return by how much lengths grow, (N,): the root of the determinant's size; a flip does not count."""
    a, b, _, c, d, _ = target_from_origin.float().flatten(-2).unbind(-1)
    return (a * d - b * c).abs().sqrt()


def flip_keypoints(
    points_xy: Tensor, visible: Tensor, flipped: Tensor, flip_order: Tensor
) -> tuple[Tensor, Tensor]:
    """Exchange left and right keypoints of the mirrored samples; coordinates are the matrix's business.

    points_xy (N, K, 2), visible (N, K), flipped (N,) bool, flip_order (K,) int64 as `Skeleton.flip_order`, on
    the same device. Keypoint k of a mirrored person is what the matrix made of keypoint flip_order[k].
    """
    exchanged_xy, exchanged_visible = points_xy[:, flip_order], visible[:, flip_order]
    return (
        torch.where(flipped[:, None, None], exchanged_xy, points_xy),
        torch.where(flipped[:, None], exchanged_visible, visible),
    )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a (..., n, 2) @ b (..., 2, m) as sums: autocast or TF32 would leave coordinates 8 to 11 bits."""
    return a[..., :1] * b[..., :1, :] + a[..., 1:] * b[..., 1:, :]
