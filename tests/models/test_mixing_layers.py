"""Every layer of Table 5 (arXiv 2404.14835) has a name where features are really mixed, in every family."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from semipose.configs.errors import InputError
from semipose.models.backbones.hrnet import HRNetSettings
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.heads.plain import PlainSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, PoseNet, build_net
from semipose.training.methods.mixup import FeatureMixer

ALPHA = torch.tensor(0.3)
PARTNERS = torch.tensor([2, 0, 1])
NETS = {
    "resnet": NetSettings(backbone=ResNetSettings(model="resnet10t")),
    "hrnet": NetSettings(backbone=HRNetSettings(width=18), head=PlainSettings()),
    "light": NetSettings(backbone=LightSettings(), head=PyramidSettings()),
    "convnext": NetSettings(backbone=TimmSettings(model="convnext_atto")),
    "lite0": NetSettings(backbone=TimmSettings(model="tf_efficientnet_lite0"), head=PyramidSettings()),
    "swin": NetSettings(backbone=TimmSettings(model="swin_tiny_patch4_window7_224"), head=PyramidSettings()),
    "resnet pyramid": NetSettings(backbone=ResNetSettings(model="resnet10t"), head=PyramidSettings()),
    "vit": NetSettings(backbone=TimmSettings(model="vit_tiny_patch16_224")),
}
LAYERS = {  # name: tensors that enter there, as models/README.md says
    "resnet": {"backbone.layer1": 1, "backbone.layer3": 2, "head": 4, "head.deconvs": 1, "head.final": 1},
    "hrnet": {"backbone.layer1": 1, "backbone.layer3": 3, "head": 1, "head.final": 1},
    "light": {"backbone.layer1": 1, "backbone.layer3": 2, "head": 3, "head.final": 1},
    "convnext": {
        "backbone.layer1": 1,
        "backbone.layer3": 3,
        "backbone.network.stages.2": 1,
        "head.deconvs": 1,
    },
    "lite0": {
        "backbone.layer1": 1,
        "backbone.layer2": 2,
        "backbone.layer3": 3,
        "backbone.layer4": 4,
        "head": 4,
    },
    "swin": {"backbone.layer3": 3},
    "resnet pyramid": {"backbone.layer1": 1, "backbone.layer2": 1, "backbone.layer4": 3, "head": 4},
    "vit": {"backbone.layer1": 1, "backbone.layer3": 1, "backbone.network.blocks.6": 1, "head.deconvs": 1},
}
CASES = [(family, layer) for family, layers in LAYERS.items() for layer in layers]
IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@cache
def net_of(family: str) -> PoseNet:
    torch.manual_seed(0)
    return build_net(NETS[family], 5).eval()


def mixed(net: PoseNet, layer: str, alpha: Tensor, partners: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The heatmaps of a mixed pass, and the tensors that then entered the layer."""
    mixer = FeatureMixer(net, layer)
    entered: list[Tensor] = []

    def note(_module: object, inputs: tuple[Tensor | list[Tensor], ...]) -> None:
        for value in inputs:
            entered.extend([value] if isinstance(value, Tensor) else value)

    handle = net.get_submodule(layer).register_forward_pre_hook(note)
    with torch.no_grad(), mixer.mixing(alpha, partners):
        heatmaps = net(IMAGES)
    handle.remove()
    return heatmaps, entered


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_what_enters_is_mixed(family: str, layer: str) -> None:
    net, itself = net_of(family), torch.arange(3)
    plain, before = mixed(net, layer, ALPHA, itself)
    heatmaps, after = mixed(net, layer, ALPHA, PARTNERS)
    assert len(before) == len(after) == LAYERS[family][layer]
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(y, 0.3 * x + 0.7 * x[PARTNERS])
    with torch.no_grad():
        expected = net(IMAGES)
    scale = expected.abs().max().item()
    torch.testing.assert_close(plain, expected, rtol=1e-3, atol=1e-5 * scale)
    assert (heatmaps - expected).abs().max() > 0.01 * scale
    whole, _ = mixed(net, layer, torch.tensor(1.0), PARTNERS)
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("family", NETS)
def test_at_the_linear_layer_it_mixes_the_heatmaps(family: str) -> None:
    net = copy.deepcopy(net_of(family))
    torch.nn.init.normal_(net.get_submodule("head.final").bias)  # type: ignore[arg-type]
    with torch.no_grad():
        plain = net(IMAGES)
    heatmaps, _ = mixed(net, "head.final", ALPHA, PARTNERS)
    torch.testing.assert_close(heatmaps, 0.3 * plain + 0.7 * plain[PARTNERS], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_nothing_goes_past_a_layer_unmixed(family: str, layer: str) -> None:
    """With alpha 0 the heatmaps are the partner's."""
    net = net_of(family)
    with torch.no_grad():
        partners = net(IMAGES)[PARTNERS]
    heatmaps, _ = mixed(net, layer, torch.tensor(0.0), PARTNERS)
    torch.testing.assert_close(heatmaps, partners, rtol=1e-3, atol=1e-4 * partners.abs().max().item())


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_a_copy_is_not_mixed(family: str, layer: str) -> None:
    """As a teacher's average must not be, while the student's features are mixed."""
    net = copy.deepcopy(net_of(family))
    mixer = FeatureMixer(net, layer)
    teacher = copy.deepcopy(net)
    with torch.no_grad():
        expected = net(IMAGES)
        with mixer.mixing(ALPHA, PARTNERS):
            heatmaps = teacher(IMAGES)
            net(IMAGES)
    torch.testing.assert_close(heatmaps, expected, rtol=0, atol=0)


def test_layer3_is_where_the_stage_of_stride_16_begins() -> None:
    """Of EfficientNet-Lite0 that is block 3, and what enters it has stride 8."""
    net = net_of("lite0")
    at_block: list[Tensor] = []
    block = net.get_submodule("backbone.network.blocks.3")
    handle = block.register_forward_pre_hook(lambda _module, inputs: at_block.append(inputs[0]))
    _, entered = mixed(net, "backbone.layer3", ALPHA, PARTNERS)
    handle.remove()
    assert at_block[0].shape[-2:] == (64 // 8, 64 // 8)
    assert [tensor.shape[-1] for tensor in entered] == [64 // 8, 64 // 4, 64 // 8]


def test_a_network_whose_stages_timm_does_not_name_mixes_at_its_own_modules() -> None:
    """The first stages of timm's HRNet are not modules under the names that timm gives for their features."""
    net = build_net(NetSettings(backbone=TimmSettings(model="hrnet_w18_small")), 5)
    with pytest.raises(InputError, match=r"no layer 'backbone\.layer3'.*backbone\.network\.layer1"):
        FeatureMixer(net, "backbone.layer3")
    FeatureMixer(net, "backbone.network.layer1")
