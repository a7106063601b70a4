"""How right a teacher is in whole photos, by the annotations of unlabelled ones, against counts by hand."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from semipose.pipelines.geometry import apply, invert
from semipose.pipelines.people import PhotoFrame
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.samples.sample import Poses
from semipose.training.methods.method import TeacherLabels
from semipose.training.probe import Probe
from tests.training.photos import batches_of, truth_of

FOUR = Skeleton(names=tuple("abcd"), flip_pairs=(), bones=(), sigmas=(0.05,) * 4)
SQUARE = np.array([(0, 0), (40, 0), (0, 40), (40, 40)], np.float32)
STORED_PX = 0.5
"""The shards hold photos at half their size."""


def square(x: float, y: float) -> np.ndarray:
    return SQUARE + np.array((x, y), np.float32)


def person(x: float, y: float, v: Sequence[int] = (2, 2, 2, 2)) -> np.ndarray:
    return np.concatenate((square(x, y), np.array(v, np.float32)[:, None]), axis=1)


PHOTOS = [
    {"size_wh": (200, 160), "people": [person(10, 10), person(100, 20, (2, 1, 0, 2))]},
    {"size_wh": (160, 240), "people": [person(50, 50)]},
]


def found(
    x: float,
    y: float,
    score: float,
    *,
    kept: bool = True,
    trusted: Sequence[int] = (1, 1, 1, 1),
    missing: Sequence[int] = (),
) -> dict[str, Any]:
    """A square whose keypoints that are not trusted are wrong, and some of whose keypoints are not found."""
    points = square(x, y) + np.where(np.array(trusted)[:, None] > 0, 0, 500)
    was_found = np.array([k not in missing for k in range(4)])
    row = {"points": points, "score": score, "kept": kept, "trusted": np.array(trusted, bool)}
    return row | {"was_found": was_found}


class Teacher:
    """Finds the given people of each photo, in photo px, whatever it is shown."""

    def __init__(self, photos: Sequence[Sequence[dict[str, Any]]]) -> None:
        self.photos = iter(photos)

    def find_people(self, views: torch.Tensor, frame: PhotoFrame) -> TeacherLabels:
        photos = [next(self.photos) for _ in views]
        most = 1 + max(map(len, photos))
        shape = (len(photos), most, 4)
        points, trusted = torch.zeros(*shape, 2), torch.zeros(shape, dtype=torch.bool)
        was_found = torch.zeros_like(trusted)
        score, exists, kept = (torch.zeros(shape[:2]) for _ in range(3))
        for i, people in enumerate(photos):
            for q, row in enumerate(people):
                points[i, q] = torch.from_numpy(row["points"])
                trusted[i, q] = torch.from_numpy(row["trusted"])
                was_found[i, q] = torch.from_numpy(row["was_found"])
                score[i, q], exists[i, q], kept[i, q] = row["score"], 1, row["kept"]
        view_from_photo = invert(frame.photo_from_view)
        points_view = apply(view_from_photo, points.flatten(1, 2)).view_as(points)
        return TeacherLabels(points_view, was_found, trusted, score, exists.bool(), kept.bool())


def measured(
    people: Sequence[Sequence[dict[str, Any]]],
    *,
    batch_size: int = 2,
    ignored_xywh: Sequence[Sequence[float]] = (),
) -> dict[str, float]:
    """What the probe says of a teacher that finds `people`; the first photo has boxes that are ignored."""
    batches = list(batches_of(truth_of(PHOTOS, FOUR), batch_size=batch_size, short_px=96))
    matrix = [[1 / STORED_PX, 0, 0.5 / STORED_PX - 0.5], [0, 1 / STORED_PX, 0.5 / STORED_PX - 0.5]]
    for record in (record for batch in batches for record in batch.records):
        record["image_from_stored"] = matrix
        record["ignored"] = [{"bbox": box} for box in ignored_xywh] if record["id"] == 1 else []
    poses = []
    for photo in PHOTOS:
        keypoints = np.array(photo["people"])
        keypoints[..., :2] = (keypoints[..., :2] + 0.5) * STORED_PX - 0.5
        poses.append(Poses(np.zeros((len(keypoints), 4)), keypoints, np.zeros((0, 4))))
    split: Any = SimpleNamespace(skeleton=FOUR, poses=lambda: poses)
    views: Any = batches
    teacher: Any = Teacher(people)
    return Probe(split, views).measure(teacher)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_teacher_that_finds_everybody_is_right_throughout(batch_size: int) -> None:
    people = [[found(100, 20, 0.5), found(10, 10, 0.9)], [found(50, 50, 0.8)]]
    values = measured(people, batch_size=batch_size)
    names = {f"{who}_{what}" for who in ("kept", "decoded") for what in ("precision", "recall", "oks")}
    names |= {"taught_oks"}
    assert set(values) == names
    assert values == pytest.approx(dict.fromkeys(names, 1.0), abs=1e-5)


def test_everybody_annotated_counts_once_and_for_the_best_score() -> None:
    """One is found twice: the higher score takes the person though the lower one fits better."""
    values = measured([[found(10, 10, 0.4), found(12, 10, 0.9)], []])
    area = 0.53 * 40 * 40
    oks = np.exp(-(2**2) / (2 * area * (2 * 0.05) ** 2))
    assert 0.5 < oks < 1
    expected = {"precision": 1 / 2, "recall": 1 / 3, "oks": oks}
    assert values == pytest.approx(
        {f"{who}_{name}": value for who in ("kept", "decoded") for name, value in expected.items()}
        | {"taught_oks": oks},
        abs=1e-5,
    )


def test_people_are_judged_by_all_keypoints_and_labels_by_those_that_would_be_taught() -> None:
    people = [
        found(10, 10, 0.9, trusted=(1, 1, 1, 0)),
        found(100, 20, 0.8, kept=False),
        found(60, 100, 0.7),
    ]
    values = measured([people, []])
    assert values["kept_precision"] == pytest.approx(1 / 2)  # nobody is at (60, 100)
    assert values["kept_recall"] == pytest.approx(1 / 3)
    assert values["kept_oks"] == pytest.approx(3 / 4, abs=1e-5)
    assert values["taught_oks"] == pytest.approx(1, abs=1e-5)
    assert values["decoded_precision"] == pytest.approx(2 / 3)
    assert values["decoded_recall"] == pytest.approx(2 / 3)
    assert values["decoded_oks"] == pytest.approx((3 / 4 + 1) / 2, abs=1e-5)


def test_a_keypoint_that_was_not_found_counts_as_wrong() -> None:
    """Three of four are missing in the first person, wherever they are said to be; one in the second."""
    people = [found(10, 10, 0.9, missing=(0, 1, 2)), found(50, 50, 0.8, missing=(3,))]
    values = measured([people[:1], people[1:]])
    assert values["decoded_precision"] == pytest.approx(1 / 2)
    assert values["decoded_oks"] == pytest.approx(3 / 4, abs=1e-5)


def test_labels_without_an_annotation_say_nothing() -> None:
    """Keypoint c of the second person is not annotated, and it alone would be taught."""
    values = measured([[found(100, 20, 0.9)], []])
    assert values["taught_oks"] == pytest.approx(1, abs=1e-5)
    person = found(100, 20, 0.9)
    person["trusted"] = np.array((0, 0, 1, 0), bool)
    values = measured([[person], []])
    assert values["kept_oks"] == pytest.approx(1, abs=1e-5)
    assert "taught_oks" not in values


def test_people_in_a_crowd_are_neither_right_nor_wrong() -> None:
    people = [[found(10, 10, 0.9), found(110, 100, 0.8)], [found(110, 100, 0.7)]]
    values = measured(people, ignored_xywh=[(100, 90, 60, 60)])
    assert values["kept_precision"] == pytest.approx(1 / 2)  # the other photo has no crowd there
    assert values["kept_recall"] == pytest.approx(1 / 3)
    inside = measured(people, ignored_xywh=[(0, 0, 200, 160)])
    assert inside["decoded_precision"] == pytest.approx(1 / 2)  # who is annotated counts, even in a crowd


def test_without_anybody_found_there_is_no_precision() -> None:
    assert measured([[], []]) == {"kept_recall": 0.0, "decoded_recall": 0.0}
