"""PCKh: the share of keypoints that land within a fraction of the head's size from the truth."""

from collections.abc import Sequence

import numpy as np

THRESHOLD = 0.5
STRICT_THRESHOLD = 0.1
HEAD_OF_DIAGONAL = 0.6
"""MPII's head size over the diagonal of the head box."""
NOT_SCORED = ("pelvis", "thorax")
GROUPS = {
    "Head": ("head_top",),
    "Shoulder": ("left_shoulder", "right_shoulder"),
    "Elbow": ("left_elbow", "right_elbow"),
    "Wrist": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ankle": ("left_ankle", "right_ankle"),
}
"""Rows of the published tables; a row is the plain mean of its joints."""


def pckh(
    predicted: np.ndarray, truth: np.ndarray, head_diagonals: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """MPII's PCKh@0.5 (docs/methods.md 7): head size 0.6 of the head diagonal, no pelvis or thorax.

    `predicted` (N, K, 2) and `truth` (N, K, 3: x, y, v) in source px, `head_diagonals` (N,) px, NaN for
    people without a head box, who are not scored. Joints count if they are labelled (v > 0). Returns shares
    in 0..1: "PCKh" (over all counted joints, so joints weigh by how often they are labelled), "PCKh@0.1", and
    "PCKh/<row>" for each row of the tables that has labelled joints. Nothing if nobody can be scored.
    Differs from the published code: its column 0.1 reads 0.11.
    """
    head_px = HEAD_OF_DIAGONAL * np.asarray(head_diagonals, np.float64)
    errors, counted = errors_in_heads(predicted, truth, head_px)
    counted = counted & ~np.isin(names, NOT_SCORED)
    if not counted.any():
        return {}
    strict = float((errors[counted] <= STRICT_THRESHOLD).mean())
    return {**rows("PCKh", errors <= THRESHOLD, counted, names), "PCKh@0.1": strict}


def errors_in_heads(
    predicted: np.ndarray, truth: np.ndarray, head_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (N, K) in head sizes (N,), and where they count, bool: labelled, and the head has a size."""
    usable = np.isfinite(head_px) & (head_px > 0)
    distances_px = np.linalg.norm(
        np.asarray(predicted, np.float64) - np.asarray(truth[..., :2], np.float64), axis=-1
    )
    errors = distances_px / np.where(usable, head_px, 1.0)[:, None]
    return errors, (truth[..., 2] > 0) & usable[:, None]


def rows(prefix: str, hits: np.ndarray, counted: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """`prefix`: the share of hits (N, K) among all counted joints; `prefix/<row>`: the rows of the tables."""
    labelled = counted.sum(axis=0)
    shares = (hits & counted).sum(axis=0) / np.maximum(labelled, 1)
    scores = {prefix: float((hits & counted).sum() / counted.sum())}
    for row, joints in GROUPS.items():
        places = [names.index(joint) for joint in joints if joint in names]
        places = [place for place in places if labelled[place]]
        if places:
            scores[f"{prefix}/{row}"] = float(shares[places].mean())
    return scores
