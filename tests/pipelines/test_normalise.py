"""Grey levels to normalised values: each of the 256 levels of each colour, in any place of a batch."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from pipelines.normalise import normalise
from pipelines.views import MEAN_RGB, STD_RGB


@pytest.mark.parametrize("shape", [(2, 256, 192, 3), (1, 4, 4, 3), (5, 64, 48, 3)])
def test_equals_torchvision(shape: tuple[int, ...]) -> None:
    levels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    channels_first = levels.permute(0, 3, 1, 2).to(torch.float64) / 255
    expected = functional.normalize(channels_first, list(MEAN_RGB), list(STD_RGB)).permute(0, 2, 3, 1)
    found = normalise(levels)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    # half a unit in the last place of 2.6
    torch.testing.assert_close(found.double(), expected, atol=3e-7, rtol=0)


def test_every_level_of_every_colour_and_no_tie_to_the_input() -> None:
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 2, 3).contiguous()
    found = normalise(levels)
    before = found.clone()
    levels.zero_()
    assert torch.equal(found, before)
    assert len(found[0, :, 0, 0].unique()) == 256
    assert torch.equal(found.amax((0, 1, 2)) > 2.2, torch.tensor([True, True, True]))
