"""PCK: the share of keypoints that land within a fraction of the person's torso from the truth."""

from collections.abc import Sequence

import numpy as np

from semipose.configs.load import InputError

THRESHOLD = 0.2
TORSO = ("left_shoulder", "right_hip")


def has_torso(names: Sequence[str]) -> bool:
    """Whether PCK can be measured on this skeleton at all."""
    return set(TORSO) <= set(_plain(names))


def torso_joints(names: Sequence[str]) -> tuple[int, int]:
    """Indices of the left shoulder and the right hip. Raises InputError if the skeleton lacks one of them."""
    plain = _plain(names)
    if not has_torso(names):
        raise InputError(
            f"PCK measures by {' and '.join(TORSO)}, but the skeleton has only {', '.join(names)}: "
            "score this set by OKS instead."
        )
    return plain.index(TORSO[0]), plain.index(TORSO[1])


def pck(
    predicted: np.ndarray, truth: np.ndarray, names: Sequence[str], *, threshold: float = THRESHOLD
) -> dict[str, float]:
    """Share of joints with distance(predicted, truth) <= threshold * distance(left shoulder, right hip).

    `predicted` (N, K, 2) and `truth` (N, K, 3: x, y, v) in one frame (source pixels). A joint counts if it is
    labelled (v > 0), whether visible or occluded. A prediction that is not finite is a miss. People without a
    usable torso are left out: one of its two joints is unlabelled, or both are at the same point. Returns
    shares in 0..1: "PCK" (over all counted joints), "PCK/<joint>" for every joint that is labelled; nothing
    if nobody can be scored. Raises InputError if the skeleton has no torso.
    """
    shoulder, hip = torso_joints(names)
    if predicted.shape != (*truth.shape[:2], 2) or truth.shape[1:] != (len(names), 3):
        raise ValueError(
            f"predicted {predicted.shape} and truth {truth.shape} do not fit {len(names)} joints"
        )
    points = np.asarray(truth[..., :2], dtype=np.float64)
    labelled = truth[..., 2] > 0
    torso_px = np.linalg.norm(points[:, shoulder] - points[:, hip], axis=-1)
    usable = labelled[:, shoulder] & labelled[:, hip] & (torso_px > 0)
    errors_px = np.linalg.norm(np.asarray(predicted, dtype=np.float64) - points, axis=-1)
    counted = labelled & usable[:, None]
    hits = counted & (errors_px <= threshold * torso_px[:, None])
    scores = {"PCK": float(hits.sum() / counted.sum())} if usable.any() else {}
    for joint, name in enumerate(names):
        if counted[:, joint].any():
            scores[f"PCK/{name}"] = float(hits[:, joint].sum() / counted[:, joint].sum())
    return scores


def _plain(names: Sequence[str]) -> list[str]:
    return [name.lower().replace(" ", "_").replace("-", "_") for name in names]
