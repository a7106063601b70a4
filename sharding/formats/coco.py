"""COCO person keypoints: an annotation file and its photos, by the published person rule."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from configs.load import InputError
from configs.settings import settings
from sharding.boxes import AREA_OF_BOX
from sharding.detections import Detections
from sharding.findings import Fault, Findings
from sharding.formats.rows import RowReader, read_json
from sharding.photos import open_photos
from sharding.record import Annotations, Person, Photo
from sharding.skeleton import COCO_17, Skeleton, from_category, to_category

CROWD = Fault("crowd", "dropped", "")
NO_KEYPOINTS = Fault("no labelled keypoints", "dropped", "")
OTHER_CATEGORY = Fault("another category", "dropped", "")
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
CLIPPED_BOX = Fault("box beyond the photo, clipped", "mended", "")
TURNED_BOX = Fault("box with a negative side, turned", "mended", "write x and y of the upper left corner")
AREA_MISSING = Fault(f"area missing, taken as {AREA_OF_BOX} of the box", "mended", "")
BAD_VISIBILITY = Fault(
    "a keypoint's third number is not 0, 1 or 2",
    cure="correct it, or take every joint that has a place as labelled (source.name=coco-style "
    "source.labelled_by=place)",
)
UNKNOWN_IMAGE = Fault("it names an image that `images` does not list", cure="add the row or remove this one")
BAD_IMAGE = Fault("width or height is not above 0", subject="image")

_NULL = msgspec.Raw(b"null")
_VISIBILITIES = frozenset((0, 1, 2))
_BEYOND_PX = 1.0
"""What rounding explains of a box beyond its photo."""


@settings
class CocoFormat:
    """A COCO keypoint file; any set of keypoints that its `categories` describe."""

    name: Literal["coco"] = "coco"
    annotations: Path
    """The JSON file, such as person_keypoints_train2017.json; with `boxes` also a list of photos without
    annotations, such as image_info_test-dev2017.json."""
    images: str | Path
    """The photos that the `file_name` of each image is relative to: a folder, a zip file or a URL."""
    boxes: Detections | None = None
    """For a split that is scored: a detector's boxes instead of the annotated ones."""

    def read(self) -> Annotations:
        """The persons of the published rule, in the order of the JSON `images`, then of the annotations."""
        return read_coco(self.annotations, self.images, boxes=self.boxes)


class _File(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | None = None
    categories: list[dict[str, Any]] = []  # msgspec gives each file its own


class ImageRow(msgspec.Struct):
    """A row of `images`; crowdIndex is CrowdPose's."""

    id: int
    file_name: str
    width: int
    height: int
    crowdIndex: float | None = None


class _Place(msgspec.Struct):
    id: int
    image_id: int


class AnnotationRow(msgspec.Struct):
    """What is read of a row of `annotations`."""

    id: int
    image_id: int
    category_id: int | None = None
    iscrowd: bool | int | None = None
    bbox: list[float] | None = None
    area: float | None = None
    keypoints: list[float] | None = None
    segmentation: msgspec.Raw = _NULL


class Rule(NamedTuple):
    """What the rows of one file are judged by.

    area_from_box: take the area from the box even where the file gives one (CrowdPose's scoring does so).
    prepare: puts a row that is neither a crowd nor of another category into COCO's form, before it is judged.
    """

    findings: Findings
    category_id: int
    num_keypoints: int
    area_from_box: bool
    prepare: Callable[[AnnotationRow, ImageRow, Findings], None] | None


def read_coco(
    path: Path,
    images: str | Path,
    *,
    describe: Callable[[dict[str, Any], str], Skeleton] | None = None,
    category_name: str | None = None,
    area_from_box: bool = False,
    prepare: Callable[[AnnotationRow, ImageRow, Findings], None] | None = None,
    boxes: Detections | None = None,
) -> Annotations:
    """The persons of a COCO keypoint file, in the order of its `images`, then of its annotations.

    Kept: not a crowd, area above 0, a box that is not empty after clipping, some keypoint number above 0
    (COCO 2017: 149,813 train and 6,352 val persons). describe: the skeleton of a category (its row and the
    file's name); COCO's own way without it. category_name: without it the one that has keypoints, or "person"
    among several. prepare: see `Rule`. boxes: a detector's, whose people take the place of the annotated
    ones; then a list of photos without `annotations` will do. Raises InputError for any other file; the
    faults of single rows are findings.
    """
    file = _read_file(path, is_list_enough=boxes is not None)
    findings = Findings(path)
    categories = file.categories if describe else _described(file)
    category = choose_category(categories, path, category_name)
    skeleton = describe(category, str(path)) if describe else from_category(category, where=str(path))
    rule = Rule(findings, category["id"], skeleton.num_keypoints, area_from_box, prepare)
    persons: list[Person] = []
    empty: list[Photo] = []
    ignored: list[dict[str, Any]] = []
    facts: dict[int, dict[str, Any]] = {}
    for image, rows in _by_image(file, findings):
        people = [person for row in rows if (person := _judge(row, image, rule)) is not None]
        persons += people
        ignored += [_ignored(row, rule) for row in rows if _is_forgiven(row, rule)]
        if not people:
            empty.append(Photo(id=image.id, file_name=image.file_name, size_wh=(image.width, image.height)))
        if image.crowdIndex is not None:
            facts[image.id] = {"crowdIndex": image.crowdIndex}
    annotations = Annotations(
        skeleton=skeleton,
        photos=open_photos(images),
        persons=tuple(persons),
        findings=findings,
        empty_photos=tuple(empty),
        ignored=tuple(ignored),
        photo_facts=facts,
    )
    return annotations if boxes is None else boxes.put_into(annotations)


def _read_file(path: Path, *, is_list_enough: bool) -> _File:
    file = read_json(path, _File, expected="a COCO keypoint file")
    if file.annotations is None and not is_list_enough:
        raise InputError(
            f"{path}: this is not a COCO keypoint file (it has photos and no `annotations`): give that file, "
            "or a detector's boxes of these photos (source.boxes.results=...)"
        )
    return file


def _described(file: _File) -> list[dict[str, Any]]:
    """The categories; COCO's own lists of photos describe no keypoints: those that its people have."""
    if file.annotations is None and not any(row.get("keypoints") for row in file.categories):
        return [to_category(COCO_17)]
    return file.categories


def choose_category(categories: list[dict[str, Any]], path: Path, name: str | None) -> dict[str, Any]:
    """The category of that name; without one, of those that have keypoints the only one, or the person."""
    rows = [row for row in categories if isinstance(row.get("id"), int)]
    if name is None:
        able = [row for row in rows if row.get("keypoints")] or rows
        persons = [row for row in able if row.get("name") == "person"]
        chosen = persons if len(persons) == 1 else able
    else:
        chosen = [row for row in rows if row.get("name") == name]
    if len(chosen) != 1:
        wanted = "one with keypoints, or one named 'person'," if name is None else f"one named {name!r}"
        names = ", ".join(repr(row.get("name")) for row in rows[:8]) or "none"
        raise InputError(
            f"{path}: {wanted} is wanted among the categories, which are {names}: correct `categories`, or "
            "name the one to read (source.name=coco-style source.category=...)"
        )
    return chosen[0]


def _by_image(file: _File, findings: Findings) -> Iterator[tuple[ImageRow, list[AnnotationRow]]]:
    """Each image with its annotations, in the order of the file; rows are decoded as their image comes up."""
    images = _distinct_images(file, findings)
    groups = _group(file, images, findings)
    rows = RowReader(AnnotationRow, findings, subject="annotation")
    for image in images.values():
        if image.width < 1 or image.height < 1:
            findings.add(BAD_IMAGE, image.id, f"{image.width}x{image.height}")
            continue
        decoded = (rows.decode(raw, number) for number, raw in groups.pop(image.id, ()))
        yield image, [row for row in decoded if row is not None]


def _distinct_images(file: _File, findings: Findings) -> dict[int, ImageRow]:
    """Images by id, in order. Equal rows are merged and counted; unequal ones of one id stop."""
    twice, differ = _repetition("image")
    images: dict[int, ImageRow] = {}
    for image, _ in RowReader(ImageRow, findings, subject="image").read(file.images):
        first = images.setdefault(image.id, image)
        if first is not image:
            findings.add(twice if first == image else differ, image.id)
    return images


def _group(
    file: _File, images: dict[int, ImageRow], findings: Findings
) -> dict[int, list[tuple[int, msgspec.Raw]]]:
    """The rows of each image, undecoded, each with its place in the file."""
    twice, differ = _repetition("annotation")
    hashes: dict[int, int] = {}
    groups: dict[int, list[tuple[int, msgspec.Raw]]] = {}
    places = RowReader(_Place, findings, subject="annotation")
    for number, raw in enumerate(file.annotations or (), start=1):
        place = places.decode(raw, number)
        if place is None:
            continue
        content = hash(bytes(raw))
        if place.id in hashes:
            findings.add(twice if hashes[place.id] == content else differ, place.id)
            continue
        hashes[place.id] = content
        if place.image_id in images:
            groups.setdefault(place.image_id, []).append((number, raw))
        else:
            findings.add(UNKNOWN_IMAGE, place.id, f"image {place.image_id}")
    return groups


def _repetition(subject: str) -> tuple[Fault, Fault]:
    """The faults of an id that stands in two rows: equal ones, and different ones."""
    return (
        Fault(f"{subject} rows listed again", "mended", "", subject),
        Fault(f"two different rows have this {subject} id", cure="make the ids unique", subject=subject),
    )


def _judge(row: AnnotationRow, image: ImageRow, rule: Rule) -> Person | None:
    """The person of a row; None, with a finding, where the published rule drops it."""
    fault = _dropped_as(row, rule)
    box_xywh = None
    if fault is None:
        _turn_box(row, rule)
        if rule.prepare is not None:
            rule.prepare(row, image, rule.findings)
        if not row.bbox and not any(row.keypoints or ()):
            fault = NO_KEYPOINTS
    if fault is None and _is_list_of(row.bbox, 4, "bbox", row, rule):
        assert row.bbox is not None
        box_xywh = clean_box(row.bbox, (image.width, image.height))
        fault = EMPTY_BOX if box_xywh is None else None
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
    )


def _dropped_as(row: AnnotationRow, rule: Rule) -> Fault | None:
    if row.category_id != rule.category_id:
        return OTHER_CATEGORY
    return CROWD if row.iscrowd else None


def _turn_box(row: AnnotationRow, rule: Rule) -> None:
    """Count the sides of a box from its upper left corner, where it was drawn from another one."""
    if row.bbox is None or len(row.bbox) != 4 or min(row.bbox[2:]) >= 0:
        return
    rule.findings.add(TURNED_BOX, row.id, str(row.bbox))
    x, y, width, height = row.bbox
    row.bbox = [x + min(width, 0), y + min(height, 0), abs(width), abs(height)]


def _note(row: AnnotationRow, image: ImageRow, rule: Rule) -> None:
    """Findings about a person that is kept."""
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
    """Whether a row's numbers (finite, as JSON has no others) are so many; otherwise a finding says so."""
    if numbers is not None and len(numbers) == count:
        return True
    found = "none" if numbers is None else str(len(numbers))
    cure = f"correct it, or {BOX_OF_JOINTS}" if key == "bbox" else "correct it"
    rule.findings.add(Fault(f"{key} must be a list of {count} numbers", cure=cure), row.id, f"found {found}")
    return False


def clean_box(
    box_xywh: Sequence[float], size_wh: tuple[int, int]
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


def _is_forgiven(row: AnnotationRow, rule: Rule) -> bool:
    """Whether scoring forgives detections that fit the row: a crowd, or a person without keypoints."""
    if row.category_id != rule.category_id or row.bbox is None or len(row.bbox) != 4:
        return False
    return bool(row.iscrowd) or (_area(row, rule) > 0 and not any(row.keypoints or ()))


def _ignored(row: AnnotationRow, rule: Rule) -> dict[str, Any]:
    """A dropped row as scoring needs it."""
    ignored = {
        "id": row.id,
        "image_id": row.image_id,
        "bbox": row.bbox,
        "area": _area(row, rule),
        "iscrowd": int(bool(row.iscrowd)),
    }
    if any(row.keypoints or ()):
        ignored["keypoints"] = row.keypoints
    if row.iscrowd and row.segmentation != _NULL:
        ignored["segmentation"] = msgspec.json.decode(row.segmentation)
    return ignored
