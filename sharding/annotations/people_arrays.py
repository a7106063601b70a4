"""The people of a data set as arrays, some at a time, for checks that look at all of them at once."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from semipose.sharding.annotations.record import Person

_PEOPLE_AT_ONCE = 4096


class Block(NamedTuple):
    """N people as arrays: keypoints (N, K, 3), boxes_xywh (N, 4), sizes_wh (N, 2) of the photos.

    Sizes that are not known are nan.

    The memory is in Fortran order, with each number of all people side by side: numpy then reduces axes of 2
    or 17 numbers several times faster.
    """

    persons: list[Person]
    keypoints: np.ndarray
    boxes_xywh: np.ndarray
    sizes_wh: np.ndarray


def blocks(people: Sequence[Person], sizes_wh: Mapping[str, tuple[int, int]]) -> Iterator[Block]:
    """All people, some at a time, so that the memory does not grow with them.

    sizes_wh: by name, of photos whose size the annotations do not give.
    """
    rest = iter(people)
    unknown = (np.nan, np.nan)
    while some := list(islice(rest, _PEOPLE_AT_ONCE)):
        sizes = [person.source_size_wh or sizes_wh.get(person.file_name) or unknown for person in some]
        joints = np.concatenate([person.keypoints for person in some])
        yield Block(
            some,
            np.asfortranarray(joints.reshape(len(some), len(some[0].keypoints), 3)),
            np.array([person.box_xywh for person in some], order="F"),
            np.array(sizes, np.float64, order="F"),
        )
