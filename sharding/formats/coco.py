"""COCO person keypoints: an annotation file and a folder of photos, by the published person rule."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from configs.load import InputError
from configs.settings import settings
from sharding.record import Annotations, Person
from sharding.skeleton import from_category

AREA_OF_BOX = 0.53
"""Share of its box that a person covers, on average over COCO: the area where an annotation gives none."""

_CROWD, _NO_KEYPOINTS = "crowd", "no labelled keypoints"
_FORGIVEN = (_CROWD, _NO_KEYPOINTS)
_AREA_MISSING = f"area missing, taken as {AREA_OF_BOX} of the box"

Row = dict[str, Any]


@settings
class CocoFormat:
    """A COCO keypoint file; any set of keypoints that its `categories` describe."""

    name: Literal["coco"] = "coco"
    annotations: Path
    """The JSON file, such as person_keypoints_train2017.json."""
    images: Path
    """The folder that the `file_name` of each image is relative to."""

    def read(self) -> Annotations:
        """The persons of the published rule, in the order of the JSON `images`, then of the annotations.

        Kept: not a crowd, area above 0, a box that is not empty after clipping, some keypoint number above 0
        (COCO 2017: 149,813 train and 6,352 val persons). Raises InputError for anything but a COCO keypoint
        file, naming the annotation or image at fault.
        """
        rows = read_rows(self.annotations)
        category = _category(rows["categories"], self.annotations)
        skeleton = from_category(category, where=str(self.annotations))
        rule = _Rule(self.annotations, category["id"], skeleton.num_keypoints)
        problems: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        persons: list[Person] = []
        ignored: list[Row] = []
        for image, annotations in _by_image(rows, self.annotations, problems):
            judged = [(row, _judge(row, image, rule)) for row in annotations]
            kept = [person for _, person in judged if isinstance(person, Person)]
            dropped.update(reason for _, reason in judged if isinstance(reason, str))
            problems[_AREA_MISSING] += sum(isinstance(p, Person) and "area" not in row for row, p in judged)
            persons += kept
            if kept:
                ignored += [_ignored(row, rule) for row, reason in judged if reason in _FORGIVEN]
        return Annotations(
            skeleton=skeleton,
            image_folder=self.images,
            persons=tuple(persons),
            ignored=tuple(ignored),
            dropped=dict(dropped),
            problems={problem: count for problem, count in problems.items() if count},
        )


def read_rows(path: Path) -> dict[str, list[Row]]:
    """The `images`, `annotations` and `categories` of a COCO file. Raises InputError where it is not one."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: the annotations cannot be read ({error.strerror}): correct the path"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path}: this is no whole JSON file ({error}): copy or download it again"
        ) from error
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(_has_id(row) for row in rows):
            raise InputError(
                f"{path}: {key!r} is not a list of rows that have a whole number as `id`: "
                "give a COCO keypoint file"
            )
    return content


def _has_id(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), int)


def _category(categories: list[Row], path: Path) -> Row:
    """The category whose persons are read: the one named person, or the only one that has keypoints."""
    able = [row for row in categories if row.get("keypoints")]
    named = [row for row in able if row.get("name") == "person"]
    chosen = named if len(named) == 1 else able
    if len(chosen) != 1:
        raise InputError(
            f"{path}: {len(able)} categories have keypoints, where one, or one named 'person', is wanted: "
            "take the keypoint file, or correct `categories`"
        )
    return chosen[0]


def _distinct(rows: list[Row], what: str, path: Path, problems: Counter[str]) -> dict[int, Row]:
    """Rows by id, in order. Equal rows are merged and counted; unequal ones of one id are refused."""
    by_id: dict[int, Row] = {}
    for row in rows:
        first = by_id.setdefault(row["id"], row)
        if first is row:
            continue
        if first != row:
            raise InputError(
                f"{path}: two different rows have the {what} id {row['id']!r}: make the ids unique"
            )
        problems[f"{what} rows listed again"] += 1
    return by_id


def _by_image(
    rows: dict[str, list[Row]], path: Path, problems: Counter[str]
) -> Iterator[tuple[Row, list[Row]]]:
    """Each image with its annotations, in the order of the file."""
    images = _distinct(rows["images"], "image", path, problems)
    groups: dict[int, list[Row]] = {image_id: [] for image_id in images}
    for row in _distinct(rows["annotations"], "annotation", path, problems).values():
        image_id = row.get("image_id")
        if not isinstance(image_id, int) or image_id not in groups:
            raise InputError(
                f"{path}: annotation {row['id']} names image {image_id!r}, which `images` does not list: "
                "add the image's row or remove the annotation"
            )
        groups[image_id].append(row)
    for image_id, image in images.items():
        size = (image.get("width"), image.get("height"))
        if not isinstance(image.get("file_name"), str) or not all(isinstance(n, int) and n > 0 for n in size):
            raise InputError(f"{path}: image {image_id} needs a file_name, a width and a height: add them")
        yield image, groups[image_id]


class _Rule(NamedTuple):
    """What the rows of one file are judged by; the path for messages."""

    path: Path
    category_id: int
    num_keypoints: int


def _judge(row: Row, image: Row, rule: _Rule) -> Person | str:
    """The person of a row, or the reason why the published rule drops it."""
    if row.get("category_id") != rule.category_id:
        return "another category"
    if row.get("iscrowd"):
        return _CROWD
    x, y, width, height = _numbers(row, "bbox", 4, rule.path)
    area = _area(row, rule)
    if area <= 0:
        return "no area"
    box_xywh = _clean_box((x, y, width, height), (image["width"], image["height"]))
    if box_xywh is None:
        return "box empty or outside the photo"
    if not any(row.get("keypoints") or ()):
        return _NO_KEYPOINTS
    numbers = _numbers(row, "keypoints", 3 * rule.num_keypoints, rule.path)
    keypoints = np.array(numbers, np.float32).reshape(-1, 3)
    if not keypoints.max() > 0:
        return _NO_KEYPOINTS
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise InputError(
            f"{rule.path}: annotation {row['id']}: a keypoint's third number is not 0, 1 or 2: correct it"
        )
    return Person(
        id=row["id"],
        image_id=image["id"],
        file_name=image["file_name"],
        source_size_wh=(image["width"], image["height"]),
        box_xywh=box_xywh,
        keypoints=keypoints,
        area=area,
    )


def _area(row: Row, rule: _Rule) -> float:
    _, _, width, height = _numbers(row, "bbox", 4, rule.path)
    area = row.get("area", AREA_OF_BOX * width * height)
    if not isinstance(area, int | float) or not math.isfinite(area):
        raise InputError(f"{rule.path}: annotation {row['id']}: area is no finite number: correct it")
    return float(area)


def _numbers(row: Row, key: str, count: int, path: Path) -> list[float]:
    numbers = row.get(key)
    if not isinstance(numbers, list) or len(numbers) != count:
        raise InputError(
            f"{path}: annotation {row['id']}: {key} must be a list of {count} numbers: correct it"
        )
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise InputError(f"{path}: annotation {row['id']}: {key} holds what is no finite number: correct it")
    return numbers


def _clean_box(
    box_xywh: tuple[float, float, float, float], size_wh: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The box clipped to the photo as the published readers do it: it comes out one pixel narrower and lower
    than annotated. None where nothing is left.
    """
    x, y, width, height = box_xywh
    left, top = max(0.0, x), max(0.0, y)
    right = min(size_wh[0] - 1.0, left + max(0.0, width - 1))
    bottom = min(size_wh[1] - 1.0, top + max(0.0, height - 1))
    # Differs from the published rule: a box of one pixel (both sides 0) has no scale and is dropped.
    if right < left or bottom < top or (right == left and bottom == top):
        return None
    return left, top, right - left, bottom - top


def _ignored(row: Row, rule: _Rule) -> Row:
    """A dropped row as scoring needs it: pycocotools forgives detections that fit it."""
    keypoints: list[float] = [0] * (3 * rule.num_keypoints)
    if any(row.get("keypoints") or ()):
        keypoints = _numbers(row, "keypoints", len(keypoints), rule.path)
    return {
        "id": row["id"],
        "image_id": row["image_id"],
        "bbox": _numbers(row, "bbox", 4, rule.path),
        "area": _area(row, rule),
        "iscrowd": int(bool(row.get("iscrowd"))),
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        "keypoints": keypoints,
    }
