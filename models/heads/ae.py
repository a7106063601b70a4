"""Associative embedding's head (Newell et al., NeurIPS 2017), and HigherHRNet's (Cheng et al., CVPR 2020)."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.backbones.light import ResidualBlock
from semipose.models.codecs.ae import AEMaps
from semipose.models.heads.neck import JoinSettings, Neck, build_neck, init_head
from semipose.models.heads.rows import Rows


@settings
class AEHeadSettings:
    name: Literal["ae"] = "ae"
    neck: Neck = field(default_factory=JoinSettings)
    """How features of several resolutions become one map (published: the one at stride 4 is there alone)."""
    tag_size: Annotated[int, Field(ge=1)] = 1
    """Numbers of each tag (published: 1; CoupledEmbedding: 8)."""
    higher: bool = False
    """Answer with heatmaps at stride 2 as well (HigherHRNet)."""
    fine_channels: Annotated[int, Field(ge=1)] = 32
    """Channels of the layers at stride 2 (published: those of HRNet at stride 4, 32 or 48)."""

    def build(self, channels: Sequence[int], strides: Sequence[int], num_keypoints: int) -> "AEHead":
        """Return the head; ValueError for features that the neck cannot read."""
        return AEHead(self, channels, strides, num_keypoints)


class AEHead(nn.Module):
    """Features, fine to coarse, and the maps' size (h, w) -> AEMaps, float32.

    Heatmaps and tags: a 1x1 convolution each. With `higher`, features, heatmaps and tags go through a
    transposed convolution, four residual blocks and a 1x1 to heatmaps of twice the size. Weights start at
    N(0, 0.001).
    """

    def __init__(
        self, cfg: AEHeadSettings, channels: Sequence[int], strides: Sequence[int], num_keypoints: int
    ) -> None:
        super().__init__()
        self.neck, width = build_neck(cfg.neck, channels, strides)
        self.heatmaps = nn.Conv2d(width, num_keypoints, 1)
        self.tags = nn.Conv2d(width, num_keypoints * cfg.tag_size, 1)
        self.input_blocks = Rows(first=width, blocks=(1, cfg.tag_size))
        self.fine: nn.Sequential | None = None
        parts: list[nn.Module] = [self.heatmaps, self.tags]
        if cfg.higher:
            fine = cfg.fine_channels
            inputs = width + num_keypoints * (1 + cfg.tag_size)
            self.fine = nn.Sequential(
                nn.ConvTranspose2d(inputs, fine, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(fine),
                nn.ReLU(inplace=True),
                *(ResidualBlock(fine, fine, stride=1) for _ in range(4)),
                nn.Conv2d(fine, num_keypoints, 1),
            )
            parts.append(self.fine)
        for part in parts:
            init_head(part)

    def keypoint_rows(self) -> dict[str, Rows]:
        """Return the layers with rows of single keypoints, by name."""
        rows = {"heatmaps": Rows(), "tags": Rows()}
        if self.fine is not None:  # a transposed convolution has a row for each input channel
            rows |= {"fine.0": self.input_blocks, f"fine.{len(self.fine) - 1}": Rows()}
        return rows

    def forward(self, features: Sequence[Tensor], map_hw: tuple[int, int]) -> AEMaps:
        x = self.neck(features)[..., : map_hw[0], : map_hw[1]]
        heatmaps, tags = self.heatmaps(x), self.tags(x)
        fine = None
        if self.fine is not None:
            fine = self.fine(torch.cat((x, heatmaps, tags), dim=1)).float()
        tags = tags.float().unflatten(1, (heatmaps.shape[1], -1))
        return AEMaps(heatmaps.float(), tags, fine)
