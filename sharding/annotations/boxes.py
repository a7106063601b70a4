"""The boxes of people in unlabelled photos: the whole photo, or boxes from a detector."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.photos import IMAGE_SUFFIXES, Photos
from semipose.sharding.annotations.photos.base import UnreachableError
from semipose.sharding.annotations.record import Photo
from semipose.sharding.annotations.results import Box, FoundBox, PhotoFinder, note_boxes, read_results
from semipose.sharding.samples.decode import photo_sizes

AREA_OF_BOX = 0.53
"""Share of its box that a person covers, on average over COCO: the area where an annotation gives none."""

PASSED_OVER = Fault(
    "file without the suffix of a photo",
    "passed over",
    f"if it is a photo, name it so ({' '.join(sorted(IMAGE_SUFFIXES))}), or convert it to JPEG or PNG",
    "file",
)
UNREADABLE = Fault(
    "the file is no image that can be read",
    cure="remove or replace it, or leave it out of shards with corrupt_images=skip",
    subject="photo",
)
UNREAD = Fault("the file cannot be read", cure="correct that, or remove it", subject="photo")
OUTSIDE = Fault("box empty or outside the photo", "dropped", "", "photo")
UNKNOWN_PHOTO = Fault("box of a photo that is not there", "dropped", "", "box")
AMBIGUOUS = Fault("two photos have this number", cure="give source.boxes.images", subject="box")
CLIPPED = Fault(
    "box far beyond the photo, clipped",
    "corrected",
    "see whether the boxes count in the pixels of these photos, and correct them",
    "box",
    is_identity=False,
)

SUFFIXES_SHOWN = 8
_READERS = 16
_HEAD_BYTES = 16_384
"""Enough bytes of most files to read their size and orientation."""


class FoundBoxes(NamedTuple):
    """A photo and its people, in pixels of the upright photo."""

    photo: Photo
    boxes_xywh: list[Box]


@settings
class WholePhotoBoxes:
    """Each photo is one person, as a cut-out is."""

    name: Literal["whole"] = "whole"

    def find(self, photos: Photos) -> tuple[list[FoundBoxes], Findings]:
        """All photos, each with one box, which is the photo; and what is wrong with them."""
        findings = Findings(photos.location)
        listed = sized(number_photos(photos, findings), photos, findings, are_listed=True)
        boxes = {photo.file_name: [(0.0, 0.0, *photo.size_wh)] for photo in listed if photo.size_wh}
        return place_boxes(listed, boxes, findings), findings


@settings
class NoBoxes:
    """Whole photos, whoever they show: for kind: image."""

    name: Literal["none"] = "none"

    def find(self, photos: Photos) -> tuple[list[FoundBoxes], Findings]:
        """All photos without boxes, by name; files that are no photos are a finding, nothing is opened."""
        findings = Findings(photos.location)
        return [FoundBoxes(photo, []) for photo in number_photos(photos, findings)], findings


class _ImageRow(msgspec.Struct):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _ImageList(msgspec.Struct):
    images: list[msgspec.Raw]


@settings
class ResultsBoxes:
    """Boxes from a JSON in COCO's results form: `[{"image_id", "bbox", "score", "category_id"}, ...]`."""

    name: Literal["results"] = "results"
    results: Path
    """The JSON file of boxes."""
    images: Path | None = None
    """A COCO file whose `images` give file names and sizes, such as image_info_unlabeled2017.json; null: a
    box belongs to the photo of its `file_name`, or to the one whose name ends in the number of its `image_id`
    (000000000123.jpg is 123)."""
    min_score: float = 0.0
    """Boxes with a lower score are left out; published work keeps all boxes of COCO's unlabelled photos."""
    category: int = 1
    """The category_id of people; boxes of other categories are left out, and boxes without one are kept."""

    def find(self, photos: Photos) -> tuple[list[FoundBoxes], Findings]:
        """The photos of the list, or all that are there, with their boxes clipped to them; and the faults.

        Raises InputError for a file of another kind, and if no box has its photo.
        """
        findings = Findings(self.results)
        rows = read_results(self.results, findings, category=self.category, min_score=self.min_score)
        listed = number_photos(photos, findings) if self.images is None else _read_list(self.images, findings)
        finder = PhotoFinder(listed, by_id=self.images is not None)
        found: list[tuple[FoundBox, str]] = []
        for box in rows:
            named = finder.find(box.row)
            if len(named) == 1:
                found.append((box, named[0].file_name))
            else:
                key = box.row.image_id if box.row.file_name is None else box.row.file_name
                findings.add(AMBIGUOUS if named else UNKNOWN_PHOTO, f"in row {box.number}", f"image {key}")
        if not found and findings.ids(UNKNOWN_PHOTO):
            raise InputError(
                f"{self.results}: none of its photos is in {photos.location}: correct source.images, or set "
                "source.boxes.images to the COCO file that names the photos"
            )
        boxes: dict[str, list[Box]] = defaultdict(list)
        for box, name in found:
            boxes[name].append(box.box_xywh)
        known = {photo.file_name: photo for photo in sized(listed, photos, findings, only=boxes.keys())}
        of_photos = [(box, known[name].size_wh) for box, name in found]
        inside = [(box, size) for box, size in of_photos if clip_box(box.box_xywh, size) is not None]
        note_boxes([box for box, _ in inside], [size for _, size in inside], findings, beyond=CLIPPED)
        return place_boxes([known.get(each.file_name, each) for each in listed], boxes, findings), findings


def _read_list(path: Path, findings: Findings) -> list[Photo]:
    """The photos of a COCO file's `images`, in order; repeated rows are skipped."""
    file = read_json(path, _ImageList, expected="a COCO file with `images`")
    photos: dict[str, Photo] = {}
    for row, _ in RowReader(_ImageRow, findings, subject="image").read(file.images):
        size_wh = (row.width, row.height) if row.width and row.height else None
        photos.setdefault(row.file_name, Photo(id=row.id, file_name=row.file_name, size_wh=size_wh))
    return list(photos.values())


def number_photos(photos: Photos, findings: Findings) -> list[Photo]:
    """All photos of the location, sorted by name and numbered from 1; their sizes are not known yet.

    Other files become a finding. Raises InputError if there is no photo.
    """
    names, others = photos.listing()
    others = [name.encode(errors="replace").decode() for name in others]  # they may be no UTF-8
    kinds = _count_suffixes(others)
    if not names:
        found = f", but files without the suffix of one ({kinds})" if others else ""
        raise InputError(f"{photos.location}: there are no photos here{found}: correct source.images")
    for name in others:
        findings.add(PASSED_OVER, name, kinds)
    return [Photo(id=number, file_name=name, size_wh=None) for number, name in enumerate(names, start=1)]


def _count_suffixes(names: Iterable[str]) -> str:
    """Such as `4 .heic, 1 .gif, 2 without a suffix`, the most frequent first."""
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count:,} {suffix}" for suffix, count in by_count[:SUFFIXES_SHOWN]]
    return ", ".join(named) + (", ..." if len(counts) > SUFFIXES_SHOWN else "")


def sized(
    listed: Iterable[Photo],
    photos: Photos,
    findings: Findings,
    *,
    only: Collection[str] | None = None,
    are_listed: bool = False,
    unreadable: Fault = UNREADABLE,
) -> list[Photo]:
    """The photos (those of the names `only`), not annotated, with the sizes that they have upright.

    The sizes are read from the files' heads: a list may give those before EXIF turns a photo. Where the file
    is absent, or a picture of neither size, what the list says stays, and the build names the fault.
    are_listed: the names are those that the location lists, so that an absent file is a link that is broken.
    """
    wanted = [photo for photo in listed if only is None or photo.file_name in only]
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = pool.map(lambda photo: _read_size(photo, photos), wanted)
        known = []
        for photo, found in zip(wanted, sizes, strict=True):
            size_wh = photo.size_wh if isinstance(found, InputError | str) else found
            known.append(Photo(id=photo.id, file_name=photo.file_name, size_wh=size_wh))
            if size_wh is not None:
                continue
            if isinstance(found, str):
                findings.add(unreadable, photo.file_name, found)
            elif are_listed or not photos.absent([photo.file_name]):
                findings.add(UNREAD, photo.file_name, str(found))
    return known


def _read_size(photo: Photo, photos: Photos) -> tuple[int, int] | str | InputError | None:
    """Width and height of the upright picture, or why they cannot be read."""
    try:
        stored_wh, upright_wh = _read_sizes(photo.file_name, photos)
    except UnreachableError:
        raise
    except InputError as error:
        return error
    except ValueError as error:
        return str(error)
    return upright_wh if photo.size_wh in (None, stored_wh, upright_wh) else photo.size_wh


def _read_sizes(name: str, photos: Photos) -> tuple[tuple[int, int], tuple[int, int]]:
    with suppress(ValueError):  # more is needed, or none will do
        return photo_sizes(photos.read(name, head=_HEAD_BYTES))
    return photo_sizes(photos.read(name))


def place_boxes(
    photos: Iterable[Photo], boxes_xywh: Mapping[str, Iterable[Box]], findings: Findings
) -> list[FoundBoxes]:
    """Each photo with its boxes, by file name, clipped to the photo where its size is known."""
    found = []
    for photo in photos:
        clipped = []
        for box_xywh in boxes_xywh.get(photo.file_name, ()):
            inside = clip_box(box_xywh, photo.size_wh)
            if inside is None:
                findings.add(OUTSIDE, photo.file_name, str(list(box_xywh)))
            else:
                clipped.append(inside)
        found.append(FoundBoxes(photo, clipped))
    return found


def box_overlap(a_xywh: np.ndarray, b_xywh: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (P, 4) and (G, 4) -> (P, G)."""
    low = np.maximum(a_xywh[:, None, :2], b_xywh[None, :, :2])
    high = np.minimum(a_xywh[:, None, :2] + a_xywh[:, None, 2:], b_xywh[None, :, :2] + b_xywh[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    union = a_xywh[:, 2:].prod(-1)[:, None] + b_xywh[:, 2:].prod(-1)[None] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))


def clip_box(box_xywh: Box, size_wh: tuple[int, int] | None) -> Box | None:
    """The part of a box between the first and last pixel centre of the photo; None if it is empty."""
    x, y, w, h = box_xywh
    left, top, right, bottom = x, y, x + w, y + h
    if size_wh is not None:
        left, top = max(0.0, x), max(0.0, y)
        right, bottom = min(size_wh[0] - 1.0, right), min(size_wh[1] - 1.0, bottom)
    if right <= left or bottom <= top:
        return None
    return left, top, right - left, bottom - top
