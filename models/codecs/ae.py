"""Associative embedding: keypoints of everybody, and a tag for each that says whose it is.

Newell et al., Associative Embedding, NeurIPS 2017, and, with heatmaps at stride 2 as well, HigherHRNet (Cheng
et al., CVPR 2020). A network answers with K heatmaps and K maps of tags, L numbers a cell. Keypoints of one
person are taught to have one tag, people different ones. Layers: models/heads/ae.py. Points are in view
pixels. All but the grouping is batched, on the device, in float32. Q: candidates of a keypoint, or people.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import DecodeMethod, heatmap_loss, peak_step
from semipose.models.codecs.instances import (
    InstanceCodec,
    Instances,
    encode_people,
    find_local_peaks,
    flat_index,
    masked_mean,
)
from semipose.models.codecs.on_device import on_device
from semipose.pipelines.people import People
from semipose.sharding.annotations.flip_pairs import plain_name
from semipose.sharding.annotations.skeleton import Skeleton

PEAK_WINDOW = 5
"""A candidate is the highest of this many cells in a square (published)."""
REACH_CELLS = 2
"""How far from a keypoint, in cells of the codec, two answers are searched for it when they are compared."""
GROUPING_ORDER = (
    ("nose", "eye", "ear", "head", "neck", "thorax", "pelvis"),
    *(("shoulder",), ("hip",), ("elbow",), ("wrist",), ("knee",), ("ankle",)),
)
"""Words in the names of keypoints: people are put together from head and trunk outward (published)."""


@settings
class AESettings:
    """How people of whole photos are taught and read: keypoints, and tags that say who belongs together."""

    name: Literal["ae"] = "ae"
    sigma: Annotated[float, Field(gt=0)] = 2.0
    """Standard deviation of the Gaussians in cells of the map that they are drawn into."""
    background_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of heatmap cells that are far from every keypoint of their channel; those near one have 1."""
    pull_weight: Annotated[float, Field(ge=0)] = 1e-3
    """Weight of the distance between a person's tags and their mean."""
    push_weight: Annotated[float, Field(ge=0)] = 1e-3
    """Weight of the nearness of two people's mean tags."""
    decode: DecodeMethod = "shift"
    """How a keypoint is read off: the quarter shift (published), or DARK's Newton step."""
    candidates: Annotated[int, Field(ge=1)] = 30
    """How many candidates of a keypoint are read, and how many people are decoded from a photo at most."""
    least_peak: Annotated[float, Field(ge=0)] = 0.1
    """Candidates no higher than this are not keypoints."""
    tag_distance: Annotated[float, Field(gt=0)] = 1.0
    """A keypoint whose tag is this far from every person's mean tag, or farther, starts another person."""

    def build(self, skeleton: Skeleton, generator: torch.Generator | None = None) -> "AECodec":
        """Return the codec."""
        return AECodec(self, skeleton, generator=generator)


class AEMaps(NamedTuple):
    """What the head answers."""

    heatmaps: Tensor
    """(N, K, h, w) float32."""
    tags: Tensor
    """(N, K, L, h, w) float32."""
    fine: Tensor | None
    """(N, K, 2 h, 2 w) float32: heatmaps at half the stride S, whose cell j sits at view px S / 2 j - S / 4.
    The two cells of a coarse one are on both its sides, as after a transposed convolution, so that a mirror
    image moves cell j to 2 w - 1 - j exactly."""


class AETargets(NamedTuple):
    """What is taught."""

    heatmaps: Tensor
    """(N, K, h, w) float32."""
    points_xy: Tensor
    """(N, M, K, 2) float32 view px, for heatmaps of other strides."""
    marked: Tensor
    """(N, M, K) bool."""
    tag_cells: Tensor
    """(N, M, K) int64: the cell nearest to each keypoint, in reading order; 0 where it has no weight."""
    tag_weights: Tensor
    """(N, M, K) float32: the keypoint's visibility; 0 outside the map."""


class Candidates(NamedTuple):
    """Keypoints that are nobody's yet, the highest first; Q of each of K kinds."""

    points_xy: Tensor
    """(N, K, Q, 2) float32 view px."""
    peaks: Tensor
    """(N, K, Q) float32; 0 where there are no more."""
    tags: Tensor
    """(N, K, Q, L) float32."""


@dataclass(frozen=True)
class AECodec(InstanceCodec):
    """What the maps of a network mean, with a cell every `stride` view px."""

    settings: AESettings

    def targets(self, people: People, map_hw: tuple[int, int]) -> AETargets:
        """Return what maps of size (h, w) should be."""
        height, width = map_hw
        marked = people.marked
        points = torch.where(marked[..., None], people.points_xy.float(), 0.0)
        heatmaps = encode_people(points, marked, map_hw, self.stride, self.settings.sigma)
        cells = (points / self.stride + 0.5).floor()
        x, y = cells.unbind(-1)
        has_tag = marked & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = flat_index(torch.where(has_tag[..., None], cells, 0.0), width)
        return AETargets(heatmaps, points, marked, index, torch.where(has_tag, people.visible.float(), 0.0))

    def loss(self, maps: AEMaps, targets: AETargets, counted: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms, float32 scalars: `heatmaps`, `pull`, `push`, and `fine` where it is.

        heatmaps, fine: mean over photos, keypoints and cells of w (H - T)^2. pull, push: `instance_losses`.
        `counted` (N, 1, h, w): cells of weight 0 teach nothing.
        """
        terms = {"heatmaps": self._heatmap_loss(maps.heatmaps, targets.heatmaps, counted)}
        if maps.fine is not None:
            fine_counted = counted.repeat_interleave(2, -1).repeat_interleave(2, -2)
            terms["fine"] = self._heatmap_loss(
                maps.fine, self.target_heatmaps(targets, maps)[1], fine_counted
            )
        return terms | self.instance_losses(maps, targets, counted)

    def instance_losses(self, maps: AEMaps, targets: AETargets, counted: Tensor) -> dict[str, Tensor]:
        """Return `pull` and `push`.

        pull: the squared distance of a person's tags from their mean, averaged over keypoints, people and
        photos. push: half the mean over pairs of people in a photo of exp(-d^2), d being the distance of
        their mean tags, averaged over photos; 0 for fewer than two people.
        """
        pull, push = tag_losses(maps.tags, targets.tag_cells, targets.tag_weights, counted)
        return {"pull": self.settings.pull_weight * pull, "push": self.settings.push_weight * push}

    def heatmaps(self, maps: AEMaps) -> tuple[Tensor, ...]:
        """Return the heatmaps, and the fine ones where there are any."""
        return (maps.heatmaps,) if maps.fine is None else (maps.heatmaps, maps.fine)

    def target_heatmaps(self, targets: AETargets, maps: AEMaps) -> tuple[Tensor, ...]:
        """Return the heatmaps of `targets` for every resolution of `maps`."""
        if maps.fine is None:
            return (targets.heatmaps,)
        fine_hw = maps.fine.shape[-2], maps.fine.shape[-1]
        # Fine cell j sits at S / 2 j - S / 4: points move by S / 4 to where cell j sits at S / 2 j.
        points = targets.points_xy + self.stride / 4
        fine = encode_people(points, targets.marked, fine_hw, self.stride / 2, self.settings.sigma)
        return targets.heatmaps, fine

    def _heatmap_loss(self, predicted: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        weights = torch.where(target > 0, 1.0, self.settings.background_weight)
        return 2 * heatmap_loss(predicted, target, weights * counted)

    @torch.no_grad()
    def decode(self, maps: AEMaps, *, fill_missing: bool = False) -> Instances:
        """Read people off the maps, at most `candidates` in a photo.

        Candidates are the highest local peaks of each heatmap, at half the stride of the mean of both where
        there are fine ones. They go to the host in one copy, where `group` puts people together by their
        tags. A person's score is the mean confidence of all K keypoints, 0 for those not found.
        `fill_missing` then gives each such keypoint the cell whose height minus the rounded distance of its
        tag is highest (HigherHRNet's refinement): for scoring, and not for teaching, as it invents keypoints.
        Differs from HigherHRNet: maps are read at their own size, not at the input's.
        """
        with torch.autocast(maps.heatmaps.device.type, enabled=False):
            heatmaps, scale = _finest(maps)
            people, tags = self._put_together(self._candidates(maps, heatmaps, scale))
            return self._fill_missing(people, tags, maps, heatmaps, scale) if fill_missing else people

    def people_of(self, candidates: Candidates) -> Instances:
        """Put people together from candidates: all of `decode` that the host does."""
        return self._put_together(candidates)[0]

    def _put_together(self, candidates: Candidates) -> tuple[Instances, Tensor]:
        """The people, at most Q of a photo, and their mean tags (N, Q, L)."""
        fields = (candidates.points_xy, candidates.peaks[..., None], candidates.tags)
        packed = torch.cat(fields, dim=-1).cpu().numpy()
        order = grouping_order(self.skeleton.names)
        photos = [_people_of(photo, order, self.settings) for photo in packed]
        num_people = candidates.peaks.shape[-1]  # Q, the same for every batch of this size
        arrays = (_padded([photo[i] for photo in photos], num_people) for i in range(4))
        xy, confidence, score, tags = (torch.from_numpy(a).to(candidates.peaks.device) for a in arrays)
        cells = torch.zeros((*score.shape, 2), dtype=torch.int64, device=score.device)
        return Instances(xy, confidence, score, score > 0, cells), tags

    @torch.no_grad()
    def candidates(self, maps: AEMaps) -> Candidates:
        """The highest local peaks of each heatmap, and their tags: all of `decode` that the device does."""
        with torch.autocast(maps.heatmaps.device.type, enabled=False):
            return self._candidates(maps, *_finest(maps))

    def _candidates(self, maps: AEMaps, heatmaps: Tensor, scale: int) -> Candidates:
        highest = find_local_peaks(heatmaps, self.settings.candidates, PEAK_WINDOW)
        points = self._view_points(heatmaps, highest.points_hm, scale)
        tags = _tags_at(maps.tags.float(), (highest.points_hm / scale).floor())
        return Candidates(points, highest.peaks, tags)

    def _view_points(self, heatmaps: Tensor, cells: Tensor, scale: int) -> Tensor:
        """Cells (N, K, Q, 2) of heatmaps `scale` times as fine as the codec's, as points in view px."""
        step = peak_step(heatmaps, cells, method=self.settings.decode, sigma=self.settings.sigma)
        return (cells + step) * (self.stride / scale) - self.stride * (scale - 1) / (2 * scale)

    def _fill_missing(
        self, people: Instances, tags: Tensor, maps: AEMaps, heatmaps: Tensor, scale: int
    ) -> Instances:
        """Give people the keypoints that they lack; tags (N, Q, L) are their means."""
        points, confidence = people.points_xy.clone(), people.confidence.clone()
        width = heatmaps.shape[-1]
        for n in range(len(heatmaps)):
            q, k = ((confidence[n] == 0) & people.exists[n, :, None]).nonzero().unbind(-1)
            if not len(q):
                continue
            distance = (maps.tags[n, k].float() - tags[n, q][..., None, None]).norm(dim=1).round()
            distance = distance.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
            index = (heatmaps[n, k] - distance).flatten(1).argmax(-1)
            heights = heatmaps[n, k].flatten(1).gather(1, index[:, None])[:, 0]
            cells = torch.stack((index % width, index // width), dim=-1).float()[:, None]
            filled = self._view_points(heatmaps[n, k][:, None], cells, scale)[:, 0]
            points[n, q, k] = torch.where((heights > 0)[:, None], filled, 0.0)
            confidence[n, q, k] = heights.clamp(min=0)
        return people._replace(points_xy=points, confidence=confidence)

    def mirror(self, maps: AEMaps) -> AEMaps:
        """Return the maps of mirror images as maps of the images, left and right exchanged."""
        order = on_device(self.skeleton.flip_order, maps.heatmaps.device)
        fine = None if maps.fine is None else maps.fine.flip(-1)[:, order]
        return AEMaps(maps.heatmaps.flip(-1)[:, order], maps.tags.flip(-1)[:, order], fine)

    def restrict(self, maps: AEMaps, inside: Tensor) -> AEMaps:
        """Return the maps with 0 in the heatmaps where inside (N, 1, h, w) bool is false: nobody is there."""
        fine = None
        if maps.fine is not None:
            fine_inside = inside.repeat_interleave(2, -1).repeat_interleave(2, -2)
            fine = maps.fine.masked_fill(~fine_inside, 0.0)
        return maps._replace(heatmaps=maps.heatmaps.masked_fill(~inside, 0.0), fine=fine)

    def merge(self, plain: AEMaps, mirrored: AEMaps) -> AEMaps:
        """Return the mean of two answers' heatmaps, and the tags of both side by side (flip test).

        Two answers need not give a person the same tag, so their mean would mean nothing.
        """
        fine = None
        if plain.fine is not None and mirrored.fine is not None:
            fine = (plain.fine + mirrored.fine) / 2
        tags = torch.cat((plain.tags, mirrored.tags), dim=2)
        return AEMaps((plain.heatmaps + mirrored.heatmaps) / 2, tags, fine)

    def distance(self, plain: AEMaps, mirrored: AEMaps, people: Instances) -> Tensor:
        """Return the distance of the highest cells that two answers have near each keypoint, (N, Q, K) px."""
        return (self._found_near(plain, people) - self._found_near(mirrored, people)).norm(dim=-1)

    def _found_near(self, maps: AEMaps, people: Instances) -> Tensor:
        """Return the point (N, Q, K, 2), view px, of the highest cell within REACH_CELLS of each keypoint."""
        heatmaps, scale = _finest(maps)
        height, width = heatmaps.shape[-2:]
        points = people.points_xy.transpose(1, 2) + self.stride * (scale - 1) / (2 * scale)
        cells = (points * (scale / self.stride) + 0.5).floor()  # (N, K, Q, 2)
        reach = torch.arange(-REACH_CELLS * scale, REACH_CELLS * scale + 1, device=heatmaps.device)
        square = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), dim=-1).view(-1, 2)
        x, y = (cells[..., None, :] + square).unbind(-1)  # (N, K, Q, A)
        near = torch.stack((x.clamp(0, width - 1), y.clamp(0, height - 1)), dim=-1)
        index = flat_index(near, width)
        heights = heatmaps.flatten(2).gather(2, index.flatten(2)).view_as(index)
        highest = heights.argmax(-1)[..., None, None].expand(-1, -1, -1, 1, 2)
        return self._view_points(heatmaps, near.gather(3, highest)[..., 0, :], scale).transpose(1, 2)

    def pseudo_score(self, people: Instances, keypoints: Tensor) -> Tensor:
        """Return the mean confidence of the trusted keypoints, (N, Q), less where fewer than half are."""
        share = keypoints.sum(-1) / (keypoints.shape[-1] / 2)
        return masked_mean(people.confidence, keypoints) * share.clamp(max=1)


def tag_losses(tags: Tensor, cells: Tensor, weights: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return pull and push (see `AECodec.loss`) without their factors.

    tags (N, K, L, h, w); cells (N, M, K) int64 and weights (N, M, K) of the keypoints; counted (N, 1, h, w).
    """
    weights = weights * counted.flatten(1).gather(1, cells.flatten(1)).view_as(weights)
    index = cells.transpose(1, 2)[:, :, None].expand(-1, -1, tags.shape[2], -1)
    values = tags.float().flatten(-2).gather(-1, index).permute(0, 3, 1, 2)  # (N, M, K, L)
    total = weights.sum(-1)
    exists = (total > 0).float()
    share = weights / torch.where(total > 0, total, 1.0)[..., None]
    means = (share[..., None] * values).sum(2)  # (N, M, L)
    spread = (share * (values - means[:, :, None]).square().sum(-1)).sum(-1)
    count = exists.sum(-1)
    pull = ((spread * exists).sum(-1) / count.clamp(min=1)).mean()
    nearness = torch.exp(-(means[:, :, None] - means[:, None]).square().sum(-1))
    others = 1 - torch.eye(means.shape[1], device=means.device)
    pairs = exists[:, :, None] * exists[:, None] * others
    push = 0.5 * ((nearness * pairs).sum((1, 2)) / (count * (count - 1)).clamp(min=1)).mean()
    return pull, push


def _finest(maps: AEMaps) -> tuple[Tensor, int]:
    """Return heatmaps at the finest resolution and by how much it is finer than that of the tags."""
    if maps.fine is None:
        return maps.heatmaps.float(), 1
    coarse = F.interpolate(maps.heatmaps.float(), scale_factor=2.0, mode="bilinear")
    return (coarse + maps.fine.float()) / 2, 2


def _tags_at(tags: Tensor, cells: Tensor) -> Tensor:
    """Return the tags (N, K, Q, L) of maps (N, K, L, h, w) at cells (N, K, Q, 2)."""
    index = flat_index(cells, tags.shape[-1])[:, :, None].expand(-1, -1, tags.shape[2], -1)
    return tags.flatten(-2).gather(-1, index).transpose(2, 3)


def grouping_order(names: tuple[str, ...]) -> list[int]:
    """Return the keypoints in the order in which people are put together, by the words in their names."""

    def rank(name: str) -> int:
        parts = set(plain_name(name))
        parts |= {part[1:] for part in parts - {"rear"} if part[:1] in ("l", "r")}  # as in `lknee`
        ranks = (i for i, words in enumerate(GROUPING_ORDER) if parts & set(words))
        return next(ranks, len(GROUPING_ORDER))

    return sorted(range(len(names)), key=lambda k: rank(names[k]))  # names without a word come last, in order


def group(heights: np.ndarray, tags: np.ndarray, order: list[int], cfg: AESettings) -> np.ndarray:
    """Put the people of one photo together from candidates, keypoint after keypoint (Newell et al.).

    heights (K, Q) and tags (K, Q, L) of the candidates. The candidates of a keypoint are assigned to the
    people so far at the least sum of 100 round(d) - height, d being the distance from a person's mean tag; a
    pair with d below `tag_distance` joins, every other candidate starts a person. Returns (P, K) int64: each
    person's candidates, -1 for none.

    Differs from the published code: all pairs that do not join cost the same, a little more than the farthest
    that do. By their distances, candidate 1 joins person 1 or starts another person at the same sum where
    person 0 lacks the keypoint and candidate 2 is new: |1 - 1| + |2 - 0| = |1 - 0| + |2 - 1|. Of equal sums
    that of the nearer tags (squared distances) counts. And people are not found by their first tag in a
    dictionary, where one of two with the same tag is lost.
    """
    # It takes 0.4 s to import, and every command imports this file.
    from scipy.optimize import linear_sum_assignment

    num_keypoints, _, tag_size = tags.shape
    people = np.full((0, num_keypoints), -1)
    sums, counts = np.zeros((0, tag_size)), np.zeros((0, 1))
    for k in order:
        rows = np.flatnonzero(heights[k] > cfg.least_peak)
        person = np.full(len(rows), -1)
        if len(rows) and len(people):
            distance = np.linalg.norm(tags[k, rows, None] - sums / counts, axis=-1)
            is_near = distance < cfg.tag_distance
            near = np.round(distance) + 1e-5 * distance**2
            far = np.round(cfg.tag_distance) + 0.5
            cost = 100 * np.where(is_near, near, far) - heights[k, rows, None]
            row, column = linear_sum_assignment(cost)
            joins = is_near[row, column]
            person[row[joins]] = column[joins]
        starts = person < 0
        count = int(starts.sum())
        person[starts] = len(people) + np.arange(count)
        people = np.concatenate((people, np.full((count, num_keypoints), -1)))
        sums = np.concatenate((sums, np.zeros((count, tag_size))))
        counts = np.concatenate((counts, np.zeros((count, 1))))
        people[person, k] = rows
        sums[person] += tags[k, rows]
        counts[person] += 1
    return people


def _people_of(photo: np.ndarray, order: list[int], cfg: AESettings) -> tuple[np.ndarray, ...]:
    """Group one photo's candidates (K, Q, 3 + L): x, y, height, tag.

    Returns points (P, K, 2), confidences (P, K), scores (P,) and mean tags (P, L), the highest scores first.
    """
    members = group(photo[..., 2], photo[..., 3:], order, cfg)
    has = members >= 0
    chosen = np.where(has[..., None], photo[np.arange(len(photo)), members], 0)  # (P, K, 3 + L)
    score = chosen[..., 2].mean(-1)
    tags = chosen[..., 3:].sum(1) / has.sum(1, keepdims=True)
    best = np.argsort(-score, kind="stable")
    return chosen[best, :, :2], chosen[best, :, 2], score[best], tags[best]


def _padded(arrays: list[np.ndarray], length: int) -> np.ndarray:
    """Stack arrays (P, ...), cut or filled with zeros to (length, ...), as float32."""
    padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]), np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array[:length]
    return padded
