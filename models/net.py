"""The pose network: a backbone, a head, and their settings."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.models.backbones.hrnet import HRNet, HRNetSettings
from semipose.models.backbones.light import Light, LightSettings
from semipose.models.backbones.resnet import ResNet, ResNetSettings
from semipose.models.backbones.timm_features import TimmFeatures, TimmSettings
from semipose.models.codecs.heatmap import STRIDE
from semipose.models.heads.ae import AEHeadSettings
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.dekr import DEKRHeadSettings
from semipose.models.heads.plain import PlainSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.normalisation import Renormalise, renormalise_for
from semipose.models.strided_convolutions import take_pixels_first

Backbone = Annotated[
    ResNetSettings | HRNetSettings | TimmSettings | LightSettings, Field(discriminator="name")
]
InstanceHead = AEHeadSettings | DEKRHeadSettings | CIDHeadSettings
"""Heads for whole photos; each has the name of the codec that says what its maps mean."""
Head = Annotated[DeconvSettings | PyramidSettings | PlainSettings | InstanceHead, Field(discriminator="name")]


@settings
class NetSettings:
    """A network: its backbone, its head, and what their weights start from."""

    backbone: Backbone = field(default_factory=ResNetSettings)
    """The backbone, which turns images into features."""
    head: Head = field(default_factory=DeconvSettings)
    """The head, which turns features into heatmaps, or into the maps of `codec`."""
    pretrained: bool = False
    """Start the backbone from ImageNet weights, which timm downloads once; those of tf_efficientnet_lite0
    are installed with the project."""
    weights: str | None = None
    """A local file of backbone weights (a state dict of torchvision or timm), used instead of `pretrained`.
    The images that they expect are assumed to be normalised as timm says for the backbone's name and tag."""

    start_from: str | None = None
    """A trained network to go on from, backbone and head, used instead of `pretrained`: a run, a model
    folder, a file of safetensors, or hf://OWNER/NAME. Keypoints keep what was learnt for those of the same
    name; new ones start at random."""

    @property
    def loads_pretrained(self) -> bool:
        """Whether timm's weights are loaded: neither `weights` nor `start_from` is used instead of them."""
        return self.pretrained and self.weights is None and self.start_from is None

    def __post_init__(self) -> None:
        if self.start_from is not None and self.weights is not None:
            raise ValueError(
                "start_from and weights both say what the backbone starts from: set one of them to null"
            )
        if self.pretrained and self.weights is None and isinstance(self.backbone, LightSettings):
            raise ValueError(
                f"backbone '{self.backbone.name}' has no pretrained weights: set pretrained to false"
            )


class FeatureNet(nn.Module):
    """A backbone and a head, with a cell of the head's maps every 4 input pixels.

    Images are normalised by ImageNet's mean and deviation; `renormalise` turns them into what the pretrained
    weights expect.
    """

    stride = STRIDE
    settings: NetSettings
    """What it was built from."""
    start: Any = None
    """The `models.start.Start` of a network that started from a trained one."""

    def __init__(self, backbone: nn.Module, head: nn.Module, renormalise: nn.Module | None = None) -> None:
        super().__init__()
        self.renormalise = renormalise
        self.backbone = backbone
        self.head = head

    def features(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Return the backbone's features of images (N, 3, H, W) and the maps' size, (H / 4, W / 4).

        Raises InputError where H or W is not a multiple of 4.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise InputError(
                f"the network's input is {height} x {width} pixels (height x width): "
                f"make both multiples of {self.stride}"
            )
        if self.renormalise is not None:
            images = self.renormalise(images)
        return self.backbone(images), (height // self.stride, width // self.stride)


class PoseNet(FeatureNet):
    """Images (N, 3, H, W), H and W multiples of 4 -> heatmaps (N, K, H/4, W/4) float32, under autocast too.

    Cell i of a heatmap sits at input pixel 4 i. Raises InputError for another input size.
    """

    def forward(self, images: Tensor) -> Tensor:
        features, (height, width) = self.features(images)
        # A backbone rounds an odd size up, e.g. 144 to 5 cells of 32: its head then answers beyond the image.
        return self.head(features)[..., :height, :width].float()


class InstanceNet(FeatureNet):
    """Whole photos (N, 3, H, W), H and W multiples of 4 -> the maps of the head's codec, float32.

    The maps are a named tuple, such as `models.codecs.dekr.DEKRMaps`, of size (H/4, W/4); cell i sits at
    input pixel 4 i. Raises InputError for another input size.
    """

    def forward(self, images: Tensor) -> Any:
        return self.head(*self.features(images))


def build_net(cfg: NetSettings, num_keypoints: int, *, loads_weights: bool = True) -> PoseNet | InstanceNet:
    """Return the network for these keypoints, an InstanceNet for heads of whole photos, with new weights.

    loads_weights: whether to load pretrained weights; a network that loads a state dict later does not need
    them. `start_from` is not read here (models/start.py). Raises InputError if weights cannot be loaded, or
    if the head cannot use the features of the backbone.
    """
    has_weights = cfg.loads_pretrained or cfg.weights is not None
    weights = Path(cfg.weights) if cfg.weights is not None and loads_weights else None
    if isinstance(cfg.backbone, LightSettings):
        backbone: Light | ResNet | HRNet | TimmFeatures = cfg.backbone.build(weights=weights)
        renormalise = None
    else:
        backbone = cfg.backbone.build(pretrained=cfg.loads_pretrained and loads_weights, weights=weights)
        renormalise = renormalise_for(cfg.backbone.timm_name) if has_weights else None
    if cfg.start_from is not None:  # the trained network says how, and a checkpoint keeps it
        renormalise = Renormalise((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), is_saved=True)
    try:
        head = cfg.head.build(backbone.channels, backbone.strides, num_keypoints)
    except ValueError as error:
        raise InputError(
            f"net.head '{cfg.head.name}' does not fit net.backbone '{cfg.backbone.name}': {error}"
        ) from error
    kind = InstanceNet if isinstance(cfg.head, InstanceHead) else PoseNet
    network = kind(backbone, head, renormalise)
    take_pixels_first(network)
    network.settings = cfg
    return network
