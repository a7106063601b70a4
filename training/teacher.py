"""Who labels the weak views: the trained network, an average of its past, or what it was an epoch ago."""

import copy
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from timm.utils import ModelEmaV3
from torch import nn

from configs.settings import settings
from models.net import PoseNet


class SharedTeacher(nn.Module):
    """The trained network itself in train mode, without gradient (docs/methods.md 3.2 and 9, row 12)."""

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """(N, 3, H, W) images to (N, K, h, w) heatmaps; batch statistics of `network` move as in any pass."""
        return network(images)

    def source(self, network: nn.Module) -> nn.Module:
        """The module that answers: `network` itself."""
        return network

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Nothing to do: the network is its own teacher."""

    def networks(self) -> dict[str, PoseNet]:
        """No network of its own."""
        return {}


class AverageTeacher(nn.Module):
    """An exponential moving average of the network's parameters and buffers, in eval mode."""

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        # With power 1 the average begins as the plain mean of all steps and stiffens to `momentum`.
        self.average = ModelEmaV3(network, decay=momentum, use_warmup=True, warmup_power=1.0)
        self.average.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:  # noqa: ARG002
        """(N, 3, H, W) images to (N, K, h, w) heatmaps of the average."""
        return self.average.module(images)

    def source(self, network: nn.Module) -> nn.Module:  # noqa: ARG002
        """The module that answers: the average."""
        return self.average.module

    def train(self, mode: bool = True) -> "AverageTeacher":  # noqa: ARG002
        """Stays in eval mode: the average's own statistics are averaged ones."""
        return super().train(False)

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Move the average towards `network` after its optimiser step number `updates_done` (from 1)."""
        self.average.update(network, step=updates_done)

    def networks(self) -> dict[str, PoseNet]:
        """The average, which can be scored beside the network."""
        return {"average": cast(PoseNet, self.average.module)}


class PreviousEpochTeacher(nn.Module):
    """The network as it was at the end of the previous epoch (SSPCM; docs/methods.md 4.1).

    In the first epoch the network as it began. The copy answers in the mode that `network` is in when the
    teacher is made: in train mode as published, or, where it copies an average, in eval mode like that one.
    """

    def __init__(self, network: nn.Module, epoch_steps: int) -> None:
        super().__init__()
        self.epoch_steps = epoch_steps
        self.previous = copy.deepcopy(network).requires_grad_(False)
        self._is_trained = network.training

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:  # noqa: ARG002
        """(N, 3, H, W) images to (N, K, h, w) heatmaps of the copy, without gradient."""
        return self.previous(images)

    def train(self, mode: bool = True) -> "PreviousEpochTeacher":
        """The copy of an average stays in eval mode."""
        return super().train(mode and self._is_trained)

    def source(self, network: nn.Module) -> nn.Module:  # noqa: ARG002
        """The module that answers: the copy."""
        return self.previous

    @torch.no_grad()
    def update(self, network: nn.Module, updates_done: int) -> None:
        """Copy `network` where its optimiser step number `updates_done` (from 1) was the last of an epoch."""
        if updates_done % self.epoch_steps == 0:
            source, own = network.state_dict(), self.previous.state_dict()
            for name, value in own.items():
                value.copy_(source[name])

    def networks(self) -> dict[str, PoseNet]:
        """No network worth a score of its own."""
        return {}


@settings
class SharedTeacherSettings:
    """The trained network itself, stop-gradient, train-mode batch norm (published)."""

    name: Literal["shared"] = "shared"

    def build(self, network: nn.Module) -> SharedTeacher:  # noqa: ARG002
        """The teacher of `network`."""
        return SharedTeacher()


@settings
class AverageTeacherSettings:
    """An exponential moving average of the network, in eval mode."""

    name: Literal["ema"] = "ema"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """How much of the average stays in a step, once warm."""

    def build(self, network: nn.Module) -> AverageTeacher:
        """The teacher of `network`, which begins as its copy."""
        return AverageTeacher(network, self.momentum)


@settings
class PreviousEpochTeacherSettings:
    """The network as it was at the end of the previous epoch."""

    name: Literal["previous_epoch"] = "previous_epoch"
    epoch_steps: Annotated[int, Field(ge=1)] = 4_682
    """Steps of an epoch."""

    def build(self, network: nn.Module) -> PreviousEpochTeacher:
        """The teacher of `network`, which begins as its copy."""
        return PreviousEpochTeacher(network, self.epoch_steps)


TeacherSettings = Annotated[
    SharedTeacherSettings | AverageTeacherSettings | PreviousEpochTeacherSettings, Field(discriminator="name")
]
