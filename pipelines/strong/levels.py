"""Conversion of normalised images to levels 0..255 and back, and operations on levels.

torchvision has such operations too, but its `adjust_*` take one factor for the whole batch, and some others
copy from the host or select by a mask, which makes the host wait for a GPU; which ones do depends on its
version. The definitions are those of Pillow: `ImageOps`, and `ImageEnhance` for those with a factor per
sample (degenerate + factor * (image - degenerate), clamped to 0..255).
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from semipose.pipelines.views import MEAN_RGB, STD_RGB

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level (ITU-R 601, as in Pillow's mode "L")."""


def to_levels(images: Tensor) -> Tensor:
    """(N, 3, H, W) float32 in 0..255, not rounded, from normalised RGB images of any floating dtype."""
    mean, deviation = _per_channel(MEAN_RGB, images), _per_channel(STD_RGB, images)
    return ((images.float() * deviation + mean) * 255.0).clamp(0.0, 255.0)


def from_levels(levels: Tensor, like: Tensor) -> Tensor:
    """Normalised images in the dtype and memory layout of `like`, from levels of any dtype."""
    mean, deviation = _per_channel(MEAN_RGB, levels), _per_channel(STD_RGB, levels)
    images = (levels.float() / 255.0 - mean) / deviation
    return torch.empty_like(like).copy_(images)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """(1, 3, 1, 1) float32 on the device of `like`, filled there because a copy from the host would wait."""
    filled = [torch.full((1,), value, device=like.device) for value in values]
    return torch.cat(filled)[None, :, None, None]


def brightness(levels: Tensor, factors: Tensor) -> Tensor:
    """Blend with black. Here and below: levels (N, 3, H, W), factors (N,), float32; 1 is no change."""
    return _blend(torch.zeros_like(levels), levels, factors)


def contrast(levels: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean grey of each image, rounded to a level."""
    return _blend(grey(levels).round().mean(dim=(1, 2, 3), keepdim=True).round(), levels, factors)


def saturation(levels: Tensor, factors: Tensor) -> Tensor:
    """Blend with the grey image; a factor of 0 gives the grey image."""
    return _blend(grey(levels), levels, factors)


def sharpness(levels: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3x3 kernel of ones with 5 in the middle; the border stays."""
    smooth = levels.clone()
    core = smooth[:, :, 1:-1, 1:-1]
    core.copy_((avg_pool2d(levels, 3, stride=1) * 9.0 + core * 4.0) / 13.0)
    return _blend(smooth, levels, factors)


def grey(levels: Tensor) -> Tensor:
    """(N, 1, H, W): the grey level of each pixel, in float32."""
    red, green, blue = levels.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _blend(degenerate: Tensor, levels: Tensor, factors: Tensor) -> Tensor:
    return (degenerate + factors[:, None, None, None] * (levels - degenerate)).clamp(0.0, 255.0)


def autocontrast(levels: Tensor) -> Tensor:
    """Stretch each channel of each image (N, 3, H, W), uint8 here and below, to 0..255; one level stays."""
    values = levels.float()
    lowest = values.amin(dim=(2, 3), keepdim=True)
    reach = values.amax(dim=(2, 3), keepdim=True) - lowest
    stretched = ((values - lowest) / (reach * (1.0 / 255.0)).clamp_min(1.0 / 255.0)).clamp(0.0, 255.0)
    return torch.where(reach > 0, stretched.to(torch.uint8), levels)


def equalize(levels: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image; a channel with too few pixels stays."""
    flat = levels.flatten(start_dim=2).long()
    counts = flat.new_zeros(*flat.shape[:2], 256).scatter_add_(2, flat, torch.ones_like(flat))
    up_to = counts.cumsum(dim=2)
    brightest = up_to.argmax(dim=2, keepdim=True)  # the first level with all pixels up to it
    step = (flat.shape[2] - counts.gather(2, brightest)) // 255
    table = ((up_to[..., :-1] + step // 2) // step.clamp_min(1)).clamp_max(255)
    table = torch.cat([torch.zeros_like(step), table], dim=2)
    even = table.gather(2, flat).to(torch.uint8).view_as(levels)
    return torch.where(step[..., None] > 0, even, levels)


def invert(levels: Tensor) -> Tensor:
    """Invert the levels."""
    return 255 - levels


def posterize(levels: Tensor, bits: int) -> Tensor:
    """Keep the highest `bits` of the 8 bits of each level."""
    return levels & (256 - (1 << (8 - bits)))


def solarize(levels: Tensor, threshold: int) -> Tensor:
    """Invert the levels of at least `threshold`."""
    return torch.where(levels >= threshold, 255 - levels, levels)
