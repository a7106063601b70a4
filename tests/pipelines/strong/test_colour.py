"""Colour jitter against torchvision one image at a time, and the distribution of its factors."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional

from semipose.pipelines.strong import Colour
from semipose.pipelines.strong.colour import ColourFactors, jitter_colours
from semipose.pipelines.strong.levels import from_levels, to_levels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(num_samples: int) -> torch.Tensor:
    levels = torch.rand(num_samples, 3, 20, 15, generator=seeded(3)) * 255
    return from_levels(levels * torch.linspace(0.3, 1, num_samples)[:, None, None, None], levels)


def test_each_image_is_jittered_as_torchvision_does_it() -> None:
    images, factors = views(8), Colour(grey_probability=0.3).draw(8, seeded(1))
    assert (factors.saturation == 0).any()
    ours = to_levels(jitter_colours(images, factors)) / 255
    for image, jittered, *own in zip(to_levels(images) / 255, ours, *factors, strict=True):
        brightness, contrast, saturation = (each.item() for each in own)
        expected = functional.adjust_brightness(image, brightness)
        expected = functional.adjust_contrast(expected, contrast)
        expected = functional.adjust_saturation(expected, saturation)
        torch.testing.assert_close(jittered, expected, atol=1 / 255, rtol=0)


def test_factors_are_uniform_within_their_reach() -> None:
    factors = Colour(brightness=0.4, contrast=0.2, saturation=0.6, grey_probability=0.25).draw(
        40_000, seeded()
    )
    is_grey = factors.saturation == 0
    assert abs(is_grey.float().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 40_000)
    coloured = factors.saturation[~is_grey]
    for values, reach in ((factors.brightness, 0.4), (factors.contrast, 0.2), (coloured, 0.6)):
        assert 1 - reach <= values.min() < 1 - 0.99 * reach
        assert 1 + 0.99 * reach < values.max() <= 1 + reach + 1e-6
        assert abs(values.mean() - 1) < 5 * reach / math.sqrt(3 * len(values))
        assert values.var() == pytest.approx(reach**2 / 3, rel=0.03)
    correlation = torch.corrcoef(torch.stack([*factors]))
    assert (correlation - torch.eye(3)).abs().max() < 0.03


def test_no_reach_changes_nothing() -> None:
    factors = Colour(brightness=0, contrast=0, saturation=0, grey_probability=0).draw(4, seeded())
    images = views(4)
    torch.testing.assert_close(jitter_colours(images, factors), images, atol=1e-5, rtol=0)


def test_jitter_compiles_into_one_graph() -> None:
    images, factors = views(3), Colour().draw(3, seeded())
    torch._dynamo.reset()
    compiled = torch.compile(jitter_colours, fullgraph=True, backend="aot_eager")
    plain = jitter_colours(images, ColourFactors(*factors))
    torch.testing.assert_close(compiled(images, factors), plain, atol=1e-6, rtol=0)
