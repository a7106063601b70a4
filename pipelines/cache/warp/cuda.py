"""Warps with the CUDA kernel; the thread that plans a batch copies its inputs in advance."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from semipose.pipelines.cache.draw import Plan
from semipose.pipelines.cache.store import Store
from semipose.pipelines.cache.warp.triton_kernel import launch
from semipose.pipelines.view_border import fade
from semipose.pipelines.views import BORDER_GREYS, MEAN_RGB, STD_RGB


class CudaWarp:
    """Warps the views of planned batches on a GPU, from a store on the GPU or on the host.

    A store on the host stays in ordinary memory: the crops of a batch are packed into pinned memory, which
    torch reuses after the copy. Copies have a separate stream, so they run while the network computes; the
    warp itself runs on the trainer's stream. Nothing waits for the device.
    """

    def __init__(self, store: Store, size_hw: tuple[int, int], device: torch.device) -> None:
        self._store, self._size_hw, self._device = store, size_hw, device
        self._copies = torch.cuda.Stream(device)
        rows = [[255 * mean for mean in MEAN_RGB], [1 / (255 * std) for std in STD_RGB]]
        self._colours = {
            border: torch.tensor([greys, *rows], dtype=torch.float32, device=device)
            for border, greys in BORDER_GREYS.items()
        }

    def prepare(self, plan: Plan) -> Callable[[], dict[str, Tensor]]:
        """Begin the copies of a batch; the returned function warps it and returns it by name."""
        store, places = self._store, plan.indices
        sizes_hw, offsets = store.sizes_hw[places], store.offsets[places]
        tensors = {f"from {view.name}": invert(view.from_stored) for view in plan.views}
        tensors |= {
            f"from weak to {view.name}": torch.from_numpy(view.from_weak)
            for view in plan.views
            if view.from_weak is not None
        }
        with torch.cuda.stream(self._copies):
            if not store.pixels.is_cuda:
                tensors["pixels"], offsets = pack(store, places)
            tensors |= {"offsets": torch.from_numpy(offsets), "sizes_hw": torch.from_numpy(sizes_hw)}
            tensors |= plan.values
            sent = {name: _pinned(each).to(self._device, non_blocking=True) for name, each in tensors.items()}
            ready = self._copies.record_event()
        return partial(self._finish, plan, sent, ready)

    def close(self) -> None:
        """Do nothing: there are no threads to stop."""

    def _finish(self, plan: Plan, sent: dict[str, Tensor], ready: torch.cuda.Event) -> dict[str, Tensor]:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(ready)
        for tensor in sent.values():
            tensor.record_stream(stream)
        crops = (sent.get("pixels", self._store.pixels), sent["offsets"], sent["sizes_hw"])
        images = {
            view.name: launch(*crops, sent[f"from {view.name}"], self._colours[view.border], self._size_hw)
            for view in plan.views
        }
        images |= {
            view.name: fade(images[view.name], sent[f"from weak to {view.name}"])
            for view in plan.views
            if view.from_weak is not None
        }
        return {**images, **{name: sent[name] for name in plan.values}}


def invert(view_from_stored: np.ndarray) -> Tensor:
    """Return stored_from_view (N, 2, 3) float32 of matrices (N, 2, 3) float32, as OpenCV inverts them."""
    (a, b, x), (c, d, y) = view_from_stored.astype(np.float64).transpose(1, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_area = 1 / (a * d - b * c)
        a, b, c, d = d * per_area, -b * per_area, -c * per_area, a * per_area
        rows = [[a, b, -a * x - b * y], [c, d, -c * x - d * y]]
    return torch.from_numpy(np.array(rows, np.float32).transpose(2, 0, 1).copy())


def pack(store: Store, indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Return some crops, concatenated in pinned memory (bytes,) uint8, and the start of each."""
    lengths = store.sizes_hw[indices].prod(1) * 3
    ends = np.cumsum(lengths)
    packed = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    stored, target = store.pixels.numpy(), packed.numpy()
    offsets = ends - lengths
    for index, begin, end in zip(indices, offsets, ends, strict=True):
        first = store.offsets[index]
        target[begin:end] = stored[first : first + end - begin]
    return packed, offsets


def _pinned(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_pinned() else tensor.pin_memory()
