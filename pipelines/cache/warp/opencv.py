"""The CPU kernel: OpenCV, a batch's samples shared by threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from pipelines.cache.draw import Plan
from pipelines.cache.store import Store
from pipelines.cache.warp import BORDER_GREYS
from pipelines.memory import RecycledMemory
from pipelines.normalise import TABLE

SAMPLES_A_TASK = 4
"""Few enough that threads end a batch together, enough that handing out costs nothing."""


class CpuWarp:
    """Warps the views of planned batches in its own threads."""

    def __init__(self, store: Store, size_hw: tuple[int, int], threads: int) -> None:
        # OpenCV's setting is the whole process's: its threads and these would stand in each other's way.
        cv2.setNumThreads(1)
        self._pixels = store.pixels.numpy()
        self._store, self._size_hw = store, size_hw
        self._crop_area = int(store.sizes_hw.prod(1).max())
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="warp")
        self._scratch = threading.local()
        self._memory = RecycledMemory()

    def prepare(self, plan: Plan) -> Callable[[], dict[str, Tensor]]:
        """Begin to warp; the function returned waits for the end and gives the batch, by name."""
        shape = (len(plan.places), *self._size_hw, 3)
        images = {view.name: self._memory.take(shape) for view in plan.views}
        starts = range(0, len(plan.places), SAMPLES_A_TASK)
        tasks = [self._pool.submit(self._warp, plan, images, start) for start in starts]
        return partial(_finish, tasks, images, plan)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _warp(self, plan: Plan, images: dict[str, np.ndarray], start: int) -> None:
        """Warp the views of a few samples.

        They get a fourth channel for it: OpenCV takes three apart and puts them together, which costs more
        than the rest, for the same pixels.
        """
        crop_area, view, grey = self._buffers()
        size_wh = (self._size_hw[1], self._size_hw[0])
        for row in range(start, min(start + SAMPLES_A_TASK, len(plan.places))):
            place = plan.places[row]
            (height, width), offset = self._store.sizes_hw[place], self._store.offsets[place]
            stored = self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)
            crop = crop_area[: height * width * 4].reshape(height, width, 4)
            cv2.cvtColor(stored, cv2.COLOR_RGB2RGBA, dst=crop)
            for each in plan.views:
                border = (*BORDER_GREYS[each.border], 0)
                cv2.warpAffine(crop, each.from_stored[row], size_wh, dst=view, borderValue=border)
                cv2.cvtColor(view, cv2.COLOR_RGBA2RGB, dst=grey)
                cv2.LUT(grey, TABLE, dst=images[each.name][row])

    def _buffers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This thread's own memory for a crop, a view and its three channels."""
        if not hasattr(self._scratch, "buffers"):
            shapes = ((self._crop_area * 4,), (*self._size_hw, 4), (*self._size_hw, 3))
            self._scratch.buffers = tuple(np.empty(shape, np.uint8) for shape in shapes)
        return self._scratch.buffers


def _finish(tasks: list[Future[None]], images: dict[str, np.ndarray], plan: Plan) -> dict[str, Tensor]:
    for task in tasks:
        task.result()
    return {**{name: torch.from_numpy(image) for name, image in images.items()}, **plan.values}
