"""Labels that came back, merged into a COCO file: `semipose label in`."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.label.back import MOVED_PX, SAME_BOX_PX, compare, match, read_export
from semipose.label.labels import (
    LabelledPerson,
    LabelledPhoto,
    Labels,
    PhotosByName,
    annotation_of,
    as_json,
    as_person_id,
    order_of_names,
    read_coco_labels,
)
from semipose.label.out import PHOTOS, SENT
from semipose.label.settings import InSettings
from semipose.label.yolo import IMAGES
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.record import photo_key
from semipose.sharding.check.report import print_table, print_warnings
from semipose.sharding.store.files import write_atomic

BACKUP = "before-label-in"


def receive(path: Path, cfg: InSettings, console: Console) -> None:
    """Read a tool's export, print what changed, and merge it into a COCO file, which is checked first.

    Raises InputError, and leaves the file as it is, for an export that cannot be read or lost too many
    people, for a file with other keypoints, for photos that get people and are not there, and for a result
    that the check refuses.
    """
    sent_file = cfg.sent or (path if path.is_dir() else path.parent) / SENT
    if not sent_file.is_file():
        raise InputError(
            f"{sent_file}: this is not there: give the {SENT} of `semipose label out` with sent="
        )
    sent = read_coco_labels(sent_file)
    back, waiting = read_export(path, sent)
    labels, changes = compare(sent, back, waiting, path)
    for line in changes.lines():
        console.print(line, highlight=False, soft_wrap=True)
    went_out = changes.kept + len(changes.removed)
    if went_out and len(changes.removed) / went_out > cfg.most_removed:
        raise InputError(
            f"{path}: {len(changes.removed):,} of {went_out:,} people are gone: if they were removed on "
            f"purpose, give most_removed=1; {cfg.into} is as it was"
        )
    content = _read_target(cfg.into, sent)
    sent_names = _merge(content, labels, sent, cfg.into)
    _replace(content, sent_names, sent_file.parent, cfg, console)


def _read_target(into: Path, sent: Labels) -> dict[str, Any]:
    """The user's file as plain values; a new one has the category that went out."""
    if not into.exists():
        return Labels(sent.skeleton, sent.category, []).to_coco()
    try:
        content = json.loads(into.read_bytes())
    except ValueError as error:
        raise InputError(f"{into}: this is no JSON file ({error}): give your COCO file") from error
    is_coco = isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )
    if not is_coco:
        raise InputError(f"{into}: this has no images, annotations and categories: give your COCO file")
    return dict(content)


def _merge(content: dict[str, Any], labels: Labels, sent: Labels, into: Path) -> dict[int, str]:
    """Put the people of each returned photo into the file.

    People who went out from this file keep their ids, and are removed if the tool removed them. Others take
    the place of a person at the same position, or are added. Returns, by the ids of the photos that get
    people, the names under which the photos went out.
    """
    categories = _categories(content, labels, into)
    images = PhotosByName({str(row["file_name"]): row for row in content["images"]}, into)
    rows_of: dict[Any, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        if row.get("category_id") in categories and not row.get("iscrowd"):
            rows_of.setdefault(_id_of(row, into, "image_id"), []).append(row)
    sent_photos = {photo_key(photo.file_name): photo for photo in sent.photos}
    next_image = max((_id_of(row, into) for row in content["images"]), default=0) + 1
    next_id = max((_id_of(row, into) for row in content["annotations"]), default=0) + 1
    sent_names: dict[int, str] = {}
    for photo in labels.photos:
        key = photo_key(photo.file_name)
        image = images.find(key)
        if image is None:
            image = {"id": next_image, "file_name": photo.file_name}
            if photo.size_wh is not None:
                image |= {"width": photo.size_wh[0], "height": photo.size_wh[1]}
            content["images"].append(image)
            next_image += 1
        image_id = _id_of(image, into)
        if photo.people:
            sent_names[image_id] = key
        before = sent_photos.get(key, LabelledPhoto(key, None)).people
        rows = [_Row(row, categories[row["category_id"]], into) for row in rows_of.get(image_id, [])]
        gone, new = _merge_people(photo, before, rows, sent.skeleton.sigmas)
        content["annotations"] = [row for row in content["annotations"] if id(row) not in gone]
        category_id, order = next(iter(categories.items()))
        for number, person in enumerate(new, start=next_id):
            made = annotation_of(_reordered(person, order), category_id)
            content["annotations"].append({"id": number, "image_id": image["id"], **made})
        next_id += len(new)
    return sent_names


def _categories(content: dict[str, Any], labels: Labels, into: Path) -> dict[Any, list[int]]:
    """The categories of the file with the keypoints of the labels, that of the labels' name first.

    By their ids: where each keypoint of theirs stands among those of the labels. Raises InputError if no
    category has these keypoints.
    """
    names = labels.skeleton.names
    having = [row for row in content["categories"] if row.get("keypoints")]
    fitting = [row for row in having if set(row["keypoints"]) == set(names)] or having[:1]
    if not fitting:
        raise InputError(f"{into}: no category has `keypoints`: give your COCO file of poses")
    fitting.sort(key=lambda row: row.get("name") != labels.category[1])
    return {row["id"]: order_of_names(into, names, row["keypoints"]) for row in fitting}


def _id_of(row: dict[str, Any], into: Path, key: str = "id") -> int:
    number = as_person_id(row.get(key))
    if number is None:
        raise InputError(f"{into}: {key} is {row.get(key)!r} in a row, and no whole number: correct it")
    return number


class _Row:
    """A row of the user's file, its person in the order of the labels' keypoints, and that order."""

    def __init__(self, row: dict[str, Any], order: list[int], into: Path) -> None:
        self.row, self.order = row, order
        self.id = _id_of(row, into)
        self.person = _person_of_row(row, order)

    def replace(self, person: LabelledPerson) -> None:
        """Give the row to another person."""
        self.row.pop("segmentation", None)
        self.row |= annotation_of(_reordered(person, self.order), self.row["category_id"])

    def change(self, person: LabelledPerson, before: LabelledPerson) -> None:
        """Take over what differs between a person who came back and the one who went out.

        All else stays as it is: keypoints and parts of boxes outside the photo, which do not go out, and the
        area, which is scaled if the box has changed.
        """
        made = annotation_of(_reordered(person, self.order), self.row["category_id"])
        was = annotation_of(_reordered(before, self.order), self.row["category_id"])
        points, old, own = (np.reshape(row["keypoints"], (-1, 3)) for row in (made, was, self._row_or(made)))
        is_same = (points[:, 2] == old[:, 2]) & (
            (points[:, 2] == 0) | (np.abs(points[:, :2] - old[:, :2]).max(axis=1) <= MOVED_PX)
        )
        kept = np.where(is_same[:, None], own, points)
        made["keypoints"] = [
            value for x, y, v in kept.tolist() for value in (round(x, 3), round(y, 3), int(v))
        ]
        made["num_keypoints"] = int((kept[:, 2] > 0).sum())
        area, box = self.row.get("area"), self.row.get("bbox")
        if box and len(box) == 4 and np.abs(np.subtract(made["bbox"], was["bbox"])).max() < SAME_BOX_PX:
            made |= {"bbox": box, "area": area or made["area"]}
        elif area and box and len(box) == 4 and min(box[2:]) > 0:
            width, height = made["bbox"][2:]
            made["area"] = round(float(area) * width * height / (box[2] * box[3]), 2)
        self.row |= made

    def _row_or(self, made: dict[str, Any]) -> dict[str, Any]:
        """The row if it has as many keypoints as what came back, else that."""
        return self.row if len(self.row.get("keypoints") or ()) == len(made["keypoints"]) else made


def _merge_people(
    photo: LabelledPhoto, before: list[LabelledPerson], rows: list[_Row], sigmas: tuple[float, ...]
) -> tuple[set[int], list[LabelledPerson]]:
    """Write the people of a photo who have a row into it.

    Returns the rows that the tool removed, by `id()`, and the people without a row.
    """
    own, replaced, gone = _places(photo, before, rows, sigmas)
    sent = {person.id: person for person in before}
    new = []
    for index, person in enumerate(photo.people):
        if index in own:
            rows[own[index]].change(person, sent[person.id])
        elif index in replaced:
            rows[replaced[index]].replace(person)
        else:
            new.append(person)
    return {id(rows[i].row) for i in gone}, new


def _reordered(person: LabelledPerson, order: list[int]) -> LabelledPerson:
    """The person as a file of annotations has it: its keypoints, (0, 0, 0) where not labelled."""
    keypoints = person.keypoints[order].copy()
    keypoints[keypoints[:, 2] == 0] = 0
    return LabelledPerson(keypoints, person.box_xywh)


def _places(
    photo: LabelledPhoto, before: list[LabelledPerson], rows: list[_Row], sigmas: tuple[float, ...]
) -> tuple[dict[int, int], dict[int, int], list[int]]:
    """By index in the photo, the row whose person came back, and the row to replace; and rows that went.

    A row went out if a person of its id did, at its position: ids of predictions mean nothing here.
    """
    row_of_id: dict[int | None, int] = {}
    for index, row in enumerate(rows):
        for old in before:
            if old.id == row.id and _is_same(old, row.person):
                row_of_id[row.id] = index
    own = {i: row_of_id[person.id] for i, person in enumerate(photo.people) if person.id in row_of_id}
    gone = sorted(set(row_of_id.values()) - set(own.values()))
    others = [i for i in range(len(photo.people)) if i not in own]
    free = [i for i in range(len(rows)) if i not in set(row_of_id.values())]
    anonymous = [LabelledPerson(photo.people[i].keypoints, photo.people[i].box_xywh) for i in others]
    pairs = match([rows[i].person for i in free], anonymous, sigmas, least=0.5)
    return own, {others[a]: free[b] for a, b in pairs.items()}, gone


def _person_of_row(row: dict[str, Any], order: list[int]) -> LabelledPerson:
    """A row of the user's file with our order of keypoints."""
    keypoints = np.zeros((len(order), 3))
    numbers = np.array(row.get("keypoints") or [0.0] * keypoints.size, np.float64)
    if numbers.size == keypoints.size:
        keypoints[order] = numbers.reshape(-1, 3)
    box = row.get("bbox")
    return LabelledPerson(keypoints, np.array(box, np.float64) if box and len(box) == 4 else None)


def _is_same(old: LabelledPerson, row: LabelledPerson) -> bool:
    """Whether the person who went out is the row as it is now: box (which went out clipped) or keypoints."""
    both = (old.keypoints[:, 2] > 0) & (row.keypoints[:, 2] > 0)
    if both.any():
        return bool(np.abs(old.keypoints[both, :2] - row.keypoints[both, :2]).max() < SAME_BOX_PX)
    return (
        old.box_xywh is not None
        and row.box_xywh is not None
        and bool(np.abs(old.box_xywh - row.box_xywh).max() < SAME_BOX_PX)
    )


def _replace(
    content: dict[str, Any],
    sent_names: dict[int, str],
    sent_folder: Path,
    cfg: InSettings,
    console: Console,
) -> None:
    """Check the result as shards are checked, and that photos are there; back the file up and replace it.

    sent_names: by the ids of the photos that got people, the names under which they went out. sent_folder:
    what went out, with the photos.
    """
    into = cfg.into.resolve()  # a link stays one
    into.parent.mkdir(parents=True, exist_ok=True)
    candidate = into.with_name(f"{into.name}.{os.getpid()}.tmp")
    try:
        write_atomic(candidate, as_json(content))
        with np.errstate(all="ignore"):
            photos_at = cfg.images or str(cfg.into.parent)
            annotations = CocoStyleFormat(annotations=candidate, images=photos_at).read()
            inspect_people(annotations)
        annotations.findings.file = str(cfg.into)
        names = {
            photo_key(str(row["file_name"])): sent_names[_id_of(row, into)]
            for row in content["images"]
            if _id_of(row, into) in sent_names
        }
        _refuse_photos(annotations.photos, names, sent_folder, into)
        found = (annotations.findings,)
        print_table(console, f"{into}: {len(annotations.persons):,} people", found)
        print_warnings(console, found)
        annotations.findings.raise_errors()
        done = "merged"
        if into.exists():
            backup = _free_name(into)
            shutil.copy2(into, backup)
            console.print(f"the file as it was: {backup}", highlight=False, soft_wrap=True)
        else:
            done = (
                "this file was not there, so it is a new one with these people alone: if you meant another "
                "file, remove this one and correct into="
            )
        candidate.replace(into)
    finally:
        candidate.unlink(missing_ok=True)
    console.print(f"{into}: {done}", highlight=False, soft_wrap=True)


def _refuse_photos(photos: Photos, names: dict[str, str], sent_folder: Path, into: Path) -> None:
    """Raise InputError if a photo of people who came back is absent, or another one than the one sent.

    No shards could be built of it, or they would show other people. names: by their names in the file, those
    under which they went out.
    """
    absent = photos.absent(set(names))
    if absent:
        raise InputError(
            f"{photos.location}: {len(absent):,} of the {len(names):,} photos with people are not here, such "
            f"as {min(absent)}: copy them here under the same names, or correct images=, and repeat the "
            f"command; {into} is as it was"
        )
    for name, sent_name in sorted(names.items()):
        for copy in (sent_folder / PHOTOS / sent_name, sent_folder / IMAGES / sent_name):
            if copy.is_file() and copy.read_bytes() != photos.read(name):
                raise InputError(
                    f"{photos.where(name)}: this is another photo than the one that went out ({copy}): give "
                    f"that one another name and send it out again, or correct images=; {into} is as it was"
                )


def _free_name(into: Path) -> Path:
    """`my.before-label-in.json`, or with a number if there is one already."""
    number = 1
    while (
        path := into.with_name(f"{into.stem}.{BACKUP}{'' if number == 1 else f'-{number}'}.json")
    ).exists():
        number += 1
    return path
