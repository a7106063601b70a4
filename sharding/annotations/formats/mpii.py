"""MPII Human Pose: the list that the field trains from, or the original MATLAB file; 16 joints."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.mpii_rows import MpiiRow, read_list, read_mat
from semipose.sharding.annotations.limits import LARGEST
from semipose.sharding.annotations.photos import open_photos
from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.annotations.skeleton import MPII_16

SCALE_PX = 200.0
"""Pixels of a scale of 1, by definition of the set."""
LOWER_BY = 15.0
"""The published readers lower the centre by so many pixels, at a scale of 1, so that fewer feet are cut."""

NO_PLACE = Fault("no centre or no scale", "dropped", "", "person")
NO_JOINTS = Fault("no joints", "dropped", "", "person")


@settings
class MpiiFormat:
    """MPII; the extension of `annotations` decides which of its two forms is read."""

    name: Literal["mpii"] = "mpii"
    annotations: Path
    """The list (train.json, valid.json, test.json), or mpii_human_pose_v1_u12_1.mat."""
    images: str | Path
    """The photos, with the names in the annotations: a folder, a zip file or a URL."""
    split: Literal["train", "test"] | None = None
    """Which photos of the .mat to take, by its img_train; those of `test` have no joints. Only for a .mat."""
    head_boxes: Path | None = None
    """For a list that is scored: the MATLAB file with its head boxes (`headboxes_src`), such as gt_valid.mat.
    Only for a list; the .mat has its own."""

    def __post_init__(self) -> None:
        if self._is_mat and self.split is None:
            raise ValueError("a .mat holds all photos: set split to train or test")
        if not self._is_mat and self.split is not None:
            raise ValueError(
                "split chooses among the photos of a .mat, but a list is one split already: leave it out"
            )
        if self._is_mat and self.head_boxes is not None:
            raise ValueError("the .mat has its own head boxes: leave out head_boxes, which is for a list")

    @property
    def _is_mat(self) -> bool:
        return self.annotations.suffix.lower() == ".mat"

    def read(self) -> Annotations:
        """The persons in order, those of one photo together at the place of its first.

        Joints and centre count from 1 in both files and from 0 here. The box is the square of side
        200 * scale about the centre, which is lowered by 15 * scale first; it may reach beyond the photo.
        The area is 0.53 of it (MPII is scored by PCKh, not by OKS). Visibility: the list distinguishes only
        labelled joints (2) from others (0), the .mat also occluded ones (1). Persons without joints (those of
        a test split) have all joints unlabelled; the train split of the .mat leaves them out. ids are
        positions in the file, image ids number the distinct photos, both from 1. Raises InputError for other
        files.
        """
        findings = Findings(self.annotations)
        needs_joints = self._is_mat and self.split == "train"
        persons: list[Person] = []
        empty: list[Photo] = []
        for image_id, file_name, rows in self._photos(findings):
            before = len(persons)
            for row in rows:
                if row.centre_xy is None:
                    findings.add(NO_PLACE, row.number)
                elif row.joints is None and needs_joints:
                    findings.add(NO_JOINTS, row.number)
                else:
                    persons.append(_person(row, image_id, file_name))
            if len(persons) == before:
                empty.append(Photo(id=image_id, file_name=file_name, size_wh=None))
        return Annotations(
            skeleton=MPII_16,
            photos=open_photos(self.images),
            persons=tuple(persons),
            findings=findings,
            empty_photos=tuple(empty),
        )

    def _photos(self, findings: Findings) -> Iterator[tuple[int, str, list[MpiiRow]]]:
        """The photos of the split, in the order of their first row: number, name and people."""
        if self._is_mat:
            photos = read_mat(self.annotations, is_train=self.split == "train", findings=findings)
        else:
            photos = read_list(self.annotations, self.head_boxes, findings)
        people: dict[str, list[MpiiRow]] = {}
        wanted = set()
        for photo in photos:
            people.setdefault(photo.file_name, []).extend(photo.people)
            if photo.is_of_split:
                wanted.add(photo.file_name)
        for image_id, (file_name, rows) in enumerate(people.items(), start=1):
            if file_name in wanted:
                yield image_id, file_name, rows


def _person(row: MpiiRow, image_id: int, file_name: str) -> Person:
    assert row.centre_xy is not None
    side = SCALE_PX * row.scale
    centre_x, centre_y = row.centre_xy[0] - 1, row.centre_xy[1] + LOWER_BY * row.scale - 1
    keypoints = np.zeros((MPII_16.num_keypoints, 3))
    if row.joints is not None:
        keypoints = np.where(row.joints[:, 2:] > 0, row.joints - [1, 1, 0], 0)
    head_xywh = None
    if row.head is not None:
        x1, y1, x2, y2 = row.head
        head_xywh = (x1 - 1, y1 - 1, x2 - x1, y2 - y1)
    return Person(
        id=row.number,
        image_id=image_id,
        file_name=file_name,
        source_size_wh=None,
        box_xywh=(centre_x - side / 2, centre_y - side / 2, side, side),
        keypoints=keypoints.astype(np.float32),
        area=AREA_OF_BOX * side**2 if side < LARGEST else math.inf,
        head_xywh=head_xywh,
    )
