"""Checks that scorers can read a `ground_truth.json`, row by row."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.rows import RowReader, read_json

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
