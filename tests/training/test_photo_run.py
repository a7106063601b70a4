"""The commands of a run on whole photos: train, score, draw; and what does not fit is one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.crop import WholePhoto
from semipose.training import checkpoint, evaluate
from semipose.training import run as run_module
from semipose.training.reporting.card import describe
from semipose.training.run_files import read_scores
from semipose.training.settings import load_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = (CONFIGS / "protocols" / "coco-photos.yaml", CONFIGS / "methods" / "detector_free.yaml")
TINY = (
    "net.backbone={name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}",
    *("net.pretrained=false", "precision=no", "photo_views.size=64", "method.burn_in=0.0"),
    *("data.labelled_share=0.5", "labelled_batch=2", "unlabelled_batch=2", "loader.threads=1"),
    *("steps=2", "report_every=1", "checkpoint_every=1", "evaluate_every=2"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of kind image: drawn scenes."""
    folder = tmp_path_factory.mktemp("photos")
    source = DrawnFormat(folder=folder / "coco", people=16, seed=1)
    settings = BuildSettings(source=source, output=folder / "shards", kind="image", crop=WholePhoto())
    build(settings, console=Console(quiet=True))
    return folder / "shards"


def words(photos: Path, output: Path, *more: str) -> list[str]:
    places = (f"data.train={photos}", f"data.val={photos}", f"output={output}")
    return [*map(str, RECIPES), *places, *TINY, *more]


@pytest.mark.parametrize("family", ["dekr", "ae", "cid"])
def test_every_family_is_trained_scored_and_drawn(family: str, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_module.main(words(photos, folder, f"net.head.name={family}"))
    scores = read_scores(folder)["last"]
    assert scores["step"] == 2
    assert set(scores["scores"]) == {"network", "average"}
    assert "AP" in scores["scores"]["network"]
    assert list((folder / "pictures").glob("predictions-*.png"))
    assert [path.name for path in sorted((folder / "pictures").glob("views-*.png"))] == [
        "views-00000000.png",
        "views-00000002.png",
    ]
    card = json.loads((folder / "card.json").read_text())
    assert card["labelled"]["choice"] == f"0.5 of the annotated photos of {photos} (fold 0)"
    assert (card["scoring"]["decode"], card["heatmap_hw"]) == (family, [16, 16])
    assert " scored as whole photos with no flip test" in describe(card)
    evaluate.main([str(folder)])
    again = json.loads((folder / "evaluation" / "scores.json").read_text())
    assert again["scores"]["network"]["AP"] == pytest.approx(scores["scores"]["network"]["AP"])


def test_shards_of_people_are_refused_for_whole_photos(drawn_shards: Path, tmp_path: Path) -> None:
    cfg = load_run(RECIPES, words(drawn_shards / "train", tmp_path / "run")[2:])
    with pytest.raises(InputError, match="the samples are single people, and this needs whole photos"):
        run_module.run(cfg, resume=False)


def test_shards_of_whole_photos_are_refused_for_people(photos: Path, tmp_path: Path) -> None:
    recipes = (CONFIGS / "protocols" / "demo.yaml", CONFIGS / "methods" / "supervised.yaml")
    cfg = load_run(recipes, [f"data.train={photos}", f"data.val={photos}", f"output={tmp_path / 'run'}"])
    with pytest.raises(InputError, match="are whole photos, and this needs single people"):
        run_module.run(cfg, resume=False)


@pytest.mark.parametrize(
    "family", ["dekr", *(pytest.param(f, marks=pytest.mark.slow) for f in ("ae", "cid"))]
)
def test_a_run_that_lost_its_end_repeats_it_to_the_bit(family: str, photos: Path, tmp_path: Path) -> None:
    """In the middle of the ramp: student, average, ring, mixture, optimiser, draws and both streams."""
    folder = tmp_path / "run"
    schedule = (
        "steps=6",
        "method.burn_in=0.3",
        "method.ramp_up=0.6",
        "checkpoint_every=3",
        "evaluate_every=6",
    )
    run = words(photos, folder, f"net.head.name={family}", *schedule)
    run_module.main(run)
    last = checkpoint.latest(folder)
    assert checkpoint.step_of(last) == 6
    expected = checkpoint.load_shared(last)
    shutil.rmtree(last)
    (folder / "scores.json").unlink()
    run_module.main(run)
    again = checkpoint.load_shared(checkpoint.latest(folder))
    for part in ("method", "optimizer"):
        assert_equal(expected[part], again[part])


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    else:
        assert one == other
