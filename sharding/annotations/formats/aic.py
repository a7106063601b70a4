"""AI Challenger human skeletons: the challenge's own list, 14 joints, several people per photo."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from semipose.configs.settings import settings
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.coco import NO_KEYPOINTS
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.photos import open_photos
from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.annotations.skeleton import AIC_14

NO_JOINTS = Fault("it has a box but no joints (`keypoint_annotations`)", cure="add them", subject="human")
NO_BOX = Fault("it has joints but no box (`human_annotations`)", cure="add it", subject="human")
BAD_FLAG = Fault("the third number of a joint is not 1, 2 or 3", subject="human")
BAD_JOINTS = Fault(f"the joints must be {3 * AIC_14.num_keypoints} numbers", subject="human")
BAD_BOX = Fault("the box must be 4 numbers, x1, y1, x2, y2", subject="human")
EMPTY_BOX = Fault(
    "box empty or outside the photo", "dropped", "write x1, y1, x2, y2 with x1 < x2 and y1 < y2"
)
REPEATED = Fault("photos listed again", "corrected", "", "image")
DIFFERENT = Fault("two different rows have this image_id", cure="make them one", subject="image")

_VISIBILITY = np.array([0, 2, 1, 0], np.float32)
"""By the list's flag: 1 is visible, 2 occluded, 3 not labelled."""


@settings
class AicFormat:
    """AI Challenger's list, as published in 2017."""

    name: Literal["aic"] = "aic"
    annotations: Path
    """The JSON file, such as keypoint_train_annotations_20170909.json."""
    images: str | Path
    """The photos, named by the image_id of the list and .jpg: a folder, a zip file or a URL."""

    def read(self) -> Annotations:
        """The persons in the order of the list and of each photo's joints; ids and image ids count from 1.

        Boxes are the list's (x1, y1, x2, y2), not clipped; the area is that of the box, the challenge's own
        scale. Persons without a labelled joint are dropped, but kept for scoring, which ignores detections of
        them. Raises InputError for another kind of file.
        """
        rows = read_json(self.annotations, list[msgspec.Raw], expected="AI Challenger's list of photos")
        findings = Findings(self.annotations)
        persons: list[Person] = []
        empty: list[Photo] = []
        ignored = []
        next_id = 1
        for image_id, row in enumerate(_distinct(rows, findings), start=1):
            before = len(persons)
            for human in dict.fromkeys([*row.keypoint_annotations, *row.human_annotations]):
                person = _person(row, human, findings, id=next_id, image_id=image_id)
                next_id += 1
                if person is not None and person.keypoints.any():
                    persons.append(person)
                elif person is not None:
                    findings.add(NO_KEYPOINTS, person.id)
                    ignored.append(_ignored(person))
            if len(persons) == before:
                empty.append(Photo(id=image_id, file_name=_file_name(row), size_wh=None))
        return Annotations(
            skeleton=AIC_14,
            photos=open_photos(self.images),
            persons=tuple(persons),
            findings=findings,
            empty_photos=tuple(empty),
            ignored=tuple(ignored),
        )


class PhotoRow(msgspec.Struct):
    """A photo of the list: the humans' joints (x, y, flag) and boxes (x1, y1, x2, y2) by name."""

    image_id: str
    keypoint_annotations: dict[str, list[float]]
    human_annotations: dict[str, list[float]]


def _distinct(raws: list[msgspec.Raw], findings: Findings) -> Iterator[PhotoRow]:
    """The photos in order; a repeated row is left out, and two different rows of one photo stop the build."""
    hashes: dict[str, int] = {}
    for row, raw in RowReader(PhotoRow, findings, subject="image", key="image_id").read(raws):
        content = hash(bytes(raw))
        if row.image_id not in hashes:
            hashes[row.image_id] = content
            yield row
        else:
            findings.add(REPEATED if hashes[row.image_id] == content else DIFFERENT, row.image_id)


def _person(row: PhotoRow, human: str, findings: Findings, *, id: int, image_id: int) -> Person | None:
    """One human of a photo; None, with a finding, if the row does not describe it."""
    joints, box = row.keypoint_annotations.get(human), row.human_annotations.get(human)
    fault, detail = None, ""
    if joints is None or box is None:
        fault = NO_JOINTS if joints is None else NO_BOX
    elif len(joints) != 3 * AIC_14.num_keypoints:
        fault, detail = BAD_JOINTS, f"found {len(joints)}"
    elif len(box) != 4:
        fault, detail = BAD_BOX, f"found {len(box)}"
    elif not {1, 2, 3}.issuperset(joints[2::3]):
        fault = BAD_FLAG
    elif box[2] <= box[0] or box[3] <= box[1]:
        fault, detail = EMPTY_BOX, str(box)
    if fault is not None or joints is None or box is None:
        assert fault is not None
        findings.add(fault, f"{human} of image {row.image_id}", detail)
        return None
    keypoints = np.array(joints, np.float32).reshape(-1, 3)
    keypoints[:, 2] = _VISIBILITY[keypoints[:, 2].astype(int)]
    keypoints[keypoints[:, 2] == 0] = 0
    width, height = box[2] - box[0], box[3] - box[1]
    return Person(
        id=id,
        image_id=image_id,
        file_name=_file_name(row),
        source_size_wh=None,
        box_xywh=(box[0], box[1], width, height),
        keypoints=keypoints,
        area=width * height,
    )


def _file_name(row: PhotoRow) -> str:
    return f"{row.image_id}.jpg"


def _ignored(person: Person) -> dict[str, object]:
    """A person without labelled joints, as a COCO row."""
    return {
        "id": person.id,
        "image_id": person.image_id,
        "bbox": list(person.box_xywh),
        "area": person.area,
        "iscrowd": 0,
    }
