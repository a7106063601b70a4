"""The strong view ends with the weak view, as where the weak view itself is warped (docs/methods.md 2.2)."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semipose.pipelines import geometry
from semipose.pipelines.cache.draw import unlabelled_plan
from semipose.pipelines.cache.store import Store
from semipose.pipelines.cache.warp.host import HostWarp
from semipose.pipelines.loader import unlabelled_loader
from semipose.pipelines.source import open_split
from semipose.pipelines.view_border import fade
from semipose.pipelines.view_border_numba import fade_view
from semipose.pipelines.view_pipeline import Shown, ViewPipeline
from semipose.pipelines.views import MEAN_RGB, PUBLISHED_STRONG, PUBLISHED_WEAK, STD_RGB, ViewSettings
from semipose.pipelines.warp import CpuWarp, View
from tests.pipelines.conftest import MakeShards, encode
from tests.pipelines.test_graph import SIZES_HW

PUBLISHED = ViewSettings(
    weak=PUBLISHED_WEAK, strong=replace(PUBLISHED_STRONG, border="black"), strong_beyond_weak="mean"
)
BLACK = torch.tensor([-mean / std for mean, std in zip(MEAN_RGB, STD_RGB, strict=True)])


def drawn_matrices(count: int, size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """`strong_from_weak` (N, 2, 3) with the published policy, the plain one and quarter turns among them."""
    rng = np.random.default_rng(seed)
    angles = np.clip(30 * rng.standard_normal(count), -60, 60)
    zooms = 1 / np.clip(1 + 0.25 * rng.standard_normal(count), 0.75, 1.25)
    angles[:4], zooms[:3] = (0, 0, 90, 45), (1, 0.8, 1)
    centre_xy = (size_hw[1] / 2, size_hw[0] / 2)
    turns = [cv2.getRotationMatrix2D(centre_xy, -a, z) for a, z in zip(angles, zooms, strict=True)]
    return np.array(turns, np.float32)


def warp_weak_again(weak: Tensor, strong_from_weak: np.ndarray) -> Tensor:
    """The peers' strong view: `grid_sample` of the normalised weak views (N, 3, H, W), zeros beyond them."""
    height, width = weak.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((x, y, torch.ones_like(x)), -1).double()
    inverse = torch.from_numpy(
        np.array([cv2.invertAffineTransform(m.astype(np.float64)) for m in strong_from_weak])
    )
    weak_xy = torch.einsum("nij,hwj->nhwi", inverse, places)
    grid = (2 * weak_xy + 1) / torch.tensor([width, height]) - 1
    return F.grid_sample(weak.double(), grid, padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_views_of_one_colour_are_those_of_a_second_warp(size_hw: tuple[int, int]) -> None:
    """Where the photo has one colour a second warp blurs nothing: only the end of the weak view counts."""
    matrices = drawn_matrices(24, size_hw)
    colour = torch.tensor([0.7, -1.3, 2.1])
    ones = colour.expand(24, *size_hw, 3).contiguous()
    expected = warp_weak_again(ones.permute(0, 3, 1, 2), matrices).permute(0, 2, 3, 1).float()
    torch.testing.assert_close(fade(ones, torch.from_numpy(matrices)), expected, atol=2e-3, rtol=0)
    on_cpu = ones.clone().numpy()
    for view, matrix in zip(on_cpu, matrices, strict=True):
        fade_view(view, matrix)
    np.testing.assert_allclose(on_cpu, expected.numpy(), atol=1e-4)
    # the plain one loses nothing, and the others much of a corner unless they zoom in
    assert (on_cpu[0] == colour.numpy()).all()
    lost = (on_cpu == 0).all(-1).mean((1, 2))
    assert lost.max() > 0.1


def smooth_photo(seed: int) -> np.ndarray:
    """A photo without fine detail, which a second sampling would blur."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (5, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, (150, 200), interpolation=cv2.INTER_CUBIC)


def crop_store(photos: list[np.ndarray]) -> Store:
    """People so near the edges of their photos that the views show what lies beyond."""
    sizes = np.array([photo.shape[:2] for photo in photos])
    ends = np.cumsum(sizes.prod(1) * 3)
    pixels = torch.from_numpy(np.concatenate([photo.reshape(-1) for photo in photos]))
    boxes = np.tile(np.array([5, 10, 100, 180], np.float32), (len(photos), 1))
    return Store(pixels, np.concatenate([[0], ends[:-1]]), sizes, boxes, None)


def test_a_strong_view_is_black_beyond_the_photo_and_mean_beyond_the_weak_view() -> None:
    """Against the two warps of the published systems: photo to weak view, weak view to strong view."""
    photos, size_hw = [smooth_photo(i) for i in range(8)], (128, 96)
    views, store = replace(PUBLISHED, size_hw=size_hw), crop_store(photos)
    plan = unlabelled_plan(store, np.arange(8), np.random.default_rng(3), views=views)
    warp = HostWarp(store, size_hw, 2)
    batch = warp.prepare(plan)()
    warp.close()
    weak = batch["weak"].permute(0, 3, 1, 2)
    expected = warp_weak_again(weak, batch["strong_from_weak"].numpy()).permute(0, 2, 3, 1).float()
    away = (batch["strong"] - expected).abs().amax(-1)
    # the edge of the photo, sampled once, is sharper than sampled twice: some pixels along a line
    assert away.median() < 0.02
    assert (away > 0.25).float().mean() < 0.02
    is_black = (expected - BLACK).abs().amax(-1) < 0.01
    is_mean = expected.abs().amax(-1) == 0
    assert is_black.float().mean() > 0.05
    assert is_mean.float().mean() > 0.03
    assert ((batch["strong"] - BLACK).abs().amax(-1)[is_black] < 0.05).float().mean() > 0.98
    assert (batch["strong"].abs().amax(-1)[is_mean] < 0.01).all()


def test_only_the_strong_view_ends_with_the_weak_one_and_only_where_asked() -> None:
    photos = [smooth_photo(i) for i in range(4)]
    store, batches = crop_store(photos), {}
    for beyond in ("photo", "mean"):
        views = replace(PUBLISHED, size_hw=(64, 48), strong_beyond_weak=beyond)
        plan = unlabelled_plan(store, np.arange(4), np.random.default_rng(3), views=views)
        warp = HostWarp(store, (64, 48), 1)
        batches[beyond] = warp.prepare(plan)()
        warp.close()
    assert torch.equal(batches["photo"]["weak"], batches["mean"]["weak"])
    strong, matrix = batches["photo"]["strong"], batches["photo"]["strong_from_weak"]
    torch.testing.assert_close(batches["mean"]["strong"], fade(strong, matrix), atol=1e-3, rtol=0)
    assert not torch.equal(strong, batches["mean"]["strong"])


def test_every_loader_gives_that_view(make_shards: MakeShards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded each time on the CPU, kept in a cache, and warped by the graph itself as on a GPU."""
    split = open_split(make_shards([encode(smooth_photo(i)) for i in range(6)]))
    views = replace(PUBLISHED, size_hw=(96, 64))
    loader = unlabelled_loader(split, views, batch_size=6, seed=4)
    batch = next(loader)
    graph, reading, shown, size_hw = loader._build.args
    loader.close()
    assert shown["strong"] == Shown("strong_from_stored", "black", "strong_from_weak")
    whole = ViewPipeline(graph, reading, shown, size_hw)
    whole.close()
    monkeypatch.setattr(whole, "_warp", None)
    whole._pipeline = type(whole._pipeline)(graph, reading)  # the graph that warps
    alike = whole.next()
    torch.testing.assert_close(batch.strong.permute(0, 2, 3, 1), alike["strong"], atol=1e-3, rtol=0)
    assert torch.equal(batch.strong_from_weak, alike["strong_from_weak"])
    plain = unlabelled_loader(split, replace(views, strong_beyond_weak="photo"), batch_size=6, seed=4)
    unfaded = next(plain).strong
    plain.close()
    faded = fade(unfaded.permute(0, 2, 3, 1), batch.strong_from_weak).permute(0, 3, 1, 2)
    torch.testing.assert_close(batch.strong, faded, atol=1e-3, rtol=0)
    cached = unlabelled_loader(split, views, batch_size=6, seed=4, cache="host")
    kept = next(cached)
    cached.close()
    again = fade(kept.strong.permute(0, 2, 3, 1), kept.strong_from_weak).permute(0, 3, 1, 2)
    beyond = geometry.linear_scale(kept.strong_from_weak) < 0.95  # zoomed out: the weak view ends inside
    assert beyond.any()
    is_mean = (again == 0).all(1)[beyond]
    assert is_mean.float().mean() > 0.02
    assert (kept.strong.abs().amax(1)[beyond][is_mean] == 0).all()


def test_a_pixel_of_the_view_is_faded_whatever_the_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 255, (70 + i, 60, 3), np.uint8) for i in range(9)]
    stored = np.tile(np.eye(2, 3, dtype=np.float32), (9, 1, 1))
    found = []
    for threads in (1, 4):
        warp = CpuWarp((64, 48), threads)
        view = View("strong", stored, "black", drawn_matrices(9, (64, 48)))
        found.append(warp.start(crops, [view])()["strong"])
        warp.close()
    assert torch.equal(*found)


@pytest.mark.gpu
def test_a_gpu_fades_as_the_cpu_does() -> None:
    from semipose.pipelines.cache.warp.cuda import CudaWarp

    device, size_hw = torch.device("cuda:0"), (128, 96)
    store, views = crop_store([smooth_photo(i) for i in range(8)]), replace(PUBLISHED, size_hw=size_hw)
    plan = unlabelled_plan(store, np.arange(8), np.random.default_rng(3), views=views)
    host = HostWarp(store, size_hw, 2)
    expected = host.prepare(plan)()
    host.close()
    found = CudaWarp(store, size_hw, device).prepare(plan)()
    away = (found["strong"].cpu() - expected["strong"]).abs()
    assert away.max() < 0.03  # a grey level
    assert (away > 2e-3).float().mean() < 1e-2
