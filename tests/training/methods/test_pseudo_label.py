"""`pseudo_label`: two trainings, a frozen teacher, labels in the right place."""

import copy

import pytest
import torch

from semipose.models.codecs.heatmap import decode, encode, heatmap_loss
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.geometry import apply, compose, invert
from semipose.training.methods.method import Progress
from semipose.training.teacher import copy_matrix
from tests.training.tiny import CODEC, SIGMA, SKELETON, K, make_batches, make_method

FIRST, SECOND = Progress(9, 30), Progress(10, 30)


def test_first_the_teacher_alone_is_trained() -> None:
    method = make_method("pseudo_label", teacher_share=1 / 3)
    labelled, _ = make_batches()
    assert not method.wants_unlabelled(FIRST)
    twin = copy.deepcopy(method.teacher)
    result = method(labelled, None, FIRST)
    assert torch.equal(result.loss, CODEC.supervised_loss(twin(labelled.image), labelled))
    result.loss.backward()
    assert all(p.grad is None for p in method.network.parameters())
    assert all(p.grad is not None for p in method.teacher.parameters())


def test_then_it_is_frozen_and_labels_for_the_student() -> None:
    method = make_method("pseudo_label", teacher_share=1 / 3, weight=0.5)
    labelled, unlabelled = make_batches()
    method(labelled, None, FIRST)
    before = copy.deepcopy(method.teacher.state_dict())
    student, teacher = copy.deepcopy(method.network), copy.deepcopy(method.teacher).eval()
    assert method.wants_unlabelled(SECOND)
    result = method(labelled, unlabelled, SECOND)
    total = CODEC.supervised_loss(student(labelled.image), labelled)
    points, _ = decode(teacher(unlabelled.weak).detach(), 4)
    target, weights = encode(
        apply(unlabelled.strong_from_weak, points), torch.ones(4, K), (16, 12), stride=4, sigma=SIGMA
    )
    total = total + 0.5 * heatmap_loss(student(unlabelled.strong), target, weights[:, :, None, None])
    assert torch.isclose(result.loss, total)
    result.loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in method.teacher.state_dict().items())


def test_the_learning_rate_runs_through_its_schedule_twice() -> None:
    method = make_method("pseudo_label", teacher_share=1 / 3)
    places = [method.rate_position(Progress(step, 30)) for step in (0, 9, 10, 29)]
    assert places == [Progress(0, 10), Progress(9, 10), Progress(0, 20), Progress(19, 20)]


def test_doubtful_labels_are_left_out() -> None:
    method = make_method("pseudo_label", teacher_share=1 / 3, min_peak=0.5)
    unlabelled = make_batches()[1]
    heatmaps = torch.zeros(4, K, 16, 12)
    heatmaps[:, :, 8, 6] = torch.tensor([0.9, 0.4, 0.6, 0.5, 0.1])
    assert method.target(unlabelled, heatmaps)[1][0].tolist() == [1, 0, 1, 0, 0]


class Finder(torch.nn.Module):
    """A network whose heatmaps are the image's channels at every fourth pixel: it follows any geometry."""

    stride = 4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, [0, 1, 2, 1, 2], ::4, ::4]


@pytest.mark.parametrize(("flip", "scales"), [(True, (1.0,)), (False, (0.75, 1.0, 1.25)), (True, (0.8, 1.1))])
def test_an_ensemble_of_views_finds_a_point_where_it_is(flip: bool, scales: tuple[float, ...]) -> None:
    """Data Distillation: every copy's heatmaps come back to the same cells."""
    method = make_method("pseudo_label", teacher_share=1 / 3, ensemble={"flip": flip, "scales": scales})
    method.teacher = Finder()
    points = torch.tensor([[[16.0, 24.0]] * K, [[28.0, 36.0]] * K])
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    images = torch.stack([torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 72) for px, py in points[:, 0]])
    heatmaps = method.label(images[:, None].expand(2, 3, 64, 48))
    found, peaks = decode(heatmaps, 4, method="dark", sigma=1.5)
    assert (found - points).abs().max() < 0.3
    assert peaks.min() > 0.9


def test_a_mirrored_copy_exchanges_left_and_right() -> None:
    method = make_method("pseudo_label", teacher_share=1 / 3, ensemble={"flip": True})
    assert method.ensemble.flip_order.tolist() == list(SKELETON.flip_order) == [0, 2, 1, 4, 3]

    class LeftIsHigher(torch.nn.Module):
        stride = 4

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            values = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
            return values[None, :, None, None].expand(len(images), K, 16, 12)

    method.teacher = LeftIsHigher()
    heatmaps = method.label(torch.zeros(1, 3, 64, 48))
    assert torch.allclose(heatmaps[0, :, 8, 6], torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5]))


def test_copies_keep_the_cells_on_one_another() -> None:
    mirrored = copy_matrix(torch.zeros(2, 3, 64, 48), 4, 1.0, True)
    cells = torch.arange(12.0)[:, None] * torch.tensor([[4.0, 0.0]])
    moved = apply(mirrored, cells[None].expand(2, -1, -1))
    assert torch.allclose(moved[0, :, 0], cells[:, 0].flip(0))
    larger = copy_matrix(torch.zeros(2, 3, 64, 48), 4, 1.25, False)
    centre = torch.tensor([[[22.0, 30.0]], [[22.0, 30.0]]])
    assert torch.allclose(apply(larger, centre), centre)
    identity = compose(larger, invert(larger))
    assert torch.allclose(identity, torch.eye(2, 3).expand(2, 2, 3), atol=1e-5)


def test_it_looks_at_what_it_labels() -> None:
    method = make_method("pseudo_label", teacher_share=1 / 3)
    unlabelled: UnlabelledBatch = make_batches()[1]
    seen = method.inspect(unlabelled)
    assert seen.augmented == {}
    assert method.training
    assert list(method.networks()) == ["student", "teacher"]
