"""One photo or person under several ids: named, and kept on one side of a split."""

import copy

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.record import Person, photo_key
from semipose.sharding.annotations.repeats import SAME_PERSON, SAME_PHOTO, _repeated
from semipose.sharding.annotations.split import TrainValSplit, take_side


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


@pytest.mark.parametrize(
    ("changes", "is_one"),
    [
        ({"keypoints": 0.4, "bbox": -0.4}, True),  # as files round
        ({"bbox": 30.0}, True),  # another box about the same joints
        ({"keypoints": 5.0}, False),
    ],
    ids=["rounded", "another box", "other joints"],
)
def test_people_whose_joints_are_equal_to_a_pixel_are_one(small, changes, is_one):
    row = {**copy.deepcopy(small.content["annotations"][2]), "id": 900}
    for key, value in changes.items():
        row[key][1] += value
    small.content["annotations"].append(row)
    assert noted(small) == ({SAME_PERSON.what: ("kept", [900])} if is_one else {})


@pytest.mark.parametrize(("moved", "is_one"), [(0.4, True), (5.0, False)])
def test_of_people_with_few_joints_the_box_decides(small, moved, is_one):
    first = small.content["annotations"][2]
    first["keypoints"][6:] = [0] * len(first["keypoints"][6:])
    row = {**copy.deepcopy(first), "id": 900}
    row["bbox"][0] += moved
    small.content["annotations"].append(row)
    assert noted(small) == ({SAME_PERSON.what: ("kept", [900])} if is_one else {})


@example([(0.0, 1.1, 30.0), (0.0, 0.0, 2.0), (0.0, 0.5, 30.0)])  # 0.6 apart up to rounding
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.floats(0, 20), st.sampled_from([2.0, 30.0, 90.0])),
        min_size=2,
        max_size=12,
    )
)
def test_repeats_are_those_of_a_comparison_of_all_with_all(places):
    """Only neighbours by the x of their centres are compared, and nobody is missed by it."""
    people = [
        Person(
            id=number,
            image_id=number % 2,
            file_name=f"{number % 2}.jpg",
            source_size_wh=(200, 200),
            box_xywh=(x, y, size, size),
            keypoints=np.float32([[x + each, y + each, 2] for each in range(4)]),
            area=size,
        )
        for number, (x, y, size) in enumerate(places)
    ]

    def are_equal(one, other):
        most = min(1.0, 0.02 * min(one.box_xywh[2], other.box_xywh[2]))
        apart = float(np.abs(one.keypoints - other.keypoints).max())
        return one.image_id == other.image_id and apart <= most

    expected = []
    for number, person in enumerate(people):
        first = next((other for other in people[:number] if are_equal(person, other)), None)
        expected += [(person.id, first.id)] if first else []
    found = _repeated(people, {0: "0.jpg", 1: "1.jpg"})
    assert [(person.id, first.id) for person, first in found] == expected


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
