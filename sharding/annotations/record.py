"""The record of a person or photo: as annotated (source pixels) and as the bytes beside its stored image."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from configs.load import InputError
from sharding.annotations.findings import Findings
from sharding.annotations.photos import Photos
from sharding.annotations.skeleton import Skeleton

BOX_NUMBERS = 4
"""Numbers of a pose record before its keypoints: x, y, w, h of the box."""


class Person(msgspec.Struct, frozen=True, eq=False, kw_only=True, gc=False):
    """One person, in pixels of the source photo (pixel centres at integers).

    source_size_wh: width and height of the photo; None where the annotations do not say.
    box_xywh: the cleaned, not padded box (methods of each format say how it is cleaned).
    annotated_xywh: the box before it was cleaned, where that is another.
    keypoints: (K, 3) float32 of x, y, v; v = 0 unlabelled, 1 occluded, 2 visible.
    area: px^2, the scale of OKS. file_name: as the annotations name the photo.
    head_xywh: the head's box where the set has one, the scale of PCKh.
    score: the detector's, where the person is a box that one found.
    category_id: that of the annotations, where people of several categories are read together (in the ground
    truth it is `source_category_id`).
    """

    id: int
    image_id: int
    file_name: str
    source_size_wh: tuple[int, int] | None
    box_xywh: tuple[float, float, float, float]
    keypoints: np.ndarray
    area: float
    head_xywh: tuple[float, float, float, float] | None = None
    score: float | None = None
    annotated_xywh: tuple[float, float, float, float] | None = None
    category_id: int | None = None


def photo_key(file_name: str) -> str:
    """One spelling for all names of a photo: `a/1.jpg` of `./a/1.jpg`, `a//1.jpg`, Windows' `a\\1.jpg`."""
    return posixpath.normpath(file_name.replace("\\", "/"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photo of a data set; size_wh is None where the annotations do not say."""

    id: int
    file_name: str
    size_wh: tuple[int, int] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """What a format's `read()` gives: persons in published order, and where their photos are.

    persons of one photo stand together, so that a reader in this order decodes each photo once.
    empty_photos: photos without a person of these, which `kind: image` may keep.
    ignored: COCO rows (id, image_id, bbox, area, iscrowd and, where there are any, keypoints and
    segmentation) that are no samples but that scoring and training on whole photos must know: crowds, and
    persons without keypoints.
    annotated: where the persons are a detector's boxes, the annotated persons that they are scored by.
    photo_facts: what scoring needs to know of a photo beyond its size, by image id.
    upright: boxes, joints and sizes all count in pixels of the photo turned upright as EXIF says, and the
    photo is stored so. That is the case for photos that nobody annotated (their boxes are the whole photo, or
    a detector's, which sees it upright), and for YOLO-pose, whose labels are shares of the upright photo. For
    all other annotations the annotated size decides (see `decode_photo`).
    category_id, category_name: the one category of the persons in their own file, which results must carry
    for that file to score them; 1 and "person" where there is none, or several are read together.
    findings: every fault of the annotations; those that stop are the caller's to raise.
    """

    skeleton: Skeleton
    photos: Photos
    persons: tuple[Person, ...]
    findings: Findings
    empty_photos: tuple[Photo, ...] = ()
    ignored: tuple[dict[str, Any], ...] = ()
    annotated: tuple[Person, ...] | None = None
    photo_facts: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    upright: bool = False
    category_id: int = 1
    category_name: str = "person"


def encode_pose(box_xywh: np.ndarray, keypoints: np.ndarray) -> bytes:
    """Box (4,) and keypoints (K, 3), both in stored pixels, as 4 + 3K little-endian float32."""
    numbers = np.concatenate(
        [np.asarray(box_xywh, "<f4").reshape(BOX_NUMBERS), np.asarray(keypoints, "<f4").ravel()]
    )
    return numbers.tobytes()


def decode_pose(payload: bytes, num_keypoints: int) -> tuple[np.ndarray, np.ndarray]:
    """The box (4,) and keypoints (K, 3), float32 in stored pixels, of one pose record.

    Raises InputError where the record has another length than that of `num_keypoints`.
    """
    expected = 4 * (BOX_NUMBERS + 3 * num_keypoints)
    if len(payload) != expected:
        raise InputError(
            f"a pose record has {len(payload)} bytes where {num_keypoints} keypoints take {expected}: "
            "the shards belong to another skeleton or are damaged; build them again"
        )
    numbers = np.frombuffer(payload, "<f4")
    return numbers[:BOX_NUMBERS].copy(), numbers[BOX_NUMBERS:].reshape(num_keypoints, 3).copy()


PEOPLE_HEAD = 2
"""Numbers of a photo's pose record before its people: how many people, how many ignored regions."""


def encode_people(
    *, boxes_xywh: Sequence[np.ndarray], keypoints: Sequence[np.ndarray], ignored_xywh: Sequence[np.ndarray]
) -> bytes:
    """The people of one whole photo, in stored pixels, as little-endian float32.

    boxes_xywh: M of (4,). keypoints: M of (K, 3). ignored_xywh: C of (4,), crowds and unlabelled persons.
    Layout: M, C, then M times box and keypoints as in `encode_pose`, then C boxes. Never empty.
    """
    head = np.array([len(boxes_xywh), len(ignored_xywh)], "<f4").tobytes()
    people = b"".join(map(encode_pose, boxes_xywh, keypoints))
    return head + people + b"".join(np.asarray(box, "<f4").tobytes() for box in ignored_xywh)


def decode_people(payload: bytes, num_keypoints: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 4), keypoints (M, K, 3) and ignored boxes (C, 4), float32 in stored pixels, of one photo.

    Raises InputError where the record's length is not what its head and `num_keypoints` say.
    """
    numbers = np.frombuffer(payload, "<f4") if len(payload) % 4 == 0 else np.empty(0, np.float32)
    size = BOX_NUMBERS + 3 * num_keypoints
    people, ignored = (int(count) for count in numbers[:PEOPLE_HEAD]) if len(numbers) > 1 else (-1, -1)
    if min(people, ignored) < 0 or len(numbers) != PEOPLE_HEAD + people * size + ignored * BOX_NUMBERS:
        raise InputError(
            f"a pose record of {len(payload)} bytes holds no photo's people of {num_keypoints} keypoints: "
            "the shards belong to another skeleton or are damaged; build them again"
        )
    rows = numbers[PEOPLE_HEAD : PEOPLE_HEAD + people * size].reshape(people, size)
    ignored_xywh = numbers[PEOPLE_HEAD + people * size :].reshape(ignored, BOX_NUMBERS)
    keypoints = rows[:, BOX_NUMBERS:].reshape(people, num_keypoints, 3)
    return rows[:, :BOX_NUMBERS].copy(), keypoints.copy(), ignored_xywh.copy()
