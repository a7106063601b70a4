"""Checks that the members of one sample are what a build writes."""

from collections.abc import Mapping

import msgspec
import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.limits import FAR, is_far
from semipose.sharding.samples.crop import move_box, move_keypoints
from semipose.sharding.samples.decode import decode_photo
from semipose.sharding.samples.ignored_area import MASK_BYTES
from semipose.sharding.samples.sample import Card, Poses, SampleKind

_CURE = "build the shards again"
TRUTH_TOLERANCE_PX = 0.05
"""The error in source pixels that float32 in stored pixels may cause for a joint or a box."""

DAMAGED = Fault("picture damaged", cure=_CURE, subject="member")
NOT_FAITHFUL = Fault("picture that readers decode differently (EXIF rotation)", cure=_CURE, subject="member")
BAD_POSE = Fault("pose record that is not of this skeleton", cure=_CURE, subject="member")
NOT_FINITE = Fault("number that is not finite in the pose record", cure=_CURE, subject="member")
BAD_VISIBILITY = Fault("visibility other than 0, 1 or 2", cure=_CURE, subject="member")
BAD_CONFIDENCE = Fault("confidence outside 0 to 1", cure="label them again", subject="member")
BAD_BOX = Fault("box without extent", cure=_CURE, subject="member")
OUT_OF_RANGE = Fault(
    FAR,
    cure="correct the annotations and build the shards again",
    subject="member",
)
BAD_MASK = Fault(f"mask that has not {MASK_BYTES} bytes", cure=_CURE, subject="member")
BAD_CARD = Fault("json that cannot be read or lacks a field", cure=_CURE, subject="member")
BAD_COUNTS = Fault("json and pose record disagree on the people", cure=_CURE, subject="member")
BAD_MATRIX = Fault(
    "image_from_stored that does not place the picture on its photo", cure=_CURE, subject="member"
)
NO_TRUTH = Fault(
    "annotation that ground_truth.json does not have at this place", cure=_CURE, subject="member"
)
OTHER_TRUTH = Fault(
    "joints, box, area or score other than in ground_truth.json", cure=_CURE, subject="member"
)


class _TruthRow(msgspec.Struct):
    """The row of a person; that of a box of a detector has a score and no keypoints."""

    bbox: list[float]
    area: float
    keypoints: list[float] = []
    score: float | None = None


def check_sample(
    members: Mapping[str, tuple[str, bytes]],
    findings: Findings,
    *,
    kind: SampleKind,
    num_keypoints: int,
    truth: Mapping[int, bytes] | None,
    is_taught: bool = False,
) -> list[int]:
    """Add to the findings what is wrong with one sample; returns the ids of its people.

    members: by extension, each with its name in the tar and its payload; absent ones are skipped.
    truth: the rows of ground_truth.json by id, as JSON; None if there is nothing to compare with. is_taught:
    a model labelled them, so v is its confidence.
    """
    stored_wh = _check_picture(*members["jpg"], findings) if "jpg" in members else None
    poses = _read_poses(*members["pose"], findings, kind, num_keypoints) if "pose" in members else None
    is_finite = poses is not None and _check_numbers(members["pose"][0], poses, findings, is_taught)
    card = _read_card(*members["json"], findings, kind) if "json" in members else None
    if "mask" in members and len(members["mask"][1]) != MASK_BYTES:
        findings.add(BAD_MASK, members["mask"][0], f"{len(members['mask'][1])} bytes")
    if card is None:
        return []
    name = members["json"][0]
    if not _is_placed(card, stored_wh):
        findings.add(BAD_MATRIX, name, str(card.image_from_stored.tolist()))
    elif poses is not None and is_finite:
        _check_people(name, card, poses, findings, truth)
    return list(card.ids)


def _check_picture(name: str, payload: bytes, findings: Findings) -> tuple[int, int] | None:
    """Width and height of the picture."""
    try:
        pixels, is_faithful, _ = decode_photo(payload, size_wh=None, where=name)
    except InputError as error:
        findings.add(DAMAGED, name, str(error).removeprefix(f"{name}: ").rpartition(": ")[0])
        return None
    if not is_faithful:
        findings.add(NOT_FAITHFUL, name)
    return pixels.shape[1], pixels.shape[0]


def _read_poses(
    name: str, payload: bytes, findings: Findings, kind: SampleKind, num_keypoints: int
) -> Poses | None:
    try:
        return kind.decode_pose(payload, num_keypoints)
    except (InputError, ValueError, OverflowError):  # the counts of a photo's people may be no numbers
        findings.add(BAD_POSE, name, f"{len(payload)} bytes")
        return None


def _read_card(name: str, payload: bytes, findings: Findings, kind: SampleKind) -> Card | None:
    try:
        return kind.decode_card(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        findings.add(BAD_CARD, name, str(error))
        return None


def _check_numbers(name: str, poses: Poses, findings: Findings, is_taught: bool) -> bool:
    """Whether all numbers are finite; what is wrong with them is added to the findings."""
    boxes_xywh, keypoints, _ = poses
    if not (np.isfinite(boxes_xywh).all() and np.isfinite(keypoints).all()):
        findings.add(NOT_FINITE, name)
        return False
    v = keypoints[..., 2]
    if is_taught and ((v < 0) | (v > 1)).any():
        findings.add(BAD_CONFIDENCE, name)
    if not is_taught and not np.isin(v, (0, 1, 2)).all():
        findings.add(BAD_VISIBILITY, name)
    if (boxes_xywh[:, 2:] < 0).any() or (boxes_xywh[:, 2:].max(axis=1) <= 0).any():
        findings.add(BAD_BOX, name)
    return True


def _is_placed(card: Card, stored_wh: tuple[int, int] | None) -> bool:
    """Whether the matrix is finite, has an inverse, and puts the stored picture inside its photo."""
    matrix = card.image_from_stored
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-6 or min(card.source_wh) < 1:
        return False
    if stored_wh is None:
        return True
    corners = np.array([[-0.5, -0.5], np.array(stored_wh) - 0.5]) @ matrix[:, :2].T + matrix[:, 2]
    return bool((corners > -0.51).all() and (corners < np.array(card.source_wh) - 0.49).all())


def _check_people(
    name: str,
    card: Card,
    poses: Poses,
    findings: Findings,
    truth: Mapping[int, bytes] | None,
) -> None:
    boxes_xywh, keypoints, ignored_xywh = poses
    is_same = len(card.ids) == len(card.areas) == len(boxes_xywh)
    if not is_same or card.num_ignored != len(ignored_xywh):
        findings.add(BAD_COUNTS, name)
        return
    matrix, size = card.image_from_stored, np.array(card.source_wh)
    for index, person in enumerate(card.ids):
        points = move_keypoints(keypoints[index], matrix)
        if is_far(points[points[:, 2] > 0, :2], size, tolerance_px=TRUTH_TOLERANCE_PX).any():
            findings.add(OUT_OF_RANGE, name, f"annotation {person}")
        if truth is not None and person not in truth:
            findings.add(NO_TRUTH, name, f"annotation {person}")
        elif truth is not None:
            box_xywh = move_box(boxes_xywh[index].astype(np.float64), matrix)
            if not _is_true(box_xywh, points, (card.areas[index], card.scores[index]), truth[person]):
                findings.add(OTHER_TRUTH, name, f"annotation {person}")


def _is_true(
    box_xywh: np.ndarray, points: np.ndarray, area_and_score: tuple[float, float | None], row: bytes
) -> bool:
    """Whether a person in source pixels is that of a row of the ground truth."""
    try:
        true = msgspec.json.decode(row, type=_TruthRow)
        true_points = np.array(true.keypoints).reshape(-1, 3)
    except ValueError:
        return False
    if true.score is not None:
        true_points = np.zeros_like(points)
    is_alike = len(true_points) == len(points) and len(true.bbox) == len(box_xywh)
    if not is_alike or (true.area, true.score) != area_and_score:
        return False
    is_labelled = points[:, 2] > 0
    return (
        np.array_equal(true_points[:, 2], points[:, 2])
        and np.allclose(true_points[is_labelled, :2], points[is_labelled, :2], 1e-5, TRUTH_TOLERANCE_PX)
        and np.allclose(true.bbox, box_xywh, 1e-5, TRUTH_TOLERANCE_PX)
    )
