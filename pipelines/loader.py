"""Batches of people: endless streams for training, single passes for scoring. Of photos: photo_loader.py."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semipose.pipelines import geometry, graph
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.cache.draw import VERSION as CACHE_VERSION
from semipose.pipelines.cache.draw import labelled_plan, unlabelled_plan
from semipose.pipelines.cache.loader import CachedLoader, MakePlan
from semipose.pipelines.cache.store import Home, Store
from semipose.pipelines.cache.store import fill as fill_store
from semipose.pipelines.dali_loader import (
    SINGLE_PROCESS,
    EvalLoader,
    PipelineLoader,
    ProcessInfo,
    Stream,
    channels_first,
    eval_reading,
    named_faults,
    signature_of,
    slice_of_rank,
    training_reading,
    with_stream_reader,
)
from semipose.pipelines.graph import Reading
from semipose.pipelines.loader_settings import DEFAULTS, Cache, LoaderSettings
from semipose.pipelines.source import Split
from semipose.pipelines.stream_reader import StreamReader
from semipose.pipelines.train_loader import Batch, TrainLoader
from semipose.pipelines.view_pipeline import Shown, ViewPipeline
from semipose.pipelines.views import ViewSettings


@dataclass(frozen=True)
class CachedStream(Stream[Batch]):
    """A stream whose samples can be kept decoded."""

    plan: MakePlan
    """Draws the views of a batch as the graph does."""
    num_keypoints: int | None
    """None: keypoints are not read."""


def labelled_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    seed: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
    cache: Cache = "none",
    places: Sequence[int | None] | None = None,
) -> TrainLoader[LabelledBatch]:
    """Return the endless stream of labelled batches of a rank.

    Ranks read disjoint samples. Every batch is full; a smaller set is repeated within it.
    places: for each keypoint of a batch its place among those of the split, None if it is not there and so
    not visible. Without it, a batch has the keypoints of the split.
    cache: whether to keep decoded crops, on the host or the device; all are decoded before this returns.
    Raises InputError if there are fewer samples than ranks, or if the crops do not fit.
    """
    num_keypoints = split.skeleton.num_keypoints
    flip_order = torch.tensor(split.skeleton.flip_order, device=process.device)
    stream = CachedStream(
        "labelled",
        partial(graph.labelled_graph, views=views, num_keypoints=num_keypoints),
        graph.VERSION,
        {"image": Shown("view_from_stored", views.labelled.border)},
        partial(_labelled_batch, flip_order=flip_order, places=_as_index(places, process.device)),
        plan=partial(labelled_plan, views=views),
        num_keypoints=num_keypoints,
    )
    reading = training_reading("labelled", split, batch_size, seed, process, settings)
    return _train_loader(stream, split, views, reading, seed, settings, cache)


def unlabelled_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    seed: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
    cache: Cache = "none",
) -> TrainLoader[UnlabelledBatch]:
    """Return the endless stream of unlabelled batches of a rank; see `labelled_loader`."""
    stream = CachedStream(
        "unlabelled",
        partial(graph.unlabelled_graph, views=views),
        graph.VERSION,
        {
            "weak": Shown("weak_from_stored", views.weak.border),
            "strong": Shown(
                "strong_from_stored",
                views.strong.border,
                "strong_from_weak" if views.strong_beyond_weak == "mean" else None,
            ),
        },
        _unlabelled_batch,
        plan=partial(unlabelled_plan, views=views),
        num_keypoints=None,
    )
    reading = training_reading("unlabelled", split, batch_size, seed, process, settings)
    return _train_loader(stream, split, views, reading, seed, settings, cache)


def _train_loader(
    stream: CachedStream[Batch],
    split: Split,
    views: ViewSettings,
    reading: Reading,
    seed: int,
    settings: LoaderSettings,
    cache: Cache,
) -> TrainLoader[Batch]:
    """A stream that decodes every sample in each pass, or one that decodes it once."""
    if cache == "none":
        return PipelineLoader(stream, split, views, reading, seed)
    signature = signature_of(stream.name, split, reading, seed, views)
    fill, stream_reader = _filling(stream, split, reading, settings, cache)
    return CachedLoader(
        fill,
        stream.plan,
        stream.finish,
        batch_size=reading.batch_size,
        seed=reading.seed,
        size_hw=views.size_hw,
        device=reading.device,
        threads=settings.threads,
        prefetch=settings.prefetch,
        signature=signature | {"cache": CACHE_VERSION, "numpy": np.__version__},
        stream_reader=stream_reader,
    )


def _filling(
    stream: CachedStream[Batch], split: Split, reading: Reading, settings: LoaderSettings, home: Home
) -> tuple[Callable[[], Store], StreamReader | None]:
    """The function that decodes the slice of a rank in order, and the stream reader that it uses, if any."""
    in_order = dataclasses.replace(reading, shuffle_buffer=0, device=torch.device("cpu"), stream_reader=None)
    in_order = with_stream_reader(in_order, split, endless=False, bad_samples=settings.bad_samples)
    count = len(slice_of_rank(split.num_samples, reading.rank, reading.world_size))

    def fill() -> Store:
        with named_faults(split):
            return fill_store(
                in_order,
                count,
                num_keypoints=stream.num_keypoints,
                home=home,
                device=reading.device,
                what=f"the {count:,} {stream.name} people of {split.root}",
            )

    return fill, in_order.stream_reader


def eval_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
) -> EvalLoader:
    """Return the batches of plain views for scoring a rank's slice of `split`."""
    reading = eval_reading(split, batch_size, process, settings)
    shown = {"image": Shown("view_from_stored", views.plain.border)}
    build = partial(ViewPipeline, partial(graph.eval_graph, views=views), reading, shown, views.size_hw)
    return EvalLoader(build, reading, split)


def _as_index(places: Sequence[int | None] | None, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """The places as an index (K,) int64, 0 where there is none, and (K,) float32, 0 there and 1 elsewhere."""
    if places is None:
        return None
    index = torch.tensor([place or 0 for place in places], device=device)
    is_there = torch.tensor([float(place is not None) for place in places], device=device)
    return index, is_there


def _labelled_batch(
    outputs: dict[str, Any], flip_order: Tensor, places: tuple[Tensor, Tensor] | None
) -> LabelledBatch:
    visible = outputs["v"].to(torch.float32).clamp(0, 1)
    # Coordinates of keypoints without annotation may be NaN, which a weight of 0 would not cancel.
    points_xy = torch.where(visible[..., None] > 0, outputs["points_xy"], 0.0)
    points_xy, visible = geometry.flip_keypoints(points_xy, visible, outputs["flipped"] > 0, flip_order)
    if places is not None:
        index, is_there = places
        points_xy, visible = points_xy[:, index], visible[:, index] * is_there
    return LabelledBatch(image=channels_first(outputs["image"]), points_xy=points_xy, visible=visible)


def _unlabelled_batch(outputs: dict[str, Any]) -> UnlabelledBatch:
    return UnlabelledBatch(
        weak=channels_first(outputs["weak"]),
        strong=channels_first(outputs["strong"]),
        strong_from_weak=outputs["strong_from_weak"],
    )
