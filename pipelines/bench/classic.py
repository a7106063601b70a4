"""The loader that this field trains with, doing the same work: whole photos, OpenCV, torch's DataLoader.

For each person a whole photo is decoded, two views are warped and both become normalised float tensors. It is
as fast as its design allows: the views are drawn by the same laws in a few numpy calls, OpenCV does all pixel
work, nothing is decoded twice or drawn in vain (the published loaders do both).
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms.v2 import functional

from pipelines.views import MEAN_RGB, STD_RGB, ViewLaw, ViewSettings
from sharding.crop import BOX_PADDING
from sharding.record import Annotations

Views = tuple[Tensor, Tensor, Tensor]
"""weak and strong view (3, H, W) float32, normalised, and strong_from_weak (2, 3)."""


class ClassicDataset(Dataset[Views]):
    """Two views of each person, from the photo's file."""

    def __init__(self, annotations: Annotations, views: ViewSettings) -> None:
        self.paths = [annotations.photos.where(person.file_name) for person in annotations.persons]
        self.boxes_xywh = np.array([person.box_xywh for person in annotations.persons])
        self.views = views

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Views:
        weak_from_image = draw_view(self.boxes_xywh[place], self.views.weak, self.views.size_hw)
        strong_from_weak = draw_strong(self.views.strong, self.views.size_hw)
        photo = cv2.imread(self.paths[place], cv2.IMREAD_COLOR_RGB)
        assert photo is not None, "the shards were built from the same photos"
        return (
            self._warp(photo, weak_from_image, self.views.weak),
            self._warp(photo, strong_from_weak @ weak_from_image, self.views.strong),
            torch.from_numpy(strong_from_weak[:2].astype(np.float32)),
        )

    def _warp(self, photo: np.ndarray, view_from_image: np.ndarray, law: ViewLaw) -> Tensor:
        fill = [255 * mean for mean in MEAN_RGB] if law.border == "mean" else [0.0, 0.0, 0.0]
        view = cv2.warpAffine(photo, view_from_image[:2], self.views.size_hw[::-1], borderValue=fill)
        scaled = torch.from_numpy(view).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
        return functional.normalize(scaled, list(MEAN_RGB), list(STD_RGB), inplace=True)


def draw_view(box_xywh: np.ndarray, law: ViewLaw, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw a view's matrix (3, 3) from photo pixels, as `graph.draw_view` does."""
    height, width = size_hw
    x, y, box_w, box_h = box_xywh
    scale = width / (BOX_PADDING * max(box_w, box_h * width / height) * _draw_scale(law))
    mirror = -1.0 if np.random.random() < law.flip_probability else 1.0
    about_box = np.array([[1, 0, -x - box_w / 2], [0, 1, -y - box_h / 2], [0, 0, 1]])
    return (
        _similarity(_draw_angle_deg(law), scale, (width / 2, height / 2))
        @ np.diag([mirror, 1, 1])
        @ about_box
    )


def draw_strong(law: ViewLaw, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw `strong_from_weak` (3, 3), as `graph.draw_strong` does."""
    height, width = size_hw
    about_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    return _similarity(_draw_angle_deg(law), 1 / _draw_scale(law), (width / 2, height / 2)) @ about_centre


def classic_batches(dataset: ClassicDataset, *, batch_size: int, workers: int) -> Iterator[list[Tensor]]:
    """Yield shuffled batches from worker processes, endlessly."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=1 << 30),
        num_workers=workers,
        worker_init_fn=_start_worker,
    )
    return iter(loader)


def _start_worker(number: int) -> None:
    cv2.setNumThreads(0)
    np.random.seed((torch.initial_seed() + number) % (1 << 32))


def _draw_scale(law: ViewLaw) -> float:
    return float(np.clip(1 + law.scale_sd * np.random.standard_normal(), law.scale_min, law.scale_max))


def _draw_angle_deg(law: ViewLaw) -> float:
    if np.random.random() >= law.rotation_probability:
        return 0.0
    limit = law.rotation_max_deg
    return float(np.clip(law.rotation_sd_deg * np.random.standard_normal(), -limit, limit))


def _similarity(angle_deg: float, scale: float, centre_xy: tuple[float, float]) -> np.ndarray:
    cosine, sine = scale * np.cos(np.radians(angle_deg)), scale * np.sin(np.radians(angle_deg))
    return np.array([[cosine, -sine, centre_xy[0]], [sine, cosine, centre_xy[1]], [0, 0, 1]])
