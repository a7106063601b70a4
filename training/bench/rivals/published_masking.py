"""The masking loop of the published systems (docs/methods.md 2.3, 11): a batch's numbers, joint by joint."""

import torch
from torch import Tensor

from semipose.pipelines import geometry
from semipose.pipelines.masking.masks import HALF_SIDE_PX, JITTER_SD_PX
from semipose.training.bench.masking import MaskingStep


def mask_as_published(step: MaskingStep) -> Tensor:
    """Draw numbers for the whole batch, then loop over people and joints; paints `step.images` in place."""
    counts = count_in_a_loop(step.peaks)
    num_people, num_keypoints = step.points_xy.shape[:2]
    device = step.images.device
    low, high = HALF_SIDE_PX
    shape = (num_people, num_keypoints, 2)
    jitter = (JITTER_SD_PX * torch.randn(shape, generator=step.generator, device=device)).int()
    half_sizes = torch.randint(low, high + 1, shape, generator=step.generator, device=device)
    centres = geometry.apply(step.strong_from_weak, step.points_xy + jitter)
    order = torch.rand(num_people, num_keypoints, generator=step.generator, device=device).argsort(dim=1)
    paint_in_a_loop(step.images, centres, counts, half_sizes, order)
    return step.images


def count_in_a_loop(
    peaks: Tensor,
    *,
    gamma: float = 0.55,
    max_masks: int = 8,
    min_masks: int = 2,
    min_response: float = 0.05,
) -> Tensor:
    """(N,) int64: the adaptive rule, one person after the other."""
    num_keypoints = peaks.shape[1]
    counts = []
    for person in peaks:
        best, least = person.max(), person.min()
        if best < min_response:
            counts.append(min_masks)
            continue
        easy = int((((best - person) / (best - least)) < gamma).sum())
        counts.append(max(min_masks, min(max_masks, int(easy * max_masks / num_keypoints + 0.5))))
    return torch.tensor(counts, device=peaks.device)


def paint_in_a_loop(
    images: Tensor, centres_xy: Tensor, counts: Tensor, half_sizes: Tensor, order: Tensor
) -> None:
    """Paint as `mask_keypoints` does, by a slice for each joint whose bounds are scalars on the device."""
    height, width = images.shape[2:]
    limits = torch.tensor([width, height], device=images.device)
    firsts = (centres_xy - half_sizes).ceil().clamp_min(0).minimum(limits).int()
    ends = (centres_xy + half_sizes).ceil().clamp_min(0).minimum(limits).int()
    for person in range(len(images)):
        for joint in order[person, : counts[person]]:
            left, top = firsts[person, joint]
            right, bottom = ends[person, joint]
            images[person, :, top:bottom, left:right] = 0
