"""Masking and mixing as a training step does them, and the masking loop of the published systems."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipelines import geometry
from pipelines.masking.counts import adaptive_mask_counts
from pipelines.masking.mask_sampling import HALF_SIDE_PX, JITTER_SD_PX, Masks, draw_masks
from pipelines.masking.op import mask_keypoints
from pipelines.mixing import draw_alpha, draw_partners, mix

STRIDE = 4
SIGMA_CELLS = 2.0


@dataclass(frozen=True)
class Step:
    """What a training step holds when it masks: N people with K keypoints, on one device."""

    images: Tensor
    """(N, 3, H, W) float32, channels-last."""
    heatmaps: Tensor
    """(N, K, h, w) float32: one Gaussian each, peaks between 0 and 1."""
    peaks: Tensor
    """(N, K) float32: their highest values, which a step finds once for all that needs them."""
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


def make_step(num_people: int, num_keypoints: int, size_hw: tuple[int, int], device: torch.device) -> Step:
    """The same random people at every call."""
    drawn = torch.Generator().manual_seed(0)
    height, width = size_hw
    cells = torch.tensor([width // STRIDE, height // STRIDE])
    peaks = (torch.rand(num_people, num_keypoints, 2, generator=drawn) * cells).floor()
    x = torch.arange(width // STRIDE) - peaks[..., :1]
    y = torch.arange(height // STRIDE) - peaks[..., 1:]
    squared = y.square()[..., :, None] + x.square()[..., None, :]
    peaks = torch.rand(num_people, num_keypoints, 1, 1, generator=drawn)
    cosine, sine = 0.94, 0.342
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    centre = torch.tensor([width / 2, height / 2])
    matrix[:, 2] = centre - matrix[:, :2] @ centre
    images = torch.randn(num_people, 3, height, width, generator=drawn)
    return Step(
        images=images.to(device, memory_format=torch.channels_last),
        heatmaps=(peaks * torch.exp(-squared / (2 * SIGMA_CELLS**2))).to(device),
        peaks=peaks[..., 0, 0].to(device),
        points_xy=(peaks * STRIDE).to(device),
        strong_from_weak=matrix.repeat(num_people, 1, 1).to(device),
        fill=torch.zeros(3, device=device),
        generator=torch.Generator(device).manual_seed(0),
    )


def count(step: Step) -> Tensor:
    """How many keypoints of each are masked, from the peaks."""
    return adaptive_mask_counts(step.peaks).counts


def choose(step: Step, counts: Tensor) -> Masks:
    """Which, and with what rectangles."""
    return draw_masks(step.points_xy, counts, step.strong_from_weak, step.view_hw, generator=step.generator)


def mask(step: Step) -> Tensor:
    """Counts, choice and op: all that a step does to mask its strong views, in place."""
    mask_keypoints(step.images, *choose(step, count(step)), step.fill)
    return step.images


def mix_images(step: Step) -> Tensor:
    """Weight, partners and the mixture of images and heatmaps."""
    alpha = draw_alpha(0.75, generator=step.generator)
    partners = draw_partners(len(step.images), generator=step.generator)
    mix(step.heatmaps, alpha, partners)
    return mix(step.images, alpha, partners)


def mask_as_published(step: Step) -> Tensor:
    """As the published systems do it: numbers drawn for the batch, then a loop over people and joints."""
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
    found = []
    for person in peaks:
        best, least = person.max(), person.min()
        if best < min_response:
            found.append(min_masks)
            continue
        easy = int((((best - person) / (best - least)) < gamma).sum())
        found.append(max(min_masks, min(max_masks, int(easy * max_masks / num_keypoints + 0.5))))
    return torch.tensor(found, device=peaks.device)


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


def parts(step: Step) -> dict[str, Callable[[], object]]:
    """Each part of masking and mixing by its row's name."""
    counts = count(step)
    masks = choose(step, counts)
    return {
        "counts": partial(count, step),
        "choice": partial(choose, step, counts),
        "masking op": partial(mask_keypoints, step.images, *masks, step.fill),
        "masking: counts, choice, op": partial(mask, step),
        "masking as published (loops)": partial(mask_as_published, step),
        "mixing": partial(mix_images, step),
    }
