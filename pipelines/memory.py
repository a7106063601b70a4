"""Memory for batches that is used again: fresh pages cost as much as what is written into them."""

import math
import weakref

import numpy as np
import torch


class RecycledMemory:
    """Arrays whose memory comes back once nobody holds them, nor a tensor made from them."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of float32 with any content."""
        free = self._free.setdefault(shape, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = torch.empty(math.prod(shape)).numpy()  # aligned for torch
        lent = memory.reshape(shape)
        # The tensor holds `lent`, and so do its views and whatever autograd saved.
        weakref.finalize(lent, free.append, memory).atexit = False
        return lent
