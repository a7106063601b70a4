"""Samples to bytes to tar shards; the same samples give the same bytes."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from webdataset.writer import TarWriter

from sharding.crop import (
    PersonCrop,
    WholePhoto,
    cut,
    encode_jpeg,
    image_from_stored,
    move_box,
    move_keypoints,
    person_region,
)
from sharding.files import file_sha256
from sharding.index import build_index
from sharding.manifest import ShardEntry
from sharding.record import Person, encode_pose


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
    pixels, else None; only `WholePhoto` looks at it.
    """
    size_wh = (photo.shape[1], photo.shape[0])
    if isinstance(law, PersonCrop):
        region = person_region(person.box_xywh, size_wh, law)
        source_from_stored = image_from_stored(region)
        jpg = encode_jpeg(cut(photo, region))
    else:
        source_from_stored = np.eye(2, 3)
        jpg = payload if payload is not None else encode_jpeg(photo)
    stored_from_source = _invert_axis_aligned(source_from_stored)
    pose = encode_pose(
        move_box(np.asarray(person.box_xywh), stored_from_source),
        move_keypoints(person.keypoints, stored_from_source),
    )
    return Sample(jpg, pose, _card(person, size_wh, source_from_stored))


def _invert_axis_aligned(matrix: np.ndarray) -> np.ndarray:
    scale = 1.0 / matrix[[0, 1], [0, 1]]
    return np.concatenate([np.diag(scale), (-matrix[:, 2] * scale)[:, None]], axis=1)


def _card(person: Person, size_wh: tuple[int, int], source_from_stored: np.ndarray) -> bytes:
    card = {
        "id": person.id,
        "image_id": person.image_id,
        "file_name": person.file_name,
        "area": person.area,
        "source_size": size_wh,
        "image_from_stored": source_from_stored.tolist(),
    }
    return json.dumps(card, separators=(",", ":")).encode()


def write_shards(
    folder: Path, name: str, samples: Iterator[Sample], samples_per_shard: int
) -> tuple[ShardEntry, ...]:
    """Write the samples, in their order, to `{name}-{000000}.tar` files in `folder`, each with its index.

    Holds one sample at a time.
    """
    entries: list[ShardEntry] = []
    while (first := next(samples, None)) is not None:
        path = folder / f"{name}-{len(entries):06d}.tar"
        rest = islice(samples, samples_per_shard - 1)
        entries.append(_write_shard(path, chain([first], rest), len(entries) * samples_per_shard))
    return tuple(entries)


def _write_shard(path: Path, samples: Iterable[Sample], first_ordinal: int) -> ShardEntry:
    """One tar and its index. Keys are ordinals of the whole set, so that no two samples share one.

    Members get short USTAR names and fixed times and owners: DALI loses the components of long (PAX) names,
    and equal input must give equal bytes.
    """
    ordinal = first_ordinal
    with path.open("wb") as file:
        with TarWriter(file, encoder=False, user="", group="", mode=0o644, mtime=0) as tar:
            for ordinal, sample in enumerate(samples, first_ordinal):
                tar.write({"__key__": f"{ordinal:09d}", **sample._asdict()})
        file.flush()
        os.fsync(file.fileno())
    idx = build_index(path)
    return ShardEntry(
        file=path.name,
        samples=ordinal - first_ordinal + 1,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        idx_sha256=file_sha256(idx),
    )
