"""Faults of people that only a look at all of them shows: joints beyond the photo or box, swapped sides."""

from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from sharding.findings import Fault, Findings
from sharding.fit import (
    AREA_ABOVE,
    AREA_BELOW,
    AT_ONE_POINT,
    AT_ORIGIN,
    UNLABELLED,
    compare,
    note_areas,
    note_fits,
    note_missing,
)
from sharding.joint_boxes import MADE_BOX
from sharding.limits import note_limits
from sharding.record import Annotations, Person
from sharding.repeats import note_repeats
from sharding.sides import Side, side_of_first
from sharding.skeleton import Skeleton

OUTSIDE_TOLERANCE_PX = 0.5
"""How far beyond the edge of its photo a joint may lie: some sets count from edges, some from centres."""
APART = 0.05
"""Share of the longer side of the box by which a left and a right joint must differ in x to be compared."""
LEAST_PEOPLE = 20
"""People in whom a pair must be comparable before it is judged."""
MOST_SWAPPED = 0.7
"""Share of them in whom a pair may disagree with the other pairs. Of real sets, the worst pair (ankles, as
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
_PEOPLE_AT_ONCE = 4096


def inspect_people(
    annotations: Annotations, sizes_wh: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> None:
    """Add to the findings: labelled joints outside their photo (where its size is known), pairs of keypoints
    whose left and right look swapped, joints, box and area that do not fit each other, and what stands twice.

    sizes_wh: by name, of photos whose size the annotations do not give.
    A pair is judged by the other pairs of the same people; all pairs together by the eyes, which can be seen
    from the front alone, where the left one lies on the right (so on COCO in all people).
    """
    note_limits(annotations, sizes_wh)
    skeleton, findings = annotations.skeleton, annotations.findings
    pairs = sided_pairs(skeleton)
    votes = np.zeros((4, len(pairs)), np.int64)
    for block in _blocks(annotations.persons, sizes_wh):
        _note_outside(block, skeleton, findings)
        votes += _count_disagreement(block, pairs)
    for pair, differ, comparable, mirrored, seen in zip(pairs, *votes.tolist(), strict=True):
        names = "/".join(skeleton.names[joint] for joint in pair)
        if _is_most(differ, comparable):
            detail = f"against the other pairs in {differ / comparable:.0%} of {comparable} people"
            findings.add(SWAPPED_PAIR, names, detail)
        elif "eye" in names.lower() and _is_most(mirrored, seen):
            detail = f"the left one lies left in the photo in {mirrored / seen:.0%} of {seen} people"
            findings.add(ALL_SWAPPED, names, detail)
    _compare_boxes(annotations, sizes_wh)
    note_repeats(annotations)


def _compare_boxes(annotations: Annotations, sizes_wh: Mapping[str, tuple[int, int]]) -> None:
    """Add what a comparison of joints, box and area of the annotated people shows."""
    findings = annotations.findings
    people = annotations.persons if annotations.annotated is None else annotations.annotated
    made = set(findings.ids(MADE_BOX))  # which says nothing of the area: a person may be seen in part
    fits = []
    for block in _blocks(people, sizes_wh):
        ids = [person.id for person in block.persons]
        boxes_xywh = np.array([person.annotated_xywh or person.box_xywh for person in block.persons])
        fits.append(compare(ids, block.keypoints, boxes_xywh, block.sizes_wh))
        note_missing(ids, block.keypoints, findings)
        areas = np.array([0.0 if person.id in made else person.area for person in block.persons])
        note_areas(ids, areas, boxes_xywh, findings)
    note_fits(fits, findings)
    for fault in (JOINT_OUTSIDE, AT_ORIGIN, AT_ONE_POINT, UNLABELLED, AREA_ABOVE, AREA_BELOW):
        findings.warn_if_many(fault, len(people))


def _is_most(count: int, people: int) -> bool:
    return people >= LEAST_PEOPLE and count > MOST_SWAPPED * people


def joint_sides(skeleton: Skeleton) -> list[Side | None]:
    """The side of each keypoint, as the names of its flip pair tell it; None for what is in the middle."""
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


class _Block(NamedTuple):
    """Some people as arrays: keypoints (N, K, 3), boxes (N, 4), sizes_wh (N, 2), nan where not known."""

    persons: list[Person]
    keypoints: np.ndarray
    boxes_xywh: np.ndarray
    sizes_wh: np.ndarray


def _blocks(persons: tuple[Person, ...], sizes_wh: Mapping[str, tuple[int, int]]) -> Iterator[_Block]:
    """All people, some at a time, so that the memory does not grow with them."""
    people = iter(persons)
    unknown = (np.nan, np.nan)
    while some := list(islice(people, _PEOPLE_AT_ONCE)):
        sizes = [person.source_size_wh or sizes_wh.get(person.file_name) or unknown for person in some]
        yield _Block(
            some,
            np.stack([person.keypoints for person in some]),
            np.array([person.box_xywh for person in some]),
            np.array(sizes, np.float64),
        )


def _note_outside(block: _Block, skeleton: Skeleton, findings: Findings) -> None:
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


def _count_disagreement(block: _Block, pairs: list[tuple[int, int]]) -> np.ndarray:
    """(4, P), of each pair: in how many people it goes the other way than most others, in how many it
    compares; in how many its left joint lies left in the photo, in how many it is apart.

    Seen from the front every left joint lies right of its partner in the photo, seen from behind or upside
    down left of it: whichever it is, the pairs of one person mostly agree.
    """
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    width = block.keypoints[:, left, 0] - block.keypoints[:, right, 0]
    is_labelled = (block.keypoints[:, left, 2] > 0) & (block.keypoints[:, right, 2] > 0)
    is_apart = np.abs(width) > APART * block.boxes_xywh[:, 2:].max(axis=1, keepdims=True)
    signs = np.sign(width) * (is_labelled & is_apart)
    others = signs.sum(axis=1, keepdims=True) - signs
    products = signs * others
    return np.stack([kind.sum(axis=0) for kind in (products < 0, products != 0, signs < 0, signs != 0)])
