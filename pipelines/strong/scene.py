"""What a strong augmentation can use when it changes the strong views."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """A batch of unlabelled people as the teacher sees them (shape letters: pipelines/batch.py)."""

    strong: Tensor
    """(N, 3, H, W) normalised: the strong views from the loader. They are never changed, so that patches
    taken from them are clean, whatever earlier augmentations have painted."""
    peaks: Tensor
    """(N, K): the highest values of the teacher's heatmaps."""
    points_weak: Tensor
    """(N, K, 2) weak-view px: the teacher's keypoints, where its heatmaps have those peaks. In whole photos K
    counts the keypoints of all people; those that were not found are NaN."""
    strong_from_weak: Tensor
    """(N, 2, 3) matrices."""

    @property
    def exists(self) -> Tensor:
        """(N, K) bool: the keypoints that have a place."""
        return self.points_weak.isfinite().all(dim=-1)

    @property
    def view_hw(self) -> tuple[int, int]:
        """Height and width of both views in px."""
        return self.strong.shape[-2], self.strong.shape[-1]
