"""What the loaders of people and of whole photos share: which samples a rank reads, and how batches come.

loader.py and photo_loader.py say which graph runs and what a batch is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor

from semipose.configs.load import InputError
from semipose.pipelines import geometry, graph
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.graph import Graph, Reading
from semipose.pipelines.loader_settings import LoaderSettings
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.source import Split
from semipose.pipelines.stream_reader import StreamReader
from semipose.pipelines.train_loader import Batch, TrainLoader
from semipose.pipelines.view_pipeline import Shown, ViewPipeline
from semipose.pipelines.views import ViewSettings

Views = ViewSettings | PhotoViewSettings


@dataclass(frozen=True)
class ProcessInfo:
    """One process of a run: its rank, how many processes there are, and the device that it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


SINGLE_PROCESS = ProcessInfo()


@dataclass(frozen=True)
class Stream(Generic[Batch]):
    """What distinguishes one kind of training stream from another: of people or photos, labelled or not."""

    name: str
    """In the signature of its state."""
    graph: Graph
    version: int
    """Of the graph."""
    shown: Mapping[str, Shown]
    """The views that are warped, by the names of their pixels."""
    finish: Callable[[dict[str, Any]], Batch]
    """Makes a batch from the outputs of the graph."""


class PipelineLoader(TrainLoader[Batch]):
    """Endless batches of one rank whose samples are decoded anew in each pass.

    DALI would silently continue with other samples, so the state holds a signature.
    """

    def __init__(
        self, stream: Stream[Batch], split: Split, views: Views, reading: Reading, seed: int
    ) -> None:
        signature = signature_of(stream.name, split, reading, seed, views) | {
            "graph": stream.version,
            "dali": graph.DALI_VERSION,
            "reader": "stream" if split.shards.is_streamed else "dali",
            "shuffle_buffer": reading.shuffle_buffer,
        }
        super().__init__(signature, reading.stream_reader)
        self._build = partial(ViewPipeline, stream.graph, reading, stream.shown, views.size_hw)
        self._finish = stream.finish
        self._split = split
        self._pipeline: ViewPipeline | None = None
        self._checkpoint: bytes | None = None

    def __next__(self) -> Batch:
        """Return the next batch. Raises InputError with the name of a sample that cannot be decoded."""
        with named_faults(self._split):
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


class EvalLoader:
    """Every sample of a rank's slice exactly once and in order per pass; the last batch may be smaller.

    The slices of all ranks, in order, are the whole split. A slice may be empty.
    """

    def __init__(self, build: Callable[[], ViewPipeline], reading: Reading, split: Split) -> None:
        """build: starts the pipeline of `reading`, whose outputs `_eval_batch` reads."""
        self._build = build
        self._split = split
        self._batch_size = reading.batch_size
        self.num_samples = len(slice_of_rank(split.num_samples, reading.rank, reading.world_size))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        """Start a new pass. Raises InputError with the name of a sample that cannot be decoded."""
        if not self.num_samples:
            return
        with named_faults(self._split):
            pipeline = self._build()
        with closing(pipeline):
            for start in range(0, self.num_samples, self._batch_size):
                with named_faults(self._split):
                    outputs = pipeline.next()
                # DALI's reader is endless: what it reads beyond the end belongs to the next pass.
                yield _eval_batch(outputs, min(self._batch_size, self.num_samples - start))


def slice_of_rank(total: int, rank: int, world_size: int) -> range:
    """Return the indices that DALI gives to a rank; none if `rank` is not below `world_size`."""
    if rank >= world_size:
        return range(0)
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def training_reading(
    role: str, split: Split, batch_size: int, seed: int, process: ProcessInfo, settings: LoaderSettings
) -> Reading:
    """Return what an endless stream of a rank reads. Raises InputError for fewer samples than ranks."""
    if split.num_samples < process.world_size:
        raise InputError(
            f"the {role} set of {split.root} has {split.num_samples} samples for {process.world_size} "
            "processes: start fewer processes or use more samples"
        )
    own_slice = slice_of_rank(split.num_samples, process.rank, process.world_size)
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
    return with_stream_reader(reading, split, bad_samples=settings.bad_samples)


def eval_reading(split: Split, batch_size: int, process: ProcessInfo, settings: LoaderSettings) -> Reading:
    """Return what a single pass of a rank reads."""
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
    return with_stream_reader(reading, split, endless=False)


def with_stream_reader(
    reading: Reading, split: Split, *, endless: bool = True, bad_samples: int = 0
) -> Reading:
    """Let a stream reader read the shards if they are streamed."""
    part = slice_of_rank(split.num_samples, reading.rank, reading.world_size)
    if not split.shards.is_streamed:
        return reading
    order = partial(graph.read_order, len(part), shuffle_buffer=reading.shuffle_buffer, seed=reading.seed)
    stream_reader = StreamReader(
        split, part, order, batch_size=reading.batch_size, endless=endless, bad_samples=bad_samples
    )
    return dataclasses.replace(reading, stream_reader=stream_reader)


def signature_of(name: str, split: Split, reading: Reading, seed: int, views: Views) -> dict[str, Any]:
    """Return everything that the batches of a training stream depend on, cached or not, as plain values."""
    return {
        "stream": name,
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
def named_faults(split: Split) -> Iterator[None]:
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


def channels_first(image: Tensor) -> Tensor:
    """Return a batch of views (N, H, W, 3) as (N, 3, H, W), channels-last in memory, without a copy."""
    return image.permute(0, 3, 1, 2)


def _eval_batch(outputs: dict[str, Any], count: int) -> EvalBatch:
    records = [json.loads(record) for record in outputs[graph.RECORD][:count]]
    view_from_stored = outputs["view_from_stored"][:count]
    image_from_stored = torch.tensor([record["image_from_stored"] for record in records], dtype=torch.float32)
    stored_from_view = geometry.invert(view_from_stored)
    return EvalBatch(
        image=channels_first(outputs["image"][:count]),
        image_from_view=geometry.compose(image_from_stored.to(view_from_stored.device), stored_from_view),
        records=records,
        view_hw=outputs["view_hw"][:count].long() if "view_hw" in outputs else None,
    )
