"""What `graph.py` draws, in numpy: the samples of a batch and the matrices of their views.

Everything is drawn on the host. This takes a fraction of a millisecond in the thread that prepares a batch, a
GPU needs a few small copies instead of forty small kernels, and a seed gives the same views on any device.
The random numbers of a batch follow from the seed of the stream and the number of the batch, so no state has
to be saved.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semipose.pipelines import geometry
from semipose.pipelines.cache.store import Store
from semipose.pipelines.views import AffinePolicy, ViewSettings, about, view_from_stored
from semipose.pipelines.warp import View

VERSION = 1
"""Increased when a change of what is drawn would make an old checkpoint continue a different stream."""

_ORDER, _VIEWS = 0, 1


@dataclass(frozen=True)
class Plan:
    """Everything of a batch except its pixels."""

    indices: np.ndarray
    """(N,) int64: the samples of the store."""
    views: tuple[View, ...]
    values: dict[str, Tensor]
    """The other outputs, by the names that the graph gives them."""


class Order:
    """An endless sequence of seeded permutations of all samples; batches may span the end of one."""

    def __init__(self, num_samples: int, seed: int) -> None:
        self._num_samples, self._seed = num_samples, seed
        self._pass = -1
        self._permutation = np.empty(0, np.int64)

    def indices(self, number: int, batch_size: int) -> np.ndarray:
        """Return the samples of batch `number`, (batch_size,) int64."""
        passes, inside = divmod(np.arange(number * batch_size, (number + 1) * batch_size), self._num_samples)
        indices = np.empty(batch_size, np.int64)
        for pass_number in np.unique(passes):
            is_in_pass = passes == pass_number
            indices[is_in_pass] = self._permuted(int(pass_number))[inside[is_in_pass]]
        return indices

    def _permuted(self, pass_number: int) -> np.ndarray:
        if pass_number != self._pass:
            rng = np.random.default_rng([self._seed, _ORDER, pass_number])
            self._pass, self._permutation = pass_number, rng.permutation(self._num_samples)
        return self._permutation


def view_generator(seed: int, number: int) -> np.random.Generator:
    """Return the generator of the random numbers for the views of batch `number`."""
    return np.random.default_rng([seed, _VIEWS, number])


def draw_scale(policy: AffinePolicy, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the scale factors of the boxes, (count,)."""
    return np.clip(1.0 + policy.scale_sd * rng.standard_normal(count), policy.scale_min, policy.scale_max)


def draw_angle_deg(policy: AffinePolicy, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the rotations (count,), clockwise as seen (y points down)."""
    limit = policy.rotation_max_deg
    angle_deg = np.clip(policy.rotation_sd_deg * rng.standard_normal(count), -limit, limit)
    return angle_deg * (rng.random(count) < policy.rotation_probability)


def draw_flip(policy: AffinePolicy, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw whether each view is mirrored, (count,) bool."""
    return rng.random(count) < policy.flip_probability


def strong_from_weak(scale: np.ndarray, angle_deg: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the matrices (N, 2, 3) float64: a rigid rotation and a scale about the centre of the view."""
    centre_xy = np.array([[size_hw[1] / 2, size_hw[0] / 2]])
    return about(centre_xy, 1.0 / scale, 1.0 / scale, angle_deg, size_hw)


def labelled_plan(
    store: Store, indices: np.ndarray, rng: np.random.Generator, *, views: ViewSettings
) -> Plan:
    """Plan what `graph.labelled_graph` gives: image, points_xy, v, flipped."""
    assert store.keypoints is not None
    policy, count = views.labelled, len(indices)
    scale, flip, angle_deg = (draw(policy, count, rng) for draw in (draw_scale, draw_flip, draw_angle_deg))
    matrix = view_from_stored(store.boxes_xywh[indices], scale, angle_deg, flip, views.size_hw)
    matrix = matrix.astype(np.float32)
    keypoints = torch.from_numpy(store.keypoints[indices])
    values = {
        "points_xy": geometry.apply(torch.from_numpy(matrix), keypoints[..., :2]),
        "v": keypoints[..., 2].contiguous(),
        "flipped": torch.from_numpy(flip.astype(np.int32)),
    }
    return Plan(indices, (View("image", matrix, policy.border),), values)


def unlabelled_plan(
    store: Store, indices: np.ndarray, rng: np.random.Generator, *, views: ViewSettings
) -> Plan:
    """Plan what `graph.unlabelled_graph` gives: weak, strong, strong_from_weak."""
    weak, count = views.weak, len(indices)
    scale, flip, angle_deg = (draw(weak, count, rng) for draw in (draw_scale, draw_flip, draw_angle_deg))
    weak_from_stored = view_from_stored(store.boxes_xywh[indices], scale, angle_deg, flip, views.size_hw)
    scale, angle_deg = (draw(views.strong, count, rng) for draw in (draw_scale, draw_angle_deg))
    relative = strong_from_weak(scale, angle_deg, views.size_hw)
    strong_from_stored = relative[:, :, :2] @ weak_from_stored
    strong_from_stored[:, :, 2] += relative[:, :, 2]
    relative = relative.astype(np.float32)
    ends_with = relative if views.strong_beyond_weak == "mean" else None
    shown = (
        View("weak", weak_from_stored.astype(np.float32), weak.border),
        View("strong", strong_from_stored.astype(np.float32), views.strong.border, ends_with),
    )
    return Plan(indices, shown, {"strong_from_weak": torch.from_numpy(relative)})
