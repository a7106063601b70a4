"""RandAugment without geometry, as the pose papers use it (Xie et al., ICCV 2021; docs/methods.md 2.4).

Batched: each operation is computed for the whole batch and kept where a sample drew it, so the choice never
reaches the host.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from configs.settings import settings
from pipelines.masking.mask_sampling import PUBLISHED_HEIGHT_PX
from pipelines.strong import levels as ops
from pipelines.strong.levels import from_levels, to_levels
from pipelines.strong.scene import Scene

LARGEST_MAGNITUDE = 30
CUTOUT_RGB = (125, 123, 114)
"""Colour of RandAugment's own cutout."""


class Turn(NamedTuple):
    """The parameters of one of a sample's operations."""

    signs: Tensor
    """(N,) float32, -1 or 1: less or more of what has a factor."""
    centres_xy: Tensor
    """(N, 2) float32, view px: where a cutout is laid."""


class Operations(NamedTuple):
    """The operations of each sample, in order: S turns."""

    choices: Tensor
    """(N, S) int64: places in `OPERATIONS`."""
    signs: Tensor
    """(N, S) float32, -1 or 1."""
    centres_xy: Tensor
    """(N, S, 2) float32, view px."""


@settings
class RandAugment:
    """A few random operations on the colours of each image.

    Differs from Xie et al.: it changes the strong view, border included, instead of the weak crop before
    the strong warp.
    """

    name: Literal["rand_augment"] = "rand_augment"
    operations: Annotated[int, Field(ge=0)] = 2
    """Operations on each image, drawn with replacement."""
    magnitude: Annotated[int, Field(ge=1, le=LARGEST_MAGNITUDE)] = 20
    """Strength of every operation, of 30."""

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Change `images` (N, 3, H, W), normalised; nothing for the report."""
        drawn = draw_operations(len(images), self.operations, scene.view_hw, generator=generator)
        # channel by channel in memory, where the operations are faster; `from_levels` gives the layout back
        before = to_levels(images).round().to(torch.uint8).contiguous()
        changed = apply_operations(before, drawn, self.magnitude)
        return from_levels(changed, images), {}


def draw_operations(
    num_samples: int, num_operations: int, view_hw: tuple[int, int], *, generator: torch.Generator
) -> Operations:
    """Uniform operations with replacement, fair signs, cutout centres uniform over the view's pixels."""
    shape, device = (num_samples, num_operations), generator.device
    choices = torch.randint(len(OPERATIONS), shape, generator=generator, device=device)
    signs = torch.randint(2, shape, generator=generator, device=device).float() * 2.0 - 1.0
    columns = torch.randint(view_hw[1], shape, generator=generator, device=device)
    rows = torch.randint(view_hw[0], shape, generator=generator, device=device)
    return Operations(choices, signs, torch.stack((columns, rows), dim=-1).float())


def apply_operations(levels: Tensor, drawn: Operations, magnitude: int) -> Tensor:
    """Images (N, 3, H, W) uint8 after their operations, in turn, at `magnitude` of 30."""
    for place in range(drawn.choices.shape[1]):
        turn = Turn(drawn.signs[:, place], drawn.centres_xy[:, place])
        choices = drawn.choices[:, place, None, None, None]
        before = levels
        for index, operation in enumerate(OPERATIONS):
            levels = torch.where(choices == index, operation(before, turn, magnitude), levels)
    return levels


def _autocontrast(levels: Tensor, _turn: Turn, _magnitude: int) -> Tensor:
    return ops.autocontrast(levels)


def _equalize(levels: Tensor, _turn: Turn, _magnitude: int) -> Tensor:
    return ops.equalize(levels)


def _invert(levels: Tensor, _turn: Turn, _magnitude: int) -> Tensor:
    return ops.invert(levels)


def _posterize(levels: Tensor, _turn: Turn, magnitude: int) -> Tensor:
    return ops.posterize(levels, max(2, 6 - 4 * magnitude // LARGEST_MAGNITUDE))


def _solarize(levels: Tensor, _turn: Turn, magnitude: int) -> Tensor:
    return ops.solarize(levels, 256 * (LARGEST_MAGNITUDE - magnitude) // LARGEST_MAGNITUDE)


def _solarize_add(levels: Tensor, _turn: Turn, magnitude: int) -> Tensor:
    brighter = (levels.to(torch.int16) + 110 * magnitude // LARGEST_MAGNITUDE).clamp_max(255).to(torch.uint8)
    return ops.solarize(brighter, 128)


def _colour(levels: Tensor, turn: Turn, magnitude: int) -> Tensor:
    return _enhanced(ops.saturation, levels, turn, magnitude)


def _contrast(levels: Tensor, turn: Turn, magnitude: int) -> Tensor:
    return _enhanced(ops.contrast, levels, turn, magnitude)


def _brightness(levels: Tensor, turn: Turn, magnitude: int) -> Tensor:
    return _enhanced(ops.brightness, levels, turn, magnitude)


def _sharpness(levels: Tensor, turn: Turn, magnitude: int) -> Tensor:
    return _enhanced(ops.sharpness, levels, turn, magnitude)


def _enhanced(
    operation: Callable[[Tensor, Tensor], Tensor], levels: Tensor, turn: Turn, magnitude: int
) -> Tensor:
    # to the nearest level; Pillow cuts, which darkens
    return (
        operation(levels.float(), 1.0 + 0.9 * magnitude / LARGEST_MAGNITUDE * turn.signs)
        .round()
        .to(torch.uint8)
    )


def _cutout(levels: Tensor, turn: Turn, magnitude: int) -> Tensor:
    """A square of 80 px times magnitude / 30 in a view 256 px high, cut by the border."""
    height, width = levels.shape[-2:]
    half_px = 40.0 * magnitude / LARGEST_MAGNITUDE * height / PUBLISHED_HEIGHT_PX
    columns, rows = (torch.arange(size, device=levels.device) for size in (width, height))
    in_columns = (columns - turn.centres_xy[:, :1] >= -half_px) & (columns - turn.centres_xy[:, :1] < half_px)
    in_rows = (rows - turn.centres_xy[:, 1:] >= -half_px) & (rows - turn.centres_xy[:, 1:] < half_px)
    is_inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    colours = torch.cat([levels.new_full((1, 1, 1, 1), value) for value in CUTOUT_RGB], dim=1)
    return torch.where(is_inside, colours, levels)


OPERATIONS = (
    _autocontrast,
    _equalize,
    _invert,
    _posterize,
    _solarize,
    _solarize_add,
    _colour,
    _contrast,
    _brightness,
    _sharpness,
    _cutout,
)
