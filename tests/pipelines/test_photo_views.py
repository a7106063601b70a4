"""Views of whole photos: the picture, the people and the ignored area move together, by the stated law."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semipose.pipelines import geometry
from semipose.pipelines.batch import LabelledPhotos
from semipose.pipelines.graph import Pipeline
from semipose.pipelines.photo_graph import eval_photo_graph, labelled_photo_graph, unlabelled_photo_graph
from semipose.pipelines.photo_loader import eval_photo_loader, labelled_photo_loader, unlabelled_photo_loader
from semipose.pipelines.photo_views import PhotoPolicy, PhotoViewSettings
from semipose.pipelines.source import open_split
from semipose.pipelines.view_pipeline import Shown, ViewPipeline
from tests.pipelines.conftest import encode
from tests.pipelines.photos import person, write_photos
from tests.pipelines.test_graph import centroids, pixels_of, reading_of

COUNT = 24
SIZES_HW = [(200 + 4 * i, 320 - 3 * i) for i in range(COUNT)]
"""All different, so that the size of a photo tells which one it is."""
SMALL = PhotoPolicy(shown_min=1.2, shown_max=1.6, shift=0.1)
VIEWS = PhotoViewSettings(size=192, labelled=SMALL, weak=SMALL)


def draw_dots(size_hw: tuple[int, int], dots_xy: np.ndarray) -> np.ndarray:
    """A black photo with a soft red, green and blue dot at three points (3, 2)."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    away = [(x - dot[0]) ** 2 + (y - dot[1]) ** 2 for dot in dots_xy]
    return np.stack([np.rint(255 * np.exp(-d / (2 * 6.0**2))) for d in away], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray], list[list[Any]]]:
    """Photos whose first person has a dot on each keypoint; the dots (3, 2), and the rows of all people."""
    rng = np.random.default_rng(5)
    points, people, jpegs = [], [], []
    for index, (height, width) in enumerate(SIZES_HW):
        dots_xy = np.array([width / 2, height / 2]) + rng.uniform(-25, 25, (3, 2))
        others = [
            person(np.column_stack((rng.uniform(0, 200, (3, 2)), [2, index % 3, 1])), rng.uniform(5, 90, 4))
            for _ in range(index % 4)
        ]
        points.append(dots_xy)
        people.append([person(np.column_stack((dots_xy, [2, 1, 2]))), *others])
        jpegs.append(encode(draw_dots((height, width), dots_xy)))
    folder = tmp_path_factory.mktemp("dots") / "shards"
    return write_photos(folder, jpegs, SIZES_HW, people), points, people


def photos_of(batch: LabelledPhotos) -> list[int]:
    return [SIZES_HW.index((int(h), int(w))) for h, w in batch.ignored.stored_hw.tolist()]


def test_people_move_with_the_picture(dots: tuple[Path, list[np.ndarray], list[list[Any]]]) -> None:
    folder, _, rows = dots
    batch = next(labelled_photo_loader(open_split(folder, "image"), VIEWS, batch_size=COUNT, seed=1))
    shown = photos_of(batch)
    assert len(set(shown)) == COUNT
    people = batch.people
    assert people.points_xy.shape == (COUNT, 4, 3, 2)
    assert people.points_xy.dtype == people.visible.dtype == people.corners_xy.dtype == torch.float32
    seen = centroids(batch.image.permute(0, 2, 3, 1)).numpy()
    num_mirrored = 0
    for row, index in enumerate(shown):
        stored_from_view = np.vstack((batch.ignored.stored_from_view[row].double(), [0, 0, 1]))
        view_from_stored = np.linalg.inv(stored_from_view)
        is_mirrored = np.linalg.det(view_from_stored) < 0
        num_mirrored += is_mirrored
        order = [0, 2, 1] if is_mirrored else [0, 1, 2]
        assert people.is_person[row].tolist() == [place < len(rows[index]) for place in range(4)]
        for place, expected in enumerate(rows[index]):
            keypoints = np.reshape(expected["keypoints"], (3, 3))[order]
            moved = np.column_stack((keypoints[:, :2], np.ones(3))) @ view_from_stored[:2].T
            moved[keypoints[:, 2] == 0] = 0
            np.testing.assert_allclose(people.points_xy[row, place], moved, atol=2e-3)
            assert people.visible[row, place].tolist() == (keypoints[:, 2] > 0).tolist()
            # The published reader makes a box one pixel narrower and lower.
            x, y, w, h = np.array(expected["bbox"]) - [0, 0, 1, 1]
            w, h = min(x + w, SIZES_HW[index][1] - 1) - x, min(y + h, SIZES_HW[index][0] - 1) - y
            corners = np.array([[x, y, 1], [x + w, y, 1], [x + w, y + h, 1], [x, y + h, 1]])
            np.testing.assert_allclose(
                people.corners_xy[row, place], corners @ view_from_stored[:2].T, atol=2e-3
            )
        # Red, green and blue are those of the photo; in a mirrored view the left keypoint is the blue dot.
        np.testing.assert_allclose(seen[row][order], people.points_xy[row, 0], atol=0.2)
        for tensor in (people.points_xy, people.visible, people.corners_xy):
            assert not tensor[row, len(rows[index]) :].any()
    assert 4 < num_mirrored < COUNT - 4


def test_the_dot_moves_from_weak_to_strong(dots: tuple[Path, list[np.ndarray], list[list[Any]]]) -> None:
    folder, points, _ = dots
    split = open_split(folder, "image")
    graph = partial(unlabelled_photo_graph, views=VIEWS)
    batch = Pipeline(graph, reading_of(split, batch_size=COUNT)).next()
    stored_xy = torch.tensor(np.array(points), dtype=torch.float32)  # in reading order: nothing is shuffled
    weak_xy = geometry.apply(batch["weak_from_stored"], stored_xy)
    torch.testing.assert_close(centroids(batch["weak"]), weak_xy, atol=0.2, rtol=0)
    strong_xy = geometry.apply(batch["strong_from_weak"], weak_xy)
    torch.testing.assert_close(centroids(batch["strong"]), strong_xy, atol=0.25, rtol=0)
    composed = geometry.compose(batch["strong_from_weak"], batch["weak_from_stored"])
    torch.testing.assert_close(composed, batch["strong_from_stored"], atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def textured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Photos of noise, and their pixels as OpenCV decodes them (RGB)."""
    rng = np.random.default_rng(6)
    jpegs = []
    for height, width in SIZES_HW[:6]:
        noise = rng.integers(0, 255, (30, 20, 3), np.uint8)
        jpegs.append(encode(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)))
    folder = tmp_path_factory.mktemp("textured") / "shards"
    write_photos(folder, jpegs, SIZES_HW[:6], [[]] * 6)
    return folder, [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) for jpeg in jpegs]


def test_the_frames_of_both_views_show_where_the_photo_ends(tmp_path: Path) -> None:
    """A cell is inside the photo exactly if its pixel shows a white photo and not the black border."""
    jpegs = [encode(np.full((*size_hw, 3), 255, np.uint8)) for size_hw in SIZES_HW]
    folder = write_photos(tmp_path / "white", jpegs, SIZES_HW, [[]] * COUNT)
    views = PhotoViewSettings(size=128, weak=PhotoPolicy(shown_min=1.2, shown_max=1.6))
    batch = next(unlabelled_photo_loader(open_split(folder, "image"), views, batch_size=COUNT, seed=0))
    assert batch.weak_frame is not None
    assert batch.strong_frame is not None
    for images, frame in ((batch.weak, batch.weak_frame), (batch.strong, batch.strong_frame)):
        shown = pixels_of(images.permute(0, 2, 3, 1))[:, ::4, ::4].float().mean(-1) / 255
        inside = frame.shows((32, 32), 4)[:, 0]
        # Half a pixel beyond the last pixel's centre the photo ends, and its brightness is one half there.
        assert (shown[inside] > 0.2).all()
        assert (shown[~inside] < 0.8).all()
        assert 0.1 < float(inside.float().mean()) < 0.9


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_views_are_sampled_once_from_the_stored_pixels(
    textured: tuple[Path, list[np.ndarray]], name: str
) -> None:
    folder, photos = textured
    views = PhotoViewSettings(size=160)
    split = open_split(folder, "image")
    batch = Pipeline(
        partial(unlabelled_photo_graph, views=views), reading_of(split, batch_size=6, seed=3)
    ).next()
    for view, matrix, photo in zip(batch[name], batch[f"{name}_from_stored"], photos, strict=True):
        expected = cv2.warpAffine(photo, matrix.numpy(), (160, 160), borderValue=(0, 0, 0))
        assert np.array_equal(pixels_of(view).numpy(), expected)


def test_a_cpu_run_warps_the_pixels_that_the_graph_warps(textured: tuple[Path, list[np.ndarray]]) -> None:
    views = PhotoViewSettings(size=160)
    graph = partial(unlabelled_photo_graph, views=views)
    reading = reading_of(open_split(textured[0], "image"), batch_size=6, seed=3)
    shown = {name: Shown(f"{name}_from_stored", "black") for name in ("weak", "strong")}
    there, here = (
        p.next() for p in (Pipeline(graph, reading), ViewPipeline(graph, reading, shown, (160, 160)))
    )
    for name, values in there.items():
        torch.testing.assert_close(here[name], values, atol=1e-5, rtol=0)


def test_what_is_ignored_is_what_the_picture_shows_there(tmp_path: Path) -> None:
    """A crowd is painted blue, a person without keypoints red, the rest of the photo is grey."""
    jpegs, people, sizes = [], [], SIZES_HW[:8]
    for index, (height, width) in enumerate(sizes):
        pixels = np.full((height, width, 3), 128, np.uint8)
        blue = np.zeros((height, width), np.uint8)
        cv2.ellipse(blue, (width // 3, height // 2), (40 + index, 70), 20, 0, 360, 1, -1)
        outline = np.array([[150, 20], [240, 40], [250, 130], [170, 150]])
        pixels[blue > 0] = (0, 0, 255)
        cv2.fillPoly(pixels, [outline], (255, 0, 0))
        jpegs.append(encode(pixels))
        edges = np.flatnonzero(np.diff(blue.T.ravel(), prepend=0, append=0))
        counts = np.diff([0, *edges, blue.size]).tolist()
        crowd = {
            "keypoints": [0] * 9,
            "bbox": [0, 0, 50, 50],
            "area": 9.0,
            "iscrowd": 1,
            "segmentation": {"counts": counts, "size": [height, width]},
        }
        hidden = person(np.zeros((3, 3)), [150, 20, 100, 130], segmentation=[outline.ravel().tolist()])
        people.append([person([[5, 5, 2], [5, 9, 2], [9, 5, 2]]), crowd, hidden])
    folder = write_photos(tmp_path / "shards", jpegs, sizes, people)
    views = PhotoViewSettings(size=256, labelled=PhotoPolicy(shift=0.3))
    stream = labelled_photo_loader(open_split(folder, "image"), views, batch_size=8, seed=2)
    for _ in range(3):
        batch = next(stream)
        counted = batch.ignored.counted((64, 64), 4)[:, 0].numpy() > 0
        pixels = pixels_of(batch.image.permute(0, 2, 3, 1)).numpy().astype(int)
        for view, cells in zip(pixels, counted, strict=True):
            at_cells = view[::4, ::4]
            # Away from an edge of the picture: all pixels about the cell agree.
            around = np.ones((9, 9), np.uint8)
            low, high = (
                change(view.astype(np.uint8), around)[::4, ::4] for change in (cv2.erode, cv2.dilate)
            )
            is_sure = (high.astype(int) - low < 40).all(-1)
            is_grey = np.abs(at_cells - 128).max(-1) < 20
            assert is_sure.mean() > 0.5
            assert np.array_equal(cells[is_sure], is_grey[is_sure])  # blue, red and black do not count
        assert 0.1 < counted.mean() < 0.9


def test_nobody_and_thirty_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crowd = [person(np.column_stack((rng.uniform(0, 90, (3, 2)), [2, 2, 2]))) for _ in range(31)]
    jpegs = [encode(np.full((h, w, 3), 90, np.uint8)) for h, w in SIZES_HW[:4]]
    full = write_photos(tmp_path / "full", jpegs, SIZES_HW[:4], [crowd, crowd[:30], [], crowd[:1]])
    batch = next(labelled_photo_loader(open_split(full, "image"), VIEWS, batch_size=4, seed=0))
    assert batch.people.points_xy.shape == (4, 31, 3, 2)
    assert sorted(batch.people.is_person.sum(1).tolist()) == [0, 1, 30, 31]
    assert batch.people.marked.sum() == 62 * 3
    empty = write_photos(tmp_path / "empty", jpegs, SIZES_HW[:4], [[]] * 4)
    batch = next(labelled_photo_loader(open_split(empty, "image"), VIEWS, batch_size=4, seed=0))
    assert batch.people.points_xy.shape == (4, 0, 3, 2)
    assert batch.people.corners_xy.shape == (4, 0, 4, 2)
    assert batch.people.is_person.shape == (4, 0)
    assert batch.ignored.grid.shape == (4, 1, 128, 128)
    assert not batch.ignored.grid.any()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Matrices of 8192 views of photos of 40 x 30 pixels."""
    jpegs = [encode(np.zeros((30, 40, 3), np.uint8))] * 4
    folder = write_photos(tmp_path_factory.mktemp("law") / "shards", jpegs, [(30, 40)] * 4, [[]] * 4)
    views = PhotoViewSettings(size=32)
    reading = reading_of(open_split(folder, "image"), batch_size=8192)
    return Pipeline(partial(unlabelled_photo_graph, views=views), reading).next()


@pytest.mark.parametrize(
    ("view", "frame_wh", "low", "high", "shift", "degrees", "flips"),
    [
        ("weak_from_stored", (40, 30), 0.75, 1.5, 0.2, 30, 0.5),
        ("strong_from_weak", (32, 32), 0.8, 1.25, 0.08, 25, 0),
    ],
)
def test_draws_follow_the_law(
    drawn: dict[str, torch.Tensor],
    view: str,
    frame_wh: tuple[int, int],
    low: float,
    high: float,
    shift: float,
    degrees: float,
    flips: float,
) -> None:
    """All four draws are uniform between their limits, and independent."""
    matrix = drawn[view].double()
    shown = 32 / geometry.linear_scale(matrix).double() / min(frame_wh)
    angle = torch.rad2deg(torch.atan2(-matrix[:, 0, 1], matrix[:, 1, 1]))
    flipped = torch.linalg.det(matrix[..., :2]) < 0
    middle = geometry.apply(geometry.invert(matrix), torch.full((8192, 1, 2), 16.0, dtype=torch.float64))[
        :, 0
    ]
    moved = (middle - torch.tensor(frame_wh) / 2) / (shown * min(frame_wh))[:, None]
    for value, least, most in (
        (shown, low, high),
        (angle, -degrees, degrees),
        (moved[:, 0], -shift, shift),
        (moved[:, 1], -shift, shift),
    ):
        share = (value - least) / (most - least)
        assert share.min() > -1e-3
        assert share.max() < 1 + 1e-3
        # The greatest distance from a uniform distribution that 8192 draws have once in a million times.
        steps = (torch.arange(8192) + 0.5) / 8192
        assert (share.sort().values - steps).abs().max() < 2.7 / math.sqrt(8192)
    assert flipped.double().mean() == pytest.approx(flips, abs=0.03)
    rows = torch.stack([shown, angle, moved[:, 0], moved[:, 1]])
    assert (torch.corrcoef(rows) - torch.eye(4)).abs().max() < 0.05


def test_a_policy_without_randomness_shows_the_photo(textured: tuple[Path, list[np.ndarray]]) -> None:
    still = PhotoPolicy(shown_min=1, shown_max=1, shift=0, rotation_max_deg=0, flip_probability=0)
    views = PhotoViewSettings(size=128, labelled=still)
    split = open_split(textured[0], "image")
    batch = next(labelled_photo_loader(split, views, batch_size=6, seed=0))
    for (h, w), matrix in zip(batch.ignored.stored_hw.tolist(), batch.ignored.stored_from_view, strict=True):
        scale = min(h, w) / 128
        expected = torch.tensor([[scale, 0, w / 2 - 64 * scale], [0, scale, h / 2 - 64 * scale]])
        torch.testing.assert_close(matrix, expected, atol=1e-3, rtol=0)


def test_evaluation_shows_whole_photos(dots: tuple[Path, list[np.ndarray], list[list[Any]]]) -> None:
    """The shorter side on 192 pixels, the longer one on the next multiple of 64, centred as published."""
    folder, points, _ = dots
    split = open_split(folder, "image")
    one_by_one = list(eval_photo_loader(split, VIEWS, batch_size=1))
    together = list(eval_photo_loader(split, VIEWS, batch_size=5))
    assert [len(b.records) for b in together] == [5, 5, 5, 5, 4]
    assert [r["file_name"] for b in together for r in b.records] == [f"{i:04d}.jpg" for i in range(COUNT)]
    for index, ((height, width), alone) in enumerate(zip(SIZES_HW, one_by_one, strict=True)):
        scale = 192 / min(height, width)
        sides = [64 * math.ceil(side * scale / 64 - 1e-9) for side in (height, width)]
        assert alone.view_hw is not None
        assert alone.view_hw.tolist() == [sides]
        assert alone.image.shape == (1, 3, *sides)
        assert alone.image.is_contiguous(memory_format=torch.channels_last)
        centre = np.array([int(width / 2 + 0.5), int(height / 2 + 0.5)])
        expected = (points[index] - centre) * scale + np.array(sides[::-1]) / 2
        np.testing.assert_allclose(centroids(alone.image.permute(0, 2, 3, 1))[0], expected, atol=0.2)
        back = geometry.apply(alone.image_from_view, torch.tensor(expected, dtype=torch.float32)[None])
        np.testing.assert_allclose(back[0], points[index], atol=1e-3)
        batch, row = together[index // 5], index % 5
        assert batch.view_hw is not None
        assert batch.view_hw[row].tolist() == sides
        assert torch.equal(batch.image[row, :, : sides[0], : sides[1]], alone.image[0])
        assert not batch.image[row, :, sides[0] :].any()
        assert not batch.image[row, :, :, sides[1] :].any()
        assert torch.equal(batch.image_from_view[row], alone.image_from_view[0])


def test_the_graph_evaluates_what_the_loader_does(textured: tuple[Path, list[np.ndarray]]) -> None:
    """Where DALI warps, as on a GPU."""
    split = open_split(textured[0], "image")
    (batch,) = eval_photo_loader(split, VIEWS, batch_size=6)
    outputs = Pipeline(partial(eval_photo_graph, views=VIEWS), reading_of(split, batch_size=6)).next()
    torch.testing.assert_close(outputs["image"].permute(0, 3, 1, 2), batch.image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [512, 640])
def test_sides_that_are_multiples_already_stay(tmp_path: Path, size: int) -> None:
    sizes = [(48, 64), (60, 80), (480, 640), (427, 427), (333, 333)]
    jpegs = [encode(np.zeros((h, w, 3), np.uint8)) for h, w in sizes]
    folder = write_photos(tmp_path / "shards", jpegs, sizes, [[]] * 5)
    loader = eval_photo_loader(open_split(folder, "image"), PhotoViewSettings(size=size), batch_size=5)
    (batch,) = loader
    expected = [[size, 64 * math.ceil(size * w / h / 64)] for h, w in sizes]
    assert batch.view_hw is not None
    assert batch.view_hw.tolist() == expected


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="shown_min 2"):
        PhotoPolicy(shown_min=2, shown_max=1)
    with pytest.raises(ValueError, match="must agree on left and right"):
        PhotoViewSettings(strong=PhotoPolicy())
    with pytest.raises(ValueError, match="multiple of 4"):
        PhotoViewSettings(size=510)


@pytest.mark.gpu
def test_gpu_graphs_agree_with_the_cpu(dots: tuple[Path, list[np.ndarray], list[list[Any]]]) -> None:
    split = open_split(dots[0], "image")
    graphs = [
        partial(labelled_photo_graph, views=VIEWS, num_keypoints=3),
        partial(unlabelled_photo_graph, views=VIEWS),
        partial(eval_photo_graph, views=VIEWS),
    ]
    for graph in graphs:
        here, there = (
            Pipeline(graph, reading_of(split, batch_size=COUNT, device=device)).next()
            for device in ("cpu", "cuda:0")
        )
        for name, values in here.items():
            if name in ("image", "weak", "strong"):
                assert there[name].is_cuda
                assert (there[name].cpu() - values).abs().mean() < 0.02
            elif isinstance(values, torch.Tensor):
                assert torch.equal(there[name].cpu(), values)
            else:
                assert there[name] == values
