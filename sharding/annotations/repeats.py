"""Finds photos and persons with several ids, which would be trained on and scored more than once."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from semipose.sharding.annotations.findings import Fault
from semipose.sharding.annotations.record import Annotations, Person, photo_key

MOST_APART_PX = 1.0
"""By how much joints and box of one person may differ from row to row in x and in y: files round them."""
APART = 0.02
"""The same as a share of the longer side of the box, for small people."""
TELLING_JOINTS = 3
"""This number of labelled joints at equal positions means one person, whatever the boxes."""

SAME_PHOTO = Fault(
    "several image ids name one photo file",
    "kept",
    "give each photo one id and each frame a file of its own; a split keeps them on one side",
    "image",
    is_identity=False,
)
SAME_PERSON = Fault(
    "the person stands in the file again (the same joints, or box, in the same photo)",
    "kept",
    "remove the repeated rows: they are trained on twice, and found once they count as missed once",
    is_identity=False,
)


def note_repeats(annotations: Annotations) -> None:
    """Add to the findings: image ids whose photo another id names too, persons equal to an earlier one."""
    findings = annotations.findings
    people = annotations.persons if annotations.annotated is None else annotations.annotated
    names = {
        person.image_id: person.file_name
        for person in chain(annotations.persons, annotations.annotated or ())
    }
    names |= {photo.id: photo.file_name for photo in annotations.empty_photos}
    keys = {image_id: photo_key(name) for image_id, name in names.items()}
    ids_of: dict[str, list[int]] = defaultdict(list)
    for image_id, key in keys.items():
        ids_of[key].append(image_id)
    for name, image_ids in ids_of.items():
        for image_id in image_ids if len(image_ids) > 1 else ():
            findings.add(SAME_PHOTO, image_id, f"{', '.join(map(str, image_ids[:6]))} are {name}")
    for person, first in _repeated(people, keys):
        findings.add(SAME_PERSON, person.id, f"equal to {first.id}")
    findings.warn_if_many(SAME_PHOTO, len(names))
    findings.warn_if_many(SAME_PERSON, len(people))


def _repeated(people: Sequence[Person], keys: Mapping[int, str]) -> Iterator[tuple[Person, Person]]:
    """Each person that equals an earlier one of its photo, with the first such.

    keys: the `photo_key` of each image id. Equal people have equal centres, so after sorting by the x of
    the centre each is compared only with its neighbours.
    """
    if not people:
        return
    points = np.stack([person.keypoints for person in people])
    boxes_xywh = np.array([person.box_xywh for person in people])
    photos = np.unique([keys[person.image_id] for person in people], return_inverse=True)[1]
    is_labelled = points[..., 2] > 0
    num_labelled = is_labelled.sum(axis=1)
    joints_x = np.where(is_labelled, points[..., 0], 0).sum(axis=1) / np.maximum(num_labelled, 1)
    centre_x = np.where(num_labelled > 0, joints_x, boxes_xywh[:, 0] + boxes_xywh[:, 2] / 2)
    centre_x = np.nan_to_num(centre_x, posinf=0, neginf=0)  # a fault of its own
    most_apart = np.minimum(MOST_APART_PX, APART * boxes_xywh[:, 2:].max(axis=1))

    def are_equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether the labelled joints have the same positions; with few joints, the boxes must be equal."""
        most = np.minimum(most_apart[one], most_apart[other])[:, None]
        joints_apart = np.abs(points[one, :, :2] - points[other, :, :2]).max(axis=2)
        same_joints = (is_labelled[one] == is_labelled[other]) & (~is_labelled[one] | (joints_apart <= most))
        same_box = (np.abs(boxes_xywh[one] - boxes_xywh[other]) <= most).all(axis=1)
        return same_joints.all(axis=1) & ((num_labelled[one] >= TELLING_JOINTS) | same_box)

    order = np.lexsort((centre_x, photos))
    first = np.arange(len(people))
    left = np.arange(len(people))  # places in the order whose neighbours at the last distance were near
    for distance in range(1, len(people)):
        left = left[left + distance < len(people)]
        one, other = order[left], order[left + distance]
        # a hundredth more, as sums are rounded
        is_near = (photos[one] == photos[other]) & (centre_x[other] - centre_x[one] <= 1.01 * MOST_APART_PX)
        left, one, other = left[is_near], one[is_near], other[is_near]
        if not len(left):
            break
        is_equal = are_equal(one, other)
        earlier, later = np.minimum(one, other)[is_equal], np.maximum(one, other)[is_equal]
        np.minimum.at(first, later, earlier)
    for index in np.flatnonzero(first < np.arange(len(people))).tolist():
        yield people[index], people[int(first[index])]
