"""A trained network with everything that predicting needs, read from the folder of a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from semipose.configs.errors import InputError
from semipose.models.codecs.heatmap import DecodeMethod, HeatmapCodec
from semipose.pipelines.views import Border
from semipose.sharding.annotations.skeleton import Skeleton


@dataclass(frozen=True)
class ModelConfig:
    """What a network expects and what its answers mean."""

    kind: Literal["person", "image"]
    size_hw: tuple[int, int]
    """Of the views of people."""
    photo_size: int
    """The shorter side of whole photos, in view px."""
    border: Border
    skeleton: Skeleton
    category_id: int
    category_name: str


@dataclass(frozen=True)
class Model:
    """A network in eval mode and how to use it."""

    network: nn.Module
    codec: Any
    config: ModelConfig
    scores: dict[str, Any] | None
    source: str


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


def read_model(source: str | Path, device: torch.device, weights: str | None = None) -> Model:
    """The final network of a run, or the one called `weights`. Raises InputError."""
    from semipose.configs.load import load
    from semipose.pipelines.loader import ProcessInfo
    from semipose.pipelines.source import open_split
    from semipose.training import checkpoint
    from semipose.training.build import build_codec, build_method
    from semipose.training.run_files import own_recipe, read_scores
    from semipose.training.settings import RunSettings

    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"{source}: there is no such folder of a run: give the one that training wrote")
    cfg = load(RunSettings, own_recipe(folder))
    newest = checkpoint.latest(folder)
    if newest is None:
        raise InputError(f"{folder}: the run has no checkpoint yet: train it first")
    val = open_split(cfg.data.val, cfg.kind)
    method = build_method(replace(cfg, compile=False), val.skeleton, ProcessInfo(device=device), fresh=False)
    checkpoint.load_weights(method, checkpoint.load_shared(newest)["method"], newest)
    networks = method.networks()
    if weights is not None and weights not in networks:
        raise InputError(f"weights: the run has no network {weights!r}: take one of {', '.join(networks)}")
    network = networks[weights or next(iter(networks))]
    category = val.ground_truth()["categories"][0]
    views = cfg.views.plain if cfg.kind == "person" else cfg.photo_views.plain
    config = ModelConfig(
        kind=cfg.kind,
        size_hw=cfg.views.size_hw,
        photo_size=cfg.photo_views.size,
        border=views.border,
        skeleton=val.skeleton,
        category_id=category["id"],
        category_name=category["name"],
    )
    codec = build_codec(cfg, val.skeleton)
    return Model(network.eval().requires_grad_(False), codec, config, read_scores(folder), str(newest))


def decoding(model: Model, method: DecodeMethod | None) -> Model:
    """The model with another way of reading heatmaps. Raises InputError for detector-free models."""
    if method is None:
        return model
    if not isinstance(model.codec, HeatmapCodec):
        raise InputError(
            "decode: this model finds whole people, and has one way of reading them: leave decode out"
        )
    return replace(model, codec=replace(model.codec, settings=replace(model.codec.settings, decode=method)))
