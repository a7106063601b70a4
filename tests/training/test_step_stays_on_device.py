"""A whole training step reads no number back to the host: that would stop a GPU's queue each time.

The same on a GPU: test_steps_on_devices.py.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipelines.batch import LabelledBatch, UnlabelledBatch
from tests.training.tiny import LATE, METHODS, make_batches, make_method
from training.methods.method import Method


def step(method: Method, batches: tuple[LabelledBatch, UnlabelledBatch]) -> torch.Tensor:
    loss = method(*batches, LATE).loss
    loss.backward()
    method.after_update(LATE)
    return loss


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_made_of_tensors_without_numbers(name: str) -> None:
    """Fake tensors have shapes only: whoever asks one for its number gets an error."""
    method, (labelled, unlabelled) = make_method(**METHODS[name]), make_batches()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        with pytest.raises(DataDependentOutputException):
            torch.ones(2).sum().item()
        fake = {key: mode.from_tensor(value) for key, value in vars(labelled).items()}
        more = {key: mode.from_tensor(value) for key, value in vars(unlabelled).items()}
        assert method(LabelledBatch(**fake), UnlabelledBatch(**more), LATE).loss.shape == ()


@pytest.mark.parametrize("name", METHODS)
def test_step_calls_nothing_that_reads_a_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batches = make_method(**METHODS[name]), make_batches()
    step(method, batches)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a number of a tensor was read")

    # the CPU kernel of the masks takes numpy's arrays; what a GPU would run is its caller
    for part in ("joint_cutout", "holes"):
        monkeypatch.setattr(f"pipelines.strong.{part}.mask_keypoints", lambda *_: None)
    for reader in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, reader, refuse)
    step(method, batches)
