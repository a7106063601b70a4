"""Results name the category of the user's own file, so that this file can score them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines.source import open_split
from sharding.build import build
from sharding.formats.coco_style import CocoStyleFormat
from sharding.formats.folder import FolderFormat
from sharding.identity import identify
from sharding.settings import BuildSettings
from tests.training.test_metrics import plain_pycocotools
from training import evaluate
from training.predict import Predictions
from training.run import run
from training.scoring.metrics import coco_results, score
from training.scoring.truth import category_id_of
from training.settings import RunSettings


@pytest.fixture(scope="module")
def own(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn people as a user's own category 7, and a crowd: the file `mine.json`, and shards `val`."""
    folder = tmp_path_factory.mktemp("own")
    content = json.loads((drawn_shards / "val-coco" / "annotations.json").read_text())
    content["categories"][0] |= {"id": 7, "name": "climber"}
    for row in content["annotations"]:
        row["category_id"] = 7
    crowd = {"id": 900, "image_id": 1, "category_id": 7, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 1}
    crowd |= {"num_keypoints": 0, "keypoints": [0] * 42}
    content["annotations"].append(crowd)
    (folder / "mine.json").write_text(json.dumps(content))
    images = drawn_shards / "val-coco" / "images"
    source = CocoStyleFormat(annotations=folder / "mine.json", images=images)
    build(BuildSettings(source=source, output=folder / "val", workers=1), console=Console(quiet=True))
    return folder


def test_perfect_results_score_one_by_the_file_itself(own: Path, tmp_path: Path) -> None:
    split = open_split(own / "val")
    truth = split.ground_truth()
    assert [(row["id"], row["name"]) for row in truth["categories"]] == [(7, "climber")]
    assert {row["category_id"] for row in truth["annotations"]} == {7}
    people = truth["annotations"][: split.num_samples]
    keypoints = np.array([row["keypoints"] for row in people], np.float32).reshape(len(people), -1, 3)
    areas = np.array([row["area"] for row in people], np.float32)
    perfect = Predictions(people, keypoints[..., :2], np.ones(keypoints.shape[:2], np.float32), areas)
    results = coco_results(perfect, split.skeleton, category_id=category_id_of(truth))
    stats = plain_pycocotools(tmp_path, own / "mine.json", results, split.skeleton.sigmas)
    assert stats[[0, 5]] == pytest.approx([1.0, 1.0])
    assert score(perfect, results, truth, split.skeleton)["AP"] == pytest.approx(1.0)


def test_a_run_is_scored_as_ever_and_its_results_carry_the_category(
    own: Path, tiny_run: Callable[..., RunSettings], drawn_shards: Path, tmp_path: Path
) -> None:
    """Also those of photos that nobody annotated: theirs is of the file that names their keypoints."""
    plain = run(tiny_run("supervised", "steps=1"), resume=False).folder
    cfg = tiny_run("supervised", "steps=1", f"data.val={own / 'val'}", f"output={tmp_path / 'own'}")
    folder = run(cfg, resume=False).folder
    scores = [json.loads((each / "scores.json").read_text())["last"]["scores"] for each in (plain, folder)]
    assert scores[0]["network"]["PCK"] == scores[1]["network"]["PCK"]
    images = drawn_shards / "val-coco" / "images"
    photos = FolderFormat(images=images, skeleton=str(own / "val" / "ground_truth.json"))
    build(BuildSettings(source=photos, output=tmp_path / "new", workers=1), console=Console(quiet=True))
    for words, where in ([], ""), ([f"data.val={tmp_path / 'new'}"], "new"):
        evaluate.main([str(folder), *words])
        rows = json.loads((folder / "evaluation" / where / "network-predictions.json").read_text())
        assert {row["category_id"] for row in rows} == {7}


def test_the_category_decides_what_a_build_makes(own: Path) -> None:
    """So that a build of a corrected file does not take the shards of the old one for its own."""
    source = CocoStyleFormat(annotations=own / "mine.json", images=own)
    read, settings = source.read(), BuildSettings(source=source, output=own / "val")
    other = identify(settings, replace(read, category_id=8))
    renamed = identify(settings, replace(read, category_name="skater"))
    assert len({identify(settings, read), other, renamed}) == 3
