"""`kind: image`: a sample is one whole photo with all its people, and the regions that say nothing."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from typing_extensions import override

from semipose.configs.load import InputError
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.samples.crop import Crop, WholePhoto, move_box, move_keypoints
from semipose.sharding.samples.ignored_area import encode_ignored
from semipose.sharding.samples.person import BOX_NUMBERS, encode_pose
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

PEOPLE_HEAD = 2
"""Numbers of a photo's pose record before its people: how many people, how many ignored regions."""


class PhotoKind(SampleKind):
    """One sample per photo."""

    name = "image"
    format_version = 2  # 1 had no mask
    members = ("jpg", "pose", "json", "mask")

    @override
    def refuse(self, crop: Crop, *, has_detections: bool) -> None:
        if not isinstance(crop, WholePhoto):
            raise ValueError("kind: image stores whole photos: set crop.name=none")
        if has_detections:
            raise ValueError("kind: image stores the annotated people: leave out source.boxes")

    @override
    def tasks(self, annotations: Annotations, *, keeps_empty: bool) -> list[PhotoTask]:
        ignored: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in annotations.ignored:
            ignored[row["image_id"]].append(row)
        tasks = list(photo_tasks_of_people(annotations))
        if keeps_empty:
            tasks += [PhotoTask(photo, ()) for photo in annotations.empty_photos]
        outlines = annotations.outlines

        def complete(task: PhotoTask) -> PhotoTask:
            rows = tuple(ignored.get(task.photo.id, ()))
            drawn = {row["id"]: outlines[row["id"]] for row in rows if row["id"] in outlines}
            return PhotoTask(task.photo, task.persons, rows, drawn)

        return list(map(complete, tasks))

    @override
    def num_samples(self, task: PhotoTask) -> int:
        return 1

    @override
    def first(self, task: PhotoTask, count: int) -> PhotoTask:
        return task

    @override
    def encode(
        self, task: PhotoTask, photo: np.ndarray, payload: bytes | None, crop: Crop
    ) -> Sequence[Sample]:
        assert isinstance(crop, WholePhoto), "settings refuse another crop"
        for person in task.persons:
            check_reach(person, (photo.shape[1], photo.shape[0]))
        jpg, source_from_stored = store_whole(photo, payload, crop)
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
        mask = encode_ignored(
            task.ignored,
            task.outlines,
            [person.keypoints for person in task.persons],
            (photo.shape[1], photo.shape[0]),
            where=task.photo.file_name,
        )
        return [Sample(jpg, pose, encode_card(card), mask)]

    @override
    def decode_pose(self, payload: bytes, num_keypoints: int) -> Poses:
        return decode_people(payload, num_keypoints)

    @override
    def decode_card(self, payload: bytes) -> Card:
        row = msgspec.json.decode(payload, type=_Row)
        matrix, scores = np.array(row.image_from_stored), [None] * len(row.ids)
        return Card(row.source_size, matrix, row.ids, row.areas, scores, num_ignored=len(row.ignored))

    @override
    def truth_rows(
        self, start: int, count: int, images: Sequence[int], rows_of_image: Mapping[int, Sequence[int]]
    ) -> Sequence[int]:
        return [row for image in images[start : start + count] for row in rows_of_image.get(image, ())]

    @override
    def num_people(self, num_samples: int, num_stored: int) -> int:
        return num_stored  # a photo may show any number of people


class _Row(CardRow):
    ids: list[int]
    areas: list[float]
    ignored: list[dict[str, Any]]
    score: None = None


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


def decode_people(payload: bytes, num_keypoints: int) -> Poses:
    """The people of one photo.

    Raises InputError if the record's length is not what its head and `num_keypoints` say.
    """
    numbers = np.frombuffer(payload, "<f4") if len(payload) % 4 == 0 else np.empty(0, np.float32)
    size = BOX_NUMBERS + 3 * num_keypoints
    people, ignored = (int(count) for count in numbers[:PEOPLE_HEAD]) if len(numbers) > 1 else (-1, -1)
    if min(people, ignored) < 0 or len(numbers) != PEOPLE_HEAD + people * size + ignored * BOX_NUMBERS:
        raise InputError(
            f"a pose record of {len(payload)} bytes cannot hold people with {num_keypoints} keypoints: "
            "the shards belong to another skeleton or are damaged; build them again"
        )
    rows = numbers[PEOPLE_HEAD : PEOPLE_HEAD + people * size].reshape(people, size)
    ignored_xywh = numbers[PEOPLE_HEAD + people * size :].reshape(ignored, BOX_NUMBERS)
    keypoints = rows[:, BOX_NUMBERS:].reshape(people, num_keypoints, 3)
    return Poses(rows[:, :BOX_NUMBERS].copy(), keypoints.copy(), ignored_xywh.copy())
