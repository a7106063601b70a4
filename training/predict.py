"""From images to keypoints in source pixels: networks, ensembles, the flip test, and decoding.

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

from models.codecs.heatmap import HeatmapCodec
from pipelines.batch import EvalBatch
from pipelines.geometry import apply, invert, linear_scale
from training.scoring.truth import keypoints_of

Network = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) -> heatmaps (N, K, h, w), with H = S h and W = S w; modules run in eval mode."""
Autocast = Callable[[], AbstractContextManager]
NO_ENSEMBLES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class Predictions:
    """The predictions of one network or ensemble for M people, in rows."""

    records: list[dict[str, Any]]
    """The `KEY.json` of each person; `score` is the detector's, if the box comes from a detector."""
    points_xy: np.ndarray
    """(M, K, 2) float32, source px."""
    peaks: np.ndarray
    """(M, K) float32, the highest values of the heatmaps."""
    areas: np.ndarray
    """(M,) float32, source px^2: the area of the padded box."""


@torch.no_grad()
def predict(
    networks: Mapping[str, Network],
    batches: Iterable[EvalBatch],
    *,
    codec: HeatmapCodec,
    ensembles: Mapping[str, tuple[str, ...]] = NO_ENSEMBLES,
    flip_test: bool = False,
    autocast: Autocast = nullcontext,
) -> dict[str, Predictions]:
    """Predict every person of `batches` with each network and each ensemble, in one pass over the batches.

    An ensemble is decoded from the mean of its networks' heatmaps. Returns the predictions by name, networks
    first. All results stay on the device until the pass is over.
    """
    names = [*networks, *ensembles]
    records: list[dict[str, Any]] = []
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    areas: list[Tensor] = []
    with in_eval_mode(networks.values()):
        for batch in batches:
            heatmaps = {
                name: heatmaps_of(network, batch.image, codec, flip_test=flip_test, autocast=autocast)
                for name, network in networks.items()
            }
            for name, members in ensembles.items():
                heatmaps[name] = torch.stack([heatmaps[member] for member in members]).mean(dim=0)
            for name in names:
                points, peaks = codec.decode(heatmaps[name])
                parts[name].append((apply(batch.image_from_view, points), peaks))
            height, width = batch.image.shape[-2:]
            areas.append(linear_scale(batch.image_from_view) ** 2 * height * width)
            records.extend(batch.records)
    if not records:
        nobody = np.zeros((0, codec.num_channels, 2), np.float32)
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
    """The predictions of all ranks, joined in their order."""
    return Predictions(
        [record for part in parts for record in part.records],
        np.concatenate([part.points_xy for part in parts]),
        np.concatenate([part.peaks for part in parts]),
        np.concatenate([part.areas for part in parts]),
    )


def heatmaps_of(
    network: Network,
    images: Tensor,
    codec: HeatmapCodec,
    *,
    flip_test: bool = False,
    autocast: Autocast = nullcontext,
) -> Tensor:
    """The network's heatmaps (N, K, h, w); with the flip test, averaged with those of the mirror images.

    Differs from the published flip test, which mirrors x to W - 1 - x, so that a mirrored cell is S - 1
    pixels away from the cell that it is averaged with, and then shifts it back by a whole cell of S pixels.
    There the mirrored keypoints are one pixel too far to the right, and those of the mean half a pixel.
    """
    with autocast():
        heatmaps = network(images)
        if not flip_test:
            return heatmaps
        mirrored = network(codec.mirror_images(images))
    return (heatmaps + codec.mirror(mirrored)) / 2


@contextmanager
def in_eval_mode(networks: Iterable[Network]) -> Iterator[None]:
    """Run the networks that are modules in eval mode, and restore their mode afterwards."""
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
    network: Network, batch: EvalBatch, ground_truth: dict[str, Any], *, codec: HeatmapCodec
) -> dict[str, Any]:
    """Predictions and ground truth of one batch, in view px, for a sheet of predictions.

    People in boxes of a detector have no ground truth: all their keypoints count as unlabelled.
    """
    with in_eval_mode([network]):
        points, peaks = codec.decode(heatmaps_of(network, batch.image, codec))
    truth = keypoints_of(batch.records, ground_truth, num_keypoints=points.shape[1])
    view_from_image = invert(batch.image_from_view).cpu()
    return {
        "images": batch.image,
        "predicted": points.cpu().numpy(),
        "peaks": peaks.cpu().numpy(),
        "truth": apply(view_from_image, torch.from_numpy(truth[..., :2])).numpy(),
        "visible": truth[..., 2],
    }
