"""Contextual instance decoupling: a person is a centre, and heatmaps of its own that its features ask for.

Wang and Zhang, Contextual Instance Decoupling for Robust Multi-Person Pose Estimation, CVPR 2022. A network
answers with K + 1 heatmaps, those of the keypoints and of the people's centres, and, for any cells that are
named to it, with K heatmaps of the person whose centre is there. Targets, losses, decoding and mirroring are
here, the layers in models/heads/cid.py. Everything is batched, runs on the device without waiting for it, and
computes in float32. Shape letters: pipelines/batch.py; in addition I people of all photos of a batch, Q
decoded people of a photo, F features of a cell.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.models.codecs.cid_losses import contrast_loss, focal_loss
from semipose.models.codecs.heatmap import ROUNDING_CELLS, find_peaks, peak_step
from semipose.models.codecs.instances import (
    InstanceCodec,
    Instances,
    by_score,
    counts_at_once,
    find_centre_peaks,
    find_centres,
    masked_mean,
    mean_over_ranks,
    similarity,
    suppress,
)
from semipose.models.codecs.on_device import on_device
from semipose.pipelines.people import People
from semipose.sharding.annotations.skeleton import Skeleton

GROWN = 1.2
"""People without a box have that of their keypoints, larger by this factor."""
OVERLAP = 0.7
"""The overlap of boxes that a radius still leaves (CornerNet)."""
IN_CACHE = 4
"""A CPU reads so many people at once: maps of a person are large, and those of a few stay in its cache."""


@settings
class CIDSettings:
    """How people of whole photos are taught and read: a centre, and heatmaps of its person alone."""

    name: Literal["cid"] = "cid"
    least_area: Annotated[float, Field(ge=0)] = 1024.0
    """People whose boxes have fewer view px^2 than this have no centre (published for COCO: 32 x 32)."""
    instance_weight: Annotated[float, Field(ge=0)] = 4.0
    """Weight of the loss of people's own heatmaps beside that of the photo's."""
    contrast_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss that tells the features of a photo's people apart."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Cosines between features are divided by this before they are compared."""
    most_instances: Annotated[int, Field(ge=1)] = 200
    """How many people of a batch get heatmaps of their own at most, the smallest first, whether annotated or
    found by a teacher (published: any)."""
    candidates: Annotated[int, Field(ge=1)] = 30
    """How many people are decoded from a photo at most."""
    least_centre: Annotated[float, Field(ge=0)] = 0.01
    """Centres no higher than this are nobody's."""
    duplicate_oks: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Of two people who are more alike than this (object keypoint similarity) one is dropped."""

    def build(self, skeleton: Skeleton, generator: torch.Generator | None = None) -> "CIDCodec":
        """Return the codec."""
        return CIDCodec(self, skeleton, generator=generator)


class InstanceMaps(NamedTuple):
    """What the head answers for people whose centres are named."""

    heatmaps: Tensor
    """(I, K, h, w) float32, between 0 and 1."""
    features: Tensor
    """(I, F): those of the centre's cell."""


class CIDMaps(NamedTuple):
    """What the head answers."""

    heatmaps: Tensor
    """(N, K + 1, h, w) float32, between 0 and 1; the last is that of the centres."""
    read: Callable[[Tensor, Tensor], InstanceMaps]
    """Photos (I,) int64 and cells (I, 2) int64, x and y, to the maps of the people with these centres."""


class CIDTargets(NamedTuple):
    """What is taught."""

    heatmaps: Tensor
    """(N, K + 1, h, w) float32; exactly 1 in the cell of each keypoint and centre."""
    photos: Tensor
    """(I,) int64, I at least 1: the photo of each person that gets heatmaps of its own."""
    cells: Tensor
    """(I, 2) int64: x and y of the cell of its centre."""
    exists: Tensor
    """(I,) bool: the others are padding, at cell (0, 0)."""
    instance_heatmaps: Tensor
    """(I, K, h, w) float32."""
    instance_weights: Tensor
    """(I, K) float32: the keypoints' visibility; a marked keypoint outside the map has an empty heatmap."""


@dataclass(frozen=True)
class CIDCodec(InstanceCodec):
    """What the maps of a network mean, with a cell every `stride` view px."""

    settings: CIDSettings

    def targets(
        self, people: People, map_hw: tuple[int, int], generator: torch.Generator | None = None
    ) -> CIDTargets:
        """Return what maps of size (h, w) should be.

        A keypoint is a Gaussian on its nearest cell whose radius goes by the size of the person's box. People
        are asked for at their centre's cell or, with a `generator` (else the codec's), at one of the nine
        about it; of two at one cell the smaller stays. The focal loss needs targets of exactly 1, so all
        points of a cell have the same targets: whatever decodes these is up to half a cell off in each axis,
        and `decode` gives the cell itself. A trained network adds its doubt between neighbouring cells, which
        the quarter shift reads. Differs from CID: the box's sides are its own, not those of the upright box
        around it cut to the view; cells are the nearest, not those above and to the left.
        """
        generator = generator or self.generator
        if not people.is_person.shape[1]:
            people = _with_a_row(people)
        height, width = map_hw
        centres = find_centres(people, self.stride)
        sides = people.box_sides(grown=GROWN)
        radius = gaussian_radius((sides / self.stride - ROUNDING_CELLS).ceil()).floor()
        middle = (centres.cells + 0.5).floor()
        inside = (middle >= 0).all(-1) & (middle[..., 0] < width) & (middle[..., 1] < height)
        is_large = sides.prod(-1) >= self.settings.least_area
        if self.skeleton.num_keypoints == 1:  # whose extent is nothing, where there is no box
            is_large |= (sides == 0).all(-1)
        has_centre = centres.exists & inside & is_large
        points = torch.cat((people.points_xy.float() / self.stride, centres.cells[:, :, None]), dim=2)
        marked = torch.cat((people.marked, has_centre[..., None]), dim=2)
        x, y = _gaussians(points, marked, radius, map_hw)
        heatmaps = torch.zeros(len(x), x.shape[2], height, width, device=x.device)
        for m in range(x.shape[1]):  # squares of any radius: one person of every photo at a time
            heatmaps = torch.maximum(heatmaps, y[:, m, :, :, None] * x[:, m, :, None])

        count = min(self.settings.most_instances, has_centre.numel())
        smallest = torch.where(has_centre, centres.diagonal, torch.inf).flatten().argsort(stable=True)[:count]
        exists = has_centre.flatten()[smallest]
        cells = middle.flatten(0, 1)[smallest].long()
        if generator is not None:
            cells = cells + torch.randint(-1, 2, cells.shape, generator=generator, device=cells.device)
        cells = torch.stack((cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)), dim=-1)
        photos = smallest // has_centre.shape[1]
        taken = (photos[:, None] == photos) & (cells[:, None] == cells).all(-1) & exists
        exists = exists & ~taken.tril(-1).any(-1)
        x, y = (axis.flatten(0, 1)[smallest, :-1] for axis in (x, y))
        weights = torch.where(people.marked, people.visible.float(), 0.0).flatten(0, 1)[smallest]
        return CIDTargets(
            heatmaps,
            photos,
            torch.where(exists[:, None], cells, 0),
            exists,
            y[..., :, None] * x[..., None, :],
            torch.where(exists[:, None], weights, 0.0),
        )

    def loss(
        self,
        maps: CIDMaps,
        targets: CIDTargets,
        counted: Tensor,
        *,
        mean_over_ranks: Callable[[Tensor], Tensor] = mean_over_ranks,
    ) -> dict[str, Tensor]:
        """Return the weighted terms, float32 scalars: `heatmaps`, `instances` and `contrast`.

        heatmaps: the penalty-reduced focal loss over the number of cells that are exactly 1. The others:
        `instance_losses`. `counted` (N, 1, h, w): cells of weight 0 teach nothing, and nobody is asked for
        there. `mean_over_ranks` turns a tensor of numbers into their means over all processes; every process
        must call it.
        """
        total, count = focal_loss(maps.heatmaps, targets.heatmaps, counted)
        terms, counts = self._instance_sums(maps, targets, counted)
        counts = mean_over_ranks(torch.cat((count[None], counts)))
        return {"heatmaps": total / counts[0]} | _over(terms, counts[1:])

    def instance_losses(self, maps: CIDMaps, targets: CIDTargets, counted: Tensor) -> dict[str, Tensor]:
        """Return `instances` and `contrast`.

        instances: the focal loss of the people's own heatmaps. contrast: for each person, the cross entropy
        of finding its own features among those of the photo's people by their cosines, over the number of
        people.
        """
        terms, counts = self._instance_sums(maps, targets, counted)
        return _over(terms, mean_over_ranks(counts))

    def _instance_sums(
        self, maps: CIDMaps, targets: CIDTargets, counted: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the sums of the `instance_losses` and the numbers (2,) by which they are divided."""
        cfg = self.settings
        people = maps.read(targets.photos, targets.cells)
        centre_counted = counted[targets.photos, 0, targets.cells[:, 1], targets.cells[:, 0]]
        exists = targets.exists & (centre_counted > 0)
        weights = torch.where(exists[:, None], targets.instance_weights, 0.0)[..., None, None]
        own_sum, own_count = focal_loss(
            people.heatmaps, targets.instance_heatmaps, weights * counted[targets.photos]
        )
        contrast = contrast_loss(people.features, targets.photos, exists, cfg.temperature)
        terms = {"instances": cfg.instance_weight * own_sum, "contrast": cfg.contrast_weight * contrast}
        return terms, torch.stack((own_count, exists.sum().float()))

    def soft_loss(self, predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of |t - p|^2 times the cross entropy of p and t, over the number of t above 0.5.

        The quality focal loss, as in Dense Teacher (Zhou et al., ECCV 2022): `loss` wants targets of exactly
        1, which a teacher never gives.
        """
        p = predicted.float()
        entropy = -(target * p.log() + (1 - target) * (1 - p).log())
        total = (weights * (target - p).square() * entropy).sum()
        return total / mean_over_ranks((target > 0.5).sum().float())

    @torch.no_grad()
    def decode(self, maps: CIDMaps) -> Instances:
        """Read people off the maps, at most `candidates` in a photo.

        Heatmaps are averaged with their means over 3 x 3 cells. A peak of the centres' map asks for a
        person's own heatmaps, whose highest cells, moved by the quarter shift, are its keypoints. A
        keypoint's confidence is its height, a person's score the centre's height times their mean. Of people
        who are alike by object keypoint similarity the highest score stays. Differs from CID, where the
        centre's height is a factor of each confidence, which lowers those of small people.
        """
        cfg = self.settings
        with torch.autocast(maps.heatmaps.device.type, enabled=False):
            centre_map = _smooth(maps.heatmaps[:, -1:].float())
            cells, centre_peaks = find_centre_peaks(centre_map, cfg.candidates)
            exists = centre_peaks > cfg.least_centre
            points, confidence = self._read_people(maps, cells.long(), exists)
            score = torch.where(exists, centre_peaks * confidence.mean(-1), -1.0)
            people = by_score(Instances(points, confidence, score, exists, cells.long()))
            return suppress(people, similarity(people.points_xy, self.skeleton.sigmas) > cfg.duplicate_oks)

    def _read_people(self, maps: CIDMaps, cells: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        """Return points (N, Q, K, 2), view px, and peaks (N, Q, K) of the people at cells (N, Q, 2) int64.

        Those of people who do not `exist` (N, Q) mean nothing. They are not read where it costs no time to
        count the others; a GPU would have to be waited for.
        """
        rows, most = torch.arange(exists.numel(), device=exists.device), self.settings.most_instances
        if counts_at_once(exists.device):
            rows, most = rows[exists.flatten()], IN_CACHE
        photos, cells = rows // exists.shape[1], cells.flatten(0, 1)[rows]
        batches: Iterable[tuple[Tensor, Tensor]] = [(photos, cells)]
        if not torch.compiler.is_exporting():  # the number of batches would depend on that of the photos
            batches = zip(photos.split(most), cells.split(most), strict=True)
        read = [_keypoints(maps.read(*batch).heatmaps.float()) for batch in batches]
        points, peaks = (torch.cat(parts) for parts in zip(*read, strict=True))
        people = torch.cat((points * self.stride, peaks[..., None]), dim=-1)
        everybody = people.new_zeros(exists.numel(), *people.shape[1:]).index_copy(0, rows, people)
        everybody = everybody.unflatten(0, exists.shape)
        return everybody[..., :2], everybody[..., 2]

    @torch.no_grad()
    def distance(self, plain: CIDMaps, mirrored: CIDMaps, people: Instances) -> Tensor:
        """Return the distance of the peaks of people's own heatmaps in two answers, (N, Q, K) view px."""
        points = [self._read_people(maps, people.cells, people.exists)[0] for maps in (plain, mirrored)]
        return (points[0] - points[1]).norm(dim=-1)

    def pseudo_score(self, people: Instances, keypoints: Tensor) -> Tensor:
        """Return the geometric mean (N, Q) of the centre's height and that of the trusted keypoints.

        Both are heights of averaged maps, in which the Gaussian of a small person is at most 0.6 high: their
        product, which is the score, stays below the thresholds of other families for a perfect answer too.
        """
        centre = people.score / people.confidence.mean(-1).clamp(min=1e-6)
        return (centre * masked_mean(people.confidence, keypoints)).sqrt()

    def split(self, maps: CIDMaps, count: int) -> tuple[CIDMaps, CIDMaps]:
        """Return the maps of the first `count` photos, and those of the others."""

        def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
            return maps.read(photos + count, cells)

        return CIDMaps(maps.heatmaps[:count], maps.read), CIDMaps(maps.heatmaps[count:], read)

    def mirror(self, maps: CIDMaps) -> CIDMaps:
        """Return the maps of mirror images as maps of the images, left and right exchanged.

        Differs from CID, which mirrors features and then asks for people in the images' frame: here the
        mirror image is asked at the mirrored cells.
        """
        order, device, width = self.skeleton.flip_order, maps.heatmaps.device, maps.heatmaps.shape[-1]

        def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
            x, y = cells.unbind(-1)
            people = maps.read(photos, torch.stack((width - 1 - x, y), dim=-1))
            return people._replace(heatmaps=people.heatmaps.flip(-1)[:, on_device(order, device)])

        return CIDMaps(maps.heatmaps.flip(-1)[:, on_device((*order, len(order)), device)], read)

    def restrict(self, maps: CIDMaps, inside: Tensor) -> CIDMaps:
        """Return the maps with 0 in all heatmaps where inside (N, 1, h, w) bool is false: nobody is there."""

        def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
            people = maps.read(photos, cells)
            return people._replace(heatmaps=people.heatmaps.masked_fill(~inside[photos], 0.0))

        return CIDMaps(maps.heatmaps.masked_fill(~inside, 0.0), read)

    def merge(self, plain: CIDMaps, mirrored: CIDMaps) -> CIDMaps:
        """Return the mean of two answers in the same frame, features side by side (flip test)."""

        def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
            a, b = plain.read(photos, cells), mirrored.read(photos, cells)
            return InstanceMaps((a.heatmaps + b.heatmaps) / 2, torch.cat((a.features, b.features), dim=1))

        return CIDMaps((plain.heatmaps + mirrored.heatmaps) / 2, read)


def _over(terms: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    return {name: term / count for (name, term), count in zip(terms.items(), counts, strict=True)}


def _with_a_row(people: People) -> People:
    """Return a batch without a single row with one of padding: there is always somebody to compute with."""
    num_samples, _, num_keypoints = people.visible.shape
    zeros = people.visible.new_zeros
    return People(
        zeros(num_samples, 1, num_keypoints, 2),
        zeros(num_samples, 1, num_keypoints),
        people.is_person.new_zeros(num_samples, 1),
        zeros(num_samples, 1, 4, 2),
    )


def gaussian_radius(sides: Tensor) -> Tensor:
    """Return the radius (...) of the Gaussians of people with boxes of sides (..., 2), all in cells.

    The smallest of three roots as in CornerNet's first code (which does not divide them by a), as published.
    """
    total, product = sides.sum(-1), sides.prod(-1)
    roots = [
        (b + (b**2 - 4 * a * c).clamp(min=0).sqrt()) / 2
        for a, b, c in (
            (1, total, product * (1 - OVERLAP) / (1 + OVERLAP)),
            (4, 2 * total, (1 - OVERLAP) * product),
            (4 * OVERLAP, -2 * OVERLAP * total, (OVERLAP - 1) * product),
        )
    ]
    return torch.stack(roots).amin(0).clamp(min=0)


def _gaussians(
    points: Tensor, marked: Tensor, radius: Tensor, map_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the two axes of Gaussians, x (N, M, C, w) and y (N, M, C, h): the map is their product.

    points (N, M, C, 2) in cells go to the nearest cell; marked (N, M, C); radius (N, M) whole cells. Sigma is
    a sixth of the square's side 2 r + 1.
    """
    sigma = ((2 * radius + 1) / 6)[..., None, None]
    nearest = torch.where(marked[..., None], (points + 0.5).floor(), -torch.inf)

    def axis(centre: Tensor, size: int) -> Tensor:
        distance = torch.arange(size, device=centre.device, dtype=torch.float32) - centre[..., None]
        values = torch.exp(-(distance**2) / (2 * sigma**2))
        return torch.where(distance.abs() <= radius[..., None, None], values, 0.0)

    return axis(nearest[..., 0], map_hw[1]), axis(nearest[..., 1], map_hw[0])


def _smooth(heatmaps: Tensor) -> Tensor:
    """Return the mean of heatmaps (..., h, w) and of their means over 3 x 3 cells, 0 beyond the map.

    Sums of shifted maps: on a CPU, torch's pooling takes several times as long. What is left and right, above
    and below, is added first, so the peak of a symmetric map stays symmetric.
    """
    sums = heatmaps
    for axis in (-1, -2):
        size = sums.shape[axis]
        beside = torch.zeros_like(sums)
        beside.narrow(axis, 1, size - 1).copy_(sums.narrow(axis, 0, size - 1))
        beside.narrow(axis, 0, size - 1).add_(sums.narrow(axis, 1, size - 1))
        sums = beside.add_(sums)
    return sums.div_(18).add_(heatmaps, alpha=0.5)


def _keypoints(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (I, K, 2) in cells and peaks (I, K) of people's own heatmaps."""
    heatmaps = _smooth(heatmaps)
    points_hm, peaks = find_peaks(heatmaps)
    return points_hm + peak_step(heatmaps, points_hm, method="shift", sigma=1.0), peaks
