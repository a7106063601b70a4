"""Whether an exported file answers as the network that it was exported from."""

from typing import Any

import numpy as np
import torch

from semipose.export.graph import PoseGraph
from semipose.predict.exported import Run

MOST_PX, MOST_PEAK = 0.05, 1e-4
"""Peaks are compared in relation to the highest one, if that is above 1."""
UNDECIDED = 1e-5
"""Keypoints that a change of the heatmaps by this much moves have two places that are equally high; rounding
alone decides between them, also between two runs of one runtime."""


@torch.no_grad()
def compare(graph: PoseGraph, run: Run, views: np.ndarray, batch_size: int = 16) -> dict[str, Any]:
    """How far the answers of `run` are from those of `graph`, as plain values.

    The distances are px of the view. They are those of decided keypoints; `undecided` counts the others.
    """
    noise = torch.Generator().manual_seed(0)
    distances, undecided, peaks, highest = [], 0, [], 0.0
    for first in range(0, len(views), batch_size):
        batch = views[first : first + batch_size]
        maps = graph.maps(torch.from_numpy(batch))
        answers = [answer.numpy() for answer in graph.decode(maps)]
        theirs = run(batch)
        distance = np.linalg.norm(answers[0] - theirs[0], axis=-1)
        moved = np.zeros_like(distance)
        for _ in range(2):
            shaken = _shaken(maps, noise)
            moved = np.maximum(moved, np.linalg.norm(graph.decode(shaken)[0].numpy() - answers[0], axis=-1))
        is_decided = moved < MOST_PX
        highest = max(highest, float(np.abs(answers[1]).max()))
        undecided += int((~is_decided).sum())
        distances.append(distance[is_decided])
        for own, other in zip(answers[1:], theirs[1:], strict=True):  # peaks; scores or tags
            apart = np.abs(own - other)
            peaks.append((apart[is_decided] if apart.ndim >= is_decided.ndim else apart).ravel())
    all_px, all_peaks = np.concatenate(distances), np.concatenate(peaks) / max(1.0, highest)
    return {
        "views": len(views),
        "keypoints": int(all_px.size),
        "undecided": undecided,
        "max_px": _largest(all_px),
        "median_px": float(np.median(all_px)) if all_px.size else 0.0,
        "p95_px": float(np.quantile(all_px, 0.95)) if all_px.size else 0.0,
        "max_peak": _largest(all_peaks),
    }


def _largest(values: np.ndarray) -> float:
    return float(values.max()) if values.size else 0.0


def _shaken(maps: Any, noise: torch.Generator) -> Any:
    """The maps with noise of `UNDECIDED` in relation to the highest, if that is above 1; in every field."""
    if isinstance(maps, torch.Tensor):
        size = UNDECIDED * maps.abs().max().clamp(min=1)
        return maps + size * (2 * torch.rand(maps.shape, generator=noise) - 1)
    if maps is None:
        return None
    if callable(maps):  # people's own heatmaps, which are computed when they are asked for
        return lambda *asked: _shaken(maps(*asked), noise)
    return type(maps)(*(_shaken(field, noise) for field in maps))
