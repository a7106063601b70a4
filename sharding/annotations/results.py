"""Boxes of a detector in COCO's results form: which ones to use, and what looks wrong with them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.box_fit import are_percent
from semipose.sharding.annotations.findings import Fault, Findings, is_many
from semipose.sharding.annotations.formats.rows import RowReader, read_json
from semipose.sharding.annotations.record import Photo, photo_key

Box = tuple[float, float, float, float]
"""x, y, w, h in pixels of the photo."""

BEYOND = 0.1
"""How far a box may reach beyond its photo without a note, as a share of its side: detectors overshoot by
some pixels."""
ALIKE = 0.95
"""The share of boxes that must fit their photos in another reading before it is accepted."""

SHARE_BOX = Fault(
    "box no larger than a pixel, as if it were a share of the photo (0..1)",
    "dropped",
    "multiply x and width by the width of the photo, y and height by its height",
)


class ResultRow(msgspec.Struct, kw_only=True):
    """A row of COCO results: a box that a detector found."""

    bbox: list[float]
    image_id: int | str | None = None
    file_name: str | None = None
    category_id: int | None = None
    score: float = 1.0


class ScoredRow(ResultRow, kw_only=True):
    """One that must have a score."""

    score: float


class FoundBox(NamedTuple):
    """A box to use, with the position of its row in the file, from 1."""

    number: int
    row: ResultRow
    box_xywh: Box


class _Kept(msgspec.Struct):
    """The boxes that `sharding/annotations/detector.py` keeps."""

    annotations: list[msgspec.Raw]


def read_results(
    path: Path,
    findings: Findings,
    *,
    category: int,
    min_score: float,
    subject: str = "box",
    scored: bool = False,
    setting: str = "source.boxes",
) -> list[FoundBox]:
    """The boxes of the category (or of none) that have the score; what is wrong with others becomes findings.

    Boxes left out by category or score are counted as dropped, and so are those of a negative side or of no
    more than a pixel. scored: each must have a score; without it, the file that a detector's boxes are kept
    in will do. setting: what the settings are called in messages. Raises InputError for another file, and
    where category or score leave no box.
    """
    either: Any = list[msgspec.Raw] if scored else list[msgspec.Raw] | _Kept
    file: list[msgspec.Raw] | _Kept = read_json(path, either, expected="a list of COCO results")
    raws = file.annotations if isinstance(file, _Kept) else file
    other_category = _left_out(f"box of another category than {setting}.category", subject)
    low_score = _left_out(f"box of a lower score than {setting}.min_score", subject)
    reader = RowReader(ScoredRow if scored else ResultRow, findings, subject=subject)
    taken: list[FoundBox] = []
    categories: Counter[int] = Counter()
    best_score: float | None = None
    for number, raw in enumerate(raws, start=1):
        row = reader.decode(raw, number)
        if row is None:
            continue
        if row.category_id not in (None, category):
            assert row.category_id is not None
            categories[row.category_id] += 1
            findings.add(other_category, number, f"category {row.category_id}")
        elif row.score < min_score:
            best_score = row.score if best_score is None else max(row.score, best_score)
            findings.add(low_score, number, f"score {row.score:g}")
        else:
            taken.append(FoundBox(number, row, _four(row.bbox)))
    if not taken and best_score is not None:
        raise InputError(
            f"{path}: no box of category {category} has a score of {min_score:g} ({setting}.min_score), "
            f"the highest is {best_score:g}: lower {setting}.min_score"
        )
    if not taken and categories:
        counts = ", ".join(f"{each} ({count:,} boxes)" for each, count in categories.most_common(8))
        raise InputError(
            f"{path}: no box is of category {category} ({setting}.category), the file has {counts}: "
            f"give {setting}.category={categories.most_common(1)[0][0]}, if those are the people"
        )
    return [found for found in taken if _is_box(found, findings, subject)]


def is_share(bbox: Sequence[float]) -> bool:
    """Whether all numbers of a box that is not empty are in 0..1, like shares of a photo."""
    return min(bbox) >= 0 and max(bbox) <= 1 and max(bbox[2:]) > 0


def _left_out(what: str, subject: str) -> Fault:
    return Fault(what, "dropped", "", f"{subject} in row", is_identity=False)


def _four(bbox: list[float]) -> Box:
    x, y, width, height = bbox if len(bbox) == 4 else (0.0,) * 4
    return x, y, width, height


def _is_box(found: FoundBox, findings: Findings, subject: str) -> bool:
    """Whether a box can be one; otherwise a finding says why not."""
    bbox, where = found.row.bbox, f"in row {found.number}"
    if len(bbox) != 4:
        findings.add(Fault("bbox must be 4 numbers", subject=subject), where, f"found {len(bbox)}")
    elif min(bbox[2:]) < 0:
        cure = "write x, y of the upper left corner, width, height"
        findings.add(Fault("box with a negative side", "dropped", cure, subject), where, str(bbox))
    elif 0 < max(bbox[2:]) <= 1:
        findings.add(replace(SHARE_BOX, subject=subject), where, str(bbox))
    else:
        return True
    return False


class PhotoFinder:
    """Finds the photos that a row can mean."""

    def __init__(self, photos: Iterable[Photo], *, by_id: bool) -> None:
        """by_id: a number is the photo's id; without it the number that its file's name ends in.

        A text is a file name, with or without its suffix, or such a number.
        """
        self._by_key: dict[int | str, dict[str, Photo]] = defaultdict(dict)
        for photo in photos:
            name, stem = photo_key(photo.file_name), Path(photo.file_name).stem
            digits = re.search(r"\d+$", stem)
            number = photo.id if by_id else int(digits[0]) if digits else stem
            for key in (name, stem, number):
                self._by_key[key].setdefault(name, photo)

    def find(self, row: ResultRow) -> list[Photo]:
        """The photos of that name or number: one, where all is well."""
        key = row.image_id if row.file_name is None else row.file_name
        keys = [] if key is None else [key]
        if isinstance(key, str):
            keys = [photo_key(key), key, *([int(key)] if key.isdecimal() else [])]
        return next((list(self._by_key[each].values()) for each in keys if each in self._by_key), [])


def note_boxes(
    boxes: Sequence[FoundBox],
    sizes_wh: Sequence[tuple[int, int] | None],
    findings: Findings,
    *,
    beyond: Fault,
) -> None:
    """Add boxes that reach far beyond their photo, and the other reading by which they would not.

    sizes_wh: of the photo of each box, None where it is not known. beyond: the note for those that no reading
    explains.
    """
    known = [(box, size) for box, size in zip(boxes, sizes_wh, strict=True) if size is not None]
    if not known:
        return
    numbers = [f"in row {box.number}" for box, _ in known]
    xywh, sizes = np.array([box.box_xywh for box, _ in known]), np.array([size for _, size in known], float)
    start, sides = xywh[:, :2], xywh[:, 2:]
    margin = np.maximum(BEYOND * sides, 1)
    is_beyond = np.asarray(((start < -margin) | (start + sides > sizes + margin)).any(axis=1))
    fits = {
        "box looks like corners (x1, y1, x2, y2)": (sides > start) & (start >= -1) & (sides <= sizes + 1),
        "box looks like centre and size": (start - sides / 2 >= -1) & (start + sides / 2 <= sizes + 1),
    }
    by_reading = {what: np.asarray(fit.all(axis=1)) for what, fit in fits.items()}
    likely = [what for what, fit in by_reading.items() if is_beyond.any() and fit[is_beyond].mean() >= ALIKE]
    fault, chosen = beyond, is_beyond
    if likely:
        what = max(likely, key=lambda each: by_reading[each].mean())
        cure = "write x, y of the upper left corner, width, height in pixels of the photo"
        fault = Fault(what, "kept", cure, beyond.subject, is_identity=False)
        if is_many(int(is_beyond.sum()), len(known)) and by_reading[what].mean() >= ALIKE:
            chosen = np.ones(len(known), bool)
    elif are_percent(start + sides, sizes):
        cure = "multiply by the width and height of the photo / 100"
        fault = Fault("box looks like percent of the photo", "kept", cure, beyond.subject, is_identity=False)
        chosen = np.ones(len(known), bool)
    for index in np.flatnonzero(chosen).tolist():
        findings.add(fault, numbers[index], f"{xywh[index].tolist()} of {sizes[index].astype(int).tolist()}")
    findings.warn_if_many(fault, len(known))
