"""The heads of whole photos: shapes on any backbone, published sizes, gradients, precision."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semipose.configs.load import InputError
from semipose.models.backbones.hrnet import HRNetSettings
from semipose.models.backbones.light import LightSettings
from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.backbones.timm_features import TimmSettings
from semipose.models.codecs.cid import CIDMaps
from semipose.models.heads.ae import AEHeadSettings
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.heads.dekr import AdaptiveBlock, DEKRHeadSettings, GroupedBlock
from semipose.models.heads.neck import Join
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import InstanceNet

K = 5
BACKBONES = {
    "light": LightSettings(),
    "resnet": ResNetSettings(),
    "hrnet": HRNetSettings(width=18),
    "hrnet-4": HRNetSettings(width=18, branches=4),
    "vit": TimmSettings(model="vit_tiny_patch16_224"),
    "convnext": TimmSettings(model="convnext_atto"),
}
HEADS = {
    "ae": AEHeadSettings(),
    "higher": AEHeadSettings(higher=True, tag_size=3),
    "dekr": DEKRHeadSettings(),
    "dekr-deform": DEKRHeadSettings(adapt="deform"),
    "cid": CIDHeadSettings(),
}
SHAPES = {  # of the maps of 4 h x 4 w pixels, without N
    "ae": lambda h, w: [(K, h, w), (K, 1, h, w)],
    "higher": lambda h, w: [(K, h, w), (K, 3, h, w), (K, 2 * h, 2 * w)],
    "dekr": lambda h, w: [(K + 1, h, w), (2 * K, h, w)],
    "dekr-deform": lambda h, w: [(K + 1, h, w), (2 * K, h, w)],
    "cid": lambda h, w: [(K + 1, h, w), (K, h, w)],
}


def build(backbone: Any, head: Any, num_keypoints: int = K) -> InstanceNet:
    torch.manual_seed(0)
    features = backbone.build()
    return InstanceNet(features, head.build(features.channels, features.strides, num_keypoints))


def tensors_of(maps: Any) -> list[Tensor]:
    """All maps; of CID those of one person of each photo too."""
    if isinstance(maps, CIDMaps):
        photos = torch.arange(len(maps.heatmaps))
        return [maps.heatmaps, maps.read(photos, torch.full((len(photos), 2), 3)).heatmaps]
    return [tensor for tensor in maps if tensor is not None]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_have_a_quarter_of_the_input_on_any_backbone(backbone: str, head: str) -> None:
    net = build(BACKBONES[backbone], HEADS[head]).eval()
    for height, width in ((64, 96), (72, 100)):
        with torch.no_grad():
            maps = tensors_of(net(torch.randn(2, 3, height, width)))
        expected = SHAPES[head](height // 4, width // 4)
        assert [tuple(tensor.shape) for tensor in maps] == [(2, *shape) for shape in expected]


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_a_head_is_trained(head: str) -> None:
    net = build(LightSettings(), HEADS[head]).train()
    for module in net.head.modules():  # adaptive taps that all sit on the cell would move nothing
        if isinstance(module, AdaptiveBlock):
            nn.init.normal_(module.matrix.weight, std=0.1)
    sum(tensor.square().mean() for tensor in tensors_of(net(torch.randn(4, 3, 64, 64)))).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.count_nonzero()]
    assert not idle


@pytest.mark.parametrize("head", HEADS)
def test_maps_are_float32_under_autocast(head: str) -> None:
    net = build(LightSettings(), HEADS[head]).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert {tensor.dtype for tensor in tensors_of(net(torch.randn(1, 3, 64, 64)))} == {torch.float32}


def test_people_are_read_without_the_autocast_that_the_network_ran_under() -> None:
    net = build(LightSettings(), HEADS["cid"]).eval()
    photos, cells = torch.tensor([0, 0]), torch.tensor([[3, 4], [15, 0]])
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = net(torch.randn(1, 3, 64, 64))
            inside = maps.read(photos, cells)
        outside = maps.read(photos, cells)
    assert inside.heatmaps.dtype == outside.heatmaps.dtype == torch.float32
    torch.testing.assert_close(inside.heatmaps, outside.heatmaps, rtol=0.02, atol=0.002)


@pytest.mark.parametrize("head", HEADS)
def test_a_copy_is_equal_and_its_state_is_whole(head: str) -> None:
    net, images = build(LightSettings(), HEADS[head]).eval(), torch.randn(1, 3, 64, 64)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        expected = tensors_of(net(images))
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert all(map(torch.equal, tensors_of(net(images)), expected))
        twin.load_state_dict(net.state_dict())
        assert all(map(torch.equal, tensors_of(twin(images)), expected))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ae", "higher", "dekr", "cid"])
def test_a_network_compiles_as_one_graph(head: str) -> None:
    net, images = build(LightSettings(), HEADS[head]).eval(), torch.randn(2, 3, 64, 96)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for one, other in zip(tensors_of(compiled(images)), tensors_of(net(images)), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_starts_as_published(head: str) -> None:
    """Weights at N(0, 0.001), biases at 0; where the answer is a probability, it is 0.01."""
    for name, module in build(LightSettings(), HEADS[head], 17).head.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name.split(".")[0] != "neck":
            if name.endswith(("matrix", "shift")):
                assert module.weight.count_nonzero() == 0
            elif module.weight.numel() > 400:
                assert module.weight.std().item() == pytest.approx(0.001, rel=0.2), name
            if head == "cid" and name in ("heatmaps", "instances.final"):
                assert module.bias.sigmoid().tolist() == pytest.approx([0.01] * len(module.bias))
            else:
                assert module.bias is None or module.bias.count_nonzero() == 0


def test_another_input_size_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"94 x 72 pixels .*multiples of 4"):
        build(LightSettings(), DEKRHeadSettings())(torch.zeros(1, 3, 94, 72))


def test_a_pyramid_can_join_the_features() -> None:
    cfg = DEKRHeadSettings(neck=PyramidSettings(width=32), keypoint_channels=8)
    net = build(LightSettings(), cfg).train()
    maps = net(torch.randn(2, 3, 64, 96))
    assert maps.offsets.shape == (2, 2 * K, 16, 24)
    sum(tensor.mean() for tensor in maps).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_pyramid_without_stride_4_is_refused() -> None:
    with pytest.raises(ValueError, match="finest stride, which must be 4"):
        DEKRHeadSettings(neck=PyramidSettings()).build((64,), (16,), K)


def test_cid_reads_a_person_as_the_paper_says() -> None:
    """Against its equations for one person, with numpy and loops over cells for the 5 x 5 convolution."""
    torch.manual_seed(0)
    head = CIDHeadSettings(channels=4).build((6,), (4,), 2).eval()
    for p in head.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 6, 9, 11)
    photo, (column, row) = 1, (7, 2)
    with torch.no_grad():
        read = head([x], (9, 11)).read(torch.tensor([photo]), torch.tensor([[column, row]]))
    part = {
        name.removeprefix("instances."): p.detach().double().numpy() for name, p in head.named_parameters()
    }
    x = x[photo].double().numpy()
    centre = x[:, row, column]
    scene = np.einsum("oi,ihw->ohw", part["scene.weight"][..., 0, 0], x) + part["scene.bias"][:, None, None]
    by_channel, alike = (
        scene * (part[f"{name}_attention.weight"] @ centre + part[f"{name}_attention.bias"])[:, None, None]
        for name in ("channel", "spatial")
    )
    y, x_ = np.mgrid[:9, :11]
    stack = np.pad(np.stack((alike.sum(0), (column - x_) / 32, (row - y) / 32)), ((0, 0), (2, 2), (2, 2)))
    mask = np.array(
        [
            [(stack[:, r : r + 5, c : c + 5] * part["mask.weight"][0]).sum() for c in range(11)]
            for r in range(9)
        ]
    )
    by_cell = scene / (1 + np.exp(-(mask + part["mask.bias"])))
    both = np.concatenate((by_channel, by_cell))
    fused = np.einsum("oi,ihw->ohw", part["fuse.weight"][..., 0, 0], both) + part["fuse.bias"][:, None, None]
    logits = np.einsum("oi,ihw->ohw", part["final.weight"][..., 0, 0], np.maximum(fused, 0))
    logits += part["final.bias"][:, None, None]
    expected = np.clip(1 / (1 + np.exp(-logits)), 1e-4, 1 - 1e-4)
    np.testing.assert_allclose(read.heatmaps[0], expected, atol=1e-4)
    np.testing.assert_allclose(read.features[0], centre, rtol=1e-6)


# --- the parts


def test_features_are_joined_at_stride_4_bilinearly() -> None:
    features = [torch.randn(1, 2, 9, 12), torch.randn(1, 3, 5, 6), torch.randn(1, 4, 3, 3)]
    joined = Join((4, 8, 16))(features)
    assert joined.shape == (1, 9, 9, 12)
    assert torch.equal(joined[:, :2], features[0])
    coarse = features[1][0, 1]
    for row, column in ((0, 0), (4, 7), (8, 11), (3, 2)):  # cell i of 9 sits at (i + 0.5) / 2 - 0.5 of 5
        y, x = ((i + 0.5) / 2 - 0.5 for i in (row, column))
        y, x = min(max(y, 0), 4), min(max(x, 0), 5)
        y0, x0 = int(min(y, 3)), int(min(x, 4))
        top = coarse[y0, x0] * (x0 + 1 - x) + coarse[y0, x0 + 1] * (x - x0)
        below = coarse[y0 + 1, x0] * (x0 + 1 - x) + coarse[y0 + 1, x0 + 1] * (x - x0)
        expected = top * (y0 + 1 - y) + below * (y - y0)
        torch.testing.assert_close(joined[0, 3, row, column], expected)


def test_hrnet_gives_four_branches_where_they_are_asked_for() -> None:
    torch.manual_seed(0)
    net = HRNetSettings(width=18, branches=4).build().eval()
    assert (net.channels, net.strides) == ((18, 36, 72, 144), (4, 8, 16, 32))
    with torch.no_grad():
        features = net(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [(18, 16, 24), (36, 8, 12), (72, 4, 6), (144, 2, 3)]


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("branches", "head", "millions"),
    [
        (1, AEHeadSettings(), 28.5),
        (1, AEHeadSettings(higher=True), 28.6),
        (4, DEKRHeadSettings(adapt="deform"), 29.6),
    ],
)
def test_published_networks_have_the_published_parameters(branches: int, head: Any, millions: float) -> None:
    """On HRNet-W32 with 17 keypoints."""
    with torch.device("meta"):
        net = build(HRNetSettings(branches=branches), head, 17)
    assert round(count_parameters(net) / 1e6, 1) == millions


def test_the_offsets_of_a_keypoint_read_its_own_channels_alone() -> None:
    head = build(LightSettings(), HEADS["dekr"]).head.eval()
    x = torch.randn(1, K * 15, 8, 8, requires_grad=True)
    head.offsets[3:](x)[0, 2 * 3 : 2 * 3 + 2].sum().backward()
    assert x.grad.count_nonzero(dim=(0, 2, 3)).bool().tolist() == [k // 15 == 3 for k in range(K * 15)]


def test_adaptive_taps_on_the_regular_grid_are_a_plain_convolution() -> None:
    torch.manual_seed(0)
    adaptive = AdaptiveBlock(3 * 4, 3).eval()
    plain = GroupedBlock(3 * 4, 3).eval()
    plain.load_state_dict(adaptive.state_dict(), strict=False)
    for zeroed in (adaptive.matrix.weight, adaptive.shift.weight, adaptive.shift.bias):
        nn.init.zeros_(zeroed)
    with torch.no_grad():
        adaptive.matrix.bias.copy_(torch.tensor([1.0, 0, 0, 1]).repeat(3))
        x = torch.randn(2, 12, 9, 7)
        torch.testing.assert_close(adaptive(x), plain(x))


def test_adaptive_taps_start_on_the_cell_and_move_by_matrix_and_shift() -> None:
    """Against a loop over the nine taps: the kernel's (r, c) reads the map at A (r - 1, c - 1) + t."""
    torch.manual_seed(0)
    block = AdaptiveBlock(4, 2).eval()
    for zeroed in (block.matrix.weight, block.matrix.bias, block.shift.weight, block.shift.bias):
        nn.init.zeros_(zeroed)
    x = torch.randn(1, 4, 12, 12)
    with torch.no_grad():
        expected = F.conv2d(x, block.conv.weight.sum((2, 3), keepdim=True), groups=2)
        torch.testing.assert_close(block(x), torch.relu(x + block.bn(expected)))
        # group 0 turns the grid and moves it by (1, -2); group 1 doubles it
        block.matrix.bias.copy_(torch.tensor([0.0, -1, 1, 0, 2, 0, 0, 2]))
        block.shift.bias.copy_(torch.tensor([1.0, -2, 0, 0]))
        moved = torch.zeros(1, 4, 12, 12)
        for row in range(4, 8):
            for column in range(4, 8):
                for r in range(3):
                    for c in range(3):
                        turned = x[0, :2, row - (c - 1) + 1, column + (r - 1) - 2]
                        doubled = x[0, 2:, row + 2 * (r - 1), column + 2 * (c - 1)]
                        moved[0, :2, row, column] += block.conv.weight[:2, :, r, c] @ turned
                        moved[0, 2:, row, column] += block.conv.weight[2:, :, r, c] @ doubled
        inner = (..., slice(4, 8), slice(4, 8))
        torch.testing.assert_close(block(x)[inner], torch.relu(x + block.bn(moved))[inner])
