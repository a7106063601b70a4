"""Batches of whole photos: endless streams for training, single passes for scoring. Of people: loader.py."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from semipose.pipelines import geometry, photo_graph
from semipose.pipelines.batch import LabelledPhotos, UnlabelledBatch
from semipose.pipelines.dali_loader import (
    SINGLE_PROCESS,
    EvalLoader,
    PipelineLoader,
    ProcessInfo,
    Stream,
    channels_first,
    eval_reading,
    training_reading,
)
from semipose.pipelines.loader_settings import DEFAULTS, LoaderSettings
from semipose.pipelines.people import IgnoredArea, People, PhotoFrame
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import Split
from semipose.pipelines.train_loader import TrainLoader
from semipose.pipelines.view_pipeline import Shown, ViewPipeline
from semipose.sharding.samples.person import BOX_NUMBERS
from semipose.sharding.samples.photo import PEOPLE_HEAD


def labelled_photo_loader(
    split: Split,
    views: PhotoViewSettings,
    *,
    batch_size: int,
    seed: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
) -> TrainLoader[LabelledPhotos]:
    """Return the endless stream of labelled photos of a rank; see `loader.labelled_loader`.

    split: of kind image. Raises InputError if there are fewer photos than ranks.
    """
    num_keypoints = split.skeleton.num_keypoints
    flip_order = torch.tensor(split.skeleton.flip_order, device=process.device)
    stream = Stream(
        "labelled photo",
        partial(photo_graph.labelled_photo_graph, views=views, num_keypoints=num_keypoints),
        photo_graph.VERSION,
        {"image": Shown("view_from_stored", views.labelled.border)},
        partial(_labelled_photos, flip_order=flip_order),
    )
    reading = training_reading("labelled", split, batch_size, seed, process, settings)
    return PipelineLoader(stream, split, views, reading, seed)


def unlabelled_photo_loader(
    split: Split,
    views: PhotoViewSettings,
    *,
    batch_size: int,
    seed: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
) -> TrainLoader[UnlabelledBatch]:
    """Return the endless stream of unlabelled photos of a rank. It opens no member but the picture."""
    stream = Stream(
        "unlabelled photo",
        partial(photo_graph.unlabelled_photo_graph, views=views),
        photo_graph.VERSION,
        {
            "weak": Shown("weak_from_stored", views.weak.border),
            "strong": Shown("strong_from_stored", views.strong.border),
        },
        _unlabelled_photos,
    )
    reading = training_reading("unlabelled", split, batch_size, seed, process, settings)
    return PipelineLoader(stream, split, views, reading, seed)


def eval_photo_loader(
    split: Split,
    views: PhotoViewSettings,
    *,
    batch_size: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
) -> EvalLoader:
    """Return the batches of whole photos for scoring a rank's slice of `split`; `view_hw` is set.

    The shorter side of each photo is `views.size` pixels; a batch of one photo is the published test.
    """
    reading = eval_reading(split, batch_size, process, settings)
    graph = partial(photo_graph.eval_photo_graph, views=views)
    shown = {"image": Shown("view_from_stored", views.plain.border, sizes_hw="view_hw")}
    return EvalLoader(partial(ViewPipeline, graph, reading, shown, views.size_hw), reading, split)


def _labelled_photos(outputs: dict[str, Any], flip_order: Tensor) -> LabelledPhotos:
    view_from_stored = outputs["view_from_stored"]
    return LabelledPhotos(
        image=channels_first(outputs["image"]),
        people=parse_people(outputs["people"], view_from_stored, outputs["flipped"] > 0, flip_order),
        ignored=IgnoredArea(
            grid=_unpack_bits(outputs["mask"]),
            stored_from_view=geometry.invert(view_from_stored),
            stored_hw=outputs["stored_hw"],
        ),
    )


def parse_people(records: Tensor, view_from_stored: Tensor, flipped: Tensor, flip_order: Tensor) -> People:
    """Read the people off pose records, and move them into the views.

    records: (N, 2 + M * (4 + 3K)) float32 in stored pixels, as `encode_people` writes them, without ignored
    boxes and padded. view_from_stored: (N, 2, 3). flipped: (N,) bool. flip_order: (K,) int64. Reads nothing
    back from the device: the most people of a photo is a shape.
    """
    num_photos, num_keypoints = len(records), len(flip_order)
    people = records[:, PEOPLE_HEAD:].reshape(num_photos, -1, BOX_NUMBERS + 3 * num_keypoints)
    most_people = people.shape[1]
    is_person = torch.arange(most_people, device=records.device) < records[:, :1]
    x, y, width, height = people[..., :BOX_NUMBERS].unbind(-1)
    corners_x = torch.stack((x, x + width, x + width, x), dim=-1)
    corners_y = torch.stack((y, y, y + height, y + height), dim=-1)
    keypoints = people[..., BOX_NUMBERS:].reshape(num_photos, most_people, num_keypoints, 3)

    def move(points_xy: Tensor) -> Tensor:
        return geometry.apply(view_from_stored, points_xy.flatten(1, 2)).view_as(points_xy)

    visible = ((keypoints[..., 2] > 0) & is_person[..., None]).to(torch.float32)
    # Coordinates of keypoints without annotation may be NaN, which a weight of 0 would not cancel.
    points_xy = torch.where(visible[..., None] > 0, move(keypoints[..., :2]), 0.0)
    points_xy, visible = geometry.flip_keypoints(points_xy, visible, flipped, flip_order)
    corners_xy = move(torch.stack((corners_x, corners_y), dim=-1))
    return People(
        points_xy=points_xy,
        visible=visible,
        is_person=is_person,
        corners_xy=torch.where(is_person[..., None, None], corners_xy, 0.0),
    )


def _unpack_bits(mask: Tensor) -> Tensor:
    """Return (N, 1, G, G) float32 0/1 from bits (N, G, G / 8) uint8, the first in the highest."""
    shifts = torch.arange(7, -1, -1, device=mask.device, dtype=torch.uint8)
    return ((mask[..., None] >> shifts) & 1).flatten(-2)[:, None].to(torch.float32)


def _unlabelled_photos(outputs: dict[str, Any]) -> UnlabelledBatch:
    weak_frame, strong_frame = (
        PhotoFrame(geometry.invert(outputs[f"{view}_from_stored"]), outputs["stored_hw"])
        for view in ("weak", "strong")
    )
    return UnlabelledBatch(
        weak=channels_first(outputs["weak"]),
        strong=channels_first(outputs["strong"]),
        strong_from_weak=outputs["strong_from_weak"],
        weak_frame=weak_frame,
        strong_frame=strong_frame,
    )
