"""Hidden truth: how right a teacher is, by the annotations of unlabelled photos that training never reads.

At each scoring the teacher labels plain views of some unlabelled photos, and the people that it finds are
compared with those who are annotated there. This only measures: it draws no random numbers and changes no
state of the run. Shape letters: pipelines/batch.py; Q people are found in a photo at most.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from semipose.pipelines.geometry import apply
from semipose.pipelines.loader import EvalLoader
from semipose.pipelines.source import Split
from semipose.sharding.samples.crop import move_keypoints
from semipose.sharding.samples.sample import Poses
from semipose.training.methods.method import Method
from semipose.training.predict import Autocast
from semipose.training.scoring.oks import match, oks_to_truth

LEAST_OKS = 0.5
"""A person that was found is an annotated one from this OKS on."""


class Probe:
    """Unlabelled photos with the people who are annotated there.

    split: the photos (`hidden_split`). views: one pass over their plain views, in the same order.
    """

    def __init__(self, split: Split, views: EvalLoader) -> None:
        self.split, self.views = split, views

    @cached_property
    def poses(self) -> list[Poses]:
        """The annotations of each photo, read at the first use."""
        return self.split.poses()

    def measure(self, method: Method, autocast: Autocast = nullcontext) -> dict[str, float]:
        """How right a method's teacher is: `Tally.by_name` of `kept` and `decoded`, and `taught_oks`.

        kept: the people who would teach. decoded: all people that were found. taught_oks: as `kept_oks`, of
        only the keypoints that would be taught. Empty if the method has no teacher of whole photos.
        """
        sigmas, poses = self.split.skeleton.sigmas, iter(self.poses)
        kept, decoded, taught = Tally(sigmas), Tally(sigmas), list[float]()
        for batch in self.views:
            with autocast():
                labels = method.find_people(batch.image, batch.photo_frame)
            if labels is None:
                return {}
            points = apply(batch.image_from_view, labels.points_xy.flatten(1, 2)).view_as(labels.points_xy)
            columns = (column.cpu().numpy() for column in labels._replace(points_xy=points))
            for record, points_xy, was_found, is_trusted, score, exists, is_kept in zip(
                batch.records, *columns, strict=True
            ):
                truth = Truth.of(record, next(poses))
                best_first = np.argsort(-score, kind="stable")
                rows = best_first[exists[best_first]]
                decoded.add(points_xy[rows], was_found[rows], truth)
                rows = best_first[is_kept[best_first]]
                pairs = kept.add(points_xy[rows], was_found[rows], truth)
                oks = truth.oks(points_xy[rows], is_trusted[rows], sigmas)
                is_annotated = truth.keypoints[..., 2] > 0
                taught += [
                    float(oks[p, g]) for p, g in pairs if (is_trusted[rows[p]] & is_annotated[g]).any()
                ]
        values = kept.by_name("kept") | decoded.by_name("decoded")
        return values | ({"taught_oks": float(np.mean(taught))} if taught else {})


@dataclass(frozen=True)
class Truth:
    """The annotated people of a photo in source px."""

    keypoints: np.ndarray
    """(G, K, 3) float64: x, y and v, of people with an annotated keypoint."""
    areas: np.ndarray
    """(G,) px^2."""
    ignored: np.ndarray
    """(C, 4): the boxes (x, y, width, height) of crowds and of people without keypoints."""

    @classmethod
    def of(cls, record: dict[str, Any], poses: Poses) -> "Truth":
        """The people of a sample, by its `KEY.json` and its pose record."""
        matrix = np.array(record["image_from_stored"])
        is_annotated = (poses.keypoints[..., 2] > 0).any(-1)
        keypoints = [move_keypoints(person, matrix) for person in poses.keypoints[is_annotated]]
        return cls(
            np.array(keypoints).reshape(-1, *poses.keypoints.shape[1:]),
            np.array(record["areas"], np.float64)[is_annotated],
            np.array([row["bbox"] for row in record["ignored"]], np.float64).reshape(-1, 4),
        )

    def oks(self, points_xy: np.ndarray, counted: np.ndarray, sigmas: tuple[float, ...]) -> np.ndarray:
        """OKS (P, G) of people that were found, (P, K, 2) source px, by the keypoints `counted` (P, K)."""
        return oks_to_truth(points_xy, self.keypoints, self.areas, sigmas, counted)


@dataclass
class Tally:
    """How many people were found and are annotated so far, and the OKS of those who are right."""

    sigmas: tuple[float, ...]
    found: int = 0
    annotated: int = 0
    oks: list[float] = field(default_factory=list)

    def add(self, points_xy: np.ndarray, was_found: np.ndarray, truth: Truth) -> list[tuple[int, int]]:
        """Count the P people of a photo, best first: (P, K, 2) source px, and the keypoints they have (P, K).

        Returns who is right, with the annotated person. A keypoint that was not found has a similarity of 0.
        A person that matches nobody annotated is not counted if its middle is in an ignored box.
        """
        everywhere = np.where(was_found[..., None], points_xy, np.inf)  # keypoints that are missing
        oks = truth.oks(everywhere, np.ones_like(was_found), self.sigmas)
        pairs = match(oks, LEAST_OKS)
        middle = (points_xy * was_found[..., None]).sum(1) / np.maximum(was_found.sum(1), 1)[:, None]
        low, high = truth.ignored[:, :2], truth.ignored[:, :2] + truth.ignored[:, 2:]
        is_ignored = ((middle[:, None] >= low) & (middle[:, None] <= high)).all(-1).any(-1)
        is_ignored[[person for person, _ in pairs]] = False
        self.found += int((~is_ignored).sum())
        self.annotated += len(truth.keypoints)
        self.oks += [float(oks[pair]) for pair in pairs]
        return pairs

    def by_name(self, name: str) -> dict[str, float]:
        """Precision, recall, and the mean OKS of those who are right; without what would divide by zero."""
        right, scores = len(self.oks), {}
        if self.found:
            scores[f"{name}_precision"] = right / self.found
        if self.annotated:
            scores[f"{name}_recall"] = right / self.annotated
        if right:
            scores[f"{name}_oks"] = float(np.mean(self.oks))
        return scores
