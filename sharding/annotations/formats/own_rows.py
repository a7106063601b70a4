"""Settings about the rows of a file: which joints are labelled, and where boxes come from."""

from typing import Literal

import numpy as np

from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX, clip_box
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.coco import Rule
from semipose.sharding.annotations.formats.coco_rows import AnnotationRow, ImageRow
from semipose.sharding.annotations.formats.own_keypoints import OwnKeypoints
from semipose.sharding.annotations.joint_boxes import MADE_BOX, JointBoxes, joint_box

VISIBILITY_ADDED = Fault("keypoints without the third number, taken as visible", "corrected", "")
AREA_ZERO = Fault(f"area not above 0, taken as {AREA_OF_BOX} of the box", "corrected", "")
SMALL_BOX = Fault(
    "box made from one joint or from joints close together, source.joint_boxes.least_px wide and high",
    "kept",
    "look at the sheet that check=only draws: if the box is too small or too large, use another value",
)


@settings
class OwnRows(OwnKeypoints):
    """What the rows of a file mean, if that differs from COCO."""

    labelled_by: Literal["v", "place"] = "v"
    """How labelled joints are recognised. `v`: by the third number, as in COCO (0 not labelled, 1 hidden, 2
    visible). `place`: all joints are labelled whatever the third number (1 hidden, others visible), except
    those at exactly 0, 0 and those with x and y below 0. This is for files in which v is 0 everywhere, in
    which missing joints have v = 2, or which have no third number."""
    joint_boxes: JointBoxes | None = None
    """How to make boxes from the joints, if boxes are missing or wrong; null: boxes are used as they are."""

    def prepare(self, row: AnnotationRow, image: ImageRow, rule: Rule) -> None:
        """Convert a row to COCO's format by the settings; an area of 0 is taken from the box."""
        findings = rule.findings
        if self.labelled_by == "place" and row.keypoints and len(row.keypoints) == 2 * rule.num_keypoints:
            points = np.array(row.keypoints).reshape(-1, 2)
            row.keypoints = np.column_stack([points, np.full(len(points), 2)]).ravel().tolist()
            findings.add(VISIBILITY_ADDED, row.id)
        if row.keypoints and len(row.keypoints) % 3 == 0:
            keypoints = np.array(row.keypoints).reshape(-1, 3)
            if self.labelled_by == "place":
                keypoints = _labelled_by_place(keypoints)
                row.keypoints = keypoints.ravel().tolist()
            if self.joint_boxes is not None and (self.joint_boxes.use == "always" or not _has_box(row)):
                _make_box(self.joint_boxes, row, image, keypoints, findings)
        if row.bbox is not None and len(row.bbox) == 4 and not _has_box(row):
            row.bbox[2:], row.area = [0.0, 0.0], None  # empty in all, which the published rule drops
        elif row.area is not None and row.area <= 0 and _has_box(row):
            assert row.bbox is not None
            row.area = AREA_OF_BOX * row.bbox[2] * row.bbox[3]
            findings.add(AREA_ZERO, row.id)


def _labelled_by_place(keypoints: np.ndarray) -> np.ndarray:
    """The keypoints (K, 3); v is 0, with x and y, if a joint is missing; otherwise 1 if it was 1, else 2."""
    is_missing = (keypoints[:, :2] == 0).all(axis=1) | (keypoints[:, :2] < 0).all(axis=1)
    v = np.where(keypoints[:, 2] == 1, 1, 2)
    return np.where(is_missing[:, None], 0, np.column_stack([keypoints[:, :2], v]))


def _has_box(row: AnnotationRow) -> bool:
    return row.bbox is not None and len(row.bbox) == 4 and min(row.bbox[2:]) > 0


def _make_box(
    cfg: JointBoxes, row: AnnotationRow, image: ImageRow, keypoints: np.ndarray, findings: Findings
) -> None:
    """Give the row a box about its labelled joints; if none is labelled, about all that have a position."""
    points_xy = keypoints[keypoints[:, 2] > 0, :2]
    if not len(points_xy):
        points_xy = keypoints[(keypoints[:, :2] != 0).any(axis=1), :2]
    if not len(points_xy):
        return
    made = joint_box(points_xy, cfg.margin, cfg.least_px)
    x, y, width, height = clip_box(made, (image.width, image.height)) or made
    row.bbox = [x, y, width + 1, height + 1]  # the published rule takes a pixel away
    findings.add(MADE_BOX, row.id)
    if max(made[2:]) <= cfg.least_px:
        findings.add(SMALL_BOX, row.id)
