"""The exported graph: photos as they are read from files to keypoints, as one module."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from semipose.configs.errors import InputError, one_line
from semipose.models.codecs.ae import AECodec, grouping_order
from semipose.models.codecs.heatmap import HeatmapCodec
from semipose.models.heads.dekr import DEKRHeadSettings
from semipose.models.model_folder import Model, ModelConfig
from semipose.pipelines.views import BORDER_GREYS, MEAN_RGB, STD_RGB
from semipose.training.predict import heatmaps_of

OPSET = 20
METADATA_KEY, CONFIG_KEY = "semipose", "semipose.config"
"""The names in a file of what `pose.json` holds, and of the `config.json` of its model."""
INPUT = "image"
BATCH = 2
"""The samples of the example with which a graph is traced; 0 and 1 are special to torch.export."""


class PoseGraph(nn.Module):
    """Views (N, H, W, 3) uint8 RGB -> keypoints in pixels of the view.

    Of single people: points (N, K, 2) and peaks (N, K), float32. Of whole photos: points (N, Q, K, 2), peaks
    (N, Q, K) and scores (N, Q) of Q candidates, the highest score first among those above 0; a score of 0 is
    nobody. Of `ae`: points (N, K, Q, 2), peaks (N, K, Q) and tags (N, K, Q, L) of Q candidates of each
    keypoint, the highest first; a peak of 0 is none, and people are put together by their tags outside.
    What is found beside a photo that does not fill its view means nothing and must be left out outside, too.
    Normalisation, the flip test if there is one, and all other decoding are inside.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Model, *, flip_test: bool = False) -> None:
        super().__init__()
        self.network = model.network
        self.codec = model.codec
        self.flip_test = flip_test
        for name, values in (("mean", MEAN_RGB), ("deviation", STD_RGB)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1))

    def maps(self, image: Tensor) -> Any:
        """What the network answers."""
        view = (image.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        return heatmaps_of(self.network, view, self.codec, flip_test=self.flip_test)

    def decode(self, maps: Any) -> tuple[Tensor, ...]:
        """Keypoints from what the network answers."""
        if isinstance(self.codec, HeatmapCodec):
            return self.codec.decode(maps)
        if isinstance(self.codec, AECodec):
            points, peaks, tags = self.codec.candidates(maps)
            is_peak = (peaks > 0)[..., None]  # of cells that are none, runtimes name different ones
            return torch.where(is_peak, points, 0.0), peaks, torch.where(is_peak, tags, 0.0)
        people = self.codec.decode(maps)
        return people.points_xy, people.confidence, people.score

    def outputs(self) -> tuple[str, ...]:
        """The names of the answers."""
        if isinstance(self.codec, HeatmapCodec):
            return "points_xy", "peaks"
        return "points_xy", "peaks", "tags" if isinstance(self.codec, AECodec) else "scores"

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.decode(self.maps(image))


def refuse_model(model: Model, *, for_onnx: bool) -> None:
    """Raise InputError for a model that has no form in ONNX, if that is wanted."""
    head = model.config.net.head
    if for_onnx and isinstance(head, DEKRHeadSettings) and head.adapt == "deform":
        raise InputError(
            f"{model.source}: the adaptive convolutions of this head (net.head.adapt=deform) have no form in "
            "ONNX: export it with format=pt2, or train with net.head.adapt=none"
        )


def view_hw(model: Model, photo_hw: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the graph's input: fixed, as runtimes like it."""
    config = model.config
    if config.size_hw is not None:
        if photo_hw is not None:
            raise InputError("photo_hw: this model takes views of single people: leave photo_hw out")
        return config.size_hw
    assert config.photo_views is not None
    return photo_hw or config.photo_views.size_hw


def trace(graph: PoseGraph, size_hw: tuple[int, int]) -> torch.export.ExportedProgram:
    """The graph for inputs of one size and any number of samples. Raises InputError if that fails."""
    example = torch.zeros(BATCH, *size_hw, 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("N", min=1)},)
    try:
        with torch.no_grad():
            return torch.export.export(graph.eval(), (example,), dynamic_shapes=shapes)
    except Exception as error:  # a network of timm may do anything while it is traced
        raise InputError(
            f"this network cannot be traced by torch.export ({one_line(error)}): choose another backbone"
        ) from error


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, outputs: Sequence[str], notes: Mapping[str, str]
) -> None:
    """Write the traced graph as ONNX, with `notes` as its metadata. Raises InputError if that fails."""
    onnx, onnxscript = require("onnx", "onnxscript")

    def stable_sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
        """ONNX's TopK puts the first of equal values first, which torch's converter does not know."""
        op = onnxscript.opset20
        return op.TopK(values, op.Shape(values, start=dim, end=dim + 1 or None), axis=dim, largest=descending)

    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
            verbose=False,
        )
        assert converted is not None
        content = converted.model_proto
    except Exception as error:  # the converter has no one type for what it cannot write
        raise InputError(
            f"this network cannot be written as ONNX ({one_line(error)}): use format=pt2, or choose another "
            "backbone"
        ) from error
    onnx.helper.set_model_props(content, dict(notes))
    path.write_bytes(content.SerializeToString())


def require(*modules: str) -> list[Any]:
    """The modules of the extra `export`. Raises InputError if one is not installed."""
    import importlib

    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise InputError(
            f"export: {error.name} is not installed: `pip install 'semipose[export]'` (format=pt2 with "
            "check=false needs none of it)"
        ) from None


def notes_of(model: Model, facts: Mapping[str, Any]) -> dict[str, str]:
    """What an exported file says of itself, from which `semipose predict` can use it."""
    config = TypeAdapter(ModelConfig).dump_json(model.config).decode()
    return {METADATA_KEY: json.dumps(facts), CONFIG_KEY: config}


def facts_of(model: Model, size_hw: tuple[int, int], *, flip_test: bool) -> dict[str, Any]:
    """What a user of the graph must know, as plain values: `pose.json`, which the file itself holds too."""
    config = model.config
    skeleton, origin = config.skeleton, config.provenance
    return {
        "input": {INPUT: ["N", *size_hw, 3], "type": "uint8", "colours": "RGB"},
        "outputs": _outputs(model),
        "kind": config.kind,
        "keypoints": list(skeleton.names),
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
        "bones": [list(bone) for bone in skeleton.bones],
        "sigmas": list(skeleton.sigmas),
        "category": {"id": config.category_id, "name": config.category_name},
        "size_hw": list(size_hw),
        "box_padding": config.box_padding,
        "border_rgb": list(BORDER_GREYS[config.border]),
        "decode": config.codec.name if config.codec else model.codec.settings.decode,
        **_grouping(model),
        "sigma": (config.codec or model.codec.settings).__dict__.get("sigma"),
        "flip_test": flip_test,
        "protocol": origin.protocol,
        "method": origin.method,
        "step": origin.step,
        "network": config.network,
        "scores": (model.scores or {}).get("scores", {}).get(config.network),
        "weights": origin.weights,
        "licences": origin.licences,
        "semipose": origin.version,
    }


def _grouping(model: Model) -> dict[str, Any]:
    """How candidates become people, for models that need it (see `models.codecs.ae.group`)."""
    if not isinstance(model.codec, AECodec):
        return {}
    cfg, names = model.codec.settings, model.config.skeleton.names
    return {
        "grouping": {
            "order": [names[k] for k in grouping_order(names)],
            "least_peak": cfg.least_peak,
            "tag_distance": cfg.tag_distance,
        }
    }


def _outputs(model: Model) -> dict[str, str]:
    count = model.config.skeleton.num_keypoints
    if model.config.kind == "person":
        return {
            "points_xy": f"(N, {count}, 2) float32: x and y in pixels of the view, centres at whole numbers",
            "peaks": f"(N, {count}) float32: the height of each keypoint's peak",
        }
    candidates = getattr(model.codec.settings, "candidates", "Q")
    if isinstance(model.codec, AECodec):
        return {
            "points_xy": f"(N, {count}, {candidates}, 2) float32: x and y in pixels of the view",
            "peaks": f"(N, {count}, {candidates}) float32: the heights of a keypoint's candidates; 0 is none",
            "tags": f"(N, {count}, {candidates}, L) float32: alike for the keypoints of one person",
        }
    return {
        "points_xy": f"(N, {candidates}, {count}, 2) float32: x and y in pixels of the view",
        "peaks": f"(N, {candidates}, {count}) float32: the confidence of each keypoint",
        "scores": f"(N, {candidates}) float32: the score of each person; 0 is nobody",
    }
