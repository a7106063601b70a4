"""semipose export MODEL [key=value ...]: a trained network for other runtimes, checked against the original.

    semipose export runs/mine
    semipose export runs/mine format=both precision=int8

MODEL is the folder of a run or a model folder. It writes `pose.onnx` (also `pose-int8.onnx`, `pose.pt2`),
`pose.json` (what the answers mean), `example.py`, and `parity.json` (how far the answers of each file are
from those of the network).
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from rich.console import Console

from semipose.configs.console import plain_console
from semipose.configs.errors import InputError
from semipose.configs.load import exit_on_input_error, load, read_request
from semipose.configs.settings import settings
from semipose.configs.versions import versions
from semipose.export.crops import read_views
from semipose.export.graph import (
    PoseGraph,
    facts_of,
    notes_of,
    refuse_model,
    require,
    trace,
    view_hw,
    write_onnx,
)
from semipose.export.parity import MOST_PEAK, MOST_PX, compare
from semipose.export.quantize import quantize
from semipose.models.codecs.heatmap import DecodeMethod
from semipose.models.model_folder import Model, read_model
from semipose.predict.exported import Run, open_onnx, open_pt2
from semipose.predict.model import decoding
from semipose.sharding.store.files import names_in, refuse_strangers, write_atomic

Side = Annotated[int, Field(ge=64, le=4096, multiple_of=64)]
FACTS_NAME = "pose.json"
"""What the answers mean. It is put in place first, because it says that a folder holds an export."""
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
MEDIAN_INT8_PX = 2.0
EXAMPLES = {
    "person": Path(__file__).with_name("example.py"),
    "image": Path(__file__).with_name("example_photo.py"),
}


@settings
class ExportSettings:
    """A trained network for other runtimes."""

    format: Literal["onnx", "pt2", "both"] = "onnx"
    """onnx, pt2 (torch.export), or both."""
    precision: Literal["fp32", "int8"] = "fp32"
    """int8 writes the convolutions of the ONNX in integers as well, calibrated on the views of `views`."""
    output: str = ""
    """The folder to write. Without it, exports/NAME by the name of the model's folder."""
    network: str | None = None
    """The name of another network than the product, such as average."""
    decode: DecodeMethod | None = None
    """How heatmaps are read, shift or dark; null: as in training."""
    flip_test: bool = False
    """Average over each view and its mirror image inside the graph, which takes twice as long."""
    photo_hw: tuple[Side, Side] | None = None
    """For models of whole photos: height and width of the graph's input; null: the square of training."""
    views: Annotated[int, Field(ge=8)] = 64
    """How many views of people the file is checked and calibrated with."""
    check: bool = True
    """Compare the file's answers with the network's, and fail if a keypoint is more than 0.05 px away."""


def export(source: str, cfg: ExportSettings, console: Console) -> Path:
    """Write the files; returns their folder. Raises InputError, also where the answers differ."""
    model = decoding(read_model(source, "cpu", cfg.network), cfg.decode)
    wants_onnx = cfg.format != "pt2"
    refuse_model(model, for_onnx=wants_onnx)
    if cfg.precision == "int8" and not wants_onnx:
        raise InputError("precision: int8 is a form of ONNX: use format=onnx or format=both")
    if wants_onnx:
        require("onnx", "onnxscript", *["onnxruntime"] * (cfg.check or cfg.precision == "int8"))
    size_hw = view_hw(model, cfg.photo_hw)
    name = Path(source).resolve().name if Path(source).exists() else source.rsplit("/", 1)[-1]
    folder = Path(cfg.output or f"exports/{name}")
    if not _is_export(folder):
        refuse_strangers(folder, names_in(folder))
    aside = folder.resolve().with_name(f".{folder.resolve().name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        rows = _write(model, cfg, size_hw, aside)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(aside.iterdir(), key=lambda path: path.name != FACTS_NAME):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for file, row in rows.items():
        console.print(f"{folder / file}: {_in_words(row)}", highlight=False, soft_wrap=True)
    return folder


def _is_export(folder: Path) -> bool:
    """Whether a folder holds an earlier export, which may be written again."""
    try:
        return "semipose" in json.loads((folder / FACTS_NAME).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _in_words(row: dict[str, Any]) -> str:
    """The parity of a file, for the line about it."""
    if not row:
        return "not checked"
    return (
        f"of {row['keypoints']:,} keypoints of {row['of']} half are within {row['median_px']:.2g} px of the "
        f"network's, 95 % within {row['p95_px']:.2g} px and all within {row['max_px']:.2g} px; peaks differ "
        f"by at most {row['max_peak']:.2g}"
    )


def _write(model: Model, cfg: ExportSettings, size_hw: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Write all files into `folder`; returns the parity of each by its name."""
    facts = facts_of(model, size_hw, flip_test=cfg.flip_test)
    notes = notes_of(model, facts)
    graph = PoseGraph(model, flip_test=cfg.flip_test).eval()
    rows: dict[str, Any] = {}
    needs_views = cfg.check or cfg.precision == "int8"
    views, whose = read_views(model, size_hw, cfg.views) if needs_views else (np.empty(0), "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = trace(graph, size_hw)
        openers: dict[str, Callable[..., tuple[Run, dict[str, str]]]] = {}
        if cfg.format != "onnx":
            torch.export.save(program, folder / "pose.pt2", extra_files=notes)
            openers["pose.pt2"] = open_pt2
        if cfg.format != "pt2":
            write_onnx(program, folder / "pose.onnx", graph.outputs(), notes)
            openers["pose.onnx"] = open_onnx
        if cfg.precision == "int8":
            quantize(folder / "pose.onnx", folder / "pose-int8.onnx", views)
            openers["pose-int8.onnx"] = open_onnx
        for file, open_file in openers.items():
            rows[file] = {}
            if cfg.check:
                run, _ = open_file(folder / file, torch.device("cpu"), needs_device=True)
                rows[file] = {**compare(graph, run, views), "of": whose}
                _refuse_difference(file, rows[file])
    write_atomic(folder / FACTS_NAME, (json.dumps(facts, indent=1) + "\n").encode())
    if cfg.format != "pt2":
        shutil.copyfile(EXAMPLES[model.config.kind], folder / "example.py")
    parity = {"files": rows, "versions": versions(PACKAGES)}
    if cfg.check:
        write_atomic(folder / "parity.json", (json.dumps(parity, indent=1) + "\n").encode())
    return rows


def _refuse_difference(file: str, row: dict[str, Any]) -> None:
    """Raise InputError where a file's answers are not those of the network."""
    if not row["keypoints"]:
        raise InputError(
            f"{file}: the network is not sure of a single keypoint, so nothing can be compared: train it "
            "longer, or use check=false"
        )
    is_int8 = "int8" in file
    if is_int8 and row["median_px"] > MEDIAN_INT8_PX:
        raise InputError(
            f"{file}: in integers half of the keypoints move by more than {row['median_px']:.2f} px: use "
            "precision=fp32, or more views= to calibrate with"
        )
    if not is_int8 and (row["max_px"] > MOST_PX or row["max_peak"] > MOST_PEAK):
        raise InputError(
            f"{file}: it does not answer as the network does: a keypoint is {row['max_px']:.3f} px away (at "
            f"most {MOST_PX}) and a peak differs by {row['max_peak']:.2g} (at most {MOST_PEAK}): nothing was "
            "written"
        )


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            ExportSettings,
            description="A trained network for other runtimes: ONNX, torch.export, INT8.",
            path_name="MODEL",
            argv=argv,
        )
        if request.recipe is None:
            raise InputError("command line: MODEL is missing: give the folder of a run or a model folder")
        cfg = load(ExportSettings, None, request.overrides)
        export(str(request.recipe), cfg, plain_console(soft_wrap=True))


if __name__ == "__main__":
    main()
