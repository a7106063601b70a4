import copy
import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.formats.coco import TURNED_BOX, CocoFormat


@pytest.fixture
def small(make_set):
    return make_set(photos=3)


def read(small):
    small.save()
    return small.source.read()


class TestPublishedRule:
    def test_order_is_that_of_images_then_annotations(self, small):
        small.content["images"].reverse()
        small.content["annotations"].sort(key=lambda row: -row["id"])
        assert [person.id for person in read(small).persons] == [31, 30, 21, 20, 11, 10]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"iscrowd": 1}, "crowd"),
            ({"iscrowd": True}, "crowd"),
            ({"area": 0}, "no area"),
            ({"bbox": [200, 10, 30, 30]}, "box empty or outside the photo"),
            ({"bbox": [20, 10, 1, 1]}, "box empty or outside the photo"),
            ({"keypoints": [0] * 51}, "no labelled keypoints"),
            ({"category_id": 2}, "another category"),
            ({"category_id": 9}, "category_id 9 is not listed in `categories` (which has 1, 2)"),
            ({"category_id": None}, "no category_id, although the file lists several categories"),
        ],
    )
    def test_dropped_and_counted(self, small, change, reason):
        small.content["categories"].append({"id": 2, "name": "kite"})
        small.content["annotations"][2].update(change)
        annotations = read(small)
        assert [person.id for person in annotations.persons] == [10, 11, 21, 30, 31]
        assert annotations.findings.counts("dropped") == {reason: 1}
        assert annotations.findings.counts("stops") == {}

    def test_crowd_false_is_kept(self, small):
        small.content["annotations"][2]["iscrowd"] = False
        assert len(read(small).persons) == 6

    @pytest.mark.parametrize(
        ("annotated", "cleaned"),
        [
            ([10, 20, 30, 40], (10, 20, 29, 39)),
            ([-5.5, -2, 30, 40], (0, 0, 29, 39)),
            ([180, 140, 50, 50], (180, 140, 19, 9)),
            ([180, 140, 1, 50], (180, 140, 0, 9)),
        ],
    )
    def test_box_is_clipped_a_pixel_short(self, small, annotated, cleaned):
        small.content["annotations"][0]["bbox"] = annotated
        assert read(small).persons[0].box_xywh == pytest.approx(cleaned)

    def test_nonzero_number_with_v_0_counts_as_published(self, small):
        small.content["annotations"][0]["keypoints"] = [5, 6, 0] + [0] * 48
        assert read(small).persons[0].keypoints[0].tolist() == [5, 6, 0]

    def test_ignored_are_the_crowds_and_the_unlabelled(self, small):
        rows = small.content["annotations"]
        rows[1].update(iscrowd=1)
        rows[3].update(keypoints=[0] * 51)
        rows[4].update(iscrowd=1)
        rows[5].update(iscrowd=1)
        annotations = read(small)
        facts = [(row["id"], row["iscrowd"], "keypoints" in row) for row in annotations.ignored]
        assert facts == [(11, 1, True), (21, 0, False), (30, 1, True), (31, 1, True)]
        assert [(photo.id, photo.size_wh) for photo in annotations.empty_photos] == [(3, (200, 150))]


def test_a_crowd_with_keypoints_of_another_number_stops_the_build(small):
    """Scoring would stop at it after the training. Without a place in them they are none at all."""
    rows = small.content["annotations"]
    rows[1].update(iscrowd=1, keypoints=[1, 2, 2])
    rows[2].update(iscrowd=1, keypoints=[0, 0, 0])
    annotations = read(small)
    assert annotations.findings.counts("stops") == {"keypoints must be a list of 51 numbers": 1}
    assert [row["id"] for row in annotations.ignored if "keypoints" in row] == []
    with pytest.raises(
        InputError, match=r"annotation 11: keypoints must be a list of 51 numbers \(found 3\)"
    ):
        annotations.findings.raise_errors()


def test_repeated_rows_are_merged_and_counted(small):
    small.content["images"] += copy.deepcopy(small.content["images"][:2])
    small.content["annotations"] += copy.deepcopy(small.content["annotations"][:1])
    annotations = read(small)
    assert [person.id for person in annotations.persons] == [10, 11, 20, 21, 30, 31]
    counts = {"image rows listed again": 2, "annotation rows listed again": 1}
    assert annotations.findings.counts("corrected", "kept") == counts


def test_missing_area_is_taken_from_the_box(small):
    del small.content["annotations"][0]["area"]
    small.content["annotations"][1]["area"] = None
    annotations = read(small)
    for person in annotations.persons[:2]:
        assert person.area == pytest.approx(AREA_OF_BOX * 40.5 * 80.25)
    assert annotations.findings.counts("corrected") == {"area missing, taken as 0.53 of the box": 2}


@pytest.mark.parametrize(
    ("annotated", "cleaned"),
    [
        ([60, 20, -30, 40], (30, 20, 29, 39)),
        ([30, 60, 30, -40], (30, 20, 29, 39)),
        ([60, 60, -30, -40], (30, 20, 29, 39)),
    ],
)
def test_a_box_with_a_negative_side_is_turned(small, annotated, cleaned):
    del small.content["annotations"][0]["area"]
    small.content["annotations"][0]["bbox"] = annotated
    small.content["annotations"][1].update(bbox=annotated, iscrowd=1)
    annotations = read(small)
    assert annotations.persons[0].box_xywh == pytest.approx(cleaned)
    assert annotations.persons[0].area == pytest.approx(AREA_OF_BOX * 30 * 40)
    assert annotations.findings.ids(TURNED_BOX) == [10]


def test_an_area_of_0_drops_as_published_and_names_the_way_on(small):
    for row in small.content["annotations"]:
        row["area"] = 0
    annotations = read(small)
    assert annotations.findings.counts("dropped") == {"no area": 6}
    assert "source.name=coco-style" in annotations.findings.why("dropped")


def test_a_box_beyond_the_photo_is_counted(small):
    small.content["annotations"][0]["bbox"] = [10, 20, 195.5, 40]
    small.content["annotations"][1]["bbox"] = [-0.5, 20, 30, 40]  # rounding
    annotations = read(small)
    (finding,) = annotations.findings
    assert (finding.fault.effect, finding.ids, finding.detail) == ("corrected", [10], "by 6 px")


def test_any_number_of_keypoints(small):
    small.content["categories"] = [
        {"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye", "nose"]}
    ]
    for row in small.content["annotations"]:
        row["keypoints"] = row["keypoints"][:9]
    annotations = read(small)
    assert annotations.skeleton.flip_pairs == ((0, 1),)
    assert annotations.persons[0].keypoints.shape == (3, 3)


def test_person_is_chosen_among_categories(small):
    small.content["categories"].insert(0, {"id": 2, "name": "horse", "keypoints": ["nose"]})
    small.content["categories"].insert(0, {"id": 3, "name": "kite"})
    assert len(read(small).persons) == 6


def test_is_chosen_by_its_name_or_not_at_all(small):
    small.content["categories"] = [
        {"id": 1, "name": "cat", "keypoints": ["nose"]},
        {"id": 2, "name": "dog", "keypoints": ["nose", "tail"]},
    ]
    with pytest.raises(InputError, match=r"'cat' \(1 keypoints\), 'dog' \(2 keypoints\) .*source.category="):
        read(small)


def edit(path, value):
    def change(content):
        target = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit(["annotations", 1, "image_id"], 99), r"annotation 11: it names an image .* \(image 99\)"),
        (
            edit(["annotations", 1, "keypoints"], [1, 2, 3]),
            "annotation 11: keypoints must be a list of 51 numbers",
        ),
        (
            edit(["annotations", 1, "keypoints", 0], "left"),
            "annotation 11: keypoints.*expected `float`, got `str`",
        ),
        (
            edit(["annotations", 1, "keypoints", 2], 3),
            "annotation 11: a keypoint's third number is not 0, 1 or 2",
        ),
        (
            edit(["annotations", 1, "bbox"], "1,2,3,4"),
            r"annotation 11: bbox: expected `array \| null`, got `str`",
        ),
        (
            edit(["annotations", 1, "bbox"], [1, 2]),
            r"annotation 11: bbox must be a list of 4 numbers \(found 2\)",
        ),
        (
            edit(["annotations", 1, "bbox"], None),
            r"annotation 11: bbox must be a list of 4 numbers \(found none\)",
        ),
        (
            edit(["annotations", 1, "area"], "big"),
            r"annotation 11: area: expected `float \| null`, got `str`",
        ),
        (edit(["annotations", 1, "id"], 10), "annotation 10: two different rows have this annotation id"),
        (edit(["annotations", 1, "id"], "x"), "annotation x: id: expected `int`, got `str`"),
        (
            edit(["annotations", 1], {"image_id": 1}),
            "annotation in row 2: object missing required field `id`",
        ),
        (edit(["annotations", 1, "image_id"], [1]), "annotation 11: image_id: expected `int`, got `array`"),
        (edit(["annotations", 1], 5), "annotation in row 2: expected `object`, got `int`"),
        (edit(["images", 1, "id"], 1), "image 1: two different rows have this image id"),
        (edit(["images", 1, "width"], 1.5), r"image 2: width: expected `int \| null`, got `float`"),
        (edit(["images", 1, "height"], 0), r"image 2: width or height is not above 0 \(200x0\)"),
        (edit(["images", 1], {"file_name": "a"}), "image in row 2: object missing required field `id`"),
    ],
)
def test_faults_of_rows_name_file_and_record(small, change, words):
    change(small.content)
    annotations = read(small)
    with pytest.raises(InputError) as error:
        annotations.findings.raise_errors()
    sentences = [line for line in str(error.value).splitlines() if re.search(words, line)]
    assert len(sentences) == 1
    assert all(line.startswith(f"{small.annotations}: ") for line in str(error.value).splitlines())


def test_an_infinite_number(small):
    text = small.annotations.read_text()
    small.annotations.write_text(text.replace("1500.5", "1e999", 1))
    with pytest.raises(InputError, match=r"annotation 10: area: number out of range: correct the row"):
        small.source.read().findings.raise_errors()


def test_all_rows_with_a_fault_are_in_one_sentence(small):
    for row in small.content["annotations"][1:4]:
        row["bbox"] = [1]
    annotations = read(small)
    with pytest.raises(
        InputError, match=r"annotation 11: bbox must .* \(found 1; and 2 more: 20, 21\): correct it"
    ):
        annotations.findings.raise_errors()
    assert len(annotations.persons) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit(["images"], {}), "this is not a COCO keypoint file .*images: expected `array`, got `object`"),
        (edit(["categories"], []), "`categories` is empty"),
        (edit(["categories", 0, "keypoints"], []), "category 'person' names no keypoints"),
        (lambda content: content.pop("annotations"), "this is not a COCO keypoint file .*`annotations`"),
        (edit(["annotations", 1, "keypoints", 0], math.nan), r"in the row of id 11\): JSON has no NaN"),
    ],
)
def test_another_file_is_refused(small, change, words):
    change(small.content)
    with pytest.raises(InputError, match=words) as error:
        read(small)
    assert str(error.value).startswith(f"{small.annotations}: ")
    assert "\n" not in str(error.value)


def test_hostile_json(small, monkeypatch):
    small.annotations.write_text(
        '{"images": ' + "[" * 10_000 + "]" * 10_000 + ', "annotations": [], "categories": []}'
    )
    with pytest.raises(InputError, match="nested too deeply"):
        small.source.read()
    small.annotations.write_text('{"images": [], "annotations": ' + "[" * 10_000)
    with pytest.raises(InputError, match="nested too deeply"):
        small.source.read()
    monkeypatch.setattr("semipose.sharding.annotations.formats.rows.LARGEST_VALUE", 10_000)
    small.content["images"][0]["file_name"] = "a" * 30_000
    with pytest.raises(InputError, match=r"one value at byte .* has more than"):
        read(small)
    small.annotations.write_text("")
    with pytest.raises(InputError, match="the file is empty"):
        small.source.read()


def test_cut_json(small):
    small.annotations.write_text(small.annotations.read_text()[:-100])
    with pytest.raises(InputError, match="no whole JSON file"):
        small.source.read()


def test_mistyped_path(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: the annotations cannot be read .*correct the path"):
        CocoFormat(annotations=tmp_path / "nowhere.json", images=tmp_path).read()


@pytest.mark.parametrize(("split", "persons"), [("train", 538), ("val", 619)])
def test_real_files_give_the_known_counts(shared_data, split, persons):
    folder = shared_data / "coco"
    path = folder / "annotations" / f"person_keypoints_{split}2017_joined.json"
    annotations = CocoFormat(annotations=path, images=folder).read()
    assert len(annotations.persons) == persons
    rows = json.loads(path.read_text())["annotations"]
    annotations.findings.raise_errors()
    assert sum(annotations.findings.counts("dropped").values()) == len(rows) - persons
    by_id = {row["id"]: row for row in rows}
    person = annotations.persons[-1]
    np.testing.assert_array_equal(person.keypoints.ravel(), by_id[person.id]["keypoints"])


def test_official_file_that_repeats_its_images(shared_data):
    path = shared_data / "coco" / "annotations" / "person_keypoints_val2017_official_538images.json"
    annotations = CocoFormat(annotations=path, images=path.parent).read()
    assert annotations.findings.counts("stops") == {}
    assert annotations.findings.counts("corrected")["image rows listed again"] == 2213 - 538
    ids = [person.image_id for person in annotations.persons]
    changes = sum(a != b for a, b in itertools.pairwise(ids))
    assert changes == len(set(ids)) - 1, "the persons of a photo must stand together"
    assert Counter(person.id for person in annotations.persons).most_common(1)[0][1] == 1
