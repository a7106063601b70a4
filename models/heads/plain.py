"""The head of HRNet (Sun et al., CVPR 2019): a 1x1 convolution on features at stride 4."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.heads.rows import Rows


@settings
class PlainSettings:
    name: Literal["plain"] = "plain"

    def build(self, channels: Sequence[int], strides: Sequence[int], num_keypoints: int) -> "Plain":
        """Return the head. Raises ValueError unless the backbone gives exactly one map, at stride 4."""
        if tuple(strides) != (4,):
            given = ", ".join(map(str, strides))
            raise ValueError(
                f"it uses features at stride 4 only, but these are at stride {given}: set "
                "net.head.name=deconv"
            )
        return Plain(channels[0], num_keypoints)


class Plain(nn.Module):
    """One feature map at stride 4 -> heatmaps (N, K, h, w). Weights start at N(0, 0.001), as published."""

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.final = nn.Conv2d(in_channels, num_keypoints, 1)
        nn.init.normal_(self.final.weight, std=0.001)
        nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def keypoint_rows(self) -> dict[str, Rows]:
        """Return the layers with rows of single keypoints, by name."""
        return {"final": Rows()}

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.final(features[0])
