"""Scenes of several people for the tests of the codecs."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from semipose.models.codecs.instances import Instances
from semipose.pipelines.people import People
from semipose.sharding.annotations.skeleton import COCO_17, CROWDPOSE_14, Skeleton

STRIDE = 4
SKELETONS = {
    1: Skeleton(names=("tip",), flip_pairs=(), bones=(), sigmas=(0.05,)),
    4: Skeleton(names=("a", "b", "c", "d"), flip_pairs=((1, 2),), bones=(), sigmas=(0.05,) * 4),
    14: CROWDPOSE_14,
    17: COCO_17,
    133: Skeleton(
        names=tuple(f"k{i}" for i in range(133)),
        flip_pairs=tuple((i, i + 1) for i in range(1, 133, 2)),
        bones=(),
        sigmas=(0.05,) * 133,
    ),
}


def pad(photos: Sequence[Sequence[np.ndarray]], num_keypoints: int, boxes: bool = True) -> People:
    """Photos of people, each (K, 3): x, y in view px and v; padded with NaN, as a file may hold."""
    most = max((len(people) for people in photos), default=0)
    points = torch.full((len(photos), most, num_keypoints, 2), math.nan)
    visible = torch.zeros(len(photos), most, num_keypoints)
    is_person = torch.zeros(len(photos), most, dtype=torch.bool)
    corners = torch.zeros(len(photos), most, 4, 2)
    for n, people in enumerate(photos):
        for m, person in enumerate(people):
            points[n, m] = torch.from_numpy(person[:, :2])
            visible[n, m] = torch.from_numpy(person[:, 2])
            is_person[n, m] = True
            marked = person[person[:, 2] > 0, :2]
            if boxes and len(marked):
                (x0, y0), (x1, y1) = marked.min(0), marked.max(0)
                corners[n, m] = torch.tensor([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return People(points, visible, is_person, corners)


def random_people(
    rng: np.random.Generator, count: int, num_keypoints: int, hw: tuple[int, int], hidden: float = 0.3
) -> list[np.ndarray]:
    """People of all sizes, some of them partly outside a map of size hw, with some keypoints not marked."""
    people = []
    for _ in range(count):
        centre = rng.uniform((-2, -2), (hw[1] + 2, hw[0] + 2))
        cells = centre + rng.uniform(1, max(hw)) / 2 * rng.uniform(-1, 1, (num_keypoints, 2))
        visible = rng.random(num_keypoints) >= hidden
        xy = np.where(visible[:, None], cells * STRIDE, np.nan)
        people.append(np.concatenate((xy, visible[:, None]), axis=1).astype(np.float32))
    return people


def random_batch(seed: int, counts: Sequence[int], num_keypoints: int, hw: tuple[int, int]) -> People:
    rng = np.random.default_rng(seed)
    return pad([random_people(rng, count, num_keypoints, hw) for count in counts], num_keypoints)


def people_of(instances: Instances, photo: int) -> list[tuple[Tensor, Tensor]]:
    """Points (K, 2) and confidence (K,) of the people of one photo."""
    rows = instances.exists[photo].nonzero()[:, 0]
    return [(instances.points_xy[photo, q], instances.confidence[photo, q]) for q in rows]


def one_photo(people: People, n: int) -> People:
    """Photo n alone, without the padding of the others."""
    count = int(people.is_person[n].sum())
    return People(
        people.points_xy[n : n + 1, :count],
        people.visible[n : n + 1, :count],
        people.is_person[n : n + 1, :count],
        people.corners_xy[n : n + 1, :count],
    )
