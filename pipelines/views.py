"""How the views of a person are drawn: settings only; `graph.py` does the drawing.

A view's frame, which all policies share: the person's box, its short side grown to the view's aspect and
both sides padded (`BOX_PADDING`), is laid with its centre on view pixel (W/2, H/2) and its width on W. A
policy then changes the box's scale, rotates about the centre and mirrors (x -> W - x).
"""

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import Field

from configs.settings import settings

MEAN_RGB = (0.485, 0.456, 0.406)
"""ImageNet's mean colour, of values in 0..1."""
STD_RGB = (0.229, 0.224, 0.225)
"""ImageNet's standard deviation, of values in 0..1."""

Share = Annotated[float, Field(ge=0, le=1)]
Border = Literal["mean", "black"]
"""Colour of what lies beyond the stored pixels: ImageNet's mean (0 once normalised) or black."""
BORDER_GREYS: dict[Border, tuple[int, ...]] = {
    "mean": tuple(round(255 * mean) for mean in MEAN_RGB),
    "black": (0, 0, 0),
}
"""The same as grey levels of red, green and blue."""


@settings
class AffinePolicy:
    """How one view is drawn. The defaults are the published weak view, except for the border."""

    scale_sd: Annotated[float, Field(ge=0)] = 0.25
    """Deviation of the box's scale factor about 1; a factor above 1 shows more around the person."""
    scale_min: Annotated[float, Field(gt=0)] = 0.75
    """Smallest scale factor; smaller draws become this."""
    scale_max: Annotated[float, Field(gt=0)] = 1.25
    """Largest scale factor; larger draws become this."""
    rotation_sd_deg: Annotated[float, Field(ge=0)] = 30.0
    """Deviation of the rotation, in degrees, where there is one."""
    rotation_max_deg: Annotated[float, Field(ge=0)] = 60.0
    """Largest rotation either way; larger draws become this."""
    rotation_probability: Share = 0.6
    """Share of the samples that are rotated."""
    flip_probability: Share = 0.5
    """Share of the samples that are mirrored."""
    border: Border = "mean"
    """Colour beyond the stored pixels: mean (ImageNet's) or black."""

    def __post_init__(self) -> None:
        if not self.scale_min <= 1 <= self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} and scale_max {self.scale_max} must enclose 1")


PUBLISHED_WEAK = AffinePolicy(border="black")
"""Labelled and weak views of Xie et al. 2021 and its successors."""
PUBLISHED_STRONG = AffinePolicy(rotation_probability=0.8, flip_probability=0.0)
"""Their strong view, applied on top of the weak one. For its border take `border: black` here and
`strong_beyond_weak: mean` in `ViewSettings`. Differs from Xie et al.: a rigid rotation, no shear."""
PLAIN = AffinePolicy(scale_sd=0.0, rotation_probability=0.0, flip_probability=0.0)
"""Nothing random: the view that is scored."""


@settings
class ViewSettings:
    """Size of the network's input, and how the views shown to it are drawn."""

    size_hw: tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] = (256, 192)
    """Height and width of every view, in pixels; multiples of 4, the stride of heatmaps."""
    labelled: AffinePolicy = field(default_factory=AffinePolicy)
    """How the labelled view is drawn."""
    weak: AffinePolicy = field(default_factory=AffinePolicy)
    """How the weak view is drawn, which the teacher sees."""
    strong: AffinePolicy = PUBLISHED_STRONG
    """How the strong view is drawn, which the student sees, relative to the weak view; never mirrored."""
    strong_beyond_weak: Literal["photo", "mean"] = "photo"
    """What the strong view shows beyond the weak view: the photo, which goes on there, or ImageNet's mean
    colour, as where the weak view itself is warped (published)."""

    def __post_init__(self) -> None:
        if any(side % 4 for side in self.size_hw):
            raise ValueError(f"size_hw {self.size_hw} must be multiples of 4")
        if self.strong.flip_probability:
            raise ValueError(
                "strong.flip_probability must be 0: teacher and student must agree on left and right"
            )

    @property
    def plain(self) -> AffinePolicy:
        """How the scored view is drawn: nothing random, with the border of the labelled view."""
        return replace(PLAIN, border=self.labelled.border)
