"""What a network says in ignored cells and beside the photo counts in no loss of labels, for every family."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from semipose.models.codecs.cid import CIDMaps
from semipose.models.codecs.instances import InstanceCodec
from semipose.pipelines.batch import LabelledPhotos
from semipose.pipelines.people import IgnoredArea
from tests.training.tiny_photos import FAMILIES, SIDE, SKELETON, STRIDE, draw_scenes, make_method

CELLS = (SIDE // STRIDE, SIDE // STRIDE)


def ignored_area(degrees: float, *, flipped: bool) -> IgnoredArea:
    """Of two photos: the middle of the first and the left third of the other, in turned views that are
    larger than the photos."""
    grid = torch.zeros(2, 1, 128, 128)
    grid[0, :, 40:90, 50:100] = 1
    grid[1, :, :, :40] = 1
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, 1.2)  # stored from view: 77 of 64 px
    if flipped:
        matrix = matrix @ np.array([[-1, 0, SIDE - STRIDE], [0, 1, 0], [0, 0, 1.0]])
    stored_from_view = torch.from_numpy(matrix).float().expand(2, 2, 3)
    return IgnoredArea(grid, stored_from_view, torch.full((2, 2), float(SIDE)))


def answered_otherwise(maps: Any, at: Tensor) -> Any:
    """The maps with other values in the cells where at (N, 1, h, w) bool is true."""
    noise = torch.Generator().manual_seed(1)

    def other(values: Tensor, at: Tensor) -> Tensor:
        scale = values.shape[-1] // at.shape[-1]
        at = at.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        at = at[:, None] if values.ndim > at.ndim else at
        said = torch.where(at, 0.9 * torch.rand(values.shape, generator=noise) + 0.05, values)
        return values.clone().copy_(said)  # in the same order in memory: sums are taken in it

    if not isinstance(maps, CIDMaps):
        return type(maps)(*(None if field is None else other(field, at) for field in maps))

    def read(photos: Tensor, cells: Tensor) -> Any:
        people = maps.read(photos, cells)
        asked_there = at[photos, 0, cells[:, 1], cells[:, 0]]
        features = torch.where(asked_there[:, None], torch.rand_like(people.features), people.features)
        return people._replace(heatmaps=other(people.heatmaps, at[photos]), features=features)

    return CIDMaps(other(maps.heatmaps, at), read)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 30.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_equal_to_the_bit_whatever_is_said_there(
    family: str, degrees: float, flipped: bool
) -> None:
    codec: InstanceCodec = FAMILIES[family][1].build(SKELETON)
    network = make_method(family, has_peaks=True).network.eval()
    image, people = draw_scenes(3, 2)
    labelled = LabelledPhotos(image, people, ignored_area(degrees, flipped=flipped))
    counted = labelled.ignored.counted(CELLS, STRIDE) > 0
    assert 0.1 < (~counted).float().mean() < 0.6
    with torch.no_grad():
        maps = network(image)
        losses = codec.supervised_losses(maps, labelled)
        again = codec.supervised_losses(answered_otherwise(maps, ~counted), labelled)
        assert all(torch.equal(losses[name], again[name]) for name in losses)
        other = codec.supervised_losses(answered_otherwise(maps, counted), labelled)
        assert all(not torch.equal(losses[name], other[name]) for name in ("heatmaps", list(losses)[1]))
