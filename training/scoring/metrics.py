"""Decides which metrics the people of a split can be scored by, and computes all scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.skeleton import AIC_14, Skeleton
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.predict import Predictions
from semipose.training.scoring import aic, crowd, oks, pck, pckh
from semipose.training.scoring.settings import Metric

NEEDS: dict[Metric, str] = {
    "AP": "annotated keypoints",
    "PCK": f"annotated boxes and keypoints named {' and '.join(pck.TORSO)}",
    "PCKh": "annotated boxes and the head boxes of MPII (source.head_boxes of its shards)",
    "AIC": "AI Challenger's 14 keypoints",
}


def metrics_of(ground_truth: GroundTruth, kind: str = "person") -> tuple[Metric, ...]:
    """The metrics that a split with this truth, and samples of this kind, can give.

    PCK and PCKh compare each person with the truth of the same person, so people with a detector's box, who
    belong to no annotated person, have neither; AP and AIC match people within a photo. Whole photos have
    only AP, because AIC counts all predicted people whatever their scores.
    """
    if not ground_truth.scored:
        return ()
    if kind == "image":
        return ("AP",)
    names, is_annotated = ground_truth.skeleton.names, not ground_truth.is_detected
    gives: dict[Metric, bool] = {
        "AP": True,
        "PCK": is_annotated and pck.has_torso(names),
        "PCKh": is_annotated and any("head_bbox" in row for row in ground_truth.annotations),
        "AIC": names == AIC_14.names,
    }
    return tuple(metric for metric, is_given in gives.items() if is_given)


def require(metric: Metric, ground_truth: GroundTruth, *, where: str, kind: str = "person") -> None:
    """Raise InputError if the split `where`, with samples of this kind, cannot give the metric."""
    given = metrics_of(ground_truth, kind)
    if metric not in given:
        boxes = ", and its people come from a detector" if ground_truth.is_detected else ""
        boxes = ", because its samples are whole photos" if kind == "image" and given else boxes
        cure = f"take metric={given[0]}" if given else "score on annotated people"
        raise InputError(
            f"metric: {metric} needs {NEEDS[metric]}, which {where} does not have{boxes}: {cure}"
        )


def coco_results(
    predictions: Predictions, skeleton: Skeleton, *, category_id: int | Sequence[int] = 1
) -> list[dict[str, Any]]:
    """COCO result entries; those of people in views of their own are rescored, and go through OKS-NMS.

    category_id: of all people or of each, in the file that scores the results: that of the ground
    truth of shards (`category`), or those of the annotation file (`categories_of`).
    A person's score is that of its box (1 for an annotated one) times the mean of its peaks above 0.2; in a
    whole photo it is the codec's, which has dropped duplicates too. The third number of a keypoint is its
    peak. There is no `bbox`: pycocotools then takes the extent of the keypoints as the detection's area. The
    published entries have one, which changes APM and APL a little and nothing else.
    """
    records, scores = predictions.record_rows, predictions.scores
    if scores is None:
        box_scores = np.array([record.get("score", 1.0) for record in records], np.float64)
        scores = oks.person_score(box_scores, predictions.peaks)
    keypoints = np.concatenate([predictions.points_xy, predictions.peaks[..., None]], axis=-1)
    rows = keypoints.astype(np.float64).round(3).reshape(len(keypoints), 3 * skeleton.num_keypoints).tolist()
    ids = [category_id] * len(rows) if isinstance(category_id, int) else category_id
    results = [
        {"image_id": record["image_id"], "category_id": category, "keypoints": row, "score": score}
        for record, category, row, score in zip(records, ids, rows, scores.tolist(), strict=True)
    ]
    if predictions.kind == "image":
        return results
    return oks.oks_nms(results, predictions.areas, skeleton.sigmas)


def score(
    predictions: Predictions, results: list[dict[str, Any]], ground_truth: GroundTruth
) -> dict[str, float]:
    """All scores of the people, by name, in 0..1; `results` are their `coco_results`.

    The first name of each metric is its own; names with a slash are of a joint or a group of joints.
    """
    given, names = metrics_of(ground_truth, predictions.kind), ground_truth.skeleton.names
    scores = oks.score(ground_truth, results) | crowd.score(ground_truth, results)
    if predictions.kind == "image":
        return scores
    records, points_xy = predictions.records, predictions.points_xy
    truth = ground_truth.keypoints_of(records)
    if "PCK" in given:
        scores |= pck.pck(points_xy, truth, names)
    if "PCKh" in given:
        scores |= pckh.pckh(points_xy, truth, ground_truth.head_diagonals_of(records), names)
    if "AIC" in given:
        photos = [record["image_id"] for record in records]
        scores["AIC"] = aic.mean_precision(points_xy, photos, ground_truth)
        if not ground_truth.is_detected:
            scores |= aic.head_pck(points_xy, truth, names)
    return scores
