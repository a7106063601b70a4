"""The batches that loaders give to a training step.

Shape letters used in the whole project:

    N samples   M people   K keypoints   H W view pixels   h w heatmap cells   S stride = H / h

Images are float32 (N, 3, H, W), RGB, normalised with the mean and standard deviation of ImageNet, and
channels-last in memory. Frames and matrices: pipelines/geometry.py.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LabelledBatch:
    """One random view per person, with the keypoints moved into it."""

    image: Tensor
    """(N, 3, H, W) float32, normalised."""
    points_xy: Tensor
    """(N, K, 2) float32 in view pixels; meaningless if `visible` is 0."""
    visible: Tensor
    """(N, K) float32: 1 if the keypoint is annotated (occluded or not), otherwise 0. It stays 1 for a
    keypoint outside the view; the heatmap codec gives it weight 0 if its Gaussian is outside the map."""


@dataclass(frozen=True)
class UnlabelledBatch:
    """Two views of each person, and no field that could hold a label."""

    weak: Tensor
    """(N, 3, H, W) float32, normalised: the teacher's view."""
    strong: Tensor
    """(N, 3, H, W) float32, normalised: the student's view, sampled from the stored pixels."""
    strong_from_weak: Tensor
    """(N, 2, 3) float32: strong view pixels from weak view pixels."""


@dataclass(frozen=True)
class EvalBatch:
    """One plain view per person, and the matrix back to the photo."""

    image: Tensor
    """(N, 3, H, W) float32, normalised."""
    image_from_view: Tensor
    """(N, 2, 3) float32: source photo pixels from view pixels."""
    records: list[dict[str, Any]]
    """The `KEY.json` of each sample: id, image_id, file_name, area, source_size, image_from_stored; also
    `head` if the set has head boxes, and `score` if a detector found the person."""
