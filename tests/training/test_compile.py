"""Compiled networks: every method trains with them, each graph is made once, the state keeps its names."""

from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from semipose.models.net import PoseNet
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.training.build import compile_networks
from semipose.training.methods.method import Method, Progress
from semipose.training.run import run
from semipose.training.settings import RunSettings
from tests.training.tiny import LATE, METHODS, make_batches, make_method

EVERYWHERE = {"layers": ["input", "backbone.layer2", "backbone.layer3"], "passes": "all"}
OTHER_NET = {
    "backbone": {"name": "light", "stem_channels": 8, "channels": [8, 8, 16], "blocks": [1, 1, 1]},
    "head": {"name": "pyramid", "width": 8, "convolutions": 1},
}
MANY_GRAPHS: dict[str, dict[str, Any]] = {
    "dual, mixed everywhere": {"name": "dual", "mixup": EVERYWHERE, "second_net": OTHER_NET},
    "triple, mixed everywhere": {
        "name": "triple",
        "epoch_steps": 2,
        "mixup": EVERYWHERE,
        "teacher_net": OTHER_NET,
    },
    "statistics of the plain views": {"name": "single", "statistics": "plain", "mixup": EVERYWHERE},
}
ALL = METHODS | MANY_GRAPHS
QUICK = ("supervised", "adaptive")
Batches = tuple[LabelledBatch, UnlabelledBatch]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Any:
    """What is compiled, and its limit, belong to the process."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def of_two_sizes() -> Batches:
    """Four labelled and three unlabelled people."""
    labelled, unlabelled = make_batches()
    return labelled, UnlabelledBatch(*(views[:3] for views in vars(unlabelled).values() if views is not None))


def train(method: Method, batches: Batches, steps: int = 4) -> list[float]:
    """The losses of some steps."""
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3, fused=True)
    losses = []
    for step in range(steps):
        progress = Progress(LATE.step - steps + step, LATE.total_steps)
        loss = method(*batches, progress).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_update(progress)
        losses.append(loss.item())
    return losses


@torch.no_grad()
def score(method: Method, batches: Batches) -> None:
    """All networks in eval mode over a full and a short batch."""
    method.eval()
    for network in method.networks().values():
        network(batches[0].image)
        network(batches[0].image[:2])
    method.train()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
def test_each_graph_is_made_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the code generator, which would take minutes; graphs and their guards are the same."""
    monkeypatch.setattr(PoseNet, "compile", partialmethod(nn.Module.compile, backend="eager"))
    method, batches = make_method(**ALL[name]), of_two_sizes()
    compile_networks(method)
    train(method, batches)
    score(method, batches)
    made = counters["stats"]["unique_graphs"]
    assert made >= 1
    train(method, batches)
    score(method, batches)
    assert counters["stats"]["unique_graphs"] == made
    assert not counters["graph_break"]
    assert counters["frames"]["ok"] == counters["frames"]["total"], "torch gave up: too many graphs"


def test_every_network_is_compiled_and_the_state_keeps_its_names() -> None:
    plain, compiled = (make_method(**METHODS["triple"]) for _ in range(2))
    compile_networks(compiled)
    networks = [module for module in compiled.modules() if isinstance(module, PoseNet)]
    assert len(networks) == 5  # a student, two teachers, their copies of the previous epoch
    assert all(each._compiled_call_impl is not None for each in networks)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    plain.load_state_dict(compiled.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiled_steps_keep_the_losses(name: str) -> None:
    losses = []
    for is_compiled in (False, True):
        method = make_method(**METHODS[name])
        if is_compiled:
            compile_networks(method)
        losses.append(train(method, make_batches()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.gpu
def test_compiled_run_on_a_gpu_keeps_the_losses(
    tiny_run: Callable[..., RunSettings],
    metrics: Callable[[Path], dict[int, dict[str, Any]]],
    fresh_accelerate: Callable[[], None],
    tmp_path: Path,
) -> None:
    found = []
    for compiled in ("false", "true"):
        cfg = tiny_run("everything", "optim.lr=1e-4", f"compile={compiled}", f"output={tmp_path / compiled}")
        rows = metrics(run(cfg, resume=False).folder)
        found.append([rows[step]["loss"] for step in sorted(rows)])
        fresh_accelerate()
    assert found[1] == pytest.approx(found[0], rel=0.01)
