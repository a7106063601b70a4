"""A network that treats left and right alike answers a mirror image with mirrored maps, for every family.

The network here is a formula: what the pixels at a cell say, and how they rise to the right, which changes
its sign in a mirror image. So the images are mirrored and not the maps, and a codec's verbs must undo that.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from semipose.models.codecs.ae import AECodec, AEMaps, AESettings
from semipose.models.codecs.cid import CIDCodec, CIDMaps, CIDSettings, InstanceMaps
from semipose.models.codecs.dekr import DEKRCodec, DEKRMaps, DEKRSettings
from semipose.models.codecs.instances import InstanceCodec
from tests.models.codecs.scenes import SKELETONS, STRIDE

K = 4  # one pair, 1 and 2
SIDE_HW = (64, 96)
SIGN = torch.tensor([0.0, 1.0, -1.0, 0.0])[:, None, None]
"""How the channels of the keypoints feel a rise to the right: left and right in opposite ways."""
CODECS: dict[str, InstanceCodec] = {
    "ae": AECodec(AESettings(), SKELETONS[K]),
    "higher": AECodec(AESettings(), SKELETONS[K]),
    "dekr": DEKRCodec(DEKRSettings(), SKELETONS[K]),
    "cid": CIDCodec(CIDSettings(), SKELETONS[K]),
}


def seen(images: Tensor, first: int, step: int) -> tuple[Tensor, Tensor]:
    """Value and rise to the right, (N, 1, h, w), of the green pixels at `first` and every `step` px on."""
    green = torch.nn.functional.pad(images[:, 1:2], (2, 2, 2, 2), mode="replicate")
    rows = slice(2 + first, 2 + first + images.shape[-2], step)
    at, before, after = (
        green[..., rows, 2 + first + shift : 2 + first + shift + images.shape[-1] : step]
        for shift in (0, -1, 1)
    )
    return at, after - before


def answer(family: str, images: Tensor) -> Any:
    value, rise = seen(images, 0, STRIDE)
    heatmaps = value + SIGN * rise
    if family in ("ae", "higher"):
        fine = None
        if family == "higher":  # cell j at 2 j - 1
            at, right = seen(images, -1, STRIDE // 2)
            fine = at - 2 * SIGN * right
        return AEMaps(heatmaps, (value**2 - SIGN * rise)[:, :, None], fine)
    with_centre = torch.cat((heatmaps, value**2), dim=1)
    if family == "dekr":
        x, y = rise + SIGN * value, value - SIGN * rise  # x of the left one becomes -x of the right one
        return DEKRMaps(with_centre, torch.stack((x, y), dim=2).flatten(1, 2))

    def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
        column, row = cells.unbind(-1)
        asked = with_centre[photos, :, row, column]
        to_the_right = torch.arange(heatmaps.shape[-1]) - column[:, None]
        away = torch.exp(-(to_the_right**2) / 50.0)[:, None, None]
        side = SIGN * to_the_right[:, None, None]
        return InstanceMaps(
            heatmaps[photos] * away + 0.01 * side + asked[:, -1, None, None, None], asked[:, [0, 3, 4]]
        )

    return CIDMaps(with_centre, read)


@pytest.mark.parametrize("family", CODECS)
def test_a_mirror_image_is_answered_with_the_mirrored_maps(family: str) -> None:
    """To the bit."""
    codec = CODECS[family]
    images = torch.randn(2, 3, *SIDE_HW, generator=torch.Generator().manual_seed(0))
    images[..., -STRIDE:] = 0.5  # a mirror image does not show what is beyond the last cell
    maps, back = answer(family, images), codec.mirror(answer(family, codec.mirror_images(images)))
    for one, other in zip(maps, back, strict=True):
        if isinstance(one, Tensor):
            assert torch.equal(one, other)
    if isinstance(maps, CIDMaps):
        photos, cells = torch.tensor([0, 1, 1]), torch.tensor([[3, 4], [0, 0], [23, 15]])
        for one, other in zip(maps.read(photos, cells), back.read(photos, cells), strict=True):
            assert torch.equal(one, other)
