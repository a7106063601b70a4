"""What the ground truth of a split (sharding/store/truth.py) says of the people that are scored."""

from collections import Counter
from typing import Any

import numpy as np


def is_detected(ground_truth: dict[str, Any]) -> bool:
    """Whether the people of the split are a detector's boxes, which belong to no annotated person."""
    return "detections" in ground_truth


def category_id_of(ground_truth: dict[str, Any]) -> int:
    """The one category of a ground truth, by which results are scored."""
    category_id: int = ground_truth["categories"][0]["id"]
    return category_id


def categories_of(records: list[dict[str, Any]], ground_truth: dict[str, Any]) -> list[int]:
    """The category of each person in the file that the people were annotated in, which results must carry.

    It differs from `category_id_of` where categories of one keypoint set were read together. People who are
    found in whole photos, whose `records` are the photos', then have the category of most people.
    """
    one = category_id_of(ground_truth)
    if is_detected(ground_truth):
        return [one] * len(records)
    rows = ground_truth["annotations"]
    if any("ids" in record for record in records):
        counts = Counter(row["source_category_id"] for row in rows if "source_category_id" in row)
        return [counts.most_common(1)[0][0] if counts else one] * len(records)
    by_id = {row["id"]: row.get("source_category_id", one) for row in rows}
    return [by_id[record["id"]] for record in records]


def keypoints_of(
    records: list[dict[str, Any]], ground_truth: dict[str, Any], *, num_keypoints: int
) -> np.ndarray:
    """The annotated keypoints (M, K, 3) of some people, float32, source px; of a detector's people zeros."""
    if is_detected(ground_truth) or not records:
        return np.zeros((len(records), num_keypoints, 3), np.float32)
    by_id = {row["id"]: row["keypoints"] for row in ground_truth["annotations"]}
    return np.array([by_id[record["id"]] for record in records], np.float32).reshape(-1, num_keypoints, 3)


def people_of_photos(
    records: list[dict[str, Any]], ground_truth: dict[str, Any], *, num_keypoints: int
) -> list[np.ndarray]:
    """The annotated keypoints (P, K, 3) of the people of each photo, float32, source px, in stored order."""
    by_id = {row["id"]: row["keypoints"] for row in ground_truth["annotations"]}
    return [
        np.array([by_id[person] for person in record["ids"]], np.float32).reshape(-1, num_keypoints, 3)
        for record in records
    ]


def head_diagonals_of(records: list[dict[str, Any]], ground_truth: dict[str, Any]) -> np.ndarray:
    """The diagonals (M,) of the head boxes, float64, source px; NaN for people without one."""
    by_id = {row["id"]: row["head_bbox"] for row in ground_truth["annotations"] if "head_bbox" in row}
    none = (np.nan,) * 4
    boxes = np.array([by_id.get(record["id"], none) for record in records], np.float64).reshape(-1, 4)
    return np.asarray(np.hypot(boxes[:, 2], boxes[:, 3]))
