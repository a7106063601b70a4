"""The feature-pyramid head: fine features keep the position, coarse features add the context.

This follows Lin et al., Feature Pyramid Networks (CVPR 2017), with the finest level as the only output.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.heads.rows import Rows


@settings
class PyramidSettings:
    name: Literal["pyramid"] = "pyramid"
    width: int = 64
    """Channels of each level of the pyramid."""
    convolutions: int = 2
    """Number of 3x3 convolutions at stride 4, after the levels are summed."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.convolutions < 1:
            raise ValueError("width and convolutions must be at least 1")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_keypoints: int) -> "Pyramid":
        """Return the head. Raises ValueError if the finest features are not at stride 4."""
        if strides[0] != 4:
            raise ValueError(
                f"a pyramid gives heatmaps at its finest stride, which must be 4 but is {strides[0]}: "
                "set net.head.name=deconv"
            )
        return Pyramid(self, channels, strides, num_keypoints)


class Pyramid(nn.Module):
    """Features, fine to coarse, the finest at stride 4 -> heatmaps (N, K, h, w) of the finest size."""

    def __init__(
        self, cfg: PyramidSettings, channels: Sequence[int], strides: Sequence[int], num_keypoints: int
    ) -> None:
        super().__init__()
        self.upsampling = tuple(coarse // fine for fine, coarse in pairwise(strides))
        self.laterals = nn.ModuleList(nn.Conv2d(c, cfg.width, 1) for c in channels)
        self.smooth = nn.Sequential(*(_conv_bn_relu(cfg.width) for _ in range(cfg.convolutions)))
        final = nn.Conv2d(cfg.width, num_keypoints, 1)
        self.final: nn.Module = final
        for module in (*self.laterals.modules(), *self.smooth.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(final.weight, std=0.001)
        nn.init.zeros_(final.bias)  # type: ignore[arg-type]

    def keypoint_rows(self) -> dict[str, Rows]:
        """Return the layers with rows of single keypoints, by name."""
        return {"final": Rows()}

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        merged = self.laterals[-1](features[-1])
        for level in range(len(features) - 2, -1, -1):
            lateral = self.laterals[level](features[level])
            # Enlarged, then cut to size, so that the cells of levels with odd sizes stay aligned.
            up = F.interpolate(merged, scale_factor=float(self.upsampling[level]), mode="nearest")
            merged = lateral + up[..., : lateral.shape[-2], : lateral.shape[-1]]
        return self.final(self.smooth(merged))


def _conv_bn_relu(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )
