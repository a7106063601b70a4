"""ResNets of timm without their classifier."""

from pathlib import Path
from typing import Any, Literal

from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.models.backbones.next_stage import NextStage
from semipose.models.backbones.timm_networks import build_network


@settings
class ResNetSettings:
    """A ResNet of timm, with features at strides 4 to 32."""

    name: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 18
    """Depth of the network; its pretrained weights are those of torchvision."""
    model: str | None = None
    """A ResNet by its timm name, instead of `depth`: resnet10t, resnet18.gluon_in1k, wide_resnet50_2, ..."""

    @property
    def timm_name(self) -> str:
        """The name of the network and of its ImageNet weights in timm."""
        return self.model or f"resnet{self.depth}.tv_in1k"

    def build(self, *, pretrained: bool = False, weights: Path | None = None) -> "ResNet":
        """Return the network, without or with ImageNet weights, from timm or a file. Raises InputError."""
        return ResNet(build_network(self.timm_name, prune=_prune, pretrained=pretrained, weights=weights))


class ResNet(nn.Module):
    """Images (N, 3, H, W) -> features [(N, C, H/4, W/4), ..., (N, C, H/32, W/32)], sizes rounded up.

    Modules keep the names of timm and torchvision (`conv1`, `layer1`, ...), so that their weights can be
    loaded and a recipe can name `backbone.layer3`, the stage before which the paper mixes features.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = network.conv1, network.bn1, network.act1
        self.maxpool = network.maxpool
        self.layer1 = network.layer1
        self.layer2, self.layer3 = NextStage(*network.layer2), NextStage(*network.layer3)
        self.layer4 = NextStage(*network.layer4)
        stages = network.feature_info[1:]
        self.channels = tuple(stage["num_chs"] for stage in stages)
        self.strides = tuple(stage["reduction"] for stage in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2([self.layer1(x)])))


def _prune(network: Any) -> None:
    if not isinstance(network, TimmResNet):
        kind, name = type(network).__name__, network.pretrained_cfg["architecture"]
        raise InputError(
            f"net.backbone.model: '{name}' is a {kind}, not a ResNet: choose a model of timm's resnet.py, "
            "or set net.backbone.name=timm"
        )
    del network.global_pool, network.fc
