"""Who is who over the frames of a film, and keypoints that do not tremble."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from semipose.configs.settings import settings
from semipose.predict.people import People
from semipose.sharding.annotations.boxes import AREA_OF_BOX, box_overlap
from semipose.training.scoring.oks import oks_to_truth


@settings
class OneEuro:
    """The One-Euro filter (Casiez et al., CHI 2012), per keypoint, in units of the person's box."""

    min_cutoff: Annotated[float, Field(gt=0)] = 1.0
    """Cut-off frequency at rest, in Hz; a lower one smooths more and lags more."""
    beta: Annotated[float, Field(ge=0)] = 0.007
    """How much the cut-off grows with the speed, in Hz per box length per second."""
    speed_cutoff: Annotated[float, Field(gt=0)] = 1.0
    """Cut-off frequency of the speed, in Hz."""


@dataclass
class _Track:
    """One person as last seen."""

    id: int
    xy: np.ndarray
    peaks: np.ndarray
    box: np.ndarray
    lost: int = 0
    smooth_xy: np.ndarray | None = None
    speed: np.ndarray | None = None
    time_s: float = 0.0


class Tracker:
    """Gives the people of each frame the ids of those who were there before.

    Pairs are matched greedily, the most alike first, by the mean of OKS and of the overlap of the boxes; a
    person who is not seen for `most_lost` frames is forgotten.
    """

    def __init__(
        self, smooth: OneEuro | None = None, *, least_likeness: float = 0.3, most_lost: int = 30
    ) -> None:
        self._smooth, self._least, self._most_lost = smooth, least_likeness, most_lost
        self._tracks: list[_Track] = []
        self._next_id = 1

    def update(self, people: People) -> People:
        """The people of the next frame with `track_ids`, and smoothed keypoints if that was asked for."""
        matched = self._match(people)
        ids, xy = np.zeros(len(people), np.int64), people.xy.copy()
        seen = []
        for i in range(len(people)):
            track = matched.get(i)
            if track is None:
                track = _Track(self._next_id, people.xy[i], people.peaks[i], people.boxes[i])
                self._next_id += 1
                self._tracks.append(track)
            track.xy, track.peaks, track.box = people.xy[i], people.peaks[i], people.boxes[i]
            track.lost = 0
            ids[i] = track.id
            if self._smooth is not None:
                xy[i] = _smoothed(track, self._smooth, people.time_s or 0.0)
            seen.append(track.id)
        for track in self._tracks:
            track.lost += track.id not in seen
        self._tracks = [track for track in self._tracks if track.lost <= self._most_lost]
        return replace(people, track_ids=ids, xy=xy)

    def _match(self, people: People) -> dict[int, _Track]:
        """The known track of each person who has one."""
        tracks = self._tracks
        if not tracks or not len(people):
            return {}
        boxes = np.array([track.box for track in tracks], np.float64)
        known = np.array([track.xy for track in tracks], np.float64)
        labelled = np.array([track.peaks for track in tracks]) >= people.min_peak
        truth = np.concatenate([known, labelled[..., None]], axis=-1)
        areas = AREA_OF_BOX * boxes[:, 2] * boxes[:, 3]
        oks = oks_to_truth(people.xy, truth, areas, people.skeleton.sigmas)
        likeness = (oks + box_overlap(people.boxes.astype(np.float64), boxes)) / 2
        matched: dict[int, _Track] = {}
        while likeness.size and likeness.max() >= self._least:
            i, j = np.unravel_index(likeness.argmax(), likeness.shape)
            matched[int(i)] = tracks[int(j)]
            likeness[i], likeness[:, j] = -1.0, -1.0
        return matched


def _smoothed(track: _Track, cfg: OneEuro, time_s: float) -> np.ndarray:
    """The keypoints (K, 2) of a track, filtered; its state moves on to `time_s`."""
    xy = track.xy.astype(np.float64)
    if track.smooth_xy is None or track.speed is None or time_s <= track.time_s:
        track.smooth_xy, track.speed = xy, np.zeros_like(xy)
    else:
        unit = max(float(np.linalg.norm(track.box[2:])), 1.0)
        seconds = time_s - track.time_s
        speed = (xy - track.smooth_xy) / unit / seconds
        weight = _weight(cfg.speed_cutoff, seconds)
        track.speed = weight * speed + (1 - weight) * track.speed
        weights = _weight(cfg.min_cutoff + cfg.beta * np.abs(track.speed), seconds)
        track.smooth_xy = weights * xy + (1 - weights) * track.smooth_xy
    track.time_s = time_s
    return track.smooth_xy.astype(np.float32)


def _weight(cutoff_hz: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """The weight of a new value in exponential smoothing: 1 / (1 + tau / dt), tau = 1 / (2 pi f)."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff_hz * seconds))
