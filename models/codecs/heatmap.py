"""The heatmap codec: keypoints to heatmaps and back, the loss between heatmaps, and their mirror images.

All of this is in one file because it depends on one convention: cell i of a heatmap is at view pixel S * i,
where S is the stride; points are in view pixels, with pixel centres at integers. Everything here is batched,
runs on the device of the tensors without waiting for it, and computes in float32 even under autocast. Shape
letters: pipelines/batch.py.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.models.codecs.on_device import on_device
from semipose.pipelines.batch import LabelledBatch
from semipose.pipelines.geometry import heatmap_matrix, invert
from semipose.sharding.annotations.skeleton import Skeleton

STRIDE = 4
"""View px between two cells of a heatmap."""
DecodeMethod = Literal["shift", "dark"]
ROUNDING_CELLS = 1e-3
"""How far rounding alone can move a warped cell beyond the edge of the map."""


@settings
class HeatmapSettings:
    """How keypoints become heatmaps and are decoded from them."""

    sigma: Annotated[float, Field(gt=0)] = 2.0
    """Standard deviation of the target Gaussians, in heatmap cells."""
    decode: DecodeMethod = "shift"
    """How keypoints are decoded: `shift`, the quarter shift (published), or `dark`, the Newton step of
    DARK."""


@dataclass(frozen=True)
class HeatmapCodec:
    """What the maps of a network mean: one heatmap per keypoint, with one cell per `stride` view px."""

    settings: HeatmapSettings
    skeleton: Skeleton
    stride: int = STRIDE

    def targets(
        self, points_xy: Tensor, visible: Tensor, heatmap_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """`encode` with the sigma of the settings: heatmaps (N, K, h, w) and weights (N, K)."""
        return encode(points_xy, visible, heatmap_hw, self.stride, self.settings.sigma)

    def supervised_loss(self, predicted: Tensor, labelled: LabelledBatch) -> Tensor:
        """L_s: a network's heatmaps (N, K, h, w) against those of the labels (docs/methods.md 3.1)."""
        height, width = predicted.shape[-2:]
        target, weights = self.targets(labelled.points_xy, labelled.visible, (height, width))
        return self.loss(predicted, target, weights[:, :, None, None])

    def supervised_losses(self, predicted: Tensor, labelled: LabelledBatch) -> dict[str, Tensor]:
        """`supervised_loss` by name: codecs of whole photos have a loss in several parts."""
        return {"supervised": self.supervised_loss(predicted, labelled)}

    def loss(self, maps: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Half the mean squared error of heatmaps (N, K, h, w), a float32 scalar; see `heatmap_loss`.

        weights: broadcastable to the maps, such as (N, K, 1, 1): factors of the squared errors, 0 where
            nothing is known; None is 1 everywhere.
        """
        return heatmap_loss(maps, targets, weights)

    def decode(self, maps: Tensor, method: DecodeMethod | None = None) -> tuple[Tensor, Tensor]:
        """`decode` with `method` or that of the settings: points (N, K, 2) in view px and peaks (N, K)."""
        sigma, method = self.settings.sigma, method or self.settings.decode
        return decode(maps, self.stride, method=method, sigma=sigma)

    def mirror_images(self, images: Tensor) -> Tensor:
        """`mirror_images` at the stride of the maps."""
        return mirror_images(images, self.stride)

    def mirror(self, maps: Tensor) -> Tensor:
        """Heatmaps (N, K, h, w) of mirror images -> heatmaps of the images, with left and right exchanged."""
        return maps.flip(-1)[:, on_device(self.skeleton.flip_order, maps.device)]

    def merge(self, *answers: Tensor) -> Tensor:
        """The mean of several answers in the same frame (flip test, ensembles)."""
        return torch.stack(answers).mean(dim=0)


def mirror_images(images: Tensor, stride: int) -> Tensor:
    """Images (N, 3, H, W) mirrored at the middle between the first and the last heatmap cell.

    Pixel x goes to S (w - 1) - x, so cell i goes to cell w - 1 - i exactly. The last S - 1 columns of the
    mirror image would come from beyond the view: they repeat its edge.
    """
    flipped = images.flip(-1)
    edge = flipped[..., -1:].expand(*flipped.shape[:-1], stride - 1)
    return torch.cat((flipped[..., stride - 1 :], edge), dim=-1)


def encode(
    points_xy: Tensor, visible: Tensor, heatmap_hw: tuple[int, int], stride: float, sigma: float
) -> tuple[Tensor, Tensor]:
    """Draw keypoints as Gaussians whose peak, of value 1, is exactly at the point, also between cells.

    points_xy (N, K, 2) view px, visible (N, K), usually 0/1; sigma in cells. Returns heatmaps (N, K, h, w)
    float32 and weights (N, K) float32, `visible` or 0. A Gaussian is cut to a square of (6 sigma + 1) cells
    about the nearest cell. If the square is completely outside the map, or the point is not visible, weight
    and heatmap are 0, whatever its coordinates (even NaN). Differs from the published code, which moves the
    peak to the nearest cell.
    """
    height, width = heatmap_hw
    centre = points_xy.float() / stride
    x_values, x_touches = _gaussian(centre[..., 0], width, sigma)
    y_values, y_touches = _gaussian(centre[..., 1], height, sigma)
    weights = visible.float() * (x_touches & y_touches)
    # Zeroing one axis is enough, because all values are finite wherever the point is.
    y_values = torch.where((weights > 0)[..., None], y_values, 0.0)
    return y_values[..., :, None] * x_values[..., None, :], weights


def _gaussian(centre: Tensor, size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Return one axis of the Gaussians (N, K, size) and whether their square meets the map, bool (N, K)."""
    cells = torch.arange(size, device=centre.device, dtype=torch.float32)
    nearest = torch.floor(centre + 0.5)
    kept = (cells - nearest[..., None]).abs() <= 3 * sigma
    values = torch.exp(-((cells - centre[..., None]) ** 2) / (2 * sigma**2))
    return torch.where(kept, values, 0.0), kept.any(-1)


class Peaks(NamedTuple):
    """The maximum of each heatmap."""

    points_hm: Tensor
    """(N, K, 2) float32 heatmap px: x and y of the highest cell; (0, 0) if the peak is not above 0."""
    peaks: Tensor
    """(N, K) float32: the values there."""


def find_peaks(heatmaps: Tensor) -> Peaks:
    """Find the peaks of heatmaps (N, K, h, w) of any float type, in one pass over them."""
    width = heatmaps.shape[-1]
    peaks, index = heatmaps.flatten(2).max(dim=-1)
    points_hm = torch.stack((index % width, index // width), dim=-1).float()
    return Peaks(torch.where((peaks > 0)[..., None], points_hm, 0.0), peaks.float())


def decode(
    heatmaps: Tensor, stride: float, *, method: DecodeMethod = "shift", sigma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Decode keypoints from heatmaps (N, K, h, w) of any float type.

    Returns points_xy (N, K, 2) view px and peaks (N, K), both float32; a peak <= 0 gives the point (0, 0).
    `shift` moves the highest cell by a quarter cell toward the larger neighbour on each axis. `dark` moves it
    to the maximum of a parabola through the blurred map (Zhang et al., CVPR 2020); `sigma`, in cells, is that
    of the targets, and the blur scales with it (2: 11 x 11 cells, as published). A peak in the outer two
    cells stays at its cell (with `shift`, only in the last one at the right and bottom), as published. For a
    clean Gaussian at least 2 sigma from every border, `dark` is exact to 0.05 cell; closer to the border, the
    cut of the Gaussian shifts the result inward.
    """
    with torch.autocast(heatmaps.device.type, enabled=False):
        heatmaps = heatmaps.float()
        points_hm, peaks = find_peaks(heatmaps)
        return (points_hm + peak_step(heatmaps, points_hm, method=method, sigma=sigma)) * stride, peaks


def peak_step(heatmaps: Tensor, points_hm: Tensor, *, method: DecodeMethod, sigma: float) -> Tensor:
    """Return how far the points are from the highest cells, in cells: `decode` without the search.

    heatmaps (N, K, h, w) float32; points_hm (N, K, 2), or (N, K, Q, 2) for several peaks of each map.
    """
    if method == "shift":
        return _quarter_shift(heatmaps, points_hm)
    return _dark_step(heatmaps, points_hm, sigma)


def warp(heatmaps: Tensor, strong_from_weak: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """Warp heatmaps (N, K, h, w) of the weak view into the strong view with its matrix (N, 2, 3), view px.

    Returns the warped maps (N, K, h, w) float32, bilinear, 0 beyond the weak map, and inside (N, 1, h, w)
    float32, which is 1 if the origin of the cell is inside the weak map. There is no half-cell term.
    """
    height, width = heatmaps.shape[-2:]
    with torch.autocast(heatmaps.device.type, enabled=False):
        matrix = invert(heatmap_matrix(strong_from_weak.float(), stride))[..., None, None]
        x_strong = torch.arange(width, device=heatmaps.device, dtype=torch.float32)
        y_strong = torch.arange(height, device=heatmaps.device, dtype=torch.float32)[:, None]
        x = matrix[:, 0, 0] * x_strong + matrix[:, 0, 1] * y_strong + matrix[:, 0, 2]
        y = matrix[:, 1, 0] * x_strong + matrix[:, 1, 1] * y_strong + matrix[:, 1, 2]
        # grid_sample without aligned corners puts index i of n at (2 i + 1) / n - 1.
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
        warped = F.grid_sample(
            heatmaps.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
    edge = ROUNDING_CELLS
    inside = (x >= -edge) & (x <= width - 1 + edge) & (y >= -edge) & (y <= height - 1 + edge)
    return warped, inside[:, None].float()


def _around(heatmaps: Tensor, points_hm: Tensor, offsets_xy: list[tuple[int, int]]) -> list[Tensor]:
    """Return the values (N, K) or (N, K, Q) at each offset from the cells; beyond the map, some inside."""
    height, width = heatmaps.shape[-2:]
    flat = heatmaps.flatten(2)
    x, y = points_hm.long().unbind(-1)
    per_map = math.prod(x.shape[2:])  # not -1, which torch cannot tell where there is no map
    values = []
    for dx, dy in offsets_xy:
        index = (y + dy).clamp(0, height - 1) * width + (x + dx).clamp(0, width - 1)
        values.append(flat.gather(-1, index.reshape(*flat.shape[:2], per_map)).view(index.shape))
    return values


def _quarter_shift(heatmaps: Tensor, points_hm: Tensor) -> Tensor:
    height, width = heatmaps.shape[-2:]
    left, right, up, down = _around(heatmaps, points_hm, [(-1, 0), (1, 0), (0, -1), (0, 1)])
    x, y = points_hm.unbind(-1)
    interior = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    shift = 0.25 * torch.stack((right - left, down - up), dim=-1).sign()
    return torch.where(interior[..., None], shift, 0.0)


def _dark_step(heatmaps: Tensor, points_hm: Tensor, sigma: float) -> Tensor:
    """Return one Newton step for each cell, in cells, on the logarithm of the blurred map.

    Differs from DARK: the step is taken only at a maximum (published: wherever the matrix of second
    differences can be inverted), and is at most 2 cells per axis, which is the reach of these differences.
    """
    height, width = heatmaps.shape[-2:]
    blurred = _blur(heatmaps, sigma)
    scale = heatmaps.amax((-2, -1)) / blurred.amax((-2, -1)).clamp(min=1e-10)
    log = (blurred * scale[..., None, None]).clamp(min=1e-10).log()
    axes = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2)]
    middle, left, right, up, down, left2, right2, up2, down2 = _around(log, points_hm, axes)
    nw, ne, sw, se = _around(log, points_hm, [(-1, -1), (1, -1), (-1, 1), (1, 1)])
    dx, dy = 0.5 * (right - left), 0.5 * (down - up)
    dxx, dyy = 0.25 * (right2 - 2 * middle + left2), 0.25 * (down2 - 2 * middle + up2)
    dxy = 0.25 * (se - ne - sw + nw)
    det = dxx * dyy - dxy**2
    x, y = points_hm.unbind(-1)
    interior = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    is_summit = interior & (det > 0) & (dxx < 0)
    step = (
        torch.stack((dxy * dy - dyy * dx, dxy * dx - dxx * dy), dim=-1)
        / torch.where(det > 0, det, 1.0)[..., None]
    )
    return torch.where(is_summit[..., None], step.clamp(-2.0, 2.0), 0.0)


def _blur(heatmaps: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of `sigma`, cut at 2.5 sigma to each side, with zeros beyond the map.

    This sums shifted maps, because a GPU may round convolutions to ten bits (TF32).
    """
    radius = round(2.5 * sigma)
    taps = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)]
    taps = [tap / sum(taps) for tap in taps]
    height, width = heatmaps.shape[-2:]
    padded = F.pad(heatmaps, (radius, radius, radius, radius))
    rows = sum(tap * padded[..., i : i + width] for i, tap in enumerate(taps))
    assert isinstance(rows, Tensor)
    blurred = sum(tap * rows[..., i : i + height, :] for i, tap in enumerate(taps))
    assert isinstance(blurred, Tensor)
    return blurred


def heatmap_loss(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Half the mean squared error over samples, keypoints and cells (docs/methods.md 3.1), in float32.

    The divisor counts every keypoint and cell, including those of weight zero, as in the published systems.
    Only `predicted` gets a gradient.

    Args:
        predicted: (N, K, h, w) heatmaps.
        target: (N, K, h, w) heatmaps.
        weights: broadcastable to them; they multiply each squared error; None is 1. The published kernel
            multiplies the error before squaring it, which is the same for weights 0 and 1.

    Returns:
        A float32 scalar.
    """
    loss: Tensor = _HalfMeanSquare.apply(predicted.float(), target.float(), weights)
    return loss


class _HalfMeanSquare(torch.autograd.Function):
    """Computes the gradient, (predicted - target) * weights / count, directly: autograd would pass over the
    heatmaps four times, for difference, square, product and mean, and keep three of them."""

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        difference = predicted - target
        weighted = difference if weights is None else difference * weights
        ctx.save_for_backward(weighted)
        return 0.5 * (weighted * difference).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (gradient / weighted.numel()), None, None
