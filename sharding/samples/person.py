"""`kind: person`: a sample is one person, cut out of the photo or on the whole of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from typing_extensions import override

from semipose.configs.load import InputError
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.samples.crop import (
    Crop,
    PersonCrop,
    cut,
    encode_jpeg,
    image_from_stored,
    move_box,
    move_keypoints,
    person_region,
)
from semipose.sharding.samples.sample import (
    Card,
    CardRow,
    PhotoTask,
    Poses,
    Sample,
    SampleKind,
    check_reach,
    encode_card,
    invert_axis_aligned,
    photo_tasks_of_people,
    store_whole,
)

BOX_NUMBERS = 4
"""Numbers of a pose record before its keypoints: x, y, w, h of the box."""


class PersonKind(SampleKind):
    """One sample per annotated person, or per box of a detector."""

    name = "person"
    format_version = 1
    members = ("jpg", "pose", "json")

    @override
    def refuse(self, crop: Crop, *, has_detections: bool) -> None:
        pass

    @override
    def tasks(self, annotations: Annotations, *, keeps_empty: bool) -> list[PhotoTask]:
        return list(photo_tasks_of_people(annotations))

    @override
    def num_samples(self, task: PhotoTask) -> int:
        return len(task.persons)

    @override
    def first(self, task: PhotoTask, count: int) -> PhotoTask:
        return task if len(task.persons) <= count else PhotoTask(task.photo, task.persons[:count])

    @override
    def encode(
        self, task: PhotoTask, photo: np.ndarray, payload: bytes | None, crop: Crop
    ) -> Sequence[Sample]:
        return [person_sample(person, photo, payload, crop) for person in task.persons]

    @override
    def decode_pose(self, payload: bytes, num_keypoints: int) -> Poses:
        box_xywh, keypoints = decode_pose(payload, num_keypoints)
        return Poses(box_xywh[None], keypoints[None], np.empty((0, 4), np.float32))

    @override
    def decode_card(self, payload: bytes) -> Card:
        row = msgspec.json.decode(payload, type=_Row)
        matrix = np.array(row.image_from_stored)
        return Card(row.source_size, matrix, [row.id], [row.area], [row.score], num_ignored=0)

    @override
    def truth_rows(
        self, start: int, count: int, images: Sequence[int], rows_of_image: Mapping[int, Sequence[int]]
    ) -> Sequence[int]:
        return range(start, start + count)

    @override
    def num_people(self, num_samples: int, num_stored: int) -> int:
        return num_samples


class _Row(CardRow):
    area: float
    score: float | None = None


def person_sample(person: Person, photo: np.ndarray, payload: bytes | None, crop: Crop) -> Sample:
    """What the shard stores for one person; arguments as of `SampleKind.encode`.

    Raises InputError for a box outside the photo.
    """
    size_wh = (photo.shape[1], photo.shape[0])
    check_reach(person, size_wh)
    if isinstance(crop, PersonCrop):
        region = person_region(person.box_xywh, size_wh, crop)
        if region.is_empty:
            raise InputError(
                f"{person.file_name}: the box of annotation {person.id} is outside the photo, which has "
                f"{size_wh[0]}x{size_wh[1]} pixels: correct the annotation"
            )
        source_from_stored = image_from_stored(region)
        jpg = encode_jpeg(cut(photo, region))
    else:
        jpg, source_from_stored = store_whole(photo, payload, crop)
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
    return Sample(jpg, pose, encode_card(card))


def encode_pose(box_xywh: np.ndarray, keypoints: np.ndarray) -> bytes:
    """Box (4,) and keypoints (K, 3), both in stored pixels, as 4 + 3K little-endian float32."""
    numbers = np.concatenate(
        [np.asarray(box_xywh, "<f4").reshape(BOX_NUMBERS), np.asarray(keypoints, "<f4").ravel()]
    )
    return numbers.tobytes()


def decode_pose(payload: bytes, num_keypoints: int) -> tuple[np.ndarray, np.ndarray]:
    """The box (4,) and keypoints (K, 3), float32 in stored pixels, of one pose record.

    Raises InputError if the record has another length than that of `num_keypoints`.
    """
    expected = 4 * (BOX_NUMBERS + 3 * num_keypoints)
    if len(payload) != expected:
        raise InputError(
            f"a pose record has {len(payload)} bytes, but {num_keypoints} keypoints need {expected}: "
            "the shards belong to another skeleton or are damaged; build them again"
        )
    numbers = np.frombuffer(payload, "<f4")
    return numbers[:BOX_NUMBERS].copy(), numbers[BOX_NUMBERS:].reshape(num_keypoints, 3).copy()
