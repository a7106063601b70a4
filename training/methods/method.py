"""The interface of a method: a module whose `forward` is one training step and reads like the paper."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from semipose.models.net import FeatureNet, NetSettings
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.people import People
from semipose.training.methods.random_state import RandomState


@dataclass(frozen=True)
class Progress:
    """The current step, counted from 0, and the number of steps of the run."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class StepResult:
    """The result of a step: the scalar to minimise, and detached scalars on the device for the report."""

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]


def loss_terms(losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The losses as terms for the report, `loss_NAME`."""
    return {f"loss_{name}": loss.detach() for name, loss in losses.items()}


@dataclass(frozen=True)
class Ingredients:
    """What a method is built from.

    `make_network(net)` returns a network on the device, with new weights at each call, built from `net`, or
    from the recipe's own `net` if that is None. `codec` says what its maps mean: a HeatmapCodec,
    or an InstanceCodec for whole photos.
    """

    make_network: Callable[[NetSettings | None], FeatureNet]
    codec: Any
    random_state: RandomState


@dataclass(frozen=True)
class Inspection:
    """What a method makes of one unlabelled batch of M samples, for the picture sheet.

    `weak`, `strong` and every value of `augmented`, by its name: (M, 3, H, W), normalised; in `mixed` each
    sample is mixed half and half with the next, and the last with the first.
    `heatmaps`, `target`: (M, K, h, w), in the weak and in the strong view. `points_weak`, `points_strong`:
    (M, K, 2) view px.
    """

    weak: torch.Tensor
    strong: torch.Tensor
    augmented: dict[str, torch.Tensor]
    heatmaps: torch.Tensor
    target: torch.Tensor
    points_weak: torch.Tensor
    points_strong: torch.Tensor


@dataclass(frozen=True)
class PhotoInspection:
    """What a method makes of N unlabelled photos, for the picture sheet; Q people are decoded from each.

    `weak`, `strong`: (N, 3, H, W), normalised, `strong` as the student sees it. `found`: the teacher's people
    in the weak view, with their keypoints that count; their `scores` (N, Q); who is `kept` and `ignored`, in
    the strong view. Row q is the same person in all of them. `target` (N, C, h, w): the heatmaps that the
    student is taught, and `weights` (N, C, h, w) of their cells. `answer` (N, C, h, w): the student's own.
    """

    weak: torch.Tensor
    strong: torch.Tensor
    found: People
    scores: torch.Tensor
    kept: People
    ignored: People
    target: torch.Tensor
    weights: torch.Tensor
    answer: torch.Tensor


class Method(nn.Module, ABC):
    """A training method. Its parameters, its buffers and `rank_state` are its whole state.

    random_state: the random numbers of its steps, if it uses any.
    """

    def __init__(self, random_state: RandomState | None = None) -> None:
        super().__init__()
        self.random_state = random_state

    @abstractmethod
    def forward(self, labelled: Any, unlabelled: UnlabelledBatch | None, progress: Progress) -> StepResult:
        """One training step up to the loss; `labelled` is a LabelledBatch or LabelledPhotos."""

    @abstractmethod
    def wants_unlabelled(self, progress: Progress) -> bool:
        """Whether the step needs an unlabelled batch; if not, none is fetched."""

    def after_update(self, progress: Progress) -> None:
        """Called after each step of the optimiser."""

    def rate_position(self, progress: Progress) -> Progress:
        """The position in the learning rate's schedule; a method that trains twice runs through it twice."""
        return progress

    @abstractmethod
    def networks(self) -> dict[str, FeatureNet]:
        """The networks to score, by name; the first is the final network."""

    def ensembles(self) -> dict[str, tuple[str, ...]]:
        """Ensembles to score: the name of each, and the names of the networks whose heatmaps it averages."""
        return {}

    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection | PhotoInspection | None:  # noqa: ARG002
        """What the method makes of `unlabelled`, with no change of its state; None if it uses none."""
        return None

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """In eval mode and without gradient; afterwards the random state and the mode are restored."""
        state, was_training = self.rank_state(), self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)
            self.load_rank_state(state)

    def rank_state(self) -> dict[str, torch.Tensor]:
        """The state that differs between ranks: that of the random numbers."""
        return self.random_state.state() if self.random_state else {}

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `rank_state` returned; supervised runs of older versions saved nothing."""
        if self.random_state and state:
            self.random_state.load(state)
