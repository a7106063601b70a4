"""Ends a strong view at the border of the weak view, as if it were warped from the weak view.

The published systems warp the normalised weak view a second time, with zeros beyond it. Here the strong view
is sampled directly from the stored pixels, which extend beyond the weak view. Multiplied by the share of a
bilinear tap that is inside the weak view, it ends where theirs does. `fade` does this for a batch on any
device, view_border_numba.py for one view of a CPU batch in a fraction of the time.
"""

import torch
from torch import Tensor

from semipose.pipelines.geometry import invert


def fade(strong: Tensor, strong_from_weak: Tensor) -> Tensor:
    """Return normalised strong views (N, H, W, 3), 0 beyond the weak view of the same size.

    strong_from_weak: (N, 2, 3) float32, on the same device. The share of a bilinear tap's weight on pixels of
    the weak view is 1 between the centres of its outer pixels, and falls linearly to 0 at one pixel beyond
    them.
    """
    height, width = strong.shape[1:3]
    matrix = invert(strong_from_weak)[..., None, None]
    x = torch.arange(width, device=strong.device, dtype=torch.float32)
    y = torch.arange(height, device=strong.device, dtype=torch.float32)[:, None]
    weak_x = matrix[:, 0, 0] * x + (matrix[:, 0, 1] * y + matrix[:, 0, 2])
    weak_y = matrix[:, 1, 0] * x + (matrix[:, 1, 1] * y + matrix[:, 1, 2])
    share = _inside(weak_x, width) * _inside(weak_y, height)
    return strong * share[..., None]


def _inside(coordinate: Tensor, size: int) -> Tensor:
    """The share of the weight of a tap at `coordinate` on pixels 0..size-1 of one axis."""
    return torch.minimum(coordinate + 1, size - coordinate).clamp(0, 1)
