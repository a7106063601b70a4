"""One measured process: `python -m semipose.training.bench.step_process SPEC.json`; steps.py starts it."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import TypeAdapter

from semipose.configs.load import load
from semipose.configs.schema import plain
from semipose.models.files import write_json
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.loader import ProcessInfo, labelled_loader, unlabelled_loader
from semipose.training.bench.rivals.classic_loader import endless_batches
from semipose.training.bench.rivals.classic_step import PairDataset, classic_step
from semipose.training.bench.settings import StepSpec, StepTimes
from semipose.training.bench.timing import wait_for_gpu
from semipose.training.build import (
    build_method,
    build_optimizer,
    choose_kernels,
    open_splits,
    steps_per_epoch,
)
from semipose.training.loop import train_step
from semipose.training.methods.method import Progress
from semipose.training.settings import RunSettings

GPU_WARMUP = 20
STRETCH = {"cpu": 1, "cuda": 10}
"""Steps timed as one: on a GPU the host runs ahead, so single steps have no time of their own."""
TOTAL_STEPS = 1_000_000

Batches = Iterator[tuple[LabelledBatch, UnlabelledBatch | None]]


@dataclass
class Steps:
    """Makes steps and counts the seconds that the host waits for data."""

    next_batch: Callable[[], Any]
    step: Callable[[Any], None]
    waited_s: float = 0.0

    def run(self, count: int) -> None:
        """Make so many steps."""
        for _ in range(count):
            began = time.perf_counter()
            batch = self.next_batch()
            self.waited_s += time.perf_counter() - began
            self.step(batch)


def measure(spec: StepSpec) -> StepTimes:
    """Build what the spec says and time it."""
    torch.manual_seed(0)
    choose_kernels(deterministic=False)
    process = find_process(spec)
    cfg = run_settings(spec)
    steps, images = (classic_steps if spec.way == "classic" else our_steps)(spec, cfg, process)
    on_gpu = process.device.type == "cuda"
    steps.run(max(spec.limits.warmup, GPU_WARMUP if on_gpu else 1))
    wait_for_gpu()
    rates, waits = time_steps(steps, spec, STRETCH[process.device.type])
    return StepTimes(
        steps_per_s=tuple(rates),
        data_wait_share=tuple(waits),
        images=images,
        gpu_busy_share=busy_share(steps) if on_gpu else None,
        gpu_peak_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
    )


def time_steps(steps: Steps, spec: StepSpec, stretch: int) -> tuple[list[float], list[float]]:
    """Steps a second and the share of waiting, for each stretch of steps."""
    rates: list[float] = []
    waits: list[float] = []
    start = time.perf_counter()
    while len(rates) * stretch < spec.limits.steps or time.perf_counter() - start < spec.limits.seconds:
        steps.waited_s, began = 0.0, time.perf_counter()
        steps.run(stretch)
        wait_for_gpu()
        seconds = time.perf_counter() - began
        rates.append(stretch / seconds)
        waits.append(steps.waited_s / seconds)
    return rates, waits


def find_process(spec: StepSpec) -> ProcessInfo:
    """This process among its ranks (those of torchrun, if it started them)."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = (
        torch.device("cuda", rank % torch.cuda.device_count())
        if spec.device == "cuda"
        else torch.device("cpu")
    )
    if spec.device == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        torch.distributed.init_process_group("nccl" if spec.device == "cuda" else "gloo")
    return ProcessInfo(rank, world, device)


def run_settings(spec: StepSpec) -> RunSettings:
    """The settings of the recipes, on the people of the spec."""
    return load(
        RunSettings,
        spec.recipes,
        [
            f"output={spec.output.parent}",
            f"data.train={spec.crops}",
            f"data.val={spec.crops}",
            "data.labelled=all",
            "net.pretrained=false",
            f"labelled_batch={spec.batch_size}",
            f"unlabelled_batch={spec.batch_size}",
            f"precision={spec.precision}",
            f"compile={str(spec.compile).lower()}",
            f"channels_last={str(spec.way == 'ours').lower()}",
            f"loader.threads={spec.threads}",
            *spec.changes,
        ],
    )


def our_steps(spec: StepSpec, cfg: RunSettings, process: ProcessInfo) -> tuple[Steps, dict[str, int]]:
    """The step of training/loop.py with random weights, from our loader or the classic one."""
    labelled, unlabelled, _ = open_splits(cfg, spec.output.parent / f"index-{process.rank}")
    epoch = steps_per_epoch(cfg, labelled, unlabelled, process)
    method = build_method(cfg, labelled.skeleton, process, epoch_steps=epoch, fresh=False).train()
    if spec.loader == "classic":
        batches = classic_loader(spec, cfg, process)
    else:
        common: dict[str, Any] = {"seed": 0, "process": process, "settings": cfg.loader, "cache": spec.loader}
        common |= {"batch_size": spec.batch_size}
        first = labelled_loader(labelled, cfg.views, **common)
        second = unlabelled and unlabelled_loader(unlabelled, cfg.views, **common)
        batches = ((next(first), next(second) if second else None) for _ in iter(int, 1))
    accelerator = Accelerator(cpu=process.device.type == "cpu", mixed_precision=cfg.precision)
    wrapped, optimizer = accelerator.prepare(method, build_optimizer(method, cfg))
    done = cfg.method.settled_from(TOTAL_STEPS)  # past a burn-in, which has no unlabelled people

    def step(batch: tuple[LabelledBatch, UnlabelledBatch | None]) -> None:
        nonlocal done
        progress = Progress(done, TOTAL_STEPS)
        train_step(method, wrapped, optimizer, accelerator, cfg.optim, *batch, progress)
        done += 1

    return Steps(lambda: next(batches), step), count_images(cfg, has_unlabelled=unlabelled is not None)


def classic_loader(spec: StepSpec, cfg: RunSettings, process: ProcessInfo) -> Batches:
    """Batches of the classic loader, on the device."""
    for pairs in classic_pairs(spec, cfg, process, sigma=None):
        labelled = LabelledBatch(pairs["image"], pairs["points_xy"], pairs["visible"])
        if "weak" in pairs:
            yield labelled, UnlabelledBatch(pairs["weak"], pairs["strong"], pairs["strong_from_weak"])
        else:
            yield labelled, None


def classic_pairs(
    spec: StepSpec, cfg: RunSettings, process: ProcessInfo, *, sigma: float | None
) -> Iterator[dict[str, torch.Tensor]]:
    """What the classic loader's workers make, on the device; sigma: of the targets, if they draw them."""
    source = spec.people.photo_source()
    assert source is not None, "the parent leaves the classic loader out if there are no photos"
    pairs = PairDataset(source.read(), cfg.views, unlabelled=spec.step == "semi", sigma=sigma)
    for batch in endless_batches(pairs, batch_size=spec.batch_size, workers=spec.threads):
        yield {name: tensor.to(process.device, non_blocking=True) for name, tensor in batch.items()}


def classic_steps(spec: StepSpec, cfg: RunSettings, process: ProcessInfo) -> tuple[Steps, dict[str, int]]:
    """The step as the published code makes it."""
    labelled, _, _ = open_splits(cfg, spec.output.parent / "index")
    method = build_method(cfg, labelled.skeleton, process, fresh=False).train()
    network = next(iter(method.networks().values()))
    optimizer = build_optimizer(network, cfg)
    generator = torch.Generator(process.device).manual_seed(0)
    pairs = classic_pairs(spec, cfg, process, sigma=cfg.heatmap.sigma)

    def step(batch: dict[str, torch.Tensor]) -> None:
        classic_step(network, batch, generator).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Steps(lambda: next(pairs), step), count_images(cfg, has_unlabelled=spec.step == "semi")


def count_images(cfg: RunSettings, *, has_unlabelled: bool) -> dict[str, int]:
    """Images that pass a network in a step, by their kind."""
    people = cfg.unlabelled_batch if has_unlabelled else 0
    mixup: Any = getattr(cfg.method, "mixup", None)
    passes = 0 if mixup is None else 1 if mixup.passes == "one" else len(mixup.layers)
    return {
        "labelled": cfg.labelled_batch,
        "weak": people,
        "strong": people * len(getattr(cfg.method, "paths", ())),
        "mixed": people * passes,
    }


def busy_share(steps: Steps) -> float:
    """Share of the time of some steps in which the GPU does anything, from its own trace."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        steps.run(STRETCH["cuda"])
        wait_for_gpu()
    events = profile.events() or []
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return covered_share(spans)


def covered_share(spans: list[tuple[float, float]]) -> float:
    """Share that spans, which may overlap, cover of the time from the first start to the last end."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / (until - min(start for start, _ in spans)) if spans else 0.0


def main(path: Path) -> None:
    """Measure by the file `path`; rank 0 writes the times."""
    spec = TypeAdapter(StepSpec).validate_json(path.read_bytes())
    times = measure(spec)
    if int(os.environ.get("RANK", "0")) == 0:
        write_json(spec.output, plain(times))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
