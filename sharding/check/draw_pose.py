"""The one way to draw a pose: for the sheet of a data set and for the pictures of a run."""

import cv2
import numpy as np

from sharding.annotations.checks import joint_sides
from sharding.annotations.flip_pairs import Side
from sharding.annotations.skeleton import Skeleton

PAPER, INK = (28, 28, 28), (235, 235, 235)
COLOURS: dict[Side | None, tuple[int, int, int]] = {
    "left": (255, 150, 40),
    "right": (90, 175, 255),
    None: (110, 230, 110),
}
"""RGB of the joints of each side, as the skeleton's flip pairs and names have it; a bone between two sides
has that of the middle. Orange and blue differ for colour-blind readers too."""
SHIFT = 4
"""cv2 takes coordinates in 1/16 of a pixel."""


def draw_pose(
    canvas: np.ndarray,
    points_xy: np.ndarray,
    skeleton: Skeleton,
    *,
    has_bones: np.ndarray,
    is_filled: np.ndarray,
    radius: float = 4.0,
) -> None:
    """Draw one person into `canvas`, bones first and joints above them, each with a dark rim.

    Args:
        canvas: (H, W, 3) uint8 RGB, contiguous; drawn into.
        points_xy: (K, 2) canvas pixels, a pixel's centre at its integer; joints that are NaN are not drawn.
        skeleton: names, bones and flip pairs.
        has_bones: (K,) bool, the joints whose bones are drawn.
        is_filled: (K,) bool, whether a joint is a disc; otherwise it is a ring.
        radius: of a joint, in canvas pixels.
    """
    colours = [COLOURS[side] for side in joint_sides(skeleton)]
    is_drawn = np.isfinite(points_xy).all(axis=-1)
    bones = [(a, b) for a, b in skeleton.bones if (is_drawn & has_bones)[[a, b]].all()]
    for thickness in (4, 2):
        for a, b in bones:
            colour = colours[a] if colours[a] == colours[b] else COLOURS[None]
            colour = (0, 0, 0) if thickness == 4 else colour
            ends = fixed_point(points_xy[a]), fixed_point(points_xy[b])
            cv2.line(canvas, *ends, colour, thickness, cv2.LINE_AA, SHIFT)
    for joint in np.flatnonzero(is_drawn):
        centre, size = fixed_point(points_xy[joint]), round(radius * 2**SHIFT)
        cv2.circle(canvas, centre, size, (0, 0, 0), 2, cv2.LINE_AA, SHIFT)
        thickness = -1 if is_filled[joint] else 1  # what a ring surrounds stays in sight
        cv2.circle(canvas, centre, size, colours[joint], thickness, cv2.LINE_AA, SHIFT)


def fixed_point(point_xy: np.ndarray) -> tuple[int, int]:
    """A point (2,) in the fixed-point pixels of cv2, clamped to what it can hold."""
    x, y = np.clip(point_xy, -4000, 4000) * 2**SHIFT
    return round(float(x)), round(float(y))
