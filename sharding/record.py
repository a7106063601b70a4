"""The record of one person: as annotated (source pixels) and as the bytes beside its stored image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import InputError
from sharding.skeleton import Skeleton

BOX_NUMBERS = 4
"""Numbers of a pose record before its keypoints: x, y, w, h of the box."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Person:
    """One annotated person, in pixels of the source photo (pixel centres at integers).

    source_size_wh: width and height of the photo; None where the annotations do not say.
    box_xywh: the cleaned, not padded box (methods of each format say how it is cleaned).
    keypoints: (K, 3) float32 of x, y, v; v = 0 unlabelled, 1 occluded, 2 visible.
    area: px^2, the scale of OKS. file_name: relative to the folder of photos.
    """

    id: int
    image_id: int
    file_name: str
    source_size_wh: tuple[int, int] | None
    box_xywh: tuple[float, float, float, float]
    keypoints: np.ndarray
    area: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """What a format's `read()` gives: persons in published order, and where their photos are.

    persons of one photo stand together, so that a reader in this order decodes each photo once.
    ignored: COCO annotations of the same photos that are no samples but that scoring must know (crowds,
    persons without keypoints: pycocotools forgives detections there).
    dropped: persons that are no samples, counted by reason. problems: faults that were mended, counted.
    """

    skeleton: Skeleton
    image_folder: Path
    persons: tuple[Person, ...]
    ignored: tuple[dict[str, Any], ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)


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
