"""The rows of a COCO file: images with their annotations, in all spellings that other tools write."""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import msgspec

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import sized
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.photos import Photos, below_location
from semipose.sharding.annotations.record import Photo

UNKNOWN_IMAGE = Fault("it names an image that `images` does not list", cure="add the row or remove this one")
BAD_IMAGE = Fault("width or height is not above 0", subject="image")
NO_NAME = Fault(
    "file_name is empty",
    cure="write the name of the photo, relative to where the photos are",
    subject="image",
)
SIZE_ADDED = Fault("no width and height, read from the photo", "corrected", "", "image")
NO_SIZE = Fault(
    "no width and height, and the photo is absent",
    cure="put the photo there, correct source.images, or add width and height",
    subject="image",
)
ABSOLUTE_NAME = Fault("absolute file_name, taken as below source.images", "corrected", "", "image")
NESTED = "keypoints as [[x, y, v], ...], read as one list"
NULL_BOX = "box whose numbers are all null, taken as none"
NULL_KEYPOINTS = "keypoints that are null, taken as not labelled (v = 0)"

NULL = msgspec.Raw(b"null")


class CocoFile(msgspec.Struct):
    """The parts of a file that are read; rows stay undecoded until they are needed."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | None = None
    categories: list[dict[str, Any]] = []  # msgspec gives each file its own


class ListedImage(msgspec.Struct, gc=False):
    """A row of `images` as the file has it."""

    id: int
    file_name: str
    width: int | None = None
    height: int | None = None
    crowdIndex: float | None = None


class ImageRow(msgspec.Struct, gc=False):
    """A row of `images`; crowdIndex is CrowdPose's."""

    id: int
    file_name: str
    width: int
    height: int
    crowdIndex: float | None = None


class _Place(msgspec.Struct, gc=False):
    id: int
    image_id: int


class AnnotationRow(msgspec.Struct, gc=False):
    """What is read of a row of `annotations`."""

    id: int
    image_id: int
    category_id: int | None = None
    iscrowd: bool | int | None = None
    bbox: list[float] | None = None
    area: float | None = None
    keypoints: list[float] | None = None
    segmentation: msgspec.Raw = NULL


def read_file(path: Path, *, is_list_enough: bool) -> CocoFile:
    file = read_json(path, CocoFile, expected="a COCO keypoint file")
    if file.annotations is None and not is_list_enough:
        raise InputError(
            f"{path}: this is not a COCO keypoint file (it has photos and no `annotations`): give that file, "
            "or a detector's boxes of these photos (source.boxes.results=...)"
        )
    return file


def has_keypoints(file: CocoFile) -> bool:
    """Whether any of the first annotations has keypoints; True for a list of photos."""
    rows = file.annotations
    return not rows or any(b'"keypoints"' in bytes(raw) for raw in rows[:1000])


def by_image(
    file: CocoFile, photos: Photos, findings: Findings
) -> Iterator[tuple[ImageRow, list[AnnotationRow]]]:
    """Each image with its annotations, in the order of the file; rows are decoded as their image comes up."""
    listed, unreadable = distinct_images(file, findings)
    images = _complete(listed, photos, findings)
    groups = _group(file, listed.keys() | unreadable, findings)
    rows = RowReader(AnnotationRow, findings, subject="annotation", tidy=tidy)
    for image in images:
        if image.width < 1 or image.height < 1:
            findings.add(BAD_IMAGE, image.id, f"{image.width}x{image.height}")
            continue
        decoded = [rows.decode(raw, number) for number, raw in groups.pop(image.id, ())]
        yield image, [row for row in decoded if row is not None]


def distinct_images(file: CocoFile, findings: Findings) -> tuple[dict[int, ListedImage], set[int | str]]:
    """Images by id, in order, and the names of rows that cannot be read.

    Equal rows are merged and counted; different rows with one id stop the build.
    """
    twice, differ = _repetition("image")
    images: dict[int, ListedImage] = {}
    unreadable: set[int | str] = set()
    reader = RowReader(ListedImage, findings, subject="image")
    for number, raw in enumerate(file.images, start=1):
        image = reader.decode(raw, number)
        if image is None:
            unreadable.add(reader.name(raw, number))
            continue
        if not image.file_name.strip():
            findings.add(NO_NAME, image.id)
            unreadable.add(image.id)
            continue
        first = images.setdefault(image.id, image)
        if first is not image:
            findings.add(twice if first == image else differ, image.id)
    return images, unreadable


def _complete(listed: dict[int, ListedImage], photos: Photos, findings: Findings) -> list[ImageRow]:
    """The images with names relative to the photos' location, and with sizes that the file leaves out."""
    names = below_location([image.file_name for image in listed.values()], photos)
    sizeless = [
        Photo(id=image.id, file_name=name, size_wh=None)
        for image, name in zip(listed.values(), names, strict=True)
        if image.width is None or image.height is None
    ]
    sizes_wh = {photo.id: photo.size_wh for photo in sized(sizeless, photos, findings)}
    absent = photos.absent(photo.file_name for photo in sizeless if sizes_wh[photo.id] is None)
    images = []
    for image, name in zip(listed.values(), names, strict=True):
        if name != image.file_name:
            findings.add(ABSOLUTE_NAME, image.id, f"{image.file_name} as {name}")
        size_wh = sizes_wh.get(image.id, (image.width or 0, image.height or 0))
        if size_wh is not None:
            if image.id in sizes_wh:
                findings.add(SIZE_ADDED, image.id)
            images.append(ImageRow(image.id, name, *size_wh, image.crowdIndex))
        elif name in absent:
            findings.add(NO_SIZE, image.id, name)
    return images


def tidy(row: dict[str, Any]) -> list[str]:
    """Keypoints as one list of numbers, if other programs nest them or write null; and what was changed.

    A keypoint without x or y has no position; one without v keeps its position.
    """
    found: list[str] = []
    box = row.get("bbox")
    if isinstance(box, list) and box and all(number is None for number in box):
        found.append(NULL_BOX)
        row["bbox"] = None
    points = row.get("keypoints")
    if not isinstance(points, list):
        return found
    if any(isinstance(point, list) for point in points) and all(
        point is None or isinstance(point, list) for point in points
    ):
        lengths = {len(point) for point in points if point}
        if len(lengths) == 1 and lengths <= {2, 3}:
            found.append(NESTED)
            nothing = (None,) * lengths.pop()
            points = [number for point in points for number in (point or nothing)]
    if None in points and len(points) % 3 == 0:
        found.append(NULL_KEYPOINTS)
        triples = (points[start : start + 3] for start in range(0, len(points), 3))
        points = [
            number
            for x, y, v in triples
            for number in ((0, 0, 0) if x is None or y is None else (x, y, 0 if v is None else v))
        ]
    row["keypoints"] = points
    return found


def _group(
    file: CocoFile, image_ids: Set[int | str], findings: Findings
) -> dict[int, list[tuple[int, msgspec.Raw]]]:
    """The rows of each image, undecoded, each with its place in the file."""
    twice, differ = _repetition("annotation")
    first_of: dict[int, msgspec.Raw] = {}
    groups: dict[int, list[tuple[int, msgspec.Raw]]] = {}
    places = RowReader(_Place, findings, subject="annotation", counts_spellings=False)
    for number, raw in enumerate(file.annotations or (), start=1):
        place = places.decode(raw, number)
        if place is None:
            continue
        first = first_of.setdefault(place.id, raw)
        if first is not raw:
            findings.add(twice if first == raw else differ, place.id)
        elif place.image_id in image_ids:
            groups.setdefault(place.image_id, []).append((number, raw))
        else:
            findings.add(UNKNOWN_IMAGE, place.id, f"image {place.image_id}")
    return groups


def _repetition(subject: str) -> tuple[Fault, Fault]:
    """The faults of an id with two rows: equal rows, and different ones."""
    return (
        Fault(f"{subject} rows listed again", "corrected", "", subject),
        Fault(f"two different rows have this {subject} id", cure="make the ids unique", subject=subject),
    )
