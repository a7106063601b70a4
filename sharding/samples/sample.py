"""What a shard stores for one photo, and what a kind of sample must be able to do; kinds.py names them."""

import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.limits import FAR, first_far_joint
from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.samples.crop import Crop, WholePhoto, cut, encode_jpeg, image_from_stored, photo_region
from semipose.sharding.store.index import Component


@dataclass(frozen=True, eq=False, slots=True)
class PhotoTask:
    """One photo to decode, once, for all its samples.

    ignored: the rows of its crowds and unlabelled persons, if this kind of sample stores them; outlines: see
    `Annotations`, for these rows.
    """

    photo: Photo
    persons: tuple[Person, ...]
    ignored: tuple[dict[str, Any], ...] = ()
    outlines: Mapping[int, bytes] = field(default_factory=dict)


class Sample(NamedTuple):
    """The members of one sample, as bytes."""

    jpg: bytes
    pose: bytes
    json: bytes
    mask: bytes | None = None
    """Only of whole photos."""


class Poses(NamedTuple):
    """A pose record, in float32 and stored pixels: M people with K keypoints, and C regions to ignore."""

    boxes_xywh: np.ndarray
    """(M, 4)."""
    keypoints: np.ndarray
    """(M, K, 3)."""
    ignored_xywh: np.ndarray
    """(C, 4)."""


class CardRow(msgspec.Struct):
    """The fields of the json member that both kinds have."""

    id: int
    image_id: int
    file_name: str
    source_size: tuple[int, int]
    image_from_stored: tuple[tuple[float, float, float], tuple[float, float, float]]


class Card(NamedTuple):
    """What the json member of a sample says, people in the order of the pose record."""

    source_wh: tuple[int, int]
    image_from_stored: np.ndarray
    """(2, 3), from stored to source pixels."""
    ids: Sequence[int]
    areas: Sequence[float]
    scores: Sequence[float | None]
    num_ignored: int


class SampleKind(ABC):
    """A kind of sample: which photos make samples, their bytes and back, and what belongs to them."""

    name: str
    """Its name in recipes and manifests."""
    format_version: int
    """Raised when readers of older shards of this kind would misread new ones, or the other way round."""
    members: tuple[str, ...]
    """Extensions of the members of a sample."""

    @abstractmethod
    def refuse(self, crop: Crop, *, has_detections: bool) -> None:
        """Raise ValueError if samples of this kind cannot be cut so, or from a detector's boxes."""

    @abstractmethod
    def tasks(self, annotations: Annotations, *, keeps_empty: bool) -> list[PhotoTask]:
        """Every photo to store, in the order of the annotations; keeps_empty: also those without a person."""

    @abstractmethod
    def num_samples(self, task: PhotoTask) -> int:
        """Samples that a photo makes."""

    @abstractmethod
    def first(self, task: PhotoTask, count: int) -> PhotoTask:
        """The photo with its first `count` samples only, at least one."""

    @abstractmethod
    def encode(
        self, task: PhotoTask, photo: np.ndarray, payload: bytes | None, crop: Crop
    ) -> Sequence[Sample]:
        """The samples of a photo.

        photo: (H, W, 3) uint8 RGB of the source. payload: the photo's own file if it decodes to just these
        pixels, else None. Raises InputError for annotations that do not fit the photo.
        """

    @abstractmethod
    def decode_pose(self, payload: bytes, num_keypoints: int) -> Poses:
        """The people of a pose record. Raises InputError or ValueError for a record that holds others."""

    @abstractmethod
    def decode_card(self, payload: bytes) -> Card:
        """The content of a json member. Raises msgspec.DecodeError or UnicodeDecodeError."""

    @abstractmethod
    def truth_rows(
        self, start: int, count: int, images: Sequence[int], rows_of_image: Mapping[int, Sequence[int]]
    ) -> Sequence[int]:
        """The places in the ground truth of the people that samples `start` to `start + count` may hold.

        images: ids of its photos, in order. rows_of_image: the places of the annotations of each photo.
        """

    @abstractmethod
    def num_people(self, num_samples: int, num_stored: int) -> int:
        """How many people so many samples hold, of which `num_stored` were seen."""


def photo_tasks_of_people(annotations: Annotations) -> Iterator[PhotoTask]:
    """The photos that show a person, in the order of the annotations."""
    for image_id, group in groupby(annotations.persons, key=lambda person: person.image_id):
        persons = tuple(group)
        photo = Photo(id=image_id, file_name=persons[0].file_name, size_wh=persons[0].source_size_wh)
        yield PhotoTask(photo, persons)


def check_reach(person: Person, size_wh: tuple[int, int]) -> None:
    """Raise InputError for a joint far from its photo, whose size the annotations may not have given."""
    far = first_far_joint(person, size_wh)
    if far:
        raise InputError(
            f"{person.file_name}: annotation {person.id}: {FAR} ({far}): correct it, or remove the row"
        )


def store_whole(photo: np.ndarray, payload: bytes | None, crop: WholePhoto) -> tuple[bytes, np.ndarray]:
    """A photo as it is stored, and (2, 3) from stored to source pixels; arguments as of `encode`."""
    region = photo_region((photo.shape[1], photo.shape[0]), crop)
    is_own_size = region.stored_wh == (photo.shape[1], photo.shape[0])
    jpg = payload if payload is not None and is_own_size else encode_jpeg(cut(photo, region))
    return jpg, image_from_stored(region)


def invert_axis_aligned(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a matrix (2, 3) that scales and translates."""
    (a, _, x), (_, d, y) = matrix
    return np.array([[1 / a, 0.0, -x / a], [0.0, 1 / d, -y / d]])


def encode_card(card: dict[str, Any]) -> bytes:
    """The bytes of a json member."""
    return json.dumps(card, separators=(",", ":")).encode()


class TarSample(NamedTuple):
    """A sample as it stands in a tar: headers, members and padding; where its members are in these bytes."""

    content: bytes
    members: tuple[Component, ...]


def frame(sample: Sample, key: str) -> TarSample:
    """The bytes of a sample in a tar.

    Members get short USTAR names, because DALI loses components with long (PAX) names, and fixed times and
    owners, because equal input must give equal bytes.
    """
    parts, members = [], []
    end = 0
    for extension, payload in sample._asdict().items():
        if payload is None:
            continue
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(payload)
        padding = bytes(-len(payload) % tarfile.BLOCKSIZE)
        parts += [member.tobuf(tarfile.USTAR_FORMAT), payload, padding]
        members.append(Component(extension, end + tarfile.BLOCKSIZE, len(payload), member.name))
        end += tarfile.BLOCKSIZE + len(payload) + len(padding)
    return TarSample(b"".join(parts), tuple(members))
