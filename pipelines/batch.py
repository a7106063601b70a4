"""The batches that loaders give to a training step.

Shape letters used in the whole project:

    N samples   M people   K keypoints   H W view pixels   h w heatmap cells   S stride = H / h

Images are float32 (N, 3, H, W), RGB, normalised with the mean and standard deviation of ImageNet, and
channels-last in memory. Frames and matrices: pipelines/geometry.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semipose.pipelines.people import IgnoredArea, People, PhotoFrame


@dataclass(frozen=True)
class LabelledBatch:
    """One random view per person, with the keypoints moved into it."""

    image: Tensor
    """(N, 3, H, W) float32, normalised."""
    points_xy: Tensor
    """(N, K, 2) float32 in view pixels; meaningless if `visible` is 0."""
    visible: Tensor
    """(N, K) float32: 1 if the keypoint is annotated (occluded or not), otherwise 0. It stays 1 for a
    keypoint outside the view; the heatmap codec gives it weight 0 if its Gaussian is outside the map. Any
    number from 0 on is its weight in the loss: the confidence, where a model labelled it."""


@dataclass(frozen=True)
class LabelledPhotos:
    """One random view per whole photo, with its people moved into it."""

    image: Tensor
    """(N, 3, H, W) float32, normalised."""
    people: People
    """M is the most people of any photo of the batch. Points and corners of padded people are (0, 0), and so
    are keypoints that are not annotated."""
    ignored: IgnoredArea


@dataclass(frozen=True)
class UnlabelledBatch:
    """Two views of each person or whole photo, and no field that could hold a label."""

    weak: Tensor
    """(N, 3, H, W) float32, normalised: the teacher's view."""
    strong: Tensor
    """(N, 3, H, W) float32, normalised: the student's view, sampled from the stored pixels."""
    strong_from_weak: Tensor
    """(N, 2, 3) float32: strong view pixels from weak view pixels."""
    weak_frame: PhotoFrame | None = None
    """Where the weak view shows the photo; None for people, whose crops are part of a photo."""
    strong_frame: PhotoFrame | None = None
    """The same for the strong view."""


@dataclass(frozen=True)
class EvalBatch:
    """One plain view per person or whole photo, and the matrix back to the photo."""

    image: Tensor
    """(N, 3, H, W) float32, normalised. Whole photos differ in size: H and W are those of the largest view of
    the batch, and 0, the mean colour, is to the right of and below the others."""
    image_from_view: Tensor
    """(N, 2, 3) float32: source photo pixels from view pixels."""
    records: list[dict[str, Any]]
    """The `KEY.json` of each sample: id, image_id, file_name, area, source_size, image_from_stored; also
    `head` if the set has head boxes, and `score` if a detector found the person. That of a whole photo has
    `ids`, `areas` and `ignored` instead of `area`."""
    view_hw: Tensor | None = None
    """(N, 2) int64: height and width of each view; None if all are of the size of `image`."""

    @property
    def photo_frame(self) -> PhotoFrame:
        """Where the views show their source photos."""
        sizes_wh = torch.tensor([record["source_size"] for record in self.records])
        photo_hw = sizes_wh.flip(-1).to(self.image_from_view.device, non_blocking=True)
        return PhotoFrame(self.image_from_view, photo_hw)
