"""Sheets: what is drawn lies where it belongs, whatever the size of the input."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semipose.pipelines.views import MEAN_RGB, STD_RGB
from semipose.sharding.annotations.checks import joint_sides
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton
from semipose.sharding.check.draw_pose import COLOURS
from semipose.training.methods.method import Inspection
from semipose.training.reporting.pictures import (
    CAPTION_HEIGHT,
    MARGIN,
    TILE_HEIGHT,
    _hidden,
    prediction_sheet,
    view_sheet,
)

SIZES_HW = [(64, 64), (96, 72), (256, 192), (384, 288)]
ONE_JOINT = Skeleton(names=("left_wrist",), flip_pairs=(), bones=(), sigmas=(0.05,))
MANY = Skeleton(
    names=tuple(f"joint {k}" for k in range(133)), flip_pairs=(), bones=((0, 132),), sigmas=(0.05,) * 133
)


def grey(count: int, size_hw: tuple[int, int], level: int = 128) -> torch.Tensor:
    """Normalised images of one grey."""
    channel = [(level / 255 - mean) / std for mean, std in zip(MEAN_RGB, STD_RGB, strict=True)]
    return torch.tensor(channel).view(1, 3, 1, 1).expand(count, 3, *size_hw)


def gaussian(points_xy: torch.Tensor, size_hw: tuple[int, int], peak: float = 1.0) -> torch.Tensor:
    """Heatmaps (N, K, H/4, W/4) of points (N, K, 2) in pixels, cell i at pixel 4i."""
    y, x = torch.meshgrid(torch.arange(size_hw[0] // 4), torch.arange(size_hw[1] // 4), indexing="ij")
    away = (x - points_xy[..., 0, None, None] / 4) ** 2 + (y - points_xy[..., 1, None, None] / 4) ** 2
    return peak * torch.exp(-away / 2)


def seen(
    points_xy: torch.Tensor, size_hw: tuple[int, int], *, peak: float = 1.0, mixed: bool = True
) -> Inspection:
    count = len(points_xy)
    image, heatmaps = grey(count, size_hw), gaussian(points_xy, size_hw, peak)
    return Inspection(
        weak=image,
        strong=image,
        augmented={"path 1": grey(count, size_hw, level=60)}
        | ({"mixed": grey(count, size_hw, level=200)} if mixed else {}),
        heatmaps=heatmaps,
        target=heatmaps,
        points_weak=points_xy,
        points_strong=points_xy,
    )


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].astype(int)


def tile(sheet: np.ndarray, row: int, column: int, size_hw: tuple[int, int]) -> np.ndarray:
    """The picture of one tile, without its caption."""
    factor = max(1, round(TILE_HEIGHT / size_hw[0]))
    height, width = size_hw[0] * factor, size_hw[1] * factor
    top = row * (height + CAPTION_HEIGHT + 2 * MARGIN) + MARGIN
    left = column * (width + 2 * MARGIN) + MARGIN
    return sheet[top : top + height, left : left + width]


def centre_xy(weights: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_points_and_heatmaps_are_drawn_on_their_pixel(tmp_path, size_hw):
    point = torch.tensor([[[size_hw[1] * 0.4 + 0.3, size_hw[0] * 0.6 + 0.2]]])
    view_sheet(tmp_path / "views.png", seen(point, size_hw), ONE_JOINT)
    sheet = read(tmp_path / "views.png")
    factor = max(1, round(TILE_HEIGHT / size_hw[0]))
    expected = (point[0, 0].numpy() + 0.5) * factor - 0.5
    strong = tile(sheet, 0, 1, size_hw)
    assert np.abs(centre_xy(np.abs(strong - 128).sum(axis=2)) - expected).max() < 0.3
    target = tile(sheet, 0, 2, size_hw)
    changed = np.abs(target - 128).sum(axis=2)
    assert np.abs(centre_xy(np.where(changed > 60, changed, 0)) - expected).max() < 0.15 * 4 * factor
    assert changed[0, 0] <= 3


def test_sheet_has_a_row_a_person_and_a_column_a_view(tmp_path):
    points = torch.full((5, 1, 2), 30.0)
    view_sheet(tmp_path / "five.png", seen(points, (64, 64)), ONE_JOINT, max_rows=3)
    view_sheet(tmp_path / "four.png", seen(points, (64, 64), mixed=False), ONE_JOINT)
    five, four = read(tmp_path / "five.png"), read(tmp_path / "four.png")
    side = 64 * 4 + 2 * MARGIN
    assert five.shape == (3 * (side + CAPTION_HEIGHT), 5 * side, 3)
    assert four.shape == (5 * (side + CAPTION_HEIGHT), 4 * side, 3)
    assert np.unique(tile(five, 0, 3, (64, 64))).tolist() == [60]
    assert np.unique(tile(five, 2, 4, (64, 64))).tolist() == [200]


def test_captions_name_what_the_student_is_shown(tmp_path):
    point = torch.full((1, 1, 2), 30.0)
    three, seven = seen(point, (64, 64)), seen(point, (64, 64))
    seven.augmented["path 7"] = seven.augmented.pop("path 1")
    seven.augmented["mixed"] = seven.augmented.pop("mixed")
    view_sheet(tmp_path / "a.png", three, ONE_JOINT)
    view_sheet(tmp_path / "b.png", seven, ONE_JOINT)
    different = np.argwhere(read(tmp_path / "a.png") != read(tmp_path / "b.png"))
    column = (different[:, 1] // (64 * 4 + 2 * MARGIN)).tolist()
    assert set(column) == {3}
    assert different[:, 0].min() >= 64 * 4


def test_doubtful_joint_is_a_ring(tmp_path):
    point = torch.full((1, 1, 2), 30.0)
    view_sheet(tmp_path / "sure.png", seen(point, (64, 64), peak=0.9), ONE_JOINT)
    view_sheet(tmp_path / "doubt.png", seen(point, (64, 64), peak=0.1), ONE_JOINT)
    middle = round((30 + 0.5) * 4 - 0.5)
    filled = tile(read(tmp_path / "sure.png"), 0, 1, (64, 64))[middle, middle]
    hollow = tile(read(tmp_path / "doubt.png"), 0, 1, (64, 64))[middle, middle]
    assert filled.tolist() == list(COLOURS[None])
    assert hollow.tolist() == [128, 128, 128]


def predictions(folder: Path, skeleton: Skeleton, count: int = 5, **more) -> np.ndarray:
    size_hw, shape = (64, 48), (count, skeleton.num_keypoints)
    rng = np.random.default_rng(0)
    values = {
        "images": grey(count, size_hw),
        "predicted": rng.uniform(5, 40, (*shape, 2)),
        "peaks": np.full(shape, 0.9),
        "truth": rng.uniform(5, 40, (*shape, 2)),
        "visible": np.ones(shape),
        **more,
    }
    prediction_sheet(folder / "found.png", skeleton=skeleton, **values)
    return read(folder / "found.png")


@pytest.mark.parametrize("skeleton", [ONE_JOINT, COCO_17, MANY], ids=lambda s: str(s.num_keypoints))
def test_predictions_stand_beside_the_truth(tmp_path, skeleton):
    sheet = predictions(tmp_path, skeleton)
    assert sheet.shape == (2 * (64 * 4 + CAPTION_HEIGHT + 2 * MARGIN), 8 * (48 * 4 + 2 * MARGIN), 3)
    assert not np.array_equal(tile(sheet, 0, 0, (64, 48)), tile(sheet, 0, 1, (64, 48)))
    assert [path.name for path in tmp_path.iterdir()] == ["found.png"]


@pytest.mark.parametrize(
    ("names", "pairs", "sides"),
    [
        (("left_a", "right_a", "b"), ((0, 1),), ("left", "right", None)),
        (("RWrist", "LWrist", "Neck"), ((0, 1),), ("right", "left", None)),
        (("eyeL", "eyeR", "tail"), ((0, 1),), ("left", "right", None)),
        (("hand.r", "b", "hand.l"), ((0, 2),), ("right", None, "left")),
        # Without a pair a name says nothing: these are points of the middle.
        (("left_over", "right_angle", "l_spine"), (), (None, None, None)),
    ],
)
def test_sides_are_those_of_the_flip_pairs_as_on_the_sheet_of_the_data(tmp_path, names, pairs, sides):
    skeleton = Skeleton(names=names, flip_pairs=pairs, bones=((0, 1),), sigmas=(0.1,) * 3)
    truth = np.array([[[10.0, 10], [30, 10], [20, 40]]])
    sheet = predictions(
        tmp_path, skeleton, 1, truth=truth, predicted=truth, visible=np.ones((1, 3)), peaks=np.ones((1, 3))
    )
    at = [tile(sheet, 0, 1, (64, 48))[round((y + 0.5) * 4), round((x + 0.5) * 4)] for x, y in truth[0]]
    assert [colour.tolist() for colour in at] == [list(COLOURS[side]) for side in sides]
    assert tuple(joint_sides(skeleton)) == sides


def test_unlabelled_joints_are_not_drawn_and_bones_are(tmp_path):
    three = Skeleton(
        names=("left_a", "right_a", "b"), flip_pairs=((0, 1),), bones=((0, 1),), sigmas=(0.1,) * 3
    )
    truth = np.array([[[10.0, 10], [30, 10], [20, 40]]])
    visible = np.array([[1, 2, 0]])
    sheet = predictions(
        tmp_path, three, 1, truth=truth, predicted=truth, visible=visible, peaks=np.ones((1, 3))
    )

    def at(column: int, x: float, y: float) -> list[int]:
        return tile(sheet, 0, column, (64, 48))[round((y + 0.5) * 4), round((x + 0.5) * 4)].tolist()

    assert (at(0, 20, 40), at(1, 20, 40)) == ([128] * 3, list(COLOURS[None]))
    assert at(0, 20, 10) != [128] * 3  # the bone between them


def test_points_far_outside_or_without_value_do_no_harm(tmp_path):
    wild = np.array([[[1e9, -1e9], *[[np.nan, np.nan]] * 16]])
    sheet = predictions(tmp_path, COCO_17, 1, predicted=wild)
    assert (tile(sheet, 0, 1, (64, 48)) == 128).all()


def test_captions_say_how_many_keypoints_are_hidden_and_outside():
    strong = np.full((64, 48, 3), 100, np.uint8)
    masked = strong.copy()
    masked[10:20, 10:20] = 0
    points = np.array([[15.0, 15.0], [19.4, 10.0], [19.6, 15.0], [40.0, 60.0], [-1.0, 5.0]])
    assert _hidden(strong, masked, points) == "2 of 5 keypoints hidden, 1 outside"
    assert _hidden(strong, strong, points[:4]) == "0 of 4 keypoints hidden"
    assert "colours" in _hidden(strong, 255 - strong, points)
