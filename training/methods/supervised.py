"""Supervised: training on the labelled batch alone, the baseline of every table."""

from typing import Literal

from configs.settings import settings
from models.net import PoseNet
from pipelines.batch import LabelledBatch, UnlabelledBatch
from training.methods.method import Ingredients, Method, Progress, StepResult


class Supervised(Method):
    """L = L_s: the heatmaps of the labelled batch against their targets."""

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__()
        self.network = ingredients.make_network(None)
        self.codec = ingredients.codec

    def forward(
        self,
        labelled: LabelledBatch,
        unlabelled: UnlabelledBatch | None,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> StepResult:
        """One step on the labelled batch."""
        loss = self.codec.supervised_loss(self.network(labelled.image), labelled)
        return StepResult(loss, {"loss": loss.detach(), "loss_supervised": loss.detach()})

    def wants_unlabelled(self, progress: Progress) -> bool:  # noqa: ARG002
        """False: the method uses no unlabelled people."""
        return False

    def networks(self) -> dict[str, PoseNet]:
        """The network."""
        return {"network": self.network}


@settings
class SupervisedSettings:
    """Train on the labelled people alone."""

    name: Literal["supervised"] = "supervised"

    num_networks = 1
    uses_unlabelled = False
    uses_every_parameter = True

    def settled_from(self, total_steps: int) -> int:  # noqa: ARG002
        """The first step: the loss has its full weight from the start."""
        return 0

    def build(self, ingredients: Ingredients) -> Supervised:
        """The method."""
        return Supervised(ingredients)
