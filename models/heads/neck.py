"""What the heads of whole photos share: the backbone's features as one map at stride 4, and their start."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.heads.pyramid import PyramidSettings


@settings
class JoinSettings:
    """All features at stride 4, one after another in the channels (DEKR, CID)."""

    name: Literal["join"] = "join"


Neck = Annotated[JoinSettings | PyramidSettings, Field(discriminator="name")]


def build_neck(
    cfg: JoinSettings | PyramidSettings, channels: Sequence[int], strides: Sequence[int]
) -> tuple[nn.Module, int]:
    """Return the neck and its number of channels; ValueError for features that it cannot read."""
    if isinstance(cfg, PyramidSettings):
        pyramid = cfg.build(channels, strides, num_keypoints=1)
        pyramid.final = nn.Identity()  # the head has its own last layers
        return pyramid, cfg.width
    if any(stride % 4 for stride in strides):
        given = ", ".join(map(str, strides))
        raise ValueError(f"it joins features at stride 4, whose strides must be multiples of 4: {given}")
    return Join(strides), sum(channels)


class Join(nn.Module):
    """Features, fine to coarse -> all of them at stride 4, bilinear, one after another (DEKR, CID)."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(stride // 4 for stride in strides)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        height, width = (size * self.factors[0] for size in features[0].shape[-2:])
        joined = [
            F.interpolate(feature, scale_factor=float(factor), mode="bilinear") if factor > 1 else feature
            for feature, factor in zip(features, self.factors, strict=True)
        ]
        # A coarse feature of a size that was rounded up reaches beyond the finest one.
        return torch.cat([feature[..., :height, :width] for feature in joined], dim=1)


def init_head(module: nn.Module, std: float = 0.001) -> None:
    """Start all weights of `module`, except norms, at N(0, std), published 0.001, and biases at 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
