"""Whether joints, box and area of each person fit each other, and in which other reading they would.

A file with boxes as corners, or with joints in percent, is as valid as any other: only a comparison shows it.
The limits come from 1,700 people of COCO and 5,000 of LSPET. Of them 1.3 % at most do not fit, and no reading
but the right one fits more than 0.6 %.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from semipose.sharding.annotations.findings import Fault, Findings, is_many

Array = np.ndarray

GROWN_BY = 0.1
"""Share of its sides by which a box is grown on each side before a joint counts as outside."""
MOST_OUTSIDE = 0.5
"""The share of labelled joints outside the box from which they do not fit it."""
LEAST_SPAN, MOST_SPAN = 0.33, 1.5
"""Extent of the joints as a share of the sides of the box: they do not fit where both shares are below the
first number, or one is above the second."""
SPANNING_JOINTS = 6
"""The number of labelled joints from which the extent can be too small: a face may be small in its box."""
READING_JOINTS, READING_INSIDE, READING_OVERLAP = 3, 0.9, 0.15
"""What another reading must show: this many labelled joints (or all of a smaller set), this share of them
inside the box, and this overlap (IoU) of their extent with the box."""
BETTER, MUCH_BETTER = 1.4, 2.0
"""How many times greater the overlap must be by another reading: where it is so for many people, and else."""
PERCENT_END, PERCENT_LEAST_PX, PERCENT_LEAST_BOXES = 100.5, 200, 5
"""Boxes look like percent where all of so many end before the first number, though most photos have so many
pixels each way."""
LEAST_AREA = 0.05
"""Least area as a share of the box; the people of COCO have 0.16 to 0.95."""
LEAST_MEDIAN_AREA = 0.15
"""The smallest median of these shares that is accepted; that of COCO is 0.53."""
LEAST_AREAS = 5
"""The number of people from which that median is judged."""
AREA_ROUNDING_PX = 2.0
"""By how much a box is made wider and higher before an area counts as too large for it."""

_BOXES_OF_JOINTS = "or have boxes made from the joints (source.name=coco-style source.joint_boxes.use=always)"
_WRITE_BOX = (
    "correct the boxes (COCO's are x, y of the upper left corner, width, height in pixels; YOLO's are x, y "
    f"of the centre, width, height in shares of the photo), {_BOXES_OF_JOINTS}"
)


def _note(what: str, cure: str) -> Fault:
    return Fault(what, "kept", cure, is_identity=False)


NOT_FITTING = _note(
    "joints and box do not fit each other",
    f"look at the sheet that check=only draws; correct keypoints, bbox or image_id, {_BOXES_OF_JOINTS}",
)
AT_ORIGIN = _note(
    "labelled joint at exactly (0, 0) or (-1, -1), as if it were missing",
    "write 0, 0, 0 for a joint that is not labelled, or take all joints at these places as not labelled "
    "(source.name=coco-style source.labelled_by=place)",
)
AT_ONE_POINT = _note(
    "several labelled joints at exactly one point", "write 0, 0, 0 for a joint that is not labelled"
)
UNLABELLED = _note(
    "coordinates are given, but no joint is labelled (v = 0 for all)",
    "give source.name=coco-style source.labelled_by=place to take them as labelled; without it they are not",
)
AREA_ABOVE = _note(
    "area greater than the box",
    "correct area (in pixels of the photo; OKS depends on it), or remove it: it is then taken from the box",
)
AREA_BELOW = _note(f"area below {LEAST_AREA:.0%} of the box", AREA_ABOVE.cure)
AREAS_BELOW = _note(
    f"area below {LEAST_MEDIAN_AREA:.0%} of the box, as in most of the file",
    "see whether areas and boxes are in the same pixels, and correct area (OKS depends on it), or remove it: "
    "it is then taken from the box",
)

ALL_PERCENT = _note(
    "joints and boxes look like percent of the photo",
    "multiply x and width by the width of the photo / 100, y and height by its height / 100",
)

Reading = Callable[[Array, Array, Array], tuple[Array, Array]]
"""From points (N, K, 2), boxes (N, 4) and sizes of the photos (N, 2), all as the file has them, to points and
boxes x, y, w, h in pixels."""


def _from_lowest_joint(points: Array, boxes: Array, _: Array) -> tuple[Array, Array]:
    """Boxes that begin at the origin, begun at the joints instead; all others become empty."""
    low, high = np.fmin.reduce(points, axis=1), boxes[:, :2] + boxes[:, 2:]
    begins_at_origin = (np.abs(boxes[:, :2]) <= 1).all(axis=1, keepdims=True)
    return points, np.where(begins_at_origin, np.hstack([low, high - low]), 0)


def _mirrored(points: Array, sizes: Array, axis: int) -> Array:
    points = points.copy(order="K")
    points[..., axis] = sizes[:, None, axis] - 1 - points[..., axis]
    return points


READINGS: dict[Fault, Reading] = {
    _note("box looks like corners (x1, y1, x2, y2)", _WRITE_BOX): lambda p, b, _: (
        p,
        np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]),
    ),
    _note("box looks like centre and size", _WRITE_BOX): lambda p, b, _: (
        p,
        np.hstack([b[:, :2] - b[:, 2:] / 2, b[:, 2:]]),
    ),
    _note("box looks as if its corner had been taken for its centre", _WRITE_BOX): lambda p, b, _: (
        p,
        np.hstack([b[:, :2] + b[:, 2:] / 2, b[:, 2:]]),
    ),
    _note("box looks as if its corners had been taken for centre and size", _WRITE_BOX): lambda p, b, _: (
        p,
        np.hstack([b[:, :2] + b[:, 2:] / 2, b[:, 2:] / 2 - b[:, :2]]),
    ),
    _note("box begins at (0, 0), as if a missing joint had been counted in", _WRITE_BOX): _from_lowest_joint,
    _note("box looks like percent of the photo", _WRITE_BOX): lambda p, b, s: (p, b * np.tile(s, 2) / 100),
    _note(
        "x and y look exchanged between joints and box",
        "write keypoints as x, y, v and bbox as x, y, width, height",
    ): lambda p, b, _: (p, b[:, [1, 0, 3, 2]]),
    _note(
        "joints look like shares of the photo (0..1)",
        "multiply x by the width of the photo and y by its height",
    ): lambda p, b, s: (p * s[:, None], b),
    _note(
        "joints look like percent of the photo",
        "multiply x by the width of the photo / 100 and y by its height / 100",
    ): lambda p, b, s: (p * s[:, None] / 100, b),
    _note("joints look counted from the corner of the box", "add x and y of bbox to the joints"): (
        lambda p, b, _: (p + b[:, None, :2], b)
    ),
    _note("joints look mirrored", "mirror the joints, or the photo"): (
        lambda p, b, s: (_mirrored(p, s, 0), b)
    ),
    _note("joints look counted from the lower edge of the photo", "write y as height - 1 - y"): (
        lambda p, b, s: (_mirrored(p, s, 1), b)
    ),
}
"""Other readings of joints and boxes, each with the note for people who fit only in that reading."""


class Fits(NamedTuple):
    """What a comparison of N people shows.

    is_judged (N,): has a labelled joint. misfit: why joints and box do not fit; "" where they do.
    reading_ratio (R, N): the overlap by each of `READINGS` over that as the file stands, 0 where the joints
    do not fit by the reading, or it is below `BETTER`. ends (N, 2): of the boxes, at the lower right.
    sizes_wh (N, 2): of the photos.
    """

    ids: Sequence[int]
    is_judged: Array
    misfit: list[str]
    reading_ratio: Array
    ends: Array
    sizes_wh: Array


def compare(ids: Sequence[int], keypoints: Array, boxes_xywh: Array, sizes_wh: Array) -> Fits:
    """Compare joints and box of some people.

    keypoints (N, K, 3): those with v = 0, and those at exactly (0, 0) or (-1, -1), do not count. boxes_xywh
    (N, 4): as the file has them, not clipped. sizes_wh (N, 2): nan where not known.
    """
    is_labelled = (keypoints[..., 2] > 0) & ~is_at_origin(keypoints)
    points = np.where(is_labelled[..., None], keypoints[..., :2].astype(np.float64), np.nan)
    count = is_labelled.sum(axis=1)
    extent = _extent(points)
    overlap = _overlap(extent, boxes_xywh)
    outside = count - _count_inside(points, boxes_xywh)
    span = (extent[1] - extent[0]) / np.maximum(boxes_xywh[:, 2:], 1)
    is_outside = (count > 0) & (outside >= MOST_OUTSIDE * count)
    is_small = (count >= SPANNING_JOINTS) & (span.max(axis=1) < LEAST_SPAN)
    is_large = (count > 0) & (span.max(axis=1) > MOST_SPAN)
    misfit = [""] * len(ids)
    for index in np.flatnonzero(is_outside | is_small | is_large):
        misfit[index] = f"the joints span {span[index].max():.2g} of the box"
        if is_outside[index]:
            misfit[index] = f"{outside[index]} of {count[index]} labelled joints lie outside the box"
    ratios = []
    for read in READINGS.values():
        read_points, read_boxes = read(points, boxes_xywh, sizes_wh)
        read_extent = extent
        if read_points is not points:
            read_points = np.where(_is_beyond(read_points, sizes_wh), np.nan, read_points)
            read_extent = _extent(read_points)
        read_overlap = _overlap(read_extent, read_boxes)
        ratio = read_overlap / np.maximum(overlap, 1e-6)
        is_better = (count >= min(READING_JOINTS, keypoints.shape[1])) & (ratio >= BETTER)
        better = np.flatnonzero(is_better & (read_overlap > READING_OVERLAP))
        inside = _count_inside(read_points[better], read_boxes[better])
        fitting = better[inside >= READING_INSIDE * count[better]]
        ratios.append(np.zeros(len(ids)))
        ratios[-1][fitting] = ratio[fitting]
    ends = boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    return Fits(ids, count > 0, misfit, np.stack(ratios), ends, sizes_wh)


def _is_beyond(points: Array, sizes_wh: Array) -> Array:
    """Whether (N, K, 1) points are far beyond their photo; False if its size is not known."""
    low, high = -GROWN_BY * sizes_wh[:, None], (1 + GROWN_BY) * sizes_wh[:, None]
    is_beyond = np.logical_or(points < low, points > high)
    return np.asarray(is_beyond.any(axis=2, keepdims=True))


def is_at_origin(keypoints: Array) -> Array:
    """Whether (N, K) keypoints are at exactly (0, 0) or (-1, -1), where many tools put missing ones."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    return (x == y) & ((x == 0) | (x == -1))


def _extent(points: Array) -> tuple[Array, Array]:
    """The lowest and the highest x and y, both (N, 2), of points (N, K, 2); nan does not count."""
    return np.fmin.reduce(points, axis=1), np.fmax.reduce(points, axis=1)


def _overlap(extent: tuple[Array, Array], boxes: Array) -> Array:
    """The IoU (N,) of extents of points and boxes; 0 where a box is empty, or no point counts."""
    (low, high), start, sides = extent, boxes[:, :2], boxes[:, 2:]
    shared = np.clip(np.minimum(high, start + sides) - np.maximum(low, start), 0, None).prod(axis=1)
    extent_area, area = np.maximum(high - low, 1).prod(axis=1), np.maximum(sides, 1).prod(axis=1)
    is_box = (sides > 0).all(axis=1) & ~np.isnan(low[:, 0])
    return np.where(is_box, shared / (extent_area + area - shared), 0)


def _count_inside(points: Array, boxes: Array) -> Array:
    """How many points (N,) are inside the extended box; nan and empty boxes do not count."""
    start, sides = boxes[:, :2], boxes[:, 2:]
    margin = GROWN_BY * sides
    is_inside = (points >= (start - margin)[:, None]) & (points <= (start + sides + margin)[:, None])
    return np.where((sides > 0).all(axis=1), is_inside.all(axis=2).sum(axis=1), 0)


def note_fits(fits: Sequence[Fits], findings: Findings) -> None:
    """Add what the comparisons of all people show.

    A reading that fits many people better is accepted for all people that it fits better, any other only for
    people that it fits much better. If several readings fit a person about equally well, the one that fits
    the most people counts.
    """
    if not fits:
        return
    ids = [each for fit in fits for each in fit.ids]
    misfit = [each for fit in fits for each in fit.misfit]
    ratios = np.concatenate([fit.reading_ratio for fit in fits], axis=1)
    judged = sum(int(fit.is_judged.sum()) for fit in fits)
    for ratio in ratios:
        is_established = is_many(int((ratio >= BETTER).sum()), judged)
        ratio[ratio < (BETTER if is_established else MUCH_BETTER)] = 0
    faults = list(READINGS)
    about_as_good = (ratios > 0) & (ratios >= ratios.max(axis=0) / BETTER)
    num_people = (ratios > 0).sum(axis=1, keepdims=True)
    best = np.where(about_as_good, num_people, -1).argmax(axis=0)
    fits_better, is_misfit = about_as_good.any(axis=0), np.array([reason != "" for reason in misfit])
    for index in np.flatnonzero(fits_better | is_misfit).tolist():
        fault = faults[best[index]] if fits_better[index] else NOT_FITTING
        findings.add(fault, ids[index], misfit[index])
    for fault in (*faults, NOT_FITTING):
        findings.warn_if_many(fault, judged)
    ends, sizes_wh = (np.concatenate([getattr(fit, key) for fit in fits]) for key in ("ends", "sizes_wh"))
    if not findings.warnings() and are_percent(ends, sizes_wh):
        for record in ids:
            findings.add(ALL_PERCENT, record)
        findings.warn_if_many(ALL_PERCENT, len(ids))


def are_percent(ends: Array, sizes_wh: Array) -> bool:
    """Whether boxes that end at these points (N, 2) look like percent of photos of such sizes (N, 2)."""
    is_within = len(ends) >= PERCENT_LEAST_BOXES and bool(ends.max() <= PERCENT_END)
    return is_within and bool((np.median(sizes_wh, axis=0) >= PERCENT_LEAST_PX).all())


def note_missing(ids: Sequence[int], keypoints: Array, findings: Findings) -> None:
    """Add people with labelled joints where tools put missing ones, or with coordinates but no label."""
    is_labelled = keypoints[..., 2] > 0
    places = np.where(is_labelled, keypoints[..., 0] + 1j * keypoints[..., 1], np.nan)
    in_order = np.sort(places, axis=1)
    at_origin = is_labelled & is_at_origin(keypoints)
    has_place = (keypoints[..., :2] != 0).any(axis=(1, 2))
    checks = {
        AT_ORIGIN: at_origin.any(axis=1),
        AT_ONE_POINT: (in_order[:, 1:] == in_order[:, :-1]).any(axis=1) & ~at_origin.any(axis=1),
        UNLABELLED: has_place & ~is_labelled.any(axis=1),
    }
    for fault, has_it in checks.items():
        for index in np.flatnonzero(has_it).tolist():
            findings.add(fault, ids[index])


def note_areas(ids: Sequence[int], areas: Array, boxes_xywh: Array, findings: Findings) -> None:
    """Add people whose area (N,), where above 0, is none that a person in such a box (N, 4) can have.

    These are all people: where half of them have small areas, smaller ones are named, too.
    """
    sides = boxes_xywh[:, 2:]
    in_box = sides.prod(axis=1)
    has_both = (sides > 0).all(axis=1) & (areas > 0)
    largest = (sides + AREA_ROUNDING_PX).prod(axis=1)
    is_below = areas < LEAST_AREA * in_box
    shares = (areas / np.where(has_both, in_box, 1))[has_both]
    are_below = len(shares) >= LEAST_AREAS and np.median(shares) < LEAST_MEDIAN_AREA
    for fault, has_it in (
        (AREA_ABOVE, areas > largest),
        (AREA_BELOW, is_below),
        (AREAS_BELOW, (areas < LEAST_MEDIAN_AREA * in_box) & ~is_below & are_below),
    ):
        for index in np.flatnonzero(has_it & has_both).tolist():
            findings.add(fault, ids[index], f"{areas[index]:.4g} px in a box of {in_box[index]:.4g} px")
