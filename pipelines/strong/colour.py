"""Colour jitter: random factors change the brightness, contrast and saturation of each image."""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.pipelines.strong import levels
from semipose.pipelines.strong.scene import Scene

Reach = Annotated[float, Field(ge=0, le=1)]


class ColourFactors(NamedTuple):
    """One factor per sample for each change, in the order of their application; (N,) float32."""

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


@settings
class Colour:
    """Random brightness, contrast and saturation for each image; the defaults are those of SimCLR."""

    name: Literal["colour"] = "colour"
    brightness: Reach = 0.4
    """Brightness is multiplied by a factor that is uniform in 1 plus or minus this."""
    contrast: Reach = 0.4
    """Contrast is multiplied by a factor that is uniform in 1 plus or minus this."""
    saturation: Reach = 0.4
    """Saturation is multiplied by a factor that is uniform in 1 plus or minus this."""
    grey_probability: Reach = 0.2
    """Share of the images that become grey."""

    def apply(
        self,
        images: Tensor,
        scene: Scene,  # noqa: ARG002
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Change the colours of `images` (N, 3, H, W), normalised; no terms for the report."""
        return jitter_colours(images, self.draw(len(images), generator)), {}

    def draw(self, num_samples: int, generator: torch.Generator) -> ColourFactors:
        """The factors, on the generator's device; a grey image has saturation 0."""
        uniform = torch.rand(4, num_samples, generator=generator, device=generator.device)
        brightness, contrast, saturation = (
            1.0 + reach * (2.0 * share - 1.0)
            for reach, share in zip(
                (self.brightness, self.contrast, self.saturation), uniform.unbind(), strict=False
            )
        )
        is_grey = uniform[3] < self.grey_probability
        return ColourFactors(brightness, contrast, saturation.masked_fill(is_grey, 0.0))


def jitter_colours(images: Tensor, factors: ColourFactors) -> Tensor:
    """Normalised images (N, 3, H, W) with brightness, then contrast, then saturation changed."""
    changed = levels.brightness(levels.to_levels(images), factors.brightness)
    changed = levels.contrast(changed, factors.contrast)
    changed = levels.saturation(changed, factors.saturation)
    return levels.from_levels(changed, images)
