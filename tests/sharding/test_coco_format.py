import copy
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest

from configs.load import InputError
from sharding.formats.coco import AREA_OF_BOX, CocoFormat


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
        ],
    )
    def test_dropped_and_counted(self, small, change, reason):
        small.content["annotations"][2].update(change)
        annotations = read(small)
        assert [person.id for person in annotations.persons] == [10, 11, 21, 30, 31]
        assert annotations.dropped == {reason: 1}

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

    def test_ignored_are_the_crowds_and_the_unlabelled_of_kept_photos(self, small):
        rows = small.content["annotations"]
        rows[1].update(iscrowd=1)
        rows[3].update(keypoints=[0] * 51)
        rows[4].update(iscrowd=1)
        rows[5].update(iscrowd=1)
        ignored = read(small).ignored
        assert [(row["id"], row["iscrowd"], row["num_keypoints"]) for row in ignored] == [
            (11, 1, 16),
            (21, 0, 0),
        ]


def test_repeated_rows_are_merged_and_counted(small):
    small.content["images"] += copy.deepcopy(small.content["images"][:2])
    small.content["annotations"] += copy.deepcopy(small.content["annotations"][:1])
    annotations = read(small)
    assert [person.id for person in annotations.persons] == [10, 11, 20, 21, 30, 31]
    assert annotations.problems == {"image rows listed again": 2, "annotation rows listed again": 1}


def test_missing_area_is_taken_from_the_box(small):
    del small.content["annotations"][0]["area"]
    annotations = read(small)
    assert annotations.persons[0].area == pytest.approx(AREA_OF_BOX * 40.5 * 80.25)
    assert list(annotations.problems.values()) == [1]


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
        (
            edit(["annotations", 1, "image_id"], 99),
            "annotation 11 names image 99, which `images` does not list",
        ),
        (
            edit(["annotations", 1, "keypoints"], [1, 2, 3]),
            "annotation 11: keypoints must be a list of 51 numbers",
        ),
        (
            edit(["annotations", 1, "keypoints", 0], math.nan),
            "annotation 11: keypoints holds what is no finite",
        ),
        (edit(["annotations", 1, "keypoints", 0], None), "annotation 11: keypoints holds what is no finite"),
        (
            edit(["annotations", 1, "keypoints", 2], 3),
            "annotation 11: a keypoint's third number is not 0, 1 or 2",
        ),
        (edit(["annotations", 1, "bbox"], "1,2,3,4"), "annotation 11: bbox must be a list of 4 numbers"),
        (edit(["annotations", 1, "area"], "big"), "annotation 11: area is no finite number"),
        (edit(["annotations", 1, "id"], 10), "two different rows have the annotation id 10"),
        (edit(["annotations", 1, "id"], "x"), "'annotations' is not a list of rows that have a whole number"),
        (edit(["annotations", 1, "image_id"], [1]), r"annotation 11 names image \[1\], which"),
        (
            edit(["annotations", 1], {"id": 5, "image_id": 2, "category_id": 1, "iscrowd": 1}),
            "annotation 5: bbox must be",
        ),
        (edit(["images", 1, "id"], 1), "two different rows have the image id 1"),
        (edit(["images", 1, "width"], None), "image 2 needs a file_name, a width and a height"),
        (edit(["images", 1], {"file_name": "a"}), "'images' is not a list of rows that have"),
        (edit(["images"], {}), "'images' is not a list of rows"),
        (edit(["categories"], []), "0 categories have keypoints"),
    ],
)
def test_faults_name_file_and_record(small, change, words):
    change(small.content)
    with pytest.raises(InputError, match=words) as error:
        read(small)
    assert str(error.value).startswith(str(small.annotations))
    assert "\n" not in str(error.value)


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
    assert sum(annotations.dropped.values()) == len(rows) - persons
    by_id = {row["id"]: row for row in rows}
    person = annotations.persons[-1]
    np.testing.assert_array_equal(person.keypoints.ravel(), by_id[person.id]["keypoints"])


def test_official_file_that_repeats_its_images(shared_data):
    path = shared_data / "coco" / "annotations" / "person_keypoints_val2017_official_538images.json"
    annotations = CocoFormat(annotations=path, images=path.parent).read()
    assert annotations.problems == {"image rows listed again": 2213 - 538}
    ids = [person.image_id for person in annotations.persons]
    changes = sum(a != b for a, b in itertools.pairwise(ids))
    assert changes == len(set(ids)) - 1, "the persons of a photo must stand together"
    assert Counter(person.id for person in annotations.persons).most_common(1)[0][1] == 1
