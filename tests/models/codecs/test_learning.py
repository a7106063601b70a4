"""A small network learns each family's targets: head, loss and decoding fit together."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semipose.models.backbones.light import LightSettings
from semipose.models.codecs.ae import AECodec, AESettings
from semipose.models.codecs.cid import CIDCodec, CIDSettings
from semipose.models.codecs.dekr import DEKRCodec, DEKRSettings
from semipose.models.heads.ae import AEHeadSettings
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.heads.dekr import DEKRHeadSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import InstanceNet
from semipose.pipelines.people import People
from tests.models.codecs.scenes import SKELETONS, STRIDE, pad

K, SIDE = 4, 64
NECK = PyramidSettings(width=24, convolutions=1)
FAMILIES = {
    "dekr": (
        DEKRHeadSettings(neck=NECK, keypoint_channels=6),
        DEKRCodec(
            DEKRSettings(sigma=1, centre_sigma=2, offset_radius=2, least_diagonal=1.5, offset_weight=0.1),
            SKELETONS[K],
        ),
    ),
    "ae": (
        AEHeadSettings(neck=NECK),
        AECodec(AESettings(sigma=1, background_weight=0.1, pull_weight=0.01, push_weight=0.01), SKELETONS[K]),
    ),
    "cid": (CIDHeadSettings(neck=NECK, start_std=0.1), CIDCodec(CIDSettings(least_area=100), SKELETONS[K])),
}


def scenes(seed: int, count: int) -> tuple[Tensor, People]:
    """Images of two people side by side, four coloured dots each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    colours = torch.tensor([[2.0, -2, 0], [0, 2, -2], [-2, 0, 2], [2, 2, 2]])
    images, photos = torch.zeros(count, 3, SIDE, SIDE), []
    for n in range(count):
        people = []
        for middle in (18, 46):
            arm = rng.uniform(8, 11)
            corners = np.array(((-1, -1), (1, -1), (-1, 1), (1, 1))) * arm + rng.uniform(-2, 2, (4, 2))
            points = (np.array((middle, rng.uniform(20, 44))) + corners).clip(2, SIDE - 3)
            people.append(np.concatenate((points, np.ones((4, 1))), axis=1).astype(np.float32))
            for (px, py), colour in zip(points, colours, strict=True):
                dot = torch.from_numpy(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)).float()
                images[n] += colour[:, None, None] * dot
        photos.append(people)
    return images, pad(photos, K)


def share_found(codec: Any, maps: Any, people: People) -> float:
    """Share of people for which one decoded person has every keypoint within a cell and a half."""
    decoded = codec.decode(maps)
    distance = (decoded.points_xy[:, None] - people.points_xy[:, :, None]).norm(dim=-1).amax(-1)
    distance = torch.where(decoded.exists[:, None], distance, math.inf)
    return (distance.amin(-1) < 1.5 * STRIDE).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_network_learns_to_find_people(family: str) -> None:
    torch.manual_seed(0)
    head, codec = FAMILIES[family]
    backbone = LightSettings(stem_channels=8, channels=(16, 24, 32), blocks=(1, 1, 1)).build()
    net = InstanceNet(backbone, head.build(backbone.channels, backbone.strides, K))
    images, people = scenes(0, 4)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    targets = codec.targets(people, (SIDE // STRIDE, SIDE // STRIDE))
    for _ in range(100):
        losses = codec.loss(net(images), targets, torch.ones(4, 1, SIDE // STRIDE, SIDE // STRIDE))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    assert share_found(codec, net(images), people) == 1
