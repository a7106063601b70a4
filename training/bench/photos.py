"""The benchmark of whole photos: their loader, and targets, losses and decoding of each family.

The codecs work on random scenes, N photos of some people each, whose maps are their own targets with a little
noise. Losses include the gradient with regard to the maps.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.models.codecs.ae import AECodec, AEMaps, AESettings
from semipose.models.codecs.cid import CIDCodec, CIDMaps, CIDSettings, InstanceMaps
from semipose.models.codecs.dekr import DEKRCodec, DEKRMaps, DEKRSettings
from semipose.models.codecs.instances import InstanceCodec
from semipose.pipelines.loader import ProcessInfo
from semipose.pipelines.loader_settings import LoaderSettings
from semipose.pipelines.people import People
from semipose.pipelines.photo_loader import unlabelled_photo_loader
from semipose.pipelines.source import open_split
from semipose.sharding.annotations.skeleton import COCO_17
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.crop import WholePhoto
from semipose.training.bench.loader import devices, on
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.people import workers_for
from semipose.training.bench.result import Result, Row, compare, make_row, write_result
from semipose.training.bench.rivals import published_codecs as published
from semipose.training.bench.rivals.classic_loader import endless_batches
from semipose.training.bench.rivals.classic_photos import ClassicPhotos
from semipose.training.bench.settings import PhotoBenchSettings as Settings
from semipose.training.bench.tables import finish
from semipose.training.bench.timing import NextBatch, Variant, measure

CLASSIC = "classic loader"
LOADER = "whole loader"
PUBLISHED = "as published"
FAMILIES: dict[str, InstanceCodec] = {
    "ae": AECodec(AESettings(), COCO_17),
    "dekr": DEKRCodec(DEKRSettings(), COCO_17),
    "cid": CIDCodec(CIDSettings(), COCO_17),
}
STRIDE = 4


def run(cfg: Settings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the tables; returns the result."""
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        variants, described = loaders(cfg, Path(folder), console, stack)
        for device in devices():
            variants += codec_variants(cfg, device)
        timed = measure(variants, rounds=cfg.rounds)
        for rates in track(timed, "rounds", total=cfg.rounds, console=console):
            result = Result(
                bench="photos",
                machine=machine,
                settings=plain(cfg),
                data=described,
                rows=make_rows(variants, rates),
            )
            write_result(cfg.output, result)
    return finish(result, cfg.output, console)


def make_rows(variants: list[Variant], rates: dict[str, list[float]]) -> tuple[Row, ...]:
    """A row for each variant, compared with the first of its group, which is the rival."""
    first: dict[str, Row] = {}
    rows = []
    for variant in variants:
        row = make_row(variant.name, rates[variant.name], group=variant.group, unit="photos/s")
        rows.append(compare(row, first.setdefault(variant.group, row)))
    return tuple(rows)


def loaders(
    cfg: Settings, folder: Path, console: Console, stack: ExitStack
) -> tuple[list[Variant], dict[str, Any]]:
    """The loader of unlabelled photos and its rival; and the photos in words. Raises InputError."""
    source = cfg.photo_source()
    if source is None:
        raise InputError(
            "shards: this bench cuts whole photos itself: give photos and annotations, or source"
        )
    annotations = source.read()
    names = dict.fromkeys(person.file_name for person in annotations.persons)
    paths = [annotations.photos.where(name) for name in names]
    if not Path(paths[0]).is_file():
        raise InputError(
            f"{paths[0]}: the loader that ours is compared with reads a folder: unpack the photos"
        )
    settings = BuildSettings(
        source=source,
        output=folder / "shards",
        kind="image",
        crop=WholePhoto(),
        workers=workers_for(annotations),
    )
    build(settings, console=console)
    split = open_split(folder / "shards", "image")
    streams: dict[str, Iterator[Any]] = {
        CLASSIC: endless_batches(
            ClassicPhotos(paths, cfg.views), batch_size=cfg.batch_size, workers=cfg.threads
        )
    }
    for device in devices():
        stream = unlabelled_photo_loader(
            split,
            cfg.views,
            batch_size=cfg.batch_size,
            seed=0,
            process=ProcessInfo(device=device),
            settings=LoaderSettings(threads=cfg.threads),
        )
        streams[on(LOADER, device)] = stack.enter_context(closing(stream))
    warmup = 2 * cfg.threads + 2
    described = {
        "photos": len(paths),
        "people": len(annotations.persons),
        "from": annotations.photos.location,
    }
    return [
        Variant(name, "loader", partial(next, stream), cfg.batch_size, cfg.batches, warmup)
        for name, stream in streams.items()
    ], described


class Scene(NamedTuple):
    """N photos with M people each."""

    people: People
    photos: list[published.Photo]
    """The same people as the published code has them."""
    map_hw: tuple[int, int]


def make_scene(num_photos: int, num_people: int, side: int, seed: int = 0) -> Scene:
    """Random people in views of `side` pixels; a tenth of their keypoints is not annotated."""
    rng = np.random.default_rng(seed)
    num_keypoints, shape = COCO_17.num_keypoints, (num_photos, num_people)
    sides = rng.uniform(0.15, 0.45, (*shape, 2)) * side
    low = rng.uniform(0, 1, (*shape, 2)) * (side - sides)
    points = low[:, :, None] + rng.uniform(0, 1, (*shape, num_keypoints, 2)) * sides[:, :, None]
    marked = rng.random((*shape, num_keypoints)) < 0.9
    points, low, sides = points.astype(np.float32), low.astype(np.float32), sides.astype(np.float32)
    right = np.array([1, 0], np.float32) * sides
    corners = np.stack((low, low + right, low + sides, low + sides - right), axis=2)
    people = People(
        torch.from_numpy(points),
        torch.from_numpy(marked.astype(np.float32)),
        torch.ones(shape, dtype=torch.bool),
        torch.from_numpy(corners),
    )
    photos = [published.Photo(points[n] / STRIDE, marked[n], sides[n] / STRIDE) for n in range(num_photos)]
    return Scene(people, photos, (side // STRIDE, side // STRIDE))


def moved(people: People, device: torch.device) -> People:
    """People on a device."""
    return People(*(values.to(device) for values in vars(people).values()))


def maps_of(family: str, scene: Scene, device: torch.device) -> Any:
    """What a trained network would answer: the targets of the scene, nine tenths as high, with noise."""
    codec, people = FAMILIES[family], moved(scene.people, device)
    targets = codec.targets(people, scene.map_hw)
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    heatmaps = 0.9 * targets.heatmaps + 0.005 * noise(*targets.heatmaps.shape) + 1e-4
    num_photos, num_keypoints = len(heatmaps), COCO_17.num_keypoints
    if family == "ae":
        tags = torch.zeros(num_photos, num_keypoints, 1, *scene.map_hw, device=device)
        for m in range(people.visible.shape[1]):  # the last person drawn has the cells that several share
            near = FAMILIES["ae"].targets(one_of(people, m), scene.map_hw).heatmaps > 0.3
            tags = torch.where(near[:, :, None], 5.0 * (m + 1), tags)
        return AEMaps(heatmaps, tags, None)
    if family == "dekr":
        offsets = torch.zeros(num_photos, 2 * num_keypoints, scene.map_hw[0] * scene.map_hw[1], device=device)
        taught = targets.offset_weights.sum(-1) > 0
        for n in range(num_photos):
            own = targets.offsets[n][taught[n]].flatten(1).T
            offsets[n].index_copy_(1, targets.cells[n][taught[n]], own)
        offsets += 0.2 * noise(*offsets.shape)
        return DEKRMaps(heatmaps, offsets.unflatten(-1, scene.map_hw))
    own = 0.9 * targets.instance_heatmaps + 1e-4

    def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
        """The heatmaps of the person of the photo whose centre is nearest."""
        apart = (cells[:, None] - targets.cells).float().norm(dim=-1)
        nearest = torch.where(photos[:, None] == targets.photos, apart, torch.inf).argmin(1)
        return InstanceMaps(own[nearest], own[nearest].flatten(1)[:, :480])

    return CIDMaps(heatmaps, read)


def one_of(people: People, m: int) -> People:
    """Person m of every photo."""
    return People(*(values[:, m : m + 1] for values in vars(people).values()))


def codec_variants(cfg: Settings, device: torch.device) -> list[Variant]:
    """Targets, losses and decoding of each family, the published way first (on the CPU, as it is)."""
    scene = make_scene(cfg.batch_size, cfg.people_per_photo, cfg.views.size)
    variants: list[Variant] = []
    for family, codec in FAMILIES.items():
        for what, calls in ways(family, codec, scene, device).items():
            for way, call in calls.items():
                name = f"{family} {what}, {way}"
                name = name if way == PUBLISHED else on(name, device)
                if device.type == "cpu" or way != PUBLISHED:
                    group = on(f"{family} {what}", device)
                    variants.append(Variant(name, group, call, cfg.batch_size, cfg.batches, warmup=1))
    return variants


def ways(family: str, codec: Any, scene: Scene, device: torch.device) -> dict[str, dict[str, NextBatch]]:
    """What is measured of a family, each in the published way and in ours."""
    hw, photos, people = scene.map_hw, scene.photos, moved(scene.people, device)
    here, there = maps_of(family, scene, device), maps_of(family, scene, torch.device("cpu"))
    counted = torch.ones(len(photos), 1, *hw, device=device)
    ours: Callable[..., Any] = codec.decode
    if family == "ae":
        ours = partial(codec.decode, fill_missing=True)  # as in scoring, and as published
    targets: Callable[..., Any] = getattr(published, f"{family}_targets")
    decode: Callable[..., Any] = getattr(published, f"{family}_decode")
    measured: dict[str, dict[str, NextBatch]] = {
        "targets": {
            PUBLISHED: partial(targets, codec, photos, hw),
            "ours": partial(codec.targets, people, hw),
        },
        "decoding": {PUBLISHED: partial(decode, codec, there), "ours": partial(ours, here)},
    }
    if family != "cid":  # whose published loss is batched, as ours is
        loss: Callable[..., Any] = getattr(published, f"{family}_loss")
        own, taught = codec.targets(people, hw), targets(codec, photos, hw)
        measured["loss"] = {
            PUBLISHED: partial(with_gradient, partial(loss, codec), there, taught),
            "ours": partial(with_gradient, partial(sum_of_losses, codec, counted), here, own),
        }
    return measured


def sum_of_losses(codec: Any, counted: Tensor, maps: Any, targets: Any) -> Tensor:
    """The sum of a codec's losses."""
    return torch.stack(list(codec.loss(maps, targets, counted).values())).sum()


def with_gradient(loss: Callable[[Any, Any], Tensor], maps: Any, targets: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss of maps, and its gradients with regard to them."""
    leaves = [None if values is None else values.detach().requires_grad_() for values in maps]
    value = loss(type(maps)(*leaves), targets)
    return value.detach(), list(torch.autograd.grad(value, [leaf for leaf in leaves if leaf is not None]))
