"""AI Challenger's metrics against plain references."""

import json

import numpy as np
import pytest

from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.skeleton import AIC_14
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.scoring.aic import head_pck, mean_precision

DELTAS = 2 * np.array(
    [
        *(0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642),
        *(0.03686941, 0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173),
    ]
)
"""docs/methods.md 7."""


def some_photos(photos: int = 15) -> tuple[dict, np.ndarray, list[int]]:
    """Photos of 0 to 4 people, with 0 to 5 predictions each."""
    rng = np.random.default_rng(5)
    annotations, points, image_ids = [], [], []
    for image_id in range(1, photos + 1):
        for _ in range(rng.integers(0, 5)):
            joints = np.concatenate([rng.uniform(0, 200, (14, 2)), rng.integers(0, 3, (14, 1))], axis=1)
            if rng.random() < 0.15:
                joints[:, 2] = 0  # nothing labelled
            row = {"image_id": image_id, "keypoints": joints.ravel().tolist(), "area": rng.uniform(5e3, 4e4)}
            annotations.append({"id": len(annotations) + 1, **row})
            if rng.random() < 0.8:
                points.append(joints[:, :2] + rng.normal(0, rng.choice([1, 4]), (14, 2)))
                image_ids.append(image_id)
        if rng.random() < 0.3:
            points.append(rng.uniform(0, 200, (14, 2)))
            image_ids.append(image_id)
    images = [{"id": image_id} for image_id in range(1, photos + 1)]
    return {"images": images, "annotations": annotations}, np.array(points), image_ids


def plainly(points: np.ndarray, image_ids: list[int], truth: dict) -> float:
    """The challenge's score, photo after photo, person after person, joint after joint."""
    best, total = [], 0
    for image in truth["images"]:
        people = [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        found = [points[i] for i in range(len(points)) if image_ids[i] == image["id"]]
        total += max(len(people), len(found))
        for person in people:
            joints = np.reshape(person["keypoints"], (14, 3))
            similarities = [0.0]
            for prediction in found:
                terms = []
                for joint in range(14):
                    if joints[joint, 2] == 2:
                        squared = ((joints[joint, :2] - prediction[joint]) ** 2).sum()
                        terms.append(np.exp(-squared / 2 / DELTAS[joint] ** 2 / (person["area"] + 1)))
                similarities.append(np.mean(terms) if terms else 0.0)
            best.append(max(similarities))
    return float(np.mean([sum(b > t for b in best) / total for t in np.arange(0.5, 0.96, 0.05)]))


def test_equals_a_plain_scorer():
    truth, points, image_ids = some_photos()
    ours = mean_precision(points, image_ids, GroundTruth(truth, AIC_14))
    assert ours == pytest.approx(plainly(points, image_ids, truth))
    assert 0.2 < ours < 0.8


def one_person(v: list[int], area: float = 1e4) -> dict:
    joints = np.column_stack([np.arange(14) * 10.0, np.arange(14) * 10.0, v])
    row = {"id": 1, "image_id": 7, "area": area, "keypoints": joints.ravel().tolist()}
    return {"images": [{"id": 7}], "annotations": [row]}


def points_of(truth: dict) -> np.ndarray:
    return np.array([np.reshape(row["keypoints"], (14, 3))[:, :2] for row in truth["annotations"]])


def test_only_visible_joints_count():
    truth = one_person([2] * 13 + [1])
    points = points_of(truth)
    points[:, 13] += 500
    assert mean_precision(points, [7], GroundTruth(truth, AIC_14)) == 1.0
    points[:, 12] += 500
    assert mean_precision(points, [7], GroundTruth(truth, AIC_14)) == pytest.approx(0.9)  # OKS 12/13


def test_people_too_many_and_people_missed_cost_alike():
    truth = one_person([2] * 14)
    points = points_of(truth)
    twice = np.concatenate([points, points + 300])
    assert mean_precision(twice, [7, 7], GroundTruth(truth, AIC_14)) == 0.5
    truth["annotations"].append({**truth["annotations"][0], "id": 2, "keypoints": [900, 900, 2] * 14})
    assert mean_precision(points, [7], GroundTruth(truth, AIC_14)) == 0.5
    assert mean_precision(points[:0], [], GroundTruth(truth, AIC_14)) == 0.0


def test_person_without_a_visible_joint_counts_and_is_never_found():
    truth = one_person([2] * 14)
    truth["annotations"].append({"id": 2, "image_id": 7, "area": 1e4, "keypoints": [0] * 42})
    assert mean_precision(points_of(truth)[:1], [7], GroundTruth(truth, AIC_14)) == 0.5


def test_area_gets_one_pixel():
    truth = one_person([2] * 14, area=0.0)
    points = points_of(truth)
    points[..., 0] += 0.02
    oks = np.mean(np.exp(-(0.02**2) / 2 / DELTAS**2))
    expected = np.mean(oks > np.linspace(0.5, 0.95, 10))
    assert 0 < mean_precision(points, [7], GroundTruth(truth, AIC_14)) == expected < 1


def test_flag_1_of_the_list_is_visible(shared_data):
    """The format's reader and this scorer agree on what the challenge calls visible."""
    folder = shared_data / "aic"
    path = folder / "keypoint_annotations_raw_reconstructed.json"
    annotations = AicFormat(annotations=path, images=folder / "images").read()
    raw = [
        human for photo in json.loads(path.read_text()) for human in photo["keypoint_annotations"].values()
    ]
    flags = np.reshape(raw, (-1, 14, 3))[..., 2]
    v = np.stack([person.keypoints[:, 2] for person in annotations.persons])
    assert (flags == 1).sum() == (v == 2).sum() > 0
    assert {1, 2} <= set(np.unique(flags))


def head_reference(predicted: np.ndarray, truth: np.ndarray) -> float:
    hits = labelled = 0
    top, neck = AIC_14.names.index("head_top"), AIC_14.names.index("neck")
    for person, found in zip(truth, predicted, strict=True):
        size = 95.0
        if person[top, 2] and person[neck, 2]:
            size = np.hypot(*(person[top, :2] - person[neck, :2]))
        for joint in range(14):
            if person[joint, 2]:
                labelled += 1
                hits += np.hypot(*(person[joint, :2] - found[joint])) / size <= 0.5
    return hits / labelled


def test_head_pck_equals_a_loop():
    rng = np.random.default_rng(1)
    truth = np.concatenate([rng.uniform(0, 100, (50, 14, 2)), rng.integers(0, 3, (50, 14, 1))], axis=-1)
    predicted = truth[..., :2] + rng.normal(0, 20, (50, 14, 2))
    scores = head_pck(predicted, truth, AIC_14.names)
    assert scores["AIC-PCKh"] == pytest.approx(head_reference(predicted, truth))
    assert 0.1 < scores["AIC-PCKh"] < 0.95
    assert {"AIC-PCKh/Head", "AIC-PCKh/Shoulder", "AIC-PCKh/Ankle"} < set(scores)
