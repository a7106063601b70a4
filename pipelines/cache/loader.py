"""Endless training batches from kept crops."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from semipose.configs.load import InputError
from semipose.pipelines.cache.draw import Order, Plan, view_generator
from semipose.pipelines.cache.store import Store
from semipose.pipelines.cache.warp.host import HostWarp
from semipose.pipelines.stream_reader import StreamReader
from semipose.pipelines.train_loader import Batch, TrainLoader

MakePlan = Callable[[Store, np.ndarray, np.random.Generator], Plan]
Outputs = dict[str, Tensor]


class Warp(Protocol):
    """A kernel and its threads."""

    def prepare(self, plan: Plan) -> Callable[[], Outputs]:
        """Begin a batch, in a thread of the loader; the trainer calls the returned function."""

    def close(self) -> None:
        """Stop the threads."""


class CachedLoader(TrainLoader[Batch]):
    """Endless batches of one rank whose samples are decoded once, when the loader is made.

    Every pass shows each sample once. A batch depends only on its number, so the state is the number of
    batches so far.
    """

    def __init__(
        self,
        fill: Callable[[], Store],
        plan: MakePlan,
        finish: Callable[[Outputs], Batch],
        *,
        batch_size: int,
        seed: int,
        size_hw: tuple[int, int],
        device: torch.device,
        threads: int,
        prefetch: int,
        signature: dict[str, Any],
        stream_reader: StreamReader | None,
    ) -> None:
        """fill: decodes the samples; it is called again after `close`, and if a state has other lost samples.

        threads, prefetch: as in `LoaderSettings`. Raises InputError if the samples cannot be kept or decoded.
        """
        super().__init__(signature, stream_reader)
        self._fill, self._plan, self._finish = fill, plan, finish
        self._batch_size, self._seed, self._size_hw = batch_size, seed, size_hw
        self._device, self._threads, self._prefetch = device, threads, prefetch
        self._given = 0
        self._running: _Running | None = self._start()
        self.cached_bytes = self._running.store.pixels.numel()

    def __next__(self) -> Batch:
        """Return the next batch."""
        if self._running is None:
            self._running = self._start()
        outputs = self._running.take(self._given)
        self._given += 1
        return self._finish(outputs)

    def close(self) -> None:
        """Stop the threads and free the memory; the next batch decodes everything again."""
        if self._running is not None:
            self._running.close()
        self._running = None

    def _position(self) -> dict[str, Any]:
        return {"batches": self._given}

    def _resume(self, state: dict[str, Any]) -> None:
        self._given = state["batches"]
        saved = dict(state["lost"])
        if self._stream_reader is None or sorted(saved) == sorted(self._stream_reader.lost):
            return
        self.close()
        self._stream_reader.lost = saved
        self._running = self._start()
        if sorted(self._stream_reader.lost) != sorted(saved):
            raise InputError(
                f"the saved data stream had lost {len(saved)} samples, but now {self.num_lost} cannot be "
                "read: repair the shards or the connection, or start a new run"
            )

    def _start(self) -> "_Running":
        store = self._fill()
        if self._device.type == "cuda":
            from semipose.pipelines.cache.warp.cuda import CudaWarp

            warp: Warp = CudaWarp(store, self._size_hw, self._device)
        else:
            warp = HostWarp(store, self._size_hw, self._threads)
        order = Order(store.num_samples, self._seed)

        def prepare(number: int) -> Callable[[], Outputs]:
            indices = order.indices(number, self._batch_size)
            return warp.prepare(self._plan(store, indices, view_generator(self._seed, number)))

        return _Running(store, warp, prepare, self._prefetch)


class _Running:
    """A filled store, its kernel, and the batches that one thread prepares in advance, in order."""

    def __init__(
        self, store: Store, warp: Warp, prepare: Callable[[int], Callable[[], Outputs]], prefetch: int
    ) -> None:
        self.store, self._warp, self._prepare, self._prefetch = store, warp, prepare, prefetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self._ahead: deque[Future[Callable[[], Outputs]]] = deque()
        self._first = self._end = 0
        """The numbers of the batches in `_ahead`: from the first up to the end, which is excluded."""

    def take(self, number: int) -> Outputs:
        """Return batch `number`, and start to prepare those after it."""
        if number != self._first:
            self._ahead.clear()
            self._first = self._end = number
        while self._end <= number + self._prefetch:
            self._ahead.append(self._thread.submit(self._prepare, self._end))
            self._end += 1
        self._first = number + 1
        return self._ahead.popleft().result()()

    def close(self) -> None:
        """Stop the threads."""
        self._thread.shutdown(cancel_futures=True)
        self._warp.close()
