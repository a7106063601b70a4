"""AI Challenger's own list."""

import json

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.skeleton import AIC_14


def joints(flag: int = 1) -> list[int]:
    return [number for index in range(14) for number in (10 + index, 20 + index, flag)]


def photo(name: str, **humans) -> dict:
    """humans: by name, (joints, box); either may be None."""
    return {
        "url": "http://x",
        "image_id": name,
        "keypoint_annotations": {human: both[0] for human, both in humans.items() if both[0]},
        "human_annotations": {human: both[1] for human, both in humans.items() if both[1]},
    }


BOX = [5, 10, 45, 90]


@pytest.fixture
def read(tmp_path):
    def read(rows):
        path = tmp_path / "list.json"
        path.write_text(json.dumps(rows))
        return AicFormat(annotations=path, images=tmp_path).read()

    return read


def test_ids_run_in_the_order_of_the_file(read):
    rows = [
        photo("b", human2=(joints(), BOX), human1=(joints(), BOX)),
        photo("x"),
        photo("a", h=(joints(), BOX)),
    ]
    annotations = read(rows)
    facts = [(person.id, person.image_id, person.file_name) for person in annotations.persons]
    assert facts == [(1, 1, "b.jpg"), (2, 1, "b.jpg"), (3, 3, "a.jpg")]
    assert [(empty.id, empty.file_name) for empty in annotations.empty_photos] == [(2, "x.jpg")]
    assert annotations.skeleton is AIC_14


def test_box_and_area_are_the_lists(read):
    (person,) = read([photo("a", h=(joints(), [-5, 10.5, 45, 90]))]).persons
    assert person.box_xywh == (-5, 10.5, 50, 79.5)
    assert person.area == 50 * 79.5
    assert person.source_size_wh is None


def test_flags_become_visibility(read):
    numbers = joints()
    numbers[2:9:3] = [1, 2, 3]
    (person,) = read([photo("a", h=(numbers, BOX))]).persons
    assert person.keypoints[:4].tolist() == [[10, 20, 2], [11, 21, 1], [0, 0, 0], [13, 23, 2]]


def test_persons_without_labelled_joints_are_only_for_scoring(read):
    annotations = read([photo("a", h=(joints(flag=3), BOX), i=(joints(), BOX))])
    assert [person.id for person in annotations.persons] == [2]
    assert annotations.findings.counts("dropped") == {"no labelled keypoints": 1}
    assert annotations.ignored == (
        {"id": 1, "image_id": 1, "bbox": [5, 10, 40, 80], "area": 3200, "iscrowd": 0},
    )


def test_a_photo_listed_again(read):
    again = photo("a", h=(joints(), BOX))
    annotations = read([again, photo("b", h=(joints(), BOX)), again])
    assert len(annotations.persons) == 2
    assert annotations.findings.counts("corrected") == {"photos listed again": 1}


def test_an_empty_box_is_dropped(read):
    annotations = read([photo("a", h=(joints(), [45, 10, 45, 90]))])
    assert annotations.persons == ()
    assert annotations.findings.counts("dropped") == {"box empty or outside the photo": 1}
    assert len(annotations.empty_photos) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (photo("a", h=(joints(), None)), "human h of image a: it has joints but no box"),
        (photo("a", h=(None, BOX)), "human h of image a: it has a box but no joints"),
        (
            photo("a", h=(joints(flag=0), BOX)),
            "human h of image a: the third number of a joint is not 1, 2 or 3",
        ),
        (
            photo("a", h=(joints(flag=4), BOX)),
            "human h of image a: the third number of a joint is not 1, 2 or 3",
        ),
        (
            photo("a", h=(joints()[:-3], BOX)),
            r"human h of image a: the joints must be 42 numbers \(found 39\)",
        ),
        (photo("a", h=(joints(), [1, 2, 3])), r"human h of image a: the box must be 4 numbers.*\(found 3\)"),
        ({"image_id": "a", "human_annotations": {}}, "image a: object missing required field"),
        (photo("a", h=("none", BOX)), "image a: keypoint_annotations.*expected `array`, got `str`"),
        (photo("good"), "image good: two different rows have this image_id"),
        ({"id": 5}, "image in row 2: object missing required field `image_id`"),
    ],
)
def test_faults_name_file_photo_and_human(read, row, words):
    annotations = read([photo("good", h=(joints(), BOX)), row])
    with pytest.raises(InputError, match=words) as error:
        annotations.findings.raise_errors()
    assert "list.json: " in str(error.value)
    assert "\n" not in str(error.value)


def test_another_file(read):
    with pytest.raises(InputError, match=r"list\.json: this is not AI Challenger's list of photos"):
        read({"images": [], "annotations": []})


def test_real_list_agrees_with_its_coco_form(shared_data):
    folder = shared_data / "aic"
    path = folder / "keypoint_annotations_raw_reconstructed.json"
    annotations = AicFormat(annotations=path, images=folder / "images").read()
    annotations.findings.raise_errors()
    assert annotations.photos.absent(person.file_name for person in annotations.persons) == set()
    coco = json.loads((folder / "aic_coco_style.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    expected = {(names[each["image_id"]], *each["bbox"]): each for each in coco["annotations"]}
    assert len(annotations.persons) == len(expected) == 9
    for person in annotations.persons:
        found = expected.get((person.file_name, *person.box_xywh))
        points = np.array(found["keypoints"], float).reshape(14, 3)
        labelled = person.keypoints[:, 2] > 0
        np.testing.assert_array_equal(person.keypoints[labelled, :2], points[labelled, :2])
        assert person.area == person.box_xywh[2] * person.box_xywh[3]
        assert labelled.sum() == found["num_keypoints"]
