"""L_s, the loss of the labelled people, which every method uses."""

from torch import Tensor

from models.codecs.heatmap import HeatmapCodec
from models.net import PoseNet
from pipelines.batch import LabelledBatch


def supervised_loss(network: PoseNet, labelled: LabelledBatch, codec: HeatmapCodec) -> Tensor:
    """L_s: the network's heatmaps compared with Gaussians at the labelled keypoints (docs/methods.md 3.1)."""
    predicted = network(labelled.image)
    target, weights = codec.targets(labelled.points_xy, labelled.visible, predicted.shape[-2:])
    return codec.loss(predicted, target, weights[:, :, None, None])
