"""The graphs: dots stay on their keypoints, pixels equal OpenCV's, views follow the published policies."""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semipose.pipelines import geometry
from semipose.pipelines import graph as graph_module
from semipose.pipelines.graph import Graph, Pipeline, Reading, labelled_graph, unlabelled_graph
from semipose.pipelines.source import Split, open_split
from semipose.pipelines.views import (
    MEAN_RGB,
    PUBLISHED_STRONG,
    PUBLISHED_WEAK,
    STD_RGB,
    AffinePolicy,
    ViewSettings,
)
from tests.pipelines.conftest import MakeShards, encode

SIZES_HW = [(256, 192), (96, 96), (64, 160)]
BLACK_STRONG = AffinePolicy(rotation_probability=0.8, flip_probability=0.0, border="black")
COUNT = 24


def reading_of(split: Split, *, batch_size: int, device: str = "cpu", seed: int = 1) -> Reading:
    return Reading(
        tars=split.tars,
        indices=split.indices,
        batch_size=batch_size,
        seed=seed,
        device=torch.device(device),
    )


def batch_of(
    graph: Graph, folder: Path, *, count: int = COUNT, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    return Pipeline(graph, reading_of(open_split(folder), batch_size=count, device=device)).next()


def pixels_of(views: torch.Tensor) -> torch.Tensor:
    """Normalised views back to uint8; the step between two grey levels is a thousand times the rounding."""
    grey = 255 * (views.double() * torch.tensor(STD_RGB) + torch.tensor(MEAN_RGB))
    assert (grey - grey.round()).abs().max() < 1e-3
    return grey.round().to(torch.uint8)


def draw_dots(dots_xy: np.ndarray) -> np.ndarray:
    """A black photo with a soft red, green and blue dot at three points (3, 2), to a fraction of a pixel."""
    x, y = np.meshgrid(np.arange(180), np.arange(240))
    away = [(x - dot[0]) ** 2 + (y - dot[1]) ** 2 for dot in dots_xy]
    return np.stack([np.rint(255 * np.exp(-d / (2 * 6.0**2))) for d in away], -1).astype(np.uint8)


def centroids(views: torch.Tensor) -> torch.Tensor:
    """Where the three dots lie in each view (N, H, W, 3): (N, 3, 2), x and y."""
    height, width = views.shape[1:3]
    light = (pixels_of(views).double() - 20).clamp(min=0)
    total = light.sum((1, 2))
    x = (light * torch.arange(width)[None, None, :, None]).sum((1, 2)) / total
    y = (light * torch.arange(height)[None, :, None, None]).sum((1, 2)) / total
    return torch.stack((x, y), -1).float()


@pytest.fixture
def dots(make_shards: MakeShards) -> tuple[Path, torch.Tensor]:
    """Shards of photos with three dots on three keypoints, and the keypoints (N, 3, 2) in stored pixels."""
    rng = np.random.default_rng(5)
    points = np.array([85.0, 110.0]) + rng.uniform(-14, 14, (COUNT, 3, 2))
    keypoints = np.concatenate([points, np.full((COUNT, 3, 1), 2.0)], -1)
    folder = make_shards([encode(draw_dots(dots_xy)) for dots_xy in points], keypoints=keypoints)
    return folder, torch.tensor(points, dtype=torch.float32)


@pytest.fixture
def textured(make_shards: MakeShards) -> tuple[Path, list[np.ndarray]]:
    """Shards of textured photos of several sizes, and the photos as OpenCV decodes them (RGB)."""
    rng = np.random.default_rng(6)
    noise = [rng.integers(0, 255, (30, 20, 3), np.uint8) for _ in range(COUNT)]
    photos = [
        cv2.resize(n, (150 + 3 * i, 230 - i), interpolation=cv2.INTER_CUBIC) for i, n in enumerate(noise)
    ]
    jpegs = [encode(photo) for photo in photos]
    decoded = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) for jpeg in jpegs]
    return make_shards(jpegs), decoded


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_labelled_dot_follows_its_keypoint(dots: tuple[Path, torch.Tensor], size_hw: tuple[int, int]) -> None:
    folder, stored_xy = dots
    views = ViewSettings(size_hw=size_hw, labelled=PUBLISHED_WEAK)
    batch = batch_of(partial(labelled_graph, views=views, num_keypoints=3), folder)
    assert 4 < int(batch["flipped"].sum()) < COUNT - 4
    limit_px = 0.05 * 4  # 0.05 heatmap cells of stride 4
    torch.testing.assert_close(centroids(batch["image"]), batch["points_xy"], atol=limit_px, rtol=0)
    moved = geometry.apply(batch["view_from_stored"], stored_xy)
    torch.testing.assert_close(moved, batch["points_xy"], atol=1e-3, rtol=0)
    mirrored = torch.linalg.det(batch["view_from_stored"][..., :2]) < 0
    assert torch.equal(mirrored, batch["flipped"] > 0)


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_dot_moves_from_weak_to_strong(dots: tuple[Path, torch.Tensor], size_hw: tuple[int, int]) -> None:
    folder, stored_xy = dots
    views = ViewSettings(size_hw=size_hw, weak=PUBLISHED_WEAK, strong=BLACK_STRONG)
    batch = batch_of(partial(unlabelled_graph, views=views), folder)
    weak_xy = geometry.apply(batch["weak_from_stored"], stored_xy)
    strong_xy = geometry.apply(batch["strong_from_weak"], weak_xy)
    torch.testing.assert_close(centroids(batch["weak"]), weak_xy, atol=0.2, rtol=0)
    torch.testing.assert_close(centroids(batch["strong"]), strong_xy, atol=0.2, rtol=0)
    composed = geometry.compose(batch["strong_from_weak"], batch["weak_from_stored"])
    torch.testing.assert_close(composed, batch["strong_from_stored"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", {"device": "cpu"}), ("cuda", {"device": "mixed", "hw_decoder_load": 0.25})],
)
def test_the_jpeg_engines_get_their_share_on_a_gpu_alone(
    device: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(graph_module.fn.decoders, "image", lambda _, **words: given.update(words))
    reading = Reading(
        tars=(), indices=(), batch_size=1, seed=0, hw_decoder_load=0.25, device=torch.device(device)
    )
    graph_module.decode(None, reading)
    assert {name: given[name] for name in ("device", "hw_decoder_load") if name in given} == expected


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_views_equal_opencv(textured: tuple[Path, list[np.ndarray]], size_hw: tuple[int, int]) -> None:
    folder, photos = textured
    views = ViewSettings(size_hw=size_hw, weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    batch = batch_of(partial(unlabelled_graph, views=views), folder)
    for name, fill in (("weak", (0, 0, 0)), ("strong", (124, 116, 104))):
        for view, matrix, photo in zip(batch[name], batch[f"{name}_from_stored"], photos, strict=True):
            expected = cv2.warpAffine(photo, matrix.numpy(), size_hw[::-1], borderValue=fill)
            assert np.count_nonzero(expected != pixels_of(view).numpy()) == 0


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_plain_law_lays_the_padded_box_on_the_view(
    dots: tuple[Path, torch.Tensor], size_hw: tuple[int, int]
) -> None:
    height, width = size_hw
    views = ViewSettings(size_hw=size_hw)
    views = ViewSettings(size_hw=size_hw, labelled=views.plain)
    matrix = batch_of(partial(labelled_graph, views=views, num_keypoints=3), dots[0])["view_from_stored"]
    shown_width = 1.25 * max(90, 160 * width / height)
    corners = torch.tensor([[[85.0, 110.0], [85 - shown_width / 2, 110.0], [85 + shown_width / 2, 110.0]]])
    expected = torch.tensor([[width / 2, height / 2], [0, height / 2], [width, height / 2]])
    torch.testing.assert_close(geometry.apply(matrix, corners)[0], expected, atol=1e-3, rtol=0)


def test_strong_rotation_is_rigid_on_a_non_square_view(dots: tuple[Path, torch.Tensor]) -> None:
    """The peers rotate in normalised coordinates, which shears by up to 1.28 : 0.78 (methods 3.4, item 1)."""
    views = ViewSettings(size_hw=(256, 192), strong=PUBLISHED_STRONG)
    linear = batch_of(partial(unlabelled_graph, views=views), dots[0])["strong_from_weak"][..., :2]
    stretch = torch.linalg.svdvals(linear.double())
    torch.testing.assert_close(stretch[:, 0], stretch[:, 1], atol=1e-5, rtol=0)
    assert (linear[:, 0, 1].abs() > 0.1).sum() > 5


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Scales, angles and flips of 8192 samples with the published policies."""
    from tests.pipelines.conftest import write_shards

    tiny = [encode(np.zeros((8, 8, 3), np.uint8))] * 16
    boxes = np.tile(np.array([0, 0, 30, 30], np.float32), (16, 1))
    folder = write_shards(tmp_path_factory.mktemp("policies") / "shards", tiny, boxes_xywh=boxes)
    views = ViewSettings(size_hw=(32, 32), weak=PUBLISHED_WEAK, strong=PUBLISHED_STRONG)
    batch = batch_of(partial(unlabelled_graph, views=views), folder, count=8192)
    weak, strong = batch["weak_from_stored"].double(), batch["strong_from_weak"].double()
    shown = 32 / (1.25 * 30)

    def angle_deg(matrix: torch.Tensor) -> torch.Tensor:
        return torch.rad2deg(torch.atan2(-matrix[:, 0, 1], matrix[:, 1, 1]))

    return {
        "weak_scale": shown / geometry.linear_scale(weak),
        "strong_scale": 1 / geometry.linear_scale(strong),
        "weak_angle": angle_deg(weak),
        "strong_angle": angle_deg(strong),
        "flipped": torch.linalg.det(weak[..., :2]) < 0,
        "strong_flipped": torch.linalg.det(strong[..., :2]) < 0,
    }


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_scale_law(drawn: dict[str, torch.Tensor], view: str) -> None:
    scale = drawn[f"{view}_scale"].double()
    assert scale.min() == pytest.approx(0.75, abs=1e-4)
    assert scale.max() == pytest.approx(1.25, abs=1e-4)
    assert (scale < 0.7501).double().mean() == pytest.approx(0.158, abs=0.015)
    assert (scale > 1.2499).double().mean() == pytest.approx(0.158, abs=0.015)
    assert scale.mean() == pytest.approx(1.0, abs=0.01)
    assert scale.std() == pytest.approx(0.18, abs=0.01)


@pytest.mark.parametrize(("view", "share", "sd_deg"), [("weak", 0.6, 22.3), ("strong", 0.8, 25.7)])
def test_rotation_law(drawn: dict[str, torch.Tensor], view: str, share: float, sd_deg: float) -> None:
    angle = drawn[f"{view}_angle"]
    rotated = angle.abs() > 1e-3
    assert rotated.double().mean() == pytest.approx(share, abs=0.02)
    assert angle.abs().max() == pytest.approx(60, abs=1e-3)
    assert (angle[rotated].abs() > 59.999).double().mean() == pytest.approx(0.0455, abs=0.01)
    assert angle.mean() == pytest.approx(0, abs=1)
    assert angle.std() == pytest.approx(sd_deg, abs=0.6)


def test_total_rotation_and_independence(drawn: dict[str, torch.Tensor]) -> None:
    total = drawn["weak_angle"] + drawn["strong_angle"]
    assert total.std() == pytest.approx(34, abs=0.8)
    assert (total.abs() > 60.01).double().mean() == pytest.approx(0.07, abs=0.01)
    rows = torch.stack([drawn[f"{v}_{q}"].double() for v in ("weak", "strong") for q in ("scale", "angle")])
    assert (torch.corrcoef(rows) - torch.eye(4)).abs().max() < 0.05


def test_flip_law(drawn: dict[str, torch.Tensor]) -> None:
    assert drawn["flipped"].double().mean() == pytest.approx(0.5, abs=0.02)
    assert not drawn["strong_flipped"].any()


@pytest.mark.gpu
def test_gpu_graph_agrees_with_cpu(textured: tuple[Path, list[np.ndarray]]) -> None:
    graph = partial(unlabelled_graph, views=ViewSettings())
    on_cpu, on_gpu = batch_of(graph, textured[0]), batch_of(graph, textured[0], device="cuda:0")
    for name in ("strong_from_weak", "weak_from_stored", "strong_from_stored"):
        assert torch.equal(on_gpu[name].cpu(), on_cpu[name])
    for name in ("weak", "strong"):
        assert on_gpu[name].is_cuda
        difference = (pixels_of(on_gpu[name].cpu()).int() - pixels_of(on_cpu[name]).int()).abs().double()
        # The decoders and the warps round differently.
        assert difference.mean() < 1
        assert (difference <= 4).double().mean() > 0.99
