"""What a split can be scored by, and its scores against plain references."""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from semipose.configs.load import InputError
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.pipelines.loader import eval_loader
from semipose.pipelines.source import open_split
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.skeleton import AIC_14, COCO_17, LSP_14, MPII_16, Skeleton
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.predict import Predictions, predict
from semipose.training.scoring import aic
from semipose.training.scoring.metrics import coco_results, metrics_of, require, score
from semipose.training.scoring.pck import pck
from semipose.training.scoring.pckh import pckh
from tests.training.oracle import Oracle

TAIL = Skeleton(names=("nose", "tail"), flip_pairs=(), bones=(), sigmas=(0.05, 0.05))


def made_up(
    skeleton: Skeleton, people: int, *, noise: float = 0.02, heads: bool = False
) -> tuple[Predictions, dict[str, Any]]:
    """People three a photo, and what a fair network says of them: errors of `noise` of their size."""
    rng = np.random.default_rng(0)
    k = skeleton.num_keypoints
    sides, corners = rng.uniform(40, 300, people), rng.uniform(0, 300, (people, 2))
    points = corners[:, None] + sides[:, None, None] * rng.random((people, k, 2))
    labels = rng.choice([0, 1, 2], (people, k), p=[0.2, 0.2, 0.6])
    labels[:, 0] = 2
    keypoints = np.concatenate([points * (labels > 0)[..., None], labels[..., None]], axis=-1)
    rows = [
        {
            "id": 10 + i,
            "image_id": 1 + i // 3,
            "category_id": 1,
            "iscrowd": 0,
            "area": float(0.5 * sides[i] ** 2),
            "bbox": [*corners[i].tolist(), float(sides[i]), float(sides[i])],
            "num_keypoints": int((labels[i] > 0).sum()),
            "keypoints": keypoints[i].ravel().tolist(),
            **({"head_bbox": [0, 0, float(sides[i] / 8), float(sides[i] / 6)]} if heads else {}),
        }
        for i in range(people)
    ]
    truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in sorted({row["image_id"] for row in rows})],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": rows,
    }
    said = points + noise * sides[:, None, None] * rng.standard_normal(points.shape)
    return (
        Predictions(
            [{"id": row["id"], "image_id": row["image_id"]} for row in rows],
            said.astype(np.float32),
            rng.uniform(0.05, 1.0, (people, k)).astype(np.float32),
            (1.25 * sides**2).astype(np.float32),
        ),
        truth,
    )


def as_detected(people: Predictions, truth: dict[str, Any]) -> tuple[Predictions, dict[str, Any]]:
    """The same people as boxes of a detector, whose ids mean nothing to the truth."""
    records = [{**record, "id": 1 + i, "score": 0.5} for i, record in enumerate(people.records)]
    made = Predictions(records, people.points_xy, people.peaks, people.areas)
    return made, {**truth, "detections": [{"id": record["id"]} for record in records]}


def scores_of(people: Predictions, truth: dict[str, Any], skeleton: Skeleton) -> dict[str, float]:
    return score(people, coco_results(people, skeleton), GroundTruth(truth, skeleton))


@pytest.mark.parametrize(
    ("skeleton", "heads", "detected", "expected"),
    [
        (COCO_17, False, False, ("AP", "PCK")),
        (COCO_17, False, True, ("AP",)),
        (LSP_14, False, False, ("AP", "PCK")),
        (MPII_16, False, False, ("AP", "PCK")),
        (MPII_16, True, False, ("AP", "PCK", "PCKh")),
        (MPII_16, True, True, ("AP",)),
        (AIC_14, False, False, ("AP", "PCK", "AIC")),
        (AIC_14, False, True, ("AP", "AIC")),
        (TAIL, False, False, ("AP",)),
    ],
)
def test_the_metrics_of_a_split_are_those_that_its_scores_have(
    skeleton: Skeleton, heads: bool, detected: bool, expected: tuple[str, ...]
) -> None:
    people, truth = made_up(skeleton, 12, heads=heads)
    if detected:
        people, truth = as_detected(people, truth)
    assert metrics_of(GroundTruth(truth, skeleton)) == expected
    scores = scores_of(people, truth, skeleton)
    assert {"AP", "PCK", "PCKh", "AIC"} & set(scores) == set(expected)
    assert all(0 <= value <= 1 or value == -1 for value in scores.values())


class TestRequire:
    def test_accepts_what_the_split_can_give(self) -> None:
        _, truth = made_up(MPII_16, 6, heads=True)
        for metric in ("AP", "PCK", "PCKh"):
            require(metric, GroundTruth(truth, MPII_16), where="here")

    @pytest.mark.parametrize("metric", ["PCKh", "AIC"])
    def test_names_the_metric_the_split_and_a_cure(self, metric: Any) -> None:
        _, truth = made_up(COCO_17, 6)
        with pytest.raises(InputError, match=rf"metric: {metric} needs .*, which here does not .*metric=AP"):
            require(metric, GroundTruth(truth, COCO_17), where="here")

    def test_says_that_boxes_are_a_detectors(self) -> None:
        _, truth = as_detected(*made_up(COCO_17, 6))
        with pytest.raises(
            InputError, match=r"PCK needs annotated boxes.* come from a detector: take metric=AP"
        ):
            require("PCK", GroundTruth(truth, COCO_17), where="here")

    def test_refuses_people_without_any_label(self) -> None:
        _, truth = made_up(COCO_17, 6)
        for row in truth["annotations"]:
            row["num_keypoints"] = 0
        with pytest.raises(InputError, match=r"AP needs annotated keypoints.*: score on annotated people"):
            require("AP", GroundTruth(truth, COCO_17), where="here")


def test_every_metric_gets_the_right_people() -> None:
    for skeleton, heads in ((MPII_16, True), (AIC_14, False)):
        people, truth = made_up(skeleton, 30, heads=heads)
        order = np.random.default_rng(1).permutation(30)
        shuffled = Predictions(
            [people.records[i] for i in order],
            people.points_xy[order],
            people.peaks[order],
            people.areas[order],
        )
        keypoints = np.array([row["keypoints"] for row in truth["annotations"]]).reshape(30, -1, 3)
        ours = scores_of(shuffled, truth, skeleton)
        expected = pck(people.points_xy, keypoints, skeleton.names)
        if heads:
            diagonals = np.array([np.hypot(*row["head_bbox"][2:]) for row in truth["annotations"]])
            expected |= pckh(people.points_xy, keypoints, diagonals, skeleton.names)
        else:
            photos = [row["image_id"] for row in truth["annotations"]]
            expected["AIC"] = aic.mean_precision(people.points_xy, photos, GroundTruth(truth, skeleton))
            expected |= aic.head_pck(people.points_xy, keypoints.astype(np.float32), skeleton.names)
        assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-6)


class TestResults:
    def test_are_the_people_one_by_one(self) -> None:
        people, _ = made_up(COCO_17, 9)
        detected = [{**record, "score": 0.1 * (i + 1)} for i, record in enumerate(people.records)]
        people = Predictions(detected, people.points_xy, people.peaks, people.areas)
        results = coco_results(people, COCO_17)
        assert len(results) == 9
        for i, row in enumerate(results):
            strong = people.peaks[i][people.peaks[i] > 0.2]
            assert row["score"] == pytest.approx(0.1 * (i + 1) * strong.mean())
            assert row["image_id"] == people.records[i]["image_id"]
            points = np.array(row["keypoints"]).reshape(17, 3)
            np.testing.assert_allclose(points[:, :2], people.points_xy[i], atol=6e-4)
            np.testing.assert_allclose(points[:, 2], people.peaks[i], atol=6e-4)
        json.dumps(results)

    def test_drop_who_is_found_twice(self) -> None:
        people, _ = made_up(COCO_17, 2)
        both = Predictions(
            [{"id": 1, "image_id": 5, "score": 0.3}, {"id": 2, "image_id": 5, "score": 0.9}],
            people.points_xy[[0, 0]],
            people.peaks[[0, 0]],
            people.areas[[0, 0]],
        )
        (kept,) = coco_results(both, COCO_17)
        strong = people.peaks[0][people.peaks[0] > 0.2]
        assert kept["score"] == pytest.approx(0.9 * strong.mean())

    def test_of_nobody(self) -> None:
        nobody = np.zeros((0, 17, 2), np.float32)
        assert coco_results(Predictions([], nobody, nobody[..., 0], nobody[:, 0, 0]), COCO_17) == []


def plain_pycocotools(folder: Path, truth: Path, results: list[dict[str, Any]], sigmas: Any) -> np.ndarray:
    path = folder / "predictions.json"
    path.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        plain = COCOeval(coco, coco.loadRes(str(path)), "keypoints")
        plain.params.kpt_oks_sigmas = np.array(sigmas)
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
    return plain.stats


def test_scores_equal_pycocotools_on_the_written_files(drawn_shards: Path, tmp_path: Path) -> None:
    split = open_split(drawn_shards / "val")
    truth = split.ground_truth
    oracle = Oracle(truth)
    batches = oracle.watch(eval_loader(split, ViewSettings(), batch_size=5))
    decoding = HeatmapSettings(decode="dark")
    people = predict({"a": oracle}, batches, codec=HeatmapCodec(decoding, split.skeleton))["a"]
    perfect = scores_of(people, truth.coco, split.skeleton)
    assert min(perfect["AP"], perfect["PCK"]) > 0.99
    people.points_xy[:] += np.random.default_rng(0).normal(0, 4, people.points_xy.shape)
    results = coco_results(people, split.skeleton)
    path = drawn_shards / "val" / "ground_truth.json"
    plain = plain_pycocotools(tmp_path, path, results, split.skeleton.sigmas)
    ours = score(people, results, truth)
    assert 0.1 < ours["AP"] < 0.95
    assert [ours[n] for n in ("AP", "AP50", "AP75", "AR")] == pytest.approx(plain[[0, 1, 2, 5]])


@pytest.mark.slow
def test_scoring_the_6352_people_of_the_protocol() -> None:
    """All that follows the forward passes; prints its seconds (pytest -s)."""
    people, truth = made_up(COCO_17, 6352)
    began = time.process_time()
    results = coco_results(people, COCO_17)
    suppressed = time.process_time()
    scores = score(people, results, GroundTruth(truth, COCO_17))
    ended = time.process_time()
    print(f"results and NMS {suppressed - began:.1f} s, scores {ended - suppressed:.1f} s of CPU")  # noqa: T201
    assert 0.1 < scores["AP"] < 0.95
    assert 0.1 < scores["PCK"] < 0.99
