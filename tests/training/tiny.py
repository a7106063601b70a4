"""A tiny network, method and batches for tests of steps."""

from typing import Any

import torch
from pydantic import TypeAdapter

from semipose.models.backbones.light import LightSettings
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, PoseNet, build_net
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.training.methods import MethodSettings
from semipose.training.methods.method import Ingredients, Progress
from semipose.training.methods.random_state import RandomState

SKELETON = Skeleton(
    names=("nose", "left_hip", "right_hip", "left_knee", "right_knee"),
    flip_pairs=((1, 2), (3, 4)),
    bones=((1, 3), (2, 4)),
    sigmas=(0.05,) * 5,
)
K, SIZE_HW, SIGMA = 5, (64, 48), 1.5
CODEC = HeatmapCodec(HeatmapSettings(sigma=SIGMA), SKELETON)
NET = NetSettings(
    backbone=LightSettings(stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 1)),
    head=PyramidSettings(width=8, convolutions=1),
)
MASKS = [[{"name": "adaptive_masks", "max_masks": 8}]]
JOCO = [{"name": "cut_occlude"}, {"name": "cutout"}]
JCCM = [{"name": "joint_cutout"}, {"name": "cutmix"}]
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised"},
    "affine": {"name": "single", "paths": [[]], "mixup": None},
    "adaptive": {"name": "single", "paths": MASKS, "mixup": {"layers": ["input"]}, "min_peak": 0.1},
    "features": {"name": "single", "mixup": {"layers": ["backbone.layer3"]}, "teacher": {"name": "ema"}},
    "random masks": {"name": "single", "paths": [[{"name": "random_masks"}]], "mixup": None},
    "multiaugs": {"name": "single", "paths": [JOCO, JCCM], "mixup": None},
    "colour": {"name": "single", "paths": [[{"name": "rand_augment"}, {"name": "colour"}]], "mixup": None},
    "dual": {"name": "dual", "paths": [JOCO, JCCM], "mixup": {"views": "masked"}},
    "triple": {"name": "triple", "epoch_steps": 2, "max_inconsistency": 0.6, "weigh_by_peak": True},
    "double match": {
        "name": "double_match",
        "paths": MASKS,
        "teacher": {"name": "previous_epoch", "epoch_steps": 2},
    },
    "pseudo label": {
        "name": "pseudo_label",
        "teacher_share": 0.002,
        "ensemble": {"flip": True, "scales": [1.0, 0.8]},
    },
}
"""Every method, and every part of one, at least once: what a recipe holds under `method`."""

LATE = Progress(step=99, total_steps=100)


def make_network(net: NetSettings | None = None, device: str = "cpu") -> PoseNet:
    """A network for five keypoints whose heatmaps have peaks, as a trained one's."""
    network = build_net(net or NET, K).to(device)
    torch.nn.init.normal_(network.head.final.weight, std=0.3)
    return network


def make_settings(name: str = "single", **changes: Any) -> Any:
    """Settings of a method from plain values."""
    return TypeAdapter(MethodSettings).validate_python({"name": name, **changes}, strict=False)


def make_method(
    name: str = "single", *, seed: int = 0, rank: int = 0, device: str = "cpu", **changes: Any
) -> Any:
    """A method in train mode; the same weights at every call."""
    torch.manual_seed(0)
    random_state = RandomState(seed, rank, torch.device(device))
    ingredients = Ingredients(lambda net: make_network(net, device), CODEC, random_state)
    return make_settings(name, **changes).build(ingredients).train()


def make_batches(seed: int = 0, device: str = "cpu") -> tuple[LabelledBatch, UnlabelledBatch]:
    """Four labelled and four unlabelled people, the strong view turned."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 4, 3, *SIZE_HW, generator=generator).to(device)
    points = (torch.rand(4, K, 2, generator=generator) * torch.tensor([48.0, 64.0])).to(device)
    turn = torch.tensor([[0.9, -0.3, 9.0], [0.3, 0.9, -4.0]], device=device).repeat(4, 1, 1)
    labelled = LabelledBatch(images[0], points, torch.ones(4, K, device=device))
    return labelled, UnlabelledBatch(images[1], images[2], turn)


def assert_average_follows(method: Any, network: torch.nn.Module, average: torch.nn.Module) -> None:
    """After each of the first updates `average` is the plain mean of what `network` was after them."""
    (name, weight), *_ = network.named_parameters()
    seen = []
    for step in range(3):
        with torch.no_grad():
            weight.add_(step + 1)
        seen.append(weight.detach().clone())
        method.after_update(Progress(step, 100))
        expected = torch.stack(seen).mean(dim=0)
        assert torch.allclose(average.get_parameter(name), expected, atol=1e-5), step
