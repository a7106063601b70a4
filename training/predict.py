"""Images to keypoints in source pixels: networks, their ensembles, the flip test, decoding, the way back.

Shape letters: pipelines/batch.py; M counts all people of a pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.heatmap import decode
from pipelines.batch import EvalBatch
from pipelines.geometry import apply, invert, linear_scale
from sharding.skeleton import Skeleton
from training.scoring.truth import keypoints_of
from training.settings import HeatmapSettings

Network = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) -> heatmaps (N, K, h, w), H = S h and W = S w; a module is run in eval mode."""
Autocast = Callable[[], AbstractContextManager]
NO_ENSEMBLES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class Predictions:
    """What one network (or ensemble) says of M people, row by row."""

    records: list[dict[str, Any]]
    """The shard's `KEY.json` of each; `score` is the detector's, where its box is one."""
    points_xy: np.ndarray
    """(M, K, 2) float32, source px."""
    peaks: np.ndarray
    """(M, K) float32, the heatmaps' highest values."""
    areas: np.ndarray
    """(M,) float32, px^2 of the padded box in the source: the product of its sides."""


@torch.no_grad()
def predict(
    networks: Mapping[str, Network],
    batches: Iterable[EvalBatch],
    *,
    skeleton: Skeleton,
    decoding: HeatmapSettings,
    ensembles: Mapping[str, tuple[str, ...]] = NO_ENSEMBLES,
    flip_test: bool = False,
    autocast: Autocast = nullcontext,
) -> dict[str, Predictions]:
    """Predict every person of `batches` with each network and each ensemble, in one pass over the batches.

    An ensemble is decoded from the mean of its networks' heatmaps. Returns the predictions by name, networks
    first. Everything stays on the device until the pass is over.
    """
    names = [*networks, *ensembles]
    records: list[dict[str, Any]] = []
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    areas: list[Tensor] = []
    with in_eval_mode(networks.values()):
        for batch in batches:
            heatmaps = {
                name: heatmaps_of(network, batch.image, skeleton if flip_test else None, autocast=autocast)
                for name, network in networks.items()
            }
            for name, members in ensembles.items():
                heatmaps[name] = torch.stack([heatmaps[member] for member in members]).mean(dim=0)
            for name in names:
                points, peaks = read_off(heatmaps[name], batch.image, decoding)
                parts[name].append((apply(batch.image_from_view, points), peaks))
            height, width = batch.image.shape[-2:]
            areas.append(linear_scale(batch.image_from_view) ** 2 * height * width)
            records.extend(batch.records)
    if not records:
        nobody = np.zeros((0, skeleton.num_keypoints, 2), np.float32)
        return {name: Predictions([], nobody, nobody[..., 0], nobody[:, 0, 0]) for name in names}
    return {
        name: Predictions(
            records,
            points_xy=torch.cat([points for points, _ in rows]).cpu().numpy(),
            peaks=torch.cat([peaks for _, peaks in rows]).cpu().numpy(),
            areas=torch.cat(areas).cpu().numpy(),
        )
        for name, rows in parts.items()
    }


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of all ranks as one, in their order."""
    return Predictions(
        [record for part in parts for record in part.records],
        np.concatenate([part.points_xy for part in parts]),
        np.concatenate([part.peaks for part in parts]),
        np.concatenate([part.areas for part in parts]),
    )


def heatmaps_of(
    network: Network, images: Tensor, flipped_by: Skeleton | None, *, autocast: Autocast = nullcontext
) -> Tensor:
    """The network's heatmaps (N, K, h, w); with a skeleton, their mean with those of the mirror images.

    Differs from the published flip test, which mirrors x to W - 1 - x, so that a mirrored cell lies S - 1
    pixels beside the cell that it is averaged with, and then moves it back by a whole cell of S pixels: the
    keypoints of the mirrored half come out one pixel too far right, those of the mean half a pixel.
    """
    with autocast():
        heatmaps = network(images)
        if flipped_by is None:
            return heatmaps
        answer = network(mirror(images, stride_of(heatmaps, images)))
    return (heatmaps + answer.flip(-1)[:, list(flipped_by.flip_order)]) / 2


def mirror(images: Tensor, stride: int) -> Tensor:
    """Images (N, 3, H, W) mirrored at the middle between the first and the last heatmap cell.

    Pixel x goes to S (w - 1) - x, so cell i goes to cell w - 1 - i exactly. The last S - 1 columns of the
    mirror image would come from beyond the view: they repeat its edge.
    """
    flipped = images.flip(-1)
    edge = flipped[..., -1:].expand(*flipped.shape[:-1], stride - 1)
    return torch.cat((flipped[..., stride - 1 :], edge), dim=-1)


def stride_of(heatmaps: Tensor, images: Tensor) -> int:
    """View pixels between two heatmap cells."""
    return images.shape[-1] // heatmaps.shape[-1]


def read_off(heatmaps: Tensor, images: Tensor, decoding: HeatmapSettings) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) in view px and their peaks (N, K)."""
    return decode(heatmaps, stride_of(heatmaps, images), method=decoding.decode, sigma=decoding.sigma)


@contextmanager
def in_eval_mode(networks: Iterable[Network]) -> Iterator[None]:
    """Run those that are modules in eval mode and leave them as they were."""
    modules = [network for network in networks if isinstance(network, nn.Module)]
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, was_training in zip(modules, were_training, strict=True):
            module.train(was_training)


@torch.no_grad()
def beside_truth(
    network: Network, batch: EvalBatch, ground_truth: dict[str, Any], *, decoding: HeatmapSettings
) -> dict[str, Any]:
    """Predictions beside the truth for one batch, all in view px: what a sheet of predictions shows.

    People with a detector's box have no truth of their own: all their keypoints count as unlabelled.
    """
    with in_eval_mode([network]):
        points, peaks = read_off(heatmaps_of(network, batch.image, None), batch.image, decoding)
    truth = keypoints_of(batch.records, ground_truth, num_keypoints=points.shape[1])
    view_from_image = invert(batch.image_from_view).cpu()
    return {
        "images": batch.image,
        "predicted": points.cpu().numpy(),
        "peaks": peaks.cpu().numpy(),
        "truth": apply(view_from_image, torch.from_numpy(truth[..., :2])).numpy(),
        "visible": truth[..., 2],
    }
