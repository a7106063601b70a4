"""The page of many runs: its cells are those of the tables, and what it says of a difference is true."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semipose.training.compare import main
from semipose.training.reporting.page.diagnosis import compare_people, confidence, diagnose
from semipose.training.reporting.people import ScoredPeople, read_people
from tests.training.reporting.test_page import Page


def people_at(oks_shifts: np.ndarray, photos: list[str]) -> ScoredPeople:
    """People with one keypoint, each so far from its place, in sigmas times the square root of the area."""
    from semipose.sharding.annotations.skeleton import Skeleton

    count = len(oks_shifts)
    truth = np.tile(np.float32([[50, 50, 2]]), (count, 1, 1))
    points = truth[..., :2] + np.float32([2 * 0.05 * 100, 0]) * oks_shifts[:, None, None]
    return ScoredPeople(
        Skeleton(names=("head",), flip_pairs=(), bones=(), sigmas=(0.05,)),
        *(1, "network", np.arange(count), np.array(photos), truth, np.full(count, 1e4)),
        *(np.zeros((count, 4), np.float32), points, np.full((count, 1), 0.5), np.ones(count), np.zeros(0)),
    )


def test_the_interval_of_a_paired_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        photos = [str(photo) for photo in generator.integers(40, size=80)]
        shared = {photo: generator.normal(0, 0.2) for photo in set(photos)}  # people of a photo are alike
        level = np.array([0.8 + shared[photo] for photo in photos])
        one = np.abs(level + generator.normal(0, 0.2, 80))
        other = np.abs(level + generator.normal(0, 0.2, 80))
        change = compare_people(people_at(one, photos), people_at(other, photos))
        assert change is not None
        covered.append(change.low <= 0 <= change.high)
    assert 0.9 < np.mean(covered) < 0.99


def test_a_network_is_sure_only_of_people_with_high_peaks() -> None:
    far = people_at(np.full(20, 9.0), ["a"] * 20)
    for highest, expected in ((0.16, 0), (0.9, 10)):
        peaks = np.linspace(0.1, highest, 20, dtype=np.float32)[:, None]
        sure = confidence(replace(far, peaks=peaks))
        assert sure is not None
        assert len(sure.sure_but_wrong) == expected
        assert all(peaks[i] > 0.5 for i in sure.sure_but_wrong)


def test_people_are_compared_with_themselves_whatever_their_order() -> None:
    one, other = (
        people_at(np.array([0.0, 1.0, 2.0]), ["a", "b", "c"]),
        people_at(np.array([0.0, 1.0]), ["a", "b"]),
    )
    change = compare_people(one, other)
    assert change is not None
    assert (change.people, change.mean, change.better, change.worse) == (2, 0, 0, 0)


@pytest.mark.slow
def test_swapped_keypoints_are_told_from_those_that_are_elsewhere(runs: Path) -> None:
    people = read_people(runs / "everything")
    assert people is not None
    truth = people.truth[..., :2]
    exact = diagnose(replace(people, points_xy=truth))
    assert exact.shares["good"][exact.counts > 0] == pytest.approx(1)
    mirrored = diagnose(replace(people, points_xy=truth[:, list(people.skeleton.flip_order)]))
    far = diagnose(replace(people, points_xy=truth + 1e4))
    wrist, neck = people.skeleton.names.index("left_wrist"), people.skeleton.names.index("neck")
    assert mirrored.shares["left and right swapped"][wrist] > 0.5
    assert mirrored.shares["good"][neck] == 1
    assert far.shares["elsewhere"][wrist] == 1
    for keypoints in (exact, mirrored, far):
        total = sum(keypoints.shares.values())
        assert total[keypoints.counts > 0] == pytest.approx(1)


@pytest.mark.slow
def test_the_page_of_many_runs_holds_the_tables_and_needs_nothing_else(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("everything", "supervised"):
        shutil.copytree(runs / name, tmp_path / "all" / name)
    main([str(tmp_path / "all"), "baseline=supervised"])
    assert f"written: {tmp_path / 'all' / 'compare.html'}" in capsys.readouterr().out
    page = Page(tmp_path / "all" / "compare.html")
    scores = {
        name: 100 * json.loads((runs / name / "scores.json").read_text())["last"]["scores"]["network"]["AP"]
        for name in ("everything", "supervised")
    }
    difference = scores["everything"] - scores["supervised"]
    assert f"everything: AP {difference:+.1f} points against supervised, with one seed" in page.text
    for score in scores.values():
        assert f"{score:.1f}" in page.text
    assert "http" not in page.source
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
