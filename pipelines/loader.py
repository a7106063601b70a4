"""Streams of batches for training, and single passes of batches for scoring."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Generic, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from configs.load import InputError
from configs.settings import settings
from pipelines import geometry, graph
from pipelines.batch import EvalBatch, LabelledBatch, UnlabelledBatch
from pipelines.cache.draw import VERSION as CACHE_VERSION
from pipelines.cache.draw import labelled_plan, unlabelled_plan
from pipelines.cache.loader import CachedLoader, MakePlan
from pipelines.cache.store import Home, Store
from pipelines.cache.store import fill as fill_store
from pipelines.graph import Graph, Reading
from pipelines.source import Split
from pipelines.stream_reader import StreamReader
from pipelines.train_loader import Batch, TrainLoader
from pipelines.view_pipeline import Shown, ViewPipeline
from pipelines.views import ViewSettings

Cache = Literal["none", "host", "device"]
"""Where decoded crops are kept; without a GPU, device means the host."""


@dataclass(frozen=True)
class ProcessInfo:
    """One process of a run: its rank, how many processes there are, and the device that it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@settings
class LoaderSettings:
    """How the pipelines run. Batches depend only on `shuffle_buffer` and on the samples that are lost."""

    threads: Annotated[int, Field(ge=1, le=512)] = 2
    """CPU threads per stream; without a GPU, as many again warp views."""
    prefetch: Annotated[int, Field(ge=1, le=128)] = 2
    """Batches that each stream prepares in advance."""
    hw_decoder_load: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Share of each batch that the JPEG engines of a data-centre GPU decode; its cores decode the rest."""
    shuffle_buffer: Annotated[int, Field(ge=1)] = 2048
    """Size of the shuffle buffer of each training stream, in encoded samples; a larger one shuffles better
    and takes more memory."""
    bad_samples: Annotated[int, Field(ge=0)] = 0
    """Samples that each training stream over http or a pipe may lose, with a warning, before the run stops.
    With 1 or more, each sample is first decoded once more to check it."""


DEFAULTS = LoaderSettings()
SINGLE_PROCESS = ProcessInfo()


class PipelineLoader(TrainLoader[Batch]):
    """Endless batches of one rank whose samples are decoded anew in each pass.

    DALI would silently continue with other samples, so the state holds a signature.
    """

    def __init__(
        self,
        role: "_Role[Batch]",
        reading: Reading,
        split: Split,
        size_hw: tuple[int, int],
        signature: dict[str, Any],
    ) -> None:
        super().__init__(signature, reading.stream_reader)
        self._build = partial(ViewPipeline, role.graph, reading, role.shown, size_hw)
        self._split = split
        self._finish = role.finish
        self._pipeline: ViewPipeline | None = None
        self._checkpoint: bytes | None = None

    def __next__(self) -> Batch:
        """Return the next batch. Raises InputError with the name of a sample that cannot be decoded."""
        with _named_faults(self._split):
            if self._pipeline is None:
                self._pipeline = self._start()
            outputs = self._pipeline.next()
        return self._finish(outputs)

    def _start(self) -> ViewPipeline:
        """The pipeline at the saved position. Raises InputError if DALI cannot read that position."""
        try:
            return self._build(self._checkpoint)
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter from DALI's message on damaged bytes
            if self._checkpoint is None:
                raise
            raise InputError(
                "the position in the data stream that the checkpoint holds cannot be read: remove that "
                "checkpoint to fall back on an older one"
            ) from error

    def _position(self) -> dict[str, Any]:
        return {"dali": self._pipeline.checkpoint() if self._pipeline else self._checkpoint}

    def _resume(self, state: dict[str, Any]) -> None:
        self.close()
        if state["dali"] == b"":
            raise ValueError("the position in the data stream is empty")
        self._checkpoint = state["dali"]
        if self._stream_reader:
            self._stream_reader.lost = dict(state["lost"])

    def close(self) -> None:
        """Stop the threads and free the memory of the pipeline; the next batch starts it again."""
        if self._pipeline is not None:
            self._checkpoint = self._pipeline.checkpoint()
            self._pipeline.close()
        self._pipeline = None
        if self._stream_reader:
            self._stream_reader.close()


@dataclass(frozen=True)
class _Role(Generic[Batch]):
    """The differences between labelled and unlabelled streams."""

    name: str
    graph: Graph
    shown: Mapping[str, Shown]
    plan: MakePlan
    finish: Callable[[dict[str, Any]], Batch]
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
) -> TrainLoader[LabelledBatch]:
    """Return the endless stream of labelled batches of a rank.

    Ranks read disjoint samples. Every batch is full; a smaller set is repeated within it.
    cache: whether to keep decoded crops, on the host or the device; all are decoded before this returns.
    Raises InputError if there are fewer samples than ranks, or if the crops do not fit.
    """
    num_keypoints = split.skeleton.num_keypoints
    flip_order = torch.tensor(split.skeleton.flip_order, device=process.device)
    role = _Role(
        "labelled",
        partial(graph.labelled_graph, views=views, num_keypoints=num_keypoints),
        {"image": Shown("view_from_stored", views.labelled.border)},
        partial(labelled_plan, views=views),
        partial(_labelled_batch, flip_order=flip_order),
        num_keypoints,
    )
    reading = _training_reading(role.name, split, batch_size, seed, process, settings)
    return _train_loader(role, split, views, reading, seed, settings, cache)


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
    role = _Role(
        "unlabelled",
        partial(graph.unlabelled_graph, views=views),
        {
            "weak": Shown("weak_from_stored", views.weak.border),
            "strong": Shown(
                "strong_from_stored",
                views.strong.border,
                "strong_from_weak" if views.strong_beyond_weak == "mean" else None,
            ),
        },
        partial(unlabelled_plan, views=views),
        _unlabelled_batch,
        None,
    )
    reading = _training_reading(role.name, split, batch_size, seed, process, settings)
    return _train_loader(role, split, views, reading, seed, settings, cache)


def _train_loader(
    role: _Role[Batch],
    split: Split,
    views: ViewSettings,
    reading: Reading,
    seed: int,
    settings: LoaderSettings,
    cache: Cache,
) -> TrainLoader[Batch]:
    """A stream that decodes every sample in each pass, or one that decodes it once."""
    signature = _signature(role.name, split, reading, seed, views)
    if cache == "none":
        decoding = {
            "graph": graph.VERSION,
            "dali": graph.DALI_VERSION,
            "reader": "stream" if split.shards.is_streamed else "dali",
            "shuffle_buffer": reading.shuffle_buffer,
        }
        return PipelineLoader(role, reading, split, views.size_hw, signature | decoding)
    fill, stream_reader = _filling(role, split, reading, settings, cache)
    return CachedLoader(
        fill,
        role.plan,
        role.finish,
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
    role: _Role[Batch], split: Split, reading: Reading, settings: LoaderSettings, home: Home
) -> tuple[Callable[[], Store], StreamReader | None]:
    """The function that decodes the slice of a rank in order, and the stream reader that it uses, if any."""
    in_order = dataclasses.replace(reading, shuffle_buffer=0, device=torch.device("cpu"), stream_reader=None)
    in_order = _with_stream_reader(in_order, split, endless=False, bad_samples=settings.bad_samples)
    count = len(_slice(split.num_samples, reading.rank, reading.world_size))

    def fill() -> Store:
        with _named_faults(split):
            return fill_store(
                in_order,
                count,
                num_keypoints=role.num_keypoints,
                home=home,
                device=reading.device,
                what=f"the {count:,} {role.name} people of {split.root}",
            )

    return fill, in_order.stream_reader


class EvalLoader:
    """Every sample of a rank's slice exactly once and in order per pass; the last batch may be smaller.

    The slices of all ranks, in order, are the whole split. A slice may be empty.
    """

    def __init__(self, views: ViewSettings, reading: Reading, split: Split) -> None:
        shown = {"image": Shown("view_from_stored", views.plain.border)}
        self._build = partial(
            ViewPipeline, partial(graph.eval_graph, views=views), reading, shown, views.size_hw
        )
        self._split = split
        self._batch_size = reading.batch_size
        self.num_samples = len(_slice(split.num_samples, reading.rank, reading.world_size))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        """Start a new pass. Raises InputError with the name of a sample that cannot be decoded."""
        if not self.num_samples:
            return
        with _named_faults(self._split):
            pipeline = self._build()
        with closing(pipeline):
            for start in range(0, self.num_samples, self._batch_size):
                with _named_faults(self._split):
                    outputs = pipeline.next()
                # DALI's reader is endless: what it reads beyond the end belongs to the next pass.
                yield _eval_batch(outputs, min(self._batch_size, self.num_samples - start))


def eval_loader(
    split: Split,
    views: ViewSettings,
    *,
    batch_size: int,
    process: ProcessInfo = SINGLE_PROCESS,
    settings: LoaderSettings = DEFAULTS,
) -> EvalLoader:
    """Return the batches of plain views for scoring a rank's slice of `split`."""
    reading = Reading(
        tars=split.tars,
        indices=split.indices,
        batch_size=batch_size,
        seed=0,  # nothing is random
        rank=process.rank,
        world_size=min(
            process.world_size, split.num_samples
        ),  # DALI refuses empty slices, so later ranks get none
        device=process.device,
        threads=settings.threads,
        prefetch=settings.prefetch,
        hw_decoder_load=settings.hw_decoder_load,
    )
    reading = _with_stream_reader(reading, split, endless=False)
    return EvalLoader(views, reading, split)


def channels_first(image: Tensor) -> Tensor:
    """Return a batch of views (N, H, W, 3) as (N, 3, H, W), channels-last in memory, without a copy."""
    return image.permute(0, 3, 1, 2)


def _labelled_batch(outputs: dict[str, Any], flip_order: Tensor) -> LabelledBatch:
    visible = (outputs["v"] > 0).to(torch.float32)
    # Coordinates of keypoints without annotation may be NaN, which a weight of 0 would not cancel.
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


def _slice(total: int, rank: int, world_size: int) -> range:
    """Return the indices that DALI gives to a rank; none if `rank` is not below `world_size`."""
    if rank >= world_size:
        return range(0)
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def _training_reading(
    role: str, split: Split, batch_size: int, seed: int, process: ProcessInfo, settings: LoaderSettings
) -> Reading:
    if split.num_samples < process.world_size:
        raise InputError(
            f"the {role} set of {split.root} has {split.num_samples} samples for {process.world_size} "
            "processes: start fewer processes or use more samples"
        )
    own_slice = _slice(split.num_samples, process.rank, process.world_size)
    digest = hashlib.sha256(f"{role} {seed} {process.rank}".encode()).digest()
    reading = Reading(
        tars=split.tars,
        indices=split.indices,
        batch_size=batch_size,
        seed=int.from_bytes(digest[:4], "little") >> 1,
        shuffle_buffer=min(settings.shuffle_buffer, len(own_slice)),
        rank=process.rank,
        world_size=process.world_size,
        device=process.device,
        threads=settings.threads,
        prefetch=settings.prefetch,
        hw_decoder_load=settings.hw_decoder_load,
    )
    return _with_stream_reader(reading, split, bad_samples=settings.bad_samples)


def _with_stream_reader(
    reading: Reading, split: Split, *, endless: bool = True, bad_samples: int = 0
) -> Reading:
    """Let a stream reader read the shards if they are streamed."""
    part = _slice(split.num_samples, reading.rank, reading.world_size)
    if not split.shards.is_streamed:
        return reading
    order = partial(graph.read_order, len(part), shuffle_buffer=reading.shuffle_buffer, seed=reading.seed)
    stream_reader = StreamReader(
        split, part, order, batch_size=reading.batch_size, endless=endless, bad_samples=bad_samples
    )
    return dataclasses.replace(reading, stream_reader=stream_reader)


def _signature(role: str, split: Split, reading: Reading, seed: int, views: ViewSettings) -> dict[str, Any]:
    """Return everything that the batches of a training stream depend on, cached or not, as plain values."""
    return {
        "stream": role,
        "samples": split.selection_sha256,
        "views": json.loads(
            json.dumps(dataclasses.asdict(views))
        ),  # as lists, which is what a checkpoint returns
        "batch_size": reading.batch_size,
        "seed": seed,
        "rank": reading.rank,
        "world": reading.world_size,
        "device": reading.dali_device,
    }


@contextmanager
def _named_faults(split: Split) -> Iterator[None]:
    """Turn DALI's error about a sample that cannot be read into one with its name."""
    try:
        yield
    except torch.OutOfMemoryError:  # not caused by a sample, so do not read all of them in search of one
        raise
    except RuntimeError as error:
        fault = split.find_fault(str(error))
        if fault is None:
            raise
        raise fault from error
