"""`ground_truth.json`: the persons of a folder of shards in COCO form, for any scorer."""

from collections.abc import Iterable, Mapping
from typing import Any

from sharding.record import Annotations, Person
from sharding.skeleton import to_category

CATEGORY_ID = 1


def ground_truth(
    annotations: Annotations, persons: Iterable[Person], sizes_wh: Mapping[int, tuple[int, int]]
) -> dict[str, Any]:
    """The COCO form of `persons`, in source pixels, complete for pycocotools.

    After the persons come the annotations of the same photos that pycocotools ignores by itself (crowds,
    persons without keypoints): detections that fit them are forgiven, as in the published scores.
    sizes_wh: width and height of each photo by image id; exactly these photos are listed, in this order.
    """
    file_names: dict[int, str] = {}
    rows = []
    for person in persons:
        file_names.setdefault(person.image_id, person.file_name)
        rows.append(_row(person))
    rows += [
        {**row, "category_id": CATEGORY_ID} for row in annotations.ignored if row["image_id"] in file_names
    ]
    images = [
        {"id": image_id, "file_name": name, "width": sizes_wh[image_id][0], "height": sizes_wh[image_id][1]}
        for image_id, name in file_names.items()
    ]
    category = to_category(annotations.skeleton, category_id=CATEGORY_ID)
    return {"images": images, "annotations": rows, "categories": [category]}


def _row(person: Person) -> dict[str, Any]:
    return {
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
