"""The head of Simple Baseline (Xiao et al., ECCV 2018): transposed convolutions up to stride 4, then 1x1."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.heads.rows import Rows


@settings
class DeconvSettings:
    name: Literal["deconv"] = "deconv"
    width: int = 256
    """Channels of each transposed convolution (published: 256)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("width must be at least 1")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_keypoints: int) -> "Deconv":
        """Return the head. Raises ValueError if doubling the resolution does not lead to stride 4."""
        coarsest = strides[-1]
        if coarsest < 4 or coarsest & (coarsest - 1):
            raise ValueError(
                f"it doubles the resolution up to stride 4, which is impossible from stride {coarsest}: "
                "choose a backbone whose coarsest stride is 8, 16, 32 or 64"
            )
        return Deconv(self, channels[-1], strides[-1], num_keypoints)


class Deconv(nn.Module):
    """Features, of which only the coarsest is used -> heatmaps (N, K, h, w) at stride 4.

    Each step is a transposed convolution 4x4 with stride 2, padding 1 and no bias, then batch norm with
    momentum 0.1, then ReLU. Stride 32 needs three steps, stride 16 two. The weights of convolutions start at
    N(0, 0.001).
    """

    def __init__(self, cfg: DeconvSettings, in_channels: int, in_stride: int, num_keypoints: int) -> None:
        super().__init__()
        steps = (in_stride // 4).bit_length() - 1
        widths = [in_channels] + [cfg.width] * steps
        self.deconvs = nn.Sequential(*(_step(widths[i], widths[i + 1]) for i in range(steps)))
        self.final = nn.Conv2d(widths[-1], num_keypoints, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.001)
        nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def keypoint_rows(self) -> dict[str, Rows]:
        """Return the layers with rows of single keypoints, by name."""
        return {"final": Rows()}

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.final(self.deconvs(features[-1]))


def _step(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels, momentum=0.1),
        nn.ReLU(inplace=True),
    )
