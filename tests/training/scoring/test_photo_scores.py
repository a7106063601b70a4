"""Scores of whole photos: equal to plain loops over the definition, and to what a hand computes."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.skeleton import COCO_17, CROWDPOSE_14, Skeleton
from semipose.sharding.build import build
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.predict import Predictions
from semipose.training.scoring import crowd, oks
from semipose.training.scoring.metrics import coco_results, metrics_of, require, score
from tests.training.photos import cards_of, truth_of

FOUR = Skeleton(names=("a", "b", "c", "d"), flip_pairs=(), bones=((0, 1),), sigmas=(0.03, 0.06, 0.09, 0.12))
Found = list[tuple[int, np.ndarray, float]]
"""People that were found: photo (its index), points (K, 2) and score."""


def predictions_of(truth: dict[str, Any], found: Found, skeleton: Skeleton) -> Predictions:
    shape = (-1, skeleton.num_keypoints, 2)
    points = np.array([points for _, points, _ in found], np.float32).reshape(shape)
    return Predictions(
        records=cards_of(truth),
        points_xy=points,
        peaks=np.ones(points.shape[:2], np.float32),
        areas=np.ones(len(points), np.float32),
        samples=np.array([photo for photo, _, _ in found], np.int64),
        scores=np.array([score for _, _, score in found], np.float32),
    )


def scores_of(truth: dict[str, Any], found: Found, skeleton: Skeleton = FOUR) -> dict[str, float]:
    before = copy.deepcopy(truth)
    people = predictions_of(truth, found, skeleton)
    scores = score(people, coco_results(people, skeleton), GroundTruth(truth, skeleton))
    assert truth == before
    return scores


def square(x: float, y: float, side: float = 100.0) -> np.ndarray:
    """A person (4, 3) whose keypoints are the corners of a square; its area is 0.53 side^2."""
    corners = [(x, y), (x + side, y), (x, y + side), (x + side, y + side)]
    return np.array([(*corner, 2.0) for corner in corners])


def oks_by_loop(points: np.ndarray, row: dict[str, Any], sigmas: tuple[float, ...], area: float) -> float:
    """COCO's definition; of a person without keypoints, the distance to twice its box counts."""
    annotated = np.array(row["keypoints"]).reshape(-1, 3)
    x, y, width, height = row["bbox"]
    terms = []
    for (px, py), (gx, gy, v), sigma in zip(points, annotated, sigmas, strict=True):
        if row["num_keypoints"]:
            if v == 0:
                continue
            dx, dy = px - gx, py - gy
        else:
            dx = max(0.0, x - width - px) + max(0.0, px - (x + 2 * width))
            dy = max(0.0, y - height - py) + max(0.0, py - (y + 2 * height))
        terms.append(math.exp(-(dx**2 + dy**2) / (2 * (2 * sigma) ** 2 * area)))
    return sum(terms) / len(terms)


def matched_by_loop(
    rows: list[dict[str, Any]], found: Found, threshold: float, sigmas: tuple[float, ...], *, of_box: bool
) -> list[tuple[float, bool]]:
    """Score and success of the people found in one photo, without those who are forgiven."""
    rows = sorted(rows, key=lambda row: bool(row["iscrowd"]) or not row["num_keypoints"])
    is_forgiving = [bool(row["iscrowd"]) or not row["num_keypoints"] for row in rows]
    areas = [0.53 * row["bbox"][2] * row["bbox"][3] if of_box else row["area"] for row in rows]
    taken: set[int] = set()
    said = []
    for _, points, confidence in sorted(found, key=lambda person: -person[2])[:20]:
        best, best_oks = None, threshold
        for i, row in enumerate(rows):
            if i in taken and not row["iscrowd"]:
                continue
            if best is not None and not is_forgiving[best] and is_forgiving[i]:
                break
            similarity = oks_by_loop(points, row, sigmas, areas[i])
            if similarity >= best_oks:
                best, best_oks = i, similarity
        if best is None:
            said.append((confidence, False))
        else:
            taken.add(best)
            if not is_forgiving[best]:
                said.append((confidence, True))
    return said


def ap_by_loop(
    truth: dict[str, Any],
    found: Found,
    sigmas: tuple[float, ...],
    *,
    photos: list[int] | None = None,
    of_box: bool = False,
) -> float:
    """Mean over ten thresholds of the precision at 101 recalls; `photos`: indices of those that count."""
    chosen = range(len(truth["images"])) if photos is None else photos
    rows = {i: [] for i in chosen}
    for row in truth["annotations"]:
        if (i := row["image_id"] - 1) in rows:
            rows[i].append(row)
    total = sum(not row["iscrowd"] and row["num_keypoints"] > 0 for some in rows.values() for row in some)
    aps = []
    for threshold in np.linspace(0.5, 0.95, 10):
        said = []
        for i in chosen:
            here = [person for person in found if person[0] == i]
            said += matched_by_loop(rows[i], here, threshold, sigmas, of_box=of_box)
        said.sort(key=lambda row: -row[0])
        hits = np.cumsum([hit for _, hit in said])
        precision = [hits[n] / (n + 1) for n in range(len(said))]
        recall = [hits[n] / total for n in range(len(said))]
        at_recall = [
            max((p for p, r in zip(precision, recall, strict=True) if r >= least), default=0.0)
            for least in np.linspace(0, 1, 101)
        ]
        aps.append(np.mean(at_recall))
    return float(np.mean(aps))


def random_scene(seed: int, num_photos: int = 8) -> tuple[dict[str, Any], Found]:
    """People in 8 photos, some of which show nobody, a crowd or a person without keypoints; people found near
    and far from them, some twice, and some where nobody is."""
    rng = np.random.default_rng(seed)
    photos = []
    for _ in range(num_photos):
        people = [square(*rng.uniform(0, 500, 2), rng.uniform(40, 200)) for _ in range(rng.integers(0, 5))]
        for person in people:
            person[:, :2] += rng.normal(0, 5, (4, 2))
            person[rng.integers(1, 4), 2] = rng.integers(0, 3)
        photos.append({"size_wh": (800, 800), "people": people})
    truth = truth_of(photos, FOUR)
    found: Found = []
    for row in truth["annotations"]:
        points = np.array(row["keypoints"]).reshape(4, 3)[:, :2]
        for _ in range(rng.integers(0, 3)):
            found.append((row["image_id"] - 1, points + rng.normal(0, 8, (4, 2)), float(rng.random())))
    for _ in range(10):
        photo, stray = int(rng.integers(0, num_photos)), square(*rng.uniform(0, 600, 2))[:, :2]
        found.append((photo, stray, float(rng.random())))
    chosen = rng.permutation(len(truth["annotations"]))[:6]
    for i in chosen[:3]:
        truth["annotations"][i].update(iscrowd=1, num_keypoints=0, keypoints=[0] * 12)
    for i in chosen[3:]:
        truth["annotations"][i].update(num_keypoints=0, keypoints=[0] * 12)
    return truth, found


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_plain_loops(seed: int) -> None:
    """With people found twice, near and far, by nobody, inside crowds and at people without keypoints."""
    truth, found = random_scene(seed)
    expected = ap_by_loop(truth, found, FOUR.sigmas)
    assert 0.01 < expected < 0.9
    assert scores_of(truth, found)["AP"] == pytest.approx(expected, abs=1e-6)


def test_more_than_twenty_people_in_a_photo_do_not_count() -> None:
    truth = truth_of([{"size_wh": (3000, 200), "people": [square(110.0 * i, 10) for i in range(25)]}], FOUR)
    found = [(0, square(110.0 * i, 10)[:, :2], 1 - i / 100) for i in range(25)]
    scores = scores_of(truth, found)
    assert scores["AP"] == pytest.approx(ap_by_loop(truth, found, FOUR.sigmas))
    assert scores["AR"] == pytest.approx(20 / 25)


class TestByHand:
    """Two photos with a person each; a third one is empty. 51 of the 101 recalls are at most a half."""

    truth = truth_of(
        [
            {"size_wh": (400, 400), "people": [square(10, 10)]},
            {"size_wh": (400, 400), "people": [square(200, 200)]},
            {"size_wh": (400, 400), "people": []},
        ],
        FOUR,
    )
    first, second = (0, square(10, 10)[:, :2], 0.9), (1, square(200, 200)[:, :2], 0.7)

    def test_perfect_people_score_one(self) -> None:
        scores = scores_of(self.truth, [self.first, self.second])
        names = ("AP", "AP50", "AP75", "AR", "AR50", "AR75")
        assert [scores[name] for name in names] == pytest.approx([1.0] * 6)

    def test_nobody_found_scores_nothing(self) -> None:
        scores = scores_of(self.truth, [])
        assert (scores["AP"], scores["AR"]) == (0, 0)

    def test_a_missing_person_halves_the_recall(self) -> None:
        scores = scores_of(self.truth, [self.first])
        assert (scores["AP"], scores["AR"]) == pytest.approx((51 / 101, 0.5))

    def test_a_person_found_twice_costs_precision(self) -> None:
        """Hit, miss, hit: precision 1 up to a recall of a half, then two thirds."""
        twice = (0, self.first[1] + 0.5, 0.8)
        scores = scores_of(self.truth, [self.first, twice, self.second])
        assert scores["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
        assert scores["AR"] == pytest.approx(1)

    @pytest.mark.parametrize(
        ("photo", "confidence", "expected"),
        [(0, 0.95, 2 / 3), (2, 0.95, 2 / 3), (2, 0.8, (51 + 50 * 2 / 3) / 101), (2, 0.1, 1.0)],
    )
    def test_a_false_person_costs_by_its_score_in_an_empty_photo_too(
        self, photo: int, confidence: float, expected: float
    ) -> None:
        """First of three (1/2 and 2/3 are hits: the highest precision to come counts), second, or last."""
        false = (photo, square(290, 20)[:, :2], confidence)
        scores = scores_of(self.truth, [self.first, self.second, false])
        assert scores["AP"] == pytest.approx(expected)

    @pytest.mark.parametrize("shift_px", [3.0, 5.0, 7.0, 9.0])
    def test_people_who_are_shifted_score_by_their_object_keypoint_similarity(self, shift_px: float) -> None:
        """All keypoints of all people are off alike: as many of the ten thresholds are met as lie below."""
        move = np.array([shift_px, 0])
        found = [(photo, points + move, score) for photo, points, score in (self.first, self.second)]
        terms = [math.exp(-(shift_px**2) / (2 * (2 * s) ** 2 * 0.53 * 100**2)) for s in FOUR.sigmas]
        similarity = sum(terms) / 4
        met = sum(similarity >= threshold for threshold in np.linspace(0.5, 0.95, 10))
        assert 0 < met < 10
        assert scores_of(self.truth, found)["AP"] == pytest.approx(met / 10)

    @pytest.mark.parametrize(("x", "expected"), [(230, 1.0), (100, 2 / 3)])
    def test_a_crowd_forgives_what_is_found_in_it_and_nothing_else(self, x: float, expected: float) -> None:
        """Twice its box, that is; here the one from (270, 10) on."""
        truth = copy.deepcopy(self.truth)
        box = [280.0, 10.0, 60.0, 120.0]
        crowd_row = {"id": 99, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": box, "area": 7200.0}
        truth["annotations"].append({**crowd_row, "num_keypoints": 0, "keypoints": [0] * 12})
        false = (0, square(x, 20)[:, :2], 0.95)
        scores = scores_of(truth, [self.first, self.second, false])
        assert scores["AP"] == pytest.approx(expected)


def crowd_index_by_loop(people: list[dict[str, Any]]) -> float:
    """CrowdPose's: the mean over people of min(1, others' keypoints / own keypoints in their box)."""

    def inside(owner: dict[str, Any], other: dict[str, Any]) -> int:
        x, y, width, height = owner["bbox"]
        points = np.array(other["keypoints"]).reshape(-1, 3)
        return sum(x <= px <= x + width and y <= py <= y + height for px, py, v in points if v > 0)

    shares = [
        min(1.0, sum(inside(one, other) for other in people if other is not one) / inside(one, one))
        for one in people
    ]
    return sum(shares) / len(shares)


def crowded(seed: int) -> tuple[dict[str, Any], Found, dict[str, list[int]]]:
    """Photos of one person, of two who overlap and of two at one place; which of them are how crowded."""
    rng = np.random.default_rng(seed)
    photos, parts = [], {"AP-easy": [], "AP-medium": [], "AP-hard": []}
    for i in range(15):
        x, y = rng.uniform(50, 300, 2)
        name, away = (("AP-easy", 400.0), ("AP-medium", 60.0), ("AP-hard", 0.0))[i % 3]
        people = [square(x, y), square(x + away, y + away / 2)]
        photos.append({"size_wh": (900, 900), "people": people})
        parts[name].append(i)
    truth = truth_of(photos, FOUR)
    for image in truth["images"]:
        rows = [row for row in truth["annotations"] if row["image_id"] == image["id"]]
        image["crowdIndex"] = crowd_index_by_loop(rows)
    found = [
        (
            row["image_id"] - 1,
            np.array(row["keypoints"]).reshape(4, 3)[:, :2] + rng.normal(0, 7, (4, 2)),
            float(rng.random()),
        )
        for row in truth["annotations"]
        for _ in range(rng.integers(0, 3))
    ]
    return truth, found, parts


class TestCrowdPose:
    @pytest.mark.parametrize("seed", range(3))
    def test_easy_medium_and_hard_are_the_ap_of_their_photos_alone(self, seed: int) -> None:
        """With an area of 0.53 of the box, and the crowd index of the paper."""
        truth, found, parts = crowded(seed)
        index = {name: {truth["images"][i]["crowdIndex"] for i in some} for name, some in parts.items()}
        assert index == {"AP-easy": {0.0}, "AP-medium": {0.25}, "AP-hard": {1.0}}
        scores = scores_of(truth, found)
        for name, photos in parts.items():
            expected = ap_by_loop(truth, found, FOUR.sigmas, photos=photos, of_box=True)
            assert 0.05 < expected < 1
            assert scores[name] == pytest.approx(expected, abs=1e-6)
        assert scores["AP"] == pytest.approx(ap_by_loop(truth, found, FOUR.sigmas, of_box=True), abs=1e-6)

    @pytest.mark.parametrize(
        ("index", "name"),
        [(0, "easy"), (0.19, "easy"), (0.2, "medium"), (0.79, "medium"), (0.8, "hard"), (1.0, "hard")],
    )
    def test_a_limit_belongs_to_the_more_crowded_part(self, index: float, name: str) -> None:
        truth = truth_of([{"size_wh": (400, 400), "people": [square(10, 10)], "crowdIndex": index}], FOUR)
        scores = scores_of(truth, [(0, square(10, 10)[:, :2], 0.5)])
        assert {part for part in crowd.LEAST_CROWD_INDEX if part in scores} == {f"AP-{name}"}
        assert scores[f"AP-{name}"] == pytest.approx(1)

    def test_sets_without_a_crowd_index_have_no_such_scores(self) -> None:
        truth = copy.deepcopy(TestByHand.truth)
        truth["images"][0]["crowdIndex"] = 0.1
        assert not set(crowd.LEAST_CROWD_INDEX) & set(scores_of(truth, [TestByHand.first]))

    def test_a_part_with_empty_photos_alone_is_left_out(self) -> None:
        truth = copy.deepcopy(TestByHand.truth)
        for image, index in zip(truth["images"], (0.0, 0.5, 0.9), strict=True):
            image["crowdIndex"] = index
        scores = scores_of(truth, [TestByHand.first])
        assert (scores["AP-easy"], scores["AP-medium"]) == pytest.approx((1, 0))
        assert "AP-hard" not in scores


def test_whole_photos_have_ap_alone_and_say_so() -> None:
    truth = truth_of([{"size_wh": (400, 400), "people": [np.full((17, 3), 2.0)]}], COCO_17)
    assert metrics_of(GroundTruth(truth, COCO_17)) == ("AP", "PCK")
    assert metrics_of(GroundTruth(truth, COCO_17), "image") == ("AP",)
    with pytest.raises(InputError, match=r"PCK needs .* its samples are whole photos: take metric=AP"):
        require("PCK", GroundTruth(truth, COCO_17), where="here", kind="image")
    truth["annotations"] = []
    assert metrics_of(GroundTruth(truth, COCO_17), "image") == ()


@pytest.mark.parametrize(("categories", "expected"), [([7, 7, 7], 7), ([3, 5, 5], 5), ([None] * 3, 1)])
def test_results_carry_the_category_of_the_annotation_file(categories: list[Any], expected: int) -> None:
    """Of the most people, where several categories of one keypoint set were read together."""
    truth = truth_of([{"size_wh": (400, 400), "people": [square(10, 10)] * 3}], FOUR)
    for row, category in zip(truth["annotations"], categories, strict=True):
        row |= {} if category is None else {"source_category_id": category}
    people = predictions_of(truth, [TestByHand.first] * 2, FOUR)
    assert GroundTruth(truth, FOUR).categories_of(people.record_rows) == [expected] * 2
    rows = coco_results(people, FOUR, category_id=[expected] * 2)
    assert {row["category_id"] for row in rows} == {expected}
    assert rows[0]["score"] == pytest.approx(0.9)
    assert len(rows[0]["keypoints"]) == 12


def shards_of(source: CocoFormat | CrowdPoseFormat, output: Path) -> dict[str, Any]:
    """The ground truth of shards of whole photos."""
    settings = BuildSettings(
        source=source, output=output, kind="image", crop=WholePhoto(), empty_photos="keep", workers=1
    )
    build(settings, console=Console(quiet=True))
    truth: dict[str, Any] = json.loads((output / "ground_truth.json").read_text())
    return truth


def truth_as_found(truth: dict[str, Any], noise_px: float, seed: int = 0) -> Found:
    rng = np.random.default_rng(seed)
    index = {image["id"]: i for i, image in enumerate(truth["images"])}
    found: Found = []
    for row in truth["annotations"]:
        if row["num_keypoints"] and not row["iscrowd"]:
            points = np.array(row["keypoints"]).reshape(-1, 3)[:, :2]
            noise = rng.normal(0, noise_px, points.shape)
            found.append((index[row["image_id"]], points + noise, float(rng.random())))
    return found


def test_the_truth_of_real_coco_photos_scores_one_and_less_with_noise(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "coco"
    annotations = folder / "annotations" / "person_keypoints_val2017_joined.json"
    source = CocoFormat(annotations=annotations, images=folder / "images" / "val2017")
    truth = shards_of(source, tmp_path / "x")
    aps = [scores_of(truth, truth_as_found(truth, noise_px), COCO_17)["AP"] for noise_px in (0.0, 3.0, 10.0)]
    assert aps[0] == pytest.approx(1.0)
    assert 1 > aps[1] > aps[2] > 0
    renumbered = copy.deepcopy(truth)  # the loops find photos by their number
    index = {image["id"]: i for i, image in enumerate(truth["images"], start=1)}
    for row in renumbered["annotations"]:
        row["image_id"] = index[row["image_id"]]
    expected = ap_by_loop(renumbered, truth_as_found(truth, 10.0), COCO_17.sigmas)
    assert aps[2] == pytest.approx(expected, abs=1e-6)


def test_real_crowdpose_photos(shared_data: Path, tmp_path: Path) -> None:
    """Both are of medium crowdedness; the annotations give their crowd index, nearly."""
    folder = shared_data / "crowdpose"
    source = CrowdPoseFormat(annotations=folder / "test_crowdpose.json", images=folder / "images")
    truth = shards_of(source, tmp_path / "x")
    official = json.loads((folder / "test_crowdpose.json").read_text())
    for image in official["images"]:
        rows = [row for row in official["annotations"] if row["image_id"] == image["id"]]
        labelled = [row for row in rows if row["num_keypoints"]]
        assert image["crowdIndex"] == pytest.approx(crowd_index_by_loop(labelled), abs=0.02)
    perfect = scores_of(truth, truth_as_found(truth, 0.0), CROWDPOSE_14)
    assert (perfect["AP"], perfect["AP-medium"]) == pytest.approx((1, 1))
    assert not {"AP-easy", "AP-hard"} & set(perfect)
    noisy = truth_as_found(truth, 15.0)
    scores = scores_of(truth, noisy, CROWDPOSE_14)
    order = {image["id"]: i for i, image in enumerate(truth["images"], start=1)}
    for image in official["images"]:
        image["id"] = order[image["id"]]
    for row in official["annotations"]:
        row["image_id"] = order[row["image_id"]]
    official["images"].sort(key=lambda image: image["id"])
    expected = ap_by_loop(official, noisy, CROWDPOSE_14.sigmas, of_box=True)
    assert 0 < expected < 1
    assert (scores["AP"], scores["AP-medium"]) == pytest.approx((expected, expected), abs=1e-6)


def test_the_limit_of_people_per_photo_is_noted_for_whole_photos_too() -> None:
    people = [square(110.0 * i, 10) for i in range(25)]
    truth = GroundTruth(truth_of([{"size_wh": (3000, 200), "people": people}], FOUR), FOUR)
    assert len(truth.scored) == 25
    assert (oks.beyond_limit(truth) or "").startswith("5 of the 25 people")


@pytest.mark.parametrize("ids", ["photos", "people", "both"])
def test_photos_and_people_whose_ids_begin_at_zero_are_scored_as_others(ids: str) -> None:
    # pycocotools stores the id of the matched person, and takes 0 for nobody.
    people = [[square(10, 10)], [square(200, 20), square(20, 200)]]
    truth = truth_of([{"size_wh": (640, 480), "people": persons} for persons in people], FOUR)
    found = [(photo, person[:, :2], 0.9) for photo, persons in enumerate(people) for person in persons]
    first = {
        "photos": min(row["id"] for row in truth["images"]),
        "people": min(row["id"] for row in truth["annotations"]),
    }
    for row in truth["images"]:
        row["id"] -= first["photos"] * (ids != "people")
    for row in truth["annotations"]:
        row["id"] -= first["people"] * (ids != "photos")
        row["image_id"] -= first["photos"] * (ids != "people")
    scores = scores_of(truth, found)
    assert scores["AP"] == pytest.approx(1.0)
    assert scores["AR"] == pytest.approx(1.0)
