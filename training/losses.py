"""The one loss kernel of the field: weighted mean squared error on heatmaps."""

import torch


def heatmap_loss(
    predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Half the mean squared error over samples, keypoints and cells (docs/methods.md 3.1), in float32.

    The divisor counts every keypoint and cell, also those of weight zero, as the published systems do.

    Args:
        predicted: (N, K, h, w) heatmaps.
        target: (N, K, h, w) heatmaps.
        weights: broadcastable to them, multiplies each squared error; None is 1. The published kernel
            multiplies the error before it is squared, which for weights 0 and 1 is the same.

    Returns:
        A float32 scalar.
    """
    squared = (predicted.float() - target.float()).square()
    if weights is not None:
        squared = squared * weights
    return 0.5 * squared.mean()
