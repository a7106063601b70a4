"""People with keypoints, photo by photo: what goes out to a labelling tool and what comes back from it.

Coordinates are pixels of the photo as the COCO file counts them. They go through every format as they are: no
tool adds or takes away half a pixel.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from semipose.configs.errors import InputError
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.category import from_category
from semipose.sharding.annotations.formats.rows import read_json
from semipose.sharding.annotations.record import photo_key
from semipose.sharding.annotations.skeleton import DEFAULT_SIGMA, Skeleton, to_category

T = TypeVar("T")
PERSON_ID = "person_id"
"""The attribute in which a person's id goes out, where the tool has attributes."""


@dataclass(eq=False)
class LabelledPerson:
    """One person of a photo."""

    keypoints: np.ndarray
    """(K, 3) float64: x, y in pixels and v, which is 0 (not labelled), 1 (hidden) or 2 (visible)."""
    box_xywh: np.ndarray | None = None
    """(4,) float64 in pixels; None if the tool keeps none."""
    id: int | None = None
    """The id with which the person went out; None if the tool does not keep it."""
    peaks: np.ndarray | None = None
    """(K,) float64: how sure the network is of each keypoint."""
    score: float | None = None

    @property
    def num_labelled(self) -> int:
        """How many keypoints are labelled."""
        return int((self.keypoints[:, 2] > 0).sum())

    @property
    def extent_xywh(self) -> np.ndarray | None:
        """(4,) the smallest box around the labelled keypoints; None if there are none."""
        points_xy = self.keypoints[self.keypoints[:, 2] > 0, :2]
        if not len(points_xy):
            return None
        low = points_xy.min(axis=0)
        return np.concatenate([low, points_xy.max(axis=0) - low])

    @property
    def box_or_extent_xywh(self) -> np.ndarray | None:
        """(4,) the box, or the extent of the keypoints where there is none; None if there is neither."""
        return self.box_xywh if self.box_xywh is not None else self.extent_xywh


@dataclass(eq=False)
class LabelledPhoto:
    """The people of one photo."""

    file_name: str
    size_wh: tuple[int, int] | None
    people: list[LabelledPerson] = field(default_factory=list)
    is_frame: bool = False
    """Whether it is a frame of a film, which is no file."""


@dataclass(eq=False)
class Labels:
    """The people of some photos, all with the keypoints of one skeleton."""

    skeleton: Skeleton
    category: tuple[int, str]
    """Id and name of the category."""
    photos: list[LabelledPhoto]

    @property
    def num_people(self) -> int:
        """How many people all photos have."""
        return sum(len(photo.people) for photo in self.photos)

    @property
    def num_keypoints(self) -> int:
        """How many keypoints of all people are labelled."""
        return sum(person.num_labelled for photo in self.photos for person in photo.people)

    def to_coco(self, *, attributes: bool = False) -> dict[str, Any]:
        """The labels as a COCO file, photos and people numbered from 1 where they have no ids of their own.

        attributes: write each id as the attribute `person_id` as well, which CVAT keeps where it gives new
        ids.
        """
        ids = [person.id or 0 for photo in self.photos for person in photo.people]
        next_id = max(ids, default=0) + 1
        images, rows = [], []
        for number, photo in enumerate(self.photos, start=1):
            image: dict[str, Any] = {"id": number, "file_name": photo.file_name}
            if photo.size_wh is not None:
                image |= {"width": photo.size_wh[0], "height": photo.size_wh[1]}
            images.append(image)
            for person in photo.people:
                person_id = person.id
                if person_id is None:
                    person_id, next_id = next_id, next_id + 1
                row = {"id": person_id, "image_id": number, **annotation_of(person, self.category[0])}
                if attributes:
                    row["attributes"] = {PERSON_ID: str(person_id)}
                rows.append(row)
        category = to_category(self.skeleton, category_id=self.category[0], name=self.category[1])
        return {"images": images, "annotations": rows, "categories": [category]}


def annotation_of(person: LabelledPerson, category_id: int) -> dict[str, Any]:
    """The COCO annotation of a person, without its ids; a keypoint that is not labelled keeps its place."""
    keypoints = [
        value for x, y, v in person.keypoints.tolist() for value in (round(x, 3), round(y, 3), int(v))
    ]
    box = person.box_or_extent_xywh
    box = np.zeros(4) if box is None else box
    row: dict[str, Any] = {
        "category_id": category_id,
        "bbox": box.round(3).tolist(),
        "area": round(AREA_OF_BOX * float(box[2] * box[3]), 2),
        "iscrowd": 0,
        "num_keypoints": person.num_labelled,
        "keypoints": keypoints,
    }
    if person.peaks is not None:
        row["peaks"] = person.peaks.round(4).tolist()
    if person.score is not None:
        row["score"] = round(person.score, 5)
    return row


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None
    video: str | None = None


class _Row(msgspec.Struct):
    id: int
    image_id: int
    category_id: int
    keypoints: list[float] | None = None
    bbox: list[float] | None = None
    iscrowd: int | bool = 0
    peaks: list[float] | None = None
    score: float | None = None
    attributes: dict[str, Any] = {}  # msgspec gives each row its own


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Row]
    categories: list[dict[str, Any]]


def read_coco_labels(path: Path, *, names: Sequence[str] | None = None) -> Labels:
    """The labels of a COCO file: predictions, annotations, or what a tool wrote. Crowds are left out.

    A person has the id of `attributes.person_id` if it is there, and otherwise that of its row. names: the
    keypoints to read, in their order; None: those of the categories that have keypoints, which must be the
    same. Raises InputError for another file, another set of keypoints, and rows that do not fit it.
    """
    expected = "a COCO file with images, annotations and categories"
    file = read_json(path, _File, expected=expected, strict=False)
    categories = _choose_categories(path, file.categories, names)
    category = categories[0]
    names_here = names or category["keypoints"]
    orders = {int(row["id"]): order_of_names(path, row["keypoints"], names_here) for row in categories}
    photos = {
        image.id: LabelledPhoto(
            image.file_name,
            (image.width, image.height) if image.width and image.height else None,
            is_frame=image.video is not None,
        )
        for image in file.images
    }
    refuse_repeated_photos(path, photos.values())
    for row in file.annotations:
        if row.iscrowd or row.category_id not in orders:
            continue
        if row.image_id not in photos:
            raise InputError(
                f"{path}: annotation {row.id} names image {row.image_id}, which `images` does not list: "
                "correct its image_id, or remove it"
            )
        photos[row.image_id].people.append(_person_of(row, path, orders[row.category_id]))
    skeleton = bare_skeleton(names) if names is not None else from_category(category, where=str(path))
    return Labels(skeleton, (int(category["id"]), str(category.get("name"))), list(photos.values()))


def bare_skeleton(names: Sequence[str]) -> Skeleton:
    """The keypoints of a file that came back, of which only the names are read."""
    return Skeleton(names=tuple(names), flip_pairs=(), bones=(), sigmas=(DEFAULT_SIGMA,) * len(names))


def _choose_categories(
    path: Path, categories: Sequence[dict[str, Any]], names: Sequence[str] | None
) -> list[dict[str, Any]]:
    """The categories with the keypoints `names`, or with those of the first one; at least one."""
    having = [row for row in categories if row.get("keypoints")]
    if not having:
        raise InputError(
            f"{path}: no category has `keypoints`, so this is no file of poses: export it as COCO keypoints"
        )
    if names is not None:
        having = [row for row in having if set(row["keypoints"]) == set(names)] or having
    if any(set(row["keypoints"]) != set(having[0]["keypoints"]) for row in having):
        listed = ", ".join(repr(row.get("name")) for row in having)
        raise InputError(
            f"{path}: several categories have keypoints, and not the same ({listed}): leave the file one of "
            "them"
        )
    return having


def _person_of(row: _Row, path: Path, order: Sequence[int]) -> LabelledPerson:
    numbers = row.keypoints or [0.0] * (3 * len(order))
    if len(numbers) != 3 * len(order):
        raise InputError(
            f"{path}: annotation {row.id} has {len(numbers)} numbers of keypoints, but {len(order)} "
            f"keypoints need {3 * len(order)}: correct it"
        )
    keypoints = np.array(numbers, np.float64).reshape(-1, 3)[list(order)]
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise InputError(
            f"{path}: annotation {row.id} has a v that is not 0 (not labelled), 1 (hidden) or 2 (visible): "
            "correct it"
        )
    box = np.array(row.bbox, np.float64) if row.bbox and len(row.bbox) == 4 else None
    if not np.isfinite(keypoints).all() or (box is not None and not np.isfinite(box).all()):
        raise InputError(f"{path}: annotation {row.id} holds a number that is not finite: correct it")
    return LabelledPerson(
        keypoints,
        box if box is not None and min(box[2:]) > 0 else None,
        as_person_id(row.attributes.get(PERSON_ID), row.id),
        None if row.peaks is None else np.array(row.peaks, np.float64)[list(order)],
        row.score,
    )


def as_person_id(text: Any, otherwise: int | None = None) -> int | None:
    """The id that an attribute gives, which tools return as a text or a number."""
    try:
        return int(text)
    except (TypeError, ValueError):
        return otherwise


def order_of_names(path: Path, has: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each wanted keypoint stands among those of a file. Raises InputError for other keypoints."""
    twice = [name for name, count in Counter(has).items() if count > 1]
    missing = [name for name in wanted if name not in has]
    unknown = [name for name in has if name not in wanted]
    if twice or missing or unknown:
        faults = [
            f"{what} {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
            for what, names in (("twice", twice), ("without", missing), ("with", unknown))
            if names
        ]
        raise InputError(
            f"{path}: this is another skeleton ({'; '.join(faults)}) than the one that went out: label with "
            "the keypoints that `semipose label out` wrote, or rename them back"
        )
    return [list(has).index(name) for name in wanted]


class PhotosByName(Generic[T]):
    """Things by the names of their photos, found also if a tool left folders out or put its own in front."""

    def __init__(self, things: Mapping[str, T], where: Path) -> None:
        self.things = {photo_key(name): thing for name, thing in things.items()}
        self.where = where
        self._with_base: dict[str, list[str]] = {}
        for name in self.things:
            self._with_base.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, file_name: str) -> T | None:
        """The thing of a photo: of clip1/1.jpg also for 1.jpg or photos/clip1/1.jpg, never for clip2/1.jpg.

        Raises InputError if several fit.
        """
        key = photo_key(file_name)
        if key in self.things:
            return self.things[key]
        base = PurePosixPath(key).name
        fitting = [name for name in self._with_base.get(base, ()) if _same_end(name, key)]
        if len(fitting) > 1:
            raise InputError(
                f"{self.where}: {file_name} may be {' or '.join(fitting[:3])}: write its folders too, or "
                "give the photos names that differ"
            )
        return self.things[fitting[0]] if fitting else None


def _same_end(one: str, other: str) -> bool:
    """Whether the longer of two paths ends with the shorter."""
    pairs = zip(reversed(PurePosixPath(one).parts), reversed(PurePosixPath(other).parts), strict=False)
    return all(a == b for a, b in pairs)


def refuse_repeated_photos(path: Path, photos: Iterable[LabelledPhoto]) -> None:
    """Raise InputError if two rows name one photo, because nobody could say which of them counts."""
    counts = Counter(photo_key(photo.file_name) for photo in photos)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        more = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise InputError(f"{path}: the photo {twice[0]} is there twice{more}: keep one of its rows")


def as_json(content: Any) -> bytes:
    """Plain values as the text of a JSON file."""
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
