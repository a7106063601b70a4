"""What of a photo a shard stores for one person: the crop laws and their geometry."""

from typing import Annotated, Literal

from pydantic import Field

from configs.settings import settings

BOX_PADDING = 1.25
"""Published factor from a person's aspect-corrected box to the view that a network sees at scale 1."""


@settings
class PersonCrop:
    """Store each person once, cut from the photo with the margin that the views need.

    The stored region is a square about the box, because views rotate. Of the pixels of a strong view (weak
    law times strong law: zoom-out up to 1.5625, 7 % of rotations beyond 60 degrees) 3.4 % fall outside at
    margin 1.25, 0.7 % at 1.5, 0.4 % at 1.5625 and none at 1.95; of a weak view 1.0 %, 0.03 %, 0 and 0. The
    area to store and decode grows with the square of the margin, so the default is 1.5.
    """

    name: Literal["person"] = "person"
    margin: float = Field(default=1.5, gt=0)
    """Side of the stored square over the longer side of the padded box."""
    input_size_wh: tuple[int, int] = (192, 256)
    """Largest network input (width, height) that the shards are to serve; its aspect corrects the box."""
    oversample: float = Field(default=4 / 3, gt=0)
    """Stored pixels over input pixels at scale 1, at most; 4/3 is the weak view's closest zoom-in."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Quality of the stored JPEG."""

    def __post_init__(self) -> None:
        if min(self.input_size_wh) < 1:
            raise ValueError(f"input_size_wh must be positive, got {self.input_size_wh}")


@settings
class WholePhoto:
    """Store the photo's own bytes with every person (training then decodes whole photos)."""

    name: Literal["none"] = "none"


CropLaw = Annotated[PersonCrop | WholePhoto, Field(discriminator="name")]
