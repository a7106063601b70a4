"""Joint cutout: hide keypoints of the strong view behind rectangles, in a fixed, random or adaptive number.

How many is said here, which and with what rectangles in pipelines/masking.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from configs.settings import settings
from pipelines.masking.counts import adaptive_mask_counts, fixed_mask_counts
from pipelines.masking.mask_sampling import draw_counts, draw_masks
from pipelines.masking.op import mask_keypoints
from pipelines.strong.scene import Scene


@settings
class JointCutout:
    """The same number of keypoints in every image: joint cutout (Xie et al., ICCV 2021; docs/methods.md 2.3).

    Differs from Xie et al.: distinct real joints, where the release draws 5 of 24 channels with
    replacement, dead ones among them; rectangles are cut by the view's true borders.
    """

    name: Literal["joint_cutout"] = "joint_cutout"
    count: Annotated[int, Field(ge=0)] = 5
    """Keypoints masked in each image."""

    def counts(self, peaks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 for peaks (N, K), and nothing for the report."""
        return fixed_mask_counts(peaks, self.count), {}

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask `images` (N, 3, H, W), normalised, in place; nothing for the report."""
        counts, terms = self.counts(scene.peaks)
        return cut_out_joints(images, scene, counts, generator), terms


@settings
class RandomMasks:
    """A random number of keypoints in each image, whatever the teacher finds there.

    So Meng et al. (arXiv 2404.14835) describe the masking that their adaptive number is compared with: from
    0 to 4 keypoints for each person (docs/methods.md 2.3). The release of Xie et al. has this rule too, but
    switched off. Differs from it: distinct real joints.
    """

    name: Literal["random_masks"] = "random_masks"
    min_masks: Annotated[int, Field(ge=0)] = 0
    """Fewest keypoints masked in an image."""
    max_masks: Annotated[int, Field(ge=0)] = 4
    """Most keypoints masked in an image; every number from the fewest to this is equally likely."""

    def __post_init__(self) -> None:
        if self.min_masks > self.max_masks:
            raise ValueError(f"min_masks {self.min_masks} is above max_masks {self.max_masks}")

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask `images` (N, 3, H, W), normalised, in place; the mean number of masks for the report."""
        num_samples, num_joints = scene.peaks.shape
        most = min(self.max_masks, num_joints)
        counts = draw_counts(num_samples, min(self.min_masks, most), most, generator=generator)
        images = cut_out_joints(images, scene, counts, generator)
        return images, {"masks": counts.to(torch.float32).mean()}


@settings
class AdaptiveMasks:
    """More masks where the teacher finds more joints (adaptive keypoint masking, arXiv 2404.14835)."""

    name: Literal["adaptive_masks"] = "adaptive_masks"
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

    def counts(self, peaks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N,) int64 for peaks (N, K); the means of masks, easy joints, hard samples."""
        found = adaptive_mask_counts(
            peaks,
            gamma=self.gamma,
            max_masks=self.max_masks,
            min_masks=self.min_masks,
            min_response=self.min_response,
        )
        terms = {
            "masks": found.counts.to(torch.float32).mean(),
            "easy_joints": found.easy_joints.to(torch.float32).mean(),
            "hard_share": found.hard.to(torch.float32).mean(),
        }
        return found.counts, terms

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask `images` (N, 3, H, W), normalised, in place; the terms of `counts` for the report."""
        counts, terms = self.counts(scene.peaks)
        return cut_out_joints(images, scene, counts, generator), terms


def cut_out_joints(images: Tensor, scene: Scene, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Paint `counts` (N,) random joints of each image with the mean colour, in place; give the images."""
    masks = draw_masks(scene.points_weak, counts, scene.strong_from_weak, scene.view_hw, generator=generator)
    mask_keypoints(images, *masks, images.new_zeros(images.shape[1]))
    return images
