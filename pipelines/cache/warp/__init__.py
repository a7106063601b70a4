"""Views from kept crops: one definition, OpenCV's on the CPU and Triton's on a GPU.

A view's pixel is sampled bilinearly where its matrix says, at OpenCV's sample positions (the inverse matrix
in double precision, then float32), with the law's border colour beyond the crop; the value is rounded to a
grey level and normalised. Either kernel gives (N, H, W, 3) float32.
"""

from pipelines.views import MEAN_RGB, Border

BORDER_GREYS: dict[Border, tuple[int, ...]] = {
    "mean": tuple(round(255 * mean) for mean in MEAN_RGB),
    "black": (0, 0, 0),
}
"""Red, green and blue of what lies beyond the crop."""
