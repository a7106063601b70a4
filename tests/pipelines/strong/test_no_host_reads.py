"""No strong augmentation and no mixing reads a number back to the host, which would stop a GPU's queue."""

import contextlib
from collections.abc import Iterator
from typing import get_args
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from semipose.pipelines.masking.masks import draw_order
from semipose.pipelines.strong import Scene, StrongAugmentation
from semipose.training.methods.mixup import draw_alpha, mix

AUGMENTATIONS = [augmentation() for augmentation in get_args(get_args(StrongAugmentation)[0])]
SHAPES = [(4, 3, 64, 48), (4, 17), (4, 17, 2), (4, 2, 3)]
READERS = ["item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__"]


def name_of(augmentation) -> str:
    return augmentation.name


def augment_and_mix(augmentation, generator: torch.Generator, views: list[torch.Tensor]) -> torch.Tensor:
    strong, peaks, points_weak, strong_from_weak = views
    images, _ = augmentation.apply(
        strong.clone(), Scene(strong, peaks, points_weak, strong_from_weak), generator
    )
    alpha = draw_alpha(0.75, generator=generator)
    return mix(images, alpha, draw_order(1, len(images), generator=generator)[0])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_augmentation_runs_on_tensors_without_numbers(augmentation) -> None:
    """Fake tensors have shapes only: whoever asks one for its number gets an error."""
    generator = torch.Generator().manual_seed(0)
    with FakeTensorMode() as fake:
        views = [fake.from_tensor(torch.ones(shape)) for shape in SHAPES]
        with pytest.raises(DataDependentOutputException):
            views[0].sum().item()
        assert augment_and_mix(augmentation, generator, views).shape == (4, 3, 64, 48)


class NoHostCopies(TorchDispatchMode):
    """Refuses what FakeTensorMode lets pass: tensors made of the host's numbers, and selection by masks."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        # `torch.tensor([...])` lifts what it copied: on a GPU a copy that the host waits for
        assert name not in {"lift_fresh", "nonzero", "masked_select", "_local_scalar_dense"}, name
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def refused(names: list[str]) -> Iterator[None]:
    """Calls of these methods of tensors are errors."""
    with contextlib.ExitStack() as stack:
        for name in names:
            error = AssertionError(f"Tensor.{name} was called")
            stack.enter_context(mock.patch.object(torch.Tensor, name, side_effect=error))
        yield


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_augmentation_makes_no_tensor_from_the_host_and_reads_none(augmentation) -> None:
    views = [torch.ones(shape) for shape in SHAPES]
    with NoHostCopies(), pytest.raises(AssertionError, match="lift_fresh"):
        torch.tensor([1.0, 2.0])
    # the CPU kernel of the masks takes numpy's arrays; what a GPU would run is its caller
    kernel = (
        mock.patch("semipose.pipelines.strong.joint_cutout.mask_keypoints"),
        mock.patch("semipose.pipelines.strong.holes.mask_keypoints"),
    )
    with kernel[0], kernel[1], NoHostCopies(), refused(READERS):
        augment_and_mix(augmentation, torch.Generator().manual_seed(0), views)


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_augmentation_does_not_wait_for_the_gpu(augmentation) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    views = [torch.ones(shape, device="cuda") for shape in SHAPES]
    augment_and_mix(augmentation, generator, views)  # compiles the kernel
    with contextlib.ExitStack() as stack:
        torch.cuda.set_sync_debug_mode("error")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        augment_and_mix(augmentation, generator, views)
