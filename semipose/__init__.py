"""Semi-supervised 2D human pose estimation: few labels, many unlabelled images, one accurate network.

pose = semipose.load("runs/mine")
people = pose("photo.jpg", boxes=[[x, y, width, height]])
people.xy, people.peaks, people.draw("out.webp")
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from semipose.predict.predictor import Predictor

try:
    __version__ = version("semipose")
except PackageNotFoundError:  # a checkout whose libraries are on the path, and which is not installed
    __version__ = "unknown"


def load(
    source: "str | Path",
    *,
    device: str = "auto",
    network: str | None = None,
    decode: Any = None,
    people: Any = "auto",
    **settings: Any,
) -> "Predictor":
    """A trained model, ready to predict: `load("runs/mine")("photo.jpg")` gives its `People`.

    Args:
        source: the folder of a run, a model folder, hf://OWNER/NAME, or what `semipose export` wrote
            (its folder, pose.onnx or pose.pt2).
        device: auto (a GPU if there is one), cuda, cuda:1, mps or cpu.
        network: the name of one of the model's networks, such as average; None: the final one.
        decode: shift or dark, how heatmaps are read; None: as in training.
        people: who finds people where a call gives no boxes: auto or detector (one of torchvision), whole
            (each photo is one person), rtdetr, rfdetr, or settings of one of them (semipose.predict.boxes).
        settings: batch_size, precision, flip_test, min_peak, min_score; see `Predictor`.

    Raises InputError for a folder without a model and for settings that do not fit.
    """
    from semipose.predict.boxes import named
    from semipose.predict.model import open_model
    from semipose.predict.predictor import Predictor

    model = open_model(str(source), device, network=network, decode=decode)
    return Predictor(model, people=named(people), **settings)
