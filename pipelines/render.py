"""A running graph whose views are warped where that is fastest: by DALI on a GPU, by OpenCV on the CPU."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.graph import CROP, Graph, Pipeline, Reading
from pipelines.views import Border
from pipelines.warp import CpuWarp, View

Shown = Mapping[str, tuple[str, Border]]
"""The views of a graph by name: the name of its output that is the matrix from stored pixels; the border."""


class ViewPipeline:
    """Batches of views (N, H, W, 3) float32, normalised, beside a graph's other outputs, endlessly."""

    def __init__(
        self,
        graph: Graph,
        reading: Reading,
        shown: Shown,
        size_hw: tuple[int, int],
        checkpoint: bytes | None = None,
    ) -> None:
        """Build `graph`; go on from `checkpoint`, bytes of a ViewPipeline of the same graph and reading."""
        self._warp = CpuWarp(size_hw, reading.threads) if reading.place == "cpu" else None
        self._shown = shown
        self._pipeline = Pipeline(
            graph, dataclasses.replace(reading, crops=self._warp is not None), checkpoint
        )

    def next(self) -> dict[str, Any]:
        """Return the next batch by name. Raises RuntimeError where a sample cannot be read or decoded.

        On the CPU decoding runs ahead; the warp, by as many threads again, is done when this returns.
        """
        outputs = self._pipeline.next()
        if self._warp is None:
            return outputs
        crops = outputs.pop(CROP)
        views = [
            View(name, outputs[matrix].numpy(), border) for name, (matrix, border) in self._shown.items()
        ]
        return {**outputs, **self._warp.start(crops, views)()}

    def checkpoint(self) -> bytes:
        """Return the state after the batch returned last, however many are prefetched."""
        return self._pipeline.checkpoint()

    def close(self) -> None:
        """Stop the threads of the warp; the pipeline's go with it."""
        if self._warp is not None:
            self._warp.close()
