"""Joint cutout: hide keypoints of the strong view behind rectangles, in a fixed, random or adaptive number.

This file decides how many keypoints (the adaptive rule is Algorithm 1 of arXiv 2404.14835);
pipelines/masking/masks.py decides which ones and paints the rectangles. Peaks are the highest values of the
teacher's heatmaps; the paper calls them responses. No function here returns a number to the host.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.pipelines.masking.masks import draw_counts, draw_masks, mask_keypoints
from semipose.pipelines.strong.scene import Scene

PUBLISHED_MAX_MASKS, PUBLISHED_KEYPOINTS = 8, 17
"""Table 4 of arXiv 2404.14835: of 6, 8, 10 and 12, at most 8 masks gave the best AP."""
SMALLEST_SPAN = 1e-6
"""Smallest denominator of a relative response, so that equal peaks do not divide by zero."""


@settings
class JointCutout:
    """Masks the same number of keypoints in every image (Xie et al., ICCV 2021; docs/methods.md 2.3).

    Differs from Xie et al.: joints are real and distinct, while the release draws 5 of 24 channels, including
    unused ones, with replacement; rectangles are cut at the true borders of the view.
    """

    name: Literal["joint_cutout"] = "joint_cutout"
    count: Annotated[int, Field(ge=0)] = 5
    """Number of keypoints masked per image."""

    def counts(self, peaks: Tensor, exists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """(N,) int64 for joints that exist (N, K) bool, and no terms for the report."""
        return exists.sum(dim=1).clamp_max(self.count), {}

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask `images` (N, 3, H, W), normalised, in place; no terms for the report."""
        counts, terms = self.counts(scene.peaks, scene.exists)
        return cut_out_joints(images, scene, counts, generator), terms


@settings
class RandomMasks:
    """Masks a random number of keypoints in each image, whatever the teacher detects.

    This is the masking with which Meng et al. (arXiv 2404.14835) compare their adaptive number: from 0 to 4
    keypoints per person (docs/methods.md 2.3). The release of Xie et al. has this rule too, but switched off.
    Differs from it: joints are real and distinct.
    """

    name: Literal["random_masks"] = "random_masks"
    min_masks: Annotated[int, Field(ge=0)] = 0
    """Smallest number of keypoints masked per image."""
    max_masks: Annotated[int, Field(ge=0)] = 4
    """Largest number of keypoints masked per image; all numbers from the smallest to this are equally
    likely."""

    def __post_init__(self) -> None:
        if self.min_masks > self.max_masks:
            raise ValueError(f"min_masks {self.min_masks} is above max_masks {self.max_masks}: lower it")

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask `images` (N, 3, H, W), normalised, in place; the mean number of masks for the report."""
        num_samples, num_joints = scene.peaks.shape
        most = min(self.max_masks, num_joints)
        counts = draw_counts(num_samples, min(self.min_masks, most), most, generator=generator)
        counts = counts.minimum(scene.exists.sum(dim=1))
        images = cut_out_joints(images, scene, counts, generator)
        return images, {"masks": counts.to(torch.float32).mean()}


@settings
class AdaptiveMasks:
    """Masks more keypoints if the teacher detects more (adaptive keypoint masking, arXiv 2404.14835)."""

    name: Literal["adaptive_masks"] = "adaptive_masks"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.55
    """A joint is easy if its relative response is below this (0: the best joint, 1: the worst)."""
    max_masks: Annotated[int, Field(ge=0)] | None = None
    """Largest number of keypoints masked per image, for an image in which all joints are easy; null: as large
    a share of the keypoints as the published 8 is of 17."""
    min_masks: Annotated[int, Field(ge=0)] = 2
    """Smallest number of keypoints masked per image, if `max_masks` is not below it."""
    min_response: Annotated[float, Field(ge=0)] = 0.05
    """An image whose best response (the peak of a heatmap) is below this is extremely difficult and gets the
    smallest number of masks."""

    def __post_init__(self) -> None:
        if self.max_masks is not None and self.min_masks > self.max_masks:
            raise ValueError(f"min_masks {self.min_masks} is above max_masks {self.max_masks}: lower it")

    def counts(self, peaks: Tensor, exists: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 for peaks (N, K) and joints that exist (N, K) bool; the means of masks, easy joints and
        hard samples."""
        masks = adaptive_mask_counts(
            peaks,
            exists,
            gamma=self.gamma,
            max_masks=self.max_masks,
            min_masks=self.min_masks,
            min_response=self.min_response,
        )
        terms = {
            "masks": masks.counts.to(torch.float32).mean(),
            "easy_joints": masks.easy_joints.to(torch.float32).mean(),
            "hard_share": masks.hard.to(torch.float32).mean(),
        }
        return masks.counts, terms

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask `images` (N, 3, H, W), normalised, in place; the terms of `counts` for the report."""
        counts, terms = self.counts(scene.peaks, scene.exists)
        return cut_out_joints(images, scene, counts, generator), terms


def cut_out_joints(images: Tensor, scene: Scene, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Paint `counts` (N,) random joints per image in the mean colour, in place; returns the images."""
    masks = draw_masks(scene.points_weak, counts, scene.strong_from_weak, scene.view_hw, generator=generator)
    mask_keypoints(images, *masks, images.new_zeros(images.shape[1]))
    return images


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
    exists: Tensor,
    *,
    gamma: float = 0.55,
    max_masks: int | None = None,
    min_masks: int = 2,
    min_response: float = 0.05,
) -> MaskCounts:
    """Compute the number of masks of each sample: many if most joints are detected, few otherwise.

    With H_j the peak of joint j, r_j = (max H - H_j) / (max H - min H) and n the number of joints with
    r_j < gamma, the count is n * max_masks / K to the nearest integer, kept in [min_masks, max_masks].
    Equal peaks make every joint easy; a best response below `min_response` gives `min_masks`. K is the number
    of the sample's joints, and no count is above it: in a whole photo, those of everybody who was found.

    Args:
        peaks: (N, K), any floating dtype; the arithmetic is float32. Values below 0 count as 0; a
            sample with values that are not finite gets `min_masks`.
        exists: (N, K) bool; the other joints are those of nobody.
        gamma: upper bound of the relative response of an easy joint, in (0, 1].
        max_masks, min_masks: bounds of the count, at most K; max_masks None: `published_share` of K.
        min_response: a sample whose best response is below this is extremely difficult (targets peak at 1).
    """
    peaks = peaks.detach().float().clamp_min(0.0)
    best = peaks.masked_fill(~exists, 0.0).amax(dim=1, keepdim=True)
    worst = peaks.masked_fill(~exists, torch.inf).amin(dim=1, keepdim=True)
    span = (best - worst).clamp_min(SMALLEST_SPAN)
    easy_joints = (((best - peaks) / span < gamma) & exists).sum(dim=1)
    # "not at least", so that a sample that is not a number is a difficult one, too
    hard = ~(best.squeeze(1) >= min_response)

    num_joints = exists.sum(dim=1)
    if max_masks is None:
        most = _round_half_up(num_joints, PUBLISHED_MAX_MASKS, PUBLISHED_KEYPOINTS).clamp_min(1)
    else:
        most = torch.full_like(num_joints, max_masks)
    most = most.minimum(num_joints)
    least = most.clamp_max(min_masks)
    counts = _round_half_up(easy_joints, most, num_joints.clamp_min(1)).clamp(least, most)
    return MaskCounts(counts=torch.where(hard, least, counts), hard=hard, easy_joints=easy_joints)


def published_share(num_keypoints: int) -> int:
    """The share of the keypoints that the published 8 is of 17, to the nearest number, but at least 1."""
    doubled = 2 * PUBLISHED_MAX_MASKS * num_keypoints + PUBLISHED_KEYPOINTS
    return max(1, doubled // (2 * PUBLISHED_KEYPOINTS))


def _round_half_up(numbers: Tensor, times: Tensor | int, over: Tensor | int) -> Tensor:
    """numbers * times / over, rounded to the nearest integer with halves up (all non-negative integers).

    With integers instead of `torch.round`, no float can be on the wrong side of a half; and halves to even
    would give the same count for n = 3 and 5 with K = 16, m = 8, and two more for n = 7. K = 17 has no
    halves.
    """
    return (numbers * (2 * times) + over) // (2 * over)
