"""A sheet of random people with their keypoints and names, which makes swapped or shifted joints visible."""

import io
import math
import random
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from semipose.sharding.annotations.checks import joint_sides
from semipose.sharding.annotations.flip_pairs import Side
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.check.draw_pose import COLOURS, INK, PAPER, SHIFT, draw_pose, fixed_point
from semipose.sharding.check.fonts import legible
from semipose.sharding.samples.decode import decode_photo
from semipose.sharding.store.files import write_atomic

COLUMNS = ROWS = 4
TILE_WH = (420, 480)
CAPTION_HEIGHT, TITLE_HEIGHT, MARGIN = 20, 26, 3
PADDING = 0.12
"""The margin around box and joints, as a share of the longer side of the person."""
MOST_OF_BOX = 4.0
"""The largest region of a tile, in multiples of the box, if joints are far away from it."""
NAME_SIZE_PX, TITLE_SIZE_PX = 13, 15
_RADIUS = 4.0
_NAME_PLACES = [
    (distance, turn * math.pi / 8)
    for distance in (8, 16, 26, 38, 52, 68)
    for turn in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8)
]
"""Positions of a name: px from its joint, and the angle to the direction out of the body; the best first."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in tile px."""


class View(NamedTuple):
    """The region that a tile shows: tile_xy = (source_xy - origin_xy) * scale."""

    origin_xy: np.ndarray
    scale: float

    def place(self, source_xy: np.ndarray) -> np.ndarray:
        """Source pixels (..., 2) to tile pixels, both with pixel centres at integers."""
        return (np.asarray(source_xy, np.float64) - self.origin_xy) * self.scale


def draw_sheet(path: Path, annotations: Annotations, *, unusable: set[str], seed: int) -> bool:
    """Write 16 random people, each in a tile, as a JPEG; returns False if there is nobody to draw.

    Left joints are orange, right ones blue, the others green, as their names say; occluded ones are hollow.
    unusable: photos that cannot be drawn. The same seed draws the same people.
    """
    people = [
        person
        for person in annotations.persons
        if person.file_name not in unusable and np.isfinite([*person.keypoints.flat, *person.box_xywh]).all()
    ]
    if not people:
        return False
    chosen = random.Random(seed).sample(range(len(people)), min(len(people), COLUMNS * ROWS))
    tiles = [draw_person(people[index], annotations) for index in sorted(chosen)]
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = TILE_WH[0] + MARGIN, TILE_WH[1] + CAPTION_HEIGHT + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, TITLE_HEIGHT + rows * height + MARGIN), PAPER)
    _write_title(sheet, f"{annotations.findings.file}: {len(tiles)} of {len(annotations.persons):,} people")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (MARGIN + column * width, TITLE_HEIGHT + MARGIN + row * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=92, subsampling=0)  # colours of thin lines survive
    write_atomic(path, buffer.getvalue())
    return True


def draw_person(person: Person, annotations: Annotations) -> Image.Image:
    """One tile with its caption."""
    skeleton = annotations.skeleton
    pixels = _pixels(person, annotations)
    view = frame(person)
    canvas = np.array(_cut(pixels, view))
    points_xy = view.place(person.keypoints[:, :2])
    _draw_box(canvas, view, person)
    v = person.keypoints[:, 2]
    shown_xy = np.where(v[:, None] > 0, points_xy, np.nan)
    draw_pose(canvas, shown_xy, skeleton, has_bones=v > 0, is_filled=v == 2, radius=_RADIUS)
    tile = Image.new("RGB", (TILE_WH[0], TILE_WH[1] + CAPTION_HEIGHT), PAPER)
    tile.paste(Image.fromarray(canvas))
    draw = ImageDraw.Draw(tile)
    _write_names(draw, points_xy, person.keypoints[:, 2], skeleton)
    _write_caption(draw, person)
    return tile


def frame(person: Person) -> View:
    """The view of the padded box and the labelled joints, even if these are far away (up to a limit)."""
    x, y, width, height = person.box_xywh
    low, high = np.array([x, y]), np.array([x + width, y + height])
    reach = (MOST_OF_BOX - 1) / 2 * max(width, height)
    labelled_xy = person.keypoints[person.keypoints[:, 2] > 0, :2]
    for point_xy in np.clip(labelled_xy, low - reach, high + reach):
        low, high = np.minimum(low, point_xy), np.maximum(high, point_xy)
    size = (high - low) + 2 * PADDING * max(*(high - low), 4.0)
    scale = float(min(np.array(TILE_WH) / size))
    centre_xy = (low + high) / 2
    return View(centre_xy - (np.array(TILE_WH) - 1) / 2 / scale, scale)


def short_name(name: str, side: Side | None) -> str:
    """`L shoulder` for `left_shoulder`; the colour says the same."""
    words = re.split(r"[_\-. ]+", name)
    others = [word for word in words if side is None or word.lower() not in (side, side[0])]
    is_shorter = side is not None and 0 < len(others) < len(words)
    return " ".join([side[0].upper(), *others] if side is not None and is_shorter else words)


def _pixels(person: Person, annotations: Annotations) -> np.ndarray:
    payload = annotations.photos.read(person.file_name)
    where = annotations.photos.where(person.file_name)
    size_wh, upright = person.source_size_wh, annotations.upright
    return decode_photo(payload, size_wh=size_wh, where=where, upright=upright).pixels


def _cut(pixels: np.ndarray, view: View) -> np.ndarray:
    """The part of the photo that the view shows, with a plain background around it."""
    size_wh = np.array([pixels.shape[1], pixels.shape[0]])
    small_wh = np.maximum(1, np.rint(size_wh * min(1.0, view.scale))).astype(int)
    small = cv2.resize(pixels, small_wh.tolist(), interpolation=cv2.INTER_AREA)  # a warp would skip pixels
    source_from_small = size_wh / small_wh
    shift = (0.5 * source_from_small - 0.5 - view.origin_xy) * view.scale
    matrix = np.column_stack([np.diag(source_from_small * view.scale), shift])
    flags = cv2.INTER_CUBIC if view.scale > 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(small, matrix, TILE_WH, flags=flags, borderValue=PAPER)


def _draw_box(canvas: np.ndarray, view: View, person: Person) -> None:
    x, y, width, height = person.box_xywh
    corners = view.place(np.array([[x, y], [x + width, y + height]]))
    cv2.rectangle(canvas, fixed_point(corners[0]), fixed_point(corners[1]), INK, 1, cv2.LINE_AA, SHIFT)


def _write_names(draw: ImageDraw.ImageDraw, points_xy: np.ndarray, v: np.ndarray, skeleton: Skeleton) -> None:
    """Draw each name near its joint, clear of other names and joints; without a free position, leave it out.

    A name that no font of this machine can write has its number in the list of keypoints before it.
    """
    sides = joint_sides(skeleton)
    joints = np.flatnonzero(v > 0)
    taken = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in points_xy[joints].tolist()]
    if not len(joints):
        return
    centre_xy = points_xy[joints].mean(axis=0)
    for joint in joints:
        short = short_name(skeleton.names[joint], sides[joint])
        name, font = legible(short, NAME_SIZE_PX)
        if name.isascii() and not short.isascii():
            name = f"#{joint + 1} {name}"
        name = name.replace(" ", "  ")  # the spaces of these fonts are narrow
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font, stroke_width=2)
        size = (right - left, bottom - top)
        box = _free_place(points_xy[joint], points_xy[joint] - centre_xy, size, taken)
        if box is None:
            continue
        taken.append(box)
        colour = COLOURS[sides[joint]]
        _lead(draw, points_xy[joint], box, colour)
        draw.text((box[0] - left, box[1] - top), name, colour, font, stroke_width=2, stroke_fill=(0, 0, 0))


def _free_place(
    point_xy: np.ndarray, outward_xy: np.ndarray, size: tuple[float, float], taken: list[Box]
) -> Box | None:
    """The best position for a text of that size that is inside the tile and overlaps nothing."""
    way_out = math.atan2(outward_xy[1], outward_xy[0])
    for distance, angle in _NAME_PLACES:
        way = np.array([math.cos(way_out + angle), math.sin(way_out + angle)])
        centre = point_xy + way * distance + way * np.array(size) / 2
        left, top = np.rint(centre - np.array(size) / 2).tolist()
        box = (left, top, left + size[0], top + size[1])
        is_inside = left >= 0 and top >= 0 and box[2] <= TILE_WH[0] and box[3] <= TILE_WH[1]
        if is_inside and not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _lead(draw: ImageDraw.ImageDraw, point_xy: np.ndarray, box: Box, colour: tuple[int, int, int]) -> None:
    """Draw a thin line from a joint to a name that is away from it."""
    x, y = point_xy.tolist()
    nearest = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
    if math.dist(nearest, (x, y)) > 2.5 * _RADIUS:
        draw.line([(x, y), nearest], colour, 1)


def _write_caption(draw: ImageDraw.ImageDraw, person: Person) -> None:
    text, font = legible(f"{person.id}  {person.file_name}", NAME_SIZE_PX)
    while draw.textlength(text, font) > TILE_WH[0] - 8:
        text = text[:-2] + "…"
    draw.text((4, TILE_WH[1] + 2), text, INK, font)


def _write_title(sheet: Image.Image, title: str) -> None:
    draw = ImageDraw.Draw(sheet)
    legend = [("left", COLOURS["left"]), ("right", COLOURS["right"]), ("middle", COLOURS[None])]
    x = 8.0
    for word, colour in (*legend, ("hollow: occluded", INK), (title, INK)):
        text, font = legible(word, TITLE_SIZE_PX)
        draw.text((x, 5), text, colour, font)
        x += draw.textlength(text, font) + 16
