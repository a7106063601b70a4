"""Where a model runs, and how its heatmaps are read; models/model_folder.py reads it."""

from dataclasses import replace

import torch

from semipose.configs.errors import InputError
from semipose.models.codecs.heatmap import DecodeMethod, HeatmapCodec
from semipose.models.model_folder import Model


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


def decoding(model: Model, method: DecodeMethod | None) -> Model:
    """The model with another way of reading heatmaps. Raises InputError for detector-free models."""
    if method is None:
        return model
    if not isinstance(model.codec, HeatmapCodec):
        raise InputError(
            "decode: this model finds whole people, and has one way of reading them: leave decode out"
        )
    return replace(model, codec=replace(model.codec, settings=replace(model.codec.settings, decode=method)))
