"""Which numbers a shard can hold: a build stops at any other, so that verify passes what builds make."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.people_arrays import Block
from semipose.sharding.annotations.record import Person
from semipose.sharding.annotations.skeleton import Skeleton

REACH = 2.0
"""How far a labelled joint may be beyond the edges of its photo, in sizes of the photo: some sets guess
joints outside, but farther ones cannot be pixels of that photo."""
LARGEST = float(np.finfo(np.float32).max)

NO_FLOAT32 = "a number that float32 cannot hold"
NO_EXTENT = "a box whose sides are not above 0 in float32"
FAR = f"labelled joint more than {REACH:g} photos' sizes outside its photo"
_CURE = "correct the number, or remove the row"
_NO_HEAD = (0.0,) * 4


def is_far(points_xy: np.ndarray, size_wh: np.ndarray, *, tolerance_px: float = 0.0) -> np.ndarray:
    """Whether points (..., 2) are beyond `REACH` of photos of these sizes (..., 2), in source pixels."""
    low, high = -REACH * size_wh - tolerance_px, (1 + REACH) * size_wh + tolerance_px
    return np.asarray(((points_xy < low) | (points_xy > high)).any(axis=-1))


def note_limits(block: Block, skeleton: Skeleton, findings: Findings, *, subject: str) -> None:
    """Add to the findings the people with numbers that a shard cannot hold; they stop.

    subject: what a person is, for messages. Joints of photos whose size is not known here are looked at when
    they are stored (`first_far_joint`).
    """
    some, keypoints, boxes_xywh, sizes = block
    no_float32, no_extent, far = (
        Fault(what, cure=_CURE, subject=subject) for what in (NO_FLOAT32, NO_EXTENT, FAR)
    )
    numbers = np.array([(p.area, p.score or 0.0, *(p.head_xywh or _NO_HEAD)) for p in some])
    is_held = np.isfinite(keypoints).all(axis=(1, 2)) & (np.abs(boxes_xywh) <= LARGEST).all(axis=1)
    is_held &= (np.abs(numbers) <= LARGEST).all(axis=1)
    sides = boxes_xywh[:, 2:].astype(np.float32)
    has_extent = np.asarray((sides >= 0).all(axis=1) & (sides > 0).any(axis=1))
    # Nothing is beyond a photo whose size is not known: nan.
    is_beyond = is_far(keypoints[..., :2], sizes[:, None]) & (keypoints[..., 2] > 0)
    for index in np.flatnonzero(~is_held | ~has_extent | is_beyond.any(axis=1)):
        person, joint = some[index], int(is_beyond[index].argmax())
        if not is_held[index]:
            findings.add(no_float32, person.id, _first_not_held(person, skeleton))
        elif not has_extent[index]:
            findings.add(no_extent, person.id, str(list(person.box_xywh)))
        else:
            findings.add(far, person.id, _describe(person, joint, sizes[index], skeleton.names[joint]))


def _first_not_held(person: Person, skeleton: Skeleton) -> str:
    """Which number it is: of a joint, or of the box."""
    for name, point in zip(skeleton.names, person.keypoints.tolist(), strict=True):
        if not np.isfinite(point).all():
            return f"{name} at ({point[0]:g}, {point[1]:g})"
    box = ", ".join(f"{number:g}" for number in person.box_xywh)
    return f"box [{box}], area {person.area:g}"


def _describe(person: Person, joint: int, size_wh: np.ndarray, name: str) -> str:
    x, y, _ = person.keypoints[joint].tolist()
    return f"{name} at ({x:.0f}, {y:.0f}) of {size_wh[0]:.0f}x{size_wh[1]:.0f}"


def first_far_joint(person: Person, size_wh: tuple[int, int]) -> str:
    """The first labelled joint beyond `REACH` of the photo, in words; empty where there is none."""
    size = np.array(size_wh, np.float64)
    is_beyond = is_far(person.keypoints[:, :2], size) & (person.keypoints[:, 2] > 0)
    joint = int(is_beyond.argmax())
    return _describe(person, joint, size, f"joint {joint + 1}") if is_beyond.any() else ""


def note_ignored(row: Mapping[str, Any], skeleton: Skeleton, findings: Findings) -> None:
    """Add a crowd, or a person without joints, with numbers that a shard cannot hold; it stops."""
    keypoints = row.get("keypoints", ())
    if any(not abs(number) <= LARGEST for number in (*row["bbox"], row["area"], *keypoints)):
        findings.add(Fault(NO_FLOAT32, cure=_CURE), row["id"], f"box {row['bbox']}, area {row['area']:g}")
    elif keypoints and len(keypoints) != 3 * skeleton.num_keypoints:
        fault = Fault(f"keypoints must be a list of {3 * skeleton.num_keypoints} numbers")
        findings.add(fault, row["id"], f"found {len(keypoints)}")
