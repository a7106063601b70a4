"""Boxes of people from a JSON file: COCO results, or COCO annotations with their `images`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from semipose.configs.errors import InputError
from semipose.predict.sources import NOBODY, Boxes, PhotoItem, boxes_by_image, read_coco_list
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats.rows import read_json
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.record import Photo
from semipose.sharding.annotations.results import PhotoFinder, ResultRow, read_results

if TYPE_CHECKING:
    from semipose.predict.boxes import FileBoxes


class _Top(msgspec.Struct):
    images: list[msgspec.Raw]


def boxes_of_file(
    cfg: "FileBoxes", photos: Sequence[PhotoItem], keypoints: Sequence[str], notes: list[str]
) -> list[Boxes]:
    """The people of each photo; photos that the file does not name have none.

    keypoints: the names of the model's. notes: collects what the user should know of the file's boxes.
    Raises InputError for a file of another kind, and where none of its boxes is of these photos.
    """
    if not cfg.file.is_file():
        raise InputError(f"people.file: {cfg.file} is not there: give a JSON file of boxes")
    if not photos:
        raise InputError("people.name=boxes gives boxes of photos, and there are only films: take a detector")
    listed = [Photo(id=item.listed_id or 0, file_name=item.file_name, size_wh=None) for item in photos]
    by_id = all(item.listed_id is not None for item in photos)
    finder = PhotoFinder(listed, by_id=by_id)
    index = {photo.file_name: number for number, photo in enumerate(listed)}
    rows: dict[int, list[tuple[Any, float]]] = defaultdict(list)
    total = 0
    for row, box, score in _rows(cfg, photos[0].photos, keypoints, notes):
        total += 1
        named = finder.find(row)
        if len(named) > 1:
            raise InputError(
                f"{cfg.file}: the number {row.image_id} fits several photos, such as {named[0].file_name} "
                f"and {named[1].file_name}: name them with file_name in each row"
            )
        if named:
            rows[index[named[0].file_name]].append((box, score))
    if not rows:
        number = "its id in the COCO file" if by_id else "the number in the name of the photo"
        raise InputError(
            f"{cfg.file}: none of its {total:,} boxes is of these photos (such as {photos[0].file_name}): "
            f"give `file_name` or an `image_id` that is {number}"
        )
    return [_as_boxes(rows.get(number, [])) for number in range(len(photos))]


def _rows(
    cfg: "FileBoxes", photos: Photos, keypoints: Sequence[str], notes: list[str]
) -> Iterator[tuple[ResultRow, Any, float]]:
    """(row with file_name or image_id, box, score) of each box."""
    if _has_images(cfg.file):
        file = read_coco_list(cfg.file, photos)
        names = {image.id: image.file_name for image in file.images}
        for image_id, found in boxes_by_image(cfg.file, file, keypoints, notes).items():
            for box, score in zip(found.xywh.tolist(), found.scores.tolist(), strict=True):
                if score >= cfg.min_score and image_id in names:
                    yield ResultRow(bbox=box, file_name=names[image_id]), box, score
        return
    findings = Findings(cfg.file)
    for each in read_results(
        cfg.file, findings, category=cfg.category, min_score=cfg.min_score, setting="people"
    ):
        yield each.row, each.box_xywh, each.row.score
    findings.raise_errors()
    if why := findings.why("dropped"):
        notes.append(f"boxes of {cfg.file} are left out: {why}")


def _has_images(path: Path) -> bool:
    try:
        read_json(path, _Top, expected="a COCO file")
    except InputError:
        return False
    return True


def _as_boxes(rows: Sequence[tuple[Any, float]]) -> Boxes:
    if not rows:
        return NOBODY
    return Boxes(np.array([box for box, _ in rows], np.float64), np.array([score for _, score in rows]))
