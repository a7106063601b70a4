"""Finds photos that are both scored and trained on, whatever annotations and shards they came from.

Names alone prove nothing, because two folders may both have a 0001.jpg, and neither do tars, because
different people of one photo are stored as different bytes. So photos of the same size that share a name or
an annotation are candidates, and their stored pixels decide.
"""

import io
import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
import numpy as np
from PIL import Image

from semipose.pipelines.source import Split
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.store.index import Component, read_index, read_members
from semipose.sharding.store.manifest import GROUND_TRUTH_NAME

MOST_LOOKED_AT = 500
"""The number of scored photos whose candidates are compared; of more photos, evenly spaced ones."""
MOST_CANDIDATES = 4
"""The number of photos that one scored photo is compared with: those whose paths have most in common."""
CELLS = 32
"""Side of the grid on which the pixels of two photos are compared."""
LEAST_CORRELATION = 0.95
MOST_DIFFERENCE = 12.0
"""Root mean square difference in grey levels; crops, scales and JPEG qualities of one photo stay below it."""
FLAT = 2.0
"""Standard deviation in grey levels below which a part of a photo shows too little to compare."""
LEAST_OVERLAP_PX = 8.0
_EXPORTED = re.compile(r"^[0-9a-f]{8}-(?=.)|(_jpe?g|_png)?\.rf\.\w+$")
"""What Label Studio adds before the name of a photo, and Roboflow after it."""


class Shared(NamedTuple):
    """Names of scored photos that are also trained on, the number of all, and whether all were compared."""

    names: list[str]
    num_photos: int
    is_complete: bool


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int
    height: int


class _Person(msgspec.Struct, gc=False):
    image_id: int
    bbox: tuple[float, float, float, float]
    keypoints: tuple[float, ...] = ()


class _Truth(msgspec.Struct):
    """The part of a ground truth that is read; for all of COCO this saves some seconds."""

    images: list[_Image]
    annotations: list[_Person]
    detections: list[_Person] | None = None


class Stored:
    """The stored samples of a split's folder, by their index in the folder."""

    def __init__(self, split: Split) -> None:
        self.manifest, self.tars, self._folder = split.manifest, split.shards.tars, split.shards.folder
        self._ends = list(accumulate(shard.samples for shard in self.manifest.shards))
        self._index = cache(read_index)
        self.is_local = all(Path(tar).is_file() for tar in self.tars)

    def where(self, ordinal: int) -> tuple[str, int]:
        """The hash of a sample's tar, and the index in that tar: equal for equal samples."""
        shard, index = self._find(ordinal)
        return self.manifest.shards[shard].sha256, index

    def jpg_bytes(self, ordinal: int) -> int:
        """The size of a sample's stored picture."""
        return next(member.size for member in self._members(ordinal) if member.extension == "jpg")

    def read(self, ordinal: int) -> tuple[Image.Image, np.ndarray]:
        """A sample's stored picture in grey, and the matrix (2, 3) from its pixels to those of the photo."""
        with Path(self.tars[self._find(ordinal)[0]]).open("rb") as file:
            payloads = read_members(file, self._members(ordinal), ("jpg", "json"))
        matrix = np.array(json.loads(payloads["json"])["image_from_stored"])
        return Image.open(io.BytesIO(payloads["jpg"])).convert("L"), matrix

    def _find(self, ordinal: int) -> tuple[int, int]:
        shard = bisect_right(self._ends, ordinal)
        return shard, ordinal - (self._ends[shard] - self.manifest.shards[shard].samples)

    def _members(self, ordinal: int) -> tuple[Component, ...]:
        shard, index = self._find(ordinal)
        return self._index(self._folder / self.manifest.shards[shard].idx_file)[index]


@dataclass(eq=False)
class Photo:
    """A photo: its row of the ground truth, and its stored people, each with its index in the folder."""

    stored: Stored
    row: _Image
    people: list[tuple[int, _Person]] = field(default_factory=list)
    """Of a photo that is a sample itself, the first is in the place of the whole photo."""

    def traits(self) -> Iterator[Hashable]:
        """Keys that two photos have in common if they may be the same one."""
        size = (self.row.width, self.row.height)
        yield (*size, plain_name(self.row.file_name))
        for _, person in self.people:
            if any(v > 0 for v in person.keypoints[2::3]):
                yield (*size, person.bbox, person.keypoints)


def shared_photos(val: Split, trained_on: Iterable[Split]) -> Shared:
    """Find the photos of scored people among those that are trained on."""
    scored = list(photos_of(val, val.ordinals))
    wanted = {key for photo in scored for key in photo.traits()}
    candidates: dict[Hashable, list[Photo]] = {}
    for split, ordinals in _folders(trained_on):
        for photo in photos_of(split, ordinals):
            for key in wanted.intersection(photo.traits()):
                candidates.setdefault(key, []).append(photo)
    doubtful = [(photo, others) for photo in scored if (others := _likeliest(photo, candidates))]
    step = max(1, -(-len(doubtful) // MOST_LOOKED_AT))
    verdicts: dict[str, bool | None] = {}
    for photo, others in doubtful[::step]:
        name = photo.row.file_name
        answers = {verdicts.get(name, False), *(is_same(photo, other) for other in others)}
        verdicts[name] = True if True in answers else None if None in answers else False
    # A photo of which different parts are stored cannot be compared. It is taken to be like all the others.
    answers_found = set(verdicts.values())
    accepted = {True, None} if True in answers_found and False not in answers_found else {True}
    names = [name for name, answer in verdicts.items() if answer in accepted]
    return Shared(names, len({photo.row.file_name for photo in scored}), step == 1)


def photos_of(split: Split, ordinals: Iterable[int]) -> Iterator[Photo]:
    """The photos of some samples of a split's folder."""
    stored = Stored(split)
    truth = msgspec.json.decode((split.shards.folder / GROUND_TRUTH_NAME).read_bytes(), type=_Truth)
    images = {row.id: row for row in truth.images}
    people = truth.annotations if truth.detections is None else truth.detections
    if split.manifest.kind == "image":  # a sample is a photo, and the rows of photos are in their order
        of_photo: dict[int, list[_Person]] = {}
        for person in people:
            of_photo.setdefault(person.image_id, []).append(person)
        for ordinal in ordinals:
            row = truth.images[ordinal]
            whole = _Person(row.id, (0, 0, row.width, row.height))
            yield Photo(stored, row, [(ordinal, person) for person in (whole, *of_photo.get(row.id, ()))])
        return
    photos: dict[int, Photo] = {}
    for ordinal in ordinals:
        row = images[people[ordinal].image_id]
        photos.setdefault(row.id, Photo(stored, row)).people.append((ordinal, people[ordinal]))
    yield from photos.values()


def plain_name(file_name: str) -> str:
    """The name of a photo without its folder, its extension, and what annotation tools add to it."""
    name = unicodedata.normalize("NFC", unquote(file_name)).replace("\\", "/").casefold()
    stem = PurePosixPath(name).stem
    return _EXPORTED.sub("", stem) or stem


def is_same(one: Photo, other: Photo) -> bool | None:
    """Whether two photos are the same, judged by what is stored of them; None if that cannot be told.

    One person of each photo is compared: the two whose boxes overlap the most. If both are on this machine,
    their pixels are compared; otherwise the sizes of the files, if both were cropped in the same way.
    """
    own_samples = {one.stored.where(ordinal) for ordinal, _ in one.people}
    if own_samples & {other.stored.where(ordinal) for ordinal, _ in other.people}:
        return True
    (ordinal, person), (other_ordinal, other_person) = max(
        ((mine, theirs) for mine in one.people for theirs in other.people),
        key=lambda pair: _overlap_px(pair[0][1].bbox, pair[1][1].bbox),
    )
    if one.stored.is_local and other.stored.is_local:
        return looks_same(*one.stored.read(ordinal), *other.stored.read(other_ordinal))
    crop = one.stored.manifest.crop
    is_cut_alike = isinstance(crop, WholePhoto) or np.allclose(
        person.bbox, other_person.bbox, rtol=0, atol=0.01
    )
    if crop != other.stored.manifest.crop or not is_cut_alike:
        return None
    return one.stored.jpg_bytes(ordinal) == other.stored.jpg_bytes(other_ordinal)


def looks_same(
    one: Image.Image, image_from_one: np.ndarray, other: Image.Image, image_from_other: np.ndarray
) -> bool | None:
    """Whether two grey pictures are equal where they overlap in the photo; None if they do not overlap.

    image_from_...: (2, 3) matrices (scale and translation) from the pixels of each to those of its photo.
    """
    scales, edges = [], []
    for picture, matrix in ((one, image_from_one), (other, image_from_other)):
        scale = matrix[[0, 1], [0, 1]]
        first_edge = matrix[:, 2] - scale / 2
        scales.append(scale)
        edges.append((first_edge, first_edge + scale * picture.size))
    low = np.maximum(edges[0][0], edges[1][0])
    high = np.minimum(edges[0][1], edges[1][1])
    if (high - low < LEAST_OVERLAP_PX).any():
        return None
    grids = []
    for picture, scale, (first_edge, _) in zip((one, other), scales, edges, strict=True):
        corners = np.concatenate([(low - first_edge) / scale, (high - first_edge) / scale])
        box = tuple(np.clip(corners, 0, (*picture.size, *picture.size)).tolist())
        grid = picture.resize((CELLS, CELLS), Image.Resampling.BILINEAR, box)
        grids.append(np.asarray(grid, np.float64))
    difference = np.sqrt(np.square(grids[0] - grids[1]).mean())
    if min(grid.std() for grid in grids) < FLAT:
        return None if difference < MOST_DIFFERENCE else False
    correlation = np.corrcoef(grids[0].ravel(), grids[1].ravel())[0, 1]
    return bool(difference < MOST_DIFFERENCE and correlation > LEAST_CORRELATION)


def _folders(splits: Iterable[Split]) -> Iterator[tuple[Split, list[int]]]:
    """Each folder once, with the indices of all samples that some split uses."""
    by_root: dict[str, tuple[Split, set[int]]] = {}
    for split in splits:
        by_root.setdefault(split.root, (split, set()))[1].update(split.ordinals)
    for split, ordinals in by_root.values():
        yield split, sorted(ordinals)


def _likeliest(photo: Photo, candidates: dict[Hashable, list[Photo]]) -> list[Photo]:
    """The candidates of a photo; those whose paths have the most in common with its own come first."""
    own = _parts(photo)
    unique = {id(other): other for key in photo.traits() for other in candidates.get(key, ())}

    def in_common(other: Photo) -> int:
        ends = zip(reversed(own), reversed(_parts(other)), strict=False)
        return next((count for count, (a, b) in enumerate(ends) if a != b), len(own))

    return sorted(unique.values(), key=in_common, reverse=True)[:MOST_CANDIDATES]


def _parts(photo: Photo) -> list[str]:
    """The folders of a photo's path and its plain name."""
    path = PurePosixPath(photo.row.file_name.replace("\\", "/").casefold())
    return [*path.parts[:-1], plain_name(path.name)]


def _overlap_px(one: Sequence[float], other: Sequence[float]) -> float:
    """How far two boxes (x, y, w, h) overlap, in px; negative: how far they are apart."""
    return min(
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis])
        for axis in (0, 1)
    )
