"""The head of DEKR (Geng et al., CVPR 2021): heatmaps, and a branch for the offsets of each keypoint."""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.backbones.light import ResidualBlock
from semipose.models.codecs.dekr import DEKRMaps
from semipose.models.heads.neck import JoinSettings, Neck, build_neck, init_head
from semipose.models.heads.rows import Rows


@settings
class DEKRHeadSettings:
    name: Literal["dekr"] = "dekr"
    neck: Neck = field(default_factory=JoinSettings)
    """How features of several resolutions become one map (published: join)."""
    heatmap_channels: Annotated[int, Field(ge=1)] = 32
    """Channels before the heatmaps (published: 32)."""
    keypoint_channels: Annotated[int, Field(ge=1)] = 15
    """Channels of each keypoint's branch (published: 15)."""
    adapt: Literal["none", "deform"] = "none"
    """Convolutions of the branches: plain ones, or adaptive ones, whose nine taps move with each cell
    (published). The adaptive ones are not deterministic on a GPU and do not export to ONNX."""

    def build(self, channels: Sequence[int], strides: Sequence[int], num_keypoints: int) -> "DEKRHead":
        """Return the head; ValueError for features that the neck cannot read."""
        return DEKRHead(self, channels, strides, num_keypoints)


class DEKRHead(nn.Module):
    """Features, fine to coarse, and the maps' size (h, w) -> DEKRMaps, float32.

    Heatmaps: 1x1 convolution, a residual block, 1x1. Offsets: a 1x1 convolution gives each keypoint channels
    of its own; two residual blocks and a 1x1 for each, run side by side as grouped convolutions. Weights
    start at N(0, 0.001).
    """

    def __init__(
        self,
        cfg: DEKRHeadSettings,
        channels: Sequence[int],
        strides: Sequence[int],
        num_keypoints: int,
    ) -> None:
        super().__init__()
        self.neck, width = build_neck(cfg.neck, channels, strides)
        self.heatmaps = nn.Sequential(
            *_conv1x1_bn_relu(width, cfg.heatmap_channels),
            ResidualBlock(cfg.heatmap_channels, cfg.heatmap_channels, stride=1),
            nn.Conv2d(cfg.heatmap_channels, num_keypoints + 1, 1),
        )
        branches = num_keypoints * cfg.keypoint_channels
        block = AdaptiveBlock if cfg.adapt == "deform" else GroupedBlock
        self.offsets = nn.Sequential(
            *_conv1x1_bn_relu(width, branches),
            block(branches, num_keypoints),
            block(branches, num_keypoints),
            nn.Conv2d(branches, 2 * num_keypoints, 1, groups=num_keypoints),
        )
        init_head(self.heatmaps)
        init_head(self.offsets)
        for part in self.offsets:
            if isinstance(part, AdaptiveBlock):
                nn.init.zeros_(part.matrix.weight)
                nn.init.zeros_(part.shift.weight)

    def keypoint_rows(self) -> dict[str, Rows]:
        """Return the layers with rows of single keypoints, by name."""
        return {f"heatmaps.{len(self.heatmaps) - 1}": Rows(last=1), "offsets": Rows()}

    def forward(self, features: Sequence[Tensor], map_hw: tuple[int, int]) -> DEKRMaps:
        x = self.neck(features)[..., : map_hw[0], : map_hw[1]]
        return DEKRMaps(self.heatmaps(x).float(), self.offsets(x).float())


class GroupedBlock(nn.Module):
    """relu(x + bn(conv(x))), the 3x3 convolution in one group for each keypoint."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, groups=groups)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn(self._convolve(x)))

    def _convolve(self, x: Tensor) -> Tensor:
        return self.conv(x)


class AdaptiveBlock(GroupedBlock):
    """The adaptive convolution of DEKR: at each cell, the nine taps of group g sit at A p + t.

    p is the regular grid of 3x3, A a matrix and t a shift, both convolved from the group's channels. Both
    start at 0, so that all taps begin on the cell itself.
    """

    grid: Tensor

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, groups)
        self.groups = groups
        self.matrix = nn.Conv2d(channels, 4 * groups, 3, padding=1, groups=groups)
        self.shift = nn.Conv2d(channels, 2 * groups, 3, padding=1, groups=groups)
        taps = torch.tensor((-1.0, 0.0, 1.0))
        grid = torch.cartesian_prod(taps, taps)  # (9, 2): y and x, in the order of the kernel's weights
        self.register_buffer("grid", grid[:, :, None, None], persistent=False)

    def _convolve(self, x: Tensor) -> Tensor:
        from torchvision.ops import deform_conv2d

        matrix = self.matrix(x).float().unflatten(1, (self.groups, 1, 2, 2))
        shift = self.shift(x).float().unflatten(1, (self.groups, 1, 2))
        y, x_ = self.grid[:, :1], self.grid[:, 1:]
        moved = matrix[:, :, :, :, 0] * y + matrix[:, :, :, :, 1] * x_ + shift - self.grid
        # Each group's offsets: y and x of the first tap, of the second, ... There is no kernel for bfloat16.
        return deform_conv2d(x.float(), moved.flatten(1, 3), self.conv.weight.float(), padding=1).to(x.dtype)


def _conv1x1_bn_relu(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
