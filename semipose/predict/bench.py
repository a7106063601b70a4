"""Measure predicting against its network: `python -m semipose.predict.bench [key=value ...]`.

Photos are predicted with given boxes, as `semipose predict` does it. "Network alone" is the network's passes
over the same views in the same batches: no photo is read, nobody is cut out, and nothing is decoded or
written. Speeds are photos per second of CPU time, of all threads, because other work on the machine changes
that little; they are comparable on a CPU only. The model is loaded beforehand, except in the row with the
start-up, which is a command in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from semipose.configs.console import plain_console
from semipose.configs.errors import InputError
from semipose.configs.load import CONFIGS, command, load
from semipose.configs.schema import plain
from semipose.configs.settings import settings
from semipose.models.model_folder import ModelConfig, NetworkConfig, Provenance, write_model
from semipose.models.net import build_net
from semipose.predict.command import predict_sources
from semipose.predict.exported import ExportedModel
from semipose.predict.settings import PredictSettings
from semipose.predict.work import load_predictor
from semipose.sharding.annotations.record import Annotations
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.people import coco_rows
from semipose.training.bench.result import Result, Target, compare, make_row
from semipose.training.bench.settings import PeopleSettings
from semipose.training.bench.tables import finish
from semipose.training.bench.timing import turns
from semipose.training.settings import load_run

NETWORK, PREDICT, PICTURES, START_UP = (
    "network alone",
    "predict",
    "predict with pictures",
    "command with start-up",
)
MOST_TIMES_NETWORK = 1.3
QUIET = Console(quiet=True)
Count = Annotated[int, Field(ge=1)]


@settings
class PredictBenchSettings(PeopleSettings):
    """What is predicted, and how often."""

    output: Path = Path("runs/bench/predict.json")
    """The result file; the plot goes beside it."""
    model: str | None = None
    """A run or a model folder; null: the network of `protocol` with random weights."""
    protocol: str = "coco-1k"
    """Network and size of the views: the name of a file under configs/protocols."""
    changes: tuple[str, ...] = ()
    """Changes to its settings, such as `views.size_hw=[128,96]`."""
    most_photos: Count = 200
    """So many photos are predicted, if there are more; their views stay in memory, 0.6 MB each at 256x192."""
    rounds: Count = 3
    """How often each row is measured, in turns."""


def run(cfg: PredictBenchSettings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the tables; returns the result."""
    machine = describe_machine()
    people = first_photos(cfg.require_photos().read(), cfg.most_photos)
    photos = len({person.file_name for person in people.persons})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = folder / "people.json"
        listed.write_text(json.dumps(coco_rows(people, people.skeleton.num_keypoints)))
        model = cfg.model or random_model(cfg, people, folder / "model")
        seconds = time_all(model, listed, people.photos.location, cfg.rounds, folder / "predictions")
    rows = []
    for row_name, of_row in seconds.items():
        ratio = float(np.median(np.divide(of_row, seconds[NETWORK])))
        facts = {"times_network": ratio, "cpu_ms_per_photo": 1e3 * float(np.median(of_row)) / photos}
        speeds = [photos / each for each in of_row]
        rows.append(make_row(row_name, speeds, group="predicting", unit="photos/CPU s", facts=facts))
    result = Result(
        bench="predict",
        machine=machine,
        settings=plain(cfg),
        data={"photos": photos, "people": len(people.persons), "from": people.photos.location},
        rows=tuple(compare(row, rows[0]) for row in rows),
        targets=tuple(target(row.name, row.facts["times_network"]) for row in rows[1:3]),
    )
    return finish(result, cfg.output, console)


def target(name: str, ratio: float) -> Target:
    """How many times the CPU time of its network predicting may take."""
    return Target(
        what=f"{name}, CPU time against that of the network",
        asked=f"at most {MOST_TIMES_NETWORK:g}x",
        measured=f"{ratio:.2f}x",
        is_met=ratio <= MOST_TIMES_NETWORK,
    )


def first_photos(people: Annotations, count: int) -> Annotations:
    """The people of the first photos."""
    names = set(list(dict.fromkeys(person.file_name for person in people.persons))[:count])
    return replace(people, persons=tuple(person for person in people.persons if person.file_name in names))


def random_model(cfg: PredictBenchSettings, people: Annotations, folder: Path) -> str:
    """A model folder with the network of the protocol and random weights."""
    recipes = [CONFIGS / "protocols" / f"{cfg.protocol}.yaml", CONFIGS / "methods" / "supervised.yaml"]
    recipe = load_run(recipes, ["net.pretrained=false", "net.weights=null", *cfg.changes])
    torch.manual_seed(0)
    network = build_net(recipe.net, people.skeleton.num_keypoints)
    config = ModelConfig(
        kind="person",
        network="network",
        networks={"network": NetworkConfig(net=recipe.net)},
        heatmap=recipe.heatmap,
        size_hw=recipe.views.size_hw,
        skeleton=people.skeleton,
        provenance=Provenance(
            protocol=cfg.protocol, method="none", step=0, seed=0, weights="random weights", version=None
        ),
    )
    return str(write_model(folder, {"network": network}, config, readme="random weights\n"))


def time_all(model: str, listed: Path, images: str, rounds: int, output: Path) -> dict[str, list[float]]:
    """CPU seconds of each round by row; each row predicts all photos anew."""
    words = [f"images={images}", f"output={output}"]
    plain_cfg, picture_cfg = (
        load(PredictSettings, None, [*words, f"draw={draw}"]) for draw in ("false", "true")
    )
    network, views = views_of(model, listed, plain_cfg)
    shell = [sys.executable, "-m", "semipose", "predict", model, str(listed), *words, "draw=false"]
    calls: dict[str, tuple[Callable[[], Any], PredictSettings | None]] = {
        NETWORK: (partial(pass_all, network, views), None),
        PREDICT: (partial(predict_sources, model, [str(listed)], plain_cfg, QUIET), plain_cfg),
        PICTURES: (partial(predict_sources, model, [str(listed)], picture_cfg, QUIET), picture_cfg),
        START_UP: (partial(subprocess.run, shell, check=True, capture_output=True), None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _, name in turns(list(calls), rounds):
        call, cfg = calls[name]
        shutil.rmtree(output, ignore_errors=True)
        if cfg is not None:
            load_predictor(model, cfg)  # which keeps one model: the start-up has a row of its own
        began = cpu_seconds()
        call()
        seconds[name].append(cpu_seconds() - began)
    return seconds


def views_of(model: str, listed: Path, cfg: PredictSettings) -> tuple[nn.Module, list[Tensor]]:
    """The network, and the batches that it gets when these photos are predicted."""
    loaded = load_predictor(model, cfg).model
    if isinstance(loaded, ExportedModel):
        raise InputError(f"model: {model} is an exported file: give the folder of its run, or a model folder")
    network = loaded.network
    views: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        views.append(inputs[0].clone(memory_format=torch.preserve_format))

    hook = network.register_forward_pre_hook(keep)
    predict_sources(model, [str(listed)], cfg, QUIET)
    hook.remove()
    return network, views


@torch.no_grad()
def pass_all(network: nn.Module, views: list[Tensor]) -> None:
    """The network's passes alone."""
    for batch in views:
        network(batch)


def cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


if __name__ == "__main__":
    command(PredictBenchSettings, lambda cfg: run(cfg, plain_console()), description=str(__doc__))
