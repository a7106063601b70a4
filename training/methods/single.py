"""Single: one network, whose heatmaps of the weak view are the target of its strong views.

With one path that shows the strong view unchanged, this is the affine consistency of Xie et al. (ICCV 2021,
"PoseCons"); with `joint_cutout` it is their Joint Cutout; with `adaptive_masks` and the Mixup branch it is
the method of Meng et al. (arXiv 2404.14835); with four paths it is MultiAugs (single).
"""

from typing import Annotated, Literal

from pydantic import Field

from semipose.configs.settings import settings
from semipose.models.net import FeatureNet
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
from semipose.training.methods.mixup import MixupSettings
from semipose.training.teacher import Ensemble


@settings
class SingleSettings(ConsistencySettings):
    """Consistency of one network between a weak and several strong views of the unlabelled people."""

    name: Literal["single"] = "single"
    mixup: MixupSettings | None = MixupSettings()
    """The Mixup branch; null: none."""
    weight: Annotated[float, Field(ge=0)] = 0.7
    """Weight of the sum of the paths' losses (lambda_u)."""

    num_networks = 1

    def build(self, ingredients: Ingredients) -> "Single":
        """The method."""
        return Single(self, ingredients)


class Single(ConsistencyMethod):
    """L = L_s + ramp (lambda_u L_u + lambda_m L_m): Equation 1 of Meng et al., L_m by their Equation 4."""

    def __init__(self, cfg: ConsistencySettings, ingredients: Ingredients) -> None:
        super().__init__(cfg, ingredients)
        self.network = ingredients.make_network(None)
        self.teacher = cfg.teacher.build(self.network, ingredients.epoch_steps)
        self.ensemble = Ensemble(cfg.ensemble, ingredients.codec, self.network)
        self.mixup = cfg.mixup_branch(self.network, ingredients)

    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step: labelled, weak (teacher), strong paths, mixed; in this order (docs/methods.md 3.2)."""
        cfg = self.cfg
        loss = loss_supervised = self.codec.supervised_loss(self.network(labelled.image), labelled)  # L_s
        terms = Terms({})
        if unlabelled is not None:
            labels = self.labels(unlabelled)
            student = self.student_losses(self.network, self.mixup, unlabelled, labels)
            loss_unlabelled = cfg.weight * student.unlabelled + cfg.mixup_weight * student.mixed
            loss = loss_supervised + cfg.ramp(progress) * loss_unlabelled
            terms = student.terms
        return StepResult(loss, loss_terms(loss, supervised=loss_supervised) | terms)

    def labels(self, unlabelled: UnlabelledBatch) -> PseudoLabels:
        """The teacher's labels of the weak views."""
        heatmaps = self.ensemble(lambda views: self.teacher(views, self.network), unlabelled.weak)
        return self.pseudo_labels(heatmaps)

    def after_update(self, progress: Progress) -> None:
        """Update the teacher."""
        self.teacher.update(self.network, progress.step + 1)

    def networks(self) -> dict[str, FeatureNet]:
        """The network, and the teacher's own if it has one."""
        return {"network": self.network, **self.teacher.networks()}

    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection:
        """What the student sees."""
        with self.without_trace():
            labels = self.labels(unlabelled)
            return self.inspect_student(self.mixup, unlabelled, labels)
