"""The same training step as the published code makes it: its loader, its loops, its trips to the host.

Own code from docs/methods.md 2.3, 3 and 11. float32, contiguous, not compiled; masks, losses, targets and the
accuracy shown in logs in Python loops; heatmaps and pseudo targets copied to the host in every step.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from semipose.models.codecs.heatmap import find_peaks
from semipose.models.codecs.heatmap import warp as warp_by_matrix
from semipose.pipelines.masking.masks import draw_order
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.record import Annotations
from semipose.training.bench.masking import STRIDE, MaskingStep
from semipose.training.bench.rivals import classic_loader
from semipose.training.bench.rivals.published_masking import mask_as_published
from semipose.training.methods.mixup import draw_alpha, mix


class PairDataset(Dataset[dict[str, Tensor]]):
    """A labelled and an unlabelled person per item, each from its photo, as tensors by name."""

    def __init__(
        self, annotations: Annotations, views: ViewSettings, *, unlabelled: bool, sigma: float | None
    ) -> None:
        """unlabelled: whether there is any such person. sigma: of the targets in heatmap px, or None."""
        self.views, self.sigma = views, sigma
        self.people = classic_loader.ClassicDataset(annotations, views)
        self.flip_order = np.array(annotations.skeleton.flip_order)
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        labelled = self._labelled(np.random.randint(len(self)))
        return labelled | (self.people[index]._asdict() if self.unlabelled else {})

    def _labelled(self, index: int) -> dict[str, Tensor]:
        policy, size_hw = self.views.labelled, self.views.size_hw
        matrix, is_mirrored = classic_loader.draw_view(self.people.boxes_xywh[index], policy, size_hw)
        photo = classic_loader.read_photo(self.people.paths[index])
        view = classic_loader.warp(photo, matrix, policy, size_hw)
        keypoints = self.people.keypoints[index][self.flip_order if is_mirrored else slice(None)]
        points_xy = (keypoints[:, :2] @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.float32)
        visible = (keypoints[:, 2] > 0).astype(np.float32)
        points_xy = np.where(visible[:, None] > 0, points_xy, np.float32(0))
        arrays = {"points_xy": points_xy, "visible": visible}
        if self.sigma is not None:
            arrays["target"] = draw_targets(points_xy, visible, size_hw, self.sigma)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {"image": classic_loader.normalise(view), **tensors}


def draw_targets(
    points_xy: np.ndarray, visible: np.ndarray, size_hw: tuple[int, int], sigma: float
) -> np.ndarray:
    """Gaussians (K, h, w) float32 at the nearest cells of points (K, 2) in view px, one after the other."""
    height, width = size_hw[0] // STRIDE, size_hw[1] // STRIDE
    reach = int(3 * sigma)
    targets = np.zeros((len(points_xy), height, width), np.float32)
    axis = np.arange(-reach, reach + 1)
    patch = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * sigma**2))
    for joint, (x, y) in enumerate((points_xy / STRIDE + 0.5).astype(int)):
        left, right = max(0, x - reach), min(width, x + reach + 1)
        top, bottom = max(0, y - reach), min(height, y + reach + 1)
        if not visible[joint] or left >= right or top >= bottom:
            continue
        rows, columns = slice(top - y + reach, bottom - y + reach), slice(left - x + reach, right - x + reach)
        targets[joint, top:bottom, left:right] = patch[rows, columns]
    return targets


def classic_step(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss of one step; `batch` as PairDataset's, on the device, with or without unlabelled people."""
    predicted = network(batch["image"])
    loss = joint_loss(predicted, batch["target"], batch["visible"])
    accuracy(predicted.detach().cpu().numpy(), batch["target"].cpu().numpy())
    if "weak" in batch:
        loss = loss + 0.7 * unlabelled_loss(network, batch, generator)
    loss.item()  # for the log, every step
    return loss


def unlabelled_loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Consistency of the masked strong view, and of a mixture of weak views, with the weak view."""
    weak, matrix = batch["weak"], batch["strong_from_weak"]
    with torch.no_grad():
        heatmaps = network(weak)
    upright = torch.eye(2, 3, device=weak.device).repeat(len(weak), 1, 1)
    points_hm, peaks = find_peaks(heatmaps)
    fill = torch.zeros(3, device=weak.device)
    step = MaskingStep(weak.clone(), heatmaps, peaks, points_hm * STRIDE, upright, fill, generator)
    masked = mask_as_published(step)
    strong, _ = warp_by_matrix(masked, matrix, 1)
    target, _ = warp_by_matrix(heatmaps, matrix, STRIDE)
    ones = heatmaps.new_ones(heatmaps.shape[:2])
    loss = joint_loss(network(strong), target, ones)
    target.cpu()
    alpha = draw_alpha(0.75, generator=generator)
    partners = draw_order(1, len(weak), generator=generator)[0]
    mixed = joint_loss(network(mix(weak, alpha, partners)), mix(heatmaps, alpha, partners), ones)
    heatmaps.cpu()
    return loss + mixed


def joint_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Half the mean squared error, joint after joint; heatmaps (N, K, h, w), weights (N, K) of 0 and 1."""
    losses = []
    for joint in range(predicted.shape[1]):
        weight = weights[:, joint, None]
        ours, theirs = predicted[:, joint].flatten(1), target[:, joint].flatten(1)
        losses.append(0.5 * nn.functional.mse_loss(ours * weight, theirs * weight))
    return sum(losses[1:], losses[0]) / len(losses)


def accuracy(predicted: np.ndarray, target: np.ndarray) -> float:
    """Share of joints (N, K, h, w) within half a tenth of the heatmap's size, for the log."""
    height, width = predicted.shape[2:]
    hits: list[bool] = []
    for ours, theirs in zip(predicted, target, strict=True):
        for joint in range(len(ours)):
            if theirs[joint].max() > 0:
                seen, truth = peak_xy(ours[joint]), peak_xy(theirs[joint])
                away = [10 * (seen[0] - truth[0]) / width, 10 * (seen[1] - truth[1]) / height]
                hits.append(float(np.hypot(*away)) < 0.5)
    return float(np.mean(hits)) if hits else 0.0


def peak_xy(heatmap: np.ndarray) -> Sequence[int]:
    """x and y of the highest value."""
    return cv2.minMaxLoc(heatmap)[3]
