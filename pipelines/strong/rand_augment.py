"""RandAugment without geometry, as the pose papers use it (Xie et al., ICCV 2021; docs/methods.md 2.4).

Each operation is computed for the whole batch and kept for the samples that drew it, so the choice is never
copied to the host.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.pipelines.masking.masks import PUBLISHED_HEIGHT_PX
from semipose.pipelines.strong import levels as ops
from semipose.pipelines.strong.levels import from_levels, to_levels
from semipose.pipelines.strong.scene import Scene

LARGEST_MAGNITUDE = 30
CUTOUT_RGB = (125, 123, 114)
"""The colour of the cutout of RandAugment."""


class OperationParameters(NamedTuple):
    """The parameters of one operation per sample."""

    signs: Tensor
    """(N,) float32, -1 or 1: whether a factor weakens or strengthens."""
    centres_xy: Tensor
    """(N, 2) float32, view px: the centre of a cutout."""


class Operations(NamedTuple):
    """The S operations of each sample, in order."""

    choices: Tensor
    """(N, S) int64: indices into `OPERATIONS`."""
    signs: Tensor
    """(N, S) float32, -1 or 1."""
    centres_xy: Tensor
    """(N, S, 2) float32, view px."""


@settings
class RandAugment:
    """Random operations on the colours of each image.

    Differs from Xie et al.: it changes the strong view, with its border, instead of the weak crop before the
    strong warp.
    """

    name: Literal["rand_augment"] = "rand_augment"
    operations: Annotated[int, Field(ge=0)] = 2
    """Number of operations per image, drawn with replacement."""
    magnitude: Annotated[int, Field(ge=1, le=LARGEST_MAGNITUDE)] = 20
    """Strength of every operation, from 1 to 30."""

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Change `images` (N, 3, H, W), normalised; no terms for the report."""
        drawn = draw_operations(len(images), self.operations, scene.view_hw, generator=generator)
        # the operations are faster on planar memory; `from_levels` restores the layout
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
    """Images (N, 3, H, W) uint8 after their operations, one after another, at `magnitude` of 30."""
    for step in range(drawn.choices.shape[1]):
        parameters = OperationParameters(drawn.signs[:, step], drawn.centres_xy[:, step])
        choices = drawn.choices[:, step, None, None, None]
        before = levels
        for index, operation in enumerate(OPERATIONS):
            levels = torch.where(choices == index, operation(before, parameters, magnitude), levels)
    return levels


def _autocontrast(levels: Tensor, _parameters: OperationParameters, _magnitude: int) -> Tensor:
    return ops.autocontrast(levels)


def _equalize(levels: Tensor, _parameters: OperationParameters, _magnitude: int) -> Tensor:
    return ops.equalize(levels)


def _invert(levels: Tensor, _parameters: OperationParameters, _magnitude: int) -> Tensor:
    return ops.invert(levels)


def _posterize(levels: Tensor, _parameters: OperationParameters, magnitude: int) -> Tensor:
    return ops.posterize(levels, max(2, 6 - 4 * magnitude // LARGEST_MAGNITUDE))


def _solarize(levels: Tensor, _parameters: OperationParameters, magnitude: int) -> Tensor:
    return ops.solarize(levels, 256 * (LARGEST_MAGNITUDE - magnitude) // LARGEST_MAGNITUDE)


def _solarize_add(levels: Tensor, _parameters: OperationParameters, magnitude: int) -> Tensor:
    brighter = (levels.to(torch.int16) + 110 * magnitude // LARGEST_MAGNITUDE).clamp_max(255).to(torch.uint8)
    return ops.solarize(brighter, 128)


def _colour(levels: Tensor, parameters: OperationParameters, magnitude: int) -> Tensor:
    return _enhanced(ops.saturation, levels, parameters, magnitude)


def _contrast(levels: Tensor, parameters: OperationParameters, magnitude: int) -> Tensor:
    return _enhanced(ops.contrast, levels, parameters, magnitude)


def _brightness(levels: Tensor, parameters: OperationParameters, magnitude: int) -> Tensor:
    return _enhanced(ops.brightness, levels, parameters, magnitude)


def _sharpness(levels: Tensor, parameters: OperationParameters, magnitude: int) -> Tensor:
    return _enhanced(ops.sharpness, levels, parameters, magnitude)


def _enhanced(
    operation: Callable[[Tensor, Tensor], Tensor],
    levels: Tensor,
    parameters: OperationParameters,
    magnitude: int,
) -> Tensor:
    # rounded to the nearest level; Pillow truncates, which darkens
    return (
        operation(levels.float(), 1.0 + 0.9 * magnitude / LARGEST_MAGNITUDE * parameters.signs)
        .round()
        .to(torch.uint8)
    )


def _cutout(levels: Tensor, parameters: OperationParameters, magnitude: int) -> Tensor:
    """A square of 80 px times magnitude / 30 in a view 256 px high, cut by the border."""
    height, width = levels.shape[-2:]
    half_px = 40.0 * magnitude / LARGEST_MAGNITUDE * height / PUBLISHED_HEIGHT_PX
    columns, rows = (torch.arange(size, device=levels.device) for size in (width, height))
    in_columns = (columns - parameters.centres_xy[:, :1] >= -half_px) & (
        columns - parameters.centres_xy[:, :1] < half_px
    )
    in_rows = (rows - parameters.centres_xy[:, 1:] >= -half_px) & (
        rows - parameters.centres_xy[:, 1:] < half_px
    )
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
