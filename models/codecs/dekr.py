"""Disentangled keypoint regression: a person is a centre, and an offset from it to every keypoint.

Geng et al., Bottom-Up Human Pose Estimation via Disentangled Keypoint Regression, CVPR 2021. A network
answers with K + 1 heatmaps, those of the keypoints and of the people's centres, and with the offsets from
each cell to the K keypoints of the person whose centre is near. Targets, loss, decoding and mirroring are
here, the layers in models/heads/dekr.py. Points are in view pixels, sizes and offsets in cells. Everything
is batched, runs on the device without waiting for it, and computes in float32. Shape letters:
pipelines/batch.py; in addition A cells about a centre, Q decoded people.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import heatmap_loss
from semipose.models.codecs.instances import (
    LEAST_DIAGONAL_CELLS,
    InstanceCodec,
    Instances,
    by_score,
    encode_people,
    find_centre_peaks,
    find_centres,
    flat_index,
    gather_cells,
    masked_mean,
    mean_over_ranks,
    suppress,
)
from semipose.models.codecs.on_device import on_device
from semipose.pipelines.people import People
from semipose.sharding.annotations.skeleton import Skeleton

SMOOTH_L1_BETA = 1 / 9
"""Errors below this many cells count squared (published)."""
NEAR = 0.05
"""Two decoded people share a keypoint where it is this near, in diagonals of the larger one (published)."""


@settings
class DEKRSettings:
    """How people of whole photos are taught and read: a centre, and from it an offset to each keypoint."""

    name: Literal["dekr"] = "dekr"
    sigma: Annotated[float, Field(gt=0)] = 2.0
    """Standard deviation of the keypoints' Gaussians in heatmap cells."""
    centre_sigma: Annotated[float, Field(gt=0)] = 4.0
    """Standard deviation of the centres' Gaussians in heatmap cells."""
    background_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of heatmap cells that are far from every keypoint of their channel; those near one have 1."""
    offset_radius: Annotated[int, Field(ge=0)] = 4
    """Offsets are taught this many cells to each side of a person's centre."""
    offset_weight: Annotated[float, Field(ge=0)] = 0.002
    """Weight of the offset loss beside the heatmap loss (mmpose: 0.002 on COCO, 0.004 on CrowdPose)."""
    least_diagonal: Annotated[float, Field(ge=0)] = 5.66
    """People whose keypoints span fewer cells than this have no centre (with one keypoint: all have)."""
    candidates: Annotated[int, Field(ge=1)] = 30
    """How many people are decoded from a photo at most."""
    least_centre: Annotated[float, Field(ge=0)] = 0.01
    """Centres no higher than this are nobody's."""

    def build(self, skeleton: Skeleton, generator: torch.Generator | None = None) -> "DEKRCodec":
        """Return the codec."""
        return DEKRCodec(self, skeleton, generator=generator)


class DEKRMaps(NamedTuple):
    """What the head answers."""

    heatmaps: Tensor
    """(N, K + 1, h, w) float32; the last is that of the centres."""
    offsets: Tensor
    """(N, 2 K, h, w) float32: keypoint minus cell, in cells; x of keypoint k in channel 2 k, y in 2 k + 1."""


class DEKRTargets(NamedTuple):
    """What is taught. Offsets only about the centres: dense maps of them would be zeros almost everywhere."""

    heatmaps: Tensor
    """(N, K + 1, h, w) float32."""
    weights: Tensor
    """(N, K + 1, h, w) float32: of their cells."""
    cells: Tensor
    """(N, M A) int64: the cells about each person's centre, in reading order; 0 outside the map."""
    offsets: Tensor
    """(N, M A, K, 2) float32: keypoint minus cell, in cells."""
    offset_weights: Tensor
    """(N, M A, K) float32: 0 where the cell is outside the map, another person's, or the keypoint is not
    marked."""


@dataclass(frozen=True)
class DEKRCodec(InstanceCodec):
    """What the maps of a network mean, with a cell every `stride` view px."""

    settings: DEKRSettings

    def targets(self, people: People, map_hw: tuple[int, int]) -> DEKRTargets:
        """Return what maps of size (h, w) should be.

        Offsets are taught in the square of `offset_radius` about the cell nearest to the centre. Where these
        squares overlap, the person with the smaller diagonal has the cell, then the one that comes first. A
        keypoint's weight is its visibility over the diagonal: errors count in relation to a person's size.
        Differs from DEKR: the square is symmetric; the diagonal is the person's own, not the distance from
        the photo's corner; people without keypoints have no centre; the centre's sigma goes by its role and
        not by its index; as in mmpose, the least diagonal is asked of the keypoints' box.
        """
        cfg = self.settings
        centres = find_centres(people, self.stride)
        is_large = centres.diagonal >= (cfg.least_diagonal if self.skeleton.num_keypoints > 1 else 0)
        has_centre = centres.exists & is_large
        heatmaps = torch.cat(
            (
                encode_people(people.points_xy, people.marked, map_hw, self.stride, cfg.sigma),
                encode_people(
                    centres.cells[:, :, None], has_centre[..., None], map_hw, 1.0, cfg.centre_sigma
                ),
            ),
            dim=1,
        )
        weights = torch.where(heatmaps > 0, 1.0, cfg.background_weight)
        cells, owned = _cells_about(
            centres.cells, centres.diagonal, has_centre, map_hw, radius=cfg.offset_radius
        )
        marked = people.marked[:, :, None]  # (N, M, 1, K), for every cell about the centre
        points = people.points_xy.float()[:, :, None] / self.stride
        offsets = torch.where(marked[..., None], points - cells[:, :, :, None], 0.0)
        trust = people.visible.float() / centres.diagonal.clamp(min=LEAST_DIAGONAL_CELLS)[..., None]
        offset_weights = torch.where(marked & owned[..., None], trust[:, :, None], 0.0)
        index = torch.where(owned, flat_index(cells, map_hw[1]), 0)
        return DEKRTargets(
            heatmaps, weights, index.flatten(1), offsets.flatten(1, 2), offset_weights.flatten(1, 2)
        )

    def loss(
        self,
        maps: DEKRMaps,
        targets: DEKRTargets,
        counted: Tensor,
        *,
        mean_over_ranks: Callable[[Tensor], Tensor] = mean_over_ranks,
    ) -> dict[str, Tensor]:
        """Return the weighted terms, float32 scalars: `heatmaps` and `offsets`.

        heatmaps: mean over photos, channels and cells of w (H - T)^2. offsets: `instance_losses`. `counted`
        (N, 1, h, w): cells of weight 0 teach nothing.
        """
        heatmaps = 2 * heatmap_loss(maps.heatmaps, targets.heatmaps, targets.weights * counted)
        return {"heatmaps": heatmaps} | self.instance_losses(
            maps, targets, counted, mean_over_ranks=mean_over_ranks
        )

    def instance_losses(
        self,
        maps: DEKRMaps,
        targets: DEKRTargets,
        counted: Tensor,
        *,
        mean_over_ranks: Callable[[Tensor], Tensor] = mean_over_ranks,
    ) -> dict[str, Tensor]:
        """Return `offsets`: smooth L1 times the weights, over the number of offsets that have a weight.

        `mean_over_ranks` turns that number into its mean over all processes (a photo's offsets then weigh the
        same wherever it is; every process must call it, with people or without).
        """
        weights = targets.offset_weights * gather_cells(counted, targets.cells)
        predicted = gather_cells(maps.offsets.float(), targets.cells).view_as(targets.offsets)
        errors = F.smooth_l1_loss(predicted, targets.offsets, beta=SMOOTH_L1_BETA, reduction="none")
        count = mean_over_ranks(2.0 * (weights > 0).sum())
        offsets = (errors * weights[..., None]).sum() / count
        return {"offsets": self.settings.offset_weight * offsets}

    @torch.no_grad()
    def decode(self, maps: DEKRMaps) -> Instances:
        """Read people off the maps, at most `candidates` in a photo.

        A peak of the centres' map and the offsets there give the points; a keypoint's confidence is its
        heatmap there, read bilinearly; a person's score is the centre's height times the mean confidence. Of
        people who share more than half of their keypoints the highest score stays.
        Differs from DEKR: heatmaps are read bilinearly, not at the cell below, and there is no rescoring.
        """
        with torch.autocast(maps.heatmaps.device.type, enabled=False):
            keypoint_maps = maps.heatmaps[:, :-1].float()
            cells, peaks = find_centre_peaks(maps.heatmaps[:, -1:].float(), self.settings.candidates)
            index = flat_index(cells, keypoint_maps.shape[-1])
            offsets = gather_cells(maps.offsets.float(), index).unflatten(-1, (-1, 2))
            points = cells[:, :, None] + offsets
            confidence = sample_bilinear(keypoint_maps, points).clamp(min=0)
            score = peaks * confidence.mean(-1)
            exists = peaks > self.settings.least_centre
            score = torch.where(exists, score, -1.0)
            people = Instances(points, confidence, score, exists, cells.long())
            people = by_score(people)
            people = suppress(people, share_keypoints(people.points_xy))
            return people._replace(points_xy=people.points_xy * self.stride)

    def mirror(self, maps: DEKRMaps) -> DEKRMaps:
        """Return the maps of mirror images as maps of the images: left and right exchanged, x negated."""
        order = self.skeleton.flip_order
        keypoints = on_device(order, maps.offsets.device)
        x, y = maps.offsets.flip(-1).unflatten(1, (-1, 2))[:, keypoints].unbind(2)
        channels = on_device((*order, len(order)), maps.heatmaps.device)
        return DEKRMaps(maps.heatmaps.flip(-1)[:, channels], torch.stack((-x, y), dim=2).flatten(1, 2))

    def restrict(self, maps: DEKRMaps, inside: Tensor) -> DEKRMaps:
        """Return the maps with 0 in the heatmaps where inside (N, 1, h, w) bool is false: nobody is there."""
        return maps._replace(heatmaps=maps.heatmaps.masked_fill(~inside, 0.0))

    def merge(self, plain: DEKRMaps, mirrored: DEKRMaps) -> DEKRMaps:
        """Return the mean of two answers in the same frame (flip test)."""
        return DEKRMaps(*((a + b) / 2 for a, b in zip(plain, mirrored, strict=True)))

    def distance(self, plain: DEKRMaps, mirrored: DEKRMaps, people: Instances) -> Tensor:
        """Return the distance of the offsets of two answers at people's centres, (N, Q, K) view px."""
        index = flat_index(people.cells, plain.offsets.shape[-1])
        apart = gather_cells(plain.offsets - mirrored.offsets, index).unflatten(-1, (-1, 2))
        return apart.norm(dim=-1) * self.stride

    def pseudo_score(self, people: Instances, keypoints: Tensor) -> Tensor:
        """Return the height of the centre times the mean confidence of the trusted keypoints, (N, Q).

        A person's score is that height times the mean confidence of all keypoints.
        """
        centre = people.score / people.confidence.mean(-1).clamp(min=1e-6)
        return centre * masked_mean(people.confidence, keypoints)


def _cells_about(
    centres: Tensor, diagonal: Tensor, has_centre: Tensor, map_hw: tuple[int, int], *, radius: int
) -> tuple[Tensor, Tensor]:
    """Return the cells about each centre (N, M, A, 2) float32 and whether they are that person's, (N, M, A).

    centres (N, M, 2) and diagonal (N, M) in cells, has_centre (N, M) bool.
    """
    height, width = map_hw
    num_samples, num_people = diagonal.shape
    reach = torch.arange(-radius, radius + 1, device=centres.device, dtype=torch.float32)
    square = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), dim=-1).view(-1, 2)
    cells = (centres + 0.5).floor()[:, :, None] + square
    x, y = cells.unbind(-1)
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & has_centre[..., None]
    index = torch.where(is_inside, flat_index(torch.where(is_inside[..., None], cells, 0.0), width), 0)
    rank = diagonal.argsort(dim=1, stable=True).argsort(dim=1)[..., None]
    bids = torch.where(is_inside, rank, num_people)  # nobody's bid is the highest
    owner = torch.full((num_samples, height * width), num_people, device=centres.device)
    owner.scatter_reduce_(1, index.flatten(1), bids.flatten(1), "amin")
    owned = is_inside & (owner.gather(1, index.flatten(1)).view_as(index) == rank)
    return cells, owned


def sample_bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps (N, C, h, w) at points (N, Q, C, 2) in cells, channel c at point c; 0 beyond the map."""
    height, width = maps.shape[-2:]
    x, y = points.transpose(1, 2).flatten(0, 1).unbind(-1)
    # grid_sample without aligned corners puts index i of n at (2 i + 1) / n - 1.
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)[:, :, None]
    values = F.grid_sample(maps.flatten(0, 1)[:, None], grid, padding_mode="zeros", align_corners=False)
    return values.view(maps.shape[0], maps.shape[1], -1).transpose(1, 2)


def share_keypoints(points: Tensor) -> Tensor:
    """Return (N, Q, Q) bool: pairs with more than half of their keypoints within NEAR diagonals (published:
    8 of 17, 7 of 14). points (N, Q, K, 2) in cells; the diagonal is that of the larger person."""
    diagonal = (points.amax(2) - points.amin(2)).norm(dim=-1).clamp(min=LEAST_DIAGONAL_CELLS)
    reach = NEAR * torch.maximum(diagonal[:, :, None], diagonal[:, None])
    distance = (points[:, :, None] - points[:, None]).norm(dim=-1)
    return (distance < reach[..., None]).sum(-1) > points.shape[2] // 2
