"""Grey levels and back, and the operations with a factor, against Pillow one image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from semipose.pipelines.strong import levels
from semipose.pipelines.views import MEAN_RGB, STD_RGB

ENHANCERS = {
    levels.brightness: ImageEnhance.Brightness,
    levels.contrast: ImageEnhance.Contrast,
    levels.saturation: ImageEnhance.Color,
    levels.sharpness: ImageEnhance.Sharpness,
}


def photos(num_samples: int = 5, size_hw: tuple[int, int] = (24, 17), seed: int = 0) -> Tensor:
    """(N, 3, H, W) uint8: noise of different brightness in each image, the last of one colour."""
    draws = torch.Generator().manual_seed(seed)
    noise = torch.rand(num_samples, 3, *size_hw, generator=draws)
    images = (noise * torch.linspace(60, 255, num_samples)[:, None, None, None]).to(torch.uint8)
    images[-1] = torch.tensor([40, 90, 201], dtype=torch.uint8)[:, None, None]
    return images


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "off_by"), [(torch.float32, 0), (torch.float16, 0), (torch.bfloat16, 1)])
def test_levels_survive_the_way_there_and_back(
    dtype: torch.dtype, layout: torch.memory_format, off_by: int
) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    like = torch.empty(2, 3, 16, 16, dtype=dtype).contiguous(memory_format=layout)
    images = levels.from_levels(ramp, like)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=layout)
    assert (levels.to_levels(images).round() - ramp).abs().max() <= off_by


def test_normalised_images_are_the_views() -> None:
    white = levels.from_levels(torch.full((1, 3, 4, 4), 255.0), torch.empty(1, 3, 4, 4))
    expected = [(1 - mean) / deviation for mean, deviation in zip(MEAN_RGB, STD_RGB, strict=True)]
    assert white[0, :, 0, 0].tolist() == pytest.approx(expected)
    assert (levels.to_levels(white * 9) == 255).all()  # nothing beyond white
    assert (levels.to_levels(white * -9) == 0).all()


@pytest.mark.parametrize("operation", ENHANCERS, ids=lambda each: each.__name__)
def test_each_image_gets_its_own_factor_as_in_pillow(operation) -> None:
    images, factors = photos(), torch.tensor([0.1, 0.4, 1.0, 1.6, 1.9])
    ours = operation(images.float(), factors)
    for image, factor, found in zip(images, factors.tolist(), ours, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(ENHANCERS[operation](picture).enhance(factor)).astype(float)
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 1.5  # Pillow's are integers
    assert torch.equal(ours[2].round(), images[2].float())


def test_no_saturation_is_grey() -> None:
    grey = levels.saturation(photos().float(), torch.zeros(5))
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(grey[:, :1], levels.grey(photos().float()))
