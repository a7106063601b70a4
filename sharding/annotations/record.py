"""The record of a person or photo, as annotated, in source pixels."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from sharding.annotations.findings import Findings
from sharding.annotations.photos import Photos
from sharding.annotations.skeleton import Skeleton


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
