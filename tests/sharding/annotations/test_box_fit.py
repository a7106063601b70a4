"""Joints, boxes and areas that do not fit each other: each wrong way to write them is named, no real set."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from semipose.sharding.annotations.box_fit import (
    ALL_PERCENT,
    AREA_ABOVE,
    AREA_BELOW,
    AREAS_BELOW,
    AT_ONE_POINT,
    AT_ORIGIN,
    NOT_FITTING,
    READINGS,
    UNLABELLED,
)
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.findings import Findings, is_many
from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.formats.mpii import MpiiFormat
from semipose.sharding.annotations.photos import open_photos
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.skeleton import COCO_17

CORNERS, CENTRE, CORNER_AS_CENTRE, CORNERS_AS_CENTRE, ORIGIN, BOX_PERCENT, EXCHANGED = list(READINGS)[:7]
SHARES, PERCENT, OF_BOX, MIRRORED, UPSIDE_DOWN = list(READINGS)[7:]
SIZE_WH = (640.0, 480.0)
SIZE = np.array(SIZE_WH)


def side_by_side(start, sides):
    return np.hstack([start, sides])


MISTAKES = {  # how a file has points p (N, K, 2) and boxes with upper left corner c and sides s, both (N, 2)
    "corners": (CORNERS, lambda p, c, s: (p, side_by_side(c, c + s))),
    "centre": (CENTRE, lambda p, c, s: (p, side_by_side(c + s / 2, s))),
    "corner as centre": (CORNER_AS_CENTRE, lambda p, c, s: (p, side_by_side(c - s / 2, s))),
    "corners as centre": (
        CORNERS_AS_CENTRE,
        lambda p, c, s: (p, side_by_side(c - (c + s) / 2, c + s)),
    ),
    "through the origin": (ORIGIN, lambda p, c, s: (p, side_by_side(0 * c, c + s))),
    "box in percent": (BOX_PERCENT, lambda p, c, s: (p, side_by_side(c, s) * 100 / np.tile(SIZE, 2))),
    "box as y, x, h, w": (EXCHANGED, lambda p, c, s: (p, side_by_side(c[:, ::-1], s[:, ::-1]))),
    "joints as y, x": (EXCHANGED, lambda p, c, s: (p[..., ::-1], side_by_side(c, s))),
    "joints 0..1": (SHARES, lambda p, c, s: (p / SIZE, side_by_side(c, s))),
    "joints in percent": (PERCENT, lambda p, c, s: (p * 100 / SIZE, side_by_side(c, s))),
    "joints of the box": (OF_BOX, lambda p, c, s: (p - c[:, None], side_by_side(c, s))),
    "joints mirrored": (MIRRORED, lambda p, c, s: ((SIZE - 1) * [1, 0] + p * [-1, 1], side_by_side(c, s))),
    "joints upside down": (
        UPSIDE_DOWN,
        lambda p, c, s: ((SIZE - 1) * [0, 1] + p * [1, -1], side_by_side(c, s)),
    ),
}
EVERY_MISTAKE = pytest.mark.parametrize(("fault", "write"), MISTAKES.values(), ids=MISTAKES)


def written(write, keypoints, boxes):
    """Keypoints and boxes as a file has them that makes the mistake."""
    points, boxes = write(keypoints[..., :2], boxes[:, :2], boxes[:, 2:])
    return np.dstack([points, keypoints[..., 2:]]), boxes


def people(count, *, seed=0):
    """Keypoints (N, 17, 3) of people whose joints fill most of their boxes (N, 4), in photos of `SIZE_WH`."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform([40, 80], [150, 250], (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE_WH) - sides)
    points = corners[:, None] + rng.uniform(0.05, 0.95, (count, 17, 2)) * sides[:, None]
    keypoints = np.dstack([points, np.full((count, 17), 2.0)])
    return keypoints, np.hstack([corners, sides])


def annotations_of(keypoints, boxes_xywh, *, areas=None, size_wh=SIZE_WH):
    boxes = [tuple(map(float, box)) for box in boxes_xywh]
    areas = [0.5 * box[2] * box[3] for box in boxes] if areas is None else areas
    persons = [
        Person(
            id=number,
            image_id=number,
            file_name=f"{number}.jpg",
            source_size_wh=size_wh,
            box_xywh=box,
            keypoints=np.asarray(points, np.float32),
            area=float(area),
        )
        for number, (points, box, area) in enumerate(zip(keypoints, boxes, areas, strict=True), start=1)
    ]
    photos = open_photos(__file__.rpartition("/")[0])
    return Annotations(skeleton=COCO_17, photos=photos, persons=tuple(persons), findings=Findings("f"))


def noted(annotations):
    """The ids of each fault, by fault and effect."""
    inspect_people(annotations)
    return {
        (finding.fault.what, finding.fault.effect): finding.ids
        for finding in annotations.findings
        if not finding.fault.is_identity
    }


@given(st.integers(0, 2**32 - 1))
def test_people_who_fit_are_not_noted(seed):
    assert noted(annotations_of(*people(6, seed=seed))) == {}


def test_every_reading_has_its_mistake():
    assert {fault for fault, _ in MISTAKES.values()} == set(READINGS)


@EVERY_MISTAKE
@pytest.mark.parametrize(("count", "least"), [(8, 5), (100, 75)])
def test_a_mistake_of_the_whole_file_is_a_warning_with_its_cause(fault, write, count, least):
    found = noted(annotations_of(*written(write, *people(count))))
    assert {what for what, _ in found} <= {fault.what, NOT_FITTING.what}
    assert len(found[fault.what, "warned"]) >= least


@EVERY_MISTAKE
def test_a_mistake_in_some_rows_names_them_and_no_others(fault, write):
    keypoints, boxes = people(200)
    is_wrong = np.arange(200) % 4 == 0
    bad_keypoints, bad_boxes = written(write, keypoints, boxes)
    keypoints[is_wrong], boxes[is_wrong] = bad_keypoints[is_wrong], bad_boxes[is_wrong]
    found = noted(annotations_of(keypoints, boxes))
    ids = {record for records in found.values() for record in records}
    assert ids <= set(np.flatnonzero(is_wrong) + 1)
    assert len(found[fault.what, "warned"]) >= 0.7 * is_wrong.sum()


def test_one_wrong_row_is_named_without_a_warning():
    keypoints, boxes = people(30)
    keypoints[7], boxes[7] = (each[7] for each in written(MISTAKES["centre"][1], keypoints, boxes))
    assert noted(annotations_of(keypoints, boxes)) == {(CENTRE.what, "kept"): [8]}


@pytest.mark.parametrize(("count", "is_noted"), [(4, False), (8, True), (100, True)])
def test_joints_and_boxes_in_percent_fit_each_other_but_not_their_photos(count, is_noted):
    """A few small people near the corner of their photos may be so."""
    keypoints, boxes = people(count)
    keypoints[..., :2] *= 100 / SIZE
    found = noted(annotations_of(keypoints, boxes * 100 / np.tile(SIZE, 2)))
    assert found == ({(ALL_PERCENT.what, "warned"): list(range(1, count + 1))} if is_noted else {})


def test_small_photos_hold_small_people():
    keypoints, boxes = people(20)
    keypoints[..., :2] *= 100 / SIZE
    assert noted(annotations_of(keypoints, boxes * 100 / np.tile(SIZE, 2), size_wh=(100.0, 100.0))) == {}


def test_rows_shifted_by_one_are_a_warning_without_a_cause():
    keypoints, boxes = people(50)
    found = noted(annotations_of(np.roll(keypoints, 1, axis=0), boxes))
    assert len(found[NOT_FITTING.what, "warned"]) > 35


@pytest.mark.parametrize(
    ("scale_xy", "joints", "is_noted"),
    [
        ((0.25, 0.25), 17, True),
        ((0.25, 0.25), 5, False),
        ((0.25, 1), 17, False),
        ((0.5, 0.5), 17, False),
        ((1.3, 1.3), 17, False),
        ((2, 2), 17, True),
        ((1, 2), 5, True),
    ],
)
def test_joints_far_smaller_or_larger_than_the_box(scale_xy, joints, is_noted):
    """A few joints, such as those of a face, and joints in a line may fill little of a box."""
    keypoints, boxes = people(20)
    centres = (boxes[:, :2] + boxes[:, 2:] / 2)[:, None]
    keypoints[..., :2] = centres + (keypoints[..., :2] - centres) * scale_xy
    keypoints[:, joints:] = 0
    found = noted(annotations_of(keypoints, boxes))
    assert ((NOT_FITTING.what, "warned") in found) == is_noted
    assert len(found) == is_noted


def test_without_a_size_of_the_photo_misfits_are_named_too():
    keypoints, boxes = written(MISTAKES["joints 0..1"][1], *people(10))
    assert noted(annotations_of(keypoints, boxes, size_wh=None)) == {
        (NOT_FITTING.what, "warned"): list(range(1, 11))
    }


@pytest.mark.parametrize("place", [0.0, -1.0])
@pytest.mark.parametrize("v", [1, 2])
def test_labelled_joints_where_missing_ones_are_written(place, v):
    keypoints, boxes = people(20)
    keypoints[::2, 3] = place, place, v
    found = noted(annotations_of(keypoints, boxes))
    assert found == {(AT_ORIGIN.what, "warned"): list(range(1, 21, 2))}


def test_unlabelled_joints_may_be_anywhere():
    keypoints, boxes = people(20)
    keypoints[:, 3] = 0, 0, 0
    keypoints[:, 4] = 600, 2, 0
    assert noted(annotations_of(keypoints, boxes)) == {}


def test_labelled_joints_at_one_point():
    keypoints, boxes = people(20)
    keypoints[:10, 4:6] = keypoints[:10, 3:4]
    keypoints[10:, 4:6, :2], keypoints[10:, 4:6, 2] = keypoints[10:, 3:4, :2], 0
    assert noted(annotations_of(keypoints, boxes)) == {(AT_ONE_POINT.what, "warned"): list(range(1, 11))}


@pytest.mark.parametrize(("count", "effect"), [(1, "kept"), (15, "warned"), (30, "warned")])
def test_people_with_places_and_no_label(count, effect):
    keypoints, boxes = people(30)
    keypoints[:count, :, 2] = 0
    assert noted(annotations_of(keypoints, boxes)) == {(UNLABELLED.what, effect): list(range(1, count + 1))}


@pytest.mark.parametrize(
    ("scale", "fault"),
    [
        (1e-4, AREA_BELOW),
        (0.09, AREA_BELOW),
        (0.11, AREAS_BELOW),
        (0.25, AREAS_BELOW),
        (0.31, None),
        (1.9, None),
        (2.5, AREA_ABOVE),
    ],
)
def test_areas_that_cannot_be_of_such_a_box(scale, fault):
    keypoints, boxes = people(10)
    areas = scale * 0.5 * boxes[:, 2] * boxes[:, 3]
    found = noted(annotations_of(keypoints, boxes, areas=areas))
    assert found == ({} if fault is None else {(fault.what, "warned"): list(range(1, 11))})


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [(1, 1, True), (1, 2, False), (1, 10, False), (2, 3, True), (2, 20, True), (2, 21, False), (0, 0, False)],
)
def test_what_many_is(count, total, expected):
    assert is_many(count, total) == expected


class TestReal:
    """Of real sets nothing becomes a warning; of COCO with each mistake made in it, most people are named."""

    def coco(self, shared_data, name="val2017_joined"):
        path = shared_data / "coco" / "annotations" / f"person_keypoints_{name}.json"
        return CocoFormat(annotations=path, images=shared_data / "coco").read()

    @pytest.mark.parametrize(
        "name",
        ["train2017_joined", "val2017_joined", "val2017_official_538images", "train2017_official_80images"],
    )
    def test_coco(self, shared_data, name):
        annotations = self.coco(shared_data, name)
        found = noted(annotations)
        assert {effect for _, effect in found} <= {"kept"}
        assert sum(map(len, found.values())) <= 0.04 * len(annotations.persons)
        by_a_reading = [found.get((fault.what, "kept"), ()) for fault in READINGS]
        assert sum(map(len, by_a_reading)) <= 1 + 0.002 * len(annotations.persons)

    @pytest.mark.parametrize("name", ["lspet", "mpii", "aic", "crowdpose"])
    def test_other_sets(self, shared_data, name):
        folder = shared_data / name
        images = folder / "images"
        source = {
            "lspet": lambda: LspFormat(joints=folder / "joints.mat", images=images, last=5000),
            "mpii": lambda: MpiiFormat(annotations=folder / "mpii_hrnet_list.json", images=images),
            "aic": lambda: AicFormat(
                annotations=folder / "keypoint_annotations_raw_reconstructed.json", images=images
            ),
            "crowdpose": lambda: CrowdPoseFormat(annotations=folder / "test_crowdpose.json", images=images),
        }[name]()
        annotations = source.read()
        found = noted(annotations)
        assert {effect for _, effect in found} <= {"kept"}
        assert sum(map(len, found.values())) <= 0.01 * len(annotations.persons)

    @EVERY_MISTAKE
    def test_coco_with_a_mistake(self, shared_data, fault, write):
        """In photos made of one size, so that the mistakes are the same ones."""
        right = self.coco(shared_data)
        persons = []
        for person in right.persons:
            factor = SIZE / person.source_size_wh
            keypoints = person.keypoints * [*factor, 1]
            boxes = np.array([person.annotated_xywh]) * np.tile(factor, 2)
            keypoints, boxes = written(write, keypoints[None], boxes)
            bad = structs.replace(
                person,
                source_size_wh=SIZE_WH,
                keypoints=keypoints[0].astype(np.float32),
                annotated_xywh=tuple(boxes[0].tolist()),
            )
            persons.append(bad)
        found = noted(replace(right, persons=tuple(persons), findings=Findings("f")))
        assert len(found[fault.what, "warned"]) > 0.45 * len(persons)
