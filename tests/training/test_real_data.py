"""Real photos through the whole path: shards, a few steps, scores. It proves the path, not the method."""

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from semipose.configs.load import load
from semipose.sharding.build import BuildSettings, build
from semipose.training.run import run
from semipose.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]


def shard(recipe: str, output: Path, *overrides: str) -> int:
    settings = load(BuildSettings, ROOT / "configs/shards" / recipe, [f"output={output}", *overrides])
    return build(settings, console=Console(quiet=True)).num_samples


def train(tiny_run: Callable[..., RunSettings], folder: Path, *overrides: str) -> dict[str, float]:
    words = (f"data.train={folder / 'train'}", f"data.val={folder / 'val'}", "data.labelled=100", *overrides)
    job = run(tiny_run("everything", *words), resume=False)
    return json.loads((job.folder / "scores.json").read_text())["last"]["scores"]["network"]


def test_coco_photos(shared_data: Path, tiny_run: Callable[..., RunSettings], tmp_path: Path) -> None:
    coco = shared_data / "coco"
    for split, people in (("train", 538), ("val", 619)):
        annotations = coco / "annotations" / f"person_keypoints_{split}2017_joined.json"
        source = (f"source.annotations={annotations}", f"source.images={coco / 'images' / f'{split}2017'}")
        assert shard("coco.yaml", tmp_path / split, *source) == people
    scores = train(tiny_run, tmp_path)
    assert 0 <= scores["AP"] < 0.5
    assert 0 < scores["PCK"] < 0.5


def test_lspet_photos(shared_data: Path, tiny_run: Callable[..., RunSettings], tmp_path: Path) -> None:
    lspet = shared_data / "lspet"
    source = (f"source.joints={lspet / 'joints.mat'}", f"source.images={lspet / 'images'}")
    assert shard("lsp.yaml", tmp_path / "train", *source, "source.last=150") > 140
    assert shard("lsp.yaml", tmp_path / "val", *source, "source.first=4001", "source.last=4060") > 55
    scores = train(tiny_run, tmp_path, "metric=PCK")
    assert 0 < scores["PCK"] < 0.5
