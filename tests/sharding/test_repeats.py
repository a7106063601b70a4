"""One photo or person under several ids: named, and kept on one side of a split."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.people import inspect_people
from sharding.record import photo_key
from sharding.repeats import SAME_PERSON, SAME_PHOTO
from sharding.split import TrainValSplit, take_side


@pytest.fixture
def small(make_set):
    return make_set(photos=4)


def noted(small):
    small.save()
    annotations = small.source.read()
    inspect_people(annotations)
    return {
        finding.fault.what: (finding.fault.effect, finding.ids)
        for finding in annotations.findings
        if finding.fault.what in (SAME_PHOTO.what, SAME_PERSON.what)
    }


SPELLINGS = ["a/b.jpg", "./a/b.jpg", "a//b.jpg", "a\\b.jpg", ".\\a\\b.jpg", "a/./b.jpg", "a/c/../b.jpg"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_name(name):
    assert photo_key(name) == "a/b.jpg"


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4))
def test_plain_names_are_their_own_key(parts):
    assert photo_key("/".join(parts)) == "/".join(parts)


def test_nothing_stands_twice(small):
    assert noted(small) == {}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_photo_under_two_ids(small, name):
    small.content["images"][1]["file_name"] = "a/b.jpg"
    small.content["images"][3]["file_name"] = name
    assert noted(small) == {SAME_PHOTO.what: ("warned", [2, 4])}


def test_a_photo_under_two_ids_of_many(make_set):
    small = make_set(photos=30)
    small.content["images"][1]["file_name"] = small.content["images"][3]["file_name"]
    assert noted(small) == {SAME_PHOTO.what: ("kept", [2, 4])}


@pytest.mark.parametrize("with_another_image_id", [False, True])
def test_a_person_under_two_ids(small, with_another_image_id):
    row = {**copy.deepcopy(small.content["annotations"][2]), "id": 900}
    if with_another_image_id:
        image = {**small.content["images"][1], "id": 77}
        image["file_name"] = f"./{image['file_name']}"
        small.content["images"].append(image)
        row["image_id"] = 77
    small.content["annotations"].append(row)
    found = noted(small)
    assert found[SAME_PERSON.what] == ("kept", [900])
    assert (SAME_PHOTO.what in found) == with_another_image_id


@pytest.mark.parametrize(("key", "value"), [("bbox", 0.5), ("keypoints", 1.0)])
def test_people_who_differ_in_a_number_are_two(small, key, value):
    row = {**copy.deepcopy(small.content["annotations"][2]), "id": 900}
    row[key][1] += value
    small.content["annotations"].append(row)
    assert noted(small) == {}


def test_a_third_of_the_people_twice_is_a_warning(small):
    for index in range(4):
        row = copy.deepcopy(small.content["annotations"][index])
        small.content["annotations"].append({**row, "id": 900 + index})
    assert noted(small) == {SAME_PERSON.what: ("warned", [900, 901, 902, 903])}


@pytest.mark.parametrize("group", ["photo", "folder", "sequence"])
def test_all_spellings_fall_to_one_side(group):
    for seed in range(20):
        split = TrainValSplit(take="train", val_share=0.5, seed=seed, group=group)
        assert len({split.side_of(name) for name in SPELLINGS}) == 1


def test_a_split_keeps_the_ids_of_a_photo_together(make_set):
    small = make_set(photos=40)
    for index in range(0, 40, 2):
        name = small.content["images"][index]["file_name"]
        small.content["images"][index + 1]["file_name"] = f".\\{name}"
    small.save()
    annotations = small.source.read()
    train, card = take_side(annotations, TrainValSplit(take="train", val_share=0.5))
    assert card.val.people
    pairs = np.unique([(person.image_id - 1) // 2 for person in train.persons], return_counts=True)[1]
    assert set(pairs.tolist()) == {4}
