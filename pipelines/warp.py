"""Views from decoded crops on the CPU, with OpenCV; threads share the samples of a batch.

A pixel is sampled bilinearly at the position that its matrix gives, with the policy's border colour beyond
the crop, and normalised. The levels equal those of the DALI graph on the CPU and take less time
(docs/results.md).
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from semipose.pipelines.recycled_memory import RecycledMemory
from semipose.pipelines.views import BORDER_GREYS, MEAN_RGB, STD_RGB, Border

NORMALISED_FROM_GREY = np.column_stack(
    [np.diag(1 / (255 * np.array(STD_RGB))), -np.array(MEAN_RGB) / STD_RGB]
)
"""(3, 4): the normalised values of a pixel from its levels and 1."""
SAMPLES_PER_TASK = 4
"""Few enough that all threads end a batch together, enough that distributing the tasks costs nothing."""


@dataclass(frozen=True)
class View:
    """How one view of each sample of a batch is warped."""

    name: str
    from_stored: np.ndarray
    """(N, 2, 3) float32: view pixels from stored pixels."""
    border: Border
    from_weak: np.ndarray | None = None
    """(N, 2, 3) float32: view pixels from pixels of the weak view, if the view must end at its border."""
    sizes_hw: np.ndarray | None = None
    """(N, 2) int: height and width of each view, if they differ; 0 is beyond them, up to the largest."""


class CpuWarp:
    """Warps the views of batches in threads."""

    def __init__(self, size_hw: tuple[int, int], threads: int) -> None:
        # This setting applies to the whole process: OpenCV's threads would compete with these.
        cv2.setNumThreads(1)
        self._size_hw = size_hw
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="warp")
        self._scratch = threading.local()
        self._memory = RecycledMemory()

    def start(self, crops: Sequence[np.ndarray], views: Sequence[View]) -> Callable[[], dict[str, Tensor]]:
        """Begin to warp crops (H, W, 3) uint8; the returned function waits, and returns the views by name.

        They are (N, H, W, 3) float32, normalised; their memory is reused once nothing references them.
        """
        images = {view.name: self._take(view, len(crops)) for view in views}
        if any(view.from_weak is not None for view in views):
            import semipose.pipelines.view_border_numba  # noqa: F401  # compiled here, before the threads need it
        starts = range(0, len(crops), SAMPLES_PER_TASK)
        tasks = [self._pool.submit(self._warp, crops, views, images, start) for start in starts]
        return partial(_finish, tasks, images)

    def _take(self, view: View, count: int) -> np.ndarray:
        """Memory for a view of every sample; that of views of several sizes is not reused."""
        if view.sizes_hw is None:
            return self._memory.take((count, *self._size_hw, 3))
        return torch.zeros(count, *view.sizes_hw.max(axis=0).tolist(), 3).numpy()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _warp(
        self, crops: Sequence[np.ndarray], views: Sequence[View], images: dict[str, np.ndarray], start: int
    ) -> None:
        """Warp the views of some samples.

        They get a fourth channel for it: OpenCV splits and merges three channels, which takes longer than
        everything else, for the same pixels.
        """
        for row in range(start, min(start + SAMPLES_PER_TASK, len(crops))):
            crop = self._crop_buffer(crops[row].shape[:2])
            cv2.cvtColor(crops[row], cv2.COLOR_RGB2RGBA, dst=crop)
            for spec in views:
                height, width = self._size_hw if spec.sizes_hw is None else spec.sizes_hw[row].tolist()
                view, grey, level = self._view_buffers((height, width))
                border = (*BORDER_GREYS[spec.border], 0)
                cv2.warpAffine(crop, spec.from_stored[row], (width, height), dst=view, borderValue=border)
                cv2.cvtColor(view, cv2.COLOR_RGBA2RGB, dst=grey)
                np.copyto(level, grey)  # because cv2.transform keeps the dtype
                cv2.transform(level, NORMALISED_FROM_GREY, dst=images[spec.name][row, :height, :width])
                if spec.from_weak is not None:
                    from semipose.pipelines.view_border_numba import fade_view

                    fade_view(images[spec.name][row], spec.from_weak[row])

    def _view_buffers(self, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This thread's buffers for a view: with four channels, with three, and with three as floats."""
        if getattr(self._scratch, "size_hw", None) != size_hw:
            kinds = ((4, np.uint8), (3, np.uint8), (3, np.float32))
            self._scratch.views = tuple(np.empty((*size_hw, count), dtype) for count, dtype in kinds)
            self._scratch.size_hw = size_hw
        return self._scratch.views

    def _crop_buffer(self, size_hw: tuple[int, int]) -> np.ndarray:
        """This thread's buffer for a crop with four channels; it grows to the size of the largest one."""
        num_bytes = size_hw[0] * size_hw[1] * 4
        if not hasattr(self._scratch, "crop") or len(self._scratch.crop) < num_bytes:
            self._scratch.crop = np.empty(num_bytes, np.uint8)
        crop: np.ndarray = self._scratch.crop[:num_bytes].reshape(*size_hw, 4)
        return crop


def _finish(tasks: list[Future[None]], images: dict[str, np.ndarray]) -> dict[str, Tensor]:
    for task in tasks:
        task.result()
    return {name: torch.from_numpy(image) for name, image in images.items()}
