"""The settings of `semipose label next`, `out` and `in`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.settings import settings
from semipose.predict.settings import PredictSettings


@settings
class NextSettings:
    """Choose the photos that are most worth labelling."""

    n: Annotated[int, Field(ge=1)] = 50
    """How many photos to choose."""
    strategy: Literal["spread", "uncertain", "random"] = "spread"
    """How they are chosen: uncertain (the least sure person of a photo has a low mean peak), spread
    (uncertain, and in poses that differ from each other), or random (to compare with)."""
    per_sequence: Annotated[int, Field(ge=1)] | None = None
    """The most photos of one sequence: those whose names differ only in their last number, as in
    split.group=sequence. Leave it out for single photos that a camera numbered. null: no limit."""
    labelled: Path | None = None
    """A COCO file of annotations; its photos are not chosen again, if somebody in them has a labelled
    keypoint."""
    images: str | None = None
    """Where the photos of a prediction folder are: a folder, a zip or an address."""
    seed: int = 0
    """Seed of random choices."""
    output: Path = Path("label/next")
    """The folder to write."""
    predict: PredictSettings = PredictSettings(draw=False)
    """How a model predicts the photos; see `semipose predict --help`."""


@settings
class OutSettings:
    """Write people for a labelling tool."""

    format: Literal["cvat", "label-studio", "coco", "yolo"]
    """The tool that will read them."""
    images: str | None = None
    """Where the photos are: a folder, a zip or an address. null: the folder `photos` beside the file."""
    photos: Literal["copy", "link", "none"] = "copy"
    """What happens to the photos: copied beside the labels, linked there, or left where they are."""
    photos_at: str = "/data/local-files/?d=photos/"
    """What comes before the name of a photo in Label Studio's tasks: the default is for its local storage
    with the output as document root."""
    output: Path | None = None
    """The folder to write; null: label/FORMAT."""


@settings
class InSettings:
    """Read what a labelling tool exported, and merge it into your annotations."""

    into: Path
    """Your COCO file, which is changed after a backup; it is made if it is not there."""
    sent: Path | None = None
    """The sent.json that `semipose label out` wrote; null: beside the exported file."""
    images: str | None = None
    """Where the photos of your COCO file are; null: in its folder."""
    most_removed: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The largest share of the people who went out that may be missing; a file that lost more is refused."""
