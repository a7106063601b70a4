"""A folder of photos as unlabelled whole photos: nobody says where people are."""

import io
import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from semipose.configs.load import InputError, load
from semipose.pipelines.photo_loader import eval_photo_loader, unlabelled_photo_loader
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import labelled_split, open_split
from semipose.sharding.build import build
from semipose.sharding.check.report import check
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.photo import decode_people
from semipose.sharding.settings import BuildSettings
from tests.tars import stored_samples
from tests.test_architecture import ROOT

RECIPE = ROOT / "configs" / "shards" / "photos.yaml"


@pytest.fixture
def photos(tmp_path):
    """A JPEG, one that EXIF turns, a PNG, all of other sizes; and a file that is no photo."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size_wh, orientation in (
        ("a.jpg", (90, 60), 1),
        ("b.jpg", (80, 50), 6),
        ("sub/c.png", (64, 64), 1),
    ):
        pixels = rng.integers(0, 255, (size_wh[1] // 10, size_wh[0] // 10, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).resize(size_wh).save(folder / name, exif=exif)
    (folder / "readme.txt").write_text("about them")
    return folder


@pytest.fixture
def settings(photos, tmp_path):
    return load(BuildSettings, RECIPE, [f"source.images={photos}", f"output={tmp_path / 'x'}", "workers=1"])


def test_every_photo_is_stored_without_people(settings, tmp_path):
    manifest = build(settings, console=Console(quiet=True))
    assert (manifest.kind, manifest.num_samples, manifest.dropped) == ("image", 3, {})
    sizes = []
    for _, members in stored_samples(tmp_path / "x"):
        assert [len(part) for part in decode_people(members["pose"], 17)] == [0, 0, 0]
        assert members["mask"] == bytes(2048)
        sizes.append((json.loads(members["json"])["file_name"], Image.open(io.BytesIO(members["jpg"])).size))
    assert sizes == [("a.jpg", (90, 60)), ("b.jpg", (50, 80)), ("sub/c.png", (64, 64))]
    verify(VerifySettings(verify=tmp_path / "x", workers=1), console=Console(quiet=True))
    assert build(settings, console=Console(quiet=True)) == manifest


def faults_of(settings):
    with suppress(InputError):
        check(settings, console=Console(quiet=True))
    return json.loads(settings.output.with_name("x.check.json").read_text())["faults"]


def test_they_are_checked_as_other_photos_are(settings, photos):
    (passed_over,) = [fault for fault in faults_of(settings) if fault["effect"] == "passed over"]
    assert passed_over["detail"] == "1 .txt"
    assert not [fault for fault in faults_of(settings) if fault["effect"] == "stops"]
    (photos / "d.jpg").write_bytes(b"no photo")
    assert [fault["ids"] for fault in faults_of(settings) if fault["effect"] == "stops"] == [["d.jpg"]]
    with pytest.raises(InputError, match=r"d\.jpg .*the image is damaged"):
        build(settings, console=Console(quiet=True))


def test_they_are_unlabelled_photos(settings, tmp_path):
    build(settings, console=Console(quiet=True))
    split = open_split(tmp_path / "x", "image")
    views = PhotoViewSettings(size=64)
    batch = next(unlabelled_photo_loader(split, views, batch_size=3, seed=0))
    assert batch.weak.shape == batch.strong.shape == (3, 3, 64, 64)
    (scored,) = eval_photo_loader(split, views, batch_size=3)
    assert [record["file_name"] for record in scored.records] == ["a.jpg", "b.jpg", "sub/c.png"]
    with pytest.raises(InputError, match="none of the 3 samples has an annotated keypoint"):
        labelled_split(split, 1, index_dir=tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [("kind=person", "set kind=image"), ("empty_photos=drop", "set empty_photos=keep")],
)
def test_other_settings_would_store_nothing(photos, override, words):
    with pytest.raises((ValidationError, InputError), match=words):
        load(BuildSettings, RECIPE, [f"source.images={photos}", override])
