"""Keypoints that nobody annotated, added to annotations so that a run can learn them from another source."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.category import published_sigma
from semipose.sharding.annotations.flip_pairs import find_mirrors, places_of
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.skeleton import COCO_17, DEFAULT_SIGMA, Skeleton


def add_keypoints(annotations: Annotations, names: Sequence[str]) -> Annotations:
    """The annotations with these keypoints after their own, with v = 0 for everybody.

    Raises InputError for a keypoint that is there already, however it is spelt, and for one whose partner on
    the other side is missing.
    """
    skeleton = more_keypoints(annotations.skeleton, names)
    added = skeleton.num_keypoints - annotations.skeleton.num_keypoints

    def padded(person: Person) -> Person:
        keypoints = np.concatenate([person.keypoints, np.zeros((added, 3), person.keypoints.dtype)])
        return msgspec.structs.replace(person, keypoints=keypoints)

    def padded_row(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "keypoints": [*row["keypoints"], *[0] * (3 * added)]} if "keypoints" in row else row

    annotated = annotations.annotated
    return replace(
        annotations,
        skeleton=skeleton,
        persons=tuple(map(padded, annotations.persons)),
        ignored=tuple(map(padded_row, annotations.ignored)),
        annotated=None if annotated is None else tuple(map(padded, annotated)),
    )


def more_keypoints(skeleton: Skeleton, names: Sequence[str]) -> Skeleton:
    """The skeleton with more keypoints: mirror pairs from their names, COCO's bones and published sigmas.

    Raises InputError as `add_keypoints`.
    """
    own, start = skeleton.names, skeleton.num_keypoints
    known = [name for name, place in zip(names, places_of(names, own), strict=True) if place is not None]
    if known or len(set(names)) < len(names):
        twice = known or [name for name in names if list(names).count(name) > 1]
        raise InputError(
            f"more_keypoints: {', '.join(dict.fromkeys(twice))} would be there twice: name each keypoint once"
        )
    mirrors = find_mirrors(tuple(names))
    if mirrors.refused:
        raise InputError(f"more_keypoints: {mirrors.refused[0]}: add both")
    pairs = tuple((start + left, start + right) for left, right in mirrors.pairs)
    paired = {index for pair in pairs for index in pair}
    sigmas = [
        published_sigma(name, is_paired=index in paired) or DEFAULT_SIGMA
        for index, name in enumerate(names, start)
    ]
    places = places_of(COCO_17.names, (*own, *names))
    bones = [(places[a], places[b]) for a, b in COCO_17.bones]
    added = [(a, b) for a, b in bones if a is not None and b is not None and max(a, b) >= start]
    return Skeleton(
        names=(*own, *names),
        flip_pairs=(*skeleton.flip_pairs, *pairs),
        bones=(*skeleton.bones, *added),
        sigmas=(*skeleton.sigmas, *sigmas),
    )
