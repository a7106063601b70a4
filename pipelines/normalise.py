"""Grey levels to what a network sees, on the CPU; on a GPU the graph does it, layout included."""

import cv2
import numpy as np
import torch
from torch import Tensor

from pipelines.memory import RecycledMemory
from pipelines.views import MEAN_RGB, STD_RGB

_GREYS = np.arange(256) / 255
TABLE = ((_GREYS[:, None] - MEAN_RGB) / STD_RGB).astype(np.float32)[:, None]
"""(256, 1, 3) float32: the value of each level of red, green and blue, by ImageNet's mean and deviation."""

_MEMORY = RecycledMemory()


def normalise(levels: Tensor) -> Tensor:
    """Return uint8 (N, H, W, 3), RGB, as normalised float32, in memory of its own until it is let go.

    A level is looked up, not computed, which takes less time than DALI's operator or torch's arithmetic; and
    the batches that a pipeline holds ready take a quarter of the memory.
    """
    values = _MEMORY.take(tuple(levels.shape))
    rows = (-1, levels.shape[2], 3)
    cv2.LUT(levels.numpy().reshape(rows), TABLE, dst=values.reshape(rows))
    return torch.from_numpy(values)
