"""Leeds Sports Pose Extended: `joints.mat` and numbered photos, 14 joints, one person per photo."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.matlab import load_mat
from semipose.sharding.annotations.joint_boxes import MARGIN, joint_box
from semipose.sharding.annotations.photos import open_photos
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.skeleton import LSP_14

MIN_VISIBLE = 2
"""A box is made from at least so many joints."""
TOO_FEW_JOINTS = Fault(f"fewer than {MIN_VISIBLE} visible joints", "dropped", "", "photo")


@settings
class LspFormat:
    """LSPET: joints (14, 3, n) of x, y, visible; a split is a range of photo numbers."""

    name: Literal["lsp"] = "lsp"
    joints: Path
    """The file joints.mat."""
    images: str | Path
    """The photos im00001.jpg, im00002.jpg, ...: a folder, a zip file or a URL."""
    first: int = Field(default=1, ge=1)
    """Number of the first photo of the split, counted from 1."""
    last: int | None = None
    """Number of the last photo of the split; null: the last of joints.mat."""
    box_margin: float = Field(default=MARGIN, ge=0)
    """The box is the extent of the visible joints, extended on each side by this share of its longer side."""

    def __post_init__(self) -> None:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last ({self.last}) is before first ({self.first})")

    def read(self) -> Annotations:
        """The persons of photos `first` to `last`, in order.

        Joints with visible = 0 have no meaningful position and become unlabelled (v = 0), the others v = 2.
        The set has neither boxes nor areas: the box is made from the joints (and may reach beyond the photo),
        and the area for OKS is 0.53 of it, COCO's average. Raises InputError for another kind of file and a
        range beyond its end.
        """
        joints = _read_joints(self.joints)
        last = len(joints) if self.last is None else self.last
        if last > len(joints):
            raise InputError(
                f"{self.joints}: photo {last} was asked for, but the file has {len(joints)}: lower last"
            )
        persons: list[Person] = []
        findings = Findings(self.joints)
        for number in range(self.first, last + 1):
            if (joints[number - 1, :, 2] > 0).sum() >= MIN_VISIBLE:
                persons.append(self._person(number, joints[number - 1]))
            else:
                findings.add(TOO_FEW_JOINTS, number)
        return Annotations(
            skeleton=LSP_14, photos=open_photos(self.images), persons=tuple(persons), findings=findings
        )

    def _person(self, number: int, joints: np.ndarray) -> Person:
        """The person of joints (14, 3) on photo `number`."""
        visible = joints[:, 2:] > 0
        box_xywh = joint_box(joints[visible[:, 0], :2], self.box_margin)
        return Person(
            id=number,
            image_id=number,
            file_name=f"im{number:05d}.jpg",
            source_size_wh=None,
            box_xywh=box_xywh,
            keypoints=np.where(visible, joints * [1, 1, 0] + [0, 0, 2], 0).astype(np.float32),
            area=AREA_OF_BOX * box_xywh[2] * box_xywh[3],
        )


def _read_joints(path: Path) -> np.ndarray:
    """Joints (n, 14, 3) float64 of x, y, visible."""
    joints: np.ndarray = load_mat(path, "joints", "joints.mat of LSPET")
    if joints.ndim != 3 or joints.shape[:2] != (LSP_14.num_keypoints, 3):
        raise InputError(
            f"{path}: joints have the shape {joints.shape}, but those of LSPET have (14, 3, n): use its file"
        )
    return joints.transpose(2, 0, 1)
