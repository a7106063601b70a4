"""CrowdPose's own annotation file."""

import json

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.skeleton import CROWDPOSE_14

COCO_BONES = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13]]


def content() -> dict:
    """Two photos with a person each, as the published files have it: no area, no info, COCO's bones."""
    points = [number for index in range(14) for number in (10 + index, 20 + index, 1 + index % 2)]
    return {
        "images": [
            {
                "id": number,
                "file_name": f"{number}.jpg",
                "width": 100,
                "height": 90,
                "crowdIndex": number / 10,
            }
            for number in (3, 1)
        ],
        "annotations": [
            {
                "id": 5,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [5, 6, 41, 51],
                "keypoints": points,
            },
            {
                "id": 4,
                "image_id": 3,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [5, 6, 41, 51],
                "keypoints": points,
            },
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(CROWDPOSE_14.names), "skeleton": COCO_BONES}
        ],
    }


@pytest.fixture
def read(tmp_path):
    def read(written):
        path = tmp_path / "crowdpose.json"
        path.write_text(json.dumps(written))
        return CrowdPoseFormat(annotations=path, images=tmp_path).read()

    return read


def test_reads_by_the_coco_rule_with_its_own_bones_and_areas(read):
    annotations = read(content())
    assert [(person.id, person.image_id) for person in annotations.persons] == [(4, 3), (5, 1)]
    assert annotations.skeleton is CROWDPOSE_14
    assert annotations.photo_facts == {3: {"crowdIndex": 0.3}, 1: {"crowdIndex": 0.1}}
    person = annotations.persons[0]
    assert person.area == pytest.approx(AREA_OF_BOX * 41 * 51)
    assert person.box_xywh == (5, 6, 40, 50)
    assert person.source_size_wh == (100, 90)
    assert list(annotations.findings) == []


def test_area_is_the_boxes_even_where_the_file_has_one(read):
    rows = content()
    rows["annotations"][0]["area"] = 7.0
    assert read(rows).persons[1].area == pytest.approx(AREA_OF_BOX * 41 * 51)


def test_a_file_with_other_joints_is_refused(read):
    rows = content()
    rows["categories"][0]["keypoints"][-2] = "nose"
    with pytest.raises(
        InputError, match=r"crowdpose\.json: the keypoints are left_shoulder.* nose, neck, but"
    ):
        read(rows)


def test_real_file(shared_data):
    folder = shared_data / "crowdpose"
    path = folder / "test_crowdpose.json"
    annotations = CrowdPoseFormat(annotations=path, images=folder / "images").read()
    annotations.findings.raise_errors()
    rows = {row["id"]: row for row in json.loads(path.read_text())["annotations"]}
    assert len(rows) == 5
    assert [person.id for person in annotations.persons] == [
        number for number, row in rows.items() if any(row["keypoints"])
    ]
    assert annotations.photo_facts == {106848: {"crowdIndex": 0.33}, 103319: {"crowdIndex": 0.39}}
    assert annotations.photos.absent(person.file_name for person in annotations.persons) == set()
    for person in annotations.persons:
        row = rows[person.id]
        np.testing.assert_array_equal(person.keypoints.ravel(), np.array(row["keypoints"], np.float32))
        assert person.area == pytest.approx(0.53 * row["bbox"][2] * row["bbox"][3])
    assert [row["id"] for row in annotations.ignored] == [131039]
