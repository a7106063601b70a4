"""One picture: a background, people near each other, things in front of them, and the truth about them."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from semipose.configs.load import InputError
from semipose.sharding.annotations.drawing.body import Body, Vector, draw_body
from semipose.sharding.annotations.drawing.paint import (
    MOST_PEOPLE,
    OCCLUDER,
    PART_NAMES,
    PARTS_PER_PERSON,
    Labels,
    Picture,
    draw_wardrobe,
    paint_body,
)
from semipose.sharding.annotations.skeleton import LSP_14

KEYPOINTS = LSP_14.names

OWN_PARTS: dict[str, tuple[str, ...]] = {
    "ankle": ("shin", "foot"),
    "knee": ("thigh", "shin"),
    "hip": ("thigh",),
    "wrist": ("forearm", "hand"),
    "elbow": ("upper_arm", "forearm"),
    "shoulder": ("upper_arm",),
}
"""Parts of a joint's own limb, which show the joint and do not hide it."""

LEAST_SHOWN = 0.5
"""If less than this share of a person is visible, the scene is drawn again."""
MOST_TRIES = 1000
"""After so many tries, people do not fit; four take 20 tries on average at 72x96 px, 2 at 192x160."""


@dataclass(frozen=True)
class DrawnPerson:
    """The annotation of one person, as in COCO."""

    keypoints: NDArray[np.float64]
    """(14, 3): x, y in pixels and 1 hidden or 2 visible."""
    box_xywh: tuple[int, int, int, int]
    """The box of the visible silhouette, in pixels."""
    area: int
    """The area of the visible silhouette, in pixels."""


@dataclass(frozen=True)
class Scene:
    """A picture and its people."""

    picture: Picture
    people: tuple[DrawnPerson, ...]


def draw_scene(
    rng: np.random.Generator, *, size_wh: tuple[int, int], num_people: int, occluded: bool
) -> Scene:
    """Draw `num_people` (1 to 4) people; each is inside the picture and at least half visible.

    Raises InputError if they do not fit, as in a tall and narrow picture.
    """
    for _ in range(MOST_TRIES):
        bodies = _place(rng, size_wh, num_people)
        if bodies is None:
            continue
        picture = _background(rng, size_wh)
        labels = np.zeros(picture.shape[:2], dtype=np.uint8)
        whole = []
        for person, (body, stature_px) in enumerate(bodies):
            paint_body(picture, labels, body, draw_wardrobe(rng, stature_px), person, rng)
            whole.append(int(((labels - 1) // PARTS_PER_PERSON == person).sum()))
        if occluded:
            _occlude(rng, picture, labels, bodies)
        people = tuple(_truth(labels, body, person) for person, (body, _) in enumerate(bodies))
        if all(seen.area >= LEAST_SHOWN * full for seen, full in zip(people, whole, strict=True)):
            return Scene(_photograph(rng, picture), people)
    raise InputError(
        f"source.size_wh: a picture of {size_wh[0]}x{size_wh[1]} px had no room for {num_people} people in "
        f"{MOST_TRIES} tries: make it wider, or set source.crowded to 0"
    )


def _place(
    rng: np.random.Generator, size_wh: tuple[int, int], num_people: int
) -> list[tuple[Body, float]] | None:
    """Bodies in pixels from the farthest to the nearest, or None if they do not fit."""
    if not 1 <= num_people <= MOST_PEOPLE:
        raise ValueError(f"a scene holds 1 to {MOST_PEOPLE} people, not {num_people}")
    width, height = size_wh
    stature_px = height * rng.uniform(0.55, 0.95) * (1.0 if num_people == 1 else 0.85)
    middle = rng.uniform(0.3, 0.7) * width
    placed = []
    for person in range(num_people):
        own_px = stature_px * rng.uniform(0.88, 1.12)
        gap = rng.uniform(0.25, 0.5) * stature_px
        side = (person + 1) // 2 * (1 if person % 2 else -1)
        root_xy = np.array([middle + side * gap, height * rng.uniform(0.45, 0.6)])
        placed.append(_fitted(draw_body(rng), own_px, root_xy, size_wh))
    if any(body is None for body, _ in placed):
        return None
    return [(body, px) for body, px in placed if body is not None]


def _fitted(
    body: Body, stature_px: float, root_xy: Vector, size_wh: tuple[int, int]
) -> tuple[Body | None, float]:
    """The body in pixels, pushed inside the picture; None if it is larger than the picture."""
    points = np.concatenate([part.centres_xy for part in body.parts]) * stature_px + root_xy
    edge = 0.1 * stature_px
    low, high = points.min(axis=0) - edge, points.max(axis=0) + edge
    size = np.array(size_wh, dtype=np.float64)
    if np.any(high - low > size - 1):
        return None, stature_px
    root_xy = root_xy + np.maximum(-low, 0) - np.maximum(high - (size - 1), 0)
    return body.to_pixels(stature_px, root_xy), stature_px


def _background(rng: np.random.Generator, size_wh: tuple[int, int]) -> Picture:
    """Smooth and fine texture of random colours, with boards, beams and blobs."""
    width, height = size_wh
    texture: Picture = np.tile(rng.uniform(30, 225, 3), (3, 4, 1))
    for cells, spread in ((4, 40.0), (16, 22.0), (48, 14.0)):
        texture = cv2.resize(texture, (cells, cells * height // width + 1), interpolation=cv2.INTER_CUBIC)
        grey, colour = rng.normal(0, 1, (*texture.shape[:2], 1)), rng.normal(0, 0.5, texture.shape)
        texture = texture + spread * rng.uniform(0.2, 1.2) * (grey + colour)
    smooth = np.clip(texture, 0, 255).astype(np.uint8)
    picture8 = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(1, 6)):
        _clutter(rng, picture8)
    return picture8


def _clutter(rng: np.random.Generator, picture: Picture) -> None:
    """One board, beam or blob behind the people."""
    height, width = picture.shape[:2]
    colour = rng.uniform(0, 255, 3).tolist()
    first, second = (rng.uniform(-0.1, 1.1, 2) * (width, height) for _ in range(2))
    kind = rng.random()
    if kind < 0.4:
        cv2.rectangle(picture, first.astype(int).tolist(), second.astype(int).tolist(), colour, -1)
    elif kind < 0.8:
        thick = int(rng.integers(1, 14))
        cv2.line(picture, first.astype(int).tolist(), second.astype(int).tolist(), colour, thick, cv2.LINE_AA)
    else:
        axes = (rng.uniform(0.02, 0.2, 2) * width).astype(int).tolist()
        cv2.ellipse(
            picture, first.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA
        )


def _occlude(
    rng: np.random.Generator, picture: Picture, labels: Labels, bodies: list[tuple[Body, float]]
) -> None:
    """One or two bars, boards or discs in front of a person."""
    for _ in range(rng.integers(1, 3)):
        body, stature_px = bodies[rng.integers(len(bodies))]
        centre = body.joints[KEYPOINTS[rng.integers(len(KEYPOINTS))]][:2] + rng.normal(
            0, 0.06 * stature_px, 2
        )
        cover = np.zeros(labels.shape, dtype=np.uint8)
        if rng.random() < 0.35:
            reach = np.array([rng.normal(0, 0.3), 1.0]) * 2 * stature_px
            ends = ((centre - reach).astype(int).tolist(), (centre + reach).astype(int).tolist())
            cv2.line(cover, *ends, 1, int(stature_px * rng.uniform(0.04, 0.1)) + 1)
        else:
            size = (stature_px * rng.uniform(0.12, 0.32, 2)).tolist()
            corners = cv2.boxPoints((centre.tolist(), size, rng.uniform(0, 90)))
            cv2.fillConvexPoly(cover, np.rint(corners).astype(np.int32), 1)
        x, y, w, h = cv2.boundingRect(cover)
        here, inside = (slice(y, y + h), slice(x, x + w)), cover[y : y + h, x : x + w] == 1
        plain = np.tile(rng.uniform(20, 235, 3).astype(np.uint8), (h, w, 1))
        picture[here][inside] = _with_grain(rng, plain, rng.uniform(0.05, 0.3))[inside]
        labels[here][inside] = OCCLUDER


def _photograph(rng: np.random.Generator, picture: Picture) -> Picture:
    """Exposure, colour cast, blur and grain of a camera."""
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3)
    tones = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)
    seen = cv2.LUT(picture, tones[None])
    if rng.random() < 0.4:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.4, 0.9))
    return _with_grain(rng, seen, rng.uniform(0.02, 0.1))


def _with_grain(rng: np.random.Generator, picture: Picture, share: float) -> Picture:
    """Add uniform noise of `share` of the range."""
    grain = np.frombuffer(rng.bytes(picture.size), dtype=np.uint8).reshape(picture.shape)
    return cv2.addWeighted(picture, 1.0, grain, share, -127.5 * share)


def _truth(labels: Labels, body: Body, person: int) -> DrawnPerson:
    """The keypoints with their visibility, the box and the area of the visible part of one person."""
    mine = ((labels - 1) // PARTS_PER_PERSON == person) & (labels != OCCLUDER) & (labels != 0)
    keypoints = np.array([(*body.joints[name][:2], _flag(labels, body, name, person)) for name in KEYPOINTS])
    x, y, w, h = cv2.boundingRect(mine.view(np.uint8))
    return DrawnPerson(keypoints=keypoints, box_xywh=(x, y, w, h), area=int(mine.sum()))


def _flag(labels: Labels, body: Body, name: str, person: int) -> int:
    """2 if the topmost part at the joint belongs to the joint's limb, otherwise 1."""
    x, y, depth = body.joints[name]
    label = int(labels[round(float(y)), round(float(x))])
    if label in (0, OCCLUDER) or (label - 1) // PARTS_PER_PERSON != person:
        return 1
    part = PART_NAMES[(label - 1) % PARTS_PER_PERSON]
    side, _, joint = name.partition("_")
    if joint not in OWN_PARTS:
        return 2 if part in ("neck", "head", "torso") else 1
    if part in {f"{side}_{own}" for own in OWN_PARTS[joint]}:
        return 2
    # the torso shows a shoulder or hip on its near side and hides one on its far side
    torso = next(one for one in body.parts if one.name == "torso")
    near = depth > torso.depth - 0.6 * body.head_radius
    return 2 if part == "torso" and joint in ("shoulder", "hip") and near else 1
