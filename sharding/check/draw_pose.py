"""The one way to draw a pose: for the sheet of a data set and for the pictures of a run."""

import cv2
import numpy as np

from semipose.sharding.annotations.checks import joint_sides
from semipose.sharding.annotations.flip_pairs import Side
from semipose.sharding.annotations.skeleton import Skeleton

PAPER, INK = (28, 28, 28), (235, 235, 235)
Colour = tuple[int, int, int]
COLOURS: dict[Side | None, Colour] = {
    "left": (255, 150, 40),
    "right": (90, 175, 255),
    None: (110, 230, 110),
}
"""RGB of the joints of each side, as the skeleton's flip pairs and names have it; a bone between two sides
has that of the middle. Orange and blue differ for colour-blind readers too."""
PEOPLE_COLOURS: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167)),
    *((0, 158, 115), (213, 94, 0), (0, 114, 178), (255, 255, 255)),
)
"""RGB of the people of one photo: the colours of Okabe and Ito, which colour-blind readers can tell apart,
with white for their black."""
LUMINANCE = (0.299, 0.587, 0.114)
SHIFT = 4
"""cv2 takes coordinates in 1/16 of a pixel."""


def colours_of_person(number: int) -> tuple[Colour, Colour]:
    """The colour of one of several people and that of its rim, which is white for the second eight of 16."""
    black, white = (0, 0, 0), (255, 255, 255)
    again, index = divmod(number, len(PEOPLE_COLOURS))
    colour, rim = PEOPLE_COLOURS[index], (black, white)[again % 2]
    return (black if colour == rim else colour), rim


def draw_pose(
    canvas: np.ndarray,
    points_xy: np.ndarray,
    skeleton: Skeleton,
    *,
    has_bones: np.ndarray,
    is_filled: np.ndarray,
    radius: float = 4.0,
    colour: Colour | None = None,
    rim: Colour = (0, 0, 0),
) -> None:
    """Draw one person into `canvas`, bones first and joints above them, each with a rim.

    Args:
        canvas: (H, W, 3) uint8 RGB, contiguous; drawn into.
        points_xy: (K, 2) canvas pixels, a pixel's centre at its integer; joints that are NaN are not drawn.
        skeleton: names, bones and flip pairs.
        has_bones: (K,) bool, the joints whose bones are drawn.
        is_filled: (K,) bool, whether a joint is a disc; otherwise it is a ring.
        radius: of a joint, in canvas pixels.
        colour: RGB of the whole person; without it joints have the colours of their sides.
        rim: RGB around bones and joints.
    """
    colours = [colour or COLOURS[side] for side in joint_sides(skeleton)]
    is_drawn = np.isfinite(points_xy).all(axis=-1)
    joints = np.flatnonzero(is_drawn).tolist()
    centres = {joint: fixed_point(points_xy[joint]) for joint in joints}
    has_bone = (is_drawn & has_bones).tolist()
    bones = [(a, b) for a, b in skeleton.bones if has_bone[a] and has_bone[b]]
    for thickness in (4, 2):
        for a, b in bones:
            bone = colours[a] if colours[a] == colours[b] else COLOURS[None]
            bone = rim if thickness == 4 else bone
            cv2.line(canvas, centres[a], centres[b], bone, thickness, cv2.LINE_AA, SHIFT)
    size = round(radius * 2**SHIFT)
    for joint in joints:
        cv2.circle(canvas, centres[joint], size, rim, 2, cv2.LINE_AA, SHIFT)
        thickness = -1 if is_filled[joint] else 1  # what a ring surrounds stays in sight
        cv2.circle(canvas, centres[joint], size, colours[joint], thickness, cv2.LINE_AA, SHIFT)


def write_caption(
    canvas: np.ndarray,
    point_xy: np.ndarray,
    text: str,
    colour: Colour,
    taken: list[tuple[int, int, int]],
) -> None:
    """Write a text above a point, inside the canvas; further down if other texts are there already.

    taken: left, right and foot of the texts that are there; this one is added.
    """
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    limits = np.maximum((canvas.shape[1] - width - 3, canvas.shape[0] - 4), (3, height + 3))
    x, y = np.clip(point_xy - (width / 2, 8), (3, height + 3), limits).astype(int).tolist()
    while any(x < right and left < x + width and abs(y - row) < height + 6 for left, right, row in taken):
        y += 2
    taken.append((x - 6, x + width + 6, y))
    cv2.rectangle(canvas, (x - 3, y - height - 3), (x + width + 3, y + 3), colour, cv2.FILLED)
    ink = PAPER if np.dot(colour, LUMINANCE) > 110 else INK
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, ink, 1, cv2.LINE_AA)


def fixed_point(point_xy: np.ndarray) -> tuple[int, int]:
    """A point (2,) in the fixed-point pixels of cv2, clamped to what it can hold."""
    x, y = (min(max(float(value), -4000.0), 4000.0) for value in point_xy)
    return round(x * 2**SHIFT), round(y * 2**SHIFT)
