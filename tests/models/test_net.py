"""The network: published sizes, shapes, initialisation, and that it can be trained, cast and compiled."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configs.load import InputError
from models.backbones.light import LightSettings
from models.backbones.resnet import ResNetSettings
from models.heads.deconv import DeconvSettings
from models.heads.pyramid import PyramidSettings
from models.net import NetSettings, PoseNet, build_net

SIMPLE_BASELINE = {  # methods: measured parameters for 17, 16 and 24 outputs
    18: (15_376_721, 15_376_464, 15_378_520),
    50: (33_999_697, 33_999_440, 34_001_496),
    101: (52_991_825, 52_991_568, 52_993_624),
    152: (68_635_473, 68_635_216, 68_637_272),
}
LIGHT = NetSettings(backbone=LightSettings(), head=PyramidSettings())
NETS = {
    "resnet-deconv": NetSettings(),
    "resnet-pyramid": NetSettings(head=PyramidSettings()),
    "light-pyramid": LIGHT,
    "light-deconv": NetSettings(backbone=LightSettings(), head=DeconvSettings(width=32)),
}


@pytest.fixture(params=NETS, scope="module")
def net(request: pytest.FixtureRequest) -> PoseNet:
    torch.manual_seed(0)
    return build_net(NETS[request.param], 14)


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("depth", SIMPLE_BASELINE)
def test_simple_baseline_has_the_published_parameters(depth: int) -> None:
    with torch.device("meta"):
        nets = [build_net(NetSettings(backbone=ResNetSettings(depth=depth)), k) for k in (17, 16, 24)]
    assert tuple(count_parameters(net) for net in nets) == SIMPLE_BASELINE[depth]


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


def test_channels_last_gives_the_same_heatmaps() -> None:
    torch.manual_seed(0)
    net, images = build_net(LIGHT, 17).eval(), torch.randn(2, 3, 96, 72)
    with torch.no_grad():
        expected = net(images)
        found = net.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet-deconv", "light-pyramid"])
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
    stage.register_forward_pre_hook(lambda _module, inputs: shapes.append(tuple(inputs[0].shape)))
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
