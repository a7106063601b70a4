"""Warnings about settings that are probably unintended."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from semipose.pipelines.source import Split
from semipose.sharding.annotations.boxes import NoBoxes
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton
from semipose.sharding.annotations.split import SideCount, SplitCard
from semipose.sharding.build import build
from semipose.sharding.samples.crop import PersonCrop, WholePhoto
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.build import open_splits
from semipose.training.reporting.setting_warnings import limits_of_scoring, setting_warnings
from semipose.training.settings import RunSettings, load_run
from tests.training.scoring.test_oks import make_ground_truth

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
MakeRun = Callable[..., RunSettings]


def told(cfg: RunSettings, folder: Path) -> list[str]:
    return setting_warnings(cfg, *open_splits(cfg, folder))


@pytest.mark.parametrize("method", ["supervised", "everything"])
def test_of_a_sound_run_nothing(tiny_run: MakeRun, tmp_path: Path, method: str) -> None:
    assert told(tiny_run(method, "views.size_hw=[256,192]"), tmp_path) == []


@pytest.mark.parametrize("size_hw", ["[260,192]", "[256,196]"])
def test_views_larger_than_those_that_people_are_stored_for(
    tiny_run: MakeRun, tmp_path: Path, size_hw: str
) -> None:
    train, val = told(tiny_run("everything", f"views.size_hw={size_hw}"), tmp_path)
    height, width = size_hw.strip("[]").split(",")
    assert f"stored for views of 256 x 192 pixels (height x width) but shown at {height} x {width}" in train
    assert train.endswith(f"crop.input_size_wh=[{width},{height}]")
    assert "/train: " in train
    assert "/val: " in val


def test_people_that_are_trained_on_and_scored(tiny_run: MakeRun, drawn_shards: Path, tmp_path: Path) -> None:
    (sentence,) = told(tiny_run("supervised", f"data.val={drawn_shards / 'train'}"), tmp_path)
    assert "of the people who are scored are also trained on" in sentence
    assert "build data.val from other photos" in sentence
    (sentence,) = told(tiny_run("everything", f"data.unlabelled={drawn_shards / 'val'}"), tmp_path / "more")
    assert sentence.startswith(f"{drawn_shards / 'val'}: ")
    assert (
        f"build {drawn_shards / 'val'} again without them; for a folder of photos, source.labelled."
        in sentence
    )


@pytest.mark.parametrize(
    ("words", "is_scored_once"),
    [
        (["evaluate_every=5000", "steps=2000"], True),
        (["evaluate_every=6"], True),
        (["evaluate_every=0.9"], True),
        (["evaluate_every=5"], False),
        (["evaluate_every=0.5"], False),
        (["evaluate_every=5000", "steps=1"], False),
    ],
)
def test_a_run_that_is_scored_at_its_end_alone(
    words: list[str], is_scored_once: bool, tiny_run: MakeRun
) -> None:
    truth: dict[str, Any] = {"images": [], "annotations": []}
    told = limits_of_scoring(tiny_run("supervised", *words), GroundTruth(truth, COCO_17))
    assert len(told) == is_scored_once
    assert all("is scored only at its end: use a share of the run" in each for each in told)


def test_more_people_in_a_photo_than_the_scorer_looks_at(tiny_run: MakeRun) -> None:
    truth = make_ground_truth(17, images=15)
    cfg = tiny_run("supervised", "evaluate_every=1")
    assert limits_of_scoring(cfg, GroundTruth(truth, COCO_17)) == []
    for row in truth["annotations"]:
        row["image_id"] = 100
    (sentence,) = limits_of_scoring(cfg, GroundTruth(truth, COCO_17))
    assert sentence.startswith(
        f"{cfg.data.val}: 10 of the 30 people who are scored are beyond the 20 in a photo"
    )
    assert "(photos with more: 1, such as 0.jpg), so AP and AR are at most 0.667" in sentence


@pytest.mark.parametrize(
    ("change", "is_doubtful"),
    [
        ({}, False),
        ({"seed": 1}, True),
        ({"val_share": 0.5}, True),
        ({"group": "folder"}, True),
        ({"take": "train"}, True),
        ({"val": SideCount(groups=9, photos=9, people=99)}, False),  # of another source
    ],
)
def test_sides_of_different_divisions(
    change: dict[str, Any], is_doubtful: bool, tiny_run: MakeRun, tmp_path: Path
) -> None:
    cfg = tiny_run("supervised", "views.size_hw=[256,192]")
    labelled, unlabelled, val = open_splits(cfg, tmp_path)
    count = SideCount(groups=2, photos=2, people=3)
    card = SplitCard(take="train", val_share=0.2, seed=0, group="photo", train=count, val=count)
    trained_on = with_card(labelled, card)
    scored = with_card(val, replace(card, **{"take": "val", **change}))
    found = setting_warnings(cfg, trained_on, unlabelled, scored)
    assert len(found) == is_doubtful
    assert all("are not the two sides of one division" in each for each in found)


@pytest.mark.parametrize(
    ("crop", "own", "scored"),
    [
        (PersonCrop(margin=2.0), "crop.margin=2.0", "crop.margin=1.5"),
        (
            PersonCrop(input_size_wh=(288, 384)),
            "crop.input_size_wh=[288,384]",
            "crop.input_size_wh=[192,256]",
        ),
        (
            PersonCrop(margin=2.0, oversample=2.0),
            "crop.margin=2.0 crop.oversample=2.0",
            "crop.margin=1.5 crop.",
        ),
        (WholePhoto(), "crop.name=none crop.longest_side=null", "crop.name=person crop.margin=1.5 "),
    ],
)
@pytest.mark.parametrize("role", ["labelled", "unlabelled", "sources"])
def test_shards_that_are_cut_otherwise_than_the_scored_ones(
    role: str, crop: PersonCrop | WholePhoto, own: str, scored: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    cfg = tiny_run("supervised", "views.size_hw=[256,192]")
    labelled, _, val = open_splits(cfg, tmp_path)
    other = replace(labelled, shards=replace(labelled.shards, root="others"))
    other = with_manifest(other, crop=crop)
    splits = {"labelled": (other, None, val), "unlabelled": (labelled, other, val)}
    splits["sources"] = (labelled, None, val, [other])  # type: ignore[assignment]
    (sentence,) = setting_warnings(cfg, *splits[role])
    assert sentence.startswith(f"others is stored with {own}, but {val.root} with {scored}")
    assert sentence.endswith("build one of the two again with the settings of the other")


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ("[[{name: joint_cutout, count: 4}]]", "joint_cutout.count=4"),
        ("[[{name: joint_cutout, count: 3}]]", None),
        ("[[], [{name: cutout, count: 9}, {name: random_masks, max_masks: 5}]]", "random_masks.max_masks=5"),
        ("[[{name: random_masks, max_masks: 3}]]", None),
        ("[[{name: adaptive_masks, max_masks: 4}]]", "adaptive_masks.max_masks=4"),
        ("[[{name: adaptive_masks}]]", None),  # two of four
        ("[[{name: cut_occlude, count: 4}]]", "cut_occlude.count=4"),
        (
            "[[{name: cut_occlude}, {name: joint_cutout}], [{name: random_masks}]]",
            "joint_cutout.count=5, random_masks.max_masks=4",
        ),
    ],
)
def test_masks_that_hide_all_of_few_keypoints(
    paths: str, named: str | None, tiny_run: MakeRun, tmp_path: Path
) -> None:
    """The published numbers are meant for 14 to 17 keypoints; here the people have four."""
    cfg = tiny_run("everything", "views.size_hw=[256,192]", f"method.paths={paths}")
    labelled, unlabelled, val = open_splits(cfg, tmp_path)
    four = Skeleton(names=("a", "b", "c", "d"), flip_pairs=(), bones=(), sigmas=(0.1,) * 4)
    labelled = with_manifest(labelled, skeleton=four)
    found = setting_warnings(cfg, labelled, unlabelled, val)
    assert len(found) == (named is not None)
    assert all(each.startswith(f"method.paths: {named} can hide all 4 keypoints") for each in found)
    assert all("take at most 3; the share that Meng et al. publish is 2" in each for each in found)


def test_the_order_of_the_samples_is_no_difference(tiny_run: MakeRun, tmp_path: Path) -> None:
    cfg = tiny_run("supervised", "views.size_hw=[256,192]")
    labelled, _, val = open_splits(cfg, tmp_path)
    assert setting_warnings(cfg, with_manifest(labelled, order="file", seed=7), None, val) == []


def with_card(split: Split, card: SplitCard) -> Split:
    """The same people, as one side of a source."""
    return with_manifest(split, split=card)


def with_manifest(people: Split, **changes: Any) -> Split:
    """The same people under another description of their shards."""
    manifest = replace(people.manifest, **changes)
    return replace(people, shards=replace(people.shards, manifest=manifest))


# --- whole photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `train` and `val` of drawn scenes, and `bare`, the photos of `val` without annotations."""
    folder = tmp_path_factory.mktemp("photos")
    scenes = {"crop": WholePhoto(), "kind": "image", "workers": 1}
    for seed, name in enumerate(("train", "val")):
        source = DrawnFormat(folder=folder / "coco" / name, people=12, seed=seed)
        build(
            BuildSettings(source=source, output=folder / name, **scenes),  # type: ignore[arg-type]
            console=Console(quiet=True),
        )
    bare = FolderFormat(images=str(folder / "coco" / "val" / "images"), skeleton="lsp", boxes=NoBoxes())
    settings = BuildSettings(source=bare, output=folder / "bare", empty_photos="keep", **scenes)  # type: ignore[arg-type]
    build(settings, console=Console(quiet=True))
    return folder


def told_of_photos(photos: Path, folder: Path, *words: str) -> list[str]:
    recipes = [CONFIGS / "protocols" / "scenes.yaml", CONFIGS / "methods" / "detector_free.yaml"]
    data = [f"data.train={photos / 'train'}", f"data.val={photos / 'val'}", "data.labelled_share=0.5"]
    return told(load_run(recipes, [*data, f"output={folder}", *words]), folder)


def test_of_a_sound_run_on_whole_photos_nothing(photos: Path, tmp_path: Path) -> None:
    assert told_of_photos(photos, tmp_path) == []


@pytest.mark.parametrize("name", ["val", "bare"])
def test_whole_photos_that_are_trained_on_and_scored(name: str, photos: Path, tmp_path: Path) -> None:
    """Also those without people, by their names and pixels."""
    (sentence,) = told_of_photos(photos, tmp_path, f"data.unlabelled={photos / name}")
    count = len(list((photos / "coco" / "val" / "images").iterdir()))
    assert (
        f"{count} of {count} photos of the people who are scored are also trained on (000001.jpg, "
        in sentence
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["views.size_hw=[64, 48]"],
            "a run on whole photos does not use views: its own settings are photo_views and codec",
        ),
        (
            ["heatmap.sigma=1.5", "data.cache=host"],
            "a run on whole photos does not use heatmap and data.cache: ",
        ),
    ],
)
def test_settings_of_people_in_a_run_on_whole_photos(
    words: list[str], says: str, photos: Path, tmp_path: Path
) -> None:
    (sentence,) = told_of_photos(photos, tmp_path, *words)
    assert sentence.startswith(says)


def test_settings_of_whole_photos_in_a_run_on_people(tiny_run: MakeRun, tmp_path: Path) -> None:
    (sentence,) = told(tiny_run("supervised", "photo_views.size=96"), tmp_path)
    assert sentence.startswith("a run on people does not use photo_views: its own settings are views")
