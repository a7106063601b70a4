"""How the views of a person are drawn: the settings, and the law of a view as a matrix. `graph.py`,
`cache/draw.py` and `semipose/predict/views.py` draw.

All policies start from the same frame: the person's box, extended to the aspect ratio of the view and padded
(`BOX_PADDING`), fills the width of the view, with its centre at view pixel (W/2, H/2). A policy then scales
the box, rotates it about the centre and mirrors it (x -> W - x).
"""

from dataclasses import field, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from semipose.configs.settings import settings
from semipose.sharding.samples.crop import BOX_PADDING

MEAN_RGB = (0.485, 0.456, 0.406)
"""The mean colour of ImageNet, for values in 0..1."""
STD_RGB = (0.229, 0.224, 0.225)
"""The standard deviation of ImageNet, for values in 0..1."""

Share = Annotated[float, Field(ge=0, le=1)]
Border = Literal["mean", "black"]
"""Colour beyond the stored pixels: the mean of ImageNet (0 after normalisation) or black."""
BORDER_GREYS: dict[Border, tuple[int, ...]] = {
    "mean": tuple(round(255 * mean) for mean in MEAN_RGB),
    "black": (0, 0, 0),
}
"""The same as levels 0..255 of red, green and blue."""


@settings
class AffinePolicy:
    """How one view is drawn. The defaults are the published weak view, except for the border."""

    scale_sd: Annotated[float, Field(ge=0)] = 0.25
    """Standard deviation of the scale factor of the box, whose mean is 1; above 1 the view shows more around
    the person."""
    scale_min: Annotated[float, Field(gt=0)] = 0.75
    """Smallest scale factor; smaller random values are raised to it."""
    scale_max: Annotated[float, Field(gt=0)] = 1.25
    """Largest scale factor; larger random values are lowered to it."""
    rotation_sd_deg: Annotated[float, Field(ge=0)] = 30.0
    """Standard deviation of the rotation angle of rotated samples, in degrees."""
    rotation_max_deg: Annotated[float, Field(ge=0)] = 60.0
    """Largest rotation angle in either direction, in degrees; larger random values are reduced to it."""
    rotation_probability: Share = 0.6
    """Share of the samples that are rotated."""
    flip_probability: Share = 0.5
    """Share of the samples that are mirrored."""
    border: Border = "mean"
    """Colour beyond the stored pixels: mean (the mean colour of ImageNet) or black."""

    def __post_init__(self) -> None:
        if not self.scale_min <= 1 <= self.scale_max:
            raise ValueError(
                f"scale_min {self.scale_min} must be at most 1, and scale_max {self.scale_max} at least 1"
            )


PUBLISHED_WEAK = AffinePolicy(border="black")
"""The labelled and weak views of Xie et al. 2021 and of later methods."""
PUBLISHED_STRONG = AffinePolicy(rotation_probability=0.8, flip_probability=0.0)
"""Their strong view, relative to the weak one. For their border, set `border: black` here and
`strong_beyond_weak: mean` in `ViewSettings`. Differs from Xie et al.: a rigid rotation, no shear."""
PLAIN = AffinePolicy(scale_sd=0.0, rotation_probability=0.0, flip_probability=0.0)
"""Nothing is random: the view that is scored."""


@settings
class ViewSettings:
    """The size of the network's input, and how its views are drawn."""

    size_hw: tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] = (256, 192)
    """Height and width of every view in pixels, multiples of 4, which is the stride of the heatmaps."""
    labelled: AffinePolicy = field(default_factory=AffinePolicy)
    """How the labelled view is drawn."""
    weak: AffinePolicy = field(default_factory=AffinePolicy)
    """How the weak view, which the teacher sees, is drawn."""
    strong: AffinePolicy = PUBLISHED_STRONG
    """How the strong view, which the student sees, is drawn relative to the weak view; it is never
    mirrored."""
    strong_beyond_weak: Literal["photo", "mean"] = "photo"
    """What the strong view shows beyond the border of the weak view: more of the photo, or the mean colour of
    ImageNet, as if the weak view itself were warped (published)."""

    def __post_init__(self) -> None:
        if any(side % 4 for side in self.size_hw):
            raise ValueError(f"size_hw {self.size_hw}: both numbers must be multiples of 4")
        if self.strong.flip_probability:
            raise ValueError(
                "strong.flip_probability must be 0: teacher and student must agree on left and right"
            )

    @property
    def plain(self) -> AffinePolicy:
        """How the scored view is drawn: nothing random, with the border of the labelled view."""
        return replace(PLAIN, border=self.labelled.border)


def view_from_stored(
    boxes_xywh: np.ndarray,
    scale: np.ndarray,
    angle_deg: np.ndarray,
    flip: np.ndarray,
    size_hw: tuple[int, int],
) -> np.ndarray:
    """Return the matrices (N, 2, 3) float64 of boxes (N, 4) for scale, angle and flip, each (N,)."""
    height, width = size_hw
    boxes_xywh = boxes_xywh.astype(np.float64)
    centre_xy = boxes_xywh[:, :2] + 0.5 * boxes_xywh[:, 2:]
    shown_width = BOX_PADDING * np.maximum(boxes_xywh[:, 2], boxes_xywh[:, 3] * (width / height))
    zoom = width / (shown_width * scale)
    return about(centre_xy, zoom * np.where(flip, -1.0, 1.0), zoom, angle_deg, size_hw)


def about(
    centre_xy: np.ndarray,
    zoom_x: np.ndarray,
    zoom_y: np.ndarray,
    angle_deg: np.ndarray,
    size_hw: tuple[int, int],
) -> np.ndarray:
    """Move `centre_xy` to the origin, scale, rotate, and move the origin to the centre of the view."""
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    matrix = np.empty((len(angle_deg), 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = cosine * zoom_x, -sine * zoom_y
    matrix[:, 1, 0], matrix[:, 1, 1] = sine * zoom_x, cosine * zoom_y
    shift = (matrix[:, :, :2] * centre_xy[:, None]).sum(-1)
    matrix[:, :, 2] = np.array([size_hw[1] / 2, size_hw[0] / 2]) - shift
    return matrix
