"""Predicted people drawn into their photo: poses, numbers, scores, and a line with the legend."""

import io
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

from semipose.sharding.annotations.checks import joint_sides
from semipose.sharding.check.draw_pose import (
    COLOURS,
    INK,
    PAPER,
    SHIFT,
    Colour,
    colours_of_person,
    draw_pose,
    fixed_point,
    write_caption,
)
from semipose.sharding.check.fonts import legible
from semipose.sharding.samples.crop import scale_down

if TYPE_CHECKING:
    from semipose.predict.people import People

LONGEST_PX, SHORTEST_PX = 1280, 480
"""Pictures are scaled down to the first, and small photos enlarged until their longer side has the second."""
BAR_PX, TEXT_PX = 24, 14
JPEG_QUALITY = 90
SIDES_UP_TO = 1
"""So many people have the colours of their sides; if there are more, each person has a colour."""


def shrunk(photo: np.ndarray) -> np.ndarray:
    """A photo (H, W, 3) uint8 as it is drawn on: its longer side has LONGEST_PX pixels at most."""
    height, width = photo.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    small = scale_down(photo, (max(1, round(width * scale)), max(1, round(height * scale))))
    return small.copy() if small is photo or small.base is not None else small


def draw_people(photo: np.ndarray, people: "People", *, bar: bool = True) -> np.ndarray:
    """The picture (h, w, 3) uint8 RGB of a photo (H, W, 3) uint8, which may be scaled down, and its people.

    One person has orange left, blue right and green middle joints; several people have a colour each. A joint
    whose peak is below `min_peak` is a hollow ring without bones. The number above a head is the track in a
    film and otherwise the position in `people`, from 1; the second one is the score.
    bar: whether a line below the picture says what it shows.
    """
    canvas = _canvas(photo)
    scale = np.array([canvas.shape[1], canvas.shape[0]]) / np.maximum(people.size_wh, 1)
    points = (people.xy + 0.5) * scale - 0.5  # pixel centres are at integers in both
    corners = people.boxes[:, None, :2] + np.stack([0 * people.boxes[:, 2:], people.boxes[:, 2:]], axis=1)
    corners = (corners + 0.5) * scale - 0.5
    are_several = len(people) > SIDES_UP_TO
    sizes = np.linalg.norm(people.boxes[:, 2:] * scale, axis=1)
    for i in reversed(range(len(people))):
        colour, rim = colours_of_person(_number(people, i) - 1) if are_several else (None, (0, 0, 0))
        ends = [fixed_point(corner) for corner in corners[i]]
        cv2.rectangle(canvas, ends[0], ends[1], colour or INK, 1, cv2.LINE_AA, SHIFT)
        radius = float(np.clip(sizes[i] / 60, 1.5, 5)) if people.skeleton.num_keypoints < 60 else 1.5
        found = people.is_found[i]
        draw_pose(
            canvas,
            points[i],
            people.skeleton,
            has_bones=found,
            is_filled=found,
            radius=radius,
            colour=colour,
            rim=rim,
        )
    taken: list[tuple[int, int, int]] = []
    for i in range(len(people)):
        colour = colours_of_person(_number(people, i) - 1)[0] if are_several else INK
        head = points[i, points[i, :, 1].argmin()]
        write_caption(canvas, head, f"{_number(people, i)}: {people.scores[i]:.2f}", colour, taken)
    return _with_bar(canvas, people, are_several) if bar else canvas


def _number(people: "People", index: int) -> int:
    return index + 1 if people.track_ids is None else int(people.track_ids[index])


def _canvas(photo: np.ndarray) -> np.ndarray:
    small = shrunk(photo)
    factor = SHORTEST_PX / max(small.shape[:2])
    if factor <= 1:
        return np.ascontiguousarray(small)
    return cv2.resize(small, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def _with_bar(canvas: np.ndarray, people: "People", are_several: bool) -> np.ndarray:
    """The picture with a line below it: the file, the number of people, and the legend."""
    bar = np.full((BAR_PX, canvas.shape[1], 3), PAPER, np.uint8)
    count = f"{len(people)} {'person' if len(people) == 1 else 'people'}"
    words: list[tuple[str, Colour]] = [(f"{people.file_name}   {count}", INK)]
    if not are_several and len(people):
        sides = set(joint_sides(people.skeleton))
        words += [(side or "middle", COLOURS[side]) for side in ("left", "right", None) if side in sides]
    if len(people) and not people.is_found.all():
        words.append((f"hollow: peak below {people.min_peak:g}", INK))
    x = 6
    for text, colour in words:
        word = _painted(text, colour)[:, : max(0, bar.shape[1] - x)]
        bar[:, x : x + word.shape[1]] = word
        x += word.shape[1] + 18
    return np.concatenate([canvas, bar])


@lru_cache(maxsize=64)
def _painted(text: str, colour: Colour) -> np.ndarray:
    """A text of the bar (BAR_PX, w, 3) uint8: those of the legend are the same below every picture."""
    shown, font = legible(text, TEXT_PX)
    word = Image.new("RGB", (ceil(font.getlength(shown)) + 1, BAR_PX), PAPER)
    ImageDraw.Draw(word).text((0, 4), shown, colour, font)
    return np.asarray(word)


def encode_picture(picture: np.ndarray, path: Path) -> bytes:
    """The file of a picture, in the format that the suffix of its path names; WebP for other suffixes.

    JPEG takes an eighth of the time of WebP. Its colours keep their full resolution: thin lines would fade.
    """
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg"):
        encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), JPEG_QUALITY, "RGB", "444")
        return encoded
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(picture).save(buffer, "PNG")
    else:
        Image.fromarray(picture).save(buffer, "WEBP", quality=85, method=0)
    return buffer.getvalue()
