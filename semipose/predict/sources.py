"""What to predict: photos, folders, globs, zips, addresses, COCO files, lists on stdin, films, a camera."""

import glob
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from semipose.configs.errors import InputError
from semipose.sharding.annotations.category import whole
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.categories import keypoint_names
from semipose.sharding.annotations.formats.coco import clean_box
from semipose.sharding.annotations.formats.coco_rows import CocoFile, ListedImage, distinct_images, tidy
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.photos import Photos, below_location, open_photos
from semipose.sharding.annotations.photos.base import UnreachableError, is_photo
from semipose.sharding.annotations.record import photo_key
from semipose.sharding.samples.decode import decode_photo
from semipose.sharding.store.manifest import GROUND_TRUTH_NAME, MANIFEST_NAME

FILM_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})


@dataclass(frozen=True)
class PhotoItem:
    """A photo to predict, which is not opened yet."""

    id: int
    """Its `image_id` in the results."""
    file_name: str
    """Its name in the results."""
    photos: Photos
    name: str
    """Its name in `photos`."""
    size_wh: tuple[int, int] | None = None
    """Width and height if a COCO file gives them: they say whether its boxes count in turned pixels."""
    boxes: "Boxes | None" = None
    """The people, if a file gives them."""
    listed_id: int | None = None
    """Its id in the COCO file that lists it, if one does: results of a detector name it by that."""

    @property
    def where(self) -> str:
        """The photo as messages name it."""
        return self.photos.where(self.name)

    def read(self) -> np.ndarray:
        """The pixels (H, W, 3) uint8 RGB, upright. Raises InputError for any other file."""
        is_upright = self.size_wh is None
        try:
            payload = self.photos.read(self.name)
            decoded = decode_photo(payload, size_wh=self.size_wh, where=self.where, upright=is_upright)
        except UnreachableError:
            raise
        except InputError as error:
            reason = str(error).partition(", or leave out its people")[0]
            raise InputError(reason.replace("source.images", "images")) from error
        return decoded.pixels


@dataclass(frozen=True)
class FilmItem:
    """A film to predict, or a camera."""

    file_name: str
    """Its name in the results."""
    address: str
    """A path, an address, or the number of a camera."""

    @property
    def where(self) -> str:
        """The film as messages name it."""
        return self.address

    @property
    def is_camera(self) -> bool:
        """Whether it is the number of a camera."""
        return self.address.isdecimal()


class Boxes(NamedTuple):
    """The people of one photo."""

    xywh: np.ndarray
    """(N, 4) float64 in pixels of the photo."""
    scores: np.ndarray
    """(N,) float64: how sure the detector is of each; 1 for a box that was given."""
    left_out: int = 0
    """How many people of a file are not among them: their boxes are empty or outside the photo."""


NOBODY = Boxes(np.zeros((0, 4)), np.zeros(0))


class Work(NamedTuple):
    """Everything that a command predicts, photos first."""

    photos: list[PhotoItem]
    films: list[FilmItem]
    passed_over: Counter[str]
    """Files of the sources that are neither photos nor films, by suffix."""
    notes: list[str]
    """What the user should know of the given boxes."""


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    bbox: list[float] | None = None
    score: float | None = None
    iscrowd: bool | int | None = None
    category_id: int | None = None


class CocoList(NamedTuple):
    """What is read of a COCO file, with names relative to where the photos are."""

    images: list[ListedImage]
    boxes: list[_Annotation]
    """The rows that have a box and are no crowds."""
    categories: list[dict[str, Any]]


def find_work(sources: Sequence[str], *, images: str | None = None, keypoints: Sequence[str] = ()) -> Work:
    """What the words of a command line name.

    images: where the photos of a COCO file are; None: in its folder. keypoints: the names of the model's; the
    boxes of a COCO file that are taken are those of categories with these keypoints. Raises InputError for a
    word that names nothing, and where nothing is left.
    """
    words: list[str] = []
    for word in sources:
        lines = (line.strip() for line in sys.stdin) if word == "-" else [word]
        words += (match for line in lines if line for match in _matches(line))
    singles: list[str] = []
    work = Work([], [], Counter(), [])
    groups: list[tuple[str, list[PhotoItem]]] = []
    for word in words:
        path = Path(word)
        suffix = "" if path.is_dir() else path.suffix.lower()
        if suffix == ".json":
            groups.append((path.stem, _listed_photos(path, images, keypoints, work.notes)))
        elif suffix in FILM_SUFFIXES or (word.isdecimal() and not path.exists()):
            work.films.append(FilmItem(path.name if suffix else f"camera-{word}", word))
        elif suffix and suffix != ".zip" and "::" not in word:
            singles.append(word)
        else:
            groups.append((Path(word.rstrip("/")).stem, _photos_in(word, work)))
    groups += _single_photos(singles, work)
    work.photos.extend(_numbered(groups))
    if not work.photos and not work.films:
        passed = ", ".join(f"{count:,} {suffix}" for suffix, count in work.passed_over.most_common(5))
        raise InputError(
            f"{' '.join(sources)}: there is no photo and no film here"
            + (f", but other files ({passed})" if passed else "")
            + ": name the files as what they are, such as .jpg or .mp4"
        )
    return work


def _matches(word: str) -> list[str]:
    """The word, or the files that it matches as a glob. Raises InputError where there are none."""
    if "://" in word or "::" in word or word.isdecimal() or Path(word).exists():
        return [word]
    matches = sorted(glob.glob(word, recursive=True))
    if not matches:
        raise InputError(f"{word}: there is no such photo, folder or film: correct the path")
    return matches


def _photos_in(word: str, work: Work) -> list[PhotoItem]:
    """The photos of a folder, a zip or an address; films of a folder go into `work`."""
    photos, path = open_photos(word), Path(word)
    names, others = photos.listing()
    for name in others:
        suffix = Path(name).suffix.lower()
        if suffix in FILM_SUFFIXES and path.is_dir():
            work.films.append(FilmItem(name, str(path / name)))
        else:
            work.passed_over[suffix or "without a suffix"] += 1
    return [PhotoItem(0, name, photos, name) for name in names]


def _single_photos(names: Iterable[str], work: Work) -> list[tuple[str, list[PhotoItem]]]:
    """Photos that were named one by one, by their common folder; other files are counted in `work`."""
    by_root: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        if not is_photo(name):
            work.passed_over[Path(name).suffix.lower()] += 1
            continue
        server = re.match(r"[\w+.-]+://[^/]*", name)
        whole = name if server else Path(os.path.abspath(name)).as_posix()
        by_root[server[0] if server else ""].append(whole)
    groups = []
    for members in by_root.values():
        root = _common_folder(members)
        photos = open_photos(root or "/")
        relative = [name.removeprefix(root).lstrip("/") for name in members]
        groups.append((Path(root).name, [PhotoItem(0, name, photos, name) for name in relative]))
    return groups


def _common_folder(names: Sequence[str]) -> str:
    """The folder, or the beginning of the addresses, that contains all of the photos."""
    folders = zip(*(name.split("/")[:-1] for name in names), strict=False)
    return "/".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, folders))


def _listed_photos(
    path: Path, images: str | None, keypoints: Sequence[str], notes: list[str]
) -> list[PhotoItem]:
    """The photos of a COCO file, with the boxes of its people if it has any."""
    try:
        photos = open_photos(path.parent if images is None else images)
    except InputError as error:
        raise InputError(str(error).replace("source.images", "images")) from error
    file = read_coco_list(path, photos)
    names = [image.file_name for image in file.images]
    absent = photos.absent(names)
    if names and len(absent) == len(names):
        raise InputError(
            f"{path}: none of its {len(names):,} photos is in {photos.location}: say where they are with "
            "images=FOLDER (or a zip, or an address)"
        )
    first_of: dict[str, ListedImage] = {}
    for image in file.images:
        first = first_of.setdefault(photo_key(image.file_name), image)
        if first is not image:
            raise InputError(
                f"{path}: the images {first.id} and {image.id} are one photo, {image.file_name}: list it "
                "once, and give its annotations that image_id"
            )
    boxes = boxes_by_image(path, file, keypoints, notes)
    return [
        PhotoItem(
            image.id,
            image.file_name,
            photos,
            image.file_name,
            (image.width, image.height) if image.width and image.height else None,
            boxes.get(image.id, NOBODY) if boxes else None,
            image.id,
        )
        for image in file.images
    ]


def read_coco_list(path: Path, photos: Photos) -> CocoList:
    """The images and boxes of a COCO file, in all spellings that builds of shards read.

    Raises InputError for another file, and for rows that cannot be read.
    """
    file = read_json(path, CocoFile, expected="a COCO file with `images` (id, file_name)")
    findings = Findings(path)
    images, _ = distinct_images(file, findings)
    reader = RowReader(_Annotation, findings, subject="annotation", tidy=tidy)
    boxes: list[_Annotation] = []
    for number, raw in enumerate(file.annotations or (), start=1):
        row = reader.decode(raw, number)
        if row is None or not row.bbox or row.iscrowd:
            continue
        if len(row.bbox) != 4:
            wrong = Fault("bbox must be a list of 4 numbers")
            findings.add(wrong, reader.name(raw, number), f"found {len(row.bbox)}")
        boxes.append(row)
    findings.raise_errors()
    names = below_location([image.file_name for image in images.values()], photos)
    for image, name in zip(images.values(), names, strict=True):
        image.file_name = name
    return CocoList([*images.values()], boxes, file.categories)


def boxes_by_image(
    path: Path, file: CocoList, keypoints: Sequence[str], notes: list[str]
) -> dict[int, Boxes]:
    """The boxes of the people of a COCO file by `image_id`, cleaned as those of training are; no crowds.

    The ground truth of shards has the boxes of training already, and cleaning makes a box smaller.
    keypoints: see `_categories_of_people`. A note says how many boxes of other things are left out.
    """
    people = _categories_of_people(file, keypoints)
    chosen = [row for row in file.boxes if not people or row.category_id in people]
    if len(chosen) < len(file.boxes):
        notes.append(
            f"boxes of other categories than {' and '.join(dict.fromkeys(people.values()))} are left out: "
            f"{len(file.boxes) - len(chosen):,} of {len(file.boxes):,} in {path}"
        )
    is_raw = path.name != GROUND_TRUTH_NAME or not (path.parent / MANIFEST_NAME).is_file()
    sizes = {image.id: (image.width, image.height) for image in file.images}
    rows: dict[int, list[tuple[Sequence[float], float]]] = defaultdict(list)
    left_out: Counter[int] = Counter()
    for row in chosen:
        assert row.bbox is not None
        width, height = sizes.get(row.image_id, (None, None))
        box = clean_box(row.bbox, (width, height)) if is_raw and width and height else row.bbox
        if box is None:
            left_out[row.image_id] += 1
        else:
            rows[row.image_id].append((box, 1.0 if row.score is None else row.score))
    return {
        image: Boxes(
            np.array([box for box, _ in rows[image]], np.float64).reshape(-1, 4),
            np.array([score for _, score in rows[image]], np.float64),
            left_out[image],
        )
        for image in [*rows, *(image for image in left_out if image not in rows)]
    }


def _categories_of_people(file: CocoList, keypoints: Sequence[str]) -> dict[int | None, str]:
    """The categories of people by id; empty where none has keypoints, so that all boxes are of people.

    They are those with the keypoints of these names, in any order; where there are none, those with any. None
    stands for a row without a category, which is of people where the file has no other category.
    """
    able = [row for row in file.categories if row.get("keypoints")]
    fitting = [row for row in able if {*keypoint_names(row)} == {*keypoints}]
    people: dict[int | None, str] = {}
    for row in fitting or able:
        with suppress(ValueError):
            people[whole(row.get("id"))] = name = str(row.get("name"))
            if len(file.categories) == 1:
                people[None] = name
    return people


def _numbered(groups: Sequence[tuple[str, list[PhotoItem]]]) -> list[PhotoItem]:
    """All photos with distinct names and ids; those of a single COCO file keep its ids."""
    items = [item for _, members in groups for item in members]
    if len(groups) > 1:
        items = [
            replace(item, file_name=f"{title}/{item.file_name}")
            for title, members in groups
            for item in members
        ]
    twice = [name for name, count in Counter(item.file_name for item in items).items() if count > 1]
    if twice:
        raise InputError(
            f"{twice[0]}: {len(twice)} names of photos occur twice in these sources: predict them one after "
            "the other, with an output= for each"
        )
    if len(groups) == 1 and items and len({item.id for item in items}) == len(items):
        return items
    return [replace(item, id=number) for number, item in enumerate(items, start=1)]
