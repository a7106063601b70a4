"""The benchmark of the loader: stages of our graph, the whole loader, masking and mixing, and their rivals.

A stage is a graph of `pipelines.graph`'s own parts that stops early; a loader is the one that training takes.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track

from semipose.configs.schema import plain
from semipose.pipelines import graph
from semipose.pipelines.graph import Pipeline, Reading
from semipose.pipelines.loader import ProcessInfo, unlabelled_loader
from semipose.pipelines.loader_settings import LoaderSettings
from semipose.pipelines.source import Split
from semipose.pipelines.views import ViewSettings
from semipose.training.bench import masking
from semipose.training.bench.machine import describe_machine, gpu_limits
from semipose.training.bench.people import People, open_people
from semipose.training.bench.result import Result, Row, compare, make_row, write_result
from semipose.training.bench.rivals import kornia_views
from semipose.training.bench.rivals.classic_loader import ClassicDataset, endless_batches
from semipose.training.bench.rivals.published_masking import mask_as_published
from semipose.training.bench.rivals.torchvision_v2 import TorchvisionDataset
from semipose.training.bench.settings import LoaderBenchSettings as Settings
from semipose.training.bench.tables import finish
from semipose.training.bench.timing import NextBatch, Variant, measure

CLASSIC = "classic loader"
TORCHVISION = "torchvision v2 on our crops"
KORNIA = "kornia on the GPU, our crops"
LOADER = "whole loader"
LOADER_MASKS = "whole loader, and masks"
LOADER_CACHE = "whole loader, cached"
LOADER_PHOTOS = "whole loader, whole photos in the shards"
STAGES = {
    "read": "read",
    "decode": "read, decode",
    "weak": "read, decode, DALI warps weak",
    "both": "read, decode, DALI warps both",
}
MASKS = "masking: counts, choice, op"
MASKS_LOOP = "masking as published (loops)"
BASES = {"loader": CLASSIC, "masking": MASKS_LOOP, "masking, GPU": f"{MASKS_LOOP}, GPU"}
"""The row that those of a group are compared with."""
WARM_PERSONS = 600
"""A pass over the people that are measured by default."""
NO_PHOTOS = "needs photos: the shards were given"
CACHES: dict[str, Literal["host", "device"]] = {"cpu": "host", "cuda": "device"}
"""The cache that is measured on a device: its own memory."""


def run(cfg: Settings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the tables; returns the result.

    The file is written anew after every round, so that a benchmark that is cut short leaves what it has.
    """
    machine = describe_machine()
    limits = gpu_limits(cfg) if torch.cuda.is_available() else {}  # before any loader fills its queues
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        people = open_people(cfg, cfg.views, Path(folder), console)
        variants, skipped = all_variants(cfg, people, stack)
        described = people.describe()
        timed = measure(variants, rounds=cfg.rounds)
        for rates in track(timed, "rounds", total=cfg.rounds, console=console):
            result = Result(
                bench="loader",
                machine=machine,
                settings=plain(cfg),
                data=described,
                rows=make_rows(variants, rates),
                skipped=skipped,
                facts=limits,
            )
            write_result(cfg.output, result)
    return finish(result, cfg.output, console)


def make_rows(variants: list[Variant], rates: dict[str, list[float]]) -> tuple[Row, ...]:
    """A row for each variant, compared with the base of its group."""
    rows = {
        variant.name: make_row(variant.name, rates[variant.name], group=variant.group, unit="persons/s")
        for variant in variants
    }
    return tuple(compare(row, rows.get(BASES.get(row.group, ""))) for row in rows.values())


def on(name: str, device: torch.device) -> str:
    """The name of a row on a device."""
    return name if device.type == "cpu" else f"{name}, GPU"


def devices() -> list[torch.device]:
    """Where our rows are measured: on the CPU, and on the GPU if there is one."""
    cpu = torch.device("cpu")
    return [cpu, torch.device("cuda:0")] if torch.cuda.is_available() else [cpu]


def all_variants(cfg: Settings, people: People, stack: ExitStack) -> tuple[list[Variant], dict[str, str]]:
    """All that is timed, and what cannot be, with the reason; `stack` closes the loaders."""
    variants, skipped = rival_loaders(cfg, people)
    for device in devices():
        variants += stages(cfg, people.crops, device)
        variants += loaders(cfg, people, device, stack)
        variants += masking_parts(cfg, device)
        if people.photos is None:
            skipped[on(LOADER_PHOTOS, device)] = NO_PHOTOS
    return variants, skipped


def loader_variant(cfg: Settings, name: str, next_batch: NextBatch) -> Variant:
    """A row of the group `loader`: up to two batches per worker wait, and memory that waits goes cold."""
    warmup = max(2 * cfg.threads + 2, WARM_PERSONS // cfg.batch_size)
    return Variant(name, "loader", next_batch, cfg.batch_size, cfg.batches, warmup)


def rival_loaders(cfg: Settings, people: People) -> tuple[list[Variant], dict[str, str]]:
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
    return [loader_variant(cfg, name, partial(next, stream)) for name, stream in batches.items()], skipped


def stages(cfg: Settings, crops: Split, device: torch.device) -> list[Variant]:
    """The loader cut short after each stage; nothing is handed to torch."""
    if crops.shards.is_streamed:
        return []
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
        loader_variant(
            cfg,
            on(name, device),
            Pipeline(partial(stage_graph, last=last, views=cfg.views), reading).dali.run,
        )
        for last, name in STAGES.items()
        if last != "read" or device.type == "cpu"  # reading happens on the CPU
    ]


def stage_graph(reading: Reading, *, last: str, views: ViewSettings) -> dict[str, graph.Node]:
    """From bytes to what the stage `last` gives: bytes, pixels, the weak view, or both views, uint8."""
    jpeg, pose = graph.read_person(reading)
    if last == "read":
        return {"jpeg": jpeg, "pose": pose}
    image = graph.decode(jpeg, reading)
    if last == "decode":
        return {"image": image}
    weak, _ = graph.draw_view(pose, views.weak, views.size_hw)
    shown = {"weak": graph.warp(image, weak, views.weak.border, views.size_hw)}
    if last == "both":
        strong = graph.combine(weak, graph.draw_strong(views.strong, views.size_hw))
        shown["strong"] = graph.warp(image, strong, views.strong.border, views.size_hw)
    return shown


def loaders(cfg: Settings, people: People, device: torch.device, stack: ExitStack) -> list[Variant]:
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

    step = masking.make_step(cfg.batch_size, cfg.keypoints, cfg.views.size_hw, device)
    forms: dict[str, NextBatch] = {
        LOADER: batches(people.crops),
        LOADER_MASKS: partial(load_and_mask, batches(people.crops), step),
        LOADER_CACHE: batches(people.crops, CACHES[device.type]),
    }
    if people.photos is not None:
        forms[LOADER_PHOTOS] = batches(people.photos)
    return [loader_variant(cfg, on(name, device), next_batch) for name, next_batch in forms.items()]


def load_and_mask(next_batch: Callable[[], Any], step: masking.MaskingStep) -> None:
    """A batch, its strong views masked by the peaks of `step`."""
    masking.mask(replace(step, images=next_batch().strong))


def masking_parts(cfg: Settings, device: torch.device) -> list[Variant]:
    """Masking and mixing of one batch, in parts, and the masking loop that it is compared with."""
    step = masking.make_step(cfg.batch_size, cfg.keypoints, cfg.views.size_hw, device)
    calls: dict[str, Callable[[], object]] = {
        **masking.parts(step),
        MASKS_LOOP: partial(mask_as_published, step),
        "mixing": partial(masking.mix_images, step),
    }
    return [
        Variant(
            on(name, device),
            on("mixing" if name == "mixing" else "masking", device),
            call,
            cfg.batch_size,
            cfg.batches,
            warmup=3,
        )
        for name, call in calls.items()
    ]
