"""What a loader hands to a training step.

Shape letters used in the whole project:

    N samples   M people   K keypoints   H W view pixels   h w heatmap cells   S stride = H / h

Images are float32 (N, 3, H, W), RGB, normalised by ImageNet's mean and deviation, and channels-last in
memory. Frames and matrices: pipelines/geometry.py.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LabelledBatch:
    """One random view a person, with the truth moved into it."""

    image: Tensor
    """(N, 3, H, W) float32, normalised."""
    points_xy: Tensor
    """(N, K, 2) float32 in view pixels; meaningless where `visible` is 0."""
    visible: Tensor
    """(N, K) float32: 1 where the annotator marked the keypoint (occluded or not), else 0. It stays 1
    for a keypoint outside the view; the heatmap codec weighs it 0 once its Gaussian left the map."""


@dataclass(frozen=True)
class UnlabelledBatch:
    """Two views of each person. There is no field in which a label could hide."""

    weak: Tensor
    """(N, 3, H, W) float32, normalised: the teacher's view."""
    strong: Tensor
    """(N, 3, H, W) float32, normalised: the student's view, sampled from the stored pixels."""
    strong_from_weak: Tensor
    """(N, 2, 3) float32: strong view pixels from weak view pixels."""


@dataclass(frozen=True)
class EvalBatch:
    """One plain view a person, and the way back to the photo."""

    image: Tensor
    """(N, 3, H, W) float32, normalised."""
    image_from_view: Tensor
    """(N, 2, 3) float32: source photo pixels from view pixels."""
    records: list[dict[str, Any]]
    """The shard's `KEY.json` of each: id, image_id, file_name, area, source_size, image_from_stored; `head`
    where the set has head boxes, `score` where a detector found the person."""
