"""Photos that are scored and trained on too are found by what they show, and no others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from semipose.pipelines.source import Split, labelled_split, open_split
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.build import build
from semipose.sharding.samples.crop import Crop, PersonCrop, WholePhoto
from semipose.sharding.settings import BuildSettings
from semipose.training.reporting.shared_photos import looks_same, plain_name, shared_photos

Rows = dict[str, Any]


@pytest.fixture(scope="module")
def photos(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn training pictures in `same`, and under the same names in `other` what differs from them."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copytree(drawn_shards / "train-coco" / "images", folder / "same")
    (folder / "other").mkdir()
    for path in (folder / "same").iterdir():
        ImageOps.mirror(Image.open(path)).save(folder / "other" / path.name, quality=95)
    return folder


@pytest.fixture(scope="module")
def rows(drawn_shards: Path) -> Rows:
    return json.loads((drawn_shards / "train-coco" / "annotations.json").read_text())


@pytest.fixture(scope="module")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Rows, str, Crop], Path]:
    """Shards of some rows with the pictures of a folder."""

    def make(rows: Rows, images: str, crop: Crop = PersonCrop()) -> Path:  # noqa: B008
        folder = tmp_path_factory.mktemp("built")
        (folder / "rows.json").write_text(json.dumps(rows))
        source = CocoFormat(annotations=folder / "rows.json", images=photos / images)
        settings = BuildSettings(source=source, output=folder / "shards", crop=crop, workers=1)
        build(settings, console=Console(quiet=True))
        return folder / "shards"

    return make


def annotated_again(rows: Rows, seed: int = 0) -> Rows:
    """Half of the photos, by somebody else who marked other boxes and other joints."""
    rng = np.random.default_rng(seed)
    images = rows["images"][::2]
    kept = {image["id"] for image in images}
    people = [{**row, "id": 900 - row["id"]} for row in rows["annotations"] if row["image_id"] in kept]
    for row in people:
        row["bbox"] = (np.array(row["bbox"]) * rng.uniform(0.9, 1.1, 4)).tolist()
        row["keypoints"] = [value + (index % 3 < 2) for index, value in enumerate(row["keypoints"])]
    return {**rows, "images": images, "annotations": people}


@pytest.mark.parametrize(
    "crop", [PersonCrop(), PersonCrop(input_size_wh=(48, 64)), WholePhoto(), WholePhoto(longest_side=100)]
)
def test_photos_that_were_annotated_again_are_found_whatever_is_stored(
    crop: Crop, rows: Rows, shards: Callable[..., Path], drawn_shards: Path
) -> None:
    val = open_split(shards(annotated_again(rows), "same", crop))
    shared = shared_photos(val, [open_split(drawn_shards / "train")])
    assert shared.names == [image["file_name"] for image in rows["images"][::2]]
    assert (shared.num_photos, shared.is_complete) == (len(shared.names), True)
    other = open_split(shards(annotated_again(rows), "other", crop))
    assert shared_photos(other, [open_split(drawn_shards / "train")]).names == []


def test_photos_under_other_names_are_found_by_their_annotations_and_their_pixels(
    rows: Rows, photos: Path, shards: Callable[..., Path], drawn_shards: Path
) -> None:
    """The names are those of other training photos; of `other` photos all annotations are the same."""
    names = [image["file_name"] for image in rows["images"]]
    (photos / "renamed").mkdir()
    for old, new in zip(names, names[1:] + names[:1], strict=True):
        shutil.copy(photos / "same" / old, photos / "renamed" / new)
    images = [{**image, "file_name": name} for image, name in zip(rows["images"], names[1:], strict=False)]
    renamed = {**rows, "images": images}
    kept = {image["id"] for image in images}
    renamed["annotations"] = [row for row in rows["annotations"] if row["image_id"] in kept]
    train = open_split(drawn_shards / "train")
    assert shared_photos(open_split(shards(renamed, "renamed")), [train]).names == names[1:]
    assert shared_photos(open_split(shards(rows, "other")), [train]).names == []


def test_names_and_sizes_alone_are_no_evidence(drawn_shards: Path, shared_data: Path, tmp_path: Path) -> None:
    """Both drawn sets have a 000001.jpg of 192x160; the sides of LSPET are photos of one folder."""
    train, val = (open_split(drawn_shards / name) for name in ("train", "val"))
    assert shared_photos(val, [train]).names == []
    sides = []
    for name, first, last in (("train", 1, 12), ("val", 13, 24)):
        folder = shared_data / "lspet"
        source = LspFormat(joints=folder / "joints.mat", images=folder / "images", first=first, last=last)
        settings = BuildSettings(source=source, output=tmp_path / name, missing_images="skip", workers=1)
        build(settings, console=Console(quiet=True))
        sides.append(open_split(tmp_path / name))
    assert shared_photos(sides[1], sides[:1]).names == []
    assert len(shared_photos(sides[1], sides).names) == shared_photos(sides[1], sides).num_photos > 3


def test_only_people_that_are_chosen_count(drawn_shards: Path, tmp_path: Path) -> None:
    train = open_split(drawn_shards / "train")
    few = labelled_split(train, 3, index_dir=tmp_path)
    truth = train.ground_truth
    names = truth.file_names
    expected = dict.fromkeys(names[row["image_id"]] for row in truth.annotations[:3])
    assert shared_photos(train, [few]).names == list(expected)


def test_unlabelled_photos_count_too(rows: Rows, photos: Path, drawn_shards: Path, tmp_path: Path) -> None:
    """Their people are whole photos without joints."""
    found = []
    for name in ("same", "other"):
        source = FolderFormat(images=photos / name, skeleton="lsp")
        build(BuildSettings(source=source, output=tmp_path / name, workers=1), console=Console(quiet=True))
        found.append(shared_photos(open_split(drawn_shards / "train"), [open_split(tmp_path / name)]).names)
    assert found == [[image["file_name"] for image in rows["images"]], []]


def test_streams_are_compared_without_reading_their_tars(
    rows: Rows, shards: Callable[..., Path], drawn_shards: Path
) -> None:
    """By the sizes of the stored pictures, where the boxes are equal; otherwise nothing is claimed."""
    half = {**rows, "images": rows["images"][::2]}
    kept = {image["id"] for image in half["images"]}
    half["annotations"] = [row for row in rows["annotations"] if row["image_id"] in kept]

    def streamed(folder: Path) -> Split:
        split = open_split(f"pipe:cat {folder}/{{file}}")
        for tar in folder.glob("*.tar"):
            tar.rename(tar.with_suffix(".moved"))
        return split

    train = open_split(drawn_shards / "train")
    names = [image["file_name"] for image in half["images"]]
    assert shared_photos(streamed(shards(half, "same")), [train]).names == names
    assert shared_photos(streamed(shards(half, "other")), [train]).names == []
    assert shared_photos(streamed(shards(annotated_again(rows), "same")), [train]).names == []


@pytest.mark.parametrize(
    ("file_name", "plain"),
    [
        ("a/b/IMG_1.JPG", "img_1"),
        ("a\\b\\IMG_1.png", "img_1"),
        ("my%20photo.jpg", "my photo"),
        ("IMG_1_jpg.rf.0a1b2c3d.jpg", "img_1"),
        ("0a1b2c3d-IMG_1.jpg", "img_1"),
        ("0a1b2c3d-.jpg", "0a1b2c3d-"),
        ("Cafe\u0301.jpg", "caf\u00e9"),
    ],
)
def test_names_are_compared_without_what_tools_add(file_name: str, plain: str) -> None:
    assert plain_name(file_name) == plain


def test_pictures_are_compared_where_both_are_inside_the_photo() -> None:
    """Two parts of one photo at two scales; one of them, said to lie 64 px aside, is another."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (12, 16), np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )

    def part(left: int, top: int, right: int, bottom: int, scale: float) -> tuple[Image.Image, np.ndarray]:
        size = (round((right - left) * scale), round((bottom - top) * scale))
        matrix = np.array(
            [[1 / scale, 0, left + (1 / scale - 1) / 2], [0, 1 / scale, top + (1 / scale - 1) / 2]]
        )
        return photo.crop((left, top, right, bottom)).resize(size, Image.Resampling.BILINEAR), matrix

    one, matrix = part(40, 30, 360, 350, 0.5)
    assert looks_same(one, matrix, *part(200, 100, 600, 460, 0.75)) is True
    assert (
        looks_same(one, matrix + np.array([[0, 0, 64], [0, 0, 0]]), *part(200, 100, 600, 460, 0.75)) is False
    )
    assert looks_same(one, matrix, *part(355, 340, 600, 460, 1.0)) is None
    grey = Image.new("L", (100, 100), 90)
    assert looks_same(grey, matrix, grey, matrix) is None
    assert looks_same(grey, matrix, Image.new("L", (100, 100), 140), matrix) is False
