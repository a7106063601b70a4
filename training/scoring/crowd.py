"""CrowdPose's average precision of easy, medium and hard photos, by how crowded they are."""

from typing import Any

from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.scoring import oks

LEAST_CROWD_INDEX = {"AP-easy": 0.0, "AP-medium": 0.2, "AP-hard": 0.8}
"""The least crowd index of the photos of each score. The paper's text says 0.1 and 0.8; its evaluator, and
with it all published numbers, use 0.2 and 0.8."""


def score(ground_truth: GroundTruth, predictions: list[dict[str, Any]]) -> dict[str, float]:
    """The AP over the photos of each part alone, in 0..1, by the names in LEAST_CROWD_INDEX.

    `predictions` are as in `oks.score`. A part is left out if none of its photos shows a
    person who is scored (CrowdPose's evaluator gives it -1); nothing is returned unless the annotation file
    gives every photo a `crowdIndex`. It cannot be computed instead: CrowdPose's own indices are not exactly
    what its annotations give.
    """
    images = ground_truth.images
    if not all("crowdIndex" in image for image in images):
        return {}
    scores = {}
    limits = [*LEAST_CROWD_INDEX.values(), float("inf")]
    for name, least, below in zip(LEAST_CROWD_INDEX, limits[:-1], limits[1:], strict=True):
        ids = {image["id"] for image in images if least <= image["crowdIndex"] < below}
        truth = ground_truth.of_photos(ids)
        if truth.scored:
            results = [row for row in predictions if row["image_id"] in ids]
            scores[name] = oks.score(truth, results)["AP"]
    return scores
