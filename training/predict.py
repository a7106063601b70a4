"""From images to keypoints in source pixels: networks, ensembles, the flip test, and decoding.

The samples of a pass are people, each in a view of their own, or whole photos with any number of people; the
codec says which. Shape letters: pipelines/batch.py; M counts all people of a pass, Q those that are decoded
from a photo at most.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semipose.models.codecs.ae import AECodec
from semipose.models.codecs.heatmap import HeatmapCodec
from semipose.models.codecs.instances import InstanceCodec, Instances
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.geometry import apply, invert, linear_scale
from semipose.sharding.store.ground_truth import GroundTruth

Network = Callable[[Tensor], Any]
"""Images (N, 3, H, W) -> what the codec decodes, heatmaps (N, K, h, w) or the maps of whole photos, with
H = S h and W = S w; modules run in eval mode."""
Codec = HeatmapCodec | InstanceCodec
Autocast = Callable[[], AbstractContextManager]
HALF = MappingProxyType({"bf16": torch.bfloat16, "fp16": torch.float16})
"""The precisions below float32, by the words of the settings."""
NO_ENSEMBLES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class Predictions:
    """The predictions of one network or ensemble: M people, in rows."""

    records: list[dict[str, Any]]
    """The `KEY.json` of each sample, a person or a photo, in the order of the pass; a photo in which nobody
    was found has one too. `score` is the detector's, if a person's box comes from a detector."""
    points_xy: np.ndarray
    """(M, K, 2) float32, source px."""
    peaks: np.ndarray
    """(M, K) float32: the highest values of a person's heatmaps; in whole photos the codec's confidence."""
    areas: np.ndarray
    """(M,) float32, source px^2: the area of the padded box; in whole photos of the box of the keypoints."""
    samples: np.ndarray | None = None
    """(M,) int64: the index of each row's record, if the samples are whole photos; else row i is sample i."""
    scores: np.ndarray | None = None
    """(M,) float32: the codec's score of each person, if the samples are whole photos."""

    @property
    def kind(self) -> str:
        """The kind of the samples, as in the manifest of their shards."""
        return "person" if self.samples is None else "image"

    @property
    def record_rows(self) -> list[dict[str, Any]]:
        """The record of each row."""
        if self.samples is None:
            return self.records
        return [self.records[sample] for sample in self.samples]


def autocast_of(device: torch.device, precision: str) -> Autocast:
    """The context in which networks run: `precision` is `no` (float32), `bf16` or `fp16`."""
    return partial(torch.autocast, device.type, HALF.get(precision), precision in HALF)


@torch.no_grad()
def predict(
    networks: Mapping[str, Network],
    batches: Iterable[EvalBatch],
    *,
    codec: Codec,
    ensembles: Mapping[str, tuple[str, ...]] = NO_ENSEMBLES,
    flip_test: bool = False,
    autocast: Autocast = nullcontext,
) -> dict[str, Predictions]:
    """Predict every sample of `batches` with each network and each ensemble, in one pass over the batches.

    An ensemble is decoded from its networks' merged maps (of heatmaps, the mean). Returns the predictions by
    name, networks first. All results stay on the device until the pass is over.
    """
    names = [*networks, *ensembles]
    records: list[dict[str, Any]] = []
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in names}
    with in_eval_mode(networks.values()):
        for batch in batches:
            maps = {
                name: heatmaps_of(network, batch.image, codec, flip_test=flip_test, autocast=autocast)
                for name, network in networks.items()
            }
            for name, members in ensembles.items():
                maps[name] = codec.merge(*(maps[member] for member in members))
            for name in names:
                if isinstance(codec, HeatmapCodec):
                    rows = _rows_of_people(maps[name], batch, codec)
                else:
                    rows = _rows_of_photos(maps[name], batch, codec, first=len(records))
                parts[name].append(rows)
            records.extend(batch.records)
    return {name: _collected(records, parts[name], codec) for name in names}


def _rows_of_people(heatmaps: Tensor, batch: EvalBatch, codec: HeatmapCodec) -> dict[str, Tensor]:
    """The fields of `Predictions`, of people in views of their own."""
    points, peaks = codec.decode(heatmaps)
    height, width = batch.image.shape[-2:]
    return {
        "points_xy": apply(batch.image_from_view, points),
        "peaks": peaks,
        "areas": linear_scale(batch.image_from_view) ** 2 * height * width,
    }


def _rows_of_photos(maps: Any, batch: EvalBatch, codec: InstanceCodec, *, first: int) -> dict[str, Tensor]:
    """The fields of `Predictions`, of all N Q people of a batch of photos; `samples` is -1 for nobody.

    first: the sample of the batch's first photo.
    """
    people = decode_photos(maps, batch, codec)
    count = people.score.shape[1]
    # Maps that are not finite show nobody: what is read off them is kept, so that the scoring can say so.
    is_finite = maps.heatmaps.isfinite().flatten(1).all(1)[:, None]
    points = apply(batch.image_from_view, people.points_xy.flatten(1, 2)).view_as(people.points_xy)
    photos = torch.arange(first, first + len(points), device=points.device)[:, None].expand(-1, count)
    return {
        "points_xy": points.flatten(0, 1),
        "peaks": torch.where(is_finite[..., None], people.confidence, torch.nan).flatten(0, 1),
        "areas": (points.amax(2) - points.amin(2)).prod(-1).flatten(),
        "samples": torch.where(people.exists | ~is_finite, photos, -1).flatten(),
        "scores": people.score.flatten(),
    }


def decode_photos(maps: Any, batch: EvalBatch, codec: InstanceCodec) -> Instances:
    """The people of a batch of whole photos, in view px; nobody is found beside a photo.

    Photos of several sizes fill their views only in part. Training ignores the cells outside a photo, so
    what a network says there means nothing.
    """
    map_hw = maps.heatmaps.shape[-2], maps.heatmaps.shape[-1]
    maps = codec.restrict(maps, batch.photo_frame.shows(map_hw, codec.stride))
    # Scores need a guess for every keypoint; the other codecs always have one.
    return codec.decode(maps, fill_missing=True) if isinstance(codec, AECodec) else codec.decode(maps)


def _collected(records: list[dict[str, Any]], parts: list[dict[str, Tensor]], codec: Codec) -> Predictions:
    """The rows of all batches on the host, without those that are nobody."""
    if not parts:
        nobody = np.zeros((0, codec.skeleton.num_keypoints, 2), np.float32)
        empty = Predictions([], nobody, nobody[..., 0], nobody[:, 0, 0])
        if isinstance(codec, HeatmapCodec):
            return empty
        return replace(empty, samples=np.zeros(0, np.int64), scores=empty.areas)
    columns = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    if "samples" in columns:
        columns = {name: column[columns["samples"] >= 0] for name, column in columns.items()}
    return Predictions(records, **columns)


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of all ranks, joined in their order."""

    def joined(columns: Iterable[np.ndarray | None]) -> np.ndarray | None:
        rows = [column for column in columns if column is not None]
        return np.concatenate(rows) if rows else None

    first = np.cumsum([0, *(len(part.records) for part in parts)])
    return Predictions(
        [record for part in parts for record in part.records],
        np.concatenate([part.points_xy for part in parts]),
        np.concatenate([part.peaks for part in parts]),
        np.concatenate([part.areas for part in parts]),
        joined(
            None if part.samples is None else start + part.samples
            for start, part in zip(first, parts, strict=False)
        ),
        joined(part.scores for part in parts),
    )


def heatmaps_of(
    network: Network,
    images: Tensor,
    codec: Codec,
    *,
    flip_test: bool = False,
    autocast: Autocast = nullcontext,
) -> Any:
    """The network's maps; with the flip test, merged with those of the mirror images (heatmaps: the mean).

    Differs from the published flip test, which mirrors x to W - 1 - x, so that a mirrored cell is S - 1
    pixels away from the cell that it is averaged with, and then shifts it back by a whole cell of S pixels.
    There the mirrored keypoints are one pixel too far to the right, and those of the mean half a pixel.
    """
    with autocast():
        maps = network(images)
        if not flip_test:
            return maps
        mirrored = network(codec.mirror_images(images))
    back: Any = codec.mirror(mirrored)
    return codec.merge(maps, back)


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
    network: Network, batch: EvalBatch, ground_truth: GroundTruth, *, codec: HeatmapCodec
) -> dict[str, Any]:
    """Predictions and ground truth of one batch, in view px, for a sheet of predictions.

    People in boxes of a detector have no ground truth: all their keypoints count as unlabelled.
    """
    with in_eval_mode([network]):
        points, peaks = codec.decode(heatmaps_of(network, batch.image, codec))
    truth = ground_truth.keypoints_of(batch.records)
    view_from_image = invert(batch.image_from_view).cpu()
    return {
        "images": batch.image,
        "predicted": points.cpu().numpy(),
        "peaks": peaks.cpu().numpy(),
        "truth": apply(view_from_image, torch.from_numpy(truth[..., :2])).numpy(),
        "visible": truth[..., 2],
    }


@dataclass(frozen=True)
class PhotoBesideTruth:
    """What was found in a photo of G annotated people, on the part of its view that shows the photo.

    Points are in view px. The P people that were found are in the order of their scores.
    """

    image: Tensor
    """(3, H, W) float32, normalised: the view, cut at the photo's right and lower edges."""
    name: str
    truth: np.ndarray
    """(G, K, 3) float32: x, y and v."""
    areas: np.ndarray
    """(G,) float32: view px^2."""
    ignored: np.ndarray
    """(C, 2, 2) float32: two corners of the box of each crowd and of each person without keypoints."""
    points: np.ndarray
    """(P, K, 2) float32."""
    peaks: np.ndarray
    """(P, K) float32."""
    scores: np.ndarray
    """(P,) float32."""


@torch.no_grad()
def photos_beside_truth(
    network: Network, batch: EvalBatch, ground_truth: GroundTruth, *, codec: InstanceCodec
) -> list[PhotoBesideTruth]:
    """Predictions and ground truth of each photo of a batch, for a sheet of predictions."""
    with in_eval_mode([network]):
        people = decode_photos(heatmaps_of(network, batch.image, codec), batch, codec)
    exists, points, peaks, scores = (
        values.cpu().numpy() for values in (people.exists, people.points_xy, people.confidence, people.score)
    )
    view_from_image = invert(batch.image_from_view).cpu()
    zoom = linear_scale(view_from_image).numpy()
    num_keypoints = codec.skeleton.num_keypoints
    annotated = ground_truth.keypoints_of_photos(batch.records)
    photos = []
    for i, (record, truth) in enumerate(zip(batch.records, annotated, strict=True)):
        matrix = view_from_image[i : i + 1]
        corner = apply(matrix, torch.tensor([[record["source_size"]]], dtype=torch.float32) - 0.5)
        width, height = (max(1, round(float(edge) + 0.5)) for edge in corner.flatten())
        truth_xy = apply(matrix, torch.from_numpy(truth[..., :2]).reshape(1, -1, 2)).numpy()
        boxes = np.array([row["bbox"] for row in record["ignored"]], np.float32).reshape(-1, 2, 2)
        boxes = apply(matrix, torch.from_numpy(boxes.cumsum(1)).reshape(1, -1, 2)).numpy()
        order = np.argsort(-scores[i], kind="stable")
        order = order[exists[i][order]]
        photos.append(
            PhotoBesideTruth(
                batch.image[i, :, :height, :width],
                str(record.get("file_name", record["image_id"])),
                np.concatenate((truth_xy.reshape(-1, num_keypoints, 2), truth[..., 2:]), axis=-1),
                np.array(record["areas"], np.float32) * zoom[i] ** 2,
                boxes.reshape(-1, 2, 2),
                points[i][order],
                peaks[i][order],
                scores[i][order],
            )
        )
    return photos
