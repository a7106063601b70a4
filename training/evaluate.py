"""Score a run: predict every person of a split with each network and ensemble, write predictions and scores.

    python training/evaluate.py RUN_DIR [key=value ...]

takes the newest checkpoint of the run, its own recipe and the overrides given (evaluation.flip_test=true,
heatmap.decode=dark, data.val=OTHER, ...), and writes into RUN_DIR/evaluation `scores.json` and, for each
network and ensemble, the COCO results `NAME-predictions.json`. Of people whom nobody annotated, such as those
that a detector found in new photos (data.val=shards/my-photos), there are results and no scores.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console

from configs.load import InputError, exit_on_input_error, load, read_request
from pipelines.loader import Place, eval_loader
from pipelines.source import Split, open_split
from sharding.skeleton import Skeleton
from training import checkpoint
from training.build import RECIPE_NAME, build_method
from training.files import SCORES_NAME, write_json
from training.predict import Predictions, join, predict
from training.scoring.metrics import coco_results, metrics_of, require, score
from training.scoring.truth import is_detected
from training.settings import RunSettings

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def score_all(
    ranks: Sequence[dict[str, Predictions]], ground_truth: dict[str, Any], skeleton: Skeleton
) -> dict[str, dict[str, float]]:
    """The scores of every network and ensemble, from what `predict` gave on each rank."""
    everyone = {name: join([rank[name] for rank in ranks]) for name in ranks[0]}
    return {
        name: score(people, coco_results(people, skeleton), ground_truth, skeleton)
        for name, people in everyone.items()
    }


def summary(history: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """What scores.json holds: the last scoring, the best by the product network's `metric`, and all."""
    best = max(history, key=lambda row: next(iter(row["scores"].values())).get(metric, -1.0))
    return {"metric": metric, "last": history[-1], "best": best, "history": history}


def evaluate_run(folder: Path, cfg: RunSettings, own_val: str) -> None:
    """Score the newest checkpoint of the run in `folder`, whose recipe scores on `own_val`.

    People without any annotated keypoint are predicted and not scored. Raises InputError where there is no
    intact checkpoint, and where the people of `cfg.data.val` have other keypoints than the network or cannot
    give `cfg.metric`: before anything is predicted.
    """
    path = checkpoint.latest(folder)
    if path is None:
        raise InputError(f"{folder} holds no intact checkpoint to score")
    val = open_val(cfg, own_val)
    ground_truth = val.ground_truth()
    is_annotated = bool(metrics_of(ground_truth, val.skeleton))
    if is_annotated:
        require(cfg.metric, ground_truth, val.skeleton, where=cfg.data.val)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = Place(device=device)
    method = build_method(cfg, val.skeleton, place, fresh=False)
    checkpoint.load_weights(method, checkpoint.load_shared(path)["method"], path)
    found = predict(
        method.networks(),
        eval_loader(val, cfg.views, batch_size=cfg.labelled_batch, place=place, settings=cfg.loader),
        skeleton=val.skeleton,
        decoding=cfg.heatmap,
        ensembles=method.ensembles(),
        flip_test=cfg.evaluation.flip_test,
        autocast=partial(torch.autocast, device.type, _DTYPES.get(cfg.precision), cfg.precision in _DTYPES),
    )
    scores = {}
    for name, people in found.items():
        results = coco_results(people, val.skeleton)
        write_json(folder / "evaluation" / f"{name}-predictions.json", results)
        if is_annotated:
            scores[name] = score(people, results, ground_truth, val.skeleton)
    content = {"checkpoint": path.name, **how(cfg, val, ground_truth), "scores": scores}
    write_json(folder / "evaluation" / SCORES_NAME, content)
    Console().print_json(data=content)


def open_val(cfg: RunSettings, own_val: str) -> Split:
    """The people to score; where they are not those of the recipe, they must have its keypoints."""
    val = open_split(cfg.data.val)
    if cfg.data.val != own_val and open_split(cfg.data.train).skeleton != val.skeleton:
        raise InputError(
            f"data.val: {cfg.data.val} has other keypoints than {cfg.data.train}, by which the run was "
            "trained: shard both by one format"
        )
    return val


def how(cfg: RunSettings, val: Split, ground_truth: dict[str, Any]) -> dict[str, Any]:
    """What the scores depend on beside the weights."""
    annotated = "annotated" if metrics_of(ground_truth, val.skeleton) else "given"
    return {
        "val": cfg.data.val,
        "people": val.num_samples,
        "boxes": "detector" if is_detected(ground_truth) else annotated,
        "flip_test": cfg.evaluation.flip_test,
        "decode": cfg.heatmap.decode,
        "metric": cfg.metric,
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            RunSettings, description="Score a run's newest checkpoint.", path_name="RUN_DIR", argv=argv
        )
        if request.recipe is None:
            raise InputError("command line: RUN_DIR is missing: name the folder of the run to score")
        recipe = request.recipe / RECIPE_NAME
        if not recipe.is_file():
            raise InputError(f"{request.recipe}: the folder holds no {RECIPE_NAME}, so it is no run")
        own_val = load(RunSettings, recipe).data.val
        evaluate_run(request.recipe, load(RunSettings, recipe, request.overrides), own_val)


if __name__ == "__main__":
    main()
