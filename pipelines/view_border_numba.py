"""The CPU kernel of view_border.py, imported only if a recipe needs it, because Numba compiles it then."""

import numba
import numpy as np

FAR = 1e6


@numba.njit
def _inside(coordinate: float, size: int) -> float:
    """The share of the weight of a bilinear tap at `coordinate` on pixels 0..size-1 of one axis."""
    return min(max(min(coordinate + 1, size - coordinate), 0.0), 1.0)


@numba.njit
def _run(start: float, per_slope: float, low: float, high: float) -> tuple[float, float]:
    """The columns between which start + slope * column is in low..high; far values mean all or none."""
    if per_slope == 0.0:  # the axis does not change along a row
        return (-FAR, FAR) if low < start < high else (FAR, -FAR)
    one, other = (low - start) * per_slope, (high - start) * per_slope
    return (one, other) if one < other else (other, one)


@numba.njit("void(float32[:, :, ::1], float32[:, ::1])", nogil=True)
def fade_view(strong: np.ndarray, strong_from_weak: np.ndarray) -> None:
    """Fade a normalised strong view (H, W, 3) float32 in place by its matrix (2, 3) float32, like `fade`.

    The weak view covers one run of pixels of a row. Pixels well within it stay, those well beyond it become
    0, and only the few at its two ends are multiplied by a weight.
    """
    height, width = strong.shape[:2]
    (a, b, shift_x), (c, d, shift_y) = strong_from_weak.astype(np.float64)
    per_area = 1 / (a * d - b * c)
    a, b, c, d = d * per_area, -b * per_area, -c * per_area, a * per_area
    shift_x, shift_y = -a * shift_x - b * shift_y, -c * shift_x - d * shift_y
    per_a = 1 / a if abs(a) > 1 / FAR else 0.0
    per_c = 1 / c if abs(c) > 1 / FAR else 0.0
    for row in range(height):
        x, y = b * row + shift_x, d * row + shift_y
        first_x, last_x = _run(x, per_a, 0, width - 1)
        first_y, last_y = _run(y, per_c, 0, height - 1)
        first = min(max(max(first_x, first_y), -1.0), FAR)
        last = max(min(min(last_x, last_y), width + 0.0), -FAR)
        if first <= -1 and last >= width:
            continue
        kept, end = int(np.ceil(first)) + 1, int(np.floor(last))
        met_first_x, met_last_x = _run(x, per_a, -1, width)
        met_first_y, met_last_y = _run(y, per_c, -1, height)
        met_first = min(max(max(met_first_x, met_first_y), 0.0), width + 0.0)
        met_last = min(max(min(met_last_x, met_last_y), -1.0), width - 1.0)
        begin, stop = int(np.floor(met_first)), int(np.ceil(met_last)) + 1
        stop = max(begin, stop)
        kept = min(max(kept, begin), stop)
        end = min(max(end, kept), stop)
        strong[row, :begin] = 0
        strong[row, stop:] = 0
        for i in range((stop - begin) - (end - kept)):
            column = begin + i if begin + i < kept else begin + i + end - kept
            share = np.float32(_inside(a * column + x, width) * _inside(c * column + y, height))
            for channel in range(3):
                strong[row, column, channel] *= share
