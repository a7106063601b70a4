"""Small networks with random weights as models, in memory and as model folders."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.models.codecs.heatmap import HeatmapSettings
from semipose.models.model_folder import Model, ModelConfig, NetworkConfig, Provenance, write_model
from semipose.models.net import NetSettings, build_net
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.sharding.annotations.skeleton import Skeleton
from tests.training import tiny, tiny_photos

PROVENANCE = Provenance(protocol="own", method="none", step=0, seed=0, weights="random weights", version=None)
ABSENT = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(
    bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (pip install 'semipose[export]')"
)


def skeleton_of(num_keypoints: int) -> Skeleton:
    """Keypoints `point_0`, ... in a chain, without sides."""
    return Skeleton(
        names=tuple(f"point_{k}" for k in range(num_keypoints)),
        flip_pairs=(),
        bones=tuple((k, k + 1) for k in range(num_keypoints - 1)),
        sigmas=(0.05,) * num_keypoints,
    )


def person_model(num_keypoints: int = 5, skeleton: Skeleton | None = None) -> Model:
    """A model of single people, of category 7, whose heatmaps have peaks above 0.2 here and there."""
    torch.manual_seed(0)
    network = build_net(tiny.NET, num_keypoints)
    torch.nn.init.normal_(network.head.final.weight, std=0.3)
    named = tiny.SKELETON if num_keypoints == tiny.K else skeleton_of(num_keypoints)
    config = ModelConfig(
        kind="person",
        **_one_network(tiny.NET),
        heatmap=HeatmapSettings(sigma=1.5),
        size_hw=(64, 48),
        skeleton=skeleton or named,
        category_id=7,
        category_name="dancer",
        provenance=PROVENANCE,
    )
    return Model(network.eval(), config.build_codec(), config, None, "a test")


def image_model(family: str = "dekr") -> Model:
    """A detector-free model that finds somebody in most pictures."""
    method = tiny_photos.make_method(family, has_peaks=True)
    head, codec = tiny_photos.FAMILIES[family]
    config = ModelConfig(
        kind="image",
        **_one_network(NetSettings(backbone=tiny_photos.BACKBONE, head=head)),
        codec=codec,
        photo_views=PhotoViewSettings(size=64),
        border="black",
        skeleton=tiny_photos.SKELETON,
        provenance=PROVENANCE,
    )
    network = next(iter(method.networks().values()))
    return Model(network.eval(), config.build_codec(), config, None, "a test")


def make_model(name: str) -> Model:
    """The model of single people, if the name is person, or that of a family of whole photos."""
    return person_model() if name == "person" else image_model(name)


def _one_network(net: NetSettings) -> dict[str, Any]:
    return {"network": "network", "networks": {"network": NetworkConfig(net=net)}}


def write_folder(folder: Path, model: Model) -> Path:
    """The model as the folder of a run holds it; returns that of the run."""
    folder.mkdir(parents=True)
    networks = {model.config.network: model.network}
    write_model(folder / "model", networks, model.config, readme="random weights\n")
    return folder
