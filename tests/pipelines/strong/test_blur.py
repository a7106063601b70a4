"""Gaussian blur against torchvision one image at a time, and the distribution of its widths."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from semipose.pipelines.strong import Blur, Scene
from semipose.pipelines.strong.blur import LEAST_SIGMA, blur


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(num_samples: int) -> torch.Tensor:
    images = torch.randn(num_samples, 3, 40, 30, generator=seeded(3))
    return images.contiguous(memory_format=torch.channels_last)


def test_each_image_is_blurred_as_torchvision_does_it() -> None:
    """Away from the border, which torchvision reflects and this repeats."""
    images, sigma = views(5), torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0])
    blurred = blur(images, sigma, reach=6)
    for image, ours, width in zip(images, blurred, sigma.tolist(), strict=True):
        expected = functional.gaussian_blur(image, [13, 13], [width, width])
        torch.testing.assert_close(ours[:, 6:-6, 6:-6], expected[:, 6:-6, 6:-6], atol=2e-6, rtol=1e-5)


def test_a_grey_image_stays_as_it_is_up_to_its_border() -> None:
    grey = torch.full((2, 3, 20, 20), 0.7)
    torch.testing.assert_close(blur(grey, torch.tensor([0.3, 2.0]), reach=6), grey)


def test_images_that_are_not_drawn_stay_equal_to_the_bit() -> None:
    images = views(8)
    augmentation = Blur(probability=0.5)
    sigma = augmentation.draw(8, seeded(1))
    is_sharp = sigma == LEAST_SIGMA
    assert 0 < is_sharp.sum() < 8
    eye = torch.eye(2, 3).expand(8, 2, 3)
    scene = Scene(images, torch.ones(8, 2), torch.zeros(8, 2, 2), eye)
    blurred, terms = augmentation.apply(images.clone(), scene, seeded(1))
    assert terms == {}
    assert torch.equal(blurred[is_sharp], images[is_sharp])
    assert (blurred[~is_sharp] != images[~is_sharp]).flatten(1).any(1).all()
    assert blurred.is_contiguous(memory_format=torch.channels_last)


def test_widths_are_uniform_and_as_many_as_the_probability_says() -> None:
    sigma = Blur(probability=0.3, sigma_min=0.5, sigma_max=1.5).draw(40_000, seeded())
    is_blurred = sigma > LEAST_SIGMA
    assert abs(is_blurred.float().mean() - 0.3) < 5 * (0.3 * 0.7 / 40_000) ** 0.5
    drawn = sigma[is_blurred]
    assert 0.5 <= drawn.min() < 0.51 < 1.49 < drawn.max() <= 1.5
    assert drawn.var() == pytest.approx(1 / 12, rel=0.05)


def test_a_smallest_width_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma_min 3\.0 must not be above sigma_max 2\.0"):
        Blur(sigma_min=3.0)
