"""Boxes of a results file, by both readers: unlabelled photos, and annotated ones that are scored in them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import CLIPPED, ResultsBoxes
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.annotations.record import Photo
from semipose.sharding.annotations.results import FoundBox, PhotoFinder, ResultRow, note_boxes
from semipose.sharding.build import build


@pytest.fixture(params=["unlabelled", "unlabelled, with a list", "scored"])
def read(request, make_set, tmp_path):
    """`read(rows, category=1)`: what the reader makes of the rows, for photos 1 to 4 of 200x150 pixels."""
    small = make_set(photos=4)

    def read(rows, **settings):
        path = tmp_path / "found.json"
        path.write_text(json.dumps(rows))
        if request.param == "scored":
            boxes = Detections(results=path, **settings)
            return CocoFormat(annotations=small.annotations, images=small.images, boxes=boxes).read()
        images = small.annotations if "list" in request.param else None
        return FolderFormat(
            images=small.images, boxes=ResultsBoxes(results=path, images=images, **settings)
        ).read()

    return read


def box(image_id, *numbers, score=0.9, category_id=1, **more):
    return {"image_id": image_id, "bbox": list(numbers), "score": score, "category_id": category_id, **more}


GOOD = box(1, 10, 20, 50, 60)


def effects(annotations):
    return {finding.fault.what: (finding.fault.effect, len(finding.ids)) for finding in annotations.findings}


def test_boxes_left_out_by_category_and_score_are_counted(read):
    others = [box(2, 1, 2, 30, 40, category_id=3)] * 3 + [box(2, 1, 2, 30, 40, score=0.2)] * 2
    annotations = read([*others, GOOD], min_score=0.5)
    assert len(annotations.persons) == 1
    assert effects(annotations) == {
        "box of another category than source.boxes.category": ("dropped", 3),
        "box of a lower score than source.boxes.min_score": ("dropped", 2),
    }


def test_a_category_that_no_box_has_is_refused_and_the_others_named(read):
    rows = [box(1, 1, 2, 30, 40, category_id=0)] * 3 + [box(1, 1, 2, 30, 40, category_id=7)]
    words = r"found\.json: no box is of category 1 .*the file has 0 \(3 boxes\), 7 \(1 boxes\): .*category=0"
    with pytest.raises(InputError, match=words):
        read(rows)
    assert len(read(rows, category=0).persons) == 3


@pytest.mark.parametrize("best", [0.4, 0.0, -1.0])
def test_a_score_that_no_box_has_is_refused_and_the_highest_named(read, best):
    rows = [box(1, 1, 2, 30, 40, score=score) for score in (best - 0.25, best, best - 0.5)]
    with pytest.raises(
        InputError, match=rf"no box of category 1 has a score of 0\.5 .* highest is {best:g}: lower"
    ):
        read(rows, min_score=0.5)


@pytest.mark.parametrize("image_id", [2, "2", "000000000002", "000000000002.jpg", "./000000000002.jpg"])
def test_a_photo_by_number_text_or_name(read, image_id):
    (person,) = read([box(image_id, 10, 20, 50, 60)]).persons
    assert person.file_name == "000000000002.jpg"
    (person,) = read([{**GOOD, "file_name": "000000000002.jpg"}]).persons
    assert person.file_name == "000000000002.jpg"


def test_a_text_that_names_no_photo_is_dropped_and_counted(read):
    annotations = read([box("cat", 1, 2, 30, 40), GOOD])
    assert len(annotations.persons) == 1
    (finding,) = annotations.findings
    assert (finding.fault.effect, finding.ids) == ("dropped", ["in row 1"])


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ((0.2, 0.1, 0.4, 0.7), "box no larger than a pixel, as if it were a share of the photo (0..1)"),
        ((0.0, 0.0, 1.0, 1.0), "box no larger than a pixel, as if it were a share of the photo (0..1)"),
        ((60, 20, -50, 60), "box with a negative side"),
        ((10, 80, 50, -60), "box with a negative side"),
        ((10, 20, 0, 60), "box empty or outside the photo"),
        ((210, 20, 50, 60), "box empty or outside the photo"),
    ],
)
def test_boxes_that_can_be_none_are_dropped_and_named(read, numbers, what):
    annotations = read([GOOD, box(2, *numbers)])
    assert len(annotations.persons) == 1
    assert effects(annotations) == {what: ("dropped", 1)}


def test_where_all_boxes_are_shares_the_build_says_so(make_set, tmp_path, quiet):
    small = make_set(photos=2)
    (tmp_path / "found.json").write_text(json.dumps([box(1, 0.1, 0.2, 0.3, 0.4)]))
    source = FolderFormat(images=small.images, boxes=ResultsBoxes(results=tmp_path / "found.json"))
    with pytest.raises(
        InputError, match=r"no person is left to store: 1 box no larger .*multiply x and width"
    ):
        build(small.settings(tmp_path / "out", source=source), console=quiet)


def test_boxes_far_beyond_the_photo_are_noted(read):
    few = read([*[GOOD] * 20, box(2, 150, 20, 100, 60), box(3, -3, 20, 100, 60)])
    many = read([GOOD, box(2, 150, 20, 100, 60), box(2, -50, 20, 80, 60)])
    for annotations, effect, rows in (
        (few, {"corrected", "kept"}, ["in row 21"]),
        (many, {"warned"}, ["in row 2", "in row 3"]),
    ):
        (finding,) = annotations.findings
        assert finding.fault.what.startswith("box far beyond the photo")
        assert finding.fault.effect in effect
        assert finding.ids == rows


SIZE_WH = (640, 480)


def noted(xywh, size_wh=SIZE_WH):
    """The faults of boxes (N, 4), and how many have each."""
    findings = Findings("f")
    boxes = [
        FoundBox(number, ResultRow(bbox=row), tuple(row)) for number, row in enumerate(xywh.tolist(), start=1)
    ]
    note_boxes(boxes, [size_wh] * len(boxes), findings, beyond=CLIPPED)
    return {(finding.fault.what, finding.fault.effect): len(finding.ids) for finding in findings}


def right_boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    sides = rng.uniform([40, 80], [200, 300], (count, 2))
    return np.hstack([rng.uniform(0, 1, (count, 2)) * (np.array(SIZE_WH) - sides), sides])


def corners(xywh):
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


def centre(xywh):
    return np.hstack([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]])


@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_boxes_within_their_photos_are_not_noted(seed, count):
    assert noted(right_boxes(count, seed)) == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [8, 200])
@pytest.mark.parametrize(
    ("write", "what"),
    [
        (corners, "box looks like corners (x1, y1, x2, y2)"),
        (centre, "box looks like centre and size"),
        (lambda xywh: xywh * 100 / np.tile(SIZE_WH, 2), "box looks like percent of the photo"),
    ],
)
def test_boxes_written_in_another_way_are_a_warning_with_its_name(write, what, count, seed):
    assert noted(write(right_boxes(count, seed))) == {(what, "warned"): count}


def test_some_boxes_as_corners_are_named():
    xywh = right_boxes(100)
    xywh[:30] = corners(xywh[:30])
    found = noted(xywh)
    assert list(found) == [("box looks like corners (x1, y1, x2, y2)", "warned")]
    assert 15 <= found.popitem()[1] <= 30


def test_real_boxes_are_no_warning(shared_data):
    folder = shared_data / "crowdpose"
    rows = json.loads((folder / "test_crowdpose_det_AP_40.json").read_text())
    photos = json.loads((folder / "test_crowdpose.json").read_text())["images"]
    sizes = {photo["id"]: (photo["width"], photo["height"]) for photo in photos}
    for image_id, size in sizes.items():
        boxes = np.array([row["bbox"] for row in rows if row["image_id"] == image_id])
        assert noted(boxes, size) == {}


@pytest.mark.parametrize("name", ["train2017_joined", "val2017_joined"])
def test_annotated_boxes_of_coco_are_no_warning(shared_data, name):
    content = json.loads((shared_data / "coco" / "annotations" / f"person_keypoints_{name}.json").read_text())
    sizes = {photo["id"]: (photo["width"], photo["height"]) for photo in content["images"]}
    rows = [row for row in content["annotations"] if min(row["bbox"][2:]) > 0]
    boxes = [FoundBox(row["id"], ResultRow(bbox=row["bbox"]), tuple(row["bbox"])) for row in rows]
    findings = Findings("f")
    note_boxes(boxes, [sizes[row["image_id"]] for row in rows], findings, beyond=CLIPPED)
    assert list(findings) == []


def test_one_stem_in_two_folders_is_ambiguous():
    photos = [Photo(id=id, file_name=name, size_wh=None) for id, name in ((1, "a/7.jpg"), (2, "b/7.jpg"))]
    finder = PhotoFinder(photos, by_id=False)
    assert finder.find(ResultRow(bbox=[], image_id=7)) == photos
    assert finder.find(ResultRow(bbox=[], image_id="7")) == photos
    assert finder.find(ResultRow(bbox=[], file_name="b/7.jpg")) == photos[1:]
    by_id = PhotoFinder(photos, by_id=True)
    assert by_id.find(ResultRow(bbox=[], image_id=2)) == photos[1:]
    assert by_id.find(ResultRow(bbox=[], image_id=7)) == []
    assert by_id.find(ResultRow(bbox=[])) == []


def test_what_category_and_score_leave_out_is_no_other_build(make_set, tmp_path, quiet):
    """Rows that a recipe leaves out change no byte: shards made before they were counted stay the same."""
    small = make_set(photos=2)
    path = tmp_path / "found.json"
    settings = small.settings(
        tmp_path / "out", source=FolderFormat(images=small.images, boxes=ResultsBoxes(results=path))
    )
    path.write_text(json.dumps([GOOD]))
    first = build(settings, console=quiet)
    path.write_text(json.dumps([GOOD, box(1, 1, 2, 30, 40, category_id=3)]))
    assert build(settings, console=quiet).annotations_sha256 == first.annotations_sha256
