"""The step of `supervised` against a plain computation (docs/methods.md 1.4, 3.1)."""

import copy
import math

import torch

from semipose.pipelines.batch import LabelledBatch
from tests.training.tiny import LATE, SIGMA, SIZE_HW, K, make_batches, make_method


def plain_loss(heatmaps: torch.Tensor, labelled: LabelledBatch) -> float:
    """Half the mean squared error over people, keypoints and cells, one by one; 0 where none is labelled."""
    total = 0.0
    reach = 3 * SIGMA
    for n in range(len(heatmaps)):
        for k in range(K):
            if not labelled.visible[n, k]:
                continue
            x_cells, y_cells = (labelled.points_xy[n, k] / 4).tolist()
            x_near, y_near = (math.floor(each + 0.5) for each in (x_cells, y_cells))
            for y in range(SIZE_HW[0] // 4):
                for x in range(SIZE_HW[1] // 4):
                    is_near = abs(x - x_near) <= reach and abs(y - y_near) <= reach
                    away = (x - x_cells) ** 2 + (y - y_cells) ** 2
                    target = math.exp(-away / (2 * SIGMA**2)) if is_near else 0.0
                    total += (heatmaps[n, k, y, x].item() - target) ** 2
    return 0.5 * total / heatmaps.numel()


def test_the_loss_is_that_of_gaussians_at_the_labelled_keypoints() -> None:
    method = make_method("supervised")
    labelled, _ = make_batches()
    labelled.visible[0, 1:3] = labelled.visible[2, 4] = 0
    heatmaps = copy.deepcopy(method.network)(labelled.image).detach()
    result = method(labelled, None, LATE)
    assert torch.isclose(result.loss, torch.tensor(plain_loss(heatmaps, labelled)), rtol=1e-4)
    assert set(result.terms.by_name()) == {"loss", "loss_supervised"}  # the names that every method has
    assert result.terms.by_name()["loss_supervised"] == result.terms.by_name()["loss"]
    assert not method.wants_unlabelled(LATE)
