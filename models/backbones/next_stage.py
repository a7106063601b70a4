"""A stage of a backbone whose features are all read by the head."""

from torch import Tensor, nn


class NextStage(nn.Sequential):
    """Features [(N, C, h, w), ...] of the stages so far -> the same and the output for the last one.

    In this way all features that the heatmaps depend on enter the stage, and mixing its inputs mixes the
    heatmaps completely. If it took only the last feature, finer ones would bypass it on their way to the
    head.
    """

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [*features, super().forward(features[-1])]
