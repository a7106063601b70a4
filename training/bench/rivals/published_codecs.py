"""Targets, losses and decoding of whole photos as the published code has them: one photo after the other.

AE and HigherHRNet, DEKR and CID make targets on the CPU in loops over people and keypoints, AE computes its
tag loss in such loops, DEKR compares dense maps of offsets, and all decode photo by photo and drop duplicates
in Python. Here these loops have the conventions of `models/codecs`, so that both sides give the same numbers,
and numpy windows inside, where some of the published code computes cell by cell.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semipose.models.codecs.ae import PEAK_WINDOW, AECodec, AEMaps, group, grouping_order
from semipose.models.codecs.cid import OVERLAP, CIDCodec, CIDMaps
from semipose.models.codecs.dekr import NEAR, SMOOTH_L1_BETA, DEKRCodec, DEKRMaps
from semipose.models.codecs.heatmap import ROUNDING_CELLS
from semipose.models.codecs.instances import LEAST_AREA, LEAST_DIAGONAL_CELLS


class Photo(NamedTuple):
    """The M people of one photo."""

    points: np.ndarray
    """(M, K, 2) float32, in cells."""
    marked: np.ndarray
    """(M, K) bool."""
    sides: np.ndarray
    """(M, 2) float32, in cells: of the people's boxes."""


class Person(NamedTuple):
    """A decoded person."""

    points: np.ndarray
    """(K, 2), in cells."""
    confidence: np.ndarray
    """(K,)."""
    score: float


def draw(heatmap: np.ndarray, point: np.ndarray, sigma: float) -> None:
    """Draw a Gaussian at a point (2,) into a heatmap (h, w), in its window of 3 sigma, where it is higher."""
    height, width = heatmap.shape
    radius = int(3 * sigma)
    x0, y0 = (math.floor(value + 0.5) for value in point.tolist())
    left, right = max(0, x0 - radius), min(width, x0 + radius + 1)
    top, bottom = max(0, y0 - radius), min(height, y0 + radius + 1)
    if left >= right or top >= bottom:
        return
    x = np.exp(-((np.arange(left, right, dtype=np.float32) - point[0]) ** 2) / (2 * sigma**2))
    y = np.exp(-((np.arange(top, bottom, dtype=np.float32) - point[1]) ** 2) / (2 * sigma**2))
    window = heatmap[top:bottom, left:right]
    np.maximum(window, y[:, None] * x, out=window)


def keypoint_heatmaps(photo: Photo, hw: tuple[int, int], sigma: float) -> np.ndarray:
    """(K, h, w) float32."""
    heatmaps = np.zeros((photo.points.shape[1], *hw), np.float32)
    for points, marked in zip(photo.points, photo.marked, strict=True):
        for k in np.flatnonzero(marked):
            draw(heatmaps[k], points[k], sigma)
    return heatmaps


# --- associative embedding


def ae_targets(codec: AECodec, photos: list[Photo], hw: tuple[int, int]) -> tuple[Tensor, list[np.ndarray]]:
    """Heatmaps (N, K, h, w), and for each photo the cells (M, K) of the tags as indices, -1 for none."""
    heatmaps = [keypoint_heatmaps(photo, hw, codec.settings.sigma) for photo in photos]
    index = []
    for photo in photos:
        cells = np.floor(photo.points + 0.5)
        is_inside = photo.marked & (cells >= 0).all(-1) & (cells < np.array([hw[1], hw[0]])).all(-1)
        index.append(np.where(is_inside, cells[..., 1] * hw[1] + cells[..., 0], -1).astype(int))
    return torch.from_numpy(np.stack(heatmaps)), index


def ae_loss(codec: AECodec, maps: AEMaps, targets: tuple[Tensor, list[np.ndarray]]) -> Tensor:
    """The sum of the heatmap loss, pull and push; the last two in loops over photos, people and keypoints."""
    heatmaps, cells = targets
    weights = torch.where(heatmaps > 0, 1.0, codec.settings.background_weight)
    loss = (weights * (maps.heatmaps - heatmaps) ** 2).mean()
    pulls, pushes = [], []
    for tags, of_people in zip(maps.tags.flatten(-2), cells, strict=True):
        means, pull = [], tags.new_zeros(())
        for of_person in of_people:
            own = [tags[k, :, cell] for k, cell in enumerate(of_person) if cell >= 0]
            if own:
                values = torch.stack(own)
                means.append(values.mean(0))
                pull = pull + (values - means[-1]).square().sum(-1).mean()
        count, push = len(means), tags.new_zeros(())
        if count > 1:
            both = torch.stack(means)
            nearness = torch.exp(-(both[:, None] - both[None]).square().sum(-1))
            push = 0.5 * (nearness.sum() - count) / (count * (count - 1))
        pulls.append(pull / max(count, 1))
        pushes.append(push)
    cfg = codec.settings
    return loss + cfg.pull_weight * torch.stack(pulls).mean() + cfg.push_weight * torch.stack(pushes).mean()


def ae_decode(codec: AECodec, maps: AEMaps) -> list[list[Person]]:
    """People of each photo, read at the size of the input; missing keypoints are filled person by person."""
    cfg, scale = codec.settings, codec.stride
    order = grouping_order(codec.skeleton.names)
    photos = []
    for heatmaps, tags in zip(maps.heatmaps, maps.tags, strict=True):
        large = F.interpolate(heatmaps[None], scale_factor=scale, mode="bilinear")[0]
        large_tags = F.interpolate(tags.flatten(0, 1)[None], scale_factor=scale, mode="bilinear")[0]
        large_tags = large_tags.unflatten(0, tags.shape[:2])
        pooled = F.max_pool2d(large[None], PEAK_WINDOW, 1, PEAK_WINDOW // 2)[0]
        heights, index = torch.where(pooled == large, large, 0.0).flatten(1).topk(cfg.candidates, dim=1)
        own = large_tags.flatten(2).gather(2, index[:, None].expand(-1, tags.shape[1], -1)).transpose(1, 2)
        members = group(heights.numpy(), own.numpy(), order, cfg)
        maps_np, tags_np = large.numpy(), large_tags.numpy()
        photos.append(
            [_ae_person(row, heights.numpy(), index.numpy(), maps_np, tags_np, scale) for row in members]
        )
    return photos


def _ae_person(
    row: np.ndarray,
    heights: np.ndarray,
    index: np.ndarray,
    heatmaps: np.ndarray,
    tags: np.ndarray,
    scale: int,
) -> Person:
    """A person from its candidates (K,), with the keypoints that it lacks."""
    width = heatmaps.shape[-1]
    found = np.flatnonzero(row >= 0)
    cells = np.where(row >= 0, index[np.arange(len(row)), row], 0)
    confidence = np.where(row >= 0, heights[np.arange(len(row)), row], 0.0)
    score = float(confidence.mean())
    mean = np.mean([tags[k, :, cells[k] // width, cells[k] % width] for k in found], axis=0)
    for k in np.flatnonzero(row < 0):
        distance = np.sqrt(((tags[k] - mean[:, None, None]) ** 2).sum(0))
        cells[k] = (heatmaps[k] - distance.round()).argmax()
        confidence[k] = heatmaps[k].flat[cells[k]]
    large = np.stack((cells % width, cells // width), axis=-1)
    return Person((large + 0.5) / scale - 0.5, confidence, score)


# --- DEKR


def dekr_targets(
    codec: DEKRCodec, photos: list[Photo], hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Heatmaps and weights (N, K + 1, h, w), dense offsets (N, 2 K, h, w) and weights (N, 2 K, h, w)."""
    cfg, height, width = codec.settings, *hw
    rows = []
    for photo in photos:
        num_keypoints = photo.points.shape[1]
        heatmaps = np.zeros((num_keypoints + 1, *hw), np.float32)
        heatmaps[:-1] = keypoint_heatmaps(photo, hw, cfg.sigma)
        offsets = np.zeros((num_keypoints, 2, *hw), np.float32)
        weights, owner = np.zeros((num_keypoints, *hw), np.float32), np.full(hw, np.inf, np.float32)
        for points, marked in zip(photo.points, photo.marked, strict=True):
            if not marked.any():
                continue
            diagonal = float(np.linalg.norm(points[marked].max(0) - points[marked].min(0)))
            if num_keypoints > 1 and diagonal < cfg.least_diagonal:
                continue
            centre = points[marked].mean(0)
            draw(heatmaps[-1], centre, cfg.centre_sigma)
            x0, y0 = (math.floor(value + 0.5) for value in centre.tolist())
            for y in range(max(0, y0 - cfg.offset_radius), min(height, y0 + cfg.offset_radius + 1)):
                for x in range(max(0, x0 - cfg.offset_radius), min(width, x0 + cfg.offset_radius + 1)):
                    if diagonal < owner[y, x]:
                        owner[y, x] = diagonal
                        offsets[:, :, y, x] = np.where(marked[:, None], points - (x, y), 0)
                        weights[:, y, x] = marked / max(diagonal, LEAST_DIAGONAL_CELLS)
        cell_weights = np.where(heatmaps > 0, np.float32(1), np.float32(cfg.background_weight))
        rows.append((heatmaps, cell_weights, offsets.reshape(-1, *hw), weights.repeat(2, axis=0)))
    stacked = [torch.from_numpy(np.stack(maps)) for maps in zip(*rows, strict=True)]
    return stacked[0], stacked[1], stacked[2], stacked[3]


def dekr_loss(codec: DEKRCodec, maps: DEKRMaps, targets: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The sum of the heatmap loss and the offset loss on dense maps."""
    heatmaps, cell_weights, offsets, weights = targets
    loss = (cell_weights * (maps.heatmaps - heatmaps) ** 2).mean()
    errors = F.smooth_l1_loss(maps.offsets, offsets, beta=SMOOTH_L1_BETA, reduction="none") * weights
    return loss + codec.settings.offset_weight * errors.sum() / (weights > 0).sum().clamp(min=1)


def dekr_decode(codec: DEKRCodec, maps: DEKRMaps) -> list[list[Person]]:
    """People of each photo; duplicates are dropped in loops over people."""
    cfg = codec.settings
    photos = []
    for heatmaps, offsets in zip(maps.heatmaps, maps.offsets, strict=True):
        cells, peaks = _centres(heatmaps[-1], cfg.candidates, cfg.least_centre)
        own = offsets[:, cells[:, 1], cells[:, 0]].T.unflatten(1, (-1, 2))
        points = (cells[:, None] + own).numpy()
        people = []
        for person, peak in zip(points, peaks.tolist(), strict=True):
            confidence = np.array([_bilinear(heatmaps[k], person[k]) for k in range(len(person))])
            people.append(Person(person, confidence, peak * float(confidence.mean())))
        photos.append(_without_near(people))
    return photos


def _centres(centre_map: Tensor, count: int, least: float) -> tuple[Tensor, Tensor]:
    """Cells (Q, 2) and values (Q,) of the peaks of a map of centres (h, w)."""
    pooled = F.max_pool2d(centre_map[None, None], 3, 1, 1)[0, 0]
    peaks, index = torch.where(pooled == centre_map, centre_map, 0.0).flatten().topk(count)
    index, peaks = index[peaks > least], peaks[peaks > least]
    return torch.stack((index % centre_map.shape[1], index // centre_map.shape[1]), dim=-1), peaks


def _bilinear(heatmap: Tensor, point: np.ndarray) -> float:
    """The height of a heatmap (h, w) at a point (2,) in cells; 0 outside."""
    values = heatmap.numpy()
    x0, y0 = math.floor(point[0]), math.floor(point[1])
    total = 0.0
    for y in (y0, y0 + 1):
        for x in (x0, x0 + 1):
            if 0 <= y < values.shape[0] and 0 <= x < values.shape[1]:
                total += values[y, x] * (1 - abs(point[0] - x)) * (1 - abs(point[1] - y))
    return max(total, 0.0)


def _without_near(people: list[Person]) -> list[Person]:
    """From the highest score down, people who share at most half of their keypoints with one that stays."""
    kept: list[Person] = []
    for person in sorted(people, key=lambda each: -each.score):
        for other in kept:
            spans = [float(np.linalg.norm(p.points.max(0) - p.points.min(0))) for p in (person, other)]
            reach = NEAR * max(*spans, LEAST_DIAGONAL_CELLS)
            near = np.linalg.norm(person.points - other.points, axis=1) < reach
            if near.sum() > len(near) // 2:
                break
        else:
            kept.append(person)
    return kept


# --- CID


def cid_targets(
    codec: CIDCodec, photos: list[Photo], hw: tuple[int, int]
) -> tuple[Tensor, list[list[tuple[np.ndarray, tuple[int, int]]]]]:
    """Heatmaps (N, K + 1, h, w); for each photo the own heatmaps (K, h, w) and the centre of each person."""
    heatmaps, people = [], []
    for photo in photos:
        num_keypoints = photo.points.shape[1]
        maps, own_maps = np.zeros((num_keypoints + 1, *hw), np.float32), []
        for points, marked, sides in zip(photo.points, photo.marked, photo.sides, strict=True):
            radius = _radius(np.ceil(sides - ROUNDING_CELLS))
            sigma = (2 * radius + 1) / 6
            own = np.zeros((num_keypoints + 1, *hw), np.float32)
            centre = points[marked].mean(0) if marked.any() else None
            for k in np.flatnonzero(marked):
                draw(own[k], np.floor(points[k] + 0.5), sigma)
            if centre is not None and sides.prod() * codec.stride**2 >= codec.settings.least_area:
                middle = np.floor(centre + 0.5)
                if (middle >= 0).all() and middle[0] < hw[1] and middle[1] < hw[0]:
                    draw(own[-1], middle, sigma)
                    own_maps.append((own[:-1], (int(middle[0]), int(middle[1]))))
            np.maximum(maps, own, out=maps)
        heatmaps.append(maps)
        people.append(own_maps)
    return torch.from_numpy(np.stack(heatmaps)), people


def _radius(sides: np.ndarray) -> int:
    total, product = float(sides.sum()), float(sides.prod())
    roots = []
    for a, b, c in (
        (1, total, product * (1 - OVERLAP) / (1 + OVERLAP)),
        (4, 2 * total, (1 - OVERLAP) * product),
        (4 * OVERLAP, -2 * OVERLAP * total, (OVERLAP - 1) * product),
    ):
        roots.append((b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / 2)
    return max(0, math.floor(min(roots)))


def cid_decode(codec: CIDCodec, maps: CIDMaps) -> list[list[Person]]:
    """People of each photo; duplicates are dropped by similarity in loops over people."""
    cfg, photos = codec.settings, []
    for n, heatmaps in enumerate(maps.heatmaps):
        centre_map = heatmaps[-1:]
        centre_map = (centre_map + F.avg_pool2d(centre_map, 3, 1, 1)) / 2
        cells, peaks = _centres(centre_map[0], cfg.candidates, cfg.least_centre)
        own = maps.read(torch.full((len(cells),), n), cells).heatmaps
        smooth = (own + F.avg_pool2d(own, 3, 1, 1)) / 2
        people = []
        for person, peak in zip(smooth.numpy(), peaks.tolist(), strict=True):
            points, heights = _peaks(person)
            people.append(Person(points, heights * peak, float((heights * peak).mean())))
        photos.append(_without_similar(people, codec))
    return photos


def _peaks(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, 2), a quarter of a cell toward the higher neighbour, and heights (K,)."""
    height, width = heatmaps.shape[1:]
    points, heights = np.zeros((len(heatmaps), 2)), np.zeros(len(heatmaps))
    for k, heatmap in enumerate(heatmaps):
        y, x = divmod(int(heatmap.argmax()), width)
        heights[k] = heatmap[y, x]
        points[k] = x, y
        if heights[k] > 0 and 1 < x < width - 1 and 1 < y < height - 1:
            points[k] += 0.25 * np.sign(
                (heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x])
            )
    return points, heights


def _without_similar(people: list[Person], codec: CIDCodec) -> list[Person]:
    variances = (2 * np.array(codec.skeleton.sigmas)) ** 2
    kept: list[Person] = []
    for person in sorted(people, key=lambda each: -each.score):
        for other in kept:
            areas = [
                max(float(np.ptp(p.points * codec.stride, axis=0).prod()), LEAST_AREA)
                for p in (person, other)
            ]
            squared = ((person.points - other.points) ** 2).sum(-1) * codec.stride**2
            if np.exp(-squared / (2 * variances * np.mean(areas))).mean() > codec.settings.duplicate_oks:
                break
        else:
            kept.append(person)
    return kept
