"""What a shard stores for one person or photo: three members, as bytes; equal input gives equal bytes."""

import json
import tarfile
from typing import Any, NamedTuple

import numpy as np

from configs.load import InputError
from sharding.annotations.limits import FAR, first_far_joint
from sharding.annotations.record import Person, encode_people, encode_pose
from sharding.samples.crop import (
    PersonCrop,
    WholePhoto,
    cut,
    encode_jpeg,
    image_from_stored,
    move_box,
    move_keypoints,
    person_region,
    photo_region,
)
from sharding.samples.plan import PhotoTask
from sharding.store.index import Component


class Sample(NamedTuple):
    """The three members of one sample, as bytes."""

    jpg: bytes
    pose: bytes
    json: bytes


class TarSample(NamedTuple):
    """A sample as it stands in a tar: headers, members and padding; where its members lie in these bytes."""

    content: bytes
    members: tuple[Component, ...]


def person_sample(
    person: Person, photo: np.ndarray, payload: bytes | None, crop: PersonCrop | WholePhoto
) -> Sample:
    """What the shard stores for one person.

    photo: (H, W, 3) uint8 RGB of the source. payload: the photo's own file where it decodes to just these
    pixels, else None; only `WholePhoto` looks at it. Raises InputError for a box outside the photo.
    """
    size_wh = (photo.shape[1], photo.shape[0])
    _check_reach(person, size_wh)
    if isinstance(crop, PersonCrop):
        region = person_region(person.box_xywh, size_wh, crop)
        if region.is_empty:
            raise InputError(
                f"{person.file_name}: the box of annotation {person.id} lies outside the photo, which has "
                f"{size_wh[0]}x{size_wh[1]} pixels: correct the annotation"
            )
        source_from_stored = image_from_stored(region)
        jpg = encode_jpeg(cut(photo, region))
    else:
        jpg, source_from_stored = _whole_photo(photo, payload, crop)
    stored_from_source = invert_axis_aligned(source_from_stored)
    pose = encode_pose(
        move_box(np.asarray(person.box_xywh), stored_from_source),
        move_keypoints(person.keypoints, stored_from_source),
    )
    card: dict[str, Any] = {
        "id": person.id,
        "image_id": person.image_id,
        "file_name": person.file_name,
        "area": person.area,
        "source_size": size_wh,
        "image_from_stored": source_from_stored.tolist(),
    }
    if person.head_xywh is not None:
        card["head"] = person.head_xywh
    if person.score is not None:
        card["score"] = person.score
    return Sample(jpg, pose, _json(card))


def image_sample(
    task: PhotoTask, photo: np.ndarray, payload: bytes | None, crop: PersonCrop | WholePhoto
) -> Sample:
    """What the shard stores for one photo with all its people; arguments as of `person_sample`."""
    assert isinstance(crop, WholePhoto), "settings refuse another crop"
    for person in task.persons:
        _check_reach(person, (photo.shape[1], photo.shape[0]))
    jpg, source_from_stored = _whole_photo(photo, payload, crop)
    stored_from_source = invert_axis_aligned(source_from_stored)
    pose = encode_people(
        boxes_xywh=[move_box(np.asarray(person.box_xywh), stored_from_source) for person in task.persons],
        keypoints=[move_keypoints(person.keypoints, stored_from_source) for person in task.persons],
        ignored_xywh=[move_box(np.asarray(row["bbox"]), stored_from_source) for row in task.ignored],
    )
    card = {
        "id": task.photo.id,
        "image_id": task.photo.id,
        "file_name": task.photo.file_name,
        "ids": [person.id for person in task.persons],
        "areas": [person.area for person in task.persons],
        "ignored": list(task.ignored),
        "source_size": (photo.shape[1], photo.shape[0]),
        "image_from_stored": source_from_stored.tolist(),
    }
    return Sample(jpg, pose, _json(card))


def _check_reach(person: Person, size_wh: tuple[int, int]) -> None:
    """Raise InputError for a joint far from its photo, whose size the annotations may not have given."""
    far = first_far_joint(person, size_wh)
    if far:
        raise InputError(
            f"{person.file_name}: annotation {person.id}: {FAR} ({far}): correct it, or remove the row"
        )


def _whole_photo(photo: np.ndarray, payload: bytes | None, crop: WholePhoto) -> tuple[bytes, np.ndarray]:
    """A photo as it is stored, and (2, 3) from stored to source pixels."""
    region = photo_region((photo.shape[1], photo.shape[0]), crop)
    is_own_size = region.stored_wh == (photo.shape[1], photo.shape[0])
    jpg = payload if payload is not None and is_own_size else encode_jpeg(cut(photo, region))
    return jpg, image_from_stored(region)


def invert_axis_aligned(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) matrix that scales and moves."""
    (a, _, x), (_, d, y) = matrix
    return np.array([[1 / a, 0.0, -x / a], [0.0, 1 / d, -y / d]])


def _json(card: dict[str, Any]) -> bytes:
    return json.dumps(card, separators=(",", ":")).encode()


def frame(sample: Sample, key: str) -> TarSample:
    """The members of a sample as they stand in a tar.

    Members get short USTAR names and fixed times and owners: DALI loses the components of long (PAX) names,
    and equal input must give equal bytes.
    """
    parts, members = [], []
    end = 0
    for extension, payload in sample._asdict().items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(payload)
        padding = bytes(-len(payload) % tarfile.BLOCKSIZE)
        parts += [member.tobuf(tarfile.USTAR_FORMAT), payload, padding]
        members.append(Component(extension, end + tarfile.BLOCKSIZE, len(payload), member.name))
        end += tarfile.BLOCKSIZE + len(payload) + len(padding)
    return TarSample(b"".join(parts), tuple(members))
