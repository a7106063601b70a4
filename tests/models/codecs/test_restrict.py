"""Cells beside a photo: nobody is read there, and the others stay as they are."""

import pytest
import torch

from semipose.models.codecs.ae import AECodec, AEMaps, AESettings
from semipose.models.codecs.cid import CIDCodec, CIDMaps, CIDSettings, InstanceMaps
from semipose.models.codecs.dekr import DEKRCodec, DEKRMaps, DEKRSettings
from semipose.sharding.annotations.skeleton import COCO_17

HW = (8, 12)


def inside_two_photos() -> torch.Tensor:
    inside = torch.ones(2, 1, *HW, dtype=torch.bool)
    inside[0, :, :, 7:] = False
    inside[1, :, 5:] = False
    return inside


def check(before: torch.Tensor, after: torch.Tensor, inside: torch.Tensor) -> None:
    inside = inside.expand_as(before)
    assert torch.equal(after[inside], before[inside])
    assert (after[~inside] == 0).all()


@pytest.mark.parametrize("fine", [False, True])
def test_ae_at_both_resolutions(fine: bool) -> None:
    inside = inside_two_photos()
    at_half = torch.rand(2, 17, 2 * HW[0], 2 * HW[1]) if fine else None
    maps = AEMaps(torch.rand(2, 17, *HW), torch.rand(2, 17, 1, *HW), at_half)
    after = AECodec(AESettings(), COCO_17).restrict(maps, inside)
    check(maps.heatmaps, after.heatmaps, inside)
    assert torch.equal(after.tags, maps.tags)
    assert (after.fine is None) == (maps.fine is None)
    if maps.fine is not None and after.fine is not None:
        check(maps.fine, after.fine, inside.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_dekr() -> None:
    inside = inside_two_photos()
    maps = DEKRMaps(torch.rand(2, 18, *HW), torch.rand(2, 34, *HW))
    maps.heatmaps[0, :, 0, 11] = torch.nan
    after = DEKRCodec(DEKRSettings(), COCO_17).restrict(maps, inside)
    check(maps.heatmaps, after.heatmaps, inside)
    assert torch.equal(after.offsets, maps.offsets)


def test_cid_with_the_maps_of_people() -> None:
    inside = inside_two_photos()
    own = torch.rand(3, 17, *HW)
    maps = CIDMaps(torch.rand(2, 18, *HW), lambda photos, _: InstanceMaps(own, photos[:, None].float()))
    after = CIDCodec(CIDSettings(), COCO_17).restrict(maps, inside)
    check(maps.heatmaps, after.heatmaps, inside)
    photos = torch.tensor([1, 0, 1])
    people = after.read(photos, torch.zeros(3, 2, dtype=torch.int64))
    check(own, people.heatmaps, inside[photos])
    assert people.features[:, 0].tolist() == [1, 0, 1]
