"""A folder of unlabelled photos, whole or with boxes of their people, but without joints."""

import hashlib
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from pydantic import Field

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX, NoBoxes, ResultsBoxes, WholePhotoBoxes
from semipose.sharding.annotations.category import from_category
from semipose.sharding.annotations.detector import DetectorBoxes
from semipose.sharding.annotations.findings import Fault
from semipose.sharding.annotations.formats.categories import choose_categories
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.rows import read_json
from semipose.sharding.annotations.photos import Photos, open_photos
from semipose.sharding.annotations.record import Annotations, Person, photo_key
from semipose.sharding.annotations.skeleton import AIC_14, COCO_17, CROWDPOSE_14, LSP_14, MPII_16, Skeleton

IS_LABELLED = Fault("photo whose people are labelled (source.labelled)", "dropped", "", "photo")
SKELETONS = {"coco": COCO_17, "lsp": LSP_14, "mpii": MPII_16, "aic": AIC_14, "crowdpose": CROWDPOSE_14}

Boxes = Annotated[WholePhotoBoxes | ResultsBoxes | DetectorBoxes | NoBoxes, Field(discriminator="name")]


@settings
class FolderFormat:
    """Photos without annotations, for the unlabelled side of training."""

    name: Literal["folder"] = "folder"
    images: str | Path
    """The photos: a folder with its subfolders, a zip file or a URL."""
    skeleton: str = "coco"
    """The keypoints of the labelled set: coco, lsp, mpii, aic, crowdpose, or a JSON file in COCO form whose
    category describes them."""
    boxes: Boxes = Field(default_factory=WholePhotoBoxes)
    """The boxes of the people: boxes.name=whole (each photo shows one person), results (boxes from a JSON
    file), detector (boxes that a detector of torchvision finds) or none (kind: image needs no boxes)."""
    labelled: CocoStyleFormat | None = None
    """The annotations of the labelled set. Photos in which they have labelled people are left out, because
    those that are scored must not be trained on; null: all photos are taken."""

    def read(self) -> Annotations:
        """One unlabelled person for each box, photos by name or as listed; ids count from 1.

        All keypoints are zero (v = 0), the area is 0.53 of the box. Photos without a box are empty ones.
        Photos that are left out get boxes as well, so that a detector's stay good when more are labelled.
        Raises InputError if there are no photos, and as the boxes and the labels do.
        """
        skeleton, category = _find_skeleton(self.skeleton)
        photos = open_photos(self.images)
        found, findings = self.boxes.find(photos)
        if self.labelled is not None:
            listed = [each.photo.file_name for each in found]
            names = labelled_names(_read_labelled(self.labelled), photos, listed)
            for name in sorted(names):
                findings.add(IS_LABELLED, name)
            found = [each for each in found if each.photo.file_name not in names]
        unlabelled = np.zeros((skeleton.num_keypoints, 3), np.float32)  # one for all: photos may be a million
        unlabelled.flags.writeable = False
        persons: list[Person] = []
        for photo, boxes_xywh in found:
            for box_xywh in boxes_xywh:
                person = Person(
                    id=len(persons) + 1,
                    image_id=photo.id,
                    file_name=photo.file_name,
                    source_size_wh=photo.size_wh,
                    box_xywh=box_xywh,
                    keypoints=unlabelled,
                    area=AREA_OF_BOX * box_xywh[2] * box_xywh[3],
                )
                persons.append(person)
        return Annotations(
            skeleton=skeleton,
            photos=photos,
            persons=tuple(persons),
            findings=findings,
            empty_photos=tuple(photo for photo, boxes_xywh in found if not boxes_xywh),
            upright=True,
            category_id=category.get("id", 1),
            category_name=str(category.get("name") or "person"),
        )


def labelled_names(labelled: Annotations, photos: Photos, names: Iterable[str]) -> set[str]:
    """Those names of photos that the labelled set has too, with people in them.

    The photos of another location may have other folders in their names, and both locations may have a
    0001.jpg: those with the same last name are compared by their bytes.
    """
    of_people = {photo_key(person.file_name): person.file_name for person in labelled.persons}
    if photos == labelled.photos:
        return of_people.keys() & set(names)
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(posixpath.basename(name), []).append(name)
    theirs = {name for key, name in of_people.items() if posixpath.basename(key) in by_last}
    known = {_identity(labelled.photos, name) for name in theirs - labelled.photos.absent(theirs)}
    lasts = {posixpath.basename(photo_key(name)) for name in theirs}
    return {name for last in lasts for name in by_last[last] if _identity(photos, name) in known}


def _identity(photos: Photos, name: str) -> tuple[str, bytes]:
    """The last part of a photo's name, and the hash of its bytes."""
    return posixpath.basename(photo_key(name)), hashlib.sha256(photos.read(name)).digest()


def _read_labelled(source: CocoStyleFormat) -> Annotations:
    labelled = source.read()
    labelled.findings.raise_errors()
    return labelled


class _Categories(msgspec.Struct):
    categories: list[dict[str, Any]]


def _find_skeleton(name: str) -> tuple[Skeleton, dict[str, Any]]:
    """The keypoint set, and the category of the file that it comes from."""
    if name in SKELETONS:
        return SKELETONS[name], {}
    path = Path(name)
    expected = f"a COCO-form file with `categories` (nor is it one of {', '.join(SKELETONS)})"
    file = read_json(path, _Categories, expected=expected)
    categories = choose_categories(file.categories, path)
    category = categories.chosen[0]
    if not category.get("keypoints"):
        raise InputError(
            f"{name}: category {category.get('name')!r} names no keypoints: if the recipe of the labelled "
            "set names them, set source.skeleton=SHARDS/ground_truth.json, where SHARDS is the folder of its "
            "shards"
        )
    return from_category(category, where=name), {} if categories.are_several else category
