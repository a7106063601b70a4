"""Warps with OpenCV on the host, where the crops of a batch are slices of the store."""

from collections.abc import Callable

from torch import Tensor

from semipose.pipelines.cache.draw import Plan
from semipose.pipelines.cache.store import Store
from semipose.pipelines.warp import CpuWarp


class HostWarp:
    """Warps the views of planned batches on the CPU."""

    def __init__(self, store: Store, size_hw: tuple[int, int], threads: int) -> None:
        self._store = store
        self._warp = CpuWarp(size_hw, threads)

    def prepare(self, plan: Plan) -> Callable[[], dict[str, Tensor]]:
        """Begin to warp; the returned function waits for the end and returns the batch by name."""
        finish = self._warp.start([self._store.crop(index) for index in plan.indices], plan.views)
        return lambda: {**finish(), **plan.values}

    def close(self) -> None:
        """Stop the threads."""
        self._warp.close()
