"""Keypoints to heatmaps and back: against plain loops, round trips, warps."""

import math

import pytest
import torch
from torch import Tensor

from semipose.models.codecs.heatmap import decode, encode, find_peaks, warp
from semipose.pipelines.geometry import apply

STRIDE = 4
ROUND_TRIPS = [  # K, (h, w)
    (1, (16, 16)),
    (14, (24, 18)),
    (17, (64, 48)),
    (133, (32, 40)),
]


def random_points(n: int, k: int, hw: tuple[int, int], margin: float, seed: int = 0) -> Tensor:
    """Points (n, k, 2), view px, at least `margin` cells inside the outermost cells of a map of that size."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([hw[1] - 1.0, hw[0] - 1.0]) - 2 * margin
    return STRIDE * (margin + extent * torch.rand(n, k, 2, generator=generator))


def drawn(points_xy: Tensor, hw: tuple[int, int], sigma: float = 2.0) -> Tensor:
    return encode(points_xy, torch.ones(points_xy.shape[:2]), hw, STRIDE, sigma)[0]


# --- encode


def encode_by_loop(x: float, y: float, hw: tuple[int, int], sigma: float) -> tuple[list[list[float]], bool]:
    """One Gaussian and whether its square meets the map, cell by cell."""
    near_x, near_y = math.floor(x + 0.5), math.floor(y + 0.5)
    values, touched = [[0.0] * hw[1] for _ in range(hw[0])], False
    for row in range(near_y - int(3 * sigma), near_y + int(3 * sigma) + 1):
        for column in range(near_x - int(3 * sigma), near_x + int(3 * sigma) + 1):
            if 0 <= row < hw[0] and 0 <= column < hw[1]:
                touched = True
                values[row][column] = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
    return values, touched


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_encode_equals_a_plain_loop(sigma: float) -> None:
    hw = (16, 12)
    cells = torch.tensor([[[5.0, 6.0], [5.3, 6.8], [-0.2, 0.4], [11.4, 15.6], [-6.4, 3.0], [-6.6, 3.0]]])
    more = random_points(1, 30, hw, -16.0) / STRIDE  # far outside as well
    cells = torch.cat((cells, more), dim=1)
    heatmaps, weights = encode(cells * STRIDE, torch.ones(cells.shape[:2]), hw, STRIDE, sigma)
    for index, (x, y) in enumerate(cells[0].tolist()):
        values, touched = encode_by_loop(x, y, hw, sigma)
        torch.testing.assert_close(heatmaps[0, index], torch.tensor(values), rtol=1e-5, atol=1e-6)
        assert weights[0, index].item() == float(touched)
    assert 0 < weights.mean() < 1


def test_square_has_six_sigma_plus_one_cells() -> None:
    heatmaps = drawn(torch.tensor([[[80.0, 80.0], [81.9, 78.1]]]), (40, 40))
    assert (heatmaps > 0).sum((-2, -1)).tolist() == [[169, 169]]
    assert heatmaps[0, 0, 20, 20] == 1


def test_what_is_not_seen_is_zero_whatever_its_coordinates() -> None:
    points = torch.tensor([[[math.nan, 3.0], [math.inf, -math.inf], [20.0, 20.0], [20.0, 20.0], [1e9, 8.0]]])
    heatmaps, weights = encode(points, torch.tensor([[1, 0, 0, 1, 1]]), (16, 16), STRIDE, 2.0)
    assert weights.tolist() == [[0, 0, 0, 1, 0]]
    assert heatmaps.isfinite().all()
    assert heatmaps.amax((-2, -1)).tolist() == [[0, 0, 0, 1, 0]]


def test_weight_ends_where_the_square_leaves_the_map() -> None:
    """Sigma 2, 12 columns: cell -6.4 has its square's last column on cell 0, -6.6 has it on -1."""
    x = torch.tensor([-6.6, -6.4, 17.4, 17.6]) * STRIDE
    points = torch.stack((x, torch.full_like(x, 20.0)), dim=-1)[None]
    _, weights = encode(points, torch.ones(1, 4), (16, 12), STRIDE, 2.0)
    assert weights.tolist() == [[0, 1, 1, 0]]


# --- decode


@pytest.mark.parametrize(("num_keypoints", "hw"), ROUND_TRIPS)
@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_dark_returns_the_point(num_keypoints: int, hw: tuple[int, int], sigma: float) -> None:
    points = random_points(8, num_keypoints, hw, margin=2 * sigma)
    found, peaks = decode(drawn(points, hw, sigma), STRIDE, method="dark", sigma=sigma)
    assert ((found - points) / STRIDE).abs().max() < 0.05
    assert ((peaks > 0.88) & (peaks <= 1)).all()


@pytest.mark.parametrize(("num_keypoints", "hw"), ROUND_TRIPS)
def test_quarter_shift_is_within_a_quarter(num_keypoints: int, hw: tuple[int, int]) -> None:
    points = random_points(8, num_keypoints, hw, margin=3)
    found, _ = decode(drawn(points, hw), STRIDE)
    error = ((found - points) / STRIDE).abs()
    assert error.max() <= 0.2501
    assert error.mean() < 0.14  # a peak without the shift: 0.25
    assert torch.equal(
        STRIDE * find_peaks(drawn(points, hw)).points_hm, STRIDE * (points / STRIDE + 0.5).floor()
    )


def shift_by_loop(heatmap: Tensor) -> tuple[float, float]:
    """The published decode of one map, in cells."""
    height, width = heatmap.shape
    index = int(heatmap.argmax())
    x, y = index % width, index // width
    if heatmap.max() <= 0:
        return 0.0, 0.0
    if 1 < x < width - 1 and 1 < y < height - 1:
        right_left = float(heatmap[y, x + 1] - heatmap[y, x - 1])
        down_up = float(heatmap[y + 1, x] - heatmap[y - 1, x])
        return x + 0.25 * float(torch.tensor(right_left).sign()), y + 0.25 * float(
            torch.tensor(down_up).sign()
        )
    return float(x), float(y)


def test_shift_equals_a_plain_loop_on_noise() -> None:
    """Small maps of noise: peaks on every border, ties, and maps without a positive value."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 5, 6, 7, generator=generator)
    noise[0] = -noise[0].abs()
    noise[1] = noise[1].round()
    noise[2] = 0
    found, peaks = decode(noise, 1, method="shift")
    expected = torch.tensor([[shift_by_loop(noise[n, k]) for k in range(5)] for n in range(60)])
    assert torch.equal(found, expected)
    assert torch.equal(peaks, noise.amax((-2, -1)))


def dark_by_loop(heatmap: Tensor) -> tuple[float, float]:
    """The published DARK of one map in float64, in cells: 11 x 11 blur, rescale, log, Newton."""
    height, width = heatmap.shape
    index = int(heatmap.argmax())
    x, y = index % width, index // width
    taps = torch.exp(-(torch.arange(-5, 6).double() ** 2) / 8)
    kernel = taps[:, None] * taps / taps.sum() ** 2
    padded = torch.nn.functional.pad(heatmap.double(), (5, 5, 5, 5))
    blurred = torch.zeros(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            blurred[row, column] = (kernel * padded[row : row + 11, column : column + 11]).sum()
    log = (blurred * heatmap.max() / blurred.max()).clamp(min=1e-10).log()
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return float(x), float(y)
    gradient = torch.tensor([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]]) / 2
    xx = (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2]) / 4
    yy = (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x]) / 4
    xy = (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1]) / 4
    step = torch.linalg.solve(torch.tensor([[xx, xy], [xy, yy]]), -gradient.double())
    return x + float(step[0]), y + float(step[1])


def test_dark_equals_a_plain_loop_on_uneven_maps() -> None:
    """Two blobs of unequal height, so that no axis is symmetric; some peaks lie at the border."""
    hw = (14, 12)
    points = random_points(1, 24, hw, margin=0, seed=1)
    maps = drawn(points, hw) + 0.6 * drawn(points + torch.tensor([7.0, 5.0]), hw)
    found, _ = decode(maps, 1, method="dark")
    expected = torch.tensor([dark_by_loop(heatmap) for heatmap in maps[0]])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-3)
    moved = found[0] != found[0].round()
    assert moved.any()
    assert not moved.all()


def test_dark_takes_no_step_without_a_summit() -> None:
    """A ridge, a plateau and noise: the published step would be endless or leave the map."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.zeros(1, 3, 16, 16)
    maps[0, 0, :, 8] = 1.0
    maps[0, 1] = 0.5
    maps[0, 2] = torch.rand(16, 16, generator=generator)
    found, _ = decode(maps, 1, method="dark")
    assert found.isfinite().all()
    assert ((found - find_peaks(maps).points_hm).abs() <= 2).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_shows_it_in_its_height(bad: float) -> None:
    maps = torch.ones(1, 2, 8, 6)
    maps[0, 1, 5, 3] = bad
    peaks = find_peaks(maps).peaks
    assert peaks.isfinite().tolist() == [[True, False]]


@pytest.mark.parametrize("method", ["shift", "dark"])
def test_nothing_found_is_the_origin(method: str) -> None:
    found, peaks = decode(torch.full((1, 2, 8, 8), -0.5), STRIDE, method=method)  # type: ignore[arg-type]
    assert found.count_nonzero() == 0
    assert (peaks == -0.5).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.3)])
def test_half_precision_maps_are_read(dtype: torch.dtype, tolerance: float) -> None:
    """bfloat16 keeps 8 bits: neighbours of a peak can be equal, so the highest cell itself is less sure."""
    points = random_points(4, 17, (64, 48), margin=5)
    maps = drawn(points, (64, 48)).to(dtype)
    found, peaks = decode(maps, STRIDE, method="dark")
    assert found.dtype == peaks.dtype == torch.float32
    assert ((found - points) / STRIDE).abs().max() < tolerance
    assert [each.dtype for each in find_peaks(maps)] == [torch.float32, torch.float32]


def test_autocast_changes_nothing() -> None:
    points = random_points(2, 17, (64, 48), margin=5)
    maps, matrices = drawn(points, (64, 48)), random_rigid(2, (64, 48))
    expected = (*decode(maps, STRIDE, method="dark"), *warp(maps, matrices, STRIDE), drawn(points, (64, 48)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = (*decode(maps, STRIDE, method="dark"), *warp(maps, matrices, STRIDE), drawn(points, (64, 48)))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# --- warp


def random_rigid(n: int, hw: tuple[int, int], seed: int = 0) -> Tensor:
    """Strong-from-weak matrices (n, 2, 3) with the published policy, about the view's middle."""
    generator = torch.Generator().manual_seed(seed)
    scale = (1 + 0.25 * torch.randn(n, generator=generator)).clamp(0.75, 1.25)
    angle = (math.pi / 6 * torch.randn(n, generator=generator)).clamp(-math.pi / 3, math.pi / 3)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
    middle = STRIDE * torch.tensor([hw[1] / 2, hw[0] / 2])
    return torch.cat((linear, (middle - linear @ middle)[..., None]), dim=-1)


@pytest.mark.parametrize(("num_keypoints", "hw"), ROUND_TRIPS[1:])
def test_warped_heatmap_peaks_at_the_moved_keypoint(num_keypoints: int, hw: tuple[int, int]) -> None:
    n = 2000 // num_keypoints
    points, matrices = random_points(n, num_keypoints, hw, margin=6), random_rigid(n, hw)
    warped, _ = warp(drawn(points, hw), matrices, STRIDE)
    moved = apply(matrices, points)
    found, _ = decode(warped, STRIDE, method="dark")
    cells, last = moved / STRIDE, torch.tensor([hw[1] - 1.0, hw[0] - 1.0])
    within = ((cells >= 5) & (cells <= last - 5)).all(-1)
    assert within.sum() > 500
    assert ((found - moved) / STRIDE).abs()[within].max() < 0.1


def test_warp_by_nothing_is_exact_and_by_whole_cells_too() -> None:
    maps = torch.rand(2, 3, 10, 7, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1.0, 0, 8], [0, 1, -4]]])
    warped, inside = warp(maps, shift, STRIDE)
    torch.testing.assert_close(warped[0], maps[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(warped[1, :, :-1, 2:], maps[1, :, 1:, :-2], rtol=0, atol=1e-5)
    assert warped[1, :, -1].count_nonzero() == 0
    assert warped[1, :, :, :2].count_nonzero() == 0
    assert inside[0].min() == 1
    expected = torch.zeros(1, 10, 7)
    expected[:, :-1, 2:] = 1
    assert torch.equal(inside[1], expected)


def test_warp_and_inside_equal_a_plain_loop() -> None:
    hw = (9, 13)
    maps = torch.rand(6, 2, *hw, generator=torch.Generator().manual_seed(0))
    matrices = random_rigid(6, hw, seed=3)
    warped, inside = warp(maps, matrices, STRIDE)
    assert warped.shape == maps.shape
    assert inside.shape == (6, 1, *hw)
    for n, strong_from_weak in enumerate(matrices.double()):
        square = torch.cat((strong_from_weak, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)))
        weak_from_strong = torch.linalg.inv(square)
        for row in range(hw[0]):
            for column in range(hw[1]):
                at = weak_from_strong @ torch.tensor(
                    [STRIDE * column, STRIDE * row, 1.0], dtype=torch.float64
                )
                x, y = float(at[0]) / STRIDE, float(at[1]) / STRIDE
                assert inside[n, 0, row, column] == float(0 <= x <= hw[1] - 1 and 0 <= y <= hw[0] - 1)
                expected = bilinear_by_loop(maps[n], x, y)
                torch.testing.assert_close(warped[n, :, row, column], expected, rtol=0, atol=1e-4)


def bilinear_by_loop(maps: Tensor, x: float, y: float) -> Tensor:
    left, top = math.floor(x), math.floor(y)
    total = torch.zeros(maps.shape[0])
    for row, column in [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]:
        if 0 <= row < maps.shape[1] and 0 <= column < maps.shape[2]:
            total = total + maps[:, row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


# --- the device


@pytest.mark.slow
def test_heatmaps_compile_as_one_graph() -> None:
    points, matrices = random_points(2, 3, (16, 12), margin=3), random_rigid(2, (16, 12))

    def round_trip(points: Tensor, matrices: Tensor) -> tuple[Tensor, ...]:
        maps, weights = encode(points, torch.ones(2, 3), (16, 12), STRIDE, 2.0)
        warped, inside = warp(maps, matrices, STRIDE)
        return (*decode(warped, STRIDE), *decode(warped, STRIDE, method="dark"), weights, inside)

    compiled = torch.compile(round_trip, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(points, matrices), round_trip(points, matrices), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu() -> None:
    points, matrices = random_points(2, 17, (64, 48), margin=5).cuda(), random_rigid(2, (64, 48)).cuda()
    visible = torch.ones(2, 17, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        maps, _ = encode(points, visible, (64, 48), STRIDE, 2.0)
        warped, _ = warp(maps, matrices, STRIDE)
        find_peaks(warped)
        decode(warped, STRIDE)
        found, _ = decode(maps, STRIDE, method="dark")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ((found - points) / STRIDE).abs().max() < 0.05
