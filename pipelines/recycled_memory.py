"""Reused memory for batches, because fresh pages cost as much as writing into them."""

import math
import weakref

import numpy as np
import torch


class RecycledMemory:
    """Arrays whose memory is reused once neither they nor tensors made from them are referenced."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a float32 array with arbitrary content."""
        free = self._free.setdefault(shape, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = torch.empty(math.prod(shape)).numpy()  # aligned for torch
        lent = memory.reshape(shape)
        # The tensor references `lent`, and so do its views and what autograd saves.
        weakref.finalize(lent, free.append, memory).atexit = False
        return lent
