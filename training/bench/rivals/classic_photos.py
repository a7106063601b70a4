"""The classic loader of whole photos: torch's DataLoader and OpenCV, both views warped from the photo.

It draws views as `pipelines/photo_graph.py` does, and is as fast as its design allows: one decoding per
photo, matrices in a few numpy calls, pixels uint8 in OpenCV until the end.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from semipose.pipelines.photo_views import PhotoPolicy, PhotoViewSettings
from semipose.training.bench.rivals.classic_loader import Views, normalise, read_photo, similarity, warp


class ClassicPhotos(Dataset[Views]):
    """A weak and a strong view of each photo, from its file."""

    def __init__(self, paths: list[str], views: PhotoViewSettings) -> None:
        self.paths = paths
        self.views = views

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Views:
        photo, side = read_photo(self.paths[index]), self.views.size
        weak_from_photo = draw_square(photo.shape[0], photo.shape[1], self.views.weak, side)
        return self.render(photo, weak_from_photo, draw_square(side, side, self.views.strong, side))

    def render(self, photo: np.ndarray, weak_from_photo: np.ndarray, strong_from_weak: np.ndarray) -> Views:
        """The views of a photo (H, W, 3) uint8 by two (3, 3) matrices."""
        size_hw = self.views.size_hw
        weak = warp(photo, weak_from_photo, self.views.weak, size_hw)  # type: ignore[arg-type]
        strong = warp(photo, strong_from_weak @ weak_from_photo, self.views.strong, size_hw)  # type: ignore[arg-type]
        matrix = torch.from_numpy(strong_from_weak[:2].astype(np.float32))
        return Views(normalise(weak), normalise(strong), matrix)


def draw_square(height: float, width: float, policy: PhotoPolicy, side: int) -> np.ndarray:
    """Draw `view_from_frame` (3, 3) for a view of `side` pixels, as `photo_graph.draw_square` does."""
    shown = np.random.uniform(policy.shown_min, policy.shown_max) * min(height, width)
    centre = np.array([width, height]) / 2 + np.random.uniform(-1, 1, 2) * policy.shift * shown
    angle = np.random.uniform(-policy.rotation_max_deg, policy.rotation_max_deg)
    mirror = -1.0 if np.random.random() < policy.flip_probability else 1.0
    about = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, 1]])
    return similarity(angle, side / shown, (side / 2, side / 2)) @ np.diag([mirror, 1, 1]) @ about
