"""MPII's PCKh against loops in the published order, and its joint rules."""

import numpy as np
import pytest

from semipose.sharding.annotations.skeleton import MPII_16
from semipose.training.scoring.pckh import pckh

NAMES = MPII_16.names
PUBLISHED_ROWS = {
    "Head": (9,),
    "Shoulder": (13, 12),
    "Elbow": (14, 11),
    "Wrist": (15, 10),
    "Hip": (3, 2),
    "Knee": (4, 1),
    "Ankle": (5, 0),
}
"""Places in MPII's own order of joints."""


def some_people(count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 1, 2], (count, 16), p=[0.2, 0.2, 0.6])
    truth = np.concatenate([rng.uniform(0, 300, (count, 16, 2)), labels[..., None]], axis=-1)
    predicted = truth[..., :2] + rng.normal(0, 8, (count, 16, 2))
    return predicted.astype(np.float32), truth.astype(np.float32), rng.uniform(30, 90, count)


def plainly(predicted: np.ndarray, truth: np.ndarray, diagonals: np.ndarray) -> dict[str, float]:
    """One joint after the other, one person after the other."""
    rates, strict, counts = [], [], []
    for joint in range(16):
        hits = strict_hits = labelled = 0
        for person in range(len(truth)):
            if truth[person, joint, 2] > 0 and np.isfinite(diagonals[person]):
                labelled += 1
                distance = np.hypot(*(predicted[person, joint] - truth[person, joint, :2]))
                error = distance / (0.6 * diagonals[person])
                hits += error <= 0.5
                strict_hits += error <= 0.1
        rates.append(hits / labelled)
        strict.append(strict_hits / labelled)
        counts.append(0 if joint in (6, 7) else labelled)
    weights = np.array(counts) / sum(counts)
    scores = {"PCKh": float(weights @ rates), "PCKh@0.1": float(weights @ strict)}
    return scores | {
        f"PCKh/{row}": np.mean([rates[j] for j in joints]) for row, joints in PUBLISHED_ROWS.items()
    }


def test_equals_loops():
    predicted, truth, diagonals = some_people()
    ours = pckh(predicted, truth, diagonals, NAMES)
    assert ours == pytest.approx(plainly(predicted, truth, diagonals))
    assert 0.05 < ours["PCKh@0.1"] < ours["PCKh"] < 0.95


def test_pelvis_and_thorax_do_not_count():
    predicted, truth, diagonals = some_people()
    before = pckh(predicted, truth, diagonals, NAMES)
    predicted[:, [NAMES.index("pelvis"), NAMES.index("thorax")]] += 500
    assert pckh(predicted, truth, diagonals, NAMES) == before
    predicted[:, NAMES.index("upper_neck")] += 500
    assert pckh(predicted, truth, diagonals, NAMES)["PCKh"] < before["PCKh"]


def test_total_weighs_a_joint_by_how_often_it_is_labelled():
    truth = np.zeros((4, 16, 3))
    truth[:, 9, 2] = 2  # the head of four people
    truth[0, 0, 2] = 1  # the ankle of one, occluded
    predicted = np.zeros((4, 16, 2))
    predicted[0, 0] = 100
    scores = pckh(predicted, truth, np.full(4, 50.0), NAMES)
    assert scores["PCKh"] == 4 / 5
    assert (scores["PCKh/Head"], scores["PCKh/Ankle"]) == (1.0, 0.0)
    assert "PCKh/Knee" not in scores


def test_head_size_is_six_tenths_of_the_diagonal_and_the_border_is_a_hit():
    truth = np.zeros((2, 16, 3))
    truth[:, 9, 2] = 2
    predicted = np.zeros((2, 16, 2))
    predicted[:, 9, 0] = 15.0, 15.001  # 0.5 * 0.6 * 50
    assert pckh(predicted, truth, np.array([50.0, 50.0]), NAMES)["PCKh"] == 0.5


def test_the_strict_column_reads_a_tenth():
    """The published column 0.1 reads 0.11."""
    truth = np.zeros((2, 16, 3))
    truth[:, 9, 2] = 2
    predicted = np.zeros((2, 16, 2))
    predicted[:, 9, 0] = 2.99, 3.2  # 0.0997 and 0.107 heads of 30 px
    assert pckh(predicted, truth, np.full(2, 50.0), NAMES)["PCKh@0.1"] == 0.5


def test_people_without_a_head_box_are_not_scored():
    predicted, truth, diagonals = some_people()
    fewer = pckh(predicted[10:], truth[10:], diagonals[10:], NAMES)
    diagonals[:10] = np.nan
    assert pckh(predicted, truth, diagonals, NAMES) == fewer
    assert pckh(predicted, truth, np.full(60, np.nan), NAMES) == {}


def test_prediction_that_is_no_number_is_a_miss():
    predicted, truth, diagonals = some_people()
    predicted[:] = truth[..., :2]
    predicted[truth[..., 2] == 0] = np.nan
    assert pckh(predicted, truth, diagonals, NAMES)["PCKh"] == 1.0
    predicted[:, 9] = np.nan
    assert pckh(predicted, truth, diagonals, NAMES)["PCKh/Head"] == 0.0
