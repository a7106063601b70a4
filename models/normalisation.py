"""Converts the normalisation of our images to the one that a network's pretrained weights expect."""

from collections.abc import Sequence

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from semipose.models.backbones.timm_networks import input_statistics


class Renormalise(nn.Module):
    """Images (N, 3, H, W), normalised with the statistics of ImageNet -> the same, normalised with others.

    scale, shift: the factor of each channel of RGB, and what is then added. is_saved: whether they are in the
    state dict, as they must be where they come from another network and not from the settings.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Sequence[float], shift: Sequence[float], *, is_saved: bool = False) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale).float().view(1, 3, 1, 1), persistent=is_saved)
        self.register_buffer("shift", torch.tensor(shift).float().view(1, 3, 1, 1), persistent=is_saved)

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale)


def renormalise_for(timm_name: str) -> Renormalise | None:
    """Return the conversion for a network of timm; None if its weights expect our normalisation."""
    mean, deviation = input_statistics(timm_name)
    if (mean, deviation) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return None
    ours = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD], dtype=torch.float64)
    theirs = torch.tensor([mean, deviation], dtype=torch.float64)
    scale, shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
    return Renormalise(scale.tolist(), shift.tolist())
