"""What the people of a scoring say of a network: which keypoints fail and how, and whether it knows.

The kinds of error follow Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose
Estimation" (ICCV 2017), with the same limits of the OKS of a keypoint: good from 0.85, near from 0.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from semipose.training.reporting.people import ScoredPeople
from semipose.training.scoring.oks import keypoint_similarity

GOOD, NEAR = 0.85, 0.5
KINDS_OF_ERROR = ("good", "near", "left and right swapped", "elsewhere")
HIGH_PEAK = 0.5
"""A network is sure of people whose mean peak is above this, half the height of a target."""
PCK_PREFIX = "PCK/"
"""Of the scores of single keypoints."""
SAME_OKS = 0.01
"""People whose OKS differs by less between two networks count as unchanged."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Keypoints:
    """What became of the annotated keypoints, by keypoint.

    Differs from Ronchi and Perona: an inversion is one with the partner of the flip pair alone, and what is
    at a keypoint of another person counts as elsewhere.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    """(K,): annotated keypoints."""
    shares: dict[str, np.ndarray]
    """(K,) by KINDS_OF_ERROR, adding up to 1; 0 for a keypoint that nobody has."""

    def worst(self, count: int, *, fewest: int = 10) -> list[int]:
        """The keypoints that are good or near the least, of those that at least `fewest` people have."""
        hits = self.shares["good"] + self.shares["near"]
        order = [int(k) for k in np.argsort(hits, kind="stable") if self.counts[k] >= fewest]
        return order[:count]


def diagnose(people: ScoredPeople) -> Keypoints:
    """The kinds of error of each keypoint."""
    similarity = people.similarity
    partners = list(people.skeleton.flip_order)
    has_partner = np.array(partners) != np.arange(len(partners))
    to_partner = keypoint_similarity(
        people.points_xy, people.truth[:, partners], people.areas, people.skeleton.sigmas
    )
    labelled = people.truth[..., 2] > 0
    swapped = (similarity < NEAR) & (np.nan_to_num(to_partner) >= NEAR) & has_partner
    kinds = (
        similarity >= GOOD,
        (similarity >= NEAR) & (similarity < GOOD),
        swapped,
        (similarity < NEAR) & ~swapped,
    )
    counts = labelled.sum(axis=0)
    shares = {
        kind: (mask & labelled).sum(axis=0) / np.maximum(counts, 1)
        for kind, mask in zip(KINDS_OF_ERROR, kinds, strict=True)
    }
    return Keypoints(people.skeleton.names, counts, shares)


@dataclass(frozen=True)
class Confidence:
    """Whether peaks say who is wrong."""

    spearman: float
    """Rank correlation of mean peak and OKS over the people; NaN if all are alike."""
    tenths: list[tuple[float, float]]
    """Mean peak and mean OKS of each tenth of the people, the least sure first."""
    overall: float
    """Mean OKS of everybody."""
    sure_but_wrong: list[int]
    """Indices of people whose peak is above the median and HIGH_PEAK and whose OKS is below NEAR, the surest
    first."""


def confidence(people: ScoredPeople) -> Confidence | None:
    """Peaks against OKS; None if fewer than ten people were found."""
    from scipy.stats import spearmanr  # here, as it takes a second that only a page needs

    found = np.flatnonzero(people.is_found)
    if len(found) < 10:
        return None
    peaks, oks = people.mean_peak[found], people.oks[found]
    order = np.argsort(peaks, kind="stable")
    tenths = [(float(peaks[part].mean()), float(oks[part].mean())) for part in np.array_split(order, 10)]
    is_constant = np.ptp(peaks) == 0 or np.ptp(oks) == 0
    spearman = float("nan") if is_constant else float(spearmanr(peaks, oks).statistic)
    high = max(float(np.median(peaks)), HIGH_PEAK)
    wrong = [int(i) for i in order[::-1] if peaks[i] > high and oks[i] < NEAR]
    return Confidence(spearman, tenths, float(oks.mean()), found[wrong].tolist())


@dataclass(frozen=True)
class Change:
    """How the OKS of the same people differs between two networks."""

    people: int
    mean: float
    low: float
    high: float
    """The mean difference, and the limits of its 95 % interval over the photos."""
    better: int
    worse: int


def compare_people(people: ScoredPeople, baseline: ScoredPeople) -> Change | None:
    """Paired over the people that both have, by id; None if there are fewer than two.

    The interval is that of the ratio estimator over photos, because people of one photo are alike (Cochran,
    Sampling Techniques, 1977, section 9A).
    """
    ids, own, others = np.intersect1d(people.ids, baseline.ids, return_indices=True)
    if len(ids) < 2:
        return None
    gains = people.oks[own] - baseline.oks[others]
    _, photo = np.unique(people.file_names[own], return_inverse=True)
    totals, counts = np.bincount(photo, gains), np.bincount(photo)
    mean = float(gains.mean())
    reach = NORMAL_95 * float(np.sqrt(((totals - mean * counts) ** 2).sum()) / counts.sum())
    better, worse = int((gains > SAME_OKS).sum()), int((gains < -SAME_OKS).sum())
    return Change(len(ids), mean, mean - reach, mean + reach, better, worse)


def score_by_keypoint(scores: Mapping[str, float], people: ScoredPeople | None) -> dict[str, float]:
    """A score of each keypoint in percent: PCK where the run has it, else the share of annotated keypoints
    with an OKS of at least NEAR (NaN without any); empty where there is neither."""
    pck = {
        name[len(PCK_PREFIX) :]: 100 * value for name, value in scores.items() if name.startswith(PCK_PREFIX)
    }
    if pck or people is None or not len(people.ids):
        return pck
    labelled = (people.truth[..., 2] > 0).sum(axis=0)
    hits = (people.similarity >= NEAR).sum(axis=0)
    shares = np.where(labelled > 0, 100 * hits / np.maximum(labelled, 1), np.nan)
    return dict(zip(people.skeleton.names, shares.tolist(), strict=True))
