"""How the views of whole photos are drawn: the settings. `photo_graph.py` draws; views.py is for people.

A policy shows a square of a frame: of the photo for the labelled and the weak view, of the weak view for the
strong one. The side of the square is a random multiple of the frame's shorter side, its centre is the
frame's, moved by a random share of the square, and it is rotated and mirrored (x -> V - x) about the centre
of the view, which has V x V pixels.
"""

from dataclasses import field, replace
from typing import Annotated

from pydantic import Field

from semipose.configs.settings import settings
from semipose.pipelines.views import Border, Share

VIEW_MULTIPLE = 4
EVAL_MULTIPLE = 64
"""Both sides of a scored view are multiples of it (published): networks of five halvings fit twice."""

Positive = Annotated[float, Field(gt=0)]


@settings
class PhotoPolicy:
    """How one view is drawn. The defaults are those of HigherHRNet, DEKR and CID for labelled photos."""

    shown_min: Positive = 0.75
    """Smallest side of the shown square, as a multiple of the frame's shorter side. It is uniformly random
    between `shown_min` and `shown_max`; below 1 the view enlarges the frame."""
    shown_max: Positive = 1.5
    """Largest side of the shown square."""
    shift: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest shift of the square on either axis, as a share of its side; uniformly random."""
    rotation_max_deg: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Largest rotation angle in either direction, in degrees; uniformly random."""
    flip_probability: Share = 0.5
    """Share of the photos that are mirrored."""
    border: Border = "black"
    """Colour beyond the stored photo: mean (the mean colour of ImageNet) or black."""

    def __post_init__(self) -> None:
        if self.shown_min > self.shown_max:
            raise ValueError(f"shown_min {self.shown_min} must not be above shown_max {self.shown_max}")


STRONG = PhotoPolicy(shown_min=0.8, shown_max=1.25, shift=0.08, rotation_max_deg=25.0, flip_probability=0.0)
"""The strong view, relative to the weak one: no published system has one for whole photos."""


@settings
class PhotoViewSettings:
    """The size of the network's input for whole photos, and how its views are drawn."""

    size: Annotated[int, Field(ge=32, le=4096, multiple_of=VIEW_MULTIPLE)] = 512
    """Height and width of every training view in pixels, and the shorter side of a scored photo; a multiple
    of 4, which is the stride of the heatmaps."""
    labelled: PhotoPolicy = field(default_factory=PhotoPolicy)
    """How the labelled view is drawn."""
    weak: PhotoPolicy = field(default_factory=PhotoPolicy)
    """How the weak view, which the teacher sees, is drawn."""
    strong: PhotoPolicy = STRONG
    """How the strong view, which the student sees, is drawn relative to the weak view; it is never
    mirrored."""

    def __post_init__(self) -> None:
        if self.strong.flip_probability:
            raise ValueError(
                "strong.flip_probability must be 0: teacher and student must agree on left and right"
            )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of every training view."""
        return self.size, self.size

    @property
    def plain(self) -> PhotoPolicy:
        """How the scored view is drawn: the whole photo, with the border of the labelled view."""
        return replace(
            self.labelled, shown_min=1.0, shown_max=1.0, shift=0.0, rotation_max_deg=0.0, flip_probability=0.0
        )
