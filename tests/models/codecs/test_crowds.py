"""What every family makes of people whose limbs cross, and of crowds."""

import numpy as np
import pytest
import torch

from semipose.models.codecs.ae import AESettings
from semipose.models.codecs.cid import CIDSettings
from semipose.models.codecs.dekr import DEKRSettings
from semipose.sharding.annotations.skeleton import COCO_17
from tests.models.codecs.scenes import STRIDE, pad, people_of
from tests.training.photos import answer_of

FAMILIES = {"ae": AESettings(), "dekr": DEKRSettings(), "cid": CIDSettings()}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
K = COCO_17.num_keypoints


def person_along(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """(K, 3): keypoints in a row on the line between two points in view px."""
    return np.concatenate((np.linspace(start, end, K), np.ones((K, 1))), axis=1).astype(np.float32)


@EVERY_FAMILY
def test_two_people_whose_limbs_cross_stay_two(family: str) -> None:
    people = [person_along((40, 40), (232, 200)), person_along((232, 60), (40, 220))]
    codec = FAMILIES[family].build(COCO_17)
    hw = (64, 72)
    decoded = codec.decode(answer_of(pad([people], K), hw, codec))
    read = people_of(decoded, 0)
    assert len(read) == 2
    for truth in people:
        errors = [(points - torch.from_numpy(truth[:, :2])).abs().max().item() for points, _ in read]
        assert min(errors) < 0.51 * STRIDE


@EVERY_FAMILY
def test_thirty_people_of_one_photo_are_taught_and_come_back(family: str) -> None:
    """Five rows of six; a photo without anybody beside them has nobody."""
    people = []
    for row in range(5):
        for column in range(6):
            x, y = 64 * column + 8, 64 * row + 8
            people.append(person_along((x, y), (x + 40, y + 44)))
    codec = FAMILIES[family].build(COCO_17)
    hw = (80, 96)
    batch = pad([people, []], K)
    maps = answer_of(batch, hw, codec)
    decoded = codec.decode(maps)
    assert decoded.exists.sum(1).tolist() == [30, 0]
    losses = codec.loss(maps, codec.targets(batch, hw), torch.ones(2, 1, *hw))
    assert all(loss.isfinite() for loss in losses.values())
