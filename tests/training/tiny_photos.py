"""Small whole photos with people of four coloured dots, and methods for them."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semipose.models.backbones.light import LightSettings
from semipose.models.codecs.ae import AESettings
from semipose.models.codecs.cid import CIDSettings
from semipose.models.codecs.dekr import DEKRSettings
from semipose.models.heads.ae import AEHeadSettings
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.heads.dekr import DEKRHeadSettings
from semipose.models.heads.neck import Neck
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, build_net
from semipose.pipelines.batch import LabelledPhotos, UnlabelledBatch
from semipose.pipelines.people import IgnoredArea, People
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.training.methods.method import Ingredients
from semipose.training.methods.random_state import RandomState
from tests.models.codecs.scenes import pad
from tests.training.tiny import make_settings

K, SIDE, STRIDE = 4, 64, 4
SKELETON = Skeleton(
    names=("left_shoulder", "right_shoulder", "left_hip", "right_hip"),
    flip_pairs=((0, 1), (2, 3)),
    bones=(),
    sigmas=(0.1,) * K,
)
COLOURS = ((2.0, -2, 0), (2.0, -2, 0), (-2, 0, 2), (-2, 0, 2))
"""Of each keypoint; left and right look alike, so a mirror image shows people as the image does."""
NECK = PyramidSettings(width=24, convolutions=1)
BACKBONE = LightSettings(stem_channels=8, channels=(16, 24, 32), blocks=(1, 1, 1))
AE = AESettings(sigma=1, background_weight=0.1, pull_weight=0.01, push_weight=0.01)
FAMILIES: dict[str, tuple[Any, Any]] = {
    "dekr": (
        DEKRHeadSettings(neck=NECK, keypoint_channels=6),
        DEKRSettings(sigma=1, centre_sigma=2, offset_radius=2, least_diagonal=1.5, offset_weight=0.1),
    ),
    "ae": (AEHeadSettings(neck=NECK), AE),
    "higher": (AEHeadSettings(neck=NECK, higher=True, fine_channels=8), AE),
    "cid": (CIDHeadSettings(neck=NECK, start_std=0.1), CIDSettings(least_area=100)),
}
"""Each family of heads, with the settings of its codec."""


def make_method(
    family: str,
    name: str = "detector_free",
    *,
    seed: int = 0,
    has_peaks: bool = False,
    device: str = "cpu",
    neck: Neck = NECK,
    **changes: Any,
) -> Any:
    """A method in train mode; the same weights at every call.

    has_peaks: start from such large weights of the head that people are decoded, as from a trained network.
    """
    torch.manual_seed(0)
    head, codec = FAMILIES[family]
    head = replace(head, neck=neck)
    random_state = RandomState(seed, 0, torch.device(device))
    net = NetSettings(backbone=BACKBONE, head=head)

    def make_network(other: NetSettings | None) -> Any:
        network = build_net(other or net, K)
        for name, layer in network.head.named_modules():
            if has_peaks and isinstance(layer, torch.nn.Conv2d) and "neck" not in name:
                torch.nn.init.normal_(layer.weight, std=0.2)
        return network.to(device)

    ingredients = Ingredients(make_network, codec.build(SKELETON, random_state.generator), random_state)
    return make_settings(name, **changes).build(ingredients).train()


def draw_scenes(seed: int, count: int) -> tuple[Tensor, People]:
    """Images (count, 3, SIDE, SIDE) of one or two people, side by side, four coloured dots each."""
    rng = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        people = []
        for middle in (18, 46)[: rng.integers(1, 3)]:
            arm = rng.uniform(8, 11)
            corners = np.array(((-1, -1), (1, -1), (-1, 1), (1, 1))) * arm + rng.uniform(-2, 2, (4, 2))
            points = (np.array((middle, rng.uniform(20, 44))) + corners).clip(2, SIDE - 3)
            people.append(np.concatenate((points, np.ones((4, 1))), axis=1).astype(np.float32))
        photos.append(people)
    people = pad(photos, K)
    return paint(people), people


def paint(people: People) -> Tensor:
    """The images of people: a coloured dot at each keypoint."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    points = torch.where(people.marked[..., None], people.points_xy, 1e4)[..., None, None]
    dots = torch.exp(-((x - points[:, :, :, 0]) ** 2 + (y - points[:, :, :, 1]) ** 2) / 8)
    return torch.einsum("nmkhw,kc->nchw", dots, torch.tensor(COLOURS))


def nothing_ignored(count: int) -> IgnoredArea:
    identity = torch.eye(2, 3).expand(count, 2, 3)
    return IgnoredArea(torch.zeros(count, 1, 8, 8), identity, torch.full((count, 2), float(SIDE)))


def make_batches(seed: int = 0, count: int = 4) -> tuple[LabelledPhotos, UnlabelledBatch]:
    """Labelled and unlabelled photos of different people; the strong view is shifted by a cell."""
    image, people = draw_scenes(2 * seed, count)
    weak, hidden = draw_scenes(2 * seed + 1, count)
    strong = paint(replace(hidden, points_xy=hidden.points_xy + 4))
    strong_from_weak = torch.tensor([[1.0, 0, 4], [0, 1, 4]]).expand(count, 2, 3)
    return LabelledPhotos(image, people, nothing_ignored(count)), UnlabelledBatch(
        weak, strong, strong_from_weak
    )
