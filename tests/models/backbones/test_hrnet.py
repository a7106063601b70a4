"""HRNet: the published structure, timm's own numbers, its weights."""

from pathlib import Path

import pytest
import timm
import torch

from semipose.configs.load import InputError
from semipose.models.backbones.hrnet import HRNetSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.plain import PlainSettings
from semipose.models.net import NetSettings, build_net


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """timm's classifier of that width, batch norms with statistics of their own."""
    torch.manual_seed(0)
    network = timm.create_model("hrnet_w18").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.4)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


def constants(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of one number a weight, another for each: small as a file."""
    state = theirs.state_dict()
    return {name: torch.tensor(float(i)).expand(w.shape) for i, (name, w) in enumerate(state.items())}


def test_features_are_those_of_timm(theirs: torch.nn.Module, tmp_path: Path) -> None:
    """The highest-resolution branch of the last stage; its weights will do without the classifier's."""
    unused = ("incre_modules", "downsamp_modules", "final_layer", "classifier", "stage4.2.fuse_layers.3")
    state = {name: w for name, w in theirs.state_dict().items() if not name.startswith(unused)}
    torch.save(state, tmp_path / "pose.pth")
    ours = HRNetSettings(width=18).build(weights=tmp_path / "pose.pth").eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        x = theirs.act2(theirs.bn2(theirs.conv2(theirs.act1(theirs.bn1(theirs.conv1(images))))))
        expected = theirs.stages(x)[0]
        (found,) = ours(images)
    assert found.shape == (2, 18, 16, 24)
    assert (ours.channels, ours.strides) == ((18,), (4,))
    torch.testing.assert_close(found, expected)


def test_weights_of_a_classifier_load_as_they_are(theirs: torch.nn.Module, tmp_path: Path) -> None:
    state = constants(theirs)
    torch.save(state, tmp_path / "hrnet_w18.pth")
    ours = HRNetSettings(width=18).build(weights=tmp_path / "hrnet_w18.pth")
    for name, module, key in (
        ("stem.0", ours.stem[0], "conv1"),
        ("layer3.1", ours.layer3[1].branches[2][3].conv2, "stage3.1.branches.2.3.conv2"),
        ("layer4.2", ours.layer4[2].fuse_layers[0][3][0], "stage4.2.fuse_layers.0.3.0"),
    ):
        assert (module.weight == state[f"{key}.weight"]).all(), name


@pytest.mark.parametrize(
    ("removed", "added", "said"),
    [
        ("stage3.0.branches.0", {}, "it has no 'stage3.0.branches.0.0.conv1.weight' and"),
        ("classifier", {"stage5.weight": torch.zeros(1)}, "the backbone has no 'stage5.weight'"),
        ("conv2", {"conv2.weight": torch.zeros(2, 2, 3, 3)}, "size mismatch for conv2.weight"),
    ],
)
def test_other_weights_are_refused_by_name(
    theirs: torch.nn.Module, tmp_path: Path, removed: str, added: dict[str, torch.Tensor], said: str
) -> None:
    state = {name: w for name, w in constants(theirs).items() if not name.startswith(removed)}
    torch.save({**state, **added}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=said) as caught:
        build_net(NetSettings(backbone=HRNetSettings(width=18), weights=str(tmp_path / "other.pth")), 17)
    assert "\n" not in str(caught.value)


def test_layers_are_the_published_stages() -> None:
    """Modules and branches of each stage, and what the branches of the third are when they enter it."""
    with torch.device("meta"):
        net = HRNetSettings(width=18).build()
    stages = [net.layer2, net.layer3, net.layer4]
    assert len(net.layer1) == 4
    assert [len(stage) for stage in stages] == [1, 4, 3]
    assert [len(stage[0].branches) for stage in stages] == [2, 3, 4]
    assert all(len(branch) == 4 for stage in stages for module in stage for branch in module.branches)
    assert [len(module.fuse_layers) for module in net.layer4] == [4, 4, 1]


def test_stage_3_gets_three_branches() -> None:
    net = HRNetSettings(width=18).build()
    shapes: list[tuple[int, ...]] = []
    net.layer3.register_forward_pre_hook(
        lambda _module, inputs: shapes.extend(tuple(branch.shape[1:]) for branch in inputs[0])
    )
    with torch.no_grad():
        net(torch.zeros(1, 3, 96, 72))
    assert shapes == [(18, 24, 24), (36, 12, 12), (72, 6, 6)]  # 72 pixels padded to 96


def test_the_deconv_head_takes_no_step_and_is_the_plain_one() -> None:
    plain, deconv = (each.build((48,), (4,), 17) for each in (PlainSettings(), DeconvSettings()))
    sizes = [{name: p.shape for name, p in head.named_parameters()} for head in (plain, deconv)]
    assert sizes[0] == sizes[1]


def test_plain_head_starts_as_published() -> None:
    torch.manual_seed(0)
    head = PlainSettings().build((48,), (4,), 400)
    assert head.final.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert head.final.bias is not None
    assert head.final.bias.count_nonzero() == 0
