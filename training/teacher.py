"""The teachers that label weak views: the trained network, its moving average, or its previous epoch."""

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
        """(N, 3, H, W) images to (N, K, h, w) heatmaps; the pass updates the batch statistics."""
        return network(images)

    def source(self, network: nn.Module) -> nn.Module:
        """The module that gives the labels: `network` itself."""
        return network

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Nothing to do: the network is its own teacher."""

    def networks(self) -> dict[str, PoseNet]:
        """Empty: it has no network of its own."""
        return {}


class AverageTeacher(nn.Module):
    """An exponential moving average of the network's parameters and buffers, in eval mode."""

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        # With power 1 the average starts as the plain mean of all steps, and its decay rises to `momentum`.
        self.average = ModelEmaV3(network, decay=momentum, use_warmup=True, warmup_power=1.0)
        self.average.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:  # noqa: ARG002
        """(N, 3, H, W) images to (N, K, h, w) heatmaps of the average."""
        return self.average.module(images)

    def source(self, network: nn.Module) -> nn.Module:  # noqa: ARG002
        """The module that gives the labels: the average."""
        return self.average.module

    def train(self, mode: bool = True) -> "AverageTeacher":  # noqa: ARG002
        """Stay in eval mode: the average's batch statistics are averages too."""
        return super().train(False)

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Move the average towards `network` after its optimiser step `updates_done` (counted from 1)."""
        self.average.update(network, step=updates_done)

    def networks(self) -> dict[str, PoseNet]:
        """The average, which can be scored like the network."""
        return {"average": cast(PoseNet, self.average.module)}


class PreviousEpochTeacher(nn.Module):
    """The network as it was at the end of the previous epoch (SSPCM; docs/methods.md 4.1).

    In the first epoch it is the network with its initial weights. The copy runs in the mode that `network` is
    in when the teacher is made: in train mode, as published, or in eval mode if it copies an average.
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
        """Set the mode; the copy of an average stays in eval mode."""
        return super().train(mode and self._is_trained)

    def source(self, network: nn.Module) -> nn.Module:  # noqa: ARG002
        """The module that gives the labels: the copy."""
        return self.previous

    @torch.no_grad()
    def update(self, network: nn.Module, updates_done: int) -> None:
        """Copy `network` if its optimiser step number `updates_done` (counted from 1) ended an epoch."""
        if updates_done % self.epoch_steps == 0:
            source, own = network.state_dict(), self.previous.state_dict()
            for name, value in own.items():
                value.copy_(source[name])

    def networks(self) -> dict[str, PoseNet]:
        """Empty: the copy is not scored."""
        return {}


@settings
class SharedTeacherSettings:
    """The trained network itself, without gradient and with batch norm in train mode (published)."""

    name: Literal["shared"] = "shared"

    def build(self, network: nn.Module) -> SharedTeacher:  # noqa: ARG002
        """The teacher of `network`."""
        return SharedTeacher()


@settings
class AverageTeacherSettings:
    """An exponential moving average of the network, in eval mode."""

    name: Literal["ema"] = "ema"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Share of the average that each step keeps, once it has warmed up."""

    def build(self, network: nn.Module) -> AverageTeacher:
        """The teacher of `network`, which starts as a copy of it."""
        return AverageTeacher(network, self.momentum)


@settings
class PreviousEpochTeacherSettings:
    """The network as it was at the end of the previous epoch."""

    name: Literal["previous_epoch"] = "previous_epoch"
    epoch_steps: Annotated[int, Field(ge=1)] = 4_682
    """Steps per epoch."""

    def build(self, network: nn.Module) -> PreviousEpochTeacher:
        """The teacher of `network`, which starts as a copy of it."""
        return PreviousEpochTeacher(network, self.epoch_steps)


TeacherSettings = Annotated[
    SharedTeacherSettings | AverageTeacherSettings | PreviousEpochTeacherSettings, Field(discriminator="name")
]
