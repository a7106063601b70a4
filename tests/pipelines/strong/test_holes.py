"""Cutout and CutMix: holes anywhere in the view, height and width each in its place."""

import math

import pytest
import torch

from semipose.pipelines.strong import CutMix, Cutout
from semipose.pipelines.strong.holes import draw_holes

VIEW_HW = (256, 192)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(num_samples: int) -> torch.Tensor:
    return torch.eye(2, 3).expand(num_samples, 2, 3)


def test_centres_are_uniform_over_the_pixels_of_the_view() -> None:
    centres_xy, _ = draw_holes(5, plain(4_000), (24, 16), generator=seeded())
    for axis, size in ((0, 16), (1, 24)):
        values, times = centres_xy[..., axis].unique(return_counts=True)
        assert values.tolist() == list(range(size))
        assert (times / 20_000 - 1 / size).abs().max() < 5 * math.sqrt(1 / size / 20_000)
    assert abs(torch.corrcoef(centres_xy.reshape(-1, 2).T)[0, 1]) < 0.03


def test_half_sides_follow_the_masks_law_and_grow_with_the_view() -> None:
    _, half_sizes = draw_holes(5, plain(2_000), VIEW_HW, generator=seeded())
    values, times = half_sizes.unique(return_counts=True)
    assert values.tolist() == list(range(10, 20))
    assert (times / half_sizes.numel() - 0.1).abs().max() < 0.012
    scales = torch.tensor([0.8, 1.0, 1.25])[:, None, None]
    _, published = draw_holes(5, plain(3), VIEW_HW, generator=seeded())
    _, zoomed = draw_holes(5, plain(3) * scales, VIEW_HW, generator=seeded())
    torch.testing.assert_close(zoomed, published * scales)
    _, larger = draw_holes(5, plain(3), (384, 288), generator=seeded())
    assert torch.equal(larger, published * 1.5)


def test_cutout_is_the_plain_loop_over_its_holes(coordinate_scene) -> None:
    scene = coordinate_scene(3, size_hw=(64, 48))
    images, terms = Cutout(count=4).apply(scene.strong.clone(), scene, seeded(2))
    centres_xy, half_sizes = draw_holes(4, scene.strong_from_weak, (64, 48), generator=seeded(2))
    expected = scene.strong.clone()
    for n in range(3):
        for (x, y), (a, b) in zip(centres_xy[n].tolist(), half_sizes[n].tolist(), strict=True):
            left, top, right, bottom = (math.ceil(max(0.0, each)) for each in (x - a, y - b, x + a, y + b))
            expected[n, :, top:bottom, left:right] = 0
    assert not torch.equal(images, scene.strong)
    assert torch.equal(images, expected)
    assert terms == {}


def test_cutmix_shows_one_partner_at_the_same_place(coordinate_scene) -> None:
    scene = coordinate_scene(6, size_hw=(64, 48))
    images, terms = CutMix(count=3).apply(torch.full_like(scene.strong, -1.0), scene, seeded(1))
    is_pasted = (images[:, 2:] >= 0).expand_as(images)
    assert torch.equal(images[:, :2][is_pasted[:, :2]], scene.strong[:, :2][is_pasted[:, :2]])
    partners = [images[n, 2].unique().tolist() for n in range(6)]
    assert all(len(shown) == 2 for shown in partners)  # -1 where nothing is pasted, and one partner
    assert sorted(shown[1] for shown in partners) == list(range(6))
    assert terms == {}


def test_cutmix_partners_are_uniform(coordinate_scene) -> None:
    scene = coordinate_scene(4, size_hw=(64, 48))
    times = torch.zeros(4, 4)
    for seed in range(600):
        images, _ = CutMix(count=1).apply(torch.full_like(scene.strong, -1.0), scene, seeded(seed))
        times[torch.arange(4), images[:, 2].amax(dim=(1, 2)).long()] += 1
    assert (times / 600 - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 600)


@pytest.mark.parametrize("augmentation", [Cutout(count=1), CutMix(count=1)])
def test_holes_reach_the_lowest_rows_of_a_view_that_is_not_square(augmentation, coordinate_scene) -> None:
    """MultiAugs exchanges height and width: centres in rows 0..191 of 256 and columns 0..255 of 192."""
    scene = coordinate_scene(150, size_hw=VIEW_HW)
    images, _ = augmentation.apply(torch.full_like(scene.strong, -1.0), scene, seeded())
    is_painted = images[:, 2] >= 0
    assert is_painted.any(dim=(1, 2)).all()  # a centre beyond column 191 would often paint nothing
    areas_px = is_painted.sum(dim=(1, 2)).float()
    # 29 x 29 less what the border cuts: of a mean half-side 14.5 a quarter is lost near each border
    expected_px = 29.0 * (1 - 14.8 / 2 / 256) * 29.0 * (1 - 14.8 / 2 / 192)
    assert areas_px.mean() == pytest.approx(expected_px, rel=0.1)
    quarter = is_painted[:, 192:].sum() / is_painted.sum()
    assert quarter == pytest.approx(0.25, abs=0.09)
