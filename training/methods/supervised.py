"""Supervised: training on the labelled batch alone, the baseline of every table."""

from typing import Literal

import torch

from semipose.configs.settings import settings
from semipose.models.net import FeatureNet
from semipose.pipelines.batch import LabelledBatch, LabelledPhotos, UnlabelledBatch
from semipose.training.methods.method import Ingredients, Method, Progress, StepResult, loss_terms


class Supervised(Method):
    """L = L_s: the maps of the labelled batch, of people or of whole photos, against their targets."""

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients.random_state)
        self.network = ingredients.make_network(None)
        self.codec = ingredients.codec

    def forward(
        self,
        labelled: LabelledBatch | LabelledPhotos,
        unlabelled: UnlabelledBatch | None,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> StepResult:
        """One step on the labelled batch."""
        parts = self.codec.supervised_losses(self.network(labelled.image), labelled)
        loss = torch.stack(list(parts.values())).sum()
        return StepResult(loss, loss_terms(loss, **{"supervised": loss} | parts))

    def unlabelled_share(self, progress: Progress) -> float:  # noqa: ARG002
        """0: the method uses no unlabelled people."""
        return 0.0

    def networks(self) -> dict[str, FeatureNet]:
        """The network."""
        return {"network": self.network}


@settings
class SupervisedSettings:
    """Train on the labelled people alone."""

    name: Literal["supervised"] = "supervised"

    num_networks = 1
    uses_unlabelled = False
    uses_every_parameter = True
    kinds = ("person", "image")
    options = None

    def settled_from(self, total_steps: int) -> int:  # noqa: ARG002
        """The first step: the loss has its full weight from the start."""
        return 0

    def build(self, ingredients: Ingredients) -> Supervised:
        """The method."""
        return Supervised(ingredients)
