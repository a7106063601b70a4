"""People found by a detector, from its file to scores: against pycocotools and the annotation file itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console

from semipose.configs.load import InputError
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.pipelines.loader import eval_loader
from semipose.pipelines.source import Split, open_split
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training import evaluate
from semipose.training.predict import Predictions, beside_truth, predict
from semipose.training.run import run
from semipose.training.scoring.metrics import coco_results, metrics_of, score
from semipose.training.settings import RunSettings
from tests.training.oracle import Oracle
from tests.training.scoring.test_metrics import plain_pycocotools

DECODING = HeatmapSettings(decode="dark")


class Detected(NamedTuple):
    """Shards by a detector's boxes, and for the oracle the person in each box, by the box's id."""

    shards: Path
    annotations: Path
    shown: dict[str, Any]


@pytest.fixture(scope="module")
def detected(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Detected:
    """Boxes of all drawn people but those of the last photo; the first person is found twice."""
    folder = tmp_path_factory.mktemp("detected")
    annotations = drawn_shards / "val-coco" / "annotations.json"
    people = json.loads(annotations.read_text())["annotations"]
    missed = people[-1]["image_id"]
    rng = np.random.default_rng(0)
    rows, shown = [], []
    for person in [people[0], *people]:
        if person["image_id"] != missed:
            x, y, w, h = np.array(person["bbox"]) + rng.uniform(-2, 2, 4)
            score = 0.2 if not rows else float(rng.uniform(0.5, 1))
            rows.append({"image_id": person["image_id"], "bbox": [x, y, w, h], "score": score})
            shown.append({"id": len(rows), "keypoints": person["keypoints"]})
    (folder / "found.json").write_text(json.dumps(rows))
    boxes = Detections(results=folder / "found.json")
    source = CocoFormat(annotations=annotations, images=annotations.parent / "images", boxes=boxes)
    build(BuildSettings(source=source, output=folder / "val", workers=1), console=Console(quiet=True))
    return Detected(folder / "val", annotations, {"annotations": shown})


@pytest.fixture(scope="module")
def predicted(detected: Detected) -> tuple[Split, Predictions]:
    """What the oracle says of each box."""
    split = open_split(detected.shards)
    oracle = Oracle(GroundTruth(detected.shown, split.skeleton))
    batches = oracle.watch(eval_loader(split, ViewSettings(), batch_size=5))
    return split, predict({"a": oracle}, batches, codec=HeatmapCodec(DECODING, split.skeleton))["a"]


def test_person_found_twice_is_kept_once_by_the_better_box(predicted: tuple[Split, Predictions]) -> None:
    split, people = predicted
    twice = [record for record in people.records if record["id"] in (1, 2)]
    assert [record["score"] < 0.3 for record in twice] == [True, False]
    results = coco_results(people, split.skeleton)
    assert len(results) == len(people.records) - 1
    assert not any(row["score"] < 0.25 for row in results)


def test_scores_equal_pycocotools_on_the_annotation_file(
    predicted: tuple[Split, Predictions], detected: Detected, tmp_path: Path
) -> None:
    """Nobody is left out of the truth: who was not found counts as missed."""
    split, people = predicted
    for noise_px in (0.0, 5.0):
        noise = np.random.default_rng(1).normal(0, noise_px, people.points_xy.shape).astype(np.float32)
        made = Predictions(people.records, people.points_xy + noise, people.peaks, people.areas)
        results = coco_results(made, split.skeleton)
        ours = score(made, results, split.ground_truth)
        plain = plain_pycocotools(tmp_path, detected.annotations, results, split.skeleton.sigmas)
        assert [ours[n] for n in ("AP", "AP50", "AP75", "AR")] == pytest.approx(plain[[0, 1, 2, 5]])
        assert 0.1 < ours["AR"] < 1
        assert "PCK" not in ours


def test_card_and_sheet_know_that_boxes_have_no_truth(detected: Detected) -> None:
    split = open_split(detected.shards)
    truth = split.ground_truth
    assert split.annotation_ids == tuple(row["id"] for row in truth.coco["detections"])
    assert metrics_of(truth) == ("AP",)
    oracle = Oracle(GroundTruth(detected.shown, split.skeleton))
    batch = next(oracle.watch(eval_loader(split, ViewSettings(), batch_size=5)))
    seen = beside_truth(oracle, batch, truth, codec=HeatmapCodec(DECODING, split.skeleton))
    assert not seen["visible"].any()


def test_nothing_is_learned_from_them(tiny_run: Callable[..., RunSettings], detected: Detected) -> None:
    cfg = tiny_run("supervised", f"data.train={detected.shards}", f"data.val={detected.shards}")
    with pytest.raises(InputError, match=r"none of the \d+ samples has an annotated keypoint"):
        run(cfg, resume=False)


def test_a_run_is_scored_by_them(tiny_run: Callable[..., RunSettings], detected: Detected) -> None:
    folder = run(tiny_run("supervised", "steps=1", f"data.val={detected.shards}"), resume=False).folder
    assert "PCK" not in json.loads((folder / "scores.json").read_text())["last"]["scores"]["network"]
    evaluate.main([str(folder)])
    content = json.loads((folder / "evaluation" / "scores.json").read_text())
    assert content["boxes"] == "detector"
    with pytest.raises(InputError, match=r"metric: PCK needs annotated boxes.*come from a detector"):
        run(
            tiny_run("supervised", "metric=PCK", f"data.val={detected.shards}", f"output={folder}-2"),
            resume=False,
        )


def test_a_list_of_photos_gives_results_by_its_ids(
    tiny_run: Callable[..., RunSettings], detected: Detected, tmp_path: Path
) -> None:
    """As COCO's test-dev: photos and a detector's boxes, and nobody annotated."""
    content = json.loads(detected.annotations.read_text())
    del content["annotations"]
    (tmp_path / "image_info.json").write_text(json.dumps(content))
    boxes = Detections(results=detected.shards.parent / "found.json")
    images = detected.annotations.parent / "images"
    source = CocoFormat(annotations=tmp_path / "image_info.json", images=images, boxes=boxes)
    build(BuildSettings(source=source, output=tmp_path / "dev", workers=1), console=Console(quiet=True))
    folder = run(tiny_run("supervised", "steps=1"), resume=False).folder
    evaluate.main([str(folder), f"data.val={tmp_path / 'dev'}"])
    scores = json.loads((folder / "evaluation" / "dev" / "scores.json").read_text())
    assert (scores["scores"], scores["boxes"]) == ({}, "detector")
    results = json.loads((folder / "evaluation" / "dev" / "network-predictions.json").read_text())
    found = {row["image_id"] for row in json.loads(boxes.results.read_text())}
    assert {row["image_id"] for row in results} == found
    assert all(len(row["keypoints"]) == 3 * 14 for row in results)
