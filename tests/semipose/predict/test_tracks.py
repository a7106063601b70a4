"""Who is who over frames, and smoothing."""

import math
from dataclasses import replace

import numpy as np
import pytest

from semipose.predict.people import People
from semipose.predict.tracks import OneEuro, Tracker
from semipose.sharding.annotations.boxes import box_overlap
from tests.semipose.models import skeleton_of

SHAPE = np.array([[0.0, 0], [10, 0], [0, 20], [10, 20], [5, 10]])


def people_at(*places: tuple[float, float], time_s: float = 0.0) -> People:
    """People of one shape with their upper left corners at places."""
    xy = np.array([SHAPE + place for place in places], np.float32).reshape(-1, 5, 2)
    boxes = np.array([[*place, 10, 20] for place in places], np.float32).reshape(-1, 4)
    ones = np.ones((len(places), 5), np.float32)
    return People(xy=xy, peaks=ones, boxes=boxes, scores=ones[:, 0], skeleton=skeleton_of(5), time_s=time_s)


def test_people_keep_their_ids_while_they_move_and_change_their_order() -> None:
    tracker = Tracker()
    first = tracker.update(people_at((0, 0), (100, 0)))
    second = tracker.update(people_at((98, 1), (2, 1)))
    assert first.track_ids.tolist() == [1, 2]
    assert second.track_ids.tolist() == [2, 1]


def test_the_pose_tells_two_people_in_one_box_apart() -> None:
    tracker = Tracker()
    upright = people_at((0, 0), (0, 0))
    upright.xy[1] = SHAPE[::-1]
    tracker.update(upright)
    exchanged = replace(upright, xy=upright.xy[::-1].copy())
    assert tracker.update(exchanged).track_ids.tolist() == [2, 1]


def test_somebody_new_gets_a_new_id_and_somebody_lost_for_a_while_the_old_one() -> None:
    tracker = Tracker(most_lost=3)
    tracker.update(people_at((0, 0), (100, 0)))
    for _ in range(3):
        tracker.update(people_at((0, 0)))
    assert tracker.update(people_at((100, 0), (0, 0), (200, 0))).track_ids.tolist() == [2, 1, 3]
    for _ in range(4):
        tracker.update(people_at((0, 0)))
    assert tracker.update(people_at((100, 0))).track_ids.tolist() == [4]


def test_frames_without_people_have_no_ids() -> None:
    tracker = Tracker()
    assert tracker.update(people_at()).track_ids.tolist() == []
    assert tracker.update(people_at((0, 0))).track_ids.tolist() == [1]


def one_euro(values: list[float], hz: float, min_cutoff: float, beta: float, d_cutoff: float) -> list[float]:
    """The filter as its authors write it, for one number (Casiez et al., CHI 2012, algorithm 1)."""

    def alpha(cutoff: float) -> float:
        tau = 1.0 / (2 * math.pi * cutoff)
        return 1.0 / (1.0 + tau * hz)

    smooth, derivative = [values[0]], 0.0
    for value in values[1:]:
        change = (value - smooth[-1]) * hz
        derivative = alpha(d_cutoff) * change + (1 - alpha(d_cutoff)) * derivative
        a = alpha(min_cutoff + beta * abs(derivative))
        smooth.append(a * value + (1 - a) * smooth[-1])
    return smooth


def test_smoothing_is_the_published_filter_in_box_units() -> None:
    cfg, hz = OneEuro(min_cutoff=1.5, beta=2.0, speed_cutoff=0.8), 20.0
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(0, 1, 30))
    tracker, xs = Tracker(cfg), []
    for number, step in enumerate(steps):
        moved = people_at((float(step), 0), time_s=number / hz)
        moved.boxes[:] = [[float(step), 0, 30, 40]]  # a diagonal of 50
        xs.append(float(tracker.update(moved).xy[0, 0, 0]))
    expected = 50 * np.array(one_euro((steps / 50).tolist(), hz, 1.5, 2.0, 0.8))
    assert xs == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_overlap_of_boxes_is_that_of_their_areas() -> None:
    a = np.array([[0.0, 0, 10, 10]])
    b = np.array([[0.0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 1, 1], [2, 2, 5, 5]])
    assert box_overlap(a, b)[0] == pytest.approx([1, 50 / 150, 0, 0.25])
