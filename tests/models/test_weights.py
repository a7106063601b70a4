"""Where the backbone's weights come from: a local file, the cache, the hub; and what is said if neither."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from semipose.configs.load import InputError
from semipose.models.backbones import timm_networks
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, build_net

TINY = ResNetSettings(model="resnet10t")
PYRAMID = PyramidSettings(width=8, convolutions=1)


def test_weights_of_torchvision_load_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = build_net(NetSettings(pretrained=True, weights=str(tmp_path / "resnet18.pth")), 17).backbone.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        torch.testing.assert_close(ours(images)[-1], expected)


def test_weights_of_timm_load_from_a_training_checkpoint(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t")
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    ours = build_net(NetSettings(backbone=TINY, weights=str(tmp_path / "checkpoint.pth")), 17).backbone
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("content", ["absent", "garbage", "another depth", "another backbone", "no weights"])
def test_wrong_weights_are_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.pth"
    backbone: ResNetSettings | LightSettings = TINY
    if content == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif content == "another depth":
        torch.save(timm.create_model("resnet18").state_dict(), path)
    elif content == "another backbone":
        torch.save(timm.create_model("resnet10t").state_dict(), path)
        backbone = LightSettings()
    elif content == "no weights":
        torch.save({}, path)
    with pytest.raises(InputError) as caught:
        build_net(NetSettings(backbone=backbone, weights=str(path)), 17)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Malicious:
    """What runs code when it is unpickled: it would make the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_of_weights_is_named_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default that timm had before 1.0.26, too."""
    now = timm.models.load_state_dict

    def as_in_1_0_20(
        checkpoint_path: str, use_ema: bool = True, device: str = "cpu", weights_only: bool = False
    ) -> object:
        return now(checkpoint_path, use_ema, device=device, weights_only=weights_only)

    monkeypatch.setattr(timm.models, "load_state_dict", as_in_1_0_20)
    torch.save({"conv1.weight": Malicious(tmp_path / "made")}, tmp_path / "zip.pth")
    torch.save(
        {"conv1.weight": Malicious(tmp_path / "made")},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    for name in ("zip.pth", "old.pth"):
        with pytest.raises(InputError) as caught:
            build_net(NetSettings(backbone=TINY, weights=str(tmp_path / name)), 17)
        assert f"{name} does not hold" in str(caught.value)
        assert "mkdir), which is not run" in str(caught.value)
        assert "weights_only" not in str(caught.value)
        assert not (tmp_path / "made").exists()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_unreachable_hub_is_one_sentence_in_seconds(
    monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        refusing = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(timm_networks, "REACH_TIMEOUT_S", 0.5)
    monkeypatch.setattr(timm_networks, "try_to_load_from_cache", lambda *_: None)
    for endpoint in (refusing, silent_server):
        monkeypatch.setattr(timm_networks.constants, "ENDPOINT", endpoint)
        start = time.monotonic()
        with pytest.raises(InputError) as caught:
            build_net(NetSettings(pretrained=True), 17)
        assert time.monotonic() - start < 5
        for part in ("resnet18.tv_in1k", endpoint, "net.pretrained=false", "net.weights=PATH"):
            assert part in str(caught.value)


def test_cached_weights_need_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t").state_dict()
    safetensors.torch.save_file(theirs, tmp_path / "model.safetensors")
    monkeypatch.setattr(timm_networks.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        timm_networks, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors")
    )
    ours = build_net(NetSettings(backbone=TINY, pretrained=True), 17).backbone.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a client asks for: one file, with its etag and commit."""

    content = b""
    downloads: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path.endswith("/model.safetensors") else 404)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        Hub.downloads.append(self.path)
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_weights_are_downloaded_once_through_timm(tmp_path: Path) -> None:
    """The real client and timm's loading, in its own process because the hub's address is read at import."""
    theirs = timm.create_model("resnet10t").state_dict()
    Hub.content = safetensors.torch.save(theirs)
    code = (
        "import sys, torch; from semipose.models.backbones import timm_networks;"
        "from semipose.models.net import *;"
        "cfg = NetSettings(backbone=ResNetSettings(model='resnet10t'), pretrained=True);"
        "first = build_net(cfg, 17).backbone.state_dict();"
        "timm_networks.constants.ENDPOINT = 'http://127.0.0.1:9';"
        "torch.save((first, build_net(cfg, 17).backbone.state_dict()), sys.argv[1])"
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY"):
        env.pop(name, None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        command = [sys.executable, "-c", code, str(tmp_path / "ours.pth")]
        subprocess.run(command, env=env, check=True, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert len([path for path in Hub.downloads if path.endswith("/model.safetensors")]) == 1
    for ours in torch.load(tmp_path / "ours.pth"):
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("model", "pretrained", "said"),
    [
        ("resnet19", False, "no model 'resnet19'"),
        ("resnet18.nowhere", False, "resnet18.nowhere"),
        ("resnetv2_50", False, "not a ResNet"),
        ("seresnet18", True, "no weights for 'seresnet18'"),
    ],
)
def test_unknown_models_are_refused_by_name(model: str, pretrained: bool, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_net(NetSettings(backbone=ResNetSettings(model=model), pretrained=pretrained), 17)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_a_network_whose_weights_are_installed_needs_no_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str) -> None:
        raise AssertionError(f"{url} was asked for")

    monkeypatch.setattr(timm_networks, "_reach", refuse)
    net = build_net(NetSettings(backbone=TimmSettings(model=name), head=PYRAMID, pretrained=True), 14)
    package, file = timm_networks.PACKAGED[name]
    theirs = torch.load(str(files(package) / file), weights_only=True)
    ours = net.backbone.network.state_dict()
    assert torch.equal(ours["conv_stem.weight"], theirs["_conv_stem.weight"])
    last = theirs["_blocks.15._project_conv.weight"]
    assert torch.equal(ours["blocks.6.0.conv_pwl.weight"], last)
    assert net.renormalise is not None  # the images that these weights expect are within -1..1


def test_the_installed_weights_answer_like_their_conversion_for_our_images(shared_data: Path) -> None:
    """The conversion has Google's normalisation, mean 127/255 and deviation 128/255, folded into its stem;
    timm names 0.5 and 0.5 for these weights."""
    converted = shared_data / "weights" / "tf_efficientnet_lite0_imagenetnorm.safetensors"
    if not converted.is_file():
        pytest.skip(f"no converted weights: there is no file {converted}")
    own = NetSettings(backbone=TimmSettings(model="tf_efficientnet_lite0"), head=PYRAMID, pretrained=True)
    ours = build_net(own, 14).eval()
    theirs = TimmSettings(model="tf_efficientnet_lite0").build(weights=converted).eval()
    images = torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    assert ours.renormalise is not None
    with torch.no_grad():
        pairs = zip(ours.backbone(ours.renormalise(images)), theirs(images), strict=True)
        for ours_map, theirs_map in pairs:
            assert (ours_map - theirs_map).norm() < 0.05 * theirs_map.norm()
