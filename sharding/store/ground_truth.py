"""`ground_truth.json`, the people of a folder of shards in COCO form: writing, checking and reading it."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.annotations.skeleton import Skeleton, to_category
from semipose.sharding.samples.sample import PhotoTask
from semipose.sharding.store.files import write_atomic_parts

StoredPhotos = Sequence[tuple[PhotoTask, tuple[int, int]]]
"""The photos with their stored persons, in order, each with its width and height."""

_CURE = "copy it again or build the shards again"
UNKNOWN_IMAGE = Fault("it is on a photo that `images` does not list", cure=_CURE)
OTHER_LENGTH = Fault("it has another number of keypoint values", cure=_CURE)

_Box = Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]
_Pixels = Annotated[int, msgspec.Meta(ge=1)]


class _ImageRow(msgspec.Struct):
    id: int
    file_name: str
    width: _Pixels
    height: _Pixels


class _Row(msgspec.Struct):
    id: int
    image_id: int
    bbox: _Box
    area: float


class _PersonRow(_Row):
    category_id: int
    iscrowd: int
    num_keypoints: int
    keypoints: list[float]
    head_bbox: _Box | None = None


class _DetectionRow(_Row):
    score: float


class TruthFile(msgspec.Struct):
    """The rows, undecoded; `detections` if the samples are boxes of a detector."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    detections: list[msgspec.Raw] | None = None


def read_truth(path: Path, *, num_keypoints: int) -> TruthFile:
    """Read and check a ground truth row by row. Raises InputError with one line per kind of fault."""
    file = read_json(path, TruthFile, expected="a ground truth in COCO form")
    findings = Findings(path)
    images = {row.id for row in _read(_ImageRow, file.images, findings, "image")}
    people = _read(_PersonRow, file.annotations, findings, "annotation")
    boxes = _read(_DetectionRow, file.detections or (), findings, "detection")
    findings.raise_errors()  # a row that cannot be read is missing below
    for row in people:
        if len(row.keypoints) != 3 * num_keypoints:
            findings.add(OTHER_LENGTH, row.id, f"{len(row.keypoints)} for {num_keypoints} keypoints")
    for row in (*people, *boxes):
        if row.image_id not in images:
            findings.add(UNKNOWN_IMAGE, row.id, f"image {row.image_id}")
    findings.raise_errors()
    return file


def _read(kind: type[Any], raws: Iterable[msgspec.Raw], findings: Findings, subject: str) -> list[Any]:
    rows = [row for row, _ in RowReader(kind, findings, subject=subject).read(raws)]
    ids = set()
    for row in rows:
        if row.id in ids:
            findings.add(Fault("two rows have this id", cure=_CURE, subject=subject), row.id)
        ids.add(row.id)
    return rows


@dataclass(frozen=True)
class GroundTruth:
    """The people that predictions are scored against; K keypoints, all coordinates in source pixels.

    `record` is a sample's `KEY.json`. Nothing here changes the rows, and neither should a caller.
    """

    coco: dict[str, Any]
    """The content of the file: COCO's form, which pycocotools reads."""
    skeleton: Skeleton

    @classmethod
    def load(cls, path: Path, skeleton: Skeleton) -> "GroundTruth":
        """Read the file of a folder of shards. Raises InputError if a scorer could not read it."""
        read_truth(path, num_keypoints=skeleton.num_keypoints)
        return cls(json.loads(path.read_bytes()), skeleton)

    @property
    def images(self) -> list[dict[str, Any]]:
        """The rows of the photos."""
        images: list[dict[str, Any]] = self.coco["images"]
        return images

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The rows of all annotated people, of crowds and of people without keypoints."""
        annotations: list[dict[str, Any]] = self.coco["annotations"]
        return annotations

    @property
    def category(self) -> dict[str, Any]:
        """The one category, by whose id results are scored."""
        category: dict[str, Any] = self.coco["categories"][0]
        return category

    @property
    def is_detected(self) -> bool:
        """Whether the samples are a detector's boxes, which belong to no annotated person."""
        return "detections" in self.coco

    @cached_property
    def scored(self) -> list[dict[str, Any]]:
        """The rows of those who should be found: no crowds, and people with a labelled keypoint."""
        return [row for row in self.annotations if not row.get("iscrowd", 0) and num_labelled(row) > 0]

    @cached_property
    def file_names(self) -> dict[Any, str]:
        """The file names of the photos by id."""
        return {row["id"]: row.get("file_name", str(row["id"])) for row in self.images}

    @cached_property
    def _by_id(self) -> dict[Any, dict[str, Any]]:
        return {row["id"]: row for row in self.annotations}

    def keypoints_of(self, records: Sequence[dict[str, Any]]) -> np.ndarray:
        """The annotated keypoints (M, K, 3: x, y, v) of M people, float32; zeros for a detector's people."""
        shape = (len(records), self.skeleton.num_keypoints, 3)
        if self.is_detected or not records:
            return np.zeros(shape, np.float32)
        keypoints = [self._by_id[record["id"]]["keypoints"] for record in records]
        return np.array(keypoints, np.float32).reshape(shape)

    def keypoints_of_photos(self, records: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """The annotated keypoints (P, K, 3: x, y, v) of the P people of each photo, float32, as stored."""
        shape = (-1, self.skeleton.num_keypoints, 3)
        photos = ([self._by_id[person]["keypoints"] for person in record["ids"]] for record in records)
        return [np.array(keypoints, np.float32).reshape(shape) for keypoints in photos]

    def head_diagonals_of(self, records: Sequence[dict[str, Any]]) -> np.ndarray:
        """The diagonals (M,) of the head boxes, float64; NaN for people without one."""
        none = (np.nan,) * 4
        rows = (self._by_id.get(record["id"], {}) for record in records)
        boxes = np.array([row.get("head_bbox", none) for row in rows], np.float64).reshape(-1, 4)
        return np.asarray(np.hypot(boxes[:, 2], boxes[:, 3]))

    def categories_of(self, records: Sequence[dict[str, Any]]) -> list[int]:
        """The category of each person in the user's own annotation file, which results must carry.

        It differs from `category` where categories of one keypoint set were read together. People who are
        found in whole photos, whose `records` are the photos', then have the category of most people.
        """
        one = self.category["id"]
        if self.is_detected:
            return [one] * len(records)
        if any("ids" in record for record in records):
            counts = Counter(
                row["source_category_id"] for row in self.annotations if "source_category_id" in row
            )
            return [counts.most_common(1)[0][0] if counts else one] * len(records)
        return [self._by_id[record["id"]].get("source_category_id", one) for record in records]

    def of_photos(self, ids: Collection[Any]) -> "GroundTruth":
        """The truth of some of the photos alone."""
        images = [image for image in self.images if image["id"] in ids]
        annotations = [row for row in self.annotations if row["image_id"] in ids]
        return GroundTruth({**self.coco, "images": images, "annotations": annotations}, self.skeleton)


def num_labelled(row: dict[str, Any]) -> int:
    """The number of labelled keypoints of a person, which the row need not give itself."""
    count: int | None = row.get("num_keypoints")
    return sum(v > 0 for v in row["keypoints"][2::3]) if count is None else count


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
