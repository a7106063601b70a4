"""The model folder of a run: its networks, how to use them and what is known of them, in RUN/model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from semipose.configs.load import dump
from semipose.configs.versions import versions
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.timm_networks import weights_licence
from semipose.models.hub import is_address
from semipose.models.model_card import model_card
from semipose.models.model_folder import (
    ChannelScaling,
    ModelConfig,
    NetworkConfig,
    Provenance,
    write_model,
)
from semipose.models.net import FeatureNet, NetSettings
from semipose.pipelines.source import Split
from semipose.sharding.samples.crop import PersonCrop
from semipose.training.methods.method import Method
from semipose.training.settings import RunSettings


def write_run_model(
    folder: Path,
    cfg: RunSettings,
    method: Method,
    val: Split,
    *,
    step: int,
    scores: Mapping[str, Any] | None,
    card: Mapping[str, Any] | None,
) -> Path:
    """Write the networks of `method` after `step` steps as the model folder `folder`.

    val: the scored people, for their keypoints, their category and how shards keep them. scores: step, how
    people were scored, and the scores by network. card: the content of card.json.
    """
    networks = method.networks()
    starts = (card or {}).get("start_from", [])
    config = model_config(cfg, networks, val, step, starts)
    readme = model_card(config, scores, card)
    return write_model(folder, networks, config, readme=readme, scores=scores, card=card, recipe=dump(cfg))


def model_config(
    cfg: RunSettings,
    networks: Mapping[str, FeatureNet],
    val: Split,
    step: int,
    starts: Sequence[Mapping[str, Any]] = (),
) -> ModelConfig:
    """How to use the networks of a run, of which the first is the product.

    val: the scored people. starts: what the networks took from
    trained ones, as in card.json.
    """
    is_image = cfg.kind == "image"
    views = cfg.photo_views if is_image else cfg.views
    crop, category = val.manifest.crop, val.ground_truth.category
    started = [network.settings for network in networks.values()]
    licences = {name: licence for net in started for name, licence in _licences(net).items()}
    licences |= {name: licence for start in starts for name, licence in start["licences"].items()}
    return ModelConfig(
        kind=cfg.kind,
        network=next(iter(networks)),
        networks={name: _network_config(network) for name, network in networks.items()},
        heatmap=cfg.heatmap,
        codec=cfg.codec,
        size_hw=None if is_image else cfg.views.size_hw,
        crop=crop if isinstance(crop, PersonCrop) else None,
        photo_views=cfg.photo_views if is_image else None,
        skeleton=val.skeleton,
        category_id=category["id"],
        category_name=category.get("name", "person"),
        border=views.plain.border,
        flip_test=cfg.evaluation.flip_test,
        provenance=Provenance(
            protocol=cfg.protocol,
            method=cfg.method.name,
            step=step,
            seed=cfg.seed,
            weights=" and ".join(dict.fromkeys(map(_origin, started))),
            licences=licences,
            version=versions(["semipose"])["semipose"],
        ),
    )


def _network_config(network: FeatureNet) -> NetworkConfig:
    scaling = None
    if network.renormalise is not None:
        scale, shift = (tuple(values.flatten().tolist()) for values in network.renormalise.buffers())
        if (scale, shift) != ((1, 1, 1), (0, 0, 0)):
            scaling = ChannelScaling(scale=scale, shift=shift)
    net = replace(network.settings, pretrained=False, weights=None, start_from=None)
    return NetworkConfig(net=net, renormalise=scaling)


def _origin(net: NetSettings) -> str:
    """What a network started from, in words, without the folders of this machine."""
    if net.start_from is not None:
        name = net.start_from if is_address(net.start_from) else Path(net.start_from).name
        return f"the trained network '{name}'"
    if net.weights is not None:
        return f"the weights in {Path(net.weights).name}"
    if net.pretrained and not isinstance(net.backbone, LightSettings):
        return f"timm's weights '{net.backbone.timm_name}'"
    return "random weights"


def _licences(net: NetSettings) -> dict[str, str]:
    """The licences of what a network started from, by name, where they are known."""
    if not net.loads_pretrained or isinstance(net.backbone, LightSettings):
        return {}
    licence = weights_licence(net.backbone.timm_name)
    return {f"timm's {net.backbone.timm_name}": licence} if licence else {}
