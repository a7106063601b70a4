"""The kernels of the cache: OpenCV's gives the graph's pixels, Triton's gives OpenCV's."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from semipose.pipelines.cache.draw import Plan, unlabelled_plan
from semipose.pipelines.cache.store import Store, fill
from semipose.pipelines.cache.warp.host import HostWarp
from semipose.pipelines.graph import unlabelled_graph
from semipose.pipelines.source import open_split
from semipose.pipelines.views import (
    BORDER_GREYS,
    MEAN_RGB,
    PUBLISHED_STRONG,
    PUBLISHED_WEAK,
    STD_RGB,
    ViewSettings,
)
from semipose.pipelines.warp import View
from tests.devices import refusing_to_wait
from tests.pipelines.conftest import MakeShards, encode
from tests.pipelines.test_graph import SIZES_HW, batch_of, pixels_of, reading_of

CPU = torch.device("cpu")


def noise_photos(sizes_hw: list[tuple[int, int]]) -> list[bytes]:
    rng = np.random.default_rng(6)
    return [encode(rng.integers(0, 255, (*size_hw, 3), np.uint8)) for size_hw in sizes_hw]


def filled(folder: Path, device: torch.device = CPU) -> Store:
    split = open_split(folder)
    home = "host" if device == CPU else "device"
    reading = reading_of(split, batch_size=4)
    return fill(reading, split.num_samples, num_keypoints=None, home=home, device=device, what="people")


def store_of(crops: list[np.ndarray]) -> Store:
    sizes = np.array([crop.shape[:2] for crop in crops])
    ends = np.cumsum(sizes.prod(1) * 3)
    pixels = torch.from_numpy(np.concatenate([crop.reshape(-1) for crop in crops]))
    boxes = np.array([[2, 2, size[1] - 4, size[0] - 4] for size in sizes], np.float32)
    return Store(pixels, np.concatenate([[0], ends[:-1]]), sizes, boxes, None)


def greys(views: Tensor) -> Tensor:
    """Normalised views (N, H, W, 3) back to grey levels, not rounded."""
    return 255 * (views.double() * torch.tensor(STD_RGB) + torch.tensor(MEAN_RGB))


def cpu_views(store: Store, plan: Plan, size_hw: tuple[int, int], threads: int = 2) -> dict[str, Tensor]:
    warp = HostWarp(store, size_hw, threads)
    views = warp.prepare(plan)()
    warp.close()
    return views


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_cached_views_equal_the_graphs(make_shards: MakeShards, size_hw: tuple[int, int]) -> None:
    """In every pixel, for the same matrices, whatever the sizes of the crops."""
    folder = make_shards(noise_photos([(240 - 3 * i, 150 + i) for i in range(11)]))
    views = ViewSettings(size_hw=size_hw, weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    batch = batch_of(partial(unlabelled_graph, views=views), folder, count=13)
    borders = {"weak": views.weak.border, "strong": views.strong.border}
    shown = [View(name, batch[f"{name}_from_stored"].numpy(), borders[name]) for name in borders]
    plan = Plan(np.arange(13) % 11, tuple(shown), {})
    for name, ours in cpu_views(filled(folder), plan, size_hw).items():
        assert torch.equal(pixels_of(ours), pixels_of(batch[name]))


def test_photos_of_one_grey_are_stored_in_three_channels(make_shards: MakeShards) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((31, 23), 77, np.uint8)).save(buffer, "JPEG")
    store = filled(make_shards([buffer.getvalue()] * 5))
    assert store.sizes_hw.tolist() == [[31, 23]] * 5
    assert store.pixels.numel() == 5 * 31 * 23 * 3
    assert (store.pixels == 77).all()


def test_views_do_not_depend_on_threads() -> None:
    store = store_of([np.random.default_rng(i).integers(0, 255, (70 + i, 50, 3), np.uint8) for i in range(9)])
    plan = unlabelled_plan(
        store, np.arange(27) % 9, np.random.default_rng(0), views=ViewSettings(size_hw=(64, 48))
    )
    one, many = (cpu_views(store, plan, (64, 48), threads) for threads in (1, 5))
    assert all(torch.equal(one[name], many[name]) for name in ("weak", "strong"))


INTERPRETED = """
import sys
import torch
from semipose.pipelines.cache.warp.triton_kernel import launch
cases = torch.load(sys.argv[1])
torch.save([launch(*case) for case in cases], sys.argv[1])
"""


def colours(border: str) -> Tensor:
    rows = [[255 * mean for mean in MEAN_RGB], [1 / (255 * std) for std in STD_RGB]]
    return torch.tensor([BORDER_GREYS[border], *rows], dtype=torch.float32)  # type: ignore[index]


@pytest.mark.slow
def test_triton_kernel_equals_cpu_kernel_in_the_interpreter(tmp_path: Path) -> None:
    from semipose.pipelines.cache.warp.cuda import invert

    rng = np.random.default_rng(0)
    store = store_of([rng.integers(0, 255, (60 + 5 * i, 40 + i, 3), np.uint8) for i in range(3)])
    size_hw, places = (44, 32), np.array([2, 0, 1, 1])
    views = ViewSettings(size_hw=size_hw, weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    plan = unlabelled_plan(store, places, rng, views=views)
    half_a_pixel = np.array([[1, 0, 0.5], [0, 1, 0.5]], np.float32)  # a quarter of all sums are ties
    plan.views[0].from_stored[3] = half_a_pixel
    crops = [torch.from_numpy(array[places]) for array in (store.offsets, store.sizes_hw)]
    cases = [
        (store.pixels, *crops, invert(view.from_stored), colours(view.border), size_hw) for view in plan.views
    ]
    lost = torch.full((4, 2, 3), float("inf"))
    lost[1], lost[2] = float("nan"), 1e30
    cases.append((store.pixels, *crops, lost, colours("mean"), size_hw))
    torch.save(cases, tmp_path / "cases.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, str(tmp_path / "cases.pt")]
    subprocess.run(command, env=environment, check=True, timeout=120)
    *found, nowhere = torch.load(tmp_path / "cases.pt")
    expected = cpu_views(store, plan, size_hw)
    for view, ours in zip(plan.views, found, strict=True):
        difference = (greys(ours) - greys(expected[view.name])).abs()
        assert difference.max() < 1.01
        assert (difference > 0.01).double().mean() < 1e-3
    assert (nowhere.abs() < 0.02).all()  # the mean colour, to a grey level


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_triton_kernel_compiles_without_a_gpu(capability: int) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from semipose.pipelines.cache.warp.triton_kernel import BLOCK, warp

    constants = {"WIDTH": 192, "VALUES": BLOCK}
    signature = dict.fromkeys(warp.arg_names, "*fp32") | {
        "pixels": "*u8",
        "offsets": "*i64",
        "sizes_hw": "*i64",
        "num_values": "i32",
        **dict.fromkeys(constants, "constexpr"),
    }
    source = ASTSource(warp, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"enable_fp_fusion": False})
    assert f"sm_{capability}" in binary.asm["ptx"]
    assert binary.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.parametrize("home", ["host", "device"])
def test_cuda_views_equal_cpu_views(make_shards: MakeShards, home: str) -> None:
    from semipose.pipelines.cache.warp.cuda import CudaWarp

    cuda, size_hw = torch.device("cuda:0"), (256, 192)
    folder = make_shards(noise_photos([(240 - 3 * i, 150 + i) for i in range(11)]))
    store = filled(folder)
    views = ViewSettings(weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    plan = unlabelled_plan(store, np.arange(32) % 11, np.random.default_rng(0), views=views)
    warp = CudaWarp(store if home == "host" else filled(folder, cuda), size_hw, cuda)
    warp.prepare(plan)()  # compiles
    ready = warp.prepare(plan)
    with refusing_to_wait("cuda"):
        found = ready()
    expected = cpu_views(store, plan, size_hw)
    assert torch.equal(found["strong_from_weak"].cpu(), expected["strong_from_weak"])
    for name in ("weak", "strong"):
        difference = (greys(found[name].cpu()) - greys(expected[name])).abs()
        assert difference.max() < 1.01
        assert (difference > 0.01).double().mean() < 1e-3


def test_crops_are_packed_and_matrices_inverted_for_a_gpu() -> None:
    """What the copy to the device is made of, where there is none."""
    from semipose.pipelines.cache.warp.cuda import invert, pack

    crops = [np.random.default_rng(i).integers(0, 255, (9 + i, 7, 3), np.uint8) for i in range(4)]
    places = np.array([2, 0, 2])
    packed, offsets = pack(store_of(crops), places)
    for place, offset in zip(places, offsets, strict=True):
        stored = packed[offset : offset + crops[place].size].reshape(crops[place].shape)
        assert (stored.numpy() == crops[place]).all()
    assert packed.numel() == sum(crops[place].size for place in places)
    matrices = np.random.default_rng(9).normal(size=(5, 2, 3)).astype(np.float32)
    expected = [cv2.invertAffineTransform(matrix) for matrix in matrices]
    np.testing.assert_allclose(invert(matrices).numpy(), expected, rtol=1e-5)
    assert not torch.isfinite(invert(np.zeros((1, 2, 3), np.float32))).any()
