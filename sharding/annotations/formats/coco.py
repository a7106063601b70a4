"""COCO person keypoints: an annotation file and its photos, by the published person rule."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.category import from_category
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.categories import (
    READ_TOGETHER,
    Categories,
    choose_categories,
    count_missing_id,
)
from semipose.sharding.annotations.formats.coco_rows import (
    NULL,
    AnnotationRow,
    CocoFile,
    ImageRow,
    by_image,
    has_keypoints,
    read_file,
)
from semipose.sharding.annotations.photos import Photos, open_photos
from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.annotations.results import SHARE_BOX, is_share
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton, to_category

CROWD = Fault("crowd", "dropped", "")
NO_KEYPOINTS = Fault("no labelled keypoints", "dropped", "")
NO_AREA = Fault(
    "no area",
    "dropped",
    "correct area, or read the file with source.name=coco-style, which takes the area from the box",
)
BOX_OF_JOINTS = "have the box made from the joints (source.name=coco-style source.joint_boxes.use=missing)"
EMPTY_BOX = Fault(
    "box empty or outside the photo",
    "dropped",
    f"write bbox as x, y, width, height in pixels of the photo, or {BOX_OF_JOINTS}",
)
CLIPPED_BOX = Fault("box beyond the photo, clipped", "corrected", "")
TURNED_BOX = Fault("box with a negative side, turned", "corrected", "write x and y of the upper left corner")
AREA_MISSING = Fault(f"area missing, taken as {AREA_OF_BOX} of the box", "corrected", "")
BAD_VISIBILITY = Fault(
    "a keypoint's third number is not 0, 1 or 2",
    cure="correct it, or take every joint that has a place as labelled (source.name=coco-style "
    "source.labelled_by=place)",
)
NO_VISIBILITY = Fault(
    "keypoints hold x and y alone, without the third number",
    cure="write x, y, v for each, or take every joint that has a place as labelled (source.name=coco-style "
    "source.labelled_by=place)",
)
_VISIBILITIES = frozenset((0, 1, 2))
_BEYOND_PX = 1.0
"""Up to here, rounding explains that a box reaches beyond its photo."""


@settings
class CocoFormat:
    """A COCO keypoint file; any set of keypoints that its `categories` describe."""

    name: Literal["coco"] = "coco"
    annotations: Path
    """The JSON file, such as person_keypoints_train2017.json; with `boxes`, it can also be a list of photos
    without annotations, such as image_info_test-dev2017.json."""
    images: str | Path
    """Where the photos are, to which each `file_name` is relative: a folder, a zip file or a URL."""
    boxes: Detections | None = None
    """For a split that is scored: boxes of a detector instead of the annotated ones."""

    def read(self) -> Annotations:
        """The persons of the published rule, in the order of the JSON `images`, then of the annotations."""
        return read_coco(self.annotations, self.images, boxes=self.boxes)


class Rule(NamedTuple):
    """How the rows of one file are judged.

    area_from_box: take the area from the box even where the file gives one (CrowdPose's scoring does so).
    prepare: puts a row that is neither a crowd nor of another category into COCO's form, before it is judged.
    """

    findings: Findings
    categories: Categories
    num_keypoints: int
    area_from_box: bool
    prepare: "Callable[[AnnotationRow, ImageRow, Rule], None] | None" = None


def read_coco(
    path: Path,
    images: str | Path,
    *,
    describe: Callable[[dict[str, Any], str, Findings], Skeleton] | None = None,
    category_names: Sequence[str] | None = None,
    has_own_keypoints: bool = False,
    area_from_box: bool = False,
    prepare: Callable[[AnnotationRow, ImageRow, Rule], None] | None = None,
    boxes: Detections | None = None,
) -> Annotations:
    """The persons of a COCO keypoint file, in the order of its `images`, then of its annotations.

    Kept: not a crowd, area above 0, a box that is not empty after clipping, some keypoint number above 0
    (COCO 2017: 149,813 train and 6,352 val persons). describe: the skeleton of a category (its row, the
    file's name and where findings go); COCO's own way without it. category_names, has_own_keypoints: see
    `choose_categories`. prepare: see `Rule`. boxes: a detector's, whose people take the place of the
    annotated ones; a list of photos without `annotations` is then enough. Raises InputError for any other
    file; the faults of single rows are findings.
    """
    file = read_file(path, is_list_enough=boxes is not None)
    findings = Findings(path)
    categories = choose_categories(
        file.categories if describe else _described(file),
        path,
        category_names,
        has_own_keypoints=has_own_keypoints,
        has_keypoint_rows=has_keypoints(file),
    )
    if categories.are_several and category_names is None:
        for category in categories.chosen:
            findings.add(READ_TOGETHER, str(category.get("name")))
    skeleton = (describe or _describe)(categories.chosen[0], str(path), findings)
    photos = open_photos(images)
    rule = Rule(findings, categories, skeleton.num_keypoints, area_from_box, prepare)
    rows = by_image(file, photos, findings)
    upright = not file.annotations
    annotations = judge_rows(rows, rule, skeleton=skeleton, photos=photos, upright=upright)
    return annotations if boxes is None else boxes.put_into(annotations)


def judge_rows(
    images: Iterable[tuple[ImageRow, list[AnnotationRow]]],
    rule: Rule,
    *,
    skeleton: Skeleton,
    photos: Photos,
    upright: bool,
) -> Annotations:
    """The persons of images with their annotations, in that order, by the published rule.

    upright: whether the rows count in pixels of the upright photos, see `Annotations`.
    """
    persons: list[Person] = []
    empty: list[Photo] = []
    ignored: list[dict[str, Any]] = []
    outlines: dict[int, bytes] = {}
    facts: dict[int, dict[str, Any]] = {}
    for image, rows in images:
        people = [_judge(row, image, rule) for row in rows]
        kept = [person for person in people if person is not None]
        persons += kept
        dropped = (row for row, person in zip(rows, people, strict=True) if person is None)
        forgiven = [row for row in dropped if _is_forgiven(row, rule)]
        ignored += [_ignored(row, rule) for row in forgiven]
        outlines |= {row.id: bytes(row.segmentation) for row in forgiven if _has_outline(row)}
        if not kept:
            empty.append(Photo(id=image.id, file_name=image.file_name, size_wh=(image.width, image.height)))
        if image.crowdIndex is not None:
            facts[image.id] = {"crowdIndex": image.crowdIndex}
    category = {} if rule.categories.are_several else rule.categories.chosen[0]
    return Annotations(
        skeleton=skeleton,
        photos=photos,
        persons=tuple(persons),
        findings=rule.findings,
        empty_photos=tuple(empty),
        ignored=tuple(ignored),
        outlines=outlines,
        photo_facts=facts,
        upright=upright,
        category_id=category.get("id", 1),
        category_name=str(category.get("name") or "person"),
    )


def _describe(category: dict[str, Any], where: str, findings: Findings) -> Skeleton:
    return from_category(category, where=where, findings=findings)


def _described(file: CocoFile) -> list[dict[str, Any]]:
    """The categories; COCO's own lists of photos describe no keypoints and get those of COCO's people."""
    if file.annotations is None and not any(row.get("keypoints") for row in file.categories):
        return [to_category(COCO_17)]
    return file.categories


def _judge(row: AnnotationRow, image: ImageRow, rule: Rule) -> Person | None:
    """The person of a row; None, with a finding, if the published rule drops it."""
    fault = _dropped_as(row, rule)
    box_xywh = None
    if fault is None:
        _turn_box(row, rule)
        if rule.prepare is not None:
            rule.prepare(row, image, rule)
        if not row.bbox and not any(row.keypoints or ()):
            fault = NO_KEYPOINTS
    if fault is None and _is_list_of(row.bbox, 4, "bbox", row, rule):
        assert row.bbox is not None
        box_xywh = clean_box(row.bbox, (image.width, image.height))
        fault = None if box_xywh is not None else SHARE_BOX if is_share(row.bbox) else EMPTY_BOX
        if _area(row, rule) <= 0:
            fault = EMPTY_BOX if row.area is None and not rule.area_from_box else NO_AREA
        if fault is None and not any(row.keypoints or ()):
            fault = NO_KEYPOINTS
    if fault is not None:
        rule.findings.add(fault, row.id)
        return None
    if not _is_list_of(row.keypoints, 3 * rule.num_keypoints, "keypoints", row, rule) or box_xywh is None:
        return None
    assert row.keypoints is not None
    assert row.bbox is not None
    if max(row.keypoints) <= 0:
        rule.findings.add(NO_KEYPOINTS, row.id)
        return None
    _note(row, image, rule)
    return Person(
        id=row.id,
        image_id=image.id,
        file_name=image.file_name,
        source_size_wh=(image.width, image.height),
        box_xywh=box_xywh,
        keypoints=np.array(row.keypoints, np.float32).reshape(-1, 3),
        area=_area(row, rule),
        annotated_xywh=(row.bbox[0], row.bbox[1], row.bbox[2], row.bbox[3]),
        category_id=row.category_id if rule.categories.are_several else None,
    )


def _dropped_as(row: AnnotationRow, rule: Rule) -> Fault | None:
    return rule.categories.fault_of(row.category_id) or (CROWD if row.iscrowd else None)


def _turn_box(row: AnnotationRow, rule: Rule) -> None:
    """Turn a box with negative sides, drawn from another corner, into one from its upper left corner.

    A box of which all numbers are negative, such as four times -1, stands for a missing one.
    """
    if row.bbox is None or len(row.bbox) != 4 or (row.bbox[2] >= 0 and row.bbox[3] >= 0):
        return
    if max(row.bbox) < 0:
        return
    rule.findings.add(TURNED_BOX, row.id, str(row.bbox))
    x, y, width, height = row.bbox
    row.bbox = [x + min(width, 0), y + min(height, 0), abs(width), abs(height)]


def _note(row: AnnotationRow, image: ImageRow, rule: Rule) -> None:
    """Findings about a person that is kept."""
    count_missing_id(row.category_id, row.id, rule.findings)
    assert row.bbox is not None
    x, y, width, height = row.bbox
    beyond = max(-x, -y, x + width - image.width, y + height - image.height)
    if beyond > _BEYOND_PX:
        rule.findings.add(CLIPPED_BOX, row.id, f"by {beyond:.0f} px")
    if row.area is None and not rule.area_from_box:
        rule.findings.add(AREA_MISSING, row.id)
    assert row.keypoints is not None
    if not _VISIBILITIES.issuperset(row.keypoints[2::3]):
        rule.findings.add(BAD_VISIBILITY, row.id)


def _area(row: AnnotationRow, rule: Rule) -> float:
    if row.area is not None and not rule.area_from_box:
        return row.area
    return AREA_OF_BOX * row.bbox[2] * row.bbox[3] if row.bbox else 0.0


def _is_list_of(numbers: list[float] | None, count: int, key: str, row: AnnotationRow, rule: Rule) -> bool:
    """Whether a row has so many numbers (JSON has only finite ones); otherwise a finding says so."""
    if numbers is not None and len(numbers) == count:
        return True
    found = "none" if numbers is None else str(len(numbers))
    if key == "keypoints" and numbers is not None and 3 * len(numbers) == 2 * count:
        rule.findings.add(NO_VISIBILITY, row.id)
        return False
    cures = {
        "bbox": BOX_OF_JOINTS,
        "keypoints": "name the keypoints that the rows hold (source.name=coco-style source.keypoints=[...])",
    }
    cure = f"correct it, or {cures[key]}"
    rule.findings.add(Fault(f"{key} must be a list of {count} numbers", cure=cure), row.id, f"found {found}")
    return False


def clean_box(
    box_xywh: Sequence[float], size_wh: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The box clipped to the photo as the published readers do it, which makes it one pixel narrower and
    lower than annotated. None if nothing is left.
    """
    x, y, width, height = box_xywh
    left, top = max(0.0, x), max(0.0, y)
    right = min(size_wh[0] - 1.0, left + max(0.0, width - 1))
    bottom = min(size_wh[1] - 1.0, top + max(0.0, height - 1))
    # Differs from the published rule: a box of one pixel (both sides 0) has no scale and is dropped.
    if right < left or bottom < top or (right == left and bottom == top):
        return None
    return left, top, right - left, bottom - top


def _is_forgiven(row: AnnotationRow, rule: Rule) -> bool:
    """Whether scoring ignores detections that match a dropped row: a crowd, or a person without keypoints."""
    if rule.categories.fault_of(row.category_id) or row.bbox is None or len(row.bbox) != 4:
        return False
    return bool(row.iscrowd) or (_area(row, rule) > 0 and not any(row.keypoints or ()))


def _has_outline(row: AnnotationRow) -> bool:
    """Whether a row has a segmentation that `_ignored` leaves out."""
    return not row.iscrowd and row.segmentation != NULL


def _ignored(row: AnnotationRow, rule: Rule) -> dict[str, Any]:
    """A dropped row as scoring needs it; a wrong number of keypoints is a finding, as scoring would stop."""
    ignored = {
        "id": row.id,
        "image_id": row.image_id,
        "bbox": row.bbox,
        "area": _area(row, rule),
        "iscrowd": int(bool(row.iscrowd)),
    }
    if any(row.keypoints or ()) and _is_list_of(
        row.keypoints, 3 * rule.num_keypoints, "keypoints", row, rule
    ):
        ignored["keypoints"] = row.keypoints
    if row.iscrowd and row.segmentation != NULL:
        ignored["segmentation"] = msgspec.json.decode(row.segmentation)
    return ignored
