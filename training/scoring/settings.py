"""The settings of scoring, apart from the metric."""

from typing import Literal

from semipose.configs.settings import settings

Metric = Literal["AP", "PCK", "PCKh", "AIC"]
"""The scores by which the best scoring of a run can be chosen: OKS average precision of COCO, PCK@0.2 of the
torso, MPII's PCKh@0.5, AI Challenger's own mean precision. What a split can give:
training/scoring/metrics.py."""


@settings
class EvaluationSettings:
    """How the people of `data.val` are predicted."""

    flip_test: bool = False
    """Average the heatmaps of each view and of its mirror image, with twice as many forward passes
    (published: off for 1K, 5K and 10K labels; on for COCO's test-dev and MPII's test set)."""
