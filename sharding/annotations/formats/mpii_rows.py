"""The two kinds of files of MPII as rows of one kind, with coordinates as in the files, counted from 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.matlab import load_mat
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.skeleton import MPII_16

K = MPII_16.num_keypoints
BAD_VISIBILITY = Fault("joints_vis is not 0 or 1", subject="person")
BAD_COUNT = Fault(f"joints and joints_vis must be {K} pairs and {K} numbers", subject="person")
BAD_CENTRE = Fault("center must be two numbers", subject="person")
BAD_NAME = Fault("it has no image.name", subject="photo")
BAD_POINT = Fault(f"a point needs x, y and an id in 0..{K - 1}", subject="person")

_VISIBLE, _OCCLUDED = 2, 1


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class MpiiRow:
    """One person.

    number: position in the file, from 1. centre_xy: None if it or the scale is not given. joints: (16, 3)
    float64 of x, y, v (v: 0 unlabelled, 1 occluded, 2 visible); None if the file has none for this person.
    head: x1, y1, x2, y2.
    """

    number: int
    centre_xy: tuple[float, float] | None
    scale: float
    joints: np.ndarray | None
    head: tuple[float, float, float, float] | None


class _ListRow(msgspec.Struct):
    image: str
    center: list[float]
    scale: float
    joints: list[list[float]] | None = None
    joints_vis: list[float] | None = None


class MpiiPhoto(NamedTuple):
    """A photo, or a part of its people; `people` is empty if the photo belongs to the other split."""

    file_name: str
    is_of_split: bool
    people: tuple[MpiiRow, ...]


def read_list(path: Path, head_boxes: Path | None, findings: Findings) -> Iterator[MpiiPhoto]:
    """The list that the field trains from, in its order: each row is one person, so photos are repeated.

    head_boxes: the MATLAB file with `headboxes_src` (2 corners, xy, persons) in the same order. Raises
    InputError for other files.
    """
    raws = read_json(path, list[msgspec.Raw], expected="MPII's list of persons")
    heads = None if head_boxes is None else _read_heads(head_boxes, path, len(raws))
    rows = RowReader(_ListRow, findings, subject="person")
    for number, raw in enumerate(raws, start=1):
        row = rows.decode(raw, number)
        if row is None:
            continue
        fault = _fault(row)
        if fault is not None:
            findings.add(fault, f"in row {number}")
            continue
        is_placed = row.scale > 0 and row.center[0] != -1  # the list's sign for none
        person = MpiiRow(
            number=number,
            centre_xy=(row.center[0], row.center[1]) if is_placed else None,
            scale=row.scale,
            joints=_list_joints(row),
            head=None if heads is None else heads[number - 1],
        )
        yield MpiiPhoto(row.image, True, (person,))


def _fault(row: _ListRow) -> Fault | None:
    if len(row.center) != 2:
        return BAD_CENTRE
    if row.joints is None and row.joints_vis is None:
        return None
    joints, flags = row.joints or [], row.joints_vis or []
    if len(joints) != K or len(flags) != K or any(len(point) != 2 for point in joints):
        return BAD_COUNT
    return None if {0, 1}.issuperset(flags) else BAD_VISIBILITY


def _list_joints(row: _ListRow) -> np.ndarray | None:
    if row.joints is None or row.joints_vis is None:
        return None
    return np.column_stack([row.joints, np.multiply(row.joints_vis, _VISIBLE)])


def _read_heads(path: Path, list_path: Path, count: int) -> list[tuple[float, float, float, float] | None]:
    """Head boxes x1, y1, x2, y2 by the list's rows; None if a number is missing."""
    boxes = load_mat(path, "headboxes_src", "MPII's gt_valid.mat")
    if boxes.shape != (2, 2, count):
        raise InputError(
            f"{path}: headboxes_src has the shape {boxes.shape}, but {list_path.name} has {count} persons, "
            f"for which it should be (2, 2, {count}): use the file of the same split"
        )
    boxes = boxes.astype(float).reshape(4, count).T
    return [tuple(box) if all(map(math.isfinite, box)) else None for box in boxes.tolist()]


def read_mat(path: Path, *, is_train: bool, findings: Findings) -> Iterator[MpiiPhoto]:
    """The photos of mpii_human_pose_v1_u12_1.mat in order, those of one side (img_train) with their people.

    Numbers count the people of the whole file. Fields may be absent, empty, one struct or many; visibility
    may be text, a number, or empty (which counts as visible). Raises InputError for other files.
    """
    release = load_mat(path, "RELEASE", "mpii_human_pose_v1_u12_1.mat", as_objects=True)
    photos = _structs(getattr(release, "annolist", None))
    flags = np.atleast_1d(getattr(release, "img_train", ()))
    if not photos or len(flags) != len(photos):
        raise InputError(
            f"{path}: RELEASE has {len(photos)} photos and {len(flags)} marks of the split (img_train): "
            "download mpii_human_pose_v1_u12_1.mat again"
        )
    count = 0
    for place, (photo, flag) in enumerate(zip(photos, flags.tolist(), strict=True), start=1):
        rects = _structs(getattr(photo, "annorect", None))
        numbers = range(count + 1, count + len(rects) + 1)
        count += len(rects)
        file_name = getattr(getattr(photo, "image", None), "name", None)
        if not isinstance(file_name, str) or not file_name:
            findings.add(BAD_NAME, place)
        elif bool(flag) != is_train:
            yield MpiiPhoto(file_name, False, ())
        else:
            people = (_mat_person(*each, findings) for each in zip(rects, numbers, strict=True))
            yield MpiiPhoto(file_name, True, tuple(people))


def _mat_person(person: Any, number: int, findings: Findings) -> MpiiRow:
    place = getattr(person, "objpos", None)
    x, y, scale = _number(place, "x"), _number(place, "y"), _number(person, "scale")
    head = [_number(person, key) for key in ("x1", "y1", "x2", "y2")]
    is_placed = x is not None and y is not None and scale is not None and scale > 0
    return MpiiRow(
        number=number,
        centre_xy=(x, y) if is_placed and x is not None and y is not None else None,
        scale=scale or 0.0,
        joints=_mat_joints(person, number, findings),
        head=None if None in head else tuple(head),  # type: ignore[arg-type]
    )


def _mat_joints(person: Any, number: int, findings: Findings) -> np.ndarray | None:
    points = _structs(getattr(getattr(person, "annopoints", None), "point", None))
    if not points:
        return None
    joints = np.zeros((K, 3))
    for point in points:
        x, y, index = (_number(point, key) for key in ("x", "y", "id"))
        if x is None or y is None or index not in range(K):
            findings.add(BAD_POINT, number)
        else:
            is_occluded = _number(point, "is_visible") == 0
            joints[int(index or 0)] = x, y, _OCCLUDED if is_occluded else _VISIBLE
    return joints


def _structs(value: Any) -> list[Any]:
    """One struct, many, or none (an empty array, or a field that is absent) as a list."""
    return [each for each in np.atleast_1d(value).ravel().tolist() if hasattr(each, "_fieldnames")]


def _number(struct: Any, key: str) -> float | None:
    """A field as a finite number; None if it is absent, empty, or none."""
    value = np.asarray(getattr(struct, key, ()))
    try:
        number = float(value.reshape(-1)[0]) if value.size == 1 else math.nan
    except (TypeError, ValueError):  # such as the empty text
        return None
    return number if math.isfinite(number) else None
