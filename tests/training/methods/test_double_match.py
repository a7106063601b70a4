"""The step of `double_match`: a heatmap loss and a feature loss."""

import copy

import pytest
import torch
import torch.nn.functional as F

from semipose.configs.load import InputError
from semipose.models.codecs.heatmap import heatmap_loss, warp
from semipose.pipelines.batch import UnlabelledBatch
from tests.training.tiny import CODEC, LATE, make_batches, make_method


@pytest.mark.parametrize("teacher", ["shared", "ema"])
def test_the_loss_adds_one_minus_the_cosine_of_the_projected_features(teacher: str) -> None:
    method = make_method(
        "double_match", paths=[[]], weight=0.5, feature_weight=0.2, teacher={"name": teacher}
    )
    labelled, unlabelled = make_batches()
    student = copy.deepcopy(method.network)
    labeller = student if teacher == "shared" else copy.deepcopy(method.teacher.average.module)
    total = CODEC.supervised_loss(student(labelled.image), labelled)
    with torch.no_grad():
        weak_features = labeller.backbone(unlabelled.weak)
        heatmaps = labeller.head(weak_features)
    strong_features = student.backbone(unlabelled.strong)
    target, inside = warp(heatmaps, unlabelled.strong_from_weak, 4)
    total = total + 0.5 * heatmap_loss(student.head(strong_features), target, inside)
    moved, shown = warp(weak_features[-1], unlabelled.strong_from_weak, 16)
    cosine = F.cosine_similarity(method.projection(strong_features[-1]), moved, dim=1)
    feature = ((1 - cosine) * shown[:, 0]).sum() / shown.sum()
    result = method(labelled, unlabelled, LATE)
    assert torch.isclose(result.terms.by_name()["loss_feature"], feature)
    assert torch.isclose(result.loss, total + 0.2 * feature)


def test_features_of_the_paths_are_matched_not_those_of_the_mixtures() -> None:
    with_mixup = make_method("double_match", paths=[[], []], mixup={"layers": ["input"], "weight": 0.0})
    without = make_method("double_match", paths=[[], []])
    losses = [method(*make_batches(), LATE).loss for method in (with_mixup, without)]
    assert torch.isclose(*losses)


def test_the_feature_loss_teaches_the_projection_and_the_backbone_alone() -> None:
    method = make_method("double_match", paths=[[]], weight=0.0, layer="backbone.layer2")
    labelled, unlabelled = make_batches()
    blank = make_method("double_match", paths=[[]], weight=0.0, feature_weight=0.0)
    method(labelled, unlabelled, LATE).loss.backward()
    blank(labelled, unlabelled, LATE).loss.backward()
    assert method.projection.weight.grad.abs().sum() > 0
    last = method.network.head.final.weight.grad
    assert torch.allclose(last, blank.network.head.final.weight.grad)
    first = method.network.backbone.stem[0].conv.weight.grad
    assert not torch.allclose(first, blank.network.backbone.stem[0].conv.weight.grad)


def test_the_features_of_an_ensemble_are_those_of_the_view_itself() -> None:
    plain, mirrored = (make_method("double_match", paths=[[]], ensemble={"flip": on}) for on in (False, True))
    batches = make_batches()
    terms = [method(*batches, LATE).terms.by_name()["loss_feature"] for method in (plain, mirrored)]
    assert torch.isclose(*terms, atol=2e-3)
    with pytest.raises(ValueError, match=r"begin with 1\.0"):
        make_method("double_match", ensemble={"scales": [0.8, 1.0]})


def test_features_are_carried_by_the_distance_of_their_cells_where_sizes_were_rounded_up() -> None:
    """A width of 40 px gives three cells at stride 16: a view moved by 16 px moves them by one cell."""
    method = make_method("double_match", paths=[[]])
    method.projection = torch.nn.Identity()
    images = torch.zeros(2, 3, 64, 40)
    shift = torch.tensor([[1.0, 0.0, -16.0], [0.0, 1.0, 0.0]]).repeat(2, 1, 1)
    weak = method.network.backbone(images)[-1].detach()
    assert weak.shape[-2:] == (4, 3)
    weak = torch.randn(weak.shape, generator=torch.Generator().manual_seed(0))
    moved = torch.cat((weak[..., 1:], torch.zeros_like(weak[..., :1])), dim=-1)
    loss = method.feature_loss(weak, [moved], UnlabelledBatch(images, images, shift))
    assert loss.abs() < 1e-5


def test_a_layer_without_maps_is_refused() -> None:
    """A list of modules, of which each is called by itself."""
    with pytest.raises(InputError, match=r"method\.layer: 'head\.laterals' gives no feature maps"):
        make_method("double_match", layer="head.laterals")


def test_an_unknown_layer_is_refused_with_near_names() -> None:
    with pytest.raises(InputError, match=r"no layer 'backbone.layr3'.*backbone\.layer3"):
        make_method("double_match", layer="backbone.layr3")
