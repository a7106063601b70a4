"""The head of CID (Wang and Zhang, CVPR 2022): heatmaps of a photo, and of any of its people by itself."""

import math
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.codecs.cid import CIDMaps, InstanceMaps
from semipose.models.heads.neck import JoinSettings, Neck, build_neck, init_head
from semipose.models.heads.rows import Rows

LEAST, PRIOR = 1e-4, 0.01
"""Heatmaps stay inside (LEAST, 1 - LEAST), and start at PRIOR (published)."""
REACH_CELLS = 32.0
"""Distances to a person's centre are given in units of so many cells (published)."""


@settings
class CIDHeadSettings:
    name: Literal["cid"] = "cid"
    neck: Neck = field(default_factory=JoinSettings)
    """How features of several resolutions become one map (published: join)."""
    channels: Annotated[int, Field(ge=1)] = 32
    """Channels of the features that a person's own heatmaps are made of (published: 32)."""
    start_std: Annotated[float, Field(gt=0)] = 0.001
    """Standard deviation of the first weights of the layers that read a person (published: 0.001). Products
    of such small numbers learn nothing for some time: from scratch and in few steps, try 0.1."""

    def build(self, channels: Sequence[int], strides: Sequence[int], num_keypoints: int) -> "CIDHead":
        """Return the head; ValueError for features that the neck cannot read."""
        return CIDHead(self, channels, strides, num_keypoints)


class CIDHead(nn.Module):
    """Features, fine to coarse, and the maps' size (h, w) -> CIDMaps, float32.

    Weights start at N(0, 0.001), or `start_std`, the answers at 0.01.
    """

    def __init__(
        self, cfg: CIDHeadSettings, channels: Sequence[int], strides: Sequence[int], num_keypoints: int
    ) -> None:
        super().__init__()
        self.neck, width = build_neck(cfg.neck, channels, strides)
        self.heatmaps = nn.Conv2d(width, num_keypoints + 1, 1)
        self.scene = nn.Conv2d(width, cfg.channels, 1)
        self.instances = InstanceDecoupling(width, cfg.channels, num_keypoints)
        init_head(self.heatmaps)
        for part in (self.scene, self.instances):
            init_head(part, std=cfg.start_std)
        for last in (self.heatmaps, self.instances.final):
            nn.init.constant_(last.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def keypoint_rows(self) -> dict[str, Rows]:
        """Return the layers with rows of single keypoints, by name."""
        return {"heatmaps": Rows(last=1), "instances.final": Rows()}

    def forward(self, features: Sequence[Tensor], map_hw: tuple[int, int]) -> CIDMaps:
        x = self.neck(features)[..., : map_hw[0], : map_hw[1]]
        return CIDMaps(_probability(self.heatmaps(x)), partial(self.instances, x, self.scene(x).float()))


class InstanceDecoupling(nn.Module):
    """Features (N, F, h, w), the scenes (N, C, h, w), photos (I,) and cells (I, 2) -> InstanceMaps.

    The features at a person's centre weigh the channels of the scene, and find the cells of the scene that
    are alike and near. Both together give the person's heatmaps.
    """

    def __init__(self, in_channels: int, channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.channel_attention = nn.Linear(in_channels, channels)
        self.spatial_attention = nn.Linear(in_channels, channels)
        self.mask = nn.Conv2d(3, 1, 5, padding=2)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)
        self.final = nn.Conv2d(channels, num_keypoints, 1)

    def forward(self, features: Tensor, scenes: Tensor, photos: Tensor, cells: Tensor) -> InstanceMaps:
        height, width = features.shape[-2:]
        # The caller may read people without the autocast that the network ran under.
        centres = features[photos, :, cells[:, 1], cells[:, 0]].float()  # (I, F)
        scene = scenes[photos]  # (I, C, h, w)
        by_channel = scene * self.channel_attention(centres)[..., None, None]
        alike = (scene * self.spatial_attention(centres)[..., None, None]).sum(1)
        x = cells[:, 0, None, None] - torch.arange(width, device=cells.device)
        y = cells[:, 1, None, None] - torch.arange(height, device=cells.device)[:, None]
        away = [(axis / REACH_CELLS).expand_as(alike).to(alike.dtype) for axis in (x, y)]
        by_cell = scene * self.mask(torch.stack((alike, *away), dim=1)).sigmoid()
        fused = torch.relu(self.fuse(torch.cat((by_channel, by_cell), dim=1)))
        return InstanceMaps(_probability(self.final(fused)), centres)


def _probability(logits: Tensor) -> Tensor:
    return logits.float().sigmoid().clamp(LEAST, 1 - LEAST)
