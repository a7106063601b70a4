"""PCK of the torso against hand-made numbers and a loop."""

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.training.scoring.pck import has_torso, pck, torso_joints

NAMES = ("head", "left_shoulder", "right_hip")


def two_people() -> np.ndarray:
    """Torso lengths 50 and 10 px; the second person's head is unlabelled."""
    return np.array(
        [
            [[0, 0, 2], [0, 0, 2], [30, 40, 1]],
            [[5, 5, 0], [100, 100, 1], [100, 110, 2]],
        ],
        dtype=np.float32,
    )


def test_distance_is_measured_by_the_torso_of_each_person():
    truth = two_people()
    found = truth[..., :2].copy()
    found[:, 1, 0] += 9  # within 10 px of the first torso, beyond 2 px of the second
    found[0, 0] += (6, 8)  # exactly on the circle
    result = pck(found, truth, NAMES)
    assert result == {
        "PCK": pytest.approx(4 / 5),
        "PCK/head": 1.0,
        "PCK/left_shoulder": 0.5,
        "PCK/right_hip": 1.0,
    }


def test_people_without_a_torso_are_left_out():
    truth = np.concatenate([two_people()] * 2)
    truth[2, 2, 2] = 0
    truth[3, 2, :2] = truth[3, 1, :2]
    found = truth[..., :2] + np.array([[0], [0], [999], [999]])[..., None]
    assert pck(found, truth, NAMES)["PCK"] == 1.0


def test_joint_that_is_never_labelled_has_no_score():
    truth = two_people()[1:]
    assert set(pck(truth[..., :2], truth, NAMES)) == {"PCK", "PCK/left_shoulder", "PCK/right_hip"}


def test_nobody_to_score_gives_no_scores():
    truth = two_people()
    truth[:, 1, 2] = 0
    assert pck(truth[..., :2], truth, NAMES) == {}


def test_prediction_that_is_no_number_is_a_miss():
    truth = two_people()
    found = truth[..., :2].copy()
    found[0, 0] = np.nan
    assert pck(found, truth, NAMES)["PCK/head"] == 0.0


def test_pck_equals_a_loop():
    rng = np.random.default_rng(0)
    names = (*NAMES, "left_knee", "right_knee")
    truth = np.concatenate([rng.uniform(0, 100, (40, 5, 2)), rng.integers(0, 3, (40, 5, 1))], axis=2)
    found = truth[..., :2] + rng.normal(0, 10, (40, 5, 2))
    hits = counted = 0
    for n in range(40):
        if truth[n, 1, 2] and truth[n, 2, 2]:
            torso = np.hypot(*(truth[n, 1, :2] - truth[n, 2, :2]))
            for k in range(5):
                if truth[n, k, 2]:
                    counted += 1
                    hits += np.hypot(*(found[n, k] - truth[n, k, :2])) <= 0.3 * torso
    result = pck(found, truth, names, threshold=0.3)
    assert result["PCK"] == pytest.approx(hits / counted)
    assert 0 < result["PCK"] < 1


def test_torso_is_found_by_name():
    assert torso_joints(("Right Hip", "nose", "left-shoulder")) == (2, 0)
    assert has_torso(NAMES)
    assert not has_torso(("nose", "left_shoulder"))
    with pytest.raises(InputError, match="right_hip"):
        torso_joints(("nose", "left_shoulder"))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit 3 joints"):
        pck(np.zeros((2, 4, 2)), two_people(), NAMES)
