"""`light`: a small residual network for CPU runs from scratch.

Most of its work is at strides 4 and 8, and it ends at stride 16: with few labels and no pretrained weights, a
network whose only output is at stride 32 predicts the mean pose for a long time. It is meant for the pyramid
head.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.backbones.next_stage import NextStage
from semipose.models.backbones.timm_networks import load_weights


@settings
class LightSettings:
    """A small residual network for runs from scratch on a CPU."""

    name: Literal["light"] = "light"
    stem_channels: int = 24
    """Channels of the first convolution, at half resolution."""
    channels: tuple[int, int, int] = (48, 96, 160)
    """Channels of the stages at strides 4, 8 and 16."""
    blocks: tuple[int, int, int] = (2, 2, 2)
    """Number of residual blocks of each stage."""

    def __post_init__(self) -> None:
        if min(self.stem_channels, *self.channels, *self.blocks) < 1:
            raise ValueError("stem_channels, channels and blocks must be at least 1")

    def build(self, *, weights: Path | None = None) -> "Light":
        """Return the network, without weights or with those in a file. Raises InputError."""
        network = Light(self)
        if weights is not None:
            load_weights(network, weights)
        return network


class Light(nn.Module):
    """Images (N, 3, H, W) -> features [(N, C, H/4, W/4), (N, C, H/8, W/8), (N, C, H/16, W/16)], rounded up.

    `layer1`, `layer2`, `layer3` are the stages, named as in a ResNet, so that a recipe can mix before each.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16)

    def __init__(self, cfg: LightSettings) -> None:
        super().__init__()
        self.channels = cfg.channels
        first, second, third = cfg.channels
        self.stem = nn.Sequential(
            conv_bn_relu(3, cfg.stem_channels, stride=2), conv_bn_relu(cfg.stem_channels, first, stride=2)
        )
        self.layer1 = nn.Sequential(*_blocks(first, first, cfg.blocks[0], stride=1))
        self.layer2 = NextStage(*_blocks(first, second, cfg.blocks[1], stride=2))
        self.layer3 = NextStage(*_blocks(second, third, cfg.blocks[2], stride=2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.layer3(self.layer2([self.layer1(self.stem(images))]))


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + conv(relu(conv(x)))): the basic block of a ResNet."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(in_channels, out_channels, stride),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution without bias, batch norm and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            bn=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
        )
    )


def _blocks(in_channels: int, out_channels: int, count: int, stride: int) -> list[ResidualBlock]:
    first = ResidualBlock(in_channels, out_channels, stride)
    return [first, *(ResidualBlock(out_channels, out_channels, 1) for _ in range(count - 1))]
