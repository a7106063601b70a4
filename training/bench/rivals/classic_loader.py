"""The loader that this field trains with: torch's DataLoader, OpenCV, a whole photo for each person.

A photo is decoded for each person; the weak view is warped from it; in a copy of that crop joints are cut
out by a Python loop; the strong view is resampled from the crop; both become normalised float tensors. It is
as fast as this design allows: matrices in a few numpy calls, all pixel work uint8 in OpenCV until the end,
the cutout in the workers, nothing decoded twice or drawn in vain (the published loaders do both:
docs/methods.md 11).
The cutout is about the annotated joints: in the published systems the teacher finds them, after the loader.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms.v2 import functional

from semipose.pipelines.masking.masks import HALF_SIDE_PX, JITTER_SD_PX, PUBLISHED_HEIGHT_PX
from semipose.pipelines.views import BORDER_GREYS, MEAN_RGB, STD_RGB, AffinePolicy, ViewSettings
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.samples.crop import BOX_PADDING

MASKS = 5
"""Joints cut out of a crop, as published."""
MEAN_COLOUR = BORDER_GREYS["mean"]


class Views(NamedTuple):
    """Both views (3, H, W) float32, normalised, and strong_from_weak (2, 3) float32."""

    weak: Tensor
    strong: Tensor
    strong_from_weak: Tensor


class ClassicDataset(Dataset[Views]):
    """Two views of each person, from the photo's file."""

    def __init__(self, annotations: Annotations, views: ViewSettings, *, masks: int = MASKS) -> None:
        self.paths = [annotations.photos.where(person.file_name) for person in annotations.persons]
        self.boxes_xywh = np.array([person.box_xywh for person in annotations.persons])
        self.keypoints = np.stack([person.keypoints for person in annotations.persons])
        self.views = views
        self.masks = masks

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Views:
        weak_from_image, _ = draw_view(self.boxes_xywh[index], self.views.weak, self.views.size_hw)
        strong_from_weak = draw_strong(self.views.strong, self.views.size_hw)
        photo = read_photo(self.paths[index])
        return self.render(photo, self.keypoints[index], weak_from_image, strong_from_weak)

    def render(
        self,
        photo: np.ndarray,
        keypoints: np.ndarray,
        weak_from_image: np.ndarray,
        strong_from_weak: np.ndarray,
    ) -> Views:
        """The views of a photo (H, W, 3) uint8 by two (3, 3) matrices; keypoints (K, 3) in photo px."""
        size_hw = self.views.size_hw
        weak = warp(photo, weak_from_image, self.views.weak, size_hw)
        points_xy = keypoints[:, :2] @ weak_from_image[:2, :2].T + weak_from_image[:2, 2]
        masked = cut_out_joints(weak.copy(), points_xy[keypoints[:, 2] > 0], self.masks)
        strong = warp(masked, strong_from_weak, self.views.strong, size_hw)
        matrix = torch.from_numpy(strong_from_weak[:2].astype(np.float32))
        return Views(normalise(weak), normalise(strong), matrix)


def read_photo(path: str) -> np.ndarray:
    """A photo (H, W, 3) uint8, RGB."""
    photo = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    assert photo is not None, "the shards were built from the same photos"
    return photo


def warp(
    image: np.ndarray, view_from_image: np.ndarray, policy: AffinePolicy, size_hw: tuple[int, int]
) -> np.ndarray:
    """Sample a view (H, W, 3) uint8, bilinearly, by a (3, 3) matrix."""
    return cv2.warpAffine(image, view_from_image[:2], size_hw[::-1], borderValue=BORDER_GREYS[policy.border])


def cut_out_joints(crop: np.ndarray, points_xy: np.ndarray, count: int) -> np.ndarray:
    """Paint `count` rectangles about joints (M, 2) of a crop (H, W, 3) with the mean colour, in place."""
    height, width = crop.shape[:2]
    scale = height / PUBLISHED_HEIGHT_PX
    low, high = HALF_SIDE_PX
    for joint in np.random.permutation(len(points_xy))[:count]:
        x, y = points_xy[joint] + scale * np.trunc(JITTER_SD_PX * np.random.standard_normal(2))
        a, b = scale * np.random.randint(low, high + 1, 2)
        left, right = max(0, int(x - a)), min(width, int(x + a))
        top, bottom = max(0, int(y - b)), min(height, int(y + b))
        if left < right and top < bottom:
            crop[top:bottom, left:right] = MEAN_COLOUR
    return crop


def normalise(view: np.ndarray) -> Tensor:
    """A view (H, W, 3) uint8 as (3, H, W) float32."""
    scaled = torch.from_numpy(view).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    return functional.normalize(scaled, list(MEAN_RGB), list(STD_RGB), inplace=True)


def draw_view(
    box_xywh: np.ndarray, policy: AffinePolicy, size_hw: tuple[int, int]
) -> tuple[np.ndarray, bool]:
    """Draw a view's matrix (3, 3) from photo pixels, as `graph.draw_view` does, and whether it mirrors."""
    height, width = size_hw
    x, y, box_w, box_h = box_xywh
    scale = width / (BOX_PADDING * max(box_w, box_h * width / height) * draw_scale(policy))
    is_mirrored = bool(np.random.random() < policy.flip_probability)
    about_box = np.array([[1, 0, -x - box_w / 2], [0, 1, -y - box_h / 2], [0, 0, 1]])
    turn = similarity(draw_angle_deg(policy), scale, (width / 2, height / 2))
    return turn @ np.diag([-1.0 if is_mirrored else 1.0, 1, 1]) @ about_box, is_mirrored


def draw_strong(policy: AffinePolicy, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw `strong_from_weak` (3, 3), as `graph.draw_strong` does."""
    height, width = size_hw
    about_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    return similarity(draw_angle_deg(policy), 1 / draw_scale(policy), (width / 2, height / 2)) @ about_centre


def endless_batches(dataset: Dataset[Any], *, batch_size: int, workers: int) -> Iterator[Any]:
    """Shuffled batches from worker processes, endlessly."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=1 << 30),  # type: ignore[arg-type]
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    np.random.seed((torch.initial_seed() + worker) % (1 << 32))


def draw_scale(policy: AffinePolicy) -> float:
    """Draw the factor of the box's size."""
    return float(
        np.clip(1 + policy.scale_sd * np.random.standard_normal(), policy.scale_min, policy.scale_max)
    )


def draw_angle_deg(policy: AffinePolicy) -> float:
    """Draw the rotation."""
    if np.random.random() >= policy.rotation_probability:
        return 0.0
    limit = policy.rotation_max_deg
    return float(np.clip(policy.rotation_sd_deg * np.random.standard_normal(), -limit, limit))


def similarity(angle_deg: float, scale: float, centre_xy: tuple[float, float]) -> np.ndarray:
    """The (3, 3) matrix that turns and scales about the origin and moves that to a centre."""
    cosine, sine = scale * np.cos(np.radians(angle_deg)), scale * np.sin(np.radians(angle_deg))
    return np.array([[cosine, -sine, centre_xy[0]], [sine, cosine, centre_xy[1]], [0, 0, 1]])
