"""The loaders: which samples, in which order, resumed how, and no label where none may be."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semipose.configs.load import InputError
from semipose.pipelines import geometry
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.loader import (
    LoaderSettings,
    ProcessInfo,
    TrainLoader,
    eval_loader,
    labelled_loader,
    unlabelled_loader,
)
from semipose.pipelines.source import labelled_split, open_split, unlabelled_split
from semipose.pipelines.views import MEAN_RGB, STD_RGB, ViewSettings
from tests.pipelines.conftest import MakeShards, grey_photos

VIEWS = ViewSettings(size_hw=(64, 48))
GreyShards = Callable[[int], Path]


def shown_samples(images: torch.Tensor) -> list[int]:
    """Which of `grey_photos` each normalised view (N, 3, H, W) shows at its centre."""
    red = images[:, 0, images.shape[2] // 2, images.shape[3] // 2]
    return [round((255 * float(value * STD_RGB[0] + MEAN_RGB[0]) - 20) / 6) for value in red]


def bits(batch: LabelledBatch | UnlabelledBatch) -> list[bytes]:
    return [tensor.contiguous().numpy().tobytes() for tensor in vars(batch).values() if tensor is not None]


LOADERS = pytest.mark.parametrize(
    "make", [labelled_loader, unlabelled_loader], ids=["labelled", "unlabelled"]
)


def test_labelled_batch(make_shards: MakeShards) -> None:
    keypoints = np.tile([[80.0, 100, 2], [70, 120, 1], [np.nan, np.nan, 0]], (4, 1, 1))
    folder = make_shards(grey_photos(4), keypoints=keypoints)
    batch = next(labelled_loader(open_split(folder), VIEWS, batch_size=32, seed=0))
    assert batch.image.shape == (32, 3, 64, 48)
    assert batch.image.dtype == torch.float32
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.points_xy.shape == (32, 3, 2)
    seen = {tuple(row) for row in batch.visible.tolist()}
    assert seen == {(1, 1, 0), (1, 0, 1)}  # the second where mirrored: left and right have changed places
    assert torch.isfinite(batch.points_xy).all()
    assert (batch.points_xy[batch.visible == 0] == 0).all()


@LOADERS
def test_stream_is_endless_and_full(grey_shards: GreyShards, make: Any) -> None:
    """A set smaller than the batch wraps; over many batches every sample comes equally often."""
    loader = make(open_split(grey_shards(5)), VIEWS, batch_size=8, seed=0)
    images = [batch.image if make is labelled_loader else batch.weak for batch in islice(loader, 50)]
    assert all(len(image) == 8 for image in images)
    counts = np.bincount(shown_samples(torch.cat(images)), minlength=5)
    assert len(counts) == 5
    assert abs(counts - 80).max() <= 8


@LOADERS
@pytest.mark.parametrize(("steps", "rank", "world"), [(0, 0, 1), (1, 0, 1), (7, 0, 1), (3, 1, 2)])
def test_resume_is_exact(
    grey_shards: GreyShards, tmp_path: Path, make: Any, steps: int, rank: int, world: int
) -> None:
    """Bit for bit after a round trip through a file, mid-epoch or epochs on, whatever is prefetched."""
    split = open_split(grey_shards(13))
    start = partial(make, split, VIEWS, batch_size=4, seed=5, process=ProcessInfo(rank, world))
    loader = start(settings=LoaderSettings(shuffle_buffer=6, prefetch=3))
    for _ in range(steps):
        next(loader)
    torch.save(loader.state_dict(), tmp_path / "state")
    expected = [bits(batch) for batch in islice(loader, 6)]
    resumed = start(settings=LoaderSettings(shuffle_buffer=6, prefetch=1, threads=1))
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    again = resumed.state_dict()
    assert [bits(batch) for batch in islice(resumed, 6)] == expected
    resumed.load_state_dict(again)
    assert bits(next(resumed)) == expected[0]


def test_closed_stream_goes_on(grey_shards: GreyShards) -> None:
    split = open_split(grey_shards(9))
    one, other = (labelled_loader(split, VIEWS, batch_size=4, seed=5) for _ in range(2))
    for _ in range(3):
        next(one)
        next(other)
    other.close()
    assert bits(next(one)) == bits(next(other))


def test_state_of_another_stream_is_refused(grey_shards: GreyShards, tmp_path: Path) -> None:
    whole = open_split(grey_shards(12))
    start = partial(labelled_loader, whole, VIEWS, batch_size=4, seed=0)
    state = start().state_dict()
    start().load_state_dict(state)
    others: list[TrainLoader[Any]] = [
        start(batch_size=5),
        start(seed=1),
        start(settings=LoaderSettings(shuffle_buffer=2)),
        start(process=ProcessInfo(1, 2)),
        labelled_loader(whole, ViewSettings(size_hw=(64, 64)), batch_size=4, seed=0),
        labelled_loader(labelled_split(whole, 11, index_dir=tmp_path), VIEWS, batch_size=4, seed=0),
        unlabelled_loader(whole, VIEWS, batch_size=4, seed=0),
    ]
    keys = ["batch_size", "seed", "shuffle_buffer", "rank", r"views\.size_hw", "samples", "stream"]
    for other, key in zip(others, keys, strict=True):
        words = r"\(it reads other samples of these shards, [^,]*\)" if key == "samples" else f".*{key} was"
        with pytest.raises(InputError, match=f"differs from this one {words}"):
            other.load_state_dict(state)


def test_seeds_give_other_streams(grey_shards: GreyShards) -> None:
    split = open_split(grey_shards(12))
    streams = [next(labelled_loader(split, VIEWS, batch_size=8, seed=seed)) for seed in (0, 0, 1)]
    assert bits(streams[0]) == bits(streams[1]) != bits(streams[2])
    plain = next(unlabelled_loader(split, VIEWS, batch_size=8, seed=0))
    assert shown_samples(plain.weak) != shown_samples(streams[0].image)


def test_ranks_are_disjoint_and_miss_nothing(grey_shards: GreyShards) -> None:
    split = open_split(grey_shards(11))
    seen = []
    for rank in range(3):
        loader = labelled_loader(split, VIEWS, batch_size=4, seed=0, process=ProcessInfo(rank, 3))
        seen.append({i for batch in islice(loader, 12) for i in shown_samples(batch.image)})
    assert [len(s) for s in seen] == [3, 4, 4]
    assert set.union(*seen) == set(range(11))


@pytest.mark.parametrize("cache", ["none", "host"])
def test_ranks_draw_other_views(grey_shards: GreyShards, cache: Any) -> None:
    """Scale, rotation and mirror of as many people are not those of another rank, nor of another stream."""
    split = open_split(grey_shards(12))
    drawn = []
    for rank in range(2):
        loader = unlabelled_loader(
            split, VIEWS, batch_size=6, seed=0, process=ProcessInfo(rank, 2), cache=cache
        )
        drawn.append(next(loader).strong_from_weak)
        loader.close()
    alike = torch.isclose(drawn[0], drawn[1], atol=1e-4).all(dim=(1, 2))
    assert not alike.any()


def test_fewer_samples_than_ranks(grey_shards: GreyShards) -> None:
    with pytest.raises(InputError, match=r"the labelled set of .* has 2 samples for 3 processes"):
        labelled_loader(open_split(grey_shards(2)), VIEWS, batch_size=4, seed=0, process=ProcessInfo(0, 3))


def test_subset_is_what_the_stream_shows(grey_shards: GreyShards, tmp_path: Path) -> None:
    whole = open_split(grey_shards(20))
    labelled = labelled_split(whole, 6, subset_seed=1, index_dir=tmp_path)
    rest = unlabelled_split(whole, without=labelled, index_dir=tmp_path)
    shown = {
        i
        for batch in islice(labelled_loader(labelled, VIEWS, batch_size=8, seed=0), 10)
        for i in shown_samples(batch.image)
    }
    hidden = {
        i
        for batch in islice(unlabelled_loader(rest, VIEWS, batch_size=8, seed=0), 20)
        for i in shown_samples(batch.weak)
    }
    assert shown == {i - 100 for i in labelled.annotation_ids}
    assert hidden == set(range(20)) - shown


@pytest.mark.parametrize("world", [1, 2, 3, 20])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_eval_shows_each_sample_once_in_order(grey_shards: GreyShards, world: int, batch_size: int) -> None:
    split = open_split(grey_shards(17))
    ids, shown = [], []
    for rank in range(world):
        loader = eval_loader(split, VIEWS, batch_size=batch_size, process=ProcessInfo(rank, world))
        for _ in range(2 if world == 2 else 1):  # a second pass is as good as the first
            batches = list(loader)
        assert len(batches) == len(loader)
        assert all(len(batch.image) == batch_size for batch in batches[:-1])
        assert sum(len(batch.records) for batch in batches) == loader.num_samples
        ids += [record["id"] for batch in batches for record in batch.records]
        shown += [i for batch in batches for i in shown_samples(batch.image)]
    assert ids == list(range(100, 117))
    assert shown == list(range(17))


def test_eval_leads_back_to_the_photo(grey_shards: GreyShards) -> None:
    batch = next(iter(eval_loader(open_split(grey_shards(3)), VIEWS, batch_size=3)))
    centre = torch.tensor([[[24.0, 32.0]]]).expand(3, 1, 2)
    # The box's centre (85, 110) through image_from_stored = 2x + 5, 2y - 3 + i.
    expected = torch.tensor([[[175.0, 217.0 + i]] for i in range(3)])
    torch.testing.assert_close(geometry.apply(batch.image_from_view, centre), expected, atol=1e-3, rtol=0)


def test_hidden_labels_are_not_read(make_shards: MakeShards) -> None:
    """Unlabelled batches are the same, bit for bit, whether the hidden keypoints are sane or NaN."""
    poison = np.full((8, 3, 3), np.nan)
    sane, poisoned = make_shards(grey_photos(8)), make_shards(grey_photos(8), name="p", keypoints=poison)
    streams = [unlabelled_loader(open_split(f), VIEWS, batch_size=4, seed=0) for f in (sane, poisoned)]
    for _ in range(4):
        one, other = (next(stream) for stream in streams)
        assert bits(one) == bits(other)
        assert all(torch.isfinite(tensor).all() for tensor in vars(other).values() if tensor is not None)


def all_loaders(folder: Path) -> Iterator[Iterator[Any]]:
    split = open_split(folder)
    yield labelled_loader(split, VIEWS, batch_size=4, seed=0)
    yield unlabelled_loader(split, VIEWS, batch_size=4, seed=0)
    yield iter(eval_loader(split, VIEWS, batch_size=4))


@pytest.mark.parametrize("fault", ["cut", "garbage", "empty"])
def test_corrupt_photo_is_named(make_shards: MakeShards, fault: str) -> None:
    photos = grey_photos(12)
    photos[9] = {"cut": photos[9][:-200], "garbage": b"no photo at all", "empty": b""}[fault]
    for stream in all_loaders(make_shards(photos)):
        with pytest.raises(InputError, match=r"test-000001.tar: 0*9.jpg cannot be decoded.*build them again"):
            list(islice(stream, 12))


def test_pose_of_another_skeleton_is_named(make_shards: MakeShards) -> None:
    folder = make_shards(grey_photos(3), keypoints=np.ones((3, 5, 3)))
    with pytest.raises(InputError, match=r"test-000000.tar: 0*.jpg cannot be decoded .*another skeleton"):
        next(labelled_loader(open_split(folder), VIEWS, batch_size=4, seed=0))
