"""The ignored area of a photo, as bits of a grid, against pycocotools and against slow loops."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.build import build
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.samples.ignored_area import MASK_BYTES, decode_ignored, encode_ignored
from semipose.sharding.settings import BuildSettings
from tests.tars import stored_samples


@pytest.fixture
def small(make_set):
    return make_set(photos=5)


def row(segmentation=None, bbox=(0, 0, 1, 1), number=7):
    return {"id": number, "bbox": list(bbox)} | (
        {} if segmentation is None else {"segmentation": segmentation}
    )


def cells_of(rows, size_wh, outlines=None, keypoints=()):
    payload = encode_ignored(rows, outlines or {}, keypoints, size_wh, where="a.jpg")
    assert len(payload) == MASK_BYTES == 2048
    return decode_ignored(payload)


def shares(pixels):
    """The ignored share of each cell of a mask (H, W), from its integral, which is linear between pixels."""
    height, width = pixels.shape
    integral = np.zeros((height + 1, width + 1))
    integral[1:, 1:] = pixels.cumsum(0, dtype=float).cumsum(1)
    rows, columns = (np.linspace(0, side, 129) for side in (height, width))
    across = np.array([np.interp(columns, np.arange(width + 1), line) for line in integral])
    corners = np.array([np.interp(rows, np.arange(height + 1), line) for line in across.T]).T
    return np.diff(np.diff(corners, axis=0), axis=1) * 128 * 128 / (height * width)


def runs_of(pixels):
    """Uncompressed run lengths, which go down the columns and begin with zeros."""
    counts, value = [0], 0
    for pixel in pixels.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def blobs(size_hw, seed):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(size_hw), (0, 0), 5)
    return (noise > np.quantile(noise, 0.6)).astype(np.uint8)


@pytest.mark.parametrize("size_hw", [(96, 160), (300, 201), (128, 128), (40, 500)])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_crowd_is_what_pycocotools_reads(size_hw, is_compressed):
    pixels = blobs(size_hw, seed=1)
    compressed = coco_masks.encode(np.asfortranarray(pixels))
    counts = compressed["counts"].decode() if is_compressed else runs_of(pixels)
    found = cells_of([row({"counts": counts, "size": list(size_hw)})], size_hw[::-1])
    assert np.array_equal(found, shares(coco_masks.decode(compressed)) > 0.5 + 1e-8)
    assert 0.2 < found.mean() < 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 10**6))
def test_any_compressed_runs_are_read(height, width, seed):
    pixels = (np.random.default_rng(seed).random((height, width)) < 0.3).astype(np.uint8)
    compressed = coco_masks.encode(np.asfortranarray(pixels))["counts"].decode()
    plain, other = (
        cells_of([row({"counts": counts, "size": [height, width]})], (width, height))
        for counts in (compressed, runs_of(pixels))
    )
    assert np.array_equal(plain, other)


def test_polygons_are_those_of_pycocotools_but_for_their_edge():
    height, width = 400, 600
    rng = np.random.default_rng(0)
    angles = np.sort(rng.random(40)) * 2 * np.pi
    polygons = []
    for centre, radius in (((200, 180), 120), ((260, 220), 100)):  # they overlap, which leaves no hole
        ring = np.stack((np.cos(angles), np.sin(angles)), 1) * radius * rng.uniform(0.7, 1, (40, 1)) + centre
        polygons.append(ring.ravel().tolist())
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, height, width)))
    found = cells_of([row(polygons)], (width, height))
    edge = cv2.morphologyEx(expected, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    is_sure = shares(edge) < 1e-9
    assert is_sure.mean() > 0.8
    assert np.array_equal(found[is_sure], shares(expected)[is_sure] > 0.5 + 1e-8)
    assert abs(found.mean() - expected.mean()) < 0.005


def test_without_a_polygon_the_box_is_ignored():
    expected = np.zeros((128, 128), bool)
    expected[32:64, 16:96] = True
    for segmentation in (None, [], [[1, 2, 3, 4]]):
        assert np.array_equal(cells_of([row(segmentation, (32, 96, 159, 95))], (256, 384)), expected)


def test_outlines_that_are_not_in_the_row_count():
    square = [[32, 96, 191, 96, 191, 191, 32, 191]]
    expected = np.zeros((128, 128), bool)
    expected[32:64, 16:96] = True
    found = cells_of([row(bbox=(0, 0, 255, 383))], (256, 384), outlines={7: json.dumps(square).encode()})
    assert np.array_equal(found, expected)


def test_a_labelled_keypoint_inside_a_silhouette_still_counts():
    everything = row(bbox=(0, 0, 255, 383))
    keypoints = np.array([[100.4, 200.0, 2], [0, 383, 1], [30, 30, 0], [-900, 9e9, 1]])
    expected = np.ones((128, 128), bool)
    expected[65:68, 49:52] = False  # (200 + .5) / 3 = 66.8; (100.4 + .5) / 2 = 50.5
    expected[126:128, 0:2] = False
    assert np.array_equal(cells_of([everything], (256, 384), keypoints=[keypoints]), expected)
    assert not cells_of([], (256, 384), keypoints=[keypoints]).any()


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"counts": [10, 5], "size": [3, 5]}, "it is of a photo of 5x3 pixels, and this one has 40x30"),
        ({"counts": [10, 5], "size": [30, 40]}, "its runs cover 15 of 1200 pixels"),
        ({"counts": [2400, -1200], "size": [30, 40]}, "its runs cover"),
        ({"counts": "!!", "size": [30, 40]}, "its runs cover"),
        ({"counts": [1200]}, "size"),
        ([[1, 2, 3]], "reshape"),
        ([["a"]], "could not convert"),
        (7, "not iterable"),
    ],
)
def test_a_segmentation_that_does_not_fit_is_named(segmentation, words):
    with pytest.raises(InputError, match=r"^a\.jpg: annotation 7: its segmentation .*correct it") as error:
        cells_of([row(segmentation)], (40, 30))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 2047, 2049])
def test_masks_of_another_size_are_refused(size):
    with pytest.raises(InputError, match=rf"a mask has {size} bytes instead of 2048"):
        decode_ignored(bytes(size))


def test_masks_of_built_shards_are_what_pycocotools_decodes_of_the_same_rows(small, tmp_path, quiet):
    """A crowd in both forms of runs, and people without keypoints by their polygons, which overlap."""
    width, height = 200, 150
    runs = [blobs((height, width), seed) for seed in (1, 2)]
    compressed = coco_masks.encode(np.asfortranarray(runs[1]))
    square, other = [10.0, 20.0, 90.0, 20.0, 90.0, 120.0, 10.0, 120.0], [60.0, 40, 150, 60, 90, 140]
    segmentations = [
        {"counts": runs_of(runs[0]), "size": [height, width]},
        {"counts": compressed["counts"].decode(), "size": [height, width]},
        [square, other],
        [other],
    ]
    rows = small.content["annotations"]
    for number, segmentation in enumerate(segmentations):
        hidden = {"iscrowd": int(number < 2), "num_keypoints": 0, "keypoints": [0] * 51}
        rows.append({**rows[0], **hidden, "id": 900 + number, "image_id": number + 1})
        rows[-1]["segmentation"] = segmentation
    rows.append({**rows[-2], "id": 910, "image_id": 1})  # a crowd and a person in one photo
    small.save()
    output = tmp_path / "x"
    build(small.settings(output, kind="image", crop=WholePhoto()), console=quiet)
    checked = 0
    for _, members in stored_samples(output):
        image_id = json.loads(members["json"])["image_id"]
        ignored, edge = np.zeros((2, height, width), np.uint8)
        for one in (row for row in rows if row["image_id"] == image_id and row["id"] >= 900):
            runs = one["segmentation"]
            if isinstance(runs, list):
                runs = coco_masks.merge(coco_masks.frPyObjects(runs, height, width))
            elif isinstance(runs["counts"], list):
                runs = coco_masks.frPyObjects(runs, height, width)
            pixels = coco_masks.decode(runs)
            ignored |= pixels
            if not one["iscrowd"]:  # a polygon's edge is drawn differently, by a pixel
                edge |= cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        expected, is_sure = shares(ignored) > 0.5 + 1e-8, shares(edge) < 1e-9
        for one in (row for row in rows if row["image_id"] == image_id and row["id"] < 900):
            for x, y, v in np.reshape(one["keypoints"], (-1, 3)):
                if v > 0:  # labelled keypoints count, whatever they are inside of
                    column, line = int((x + 0.5) / width * 128), int((y + 0.5) / height * 128)
                    expected[max(0, line - 1) : line + 2, max(0, column - 1) : column + 2] = False
                    is_sure[max(0, line - 1) : line + 2, max(0, column - 1) : column + 2] = True
        mask = decode_ignored(members["mask"])
        assert np.array_equal(mask[is_sure], expected[is_sure])
        assert mask.any() == (image_id <= 4)
        assert is_sure.mean() > 0.8
        checked += 1
    assert checked == 5


def test_real_coco(shared_data, tmp_path, quiet):
    """The area of crowds and of people without keypoints, of all photos that have some."""
    folder = shared_data / "coco"
    path = folder / "annotations" / "person_keypoints_val2017_joined.json"
    source = CocoFormat(annotations=path, images=folder / "images" / "val2017")
    output = tmp_path / "x"
    build(
        BuildSettings(source=source, output=output, kind="image", crop=WholePhoto(), workers=1), console=quiet
    )
    rows = {row["id"]: row for row in json.loads(path.read_text())["annotations"]}
    checked = 0
    for _, members in stored_samples(output):
        card = json.loads(members["json"])
        if not card["ignored"]:
            assert members["mask"] == bytes(MASK_BYTES)
            continue
        found = decode_ignored(members["mask"])
        width, height = card["source_size"]
        pixels, edge = np.zeros((2, height, width), np.uint8)
        for ignored in card["ignored"]:
            assert ("segmentation" in ignored) == bool(ignored["iscrowd"])
            runs = coco_masks.frPyObjects(rows[ignored["id"]]["segmentation"], height, width)
            one = coco_masks.decode(coco_masks.merge(runs) if isinstance(runs, list) else runs)
            pixels |= one
            edge |= cv2.morphologyEx(one, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        is_sure = shares(edge) < 1e-9
        for number in card["ids"]:
            for x, y, v in np.reshape(rows[number]["keypoints"], (-1, 3)):
                if v > 0:
                    column, line = int((x + 0.5) / width * 128), int((y + 0.5) / height * 128)
                    is_sure[max(0, line - 1) : line + 2, max(0, column - 1) : column + 2] = False
                    assert not found[line, column]
        assert np.array_equal(found[is_sure], shares(pixels)[is_sure] > 0.5 + 1e-8)
        checked += 1
    assert checked > 20
