"""The decoded crops of one rank's slice, in one buffer, and the function that fills it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor

from semipose.configs.load import InputError
from semipose.pipelines import graph
from semipose.pipelines.cache.memory_check import require_room
from semipose.pipelines.graph import Graph, Pipeline, Reading

Home = Literal["host", "device"]

_WORTH_A_LINE = 5_000
"""Number of samples from which the progress is shown; they take about two seconds."""


@dataclass(frozen=True)
class Store:
    """Everything of the samples that views are made from; n samples in reading order."""

    pixels: Tensor
    """(bytes,) uint8 on the host or the device: the crops (H, W, 3) RGB, one after the other."""
    offsets: np.ndarray
    """(n,) int64: the start of each crop."""
    sizes_hw: np.ndarray
    """(n, 2) int64: height and width of each crop."""
    boxes_xywh: np.ndarray
    """(n, 4) float32, stored pixels."""
    keypoints: np.ndarray | None
    """(n, K, 3) float32: x, y in stored pixels, v. None if they are not read."""

    @property
    def num_samples(self) -> int:
        """The number of samples."""
        return len(self.offsets)

    def crop(self, index: int) -> np.ndarray:
        """Return one crop (H, W, 3) of a store on the host; it shares the memory of the store."""
        (height, width), offset = self.sizes_hw[index], self.offsets[index]
        pixels: np.ndarray = self.pixels.numpy()
        return pixels[offset : offset + height * width * 3].reshape(height, width, 3)


class _MoreLostError(Exception):
    """A sample was lost between the survey and its decoding."""


def fill(
    reading: Reading, count: int, *, num_keypoints: int | None, home: Home, device: torch.device, what: str
) -> Store:
    """Decode the `count` samples of a slice once and keep them.

    reading: in order and on the CPU, because the decoder of a GPU rounds differently, and this is done only
    once. There are two passes over the samples: the first reads the sizes, so that a store that does not fit
    is refused before anything is decoded. If a stream loses samples meanwhile, both start again without them.
    Raises InputError if the store does not fit or every sample is lost, and RuntimeError if a sample cannot
    be decoded.
    """
    while True:
        lost = num_lost(reading)
        try:
            return _fill(reading, count, num_keypoints=num_keypoints, home=home, device=device, what=what)
        except _MoreLostError:
            assert num_lost(reading) > lost
        finally:
            if reading.stream_reader:
                reading.stream_reader.close()


def num_lost(reading: Reading) -> int:
    """The number of lost samples of the slice."""
    return len(reading.stream_reader.lost) if reading.stream_reader else 0


def _fill(
    reading: Reading, count: int, *, num_keypoints: int | None, home: Home, device: torch.device, what: str
) -> Store:
    survey = partial(graph.survey_graph, num_keypoints=num_keypoints)
    seen = [
        {name: rows.numpy().copy() for name, rows in batch.items()}
        for batch in _one_pass(survey, reading, count, f"sizes of {what}")
    ]
    if not seen:
        raise InputError(f"{what}: all of them are lost: repair the shards or the connection")
    table = {name: np.concatenate([batch[name] for batch in seen])[:count] for name in seen[0]}
    if len(table["shape_hwc"]) != count - num_lost(reading):
        raise _MoreLostError
    ends = np.cumsum(table["shape_hwc"][:, :2].prod(1) * 3)
    require_room(int(ends[-1]), home, device, what=what)
    pixels = torch.empty(int(ends[-1]), dtype=torch.uint8, device=device if home == "device" else "cpu")
    done, lost = 0, num_lost(reading)
    for batch in _one_pass(graph.crop_graph, reading, count, f"decoding {what}"):
        if num_lost(reading) != lost:
            raise _MoreLostError
        crops = batch[graph.CROP][: len(ends) - done]
        packed = torch.from_numpy(np.concatenate([crop.reshape(-1) for crop in crops]))
        end = int(ends[done + len(crops) - 1])
        pixels[end - len(packed) : end].copy_(packed)
        done += len(crops)
    if done != len(ends):
        raise _MoreLostError
    return Store(
        pixels=pixels,
        offsets=np.concatenate([[0], ends[:-1]]),
        sizes_hw=table["shape_hwc"][:, :2],
        boxes_xywh=table["box_xywh"],
        keypoints=table.get("keypoints"),
    )


def _one_pass(graph: Graph, reading: Reading, count: int, what: str) -> Iterator[dict[str, Any]]:
    """Yield the batches of one pass; DALI's own reader completes the last one with the first samples."""
    console = Console(stderr=True, quiet=count < _WORTH_A_LINE or reading.rank > 0)
    pipeline = Pipeline(graph, reading)
    with Progress(console=console) as progress:
        task = progress.add_task(escape(what), total=count)
        for start in range(0, count, reading.batch_size):
            if start >= count - num_lost(reading):
                return
            try:
                outputs = pipeline.next()
            except StopIteration:  # the stream has lost its last samples
                return
            progress.update(task, completed=min(start + reading.batch_size, count))
            yield outputs
