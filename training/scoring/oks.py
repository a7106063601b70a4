"""COCO's keypoint metric, average precision over object keypoint similarity (OKS), scores of people, and NMS.

K keypoints of any number: the sigmas come from the skeleton. All coordinates are source image pixels.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from semipose.configs.load import InputError
from semipose.sharding.store.ground_truth import GroundTruth, num_labelled

SCORE_NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
MOST_PEOPLE = 20
"""pycocotools looks at so many predicted people of a photo, those with the highest scores."""
PEAK_IN_SCORE = 0.2
DUPLICATE_OKS = 0.9


def score(ground_truth: GroundTruth, predictions: list[dict[str, Any]]) -> dict[str, float]:
    """Score predictions as pycocotools does.

    `predictions` are COCO results: `image_id`, `category_id`,
    `keypoints` [x, y, anything] * K, `score`, and `bbox` in all of them or in none. A `bbox` gives the
    detection its area (as in the published evaluations); without one the extent of the keypoints does. Only
    the scores by size depend on that. Neither argument is changed.

    Returns values in 0..1 by the names in SCORE_NAMES; -1 is COCO's "no such person in the ground truth" (APM
    without medium persons). No predictions score 0. Raises InputError for input that cannot be scored.
    """
    sigmas = ground_truth.skeleton.sigmas
    truth = _truth_index(ground_truth)
    results = _result_index(truth, predictions, len(sigmas))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, results, iouType="keypoints")
        evaluator.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(SCORE_NAMES, map(float, evaluator.stats), strict=True))


def beyond_limit(ground_truth: GroundTruth) -> str | None:
    """A sentence if photos show more people than pycocotools looks at, with the highest AR that is left."""
    counts = Counter(row["image_id"] for row in ground_truth.scored)
    full = {image: count - MOST_PEOPLE for image, count in counts.items() if count > MOST_PEOPLE}
    if not full:
        return None
    beyond, people = sum(full.values()), counts.total()
    name = ground_truth.file_names[next(iter(full))]
    return (
        f"{beyond:,} of the {people:,} people who are scored are beyond the {MOST_PEOPLE} in a photo that "
        f"COCO's scorer looks at (photos with more: {len(full):,}, such as {name}), so AP and AR are "
        f"at most {1 - beyond / people:.3f}, even if all are found"
    )


def person_score(box_score: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Score of a person: its box score times the mean of those heatmap peaks that exceed 0.2.

    `box_score` (...), `peaks` (..., K) -> (...); 0 where no peak exceeds 0.2.
    """
    counted = peaks > PEAK_IN_SCORE
    total = np.where(counted, peaks, 0.0).sum(axis=-1)
    return np.asarray(box_score * total / np.maximum(counted.sum(axis=-1), 1))


def oks_matrix(keypoints: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """OKS of all pairs of M predicted persons: keypoints (M, K, 2 or more), areas (M,) in px^2 -> (M, M).

    The area of a pair is the mean of both; every keypoint counts, for predictions have no visibility.
    """
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    points = np.asarray(keypoints, dtype=np.float64)[..., :2]
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    pair_area = (areas[:, None] + areas[None]) / 2 + np.spacing(1)
    return np.asarray(np.exp(-squared / variances / pair_area[..., None] / 2).mean(axis=-1))


def oks_to_truth(
    points: np.ndarray,
    truth: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """OKS of P predicted and G annotated people: (P, K, 2), (G, K, 3), (G,) px^2 -> (P, G).

    The mean over the labelled keypoints of each annotated person, who has at least one; all in one frame.
    counted: (P, K) bool, the predicted keypoints to look at (without it, all of them); 0 for people who
    share no keypoint.
    """
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    squared = ((points[:, None].astype(np.float64) - truth[None, ..., :2]) ** 2).sum(axis=-1)
    labelled = truth[None, ..., 2] > 0
    if counted is not None:
        labelled = labelled & counted[:, None]
    similarity = np.exp(-squared / variances / (areas[:, None] + np.spacing(1)) / 2)
    return np.asarray((similarity * labelled).sum(axis=-1) / np.maximum(labelled.sum(axis=-1), 1))


def match(oks: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs (p, g) of predicted and annotated people by their OKS (P, G).

    The predicted people, best first, each take the annotated one with the highest OKS who is not taken yet,
    if that is at least `least`.
    """
    free, pairs = oks.copy(), []
    for p in range(len(free) if free.shape[1] else 0):
        g = int(free[p].argmax())
        if free[p, g] >= least:
            pairs.append((p, g))
            free[:, g] = -1
    return pairs


def keypoint_similarity(
    points: np.ndarray, truth: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    """The terms of OKS of N people, each with its own truth: (N, K, 2), (N, K, 3), (N,) px^2 -> (N, K).

    NaN where the truth is not labelled; a point that is not finite has 0. A person's OKS is the mean of the
    others.
    """
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    squared = ((points.astype(np.float64) - truth[..., :2]) ** 2).sum(axis=-1)
    terms = np.exp(-squared / variances / (areas[:, None] + np.spacing(1)) / 2)
    return np.where(truth[..., 2] > 0, np.nan_to_num(terms, nan=0.0), np.nan)


def oks_nms(
    predictions: list[dict[str, Any]],
    areas: np.ndarray,
    sigmas: Sequence[float],
    *,
    threshold: float = DUPLICATE_OKS,
) -> list[dict[str, Any]]:
    """Drop the persons of an image that repeat a better scored one (OKS above `threshold`).

    `areas` (M,): per prediction the area in px^2 that scales the similarity; the published evaluation takes
    the padded, aspect-corrected box. Keeps the order of `predictions`; the best of an image always stays.
    """
    of_image: dict[tuple[Any, Any], list[int]] = {}
    for index, prediction in enumerate(predictions):
        of_image.setdefault((prediction["image_id"], prediction["category_id"]), []).append(index)
    kept: list[int] = []
    for indices in of_image.values():
        persons = [predictions[index] for index in indices]
        points = np.asarray([person["keypoints"] for person in persons]).reshape(len(persons), -1, 3)
        scores = np.asarray([person["score"] for person in persons])
        of_image_areas = np.asarray(areas, dtype=np.float64)[indices]
        alive = without_duplicates(points, of_image_areas, scores, sigmas, threshold=threshold)
        kept.extend(indices[i] for i in alive)
    return [predictions[index] for index in sorted(kept)]


def without_duplicates(
    keypoints: np.ndarray,
    areas: np.ndarray,
    scores: np.ndarray,
    sigmas: Sequence[float],
    *,
    threshold: float = DUPLICATE_OKS,
) -> list[int]:
    """The people of one photo, best score first, without those whose OKS with a better one is too high.

    keypoints (M, K, 2 or more), areas (M,) in px^2, scores (M,); see `oks_matrix`. Returns indices.
    """
    similarity = oks_matrix(keypoints, areas, sigmas)
    alive = np.ones(len(scores), dtype=bool)
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if alive[index]:
            kept.append(int(index))
            alive &= similarity[index] <= threshold
    return kept


def _truth_index(ground_truth: GroundTruth) -> COCO:
    """A copy of the ground truth in the form of pycocotools, which writes into its records."""
    num_keypoints = ground_truth.skeleton.num_keypoints
    persons = []
    for number, person in enumerate(ground_truth.annotations, start=1):
        name = f"ground truth annotation {person.get('id')}"
        length = len(person.get("keypoints", []))
        if length != 3 * num_keypoints:
            raise InputError(
                f"{name} has {length} keypoint values where the skeleton needs {3 * num_keypoints}: "
                "score with the skeleton of the shards."
            )
        if "area" not in person:
            raise InputError(
                f"{name} has no `area`, which OKS needs: give one (COCO's is the segment's, in px^2)."
            )
        # The evaluator marks an unmatched detection by a ground truth id of 0, so a person with id 0 would
        # never count as found: number them from 1.
        defaults = {"iscrowd": 0, "num_keypoints": num_labelled(person)}
        persons.append({**defaults, **person, "id": number})
    if not ground_truth.scored:
        raise InputError(
            "The ground truth has no person with a labelled keypoint, so there is nothing to score."
        )
    return _coco({**ground_truth.coco, "annotations": persons})


def _result_index(truth: COCO, predictions: list[dict[str, Any]], num_keypoints: int) -> COCO:
    """The predictions in the form of pycocotools, which cannot load an empty list itself."""
    if not predictions:
        return _coco(
            {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
        )
    images, categories = set(truth.getImgIds()), set(truth.getCatIds())
    has_box = "bbox" in predictions[0]
    for number, prediction in enumerate(predictions):
        where = f"prediction {number} (image {prediction['image_id']})"
        if prediction["image_id"] not in images or prediction["category_id"] not in categories:
            raise InputError(
                f"{where} is of an image or category ({prediction['category_id']}) that the ground truth "
                "does not name: score predictions on the split that they are of."
            )
        if len(prediction["keypoints"]) != 3 * num_keypoints:
            raise InputError(
                f"{where} has {len(prediction['keypoints'])} keypoint values where the skeleton needs "
                f"{3 * num_keypoints}."
            )
        if ("bbox" in prediction) != has_box:
            raise InputError(
                f"{where}: either all predictions carry a `bbox` or none, for it changes their area."
            )
        if not np.isfinite([*prediction["keypoints"], prediction["score"]]).all():
            raise InputError(
                f"{where} has a coordinate or score that is not a finite number: predict again with a "
                "network whose weights are finite"
            )
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.loadRes([dict(prediction) for prediction in predictions])


def _coco(dataset: dict[str, Any]) -> COCO:
    """An indexed COCO object over `dataset`."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco
