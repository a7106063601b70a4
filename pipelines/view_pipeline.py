"""A running graph whose views are warped in the fastest way: by DALI on a GPU, by OpenCV on a CPU."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from semipose.pipelines.graph import CROP, Graph, Pipeline, Reading
from semipose.pipelines.view_border import fade
from semipose.pipelines.views import Border
from semipose.pipelines.warp import CpuWarp, View


class Shown(NamedTuple):
    """A view of a graph: the names of its matrices among the outputs, and its border."""

    from_stored: str
    """The matrix from stored pixels."""
    border: Border
    from_weak: str | None = None
    """The matrix from the weak view, if this view must end at the border of that one."""
    sizes_hw: str | None = None
    """Height and width of each view, if they differ; `warp.View` says how they are padded."""


class ViewPipeline:
    """Endless batches of views (N, H, W, 3) float32, normalised, with the other outputs of a graph."""

    def __init__(
        self,
        graph: Graph,
        reading: Reading,
        shown: Mapping[str, Shown],
        size_hw: tuple[int, int],
        checkpoint: bytes | None = None,
    ) -> None:
        """Build `graph`, and continue from `checkpoint`, which an equal ViewPipeline returned."""
        self._warp = CpuWarp(size_hw, reading.threads) if reading.dali_device == "cpu" else None
        self._shown = shown
        self._pipeline = Pipeline(
            graph, dataclasses.replace(reading, crops=self._warp is not None), checkpoint
        )

    def next(self) -> dict[str, Any]:
        """Return the next batch by name. Raises RuntimeError if a sample cannot be read or decoded.

        On a CPU, decoding runs ahead; the warp, which has as many threads again, is complete on return.
        """
        outputs = self._pipeline.next()
        if self._warp is None:
            ends = {name: how.from_weak for name, how in self._shown.items() if how.from_weak}
            return outputs | {name: fade(outputs[name], outputs[matrix]) for name, matrix in ends.items()}
        crops = outputs.pop(CROP)
        views = [
            View(
                name,
                outputs[how.from_stored].numpy(),
                how.border,
                outputs[how.from_weak].numpy() if how.from_weak else None,
                outputs[how.sizes_hw].numpy().astype(int) if how.sizes_hw else None,
            )
            for name, how in self._shown.items()
        ]
        return {**outputs, **self._warp.start(crops, views)()}

    def checkpoint(self) -> bytes:
        """Return the state after the last returned batch, however many are prefetched."""
        return self._pipeline.checkpoint()

    def close(self) -> None:
        """Stop the threads of the warp; those of the pipeline end with it."""
        if self._warp is not None:
            self._warp.close()
