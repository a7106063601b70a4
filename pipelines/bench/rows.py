"""Every row of the benchmark: what is timed under which name.

A stage is a graph of `pipelines.graph`'s own parts that stops early; a loader is the one that training takes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Literal

import torch

from pipelines import graph
from pipelines.bench import kornia_views, masks
from pipelines.bench.classic import ClassicDataset, endless_batches
from pipelines.bench.measure import NextBatch, Variant
from pipelines.bench.settings import BenchSettings, People
from pipelines.bench.torchvision_v2 import TorchvisionDataset
from pipelines.graph import Graph, Pipeline, Reading
from pipelines.loader import LoaderSettings, ProcessInfo, unlabelled_loader
from pipelines.source import Split
from pipelines.views import ViewSettings

CLASSIC = "classic loader"
TORCHVISION = "torchvision v2 on our crops"
KORNIA = "kornia on the GPU, our crops"
LOADER = "whole loader"
LOADER_MASKS = "whole loader, and masks"
LOADER_CACHE = "whole loader, cached"
WARM_PERSONS = 600
"""A pass over the people that are measured by default."""
MASKS = "masking: counts, choice, op"
MASKS_LOOP = "masking as published (loops)"
BASES = {"loader": CLASSIC, "masking": MASKS_LOOP, "masking, GPU": f"{MASKS_LOOP}, GPU"}
"""The row that those of a group are compared with."""
NO_PHOTOS = "needs photos: the shards were given"
CPU = torch.device("cpu")


CACHES: dict[str, Literal["host", "device"]] = {"cpu": "host", "cuda": "device"}
"""The cache that is measured on a device: its own memory."""


def on(name: str, device: torch.device) -> str:
    """The name of a row on a device."""
    return name if device.type == "cpu" else f"{name}, GPU"


def devices() -> list[torch.device]:
    """Where our rows are measured: on the CPU, and on the GPU where there is one."""
    return [CPU, torch.device("cuda:0")] if torch.cuda.is_available() else [CPU]


def all_variants(
    cfg: BenchSettings, people: People, stack: ExitStack
) -> tuple[list[Variant], dict[str, str]]:
    """All that is timed, and what cannot be, with the reason; `stack` closes the loaders."""
    variants, skipped = other_loaders(cfg, people)
    for device in devices():
        variants += stages(cfg, people.crops, device)
        variants += loaders(cfg, people, device, stack)
        variants += step_parts(cfg, device)
    if people.photos is None:
        skipped |= {on("whole loader, whole photos in the shards", device): NO_PHOTOS for device in devices()}
    return variants, skipped


def loader_variant(cfg: BenchSettings, name: str, next_batch: NextBatch) -> Variant:
    """A row of the group `loader`: a queue holds up to two batches a worker, and waiting memory goes cold."""
    warmup = max(2 * cfg.threads + 2, WARM_PERSONS // cfg.batch_size)
    return Variant(name, "loader", next_batch, cfg.batch_size, cfg.batches, warmup)


def other_loaders(cfg: BenchSettings, people: People) -> tuple[list[Variant], dict[str, str]]:
    """The loaders that ours is compared with."""
    batches: dict[str, Iterator[Any]] = {}
    skipped: dict[str, str] = {}
    make = partial(endless_batches, batch_size=cfg.batch_size, workers=cfg.threads)
    if people.annotations is None:
        skipped[CLASSIC] = NO_PHOTOS
    else:
        batches[CLASSIC] = make(ClassicDataset(people.annotations, cfg.views))
    if people.crops.shards.is_streamed:
        skipped[TORCHVISION] = skipped[KORNIA] = "needs shards on this machine"
    else:
        batches[TORCHVISION] = make(TorchvisionDataset(people.crops, cfg.views))
        reason = kornia_views.why_not()
        if reason:
            skipped[KORNIA] = reason
        else:
            batches[KORNIA] = kornia_views.kornia_batches(
                people.crops, cfg.views, batch_size=cfg.batch_size, workers=cfg.threads
            )
    return [loader_variant(cfg, name, partial(next, each)) for name, each in batches.items()], skipped


def stages(cfg: BenchSettings, crops: Split, device: torch.device) -> list[Variant]:
    """The loader cut short after each stage; nothing is handed to torch."""
    graphs: dict[str, Graph] = {
        "read": read_stage,
        "read, decode": decode_stage,
        "read, decode, DALI warps weak": partial(weak_stage, views=cfg.views),
        "read, decode, DALI warps both": partial(both_stage, views=cfg.views),
    }
    if device.type == "cuda":
        del graphs["read"]  # it happens on the CPU
    reading = Reading(
        tars=crops.tars,
        indices=crops.indices,
        batch_size=cfg.batch_size,
        seed=0,
        shuffle_buffer=min(LoaderSettings().shuffle_buffer, crops.num_samples),
        threads=cfg.threads,
        device=device,
    )
    return [
        loader_variant(cfg, on(name, device), Pipeline(each, reading).dali.run)
        for name, each in graphs.items()
        if not crops.shards.is_streamed
    ]


def read_stage(reading: Reading) -> dict[str, graph.Node]:
    """Bytes only."""
    jpeg, pose = graph.read_person(reading)
    return {"jpeg": jpeg, "pose": pose}


def decode_stage(reading: Reading) -> dict[str, graph.Node]:
    """Bytes to pixels."""
    jpeg, _ = graph.read_person(reading)
    return {"image": graph.decode(jpeg, reading)}


def weak_stage(reading: Reading, *, views: ViewSettings) -> dict[str, graph.Node]:
    """Bytes to the weak view, uint8."""
    jpeg, pose = graph.read_person(reading)
    matrix, _ = graph.draw_view(pose, views.weak, views.size_hw)
    return {"weak": graph.warp(graph.decode(jpeg, reading), matrix, views.weak, views.size_hw)}


def both_stage(reading: Reading, *, views: ViewSettings) -> dict[str, graph.Node]:
    """Bytes to both views, uint8."""
    jpeg, pose = graph.read_person(reading)
    weak, _ = graph.draw_view(pose, views.weak, views.size_hw)
    strong = graph.combine(weak, graph.draw_strong(views.strong, views.size_hw))
    image = graph.decode(jpeg, reading)
    shown = {"weak": (weak, views.weak), "strong": (strong, views.strong)}
    return {
        name: graph.warp(image, matrix, policy, views.size_hw) for name, (matrix, policy) in shown.items()
    }


def loaders(cfg: BenchSettings, people: People, device: torch.device, stack: ExitStack) -> list[Variant]:
    """The loader that training takes, in its forms."""

    def batches(split: Split, cache: Literal["none", "host", "device"] = "none") -> Callable[[], Any]:
        stream = unlabelled_loader(
            split,
            cfg.views,
            batch_size=cfg.batch_size,
            seed=0,
            process=ProcessInfo(device=device),
            settings=LoaderSettings(threads=cfg.threads),
            cache=cache,
        )
        return partial(next, stack.enter_context(closing(stream)))

    step = masks.make_step(cfg.batch_size, cfg.keypoints, cfg.views.size_hw, device)
    found = [
        loader_variant(cfg, on(LOADER, device), batches(people.crops)),
        loader_variant(cfg, on(LOADER_MASKS, device), partial(load_and_mask, batches(people.crops), step)),
        loader_variant(cfg, on(LOADER_CACHE, device), batches(people.crops, CACHES[device.type])),
    ]
    if people.photos is not None:
        name = on("whole loader, whole photos in the shards", device)
        found.append(loader_variant(cfg, name, batches(people.photos)))
    return found


def load_and_mask(next_batch: Callable[[], Any], step: masks.Step) -> None:
    """A batch, its strong views masked by the peaks of `step`."""
    batch = next_batch()
    masks.mask(masks.Step(**{**vars(step), "images": batch.strong}))


def step_parts(cfg: BenchSettings, device: torch.device) -> list[Variant]:
    """Masking and mixing of one batch, in parts, and the masking loop that it is compared with."""
    step = masks.make_step(cfg.batch_size, cfg.keypoints, cfg.views.size_hw, device)
    groups = {"mixing": "mixing"}
    return [
        Variant(
            on(name, device),
            on(groups.get(name, "masking"), device),
            call,
            cfg.batch_size,
            cfg.batches,
            warmup=3,
        )
        for name, call in masks.parts(step).items()
    ]
