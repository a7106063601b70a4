"""How many keypoints of each image to mask (AKM, arXiv 2404.14835, Algorithm 1).

Peaks are the highest values of the teacher's heatmaps; the paper calls them responses. Everything stays on
their device: no function here returns a number to the host.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_SPAN = 1e-6
"""Smallest denominator of a relative response, so that equal peaks do not divide by zero."""


class MaskCounts(NamedTuple):
    """The result of the adaptive rule for each sample, on the device of the peaks."""

    counts: Tensor
    """(N,) int64: the number of keypoints to mask."""
    hard: Tensor
    """(N,) bool: whether the best response is below `min_response` (an extremely difficult sample)."""
    easy_joints: Tensor
    """(N,) int64: the number of joints whose response is close to the best one (n in the paper)."""


def adaptive_mask_counts(
    peaks: Tensor,
    *,
    gamma: float = 0.55,
    max_masks: int = 8,
    min_masks: int = 2,
    min_response: float = 0.05,
) -> MaskCounts:
    """Compute the number of masks of each sample: many if most joints are detected, few otherwise.

    With H_j the peak of joint j, r_j = (max H - H_j) / (max H - min H) and n the number of joints with
    r_j < gamma, the count is n * max_masks / K to the nearest integer, kept in [min_masks, max_masks].
    Equal peaks make every joint easy; a best response below `min_response` gives `min_masks`.

    Args:
        peaks: (N, K), any floating dtype; the arithmetic is float32. Values below 0 count as 0; a
            sample with values that are not finite gets `min_masks`.
        gamma: upper bound of the relative response of an easy joint, in (0, 1].
        max_masks, min_masks: bounds of the count; both are at most K.
        min_response: a sample whose best response is below this is extremely difficult (targets peak at 1).
    """
    peaks = peaks.detach().float().clamp_min(0.0)
    best = peaks.amax(dim=1, keepdim=True)
    span = (best - peaks.amin(dim=1, keepdim=True)).clamp_min(SMALLEST_SPAN)
    easy_joints = ((best - peaks) / span < gamma).sum(dim=1)
    # "not at least", so that a sample that is not a number is a difficult one, too
    hard = ~(best.squeeze(1) >= min_response)

    num_joints = peaks.shape[1]
    most = min(max_masks, num_joints)
    least = min(min_masks, most)
    counts = _round_half_up(easy_joints, most, num_joints).clamp_(least, most)
    return MaskCounts(counts=counts.masked_fill_(hard, least), hard=hard, easy_joints=easy_joints)


def fixed_mask_counts(peaks: Tensor, count: int) -> Tensor:
    """(N,) int64: the same count for every sample, at most K. on the device of `peaks` (N, K)."""
    num_samples, num_joints = peaks.shape
    return torch.full((num_samples,), min(count, num_joints), dtype=torch.int64, device=peaks.device)


def _round_half_up(numbers: Tensor, times: int, over: int) -> Tensor:
    """numbers * times / over, rounded to the nearest integer with halves up (all non-negative integers).

    With integers instead of `torch.round`, no float can be on the wrong side of a half; and halves to even
    would give the same count for n = 3 and 5 with K = 16, m = 8, and two more for n = 7. K = 17 has no
    halves.
    """
    return (numbers * (2 * times) + over) // (2 * over)
