"""Samples to bytes to tar shards; the same samples give the same bytes."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.load import InputError
from sharding.crop import (
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
from sharding.files import file_sha256
from sharding.index import build_index
from sharding.manifest import ShardEntry
from sharding.plan import PhotoTask
from sharding.record import Person, encode_people, encode_pose


class Sample(NamedTuple):
    """The three members of one sample, as bytes."""

    jpg: bytes
    pose: bytes
    json: bytes


def person_sample(
    person: Person, photo: np.ndarray, payload: bytes | None, law: PersonCrop | WholePhoto
) -> Sample:
    """What the shard stores for one person.

    photo: (H, W, 3) uint8 RGB of the source. payload: the photo's own file where it decodes to just these
    pixels, else None; only `WholePhoto` looks at it. Raises InputError for a box outside the photo.
    """
    size_wh = (photo.shape[1], photo.shape[0])
    if isinstance(law, PersonCrop):
        region = person_region(person.box_xywh, size_wh, law)
        if region.right <= region.left or region.bottom <= region.top:
            raise InputError(
                f"{person.file_name}: the box of annotation {person.id} lies outside the photo, which has "
                f"{size_wh[0]}x{size_wh[1]} pixels: correct the annotation"
            )
        source_from_stored = image_from_stored(region)
        jpg = encode_jpeg(cut(photo, region))
    else:
        jpg, source_from_stored = _whole_photo(photo, payload, law)
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
    return Sample(jpg, pose, _json(card))


def image_sample(
    task: PhotoTask, photo: np.ndarray, payload: bytes | None, law: PersonCrop | WholePhoto
) -> Sample:
    """What the shard stores for one photo with all its people; arguments as of `person_sample`."""
    assert isinstance(law, WholePhoto), "settings refuse another law"
    jpg, source_from_stored = _whole_photo(photo, payload, law)
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


def _whole_photo(photo: np.ndarray, payload: bytes | None, law: WholePhoto) -> tuple[bytes, np.ndarray]:
    """A photo as it is stored, and (2, 3) from stored to source pixels."""
    region = photo_region((photo.shape[1], photo.shape[0]), law)
    is_own_size = region.stored_wh == (photo.shape[1], photo.shape[0])
    jpg = payload if payload is not None and is_own_size else encode_jpeg(cut(photo, region))
    return jpg, image_from_stored(region)


def invert_axis_aligned(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) matrix that scales and moves."""
    scale = 1.0 / matrix[[0, 1], [0, 1]]
    return np.concatenate([np.diag(scale), (-matrix[:, 2] * scale)[:, None]], axis=1)


def _json(card: dict[str, Any]) -> bytes:
    return json.dumps(card, separators=(",", ":")).encode()


def write_shards(
    folder: Path, name: str, samples: Iterator[Sample], samples_per_shard: int, *, num_written: int = 0
) -> Iterator[ShardEntry]:
    """Write the samples, in their order, to `{name}-{000000}.tar` files in `folder`, each with its index.

    num_written: samples already there, in full shards. Yields each shard when it is complete on the disk;
    holds one sample at a time.
    """
    while (first := next(samples, None)) is not None:
        path = folder / f"{name}-{num_written // samples_per_shard:06d}.tar"
        entry = _write_shard(path, chain([first], islice(samples, samples_per_shard - 1)), num_written)
        num_written += entry.samples
        yield entry


def _write_shard(path: Path, samples: Iterable[Sample], first_ordinal: int) -> ShardEntry:
    """One tar and its index. Keys are ordinals of the whole set, so that no two samples share one.

    Members get short USTAR names and fixed times and owners: DALI loses the components of long (PAX) names,
    and equal input must give equal bytes.
    """
    from webdataset.writer import TarWriter  # brings torch, seconds that no worker process should pay

    ordinal = first_ordinal
    aside = path.with_suffix(".tar.tmp")
    try:
        with aside.open("wb") as file:
            with TarWriter(file, encoder=False, user="", group="", mode=0o644, mtime=0) as tar:
                for ordinal, sample in enumerate(samples, first_ordinal):
                    tar.write({"__key__": f"{ordinal:09d}", **sample._asdict()})
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    idx = build_index(path)
    return ShardEntry(
        file=path.name,
        samples=ordinal - first_ordinal + 1,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        idx_sha256=file_sha256(idx),
    )
