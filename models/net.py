"""The pose network: a backbone, a head, and the settings that make them."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

import timm.models
from pydantic import Field
from torch import Tensor, nn

from configs.load import InputError
from configs.settings import settings
from models.backbones.light import Light, LightSettings
from models.backbones.resnet import ResNet, ResNetSettings
from models.heads.deconv import DeconvSettings
from models.heads.pyramid import PyramidSettings

Backbone = Annotated[ResNetSettings | LightSettings, Field(discriminator="name")]
Head = Annotated[DeconvSettings | PyramidSettings, Field(discriminator="name")]


@settings
class NetSettings:
    backbone: Backbone = field(default_factory=ResNetSettings)
    """What turns images into features."""
    head: Head = field(default_factory=DeconvSettings)
    """What turns features into heatmaps."""
    pretrained: bool = False
    """Start the backbone from ImageNet weights, downloaded once through timm."""
    weights: str | None = None
    """A local file of backbone weights (torchvision's or timm's state dict); goes before `pretrained`."""

    def __post_init__(self) -> None:
        if self.pretrained and self.weights is None and not isinstance(self.backbone, ResNetSettings):
            raise ValueError(
                f"backbone '{self.backbone.name}' has no pretrained weights: set pretrained to false"
            )


class PoseNet(nn.Module):
    """Images (N, 3, H, W), H and W multiples of 4 -> heatmaps (N, K, H/4, W/4) float32, under autocast too.

    Cell i of a heatmap sits at input pixel 4 i. Raises InputError for another input size.
    """

    stride = 4

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise InputError(
                f"the network's input is {height} x {width} pixels (height x width): "
                f"make both multiples of {self.stride}"
            )
        heatmaps = self.head(self.backbone(images))
        # A backbone rounds an odd size up, e.g. 144 to 5 cells of 32: its head then answers beyond the image.
        return heatmaps[..., : height // self.stride, : width // self.stride].float()


def build_net(cfg: NetSettings, num_keypoints: int) -> PoseNet:
    """Return the network with one output channel a keypoint; InputError where weights cannot be had."""
    if isinstance(cfg.backbone, ResNetSettings):
        backbone: ResNet | Light = cfg.backbone.build(pretrained=cfg.pretrained and cfg.weights is None)
    else:
        backbone = cfg.backbone.build()
    if cfg.weights is not None:
        load_weights(backbone, Path(cfg.weights))
    return PoseNet(backbone, cfg.head.build(backbone.channels, backbone.strides, num_keypoints))


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a state dict into the backbone; only the classifier's `fc.*` may be left over. Else InputError."""
    if not path.is_file():
        raise InputError(f"net.weights: there is no file {path}")
    try:
        state = timm.models.load_state_dict(str(path))
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        backbone.load_state_dict(state)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"net.weights: {path} does not hold the weights of this backbone ({reason})"
        ) from error
