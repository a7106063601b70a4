"""The model folder: a network and its meaning, written and read to the bit; altered folders are refused."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from semipose.configs.load import InputError
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.codecs.ae import AESettings
from semipose.models.codecs.cid import CIDSettings
from semipose.models.codecs.dekr import DEKRSettings
from semipose.models.heads.ae import AEHeadSettings
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.dekr import DEKRHeadSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.model_card import model_card
from semipose.models.model_folder import (
    ChannelScaling,
    ModelConfig,
    NetworkConfig,
    Provenance,
    read_model,
    write_model,
)
from semipose.models.net import NetSettings, build_net
from semipose.models.normalisation import Renormalise
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.sharding.annotations.skeleton import COCO_17, LSP_14

SMALL = LightSettings(stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 1))
PYRAMID = PyramidSettings(width=8, convolutions=1)
NETS: dict[str, tuple[NetSettings, Any]] = {
    "light-pyramid": (NetSettings(backbone=SMALL, head=PYRAMID), None),
    "resnet-deconv": (NetSettings(backbone=ResNetSettings(model="resnet10t")), None),
    "timm-deconv": (
        NetSettings(backbone=TimmSettings(model="test_vit"), head=DeconvSettings(width=8)),
        None,
    ),
    "dekr": (NetSettings(backbone=SMALL, head=DEKRHeadSettings(neck=PYRAMID)), DEKRSettings()),
    "ae": (NetSettings(backbone=SMALL, head=AEHeadSettings(neck=PYRAMID, higher=True)), AESettings()),
    "cid": (NetSettings(backbone=SMALL, head=CIDHeadSettings(neck=PYRAMID)), CIDSettings()),
}
PROVENANCE = Provenance(
    protocol="own", method="supervised", step=7, seed=3, weights="random weights", version=None
)


def config_of(name: str = "light-pyramid", **changes: Any) -> ModelConfig:
    net, codec = NETS[name]
    views: dict[str, Any] = {"kind": "person", "size_hw": (64, 48)}
    if codec:
        views = {"kind": "image", "codec": codec, "photo_views": PhotoViewSettings(size=64)}
    values = {"network": "network", "networks": {"network": NetworkConfig(net=net)}, "skeleton": LSP_14}
    return ModelConfig(**{**views, **values, "provenance": PROVENANCE, **changes})


def network_of(config: ModelConfig, seed: int = 0, name: str | None = None) -> Any:
    """A network whose weights, running means and counts all differ from those of a new one."""
    torch.manual_seed(seed)
    own = config.networks[name or config.network]
    network = build_net(own.net, config.skeleton.num_keypoints)
    for key, value in network.state_dict().items():
        value.copy_(
            torch.rand_like(value) + 0.5 if value.is_floating_point() else torch.tensor(len(key) + seed)
        )
    if own.renormalise is not None:
        network.renormalise = Renormalise(own.renormalise.scale, own.renormalise.shift)
    return network.eval()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "light-pyramid", **changes: Any) -> Path:
        config = config_of(name, **changes)
        networks = {key: network_of(config, seed, key) for seed, key in enumerate(config.networks)}
        return write_model(tmp_path / "model", networks, config, readme="", scores={"step": 7})

    return make


@pytest.mark.parametrize("name", NETS)
def test_a_model_comes_back_to_the_bit(make_folder: Callable[..., Path], name: str) -> None:
    """The weights, what they answer, and what the answers mean."""
    folder, config = make_folder(name), config_of(name)
    expected = network_of(config)
    model = read_model(folder, "cpu")
    assert model.config == config
    assert model.codec.skeleton == LSP_14
    assert model.scores == {"step": 7}
    assert not model.network.training
    state = model.network.state_dict()
    assert list(state) == list(expected.state_dict())
    for key, value in expected.state_dict().items():
        assert torch.equal(state[key], value), key
        assert state[key].dtype == value.dtype
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        answers = [
            net(images) if net.__class__.__name__ == "PoseNet" else net(images).heatmaps
            for net in (model.network, expected)
        ]
    assert torch.equal(*answers)


def test_every_network_of_the_run_is_beside_the_product_by_name(make_folder: Callable[..., Path]) -> None:
    """Also where they differ in their architecture and in what they expect of images."""
    scaling = ChannelScaling(scale=(0.458, 0.448, 0.45), shift=(-0.03, -0.088, -0.188))
    networks = {
        "network_1": NetworkConfig(net=NETS["light-pyramid"][0]),
        "average_1": NetworkConfig(net=NETS["light-pyramid"][0]),
        "network_2": NetworkConfig(net=NETS["timm-deconv"][0], renormalise=scaling),
    }
    folder = make_folder(network="network_1", networks=networks)
    config = config_of(network="network_1", networks=networks)
    for seed, name in enumerate(networks):
        model = read_model(folder, "cpu", network=name)
        assert model.config == replace(config, network=name)
        expected = network_of(config, seed, name)
        assert all(
            torch.equal(value, model.network.state_dict()[key])
            for key, value in expected.state_dict().items()
        )
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(model.network(images), expected(images))
    assert read_model(folder, "cpu").config.network == "network_1"
    with pytest.raises(InputError, match="no network 'average': choose network_1, average_1, network_2"):
        read_model(folder, "cpu", network="average")


def test_reading_leaves_the_random_state_alone(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read_model(folder, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_later_model_takes_the_place_of_an_earlier_one(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    (folder / "left-over").touch()
    make_folder("resnet-deconv")
    assert read_model(folder, "cpu").config == config_of("resnet-deconv")
    assert not (folder / "left-over").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_disk_that_fails_leaves_the_earlier_model(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semipose.models.model_folder.write_atomic", fail)
    with pytest.raises(OSError, match="No space"):
        make_folder("resnet-deconv")
    assert read_model(folder, "cpu").config == config_of()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_nothing_that_trains_is_needed_to_use_a_model(make_folder: Callable[..., Path]) -> None:
    """DALI, Accelerate, webdataset and what exists for Linux alone."""
    absent = ("nvidia", "nvidia.dali", "accelerate", "webdataset", "triton", "fcntl", "numba", "pycocotools")
    code = f"""if True:
        import sys
        sys.modules |= dict.fromkeys({absent!r})
        import torch
        from semipose.models.model_folder import read_model
        model = read_model({str(make_folder())!r}, "cpu")
        points, peaks = model.codec.decode(model.network(torch.zeros(2, 3, 64, 48)))
        assert points.shape == (2, 14, 2)"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def refusal(folder: Path | str) -> str:
    """The one sentence with which a folder is refused."""
    with pytest.raises(InputError) as caught:
        read_model(folder, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Malicious:
    """What runs code when it is unpickled: it would make the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_the_name_of_weights_is_refused_and_not_run(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder()
    path = folder / "model.safetensors"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(Malicious(tmp_path / "made"), protocol))
        assert f"{path}: this is no file of safetensors" in refusal(folder)
    torch.save({"weight": Malicious(tmp_path / "made")}, path)
    assert f"{path}: this is no file of safetensors" in refusal(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("length", [0, 4, 8, 100, -10])
def test_a_file_of_weights_that_was_cut_short_is_refused(
    make_folder: Callable[..., Path], length: int
) -> None:
    path = make_folder() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert str(path) in refusal(path.parent)


def edit_config(folder: Path, *keys: str, value: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(content))


def test_a_config_with_other_keypoints_than_the_weights_is_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    coco = {"names": COCO_17.names, "flip_pairs": (), "bones": (), "sigmas": COCO_17.sigmas}
    edit_config(folder, "skeleton", value=coco)
    said = refusal(folder)
    assert "head.final.weight (14, 8, 1, 1) instead of (17, 8, 1, 1)" in said


def test_missing_and_foreign_tensors_are_named(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    foreign = {"head.other": tensors.pop("head.final.bias")}
    safetensors.torch.save_file(tensors | foreign, path)
    assert "1 missing (head.final.bias), 1 unexpected (head.other)" in refusal(folder)
    path.unlink()
    assert f"{path}: there is no such file of weights" in refusal(folder)


def test_weights_that_are_not_finite_or_of_another_type_are_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for bias in (torch.full((14,), torch.nan), torch.zeros(14, dtype=torch.int64)):
        safetensors.torch.save_file({**tensors, "head.final.bias": bias}, path)
        assert "head.final.bias holds other values than finite numbers of type torch.float32" in refusal(
            folder
        )


def test_a_network_of_any_size_takes_no_memory_before_its_weights_fit(
    make_folder: Callable[..., Path],
) -> None:
    """Its convolutions would have 16 * 10^12 weights."""
    folder = make_folder("resnet-deconv")
    edit_config(folder, "networks", "network", "net", "head", "width", value=1_000_000)
    assert "instead of (1000000,)" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "a/b", "..", "", "network.safetensors\n", "model"]
)
def test_names_of_networks_lead_to_no_other_folder(make_folder: Callable[..., Path], name: str) -> None:
    folder = make_folder()
    content = json.loads((folder / "config.json").read_text())
    content["networks"][name] = content["networks"]["network"]
    (folder / "config.json").write_text(json.dumps({**content, "network": name}))
    said = refusal(folder)
    assert str(folder / "config.json") in said or "not the weights" in said or "no such file" in said


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("networks", "network", "net", "backbone"), {"name": "timm", "model": "hf-hub:a/b"}, "hf-hub:a/b"),
        (("networks", "network", "net", "backbone"), {"name": "mine"}, "backbone"),
        (("networks", "network", "net", "head"), {"name": "dekr"}, "does not give the maps"),
        (("skeleton", "flip_pairs"), [[0, 99]], "flip pairs"),
        (("skeleton", "names"), [], "skeleton"),
        (("kind",), "video", "kind"),
        (("size_hw",), [64, 50], "size_hw"),
        (("format_version",), 2, "format_version"),
        (("unknown",), 1, "unknown"),
        (("box_padding",), -1, "box_padding"),
        (("crop",), {"margin": 1e308}, "margin"),
        (("crop",), {"input_size_wh": [0, 10**400]}, "input_size_wh"),
        (("crop",), {"name": "none"}, "crop"),
    ],
)
def test_what_a_config_may_not_say_is_named(
    make_folder: Callable[..., Path], keys: tuple[str, ...], value: Any, said: str
) -> None:
    folder = make_folder()
    edit_config(folder, *keys, value=value)
    assert said in refusal(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"a": ' * 100_000, "\udcff"])
def test_a_config_that_is_no_mapping_is_refused(make_folder: Callable[..., Path], content: str) -> None:
    folder = make_folder()
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert str(folder / "config.json") in refusal(folder)


def test_what_is_no_model_is_refused_with_what_to_give(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is a file" in refusal(tmp_path / "file")
    assert "holds no config.json" in refusal(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    assert "the run has no model folder yet" in refusal(tmp_path)
    spaced = tmp_path / "my run"
    spaced.mkdir()
    (spaced / "recipe.yaml").touch()
    assert f"`semipose evaluate '{spaced}'`" in refusal(spaced)


def test_the_card_says_what_a_user_must_know() -> None:
    """Its header is that of a model hub; the text holds protocol, scores, people and licences."""
    config = config_of(
        provenance=replace(
            PROVENANCE, weights="timm's weights 'x.y'", licences={"timm's x.y": "cc-by-nc-4.0"}
        )
    )
    scores = {"step": 7, "boxes": "annotated", "flip_test": False, "decode": "dark", "people": 12}
    scores |= {"scores": {"network": {"AP": 0.5, "PCK": 0.75}, "average": {"AP": 0.25}}}
    people = {"folder": "shards/mine", "people": 1234, "ids_sha256": "0123456789abcdef"}
    card = {"labelled": {"choice": "the first 1234 people of shards/mine", **people}, "unlabelled": None}
    text = model_card(config, scores, card)
    for part in (
        "library_name: semipose",
        "pipeline_tag: keypoint-detection",
        "value: 50.0",
        "| `network` | 50.0 | 75.0 |",
        "| `average` | 25.0 |  |",
        "in annotated boxes, without a flip test",
        "the first 1234 people of the training set",
        "| with labels | 1,234 | `0123456789ab` |",
        "timm's x.y: cc-by-nc-4.0",
        "right_ankle, right_knee",
        "64 x 48 pixels",
    ):
        assert part in text, part
    assert "shards/mine" not in text
