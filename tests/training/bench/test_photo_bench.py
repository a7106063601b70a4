"""The benchmark of whole photos: rivals and ours do the same work, and every row is measured."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from semipose.pipelines.graph import Pipeline
from semipose.pipelines.photo_graph import unlabelled_photo_graph
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import open_split
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.training.bench import photos as bench
from semipose.training.bench import timing
from semipose.training.bench.result import read_result
from semipose.training.bench.rivals.classic_photos import ClassicPhotos, draw_square
from tests.pipelines.conftest import encode
from tests.pipelines.photos import write_photos
from tests.pipelines.test_graph import pixels_of, reading_of

CPU = torch.device("cpu")
FAMILY = pytest.mark.parametrize("family", bench.FAMILIES)


def scene_of(seed: int = 0) -> bench.Scene:
    return bench.make_scene(3, 4, 256, seed)


def results(family: str, what: str, scene: bench.Scene) -> tuple[Any, Any]:
    calls = bench.ways(family, bench.FAMILIES[family], scene, CPU)[what]
    return calls[bench.PUBLISHED](), calls["ours"]()


@FAMILY
def test_heatmaps_of_both_sides_are_equal(family: str) -> None:
    theirs, ours = results(family, "targets", scene_of())
    torch.testing.assert_close(ours.heatmaps, theirs[0], atol=2e-6, rtol=1e-5)
    assert ours.heatmaps.amax() > 0.9


def test_people_of_cid_have_the_same_heatmaps_of_their_own() -> None:
    (_, people), ours = results("cid", "targets", scene_of())
    theirs = {(n, *cell): heatmaps for n, photo in enumerate(people) for heatmaps, cell in photo}
    assert ours.exists.sum() == len(theirs) == 12
    for n, cell, heatmaps in zip(
        ours.photos.tolist(), ours.cells.tolist(), ours.instance_heatmaps, strict=True
    ):
        np.testing.assert_allclose(heatmaps.numpy(), theirs[(n, *cell)], atol=2e-6)


@pytest.mark.parametrize("family", ["ae", "dekr"])
def test_losses_and_gradients_of_both_sides_are_equal(family: str) -> None:
    (theirs, their_gradients), (ours, our_gradients) = results(family, "loss", scene_of())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert ours > 0
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-10)
        assert one.any()


@FAMILY
@pytest.mark.parametrize("seed", [0, 1])
def test_both_sides_decode_the_same_people(family: str, seed: int) -> None:
    """AE is read at another size of the maps: its points may be a cell apart, where people meet more."""
    theirs, ours = results(family, "decoding", bench.make_scene(2, 4, 512, seed))
    for n, people in enumerate(theirs):
        is_whole = ours.exists[n] & (ours.score[n] > 0.3)
        people = [person for person in people if person.score > 0.3]
        own = ours.points_xy[n][is_whole].numpy() / bench.STRIDE
        assert len(own) == len(people) >= 3
        for person in people:
            apart = np.linalg.norm(own - person.points, axis=-1)
            nearest = apart.mean(-1).argmin()
            if family == "ae":
                assert (apart[nearest][person.confidence > 0.5] < 1).mean() > 0.9
            else:
                assert apart[nearest].max() < 1e-3
                assert person.score == pytest.approx(float(ours.score[n][is_whole][nearest]), rel=1e-3)


def test_the_classic_loader_shows_the_pixels_that_ours_shows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    folder = write_photos(tmp_path / "one", [encode(photo)], [(240, 320)], [[]])
    views = PhotoViewSettings(size=128)
    graph = lambda reading: unlabelled_photo_graph(reading, views=views)  # noqa: E731
    batch = Pipeline(graph, reading_of(open_split(folder, "image"), batch_size=1)).next()
    pixels = cv2.imdecode(np.frombuffer(encode(photo), np.uint8), cv2.IMREAD_COLOR_RGB)
    weak, strong = (
        np.vstack((batch[name][0].numpy(), [0, 0, 1])) for name in ("weak_from_stored", "strong_from_weak")
    )
    shown = ClassicPhotos([], views).render(pixels, weak, strong)
    for name in ("weak", "strong"):
        theirs = pixels_of(getattr(shown, name).permute(1, 2, 0)).int()
        assert (theirs - pixels_of(batch[name][0]).int()).abs().max() <= 1


def test_the_classic_loader_draws_squares_by_the_same_law() -> None:
    np.random.seed(0)
    policy = PhotoViewSettings().labelled
    matrices = np.stack([draw_square(300, 400, policy, 512) for _ in range(4000)])
    scale = np.sqrt(np.abs(np.linalg.det(matrices[:, :2, :2])))
    shown = 512 / scale / 300
    assert 0.75 <= shown.min() < 0.76 < 1.49 < shown.max() <= 1.5
    assert abs((np.linalg.det(matrices[:, :2, :2]) < 0).mean() - 0.5) < 0.04
    centres = np.linalg.inv(matrices) @ np.array([256, 256, 1])
    away = np.abs(centres[:, :2] - (200, 150)) / (shown * 300)[:, None]
    assert 0.19 < away.max() <= 0.2 + 1e-9


def test_every_row_is_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST_TIMING_S", 0.01)
    cfg = bench.Settings(
        source=DrawnFormat(folder=tmp_path / "drawn", people=12),
        output=tmp_path / "photos.json",
        views=PhotoViewSettings(size=64),
        batch_size=2,
        people_per_photo=2,
        threads=1,
        rounds=1,
        batches=1,
    )
    bench.run(cfg, Console(quiet=True))
    rows = read_result(tmp_path / "photos.json").rows
    assert len(rows) == 2 + 2 * 8
    assert {row.group for row in rows if row.times_base is None} == set()
    assert (tmp_path / "photos.png").exists()
