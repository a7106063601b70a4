from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from semipose.sharding.annotations.checks import (
    ALL_SWAPPED,
    JOINT_OUTSIDE,
    LEAST_PEOPLE,
    SWAPPED_PAIR,
    inspect_people,
    joint_sides,
    sided_pairs,
)
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats.coco import read_coco
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.photos import open_photos
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.skeleton import COCO_17, LSP_14, Skeleton


def annotations_of(skeleton, keypoints, *, size_wh=(100, 80)):
    """One person for each (K, 3) of `keypoints`, ids from 1."""
    persons = tuple(
        Person(
            id=number,
            image_id=number,
            file_name=f"{number}.jpg",
            source_size_wh=size_wh,
            box_xywh=(10.0, 10.0, 40.0, 60.0),
            keypoints=np.asarray(each, np.float32),
            area=1.0,
        )
        for number, each in enumerate(keypoints, start=1)
    )
    return Annotations(
        skeleton=skeleton, photos=open_photos(Path(__file__).parent), persons=persons, findings=Findings("f")
    )


def found(annotations, fault):
    inspect_people(annotations)
    return annotations.findings.ids(fault)


def details(annotations, fault):
    return [finding.detail for finding in annotations.findings if finding.fault == fault]


def with_names_swapped(annotations, joints):
    """The same people, the points of two joints having traded places: what swapped names look like."""
    a, b = joints
    persons = []
    for person in annotations.persons:
        keypoints = person.keypoints.copy()
        keypoints[[a, b]] = keypoints[[b, a]]
        persons.append(structs.replace(person, keypoints=keypoints))
    return replace(annotations, persons=tuple(persons), findings=Findings("f"))


@pytest.mark.parametrize(
    ("x", "y", "v", "is_outside"),
    [
        (-1.0, 5, 2, False),
        (-1.1, 5, 2, True),
        (5, -1.1, 1, True),
        (100, 80, 2, False),
        (100.1, 5, 2, True),
        (5, 80.1, 1, True),
        (500, 500, 0, False),
    ],
)
def test_joints_outside(x, y, v, is_outside):
    inside = np.tile(np.array([20, 20, 2], float), (14, 1))
    one = inside.copy()
    one[3] = x, y, v
    annotations = annotations_of(LSP_14, [inside, one])
    assert found(annotations, JOINT_OUTSIDE) == [2] * is_outside
    named = [detail.split(" at")[0] for detail in details(annotations, JOINT_OUTSIDE)]
    assert named == ["left_hip"] * is_outside


def test_joints_outside_in_many_people_are_a_warning_of_the_same_build():
    """As where annotations count in pixels of a larger copy of the photos."""
    points = np.tile(np.array([20, 20, 2], float), (10, 14, 1))
    points[:3, 0] = 500, 20, 2
    annotations = annotations_of(LSP_14, points)
    inspect_people(annotations)
    (finding,) = [each for each in annotations.findings if each.fault.what == JOINT_OUTSIDE.what]
    assert (finding.fault.effect, finding.ids) == ("warned", [1, 2, 3])
    assert annotations.findings.counts("warned", "kept", identity=True) == {JOINT_OUTSIDE.what: 3}


def test_without_a_size_no_joint_is_outside():
    points = np.tile(np.array([500, 20, 2], float), (1, 14, 1))
    annotations = annotations_of(LSP_14, points, size_wh=None)
    assert found(annotations, JOINT_OUTSIDE) == []
    inspect_people(annotations, {"1.jpg": (400, 300)})
    assert annotations.findings.ids(JOINT_OUTSIDE) == [1]


def test_people_beyond_the_first_block_are_seen(monkeypatch):
    monkeypatch.setattr("semipose.sharding.annotations.people_arrays._PEOPLE_AT_ONCE", 2)
    points = np.tile(np.array([20, 20, 2], float), (5, 14, 1))
    points[3:, 0] = 500, 20, 2
    assert found(annotations_of(LSP_14, points), JOINT_OUTSIDE) == [4, 5]


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (("left_eye", "right_eye"), ["left", "right"]),
        (("right_ear", "left_ear"), ["right", "left"]),
        (("RAnkle", "LAnkle"), ["right", "left"]),
        (("front_left_paw", "front_right_paw"), ["left", "right"]),
        (("hand.l", "hand.R"), ["left", "right"]),
        (("LEye", "right_eye"), ["left", "right"]),
        (("oeil_droit", "oeil_gauche"), ["right", "left"]),
        (("左目", "右目"), ["left", "right"]),
        (("forelegL1", "forelegR1"), ["left", "right"]),
        (("paw_FR", "paw_FL"), ["right", "left"]),
        (("stem", "tail"), [None, None]),
        (("ear", "ear_r"), [None, None]),
    ],
)
def test_sides_of_a_pair(names, sides):
    skeleton = Skeleton(names=("nose", *names), flip_pairs=((1, 2),), bones=(), sigmas=(0.05,) * 3)
    assert joint_sides(skeleton) == [None, *sides]
    ordered = {"left": [(1, 2)], "right": [(2, 1)], None: []}
    assert sided_pairs(skeleton) == ordered[sides[0]]


class TestSwapped:
    def facing(self, count):
        """People seen from the front and, every third, from behind: COCO's pairs 10 px apart."""
        points = np.tile(np.array([30, 30, 2], float), (count, 17, 1))
        for left, right in COCO_17.flip_pairs:
            points[:, left, 0] = 35
            points[:, right, 0] = 25
            points[::3, [left, right]] = points[::3, [right, left]]
        return points

    def test_people_who_agree(self):
        assert found(annotations_of(COCO_17, self.facing(60)), SWAPPED_PAIR) == []

    def test_one_pair(self):
        annotations = with_names_swapped(annotations_of(COCO_17, self.facing(60)), (9, 10))
        assert found(annotations, SWAPPED_PAIR) == ["left_wrist/right_wrist"]
        told = details(annotations, SWAPPED_PAIR)
        assert told == ["against the other pairs in 100% of 60 people"]

    def test_few_people_prove_nothing(self):
        annotations = with_names_swapped(annotations_of(COCO_17, self.facing(LEAST_PEOPLE - 1)), (9, 10))
        assert found(annotations, SWAPPED_PAIR) == []

    def test_pairs_close_together_and_unlabelled_prove_nothing(self):
        for change in ({"scale": 0.2}, {"v": 0}):
            points = self.facing(60)
            points[:, [9, 10]] = points[:, [10, 9]]
            points[:, [9, 10], 2] = change.get("v", 2)
            points[:, [9, 10], 0] = 30 + (points[:, [9, 10], 0] - 30) * change.get("scale", 1)
            assert found(annotations_of(COCO_17, points), SWAPPED_PAIR) == []

    def test_a_set_without_pairs(self):
        skeleton = Skeleton(names=("tip",), flip_pairs=(), bones=(), sigmas=(0.05,))
        assert found(annotations_of(skeleton, np.ones((30, 1, 3))), SWAPPED_PAIR) == []


def real(shared_data, name):
    if name == "coco":
        folder = shared_data / "coco"
        return read_coco(
            folder / "annotations" / "person_keypoints_val2017_joined.json", folder / "images" / "val2017"
        )
    folder = shared_data / "lspet"
    return LspFormat(joints=folder / "joints.mat", images=folder / "images", first=1, last=1000).read()


@pytest.mark.parametrize("name", ["coco", "lsp"])
def test_real_people(shared_data, name):
    annotations = real(shared_data, name)
    assert found(annotations, SWAPPED_PAIR) == []
    assert annotations.findings.ids(ALL_SWAPPED) == []
    for joints in sided_pairs(annotations.skeleton):
        names = "/".join(annotations.skeleton.names[joint] for joint in joints)
        assert found(with_names_swapped(annotations, joints), SWAPPED_PAIR) == [names]


def test_real_people_with_every_side_swapped(shared_data):
    annotations = real(shared_data, "coco")
    for joints in sided_pairs(annotations.skeleton):
        annotations = with_names_swapped(annotations, joints)
    inspect_people(annotations)
    assert annotations.findings.ids(ALL_SWAPPED) == ["left_eye/right_eye"]
    assert annotations.findings.ids(SWAPPED_PAIR) == []
