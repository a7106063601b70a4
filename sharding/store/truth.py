"""`ground_truth.json`: the persons of a folder of shards in COCO form, for any scorer."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.annotations.skeleton import to_category
from semipose.sharding.samples.sample import PhotoTask
from semipose.sharding.store.files import write_atomic_parts

StoredPhotos = Sequence[tuple[PhotoTask, tuple[int, int]]]
"""The photos with their stored persons, in order, each with its width and height."""


def write_ground_truth(
    path: Path, annotations: Annotations, stored: StoredPhotos, *, without_box: Sequence[Photo] = ()
) -> Path:
    """Write the COCO form of the stored persons, in source pixels, complete for pycocotools.

    After the persons come the annotations of the same photos that pycocotools ignores (crowds, persons
    without keypoints): detections that match them are not counted as wrong, as in the published scores. If
    the stored persons are boxes of a detector, they are under `detections`, which scorers ignore, and the
    annotated persons of these photos and of those `without_box` are under `annotations`.
    """
    photos = [(task.photo, size_wh) for task, size_wh in stored]
    for photo in without_box:
        assert photo.size_wh is not None, "formats with detections know the sizes"
        photos.append((photo, photo.size_wh))
    samples = [person for task, _ in stored for person in task.persons]
    return write_atomic_parts(path, map(str.encode, _texts(annotations, photos, samples)))


def _texts(
    annotations: Annotations, photos: Sequence[tuple[Photo, tuple[int, int]]], samples: Sequence[Person]
) -> Iterator[str]:
    """The file, row by row, because all rows of COCO together would take a GB."""
    category_id = annotations.category_id
    category = to_category(annotations.skeleton, category_id=category_id, name=annotations.category_name)
    num_keypoints = annotations.skeleton.num_keypoints
    there = {photo.id for photo, _ in photos}
    persons: Iterable[Person] = samples
    yield '{"categories":' + _json([category])
    if annotations.annotated is not None:
        persons = (person for person in annotations.annotated if person.image_id in there)
        yield ',"detections":['
        yield from _joined(map(_detection, samples))
        yield "]"
    yield ',"images":['
    yield from _joined(_image(photo, size_wh, annotations) for photo, size_wh in photos)
    yield '],"annotations":['
    rows = (_row(person, category_id) for person in persons)
    forgiven = (row for row in annotations.ignored if row["image_id"] in there)
    ignored = (_ignored_row(row, num_keypoints, category_id) for row in forgiven)
    yield from _joined(chain(rows, ignored))
    yield "]}"


def _joined(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield ("," if number else "") + _json(row)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _image(photo: Photo, size_wh: tuple[int, int], annotations: Annotations) -> dict[str, Any]:
    row = {"id": photo.id, "file_name": photo.file_name, "width": size_wh[0], "height": size_wh[1]}
    return {**row, **annotations.photo_facts.get(photo.id, {})}


def _ignored_row(row: dict[str, Any], num_keypoints: int, category_id: int) -> dict[str, Any]:
    keypoints = row.get("keypoints", [0] * (3 * num_keypoints))
    labelled = sum(v > 0 for v in keypoints[2::3])
    return {**row, "category_id": category_id, "keypoints": keypoints, "num_keypoints": labelled}


def _detection(person: Person) -> dict[str, Any]:
    return {
        "id": person.id,
        "image_id": person.image_id,
        "area": person.area,
        "bbox": list(person.box_xywh),
        "score": person.score,
    }


def _row(person: Person, category_id: int) -> dict[str, Any]:
    row = {
        "id": person.id,
        "image_id": person.image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": person.area,
        "bbox": list(person.box_xywh),
        "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
        # Float32 holds the annotation to 1e-4 px at any photo's size; the rounding drops its binary tail.
        "keypoints": person.keypoints.astype(np.float64).round(4).ravel().tolist(),
    }
    if person.category_id is not None:
        row["source_category_id"] = person.category_id
    if person.head_xywh is not None:
        row["head_bbox"] = list(person.head_xywh)
    return row
