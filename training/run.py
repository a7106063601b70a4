"""Train a pose network from a recipe.

accelerate launch training/run.py RECIPE [key=value ...]
accelerate launch training/run.py --resume RUN_DIR [key=value ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from configs.load import InputError, dump, exit_on_input_error, load, no_recipe, read_request
from pipelines.batch import UnlabelledBatch
from pipelines.loader import Place, eval_loader, labelled_loader, unlabelled_loader
from pipelines.source import Split
from sharding.files import write_atomic
from training import card, checkpoint
from training.build import RECIPE_NAME, build_method, choose_kernels, open_splits
from training.doubts import doubts
from training.files import CARD_NAME, write_json
from training.launcher import require_plain_launch
from training.loop import Job, restore, train
from training.report import Report
from training.scoring.metrics import require
from training.settings import RunSettings

PREVIEW_PEOPLE = 8


def run(cfg: RunSettings, *, resume: bool) -> Job:
    """Train by `cfg`, into a new folder or on from the newest checkpoint of its folder; the finished job."""
    require_plain_launch(cfg.precision)
    folder = Path(cfg.output)
    if not resume and (folder / checkpoint.FOLDER).exists():
        raise InputError(
            f"{folder} holds a run already: go on with `--resume {folder}`, or give another `output=`"
        )
    if cfg.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision: fp16 needs a GPU, and there is none here: set precision to bf16 or no")
    choose_kernels(deterministic=cfg.deterministic)
    torch.manual_seed(cfg.seed)
    ranks = DistributedDataParallelKwargs(find_unused_parameters=not cfg.method.uses_every_parameter)
    accelerator = Accelerator(mixed_precision=cfg.precision, kwargs_handlers=[ranks])
    job = build_job(cfg, accelerator, folder, resume=resume)
    if resume:
        path = find_checkpoint(job)
        rank, world = accelerator.process_index, accelerator.num_processes
        restore(job, checkpoint.load(path, rank=rank, world=world), path)
        job.report.note(f"resumed from {path}")
    if accelerator.is_main_process:
        write_atomic(folder / RECIPE_NAME, dump(cfg).encode())
    with job.report:
        train(job)
    accelerator.end_training()
    return job


def build_job(cfg: RunSettings, accelerator: Accelerator, folder: Path, *, resume: bool) -> Job:
    """Everything that the run is made of, at step 0; pretrained weights are not fetched for a resumed run."""
    place = Place(accelerator.process_index, accelerator.num_processes, accelerator.device)
    labelled, unlabelled, val = open_splits(cfg, folder / "index" / f"rank-{place.rank}")
    ground_truth = val.ground_truth()
    require(cfg.metric, ground_truth, val.skeleton, where=cfg.data.val)
    method = build_method(cfg, labelled.skeleton, place, fresh=not resume)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=cfg.optim.lr, fused=True)
    wrapped, prepared = accelerator.prepare(method, optimizer)
    loading: dict[str, Any] = {"place": place, "settings": cfg.loader}
    stream = {"seed": cfg.seed, "cache": cfg.data.cache, **loading}
    few = labelled_loader(labelled, cfg.views, batch_size=cfg.labelled_batch, **stream)
    many = None
    if unlabelled:
        many = unlabelled_loader(unlabelled, cfg.views, batch_size=cfg.unlabelled_batch, **stream)
    report = build_report(cfg, accelerator)
    if accelerator.is_main_process:
        cached_bytes = few.cached_bytes + (many.cached_bytes if many else 0)
        whom = (labelled, unlabelled, val, ground_truth)
        written = card.card(cfg, *whom, method, place, cached_bytes=cached_bytes)
        write_json(folder / CARD_NAME, written)
        report.note(card.describe(written))
        for doubt in doubts(cfg, labelled, unlabelled, val):
            report.note(f"note: {doubt}")
    return Job(
        cfg=cfg,
        folder=folder,
        accelerator=accelerator,
        method=method,
        wrapped=wrapped,
        optimizer=prepared,
        labelled=few,
        unlabelled=many,
        preview=preview(cfg, unlabelled, accelerator.device) if unlabelled else None,
        val=eval_loader(val, cfg.views, batch_size=cfg.labelled_batch, **loading),
        ground_truth=ground_truth,
        skeleton=labelled.skeleton,
        report=report,
    )


def preview(cfg: RunSettings, unlabelled: Split, device: torch.device) -> UnlabelledBatch:
    """The same few unlabelled people for every sheet of views, from a stream of their own."""
    loader = unlabelled_loader(
        unlabelled,
        cfg.views,
        batch_size=PREVIEW_PEOPLE,
        seed=cfg.seed,
        place=Place(device=device),
        settings=cfg.loader,
    )
    batch = next(loader)
    loader.close()
    return batch


def build_report(cfg: RunSettings, accelerator: Accelerator) -> Report:
    """The report, which logs through Accelerate's trackers."""
    return Report(
        Path(cfg.output),
        accelerator,
        total_steps=cfg.steps,
        every=cfg.report_every,
        watch_from_step=cfg.method.settled_from(cfg.steps),
        collapse=cfg.collapse,
        title=Path(cfg.output).name,
    )


def find_checkpoint(job: Job) -> Path:
    """The newest intact checkpoint, found by the main process and told to all."""
    found: list[Path | None] = [None]
    if job.accelerator.is_main_process:
        found = [checkpoint.latest(job.folder, warn=job.report.note)]
    broadcast_object_list(found)
    if found[0] is None:
        raise InputError(
            f"{job.folder} holds no intact checkpoint to go on from: start the run with its recipe"
        )
    return found[0]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--resume", metavar="RUN_DIR", type=Path, help="go on with an interrupted run")
    with exit_on_input_error():
        request = read_request(
            RunSettings, description="Train a pose network.", recipes="run", options=options, argv=argv
        )
        resumed: Path | None = request.options.resume
        if resumed is not None and request.recipe is not None:
            raise InputError("command line: --resume takes the run's own recipe: leave the other one out")
        if resumed is not None and not (resumed / RECIPE_NAME).is_file():
            raise InputError(f"--resume {resumed}: the folder holds no {RECIPE_NAME}, so it is no run")
        recipe = request.recipe if resumed is None else resumed / RECIPE_NAME
        if recipe is None:
            raise InputError(no_recipe("run"))
        overrides = request.overrides
        if resumed is not None:  # a folder that was copied or moved since goes on where it lies now
            overrides = (f"output={json.dumps(str(resumed))}", *overrides)
        run(load(RunSettings, recipe, overrides), resume=resumed is not None)


if __name__ == "__main__":
    main()
