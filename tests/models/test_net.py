"""The network: published sizes, shapes, initialisation, and that it can be trained, cast and compiled."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semipose.configs.load import InputError
from semipose.models.backbones.hrnet import HRNetSettings
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.plain import PlainSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, PoseNet, build_net

SIMPLE_BASELINE = {  # docs/methods.md 8: measured parameters for 17, 16 and 24 outputs
    18: (15_376_721, 15_376_464, 15_378_520),
    50: (33_999_697, 33_999_440, 34_001_496),
    101: (52_991_825, 52_991_568, 52_993_624),
    152: (68_635_473, 68_635_216, 68_637_272),
}
HRNET = {32: (28_536_113, 28_536_080, 28_536_344), 48: (63_595_745, 63_595_696, 63_596_088)}
LIGHT = NetSettings(backbone=LightSettings(), head=PyramidSettings())
NETS = {
    "resnet-deconv": NetSettings(),
    "resnet-pyramid": NetSettings(head=PyramidSettings()),
    "light-pyramid": LIGHT,
    "light-deconv": NetSettings(backbone=LightSettings(), head=DeconvSettings(width=32)),
    "hrnet-plain": NetSettings(backbone=HRNetSettings(width=18), head=PlainSettings()),
    "vit-deconv": NetSettings(backbone=TimmSettings(model="vit_tiny_patch16_224")),
    "convnext-pyramid": NetSettings(backbone=TimmSettings(model="convnext_atto"), head=PyramidSettings()),
    "mobilenet-deconv": NetSettings(backbone=TimmSettings(model="mobilenetv3_small_050")),
}


COVARIANT = ["resnet-deconv", "light-pyramid", "hrnet-plain", "convnext-pyramid"]


@pytest.fixture(params=NETS, scope="module")
def net(request: pytest.FixtureRequest) -> PoseNet:
    torch.manual_seed(0)
    return build_net(NETS[request.param], 14)


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


PUBLISHED = [
    *(
        (NetSettings(backbone=ResNetSettings(depth=depth)), SIMPLE_BASELINE[depth])
        for depth in SIMPLE_BASELINE
    ),
    *((NetSettings(backbone=HRNetSettings(width=w), head=PlainSettings()), HRNET[w]) for w in HRNET),
]


@pytest.mark.parametrize(("cfg", "counts"), PUBLISHED, ids=[*map(str, SIMPLE_BASELINE), "W32", "W48"])
def test_published_networks_have_the_published_parameters(
    cfg: NetSettings, counts: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        net = build_net(cfg, 17)
        backbone = net.backbone
        heads = [cfg.head.build(backbone.channels, backbone.strides, k) for k in (17, 16, 24)]
    assert count_parameters(net) == counts[0]
    assert tuple(count_parameters(backbone) + count_parameters(head) for head in heads) == counts


def test_depth_34_is_18_with_eight_more_blocks() -> None:
    """Stages of 3, 4, 6 and 3 blocks where 18 has two each; a block of width w holds 18 w^2 + 4 w numbers."""
    more = sum(count * (18 * w * w + 4 * w) for count, w in ((1, 64), (2, 128), (4, 256), (1, 512)))
    with torch.device("meta"):
        net = build_net(NetSettings(backbone=ResNetSettings(depth=34)), 17)
    assert count_parameters(net) == SIMPLE_BASELINE[18][0] + more


def test_light_is_light() -> None:
    net = build_net(LIGHT, 17).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 96, 72))
    assert 0.05e9 < counter.get_total_flops() / 2 < 0.15e9
    assert count_parameters(net) < 2e6


@pytest.mark.parametrize("size_hw", [(256, 192), (192, 144), (96, 72), (64, 100)])
def test_heatmaps_have_a_quarter_of_the_input(net: PoseNet, size_hw: tuple[int, int]) -> None:
    with torch.no_grad():
        heatmaps = net(torch.zeros(2, 3, *size_hw))
    assert heatmaps.shape == (2, 14, size_hw[0] // 4, size_hw[1] // 4)
    assert net.stride == 4


@pytest.mark.parametrize("size_hw", [(94, 72), (96, 73)])
def test_another_size_is_refused_by_name(net: PoseNet, size_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"{size_hw[0]} x {size_hw[1]} pixels .*multiples of 4"):
        net(torch.zeros(1, 3, *size_hw))


def test_every_parameter_is_trained(net: PoseNet) -> None:
    net.train().zero_grad()
    net(torch.randn(4, 3, 64, 64)).square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not idle
    net.zero_grad()


def test_output_is_float32_under_autocast(net: PoseNet) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(2, 3, 64, 64)).dtype == torch.float32


def test_channels_last_gives_the_same_heatmaps(net: PoseNet) -> None:
    images = torch.randn(2, 3, 96, 72)
    other = copy.deepcopy(net).eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = net.eval()(images)
        found = other(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_a_copy_is_equal_and_apart(net: PoseNet) -> None:
    """As for an EMA teacher; and the state dict is the whole of the network."""
    images = torch.randn(1, 3, 64, 48)
    net.eval()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        expected = net(images)
        assert torch.equal(twin(images), expected)
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert torch.equal(net(images), expected)
        twin.load_state_dict(net.state_dict())
        assert torch.equal(twin(images), expected)


@pytest.mark.parametrize("name", ["resnet-deconv", "light-pyramid", "hrnet-plain", "vit-deconv"])
def test_two_networks_of_the_same_settings_start_different(name: str) -> None:
    torch.manual_seed(0)
    first, second = build_net(NETS[name], 14), build_net(NETS[name], 14)
    for part in ("backbone", "head"):
        weights = [w for w in first.get_submodule(part).parameters() if w.dim() == 4]
        others = [w for w in second.get_submodule(part).parameters() if w.dim() == 4]
        assert weights
        assert not any(torch.equal(w, other) for w, other in zip(weights, others, strict=True))


@pytest.mark.parametrize("name", COVARIANT)
def test_heatmaps_move_with_the_image(name: str) -> None:
    """32 pixels in the image, the coarsest stride, are 8 cells: nothing else moves in the interior.

    Without running statistics a blank image gives blank features, so that its borders say nothing; batch
    norms are damped for HRNet, whose response would otherwise reach them.
    """
    torch.manual_seed(0)
    net = build_net(NETS[name], 5).eval()
    for module in net.backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and name.startswith("hrnet"):
            nn.init.constant_(module.weight, 0.3)
    images = torch.zeros(2, 3, 352, 352)
    images[0, :, 144:176, 144:176] = images[1, :, 176:208, 176:208] = torch.randn(3, 32, 32)
    with torch.no_grad():
        still, moved = net(images)
    found, expected = moved[:, 32:56, 32:56], still[:, 24:48, 24:48]
    assert (found - expected).abs().max() < 1e-3 * still.abs().max()
    assert (moved - still).abs().max() > 0.1 * still.abs().max()


@pytest.mark.parametrize("name", ["hrnet-plain", "vit-deconv", "convnext-pyramid"])
def test_an_odd_size_is_padded_at_the_right_and_below(name: str) -> None:
    """192 x 144 is no multiple of 32, 72 x 96 none of 16: cells stay over their pixels."""
    torch.manual_seed(0)
    net = build_net(NETS[name], 5).eval()
    images = torch.randn(1, 3, 72, 56)
    padded = torch.zeros(1, 3, 96, 64)
    padded[..., :72, :56] = images
    if name == "vit-deconv":
        padded = padded[..., :80, :]
    with torch.no_grad():
        torch.testing.assert_close(net(images), net(padded)[..., :18, :14])


SLOW_TO_COMPILE = [pytest.param(name, marks=pytest.mark.slow) for name in ("hrnet-plain", "vit-deconv")]


@pytest.mark.parametrize("name", ["resnet-deconv", "light-pyramid", *SLOW_TO_COMPILE])
def test_compiles_as_one_graph(name: str) -> None:
    torch.manual_seed(0)
    net, images = build_net(NETS[name], 14).eval(), torch.randn(2, 3, 96, 72)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), net(images))


def test_stage_3_of_a_resnet_gets_stride_8() -> None:
    """Where the published feature mixing takes place: 128 channels of 32 x 24 for ResNet-18 at 256 x 192."""
    net, shapes = build_net(NetSettings(), 17), []
    stage = net.get_submodule("backbone.layer3")
    stage.register_forward_pre_hook(lambda _module, inputs: shapes.append(tuple(inputs[0][-1].shape)))
    with torch.no_grad():
        net(torch.zeros(1, 3, 256, 192))
    assert shapes == [(1, 128, 32, 24)]


def test_deconvolutions_start_as_published() -> None:
    torch.manual_seed(0)
    head = build_net(NetSettings(), 17).head
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (len(convolutions), len(norms)) == (4, 3)
    for conv in convolutions:
        assert conv.weight.std().item() == pytest.approx(0.001, rel=0.05)
        assert abs(conv.weight.mean().item()) < 1e-4
    assert all(conv.bias is None for conv in convolutions[:3])
    assert convolutions[3].bias is not None
    assert convolutions[3].bias.count_nonzero() == 0
    for norm in norms:
        assert norm.momentum == 0.1
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_pyramid_cells_stay_over_their_pixels() -> None:
    """A level of odd size is doubled and cut, not stretched: cell i of it is over cells 2i and 2i + 1."""
    head = PyramidSettings(width=1, convolutions=1).build((1, 1), (4, 8), 1)
    for lateral in head.laterals:
        nn.init.ones_(lateral.weight)
        nn.init.zeros_(lateral.bias)
    head.smooth = nn.Identity()
    nn.init.ones_(head.final.weight)
    coarse = torch.arange(5.0)[None, None, None]
    found = head([torch.zeros(1, 1, 1, 9), coarse])
    assert found.flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_settings_refuse_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="'light' has no pretrained weights"):
        NetSettings(backbone=LightSettings(), pretrained=True)
    with pytest.raises(ValueError, match="at least 1"):
        LightSettings(blocks=(1, 0, 1))
    with pytest.raises(ValueError, match="at least 1"):
        PyramidSettings(convolutions=0)
    with pytest.raises(ValueError, match="at least 1"):
        DeconvSettings(width=0)
