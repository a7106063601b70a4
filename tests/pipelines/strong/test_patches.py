"""`paste` against a plain loop over pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from semipose.pipelines.strong.patches import Patches, paste

LAYOUTS = [torch.contiguous_format, torch.channels_last]
WILD = [float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 3e9, -3e9]


def plain_paste(images: Tensor, strong: Tensor, patches: Patches) -> Tensor:
    """The definition, pixel by pixel, in numpy."""
    pasted, source = images.float().numpy().copy(), strong.float().numpy()
    num_samples, _, height, width = images.shape
    sources, *rest = (each.numpy() for each in patches)
    for n in range(num_samples):
        for centre, origin, half in zip(*(each[n] for each in rest), strict=True):
            if not np.isfinite([*centre, *origin]).all():
                continue
            way = [round(float(each)) for each in origin - centre]
            low, high = centre - half, centre + half
            for row in range(height):
                for column in range(width):
                    is_covered = low[0] <= column < high[0] and low[1] <= row < high[1]
                    if is_covered and 0 <= column + way[0] < width and 0 <= row + way[1] < height:
                        pasted[n, :, row, column] = source[sources[n], :, row + way[1], column + way[0]]
    return torch.from_numpy(pasted).to(images.dtype)


def make_case(
    num_samples: int = 4, num_patches: int = 3, size_hw: tuple[int, int] = (20, 14), *, seed: int = 0
) -> tuple[Tensor, Tensor, Patches]:
    """Images, other strong views, and patches of which some lie outside and some half outside."""
    draws = torch.Generator().manual_seed(seed)
    images, strong = torch.randn(2, num_samples, 3, *size_hw, generator=draws)
    size_wh = torch.tensor([size_hw[1], size_hw[0]])
    centres, origins = (torch.rand(2, num_samples, num_patches, 2, generator=draws) * 1.4 - 0.2) * size_wh
    half_sizes = torch.rand(num_samples, num_patches, 2, generator=draws) * 6
    sources = torch.randint(num_samples, (num_samples,), generator=draws)
    return images, strong, Patches(sources, centres, origins, half_sizes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_paste_equals_plain_loop(dtype: torch.dtype, layout: torch.memory_format) -> None:
    images, strong, patches = make_case()
    images, strong = (each.to(dtype).contiguous(memory_format=layout) for each in (images, strong))
    expected, clean = plain_paste(images, strong, patches), strong.clone()
    assert not torch.equal(expected, images)
    pasted = paste(images, strong, patches)
    assert torch.equal(pasted, expected)
    assert pasted is images
    assert pasted.is_contiguous(memory_format=layout)
    assert torch.equal(strong, clean)


@pytest.mark.parametrize(("num_samples", "num_patches"), [(1, 1), (1, 3), (2, 0)])
def test_small_batches_equal_the_plain_loop(num_samples: int, num_patches: int) -> None:
    images, strong, patches = make_case(num_samples, num_patches, seed=3)
    expected = plain_paste(images, strong, patches)
    assert torch.equal(paste(images, strong, patches), expected)


# (centre, origin) of a patch with half-sizes (3, 2) in a view 14 wide, 20 high: columns and rows it covers
BORDERS = {
    "inside": ((7.0, 10.0), (5.0, 12.0), (slice(4, 10), slice(8, 12))),
    "target-left": ((1.0, 10.0), (7.0, 10.0), (slice(0, 4), slice(8, 12))),
    "target-bottom": ((7.0, 19.0), (7.0, 10.0), (slice(4, 10), slice(17, 20))),
    "source-left": ((7.0, 10.0), (1.0, 10.0), (slice(6, 10), slice(8, 12))),
    "source-right": ((7.0, 10.0), (12.0, 10.0), (slice(4, 9), slice(8, 12))),
    "source-top": ((7.0, 10.0), (7.0, 0.0), (slice(4, 10), slice(10, 12))),
    "source-bottom": ((7.0, 10.0), (7.0, 19.0), (slice(4, 10), slice(8, 11))),
    "both": ((1.0, 10.0), (12.0, 10.0), (slice(0, 3), slice(8, 12))),
    "source-outside": ((7.0, 10.0), (7.0, 40.0), (slice(0, 0), slice(0, 0))),
}


@pytest.mark.parametrize("border", BORDERS)
def test_patch_is_cut_to_what_lies_in_both_views(border: str) -> None:
    centre, origin, (columns, rows) = BORDERS[border]
    images, strong = torch.zeros(1, 3, 20, 14), torch.ones(1, 3, 20, 14)
    expected = images.clone()
    expected[:, :, rows, columns] = 1
    centres, origins, half_sizes = (torch.tensor([[each]]) for each in (centre, origin, (3.0, 2.0)))
    patches = Patches(torch.tensor([0]), centres, origins, half_sizes)
    assert torch.equal(paste(images, strong, patches), expected)


@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", ["centres_xy", "origins_xy"])
def test_wild_points_paste_nothing(wild: float, axis: int, end: str) -> None:
    images, strong, patches = make_case()
    before = images.clone()
    getattr(patches, end)[..., axis] = wild
    assert torch.equal(paste(images, strong, patches), before)


@pytest.mark.parametrize("wild", WILD)
def test_points_that_are_wild_alike_paste_nothing(wild: float) -> None:
    images, strong, patches = make_case()
    before = images.clone()
    patches.centres_xy[..., 0] = patches.origins_xy[..., 0] = wild
    assert torch.equal(paste(images, strong, patches), before)


def test_later_patch_covers_an_earlier_one_and_shows_clean_pixels() -> None:
    images, strong = torch.zeros(1, 1, 20, 14), torch.arange(20.0)[:, None].expand(1, 1, 20, 14).clone()
    centres, half_sizes = torch.tensor([[[7.0, 5.0], [7.0, 7.0]]]), torch.full((1, 2, 2), 2.0)
    origins = centres + torch.tensor([0.0, 8.0])
    paste(images, strong, Patches(torch.tensor([0]), centres, origins, half_sizes))
    # rows 3..6 from 11..14, then 5..8 from 13..16: not from the row 13 that was pasted into row 5
    assert images[0, 0, :, 7].tolist() == [0, 0, 0, 11, 12, 13, 14, 15, 16, *[0] * 11]


def test_paste_compiles_into_one_graph() -> None:
    images, strong, patches = make_case()
    expected = plain_paste(images, strong, patches)
    torch._dynamo.reset()
    compiled = torch.compile(paste, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images, strong, patches), expected)
