"""A whole training step reads no number back to the host: that would stop a GPU's queue each time."""

import contextlib
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from models.backbones.light import LightSettings
from models.heads.pyramid import PyramidSettings
from models.net import NetSettings, build_net
from pipelines.batch import LabelledBatch, UnlabelledBatch
from training.methods import MethodSettings
from training.methods.method import Method, Progress

K, LATE = 5, Progress(step=99, total_steps=100)
METHODS: list[dict[str, Any]] = [
    {"name": "supervised"},
    {"name": "single", "mixup": {"name": "image"}},
    {"name": "single", "mixup": {"name": "feature"}, "teacher": {"name": "ema"}},
    {"name": "single", "mixup": {"name": "none"}, "masking": {"name": "fixed"}},
]


def make_method(settings: dict[str, Any], device: str) -> Method:
    net = NetSettings(
        backbone=LightSettings(stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 1)),
        head=PyramidSettings(width=8, convolutions=1),
    )
    cfg = TypeAdapter(MethodSettings).validate_python(settings, strict=False)
    return cfg.build(build_net(net, K).to(device), 1.5, seed=0, rank=0)


def make_batches(device: str) -> tuple[LabelledBatch, UnlabelledBatch]:
    image, matrix = torch.randn(4, 3, 64, 48, device=device), torch.eye(2, 3, device=device).repeat(4, 1, 1)
    points = torch.full((4, K, 2), 20.0, device=device)
    return LabelledBatch(image, points, torch.ones(4, K, device=device)), UnlabelledBatch(
        image, image, matrix
    )


def step(method: Method, batches: tuple[LabelledBatch, UnlabelledBatch]) -> torch.Tensor:
    loss = method(*batches, LATE).loss
    loss.backward()
    method.after_update(LATE)
    return loss


@pytest.mark.parametrize("settings", METHODS)
def test_loss_is_made_of_tensors_without_numbers(settings: dict[str, Any]) -> None:
    """Fake tensors have shapes only: whoever asks one for its number gets an error."""
    method = make_method(settings, "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        batches = make_batches("cpu")
        with pytest.raises(DataDependentOutputException):
            batches[0].image.sum().item()
        assert method(*batches, LATE).loss.shape == ()


@pytest.mark.gpu
@pytest.mark.parametrize("settings", METHODS)
def test_step_does_not_wait_for_the_gpu(settings: dict[str, Any]) -> None:
    method, batches = make_method(settings, "cuda"), make_batches("cuda")
    step(method, batches)  # compiles the kernel
    with contextlib.ExitStack() as stack:
        torch.cuda.set_sync_debug_mode("error")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        step(method, batches)
