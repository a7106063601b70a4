"""What every method is: a module whose forward is the training step and reads like the paper."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from models.net import PoseNet
from pipelines.batch import LabelledBatch, UnlabelledBatch


@dataclass(frozen=True)
class Progress:
    """Where the run stands: `step` counts from 0."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class StepResult:
    """What a step gives: the scalar to minimise, and detached device scalars for the report."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Inspection:
    """What one unlabelled batch looks like to a method, for the picture sheet (M samples).

    `weak`, `strong`, `masked` (M, 3, H, W) normalised; `mixed` too, or None; `heatmaps`, `target`
    (M, K, h, w) of the weak and the strong view; `points_weak`, `points_strong` (M, K, 2) view px; `counts`
    (M,) of masks.
    """

    weak: torch.Tensor
    strong: torch.Tensor
    masked: torch.Tensor
    mixed: torch.Tensor | None
    heatmaps: torch.Tensor
    target: torch.Tensor
    points_weak: torch.Tensor
    points_strong: torch.Tensor
    counts: torch.Tensor


class Method(nn.Module, ABC):
    """A training method; its parameters and buffers and `rank_state` are its whole state."""

    @abstractmethod
    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One training step up to the loss."""

    @abstractmethod
    def wants_unlabelled(self, progress: Progress) -> bool:
        """Whether the step reads the unlabelled batch; where not, none is fetched."""

    def after_update(self, progress: Progress) -> None:
        """Called once the optimiser has moved the parameters."""

    @abstractmethod
    def networks(self) -> dict[str, PoseNet]:
        """The networks to score by name; the first is the product."""

    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection | None:  # noqa: ARG002
        """What the method makes of `unlabelled`, with no trace in its state; None where that is nothing."""
        return None

    def rank_state(self) -> dict[str, torch.Tensor]:
        """The state that differs from rank to rank: its random generators."""
        return {}

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `rank_state` gave."""
