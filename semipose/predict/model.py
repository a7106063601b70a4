"""The model to predict with: that of a run (models/model_folder.py reads it) or an exported file."""

from dataclasses import replace

import torch

from semipose.configs.errors import InputError
from semipose.models.codecs.heatmap import DecodeMethod, HeatmapCodec
from semipose.models.model_folder import Model, read_model
from semipose.predict.exported import ExportedModel, exported_file, read_exported


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: the GPU if there is one (CUDA, or Apple's), else the CPU. Raises InputError for others."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device: {name} cannot be used here ({reason}): take device=cpu or device=auto"
        ) from error
    return device


def open_model(
    source: str, device: str, *, network: str | None, decode: DecodeMethod | None
) -> Model | ExportedModel:
    """The model in the folder of a run, in a model folder, at `hf://owner/name`, or in an exported file.

    Raises InputError, also for settings that an exported file has no place for.
    """
    on = choose_device(device)
    path = exported_file(source)
    if path is None:
        return decoding(read_model(source, on, network), decode)
    for name, value in (("network", network), ("decode", decode)):
        if value is not None:
            raise InputError(
                f"{name}: {path} holds the choice of its export: leave {name} out, or export again"
            )
    return read_exported(path, on, needs_device=device != "auto")


def decoding(model: Model, method: DecodeMethod | None) -> Model:
    """The model with another way of reading heatmaps. Raises InputError for detector-free models."""
    if method is None:
        return model
    if not isinstance(model.codec, HeatmapCodec):
        raise InputError(
            "decode: this model finds whole people, and has one way of reading them: leave decode out"
        )
    return replace(model, codec=replace(model.codec, settings=replace(model.codec.settings, decode=method)))
