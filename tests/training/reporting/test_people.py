"""The list of scored people: each person has its own prediction, and nothing is lost on the disk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipose.configs.load import InputError
from semipose.models.files import PEOPLE_NAME
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.predict import Predictions
from semipose.training.reporting.people import (
    SHOWN,
    read_people,
    scored_people,
    write_people,
)
from semipose.training.scoring import oks

SKELETON = Skeleton(
    names=("head", "left_hand", "right_hand"), flip_pairs=((1, 2),), bones=((0, 1),), sigmas=(0.05, 0.1, 0.1)
)


def annotation(person_id: int, image_id: int, centre: float, v: tuple[int, ...] = (2, 2, 1)) -> dict:
    """Somebody of 100 x 100 px around a point."""
    points = np.array([[0, -30], [-30, 0], [30, 0]]) + centre
    keypoints = np.column_stack([points, v]).ravel().tolist()
    labelled = sum(value > 0 for value in v)
    box = [centre - 50, centre - 50, 100, 100]
    row = {"id": person_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "num_keypoints": labelled}
    return {**row, "keypoints": keypoints, "area": 10_000.0, "bbox": box}


def truth_of(*rows: dict) -> dict:
    images = sorted({row["image_id"] for row in rows})
    return {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in images],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": list(rows),
    }


def found_people(ids: list[int], points: np.ndarray, peaks: float = 0.8) -> Predictions:
    """People in their annotated boxes."""
    records = [{"id": person, "image_id": 1} for person in ids]
    heights = np.full(points.shape[:2], peaks, np.float32)
    return Predictions(records, points.astype(np.float32), heights, np.full(len(ids), 1e4, np.float32))


def found_in_photos(photos: list[int], rows: list[tuple[int, float, float]]) -> Predictions:
    """Whole photos by their image ids, and in them people: index of the photo, centre, score."""
    points = (
        np.array([[[0, -30], [-30, 0], [30, 0]]] * len(rows)) + np.array([r[1] for r in rows])[:, None, None]
    )
    return Predictions(
        [{"image_id": photo} for photo in photos],
        points.astype(np.float32).reshape(-1, 3, 2),
        np.full((len(rows), 3), 0.5, np.float32),
        np.full(len(rows), 1e4, np.float32),
        np.array([row[0] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32),
    )


def gather(predictions: Predictions, truth: dict):
    return scored_people(predictions, GroundTruth(truth, SKELETON), step=3, network="network")


def test_people_in_annotated_boxes_have_their_own_prediction_whatever_the_order():
    rows = [annotation(7, 1, 100), annotation(5, 1, 300), annotation(9, 2, 500)]
    exact = np.array([np.reshape(row["keypoints"], (3, 3))[:, :2] for row in rows])
    people = gather(found_people([9, 7, 5], exact[[2, 0, 1]]), truth_of(*rows))
    assert people.ids.tolist() == [7, 5, 9]
    assert people.file_names.tolist() == ["1.jpg", "1.jpg", "2.jpg"]
    assert people.oks == pytest.approx([1, 1, 1])


def test_crowds_and_people_without_keypoints_are_not_scored():
    rows = [annotation(1, 1, 100), annotation(2, 1, 100, v=(0, 0, 0)), {**annotation(3, 1, 90), "iscrowd": 1}]
    exact = np.array([np.reshape(row["keypoints"], (3, 3))[:, :2] for row in rows])
    assert gather(found_people([1, 2, 3], exact), truth_of(*rows)).ids.tolist() == [1]


@given(
    shift=st.lists(st.floats(-80, 80), min_size=6, max_size=6),
    v=st.tuples(*[st.integers(0, 2)] * 3).filter(any),
)
def test_the_oks_of_a_person_is_that_of_pycocotools(shift, v):
    row = annotation(1, 1, 200, v)
    points = np.reshape(row["keypoints"], (3, 3))[:, :2] + np.reshape(shift, (3, 2))
    people = gather(found_people([1], points[None]), truth_of(row))
    truth = oks._coco(truth_of(row))
    entry = {"image_id": 1, "category_id": 1, "score": 1.0}
    entry["keypoints"] = np.column_stack([people.points_xy[0].astype(float), [1] * 3]).ravel().tolist()
    evaluator = oks.COCOeval(truth, truth.loadRes([entry]), "keypoints")
    evaluator.params.kpt_oks_sigmas = np.array(SKELETON.sigmas)
    evaluator.evaluate()
    assert people.oks[0] == pytest.approx(float(evaluator.computeOks(1, 1)[0, 0]), abs=1e-6)


def test_somebody_found_in_a_photo_is_the_nearest_person_once_and_the_rest_are_nobody():
    rows = [annotation(1, 4, 100), annotation(2, 4, 400), annotation(3, 8, 100)]
    seen = [(0, 105.0, 0.9), (0, 101.0, 0.7), (1, 900.0, 0.5), (1, 900.0, 0.05)]
    people = gather(found_in_photos([4, 8], seen), truth_of(*rows))
    assert people.scores[0] == pytest.approx(0.9)  # the higher score comes first, though the other is nearer
    assert people.is_found.tolist() == [True, False, False]
    assert people.oks[1:].tolist() == [0, 0]
    assert people.false_scores == pytest.approx([0.7, 0.5])  # 0.05 is below what counts


def test_photos_without_anybody_are_no_fault():
    people = gather(found_in_photos([4, 8], []), truth_of(annotation(1, 4, 100)))
    assert people.oks.tolist() == [0]
    assert not people.is_found.any()


def test_the_file_gives_back_what_was_written(tmp_path):
    rows = [annotation(person, 1, 100 * person) for person in range(1, 6)]
    exact = np.array([np.reshape(row["keypoints"], (3, 3))[:, :2] for row in rows])
    people = gather(found_people([1, 2, 3, 4, 5], exact), truth_of(*rows))
    write_people(tmp_path, people)
    again = read_people(tmp_path)
    assert again is not None
    assert (again.skeleton, again.step, again.network) == (SKELETON, 3, "network")
    for name in ("ids", "file_names", "truth", "areas", "boxes_xywh", "points_xy", "peaks", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(people, name))


def test_a_damaged_file_is_named_with_a_cure(tmp_path):
    assert read_people(tmp_path) is None
    (tmp_path / PEOPLE_NAME).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match=r"people\.npz: cannot be read .*: remove it"):
        read_people(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 24, 200])
def test_worst_median_and_best_are_different_people_in_the_order_of_their_oks(count):
    rows = [annotation(person + 1, 1, 100.0) for person in range(count)]
    exact = np.array([np.reshape(row["keypoints"], (3, 3))[:, :2] for row in rows])
    shifts = np.random.default_rng(0).permutation(count) + 1.0
    people = gather(found_people([row["id"] for row in rows], exact + shifts[:, None, None]), truth_of(*rows))
    chosen = people.chosen()
    shown = np.concatenate(list(chosen.values()))
    assert len(set(shown.tolist())) == len(shown) <= 3 * SHOWN
    assert shifts[chosen["worst"][0]] == shifts.max()
    if count >= 3:
        assert shifts[chosen["best"][0]] == shifts.min()
        assert min(shifts[chosen["worst"]]) > max(shifts[chosen["median"]]) > max(shifts[chosen["best"]])
