"""Pseudo people: which of a teacher's people teach the student, which are left out, and with which keypoints.

Two answers of the teacher, to the weak view and to its mirror image, must agree on a keypoint; a person needs
enough such keypoints, a mean agreement and a score. Everything is batched and stays on
the device. Shape letters: pipelines/batch.py; in addition Q decoded people of a photo.
"""

import math
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.models.codecs.instances import LEAST_AREA, InstanceCodec, Instances, masked_mean
from semipose.models.codecs.on_device import on_device
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.geometry import apply
from semipose.pipelines.people import FoundPeople
from semipose.pipelines.strong.scene import Scene

Share = Annotated[float, Field(ge=0, le=1)]
THINNEST = 4
"""A person's box is at most this many times as long as it is wide: one in a line still has an area."""
LEAST_CONFIDENCE = 0.05
"""Keypoints of ignored people above this confidence keep heatmaps from being taught around them."""


@settings
class GateSettings:
    """Which keypoints of a teacher's people count, and which people."""

    min_confidence: Annotated[float, Field(ge=0)] = 0.3
    """A keypoint counts from this confidence on."""
    agreement: Share = 0.5
    """A keypoint counts if its similarity (that of OKS) in the answers to the weak view and to its mirror
    image is at least this."""
    person_agreement: Share = 0.7
    """People are kept if the mean similarity of the keypoints that count is at least this."""
    min_keypoints: Annotated[int, Field(ge=1)] | None = None
    """People are kept with at least this many keypoints that count; null: a fifth of all, rounded up."""
    area_share: Annotated[float, Field(gt=0)] = 0.7
    """A person's area as a share of the box of its keypoints, for the similarity."""

    def least_keypoints(self, num_keypoints: int) -> int:
        """The least number of keypoints of a person that is kept."""
        return self.min_keypoints or math.ceil(num_keypoints / 5)


class PseudoPeople(NamedTuple):
    """A teacher's people of the weak views, after the gates."""

    people: Instances
    """All that were decoded."""
    is_confident: Tensor
    """(N, Q, K) bool: keypoints that are high enough."""
    keypoints: Tensor
    """(N, Q, K) bool: keypoints that count: the answers also agree on them."""
    agreement: Tensor
    """(N, Q, K) float32: the similarity of the two answers, 1 where they are equal."""
    score: Tensor
    """(N, Q) float32: the codec's `pseudo_score`; 0 where nobody exists."""
    is_sound: Tensor
    """(N, Q) bool: people with enough keypoints that count, on which the answers agree."""

    def decide(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Return who is kept and who is ignored, (N, Q) bool; the others are dropped."""
        keep = self.is_sound & (self.score >= high)
        return keep, self.people.exists & (self.score >= low) & ~keep

    def terms(self, keep: Tensor, ignore: Tensor) -> dict[str, Tensor]:
        """Return people per photo by what became of them, keypoints per kept person, and agreement."""
        num_photos, exists = len(keep), self.people.exists
        kept, ignored, decoded = (people.sum() for people in (keep, ignore, exists))
        return {
            "kept_people": kept / num_photos,
            "ignored_people": ignored / num_photos,
            "dropped_people": (decoded - kept - ignored) / num_photos,
            "trusted_share": kept / decoded.clamp(min=1),
            "kept_keypoints": (self.keypoints & keep[..., None]).sum() / kept.clamp(min=1),
            "agreement": masked_mean(self.agreement.flatten(), self.is_confident.flatten()),
        }


@torch.no_grad()
def pseudo_people(
    cfg: GateSettings, codec: InstanceCodec, plain: Any, mirrored: Any, merged: Any
) -> PseudoPeople:
    """Decode two answers in the frame of the weak view as one, and judge people and keypoints."""
    with torch.autocast(merged.heatmaps.device.type, enabled=False):
        people = codec.decode(merged)
        distance = codec.distance(plain, mirrored, people)
    is_confident = (people.confidence >= cfg.min_confidence) & people.exists[..., None]
    area = (cfg.area_share * box_area(people.points_xy, is_confident)).clamp(min=LEAST_AREA)
    reach = 2 * on_device(codec.skeleton.sigmas, area.device)
    agreement = torch.exp(-(distance**2) / (2 * area[..., None] * reach**2))
    keypoints = is_confident & (agreement >= cfg.agreement)
    is_sound = keypoints.sum(-1) >= cfg.least_keypoints(keypoints.shape[-1])
    is_sound &= masked_mean(agreement, keypoints) >= cfg.person_agreement
    score = torch.where(people.exists, codec.pseudo_score(people, keypoints), 0.0)
    return PseudoPeople(people, is_confident, keypoints, agreement, score, is_sound)


def box_area(points_xy: Tensor, counted: Tensor) -> Tensor:
    """Return the area (N, Q) of the box of points (N, Q, K, 2) where counted (N, Q, K), at most 4 times as
    long as it is wide."""
    low = torch.where(counted[..., None], points_xy, torch.inf).amin(-2)
    high = torch.where(counted[..., None], points_xy, -torch.inf).amax(-2)
    sides = torch.where(counted.any(-1)[..., None], high - low, 0.0)
    return torch.maximum(sides, sides.flip(-1) / THINNEST).prod(-1)


def is_inside(points_xy: Tensor, view_hw: tuple[int, int]) -> Tensor:
    """Return which points (..., 2), view px, are on a view's pixels, (...) bool."""
    x, y = points_xy.unbind(-1)
    return (x >= 0) & (x <= view_hw[1] - 1) & (y >= 0) & (y <= view_hw[0] - 1)


def in_strong_view(
    cfg: GateSettings,
    pseudo: PseudoPeople,
    keep: Tensor,
    ignore: Tensor,
    unlabelled: UnlabelledBatch,
    stride: float,
) -> tuple[FoundPeople, FoundPeople]:
    """Move the people who are kept and ignored into the strong view, and the centres of their maps.

    Keypoints outside the view are left out, and then kept people with too few of them. The visibility of a
    keypoint is the teacher's confidence, at most 1. Nobody has a box. stride: view px between two cells.
    """
    people, view_hw = pseudo.people, (unlabelled.strong.shape[-2], unlabelled.strong.shape[-1])
    points = apply(unlabelled.strong_from_weak, people.points_xy.flatten(1, 2)).view_as(people.points_xy)
    is_shown = is_inside(points, view_hw)
    keypoints = pseudo.keypoints & is_shown
    keep = keep & (keypoints.sum(-1) >= cfg.least_keypoints(keypoints.shape[-1]))
    visible = torch.where(keypoints, people.confidence.clamp(max=1), 0.0)
    faint = ((people.confidence > LEAST_CONFIDENCE) & is_shown).float()
    corners = points.new_zeros(*keep.shape, 4, 2)
    centres = apply(unlabelled.strong_from_weak, stride * people.cells.float())
    kept = FoundPeople(points, visible, keep, corners, centres)
    return kept, FoundPeople(points, faint, ignore, corners, centres)


def scene_of(pseudo: PseudoPeople, unlabelled: UnlabelledBatch) -> Scene:
    """Return the scene for the augmentations: everybody's keypoints (N, Q K), NaN for those of nobody."""
    people = pseudo.people
    points = torch.where(pseudo.is_confident[..., None], people.points_xy, torch.nan)
    confidence = torch.where(pseudo.is_confident, people.confidence, 0.0)
    return Scene(unlabelled.strong, confidence.flatten(1), points.flatten(1, 2), unlabelled.strong_from_weak)
