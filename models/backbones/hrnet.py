"""HRNet of timm (Sun et al., CVPR 2019) as in the published pose networks: one branch or all four."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from semipose.configs.settings import settings
from semipose.models.backbones.padding import pad_to_multiple
from semipose.models.backbones.timm_networks import build_network


@settings
class HRNetSettings:
    """HRNet of timm, which keeps a branch at stride 4 to its end."""

    name: Literal["hrnet"] = "hrnet"
    width: Literal[18, 32, 48] = 32
    """Channels at stride 4; the published pose networks are W32 and W48."""
    branches: Literal[1, 4] = 1
    """How many resolutions the head reads: stride 4 alone, or 4 to 32 (published for DEKR and CID)."""

    @property
    def timm_name(self) -> str:
        """The name of the network and of its ImageNet weights in timm."""
        return f"hrnet_w{self.width}.ms_in1k"

    def build(self, *, pretrained: bool = False, weights: Path | None = None) -> "HRNet":
        """Return the network, from scratch, with ImageNet weights or a file of them, else InputError."""
        network = build_network(
            self.timm_name,
            prune=partial(_prune, branches=self.branches),
            pretrained=pretrained,
            weights=weights,
        )
        return HRNet(network, self.branches)


class HRNet(nn.Module):
    """Images (N, 3, H, W) -> features [(N, C, H/4, W/4)], sizes rounded up to a multiple of 8.

    With four branches also [(N, 2 C, H/8, W/8), (N, 4 C, H/16, W/16), (N, 8 C, H/32, W/32)].

    `layer1` is the bottleneck stage and `layer2` to `layer4` are what timm and the paper call stage 2 to 4:
    a recipe names one place for a ResNet and an HRNet. From the second on, a layer takes the list of its
    branches, stride 4 first: a mixer of its inputs mixes every branch (docs/methods.md 9, row 18).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, network: Any, branches: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            network.conv1, network.bn1, network.act1, network.conv2, network.bn2, network.act2
        )
        self.layer1, self.layer2 = network.layer1, network.stage2
        self.layer3, self.layer4 = network.stage3, network.stage4
        self.transition1, self.transition2 = network.transition1, network.transition2
        self.transition3 = network.transition3
        self.channels = tuple(network.stage4_cfg["num_channels"][:branches])
        self.strides = (4, 8, 16, 32)[:branches]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.layer1(self.stem(pad_to_multiple(images, 32)))
        branches = self.layer2([transition(x) for transition in self.transition1])
        branches = self.layer3(_enter(self.transition2, branches))
        return self.layer4(_enter(self.transition3, branches))


def _enter(transition: nn.ModuleList, branches: list[Tensor]) -> list[Tensor]:
    """Return the branches of the next stage: the present ones, and a new one from the coarsest."""
    return [*branches, transition[-1](branches[-1])]


def _prune(network: Any, branches: int) -> None:
    """Take off the classifier and, as published, the last fusions toward branches that nobody reads."""
    del network.incre_modules, network.downsamp_modules, network.final_layer
    del network.global_pool, network.head_drop, network.classifier
    last = network.stage4[-1]
    last.fuse_layers = last.fuse_layers[:branches]
