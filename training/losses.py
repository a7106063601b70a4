"""The losses on heatmaps: L_s of the labelled people, and the weighted squared error that every loss is."""

from typing import Any

import torch

from models.heatmap import encode
from models.net import PoseNet
from pipelines.batch import LabelledBatch


def supervised_loss(network: PoseNet, labelled: LabelledBatch, sigma: float) -> torch.Tensor:
    """L_s: the network's heatmaps against Gaussians at the labelled keypoints (docs/methods.md 3.1).

    sigma: of the Gaussians, in heatmap cells.
    """
    predicted = network(labelled.image)
    target, weights = encode(
        labelled.points_xy, labelled.visible, predicted.shape[-2:], stride=network.stride, sigma=sigma
    )
    return heatmap_loss(predicted, target, weights[:, :, None, None])


def heatmap_loss(
    predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Half the mean squared error over samples, keypoints and cells (docs/methods.md 3.1), in float32.

    The divisor counts every keypoint and cell, also those of weight zero, as the published systems do.
    Only `predicted` gets a gradient: what is taught is given.

    Args:
        predicted: (N, K, h, w) heatmaps.
        target: (N, K, h, w) heatmaps.
        weights: broadcastable to them, multiplies each squared error; None is 1. The published kernel
            multiplies the error before it is squared, which for weights 0 and 1 is the same.

    Returns:
        A float32 scalar.
    """
    loss: torch.Tensor = _HalfMeanSquare.apply(predicted.float(), target.float(), weights)
    return loss


class _HalfMeanSquare(torch.autograd.Function):
    """Its gradient, (predicted - target) * weights / count, is half of its own work: autograd's chain through
    difference, square, product and mean passes over the heatmaps four times and keeps three of them."""

    @staticmethod
    def forward(
        ctx: Any, predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        difference = predicted - target
        weighted = difference if weights is None else difference * weights
        ctx.save_for_backward(weighted)
        return 0.5 * (weighted * difference).mean()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (gradient / weighted.numel()), None, None
