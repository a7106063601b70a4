"""ResNets of timm without their classifier, and where their ImageNet weights come from."""

import urllib.error
import urllib.request
from typing import Any, Literal

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from configs.load import InputError
from configs.settings import settings

REACH_TIMEOUT_S = 5.0


@settings
class ResNetSettings:
    name: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 18
    """Depth of the published network; its weights, when asked for, are torchvision's."""
    model: str | None = None
    """A ResNet by its timm name, in place of `depth`: resnet10t, resnet18.gluon_in1k, wide_resnet50_2, ..."""

    @property
    def timm_name(self) -> str:
        return self.model or f"resnet{self.depth}.tv_in1k"

    def build(self, *, pretrained: bool = False) -> "ResNet":
        """Return the network; `pretrained`: with ImageNet weights. InputError where they cannot be had."""
        if pretrained:
            return ResNet(_create_pretrained(self.timm_name))
        return ResNet(_create(self.timm_name))


class ResNet(nn.Module):
    """Images (N, 3, H, W) -> features [(N, C, H/4, W/4), ..., (N, C, H/32, W/32)], sizes rounded up.

    Modules keep the names of timm and torchvision (`conv1`, `layer1`, ...), so their weights load as they
    are, and a recipe may name `backbone.layer3`, the stage that the published feature mixing precedes.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = network.conv1, network.bn1, network.act1
        self.maxpool = network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        stages = network.feature_info[1:]
        self.channels = tuple(stage["num_chs"] for stage in stages)
        self.strides = tuple(stage["reduction"] for stage in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _create(name: str, **options: Any) -> Any:
    if not timm.is_model(name):
        raise InputError(f"net.backbone.model: timm has no model '{name}' (see timm.list_models('*resnet*'))")
    try:
        network = timm.create_model(name, **options)
    except RuntimeError as error:
        raise InputError(f"net.backbone.model: timm cannot make '{name}': {error}") from error
    if not isinstance(network, TimmResNet):
        kind = type(network).__name__
        raise InputError(
            f"net.backbone.model: '{name}' is a {kind}, not a ResNet: name a model of timm's resnet.py"
        )
    return network


def _create_pretrained(name: str) -> Any:
    """Return timm's network with its weights: from the local cache, or downloaded.

    The hub's client goes on for a minute with a host that cannot be reached, so we reach for it once first.
    """
    cfg = _create(name).pretrained_cfg
    hub_id = cfg.get("hf_hub_id")
    if not hub_id:
        raise InputError(
            f"net.pretrained: timm has no weights for '{name}': set net.pretrained=false or net.weights=PATH"
        )
    cached = try_to_load_from_cache(hub_id, "model.safetensors")
    if isinstance(cached, str):
        return _create(name, pretrained=True, pretrained_cfg_overlay={"file": cached})
    try:
        _reach(f"{constants.ENDPOINT}/{hub_id}/resolve/main/config.json")
        return _create(name, pretrained=True)
    except Exception as error:  # the client's own kinds come and go with its HTTP library
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"net.pretrained: the weights of '{name}' could not be downloaded from {constants.ENDPOINT} "
            f"({reason}): set net.pretrained=false, or net.weights=PATH to a local file of them"
        ) from error


def _reach(url: str) -> None:
    """Raise OSError, in seconds, where `url` cannot be reached; any answer of a server will do."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return
