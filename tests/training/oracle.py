"""A network that knows the answers, for tests of everything after the heatmaps."""

from collections.abc import Iterable, Iterator

import torch

from semipose.models.codecs.heatmap import encode
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.geometry import apply, invert
from semipose.sharding.store.ground_truth import GroundTruth


class Oracle:
    """Answers with the heatmaps of the annotated points, moved by `offset_px` of the view."""

    def __init__(self, ground_truth: GroundTruth, *, offset_px: float = 0.0) -> None:
        self.ground_truth, self.offset_px = ground_truth, offset_px
        self.batch: EvalBatch | None = None
        self.calls = 0

    def watch(self, batches: Iterable[EvalBatch]) -> Iterator[EvalBatch]:
        """Pass the batches on and remember the one at hand."""
        for self.batch in batches:
            yield self.batch

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        assert self.batch is not None
        truth = self.ground_truth.keypoints_of(self.batch.records)
        points = apply(invert(self.batch.image_from_view), torch.from_numpy(truth[..., :2])) + self.offset_px
        heatmap_hw = (images.shape[-2] // 4, images.shape[-1] // 4)
        return encode(points, torch.from_numpy(truth[..., 2] > 0).float(), heatmap_hw, 4, 2.0)[0]
