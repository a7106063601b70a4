"""Every person of a scoring with what was found of it, kept for the report page: `people.npz` of a run.

Scores say how good a network is; these rows say on which people. They are those of the run's product, its
first network. Shape letters: pipelines/batch.py; N counts the annotated people who are scored.
"""

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import simplejpeg
from PIL import Image

from semipose.configs.load import InputError
from semipose.models.files import PEOPLE_NAME
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.sharding.samples.crop import Region, cut, image_from_stored
from semipose.sharding.samples.sample import invert_axis_aligned
from semipose.sharding.store.files import write_atomic
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training.scoring.oks import keypoint_similarity, match, oks_to_truth, person_score

if TYPE_CHECKING:  # reading the people of a run needs no webdataset
    from semipose.pipelines.source import Split
    from semipose.training.predict import Predictions

SHOWN = 8
"""How many of the worst, of the median and of the best people are shown."""
LEAST_OKS, LEAST_SCORE = 0.1, 0.1
"""Whoever is found in a whole photo, or in a detector's box, is an annotated person with at least this OKS;
if there is none, and the score is at least this, nobody is there."""
VIEW_HEIGHT, VIEW_ASPECT, VIEW_MARGIN = 256, 3 / 4, 0.12
"""Of a picture: the largest height in px, width over height, and the margin as a share of the height."""
_FORMAT = 1
_ARRAYS = (
    "ids",
    "file_names",
    "truth",
    "areas",
    "boxes_xywh",
    "points_xy",
    "peaks",
    "scores",
    "false_scores",
)


@dataclass(frozen=True)
class Picture:
    """The surroundings of a person."""

    webp: bytes
    view_from_image: np.ndarray
    """(2, 3) float64: px of the picture from source px."""


@dataclass(frozen=True)
class ScoredPeople:
    """N annotated people and what the network found of each."""

    skeleton: Skeleton
    step: int
    """The step of the scoring."""
    network: str
    ids: np.ndarray
    """(N,) int64: annotation ids of the people."""
    file_names: np.ndarray
    """(N,) str: their photos."""
    truth: np.ndarray
    """(N, K, 3) float32: x, y in source px, and v."""
    areas: np.ndarray
    """(N,) float64: the area that scales their OKS, source px^2."""
    boxes_xywh: np.ndarray
    """(N, 4) float32: their annotated boxes, source px."""
    points_xy: np.ndarray
    """(N, K, 2) float32: found keypoints, source px; NaN for somebody who was not found."""
    peaks: np.ndarray
    """(N, K) float32: the peaks of their heatmaps, or the codec's confidence; NaN likewise."""
    scores: np.ndarray
    """(N,) float64: the score of what was found; NaN likewise."""
    false_scores: np.ndarray
    """(F,) float64: the scores of those found where nobody is annotated, the highest first."""
    pictures: Mapping[int, Picture] = field(default_factory=dict)
    """By index, of some of the people."""

    @property
    def is_found(self) -> np.ndarray:
        """(N,) bool."""
        return np.isfinite(self.scores)

    @property
    def similarity(self) -> np.ndarray:
        """(N, K) float64: OKS of each keypoint, 0 if it was not found, NaN if it is not annotated."""
        return keypoint_similarity(self.points_xy, self.truth, self.areas, self.skeleton.sigmas)

    @property
    def oks(self) -> np.ndarray:
        """(N,) float64: the mean over a person's annotated keypoints, 0 for somebody who was not found."""
        return np.asarray(np.nanmean(self.similarity, axis=1))

    @property
    def mean_peak(self) -> np.ndarray:
        """(N,) float64: the mean peak of all K keypoints, NaN for somebody who was not found."""
        return np.asarray(self.peaks.astype(np.float64).mean(axis=1))

    def chosen(self) -> dict[str, np.ndarray]:
        """Indices of the worst, the median and the best people by OKS, at most SHOWN each, no one twice."""
        order = np.argsort(self.oks, kind="stable")
        count = min(SHOWN, len(order) // 3 or len(order))
        middle = (len(order) - count) // 2
        groups = {
            "worst": order[:count],
            "median": order[middle : middle + count],
            "best": order[::-1][:count],
        }
        return groups if len(order) >= 3 else {"worst": order}


def scored_people(
    predictions: "Predictions", ground_truth: GroundTruth, *, step: int, network: str
) -> ScoredPeople:
    """Bring predictions and annotated people together.

    People in their annotated boxes have predictions of their own. Whoever is found in a whole photo or in a
    detector's box becomes, in the order of the scores, the annotated person of that photo with the highest
    OKS who is not taken yet.
    """
    rows, skeleton = ground_truth.scored, ground_truth.skeleton
    count, num_keypoints = len(rows), skeleton.num_keypoints
    truth = np.array([row["keypoints"] for row in rows], np.float32).reshape(count, num_keypoints, 3)
    areas = np.array([row["area"] for row in rows], np.float64)
    scores = predictions.scores
    if scores is None:
        box_scores = np.array([record.get("score", 1.0) for record in predictions.records], np.float64)
        scores = person_score(box_scores, predictions.peaks)
    if predictions.kind == "person" and not ground_truth.is_detected:
        index_of_id = {row["id"]: index for index, row in enumerate(rows)}
        false_rows: list[int] = []
        pairs = [
            (index_of_id[record["id"]], i)
            for i, record in enumerate(predictions.records)
            if record["id"] in index_of_id
        ]
    else:
        pairs, false_rows = _matched(predictions, scores, rows, truth, areas, skeleton)
    people, found = np.array(pairs, np.int64).reshape(-1, 2).T
    points_xy = np.full((count, num_keypoints, 2), np.nan, np.float32)
    peaks, person_scores = np.full((count, num_keypoints), np.nan, np.float32), np.full(count, np.nan)
    points_xy[people], peaks[people] = predictions.points_xy[found], predictions.peaks[found]
    person_scores[people] = scores[found]
    return ScoredPeople(
        skeleton,
        step,
        network,
        ids=np.array([row["id"] for row in rows], np.int64),
        file_names=np.array([ground_truth.file_names[row["image_id"]] for row in rows], np.str_),
        truth=truth,
        areas=areas,
        boxes_xywh=np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4),
        points_xy=points_xy,
        peaks=peaks,
        scores=person_scores,
        false_scores=np.sort(np.asarray(scores, np.float64)[false_rows])[::-1],
    )


def _matched(
    predictions: "Predictions",
    scores: np.ndarray,
    rows: Sequence[dict[str, Any]],
    truth: np.ndarray,
    areas: np.ndarray,
    skeleton: Skeleton,
) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs of an annotated person and a row of the predictions; and the rows that are nobody."""
    people_of_photo, rows_of_photo = defaultdict(list), defaultdict(list)
    for person, row in enumerate(rows):
        people_of_photo[row["image_id"]].append(person)
    records = predictions.record_rows
    for i in np.argsort(-scores, kind="stable").tolist():
        rows_of_photo[records[i]["image_id"]].append(i)
    pairs: list[tuple[int, int]] = []
    false_rows: list[int] = []
    for photo, found in rows_of_photo.items():
        people = people_of_photo[photo]
        oks = oks_to_truth(predictions.points_xy[found], truth[people], areas[people], skeleton.sigmas)
        person_of = {found[row]: people[person] for row, person in match(oks, LEAST_OKS)}
        pairs += [(person, i) for i, person in person_of.items()]
        false_rows += [i for i in found if i not in person_of and scores[i] >= LEAST_SCORE]
    return pairs, false_rows


def write_people(folder: Path, people: ScoredPeople) -> None:
    """Write `people.npz` into `folder`, atomically."""
    head = {"format": _FORMAT, "step": people.step, "network": people.network, **asdict(people.skeleton)}
    shown = list(people.pictures.values())
    pictures: dict[str, Any] = {
        "pictured": np.array(list(people.pictures), np.int64),
        "view_from_image": np.array([each.view_from_image for each in shown]).reshape(-1, 2, 3),
        "webp_ends": np.cumsum([len(each.webp) for each in shown], dtype=np.int64),
        "webp": np.frombuffer(b"".join(each.webp for each in shown), np.uint8),
    }
    content = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(people, name) for name in _ARRAYS}
    np.savez_compressed(content, head=np.array(json.dumps(head)), **arrays, **pictures)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PEOPLE_NAME, content.getvalue())


def read_people(folder: Path) -> ScoredPeople | None:
    """The people of the last scoring that `folder` keeps; None if it keeps none. Raises InputError."""
    path = folder / PEOPLE_NAME
    if not path.is_file():
        return None
    try:
        with np.load(path) as content:
            head = json.loads(str(content["head"]))
            skeleton = Skeleton(
                names=tuple(head["names"]),
                flip_pairs=tuple(map(tuple, head["flip_pairs"])),
                bones=tuple(map(tuple, head["bones"])),
                sigmas=tuple(head["sigmas"]),
            )
            arrays = {name: content[name] for name in _ARRAYS}
            webps = np.split(content["webp"], content["webp_ends"][:-1])
            pictured = zip(content["pictured"].tolist(), content["view_from_image"], webps, strict=False)
            pictures = {index: Picture(webp.tobytes(), matrix) for index, matrix, webp in pictured}
        return ScoredPeople(skeleton, head["step"], head["network"], **arrays, pictures=pictures)
    except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}): remove it and score the run again") from None


def with_pictures(people: ScoredPeople, records: Sequence[dict[str, Any]], val: "Split") -> ScoredPeople:
    """The people, with pictures of those that the page shows, cut from the shards.

    records: of the samples of `val`, in their order. People without a sample, such as those that a detector
    missed, have no picture.
    """
    sample_of_person: dict[int, int] = {}
    for sample, record in enumerate(records):
        for person_id in record.get("ids", [record.get("id")]):
            sample_of_person[person_id] = sample
    people_of_sample = defaultdict(list)
    for index in np.concatenate(list(people.chosen().values())).tolist():
        person_id = int(people.ids[index])
        if person_id in sample_of_person:
            people_of_sample[sample_of_person[person_id]].append(index)
    pictures = {}
    for sample, jpeg in val.jpegs(sorted(people_of_sample)):
        pixels = simplejpeg.decode_jpeg(jpeg, "RGB")
        image_from_pixels = np.array(records[sample]["image_from_stored"])
        for index in people_of_sample[sample]:
            pictures[index] = _surroundings(pixels, image_from_pixels, people, index)
    return replace(people, pictures=pictures)


def _surroundings(
    pixels: np.ndarray, image_from_pixels: np.ndarray, people: ScoredPeople, index: int
) -> Picture:
    """The part of some pixels (H, W, 3) around a person."""
    pixels_from_image = invert_axis_aligned(image_from_pixels)
    scale, shift = pixels_from_image[[0, 1], [0, 1]], pixels_from_image[:, 2]
    x, y, width, height = people.boxes_xywh[index]
    labelled = people.truth[index, people.truth[index, :, 2] > 0, :2]
    corners = np.concatenate([[[x, y], [x + width, y + height]], labelled]) * scale + shift
    low, high = corners.min(axis=0), corners.max(axis=0)
    view_height = (1 + 2 * VIEW_MARGIN) * max(high[1] - low[1], (high[0] - low[0]) / VIEW_ASPECT, 8.0)
    half_wh = np.array([view_height * VIEW_ASPECT, view_height]) / 2
    left, top = np.maximum(0, np.floor((low + high) / 2 - half_wh)).astype(int).tolist()
    right, bottom = np.minimum(pixels.shape[1::-1], np.ceil((low + high) / 2 + half_wh)).astype(int).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    shrink = min(1.0, VIEW_HEIGHT / (bottom - top))
    size_wh = (max(1, round((right - left) * shrink)), max(1, round((bottom - top) * shrink)))
    region = Region(left, top, right, bottom, size_wh)
    view_from_pixels = invert_axis_aligned(image_from_stored(region))
    view_from_image = np.array(view_from_pixels)
    view_from_image[[0, 1], [0, 1]] *= scale
    view_from_image[:, 2] += view_from_pixels[[0, 1], [0, 1]] * shift
    content = io.BytesIO()
    Image.fromarray(cut(pixels, region)).save(content, "WEBP", quality=90)
    return Picture(content.getvalue(), view_from_image)
