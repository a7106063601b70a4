"""The training loop, from top to bottom: step, report, score, save. It counts steps, not epochs."""

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.models.files import SCORES_NAME, write_json
from semipose.models.model_folder import FOLDER_NAME
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.loader import EvalLoader, TrainLoader
from semipose.pipelines.source import Split
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.training import checkpoint, evaluate
from semipose.training.build import build_codec
from semipose.training.label_sources import LabelSource, with_sources
from semipose.training.methods.method import Method, Progress, Terms
from semipose.training.predict import Predictions, join, predict
from semipose.training.probe import Probe
from semipose.training.reporting import pictures
from semipose.training.reporting.collapse import fallen_score
from semipose.training.reporting.people import scored_people, with_pictures, write_people
from semipose.training.reporting.report import Report
from semipose.training.run_model import write_run_model
from semipose.training.schedule import is_due
from semipose.training.settings import OptimSettings, RunSettings
from semipose.training.stopping import StopRequest


@dataclass
class Job:
    """Everything that a run consists of.

    `sources` are more labelled people (`data.sources`), `preview` holds the unlabelled people of every sheet
    of views, `val_split` says what `val` reads, `probe` compares the teacher's people with hidden annotations
    (on the main process), `step` counts finished steps, `history` holds every scoring, `card` is the content
    of card.json, and `stopped_by` is the signal that ended the run early, or 0.
    """

    cfg: RunSettings
    folder: Path
    accelerator: Accelerator
    method: Method
    wrapped: torch.nn.Module
    optimizer: torch.optim.Optimizer
    labelled: TrainLoader[LabelledBatch]
    sources: Sequence[LabelSource]
    unlabelled: TrainLoader[UnlabelledBatch] | None
    preview: UnlabelledBatch | None
    val: EvalLoader
    val_split: Split
    probe: Probe | None
    skeleton: Skeleton
    report: Report
    card: dict[str, Any]
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: int = 0


def train(job: Job, stop: StopRequest) -> None:
    """Run `job` from its current step to the last one; on a stop request, save and return early."""
    cfg, accelerator = job.cfg, job.accelerator
    job.wrapped.train()
    while job.step < cfg.steps:
        progress = Progress(job.step, cfg.steps)
        began = time.perf_counter()
        labelled = with_sources(next(job.labelled), job.sources, job.method.unlabelled_share(progress))
        unlabelled = (
            next(job.unlabelled) if job.unlabelled and job.method.wants_unlabelled(progress) else None
        )
        waited = time.perf_counter() - began
        if job.step == 0:
            draw_pictures(job)

        terms = train_step(
            job.method, job.wrapped, job.optimizer, accelerator, cfg.optim, labelled, unlabelled, progress
        )
        job.step += 1
        people = len(labelled.image) + (len(unlabelled.weak) if unlabelled else 0)
        job.report.step(job.step, terms, waited, samples=people * accelerator.num_processes)
        is_last = job.step == cfg.steps
        is_scored = is_last or is_due(job.step, cfg.evaluate_every, cfg.steps)
        if is_scored:
            score_networks(job)
            probe_teacher(job)
            draw_pictures(job)
        stopping = 0 if is_last else stop.agreed(job.step)
        if is_last or stopping or is_due(job.step, cfg.checkpoint_every, cfg.steps):
            save(job)
        if is_scored:  # after the save: the scores of the last step mark a run as finished, network included
            write_scores(job)
        if stopping:
            job.stopped_by = stopping
            signal_name = signal.Signals(stopping).name
            job.report.note(f"stopped by {signal_name}, saved at step {job.step}: the same command continues")
            return


def train_step(
    method: Method,
    wrapped: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    optim: OptimSettings,
    labelled: LabelledBatch,
    unlabelled: UnlabelledBatch | None,
    progress: Progress,
) -> Terms:
    """One step: the learning rate, the loss and its gradient, the update, and what the method does after it.

    wrapped: `method` as Accelerate prepared it. Returns the terms for the report, scalars on the device
    except `lr`.
    """
    rate = method.rate_position(progress)
    lr = optim.lr * optim.schedule.scale(rate.step, rate.total_steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
    result = wrapped(labelled, unlabelled, progress)
    accelerator.backward(result.loss)
    shown = {"lr": lr}
    if optim.clip_norm is not None:
        shown["gradient_norm"] = accelerator.clip_grad_norm_(wrapped.parameters(), optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    method.after_update(progress)
    return result.terms | Terms({}, shown=shown)


def score_networks(job: Job) -> None:
    """Score every network and ensemble on `data.val`, after checking that the run is finite."""
    cfg = job.cfg
    require_finite(job)
    # Ranks have different batch statistics since the last pass; those of the first rank are kept and scored.
    broadcast(list(job.method.buffers()))
    with job.report.pause("scoring"):
        predictions = predict(
            job.method.networks(),
            job.val,
            codec=build_codec(cfg, job.skeleton),
            ensembles=job.method.ensembles(),
            flip_test=cfg.evaluation.flip_test,
            autocast=job.accelerator.autocast,
        )
        ranks = gather_object([predictions])
        if job.accelerator.is_main_process:
            where = f"{job.folder} after step {job.step}"
            scores = evaluate.score_all(ranks, job.val_split.ground_truth, where)
    if job.accelerator.is_main_process:
        job.history.append({"step": job.step, "scores": scores})
        job.report.scores(job.step, scores)
        times_seen = job.card["labelled_epochs"] * job.step / cfg.steps
        cure = "photo_views.labelled" if cfg.kind == "image" else "views.labelled"
        net = plain(cfg.net)
        if warning := fallen_score(job.history, cfg.metric, times_seen=times_seen, cure=cure, net=net):
            job.report.note(warning)
        keep_people(job, ranks)


def probe_teacher(job: Job) -> None:
    """Report how right the teacher is in unlabelled photos, by annotations that training never reads."""
    if job.probe is None or not job.accelerator.is_main_process:
        return
    with job.report.pause("probing"), job.report.never_failing("the teacher was not probed"):
        job.report.probe(job.step, job.probe.measure(job.method, job.accelerator.autocast))


def keep_people(job: Job, ranks: list[dict[str, Predictions]]) -> None:
    """Write what was found of every scored person; at the last step, with the pictures of some of them."""
    network, people = next(iter(ranks[0])), None
    with job.report.pause("scoring"), job.report.never_failing("the list of scored people was not written"):
        found = join([rank[network] for rank in ranks])
        people = scored_people(found, job.val_split.ground_truth, step=job.step, network=network)
        if job.step == job.cfg.steps:
            people = with_pictures(people, found.records, job.val_split)
    if people is not None:  # a disk that fails ends the run, as anywhere else
        write_people(job.folder, people)


def write_scores(job: Job) -> None:
    """Write scores.json with the last, the best and all scorings; there is none before the first one.

    After the last step, the model folder is written before it.
    """
    path = job.folder / SCORES_NAME
    if not job.accelerator.is_main_process:
        return
    if job.history and job.step == job.cfg.steps:
        write_product(job)
    if job.history:
        write_json(path, evaluate.summary(job.history, job.cfg.metric))
    else:
        path.unlink(missing_ok=True)  # of scorings that came after the checkpoint


def write_product(job: Job) -> None:
    """Write the model folder of the run, from which its networks can be used without the run."""
    last = job.history[-1]
    scores = {"step": last["step"], **job.card["scoring"], "scores": last["scores"]}
    with job.report.pause("saving"):
        write_run_model(
            job.folder / FOLDER_NAME,
            job.cfg,
            job.method,
            job.val_split,
            step=job.step,
            scores=scores,
            card=job.card,
        )


def draw_pictures(job: Job) -> None:
    """Write the sheet of views and the sheet of predictions of this step."""
    if not job.accelerator.is_main_process:
        return
    folder = job.folder / "pictures"
    with job.report.pause("drawing"):
        if job.preview is not None and (seen := job.method.inspect(job.preview)) is not None:
            path = folder / f"views-{job.step:08d}.png"
            pictures.draw_views(path, seen, job.skeleton)
            job.report.picture(job.step, "views", path)
        network = next(iter(job.method.networks().values()))
        codec = build_codec(job.cfg, job.skeleton)
        path = folder / f"predictions-{job.step:08d}.png"
        pictures.draw_predictions(path, network, next(iter(job.val)), job.val_split.ground_truth, codec)
        job.report.picture(job.step, "predictions", path)


def require_finite(job: Job) -> None:
    """Raise InputError if a loss since the last report, a weight or a running mean is not finite.

    This comes before each scoring and each save, so that a run can continue from every checkpoint.
    """
    job.report.flush()
    broken = checkpoint.not_finite(job.method.state_dict())
    if broken:
        raise InputError(
            f"{job.folder}: after step {job.step} these weights or running means are not finite: {broken}: "
            f"{job.report.cure_of_non_finite()}"
        )


def save(job: Job) -> None:
    """Write a checkpoint, after checking that the run is finite."""
    require_finite(job)
    shared, rank_state = state(job)
    saved = [*checkpoint.kept_steps(job.folder), job.step]
    with job.report.pause("saving"):
        checkpoint.save(
            job.folder,
            job.step,
            shared=shared,
            rank_state=rank_state,
            rank=job.accelerator.process_index,
            world_size=job.accelerator.num_processes,
            barrier=job.accelerator.wait_for_everyone,
            keep=job.cfg.keep_checkpoints,
            spare=evaluate.best_step(job.history, job.cfg.metric, among=saved),
        )


def state(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a checkpoint: the part that all ranks share, and this rank's own part."""
    scaler = job.accelerator.scaler
    shared = {
        "history": json.dumps(job.history),
        "report": job.report.state_dict(),
        "method": job.method.state_dict(),
        "optimizer": job.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    rank_state = {
        "rng": checkpoint.capture_rng(),
        "method": job.method.rank_state(),
        "labelled": job.labelled.state_dict(),
        "sources": [source.loader.state_dict() for source in job.sources],
        "unlabelled": job.unlabelled.state_dict() if job.unlabelled else None,
    }
    return shared, rank_state


def restore(job: Job, saved: checkpoint.Checkpoint, where: Path) -> None:
    """Bring `job` to the state of a checkpoint of the same run. Raises InputError if it is not one."""
    if saved.step > job.cfg.steps:
        raise InputError(
            f"steps: {job.cfg.steps} are fewer than the {saved.step} that {where} has already done: resume "
            "with at least as many, or start a new run"
        )
    shared, rank_state = saved.shared, saved.rank_state
    try:
        checkpoint.load_weights(job.method, shared["method"], where)
        job.optimizer.load_state_dict(shared["optimizer"])
        if job.accelerator.scaler is not None and shared["scaler"] is not None:
            job.accelerator.scaler.load_state_dict(shared["scaler"])
        job.step, job.history = saved.step, json.loads(shared["history"])
        job.report.load_state_dict(shared["report"])
        job.method.load_rank_state(rank_state["method"])
        job.labelled.load_state_dict(rank_state["labelled"])
        for source, source_state in zip(job.sources, rank_state.get("sources", ()), strict=True):
            source.loader.load_state_dict(source_state)
        if job.unlabelled is not None:
            job.unlabelled.load_state_dict(rank_state["unlabelled"])
        checkpoint.restore_rng(rank_state["rng"])
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{where} does not hold what this version saves ({type(error).__name__}: {error}): remove that "
            "folder to fall back on an older checkpoint, or start a new run"
        ) from error
