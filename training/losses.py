"""The one loss kernel of the field: weighted mean squared error on heatmaps."""

import torch


def heatmap_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    joint_weights: torch.Tensor | None = None,
    cell_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Half the mean squared error over samples, keypoints and cells (methods.md 3.1), in float32.

    The divisor counts every keypoint and cell, also those of weight zero, as the published systems do.

    Args:
        predicted: (N, K, h, w) heatmaps.
        target: (N, K, h, w) heatmaps.
        joint_weights: (N, K), multiplies the error of a keypoint's whole map; None is 1.
        cell_weights: (N, 1, h, w), multiplies the error of a cell; None is 1.

    Returns:
        A float32 scalar.
    """
    error = predicted.float() - target.float()
    if joint_weights is not None:
        error = error * joint_weights[:, :, None, None]
    if cell_weights is not None:
        error = error * cell_weights
    return 0.5 * error.square().mean()
