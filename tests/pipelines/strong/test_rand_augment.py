"""RandAugment's operations against Pillow one image at a time, and the distribution of its operations."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from semipose.pipelines.strong import RandAugment, Scene
from semipose.pipelines.strong.levels import from_levels
from semipose.pipelines.strong.rand_augment import OPERATIONS, Operations, apply_operations, draw_operations

NAMES = [operation.__name__.removeprefix("_") for operation in OPERATIONS]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(size_hw: tuple[int, int] = (32, 24)) -> Tensor:
    """(6, 3, H, W) uint8: noise within different bounds, a ramp, and one colour."""
    noise = torch.rand(6, 3, *size_hw, generator=seeded())
    low, high = torch.tensor([0, 60, 0, 100, 0, 0.0]), torch.tensor([256, 200, 90, 130, 256, 256.0])
    images = (low[:, None, None, None] + noise * (high - low)[:, None, None, None]).to(torch.uint8)
    images[4] = torch.linspace(3, 250, size_hw[0] * size_hw[1]).view(size_hw).to(torch.uint8)
    images[5] = torch.tensor([40, 90, 201], dtype=torch.uint8)[:, None, None]
    return images


def solarize_add(picture: Image.Image, addition: int) -> Image.Image:
    brighter = np.clip(np.asarray(picture).astype(int) + addition, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


def cutout(picture: Image.Image, centre_xy: tuple[float, float], side_px: float) -> Image.Image:
    pixels = np.asarray(picture).copy()
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            way = (column - centre_xy[0], row - centre_xy[1])
            if all(-side_px / 2 <= each < side_px / 2 for each in way):
                pixels[row, column] = (125, 123, 114)
    return Image.fromarray(pixels)


def plain(name: str, picture: Image.Image, magnitude: int, sign: float, centre_xy) -> Image.Image:
    """docs/methods.md 2.4, in Pillow."""
    q = magnitude / 30
    factor = 1 + sign * 0.9 * q
    plain_operations = {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "invert": lambda: ImageOps.invert(picture),
        "posterize": lambda: ImageOps.posterize(picture, max(2, 6 - math.floor(4 * q + 1e-9))),
        "solarize": lambda: ImageOps.solarize(picture, math.floor(256 * (1 - q) + 1e-9)),
        "solarize_add": lambda: solarize_add(picture, math.floor(110 * q + 1e-9)),
        "colour": lambda: ImageEnhance.Color(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "cutout": lambda: cutout(picture, centre_xy, 80 * q * picture.height / 256),
    }
    return plain_operations[name]()


def plain_operations(images: Tensor, drawn: Operations, magnitude: int) -> np.ndarray:
    results = []
    for n, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for place in range(drawn.choices.shape[1]):
            picture = plain(
                NAMES[drawn.choices[n, place]],
                picture,
                magnitude,
                drawn.signs[n, place].item(),
                drawn.centres_xy[n, place].tolist(),
            )
        results.append(np.asarray(picture))
    return np.stack(results).astype(int)


def all_alike(name: str, turns: int = 1) -> Operations:
    """Everybody gets `name`; signs alternate, cutouts lie inside and across borders."""
    shape = (6, turns)
    signs = torch.tensor([1.0, -1.0]).repeat(3)[:, None].expand(shape)
    centres = torch.tensor([[12, 16], [0, 0], [23, 31], [3, 30], [5, 9], [20, 1]])
    return Operations(
        torch.full(shape, NAMES.index(name)), signs, centres[:, None].expand(6, turns, 2).float()
    )


@pytest.mark.parametrize("magnitude", [1, 9, 20, 30])
@pytest.mark.parametrize("name", NAMES)
def test_operation_equals_pillow_image_by_image(name: str, magnitude: int) -> None:
    images, drawn = photos(), all_alike(name)
    ours = apply_operations(images, drawn, magnitude).permute(0, 2, 3, 1).numpy().astype(int)
    difference = np.abs(ours - plain_operations(images, drawn, magnitude))
    assert difference.max() <= 1
    if name in {"equalize", "invert", "posterize", "solarize", "solarize_add", "cutout"}:
        assert not difference.any()


def test_published_strength_of_magnitude_20() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(6, 3, 1, 1)

    def level(name: str, of: int, sample: int = 0) -> int:
        return apply_operations(ramp, all_alike(name), 20)[sample, 0].flatten()[of].item()

    assert level("posterize", 255) == 240  # 4 bits
    assert (level("solarize", 84), level("solarize", 85)) == (84, 170)  # threshold 85
    assert (level("solarize_add", 54), level("solarize_add", 55)) == (127, 127)  # + 73, then 255 - 128
    assert (level("brightness", 100, 0), level("brightness", 100, 1)) == (160, 40)  # 1 +- 0.6


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    images, drawn = photos().repeat(4, 1, 1, 1), draw_operations(24, 3, (32, 24), generator=seeded(1))
    together = apply_operations(images, drawn, 20)
    for n in range(24):
        alone = Operations(*(each[n : n + 1] for each in drawn))
        assert torch.equal(apply_operations(images[n : n + 1], alone, 20)[0], together[n])


def test_random_turns_equal_pillow() -> None:
    images, drawn = photos().repeat(4, 1, 1, 1), draw_operations(24, 1, (32, 24), generator=seeded(2))
    ours = apply_operations(images, drawn, 20).permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(ours - plain_operations(images, drawn, 20)).max() <= 1


def test_turns_follow_one_another() -> None:
    images, drawn = photos(), all_alike("invert", turns=2)
    drawn.choices[:, 1] = NAMES.index("posterize")
    ours = apply_operations(images, drawn, 20).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(ours, plain_operations(images, drawn, 20))
    drawn.choices.copy_(drawn.choices.flip(1))
    assert not torch.equal(torch.from_numpy(ours), apply_operations(images, drawn, 20).permute(0, 2, 3, 1))


def test_operations_signs_and_places_are_uniform_and_independent() -> None:
    drawn = draw_operations(20_000, 2, (24, 16), generator=seeded())
    share = torch.bincount(drawn.choices.flatten(), minlength=11) / 40_000
    assert share.shape == (11,)
    assert (share - 1 / 11).abs().max() < 5 * math.sqrt(1 / 11 / 40_000)
    is_repeated = (drawn.choices[:, 0] == drawn.choices[:, 1]).float().mean()
    assert abs(is_repeated - 1 / 11) < 5 * math.sqrt(1 / 11 / 20_000)  # with replacement
    assert drawn.signs.unique().tolist() == [-1, 1]
    assert abs(drawn.signs.mean()) < 5 / math.sqrt(40_000)
    for axis, size in ((0, 16), (1, 24)):
        values, times = drawn.centres_xy[..., axis].unique(return_counts=True)
        assert values.tolist() == list(range(size))
        assert (times / 40_000 - 1 / size).abs().max() < 5 * math.sqrt(1 / size / 40_000)


def test_augmentation_works_on_the_levels_of_normalised_views() -> None:
    images = photos()
    normalised = from_levels(images, torch.empty(images.shape).contiguous(memory_format=torch.channels_last))
    scene = Scene(normalised, torch.ones(6, 5), torch.ones(6, 5, 2), torch.eye(2, 3).repeat(6, 1, 1))
    ours, terms = RandAugment(operations=3, magnitude=9).apply(normalised.clone(), scene, seeded(7))
    drawn = draw_operations(6, 3, (32, 24), generator=seeded(7))
    expected = from_levels(apply_operations(images, drawn, 9), normalised)
    assert torch.equal(ours, expected)
    assert terms == {}
    untouched, _ = RandAugment(operations=0).apply(normalised.clone(), scene, seeded())
    torch.testing.assert_close(untouched, normalised, atol=1e-5, rtol=0)


def test_operations_compile_into_one_graph() -> None:
    images, drawn = photos(), draw_operations(6, 1, (32, 24), generator=seeded(3))
    torch._dynamo.reset()
    compiled = torch.compile(apply_operations, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images, drawn, 20), apply_operations(images, drawn, 20))
