"""The settings of `semipose predict`."""

import os
from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import DecodeMethod
from semipose.predict.boxes import AutoBoxes, PeopleSettings
from semipose.predict.tracks import OneEuro

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@settings
class FilmSettings:
    """Which frames of a film are predicted."""

    stride: Count = 1
    """Every how many frames one is predicted."""
    start: Annotated[float, Field(ge=0)] = 0.0
    """Time of the first frame, in seconds."""
    stop: Annotated[float, Field(gt=0)] | None = None
    """Time after which it ends, in seconds; null: the end of the film. A camera goes on until Ctrl-C."""


@settings
class PredictSettings:
    """Keypoints of photos, films and cameras."""

    output: str = ""
    """The folder of the results. Without it, predictions/NAME by the name of the model's folder."""
    images: str | None = None
    """Where the photos of a COCO file are: a folder, a zip or an address; null: in the folder of the file."""
    people: Annotated[PeopleSettings, Field(discriminator="name")] = AutoBoxes()
    """Who finds the people, for models of single people: auto, whole, boxes, detector, rtdetr, rfdetr or
    onnx. Detector-free models find them by themselves."""
    network: str | None = None
    """The name of one of the model's networks, such as average; null: the final one."""
    device: str = "auto"
    """auto (a GPU if there is one), cuda, cuda:1, mps or cpu."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the network's pass."""
    batch_size: Count | None = None
    """Views in one pass of the network; null: 32 people, or 4 whole photos."""
    flip_test: bool = False
    """Average over each view and its mirror image; this takes twice the time."""
    decode: DecodeMethod | None = None
    """How keypoints are read from heatmaps: shift or dark; null: as in training."""
    min_peak: Share = 0.2
    """A keypoint whose peak is lower has v = 0 in keypoints.json and is hollow in pictures."""
    min_score: Share = 0.1
    """People that a detector-free model finds with a lower score are left out."""
    draw: bool = True
    """Write a picture of each photo, and a film of each film, with the people drawn in."""
    film: FilmSettings = FilmSettings()
    """Which frames of a film are predicted."""
    track: Literal["none", "oks"] = "none"
    """Who is who in a film: none, or oks (by the similarity of poses and boxes from frame to frame)."""
    smooth: Annotated[OneEuro | None, Field()] = None
    """Smoothing of the keypoints of each track of a film; null: none, {}: One-Euro with its defaults."""
    bad: Literal["skip", "stop"] = "skip"
    """What happens at a photo that cannot be read: skip (bad.json says why) or stop."""
    executor: str = "local"
    """Where photos are predicted: local, or dask://HOST:PORT, whose workers see the same files."""
    workers: Annotated[int, Field(ge=1, le=512)] = 1
    """Processes on this machine, each with the model in its memory."""
    share: str = ""
    """I/N: predict the I-th of N shares, such as 1/4, into the same output as the other shares; the last to
    end writes the final files. Processes of `accelerate launch` and `torchrun` take their own share."""

    def __post_init__(self) -> None:
        if self.smooth is not None and self.track == "none":
            raise ValueError("smooth needs track=oks, which says whose keypoints are smoothed")
        self.own_share  # noqa: B018  # refuses a wrong one

    @property
    def own_share(self) -> tuple[int, int]:
        """Which share, from 0, of how many."""
        if not self.share:
            return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        first, _, count = self.share.partition("/")
        if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
            raise ValueError(f"share {self.share!r} is not I/N with I from 1 to N, such as 1/4")
        return int(first) - 1, int(count)


DECIDE_THE_FILES = (
    *("people", "network", "precision", "flip_test", "decode", "min_peak", "min_score", "draw"),
    *("film", "track", "smooth"),
)
"""The settings that the files depend on: a folder that was begun with others is refused."""
