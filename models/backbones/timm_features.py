"""Any network of timm that gives features, by name: ConvNeXt, EfficientNet, MobileNet, Swin, ViT, ..."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from semipose.configs.errors import InputError, one_line
from semipose.configs.settings import settings
from semipose.models.backbones.padding import pad_to_multiple
from semipose.models.backbones.timm_networks import build_network

FINEST_STRIDE = 4


@settings
class TimmSettings:
    """Any other network of timm by its name."""

    name: Literal["timm"] = "timm"
    model: str
    """The name of the network in timm, with the tag of its weights if there are several: convnext_tiny,
    vit_small_patch16_224.dino. The tag also decides how images are normalised for the weights."""

    @property
    def timm_name(self) -> str:
        """The name of the network in timm, with the tag of its weights if one was given."""
        return self.model

    def build(self, *, pretrained: bool = False, weights: Path | None = None) -> "TimmFeatures":
        """Return the network, without or with weights, from timm or a file.

        Raises InputError if timm does not have it, if its weights cannot be loaded, or if it does not give
        features for inputs of any size.
        """
        return TimmFeatures(_build(self.model, pretrained, weights), self.model)


class TimmFeatures(nn.Module):
    """Images (N, 3, H, W) -> features [(N, C, h, w), ...], fine to coarse, one per stride from 4 on.

    h and w are those of the input padded to a multiple of the coarsest stride. A plain ViT gives one feature,
    the normalised output of its last block; its position embeddings are resampled to the size of the input.
    Modules keep their timm names below `network`. `layer1` to `layer4` are where the stages begin, whatever
    timm calls them, so that a recipe can mix at `backbone.layer3` of every backbone.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, network: Any, model: str) -> None:
        super().__init__()
        self.network = network
        self.indices = _indices(network.feature_info)
        taken = [network.feature_info[index] for index in self.indices]
        self.is_plain = len(taken) == 1
        self.channels = tuple(info["num_chs"] for info in taken)
        self.strides = tuple(info["reduction"] for info in taken)
        for number, stage in enumerate(_stages(network, self.indices), start=1):
            entrance = StageEntrance()
            stage.register_forward_pre_hook(entrance.before_stage)
            self.add_module(f"layer{number}", entrance)
        _try_out(self, model)

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.network.forward_intermediates(
            pad_to_multiple(images, self.strides[-1]),
            indices=self.indices,
            norm=self.is_plain,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        for count in range(1, len(features)):
            entrance = self._modules.get(f"layer{count + 1}")
            if entrance is not None:
                features[:count] = entrance(features[:count])
        return features


class StageEntrance(nn.Identity):
    """Where a stage begins: what enters it passes here, and so do the features of the stages before it.

    In this way all that the heatmaps depend on can be mixed here, as in `NextStage`. timm runs its stages
    itself, so the features before, which go on to the head, pass when it has ended.
    """

    def before_stage(self, _stage: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook of the stage; bound, so that a copy of the network has its own entrance."""
        entering, *others = inputs
        return (self(entering), *others)


def _build(model: str, pretrained: bool, weights: Path | None) -> Any:
    """Return the network without its classifier, for any input size if timm has an option for that."""

    def prune(network: Any) -> None:
        if not hasattr(network, "forward_intermediates"):
            raise InputError(f"net.backbone.model: timm's '{model}' gives no features: choose another model")
        indices = _indices(network.feature_info)
        network.prune_intermediate_layers(indices, prune_norm=len(indices) > 1)

    build = partial(build_network, model, prune=prune, pretrained=pretrained, weights=weights)
    try:
        return build(dynamic_img_size=True)
    except TypeError:  # it has no such option; _try_out finds out whether it needs one
        return build()


def _indices(feature_info: Any) -> list[int]:
    """Return the index of the last (deepest) feature of each stride from 4 on."""
    last = {info["reduction"]: index for index, info in enumerate(feature_info)}
    return [index for stride, index in last.items() if stride >= FINEST_STRIDE]


def _stages(network: Any, indices: Sequence[int]) -> list[nn.Module]:
    """Return the module that each stage begins with: one per feature, or the quarters of a plain ViT.

    Empty if timm names a feature by something that is not a module of the network.
    """
    names = [info["module"] for info in network.feature_info]
    if len(indices) == 1:
        firsts = [names[quarter * len(names) // 4] for quarter in range(4)]
    else:
        firsts = [names[indices[0]], *(_next_sibling(network, names[index]) for index in indices[:-1])]
    modules = dict(network.named_modules())
    return [modules[name] for name in firsts] if all(name in modules for name in firsts) else []


def _next_sibling(network: nn.Module, name: str) -> str | None:
    """Return the name of the module that follows `name` in its parent; None if there is none."""
    parent = name.rpartition(".")[0]
    siblings = [other for other, _ in network.named_modules() if other.rpartition(".")[0] == parent]
    following = siblings[siblings.index(name) + 1 :] if name in siblings else []
    return following[0] if following else None


def _try_out(backbone: TimmFeatures, model: str) -> None:
    """Raise InputError unless the features of a tall and a wide input have the sizes that timm says."""
    is_training = backbone.training
    coarsest = backbone.strides[-1]
    device = next(backbone.parameters()).device
    backbone.eval()
    for height, width in ((8 * coarsest, 6 * coarsest), (2 * coarsest, 3 * coarsest)):
        expected = [(height // stride, width // stride) for stride in backbone.strides]
        try:
            with torch.no_grad():
                features = backbone(torch.zeros(1, 3, height, width, device=device))
            sizes = [tuple(feature.shape[-2:]) for feature in features]
            reason = "" if sizes == expected else f"their sizes are {sizes}, not {expected}"
        except Exception as error:  # assertions and shape errors of any network of timm
            reason = one_line(error)
        if reason:
            raise InputError(
                f"net.backbone.model: timm's '{model}' gives no usable features for an input of {height} x "
                f"{width} pixels ({reason}): choose a model that accepts any input size"
            )
    backbone.train(is_training)
