"""Streams of batches for training, and the one pass of batches for scoring."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from configs.load import InputError
from configs.settings import settings
from pipelines import geometry, graph
from pipelines.batch import EvalBatch, LabelledBatch, UnlabelledBatch
from pipelines.feed import Feed
from pipelines.graph import Graph, Pipeline, Reading
from pipelines.source import Split
from pipelines.views import ViewSettings

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Place:
    """Which process of a run it is, and where it computes."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@settings
class LoaderSettings:
    """How the pipelines run. What they give depends on `shuffle_buffer` only, and on what a stream loses."""

    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads of each stream."""
    prefetch: Annotated[int, Field(ge=1)] = 2
    """Batches that each stream prepares ahead."""
    shuffle_buffer: Annotated[int, Field(ge=1)] = 2048
    """Encoded samples that each training stream holds to draw from; more mixes better, takes memory."""
    bad_samples: Annotated[int, Field(ge=0)] = 0
    """Samples that each training stream over http or a pipe may lose, with a warning, before the run stops.
    From 1 on each is decoded once more beforehand, to see whether it is sound."""


DEFAULTS = LoaderSettings()
ALONE = Place()


class TrainLoader(Generic[Batch]):
    """Endless batches of one rank, resumable bit for bit.

    `state_dict()` belongs to the batch returned last, however many are prefetched. DALI would continue other
    samples without a word, so the state carries a signature of everything that the stream depends on.
    """

    def __init__(
        self,
        graph: Graph,
        reading: Reading,
        split: Split,
        signature: dict[str, Any],
        finish: Callable[[dict[str, Any]], Batch],
    ) -> None:
        self._build = partial(Pipeline, graph, reading)
        self._feed = reading.feed
        self._split = split
        self._signature = signature
        self._finish = finish
        self._pipeline: Pipeline | None = None
        self._checkpoint: bytes | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch. Raises InputError that names the sample where one cannot be decoded."""
        with _named_faults(self._split):
            if self._pipeline is None:
                self._pipeline = self._build(self._checkpoint)
            outputs = self._pipeline.next()
        return self._finish(outputs)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` of an equal stream goes on from: plain values and bytes."""
        checkpoint = self._pipeline.checkpoint() if self._pipeline else self._checkpoint
        lost = sorted(self._feed.lost.items()) if self._feed else []
        return {"signature": dict(self._signature), "dali": checkpoint, "lost": [list(pair) for pair in lost]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batch that `state` belongs to. Raises InputError where it is another stream's."""
        saved = state["signature"]
        keys = [key for key in {**self._signature, **saved} if self._signature.get(key) != saved.get(key)]
        if keys:
            changes = ", ".join(
                f"{key} was {saved.get(key)} and is {self._signature.get(key)}" for key in keys
            )
            raise InputError(
                f"the saved data stream is not this one ({changes}): resume with the settings and shards of "
                "the run, or start a new run"
            )
        self.close()
        self._checkpoint = state["dali"]
        if self._feed:
            self._feed.lost = dict(state["lost"])

    @property
    def num_lost(self) -> int:
        """How many samples a stream over http or a pipe has lost; each was named in a warning."""
        return len(self._feed.lost) if self._feed else 0

    def close(self) -> None:
        """Stop the pipeline's threads and free its memory; the next batch would start it again."""
        if self._pipeline is not None:
            self._checkpoint = self._pipeline.checkpoint()
        self._pipeline = None
        if self._feed:
            self._feed.close()


def labelled_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    seed: int,
    place: Place = ALONE,
    settings: LoaderSettings = DEFAULTS,
) -> TrainLoader[LabelledBatch]:
    """Return the endless stream of labelled batches of a rank.

    Ranks read disjoint samples; every batch is full, wrapping where the set is smaller. Raises InputError
    where there are fewer samples than ranks.
    """
    reading = _training_reading(
        "labelled", split, batch_size=batch_size, seed=seed, place=place, settings=settings
    )
    num_keypoints = split.skeleton.num_keypoints
    flip_order = torch.tensor(split.skeleton.flip_order, device=place.device)
    return TrainLoader(
        partial(graph.labelled_graph, views=views, num_keypoints=num_keypoints),
        reading,
        split,
        _signature("labelled", split, reading, seed, views),
        partial(_labelled_batch, flip_order=flip_order),
    )


def unlabelled_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    seed: int,
    place: Place = ALONE,
    settings: LoaderSettings = DEFAULTS,
) -> TrainLoader[UnlabelledBatch]:
    """Return the endless stream of unlabelled batches of a rank; see `labelled_loader`."""
    reading = _training_reading(
        "unlabelled", split, batch_size=batch_size, seed=seed, place=place, settings=settings
    )
    return TrainLoader(
        partial(graph.unlabelled_graph, views=views),
        reading,
        split,
        _signature("unlabelled", split, reading, seed, views),
        _unlabelled_batch,
    )


class EvalLoader:
    """Every sample of a rank's slice exactly once, in order, at each iteration; the last batch may be short.

    The slices of the ranks, one after the other, are the whole split. A rank may have none.
    """

    def __init__(self, graph: Graph, reading: Reading, split: Split) -> None:
        self._build = partial(Pipeline, graph, reading)
        self._split = split
        self._batch_size = reading.batch_size
        self.num_samples = len(_slice(split.num_samples, reading.rank, reading.world))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        """Start a new pass. Raises InputError that names the sample where one cannot be decoded."""
        if not self.num_samples:
            return
        with _named_faults(self._split):
            pipeline = self._build()
        for start in range(0, self.num_samples, self._batch_size):
            with _named_faults(self._split):
                outputs = pipeline.next()
            # DALI's own reader is endless: what it read beyond the end belongs to the start.
            yield _eval_batch(outputs, min(self._batch_size, self.num_samples - start))


def eval_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    place: Place = ALONE,
    settings: LoaderSettings = DEFAULTS,
) -> EvalLoader:
    """Return the batches of plain views that score a rank's slice of `split`."""
    reading = Reading(
        tars=split.tars,
        indices=split.indices,
        batch_size=batch_size,
        seed=0,  # nothing is drawn
        rank=place.rank,
        world=min(place.world, split.num_samples),  # DALI refuses empty slices; later ranks get none
        device=place.device,
        threads=settings.threads,
        prefetch=settings.prefetch,
    )
    reading = _with_feed(reading, split, endless=False)
    return EvalLoader(partial(graph.eval_graph, views=views), reading, split)


def channels_first(image: Tensor) -> Tensor:
    """See a batch of views (N, H, W, 3) as (N, 3, H, W), channels-last in memory; nothing is copied."""
    return image.permute(0, 3, 1, 2)


def _labelled_batch(outputs: dict[str, Any], flip_order: Tensor) -> LabelledBatch:
    visible = (outputs["v"] > 0).to(torch.float32)
    # Coordinates of keypoints that nobody marked mean nothing and may be NaN, which no weight of 0 can stop.
    points_xy = torch.where(visible[..., None] > 0, outputs["points_xy"], 0.0)
    points_xy, visible = geometry.flip_keypoints(points_xy, visible, outputs["flipped"] > 0, flip_order)
    return LabelledBatch(image=channels_first(outputs["image"]), points_xy=points_xy, visible=visible)


def _unlabelled_batch(outputs: dict[str, Any]) -> UnlabelledBatch:
    return UnlabelledBatch(
        weak=channels_first(outputs["weak"]),
        strong=channels_first(outputs["strong"]),
        strong_from_weak=outputs["strong_from_weak"],
    )


def _eval_batch(outputs: dict[str, Any], count: int) -> EvalBatch:
    records = [json.loads(record) for record in outputs[graph.RECORD][:count]]
    view_from_stored = outputs["view_from_stored"][:count]
    image_from_stored = torch.tensor([record["image_from_stored"] for record in records], dtype=torch.float32)
    stored_from_view = geometry.invert(view_from_stored)
    return EvalBatch(
        image=channels_first(outputs["image"][:count]),
        image_from_view=geometry.compose(image_from_stored.to(view_from_stored.device), stored_from_view),
        records=records,
    )


def _slice(total: int, rank: int, world: int) -> range:
    """Return the places that DALI gives to a rank; none where `rank` is beyond `world`."""
    if rank >= world:
        return range(0)
    return range(total * rank // world, total * (rank + 1) // world)


def _training_reading(
    role: str,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    place: Place,
    settings: LoaderSettings,
) -> Reading:
    if split.num_samples < place.world:
        raise InputError(
            f"the {role} set of {split.root} has {split.num_samples} samples for {place.world} processes: "
            "start fewer processes or take more samples"
        )
    digest = hashlib.sha256(f"{role} {seed} {place.rank}".encode()).digest()
    reading = Reading(
        tars=split.tars,
        indices=split.indices,
        batch_size=batch_size,
        seed=int.from_bytes(digest[:4], "little") >> 1,
        shuffle_buffer=min(settings.shuffle_buffer, len(_slice(split.num_samples, place.rank, place.world))),
        rank=place.rank,
        world=place.world,
        device=place.device,
        threads=settings.threads,
        prefetch=settings.prefetch,
    )
    return _with_feed(reading, split, bad_samples=settings.bad_samples)


def _with_feed(reading: Reading, split: Split, *, endless: bool = True, bad_samples: int = 0) -> Reading:
    """Let a feed read where the shards are streamed."""
    part = _slice(split.num_samples, reading.rank, reading.world)
    if not split.shards.is_streamed:
        return reading
    order = partial(graph.read_order, len(part), shuffle_buffer=reading.shuffle_buffer, seed=reading.seed)
    feed = Feed(split, part, order, batch_size=reading.batch_size, endless=endless, bad_samples=bad_samples)
    return dataclasses.replace(reading, feed=feed)


def _signature(role: str, split: Split, reading: Reading, seed: int, views: ViewSettings) -> dict[str, Any]:
    """Return everything that decides what a training stream gives, as plain values."""
    return {
        "stream": role,
        "graph": graph.VERSION,
        "dali": graph.DALI_VERSION,
        "reader": "stream" if split.shards.is_streamed else "dali",
        "samples": split.selection_sha256,
        "views": json.dumps(dataclasses.asdict(views)),
        "batch_size": reading.batch_size,
        "shuffle_buffer": reading.shuffle_buffer,
        "seed": seed,
        "rank": reading.rank,
        "world": reading.world,
        "device": reading.place,
    }


@contextmanager
def _named_faults(split: Split) -> Iterator[None]:
    """Turn DALI's error about a sample that cannot be read into one that names it."""
    try:
        yield
    except RuntimeError as error:
        fault = split.find_fault(str(error))
        if fault is None:
            raise
        raise fault from error
