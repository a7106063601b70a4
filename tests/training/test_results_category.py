"""Results name the category of the user's own file, so that this file can score them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from semipose.pipelines.source import open_split
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.identity import identify
from semipose.training import evaluate
from semipose.training.predict import Predictions
from semipose.training.run import run
from semipose.training.scoring.metrics import coco_results, score
from semipose.training.settings import RunSettings
from tests.training.scoring.test_metrics import plain_pycocotools


def build_own(folder: Path, drawn: Path, ids: Sequence[int]) -> Path:
    """The drawn people as a user's own categories, in turn, and a crowd: `mine.json` and `val`."""
    content = json.loads((drawn / "val-coco" / "annotations.json").read_text())
    category = content["categories"][0]
    content["categories"] = [{**category, "id": number, "name": f"climber {number}"} for number in ids]
    for row, number in zip(content["annotations"], cycle(ids), strict=False):
        row["category_id"] = number
    crowd = {"id": 900, "image_id": 1, "category_id": ids[0], "bbox": [0, 0, 50, 50], "area": 2500}
    content["annotations"].append({**crowd, "iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 42})
    (folder / "mine.json").write_text(json.dumps(content))
    source = CocoStyleFormat(annotations=folder / "mine.json", images=drawn / "val-coco" / "images")
    build(BuildSettings(source=source, output=folder / "val", workers=1), console=Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def own(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one category, number 7."""
    return build_own(tmp_path_factory.mktemp("own"), drawn_shards, [7])


@pytest.mark.parametrize("ids", [[7], [0], [2**53 + 1], [3, 5]])
def test_perfect_results_score_one_by_the_file_itself(
    ids: list[int], drawn_shards: Path, tmp_path: Path
) -> None:
    """Also where categories with the same keypoints are read together, as if they were one."""
    split = open_split(build_own(tmp_path, drawn_shards, ids) / "val")
    truth = split.ground_truth
    expected = (ids[0], f"climber {ids[0]}") if len(ids) == 1 else (1, "person")
    assert [(row["id"], row["name"]) for row in truth.coco["categories"]] == [expected]
    assert {row["category_id"] for row in truth.annotations} == {truth.category["id"]}
    people = truth.annotations[: split.num_samples]
    keypoints = np.array([row["keypoints"] for row in people], np.float32).reshape(len(people), -1, 3)
    areas = np.array([row["area"] for row in people], np.float32)
    perfect = Predictions(people, keypoints[..., :2], np.ones(keypoints.shape[:2], np.float32), areas)
    results = coco_results(perfect, split.skeleton, category_id=truth.categories_of(people))
    assert {row["category_id"] for row in results} == set(ids)
    stats = plain_pycocotools(tmp_path, tmp_path / "mine.json", results, split.skeleton.sigmas)
    assert stats[[0, 5]] == pytest.approx([1.0, 1.0])
    results = coco_results(perfect, split.skeleton, category_id=truth.category["id"])
    assert score(perfect, results, truth)["AP"] == pytest.approx(1.0)


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
