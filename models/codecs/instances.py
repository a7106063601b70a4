"""What the codecs of whole photos share: their interface, people drawn into heatmaps, peaks, decoded people.

Cell i of a heatmap sits at view pixel S * i, and a point's nearest cell is floor(x / S + 0.5). All of it is
batched, runs on the tensors' device and does not wait for it. Shape letters: pipelines/batch.py; in addition
Q decoded people, C channels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from semipose.models.codecs.heatmap import STRIDE, heatmap_loss, mirror_images, warp
from semipose.models.codecs.on_device import on_device
from semipose.pipelines.batch import LabelledPhotos
from semipose.pipelines.people import FoundPeople, People
from semipose.sharding.annotations.skeleton import Skeleton

LEAST_DIAGONAL_CELLS = 2.0
"""The least size of a person that a distance is compared with or divided by."""
LEAST_AREA = 32.0
"""The least area in view px^2 by which the keypoints of decoded people are compared."""


class Instances(NamedTuple):
    """Decoded people, padded; in the order of their scores, those that do not exist anywhere between."""

    points_xy: Tensor
    """(N, Q, K, 2) float32 view px; a guess, or (0, 0), where the confidence is 0."""
    confidence: Tensor
    """(N, Q, K) float32, 0 or more; 0 where the keypoint was not found."""
    score: Tensor
    """(N, Q) float32; 0 where nobody exists."""
    exists: Tensor
    """(N, Q) bool."""
    cells: Tensor
    """(N, Q, 2) int64: the cell of the centre that each person was read from; 0 without centres (`ae`)."""


@dataclass(frozen=True)
class InstanceCodec(ABC):
    """What the maps of a network of whole photos mean, with a cell every `stride` view px.

    Maps are a named tuple of one family, whose first field is `heatmaps` (N, C, h, w). A method calls these
    verbs and knows no family. A loss may run layers of the head (`cid`), so it belongs inside
    `Method.forward`; every process must call every loss, with people or without.
    """

    settings: Any
    skeleton: Skeleton
    stride: int = STRIDE
    generator: torch.Generator | None = None
    """Where the losses draw random numbers, on the device; None: they draw none. Only `cid` does."""

    @abstractmethod
    def targets(self, people: People, map_hw: tuple[int, int]) -> Any:
        """Return what maps of size (h, w) should be."""

    @abstractmethod
    def loss(self, maps: Any, targets: Any, counted: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms by name: that of the heatmaps, and the `instance_losses`."""

    @abstractmethod
    def instance_losses(self, maps: Any, targets: Any, counted: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms by name that say which keypoints are one person's.

        `counted` (N, 1, h, w): cells of weight 0 teach nothing. Without people they are 0, with a gradient.
        """

    @abstractmethod
    def decode(self, maps: Any) -> Instances:
        """Read people off the maps."""

    @abstractmethod
    def mirror(self, maps: Any) -> Any:
        """Return the maps of mirror images as maps of the images, left and right exchanged."""

    @abstractmethod
    def restrict(self, maps: Any, inside: Tensor) -> Any:
        """The maps without people where inside (N, 1, h, w) bool is false."""

    @abstractmethod
    def merge(self, plain: Any, mirrored: Any) -> Any:
        """Return one answer out of two in the same frame (flip test)."""

    @abstractmethod
    def distance(self, plain: Any, mirrored: Any, people: Instances) -> Tensor:
        """Return how far two answers place each keypoint from one another, (N, Q, K) view px.

        `people` were decoded from the merged answers; nobody is decoded again.
        """

    def supervised_losses(self, predicted: Any, labelled: LabelledPhotos) -> dict[str, Tensor]:
        """L_s in weighted parts by name: a network's maps against the people of the labels."""
        map_hw = predicted.heatmaps.shape[-2], predicted.heatmaps.shape[-1]
        targets = self.targets(labelled.people, map_hw)
        return self.loss(predicted, targets, labelled.ignored.counted(map_hw, self.stride))

    def heatmaps(self, maps: Any) -> tuple[Tensor, ...]:
        """Return the heatmaps of every resolution that the maps have, the coarsest first."""
        return (maps.heatmaps,)

    def target_heatmaps(self, targets: Any, maps: Any) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the heatmaps of `targets` for every resolution of `maps`, as in `heatmaps`."""
        return (targets.heatmaps,)

    def soft_loss(self, predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of heatmaps against those of a teacher, which may be anything between 0 and 1."""
        return 2 * heatmap_loss(predicted, target, weights)

    def pseudo_score(self, people: Instances, keypoints: Tensor) -> Tensor:
        """Return how far people can be trusted, (N, Q), by their trusted keypoints (N, Q, K) bool."""
        return masked_mean(people.confidence, keypoints)

    def mirror_images(self, images: Tensor) -> Tensor:
        """Mirror images (N, 3, H, W) so that cell i of their maps goes to cell w - 1 - i exactly."""
        return mirror_images(images, self.stride)

    def split(self, maps: Any, count: int) -> tuple[Any, Any]:
        """Return the maps of the first `count` photos, and those of the others."""
        first = (None if field is None else field[:count] for field in maps)
        others = (None if field is None else field[count:] for field in maps)
        return type(maps)(*first), type(maps)(*others)

    def warp(self, maps: Any, strong_from_weak: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Warp `heatmaps` into the strong view: for each resolution what `models.codecs.heatmap.warp` gives.

        strong_from_weak (N, 2, 3), view px. Cell 0 of maps f times as fine sits at -S (f - 1) / (2 f) px.
        """
        warped = []
        for heatmaps in self.heatmaps(maps):
            factor = heatmaps.shape[-1] // maps.heatmaps.shape[-1]
            first = -self.stride * (factor - 1) / (2 * factor)
            linear, shift = strong_from_weak[..., :2], strong_from_weak[..., 2:]
            from_first = torch.cat((linear, shift + first * (linear.sum(-1, keepdim=True) - 1)), dim=-1)
            warped.append(warp(heatmaps, from_first, self.stride / factor))
        return warped


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the last axis of the values (...) where `mask` is true; 0 where it nowhere is."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def encode_people(
    points_xy: Tensor, marked: Tensor, map_hw: tuple[int, int], stride: float, sigma: float
) -> Tensor:
    """Draw the keypoints of several people into one heatmap for each keypoint; the highest Gaussian counts.

    points_xy (N, M, K, 2) view px, marked (N, M, K) bool, sigma in cells. Returns (N, K, h, w) float32.
    Each Gaussian is that of `models.codecs.heatmap.encode`: height 1 at the point itself, between cells, cut
    to the square of 2 floor(3 sigma) + 1 cells about the nearest one. A map is above 0 exactly inside these
    squares. Only their cells are computed, so that the cost does not grow with the map.
    """
    height, width = map_hw
    num_samples, _, num_keypoints, _ = points_xy.shape
    centre = torch.where(marked[..., None], points_xy.float() / stride, -torch.inf)
    x_values, x = _window(centre[..., 0], width, sigma)
    y_values, y = _window(centre[..., 1], height, sigma)
    squares = y_values[..., :, None] * x_values[..., None, :]
    index = y[..., :, None] * width + x[..., None, :]

    def by_keypoint(windows: Tensor) -> Tensor:
        return windows.transpose(1, 2).reshape(num_samples, num_keypoints, -1)

    flat = squares.new_zeros(num_samples, num_keypoints, height * width)
    # The highest value does not depend on the order of writing: the maps are the same at every run.
    flat.scatter_reduce_(2, by_keypoint(index), by_keypoint(squares), "amax")
    return flat.view(num_samples, num_keypoints, height, width)


def _window(centre: Tensor, size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Return one axis of the Gaussians' squares: values and cells (N, M, K, R), both 0 outside the map."""
    radius = int(3 * sigma)
    reach = torch.arange(-radius, radius + 1, device=centre.device, dtype=torch.float32)
    cells = (centre + 0.5).floor()[..., None] + reach
    is_inside = (cells >= 0) & (cells < size)
    values = torch.exp(-((cells - centre[..., None]) ** 2) / (2 * sigma**2))
    return torch.where(is_inside, values, 0.0), torch.where(is_inside, cells, 0.0).long()


class Centres(NamedTuple):
    """Where the people of a batch are and how large."""

    cells: Tensor
    """(N, M, 2) float32: the mean of a person's marked keypoints, in cells, between cells; or where a teacher
    found the person."""
    diagonal: Tensor
    """(N, M) float32: the diagonal of the box of these keypoints in cells, 0 for a single one."""
    exists: Tensor
    """(N, M) bool: people with at least one marked keypoint."""


def find_centres(people: People, stride: float) -> Centres:
    """Find the centres and sizes of `people`; FoundPeople have their centre where the teacher found them."""
    marked = people.marked[..., None]
    points = torch.where(marked, people.points_xy.float() / stride, 0.0)
    count = marked.sum(-2)
    exists = count[..., 0] > 0
    low = torch.where(marked, points, torch.inf).amin(-2)
    high = torch.where(marked, points, -torch.inf).amax(-2)
    diagonal = torch.where(exists, (high - low).norm(dim=-1), 0.0)
    cells = points.sum(-2) / count.clamp(min=1)
    if isinstance(people, FoundPeople):
        cells = torch.where(exists[..., None], people.centres_xy.float() / stride, 0.0)
    return Centres(cells, diagonal, exists)


@torch.no_grad()
def mean_over_ranks(count: Tensor) -> Tensor:
    """Return the mean of numbers over all processes, on each of them; every process must call this.

    A number that is 0 on every process counts as one in all, so that losses can be divided by the mean.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return count.clamp(min=1)
    total = count.clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


class LocalPeaks(NamedTuple):
    """The highest local maxima of each channel, highest first; Q = min(count, h * w)."""

    points_hm: Tensor
    """(N, C, Q, 2) float32 heatmap px: x and y of the cell."""
    peaks: Tensor
    """(N, C, Q) float32: the values there; 0 where there are no more peaks above 0."""


def find_local_peaks(heatmaps: Tensor, count: int, window: int) -> LocalPeaks:
    """Find the cells of heatmaps (N, C, h, w) that are the highest of `window` x `window` cells about them.

    Of equal neighbours only the first in reading order is a peak: answers in bfloat16 often have two.
    """
    height, width = heatmaps.shape[-2:]
    pooled, index = F.max_pool2d(heatmaps, window, stride=1, padding=window // 2, return_indices=True)
    own = torch.arange(height * width, device=heatmaps.device).view(height, width)
    maxima = torch.where(index == own, pooled, 0.0).clamp(min=0).flatten(2)
    peaks, index = maxima.topk(min(count, height * width), dim=-1)
    return LocalPeaks(torch.stack((index % width, index // width), dim=-1).float(), peaks)


def find_centre_peaks(centre_map: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return cells (N, Q, 2) and values (N, Q) of the peaks of a map of people's centres (N, 1, h, w).

    A peak is the highest cell of 3 x 3; of 5 x 5 and 7 x 7 on maps whose mean side is above 200 and 300
    cells, as in DEKR and CID.
    """
    mean_side = sum(centre_map.shape[-2:]) / 2
    window = 3 if mean_side <= 200 else 5 if mean_side <= 300 else 7
    points_hm, peaks = find_local_peaks(centre_map, count, window)
    return points_hm[:, 0], peaks[:, 0]


def gather_cells(maps: Tensor, index: Tensor) -> Tensor:
    """Return the values (N, A, C) of maps (N, C, h, w) at cells (N, A) int64, counted in reading order."""
    return maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def flat_index(cells: Tensor, width: int) -> Tensor:
    """Return the index in reading order (...) int64 of whole cells (..., 2) inside a map of that width."""
    x, y = cells.long().unbind(-1)
    return y * width + x


def counts_at_once(device: torch.device) -> bool:
    """Return whether a number of a tensor can be asked for without waiting for the device.

    A graph that is being exported cannot ask at all.
    """
    return device.type == "cpu" and not torch.compiler.is_exporting()


def by_score(instances: Instances) -> Instances:
    """Put people with the highest scores first."""
    order = instances.score.argsort(dim=1, descending=True, stable=True)
    rows = torch.arange(order.shape[0], device=order.device)[:, None]
    return Instances(*(field[rows, order] for field in instances))


def similarity(points: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """Return the object keypoint similarity (N, Q, Q) of every two of points (N, Q, K, 2) in view px.

    The area of a pair is the mean of those of the keypoints' boxes.
    """
    area = (points.amax(2) - points.amin(2)).prod(-1).clamp(min=LEAST_AREA)
    squared = (points[:, :, None] - points[:, None]).square().sum(-1)  # (N, Q, Q, K)
    pair_area = ((area[:, :, None] + area[:, None]) / 2)[..., None]
    variances = (2 * on_device(sigmas, points.device)) ** 2
    return torch.exp(-squared / (2 * variances * pair_area)).mean(-1)


def suppress(instances: Instances, overlaps: Tensor) -> Instances:
    """Go through people from the highest score down and drop those that overlap one that stays.

    `instances` are sorted by score; overlaps (N, Q, Q) bool is symmetric.
    """
    keep = instances.exists.clone()
    for q in range(1, keep.shape[1]):
        keep[:, q] &= ~(overlaps[:, q, :q] & keep[:, :q]).any(-1)
    return only(instances, keep)


def only(instances: Instances, keep: Tensor) -> Instances:
    """Return the people for which keep (N, Q) is true; the others become padding."""
    confidence = torch.where(keep[..., None], instances.confidence, 0.0)
    points = torch.where(keep[..., None, None], instances.points_xy, 0.0)
    score = torch.where(keep, instances.score, 0.0)
    return Instances(points, confidence, score, keep, instances.cells)
