"""Boxes made of joints, for sets and people without annotated ones."""

from typing import Literal

import numpy as np
from pydantic import Field

from semipose.configs.settings import settings
from semipose.sharding.annotations.findings import Fault

MARGIN = 0.1
"""Share of the longer side of the joints' extent that a box reaches beyond them on each side."""

MADE_BOX = Fault("box made from the joints", "corrected", "")


@settings
class JointBoxes:
    """Boxes that are made from the labelled joints of each person."""

    use: Literal["missing", "always"]
    """`missing`: for people without a box, or with one that has no width or height. `always`: for all people,
    whatever boxes the file has."""
    margin: float = Field(default=MARGIN, ge=0)
    """The box is the extent of the joints, extended on each side by this share of its longer side."""
    least_px: float = Field(default=32.0, ge=2)
    """Smallest width and height of such a box, in pixels of the photo. A person with one labelled joint gets
    a box of this size: use about the size of what the joint belongs to."""


def joint_box(
    points_xy: np.ndarray, margin: float, least_px: float = 1.0
) -> tuple[float, float, float, float]:
    """Box x, y, w, h about points (n, 2), n >= 1, grown on each side by half a pixel or more.

    It is at least `least_px` wide and high, and may reach beyond the photo.
    """
    low, high = points_xy.min(axis=0), points_xy.max(axis=0)
    grow = max(margin * (high - low).max(), 0.5)
    grow = np.maximum(grow, (least_px - (high - low)) / 2)
    x, y = (low - grow).tolist()
    width, height = (high - low + 2 * grow).tolist()
    return x, y, width, height
