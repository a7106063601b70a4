"""Streams from kept crops: every sample once a pass, resumed exactly, and nothing decoded any more."""

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semipose.configs.load import InputError
from semipose.pipelines import geometry
from semipose.pipelines.cache import memory_check, store
from semipose.pipelines.loader import LoaderSettings, ProcessInfo, labelled_loader, unlabelled_loader
from semipose.pipelines.source import labelled_split, open_split
from semipose.pipelines.views import PUBLISHED_WEAK, STD_RGB, ViewSettings
from tests.pipelines.conftest import PEOPLE, MakeShards, encode, grey_photos
from tests.pipelines.servers import pipe_of
from tests.pipelines.test_graph import BLACK_STRONG, SIZES_HW, centroids, draw_dots
from tests.pipelines.test_loader import LOADERS, VIEWS, GreyShards, bits, shown_samples
from tests.pipelines.test_lost_samples import damage_photos

cached_labelled = partial(labelled_loader, cache="host")
cached_unlabelled = partial(unlabelled_loader, cache="host")


def image_of(batch: Any) -> torch.Tensor:
    return batch.image if hasattr(batch, "image") else batch.weak


@LOADERS
@pytest.mark.parametrize(("people", "batch_size"), [(5, 8), (12, 4), (11, 4)])
def test_every_pass_shows_each_sample_once(
    grey_shards: GreyShards, make: Any, people: int, batch_size: int
) -> None:
    """Batches are full and run over the ends of the passes; the order differs from pass to pass."""
    loader = make(open_split(grey_shards(people)), VIEWS, batch_size=batch_size, seed=0, cache="host")
    images = [image_of(batch) for batch in islice(loader, 3 * people)]
    assert all(image.shape == (batch_size, 3, 64, 48) for image in images)
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image in images)
    passes = np.array(shown_samples(torch.cat(images))).reshape(-1, people)
    assert (np.sort(passes, 1) == np.arange(people)).all()
    assert len({tuple(each) for each in passes.tolist()}) > len(passes) / 2


@LOADERS
def test_after_the_first_batch_the_shards_may_go(grey_shards: GreyShards, make: Any) -> None:
    folder = grey_shards(9)
    loader = make(open_split(folder), VIEWS, batch_size=4, seed=0, cache="device")
    assert loader.cached_bytes == 9 * 240 * 180 * 3
    shutil.rmtree(folder)
    assert len(list(islice(loader, 9))) == 9


@LOADERS
@pytest.mark.parametrize(("steps", "rank", "world"), [(0, 0, 1), (1, 0, 1), (7, 0, 1), (3, 1, 2)])
def test_resume_is_exact(
    grey_shards: GreyShards, tmp_path: Path, make: Any, steps: int, rank: int, world: int
) -> None:
    """Bit for bit after a round trip through a file, mid-pass or passes on, whatever is prefetched."""
    split = open_split(grey_shards(13))
    start = partial(make, split, VIEWS, batch_size=4, seed=5, process=ProcessInfo(rank, world))
    loader = start(settings=LoaderSettings(threads=3, prefetch=3), cache="host")
    for _ in range(steps):
        next(loader)
    torch.save(loader.state_dict(), tmp_path / "state")
    expected = [bits(batch) for batch in islice(loader, 6)]
    resumed = start(settings=LoaderSettings(threads=1, prefetch=1, shuffle_buffer=7), cache="device")
    next(resumed)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    again = resumed.state_dict()
    assert [bits(batch) for batch in islice(resumed, 6)] == expected
    resumed.load_state_dict(again)
    assert bits(next(resumed)) == expected[0]


def test_closed_stream_goes_on(grey_shards: GreyShards) -> None:
    split = open_split(grey_shards(9))
    one, other = (cached_labelled(split, VIEWS, batch_size=4, seed=5) for _ in range(2))
    for _ in range(3):
        next(one)
        next(other)
    other.close()
    assert bits(next(one)) == bits(next(other))


def test_state_of_another_stream_is_refused(grey_shards: GreyShards, tmp_path: Path) -> None:
    whole = open_split(grey_shards(12))
    start = partial(cached_labelled, whole, VIEWS, batch_size=4, seed=0)
    state = start().state_dict()
    others = {
        "cache": labelled_loader(whole, VIEWS, batch_size=4, seed=0),
        "batch_size": start(batch_size=5),
        "seed": start(seed=1),
        "rank": start(process=ProcessInfo(1, 2)),
        r"views\.size_hw": cached_labelled(whole, ViewSettings(size_hw=(64, 64)), batch_size=4, seed=0),
        "samples": cached_labelled(
            labelled_split(whole, 11, index_dir=tmp_path), VIEWS, batch_size=4, seed=0
        ),
        "stream": cached_unlabelled(whole, VIEWS, batch_size=4, seed=0),
    }
    for key, other in others.items():
        causes = {"samples": r"\(it reads other samples", "cache": r"\(its crops are no longer kept[^,]*\)"}
        with pytest.raises(InputError, match=f"differs from this one {causes.get(key, f'.*{key} was')}"):
            other.load_state_dict(state)
    with pytest.raises(InputError, match=r"\(its crops are now kept in memory \(data\.cache\)\)"):
        start().load_state_dict(others["cache"].state_dict())


def test_seeds_and_roles_give_other_streams(grey_shards: GreyShards) -> None:
    split = open_split(grey_shards(12))
    streams = [next(cached_labelled(split, VIEWS, batch_size=12, seed=seed)) for seed in (0, 0, 1)]
    assert bits(streams[0]) == bits(streams[1]) != bits(streams[2])
    orders = [shown_samples(batch.image) for batch in streams]
    other = next(cached_unlabelled(split, VIEWS, batch_size=12, seed=0))
    assert orders[0] != orders[2] != shown_samples(other.weak) != orders[0]


def test_ranks_are_disjoint_and_miss_nothing(grey_shards: GreyShards) -> None:
    split = open_split(grey_shards(11))
    seen = []
    for rank in range(3):
        loader = cached_labelled(split, VIEWS, batch_size=4, seed=0, process=ProcessInfo(rank, 3))
        seen.append({i for batch in islice(loader, 1) for i in shown_samples(batch.image)})
    assert [len(s) for s in seen] == [3, 4, 4]
    assert set.union(*seen) == set(range(11))


@pytest.fixture
def dots(make_shards: MakeShards) -> Path:
    """Shards of photos with a red, a green and a blue dot on three keypoints, one unmarked."""
    points = np.array([85.0, 110.0]) + np.random.default_rng(5).uniform(-14, 14, (24, 3, 2))
    keypoints = np.concatenate([points, np.full((24, 3, 1), 2.0)], -1)
    keypoints[0, 2] = np.nan, np.nan, 0
    return make_shards([encode(draw_dots(dots_xy)) for dots_xy in points], keypoints=keypoints)


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_labelled_dot_follows_its_keypoint(dots: Path, size_hw: tuple[int, int]) -> None:
    """Left and right are exchanged where the view is mirrored: the dots' colours are not."""
    views = ViewSettings(size_hw=size_hw, labelled=PUBLISHED_WEAK)
    batch = next(cached_labelled(open_split(dots), views, batch_size=24, seed=0))
    found = centroids(batch.image.permute(0, 2, 3, 1))
    exchanged = found[:, [0, 2, 1]]
    straight = (found - batch.points_xy).abs().amax((1, 2)) < 0.2
    mirrored = (exchanged - batch.points_xy).abs().amax((1, 2)) < 0.2
    hidden = (batch.visible == 0).any(1)
    assert hidden.sum() == 1
    assert (straight | mirrored | hidden).all()
    assert 4 < mirrored.sum() < 20
    assert torch.isfinite(batch.points_xy).all()
    assert (batch.points_xy[batch.visible == 0] == 0).all()


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_dot_moves_from_weak_to_strong(dots: Path, size_hw: tuple[int, int]) -> None:
    views = ViewSettings(size_hw=size_hw, weak=PUBLISHED_WEAK, strong=BLACK_STRONG)
    batch = next(cached_unlabelled(open_split(dots), views, batch_size=24, seed=0))
    weak_xy, strong_xy = (centroids(view.permute(0, 2, 3, 1)) for view in (batch.weak, batch.strong))
    moved = geometry.apply(batch.strong_from_weak, weak_xy)
    torch.testing.assert_close(moved, strong_xy, atol=0.4, rtol=0)


@LOADERS
def test_plain_views_are_those_of_the_decoding_stream(dots: Path, make: Any) -> None:
    """Without chance both give the same batches except for their order."""
    plain = ViewSettings(size_hw=(64, 48)).plain
    views = ViewSettings(size_hw=(64, 48), labelled=plain, weak=plain, strong=plain)
    # the decoding stream's buffer holds all people: its first pass is one batch too
    decoded, cached = (
        next(make(open_split(dots), views, batch_size=24, seed=0, cache=cache)) for cache in ("none", "host")
    )
    pairs = torch.cdist(image_of(cached).flatten(1), image_of(decoded).flatten(1)).argmin(1)
    assert sorted(pairs.tolist()) == list(range(24))
    one_grey = 1.001 / (255 * min(STD_RGB))  # matrices agree to 1e-5 px, which may tip a rounding
    given = {
        name: tensor for name, tensor in vars(cached).items() if tensor is not None
    }  # people have no frame
    for name, tensor in given.items():
        atol = one_grey if tensor.dim() == 4 else 1e-4
        torch.testing.assert_close(tensor, vars(decoded)[name][pairs], atol=atol, rtol=0)
    assert ((image_of(cached) - image_of(decoded)[pairs]).abs() > 1e-5).float().mean() < 1e-3


def test_hidden_labels_are_not_read(make_shards: MakeShards) -> None:
    poison = np.full((8, 3, 3), np.nan)
    folders = make_shards(grey_photos(8)), make_shards(grey_photos(8), name="p", keypoints=poison)
    streams = [cached_unlabelled(open_split(folder), VIEWS, batch_size=4, seed=0) for folder in folders]
    for _ in range(4):
        one, other = (next(stream) for stream in streams)
        assert bits(one) == bits(other)


def test_batches_that_are_held_stay_as_they_are(grey_shards: GreyShards) -> None:
    loader = cached_unlabelled(open_split(grey_shards(9)), VIEWS, batch_size=4, seed=0)
    held = [next(loader) for _ in range(5)]
    before = [bits(batch) for batch in held]
    held[2].strong.zero_()  # as a strong part paints in place
    for _ in range(20):
        next(loader)
    assert [bits(batch) for batch in held[:2] + held[3:]] == before[:2] + before[3:]
    assert not held[2].strong.any()


@LOADERS
@pytest.mark.parametrize("fault", ["cut", "garbage", "empty"])
def test_corrupt_photo_is_named(make_shards: MakeShards, fault: str, make: Any) -> None:
    photos = grey_photos(12)
    photos[9] = {"cut": photos[9][:-200], "garbage": b"no photo at all", "empty": b""}[fault]
    with pytest.raises(InputError, match=r"test-000001.tar: 0*9.jpg cannot be decoded.*build them again"):
        make(open_split(make_shards(photos)), VIEWS, batch_size=4, seed=0, cache="host")


def test_pose_of_another_skeleton_is_named(make_shards: MakeShards) -> None:
    folder = make_shards(grey_photos(3), keypoints=np.ones((3, 5, 3)))
    with pytest.raises(InputError, match=r"test-000000.tar: 0*.jpg cannot be decoded .*another skeleton"):
        cached_labelled(open_split(folder), VIEWS, batch_size=4, seed=0)


def test_what_does_not_fit_is_refused_before_anything_is_decoded(
    grey_shards: GreyShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_split(grey_shards(9))
    monkeypatch.setattr(memory_check, "host_memory", lambda: (10**6, 10**7))
    monkeypatch.setattr(store.graph, "decode", lambda *_: pytest.fail("a photo was decoded"))
    with pytest.raises(
        InputError, match=r"the 9 labelled people of .* need 0\.00109 GiB.*data\.cache to none"
    ):
        cached_labelled(split, VIEWS, batch_size=4, seed=0)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
def test_streamed_shards_give_the_local_batches(
    people_folder: Path, root: str, rank: int, world: int
) -> None:
    start = partial(cached_labelled, views=VIEWS, batch_size=4, seed=3, process=ProcessInfo(rank, world))
    here, there = (start(open_split(where)) for where in (people_folder, root))
    assert all(bits(next(here)) == bits(next(there)) for _ in range(7))


@pytest.mark.usefixtures("quick_retries")
def test_lost_samples_are_left_out_of_every_pass(people_folder: Path) -> None:
    split = open_split(pipe_of(people_folder))
    whole = {path.name: path.read_bytes() for path in people_folder.glob("*.tar")}
    damage_photos(people_folder, {"test-000000.tar": [0, 3], "test-000002.tar": [2]})
    settings = LoaderSettings(bad_samples=3)
    start: Callable[..., Any] = partial(
        cached_labelled, split, VIEWS, batch_size=7, seed=0, settings=settings
    )
    with pytest.warns(UserWarning, match="cannot be decoded"):
        loader = start()
    assert loader.num_lost == 3
    shown = [i for batch in islice(loader, 4) for i in shown_samples(batch.image)]
    assert sorted(shown) == sorted(2 * list(set(range(PEOPLE)) - {0, 3, 16}))
    state = json.loads(json.dumps(loader.state_dict()))
    expected = bits(next(loader))
    for name, content in whole.items():  # repaired meanwhile: the run goes on without them nevertheless
        (people_folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = start()
        assert resumed.num_lost == 0
        resumed.load_state_dict(state)
        assert bits(next(resumed)) == expected
    damage_photos(people_folder, {"test-000001.tar": [5]})
    with pytest.warns(UserWarning, match="cannot be decoded"):
        other = start(settings=LoaderSettings(bad_samples=4))
    with (
        pytest.warns(UserWarning, match="cannot be decoded"),
        pytest.raises(InputError, match="had lost 3 samples, but now 4"),
    ):
        other.load_state_dict(state)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.filterwarnings("ignore:.*(opened again|lost)")
def test_every_sample_lost_is_one_sentence(people_folder: Path) -> None:
    split = open_split(pipe_of(people_folder))
    for tar in people_folder.glob("*.tar"):
        tar.unlink()
    with pytest.raises(
        InputError, match=rf"the {PEOPLE} labelled people of pipe:.*: all of them are lost: repair"
    ):
        cached_labelled(split, VIEWS, batch_size=4, seed=0, settings=LoaderSettings(bad_samples=PEOPLE))
