"""How many keypoints of each image to mask (AKM, arXiv 2404.14835, Algorithm 1).

Peaks are the highest values of the teacher's heatmaps; the paper calls them responses. Everything stays on
their device: no function here returns a number to the host.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_SPAN = 1e-6
"""Least denominator of a relative response: equal peaks divide by this instead of by zero."""


class MaskCounts(NamedTuple):
    """What the adaptive rule says of each sample; all on the peaks' device."""

    counts: Tensor
    """(N,) int64: how many keypoints to mask."""
    hard: Tensor
    """(N,) bool: the best response is under `min_response` (an extremely difficult sample)."""
    easy_joints: Tensor
    """(N,) int64: joints whose response is close to the best one (the paper's n)."""


def adaptive_mask_counts(
    peaks: Tensor,
    *,
    gamma: float = 0.55,
    max_masks: int = 8,
    min_masks: int = 2,
    min_response: float = 0.05,
) -> MaskCounts:
    """Count the masks of each sample: many where most joints are found, few where few are.

    With H_j the peak of joint j, r_j = (max H - H_j) / (max H - min H) and n the number of joints with
    r_j < gamma, the count is n * max_masks / K to the nearest integer, kept in [min_masks, max_masks].
    Equal peaks make every joint easy; a best response under `min_response` gives `min_masks`.

    Args:
        peaks: (N, K), any floating dtype; the arithmetic is float32. Values below 0 count as 0; those
            that are not finite give `min_masks`.
        gamma: bound of the relative response of an easy joint, in (0, 1].
        max_masks, min_masks: bounds of the count; with fewer than that many joints, K takes their place.
        min_response: best response below which a sample is extremely difficult (a target's peak is 1).
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
    """(N,) int64: the same count for every sample, at most K. `peaks` (N, K) lends its device."""
    num_samples, num_joints = peaks.shape
    return torch.full((num_samples,), min(count, num_joints), dtype=torch.int64, device=peaks.device)


def _round_half_up(numbers: Tensor, times: int, over: int) -> Tensor:
    """numbers * times / over to the nearest integer, halves up, exactly (all non-negative integers).

    Integers rather than `torch.round`: no float can fall on the wrong side of a half, and halves to even
    would give K = 16, m = 8 the same count for n = 3 and 5, then two more at n = 7. K = 17 has no halves.
    """
    return (numbers * (2 * times) + over) // (2 * over)
