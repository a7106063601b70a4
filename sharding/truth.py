"""`ground_truth.json`: the persons of a folder of shards in COCO form, for any scorer."""

from collections.abc import Iterable
from typing import Any

from sharding.plan import PhotoTask
from sharding.record import Annotations, Person
from sharding.skeleton import to_category

CATEGORY_ID = 1


def ground_truth(
    annotations: Annotations, stored: Iterable[tuple[PhotoTask, tuple[int, int]]]
) -> dict[str, Any]:
    """The COCO form of the stored persons, in source pixels, complete for pycocotools.

    After the persons come the annotations of the same photos that pycocotools ignores by itself (crowds,
    persons without keypoints): detections that fit them are forgiven, as in the published scores.
    stored: the photos with their stored persons, in order, each with its width and height.
    """
    rows: list[dict[str, Any]] = []
    images: dict[int, dict[str, Any]] = {}
    for task, (width, height) in stored:
        photo = task.photo
        facts = annotations.photo_facts.get(photo.id, {})
        images[photo.id] = {"id": photo.id, "file_name": photo.file_name, "width": width, "height": height}
        images[photo.id] |= facts
        rows += map(_row, task.persons)
    num_keypoints = annotations.skeleton.num_keypoints
    rows += [_ignored_row(row, num_keypoints) for row in annotations.ignored if row["image_id"] in images]
    category = to_category(annotations.skeleton, category_id=CATEGORY_ID)
    return {"images": list(images.values()), "annotations": rows, "categories": [category]}


def _ignored_row(row: dict[str, Any], num_keypoints: int) -> dict[str, Any]:
    keypoints = row.get("keypoints", [0] * (3 * num_keypoints))
    labelled = sum(v > 0 for v in keypoints[2::3])
    return {**row, "category_id": CATEGORY_ID, "keypoints": keypoints, "num_keypoints": labelled}


def _row(person: Person) -> dict[str, Any]:
    row = {
        "id": person.id,
        "image_id": person.image_id,
        "category_id": CATEGORY_ID,
        "iscrowd": 0,
        "area": person.area,
        "bbox": list(person.box_xywh),
        "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
        # Float32 holds the annotation to 1e-4 px at any photo's size; the rounding drops its binary tail.
        "keypoints": [round(number, 4) for number in person.keypoints.ravel().tolist()],
    }
    if person.head_xywh is not None:
        row["head_bbox"] = list(person.head_xywh)
    return row
