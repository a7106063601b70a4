"""AI Challenger's own metrics: the challenge's mean precision, and PCK by the size of the head."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.scoring.pckh import THRESHOLD, errors_in_heads, rows

OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
UNKNOWN_HEAD_PX = 95.0
VISIBLE = 2
"""The visibility that sharding gives to joints with flag 1 in the list (flag 2, occluded, becomes 1)."""


def mean_precision(points_xy: np.ndarray, image_ids: Sequence[Any], ground_truth: GroundTruth) -> float:
    """The challenge's score (docs/methods.md 7), in 0..1.

    points_xy (M, K, 2) of all predicted people, source px, and their photos. Every annotated person takes the
    best OKS of any prediction of its photo; the score is the mean over the thresholds 0.5, 0.55 .. 0.95 of
    (annotated people with a greater OKS) / (sum over photos of the larger of both counts). OKS as in the
    challenge's scorer: over the visible joints alone (not the occluded ones), by the box's area + 1; a person
    without a visible joint has an OKS of 0 and counts. Confidences play no part, and duplicates are kept.
    """
    of_photo: dict[Any, list[int]] = {row["id"]: [] for row in ground_truth.images}
    for index, image_id in enumerate(image_ids):
        of_photo[image_id].append(index)
    people_of: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in of_photo}
    for row in ground_truth.annotations:
        people_of[row["image_id"]].append(row)
    best = []
    count = 0
    for image_id, people in people_of.items():
        found = points_xy[of_photo[image_id]]
        count += max(len(people), len(found))
        if people and len(found):
            best.append(_oks(people, found, ground_truth.skeleton.sigmas).max(axis=1))
    if not best:
        return 0.0
    return float((np.concatenate(best)[:, None] > OKS_THRESHOLDS).sum(axis=0).mean() / count)


def _oks(people: list[dict[str, Any]], found: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """OKS (G, P) of G annotated people with P predictions (P, K, 2)."""
    truth = np.array([row["keypoints"] for row in people], np.float64).reshape(len(people), -1, 3)
    areas = np.array([row["area"] for row in people], np.float64)
    visible = truth[..., 2] == VISIBLE
    squared = ((truth[:, None, :, :2] - found[None].astype(np.float64)) ** 2).sum(axis=-1)
    scale = 2 * (2 * np.asarray(sigmas, np.float64)) ** 2 * (areas[:, None, None] + 1)
    similarity = np.exp(-squared / scale) * visible[:, None]
    return np.asarray(similarity.sum(axis=-1) / np.maximum(visible.sum(axis=-1), 1)[:, None])


def head_pck(predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Share of joints within half a head of the truth: "AIC-PCKh" and its rows, in 0..1.

    `predicted` (N, K, 2), `truth` (N, K, 3: x, y, v), source px. The head is the distance from the top of the
    head to the neck, 95 px if one of them is not labelled, without MPII's 0.6 (docs/methods.md 7).
    Labelled joints count, visible or occluded, each as often as it is labelled.
    """
    top, neck = truth[:, names.index("head_top")], truth[:, names.index("neck")]
    distance_px = np.linalg.norm(top[:, :2].astype(np.float64) - neck[:, :2], axis=-1)
    known = (top[:, 2] > 0) & (neck[:, 2] > 0) & (distance_px > 0)
    errors, counted = errors_in_heads(predicted, truth, np.where(known, distance_px, UNKNOWN_HEAD_PX))
    return rows("AIC-PCKh", errors <= THRESHOLD, counted, names) if counted.any() else {}
