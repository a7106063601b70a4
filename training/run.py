"""Train a pose network from a protocol and a method, or from any recipes, of which later ones win.

    python training/run.py PROTOCOL METHOD [key=value ...]
    python training/run.py --resume RUN_DIR [key=value ...]
    accelerate launch --num_processes 4 training/run.py PROTOCOL METHOD [key=value ...]      # on several GPUs

The first line starts a run and also continues it: if the run's folder holds checkpoints of the same settings,
the run continues from the newest intact one, so a batch system can repeat the command unchanged. `--resume`
takes the recipe from the run's folder, with the changes that you give. SIGTERM, SIGHUP and Ctrl-C save and
end the run; a second Ctrl-C ends it at once.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
PARENT = os.getppid()  # read before the imports below, which take seconds

from semipose.configs.openmp import bound_spinning

bound_spinning()

import argparse
import json
import shlex
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError, dump, exit_on_input_error, no_recipe, read_request
from semipose.configs.schema import plain
from semipose.models.files import CARD_NAME, RECIPE_NAME, write_json
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.loader import ProcessInfo
from semipose.pipelines.source import Split
from semipose.sharding.store.files import write_atomic
from semipose.training import checkpoint
from semipose.training.build import (
    build_method,
    build_optimizer,
    build_probe,
    choose_kernels,
    labelled_stream,
    open_sources,
    open_splits,
    scored_views,
    source_streams,
    steps_per_epoch,
    unlabelled_stream,
)
from semipose.training.launcher_options import require_plain_launch
from semipose.training.loop import Job, restore, train, write_scores
from semipose.training.reporting import card
from semipose.training.reporting.page.page import write_page
from semipose.training.reporting.report import Report
from semipose.training.reporting.setting_warnings import limits_of_scoring, setting_warnings
from semipose.training.reporting.trackers import require_trackers
from semipose.training.resume import Resumed
from semipose.training.run_files import read_settings
from semipose.training.run_folder import (
    begun_recipe,
    find_start,
    held,
    is_complete,
    refuse_changes,
    refuse_odd_folder,
    refuse_other_settings,
)
from semipose.training.scoring.metrics import require
from semipose.training.settings import RunSettings, load_run
from semipose.training.stopping import StopRequest, end_with_launcher, missing_processes

PREVIEW_PEOPLE = 8
RECIPES = ("protocols", "methods")


def run(cfg: RunSettings, *, resume: bool) -> Job:
    """Train from the newest intact checkpoint in the folder of `cfg`, or from step 0; returns the ended job.

    resume: whether the settings are changes to the recipe in the folder; if not, they must equal it. Only one
    run at a time writes into a folder. Raises InputError, also when a disk fails.
    """
    require_plain_launch(cfg.precision)
    require_trackers(cfg.trackers)
    folder = Path(cfg.output)
    if cfg.precision == "fp16" and not torch.cuda.is_available():
        raise InputError(
            "precision: fp16 needs a GPU, and this machine has none: set precision to bf16 or no"
        )
    choose_kernels(deterministic=cfg.deterministic)
    torch.manual_seed(cfg.seed)
    ranks = DistributedDataParallelKwargs(find_unused_parameters=not cfg.method.uses_every_parameter)
    # Without `cpu`, Accelerate treats the processes that torchrun starts on a CPU as separate runs.
    are_several_on_cpu = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.cuda.is_available()
    accelerator = Accelerator(cpu=are_several_on_cpu, mixed_precision=cfg.precision, kwargs_handlers=[ranks])
    report = build_report(cfg, accelerator)
    with (
        named_disk_errors(folder, then="start the same command again; it continues the run"),
        ExitStack() as stack,
    ):

        def begin() -> Path | None:
            refuse_odd_folder(folder)
            stack.enter_context(held(folder))
            return find_start(cfg, is_changed=resume, say=report.note)

        start = decided_by_main(accelerator, begin)
        resumed = None if start is None else Resumed(cfg, read_settings(folder))
        job = build_job(cfg, accelerator, report, fresh=start is None)
        if start is not None and resumed is not None:
            decided_by_main(accelerator, partial(resumed.refuse_other_people, job.card))
            rank, world_size = accelerator.process_index, accelerator.num_processes
            restore(job, checkpoint.load(start, rank=rank, world_size=world_size), start)
            report.note(f"resumed from {start}")
            job.card["start_from"] = resumed.card.get("start_from", [])
            job.card["changes"] = resumed.record(job.step, say=report.note)
        if accelerator.is_main_process:
            write_json(folder / CARD_NAME, job.card)
            write_atomic(folder / RECIPE_NAME, dump(cfg).encode())
        stop = StopRequest(step=job.step, world_size=accelerator.num_processes, device=accelerator.device)
        with stop, report:
            write_scores(job)  # not only after the last step, where they mark the run as finished
            train(job, stop)
        if cfg.report and job.step == cfg.steps and accelerator.is_main_process:
            again = f"semipose report {shlex.quote(str(folder))}"
            with report.never_failing(f"the page was not written; `{again}` tries again"):
                report.note(f"the page of this run: {write_page(folder)}")
        accelerator.end_training()
    return job


def decided_by_main(accelerator: Accelerator, decide: Callable[[], Path | None]) -> Path | None:
    """What the main process decides, on every process. If it raises, the others end silently."""
    message: list[Any] = [None, True]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            message[0] = decide()
        except (InputError, OSError) as error:
            failure, message[1] = error, False
    broadcast_object_list(message)
    if failure is not None:
        raise failure
    if not message[1]:
        raise SystemExit(2)
    decided: Path | None = message[0]
    return decided


def build_job(cfg: RunSettings, accelerator: Accelerator, report: Report, *, fresh: bool) -> Job:
    """Everything that the run consists of, at step 0; `fresh` fetches pretrained weights."""
    folder = Path(cfg.output)
    process = ProcessInfo(accelerator.process_index, accelerator.num_processes, accelerator.device)
    labelled, unlabelled, val = open_splits(cfg, folder / "index" / f"rank-{process.rank}")
    sources = open_sources(cfg, labelled.skeleton)
    require(cfg.metric, val.ground_truth, where=cfg.data.val, kind=val.manifest.kind)
    epoch = steps_per_epoch(cfg, labelled, unlabelled, process)
    method = build_method(cfg, labelled.skeleton, process, epoch_steps=epoch, fresh=fresh)
    wrapped, prepared = accelerator.prepare(method, build_optimizer(method, cfg))
    labelled_views = labelled_stream(cfg, labelled, process)
    source_views = source_streams(cfg, sources, labelled.skeleton, process)
    unlabelled_views = unlabelled_stream(cfg, unlabelled, process) if unlabelled else None
    written: dict[str, Any] = {}
    probe = None
    if accelerator.is_main_process:
        probe = build_probe(cfg, labelled, unlabelled, process.device, folder / "index" / "probe")
        cached_bytes = labelled_views.cached_bytes + sum(each.loader.cached_bytes for each in source_views)
        cached_bytes += unlabelled_views.cached_bytes if unlabelled_views else 0
        written = card.card(
            cfg,
            labelled,
            unlabelled,
            val,
            method,
            process,
            sources=sources,
            probe=probe.split if probe else None,
            cached_bytes=cached_bytes,
        )
        report.note(card.describe(written))
        for start in card.starts(method):
            report.note(start.describe())
        for warning in [
            *setting_warnings(cfg, labelled, unlabelled, val, sources),
            *limits_of_scoring(cfg, val.ground_truth),
            *missing_processes(process.world_size),
        ]:
            report.note(f"note: {warning}")
    return Job(
        cfg=cfg,
        folder=folder,
        accelerator=accelerator,
        method=method,
        wrapped=wrapped,
        optimizer=prepared,
        labelled=labelled_views,
        sources=source_views,
        unlabelled=unlabelled_views,
        preview=preview(cfg, unlabelled, accelerator.device) if unlabelled else None,
        val=scored_views(cfg, val, process),
        val_split=val,
        probe=probe,
        skeleton=labelled.skeleton,
        report=report,
        card=written,
    )


def preview(cfg: RunSettings, unlabelled: Split, device: torch.device) -> UnlabelledBatch:
    """The same unlabelled people for every sheet of views, from a separate stream."""
    loader = unlabelled_stream(cfg, unlabelled, ProcessInfo(device=device), PREVIEW_PEOPLE)
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
        trackers=cfg.trackers,
        settings=plain(cfg),
        options=cfg.method.options,
        title=Path(cfg.output).name,
    )


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--resume", metavar="RUN_DIR", type=Path, help="continue an interrupted run")
    with exit_on_input_error():
        request = read_request(
            RunSettings,
            description="Train a pose network.",
            path_name="PROTOCOL METHOD",
            recipes=RECIPES,
            options=options,
            takes_many=True,
            argv=argv,
        )
        resumed: Path | None = request.options.resume
        if resumed is not None and request.paths:
            raise InputError("command line: --resume uses the recipe in RUN_DIR: leave the other recipes out")
        recipes = request.paths if resumed is None else (begun_recipe(resumed),)
        if not recipes:
            raise InputError(no_recipe(RECIPES))
        overrides = request.overrides
        if resumed is not None:  # the folder may have been copied or moved
            overrides = (f"output={json.dumps(str(resumed))}", *overrides)
        cfg = load_run(recipes, overrides)
        if resumed is not None and Path(cfg.output).resolve() != resumed.resolve():
            raise InputError(
                f"output: --resume continues a run in its own folder, {resumed}: leave output= out, or begin "
                f"another run from its network with net.start_from={resumed} and without --resume"
            )
        if is_complete(cfg):
            if resumed is None:
                refuse_other_settings(cfg)
            else:
                refuse_changes(cfg)
            with suppress(InputError, OSError), held(Path(cfg.output)):
                pass  # removes temporary files that a late kill left
            sys.stdout.write(f"{cfg.output} is finished: all {cfg.steps:,} steps are trained and scored\n")
            return
        job = run(cfg, resume=resumed is not None)
        if job.stopped_by == signal.SIGINT:
            raise SystemExit(130)


if __name__ == "__main__":
    end_with_launcher(PARENT)
    main()
