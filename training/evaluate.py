"""Score a run: predict everybody of a split with each network and ensemble, write predictions and scores.

    python training/evaluate.py RUN_DIR [checkpoint=newest|best|STEP] [key=value ...]

It uses the newest checkpoint of the run or the one that you name, the recipe in RUN_DIR, and your changes to
it (evaluation.flip_test=true, heatmap.decode=dark, data.val=OTHER, ...). It writes into RUN_DIR/evaluation
`scores.json` and, for each network and ensemble, its COCO results, `NAME-predictions.json`. Other people than
the recipe's, and a checkpoint that you name, have separate folders there: evaluation/my-photos
(data.val=shards/my-photos), evaluation/step-00001200, and evaluation/my-photos/step-00001200 for both. If
evaluation/my-photos already holds scores of another set, a part of the hash of the scored set is added to the
name. People without annotations, such as those that a detector found in new photos, get results but no
scores.

A checkpoint that you name is also written as a model folder, beside its scores; the newest one is written to
RUN_DIR/model if the run has not done that itself.
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from semipose.configs.console import plain_console
from semipose.configs.openmp import bound_spinning

bound_spinning()

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import torch

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError, exit_on_input_error, load, read_request
from semipose.configs.settings import settings
from semipose.models.files import CARD_NAME, SCORES_NAME, read_json, write_json
from semipose.models.model_folder import FOLDER_NAME, read_config
from semipose.pipelines.loader import ProcessInfo
from semipose.pipelines.source import Split, open_split
from semipose.sharding.store.ground_truth import GroundTruth
from semipose.training import checkpoint
from semipose.training.build import build_codec, build_method, open_sources, open_splits, scored_views
from semipose.training.methods.method import Method
from semipose.training.predict import Predictions, autocast_of, join, predict
from semipose.training.reporting.people import scored_people, with_pictures, write_people
from semipose.training.reporting.setting_warnings import photos_seen
from semipose.training.run_files import own_recipe, read_scores
from semipose.training.run_model import write_run_model
from semipose.training.scoring.metrics import coco_results, metrics_of, require, score
from semipose.training.scoring.oks import beyond_limit
from semipose.training.settings import Count, RunSettings


@settings
class EvaluateSettings(RunSettings):
    """The settings of a run, and which of its checkpoints to score."""

    checkpoint: Literal["newest", "best"] | Count = "newest"
    """The checkpoint to score: `newest`, `best` (of those that are kept, the one with the best `metric`), or
    that of a step, such as 1200. The scores of `best` or a step are written into a separate folder."""


def score_all(
    ranks: Sequence[dict[str, Predictions]], ground_truth: GroundTruth, where: str
) -> dict[str, dict[str, float]]:
    """The scores of every network and ensemble, from what `predict` returned on each rank.

    Raises InputError, which begins with `where`, for predictions that are not finite.
    """
    scores = {}
    for name in ranks[0]:
        people = join([rank[name] for rank in ranks])
        results = results_of(people, ground_truth, f"{where}: {name}")
        scores[name] = score(people, results, ground_truth)
    return scores


def results_of(people: Predictions, ground_truth: GroundTruth, where: str) -> list[dict[str, Any]]:
    """COCO results of one network or ensemble, with the category of the annotation file.

    Raises InputError, which begins with `where`, for predictions that are not finite.
    """
    is_finite = np.isfinite(people.points_xy).all(axis=(1, 2)) & np.isfinite(people.peaks).all(axis=1)
    if not is_finite.all():
        record = people.record_rows[int(is_finite.argmin())]
        raise InputError(
            f"{where}: the keypoints of {(~is_finite).sum():,} of {len(is_finite):,} people are not finite "
            f"numbers (first in {record.get('file_name', record['image_id'])}): use an earlier checkpoint "
            "(checkpoint=STEP) or precision=no, or train again with a smaller learning rate (optim.lr)"
        )
    return coco_results(people, ground_truth.skeleton, category_id=ground_truth.category["id"])


def summary(history: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The content of scores.json: the last scoring, the best one by the first network's `metric`, and all."""
    return {"metric": metric, "last": history[-1], "best": _best(history, metric), "history": history}


def best_step(history: list[dict[str, Any]], metric: str, among: Collection[int]) -> int | None:
    """The step of the best scoring, as in `summary`, of those at the steps `among`; None if there is none."""
    rows = [row for row in history if row["step"] in among]
    return _best(rows, metric)["step"] if rows else None


def _best(history: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    return max(history, key=lambda row: next(iter(row["scores"].values())).get(metric, -1.0))


def find_checkpoint(folder: Path, cfg: EvaluateSettings) -> Path:
    """The checkpoint that `cfg.checkpoint` names. Raises InputError, which lists those kept, if gone."""
    if cfg.checkpoint == "newest":
        newest = checkpoint.latest(folder)
        if newest is None:
            raise InputError(f"{folder} holds no intact checkpoint to score")
        return newest
    kept = checkpoint.kept_steps(folder)
    step: int | None
    if cfg.checkpoint == "best":
        step = best_step(read_scores(folder).get("history", []), cfg.metric, among=kept)
        problem = "the run has scored none of the checkpoints that it keeps"
    else:
        step = cfg.checkpoint
        problem = "the run keeps no checkpoint of that step"
    if step in kept:
        path = checkpoint.step_folder(folder, step)
        damage = checkpoint.damage(path)
        if damage is None:
            return path
        problem = f"{path.name} is damaged ({damage})"
    listed = f"choose among {', '.join(map(str, kept))}" if kept else "it keeps none"
    raise InputError(f"checkpoint={cfg.checkpoint}: {problem}, in {folder}: {listed}")


def read_checkpoint(folder: Path, cfg: EvaluateSettings) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that `cfg.checkpoint` names, and its state of the method; see `find_checkpoint`.

    If it vanishes while it is read, the run is still training and has removed it: the search starts again.
    Raises InputError if it holds no method, or numbers that are not finite.
    """
    while True:
        path = find_checkpoint(folder, cfg)
        try:
            state = checkpoint.load_shared(path).get("method")
            break
        except InputError:
            if path.is_dir():
                raise
    if not isinstance(state, dict):
        raise InputError(f"{path} holds no trained method: remove that folder to fall back on an older one")
    broken = checkpoint.not_finite(state)
    if broken:
        raise InputError(
            f"{path}: these weights or running means are not finite: {broken}: score another checkpoint"
        )
    return path, state


def evaluate_run(folder: Path, cfg: EvaluateSettings, own_val: str) -> None:
    """Score a checkpoint of the run in `folder`, whose recipe scores the people of `own_val`.

    People without any annotated keypoint are predicted but not scored. Raises InputError, before anything is
    predicted, if the checkpoint is absent or damaged, or if the people of `cfg.data.val` have other keypoints
    than the network or cannot give `cfg.metric`.
    """
    path, state = read_checkpoint(folder, cfg)
    if cfg.checkpoint == "newest" and checkpoint.step_of(path) != cfg.steps:
        step = checkpoint.step_of(path)
        plain_console(stderr=True, soft_wrap=True).print(
            f"note: {folder} has no intact checkpoint of its last step, {cfg.steps:,}, so step {step:,} is "
            "scored"
        )
    val = open_val(cfg, own_val)
    # The run itself has warned of its own people.
    seen = None if cfg.data.val == own_val else seen_in_training(cfg, val)
    if seen:
        plain_console(stderr=True, soft_wrap=True).print(f"note: {seen}")
    output = folder_of(val, folder, is_own_address=cfg.data.val == own_val)
    output /= "" if cfg.checkpoint == "newest" else path.name
    ground_truth, kind = val.ground_truth, val.manifest.kind
    is_annotated = bool(metrics_of(ground_truth, kind))
    if is_annotated:
        require(cfg.metric, ground_truth, where=cfg.data.val, kind=kind)
        beyond = beyond_limit(ground_truth)
        if beyond:
            plain_console(stderr=True, soft_wrap=True).print(f"note: {cfg.data.val}: {beyond}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    process = ProcessInfo(device=device)
    method = build_method(cfg, val.skeleton, process, fresh=False)
    checkpoint.load_weights(method, state, path)
    predictions = predict(
        method.networks(),
        scored_views(cfg, val, process),
        codec=build_codec(cfg, val.skeleton),
        ensembles=method.ensembles(),
        flip_test=cfg.evaluation.flip_test,
        autocast=autocast_of(device, cfg.precision),
    )
    scores: dict[str, dict[str, float]] = {}
    for name, people in predictions.items():
        results = results_of(people, ground_truth, f"{path}: {name}")
        categories = ground_truth.categories_of(people.record_rows)
        written = coco_results(people, val.skeleton, category_id=categories)
        write_json(output / f"{name}-predictions.json", written)
        if is_annotated:
            if not scores:  # the first network is what the run is for
                step = checkpoint.step_of(path)
                rows = scored_people(people, ground_truth, step=step, network=name)
                write_people(output, with_pictures(rows, people.records, val))
            scores[name] = score(people, results, ground_truth)
    which = {"checkpoint": path.name, "step": checkpoint.step_of(path)}
    content = {**which, **how(cfg, val), "val_sha256": val.content_sha256, "scores": scores}
    write_json(output / SCORES_NAME, content)
    product = (folder if cfg.checkpoint == "newest" else output) / FOLDER_NAME
    if cfg.data.val == own_val and not holds_model(product, content["step"]):
        shown = {key: value for key, value in content.items() if key != "checkpoint"} if scores else None
        write_model_of(folder, product, cfg, method, val, scores=shown, step=content["step"])
    plain_console().print_json(data={"written": str(output), **content})


def write_model_of(
    folder: Path,
    product: Path,
    cfg: RunSettings,
    method: Method,
    val: Split,
    *,
    scores: dict[str, Any] | None,
    step: int,
) -> None:
    """Write the model folder `product` of the run in `folder`, with the run's card if there is one."""
    card = read_json(folder / CARD_NAME, cure="remove it") if (folder / CARD_NAME).is_file() else None
    write_run_model(product, cfg, method, val, step=step, scores=scores, card=card)


def holds_model(folder: Path, step: int) -> bool:
    """Whether a folder holds a model that was trained for `step` steps."""
    try:
        return read_config(folder).provenance.step == step
    except InputError:
        return False


def folder_of(val: Split, run_folder: Path, *, is_own_address: bool) -> Path:
    """The folder for the scores of `val`, which holds no scores of other people.

    For the people of the run's own recipe it is `evaluation` itself. They are recognised by the content of
    their shards, or by their address if the card of an older run does not hold that. Others get a folder in
    it with their name, and with a part of the hash of the scored set if the name is taken or ambiguous.
    """
    evaluation, content = run_folder / "evaluation", val.content_sha256
    card = run_folder / CARD_NAME
    written = read_json(card, cure="remove it") if card.is_file() else {}
    own = written.get("val", {}).get("content_sha256")
    if content == own or (own is None and is_own_address):
        return evaluation
    is_command = val.root.startswith("pipe:")
    name = val.manifest.name if is_command else re.split(r"[/\\]", os.path.abspath(val.root))[-1]
    name = re.sub(r"[^\w.+=@-]+", "_", name).strip("._")
    if not name or re.match(r"step-\d+$", name) or not _is_free(evaluation / name, val):
        name = f"{name or 'val'}-{content[:8]}"
    return evaluation / name


def _is_free(folder: Path, val: Split) -> bool:
    """Whether a folder holds no scores of people other than those of `val`."""
    if folder.exists() and not folder.is_dir():
        return False
    for path in (folder / SCORES_NAME, *folder.glob(f"step-*/{SCORES_NAME}")):
        if path.is_file():
            scores = read_json(path, cure="remove its folder")
            if "val_sha256" in scores:
                return bool(scores["val_sha256"] == val.content_sha256)
            return bool(scores.get("val") == val.root)  # written by an older version
    return True


def open_val(cfg: RunSettings, own_val: str) -> Split:
    """The people to score. Raises InputError if they have other keypoints than the recipe's."""
    val = open_split(cfg.data.val, cfg.kind)
    if cfg.data.val != own_val and open_split(cfg.data.train, cfg.kind).skeleton != val.skeleton:
        raise InputError(
            f"data.val: {cfg.data.val} has other keypoints than {cfg.data.train}, on which the run was "
            "trained: build both from one annotation format"
        )
    return val


def seen_in_training(cfg: RunSettings, val: Split) -> str | None:
    """A warning if photos of the people to score are among those that the run was trained on.

    None if there are no such photos, or if the training sets are no longer there to compare.
    """
    try:
        with TemporaryDirectory() as index_dir:
            labelled, unlabelled, _ = open_splits(cfg, Path(index_dir))
            sources = open_sources(cfg, labelled.skeleton)
            return photos_seen(val, [labelled, *([unlabelled] if unlabelled else []), *sources])
    except InputError:
        return None


def how(cfg: RunSettings, val: Split) -> dict[str, Any]:
    """What the scores depend on, apart from the weights."""
    ground_truth, kind = val.ground_truth, val.manifest.kind
    annotated = "annotated" if metrics_of(ground_truth, kind) else "given"
    samples = {"people": val.num_samples}
    if kind == "image":
        samples = {"photos": val.num_samples, "people": len(ground_truth.scored)}
    return {
        "val": cfg.data.val,
        **samples,
        "boxes": "none" if kind == "image" else "detector" if ground_truth.is_detected else annotated,
        "flip_test": cfg.evaluation.flip_test,
        "decode": cfg.codec.name if cfg.codec else cfg.heatmap.decode,
        "metric": cfg.metric,
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            EvaluateSettings,
            description="Score the newest checkpoint of a run, or checkpoint=best or checkpoint=STEP.",
            path_name="RUN_DIR",
            argv=argv,
        )
        if request.recipe is None:
            raise InputError("command line: RUN_DIR is missing: give the folder of the run to score")
        recipe = own_recipe(request.recipe)
        own_val = load(RunSettings, recipe).data.val
        with named_disk_errors(request.recipe / "evaluation"):
            evaluate_run(request.recipe, load(EvaluateSettings, recipe, request.overrides), own_val)


if __name__ == "__main__":
    main()
