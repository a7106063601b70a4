"""Score a network: predict every person of a split, map back to source pixels, OKS AP and PCK.

    python training/evaluate.py RUN_DIR [key=value ...]

scores the newest checkpoint of a run by its own recipe and the overrides given, and writes `scores.json` and
the COCO-format `predictions.json` of each of its networks into RUN_DIR/evaluation.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from configs.load import InputError, exit_on_input_error, load, read_request
from models.heatmap import decode
from models.net import PoseNet
from pipelines.batch import EvalBatch
from pipelines.geometry import apply, invert, linear_scale
from pipelines.loader import Place, eval_loader
from pipelines.source import open_split
from sharding.skeleton import Skeleton
from training import checkpoint
from training.build import RECIPE_NAME, build_method
from training.files import write_json
from training.scoring import oks, pck
from training.settings import HeatmapSettings, RunSettings


@dataclass(frozen=True)
class Prediction:
    """One person: keypoints (K, 2) in source px, peaks (K,) of heatmaps, area of the padded box in px^2."""

    record: dict[str, Any]
    points_xy: np.ndarray
    peaks: np.ndarray
    area: float


@torch.no_grad()
def predict(
    network: PoseNet,
    batches: Iterable[EvalBatch],
    *,
    decoding: HeatmapSettings,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> list[Prediction]:
    """Predict every person of `batches` in eval mode; `decoding` says how keypoints are read off."""
    records: list[dict[str, Any]] = []
    parts = []
    with in_eval_mode(network):
        for batch in batches:
            with autocast():
                heatmaps = network(batch.image)
            points, peaks = read_off(heatmaps, network, decoding)
            height, width = batch.image.shape[-2:]
            areas = linear_scale(batch.image_from_view) ** 2 * height * width
            parts.append((apply(batch.image_from_view, points), peaks, areas))
            records.extend(batch.records)
    if not records:
        return []
    rows = zip(records, *(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)), strict=True)
    return [Prediction(record, xy, peak, float(area)) for record, xy, peak, area in rows]


def read_off(
    heatmaps: torch.Tensor, network: PoseNet, decoding: HeatmapSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints (N, K, 2) in view px and their peaks (N, K)."""
    return decode(heatmaps, network.stride, method=decoding.decode, sigma=decoding.sigma)


@contextmanager
def in_eval_mode(network: PoseNet) -> Iterator[None]:
    """Score in eval mode and leave the network as it was."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@torch.no_grad()
def compare(
    network: PoseNet, batch: EvalBatch, ground_truth: dict[str, Any], *, decoding: HeatmapSettings
) -> dict[str, Any]:
    """Predictions beside the truth for one batch, all in view px: what a sheet of predictions shows."""
    with in_eval_mode(network):
        points, peaks = read_off(network(batch.image), network, decoding)
    truth = truth_of(batch.records, ground_truth)
    view_from_image = invert(batch.image_from_view).cpu()
    return {
        "images": batch.image,
        "predicted": points.cpu().numpy(),
        "peaks": peaks.cpu().numpy(),
        "truth": apply(view_from_image, torch.from_numpy(truth[..., :2])).numpy(),
        "visible": truth[..., 2],
    }


def truth_of(records: list[dict[str, Any]], ground_truth: dict[str, Any]) -> np.ndarray:
    """The annotated keypoints (M, K, 3) of some people, float32, source px."""
    by_id = {row["id"]: row["keypoints"] for row in ground_truth["annotations"]}
    return np.array([by_id[record["id"]] for record in records], np.float32).reshape(len(records), -1, 3)


def coco_results(predictions: list[Prediction], skeleton: Skeleton) -> list[dict[str, Any]]:
    """COCO result entries after OKS-NMS; the box score is 1, as the boxes are the annotated ones."""
    results = [
        {
            "image_id": p.record["image_id"],
            "category_id": 1,
            "keypoints": np.column_stack([p.points_xy, p.peaks]).round(3).ravel().tolist(),
            "score": float(oks.person_score(np.float64(1.0), p.peaks)),
        }
        for p in predictions
    ]
    return oks.oks_nms(results, np.array([p.area for p in predictions]), skeleton.sigmas)


def score(
    predictions: list[Prediction], ground_truth: dict[str, Any], skeleton: Skeleton
) -> dict[str, float]:
    """OKS AP and AR of pycocotools, and PCK@0.2 of the torso where the skeleton has one; all in 0..1."""
    scores = oks.score(ground_truth, coco_results(predictions, skeleton), skeleton.sigmas)
    if pck.has_torso(skeleton.names):
        truth = truth_of([p.record for p in predictions], ground_truth)
        scores |= pck.pck(np.stack([p.points_xy for p in predictions]), truth, skeleton.names).scores
    return scores


def summary(history: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """What scores.json holds: the last scoring, the best by the product network's `metric`, and all."""
    best = max(history, key=lambda row: next(iter(row["scores"].values())).get(metric, -1.0))
    return {"metric": metric, "last": history[-1], "best": best, "history": history}


def evaluate_run(folder: Path, cfg: RunSettings) -> None:
    """Score the newest checkpoint of the run in `folder`."""
    path = checkpoint.latest(folder)
    if path is None:
        raise InputError(f"{folder} holds no intact checkpoint to score")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    val = open_split(cfg.data.val)
    place = Place(device=device)
    method = build_method(cfg, val.skeleton.num_keypoints, place, fresh=False)
    checkpoint.load_weights(method, checkpoint.load_shared(path, map_location=device)["method"], path)
    batches = eval_loader(val, cfg.views, batch_size=cfg.labelled_batch, place=place, settings=cfg.loader)
    ground_truth = val.ground_truth()
    scores = {}
    for name, network in method.networks().items():
        predictions = predict(network, batches, decoding=cfg.heatmap)
        scores[name] = score(predictions, ground_truth, val.skeleton)
        write_json(
            folder / "evaluation" / f"{name}-predictions.json", coco_results(predictions, val.skeleton)
        )
    write_json(folder / "evaluation" / "scores.json", {"checkpoint": path.name, "scores": scores})
    Console().print_json(data=scores)


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
        evaluate_run(request.recipe, load(RunSettings, recipe, request.overrides))


if __name__ == "__main__":
    main()
