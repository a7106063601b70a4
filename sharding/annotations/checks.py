"""Faults that only a comparison of all people shows: joints beyond the photo or box, swapped sides."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from semipose.sharding.annotations.box_fit import (
    AREA_ABOVE,
    AREA_BELOW,
    AREAS_BELOW,
    AT_ONE_POINT,
    AT_ORIGIN,
    UNLABELLED,
    Fits,
    compare,
    note_areas,
    note_fits,
    note_missing,
)
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.flip_pairs import Side, side_of_first
from semipose.sharding.annotations.joint_boxes import MADE_BOX
from semipose.sharding.annotations.limits import note_ignored, note_limits
from semipose.sharding.annotations.people_arrays import Block, blocks
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.repeats import note_repeats
from semipose.sharding.annotations.skeleton import Skeleton

OUTSIDE_TOLERANCE_PX = 0.5
"""How far a joint may be beyond the edge of its photo: some sets count from edges, some from centres."""
APART = 0.05
"""Share of the longer side of the box by which a left and a right joint must differ in x to be compared."""
LEAST_PEOPLE = 20
"""The number of people in which a pair must be comparable before it is judged."""
MOST_SWAPPED = 0.7
"""Share of them in which a pair may disagree with the other pairs. Of real sets, the worst pair (ankles, as
legs cross) disagrees in 0.16 on COCO and LSPET, and with its names swapped any pair in 0.84 or more."""

JOINT_OUTSIDE = Fault("labelled joint outside the photo", "kept", "correct the keypoint, or the photo's size")
SWAPPED_PAIR = Fault(
    "left and right look swapped",
    "kept",
    "look at the sheet that check=only draws; if so, correct the names or their order",
    "keypoint",
)
ALL_SWAPPED = Fault(
    "every left and right look swapped",
    "kept",
    "look at the sheet that check=only draws; if so, correct the names, or flip the photos or the points",
    "keypoint",
)


def inspect_people(
    annotations: Annotations, sizes_wh: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> None:
    """Add to the findings: labelled joints outside their photo (where its size is known), pairs of keypoints
    whose left and right look swapped, joints, box and area that do not fit each other, and what stands twice.

    sizes_wh: by name, of photos whose size the annotations do not give. A pair is judged by the other pairs
    of the same people; all pairs together are judged by the eyes, which are visible only from the front,
    where the left eye is on the right side of the photo (on COCO in all people).
    """
    skeleton, findings = annotations.skeleton, annotations.findings
    pairs = sided_pairs(skeleton)
    votes = np.zeros((4, len(pairs)), np.int64)
    has_detected = annotations.annotated is not None
    fits: list[Fits] = []
    for block in blocks(annotations.persons, sizes_wh):
        note_limits(block, skeleton, findings, subject="detected box" if has_detected else "annotation")
        _note_outside(block, skeleton, findings)
        votes += _count_disagreement(block, pairs)
        if not has_detected:
            fits.append(_compare_boxes(block, findings))
    for block in blocks(annotations.annotated or (), sizes_wh):
        note_limits(block, skeleton, findings, subject="annotation")
        fits.append(_compare_boxes(block, findings))
    for row in annotations.ignored:
        note_ignored(row, skeleton, findings)
    _note_swapped(pairs, votes, skeleton, findings)
    annotated = annotations.persons if annotations.annotated is None else annotations.annotated
    made = set(findings.ids(MADE_BOX))  # which says nothing of the area: a person may be seen in part
    areas = np.array([0.0 if person.id in made else person.area for person in annotated])
    note_areas([person.id for person in annotated], areas, _boxes_xywh(annotated), findings)
    note_fits(fits, findings)
    for fault in (JOINT_OUTSIDE, AT_ORIGIN, AT_ONE_POINT, UNLABELLED, AREA_ABOVE, AREA_BELOW, AREAS_BELOW):
        findings.warn_if_many(fault, len(annotated))
    note_repeats(annotations)


def _note_swapped(
    pairs: list[tuple[int, int]], votes: np.ndarray, skeleton: Skeleton, findings: Findings
) -> None:
    """Add the pairs whose sides look swapped; votes (4, P): sums of `_count_disagreement` over all people."""
    for pair, differ, comparable, mirrored, seen in zip(pairs, *votes.tolist(), strict=True):
        names = "/".join(skeleton.names[joint] for joint in pair)
        if _is_most(differ, comparable):
            detail = f"against the other pairs in {differ / comparable:.0%} of {comparable} people"
            findings.add(SWAPPED_PAIR, names, detail)
        elif "eye" in names.lower() and _is_most(mirrored, seen):
            detail = f"the left one lies left in the photo in {mirrored / seen:.0%} of {seen} people"
            findings.add(ALL_SWAPPED, names, detail)


def _compare_boxes(block: Block, findings: Findings) -> Fits:
    """Compare joints and box of annotated people."""
    ids = [person.id for person in block.persons]
    note_missing(ids, block.keypoints, findings)
    return compare(ids, block.keypoints, _boxes_xywh(block.persons), block.sizes_wh)


def _boxes_xywh(people: Sequence[Person]) -> np.ndarray:
    """The boxes (N, 4) as the file has them."""
    boxes = [person.annotated_xywh or person.box_xywh for person in people]
    return np.array(boxes, order="F").reshape(-1, 4)


def _is_most(count: int, people: int) -> bool:
    return people >= LEAST_PEOPLE and count > MOST_SWAPPED * people


def joint_sides(skeleton: Skeleton) -> list[Side | None]:
    """The side of each keypoint, by the names of its flip pair; None for keypoints in the middle."""
    sides: list[Side | None] = [None] * skeleton.num_keypoints
    for left, right in sided_pairs(skeleton):
        sides[left], sides[right] = "left", "right"
    return sides


def sided_pairs(skeleton: Skeleton) -> list[tuple[int, int]]:
    """The flip pairs as (left, right); those whose names have no sides are left out."""
    pairs = []
    for a, b in skeleton.flip_pairs:
        side = side_of_first(skeleton.names[a], skeleton.names[b])
        if side is not None:
            pairs.append((a, b) if side == "left" else (b, a))
    return pairs


def _note_outside(block: Block, skeleton: Skeleton, findings: Findings) -> None:
    points_xy = block.keypoints[..., :2]
    beyond = 0.5 + OUTSIDE_TOLERANCE_PX  # the edge lies half a pixel from the centres of the outer pixels
    limits = block.sizes_wh[:, None] - 1 + beyond
    is_outside = ((points_xy < -beyond) | (points_xy > limits)).any(axis=2) & (block.keypoints[..., 2] > 0)
    is_outside &= np.isfinite(limits).all(axis=2)
    for index in np.flatnonzero(is_outside.any(axis=1)):
        joint = int(is_outside[index].argmax())
        x, y = points_xy[index, joint]
        width, height = block.sizes_wh[index]
        detail = f"{skeleton.names[joint]} at ({x:.0f}, {y:.0f}) of {width:.0f}x{height:.0f}"
        findings.add(JOINT_OUTSIDE, block.persons[index].id, detail)


def _count_disagreement(block: Block, pairs: list[tuple[int, int]]) -> np.ndarray:
    """(4, P), of each pair: in how many people it goes the other way than most others, in how many it
    compares; in how many its left joint lies left in the photo, in how many it is apart.

    Seen from the front, every left joint is right of its partner in the photo; seen from behind or upside
    down, it is left of it. In either case the pairs of one person mostly agree.
    """
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    width = block.keypoints[:, left, 0] - block.keypoints[:, right, 0]
    is_labelled = (block.keypoints[:, left, 2] > 0) & (block.keypoints[:, right, 2] > 0)
    is_apart = np.abs(width) > APART * block.boxes_xywh[:, 2:].max(axis=1, keepdims=True)
    signs = np.sign(width) * (is_labelled & is_apart)
    others = signs.sum(axis=1, keepdims=True) - signs
    products = signs * others
    return np.stack([kind.sum(axis=0) for kind in (products < 0, products != 0, signs < 0, signs != 0)])
