"""The benchmark of the loader: it times fairly, does the same work on all sides, and reports every row."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError, load
from semipose.pipelines import geometry, graph
from semipose.pipelines.graph import Pipeline, Reading
from semipose.pipelines.loader import eval_loader, labelled_loader
from semipose.pipelines.masking.masks import mask_keypoints
from semipose.pipelines.views import PLAIN, ViewSettings
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.training.bench import loader, loader_growth, masking
from semipose.training.bench.loader import run
from semipose.training.bench.people import People, cut_people, open_people
from semipose.training.bench.result import compare, make_row, read_result
from semipose.training.bench.rivals.classic_loader import (
    ClassicDataset,
    cut_out_joints,
    normalise,
    read_photo,
)
from semipose.training.bench.rivals.published_masking import count_in_a_loop, paint_in_a_loop
from semipose.training.bench.rivals.torchvision_v2 import TorchvisionDataset
from semipose.training.bench.settings import LoaderBenchSettings, LoaderGrowthSettings
from semipose.training.bench.timing import Variant, measure
from tests.pipelines.conftest import encode

QUIET = Console(quiet=True)
K = 3


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> CocoFormat:
    """Three smooth photos with two persons each, as a COCO file."""
    tmp_path = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    for i in range(3):
        texture = cv2.resize(rng.integers(0, 255, (15, 20, 3)).astype(np.uint8), (320, 240))
        (tmp_path / f"{i}.jpg").write_bytes(encode(texture))
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 320, "height": 240} for i in range(3)]
    annotations = [
        {
            "id": 10 * i + j,
            "image_id": i,
            "category_id": 1,
            "iscrowd": 0,
            "area": 5000,
            "bbox": [40 + 120 * j, 50, 70, 140],
            "keypoints": [60 + 120 * j, 80, 2, 80 + 120 * j, 100, 1, 70 + 120 * j, 170, 2],
            "num_keypoints": K,
        }
        for i in range(3)
        for j in range(2)
    ]
    names = [f"joint{k}" for k in range(K)]
    categories = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    file = tmp_path / "persons.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return CocoFormat(annotations=file, images=tmp_path)


@pytest.fixture(scope="module")
def people(coco: CocoFormat, tmp_path_factory: pytest.TempPathFactory) -> People:
    """The same persons as crops, whole photos and annotations."""
    return open_people(
        LoaderBenchSettings(photos=str(coco.images), annotations=coco.annotations),
        ViewSettings(size_hw=(128, 96)),
        tmp_path_factory.mktemp("shards"),
        QUIET,
    )


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings as short as they come."""
    monkeypatch.setattr("semipose.training.bench.timing.SHORTEST_TIMING_S", 1e-9)
    monkeypatch.setattr("semipose.training.bench.timing.settle", lambda: None)


def tiny(output: Path, **changes: Any) -> LoaderBenchSettings:
    return LoaderBenchSettings(
        output=output / "result.json",
        views=ViewSettings(size_hw=(64, 48)),
        **{"batch_size": 4, "threads": 1, "rounds": 2, "batches": 2, **changes},
    )


@pytest.mark.usefixtures("no_waiting")
def test_every_variant_is_timed_in_turn() -> None:
    calls: list[str] = []
    variants = [
        Variant(name, "group", partial(calls.append, name), batch_size=4, batches=2, warmup=1)
        for name in "abc"
    ]
    *_, rates = measure(variants, rounds=4)
    order = [calls[i] for i in range(0, len(calls), 3)]
    assert "".join(order) == "abcbcacababc"
    assert {name: len(found) for name, found in rates.items()} == {"a": 4, "b": 4, "c": 4}


def test_row_holds_median_and_quartiles_and_its_ratio() -> None:
    row = make_row("x", (1.0, 5.0, 2.0, 4.0, 30.0), group="g", unit="persons/s")
    assert (row.median, row.iqr) == (4, (2, 5))
    base = make_row("y", (8.0,), group="g", unit="persons/s")
    assert compare(row, base).times_base == 0.5
    assert compare(row, None) == row


def test_classic_loader_shows_the_same_view(people: People) -> None:
    views = ViewSettings(size_hw=(128, 96), labelled=PLAIN, weak=PLAIN, strong=PLAIN)
    assert people.photos is not None
    assert people.annotations is not None
    ours = next(iter(eval_loader(people.photos, views, batch_size=6))).image
    dataset = ClassicDataset(people.annotations, views, masks=0)
    for place, image in enumerate(ours):
        weak, strong, strong_from_weak = dataset[place]
        torch.testing.assert_close(weak, image, atol=0.02, rtol=0)
        torch.testing.assert_close(strong, image, atol=0.02, rtol=0)
        torch.testing.assert_close(strong_from_weak, torch.eye(2, 3))


def test_classic_loader_makes_the_drawn_views(people: People) -> None:
    """The weak view equals ours; within it the strong one does too, except for one more interpolation."""
    views = ViewSettings(size_hw=(128, 96))
    assert people.photos is not None
    assert people.annotations is not None
    reading = Reading(tars=people.photos.tars, indices=people.photos.indices, batch_size=6, seed=1)
    ours = Pipeline(partial(graph.unlabelled_graph, views=views), reading).next()
    dataset = ClassicDataset(people.annotations, views, masks=0)
    last_row = np.array([[0.0, 0.0, 1.0]])
    for place in range(6):
        weak_from_image = np.concatenate([ours["weak_from_stored"][place].numpy(), last_row])
        strong_from_weak = np.concatenate([ours["strong_from_weak"][place].numpy(), last_row])
        photo = read_photo(dataset.paths[place])
        weak, strong, matrix = dataset.render(
            photo, dataset.keypoints[place], weak_from_image, strong_from_weak
        )
        our_weak, our_strong = (ours[name][place].permute(2, 0, 1) for name in ("weak", "strong"))
        torch.testing.assert_close(weak, our_weak, atol=0.02, rtol=0)
        torch.testing.assert_close(matrix, ours["strong_from_weak"][place])
        shown = cv2.warpAffine(np.ones((128, 96), np.uint8), strong_from_weak[:2], (96, 128))
        inside = torch.from_numpy(cv2.erode(shown, np.ones((3, 3), np.uint8)) > 0)
        difference = (strong - our_strong).abs()[:, inside]
        assert inside.float().mean() > 0.3
        assert difference.mean() < 0.05
        assert difference.flatten().quantile(0.95) < 0.2


def test_classic_loader_cuts_out_joints() -> None:
    np.random.seed(0)
    crop = np.zeros((256, 192, 3), np.uint8)
    points_xy = np.array([[96.0, 128.0], [20.0, 250.0], [180.0, 5.0]])
    assert cut_out_joints(crop.copy(), points_xy, 0).sum() == 0
    painted = cut_out_joints(crop.copy(), points_xy, 3)
    assert (painted.any(axis=2).sum(), len(np.unique(painted.reshape(-1, 3), axis=0))) > (900, 1)
    torch.testing.assert_close(
        normalise(painted)[:, painted.any(axis=2)].abs().max(), torch.tensor(0.0), atol=0.02, rtol=0
    )


def test_torchvision_shows_the_same_person(people: People) -> None:
    views = ViewSettings(size_hw=(128, 96), labelled=PLAIN, weak=PLAIN, strong=PLAIN)
    ours = next(iter(eval_loader(people.crops, views, batch_size=6))).image
    dataset = TorchvisionDataset(people.crops, views)
    for place, image in enumerate(ours):
        weak, strong = dataset[place]
        assert (weak - image).abs()[:, 8:-8, 8:-8].mean() < 0.1
        torch.testing.assert_close(weak, strong)


def test_published_loop_paints_what_the_op_paints() -> None:
    step = masking.make_step(6, 17, (64, 48), torch.device("cpu"))
    counts = masking.count(step)
    torch.testing.assert_close(count_in_a_loop(step.peaks), counts)
    chosen = masking.choose(step, counts)
    by_op, by_loop = step.images.clone(), step.images.clone()
    mask_keypoints(by_op, *chosen, step.fill)
    scale = geometry.linear_scale(chosen.strong_from_weak)[:, None, None]
    centres_xy = geometry.apply(chosen.strong_from_weak, chosen.points_xy)
    paint_in_a_loop(by_loop, centres_xy, counts, chosen.half_sizes * scale, chosen.order)
    assert (by_op == 0).any()
    torch.testing.assert_close(by_op, by_loop, atol=0, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("no_waiting")
def test_bench_writes_every_row(people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semipose.training.bench.loader.open_people", lambda *_: people)
    cfg = tiny(tmp_path / "out")
    result = run(cfg, QUIET)
    assert read_result(cfg.output) == result
    assert cfg.output.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    named = {row.name for row in result.rows}
    wanted = {
        loader.CLASSIC,
        loader.LOADER_CACHE,
        loader.TORCHVISION,
        loader.LOADER,
        loader.LOADER_MASKS,
        loader.MASKS,
        loader.MASKS_LOOP,
    }
    assert wanted | {"read", "read, decode, DALI warps both", "counts", "masking op", "mixing"} <= named
    assert all(row.median > 0 and len(row.rounds) == 2 for row in result.rows)
    classic = result.row(loader.CLASSIC)
    assert classic is not None
    assert (classic.base, classic.times_base) == (loader.CLASSIC, 1)
    assert loader.KORNIA in named | set(result.skipped)
    assert result.data["people"] == 6


def test_a_bench_cut_short_leaves_its_whole_rounds(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(variants: list[Variant], rounds: int) -> Iterator[dict[str, list[float]]]:
        yield {variant.name: [100.0] for variant in variants}
        raise KeyboardInterrupt

    masking = Variant(loader.MASKS, "masking", lambda: None, 1, 1, 0)
    monkeypatch.setattr("semipose.training.bench.loader.open_people", lambda *_: people)
    monkeypatch.setattr("semipose.training.bench.loader.all_variants", lambda *_: ([masking], {}))
    monkeypatch.setattr("semipose.training.bench.loader.measure", measured)
    cfg = tiny(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(cfg, QUIET)
    (row,) = read_result(cfg.output).rows
    assert row.rounds == (100.0,)


@pytest.mark.slow
@pytest.mark.usefixtures("no_waiting")
def test_shards_alone_leave_out_what_reads_photos(people: People, tmp_path: Path) -> None:
    result = run(tiny(tmp_path, shards=people.crops.root, rounds=1), QUIET)
    assert result.row(loader.LOADER) is not None
    assert result.row(loader.CLASSIC) is None
    assert "photos" in result.skipped[loader.CLASSIC]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["photos=somewhere"], "photos and annotations go together"),
        (["photos=a", "annotations=b", "shards=c"], "from one place"),
    ],
)
def test_people_of_two_places_or_half_of_one_are_refused(words: list[str], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted) as error:
        load(LoaderBenchSettings, None, words)
    assert "\n" not in str(error.value)


def test_people_are_cut_with_other_keypoints_into_more_tars(people: People, tmp_path: Path) -> None:
    assert people.annotations is not None
    cut = partial(cut_people, people.annotations, size_hw=(64, 48))
    more = cut(tmp_path / "more", num_keypoints=7, num_shards=3)
    assert (more.skeleton.num_keypoints, len(more.tars), more.num_samples) == (7, 3, 6)
    batch = next(labelled_loader(more, ViewSettings(size_hw=(64, 48)), batch_size=6, seed=0))
    torch.testing.assert_close(batch.points_xy[:, 0], batch.points_xy[:, K])
    fewer = cut(tmp_path / "fewer", num_keypoints=1)
    assert fewer.num_samples == 6


@pytest.mark.usefixtures("no_waiting")
def test_growth_compares_each_row_with_the_first_of_its_group(
    coco: CocoFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_growth, "measure_ranks", lambda cfg, shards, world: [100.0 * world])
    cfg = LoaderGrowthSettings(
        photos=str(coco.images),
        annotations=coco.annotations,
        output=tmp_path / "growth.json",
        views=ViewSettings(size_hw=(64, 48)),
        batch_size=2,
        batch_sizes=(2, 4),
        keypoints=(1, 5),
        paths=(1, 2),
        shards_of_people=(1, 64),
        threads=1,
        rounds=1,
        batches=1,
    )
    result = loader_growth.run(cfg, QUIET)
    assert read_result(cfg.output) == result
    groups: dict[str, list[str]] = {}
    for row in result.rows:
        groups.setdefault(row.group, []).append(row.name)
        assert row.base == groups[row.group][0]
    assert groups["loader by shards"] == ["loader, shards: 1", "loader, shards: 6"]
    assert groups["masks by paths"] == ["masks, paths: 1", "masks, paths: 2"]
    ranks = result.row("loader, ranks together: 2")
    assert ranks is not None
    assert ranks.times_base == 2
    assert {len(names) for names in groups.values()} == {2}


@pytest.mark.slow
def test_ranks_load_at_the_same_time(people: People) -> None:
    views = ViewSettings(size_hw=(64, 48))
    cfg = LoaderGrowthSettings(views=views, batch_size=2, threads=1, batches=2, rounds=3)
    rates = loader_growth.measure_ranks(cfg, people.crops.root, 2)
    assert len(rates) == 3
    assert min(rates) > 0


def test_growth_needs_photos(people: People) -> None:
    with pytest.raises(InputError, match="cuts the people anew"):
        loader_growth.run(LoaderGrowthSettings(shards=people.crops.root), QUIET)


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with pytest.raises(InputError, match="make bench"):
        read_result(file)
    file.write_text('{"bench": "loader", "machine": {}, "settings": {}, "data": {}, "rows": [{"name": 1}]}')
    with pytest.raises(InputError, match=r"rows\.0"):
        read_result(file)
