"""The kernel of `warp.py`. Imported by it alone, where views are warped on a CPU: a GPU needs no Numba."""

import numba
import numpy as np


@numba.njit(nogil=True)
def normalise(greys: np.ndarray, scale: np.ndarray, shift: np.ndarray, normalised: np.ndarray) -> None:
    """Write a view (H, W, 3) uint8 as normalised values, in one pass; numpy needs three."""
    height, width, num_channels = greys.shape
    for row in range(height):
        grey, value = greys[row].reshape(-1), normalised[row].reshape(-1)
        for at in range(width * num_channels):
            value[at] = np.float32(grey[at]) * scale[at] + shift[at]
