"""From heatmaps to scores: the way back to the photo, and the command that scores a run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from models.heatmap import encode
from pipelines.batch import EvalBatch
from pipelines.geometry import apply, invert
from pipelines.loader import eval_loader
from pipelines.source import open_split
from pipelines.views import ViewSettings
from training import evaluate
from training.run import run
from training.settings import HeatmapSettings, RunSettings


class Oracle(nn.Module):
    """Answers with the heatmaps of the truth, batch after batch."""

    stride = 4

    def __init__(self, ground_truth: dict, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.ground_truth, self.heatmap_hw = ground_truth, (size_hw[0] // 4, size_hw[1] // 4)
        self.batch: EvalBatch | None = None

    def watch(self, batches: Iterator[EvalBatch]) -> Iterator[EvalBatch]:
        for self.batch in batches:
            yield self.batch

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        truth = torch.from_numpy(evaluate.truth_of(self.batch.records, self.ground_truth))
        points = apply(invert(self.batch.image_from_view), truth[..., :2])
        return encode(points, (truth[..., 2] > 0).float(), self.heatmap_hw, 4, 2.0)[0]


def predictions_of_the_oracle(shards: Path, size_hw: tuple[int, int]) -> tuple[list, dict]:
    split = open_split(shards)
    ground_truth = json.loads((shards / "ground_truth.json").read_text())
    oracle = Oracle(ground_truth, size_hw)
    batches = eval_loader(split, ViewSettings(size_hw=size_hw), batch_size=5)
    decoding = HeatmapSettings(sigma=2.0, decode="dark")
    return evaluate.predict(oracle, oracle.watch(iter(batches)), decoding=decoding), ground_truth


@pytest.mark.parametrize("size_hw", [(256, 192), (128, 160)])
def test_true_heatmaps_come_back_as_the_annotated_points(
    drawn_shards: Path, size_hw: tuple[int, int]
) -> None:
    shards = drawn_shards / "val"
    predictions, ground_truth = predictions_of_the_oracle(shards, size_hw)
    skeleton = open_split(shards).skeleton
    truth = evaluate.truth_of([p.record for p in predictions], ground_truth)
    errors = np.linalg.norm(np.stack([p.points_xy for p in predictions]) - truth[..., :2], axis=-1)
    assert len(predictions) == 12
    assert np.median(errors[truth[..., 2] > 0]) < 0.1
    scores = evaluate.score(predictions, ground_truth, skeleton)
    assert scores["AP"] > 0.99
    assert scores["PCK"] > 0.99


def test_scores_equal_pycocotools_on_the_written_files(drawn_shards: Path, tmp_path: Path) -> None:
    predictions, ground_truth = predictions_of_the_oracle(drawn_shards / "val", (256, 192))
    rng = np.random.default_rng(0)
    for prediction in predictions:
        prediction.points_xy[:] += rng.normal(0, 4, prediction.points_xy.shape)
    skeleton = open_split(drawn_shards / "val").skeleton
    results = tmp_path / "predictions.json"
    results.write_text(json.dumps(evaluate.coco_results(predictions, skeleton)))
    truth = COCO(str(drawn_shards / "val" / "ground_truth.json"))
    plain = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
    plain.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
    plain.evaluate()
    plain.accumulate()
    plain.summarize()
    ours = evaluate.score(predictions, ground_truth, skeleton)
    assert 0.1 < ours["AP"] < 0.95
    assert [ours[n] for n in ("AP", "AP50", "AP75", "AR")] == pytest.approx(plain.stats[[0, 1, 2, 5]])


def test_the_command_scores_a_run_as_the_run_did(tiny_run: Callable[..., RunSettings]) -> None:
    folder = run(tiny_run("everything", "steps=2"), resume=False).folder
    evaluate.main([str(folder)])
    scored = json.loads((folder / "evaluation" / "scores.json").read_text())
    assert scored["checkpoint"] == "step-00000002"
    assert scored["scores"] == json.loads((folder / "scores.json").read_text())["last"]["scores"]
    rows = json.loads((folder / "evaluation" / "network-predictions.json").read_text())
    assert len(rows) == 12
    assert len(rows[0]["keypoints"]) == 3 * 14


@pytest.mark.parametrize(
    ("words", "sentence"), [([], "RUN_DIR is missing"), (["/nowhere"], "so it is no run")]
)
def test_the_command_names_what_is_missing(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(words)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_best_is_by_the_product_network() -> None:
    history = [
        {"step": step, "scores": {"network": {"AP": ap}, "average": {"AP": 1 - ap}}}
        for step, ap in ((1, 0.2), (2, 0.5), (3, 0.4))
    ]
    summary = evaluate.summary(history, "AP")
    assert summary["last"]["step"] == 3
    assert summary["best"]["step"] == 2
