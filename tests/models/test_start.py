"""A network that starts from a trained one answers as it does, for every keypoint that they share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from semipose.configs.load import InputError
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.codecs.ae import AESettings
from semipose.models.codecs.cid import CIDSettings
from semipose.models.codecs.dekr import DEKRSettings
from semipose.models.heads.ae import AEHeadSettings
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.dekr import DEKRHeadSettings
from semipose.models.heads.plain import PlainSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.model_folder import ChannelScaling, NetworkConfig, write_model
from semipose.models.net import NetSettings, build_net
from semipose.models.start import Start, match_keypoints, start_network
from semipose.sharding.annotations.skeleton import COCO_17, CROWDPOSE_14, LSP_14, Skeleton
from tests.models.test_model_folder import PYRAMID, SMALL, config_of, network_of

HEADS: dict[str, tuple[Any, Any]] = {
    "deconv": (DeconvSettings(width=8), None),
    "pyramid": (PYRAMID, None),
    "dekr": (DEKRHeadSettings(neck=PYRAMID, heatmap_channels=8, keypoint_channels=3), DEKRSettings()),
    "adaptive dekr": (
        DEKRHeadSettings(neck=PYRAMID, heatmap_channels=8, keypoint_channels=3, adapt="deform"),
        DEKRSettings(),
    ),
    "ae": (AEHeadSettings(neck=PYRAMID, tag_size=2), AESettings()),
    "cid": (CIDHeadSettings(neck=PYRAMID, channels=4), CIDSettings()),
}
TWENTY = Skeleton(
    names=("tail", *reversed(COCO_17.names), "racket", "neck"), flip_pairs=(), bones=(), sigmas=(0.05,) * 20
)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

Trained = Callable[..., tuple[str, Any]]


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    """Make a model folder for a head and a keypoint set: the folder and its network."""

    def make(head: str = "pyramid", skeleton: Skeleton = COCO_17, **changes: Any) -> tuple[str, Any]:
        settings, codec = HEADS[head]
        name = "dekr" if codec else "light-pyramid"
        changes = {"codec": codec, **changes} if codec else changes
        own = NetworkConfig(net=NetSettings(backbone=SMALL, head=settings))
        config = config_of(name, **{"networks": {"network": own}, "skeleton": skeleton, **changes})
        network = network_of(config)
        soften(network)
        folder = write_model(tmp_path / "model", {"network": network}, config, readme="")
        return str(folder), network

    return make


def soften(network: Any) -> None:
    """Weights whose answers neither vanish nor saturate."""
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(part.weight)


def started(source: str, skeleton: Skeleton, head: str = "pyramid") -> tuple[Any, Start]:
    torch.manual_seed(9)
    cfg = NetSettings(backbone=SMALL, head=HEADS[head][0], start_from=source)
    network = build_net(cfg, skeleton.num_keypoints)
    start = start_network(network, source, skeleton)
    return network.eval(), start


def by_keypoint(head: str, network: Any, count: int) -> dict[str, Tensor]:
    """What a network answers, with the keypoints in dimension 1, and what is no keypoint's."""
    with torch.no_grad():
        maps = network(IMAGES)
        if head in ("deconv", "pyramid", "plain"):
            return {"heatmaps": maps}
        answers = {"heatmaps": maps.heatmaps[:, :count]}
        if head == "ae":
            return answers | {"tags": maps.tags}
        answers["centres"] = maps.heatmaps[:, count:].expand(-1, count, -1, -1)
        if head == "cid":
            photos, cells = torch.tensor([0, 1, 1]), torch.tensor([[3, 4], [0, 0], [15, 7]])
            return answers | {"instances": maps.read(photos, cells).heatmaps}
        return answers | {"offsets": maps.offsets.unflatten(1, (count, 2))}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("before", "after", "shared"),
    [(COCO_17, LSP_14, 12), (LSP_14, COCO_17, 12), (COCO_17, TWENTY, 17), (COCO_17, CROWDPOSE_14, 12)],
    ids=["17 to 14", "14 to 17", "17 to 20, reversed", "17 to CrowdPose"],
)
def test_shared_keypoints_are_answered_as_before(
    trained: Trained, head: str, before: Skeleton, after: Skeleton, shared: int
) -> None:
    """In the answers themselves: by the index of each name in its own set, whatever the head's layers are."""
    source, old = trained(head, before)
    new, start = started(source, after, head)
    common = [name for name in after.names if name in before.names]
    assert len(common) == shared
    assert start.keypoints == {name: name for name in common}
    assert start.new_keypoints == tuple(name for name in after.names if name not in before.names)
    theirs = by_keypoint(head, old, before.num_keypoints)
    ours = by_keypoint(head, new, after.num_keypoints)
    old_rows = [before.names.index(name) for name in common]
    new_rows = [after.names.index(name) for name in common]
    for name, answer in theirs.items():
        torch.testing.assert_close(ours[name][:, new_rows], answer[:, old_rows], msg=name)
        assert answer[:, old_rows].std() > 1e-3


def test_the_plain_head_of_a_backbone_at_stride_4_starts_too(trained: Trained, tmp_path: Path) -> None:
    from semipose.models.backbones.hrnet import HRNetSettings

    net = NetSettings(backbone=HRNetSettings(width=18), head=PlainSettings())
    config = config_of(networks={"network": NetworkConfig(net=net)}, skeleton=COCO_17)
    with torch.random.fork_rng():
        old = build_net(net, 17).eval()
    folder = str(write_model(tmp_path / "plain", {"network": old}, config, readme=""))
    new = build_net(replace(net, start_from=folder), 14)
    start = start_network(new, folder, LSP_14)
    assert len(start.keypoints) == 12
    rows = [COCO_17.names.index(name) for name in start.keypoints]
    own = [LSP_14.names.index(name) for name in start.keypoints]
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(IMAGES)[:, own], old(IMAGES)[:, rows])


def test_finer_heatmaps_of_the_same_keypoints_in_another_order(tmp_path: Path) -> None:
    """HigherHRNet's fine layers read heatmaps and tags as inputs, whose order follows as well."""
    head = AEHeadSettings(neck=PYRAMID, tag_size=2, higher=True, fine_channels=4)
    net = NetSettings(backbone=SMALL, head=head)
    config = config_of("ae", networks={"network": NetworkConfig(net=net)}, skeleton=COCO_17)
    old = network_of(config)
    soften(old)
    folder = str(write_model(tmp_path / "model", {"network": old}, config, readme=""))
    reordered = replace(COCO_17, names=COCO_17.names[::-1], flip_pairs=(), bones=())
    new = build_net(replace(net, start_from=folder), 17)
    start_network(new, folder, reordered)
    with torch.no_grad():
        theirs, ours = old(IMAGES), new.eval()(IMAGES)
    # Its sums over input channels run in another order.
    assert (ours.fine.flip(1) - theirs.fine).abs().max() < 1e-5 * theirs.fine.abs().max()


def test_new_keypoints_start_as_in_a_new_network(trained: Trained) -> None:
    source, _ = trained()
    new, start = started(source, TWENTY)
    torch.manual_seed(9)
    fresh = build_net(NetSettings(backbone=SMALL, head=PYRAMID), 20)
    rows = [TWENTY.names.index(name) for name in start.new_keypoints]
    assert start.new_keypoints == ("tail", "racket", "neck")
    assert torch.equal(new.head.final.weight[rows], fresh.head.final.weight[rows])


def test_what_pretrained_weights_expect_of_images_comes_along(trained: Trained) -> None:
    """Into the state dict, so that a checkpoint has it when the trained network is gone."""
    scaling = ChannelScaling(scale=(0.458, 0.448, 0.45), shift=(-0.03, -0.088, -0.188))
    own = NetworkConfig(net=NetSettings(backbone=SMALL, head=PYRAMID), renormalise=scaling)
    source, old = trained(networks={"network": own})
    new, _ = started(source, COCO_17)
    with torch.no_grad():
        assert torch.equal(new(IMAGES), old(IMAGES))
    resumed = build_net(new.settings, 17, loads_weights=False)
    resumed.load_state_dict(new.state_dict())
    with torch.no_grad():
        assert torch.equal(resumed.eval()(IMAGES), new(IMAGES))


NAMES_OF_ONE_JOINT = ("left_shoulder", "l_shoulder", "LShoulder", "Left Shoulder", "shoulder.L")


def mirrored_set(name: str) -> Skeleton:
    pairs = {
        "left_shoulder": "right_shoulder",
        "l_shoulder": "r_shoulder",
        "LShoulder": "RShoulder",
        "Left Shoulder": "Right Shoulder",
        "shoulder.L": "shoulder.R",
        "lshoulder": "rshoulder",
    }
    return Skeleton(names=(name, pairs[name], "nose"), flip_pairs=((0, 1),), bones=(), sigmas=(0.1,) * 3)


@pytest.mark.parametrize("own", NAMES_OF_ONE_JOINT)
@pytest.mark.parametrize("theirs", NAMES_OF_ONE_JOINT)
def test_keypoints_match_however_they_are_spelt(own: str, theirs: str) -> None:
    one, other = mirrored_set(own), mirrored_set(theirs)
    assert match_keypoints(one, other) == dict(zip(one.names, other.names, strict=True))


def test_sides_without_a_gap_match_where_both_sets_have_the_pair() -> None:
    one, other = mirrored_set("lshoulder"), mirrored_set("left_shoulder")
    assert match_keypoints(one, other) == dict(zip(one.names, other.names, strict=True))
    assert match_keypoints(replace(one, flip_pairs=()), other) == {"nose": "nose"}


def named(*names: str) -> Skeleton:
    return Skeleton(names=names, flip_pairs=(), bones=(), sigmas=(0.1,) * len(names))


def test_exact_names_come_first_and_doubtful_ones_are_new() -> None:
    assert match_keypoints(named("left_eye", "l_eye"), named("l_eye", "left_eye")) == {
        "left_eye": "left_eye",
        "l_eye": "l_eye",
    }
    assert match_keypoints(named("eye_left"), named("left_eye", "l_eye")) == {}
    assert match_keypoints(named("LEye", "leftEye"), named("left_eye")) == {}
    assert match_keypoints(named("rear"), named("right_ear")) == {}
    assert match_keypoints(named("left_eye"), named("right_eye")) == {}


def test_the_sentence_says_what_was_taken_and_what_is_new(trained: Trained) -> None:
    source, _ = trained(skeleton=COCO_17)
    names = ("LShoulder", "RShoulder", "nose", "tail")
    skeleton = Skeleton(names=names, flip_pairs=((0, 1),), bones=(), sigmas=(0.1,) * 4)
    _, start = started(source, skeleton)
    assert start.describe() == (
        f"started from {source} (7 steps): {start.backbone_tensors} tensors of the backbone, "
        f"{start.head_tensors} of the head, with the rows of 3 of 4 keypoints; by similar names: "
        "LShoulder from left_shoulder, RShoulder from right_shoulder; new: tail"
    )
    with torch.device("meta"):
        network = build_net(NetSettings(backbone=SMALL, head=PYRAMID), 4)
    assert start.backbone_tensors == len(network.backbone.state_dict())
    assert start.head_tensors == len(network.head.state_dict())


def test_another_head_takes_the_backbone_alone_and_says_so(trained: Trained) -> None:
    source, old = trained("pyramid")
    for head in ("deconv", "dekr"):
        new, start = started(source, COCO_17, head)
        assert (start.head_tensors, start.keypoints) == (0, {})
        assert "the head is new: the trained one is 'pyramid' and has other layers" in start.describe()
        with torch.no_grad():
            pairs = zip(new.backbone(IMAGES), old.backbone(IMAGES), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    cfg = NetSettings(backbone=SMALL, head=PyramidSettings(width=16, convolutions=1), start_from=source)
    start = start_network(build_net(cfg, 17), source, COCO_17)
    assert start.head_tensors == 0
    assert "head.final.weight is 17 x 8 x 1 x 1 there and 17 x 16 x 1 x 1 here" in start.describe()


def test_another_backbone_is_refused_by_name(trained: Trained) -> None:
    source, _ = trained()
    for backbone in (LightSettings(), LightSettings(stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 2))):
        cfg = NetSettings(backbone=backbone, head=PYRAMID, start_from=source)
        with pytest.raises(InputError, match=r"net\.start_from: .* has the backbone 'light'.*tensors differ"):
            start_network(build_net(cfg, 17), source, COCO_17)


def test_one_file_is_enough_and_a_file_without_names_gives_no_rows(trained: Trained, tmp_path: Path) -> None:
    source, old = trained()
    new, start = started(f"{source}/model.safetensors", LSP_14)
    assert len(start.keypoints) == 12
    tensors = safetensors.torch.load_file(f"{source}/model.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "bare.safetensors")
    new, start = started(str(tmp_path / "bare.safetensors"), COCO_17)
    assert start.keypoints == {}
    assert start.describe().endswith("the file does not name its keypoints, so their rows are new")
    assert torch.equal(new.head.laterals[0].weight, old.head.laterals[0].weight)
    assert not torch.equal(new.head.final.weight, old.head.final.weight)


def test_what_is_no_trained_network_is_refused_with_the_setting(trained: Trained, tmp_path: Path) -> None:
    source, _ = trained()
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04.")
    torch.save({}, tmp_path / "weights.pt")
    (tmp_path / "empty").mkdir()
    for path in (
        tmp_path / "nowhere",
        tmp_path / "empty",
        tmp_path / "pickle.safetensors",
        tmp_path / "weights.pt",
    ):
        with pytest.raises(InputError) as caught:
            started(str(path), COCO_17)
        assert str(caught.value).startswith(f"net.start_from: {path}: ")
        assert "\n" not in str(caught.value)
    tensors = safetensors.torch.load_file(f"{source}/model.safetensors")
    tensors["head.final.bias"] = torch.full((17,), torch.nan)
    safetensors.torch.save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match=r"head\.final\.bias are not finite"):
        started(str(tmp_path / "nan.safetensors"), COCO_17)


def test_two_settings_for_one_start_are_refused() -> None:
    with pytest.raises(ValueError, match=r"start_from and weights both say .*set one of them to null"):
        NetSettings(start_from="runs/first", weights="resnet18.pth", pretrained=True)


def test_a_network_that_goes_on_fetches_no_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes with `pretrained: true` take start_from as it stands."""
    given: list[Any] = []
    build = ResNetSettings.build
    monkeypatch.setattr(
        ResNetSettings,
        "build",
        lambda self, *, pretrained, weights: (
            given.append((pretrained, weights)) or build(self, pretrained=False, weights=None)
        ),
    )
    network = build_net(NetSettings(start_from="runs/first", pretrained=True), 5)
    assert given == [(False, None)]
    expected = build_net(NetSettings(start_from="runs/first"), 5)
    assert network.state_dict().keys() == expected.state_dict().keys()
    assert torch.equal(network.renormalise.scale, expected.renormalise.scale)
