"""MPII's and AI Challenger's own files, through shards to their own metrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from rich.console import Console

from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.pipelines.loader import eval_loader
from semipose.pipelines.source import Split, open_split
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.formats.mpii import MpiiFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.training.predict import Predictions, predict
from semipose.training.scoring.metrics import coco_results, metrics_of, score
from tests.training.oracle import Oracle
from tests.training.scoring.test_aic import plainly


def shards(source: MpiiFormat | AicFormat, output: Path) -> Split:
    build(BuildSettings(source=source, output=output, workers=1), console=Console(quiet=True))
    return open_split(output)


def answers(split: Split, *, offset_px: float) -> Predictions:
    """The truth, read off heatmaps that are moved by so many pixels of the view on both axes."""
    oracle = Oracle(split.ground_truth, offset_px=offset_px)
    batches = oracle.watch(eval_loader(split, ViewSettings(size_hw=(256, 256)), batch_size=4))
    decoding = HeatmapSettings(decode="dark")
    return predict({"a": oracle}, batches, codec=HeatmapCodec(decoding, split.skeleton))["a"]


def scores_of(people: Predictions, split: Split) -> dict[str, float]:
    return score(people, coco_results(people, split.skeleton), split.ground_truth)


def test_mpii_with_head_boxes(shared_data: Path, tmp_path: Path) -> None:
    """The head boxes of gt_valid.mat reach the score: errors grow past half a head as heads shrink."""
    folder = shared_data / "mpii"
    rows = json.loads((folder / "mpii_hrnet_list.json").read_text())
    rates = []
    for head_px in (400.0, 20.0):
        corners = np.zeros((2, 2, len(rows)))
        corners[1] = head_px  # x2, y2
        heads = tmp_path / f"{head_px}.mat"
        scipy.io.savemat(heads, {"headboxes_src": corners})
        source = MpiiFormat(
            annotations=folder / "mpii_hrnet_list.json", images=folder / "images", head_boxes=heads
        )
        split = shards(source, tmp_path / f"{head_px}")
        assert metrics_of(split.ground_truth) == ("AP", "PCK", "PCKh")
        rates.append(scores_of(answers(split, offset_px=4.0), split)["PCKh"])
        assert scores_of(answers(split, offset_px=0.0), split)["PCKh"] > 0.9
    assert rates[0] > 0.9
    assert rates[1] < 0.5


def test_ai_challenger(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "aic"
    source = AicFormat(
        annotations=folder / "keypoint_annotations_raw_reconstructed.json", images=folder / "images"
    )
    split = shards(source, tmp_path / "aic")
    assert metrics_of(split.ground_truth) == ("AP", "PCK", "AIC")
    perfect = scores_of(answers(split, offset_px=0.0), split)
    moved = answers(split, offset_px=2.0)
    worse = scores_of(moved, split)
    assert perfect["AIC"] == pytest.approx(1.0)
    assert perfect["AIC-PCKh"] > 0.95
    photos = [record["image_id"] for record in moved.records]
    assert worse["AIC"] == pytest.approx(plainly(moved.points_xy, photos, split.ground_truth.coco))
    assert 0 < worse["AIC"] < 0.95
    assert worse["AP"] < perfect["AP"]
