"""Training streams on a CPU and on a GPU: the same people in the same views, and batches that keep still."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from semipose.pipelines.loader import LoaderSettings, ProcessInfo, labelled_loader, unlabelled_loader
from semipose.pipelines.source import open_split
from semipose.pipelines.views import STD_RGB, ViewSettings
from tests.devices import DEVICES, refusing_to_wait
from tests.pipelines.conftest import MakeShards

PEOPLE, BATCH = 24, 8
VIEWS = ViewSettings(size_hw=(128, 96))
LOADERS: dict[str, Callable[..., Any]] = {"labelled": labelled_loader, "unlabelled": unlabelled_loader}
CACHES = ["none", "device"]
OpenStream = Callable[..., Any]


@pytest.fixture
def photos(make_shards: MakeShards) -> dict[str, Path]:
    """Shards of textured photos, with full and with halved chroma, as cameras write it."""
    rng = np.random.default_rng(6)
    noise = [rng.integers(0, 255, (30, 20, 3), np.uint8) for _ in range(PEOPLE)]
    pixels = [cv2.resize(n, (170, 230 - i), interpolation=cv2.INTER_CUBIC) for i, n in enumerate(noise)]

    def jpeg(photo: np.ndarray, subsampling: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(photo).save(buffer, "JPEG", quality=92, subsampling=subsampling)
        return buffer.getvalue()

    kinds = {"4:4:4": 0, "4:2:0": 2}
    return {
        kind: make_shards([jpeg(photo, number) for photo in pixels], name=f"photos{number}")
        for kind, number in kinds.items()
    }


@pytest.fixture
def stream(photos: dict[str, Path]) -> Iterator[OpenStream]:
    """`stream("labelled", device, chroma="4:2:0", **options)`; closed at the end."""
    opened: list[Any] = []

    def start(role: str, device: str, *, chroma: str = "4:2:0", **options: Any) -> Any:
        split = open_split(photos[chroma])
        process, settings = (
            ProcessInfo(device=torch.device(device)),
            LoaderSettings(threads=2, shuffle_buffer=PEOPLE),
        )
        common = {"batch_size": BATCH, "seed": 3, "process": process, "settings": settings}
        opened.append(LOADERS[role](split, VIEWS, **common, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def levels_apart(one: Tensor, other: Tensor) -> Tensor:
    """How far two batches of normalised views (N, 3, H, W) are apart, in grey levels, sorted."""
    deviation = torch.tensor(STD_RGB)[:, None, None] * 255
    return ((one.cpu() - other.cpu()).abs() * deviation).flatten().sort().values


def assert_within_two_levels(one: Tensor, other: Tensor) -> None:
    """999 of 1,000 pixels within two grey levels and none beyond eight, the mean within half a level.

    Decoders and warps round by themselves: a level each. What is left are single pixels on steep edges.
    """
    apart = levels_apart(one, other)
    said = (
        f"mean {apart.mean():.3f}, 99.9 % within {apart[int(0.999 * len(apart))]:.2f}, most {apart[-1]:.2f}"
    )
    assert apart.mean() < 0.5, said
    assert apart[int(0.999 * len(apart))] < 2.01, said
    assert apart[-1] < 8, said


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("device", DEVICES)
def test_views_of_a_device_are_those_of_the_cpu_within_two_levels(
    device: str, chroma: str, stream: OpenStream
) -> None:
    here, there = (stream("unlabelled", each, chroma=chroma) for each in ("cpu", device))
    for _ in range(3):
        one, other = next(here), next(there)
        assert other.weak.device.type == device
        assert torch.equal(one.strong_from_weak, other.strong_from_weak.cpu())
        assert_within_two_levels(one.weak, other.weak)
        assert_within_two_levels(one.strong, other.strong)


@pytest.mark.parametrize("device", DEVICES)
def test_labelled_points_of_a_device_are_those_of_the_cpu(device: str, stream: OpenStream) -> None:
    one, other = (next(stream("labelled", each)) for each in ("cpu", device))
    assert torch.equal(one.visible, other.visible.cpu())
    torch.testing.assert_close(one.points_xy, other.points_xy.cpu(), atol=1e-3, rtol=1e-5)
    assert_within_two_levels(one.image, other.image)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_stream_of_a_device_repeats_itself_bit_for_bit(device: str, cache: str, stream: OpenStream) -> None:
    """Also when it is resumed: what else a bit-exact run needs is `deterministic: true`."""
    whole, cut = (stream("unlabelled", device, cache=cache) for _ in range(2))
    expected = [next(whole) for _ in range(6)]
    for batch in expected[:3]:
        assert torch.equal(next(cut).strong, batch.strong)
    resumed = stream("unlabelled", device, cache=cache)
    resumed.load_state_dict(cut.state_dict())
    for batch in expected[3:]:
        again = next(resumed)
        assert torch.equal(again.weak, batch.weak)
        assert torch.equal(again.strong, batch.strong)
        assert torch.equal(again.strong_from_weak, batch.strong_from_weak)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("role", LOADERS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_held_batch_stays_as_it_is(device: str, role: str, cache: str, stream: OpenStream) -> None:
    """Its tensors share memory with the pipeline, which goes on filling buffers of its own."""
    loader = stream(role, device, cache=cache)
    held = next(loader)
    copies = {name: value.clone() for name, value in vars(held).items() if value is not None}
    others = [next(loader) for _ in range(6)]
    for name, copy in copies.items():
        assert torch.equal(getattr(held, name), copy), name
    first = next(iter(copies))
    assert not any(torch.equal(getattr(each, first), copies[first]) for each in others)


@pytest.mark.gpu
@pytest.mark.parametrize("cache", CACHES)
def test_memory_of_a_dropped_batch_is_not_filled_while_the_gpu_still_reads_it(
    cache: str, stream: OpenStream
) -> None:
    """The host is steps ahead: when it drops a batch, the kernels that read it may not have begun."""
    loader = stream("unlabelled", "cuda", cache=cache)
    for _ in range(4):
        next(loader)
    batch = next(loader)
    expected = batch.weak.clone()
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # half a second of the GPU's time
    read_late = batch.weak.clone()
    del batch
    for _ in range(8):
        next(loader)
    assert torch.equal(read_late, expected)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("role", LOADERS)
@pytest.mark.parametrize("device", DEVICES)
def test_taking_a_batch_does_not_wait_for_the_gpu(
    device: str, role: str, cache: str, stream: OpenStream
) -> None:
    loader = stream(role, device, cache=cache)
    for _ in range(5):  # past the first pass over the people
        next(loader)
    with refusing_to_wait(device):
        batches = [next(loader) for _ in range(4)]
    assert all(
        torch.isfinite(value).all()
        for batch in batches
        for value in vars(batch).values()
        if value is not None
    )
