"""Paint one body into a picture and its map of labels."""

from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from semipose.sharding.annotations.drawing.body import CAPSULES, Body, Part, Vector

Picture = MatLike
"""(H, W, 3) uint8, BGR."""
Labels = NDArray[np.uint8]
"""(H, W): 0 background, 1 + 32 * person + part, or `OCCLUDER`."""
Outline = MatLike
"""(P, 2) int32: corners of a polygon in 1/16 px."""
Colour = tuple[float, float, float]

PART_NAMES = (
    *(f"{side}_{name}" for side in ("left", "right") for name, *_ in CAPSULES),
    "torso",
    "neck",
    "head",
)
PARTS_PER_PERSON = 32
MOST_PEOPLE = 4
OCCLUDER = 255
SUB_PIXEL_BITS = 4

_ANGLES = np.linspace(-np.pi / 2, np.pi / 2, 7)
_HALF_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_CIRCLE = np.concatenate([_HALF_CIRCLE, -_HALF_CIRCLE[1:-1]])


@dataclass(frozen=True)
class Wardrobe:
    """Colours (BGR) of one person."""

    of_part: dict[str, Colour]
    hair: Colour
    skin: Colour
    mark: Colour
    pattern: Colour
    period_px: float
    """Width of a stripe; 0 for plain cloth."""
    backpack: bool


def draw_wardrobe(rng: np.random.Generator, stature_px: float) -> Wardrobe:
    """Draw clothing, skin and hair."""
    dark, light = np.array([45.0, 60.0, 95.0]), np.array([175.0, 200.0, 240.0])
    skin = _colour(dark + (light - dark) * rng.random() + rng.normal(0, 6, 3))
    hair = _colour(np.array([20.0, 35.0, 50.0]) * rng.uniform(0.4, 4.0) + rng.normal(0, 6, 3))
    shirt, trousers, shoes, mark, pattern = (_cloth(rng) for _ in range(5))
    sleeve, leg = rng.random(), rng.random()
    upper_arm = skin if sleeve < 0.15 else shirt
    forearm = shirt if sleeve > 0.6 else skin
    shin = trousers if leg > 0.35 else skin
    cloth = {"foot": shoes, "shin": shin, "thigh": trousers, "upper_arm": upper_arm}
    cloth |= {"forearm": forearm, "hand": skin}
    of_part = {f"{side}_{name}": colour for name, colour in cloth.items() for side in ("left", "right")}
    of_part |= {"torso": shirt, "neck": skin, "head": hair}
    period_px = stature_px * rng.uniform(0.03, 0.08) if rng.random() < 0.4 else 0.0
    return Wardrobe(of_part, hair, skin, mark, pattern, period_px, bool(rng.random() < 0.3))


def paint_body(
    picture: Picture, labels: Labels, body: Body, wardrobe: Wardrobe, person: int, rng: np.random.Generator
) -> None:
    """Paint `body` (pixels) over what is there; every part leaves its label."""
    light_xy = rng.normal(0, 0.35, 2)
    for part in body.parts:
        label = 1 + PARTS_PER_PERSON * person + PART_NAMES.index(part.name)
        _paint_part(picture, labels, part, wardrobe.of_part[part.name], label, light_xy)
        if part.name == "torso":
            _paint_cloth(picture, labels, body, wardrobe, label)
        elif part.name == "head":
            _paint_face(picture, body, wardrobe)


def _colour(values: Vector) -> Colour:
    blue, green, red = np.clip(values, 0, 255).tolist()
    return (blue, green, red)


def _cloth(rng: np.random.Generator) -> Colour:
    """Any hue; grey, dark and pale cloth are as common as bright ones."""
    saturation = 255 * rng.random() ** 1.3
    hsv = np.array([[[rng.uniform(0, 180), saturation, rng.uniform(30, 250)]]]).astype(np.uint8)
    return _colour(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64))


def _scaled(colour: Colour, factor: float) -> Colour:
    blue, green, red = (min(255.0, value * factor) for value in colour)
    return (blue, green, red)


def _fixed(points_xy: Vector) -> Outline:
    """Points in the fixed-point form of cv2, which draws them between pixels."""
    return np.rint(points_xy * (1 << SUB_PIXEL_BITS)).astype(np.int32)


def _capsule(centres_xy: Vector, radii: Vector) -> Outline:
    """Outline of the hull of two discs (exact where their radii agree)."""
    along = centres_xy[1] - centres_xy[0]
    along = along / max(float(np.hypot(along[0], along[1])), 1e-6)
    axes = np.array([along, (-along[1], along[0])])
    arc = _HALF_CIRCLE @ axes
    return _fixed(np.concatenate([centres_xy[0] - radii[0] * arc, centres_xy[1] + radii[1] * arc]))


def _discs(centres_xy: Vector, radii: Vector) -> Outline:
    """Outline of the hull of one disc or of several."""
    rim = centres_xy[:, None] + radii[:, None, None] * _CIRCLE
    points = _fixed(rim.reshape(-1, 2))
    return points if len(radii) == 1 else cv2.convexHull(points)[:, 0]


def _fill_disc(picture: Picture, centre_xy: Vector, radius: float, colour: Colour) -> None:
    _fill(picture, _discs(centre_xy[None, :2], np.array([radius])), colour)


def _fill(picture: Picture, outline: Outline, colour: Colour) -> None:
    cv2.fillConvexPoly(picture, outline, colour, cv2.LINE_AA, SUB_PIXEL_BITS)


def _paint_part(
    picture: Picture, labels: Labels, part: Part, colour: Colour, label: int, light_xy: Vector
) -> None:
    """Body, dark rim, and a lighter strip on the side of the light."""
    outline = (_capsule if len(part.radii) == 2 else _discs)(part.centres_xy, part.radii)
    cv2.fillConvexPoly(labels, outline, label, cv2.LINE_8, SUB_PIXEL_BITS)
    _fill(picture, outline, colour)
    cv2.polylines(picture, [outline], True, _scaled(colour, 0.6), 1, cv2.LINE_AA, SUB_PIXEL_BITS)
    if len(part.radii) == 2:
        start, end = _fixed(part.centres_xy + light_xy * part.radii[:, None]).tolist()
        thick = max(1, round(0.8 * float(part.radii.min())))
        cv2.line(picture, start, end, _scaled(colour, 1.18), thick, cv2.LINE_AA, SUB_PIXEL_BITS)


def _paint_cloth(picture: Picture, labels: Labels, body: Body, wardrobe: Wardrobe, label: int) -> None:
    """Stripes, then the marks that distinguish the front of a torso from its back."""
    if wardrobe.period_px:
        _paint_stripes(picture, labels, body, wardrobe, label)
    at = {name: _fixed(point[:2]).tolist() for name, point in body.joints.items()}
    width = max(1, round(body.head_radius / 4))
    if body.facing > 0.2:
        collar = [at["left_collar"], at["chest_v"], at["right_collar"]]
        _fill(picture, np.array(collar, dtype=np.int32), wardrobe.skin)
        dark = _scaled(wardrobe.of_part["torso"], 0.45)
        cv2.line(picture, at["chest_v"], at["belly"], dark, width, cv2.LINE_AA, SUB_PIXEL_BITS)
        _fill_disc(picture, body.joints["logo"], 0.34 * body.head_radius, wardrobe.mark)
    elif body.facing < -0.2 and wardrobe.backpack:
        top, bottom = body.joints["back"][:2], body.joints["belly"][:2]
        pack = np.stack([top, 0.6 * top + 0.4 * bottom])
        _fill(picture, _capsule(pack, np.full(2, 0.95 * body.head_radius)), wardrobe.mark)


def _paint_stripes(picture: Picture, labels: Labels, body: Body, wardrobe: Wardrobe, label: int) -> None:
    """Bands across the torso's axis."""
    x, y, w, h = cv2.boundingRect((labels == label).view(np.uint8))
    if w == 0 or h == 0:
        return
    axis = body.joints["neck"][:2] - body.joints["belly"][:2]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
    along = np.arange(x, x + w)[None, :] * axis[0] + np.arange(y, y + h)[:, None] * axis[1]
    band = (np.floor(along / wardrobe.period_px) % 2 == 0) & (labels[y : y + h, x : x + w] == label)
    picture[y : y + h, x : x + w][band] = np.array(wardrobe.pattern, dtype=np.uint8)


def _paint_face(picture: Picture, body: Body, wardrobe: Wardrobe) -> None:
    """The face, which hair does not cover, with eyes and mouth."""
    turned = body.face_direction
    if turned[2] < -0.35:
        return
    radius = body.head_radius
    centre = body.joints["head"][:2] + turned[:2] * 0.4 * radius + np.array([0.0, 0.16 * radius])
    _fill_disc(picture, centre, radius * (0.62 + 0.2 * turned[2]), wardrobe.skin)
    for name in ("left_eye", "right_eye", "mouth"):
        point = body.joints[name]
        if point[2] > body.joints["head"][2] + 0.25 * radius:
            size, dark = (0.2, (20.0, 20.0, 30.0)) if name != "mouth" else (0.22, (50.0, 40.0, 140.0))
            _fill_disc(picture, point, max(size * radius, 0.6), dark)
