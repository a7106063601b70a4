"""A stage of a backbone whose features are all read by the head."""

from torch import Tensor, nn


class NextStage(nn.Sequential):
    """Features [(N, C, h, w), ...] of the stages so far -> the same, and what its modules make of the last.

    So all that the heatmaps will be made of enters it, and mixing what enters it mixes them whole; taking the
    last one alone, finer features would go past it to the head.
    """

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [*features, super().forward(features[-1])]
