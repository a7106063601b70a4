"""Whole training steps on a CPU and on a GPU: they never wait, repeat to the bit, and keep their loss.

What networks answer differs between devices in the last bits; whether a step waits does not show on a CPU.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.models.backbones.resnet import ResNetSettings
from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings
from semipose.models.heads.deconv import DeconvSettings
from semipose.models.heads.neck import JoinSettings, Neck
from semipose.models.net import NetSettings, build_net
from semipose.pipelines.loader import ProcessInfo, labelled_loader, unlabelled_loader
from semipose.pipelines.source import Split, open_split
from semipose.pipelines.views import ViewSettings
from semipose.training.build import choose_kernels
from semipose.training.methods.method import Ingredients, Method
from semipose.training.methods.random_state import RandomState
from semipose.training.reporting.report import Interval
from semipose.training.settings import RunSettings
from tests.devices import DEVICES, refusing_to_wait
from tests.training.tiny import LATE, METHODS, NET, SIGMA, SIZE_HW, make_settings
from tests.training.tiny_photos import NECK as NECK_OF_PHOTOS
from tests.training.tiny_photos import make_batches, make_method

ROOT = Path(__file__).resolve().parents[2]
GPU = partial(pytest.param, marks=pytest.mark.gpu)
MakeRun = Callable[..., RunSettings]
Metrics = Callable[[Path], dict[int, dict[str, Any]]]
SMALL_RESNET = NetSettings(backbone=ResNetSettings(depth=18), head=DeconvSettings(width=32))


@pytest.fixture(scope="module")
def split(drawn_shards: Path) -> Split:
    return open_split(drawn_shards / "train")


@pytest.fixture
def any_kernels() -> Iterator[None]:
    """Kernels are chosen for a whole process: back to torch's own choice after the test."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


class Steps:
    """A method with its streams, optimiser and report, as `training.loop` runs them."""

    def __init__(
        self, method: str, split: Split, device: str, *, net: NetSettings = NET, **options: Any
    ) -> None:
        torch.manual_seed(0)
        process = ProcessInfo(device=torch.device(device))
        ingredients = Ingredients(
            lambda other: self.network(other or net, split, device),
            HeatmapCodec(HeatmapSettings(sigma=SIGMA), split.skeleton),
            RandomState(0, 0, process.device),
        )
        self.device = device
        self.method: Method = make_settings(**METHODS[method]).build(ingredients).train()
        self.optimizer = torch.optim.Adam(
            [p for p in self.method.parameters() if p.requires_grad], lr=1e-3, fused=True
        )
        views = ViewSettings(size_hw=SIZE_HW)
        stream = {"batch_size": 4, "seed": 0, "process": process, **options}
        self.labelled = labelled_loader(split, views, **stream)
        self.unlabelled = unlabelled_loader(split, views, **stream)
        self.interval = Interval()
        self.losses: list[torch.Tensor] = []

    @staticmethod
    def network(net: NetSettings, split: Split, device: str) -> Any:
        made = build_net(net, split.skeleton.num_keypoints).to(device)
        return made.to(memory_format=torch.channels_last)

    def run(self, count: int, *, autocast: bool = False) -> None:
        """Steps after the burn-in."""
        for step in range(count):
            labelled, unlabelled = next(self.labelled), next(self.unlabelled)
            with torch.autocast(self.device, torch.bfloat16, enabled=autocast):
                result = self.method(labelled, unlabelled, LATE)
            result.loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_update(LATE)
            self.interval.add(step, result.terms.by_name(), 0.0, 8)
            self.losses.append(result.loss.detach())

    def close(self) -> None:
        self.labelled.close()
        self.unlabelled.close()


@pytest.mark.parametrize(("device", "autocast"), [("cpu", False), GPU("cuda", False), GPU("cuda", True)])
@pytest.mark.parametrize("name", METHODS)
def test_a_whole_step_does_not_wait_for_the_gpu(device: str, name: str, autocast: bool, split: Split) -> None:
    """Batch, forward, backward, optimiser, teacher, report; what is read in the end is finite."""
    steps = Steps(name, split, device)
    steps.run(3, autocast=autocast)  # compiles kernels, fills queues and the optimiser's state
    with refusing_to_wait(device):
        steps.run(3, autocast=autocast)
    steps.close()
    assert torch.isfinite(torch.stack(steps.losses)).all()
    assert all(p.dtype == torch.float32 for p in steps.method.parameters())


@pytest.mark.parametrize("name", ["adaptive", "features", "dual"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_from_cached_crops_does_not_wait_either(device: str, name: str, split: Split) -> None:
    steps = Steps(name, split, device, cache="device")
    steps.run(8)  # past the first pass over the people
    with refusing_to_wait(device):
        steps.run(3)
    steps.close()
    assert torch.isfinite(torch.stack(steps.losses)).all()


@pytest.mark.parametrize(
    ("device", "net"),
    [("cpu", NET), GPU("cuda", NET), GPU("cuda", SMALL_RESNET)],
    ids=["cpu", "light", "resnet"],
)
def test_deterministic_kernels_repeat_to_the_bit(
    device: str, net: NetSettings, split: Split, any_kernels: None
) -> None:
    choose_kernels(deterministic=True)
    found = []
    for _ in range(2):
        steps = Steps("features", split, device, net=net)
        steps.run(4)
        steps.close()
        found.append(
            torch.cat([torch.stack(steps.losses), *(p.flatten() for p in steps.method.parameters())])
        )
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("neck", [NECK_OF_PHOTOS, JoinSettings()], ids=["pyramid", "join"])
@pytest.mark.parametrize("family", ["ae", "higher", "dekr", "cid"])
@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_kernels_train_on_whole_photos(
    device: str, family: str, neck: Neck, any_kernels: None
) -> None:
    """Two steps with every loss; an operation without such a kernel would raise. Repeated to the bit."""
    choose_kernels(deterministic=True)
    gates = {"min_confidence": 0.0, "agreement": 0.0, "person_agreement": 0.0}
    thresholds = {"name": "fixed", "high": 1e-6, "low": 0.0}
    found = []
    for _ in range(2):
        changes = {"burn_in": 0.0, "ramp_up": 0.0, "gates": gates, "thresholds": thresholds}
        method = make_method(family, has_peaks=True, device=device, neck=neck, **changes)
        optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-3, fused=True)
        for step in range(2):
            labelled, unlabelled = (on_device(batch, device) for batch in make_batches(step))
            result = method(labelled, unlabelled, LATE)
            assert result.terms.by_name()["kept_people"] > 0
            result.loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_update(LATE)
        found.append(torch.cat([result.loss.detach()[None], *(p.flatten() for p in method.parameters())]))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])


def on_device(batch: Any, device: str) -> Any:
    """A batch with everything in it on a device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if not is_dataclass(batch):
        return batch
    moved = {field.name: on_device(getattr(batch, field.name), device) for field in fields(batch)}
    return type(batch)(**moved)


def test_kernels_are_chosen_by_the_recipe(any_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    choose_kernels(deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    choose_kernels(deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
