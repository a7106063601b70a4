"""Which photos `semipose label next` chooses, and what it reads them from."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.label.choose import choose, read_predictions, write_chosen
from semipose.label.labels import LabelledPerson, LabelledPhoto, Labels
from semipose.label.settings import NextSettings
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.training.reporting.people import ScoredPeople, write_people

SKELETON = Skeleton(names=("head", "hip", "foot"), flip_pairs=(), bones=(), sigmas=(0.05,) * 3)
UPRIGHT = np.array([[0.0, 0.0], [0.0, 10.0], [0.0, 20.0]])
LYING = UPRIGHT[:, ::-1]


def person(peak: float, pose: np.ndarray = UPRIGHT, *, at: float = 50.0, size: float = 1.0) -> LabelledPerson:
    keypoints = np.column_stack([size * pose + at, np.full(3, 2.0)])
    return LabelledPerson(keypoints, np.array([at, at, 30.0, 30.0]), peaks=np.full(3, peak), score=peak)


def photos(*people: LabelledPerson, name: str = "photo_{}_a.jpg") -> Labels:
    listed = [LabelledPhoto(name.format(number), (200, 200), [each]) for number, each in enumerate(people)]
    return Labels(SKELETON, (1, "person"), listed)


def chosen(labels: Labels, console: Console | None = None, **settings: object) -> list[str]:
    cfg = NextSettings(**settings)  # type: ignore[arg-type]
    return [each.photo.file_name for each in choose(labels, cfg, console or Console(quiet=True))]


def test_the_least_sure_photos_come_first_and_the_least_sure_person_of_a_photo_counts():
    labels = photos(person(0.9), person(0.5), person(0.7), person(0.8))
    labels.photos[0].people.append(person(0.1))

    assert chosen(labels, n=3, strategy="uncertain") == ["photo_0_a.jpg", "photo_1_a.jpg", "photo_2_a.jpg"]


def test_spread_takes_different_poses_wherever_and_however_large_they_are():
    """Of the ten least sure, eight stand and two lie; the least sure of each pose is chosen."""
    standing = [person(0.20 + 0.01 * i, at=10.0 * i, size=1 + i) for i in range(8)]
    lying = [person(0.30 + 0.01 * i, LYING, at=5.0 * i, size=3 + i) for i in range(2)]
    sure = [person(0.9, LYING) for _ in range(5)]

    assert chosen(photos(*standing, *lying, *sure), n=2) == ["photo_0_a.jpg", "photo_8_a.jpg"]


def test_random_choices_follow_the_seed_alone():
    labels = photos(*(person(0.1 + 0.01 * i) for i in range(30)))

    first = chosen(labels, n=10, strategy="random", seed=1)

    assert first == chosen(labels, n=10, strategy="random", seed=1)
    assert first != chosen(labels, n=10, strategy="random", seed=2)
    assert first != chosen(labels, n=10, strategy="uncertain")
    assert len(set(first)) == 10


@pytest.mark.parametrize("strategy", ["uncertain", "spread", "random"])
def test_at_most_so_many_frames_of_one_clip_are_chosen(strategy: str):
    frames = [LabelledPhoto(f"clip{i % 2}_{i:04d}.jpg", None, [person(0.1 + 0.01 * i)]) for i in range(20)]

    names = chosen(Labels(SKELETON, (1, "person"), frames), n=10, strategy=strategy, per_sequence=2)

    assert len(names) == 4
    assert sum(name.startswith("clip0") for name in names) == 2


def test_photos_that_a_camera_numbered_count_as_one_sequence_and_this_is_said(tmp_path: Path):
    labels = photos(*(person(0.1 + 0.01 * i) for i in range(6)), name="im{:05d}.jpg")
    console = Console(record=True, file=(tmp_path / "said").open("w"), width=200)

    names = chosen(labels, console, n=5, strategy="uncertain", per_sequence=2)

    assert names == ["im00000.jpg", "im00001.jpg"]
    said = " ".join(console.export_text().split())
    assert (
        "only 2 photos can be chosen out of 6: per_sequence=2 takes at most 2 of photos whose names" in said
    )
    assert "such as im00000.jpg and 5 more. If they are single photos" in said
    assert "leave per_sequence out" in said


def test_photos_that_have_labels_and_photos_of_nobody_are_left_out(tmp_path: Path):
    labels = photos(*(person(0.1 + 0.1 * i) for i in range(4)))
    labels.photos[3].people.clear()
    known = Labels(SKELETON, (1, "person"), [labels.photos[0]])
    (tmp_path / "my.json").write_text(json.dumps(known.to_coco()))
    console = Console(record=True, quiet=False, file=(tmp_path / "said").open("w"), width=200)

    names = chosen(labels, console, n=10, strategy="uncertain", labelled=tmp_path / "my.json")

    assert names == ["photo_1_a.jpg", "photo_2_a.jpg"]
    said = console.export_text()
    assert "in 1 photos nobody was found" in said
    assert "only 2 photos can be chosen" in said


def test_photos_whose_names_have_other_folders_than_the_labelled_ones_are_said(tmp_path: Path):
    labels = photos(person(0.1), person(0.2))
    known = Labels(SKELETON, (1, "person"), [replace(labels.photos[0], file_name="clip/photo_0_a.jpg")])
    (tmp_path / "my.json").write_text(json.dumps(known.to_coco()))
    console = Console(record=True, file=(tmp_path / "said").open("w"), width=300)

    assert len(chosen(labels, console, labelled=tmp_path / "my.json")) == 2

    said = console.export_text()
    assert "note: 1 photos have the names of labelled ones in other folders" in said
    assert "such as photo_0_a.jpg and clip/photo_0_a.jpg, and count as not labelled" in said


def test_people_who_came_back_without_a_labelled_keypoint_are_not_labelled(tmp_path: Path):
    """Shards drop them, so their photo can be chosen again."""
    labels = photos(person(0.2), person(0.3))
    known = Labels(SKELETON, (1, "person"), photos(person(0.2), person(0.3)).photos)
    known.photos[0].people[0].keypoints[:, 2] = 0
    (tmp_path / "my.json").write_text(json.dumps(known.to_coco()))

    assert chosen(labels, n=10, labelled=tmp_path / "my.json") == ["photo_0_a.jpg"]


def test_nothing_to_choose_from_is_an_error_with_the_counts():
    labels = photos(person(0.1))
    labels.photos[0].people.clear()

    with pytest.raises(InputError, match="of 1 photos, 1 show nobody and 0 are labelled"):
        chosen(labels, n=1)


def test_the_scored_people_of_a_run_can_be_chosen_from(tmp_path: Path):
    points = np.stack([UPRIGHT, LYING, UPRIGHT]).astype(np.float32)
    points[2] = np.nan  # was not found
    people = ScoredPeople(
        skeleton=SKELETON,
        step=1,
        network="network",
        ids=np.array([0, 7, 9]),
        file_names=np.array(["a.jpg", "b.jpg", "c.jpg"]),
        truth=np.zeros((3, 3, 3), np.float32),
        areas=np.full(3, 100.0),
        boxes_xywh=np.array([[0, 0, 10, 20], [0, 0, 20, 10], [0, 0, 5, 5]], np.float32),
        points_xy=points,
        peaks=np.array([[0.5] * 3, [0.2] * 3, [np.nan] * 3], np.float32),
        scores=np.array([0.5, 0.2, np.nan]),
        false_scores=np.zeros(0),
    )
    write_people(tmp_path, people)

    labels = read_predictions(tmp_path)

    assert chosen(labels, n=5, strategy="uncertain") == ["b.jpg", "a.jpg"]
    first = labels.photos[1].people[0]
    assert first.id == 7
    np.testing.assert_array_equal(first.keypoints[:, :2], LYING)
    np.testing.assert_array_equal(first.box_xywh, [0, 0, 20, 10])


def test_predictions_without_peaks_and_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"neither keypoints\.json nor people\.npz"):
        read_predictions(tmp_path)
    without = photos(replace(person(0.5), peaks=None, score=None))
    (tmp_path / "keypoints.json").write_text(json.dumps(without.to_coco()))
    with pytest.raises(InputError, match="have no `peaks`"):
        read_predictions(tmp_path)


def test_the_list_says_why_each_photo_was_chosen(tmp_path: Path):
    labels = photos(person(0.5), person(0.3))
    labels.photos[1].people[0].peaks[2] = 0.1  # type: ignore[index]
    cfg = NextSettings(n=1, strategy="uncertain", output=tmp_path / "next")

    write_chosen(choose(labels, cfg, Console(quiet=True)), labels, None, cfg)

    with (tmp_path / "next" / "next.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["file"], row["least_sure_keypoint"], row["reason"]) == (
        *("photo_1_a.jpg", "foot"),
        "low mean peak",
    )
    assert float(row["mean_peak"]) == pytest.approx((0.3 + 0.3 + 0.1) / 3, abs=1e-4)
