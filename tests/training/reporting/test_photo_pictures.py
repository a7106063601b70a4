"""Sheets of whole photos: people where they are, each in an own colour, in truth and prediction alike."""

from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semipose.models.codecs.dekr import DEKRCodec, DEKRSettings
from semipose.pipelines.people import People
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton
from semipose.sharding.check.draw_pose import PEOPLE_COLOURS, colours_of_person
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.methods.method import PhotoInspection
from semipose.training.predict import PhotoBesideTruth, photos_beside_truth
from semipose.training.reporting.pictures import (
    CAPTION_HEIGHT,
    IGNORED,
    MARGIN,
    draw_predictions,
    draw_views,
    photo_sheet,
)
from semipose.training.scoring.oks import oks_to_truth
from tests.training.photos import PhotoOracle, batches_of, cards_of
from tests.training.reporting.test_pictures import grey, read
from tests.training.test_predict_photos import some_photos

TWO = Skeleton(names=("a", "b"), flip_pairs=(), bones=(), sigmas=(0.1, 0.1))
SIDE = 280  # as high as a tile, so that drawn px are view px


def photo(truth: Any, points: Any, scores: Any, **fields: Any) -> PhotoBesideTruth:
    """A grey photo with people of two joints; each person is given by the first joint, the other is below."""

    def people(first: Any) -> np.ndarray:
        first = np.array(first, np.float32).reshape(-1, 1, 2)
        return np.concatenate((first, first + np.array([0, 60], np.float32)), axis=1)

    annotated = people(truth)
    marked = np.full((*annotated.shape[:2], 1), 2, np.float32)
    return PhotoBesideTruth(
        image=grey(1, (SIDE, SIDE))[0],
        name="photo.jpg",
        truth=np.concatenate((annotated, marked), axis=-1),
        areas=np.full(len(annotated), 900.0, np.float32),
        ignored=np.zeros((0, 2, 2), np.float32),
        points=people(points),
        peaks=np.full((len(points), 2), 0.9, np.float32),
        scores=np.array(scores, np.float32),
        **fields,
    )


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = row * (SIDE + CAPTION_HEIGHT + 2 * MARGIN), column * (SIDE + 2 * MARGIN)
    return sheet[top + MARGIN : top + MARGIN + SIDE, left + MARGIN : left + MARGIN + SIDE]


def colour_at(picture: np.ndarray, x: float, y: float) -> tuple[int, ...]:
    return tuple(picture[round(y), round(x)].tolist())


def test_a_person_has_one_colour_in_the_truth_and_where_it_was_found(tmp_path: Path) -> None:
    """Whatever their order. Who is not annotated has the next colour, and so has a person found again."""
    truth = [(60, 60), (200, 150)]
    found = [(202, 151), (61, 62), (130, 40), (62, 60)]
    photo_sheet(tmp_path / "a.png", [photo(truth, found[:3], [0.9, 0.8, 0.7])], TWO)
    left, right = (tile(read(tmp_path / "a.png"), 0, column) for column in (0, 1))
    colours = [colours_of_person(number)[0] for number in range(4)]
    assert [colour_at(left, *point) for point in truth] == colours[:2]
    assert [colour_at(right, *point) for point in found[:3]] == [colours[1], colours[0], colours[2]]
    again = [photo(truth, [found[0], found[1], found[3]], [0.9, 0.8, 0.7])]
    photo_sheet(tmp_path / "b.png", again, TWO)
    right = tile(read(tmp_path / "b.png"), 0, 1)
    assert colours[2] in {tuple(pixel) for pixel in right[:, 55:75].reshape(-1, 3).tolist()}


def test_people_are_drawn_on_their_pixels(tmp_path: Path) -> None:
    photo_sheet(tmp_path / "a.png", [photo([(60.3, 100.2)], [], [])], TWO)
    below = tile(read(tmp_path / "a.png"), 0, 0)[130:200]  # the second joint, away from the caption
    weights = np.abs(below.astype(float) - 128).sum(-1)
    y, x = np.mgrid[130:200, :SIDE]
    centre = np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()
    assert np.abs(centre - (60.3, 160.2)).max() < 0.3


def test_people_of_low_scores_are_counted_and_not_drawn(tmp_path: Path) -> None:
    truth, found = [(60, 60)], [(61, 61), (200, 60), (200, 150)]
    photo_sheet(tmp_path / "a.png", [photo(truth, found, [0.9, 0.05, 0.01])], TWO)
    right = tile(read(tmp_path / "a.png"), 0, 1)
    assert (right[:, 150:] == 128).all()
    assert not (right[:, :100] == 128).all()


def test_photos_in_which_nobody_is_or_is_found_are_drawn(tmp_path: Path) -> None:
    photos = [photo([], [], []), photo([], [(60, 60)], [0.9]), photo([(60, 60)], [], [])]
    photo_sheet(tmp_path / "a.png", photos, TWO)
    sheet = read(tmp_path / "a.png")
    assert sheet.shape == (2 * (SIDE + CAPTION_HEIGHT + 2 * MARGIN), 4 * (SIDE + 2 * MARGIN), 3)
    is_plain = [(tile(sheet, i // 2, 2 * (i % 2) + j) == 128).all() for i in range(3) for j in range(2)]
    assert is_plain == [True, True, True, False, False, True]


def test_captions_of_people_at_one_place_stand_below_each_other(tmp_path: Path) -> None:
    """Five people with one joint at the same place: all colours are seen."""
    some = [photo([(130, 100 + i / 10) for i in range(5)], [], [])]
    photo_sheet(tmp_path / "a.png", some, TWO)
    seen = {tuple(pixel) for pixel in tile(read(tmp_path / "a.png"), 0, 0).reshape(-1, 3).tolist()}
    assert {colours_of_person(number)[0] for number in range(5)} <= seen


VIENOT = {
    "deuteranopia": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    "protanopia": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
}
"""Viénot, Brettel and Mollon 1999: linear RGB as two kinds of colour-blind readers see it."""


@pytest.mark.parametrize("blindness", VIENOT)
def test_colour_blind_readers_can_tell_people_apart(blindness: str) -> None:
    """A difference of 2.3 in CIELAB is just noticeable; here it is many times that for every two people."""
    srgb = np.array(PEOPLE_COLOURS) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VIENOT[blindness]).T, 0, 1)
    srgb = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(lab, 2))
    assert nearest > 10


def test_sixteen_people_look_different() -> None:
    looks = [colours_of_person(number) for number in range(16)]
    assert len(set(looks)) == 16
    assert all(colour != rim for colour, rim in looks)


def test_prediction_and_truth_are_in_the_view_of_the_photo_alone() -> None:
    truth, codec = some_photos(), DEKRCodec(DEKRSettings(), COCO_17)
    cards = cards_of(truth)
    cards[0]["ignored"] = [{"bbox": [64, 48, 320, 240]}]
    oracle = PhotoOracle(truth, codec)
    batch = next(oracle.watch(batches_of(truth, batch_size=4, short_px=240)))
    batch.records[0]["ignored"] = cards[0]["ignored"]
    photos = photos_beside_truth(oracle, batch, GroundTruth(truth, COCO_17), codec=codec)
    assert [len(photo.points) for photo in photos] == [2, 1, 0, 3]
    assert [photo.image.shape for photo in photos] == [
        (3, 240, 320),
        (3, 320, 240),
        (3, 240, 480),
        (3, 240, 720),
    ]
    for photo in (photos[0], photos[1], photos[3]):
        assert sorted(photo.scores, reverse=True) == photo.scores.tolist()
        similarity = oks_to_truth(photo.points, photo.truth, photo.areas, COCO_17.sigmas)
        assert sorted(similarity.argmax(1).tolist()) == list(range(len(photo.truth)))
        assert (similarity.max(1) > 0.99).all()
    row = truth["annotations"][0]
    first_xy = np.array(row["keypoints"][:2])
    assert photos[0].areas[0] == pytest.approx(row["area"] / 4)
    # (x + 0.5) / 2 - 0.5, for the photo of 640 x 480 px is shown at half its size
    np.testing.assert_allclose(photos[0].truth[0, 0, :2], (first_xy - 0.5) / 2, atol=1e-3)
    np.testing.assert_allclose(photos[0].ignored[0], [[31.75, 23.75], [191.75, 143.75]], atol=1e-3)


def test_the_sheet_of_a_batch_is_that_of_its_kind(tmp_path: Path) -> None:
    truth, codec = some_photos(), DEKRCodec(DEKRSettings(), COCO_17)
    oracle = PhotoOracle(truth, codec)
    batch = next(oracle.watch(batches_of(truth, batch_size=4, short_px=280)))
    draw_predictions(tmp_path / "a.png", oracle, batch, GroundTruth(truth, COCO_17), codec)
    height, width, _ = read(tmp_path / "a.png").shape
    assert (height, width) == (2 * (373 + CAPTION_HEIGHT + 2 * MARGIN), 4 * (840 + 2 * MARGIN))


def test_oks_to_the_truth_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    points, truth = rng.uniform(0, 60, (3, 17, 2)), rng.uniform(0, 60, (4, 17, 3))
    truth[..., 2] = rng.integers(0, 3, (4, 17))
    areas = rng.uniform(400, 900, 4)
    similarity = oks_to_truth(points, truth, areas, COCO_17.sigmas)
    for p in range(3):
        for g in range(4):
            terms = [
                np.exp(-((points[p, k] - truth[g, k, :2]) ** 2).sum() / (2 * (2 * sigma) ** 2 * areas[g]))
                for k, sigma in enumerate(COCO_17.sigmas)
                if truth[g, k, 2] > 0
            ]
            assert similarity[p, g] == pytest.approx(np.mean(terms))
    assert oks_to_truth(points[:0], truth, areas, COCO_17.sigmas).shape == (0, 4)
    assert oks_to_truth(points, truth[:0], areas[:0], COCO_17.sigmas).shape == (3, 0)


# --- views of unlabelled photos


def inspection(side: int = SIDE, stride: int = 4) -> PhotoInspection:
    """Three grey photos: one person kept and one ignored, one who was dropped, and nobody.

    Strong views are 40 px further to the right. Nothing is taught in the left eighth, and one of the two
    heatmaps is not taught in the lower half of the first photo.
    """
    first = torch.tensor([[[60.0, 60], [180, 100]], [[150, 150], [0, 0]], [[0, 0], [0, 0]]])
    points = torch.stack((first, first + torch.tensor([0.0, 60])), dim=2)
    yes = torch.ones(3, 2, 2)
    exists = torch.tensor([[True, True], [True, False], [False, False]])
    corners = torch.zeros(3, 2, 4, 2)
    moved, nobody = points + torch.tensor([40.0, 0]), exists & False
    kept, ignored = nobody.clone(), nobody.clone()
    kept[0, 0], ignored[0, 1] = True, True
    weights = torch.ones(3, 2, side // stride, side // stride)
    weights[..., : side // stride // 8] = 0
    weights[0, 1, side // stride // 2 :] = 0
    target = torch.zeros_like(weights)
    return PhotoInspection(
        weak=grey(3, (side, side)),
        strong=grey(3, (side, side)),
        found=People(points, yes, exists, corners),
        scores=torch.tensor([[0.8, 0.4], [0.1, 0.0], [0.0, 0.0]]),
        kept=People(moved, yes, kept, corners),
        ignored=People(moved, yes, ignored, corners),
        target=target,
        weights=weights,
        answer=target,
    )


def test_who_teaches_is_coloured_and_who_may_be_there_is_grey_in_both_views(tmp_path: Path) -> None:
    draw_views(tmp_path / "a.png", inspection(), TWO)
    weak, strong = (tile(read(tmp_path / "a.png"), 0, column) for column in (0, 1))
    orange = colours_of_person(0)[0]
    assert colour_at(weak, 60, 120) == colour_at(strong, 100, 120) == orange
    assert colour_at(weak, 180, 160) == colour_at(strong, 220, 160) == IGNORED[0]
    dropped, nobody = (tile(read(tmp_path / "a.png"), row, 0) for row in (1, 2))
    assert (dropped == 128).all()
    assert (nobody == 128).all()


def test_the_strong_view_is_dark_where_nothing_is_taught_and_grey_where_not_all_is(tmp_path: Path) -> None:
    draw_views(tmp_path / "a.png", inspection(), TWO)
    strong = tile(read(tmp_path / "a.png"), 0, 1)
    assert colour_at(strong, 20, 20) == colour_at(strong, 20, 270) == (38, 38, 38)
    assert colour_at(strong, 270, 20) == (128, 128, 128)
    assert colour_at(strong, 270, 270) == (136, 136, 136)
    # Cell 35 is at pixel 140, and the mask changes half way between it and cell 34.
    assert [colour_at(strong, 270, y)[0] for y in (136, 139)] == [128, 136]
