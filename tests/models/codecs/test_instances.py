"""What the codecs of whole photos share, against plain loops."""

import math

import numpy as np
import pytest
import torch

from semipose.models.codecs.heatmap import encode
from semipose.models.codecs.instances import (
    Instances,
    by_score,
    encode_people,
    find_centres,
    find_local_peaks,
    on_device,
    suppress,
)
from semipose.pipelines.people import FoundPeople
from tests.models.codecs.scenes import STRIDE, pad, random_batch


def draw_by_loop(people, n: int, k: int, hw: tuple[int, int], sigma: float) -> np.ndarray:
    """The highest of the Gaussians of a channel, cell by cell."""
    drawn = np.zeros(hw)
    for m in range(people.visible.shape[1]):
        if not (people.is_person[n, m] and people.visible[n, m, k] > 0):
            continue
        x, y = (float(v) / STRIDE for v in people.points_xy[n, m, k])
        near_x, near_y, radius = math.floor(x + 0.5), math.floor(y + 0.5), math.floor(3 * sigma)
        for row in range(max(near_y - radius, 0), min(near_y + radius + 1, hw[0])):
            for column in range(max(near_x - radius, 0), min(near_x + radius + 1, hw[1])):
                value = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
                drawn[row, column] = max(drawn[row, column], value)
    return drawn


@pytest.mark.parametrize("num_keypoints", [1, 4, 14, 17, 133])
@pytest.mark.parametrize("counts", [(0,), (1, 0), (5, 2), (30,)])
def test_people_are_drawn_as_by_a_plain_loop(num_keypoints: int, counts: tuple[int, ...]) -> None:
    hw, sigma = (14, 18), 1.5
    people = random_batch(num_keypoints, counts, num_keypoints, hw)
    maps = encode_people(people.points_xy, people.marked, hw, STRIDE, sigma)
    assert maps.shape == (len(counts), num_keypoints, *hw)
    for n in range(len(counts)):
        for k in range(0, num_keypoints, max(1, num_keypoints // 6)):
            expected = draw_by_loop(people, n, k, hw, sigma)
            np.testing.assert_allclose(maps[n, k], expected, atol=2e-6)
            assert np.array_equal(maps[n, k] > 0, expected > 0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.5])
def test_one_person_is_drawn_as_for_the_top_down_networks(sigma: float) -> None:
    people = random_batch(0, (1, 1, 1), 17, (24, 20))
    maps = encode_people(people.points_xy, people.marked, (24, 20), STRIDE, sigma)
    expected, _ = encode(people.points_xy[:, 0], people.marked[:, 0], (24, 20), STRIDE, sigma)
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-7)


def test_centres_and_diagonals_are_those_of_a_plain_loop() -> None:
    people = random_batch(3, (5, 0, 3), 17, (30, 40))
    centres = find_centres(people, STRIDE)
    for n in range(3):
        for m in range(5):
            marked = people.is_person[n, m] & (people.visible[n, m] > 0)
            assert centres.exists[n, m] == marked.any()
            if marked.any():
                cells = people.points_xy[n, m, marked].double() / STRIDE
                torch.testing.assert_close(centres.cells[n, m].double(), cells.mean(0), rtol=1e-5, atol=1e-5)
                diagonal = math.hypot(*(cells.amax(0) - cells.amin(0)))
                assert centres.diagonal[n, m].item() == pytest.approx(diagonal, rel=1e-5)
    assert centres.cells.isfinite().all()
    assert centres.diagonal.isfinite().all()


def test_people_whom_a_teacher_found_have_their_centre_where_it_found_them() -> None:
    """A person whose legs do not count is not taught a centre in the chest."""
    people = random_batch(3, (2, 1), 17, (30, 40))
    given = torch.rand(2, 2, 2) * 100
    found = FoundPeople(*vars(people).values(), given)
    centres, plain = find_centres(found, STRIDE), find_centres(people, STRIDE)
    torch.testing.assert_close(centres.cells[centres.exists], given[centres.exists] / STRIDE)
    assert not centres.cells[~centres.exists].any()
    assert torch.equal(centres.diagonal, plain.diagonal)
    assert torch.equal(centres.exists, plain.exists)


def test_a_person_without_marked_keypoints_has_no_centre() -> None:
    nobody = np.full((17, 3), np.nan, np.float32)
    nobody[:, 2] = 0
    centres = find_centres(pad([[nobody]], 17), STRIDE)
    assert not centres.exists.any()
    assert centres.diagonal.eq(0).all()
    assert centres.cells.eq(0).all()


def peaks_by_loop(heatmap: np.ndarray, window: int) -> set[tuple[int, int, float]]:
    height, width = heatmap.shape
    peaks = set()
    for y in range(height):
        for x in range(width):
            rows = range(max(y - window // 2, 0), min(y + window // 2 + 1, height))
            columns = range(max(x - window // 2, 0), min(x + window // 2 + 1, width))
            others = [(heatmap[r, c], (r, c) < (y, x)) for r in rows for c in columns if (r, c) != (y, x)]
            beaten = any(v > heatmap[y, x] or (v == heatmap[y, x] and first) for v, first in others)
            if heatmap[y, x] > 0 and not beaten:
                peaks.add((x, y, float(heatmap[y, x])))
    return peaks


@pytest.mark.parametrize("window", [3, 5, 7])
def test_peaks_are_those_of_a_plain_loop_ties_included(window: int) -> None:
    rng = np.random.default_rng(window)
    heatmaps = rng.normal(size=(6, 3, 9, 13)).astype(np.float32)
    heatmaps[3:] = heatmaps[3:].round()  # plateaus
    heatmaps[5, 0] = 0
    cells, heights = find_local_peaks(torch.from_numpy(heatmaps), 40, window)
    assert heights.shape == (6, 3, 40)
    for n in range(6):
        for c in range(3):
            read = {
                (int(x), int(y), float(v))
                for (x, y), v in zip(cells[n, c], heights[n, c], strict=True)
                if v > 0
            }
            expected = peaks_by_loop(heatmaps[n, c], window)
            assert read <= peaks_by_loop(heatmaps[n, c], window)
            assert len(read) == min(40, len(expected))
            assert (heights[n, c].diff() <= 0).all()


def test_a_point_half_way_between_cells_is_one_peak() -> None:
    points = torch.tensor([[[[42.0, 42.0]]]])  # cells 10.5, 10.5: four cells of equal height
    maps = encode_people(points, torch.ones(1, 1, 1, dtype=torch.bool), (24, 24), STRIDE, 2.0)
    assert (maps == maps.max()).sum() == 4
    _, heights = find_local_peaks(maps, 30, 5)
    assert (heights > 0).sum() == 1


def test_no_more_peaks_than_cells() -> None:
    assert find_local_peaks(torch.rand(1, 2, 3, 4), 30, 3).peaks.shape == (1, 2, 12)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_greedy_by_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 12
    score = torch.from_numpy(rng.random((3, count)).astype(np.float32))
    exists = torch.from_numpy(rng.random((3, count)) < 0.8)
    points = torch.from_numpy(rng.random((3, count, 2, 2)).astype(np.float32))
    cells = torch.arange(3 * count * 2).view(3, count, 2)
    scores = torch.where(exists, score, -1.0)
    people = by_score(Instances(points, torch.ones(3, count, 2), scores, exists, cells))
    assert (people.score.diff(dim=1) <= 0).all()
    overlaps = torch.from_numpy(rng.random((3, count, count)) < 0.25)
    overlaps = overlaps | overlaps.mT
    kept = suppress(people, overlaps)
    for n in range(3):
        expected: list[int] = []
        for q in range(count):
            if people.exists[n, q] and not any(overlaps[n, q, other] for other in expected):
                expected.append(q)
        assert kept.exists[n].nonzero()[:, 0].tolist() == expected
    assert kept.score[~kept.exists].eq(0).all()
    assert kept.points_xy[~kept.exists].eq(0).all()
    assert torch.equal(kept.points_xy[kept.exists], people.points_xy[kept.exists])


def test_values_that_an_export_copied_to_the_device_are_not_kept() -> None:
    """The tensors of a trace hold no numbers."""

    class Shift(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + on_device((0.5, 0.25), x.device)

    program = torch.export.export(Shift(), (torch.zeros(2),))
    expected = torch.tensor([0.5, 0.25])
    assert torch.equal(on_device((0.5, 0.25), torch.device("cpu")), expected)
    assert torch.equal(program.module()(torch.zeros(2)), expected)
