"""A random articulated body: proportions and pose in three dimensions, then capsules to paint.

Frames. *Body*: x to the person's own left, y down, z forward. *Camera*: x right, y down, z towards the
viewer, so a body that is not turned faces the viewer and has its left on the right of the picture.
The projection drops z. Lengths are shares of the stature until `Body.to_pixels`.
"""

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CAPSULES = (
    ("foot", "ankle", "toe", 0.034, 0.026),
    ("shin", "knee", "ankle", 0.050, 0.034),
    ("thigh", "hip", "knee", 0.070, 0.052),
    ("upper_arm", "shoulder", "elbow", 0.047, 0.038),
    ("forearm", "elbow", "wrist", 0.037, 0.028),
    ("hand", "wrist", "finger", 0.028, 0.022),
)
"""Parts of each side: name, joint at either end, radius at either end."""


@dataclass(frozen=True)
class Part:
    """One thing to paint: the hull of two discs, or of several for the torso."""

    name: str
    centres_xy: Vector
    """(D, 2) disc centres."""
    radii: Vector
    """(D,)"""
    depth: float
    """Towards the viewer is larger; parts are painted in rising depth."""


@dataclass(frozen=True)
class Body:
    """A posed body in camera axes, root at the middle of the hips."""

    joints: dict[str, Vector]
    """(3,) each: the keypoints, `*_toe`, `*_finger`, `head`, and the marks of chest, back and face."""
    parts: tuple[Part, ...]
    facing: float
    """z of the chest's direction: 1 faces the viewer, -1 shows the back."""
    face_direction: Vector
    """(3,) direction of the face."""
    head_radius: float

    def to_pixels(self, stature_px: float, root_xy: Vector) -> "Body":
        """The same body in pixels (depths too), its root at `root_xy`."""
        offset = np.array([root_xy[0], root_xy[1], 0.0])
        parts = tuple(
            Part(p.name, p.centres_xy * stature_px + root_xy, p.radii * stature_px, p.depth * stature_px)
            for p in self.parts
        )
        joints = {name: point * stature_px + offset for name, point in self.joints.items()}
        return Body(joints, parts, self.facing, self.face_direction, self.head_radius * stature_px)


def draw_body(rng: np.random.Generator) -> Body:
    """Draw proportions and a pose."""
    pelvis = _draw_stance(rng)
    chest = pelvis @ _turn(rng.normal(0, 8), rng.normal(0, 12), rng.normal(0, 7))
    skull = chest @ _turn(rng.normal(0, 10), rng.normal(0, 22), rng.normal(0, 8))
    build = rng.uniform(0.85, 1.3)
    head_radius = 0.072 * rng.uniform(0.9, 1.15)
    joints = _trunk(rng, pelvis, chest, skull, build, head_radius)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        joints |= _arm(rng, chest, joints[f"{side}_shoulder"], side, sign)
    joints |= _legs(rng, pelvis, joints)
    return Body(joints, _parts(joints, build, head_radius), float(chest[2, 2]), skull[:, 2], head_radius)


def _turn(pitch_deg: float, yaw_deg: float, roll_deg: float) -> Vector:
    """Rotation: roll in the picture after yaw about the vertical after pitch (positive leans forward)."""
    p, y, r = radians(pitch_deg), radians(yaw_deg), radians(roll_deg)
    lean = np.array([[1, 0, 0], [0, cos(p), sin(p)], [0, -sin(p), cos(p)]])
    yaw = np.array([[cos(y), 0, -sin(y)], [0, 1, 0], [sin(y), 0, cos(y)]])
    roll = np.array([[cos(r), -sin(r), 0], [sin(r), cos(r), 0], [0, 0, 1]])
    return roll @ yaw @ lean


def _draw_stance(rng: np.random.Generator) -> Vector:
    """The turn of a body: towards the viewer, away from it, or sideways; sometimes leaning far."""
    kind = rng.random()
    yaw_deg = rng.normal(0, 22) if kind < 0.6 else rng.normal(180, 22) if kind < 0.85 else rng.normal(0, 15)
    if kind >= 0.85:
        yaw_deg += 90 * rng.choice((-1, 1))
    far = rng.random() < 0.12
    return _turn(rng.normal(4, 22 if far else 8), yaw_deg, rng.normal(0, 30 if far else 6))


def _trunk(
    rng: np.random.Generator, pelvis: Vector, chest: Vector, skull: Vector, build: float, head_radius: float
) -> dict[str, Vector]:
    """Hips, shoulders, neck, head, and the marks that distinguish front from back."""
    length = 0.29 * rng.uniform(0.9, 1.1)
    shoulder, hip = 0.105 * build * rng.uniform(0.93, 1.08), 0.058 * build
    neck = chest @ np.array([0.0, -length, 0.0])
    head = neck + chest @ np.array([0.0, -0.045, 0.005]) + skull @ np.array([0.0, -head_radius * 1.05, 0.01])
    joints = {"neck": neck, "head": head, "head_top": head + skull @ np.array([0.0, -head_radius * 0.9, 0.0])}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        joints[f"{side}_shoulder"] = neck + chest @ np.array([sign * shoulder, 0.022, 0.0])
        joints[f"{side}_hip"] = pelvis @ np.array([sign * hip, 0.0, 0.0])
        eye = np.array([sign * 0.38 * head_radius, -0.08 * head_radius, 0.85 * head_radius])
        joints[f"{side}_eye"] = head + skull @ eye
        joints[f"{side}_collar"] = neck + chest @ np.array([sign * shoulder * 0.42, -0.012, 0.03])
    joints["mouth"] = head + skull @ np.array([0.0, 0.5 * head_radius, 0.8 * head_radius])
    joints["chest_v"] = neck + chest @ np.array([0.0, 0.085, 0.05])
    joints["logo"] = neck + chest @ np.array([shoulder * 0.5, 0.1, 0.055])
    joints["belly"] = chest @ np.array([0.0, -0.02, 0.05])
    joints["back"] = neck + chest @ np.array([0.0, 0.4 * length, -0.06])
    return joints


def _bent(direction: Vector, towards: Vector, bend_deg: float) -> Vector:
    """`direction` turned by `bend_deg` in the plane that it spans with `towards`."""
    across = towards - direction * float(direction @ towards)
    across /= max(float(np.linalg.norm(across)), 1e-6)
    return direction * cos(radians(bend_deg)) + across * sin(radians(bend_deg))


def _arm(
    rng: np.random.Generator, chest: Vector, shoulder: Vector, side: str, sign: float
) -> dict[str, Vector]:
    """One arm: hanging, stretched out or up, reaching forward, or hand on hip."""
    mood = rng.random()
    towards = np.array([-0.35 * sign, 0.0, 1.0]) + rng.normal(0, 0.3, 3)
    if mood < 0.4:
        out, forward, bend = rng.uniform(5, 32), rng.uniform(-25, 35), rng.uniform(0, 45)
    elif mood < 0.7:
        out, forward, bend = rng.uniform(50, 165), rng.uniform(-15, 25), rng.uniform(0, 95)
        towards = np.array([0.0, -1.0, 0.4]) + rng.normal(0, 0.4, 3)
    elif mood < 0.85:
        out, forward, bend = rng.uniform(0, 30), rng.uniform(45, 110), rng.uniform(0, 100)
    else:
        out, forward, bend = rng.uniform(35, 60), rng.uniform(-25, 5), rng.uniform(75, 115)
        towards = np.array([-sign, 0.2, 0.2])
    a, f = radians(out), radians(forward)
    upper = np.array([sign * sin(a), cos(a) * cos(f), cos(a) * sin(f)])
    lower = _bent(upper, towards, bend)
    length = rng.uniform(0.9, 1.1)
    elbow = shoulder + chest @ upper * 0.165 * length
    wrist = elbow + chest @ lower * 0.145 * length
    return {
        f"{side}_elbow": elbow,
        f"{side}_wrist": wrist,
        f"{side}_finger": wrist + chest @ lower * 0.045,
    }


def _legs(rng: np.random.Generator, pelvis: Vector, joints: dict[str, Vector]) -> dict[str, Vector]:
    """Both legs: standing or walking, straddling, sitting, or one raised."""
    mood, length = rng.random(), rng.uniform(0.9, 1.1)
    raised = rng.choice((-1.0, 1.0))
    found: dict[str, Vector] = {}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        out, forward, bend = rng.uniform(0, 12), rng.uniform(-22, 28), rng.uniform(0, 30)
        if 0.5 <= mood < 0.7:
            out = rng.uniform(14, 42)
        elif 0.7 <= mood < 0.82:
            out, forward, bend = rng.uniform(0, 25), rng.uniform(50, 95), rng.uniform(50, 100)
        elif mood >= 0.82 and sign == raised:
            out, forward, bend = rng.uniform(0, 60), rng.uniform(10, 85), rng.uniform(10, 110)
        a, f = radians(out), radians(forward)
        thigh = np.array([sign * sin(a), cos(a) * cos(f), cos(a) * sin(f)])
        shin = _bent(thigh, np.array([0.0, -0.2, -1.0]), bend)
        knee = joints[f"{side}_hip"] + pelvis @ thigh * 0.245 * length
        ankle = knee + pelvis @ shin * 0.235 * length
        foot = _bent(shin, np.array([sign * 0.35, 0.0, 1.0]), rng.uniform(65, 100))
        found |= {f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_toe": ankle + pelvis @ foot * 0.075}
    return found


def _parts(joints: dict[str, Vector], build: float, head_radius: float) -> tuple[Part, ...]:
    """What to paint, from the back to the front."""
    parts = []
    for side in ("left", "right"):
        for name, start, end, first, last in CAPSULES:
            ends = np.stack([joints[f"{side}_{start}"], joints[f"{side}_{end}"]])
            # a limb that touches the torso's side is nearer than the torso's middle
            depth = float(ends[:, 2].mean()) + (0.03 if "arm" in name or name == "hand" else 0.01)
            radii = np.array([first, last]) * (0.5 + 0.5 * build)
            parts.append(Part(f"{side}_{name}", ends[:, :2], radii, depth))
    corners = np.stack([joints[f"{side}_{end}"] for end in ("shoulder", "hip") for side in ("left", "right")])
    torso_radii = np.array([0.055, 0.055, 0.074, 0.074]) * (0.4 + 0.6 * build)
    parts.append(Part("torso", corners[:, :2], torso_radii, float(corners[:, 2].mean())))
    throat = np.stack([joints["neck"], joints["head"]])
    parts.append(Part("neck", throat[:, :2], np.array([0.036, 0.036]), float(throat[0, 2]) + 0.005))
    skull = joints["head"][None, :2]
    parts.append(Part("head", skull, np.array([head_radius]), float(joints["head"][2]) + 0.03))
    return tuple(sorted(parts, key=lambda part: part.depth))
