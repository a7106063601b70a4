"""Rectangles at random positions: cutout and CutMix (MultiAugs, 2024; docs/methods.md 2.6)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.pipelines import geometry
from semipose.pipelines.masking.masks import draw_half_sizes, draw_order, mask_keypoints
from semipose.pipelines.strong.patches import Patches, paste
from semipose.pipelines.strong.scene import Scene


@settings
class Cutout:
    """Rectangles in the mean colour at uniformly random positions of the strong view."""

    name: Literal["cutout"] = "cutout"
    count: Annotated[int, Field(ge=0)] = 5
    """Number of rectangles per image."""

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Paint `images` (N, 3, H, W), normalised, in place; no terms for the report."""
        centres_xy, half_sizes = draw_holes(
            self.count, scene.strong_from_weak, scene.view_hw, generator=generator
        )
        counts = torch.full((len(images),), self.count, device=images.device)
        order = torch.arange(self.count, device=images.device).expand(len(images), -1)
        still = geometry.identity(len(images), images.device)
        fill = images.new_zeros(images.shape[1])
        mask_keypoints(images, centres_xy, counts, half_sizes, order, still, fill)
        return images, {}


@settings
class CutMix:
    """Rectangles at uniformly random positions that show the same region of another image of the batch.

    The other images are a random permutation of the batch. The target stays that of the image, as published.
    """

    name: Literal["cutmix"] = "cutmix"
    count: Annotated[int, Field(ge=0)] = 2
    """Number of rectangles per image."""

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Paste into `images` (N, 3, H, W), normalised, in place; no terms for the report."""
        partners = draw_order(1, len(images), generator=generator)[0]
        centres_xy, half_sizes = draw_holes(
            self.count, scene.strong_from_weak, scene.view_hw, generator=generator
        )
        return paste(images, scene.strong, Patches(partners, centres_xy, centres_xy, half_sizes)), {}


def draw_holes(
    count: int, strong_from_weak: Tensor, view_hw: tuple[int, int], *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Centres and half-sizes of `count` holes per sample, both (N, count, 2) float32, strong-view px.

    Differs from MultiAugs: centres are uniform over the pixels of the strong view itself, so that none is
    outside it (there: drawn in the weak view with height and width exchanged, then warped). Half-sides are
    those published for joints (masking/masks.py) and scale with the view, so that they hide as much of the
    body.

    Args:
        count: holes per sample.
        strong_from_weak: (N, 2, 3) matrices.
        view_hw: height and width of the view in px.
        generator: on the device of the matrices.
    """
    height_px, width_px = view_hw
    shape = (len(strong_from_weak), count)
    columns = torch.randint(width_px, shape, generator=generator, device=generator.device)
    rows = torch.randint(height_px, shape, generator=generator, device=generator.device)
    half_weak = draw_half_sizes(*shape, height_px, generator=generator)
    scale = geometry.linear_scale(strong_from_weak)[:, None, None]
    return torch.stack((columns, rows), dim=-1).float(), half_weak * scale
