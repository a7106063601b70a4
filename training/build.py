"""What training and scoring have in common: the people, the method and the kernels of a run."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from semipose.configs.load import InputError
from semipose.models.codecs.heatmap import HeatmapCodec
from semipose.models.codecs.instances import InstanceCodec
from semipose.models.net import FeatureNet, NetSettings, build_net
from semipose.models.start import start_network
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.loader import (
    EvalLoader,
    ProcessInfo,
    TrainLoader,
    eval_loader,
    labelled_loader,
    unlabelled_loader,
)
from semipose.pipelines.photo_loader import eval_photo_loader, labelled_photo_loader, unlabelled_photo_loader
from semipose.pipelines.source import (
    Split,
    hidden_split,
    labelled_share,
    labelled_split,
    open_split,
    unlabelled_split,
)
from semipose.sharding.annotations.flip_pairs import places_of
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.training.label_sources import LabelSource
from semipose.training.methods.method import Ingredients, Method
from semipose.training.methods.random_state import RandomState
from semipose.training.probe import Probe
from semipose.training.settings import LabelSourceSettings, RunSettings

MOST_GRAPHS = 64
SOURCE_SEEDS = 7_919
"""Apart by this, so that a source does not draw the views of the labelled people."""


def choose_kernels(*, deterministic: bool) -> None:
    """Let a GPU use its fastest kernels, or only reproducible ones. Call this before its first use."""
    # cuBLAS reads this when its first handle is created; without it torch refuses matrix products.
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Shapes stay the same for the whole run, so it pays to try cuDNN's algorithms once; the winner
    # varies.
    torch.backends.cudnn.benchmark = not deterministic


def open_splits(cfg: RunSettings, index_dir: Path) -> tuple[Split, Split | None, Split]:
    """The labelled, the unlabelled (None if the method uses none) and the scored people.

    The index files of the first two are written to `index_dir`. Raises InputError if the shards cannot be
    used.
    """
    data = cfg.data
    train_people, val = open_split(data.train, cfg.kind), open_split(data.val, cfg.kind)
    if train_people.skeleton != val.skeleton:
        raise InputError(
            f"{data.train} and {data.val} have different keypoints: build both from one annotation format"
        )
    if data.labelled_share is not None:
        labelled = labelled_share(train_people, data.labelled_share, fold=data.fold, index_dir=index_dir)
    else:
        labelled = labelled_split(
            train_people, data.labelled, subset_seed=data.subset_seed, index_dir=index_dir
        )
    unlabelled = None
    if cfg.method.uses_unlabelled and data.unlabelled is not None:
        unlabelled = open_split(data.unlabelled, cfg.kind)
    elif cfg.method.uses_unlabelled:
        without = None if data.unlabelled_includes_labelled else labelled
        unlabelled = unlabelled_split(train_people, without=without, index_dir=index_dir)
    return labelled, unlabelled, val


def open_sources(cfg: RunSettings, skeleton: Skeleton) -> list[Split]:
    """The people of `data.sources`, all of them. Raises InputError for shards that cannot be used."""
    sources = []
    for source in cfg.data.sources:
        split = open_split(source.shards)
        wanted = source.keypoints or skeleton.names
        unknown = [name for name in wanted if name not in skeleton.names]
        if unknown:
            raise InputError(
                f"data.sources: {cfg.data.train} has no keypoint {', '.join(unknown)}: choose from "
                f"{', '.join(skeleton.names)}"
            )
        if all(place is None for place in places_in_source(source, split, skeleton)):
            raise InputError(
                f"data.sources: {source.shards} has none of the keypoints {', '.join(wanted)}, but "
                f"{', '.join(split.skeleton.names)}: take other shards"
            )
        sources.append(split)
    return sources


def places_in_source(source: LabelSourceSettings, split: Split, skeleton: Skeleton) -> list[int | None]:
    """For each keypoint of the run its place among those of a source; None if it is not learned from it."""
    places = places_of(skeleton.names, split.skeleton.names)
    chosen = source.keypoints or skeleton.names
    return [place if name in chosen else None for name, place in zip(skeleton.names, places, strict=True)]


def source_streams(
    cfg: RunSettings, splits: Sequence[Split], skeleton: Skeleton, process: ProcessInfo
) -> list[LabelSource]:
    """The streams of `data.sources`, in the keypoints of the run."""
    streams = []
    for number, (source, split) in enumerate(zip(cfg.data.sources, splits, strict=True), start=1):
        loader = labelled_loader(
            split,
            cfg.views,
            batch_size=source.batch,
            seed=cfg.seed + SOURCE_SEEDS * number,
            process=process,
            settings=cfg.loader,
            cache=cfg.data.cache,
            places=places_in_source(source, split, skeleton),
        )
        streams.append(LabelSource(loader, source.weight, source.hand_over))
    return streams


def labelled_stream(cfg: RunSettings, split: Split, process: ProcessInfo) -> TrainLoader[Any]:
    """The endless labelled views of a run: of single people, or of whole photos."""
    options: dict[str, Any] = {"batch_size": cfg.labelled_batch, "seed": cfg.seed}
    options |= {"process": process, "settings": cfg.loader}
    if cfg.kind == "image":
        return labelled_photo_loader(split, cfg.photo_views, **options)
    return labelled_loader(split, cfg.views, cache=cfg.data.cache, **options)


def unlabelled_stream(
    cfg: RunSettings, split: Split, process: ProcessInfo, batch_size: int | None = None
) -> TrainLoader[UnlabelledBatch]:
    """The endless weak and strong views of a run; with a `batch_size` of its own, nothing is cached."""
    options: dict[str, Any] = {"batch_size": batch_size or cfg.unlabelled_batch, "seed": cfg.seed}
    options |= {"process": process, "settings": cfg.loader}
    if cfg.kind == "image":
        return unlabelled_photo_loader(split, cfg.photo_views, **options)
    return unlabelled_loader(split, cfg.views, cache="none" if batch_size else cfg.data.cache, **options)


def scored_views(cfg: RunSettings, val: Split, process: ProcessInfo) -> EvalLoader:
    """One pass over the plain views of the people or photos to score."""
    options: dict[str, Any] = {"batch_size": cfg.labelled_batch, "process": process, "settings": cfg.loader}
    if cfg.kind == "image":
        return eval_photo_loader(val, cfg.photo_views, **options)
    return eval_loader(val, cfg.views, **options)


def build_probe(
    cfg: RunSettings, labelled: Split, unlabelled: Split | None, device: torch.device, index_dir: Path
) -> Probe | None:
    """The unlabelled photos of a run whose annotations say how right its teacher is; None without any."""
    if cfg.kind != "image" or unlabelled is None:
        return None
    split = hidden_split(unlabelled, labelled, cfg.probe_photos, index_dir=index_dir)
    return Probe(split, scored_views(cfg, split, ProcessInfo(device=device))) if split else None


def steps_per_epoch(cfg: RunSettings, labelled: Split, unlabelled: Split | None, process: ProcessInfo) -> int:
    """How many steps show every labelled and every unlabelled sample once (docs/methods.md 1.3)."""
    parts = [(labelled, cfg.labelled_batch)]
    if unlabelled is not None:
        parts.append((unlabelled, cfg.unlabelled_batch))
    return max(math.ceil(split.num_samples / (batch * process.world_size)) for split, batch in parts)


def build_method(
    cfg: RunSettings, skeleton: Skeleton, process: ProcessInfo, *, epoch_steps: int = 1, fresh: bool = True
) -> Method:
    """The method with its networks, on the device.

    epoch_steps: those of the run, where it trains. fresh: fetch pretrained weights and read what
    `net.start_from` names; without it, the weights are going to come from a checkpoint.
    """

    def make_network(net: NetSettings | None) -> FeatureNet:
        net = net or cfg.net
        network = build_net(net, skeleton.num_keypoints, loads_weights=fresh)
        if fresh and net.start_from is not None:
            network.start = start_network(network, net.start_from, skeleton)
        network = network.to(process.device)
        return network.to(memory_format=torch.channels_last) if cfg.channels_last else network

    random_state = RandomState(cfg.seed, process.rank, process.device)
    codec = build_codec(cfg, skeleton, random_state.generator)
    method = cfg.method.build(Ingredients(make_network, codec, random_state, epoch_steps))
    if cfg.compile:
        compile_networks(method)
    return method


def build_codec(
    cfg: RunSettings, skeleton: Skeleton, generator: torch.Generator | None = None
) -> HeatmapCodec | InstanceCodec:
    """What the maps of the networks mean. generator: what the losses of whole photos draw with."""
    return cfg.codec.build(skeleton, generator) if cfg.codec else HeatmapCodec(cfg.heatmap, skeleton)


def build_optimizer(module: torch.nn.Module, cfg: RunSettings) -> torch.optim.Optimizer:
    """Adam over all trained parameters, in one fused kernel."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.Adam(parameters, lr=cfg.optim.lr, fused=True)


def compile_networks(method: Method) -> None:
    """Compile every network of a method, with copies of teachers; its state keeps its names and values.

    Each batch size, mixed layer, mode and architecture needs its own graph, which is compiled on first use.
    All networks share torch's limit on the number of graphs, beyond which they would run uncompiled; methods
    with several networks that mix at several layers exceed the usual 8.
    """
    torch._dynamo.config.recompile_limit = max(MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    for module in method.modules():
        if isinstance(module, FeatureNet):
            module.compile(dynamic=False)
