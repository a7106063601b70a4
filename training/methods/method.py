"""The interface of a method: a module whose `forward` is one training step and reads like the paper."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import nn

from semipose.configs.errors import InputError
from semipose.models.net import FeatureNet, NetSettings
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.people import People, PhotoFrame
from semipose.training.methods.random_state import RandomState


@dataclass(frozen=True)
class Progress:
    """The current step, counted from 0, and the number of steps of the run."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class OptionNames:
    """The options of a method that a warning or a page can advise to change, as a user writes them."""

    trust: str
    """Those that decide which pseudo labels count."""
    teacher: str
    """That which lets the teacher learn longer before it teaches."""
    weight: str
    """Those that weigh the unlabelled losses."""


@dataclass(frozen=True)
class TeacherHealth:
    """What a teacher detects in a batch; a run warns if it collapses or if no label of it counts."""

    peak: torch.Tensor
    """The mean height of its peaks."""
    trusted_share: torch.Tensor
    """The share of its keypoints or people that count as labels."""
    cells: torch.Tensor | None = None
    """The share of its heatmap cells above 0.1."""

    def by_name(self, mark: str = "") -> dict[str, torch.Tensor]:
        """The terms for the report, with `mark` at the end of their names."""
        cells = {} if self.cells is None else {f"teacher_cells{mark}": self.cells}
        return {f"teacher_peak{mark}": self.peak, **cells, f"trusted_share{mark}": self.trusted_share}


@dataclass(frozen=True)
class Terms:
    """Scalars of a step for the report by kind, each by its name; detached, on the device.

    losses: `loss`, which is minimised, and its parts; all must stay finite. teachers: by the mark of the
    student that a teacher teaches; "" if there is one. shown: everything else.
    """

    losses: Mapping[str, torch.Tensor]
    teachers: Mapping[str, TeacherHealth] = field(default_factory=dict)
    shown: Mapping[str, torch.Tensor | float] = field(default_factory=dict)

    def __or__(self, other: "Terms") -> "Terms":
        """The terms of both."""
        return Terms(
            {**self.losses, **other.losses},
            {**self.teachers, **other.teachers},
            {**self.shown, **other.shown},
        )

    def marked(self, mark: str) -> "Terms":
        """The same with `mark` at the end of all names."""
        return Terms(
            *({f"{name}{mark}": term for name, term in kind.items()} for kind in vars(self).values())
        )

    def by_name(self) -> dict[str, torch.Tensor | float]:
        """All terms in one mapping, as they are logged."""
        health = [teacher.by_name(mark) for mark, teacher in self.teachers.items()]
        return {
            **self.losses,
            **{name: term for terms in health for name, term in terms.items()},
            **self.shown,
        }


def loss_terms(total: torch.Tensor, **parts: torch.Tensor) -> Terms:
    """The losses as terms for the report: `loss`, and `loss_PART` of each part."""
    named = {"loss": total, **{f"loss_{name}": part for name, part in parts.items()}}
    return Terms({name: loss.detach() for name, loss in named.items()})


@dataclass(frozen=True)
class StepResult:
    """The result of a step: the scalar to minimise, and the terms for the report."""

    loss: torch.Tensor
    terms: Terms


@dataclass(frozen=True)
class Ingredients:
    """What a method is built from.

    `make_network(net)` returns a network on the device, with new weights at each call, built from `net`, or
    from the recipe's own `net` if that is None. `codec` says what its maps mean: a HeatmapCodec,
    or an InstanceCodec for whole photos. `epoch_steps` is the number of steps that show every labelled and
    every unlabelled sample once, for teachers that are copied at the end of each epoch.
    """

    make_network: Callable[[NetSettings | None], FeatureNet]
    codec: Any
    random_state: RandomState
    epoch_steps: int = 1


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


class TeacherLabels(NamedTuple):
    """The people that a teacher finds in N plain views of whole photos, Q in each."""

    points_xy: torch.Tensor
    """(N, Q, K, 2) float32 view px."""
    was_found: torch.Tensor
    """(N, Q, K) bool: the other keypoints are guesses, or (0, 0)."""
    is_trusted: torch.Tensor
    """(N, Q, K) bool: keypoints that would be taught."""
    score: torch.Tensor
    """(N, Q) float32."""
    exists: torch.Tensor
    """(N, Q) bool."""
    is_kept: torch.Tensor
    """(N, Q) bool: people who would be taught."""


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
    def unlabelled_share(self, progress: Progress) -> float:
        """Which part of their full weight the unlabelled losses have in a step, from 0 to 1."""

    def wants_unlabelled(self, progress: Progress) -> bool:
        """Whether the step needs an unlabelled batch; if not, none is fetched."""
        return self.unlabelled_share(progress) > 0

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

    def find_people(self, views: torch.Tensor, frame: PhotoFrame) -> TeacherLabels | None:  # noqa: ARG002
        """The people that the teacher finds in plain views (N, 3, H, W) of whole photos, placed by `frame`.

        Nothing of the method's state changes. None without a teacher of whole photos.
        """
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


def named_layer(network: nn.Module, layer: str, *, setting: str) -> nn.Module:
    """The module of that name, like "backbone.layer3". Raises InputError, which lists similar names."""
    modules = {name: module for name, module in network.named_modules() if name}
    if layer not in modules:
        near = get_close_matches(layer, modules, n=3, cutoff=0.4) or list(modules)[:3]
        raise InputError(
            f"{setting}: the network has no layer '{layer}': name one of its modules, for instance "
            + ", ".join(near)
        )
    return modules[layer]
