"""Which keypoints, with what rectangles: their distributions, and their positions in the strong view."""

import math

import pytest
import torch

from semipose.pipelines.masking.masks import (
    Masks,
    draw_half_sizes,
    draw_jitter,
    draw_masks,
    draw_order,
    mask_keypoints,
)

VIEW_HW = (256, 192)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def similarity(scale: float, angle_deg: float, shift: tuple[float, float]) -> torch.Tensor:
    cosine, sine = (scale * f(math.radians(angle_deg)) for f in (math.cos, math.sin))
    return torch.tensor([[[cosine, -sine, shift[0]], [sine, cosine, shift[1]]]])


def test_order_is_a_permutation_for_each_sample() -> None:
    order = draw_order(64, 17, generator=seeded())
    assert torch.equal(order.sort(dim=1).values, torch.arange(17).expand(64, 17))
    assert len({tuple(row) for row in order.tolist()}) == 64


def test_every_joint_is_equally_likely_among_the_first() -> None:
    order = draw_order(20_000, 17, generator=seeded())
    share = torch.bincount(order[:, :5].flatten(), minlength=17) / 20_000
    assert (share - 5 / 17).abs().max() < 5 * math.sqrt(5 / 17 * 12 / 17 / 20_000)


def test_half_sides_are_uniform_integers_of_10_to_19() -> None:
    half_sizes = draw_half_sizes(5_000, 17, 256, generator=seeded())
    values, times = half_sizes.unique(return_counts=True)
    assert values.tolist() == list(range(10, 20))
    assert (times / half_sizes.numel() - 0.1).abs().max() < 0.004
    correlation = torch.corrcoef(half_sizes.reshape(-1, 2).T)[0, 1]
    assert abs(correlation) < 0.02


def test_jitter_is_a_normal_draw_of_10_px_cut_to_an_integer() -> None:
    jitter = draw_jitter(5_000, 17, 256, generator=seeded())
    assert torch.equal(jitter, jitter.trunc())
    assert abs(jitter.mean()) < 0.1
    # cutting toward 0 takes half a pixel off each size: E trunc(10 N)^2 = 92.35 (summed from the
    # distribution)
    assert abs(jitter.var() - 92.35) < 1.0
    assert abs((jitter == 0).float().mean() - 0.0797) < 0.003  # P(|N| < 0.1)


def test_sizes_and_jitter_grow_with_the_view() -> None:
    for draw in (draw_half_sizes, draw_jitter):
        published, larger = draw(3, 17, 256, generator=seeded()), draw(3, 17, 384, generator=seeded())
        assert torch.equal(larger, published * 1.5)


def test_same_generator_state_draws_the_same_masks() -> None:
    points, counts = torch.rand(4, 17, 2) * 100, torch.full((4,), 8)
    matrix = similarity(1.0, 0.0, (0.0, 0.0)).expand(4, 2, 3)
    first = draw_masks(points, counts, matrix, VIEW_HW, generator=seeded(3))
    again = draw_masks(points, counts - 5, matrix, VIEW_HW, generator=seeded(3))
    other = draw_masks(points, counts, matrix, VIEW_HW, generator=seeded(4))
    for name in ("points_xy", "half_sizes", "order"):
        assert torch.equal(getattr(first, name), getattr(again, name))  # whatever the counts
        assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize(("scale", "angle_deg"), [(1.0, 0.0), (0.8, 60.0), (1.25, -35.0)])
def test_masks_move_and_grow_with_the_view(scale: float, angle_deg: float) -> None:
    matrix, one = similarity(scale, angle_deg, (150.0, 120.0)), torch.tensor([1])
    masks = draw_masks(torch.tensor([[[96.0, 128.0]]]), one, matrix, VIEW_HW, generator=seeded())
    images = torch.zeros(1, 1, 400, 400)
    mask_keypoints(images, *masks, torch.ones(1))
    rows, columns = (images[0, 0].any(dim=axis).nonzero() for axis in (1, 0))
    painted = torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()

    centre = matrix[0, :, :2] @ masks.points_xy[0, 0] + matrix[0, :, 2]
    half_sides = masks.half_sizes[0, 0] * scale
    expected = torch.cat([centre - half_sides, centre + half_sides])
    torch.testing.assert_close(painted, expected, atol=1.0, rtol=0)


def test_what_is_drawn_does_not_depend_on_the_view() -> None:
    points, counts = torch.rand(1, 17, 2, generator=seeded(9)) * 190, torch.tensor([8])
    still = draw_masks(points, counts, similarity(1.0, 0.0, (0.0, 0.0)), VIEW_HW, generator=seeded())
    matrix = similarity(1.25, -35.0, (12.0, -7.0))
    moved = draw_masks(points, counts, matrix, VIEW_HW, generator=seeded())
    for ours, theirs in zip(moved[:-1], still[:-1], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(moved.strong_from_weak, matrix)


def test_masks_are_exact_under_autocast_and_for_half_precision_points() -> None:
    points = (torch.rand(2, 17, 2, generator=seeded(5)) * 63).round()
    matrix = similarity(0.9, 20.0, (3.0, 5.0)).expand(2, 2, 3)
    plain = draw_masks(points, torch.tensor([8, 8]), matrix, VIEW_HW, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = draw_masks(points.bfloat16(), torch.tensor([8, 8]), matrix, VIEW_HW, generator=seeded())
    for ours, theirs in zip(plain, mixed, strict=True):
        assert torch.equal(ours, theirs)


def masked_share(point_xy: tuple[float, float], num_samples: int = 1000) -> tuple[float, float]:
    """Share of draws that touch the view at all, and mean height of what is masked, for one joint."""
    images = torch.zeros(num_samples, 1, *VIEW_HW)
    points = torch.tensor(point_xy).expand(num_samples, 1, 2)
    matrix = similarity(1.0, 0.0, (0.0, 0.0)).expand(num_samples, 2, 3)
    masks: Masks = draw_masks(
        points, torch.ones(num_samples, dtype=torch.int64), matrix, VIEW_HW, generator=seeded()
    )
    mask_keypoints(images, *masks, torch.ones(1))
    heights = images.amax(dim=(1, 3)).sum(dim=1)
    return (heights > 0).float().mean().item(), heights.mean().item()


def test_mask_reaches_ankles() -> None:
    """The peers swap height and width in a clamp: at y = 230 of 256x192 they mask 1.2 % of the draws."""
    touched, _ = masked_share((96.0, 230.0))
    assert touched == 1.0
    _, height_px = masked_share((96.0, 200.0))
    assert height_px == pytest.approx(29.0, abs=0.9)  # peers: 8.5
