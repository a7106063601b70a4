"""Decides which metrics the people of a split can be scored by, and computes all scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from semipose.configs.load import InputError
from semipose.sharding.annotations.skeleton import AIC_14, Skeleton
from semipose.training.predict import Predictions
from semipose.training.scoring import aic, crowd, oks, pck, pckh
from semipose.training.scoring.settings import Metric
from semipose.training.scoring.truth import head_diagonals_of, is_detected, keypoints_of

NEEDS: dict[Metric, str] = {
    "AP": "annotated keypoints",
    "PCK": f"annotated boxes and keypoints named {' and '.join(pck.TORSO)}",
    "PCKh": "annotated boxes and the head boxes of MPII (source.head_boxes of its shards)",
    "AIC": "AI Challenger's 14 keypoints",
}


def metrics_of(ground_truth: dict[str, Any], skeleton: Skeleton, kind: str = "person") -> tuple[Metric, ...]:
    """The metrics that a split with this truth, and samples of this kind, can give.

    PCK and PCKh compare each person with the truth of the same person, so people with a detector's box, who
    belong to no annotated person, have neither; AP and AIC match people within a photo. Whole photos have
    only AP, because AIC counts all predicted people whatever their scores.
    """
    rows = ground_truth["annotations"]
    if not any(row.get("num_keypoints") and not row.get("iscrowd") for row in rows):
        return ()
    if kind == "image":
        return ("AP",)
    is_annotated = not is_detected(ground_truth)
    gives: dict[Metric, bool] = {
        "AP": True,
        "PCK": is_annotated and pck.has_torso(skeleton.names),
        "PCKh": is_annotated and any("head_bbox" in row for row in rows),
        "AIC": skeleton.names == AIC_14.names,
    }
    return tuple(metric for metric, is_given in gives.items() if is_given)


def require(
    metric: Metric, ground_truth: dict[str, Any], skeleton: Skeleton, *, where: str, kind: str = "person"
) -> None:
    """Raise InputError if the split `where`, with samples of this kind, cannot give the metric."""
    given = metrics_of(ground_truth, skeleton, kind)
    if metric not in given:
        boxes = ", and its people come from a detector" if is_detected(ground_truth) else ""
        boxes = ", because its samples are whole photos" if kind == "image" and given else boxes
        cure = f"take metric={given[0]}" if given else "score on annotated people"
        raise InputError(
            f"metric: {metric} needs {NEEDS[metric]}, which {where} does not have{boxes}: {cure}"
        )


def coco_results(
    predictions: Predictions, skeleton: Skeleton, *, category_id: int | Sequence[int] = 1
) -> list[dict[str, Any]]:
    """COCO result entries; those of people in views of their own are rescored, and go through OKS-NMS.

    category_id: of all people or of each, in the file that scores the results: `truth.category_id_of` for the
    ground truth of shards, `truth.categories_of` for the annotation file.
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
    predictions: Predictions,
    results: list[dict[str, Any]],
    ground_truth: dict[str, Any],
    skeleton: Skeleton,
) -> dict[str, float]:
    """All scores of the people, by name, in 0..1; `results` are their `coco_results`.

    The first name of each metric is its own; names with a slash are of a joint or a group of joints.
    """
    given = metrics_of(ground_truth, skeleton, predictions.kind)
    scores = oks.score(ground_truth, results, skeleton.sigmas)
    scores |= crowd.score(ground_truth, results, skeleton.sigmas)
    if predictions.kind == "image":
        return scores
    records, points_xy = predictions.records, predictions.points_xy
    truth = keypoints_of(records, ground_truth, num_keypoints=skeleton.num_keypoints)
    if "PCK" in given:
        scores |= pck.pck(points_xy, truth, skeleton.names)
    if "PCKh" in given:
        heads_px = head_diagonals_of(records, ground_truth)
        scores |= pckh.pckh(points_xy, truth, heads_px, skeleton.names)
    if "AIC" in given:
        photos = [record["image_id"] for record in records]
        scores["AIC"] = aic.mean_precision(points_xy, photos, ground_truth, skeleton.sigmas)
        if not is_detected(ground_truth):
            scores |= aic.head_pck(points_xy, truth, skeleton.names)
    return scores
