"""More labelled people beside those of `data.train`: labelled by a model, or from another data set.

They join the labelled batch, so every method learns from them with the loss that it has for labelled people,
and no method knows of them. With n labelled people, m people of a source and its weight w, the visibilities
are scaled such that the mean over all n + m people is L_s of the labelled ones + w L_s of the source.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from semipose.pipelines.batch import LabelledBatch
from semipose.pipelines.train_loader import TrainLoader


@dataclass(frozen=True)
class LabelSource:
    """The stream of one source, in the keypoints of the run.

    hands_over: whether its weight falls to 0 as the unlabelled losses of the method rise.
    """

    loader: TrainLoader[LabelledBatch]
    weight: float
    hands_over: bool

    def weight_in(self, unlabelled_share: float) -> float:
        """The weight in a step in which the unlabelled losses have this share of their full weight."""
        return self.weight * (1 - unlabelled_share) if self.hands_over else self.weight


def with_sources(
    labelled: LabelledBatch, sources: Sequence[LabelSource], unlabelled_share: float
) -> LabelledBatch:
    """The labelled batch, followed by one of each source that has a weight in this step."""
    weights = [source.weight_in(unlabelled_share) for source in sources]
    batches = [(labelled, 1.0)]
    batches += [
        (next(each.loader), weight) for each, weight in zip(sources, weights, strict=True) if weight > 0
    ]
    if len(batches) == 1:
        return labelled
    total = sum(len(batch.image) for batch, _ in batches)
    return LabelledBatch(
        image=torch.cat([batch.image for batch, _ in batches]),
        points_xy=torch.cat([batch.points_xy for batch, _ in batches]),
        visible=torch.cat([batch.visible * (weight * total / len(batch.image)) for batch, weight in batches]),
    )
