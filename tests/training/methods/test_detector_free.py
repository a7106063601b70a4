"""Detector-free training on whole photos: its losses, who is taught, and that it can learn."""

import io
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from semipose.models.codecs import cid
from semipose.models.codecs.ae import AEMaps
from semipose.models.codecs.cid import CIDMaps
from semipose.models.codecs.dekr import DEKRMaps
from semipose.models.codecs.instances import Instances, mean_over_ranks
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.geometry import apply
from semipose.pipelines.people import PhotoFrame
from semipose.training.methods.detector_free import DetectorFreeSettings, heatmap_target, student_mass
from semipose.training.methods.method import Progress, StepResult
from semipose.training.methods.pseudo_people import (
    GateSettings,
    PseudoPeople,
    box_area,
    in_strong_view,
    pseudo_people,
)
from tests.training.methods.test_every_method import compare_with_known
from tests.training.tiny_photos import FAMILIES, SIDE, STRIDE, K, draw_scenes, make_batches, make_method

LATE = Progress(step=99, total_steps=100)
FIXED = {"name": "fixed", "high": 0.35, "low": 0.15}
USES = ("heatmaps", "instances", "both")
CELLS = SIDE // STRIDE


def train(method: Any, steps: int, total: int, lr: float = 1e-2, since: int = 0) -> list[StepResult]:
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr)
    results = []
    for step in range(since, steps):
        progress = Progress(step, total)
        labelled, unlabelled = make_batches(step % 8)
        result = method(labelled, unlabelled if method.wants_unlabelled(progress) else None, progress)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        method.after_update(progress)
        results.append(result)
    return results


# --- the step


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_sum_of_its_weighted_parts(family: str, use: str) -> None:
    method = make_method(family, use=use, heatmap_weight=2.0, instance_weight=3.0, ramp_up=0.1)
    progress = Progress(step=14, total_steps=100)  # 10 steps burn-in, then 4 of the 10 of the rise
    terms = method(*make_batches(), progress).terms.by_name()
    ramp = 5 / 11
    expected = terms["loss_supervised"] + ramp * (
        2 * terms["loss_unlabelled_heatmaps"] + 3 * terms["loss_unlabelled_instances"]
    )
    torch.testing.assert_close(terms["loss"], expected)
    assert all(value.shape == () and not value.requires_grad for value in terms.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_burn_in_is_the_supervised_method(family: str) -> None:
    """The same network on the same photos: no term of the teacher, the same losses."""
    labelled, _ = make_batches()
    method, supervised = make_method(family), make_method(family, "supervised")
    first = Progress(0, 100)
    assert not method.wants_unlabelled(first)
    one, other = method(labelled, None, first), supervised(labelled, None, first)
    assert one.loss == other.loss
    assert one.terms.by_name() == other.terms.by_name()


@pytest.mark.parametrize("family", FAMILIES)
def test_separate_passes_differ_from_a_joint_one_in_batch_statistics_alone(family: str) -> None:
    losses = []
    for passes in ("joint", "separate"):
        method = make_method(family, passes=passes)
        method.network.eval()
        losses.append(method(*make_batches(), LATE).loss)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_whoever_is_there(family: str, use: str) -> None:
    """Several ranks wait for ever for the gradient of a parameter that a step leaves out."""
    labelled, unlabelled = make_batches()
    nobody = replace(labelled, people=replace(labelled.people, is_person=labelled.people.is_person & False))
    for batch in (labelled, nobody):
        method = make_method(family, use=use, burn_in=0.0)  # untrained: the teacher keeps nobody
        result = method(batch, unlabelled, LATE)
        result.loss.backward()
        assert result.loss.isfinite()
        assert result.terms.by_name()["loss_unlabelled_instances"] == 0
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


# --- the host


def moved(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The batch with the function applied to each of its tensors, however deep."""
    if batch is None:
        return None
    if isinstance(batch, Tensor):
        return function(batch)
    return replace(batch, **{f.name: moved(getattr(batch, f.name), function) for f in fields(batch)})


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("family", ["dekr", "cid"])
def test_a_step_reads_no_number_of_a_tensor(family: str, use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have shapes only: whoever asks one for its number gets an error, as of a GPU's."""
    monkeypatch.setattr(cid, "counts_at_once", lambda device: False)
    method, batches = make_method(family, use=use), make_batches()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        labelled, unlabelled = (moved(batch, mode.from_tensor) for batch in batches)
        assert method(labelled, unlabelled, LATE).loss.shape == ()


def test_a_step_of_ae_copies_its_candidates_to_the_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batches = make_method("ae"), make_batches()
    copies: list[torch.Size] = []
    to_host = Tensor.cpu

    def cpu(tensor: Tensor) -> Tensor:
        copies.append(tensor.shape)
        return to_host(tensor)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a number of a tensor was read")

    monkeypatch.setattr(Tensor, "cpu", cpu)
    for reader in ("item", "tolist", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, reader, refuse)
    method(*batches, LATE).loss.backward()
    assert len(copies) == 1


# --- gates


def judged(confidence: list[float], agreement: list[float], score: float = 0.6, **gates: Any) -> Any:
    """A person whose two answers are apart by what gives these similarities, through the gates."""
    codec = make_method("dekr").codec
    corners = torch.tensor([[0.0, 0], [20, 0], [0, 20], [20, 20]])[None, None]
    people = Instances(
        corners,
        torch.tensor([[confidence]]),
        torch.tensor([[score]]),
        torch.ones(1, 1) > 0,
        torch.zeros(1, 1, 2),
    )
    is_high = people.confidence >= 0.3
    area = 0.7 * box_area(corners, is_high).clamp(min=32 / 0.7)
    distance = torch.sqrt(-2 * torch.tensor(agreement).log() * area) * 2 * 0.1

    class Stub(type(codec)):
        def decode(self, maps: Any) -> Instances:
            return people

        def distance(self, *_: Any) -> Tensor:
            return distance[None]

    stub = Stub(codec.settings, codec.skeleton)
    merged = type("Maps", (), {"heatmaps": corners})
    return pseudo_people(GateSettings(**gates), stub, None, None, merged)


@pytest.mark.parametrize(
    ("confidence", "agreement", "counted", "is_sound"),
    [
        ([0.9, 0.9, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0], 4, True),
        ([0.9, 0.29, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0], 3, True),
        ([0.9, 0.9, 0.9, 0.9], [0.51, 0.49, 1.0, 1.0], 3, True),  # mean of the three: 0.84
        ([0.9, 0.9, 0.9, 0.9], [0.6, 0.6, 0.6, 0.6], 4, False),  # all count, mean below 0.7
        ([0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.9], 1, False),  # fewer than two
    ],
)
def test_keypoints_and_people_pass_the_gates(
    confidence: list[float], agreement: list[float], counted: int, is_sound: bool
) -> None:
    pseudo = judged(confidence, agreement, min_keypoints=2)
    assert pseudo.keypoints.sum() == counted
    assert bool(pseudo.is_sound) == is_sound


def test_an_agreement_of_a_half_is_a_shift_of_1_18_times_two_sigma_roots_of_the_area() -> None:
    pseudo = judged([0.9] * 4, [0.5] * 4)
    torch.testing.assert_close(pseudo.agreement, torch.full((1, 1, 4), 0.5))
    side = math.sqrt(0.7 * 20 * 20)
    shift = 1.1774 * 2 * 0.1 * side
    assert math.exp(-(shift**2) / (2 * side**2 * (2 * 0.1) ** 2)) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("score", "is_sound", "exists", "expected"),
    [
        (0.6, True, True, "keep"),
        (0.5, True, True, "keep"),
        (0.49, True, True, "ignore"),
        (0.9, False, True, "ignore"),
        (0.25, True, True, "ignore"),
        (0.24, True, True, "drop"),
        (0.9, False, False, "drop"),
    ],
)
def test_people_are_kept_ignored_or_dropped(
    score: float, is_sound: bool, exists: bool, expected: str
) -> None:
    one = torch.ones(1, 1)
    people = Instances(one, one, one, one > (0 if exists else 1), one)
    pseudo = PseudoPeople(people, one > 0, one > 0, one, one * score, one > (0 if is_sound else 1))
    keep, ignore = pseudo.decide(torch.tensor(0.5), torch.tensor(0.25))
    assert {"keep": bool(keep), "ignore": bool(ignore), "drop": not (keep | ignore)}[expected]
    assert not (keep & ignore)


def test_a_thin_person_has_an_area() -> None:
    points = torch.tensor([[[[0.0, 0], [0, 40]], [[0, 0], [40, 40]]]])
    counted = torch.ones(1, 2, 2) > 0
    assert box_area(points, counted).tolist() == [[400.0, 1600.0]]
    assert box_area(points, ~counted).tolist() == [[0.0, 0.0]]


def test_people_move_into_the_strong_view_and_lose_what_it_does_not_show() -> None:
    points = torch.tensor(
        [[[[10.0, 10], [20, 10], [62, 10], [30, 30]], [[62.0, 5], [60, 6], [62, 7], [5, 5]]]]
    )
    confidence = torch.tensor([[[0.9, 1.2, 0.8, 0.04], [0.9, 0.9, 0.9, 0.9]]])
    yes = torch.ones(1, 2) > 0
    cells = torch.tensor([[[5, 2], [12, 3]]])
    people = Instances(points, confidence, confidence[..., 0], yes, cells)
    counted = confidence > 0.3
    pseudo = PseudoPeople(people, counted, counted, torch.ones(1, 2, 4), confidence[..., 0], yes)
    matrix = torch.tensor([[[1.0, 0, 4], [0, 1, -6]]])
    view = torch.zeros(1, 3, SIDE, SIDE)
    unlabelled = UnlabelledBatch(view, view, matrix)
    kept, ignored = in_strong_view(GateSettings(min_keypoints=2), pseudo, yes, yes, unlabelled, stride=4)
    torch.testing.assert_close(kept.points_xy[0], apply(matrix.expand(2, 2, 3), points[0]))
    torch.testing.assert_close(kept.visible, torch.tensor([[[0.9, 1, 0, 0], [0, 0, 0, 0]]]))
    assert kept.is_person.tolist() == [[True, False]]  # the second has no keypoint left
    for moved in (kept, ignored):
        torch.testing.assert_close(moved.centres_xy, torch.tensor([[[24.0, 2], [52, 6]]]))
    assert ignored.visible.tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0]]]


# --- what heatmaps are taught


def test_the_heatmap_target_goes_by_use() -> None:
    """In a row of cells the teacher sees, people are kept, ignored or both, and the last one is outside."""
    soft = torch.tensor([0.8, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6])
    kept = torch.tensor([0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0])
    ignored = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.4, 0.0, 0.0])
    inside = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 0])
    row = [each.view(1, 1, 1, -1) for each in (soft, inside, kept, ignored)]
    expected = {
        "heatmaps": (soft, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1, 0]),
        "instances": (kept, [0.1, 0.1, 0.1, 1, 0.1, 0.1, 1, 0, 0.1, 0]),
        "both": (torch.maximum(soft, kept), [1, 1, 0.1, 1, 0.1, 0.1, 1, 0, 1, 0]),
    }
    for use, (target, weights) in expected.items():
        cfg = DetectorFreeSettings(use=use)  # type: ignore[arg-type]
        given = heatmap_target(cfg, *(row[:2] if use == "heatmaps" else row))
        torch.testing.assert_close(given[0].flatten(), target)
        torch.testing.assert_close(given[1].flatten(), torch.tensor(weights, dtype=torch.float32))


def test_a_teacher_of_zeros_teaches_background_alone() -> None:
    zeros = torch.zeros(1, K, CELLS, CELLS)
    _, weights = heatmap_target(DetectorFreeSettings(), zeros, torch.ones(1, 1, CELLS, CELLS), zeros, zeros)
    assert (weights == torch.tensor(0.1)).all()
    assert student_mass(torch.ones_like(zeros), zeros, torch.ones(1, 1, CELLS, CELLS)) == 0


def test_the_mass_of_the_student_is_counted_where_both_views_look() -> None:
    teacher, student = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    teacher[..., :2] = 0.5
    student[..., 0] = 0.5
    inside = torch.tensor([[[[1.0, 1, 1, 1], [1, 0, 1, 1]]]])
    assert student_mass(student, teacher, inside) == pytest.approx(2 / 3)


# --- beside the photo

EASY = {
    "burn_in": 0.0,
    "thresholds": {"name": "fixed", "high": 1e-6, "low": 0.0},
    "gates": {"min_confidence": 0.0, "agreement": 0.0, "person_agreement": 0.0},
}
"""Everybody who is decoded is kept."""


def beside(batch: UnlabelledBatch) -> UnlabelledBatch:
    """The same views, said to show photos that are half as wide: cells from column 8 on are beside them."""
    size_hw = torch.tensor([[SIDE, SIDE / 2]]).expand(len(batch.weak), 2)
    frame = PhotoFrame(torch.eye(2, 3).expand(len(batch.weak), 2, 3), size_hw)
    return replace(batch, weak_frame=frame, strong_frame=frame)


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_is_found_beside_the_photo(family: str) -> None:
    method = make_method(family, has_peaks=True, **EASY)
    unlabelled = make_batches()[1]
    columns = []
    for batch in (unlabelled, beside(unlabelled)):
        with method.without_trace():
            people = method.labels(batch).pseudo.people
        assert people.exists.any()
        if family in ("ae", "higher"):  # no centres: the cells of their keypoints
            is_seen = people.exists[..., None] & (people.confidence > 0)
            columns.append((people.points_xy[..., 0][is_seen] / STRIDE).round())
        else:
            columns.append(people.cells[..., 0][people.exists])
    everywhere, on_photo = columns
    assert (everywhere >= CELLS // 2).any()
    assert (on_photo < CELLS // 2).all()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_student_says_beside_the_photo_does_not_count(family: str, use: str) -> None:
    """The losses of the unlabelled photos are equal to the bit, whatever is there."""
    method = make_method(family, has_peaks=True, use=use, **EASY)
    unlabelled = beside(make_batches()[1])
    method.eval()
    with torch.no_grad():
        labels = method.labels(unlabelled)
        maps = method.network(unlabelled.strong)
        of_kept = method.people_targets(labels.kept, maps)
        other = spoilt(maps, columns_from=CELLS // 2)
        for loss in (method.heatmap_loss, method.instance_loss):
            assert loss(maps, of_kept, labels) == loss(other, of_kept, labels)
        assert method.heatmap_loss(spoilt(maps, columns_from=0), of_kept, labels) != method.heatmap_loss(
            maps, of_kept, labels
        )


def spoilt(maps: Any, *, columns_from: int) -> Any:
    """The maps with other values from a column of the coarsest ones on."""

    def spoil(field: Any) -> Any:
        if not isinstance(field, Tensor):
            return field
        field = field.clone()
        field[..., columns_from * field.shape[-1] // CELLS :] *= 0.5
        return field

    if not isinstance(maps, CIDMaps):
        return type(maps)(*map(spoil, maps))
    return CIDMaps(
        spoil(maps.heatmaps),
        lambda photos, cells: maps.read(photos, cells)._replace(
            heatmaps=spoil(maps.read(photos, cells).heatmaps)
        ),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_at_a_batch_leaves_no_trace(family: str) -> None:
    """Pictures show what the method makes of photos; its steps are the same with and without them."""
    method = make_method(family, has_peaks=True, **EASY)
    unlabelled = make_batches()[1]
    before = {
        name: value.clone() for name, value in [*method.state_dict().items(), *method.rank_state().items()]
    }
    seen = method.inspect(unlabelled)
    after = {**method.state_dict(), **method.rank_state()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert method.training
    assert seen.kept.is_person.any()
    assert not (seen.kept.is_person & seen.ignored.is_person).any()
    assert seen.target.shape == seen.weights.shape == seen.answer.shape
    assert torch.equal(seen.strong, method.inspect(unlabelled).strong)
    assert not torch.equal(seen.strong, unlabelled.strong)


@pytest.mark.parametrize(
    ("family", "teacher"),
    [
        *[("dekr", "ema"), ("dekr", "shared"), ("ae", "ema")],
        *(pytest.param(family, "ema", marks=pytest.mark.slow) for family in ("higher", "cid")),
    ],
)
def test_asking_the_teacher_for_people_changes_nothing_in_20_steps(family: str, teacher: str) -> None:
    """The network, its average, the ring of scores and the draws, to the bit; plain views have any size."""
    views = draw_scenes(5, 3)[0][..., : SIDE // 2]
    frame = PhotoFrame(torch.eye(2, 3).expand(3, 2, 3), torch.tensor([[SIDE, SIDE / 2]]).expand(3, 2))
    changes = EASY | {"thresholds": {"name": "mixture", "high": 0.0, "low": 0.0, "length": 64}}
    states = []
    for is_asked in (True, False):
        method = make_method(family, has_peaks=True, **changes, teacher={"name": teacher})
        for step in range(0, 20, 5):
            train(method, step + 5, 20, lr=1e-4, since=step)
            if is_asked:
                people = method.find_people(views, frame)
                assert people.exists.any()
                assert people.points_xy.shape == (*people.is_trusted.shape, 2)
                assert method.training
        states.append({**method.state_dict(), **method.rank_state()})
    asked, plain = states
    for name, value in asked.items():
        assert torch.equal(value, plain[name]), name


# --- a frozen teacher


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_from_the_end_of_the_burn_in_teaches_as_a_frozen_teacher(family: str) -> None:
    """Pseudo labels on whole photos: train, freeze, label, train on."""
    frozen = {"name": "previous_epoch", "epoch_steps": 3}
    method = make_method(family, has_peaks=True, use="instances", **EASY | {"burn_in": 0.5}, teacher=frozen)
    assert all("kept_people" not in result.terms.by_name() for result in train(method, 3, 6, lr=1e-3))
    teacher = {name: value.clone() for name, value in method.network.named_parameters()}
    taught = [result.terms.by_name() for result in train(method, 5, 6, lr=1e-3, since=3)]
    assert all(terms["kept_people"] > 0 for terms in taught)
    assert all(terms["loss_unlabelled_instances"] > 0 for terms in taught)
    frozen_now, student = method.teacher.previous, dict(method.network.named_parameters())
    assert all(torch.equal(value, teacher[name]) for name, value in frozen_now.named_parameters())
    assert not any(torch.equal(student[name], value) for name, value in teacher.items() if "conv" in name)


# --- learning


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dekr"])
def test_it_learns_and_keeps_as_many_people_as_there_are(family: str) -> None:
    """A trained teacher keeps the people that exist, and its points in the strong view are theirs."""
    changes = {"teacher": {"name": "ema", "momentum": 0.9}, "thresholds": FIXED, "burn_in": 0.8}
    method = make_method(family, use="both", **changes)
    results = train(method, 150, 150)
    late = [result.terms.by_name() for result in results[-10:]]
    assert 0.7 < sum(float(terms["people_inflation"]) for terms in late) / 10 < 1.3
    assert 0.5 < sum(float(terms["student_mass"]) for terms in late) / 10 < 2
    weak, hidden = draw_scenes(1, 4)
    _, unlabelled = make_batches(0)
    assert torch.equal(weak, unlabelled.weak)
    with method.without_trace():
        labels = method.labels(unlabelled)
    truth = hidden.points_xy + 4  # the strong view is shifted by as much
    errors = (labels.kept.points_xy[:, :, None] - truth[:, None]).norm(dim=-1).mean(-1)
    errors = torch.where(hidden.is_person[:, None], errors, math.inf).amin(-1)
    assert labels.kept.is_person.sum() >= 0.7 * hidden.is_person.sum()
    assert (errors[labels.kept.is_person] < STRIDE).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dekr", "ae"])
def test_a_trained_students_mass_stays_in_the_guards_range_for_200_steps(family: str) -> None:
    """With heatmaps and people as labels, in every step. The strong path leaves the colours alone: they are
    all that tells a shoulder of these scenes from a hip, and a student that cannot tell shows both."""
    settings = {"burn_in": 150 / 350, "ramp_up": 0.1, "gates": {"min_keypoints": 3}, "path": []}
    teacher = {"name": "ema", "momentum": 0.9}
    method = make_method(family, use="both", teacher=teacher, thresholds=FIXED, **settings)
    late = [result.terms.by_name() for result in train(method, 350, 350)[150:]]
    assert all(0.5 <= terms["student_mass"] <= 2 for terms in late)
    assert sum(terms["kept_people"] for terms in late) / 200 > 1  # somebody teaches


# --- the state


@pytest.mark.parametrize("family", FAMILIES)
def test_a_restored_method_goes_on_bit_for_bit(family: str) -> None:
    """Average, ring, mixture, counts and draws, in the middle of the ramp, are all in the saved state."""

    def run(method: Any, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        losses = []
        for step in steps:
            labelled, unlabelled = make_batches(step)
            result = method(labelled, unlabelled if step > 0 else None, Progress(step, 8))
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()
            method.after_update(Progress(step, 8))
            losses.append(result.loss.item())
        return losses

    def start() -> tuple[Any, torch.optim.Optimizer]:
        gates = {"min_confidence": 0.0, "agreement": 0.0, "person_agreement": 0.0}
        low = {"name": "mixture", "high": 0.0, "low": 0.0, "length": 64}
        settings = {"burn_in": 0.1, "ramp_up": 0.8, "thresholds": low, "gates": gates}
        method = make_method(family, has_peaks=True, **settings)
        return method, torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-2)

    method, optimizer = start()
    run(method, optimizer, range(3))
    file = io.BytesIO()
    torch.save([method.state_dict(), method.rank_state(), optimizer.state_dict()], file)
    expected = run(method, optimizer, range(3, 6))
    file.seek(0)
    state, rank_state, optimizer_state = torch.load(file, weights_only=True)
    again, other = start()
    again.load_state_dict(state)
    again.load_rank_state(rank_state)
    other.load_state_dict(optimizer_state)
    assert run(again, other, range(3, 6)) == expected
    for key, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert {"labelled_people", "thresholds.ring", "thresholds.mixture"} <= set(state)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("family", FAMILIES)
def test_five_steps_have_the_known_losses(family: str, use: str) -> None:
    """Run with UPDATE_GOLDEN=1 after a change that is meant to move them, and say why in the commit."""
    torch.set_num_threads(1)
    gates = {"min_confidence": 0.0, "agreement": 0.0, "person_agreement": 0.0}
    thresholds = {"name": "fixed", "high": 1e-6, "low": 0.0}
    settings = {"burn_in": 0.2, "thresholds": thresholds, "gates": gates}
    method = make_method(family, use=use, has_peaks=True, **settings)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 1e-3)
    losses = []
    for step in range(5):
        labelled, unlabelled = make_batches(step)
        result = method(labelled, unlabelled if step else None, Progress(step, 5))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        method.after_update(Progress(step, 5))
        losses.append(result.loss.item())
    assert result.terms.by_name()["kept_people"] > 0
    compare_with_known(f"detector_free {family} {use}", losses)


# --- two answers


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_that_are_equal_are_nowhere_apart(family: str) -> None:
    method = make_method(family, has_peaks=True)
    codec, images = method.codec, make_batches()[1].weak
    method.eval()
    with torch.no_grad():
        maps = method.network(images)
        people = codec.decode(codec.merge(maps, maps))
        assert people.exists.any()
        # A quarter shift at the border of the window may differ from none by a hundredth of a pixel.
        assert codec.distance(maps, maps, people).max() < 1e-4


def test_the_offsets_of_dekr_are_apart_by_their_difference_in_view_px() -> None:
    codec = make_method("dekr").codec
    plain = DEKRMaps(torch.zeros(1, K + 1, 8, 8), torch.randn(1, 2 * K, 8, 8))
    mirrored = DEKRMaps(plain.heatmaps, torch.randn(1, 2 * K, 8, 8))
    cells = torch.tensor([[[3, 5], [7, 0]]])
    nothing = torch.zeros(1, 2, K)
    people = Instances(torch.zeros(1, 2, K, 2), nothing, nothing[..., 0], nothing[..., 0] > 0, cells)
    apart = codec.distance(plain, mirrored, people)
    for q, (x, y) in enumerate(cells[0].tolist()):
        for k in range(K):
            dx, dy = (plain.offsets - mirrored.offsets)[0, 2 * k : 2 * k + 2, y, x].tolist()
            assert apart[0, q, k] == pytest.approx(STRIDE * math.hypot(dx, dy), rel=1e-5)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("family", ["ae", "higher"])
def test_the_peaks_of_ae_are_apart_by_their_shift(family: str, shift: int) -> None:
    """Higher peaks beyond two cells of the codec are other people's."""
    codec = make_method(family).codec
    scale = 2 if family == "higher" else 1

    def answer(x: int) -> AEMaps:
        heatmaps = torch.zeros(1, K, 16 * scale, 16 * scale)
        heatmaps[..., 8, x] = 0.8
        heatmaps[..., 8, 14 * scale] = 1.0
        coarse, tags = torch.zeros(1, K, 16, 16), torch.zeros(1, K, 1, 16, 16)
        return AEMaps(heatmaps, tags, None) if scale == 1 else AEMaps(coarse, tags, heatmaps)

    at_first = torch.tensor([6.0, 8.0]) * (STRIDE / scale) - STRIDE * (scale - 1) / (2 * scale)
    nothing = torch.zeros(1, 1, K)
    people = Instances(
        at_first.expand(1, 1, K, 2), nothing, nothing[..., 0], nothing[..., 0] > 0, torch.zeros(1, 1, 2)
    )
    apart = codec.distance(answer(6), answer(6 + shift), people)
    torch.testing.assert_close(apart, torch.full((1, 1, K), shift * STRIDE / scale))


def test_kept_people_are_trusted_by_their_keypoints_that_count() -> None:
    confidence = torch.tensor([[[0.8, 0.6, 0.4, 0.1]]])
    counted = torch.tensor([[[True, True, False, False]]])
    one = torch.ones(1, 1)
    people = Instances(torch.zeros(1, 1, K, 2), confidence, 0.5 * confidence.mean(-1), one > 0, one)
    score = {family: make_method(family).codec.pseudo_score for family in ("dekr", "cid", "ae")}
    assert score["dekr"](people, counted) == pytest.approx(0.5 * 0.7)  # times the height of the centre
    assert score["cid"](people, counted) == pytest.approx(
        (0.5 * 0.7) ** 0.5
    )  # both heights are averaged ones
    assert score["ae"](people, counted) == pytest.approx(0.7)  # half of all keypoints is enough
    one_counts = counted & (torch.arange(K) == 0)
    assert score["ae"](people, one_counts) == pytest.approx(0.8 / 2)


# --- two processes


def rank_of_two(rank: int, file: str) -> None:
    """Rank 1 has nobody. Both must leave with the same counts, mixture and gradient."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    assert mean_over_ranks(torch.tensor([float(rank), 0.0])).tolist() == [0.5, 0.5]  # at least one in all
    for family in ("dekr", "cid", "ae"):
        method = make_method(family, seed=rank, burn_in=0.0)
        labelled, unlabelled = make_batches(rank)
        if rank == 1:
            nobody = labelled.people.is_person & False
            labelled = replace(labelled, people=replace(labelled.people, is_person=nobody))
        result = method(labelled, unlabelled, LATE)
        result.loss.backward()
        assert result.loss.isfinite()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
        ring = method.thresholds.ring[:-1].clone()
        both = [torch.empty_like(ring) for _ in range(2)]
        dist.all_gather(both, ring)
        assert torch.equal(*both)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_which_one_has_nobody_agree_and_do_not_wait(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_of_two, (str(tmp_path / "meeting"),), nprocs=2)
