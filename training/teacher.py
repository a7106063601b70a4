"""Who labels the weak views: the trained network itself, or an average of its past."""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from timm.utils import ModelEmaV3
from torch import nn

from configs.settings import settings
from models.net import PoseNet


class SharedTeacher(nn.Module):
    """The trained network itself in train mode, without gradient (methods.md 3.2 and 9, row 12)."""

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """(N, 3, H, W) images to (N, K, h, w) heatmaps; batch statistics of `network` move as in any pass."""
        return network(images)

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

    def train(self, mode: bool = True) -> "AverageTeacher":  # noqa: ARG002
        """Stays in eval mode: the average's own statistics are averaged ones."""
        return super().train(False)

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Move the average towards `network` after its optimiser step number `updates_done` (from 1)."""
        self.average.update(network, step=updates_done)

    def networks(self) -> dict[str, PoseNet]:
        """The average, which can be scored beside the network."""
        return {"average": cast(PoseNet, self.average.module)}


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


TeacherSettings = Annotated[SharedTeacherSettings | AverageTeacherSettings, Field(discriminator="name")]
