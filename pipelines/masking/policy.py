"""The masking policies that a recipe names: none, a fixed number, or the adaptive rule.

Each answers `counts(heatmaps)` with how many keypoints to mask and what the log should show.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from configs.settings import settings
from pipelines.masking.counts import adaptive_mask_counts, fixed_mask_counts


@settings
class NoMasks:
    """No keypoint is masked."""

    name: Literal["none"] = "none"

    def counts(self, heatmaps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) zeros for heatmaps (N, K, h, w), and nothing for the log."""
        return fixed_mask_counts(heatmaps, 0), {}


@settings
class FixedMasks:
    """The same number of keypoints in every image: joint cutout of Xie et al. (ICCV 2021).

    Differs from Xie et al.: distinct real joints, where the release draws 5 of 24 channels with
    replacement, dead ones among them.
    """

    name: Literal["fixed"] = "fixed"
    count: Annotated[int, Field(ge=0)] = 5
    """Keypoints masked in each image."""

    def counts(self, heatmaps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 for heatmaps (N, K, h, w), and nothing for the log."""
        return fixed_mask_counts(heatmaps, self.count), {}


@settings
class AdaptiveMasks:
    """More masks where the teacher finds more joints (adaptive keypoint masking, arXiv 2404.14835)."""

    name: Literal["adaptive"] = "adaptive"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.55
    """A joint is easy when its relative response is below this (0 = the best joint, 1 = the least)."""
    max_masks: Annotated[int, Field(ge=0)] = 8
    """Most keypoints masked in an image; the number for an image in which all joints are easy."""
    min_masks: Annotated[int, Field(ge=0)] = 2
    """Fewest keypoints masked in an image."""
    min_response: Annotated[float, Field(ge=0)] = 0.05
    """An image whose best response is below this is extremely difficult and gets the fewest masks."""

    def __post_init__(self) -> None:
        if self.min_masks > self.max_masks:
            raise ValueError(f"min_masks {self.min_masks} is above max_masks {self.max_masks}")

    def counts(self, heatmaps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 for heatmaps (N, K, h, w); for the log the means of masks, easy joints, hard samples."""
        found = adaptive_mask_counts(
            heatmaps,
            gamma=self.gamma,
            max_masks=self.max_masks,
            min_masks=self.min_masks,
            min_response=self.min_response,
        )
        log = {
            "masks": found.counts.to(torch.float32).mean(),
            "easy_joints": found.easy_joints.to(torch.float32).mean(),
            "hard_share": found.hard.to(torch.float32).mean(),
        }
        return found.counts, log


MaskingPolicy = Annotated[NoMasks | FixedMasks | AdaptiveMasks, Field(discriminator="name")]
