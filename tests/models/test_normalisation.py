"""Pretrained weights get images normalised as they expect them; nothing else changes."""

import copy
from pathlib import Path

import pytest
import safetensors.torch
import timm
import timm.data
import torch

from semipose.models.backbones import timm_networks
from semipose.models.backbones.hrnet import HRNetSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.net import NetSettings, PoseNet, build_net
from semipose.models.normalisation import renormalise_for
from semipose.pipelines.loader import ProcessInfo
from semipose.pipelines.views import MEAN_RGB, STD_RGB
from semipose.training.build import build_method
from semipose.training.methods.method import Ingredients
from semipose.training.methods.random_state import RandomState
from semipose.training.settings import DataSettings, RunSettings
from tests.training.tiny import CODEC, LATE, SKELETON, make_batches, make_settings

HALF = "test_resnet"  # a small network of timm whose weights expect a mean and a deviation of 0.5
HEAD = DeconvSettings(width=8)
LEVELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))  # RGB in 0..1


def normalised(levels: torch.Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> torch.Tensor:
    return (levels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)


OURS = normalised(LEVELS, MEAN_RGB, STD_RGB)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(1)
    torch.save(timm.create_model(HALF).state_dict(), tmp_path / "half.pth")
    return str(tmp_path / "half.pth")


@pytest.fixture
def net(weights: str) -> PoseNet:
    return build_net(NetSettings(backbone=TimmSettings(model=HALF), head=HEAD, weights=weights), 5).eval()


@pytest.mark.parametrize(
    ("backbone", "mean"),
    [
        (TimmSettings(model=HALF), 0.5),
        (TimmSettings(model="test_vit"), 0.5),
        (TimmSettings(model="tf_mobilenetv3_small_minimal_100"), 0.5),
        (TimmSettings(model="test_efficientnet"), 0.485),
        (ResNetSettings(model="resnet18d.ra4_e3600_r224_in1k"), 0.5),
        (ResNetSettings(model="resnet18d.ra2_in1k"), 0.485),
    ],
    ids=lambda value: getattr(value, "model", None),
)
@pytest.mark.parametrize("source", ["file", "cache"])
def test_the_network_gets_the_images_that_its_weights_expect(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone: TimmSettings | ResNetSettings,
    mean: float,
    source: str,
) -> None:
    """Against timm's own network on images normalised by timm's own numbers for it."""
    theirs = timm.create_model(backbone.timm_name).eval()
    expects = timm.data.resolve_data_config({}, model=theirs)
    assert expects["mean"][0] == pytest.approx(mean, abs=1e-3)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    monkeypatch.setattr(timm_networks, "try_to_load_from_cache", lambda *_: str(path))
    given = {"weights": str(path)} if source == "file" else {"pretrained": True}
    net = build_net(NetSettings(backbone=backbone, head=HEAD, **given), 5).eval()
    seen: list[list[torch.Tensor]] = []
    net.backbone.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        net(OURS)
        images = normalised(LEVELS, expects["mean"], expects["std"])
        features = theirs.forward_intermediates(images, intermediates_only=True)
        if isinstance(backbone, TimmSettings) and backbone.model == "test_vit":
            features = theirs.forward_intermediates(images, norm=True, intermediates_only=True)
    torch.testing.assert_close(seen[0][-1], features[-1], rtol=1e-4, atol=1e-4)


def test_only_weights_with_numbers_of_their_own_add_a_step(weights: str) -> None:
    expects_ours = (
        "resnet18.tv_in1k",
        HRNetSettings().timm_name,
        "vit_small_patch16_224.dino",
        "convnext_tiny",
    )
    assert not any(map(renormalise_for, expects_ours))
    assert build_net(NetSettings(backbone=TimmSettings(model=HALF), head=HEAD), 5).renormalise is None
    net = build_net(NetSettings(backbone=TimmSettings(model=HALF), head=HEAD, weights=weights), 5)
    torch.testing.assert_close(net.renormalise(OURS), normalised(LEVELS, (0.5,) * 3, (0.5,) * 3))


def test_it_adds_nothing_to_the_state_and_is_there_without_the_file(net: PoseNet, weights: str) -> None:
    """A checkpoint is loaded into a network that fetches no weights: it must see the same images."""
    scratch = build_net(NetSettings(backbone=TimmSettings(model=HALF), head=HEAD), 5)
    assert net.state_dict().keys() == scratch.state_dict().keys()
    cfg = NetSettings(backbone=TimmSettings(model=HALF), head=HEAD, weights=weights)
    Path(weights).unlink()
    again = build_net(cfg, 5, loads_weights=False).eval()
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(OURS), net(OURS))
    run = RunSettings(output="x", data=DataSettings(train="x", val="x"), net=cfg)
    assert build_method(run, SKELETON, ProcessInfo(), fresh=False).network.renormalise is not None


@torch.no_grad()
def test_copies_memory_order_precision_and_compiling_keep_it(net: PoseNet) -> None:
    expected = net(OURS)
    ordered = copy.deepcopy(net).to(memory_format=torch.channels_last)
    images = OURS.to(memory_format=torch.channels_last)
    assert ordered.renormalise(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ordered(images), expected)
    whole = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(OURS), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(OURS).dtype == torch.float32
        torch.testing.assert_close(net(OURS), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("single", {"mixup": {"layers": ["input", "backbone.network.layer3"], "passes": "all"}}),
        ("double_match", {"teacher": {"name": "ema"}}),
    ],
)
def test_methods_mix_and_match_features_behind_it(
    weights: str, name: str, changes: dict[str, object]
) -> None:
    cfg = NetSettings(backbone=TimmSettings(model=HALF), head=HEAD, weights=weights)
    ingredients = Ingredients(lambda _: build_net(cfg, 5), CODEC, RandomState(0, 0, torch.device("cpu")))
    method = make_settings(name, **changes).build(ingredients).train()
    seen: list[torch.Tensor] = []
    method.network.renormalise.register_forward_hook(lambda *call: seen.append(call[2]))
    method(*make_batches(), LATE).loss.backward()
    assert seen
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.network.backbone.parameters())


def test_our_images_are_normalised_as_timm_says_of_imagenet() -> None:
    assert (MEAN_RGB, STD_RGB) == (
        timm.data.constants.IMAGENET_DEFAULT_MEAN,
        timm.data.constants.IMAGENET_DEFAULT_STD,
    )


def test_real_weights_act_as_with_the_change_folded_into_their_stem(
    shared_data: Path, tmp_path: Path
) -> None:
    """A file whose stem takes our images, against the file that it was made from, inside the borders."""
    file = shared_data / "weights" / "tf_efficientnet_lite0_imagenetnorm.safetensors"
    if not file.is_file():
        pytest.skip(f"{file.name} is not here")
    model = "tf_efficientnet_lite0"
    folded = timm.create_model(model).eval()
    state = safetensors.torch.load_file(file)
    folded.load_state_dict(state)
    ours = (torch.tensor(MEAN_RGB), torch.tensor(STD_RGB))
    stem = state["conv_stem.weight"] * (0.5 / ours[1]).view(1, 3, 1, 1)  # takes (levels - 0.5) / 0.5
    moved = (stem.sum((2, 3)) * ((ours[0] - 0.5) / 0.5)).sum(1)  # what the fold took into the first norm
    state |= {"conv_stem.weight": stem, "bn1.running_mean": state["bn1.running_mean"] + moved}
    safetensors.torch.save_file(state, tmp_path / "own.safetensors")
    cfg = NetSettings(backbone=TimmSettings(model=model), weights=str(tmp_path / "own.safetensors"))
    net = build_net(cfg, 5).eval()
    with torch.no_grad():
        stems = [
            network.bn1(network.conv_stem(images))[..., 1:-1, 1:-1]
            for network, images in ((folded, OURS), (net.backbone.network, net.renormalise(OURS)))
        ]
    torch.testing.assert_close(*stems, rtol=1e-3, atol=1e-3)
