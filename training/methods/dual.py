"""Dual: two networks that teach each other (PoseDual, Xie et al., ICCV 2021; docs/methods.md 3.3).

With several paths this is MultiAugs (dual).
"""

from typing import Literal

import torch

from semipose.configs.settings import settings
from semipose.models.net import FeatureNet, NetSettings
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.training.methods.consistency import ConsistencyMethod, ConsistencySettings, PseudoLabels
from semipose.training.methods.method import (
    Ingredients,
    Inspection,
    Progress,
    StepResult,
    Terms,
    loss_terms,
)
from semipose.training.teacher import Ensemble


@settings
class DualSettings(ConsistencySettings):
    """Two networks, each taught by the other's heatmaps of the weak views."""

    name: Literal["dual"] = "dual"
    second_net: NetSettings | None = None
    """The second network, if it differs, for instance in its pretrained weights; null: the same as `net`,
    with other initial weights."""

    num_networks = 2

    def build(self, ingredients: Ingredients) -> "Dual":
        """The method."""
        return Dual(self, ingredients)


class Dual(ConsistencyMethod):
    """L = (L_s1 + L_s2) / 2 + ramp (L_1 + L_2): the other network's labels teach each one's strong branches.

    The keypoints that are masked in a network's images are also those that the other network found.
    """

    def __init__(self, cfg: DualSettings, ingredients: Ingredients) -> None:
        super().__init__(cfg, ingredients)
        self.first = ingredients.make_network(None)
        self.second = ingredients.make_network(cfg.second_net)
        self.first_teacher = cfg.teacher.build(self.first, ingredients.epoch_steps)
        self.second_teacher = cfg.teacher.build(self.second, ingredients.epoch_steps)
        self.ensemble = Ensemble(cfg.ensemble, ingredients.codec, self.first)
        self.first_mixup = cfg.mixup_branch(self.first, ingredients)
        self.second_mixup = cfg.mixup_branch(self.second, ingredients)

    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step: labelled, weak and strong views through both networks."""
        cfg = self.cfg
        supervised = [
            self.codec.supervised_loss(network(labelled.image), labelled)
            for network in (self.first, self.second)
        ]
        loss = loss_supervised = torch.stack(supervised).mean()
        terms = Terms({})
        if unlabelled is not None:
            of_first, of_second = self.labels(unlabelled)
            one = self.student_losses(self.first, self.first_mixup, unlabelled, of_second)
            two = self.student_losses(self.second, self.second_mixup, unlabelled, of_first)
            loss_1 = cfg.weight * one.unlabelled + cfg.mixup_weight * one.mixed
            loss_2 = cfg.weight * two.unlabelled + cfg.mixup_weight * two.mixed
            loss = loss_supervised + cfg.ramp(progress) * (loss_1 + loss_2)
            terms = one.terms.marked("_1") | two.terms.marked("_2")
        return StepResult(loss, loss_terms(loss, supervised=loss_supervised) | terms)

    def labels(self, unlabelled: UnlabelledBatch) -> tuple[PseudoLabels, PseudoLabels]:
        """The labels that each network's teacher gives to the weak views."""
        first = self.ensemble(lambda views: self.first_teacher(views, self.first), unlabelled.weak)
        second = self.ensemble(lambda views: self.second_teacher(views, self.second), unlabelled.weak)
        return self.pseudo_labels(first), self.pseudo_labels(second)

    def after_update(self, progress: Progress) -> None:
        """Update the teachers."""
        self.first_teacher.update(self.first, progress.step + 1)
        self.second_teacher.update(self.second, progress.step + 1)

    def networks(self) -> dict[str, FeatureNet]:
        """Both networks, and the teachers' own if they have any."""
        teachers = {f"{name}_1": net for name, net in self.first_teacher.networks().items()}
        teachers |= {f"{name}_2": net for name, net in self.second_teacher.networks().items()}
        return {"network_1": self.first, "network_2": self.second, **teachers}

    def ensembles(self) -> dict[str, tuple[str, ...]]:
        """The mean heatmaps of both networks."""
        return {"both": ("network_1", "network_2")}

    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection:
        """What the first network sees."""
        with self.without_trace():
            labels = self.labels(unlabelled)[1]
            return self.inspect_student(self.first_mixup, unlabelled, labels)
