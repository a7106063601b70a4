"""COCO's keypoint metric: equal to pycocotools run plainly, for any number of keypoints."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from semipose.configs.load import InputError
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.scoring import oks
from semipose.training.scoring.oks import (
    MOST_PEOPLE,
    SCORE_NAMES,
    beyond_limit,
    oks_matrix,
    oks_nms,
    person_score,
)

COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def as_truth(truth: dict, sigmas: np.ndarray = COCO_SIGMAS) -> GroundTruth:
    names = tuple(map(str, range(len(sigmas))))
    return GroundTruth(truth, Skeleton(names=names, flip_pairs=(), bones=(), sigmas=tuple(sigmas)))


def score(truth: dict, predictions: list[dict], sigmas: np.ndarray) -> dict[str, float]:
    return oks.score(as_truth(truth, sigmas), predictions)


def make_ground_truth(num_keypoints: int, *, images: int = 12, first_id: int = 1, seed: int = 0) -> dict:
    """Two people an image, of medium and large area, some joints unlabelled."""
    rng = np.random.default_rng(seed)
    annotations = []
    for number in range(2 * images):
        side = rng.uniform(40, 90) if number % 2 else rng.uniform(110, 300)
        x, y = rng.uniform(0, 200, 2)
        points = np.column_stack([x + side * rng.random(num_keypoints), y + side * rng.random(num_keypoints)])
        v = rng.choice([0, 1, 2], num_keypoints, p=[0.2, 0.3, 0.5])
        v[0] = 2
        keypoints = np.column_stack([np.where(v[:, None] > 0, points, 0), v]).ravel().tolist()
        annotations.append(
            {
                "id": first_id + number,
                "image_id": 100 + number // 2,
                "category_id": 1,
                "bbox": [x, y, side, side],
                "area": 0.6 * side * side,
                "iscrowd": 0,
                "num_keypoints": int((v > 0).sum()),
                "keypoints": keypoints,
            }
        )
    return {
        "images": [
            {"id": 100 + i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(images)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": [str(k) for k in range(num_keypoints)]}],
        "annotations": annotations,
    }


def predictions_of(truth: dict, *, noise_px: float, seed: int = 1, with_box: bool = False) -> list[dict]:
    rng = np.random.default_rng(seed)
    found = []
    for person in truth["annotations"]:
        if person["iscrowd"] or not person["num_keypoints"]:
            continue
        points = np.array(person["keypoints"], dtype=float).reshape(-1, 3)
        points[:, :2] += noise_px * rng.standard_normal((len(points), 2))
        row = {
            "image_id": person["image_id"],
            "category_id": person["category_id"],
            "keypoints": points.ravel().tolist(),
            "score": float(rng.random()),
        }
        found.append({**row, "bbox": person["bbox"]} if with_box else row)
    return found


def plain_pycocotools(folder: Path, truth: dict, predictions: list[dict]) -> dict[str, float]:
    (folder / "truth.json").write_text(json.dumps({"info": {}, **truth}))
    (folder / "found.json").write_text(json.dumps(predictions))
    coco = COCO(str(folder / "truth.json"))
    evaluator = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "keypoints")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return dict(zip(SCORE_NAMES, evaluator.stats.tolist(), strict=True))


@pytest.mark.parametrize("with_box", [False, True])
@pytest.mark.parametrize("noise_px", [2.0, 10.0])
def test_ap_equals_pycocotools(tmp_path, noise_px, with_box):
    truth = make_ground_truth(17)
    found = predictions_of(truth, noise_px=noise_px, with_box=with_box)
    ours = score(truth, found, COCO_SIGMAS)
    assert ours == plain_pycocotools(tmp_path, truth, found)
    assert 0 < ours["AP"] < 1


def test_box_of_a_prediction_reaches_the_scores_by_size():
    truth = make_ground_truth(17)
    with_box = score(truth, predictions_of(truth, noise_px=12.0, with_box=True), COCO_SIGMAS)
    without = score(truth, predictions_of(truth, noise_px=12.0), COCO_SIGMAS)
    assert with_box["AP"] == without["AP"]
    assert (with_box["APM"], with_box["APL"]) != (without["APM"], without["APL"])


@pytest.mark.parametrize("first_id", [0, 1])
@pytest.mark.parametrize("num_keypoints", [1, 14, 17, 133])
def test_truth_against_itself_is_perfect(num_keypoints, first_id):
    truth = make_ground_truth(num_keypoints, first_id=first_id)
    scores = score(truth, predictions_of(truth, noise_px=0.0), np.full(num_keypoints, 0.05))
    assert scores["AP"] == scores["AR"] == scores["AP75"] == 1.0


def test_real_truth_against_itself_is_perfect(shared_data, tmp_path):
    truth = json.loads((shared_data / "coco/annotations/person_keypoints_val2017_joined.json").read_text())
    found = predictions_of(truth, noise_px=0.0)
    assert score(truth, found, COCO_SIGMAS)["AP"] == 1.0
    noisy = predictions_of(truth, noise_px=4.0)
    assert score(truth, noisy, COCO_SIGMAS) == plain_pycocotools(tmp_path, truth, noisy)


def test_no_predictions_score_zero():
    scores = score(make_ground_truth(17), [], COCO_SIGMAS)
    assert tuple(scores) == SCORE_NAMES
    assert set(scores.values()) == {0.0}


def test_no_medium_person_is_minus_one():
    truth = make_ground_truth(17)
    truth["annotations"] = [person for person in truth["annotations"] if person["area"] > 96**2]
    assert score(truth, predictions_of(truth, noise_px=1.0), COCO_SIGMAS)["APM"] == -1.0


def test_score_is_quiet_and_changes_nothing(capsys):
    truth = make_ground_truth(17)
    found = predictions_of(truth, noise_px=3.0)
    before = copy.deepcopy((truth, found))
    score(truth, found, COCO_SIGMAS)
    assert (truth, found) == before
    assert capsys.readouterr().out == ""


def test_truth_without_counts_or_crowd_flags_is_scored():
    truth = make_ground_truth(14)
    found = predictions_of(truth, noise_px=5.0)
    sigmas = np.full(14, 0.05)
    expected = score(truth, found, sigmas)
    for person in truth["annotations"]:
        del person["iscrowd"], person["num_keypoints"]
    assert score(truth, found, sigmas) == expected


def broken(truth, found):
    """Inputs that cannot be scored, and a word that the message must hold."""

    def changed(rows, index, **values):
        return [{**row, **values} if number == index else row for number, row in enumerate(rows)]

    people = truth["annotations"]
    no_area = [{key: value for key, value in row.items() if key != "area"} for row in people]
    unlabelled = [{**row, "num_keypoints": 0} for row in people]
    return {
        "image 7": (truth, changed(found, 3, image_id=7)),
        "category": (truth, changed(found, 3, category_id=2)),
        "6 keypoint values": (truth, changed(found, 3, keypoints=[0.0] * 6)),
        "bbox": (truth, changed(found, 3, bbox=[0, 0, 1, 1])),
        "finite": (truth, changed(found, 3, score=float("nan"))),
        "where the skeleton needs 51": (
            {**truth, "annotations": changed(people, 0, keypoints=[1, 1, 2])},
            found,
        ),
        "`area`": ({**truth, "annotations": no_area}, found),
        "nothing to score": ({**truth, "annotations": unlabelled}, found),
    }


def test_what_can_be_reached_with_more_people_than_the_scorer_looks_at():
    """By perfect results; the crowd and the person without a labelled joint are not to be found at all."""
    truth = make_ground_truth(17, images=24)
    for row in truth["annotations"][:30]:
        row["image_id"] = 100
    truth["annotations"][0]["iscrowd"] = 1
    truth["annotations"][1]["num_keypoints"] = 0
    sentence = beyond_limit(as_truth(truth))
    found = score(truth, predictions_of(truth, noise_px=0.0), COCO_SIGMAS)
    assert sentence.startswith("8 of the 46 people who are scored are beyond the 20")
    assert f"at most {found['AR']:.3f}" in sentence
    assert found["AP"] <= found["AR"]
    assert COCOeval(iouType="keypoints").params.maxDets == [MOST_PEOPLE]


def test_input_that_cannot_be_scored_is_named():
    truth = make_ground_truth(17)
    for word, arguments in broken(truth, predictions_of(truth, noise_px=1.0)).items():
        with pytest.raises(InputError, match=word):
            score(*arguments, COCO_SIGMAS)


def test_person_score_takes_the_mean_of_clear_peaks():
    peaks = np.array([[0.9, 0.1, 0.5], [0.2, 0.1, 0.0], [0.3, 0.3, 0.3]])
    np.testing.assert_allclose(person_score(np.array([1.0, 1.0, 0.5]), peaks), [0.7, 0.0, 0.15])


def test_oks_matrix_equals_a_loop():
    rng = np.random.default_rng(0)
    points, areas = rng.uniform(0, 50, (4, 5, 3)), rng.uniform(200, 900, 4)
    sigmas = rng.uniform(0.02, 0.1, 5)
    for a in range(4):
        for b in range(4):
            terms = [
                np.exp(
                    -((points[a, k, :2] - points[b, k, :2]) ** 2).sum() / (2 * s) ** 2 / (areas[a] + areas[b])
                )
                for k, s in enumerate(sigmas)
            ]
            assert oks_matrix(points, areas, sigmas)[a, b] == pytest.approx(np.mean(terms))


def person(image_id: int, x: float, score: float) -> dict:
    return {"image_id": image_id, "category_id": 1, "keypoints": [x, 10, 1, x, 30, 1], "score": score}


def test_nms_drops_the_worse_of_two_alike_in_one_image():
    people = [person(1, 10, 0.5), person(1, 10.1, 0.9), person(2, 10, 0.1), person(1, 60, 0.2)]
    kept = oks_nms(people, np.full(4, 900.0), [0.1, 0.1])
    assert kept == [people[1], people[2], people[3]]


def test_nms_threshold_and_area_decide():
    people = [person(1, 10, 0.5), person(1, 13, 0.9)]
    sigmas = [0.1, 0.1]
    similarity = oks_matrix(
        np.array([p["keypoints"] for p in people]).reshape(2, 2, 3), np.full(2, 900.0), sigmas
    )
    assert 0.5 < similarity[0, 1] < 0.9
    assert oks_nms(people, np.full(2, 900.0), sigmas) == people
    assert oks_nms(people, np.full(2, 900.0), sigmas, threshold=0.5) == people[1:]
    assert oks_nms(people, np.full(2, 9000.0), sigmas) == people[1:]


@pytest.mark.parametrize(("away", "kept"), [(1.96, 2), (1.92, 1)])
def test_the_published_threshold_of_duplicates_is_nine_tenths(away, kept):
    """docs/methods.md 7. With sigma 0.1 and 450 px^2 the similarity is exp(-away^2 / (2 * 0.2^2 * 450))."""
    people = [person(1, 10, 0.5), person(1, 10 + away, 0.9)]
    areas, sigmas = np.full(2, 450.0), [0.1, 0.1]
    assert (np.exp(-(away**2) / (2 * 0.2**2 * 450)) > 0.9) == (kept == 1)
    assert len(oks_nms(people, areas, sigmas)) == kept


def test_nms_of_nobody_is_nobody():
    assert oks_nms([], np.zeros(0), [0.1]) == []
