"""semipose predict MODEL SOURCE... [key=value ...]: keypoints of photos, films and cameras.

    semipose predict runs/mine photos/
    semipose predict runs/mine my.json images=photos.zip output=predictions/mine
    semipose predict runs/mine clip.mp4 track=oks 'smooth={}'

MODEL is the folder of a run. A SOURCE is a photo, a folder with its subfolders, a glob, a zip, an address, a
COCO file with `images`, a film, the number of a camera (0), or - for a list on stdin.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import semipose
from semipose.configs.console import plain_console
from semipose.configs.errors import InputError
from semipose.configs.load import exit_on_input_error, load, read_request
from semipose.configs.schema import plain
from semipose.configs.versions import versions
from semipose.models.model_folder import Model
from semipose.predict.exported import ExportedModel, exported_file
from semipose.predict.output import BAD, DRAWN, KEYPOINTS, TABLE, OutputFolder
from semipose.predict.predictor import Predictor
from semipose.predict.settings import DECIDE_THE_FILES, PredictSettings
from semipose.predict.sources import Work, find_work
from semipose.predict.work import (
    Job,
    Part,
    do_part,
    do_part_elsewhere,
    load_predictor,
    parts_of,
    with_given_boxes,
)
from semipose.sharding.annotations.skeleton import to_category
from semipose.sharding.store.executor import map_in_order

PACKAGES = ("torch", "numpy", "opencv-python-headless", "pillow", "av")


def predict_sources(
    model: str, sources: Sequence[str], cfg: PredictSettings, console: Console
) -> OutputFolder:
    """Predict everything in `sources`, or this process's share, and write the files.

    It goes on where an earlier command stopped.
    Raises InputError for a model or a source that cannot be used, for an output folder that holds something
    else, and if not a single photo could be read.
    """
    began = time.perf_counter()
    predictor = load_predictor(model, cfg)
    keypoints = predictor.model.config.skeleton.names
    work = find_work(sources, images=cfg.images, keypoints=keypoints)
    if predictor.is_person:
        work = with_given_boxes(work, cfg, keypoints)
        if work.films or any(item.boxes is None for item in work.photos):
            predictor.choose_finder()  # which may refuse, before a folder of these settings is begun
    parts = parts_of(work)
    identity = identity_of(predictor.model, work, cfg)
    output = Path(cfg.output or f"predictions/{name_of(model)}")
    folder = OutputFolder(output, identity)
    if folder.is_complete:
        console.print(f"{output} is complete: remove it to predict again", highlight=False, soft_wrap=True)
        return folder
    if work.passed_over:
        passed = ", ".join(f"{count:,} {suffix}" for suffix, count in work.passed_over.most_common(5))
        console.print(
            f"note: files that are neither photos nor films were passed over: {passed}", highlight=False
        )
    for note in notes_of(predictor, work, cfg):
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    share, count = cfg.own_share
    own = [part for part in parts if part.number % count == share]
    job = Job(model, cfg, output, json.dumps(identity))
    _do(job, folder, own, work, console)
    config = predictor.model.config
    category = to_category(config.skeleton, category_id=config.category_id, name=config.category_name)
    facts = partial(facts_of, predictor.model, cfg, work, began)
    if folder.finish(len(parts), category, facts):
        _report(folder, console)
    else:
        done = sum(folder.part(part.number).is_file() for part in parts)
        console.print(f"{output}: {done} of {len(parts)} parts are done; the other shares write the rest")
    return folder


def notes_of(predictor: Predictor, work: Work, cfg: PredictSettings) -> Iterator[str]:
    """What of the settings and of the given people has no effect."""
    if predictor.is_person and cfg.min_score != PredictSettings().min_score:
        yield "min_score changes nothing: this model is given its people, and scores none of them"
    if not work.films and cfg.track != "none":
        yield "track changes nothing: there is no film to follow people in"
    if predictor.is_person:
        yield from work.notes
    given = [(item.boxes, item.file_name) for item in work.photos if item.boxes is not None]
    left_out = sum(boxes.left_out for boxes, _ in given)
    if predictor.is_person and left_out:
        first = next(name for boxes, name in given if boxes.left_out)
        total = left_out + sum(len(boxes.xywh) for boxes, _ in given)
        yield (
            f"people are left out whose boxes are empty or outside their photos: {left_out:,} of {total:,}, "
            f"the first in {first}"
        )


def name_of(model: str) -> str:
    """The last part of a model's address: that of RUN/model is the name of the run.

    An exported file adds its own name to that of its folder, and the folder alone stands for its file.
    """
    exported = exported_file(model)
    if exported is not None:
        return f"{exported.absolute().parent.name}-{exported.name.replace('.', '-')}"
    parts = [part for part in re.split(r"[/\\@]", os.path.abspath(model)) if part]
    return next((part for part in reversed(parts) if part != "model"), "model")


def _do(job: Job, folder: OutputFolder, parts: Sequence[Part], work: Work, console: Console) -> None:
    """Do some parts under a progress bar, here or in other processes."""
    own = sum(len(part.photos) for part in parts)
    what = "photos" if not work.films else "photos and frames" if work.photos else "frames"
    total = own if not any(part.film for part in parts) else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    speed = TextColumn("{task.fields[speed]}")
    with Progress(*columns, speed, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, speed="")
        began = time.perf_counter()

        def tell(more: int) -> None:
            progress.advance(task, more)
            done = progress.tasks[0].completed
            progress.update(task, speed=f"{done / max(time.perf_counter() - began, 1e-6):.1f} per s")

        if job.cfg.executor == "local" and job.cfg.workers == 1:
            for part in parts:
                do_part(job, folder, part, tell)
            return
        elsewhere = partial(do_part_elsewhere, job)
        with closing(
            map_in_order(elsewhere, parts, executor=job.cfg.executor, workers=job.cfg.workers)
        ) as results:
            for done in results:
                tell(done)


def identity_of(model: Model | ExportedModel, work: Work, cfg: PredictSettings) -> dict[str, Any]:
    """What the files depend on, as plain values."""
    settings = plain(cfg)
    listed = hashlib.sha256()
    for item in work.photos:
        boxes = "" if item.boxes is None else item.boxes.xywh.tolist()
        listed.update(json.dumps([item.id, item.file_name, item.where, item.size_wh, boxes]).encode())
    for film in work.films:
        listed.update(film.address.encode())
    return {
        "model_sha256": model.sha256 if isinstance(model, ExportedModel) else weights_sha256(model.network),
        "photos": len(work.photos),
        "films": len(work.films),
        "sources_sha256": listed.hexdigest(),
        "settings": {name: settings[name] for name in DECIDE_THE_FILES},
    }


def weights_sha256(network: torch.nn.Module) -> str:
    """Hash of a network's weights, by their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def facts_of(
    model: Model | ExportedModel, cfg: PredictSettings, work: Work, began: float, counts: dict[str, int]
) -> dict[str, Any]:
    """What `summary.json` says besides the counts."""
    seconds = time.perf_counter() - began
    done = counts["photos"] + counts["frames"]
    return {
        "passed_over": dict(work.passed_over),
        "seconds_of_last_command": round(seconds, 2),
        "per_second": round(done / seconds, 2),
        "model": {
            "source": model.source,
            "kind": model.config.kind,
            "scores": (model.scores or {}).get("scores"),
        },
        "settings": plain(cfg),
        "versions": {"semipose": semipose.__version__, **versions(PACKAGES)},
    }


def _report(folder: OutputFolder, console: Console) -> None:
    """The last lines: what was written, and what could not be read."""
    summary = json.loads((folder.path / "summary.json").read_bytes())
    done = ", ".join(f"{summary[what]:,} {what}" for what in ("photos", "frames", "people") if summary[what])
    if summary["bad"]:
        first = json.loads((folder.path / BAD).read_bytes())[0]
        if not summary["photos"] and not summary["frames"]:
            raise InputError(
                f"nothing could be read; the first: {first['reason']} ({folder.path / BAD} has all)"
            )
        console.print(
            f"note: {summary['bad']:,} files could not be read ({folder.path / BAD} has all); the first: "
            f"{first['reason']}",
            highlight=False,
            soft_wrap=True,
        )
    files = [KEYPOINTS, TABLE, *([f"{DRAWN}/"] if (folder.path / DRAWN).is_dir() else [])]
    console.print(
        f"{folder.path}: {done or 'nobody'}; see {', '.join(files)}", highlight=False, soft_wrap=True
    )


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            PredictSettings,
            description="Keypoints of photos, films and cameras: MODEL is the folder of a run or what "
            "`semipose export` wrote; a SOURCE is a photo, a folder, a glob, a zip, an address, a COCO file "
            "with `images`, a film, the number of a camera (0), or - for a list on stdin.",
            path_name="MODEL SOURCE...",
            takes_many=True,
            argv=argv,
        )
        if len(request.words) < 2:
            raise InputError(
                "command line: give a model and what to predict, such as `semipose predict runs/mine photos/`"
            )
        model, *sources = request.words
        cfg = load(PredictSettings, None, request.overrides)
        predict_sources(model, sources, cfg, plain_console(stderr=True))
