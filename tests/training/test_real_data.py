"""Real photos through the whole path: shards, a few steps, scores. It proves the path, not the method."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from semipose.configs.load import load
from semipose.sharding.build import BuildSettings, build
from semipose.training.run import run
from semipose.training.settings import RunSettings, load_run

ROOT = Path(__file__).resolve().parents[2]


def shard(recipe: str, output: Path, *overrides: str) -> int:
    settings = load(BuildSettings, ROOT / "configs/shards" / recipe, [f"output={output}", *overrides])
    return build(settings, console=Console(quiet=True)).num_samples


def train(tiny_run: Callable[..., RunSettings], folder: Path, *overrides: str) -> dict[str, float]:
    words = (f"data.train={folder / 'train'}", f"data.val={folder / 'val'}", "data.labelled=100", *overrides)
    job = run(tiny_run("everything", *words), resume=False)
    return json.loads((job.folder / "scores.json").read_text())["last"]["scores"]["network"]


@pytest.mark.slow
def test_coco_photos(shared_data: Path, tiny_run: Callable[..., RunSettings], tmp_path: Path) -> None:
    coco = shared_data / "coco"
    for split, people in (("train", 538), ("val", 619)):
        annotations = coco / "annotations" / f"person_keypoints_{split}2017_joined.json"
        source = (f"source.annotations={annotations}", f"source.images={coco / 'images' / f'{split}2017'}")
        assert shard("coco.yaml", tmp_path / split, *source) == people
    scores = train(tiny_run, tmp_path)
    assert 0 <= scores["AP"] < 0.5
    assert 0 < scores["PCK"] < 0.5


@pytest.mark.slow
def test_lspet_photos(shared_data: Path, tiny_run: Callable[..., RunSettings], tmp_path: Path) -> None:
    lspet = shared_data / "lspet"
    source = (f"source.joints={lspet / 'joints.mat'}", f"source.images={lspet / 'images'}")
    assert shard("lsp.yaml", tmp_path / "train", *source, "source.last=150") > 140
    assert shard("lsp.yaml", tmp_path / "val", *source, "source.first=4001", "source.last=4060") > 55
    scores = train(tiny_run, tmp_path, "metric=PCK")
    assert 0 < scores["PCK"] < 0.5


FAMILIES = pytest.mark.parametrize(
    "family", ["dekr", *(pytest.param(family, marks=pytest.mark.slow) for family in ("ae", "cid"))]
)
TINY_PHOTOS = (
    "net.backbone={name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}",
    *("net.pretrained=false", "precision=no", "photo_views.size=64", "method.burn_in=0.5"),
    *("labelled_batch=2", "unlabelled_batch=2", "loader.threads=1"),
    *("steps=2", "report_every=1", "checkpoint_every=2", "evaluate_every=2"),
)


def train_on_photos(family: str, protocol: str, train: Path, val: Path, output: Path) -> dict[str, float]:
    recipes = [ROOT / f"configs/protocols/{protocol}.yaml", ROOT / "configs/methods/detector_free.yaml"]
    data = (f"data.train={train}", f"data.val={val}", "data.labelled_share=0.5", f"net.head.name={family}")
    job = run(load_run(recipes, [*data, f"output={output}", *TINY_PHOTOS]), resume=False)
    names = sorted(path.name for path in (output / "pictures").iterdir())
    kinds = ("predictions", "views")
    assert names == [f"{kind}-{step:08d}.png" for kind in kinds for step in (0, 2)]
    return json.loads((job.folder / "scores.json").read_text())["last"]["scores"]["network"]


@pytest.fixture(scope="module")
def coco_photos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `train` and `val` of whole photos, those without people last."""
    coco, folder = shared_data / "coco", tmp_path_factory.mktemp("coco")
    for split in ("train", "val"):
        annotations = coco / "annotations" / f"person_keypoints_{split}2017_joined.json"
        source = (f"source.annotations={annotations}", f"source.images={coco / 'images' / f'{split}2017'}")
        kind = ("kind=image", "crop={name: none}", "empty_photos=keep", "limit=24")
        assert shard("coco.yaml", folder / split, *source, *kind) == 24
    return folder


@pytest.mark.slow
@FAMILIES
def test_whole_coco_photos(family: str, coco_photos: Path, tmp_path: Path) -> None:
    scores = train_on_photos(
        family, "coco-photos", coco_photos / "train", coco_photos / "val", tmp_path / "run"
    )
    assert 0 <= scores["AP"] < 0.5


@FAMILIES
def test_whole_crowdpose_photos(family: str, shared_data: Path, tmp_path: Path) -> None:
    """Two photos: one is labelled, both are unlabelled and scored, with the AP of their crowd levels."""
    crowdpose = shared_data / "crowdpose"
    source = (
        f"source.annotations={crowdpose / 'test_crowdpose.json'}",
        f"source.images={crowdpose / 'images'}",
    )
    assert shard("crowdpose.yaml", tmp_path / "photos", *source, "kind=image", "crop={name: none}") == 2
    photos = tmp_path / "photos"
    scores = train_on_photos(family, "crowdpose-photos", photos, photos, tmp_path / "run")
    assert 0 <= scores["AP"] < 0.5
    assert {"AP-easy", "AP-medium", "AP-hard"} & set(scores)
