"""What `semipose export` wrote, as a model to predict with."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semipose.configs.errors import InputError, one_line
from semipose.export.graph import CONFIG_KEY, INPUT, METADATA_KEY
from semipose.models.codecs.ae import AECodec, Candidates
from semipose.models.codecs.heatmap import STRIDE
from semipose.models.model_folder import ModelConfig, parse_config
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.geometry import apply, linear_scale
from semipose.pipelines.views import MEAN_RGB, STD_RGB
from semipose.training.predict import Predictions

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Views (N, H, W, 3) uint8 RGB -> what `PoseGraph` of semipose/export/graph.py answers."""
ONNX, PT2 = ".onnx", ".pt2"
IN_FOLDER = ("pose.onnx", "pose.pt2")
"""What is read in a folder that `semipose export` wrote: the first one that is there."""


@dataclass(frozen=True)
class ExportedModel:
    """An exported network and how to use it, in the place of a `Model`.

    size_hw: of the views that it takes. device: where the detector of people runs, if there is one.
    """

    run: Run
    config: ModelConfig
    size_hw: tuple[int, int]
    source: str
    sha256: str
    device: torch.device
    scores: dict[str, Any] | None = None

    def predict(self, batch: EvalBatch) -> Predictions:
        """The people of a batch, as `semipose.training.predict` finds them with the network.

        Keypoints of whole photos that were not found (`ae`) are at the corner of the view, with a peak of 0.
        The graph does not know how far the photo reaches in its view. What it found beside the photo means
        nothing and is left out here: candidates there (`ae`), and people whose middle is there.
        """
        answers = [torch.from_numpy(answer) for answer in self.run(levels(batch.image))]
        if self.config.kind == "person":
            points, peaks = answers
            areas = linear_scale(batch.image_from_view) ** 2 * self.size_hw[0] * self.size_hw[1]
            found = apply(batch.image_from_view, points)
            return Predictions(batch.records, found.numpy(), peaks.numpy(), areas.numpy())
        codec = self.config.build_codec()
        if isinstance(codec, AECodec):
            points, peaks, tags = answers
            peaks = torch.where(self._is_on_photo(points, batch), peaks, 0.0)
            people = codec.people_of(Candidates(points, peaks, tags))
            points, peaks, scores = people.points_xy, people.confidence, people.score
        else:
            points, peaks, scores = answers
            is_on_photo = self._is_on_photo(points.mean(2, keepdim=True), batch)[..., 0]
            scores = torch.where(is_on_photo | scores.isnan(), scores, 0.0)
        found = apply(batch.image_from_view, points.flatten(1, 2)).view_as(points)
        is_kept = ~(scores <= 0)  # a score that is no number stays, so that it is seen
        samples, rows = is_kept.nonzero().unbind(-1)
        kept = found[samples, rows]
        return Predictions(
            batch.records,
            kept.numpy(),
            peaks[samples, rows].numpy(),
            (kept.amax(1) - kept.amin(1)).prod(-1).numpy(),
            samples.numpy(),
            scores[samples, rows].numpy(),
        )

    def _is_on_photo(self, points: Tensor, batch: EvalBatch) -> Tensor:
        """Whether the nearest cell of points (N, A, B, 2), view px, is on the photo: (N, A, B) bool."""
        height, width = (size // STRIDE for size in self.size_hw)
        shown = batch.photo_frame.shows((height, width), STRIDE)
        x, y = (points / STRIDE + 0.5).nan_to_num(0.0, 0.0, 0.0).long().unbind(-1)
        index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        return shown.flatten(1).gather(1, index.flatten(1)).view_as(index)


def levels(images: Tensor) -> np.ndarray:
    """Normalised images (N, 3, H, W) that were made from whole levels -> these (N, H, W, 3) uint8."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    whole = (255 * (images * deviation + mean)).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).numpy())


def exported_file(source: str | Path) -> Path | None:
    """The exported file that is meant by its path or that of its folder; None for any other model."""
    path = Path(source)
    if path.suffix in (ONNX, PT2):
        return path
    return next((path / name for name in IN_FOLDER if (path / name).is_file()), None)


def read_exported(path: Path, device: torch.device, *, needs_device: bool) -> ExportedModel:
    """An exported file, ready to predict.

    device: a file of torch.export runs on the CPU, and ONNX on a GPU if onnxruntime can use it.
    needs_device: whether to refuse where it cannot. Raises InputError for that, and for a file that is
    absent, damaged or not written by `semipose export`.
    """
    if not path.is_file():
        raise InputError(f"{path}: does not exist: `semipose export` writes such files")
    run, notes = (open_onnx if path.suffix == ONNX else open_pt2)(path, device, needs_device=needs_device)
    if not {METADATA_KEY, CONFIG_KEY} <= notes.keys():
        raise InputError(
            f"{path}: it does not say how to use it, so this version of `semipose export` did not write it: "
            "export the model again"
        )
    height, width = json.loads(notes[METADATA_KEY])["size_hw"]
    return ExportedModel(
        run=run,
        config=parse_config(notes[CONFIG_KEY], str(path)),
        size_hw=(height, width),
        source=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        device=device,
    )


def open_onnx(path: Path, device: torch.device, *, needs_device: bool) -> tuple[Run, dict[str, str]]:
    """An ONNX file in onnxruntime, and its metadata. Raises InputError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: onnxruntime is not installed: pip install 'semipose[onnx]'") from error
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type != "cpu":
        can = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if needs_device and not can:
            raise InputError(f"device: this onnxruntime cannot use {device}: take device=cpu or device=auto")
        if can:
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has many kinds
        raise InputError(
            f"{path}: it cannot be loaded ({one_line(error)}): export the model again"
        ) from error
    return lambda views: session.run(None, {INPUT: views}), session.get_modelmeta().custom_metadata_map


def open_pt2(path: Path, device: torch.device, *, needs_device: bool) -> tuple[Run, dict[str, str]]:
    """A file of torch.export on the CPU, and its notes. Raises InputError."""
    if needs_device and device.type != "cpu":
        raise InputError(f"device: {path} was traced on a CPU and runs there: take device=cpu or device=auto")
    notes = {METADATA_KEY: "", CONFIG_KEY: ""}
    try:
        module = torch.export.load(path, extra_files=notes).module()
    except Exception as error:  # torch has many kinds
        raise InputError(
            f"{path}: it cannot be loaded ({one_line(error)}): export the model again"
        ) from error

    @torch.no_grad()
    def run(views: np.ndarray) -> list[np.ndarray]:
        return [answer.numpy() for answer in module(torch.from_numpy(views))]

    return run, {name: text for name, text in notes.items() if text}
