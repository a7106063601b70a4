"""Masking and mixing of one batch, as a training step does them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from semipose.pipelines.masking.masks import Masks, draw_masks, draw_order, mask_keypoints
from semipose.pipelines.strong.joint_cutout import adaptive_mask_counts
from semipose.training.methods.mixup import draw_alpha, mix

STRIDE = 4
SIGMA_HM = 2.0


@dataclass(frozen=True)
class MaskingStep:
    """What a training step holds when it masks: N people with K keypoints, on one device."""

    images: Tensor
    """(N, 3, H, W) float32, channels-last."""
    heatmaps: Tensor
    """(N, K, h, w) float32: one Gaussian each, peaks between 0 and 1."""
    peaks: Tensor
    """(N, K) float32: the heights of their peaks, which a step finds once for all that needs them."""
    points_xy: Tensor
    """(N, K, 2) float32 view px: the peaks."""
    strong_from_weak: Tensor
    """(N, 2, 3): turned by 20 degrees about the centre."""
    fill: Tensor
    generator: torch.Generator

    @property
    def view_hw(self) -> tuple[int, int]:
        """Height and width of the views in px."""
        return self.images.shape[2], self.images.shape[3]


def make_step(
    num_people: int, num_keypoints: int, size_hw: tuple[int, int], device: torch.device
) -> MaskingStep:
    """The same random people at every call."""
    drawn = torch.Generator().manual_seed(0)
    height, width = size_hw
    size_hm = torch.tensor([width // STRIDE, height // STRIDE])
    points_hm = (torch.rand(num_people, num_keypoints, 2, generator=drawn) * size_hm).floor()
    x = torch.arange(width // STRIDE) - points_hm[..., :1]
    y = torch.arange(height // STRIDE) - points_hm[..., 1:]
    squared = y.square()[..., :, None] + x.square()[..., None, :]
    peaks = torch.rand(num_people, num_keypoints, 1, 1, generator=drawn)
    cosine, sine = 0.94, 0.342
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    centre = torch.tensor([width / 2, height / 2])
    matrix[:, 2] = centre - matrix[:, :2] @ centre
    images = torch.randn(num_people, 3, height, width, generator=drawn)
    return MaskingStep(
        images=images.to(device, memory_format=torch.channels_last),
        heatmaps=(peaks * torch.exp(-squared / (2 * SIGMA_HM**2))).to(device),
        peaks=peaks[..., 0, 0].to(device),
        points_xy=(points_hm * STRIDE).to(device),
        strong_from_weak=matrix.repeat(num_people, 1, 1).to(device),
        fill=torch.zeros(3, device=device),
        generator=torch.Generator(device).manual_seed(0),
    )


def count(step: MaskingStep) -> Tensor:
    """How many keypoints of each are masked, from the peaks."""
    return adaptive_mask_counts(step.peaks, torch.ones_like(step.peaks, dtype=torch.bool)).counts


def choose(step: MaskingStep, counts: Tensor) -> Masks:
    """Which, and with what rectangles."""
    return draw_masks(step.points_xy, counts, step.strong_from_weak, step.view_hw, generator=step.generator)


def mask(step: MaskingStep) -> Tensor:
    """Counts, choice and op: all that a step does to mask its strong views, in place."""
    mask_keypoints(step.images, *choose(step, count(step)), step.fill)
    return step.images


def mix_images(step: MaskingStep) -> Tensor:
    """Weight, partners and the mixture of images and heatmaps."""
    alpha = draw_alpha(0.75, generator=step.generator)
    partners = draw_order(1, len(step.images), generator=step.generator)[0]
    mix(step.heatmaps, alpha, partners)
    return mix(step.images, alpha, partners)


def parts(step: MaskingStep) -> dict[str, Callable[[], object]]:
    """Each part of masking by its row's name."""
    counts = count(step)
    masks = choose(step, counts)
    return {
        "counts": partial(count, step),
        "choice": partial(choose, step, counts),
        "masking op": partial(mask_keypoints, step.images, *masks, step.fill),
        "masking: counts, choice, op": partial(mask, step),
    }
