"""The cache draws like the graph: the same matrices from the same numbers, the same spread."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from semipose.pipelines import geometry
from semipose.pipelines.cache.draw import (
    Order,
    draw_angle_deg,
    draw_flip,
    draw_scale,
    strong_from_weak,
    unlabelled_plan,
    view_from_stored,
    view_generator,
)
from semipose.pipelines.cache.store import Store
from semipose.pipelines.graph import unlabelled_graph
from semipose.pipelines.views import PLAIN, PUBLISHED_STRONG, PUBLISHED_WEAK, AffinePolicy, ViewSettings
from tests.pipelines.conftest import encode, write_shards
from tests.pipelines.test_graph import SIZES_HW, batch_of

COUNT = 8192
PEOPLE = 24
CORNERS_XY = np.array([[0, 0], [180, 0], [0, 240], [180, 240]], np.float32)
OTHER = AffinePolicy(scale_sd=0.1, rotation_sd_deg=50, rotation_probability=0.3, flip_probability=0.0)
POLICIES = {"weak": PUBLISHED_WEAK, "strong": OTHER}


def boxes() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.hstack([rng.uniform(0, 60, (PEOPLE, 2)), rng.uniform(20, 150, (PEOPLE, 2))]).astype(np.float32)


def graph_of_matrices(
    folder: Path, views: ViewSettings, boxes_xywh: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    tiny = [encode(np.zeros((8, 8, 3), np.uint8))] * len(boxes_xywh)
    shards = write_shards(folder / "shards", tiny, boxes_xywh=boxes_xywh)
    batch = batch_of(partial(unlabelled_graph, views=views), shards, count=count)
    return {name: batch[name].numpy() for name in batch if "from" in name}


def angle_deg(matrix: np.ndarray) -> np.ndarray:
    """The second column is never mirrored."""
    return np.rad2deg(np.arctan2(-matrix[:, 0, 1].astype(float), matrix[:, 1, 1].astype(float)))


def zoom(matrix: np.ndarray) -> np.ndarray:
    return np.sqrt(np.abs(np.linalg.det(matrix[:, :, :2].astype(float))))


def moved(matrix: np.ndarray) -> np.ndarray:
    return geometry.apply(torch.from_numpy(matrix).float(), torch.from_numpy(CORNERS_XY)).numpy()


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_matrices_are_those_of_the_graph(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    """Scale, angle and flip read off DALI's matrices give the same matrices, to a thousandth of a pixel."""
    views = ViewSettings(size_hw=size_hw, weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    theirs = graph_of_matrices(tmp_path, views, boxes(), PEOPLE)
    weak, strong = theirs["weak_from_stored"], theirs["strong_from_weak"]
    flip = np.linalg.det(weak[:, :, :2]) < 0
    assert 4 < flip.sum() < PEOPLE - 4
    padded = 1.25 * np.maximum(boxes()[:, 2], boxes()[:, 3] * size_hw[1] / size_hw[0])
    ours = view_from_stored(boxes(), size_hw[1] / padded / zoom(weak), angle_deg(weak), flip, size_hw)
    np.testing.assert_allclose(moved(ours), moved(weak), atol=1e-3)
    relative = strong_from_weak(1 / zoom(strong), angle_deg(strong), size_hw)
    np.testing.assert_allclose(moved(relative), moved(strong), atol=1e-3)


@pytest.fixture(scope="module")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Matrices of as many samples of one box by the graph, whose scale is that of the view."""
    views = ViewSettings(size_hw=(32, 32), **POLICIES)
    boxes_xywh = np.tile(np.array([0, 0, 25.6, 25.6], np.float32), (16, 1))
    drawn = graph_of_matrices(tmp_path_factory.mktemp("policies"), views, boxes_xywh, COUNT)
    return {"weak": drawn["weak_from_stored"], "strong": drawn["strong_from_weak"]}


@pytest.fixture(params=POLICIES)
def drawn(request: pytest.FixtureRequest, matrices: dict[str, np.ndarray]) -> dict[str, list]:
    """Scale, angle and flip of as many samples, by the graph and by the cache."""
    policy, theirs, rng = POLICIES[request.param], matrices[request.param], np.random.default_rng(1)
    return {
        "scale": [1 / zoom(theirs), draw_scale(policy, COUNT, rng)],
        "angle": [angle_deg(theirs), draw_angle_deg(policy, COUNT, rng)],
        "flip": [np.linalg.det(theirs[:, :, :2]) < 0, draw_flip(policy, COUNT, rng)],
        "limits": [policy.scale_min, policy.scale_max, policy.rotation_max_deg],
    }


@pytest.mark.parametrize("quantity", ["scale", "angle"])
def test_draws_are_spread_as_the_graphs(drawn: dict[str, list], quantity: str) -> None:
    """Two samples of one policy differ by more than 0.03 once in a thousand seeds; the seeds are fixed."""
    # float32 matrices say 0 degrees and the limits to some 1e-5 only
    theirs, ours = (np.round(values, 3) + 0.0 for values in drawn[quantity])
    assert ks_2samp(theirs, ours).statistic < 0.03
    for low, high in ((theirs.min(), ours.min()), (theirs.max(), ours.max())):
        assert low == pytest.approx(high, abs=2e-3) or abs(low - high) < 0.05 * np.ptp(ours)


def test_clamped_unrotated_and_mirrored_shares_agree(drawn: dict[str, list]) -> None:
    """What a spread could hide: the shares of the draws that sit on one value."""
    scale_min, scale_max, rotation_max_deg = drawn["limits"]
    for quantity, value in (
        ("scale", scale_min),
        ("scale", scale_max),
        ("angle", 0.0),
        ("angle", rotation_max_deg),
        ("angle", -rotation_max_deg),
        ("flip", True),
    ):
        theirs, ours = (np.isclose(np.asarray(draws, float), value, atol=1e-3) for draws in drawn[quantity])
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.025), (quantity, value)


def test_no_chance_at_all_is_the_plain_view(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    assert (draw_scale(PLAIN, 99, rng) == 1).all()
    assert (draw_angle_deg(PLAIN, 99, rng) == 0).all()
    assert not draw_flip(PLAIN, 99, rng).any()
    assert (draw_angle_deg(replace(PUBLISHED_WEAK, rotation_sd_deg=0), 99, rng) == 0).all()
    assert draw_flip(replace(PUBLISHED_WEAK, flip_probability=1.0), 99, rng).all()
    assert (draw_angle_deg(replace(PUBLISHED_WEAK, rotation_probability=1.0), 99, rng) != 0).all()
    views = ViewSettings(weak=PLAIN, strong=PLAIN)
    theirs = graph_of_matrices(tmp_path, views, boxes(), PEOPLE)
    plan = unlabelled_plan(store_of(boxes()), np.arange(PEOPLE), rng, views=views)
    for view in plan.views:
        np.testing.assert_allclose(moved(view.from_stored), moved(theirs["weak_from_stored"]), atol=1e-3)


def store_of(boxes_xywh: np.ndarray) -> Store:
    none = np.zeros(len(boxes_xywh), np.int64)
    sizes = np.zeros((len(boxes_xywh), 2), np.int64)
    return Store(torch.empty(0, dtype=torch.uint8), none, sizes, boxes_xywh, None)


def test_strong_view_is_the_weak_one_moved_and_never_mirrored() -> None:
    views = ViewSettings(weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    places = np.array([3, 0, 3, 7] * 8)
    plan = unlabelled_plan(store_of(boxes()), places, np.random.default_rng(2), views=views)
    weak, strong = (torch.from_numpy(view.from_stored) for view in plan.views)
    composed = geometry.compose(plan.values["strong_from_weak"], weak).numpy()
    np.testing.assert_allclose(moved(composed), moved(strong.numpy()), atol=1e-3)
    assert (torch.linalg.det(plan.values["strong_from_weak"][:, :, :2]) > 0).all()
    assert [view.border for view in plan.views] == ["black", "mean"]
    assert [view.from_weak for view in plan.views] == [None, None]
    ending = unlabelled_plan(
        store_of(boxes()), places, np.random.default_rng(2), views=replace(views, strong_beyond_weak="mean")
    )
    assert ending.views[0].from_weak is None
    np.testing.assert_array_equal(ending.views[1].from_weak, ending.values["strong_from_weak"].numpy())
    # what draws scale and angle of one view does not draw those of the other
    draws = np.stack([zoom(plan.values["strong_from_weak"].numpy()), angle_deg(weak.numpy())])
    assert abs(np.corrcoef(draws)[0, 1]) < 0.5


@pytest.mark.parametrize(("num_samples", "batch_size"), [(10, 4), (5, 8), (1, 3), (7, 7), (3, 16)])
def test_every_pass_shows_each_sample_once(num_samples: int, batch_size: int) -> None:
    order = Order(num_samples, seed=4)
    shown = np.concatenate([order.indices(number, batch_size) for number in range(3 * num_samples)])
    passes = shown[: len(shown) // num_samples * num_samples].reshape(-1, num_samples)
    assert (np.sort(passes, 1) == np.arange(num_samples)).all()
    if num_samples > 4:
        assert len({tuple(each) for each in passes.tolist()}) > len(passes) / 2


def test_a_batch_depends_on_its_number_alone() -> None:
    forwards, order = Order(10, seed=4), Order(10, seed=4)
    expected = [forwards.indices(number, 4) for number in range(9)]
    for number in (8, 2, 5, 5, 0):
        assert (order.indices(number, 4) == expected[number]).all()
        assert view_generator(4, number).random() == view_generator(4, number).random()
    assert view_generator(4, 1).random() != view_generator(4, 2).random() != view_generator(5, 2).random()
    assert (Order(50, seed=4).indices(0, 50) != Order(50, seed=5).indices(0, 50)).any()
