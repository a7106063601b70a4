"""`kind: image`: whole photos with all their people, ragged, and the regions that say nothing."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.build import build
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.samples.ignored_area import decode_ignored
from semipose.sharding.samples.photo import decode_people, encode_people
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.manifest import read_manifest, write_manifest
from tests.tars import stored_samples


@pytest.fixture
def small(make_set):
    """Five photos: two persons, one and a crowd, none but a crowd, none at all, one and an unlabelled one."""
    small = make_set()
    rows = small.content["annotations"]
    mask = {"counts": [10, 5, 29985], "size": [150, 200]}
    rows[3].update(iscrowd=1, segmentation=mask)
    rows[4].update(iscrowd=1)
    del rows[5]
    rows[5:7] = []
    rows[6].update(keypoints=[0] * 51, num_keypoints=0)
    small.save()
    return small


def build_images(small, output, quiet, **changes):
    settings = {"kind": "image", "crop": WholePhoto(), "samples_per_shard": 2, **changes}
    return build(small.settings(output, **settings), console=quiet)


def test_one_sample_a_photo_with_all_its_people(small, tmp_path, quiet):
    manifest = build_images(small, tmp_path / "x", quiet)
    assert (manifest.kind, manifest.num_samples) == ("image", 3)
    by_id = {row["id"]: row for row in small.content["annotations"]}
    found = []
    for _, members in stored_samples(tmp_path / "x"):
        card = json.loads(members["json"])
        assert members["jpg"] == (small.images / card["file_name"]).read_bytes()
        boxes, keypoints, ignored = decode_people(members["pose"], 17)
        found.append((card["id"], card["ids"], [row["id"] for row in card["ignored"]], len(ignored)))
        assert len(boxes) == len(keypoints) == len(card["ids"]) == len(card["areas"])
        for number, box, points in zip(card["ids"], boxes, keypoints, strict=True):
            annotated = np.array(by_id[number]["keypoints"]).reshape(17, 3)
            annotated[annotated[:, 2] == 0] = 0
            np.testing.assert_allclose(points, annotated, atol=1e-3)
            np.testing.assert_allclose(box[:2], by_id[number]["bbox"][:2], atol=1e-3)
        for row, box in zip(card["ignored"], ignored, strict=True):
            np.testing.assert_allclose(box, by_id[row["id"]]["bbox"], atol=1e-3)
    assert found == [(1, [10, 11], [], 0), (2, [20], [21], 1), (5, [50], [51], 1)]


def test_crowds_keep_their_mask(small, tmp_path, quiet):
    build_images(small, tmp_path / "x", quiet)
    cards = [json.loads(members["json"]) for _, members in stored_samples(tmp_path / "x")]
    (crowd,) = cards[1]["ignored"]
    assert crowd["iscrowd"] == 1
    assert crowd["segmentation"] == {"counts": [10, 5, 29985], "size": [150, 200]}
    assert cards[2]["ignored"][0]["iscrowd"] == 0


def test_crowds_and_people_without_keypoints_are_in_the_mask(small, tmp_path, quiet):
    outline = [[100, 75, 200, 75, 200, 150, 100, 150]]
    small.content["annotations"][6]["segmentation"] = outline
    small.save()
    build_images(small, tmp_path / "x", quiet)
    samples = [members for _, members in stored_samples(tmp_path / "x")]
    assert [len(members["mask"]) for members in samples] == [2048] * 3
    none, crowd, unlabelled = (decode_ignored(members["mask"]) for members in samples)
    assert not none.any()
    assert np.argwhere(crowd).tolist() == [[9, 0], [10, 0], [11, 0], [12, 0]]  # rows 10 to 14 of column 0
    assert 0.1 < unlabelled[64:, 64:].mean() <= 1  # without the cells at the keypoints of the other person
    assert not unlabelled[:63].any()
    assert not unlabelled[:, :63].any()
    for member in (samples[2]["json"], (tmp_path / "x" / "ground_truth.json").read_bytes()):
        assert b"[[100,75" not in member


def test_another_outline_makes_other_shards(small, tmp_path, quiet):
    build_images(small, tmp_path / "x", quiet)
    small.content["annotations"][6]["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    small.save()
    with pytest.raises(InputError, match="made from other annotations or settings"):
        build_images(small, tmp_path / "x", quiet)


def test_shards_without_masks_are_refused(small, tmp_path, quiet):
    manifest = build_images(small, tmp_path / "x", quiet)
    write_manifest(tmp_path / "x", dataclasses.replace(manifest, format_version=1))
    with pytest.raises(InputError, match=r"version 1, .* reads 2 of kind image: build the shards again"):
        read_manifest(tmp_path / "x")


def test_a_mask_of_another_photo_stops_the_build(small, tmp_path, quiet):
    small.content["annotations"][3]["segmentation"]["size"] = [200, 150]
    small.save()
    with pytest.raises(
        InputError,
        match=r"002\.jpg: annotation 21: its segmentation .*150x200 pixels, and this one has 200x150",
    ):
        build_images(small, tmp_path / "x", quiet)


def test_empty_photos_are_kept_where_asked_and_come_last(small, tmp_path, quiet):
    manifest = build_images(small, tmp_path / "x", quiet, empty_photos="keep")
    cards = [json.loads(members["json"]) for _, members in stored_samples(tmp_path / "x")]
    assert [card["id"] for card in cards] == [1, 2, 5, 3, 4]
    assert [len(card["ids"]) for card in cards] == [2, 1, 1, 0, 0]
    truth = json.loads((tmp_path / "x" / "ground_truth.json").read_text())
    assert [row["id"] for row in truth["images"]] == [1, 2, 5, 3, 4]
    assert {row["id"] for row in truth["annotations"] if row["iscrowd"]} == {21, 30}
    assert manifest.num_samples == 5


def test_photos_are_scaled_down_with_their_people(small, tmp_path, quiet):
    build_images(small, tmp_path / "x", quiet, crop=WholePhoto(longest_side=100))
    members = stored_samples(tmp_path / "x")[0][1]
    card = json.loads(members["json"])
    stored = np.asarray(Image.open(io.BytesIO(members["jpg"])), float)
    assert stored.shape == (75, 100, 3)
    photo = np.asarray(Image.open(small.images / card["file_name"]), float)
    halved = photo.reshape(75, 2, 100, 2, 3).mean((1, 3))
    assert np.abs(stored - halved).mean() < 7  # the chroma of noise does not survive JPEG
    assert np.abs(stored[:, 1:] - halved[:, :-1]).mean() > 10, "a shift by a pixel must show"
    matrix = np.array(card["image_from_stored"])
    np.testing.assert_allclose(matrix, [[2, 0, 0.5], [0, 2, 0.5]])
    _, keypoints, _ = decode_people(members["pose"], 17)
    annotated = np.array(small.content["annotations"][0]["keypoints"]).reshape(17, 3)
    labelled = annotated[:, 2] > 0
    np.testing.assert_allclose(
        (keypoints[0, :, :2] @ matrix[:, :2].T + matrix[:, 2])[labelled], annotated[labelled, :2], atol=1e-3
    )


def test_limit_counts_photos(small, tmp_path, quiet):
    assert build_images(small, tmp_path / "x", quiet, limit=2).num_samples == 2


def test_person_crops_are_refused(small, tmp_path):
    with pytest.raises(ValidationError, match=r"crop\.name=none"):
        small.settings(tmp_path, kind="image")


class TestRecord:
    def test_round_trip(self):
        rng = np.random.default_rng(0)
        boxes, keypoints, ignored = rng.random((3, 4)), rng.random((3, 5, 3)), rng.random((2, 4))
        payload = encode_people(boxes_xywh=boxes, keypoints=keypoints, ignored_xywh=ignored)
        assert len(payload) == 4 * (2 + 3 * (4 + 15) + 2 * 4)
        for back, original in zip(decode_people(payload, 5), (boxes, keypoints, ignored), strict=True):
            np.testing.assert_array_equal(back, original.astype(np.float32))

    def test_nobody_is_not_an_empty_record(self):
        payload = encode_people(boxes_xywh=[], keypoints=[], ignored_xywh=[])
        assert payload == bytes(8)
        assert [part.shape for part in decode_people(payload, 17)] == [(0, 4), (0, 17, 3), (0, 4)]

    @pytest.mark.parametrize("payload", [b"", b"x", bytes(4), np.array([1, 0], "<f4").tobytes(), bytes(12)])
    def test_other_lengths_are_refused(self, payload):
        with pytest.raises(InputError, match="cannot hold people with 17 keypoints"):
            decode_people(payload, 17)


def test_real_coco(shared_data, tmp_path, quiet):
    folder = shared_data / "coco"
    source = CocoFormat(
        annotations=folder / "annotations" / "person_keypoints_val2017_joined.json",
        images=folder / "images" / "val2017",
    )
    settings = BuildSettings(
        source=source, output=tmp_path / "x", kind="image", crop=WholePhoto(), limit=40, workers=1
    )
    build(settings, console=quiet)
    persons = {person.id: person for person in source.read().persons}
    stored = 0
    for _, members in stored_samples(tmp_path / "x"):
        card = json.loads(members["json"])
        _, keypoints, _ = decode_people(members["pose"], 17)
        for number, points in zip(card["ids"], keypoints, strict=True):
            expected = np.where(persons[number].keypoints[:, 2:] > 0, persons[number].keypoints, 0)
            np.testing.assert_allclose(points, expected, atol=1e-3)
            stored += 1
    assert stored > 40
