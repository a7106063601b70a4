"""How many keypoints to mask: docs/methods.md 9, rows 1 to 9."""

import pytest
import torch

from semipose.pipelines.strong.joint_cutout import JointCutout, MaskCounts
from semipose.pipelines.strong.joint_cutout import adaptive_mask_counts as counts_of_existing

PAPER_TABLE = [2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]
"""Masks for n = 1..16 easy joints of 17, at most 8."""


def adaptive_mask_counts(peaks: torch.Tensor, **settings: float) -> MaskCounts:
    """Of joints that all exist."""
    return counts_of_existing(peaks, torch.ones_like(peaks, dtype=torch.bool), **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_easy", range(1, 17))
def test_counts_are_the_papers_table(num_easy: int, dtype: torch.dtype) -> None:
    found = adaptive_mask_counts(torch.tensor([[0.9] * num_easy + [0.1] * (17 - num_easy)], dtype=dtype))
    assert found.easy_joints.tolist() == [num_easy]
    assert found.counts.tolist() == [PAPER_TABLE[num_easy - 1]]
    assert found.counts.dtype == torch.int64


def test_order_of_joints_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    peaks = torch.rand(6, 17, generator=generator)
    shuffled = peaks[:, torch.randperm(17, generator=generator)]
    counts = adaptive_mask_counts(peaks).counts
    assert len(counts.unique()) > 1
    assert torch.equal(adaptive_mask_counts(shuffled).counts, counts)


def test_equal_responses_are_all_easy() -> None:
    found = adaptive_mask_counts(torch.tensor([[0.6] * 17]))
    assert found.easy_joints.tolist() == [17]
    assert found.counts.tolist() == [8]


def test_extremely_difficult_sample_gets_the_minimum() -> None:
    # equal peaks: without the test of the best response both would get 8
    found = adaptive_mask_counts(torch.tensor([[0.049] * 17, [0.05] * 17]), min_response=0.05)
    assert found.hard.tolist() == [True, False]
    assert found.counts.tolist() == [2, 8]


def test_bound_of_an_easy_joint_is_excluded() -> None:
    # exact in binary: the relative responses are 0, 0.5, 0.4375 and 1
    peaks = torch.tensor([[1.0, 0.5, 0.5625, 0.0]])
    assert adaptive_mask_counts(peaks, gamma=0.5).easy_joints.tolist() == [2]
    assert adaptive_mask_counts(peaks, gamma=0.501).easy_joints.tolist() == [3]


def test_more_easy_joints_never_mean_fewer_masks() -> None:
    counts = [
        adaptive_mask_counts(torch.tensor([[0.9] * n + [0.1] * (16 - n)]), min_masks=0).counts.item()
        for n in range(1, 16)
    ]
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]  # halves up: even steps


def test_responses_below_zero_count_as_zero() -> None:
    # raw, the -9 would stretch the span until every other joint is easy
    found = adaptive_mask_counts(torch.tensor([[0.9, 0.2, 0.2, -9.0]]))
    assert found.easy_joints.tolist() == [1]


@pytest.mark.parametrize(("num_joints", "expected"), [(1, [1, 1]), (2, [2, 2]), (5, [5, 2])])
def test_few_joints_bound_the_counts(num_joints: int, expected: list[int]) -> None:
    peaks = torch.tensor([[0.9] * num_joints, [0.9] + [0.1] * (num_joints - 1)])
    assert adaptive_mask_counts(peaks, max_masks=8).counts.tolist() == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_responses_that_are_not_finite_get_the_minimum(bad: float) -> None:
    peaks = torch.tensor([[0.9] * 17, [0.9] * 17])
    peaks[0, 3] = bad
    assert adaptive_mask_counts(peaks).counts.tolist() == [2, 8]


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch: int) -> None:
    found = adaptive_mask_counts(torch.ones(batch, 17))
    assert found.counts.shape == (batch,)


def test_counts_are_the_same_under_autocast() -> None:
    peaks = torch.rand(8, 17, generator=torch.Generator().manual_seed(1), requires_grad=True)
    plain = adaptive_mask_counts(peaks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = adaptive_mask_counts(peaks)
    assert torch.equal(plain.counts, mixed.counts)


def test_fixed_count_is_bounded_by_the_joints() -> None:
    exists = torch.ones(3, 17, dtype=torch.bool)
    exists[1, 4:], exists[2] = False, False
    assert JointCutout(count=5).counts(exists.float(), exists)[0].tolist() == [5, 4, 0]
    assert JointCutout(count=9).counts(exists.float(), exists)[0].tolist() == [9, 4, 0]


@pytest.mark.parametrize(
    "settings", [{}, {"max_masks": 3}, {"min_masks": 0}, {"min_masks": 7, "max_masks": 9}]
)
def test_joints_of_nobody_change_no_count(settings: dict[str, int]) -> None:
    """A whole photo has slots for more people than it shows: the rule is that of the joints that exist."""
    generator = torch.Generator().manual_seed(0)
    for num_joints in (0, 1, 2, 5, 14, 17, 34):
        peaks = torch.rand(50, num_joints, generator=generator)
        slots = torch.cat((torch.zeros(50, 13), peaks, torch.zeros(50, 40)), dim=1)
        exists = torch.zeros(50, 53 + num_joints, dtype=torch.bool)
        exists[:, 13 : 13 + num_joints] = True
        found = counts_of_existing(slots, exists, **settings)
        assert (found.counts <= num_joints).all()
        if num_joints:
            assert all(map(torch.equal, found, adaptive_mask_counts(peaks, **settings)))
        else:
            assert found.hard.all()
