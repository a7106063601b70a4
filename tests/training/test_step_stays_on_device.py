"""A whole training step reads no number back to the host: that would stop a GPU's queue each time.

The same on a GPU: test_steps_on_devices.py.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.training.methods.method import Method
from tests.training.tiny import LATE, METHODS, make_batches, make_method


def step(method: Method, batches: tuple[LabelledBatch, UnlabelledBatch]) -> torch.Tensor:
    loss = method(*batches, LATE).loss
    loss.backward()
    method.after_update(LATE)
    return loss


def given(batch: LabelledBatch | UnlabelledBatch) -> dict[str, torch.Tensor]:
    """The fields of a batch, without those that only whole photos have."""
    return {key: value for key, value in vars(batch).items() if value is not None}


@pytest.mark.parametrize("name", METHODS)
def test_loss_is_made_of_tensors_without_numbers(name: str) -> None:
    """Fake tensors have shapes only: whoever asks one for its number gets an error."""
    method, (labelled, unlabelled) = make_method(**METHODS[name]), make_batches()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        with pytest.raises(DataDependentOutputException):
            torch.ones(2).sum().item()
        fake = {key: mode.from_tensor(value) for key, value in vars(labelled).items()}
        more = {key: mode.from_tensor(value) for key, value in given(unlabelled).items()}
        assert method(LabelledBatch(**fake), UnlabelledBatch(**more), LATE).loss.shape == ()


class CudaGenerator(torch.Generator):
    """A CPU's generator that says it is a GPU's; fake tensors never ask it for a number."""

    device = torch.device("cuda:0")


def moved_to_fake_gpu(method: Method, mode: FakeTensorMode, real: dict[int, torch.Tensor]) -> None:
    """Put fake tensors on a GPU into the places of all parameters and buffers; shared ones stay shared."""
    fakes: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in fakes:
            on_gpu = mode.from_tensor(real[id(tensor)]).to("cuda")
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            fakes[id(tensor)] = torch.nn.Parameter(on_gpu, tensor.requires_grad) if is_parameter else on_gpu
        return fakes[id(tensor)]

    for module in method.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(each) for name, each in tensors.items() if each is not None})


@pytest.mark.parametrize("name", METHODS)
def test_all_of_a_step_is_on_the_gpu(name: str) -> None:
    """Fake tensors know their device without there being one: whoever mixes two gets an error."""
    method, batches = make_method(**METHODS[name]), make_batches()
    held = [*method.parameters(), *method.buffers()]  # until the end, so that no id is given out again
    real = {id(each): each.detach().clone() for each in held}
    with FakeTensorMode() as mode:
        moved_to_fake_gpu(method, mode, real)
        labelled, unlabelled = (
            {key: mode.from_tensor(value).to("cuda") for key, value in given(batch).items()}
            for batch in batches
        )
        with pytest.raises(RuntimeError, match="devices"):
            labelled["image"] + torch.ones(4, 1, 1, 1)
        if method.random_state:
            method.random_state.generator = CudaGenerator()
        result = method(LabelledBatch(**labelled), UnlabelledBatch(**unlabelled), LATE)
    assert {each.device.type for each in (result.loss, *result.terms.by_name().values())} == {"cuda"}


@pytest.mark.parametrize("name", METHODS)
def test_step_calls_nothing_that_reads_a_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batches = make_method(**METHODS[name]), make_batches()
    step(method, batches)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a number of a tensor was read")

    # the CPU kernel of the masks takes numpy's arrays; what a GPU would run is its caller
    for part in ("joint_cutout", "holes"):
        monkeypatch.setattr(f"semipose.pipelines.strong.{part}.mask_keypoints", lambda *_: None)
    for reader in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, reader, refuse)
    step(method, batches)
