"""The record of a person or photo, as annotated, in source pixels."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.skeleton import Skeleton


class Person(msgspec.Struct, frozen=True, eq=False, kw_only=True, gc=False):
    """One person, in pixels of the source photo (pixel centres at integers).

    source_size_wh: width and height of the photo; None if the annotations do not have them. box_xywh: the
    cleaned, not padded box (methods of each format say how it is cleaned). annotated_xywh: the box before it
    was cleaned, if it differs. keypoints: (K, 3) float32 of x, y, v; v = 0 unlabelled, 1 occluded, 2 visible.
    area: px^2, the scale of OKS. file_name: as the annotations name the photo. head_xywh: the box of the head
    if the set has one, which is the scale of PCKh. score: that of the detector, if the person is a box of a
    detector. category_id: that of the annotations, if people of several categories are read together (in the
    ground truth it is `source_category_id`).
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
    """One photo of a data set; size_wh is None if the annotations do not have it."""

    id: int
    file_name: str
    size_wh: tuple[int, int] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """What `read()` of a format returns: persons in published order, and the location of their photos.

    persons of one photo are adjacent, so that each photo is decoded once in this order. empty_photos: photos
    without a person of these, which `kind: image` may keep. ignored: COCO rows (id, image_id, bbox, area,
    iscrowd and, if there are any, keypoints and segmentation) that are no samples but that scoring and
    training on whole photos need: crowds, and persons without keypoints. outlines: the `segmentation` of
    persons without keypoints, as JSON, by the id of their row, for the masks of whole photos. annotated: if
    the persons are boxes of a detector, the annotated persons that scores compare them with. photo_facts:
    what scoring needs to know of a photo beyond its size, by image id. upright: boxes, joints and sizes are
    all in pixels of the photo after EXIF has turned it upright, and the photo is stored like that. This holds
    for photos without annotations (their boxes are the whole photo, or those of a detector that sees it
    upright), and for YOLO-pose, whose labels are shares of the upright photo. For all other annotations the
    annotated size decides (see `decode_photo`). category_id, category_name: the category of the persons in
    their own file, which results need so that this file can score them; 1 and "person" if there is none, or
    if several are read together. findings: every fault of the annotations; the caller raises those that stop.
    """

    skeleton: Skeleton
    photos: Photos
    persons: tuple[Person, ...]
    findings: Findings
    empty_photos: tuple[Photo, ...] = ()
    ignored: tuple[dict[str, Any], ...] = ()
    outlines: Mapping[int, bytes] = field(default_factory=dict)
    annotated: tuple[Person, ...] | None = None
    photo_facts: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    upright: bool = False
    category_id: int = 1
    category_name: str = "person"
