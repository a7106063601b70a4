"""Gaussian blur: a random share of the images, each with a random width (SimCLR; Unbiased Teacher)."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.pipelines.strong.scene import Scene

LEAST_SIGMA = 1e-3
"""A Gaussian of this width is 1 at its centre and exactly 0 a pixel away: it leaves an image as it is."""


@settings
class Blur:
    """Gaussian blur with a random width; the defaults are those of Unbiased Teacher (ICLR 2021)."""

    name: Literal["blur"] = "blur"
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the images that are blurred."""
    sigma_min: Annotated[float, Field(gt=0)] = 0.1
    """Smallest standard deviation of the Gaussian in pixels; uniformly random up to `sigma_max`."""
    sigma_max: Annotated[float, Field(gt=0, le=32)] = 2.0
    """Largest standard deviation."""

    def __post_init__(self) -> None:
        if self.sigma_min > self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must not be above sigma_max {self.sigma_max}")

    def apply(
        self,
        images: Tensor,
        scene: Scene,  # noqa: ARG002
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Blur `images` (N, 3, H, W), normalised; no terms for the report."""
        return blur(images, self.draw(len(images), generator), reach=self.reach), {}

    @property
    def reach(self) -> int:
        """How many pixels the widest Gaussian reaches to each side."""
        return math.ceil(3 * self.sigma_max)

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """The standard deviations (N,) in pixels, on the generator's device; LEAST_SIGMA for no blur."""
        uniform = torch.rand(2, num_samples, generator=generator, device=generator.device)
        sigma = self.sigma_min + (self.sigma_max - self.sigma_min) * uniform[0]
        return sigma.masked_fill(uniform[1] >= self.probability, LEAST_SIGMA)


def blur(images: Tensor, sigma: Tensor, *, reach: int) -> Tensor:
    """Blur each of images (N, 3, H, W) with its own sigma (N,) in pixels; the edge is repeated outside.

    reach: pixels of the Gaussians to each side, beyond which they are cut off.
    """
    num_samples, channels = images.shape[:2]
    away = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    weights = torch.exp(-(away**2) / (2 * sigma[:, None] ** 2))
    weights = weights / weights.sum(-1, keepdim=True)
    rows = weights.repeat_interleave(channels, 0)[:, None, None]
    # One group per plane: each is convolved with the Gaussian of its own image, along rows, then columns.
    planes = images.float().reshape(1, num_samples * channels, *images.shape[2:])
    planes = F.pad(planes, [reach] * 4, "replicate")
    with torch.autocast(images.device.type, enabled=False):
        planes = F.conv2d(planes, rows, groups=len(rows))
        planes = F.conv2d(planes, rows.transpose(-1, -2), groups=len(rows))
    return torch.empty_like(images).copy_(planes.view_as(images))
