"""DEKR's targets, loss and decoding, against the formulas of the paper in plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from semipose.models.codecs.dekr import DEKRCodec, DEKRMaps, DEKRSettings, DEKRTargets, share_keypoints
from semipose.pipelines.people import People
from tests.models.codecs.scenes import SKELETONS, STRIDE, one_photo, pad, people_of, random_batch
from tests.models.codecs.test_instances import draw_by_loop

HW = (20, 26)


def codec_of(num_keypoints: int, **options: float) -> DEKRCodec:
    return DEKRCodec(DEKRSettings(**options), SKELETONS[num_keypoints])


def random_maps(seed: int, num_photos: int, num_keypoints: int, hw: tuple[int, int] = HW) -> DEKRMaps:
    generator = torch.Generator().manual_seed(seed)
    heatmaps = torch.rand(num_photos, num_keypoints + 1, *hw, generator=generator)
    offsets = 3 * torch.randn(num_photos, 2 * num_keypoints, *hw, generator=generator)
    return DEKRMaps(heatmaps.requires_grad_(), offsets.requires_grad_())


# --- targets and loss


def targets_by_loop(
    people: People, n: int, num_keypoints: int, cfg: DEKRSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Heatmaps and weights (K + 1, h, w), offsets (K, 2, h, w) and their weights (K, h, w) of photo n."""
    heatmaps = np.zeros((num_keypoints + 1, *HW))
    for k in range(num_keypoints):
        heatmaps[k] = draw_by_loop(people, n, k, HW, cfg.sigma)
    offsets, weights = np.zeros((num_keypoints, 2, *HW)), np.zeros((num_keypoints, *HW))
    owner = np.full(HW, np.inf)
    for m in range(people.visible.shape[1]):
        marked = [k for k in range(num_keypoints) if people.visible[n, m, k] > 0 and people.is_person[n, m]]
        if not marked:
            continue
        cells = people.points_xy[n, m].double().numpy() / STRIDE
        low, high = cells[marked].min(0), cells[marked].max(0)
        diagonal = math.hypot(*(high - low))
        if num_keypoints > 1 and diagonal < cfg.least_diagonal:
            continue
        x, y = cells[marked].mean(0)
        near_x, near_y = math.floor(x + 0.5), math.floor(y + 0.5)
        radius = math.floor(3 * cfg.centre_sigma)
        for row in range(max(near_y - radius, 0), min(near_y + radius + 1, HW[0])):
            for column in range(max(near_x - radius, 0), min(near_x + radius + 1, HW[1])):
                value = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * cfg.centre_sigma**2))
                heatmaps[-1, row, column] = max(heatmaps[-1, row, column], value)
                aside = max(abs(row - near_y), abs(column - near_x))
                if aside <= cfg.offset_radius and diagonal < owner[row, column]:
                    owner[row, column] = diagonal
                    weights[:, row, column] = 0
                    for k in marked:
                        offsets[k, :, row, column] = cells[k] - (column, row)
                        weights[k, row, column] = float(people.visible[n, m, k]) / max(diagonal, 2)
    return heatmaps, np.where(heatmaps > 0, 1, cfg.background_weight), offsets, weights


def loss_by_loop(
    maps: DEKRMaps, people: People, counted: np.ndarray, num_keypoints: int, cfg: DEKRSettings
) -> tuple[float, float]:
    """Both terms, in float64."""
    squares, total, count = [], 0.0, 0
    for n in range(len(counted)):
        heatmaps, cell_weights, offsets, weights = targets_by_loop(people, n, num_keypoints, cfg)
        error = maps.heatmaps[n].detach().double().numpy() - heatmaps
        squares.append((cell_weights * counted[n] * error**2).mean())
        predicted = maps.offsets[n].detach().double().numpy().reshape(num_keypoints, 2, *HW)
        for k, row, column in np.argwhere(weights * counted[n] > 0):
            for axis in range(2):
                e = abs(predicted[k, axis, row, column] - offsets[k, axis, row, column])
                smooth = 0.5 * e * e * 9 if e < 1 / 9 else e - 0.5 / 9
                total += smooth * weights[k, row, column]
                count += 1
    return float(np.mean(squares)), cfg.offset_weight * total / max(count, 1)


@pytest.mark.parametrize("num_keypoints", [1, 4, 14, 17, 133])
@pytest.mark.parametrize("counts", [(0,), (1, 3), (5, 0, 1), (30,)])
def test_loss_is_that_of_plain_loops(num_keypoints: int, counts: tuple[int, ...]) -> None:
    codec = codec_of(num_keypoints, sigma=1.2, centre_sigma=2.3, offset_radius=3, least_diagonal=3.0)
    people = random_batch(num_keypoints, counts, num_keypoints, HW)
    maps = random_maps(1, len(counts), num_keypoints)
    counted = (torch.rand(len(counts), 1, *HW, generator=torch.Generator().manual_seed(2)) < 0.8).float()
    terms = codec.loss(maps, codec.targets(people, HW), counted)
    heatmaps, offsets = loss_by_loop(maps, people, counted.numpy(), num_keypoints, codec.settings)
    assert terms["heatmaps"].item() == pytest.approx(heatmaps, rel=1e-4)
    assert terms["offsets"].item() == pytest.approx(offsets, rel=1e-4, abs=1e-9)


def dense(targets: DEKRTargets, num_keypoints: int, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Offsets and weights as maps (N, K, 2, h, w) and (N, K, h, w)."""
    num_photos, cells = len(targets.cells), hw[0] * hw[1]
    offsets = torch.zeros(num_photos, cells, num_keypoints, 2)
    weights = torch.zeros(num_photos, cells, num_keypoints)
    for n in range(num_photos):
        taught = targets.offset_weights[n] > 0
        assert targets.cells[n][taught.any(-1)].unique().numel() == taught.any(-1).sum()
        weights[n].index_add_(0, targets.cells[n], targets.offset_weights[n])
        offsets[n].index_add_(0, targets.cells[n], targets.offsets[n] * taught[..., None])
    return offsets.permute(0, 2, 3, 1).unflatten(-1, hw), weights.permute(0, 2, 1).unflatten(-1, hw)


def test_targets_are_those_of_plain_loops() -> None:
    codec = codec_of(17)
    people = random_batch(5, (4, 2), 17, HW)
    targets = codec.targets(people, HW)
    offsets, weights = dense(targets, 17, HW)
    for n in range(2):
        expected = targets_by_loop(people, n, 17, codec.settings)
        np.testing.assert_allclose(targets.heatmaps[n], expected[0], atol=2e-6)
        np.testing.assert_allclose(targets.weights[n], expected[1], atol=1e-7)
        np.testing.assert_allclose(weights[n], expected[3], atol=1e-6)
        taught = np.broadcast_to(expected[3][:, None] > 0, expected[2].shape)
        np.testing.assert_allclose(offsets[n].numpy()[taught], expected[2][taught], atol=1e-4)
        assert taught.any()


def test_gradient_is_that_of_dense_maps() -> None:
    codec, people, maps = codec_of(4), random_batch(6, (5, 3), 4, HW), random_maps(3, 2, 4)
    targets = codec.targets(people, HW)
    codec.loss(maps, targets, torch.ones(2, 1, *HW))["offsets"].backward()
    offsets, weights = dense(targets, 4, HW)
    again = maps.offsets.detach().clone().requires_grad_()
    errors = torch.nn.functional.smooth_l1_loss(
        again.unflatten(1, (4, 2)), offsets, beta=1 / 9, reduction="none"
    )
    (0.002 * (errors * weights[:, :, None]).sum() / (2 * (weights > 0).sum())).backward()
    torch.testing.assert_close(maps.offsets.grad, again.grad)
    assert maps.offsets.grad.count_nonzero() > 0


def person(*cells: tuple[float, float]) -> np.ndarray:
    """A person with all keypoints marked, given in cells."""
    return np.array([(STRIDE * x, STRIDE * y, 1) for x, y in cells], np.float32)


def test_the_smaller_of_two_people_has_the_cells_of_both() -> None:
    large = person((2, 2), (22, 2), (2, 18), (22, 18))
    small = person((9, 7), (15, 7), (9, 13), (15, 13))
    for order in ([large, small], [small, large]):
        targets = codec_of(4).targets(pad([order], 4), HW)
        offsets, _ = dense(targets, 4, HW)
        torch.testing.assert_close(offsets[0, 0, :, 10, 12], torch.tensor([-3.0, -3.0]))


def test_of_two_people_of_one_size_the_first_has_the_cells() -> None:
    first, second = (
        person((8, 6), (16, 6), (8, 14), (16, 14)),
        person((16, 6), (8, 6), (16, 14), (8, 14)),
    )
    offsets, _ = dense(codec_of(4).targets(pad([[first, second]], 4), HW), 4, HW)
    torch.testing.assert_close(offsets[0, 0, :, 10, 12], torch.tensor([-4.0, -4.0]))
    offsets, _ = dense(codec_of(4).targets(pad([[second, first]], 4), HW), 4, HW)
    torch.testing.assert_close(offsets[0, 0, :, 10, 12], torch.tensor([4.0, -4.0]))


@pytest.mark.parametrize("num_keypoints", [14, 17])
def test_the_centre_has_its_own_sigma_whatever_its_index(num_keypoints: int) -> None:
    """The published code gives CrowdPose's centre, channel 14, the sigma of the keypoints."""
    cells = [(5.0 + k % 5 * 3, 4.0 + k % 4 * 4) for k in range(num_keypoints)]
    people = pad([[person(*cells)]], num_keypoints)
    heatmaps = codec_of(num_keypoints).targets(people, HW).heatmaps[0]
    x, y = (float(v) for v in np.mean(cells, axis=0))
    row, column = round(y) + 3, round(x) + 2
    expected = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * 4.0**2))
    assert heatmaps[num_keypoints, row, column].item() == pytest.approx(expected, rel=1e-4)
    assert (heatmaps[0] > 0).sum() <= 13 * 13


def test_weights_go_by_the_persons_size_and_not_by_where_it_is() -> None:
    """The published code takes the distance from the photo's corner for the size."""
    here = person((3, 3), (9, 3), (3, 11), (9, 11))
    there = here + np.float32([[48, 20, 0]])
    for people in (here, there):
        targets = codec_of(4).targets(pad([[people]], 4), HW)
        assert targets.offset_weights.max().item() == pytest.approx(1 / 10)


def test_a_person_without_keypoints_makes_no_centre() -> None:
    """The published code draws one at the photo's corner."""
    hidden = person((3, 3), (9, 3), (3, 11), (9, 11))
    hidden[:, 2] = 0
    targets = codec_of(4).targets(pad([[hidden]], 4), HW)
    assert targets.heatmaps.eq(0).all()
    assert targets.offset_weights.eq(0).all()


def test_a_tiny_person_has_keypoints_and_no_centre() -> None:
    targets = codec_of(4).targets(pad([[person((3, 3), (6, 3), (3, 7), (6, 7))]], 4), HW)
    assert targets.heatmaps[0, :4].amax((-2, -1)).eq(1).all()
    assert targets.heatmaps[0, 4].eq(0).all()
    assert targets.offset_weights.eq(0).all()


def test_a_teachers_trust_weighs_the_offsets() -> None:
    sure = pad([[person((3, 3), (9, 3), (3, 11), (9, 11))]], 4)
    unsure = replace(sure, visible=sure.visible * torch.tensor([1.0, 0.5, 0.25, 1.0]))
    one, other = (codec_of(4).targets(people, HW).offset_weights for people in (sure, unsure))
    torch.testing.assert_close(other, one * torch.tensor([1.0, 0.5, 0.25, 1.0]))


@pytest.mark.parametrize("counts", [(0, 0), (0,), (0, 2)])
def test_photos_without_people_give_a_finite_loss_and_a_gradient_tensor(counts: tuple[int, ...]) -> None:
    maps = random_maps(0, len(counts), 17)
    codec, people = codec_of(17), random_batch(0, counts, 17, HW)
    terms = codec.loss(maps, codec.targets(people, HW), torch.ones(len(counts), 1, *HW))
    sum(terms.values()).backward()
    for value in (*terms.values(), maps.heatmaps.grad, maps.offsets.grad):
        assert value.isfinite().all()
    if not any(counts):
        assert terms["offsets"] == 0
        assert maps.offsets.grad.eq(0).all()
    assert maps.heatmaps.grad.count_nonzero() > 0


def test_what_the_network_says_in_ignored_cells_does_not_count() -> None:
    codec, people, maps = codec_of(17), random_batch(4, (5, 2), 17, HW), random_maps(5, 2, 17)
    counted = (torch.rand(2, 1, *HW, generator=torch.Generator().manual_seed(1)) < 0.6).float()
    targets = codec.targets(people, HW)
    expected = codec.loss(maps, targets, counted)
    other = DEKRMaps(*(torch.where(counted > 0, tensor, 100 * torch.randn_like(tensor)) for tensor in maps))
    again = codec.loss(other, targets, counted)
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    without = codec.loss(maps, targets, torch.ones(2, 1, *HW))
    assert all(not torch.equal(expected[name], without[name]) for name in expected)


def test_coordinates_of_hidden_keypoints_change_nothing() -> None:
    codec, people, maps = codec_of(17), random_batch(4, (5, 2), 17, HW), random_maps(5, 2, 17)
    assert people.points_xy.isnan().any()
    moved = replace(people, points_xy=people.points_xy.nan_to_num(7.0))
    counted = torch.ones(2, 1, *HW)
    one, other = (codec.loss(maps, codec.targets(scene, HW), counted) for scene in (people, moved))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_of_four_photos_lose_as_one_of_eight() -> None:
    """Each divides by the mean of the counts; the mean of their losses is then that of all photos."""
    counts = (3, 0, 1, 0, 5, 6, 4, 2)
    codec, people, maps = codec_of(4), random_batch(8, counts, 4, HW), random_maps(8, 8, 4)
    counted = torch.ones(8, 1, *HW)
    together = codec.loss(maps, codec.targets(people, HW), counted)
    halves = [slice(0, 4), slice(4, 8)]
    parts = [People(*(field[half] for field in vars(people).values())) for half in halves]
    targets = [codec.targets(part, HW) for part in parts]
    asked: list[Tensor] = []

    def remember(count: Tensor) -> Tensor:
        asked.append(count)
        return count

    def loss(i: int, mean_over_ranks) -> dict[str, Tensor]:
        part = DEKRMaps(*(tensor[halves[i]] for tensor in maps))
        return codec.loss(part, targets[i], counted[:4], mean_over_ranks=mean_over_ranks)

    for i in range(2):
        loss(i, remember)
    mean = torch.stack(asked).mean()
    split = [loss(i, lambda _: mean) for i in range(2)]
    for name, value in together.items():
        torch.testing.assert_close((split[0][name] + split[1][name]) / 2, value)


# --- decoding


def answer(targets: DEKRTargets, num_keypoints: int, hw: tuple[int, int]) -> DEKRMaps:
    """Maps of a network that has learned its targets by heart."""
    offsets, _ = dense(targets, num_keypoints, hw)
    return DEKRMaps(targets.heatmaps, offsets.flatten(1, 2))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, tuple[int, int], list[np.ndarray]]:
    """People whose centres are in different tiles of 12 cells, each 4 cells from its border or more."""
    num_keypoints = draw(st.sampled_from([1, 4, 14, 17, 133]))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = []
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.7:
                cells = rng.normal(0, 1, (num_keypoints, 2)) * rng.uniform(2.5, 8)
                cells += rng.uniform(4, 8, 2) - cells.mean(0) + 12 * np.array([column, row])
                xy = cells * STRIDE
                people.append(np.concatenate((xy, np.ones((num_keypoints, 1))), axis=1).astype(np.float32))
    return num_keypoints, (12 * rows, 12 * columns), people


@settings(max_examples=60, deadline=None)
@given(scene=scenes())
def test_people_come_back_from_their_own_targets(scene) -> None:
    """Everybody, and every keypoint, to 1e-4 px; those outside the map too, without confidence."""
    num_keypoints, hw, people = scene
    least = 5.66 if num_keypoints > 1 else 0
    assume(all(np.hypot(*np.ptp(p[:, :2], axis=0)) / STRIDE > least + 0.1 for p in people))
    codec = codec_of(num_keypoints)
    decoded = codec.decode(answer(codec.targets(pad([people], num_keypoints), hw), num_keypoints, hw))
    read = people_of(decoded, 0)
    assert len(read) == len(people)
    for truth in people:
        expected = torch.from_numpy(truth[:, :2])
        points, confidence = min(read, key=lambda one: (one[0] - expected).abs().sum())
        assert (points - expected).abs().max() < 1e-4
        inside = ((expected >= 0) & (expected <= STRIDE * torch.tensor([hw[1] - 1.0, hw[0] - 1.0]))).all(-1)
        beyond = ((expected < -4 * STRIDE) | (expected > STRIDE * (torch.tensor(hw[::-1]) + 4))).any(-1)
        assert (confidence[inside] > 0.7).all()
        assert (confidence[beyond] == 0).all()
    assert (decoded.score.diff(dim=1) <= 0)[:, : len(people) - 1].all()


def test_scores_are_the_centre_times_the_mean_of_the_keypoints() -> None:
    maps = DEKRMaps(torch.zeros(1, 5, *HW), torch.zeros(1, 8, *HW))
    maps.heatmaps[0, 4, 10, 12] = 0.5
    cells = [(3, 4), (20, 4), (3, 15), (9, 15)]
    for k, (x, y) in enumerate(cells):
        maps.heatmaps[0, k, y, x] = (k + 1) / 5
        maps.offsets[0, 2 * k, 10, 12], maps.offsets[0, 2 * k + 1, 10, 12] = x - 12, y - 10
    ((points, confidence),) = people_of(codec_of(4).decode(maps), 0)
    torch.testing.assert_close(points, 4 * torch.tensor(cells).float())
    torch.testing.assert_close(confidence, torch.tensor([0.2, 0.4, 0.6, 0.8]))
    assert codec_of(4).decode(maps).score.max().item() == pytest.approx(0.5 * 0.5)


def test_confidence_is_read_between_cells() -> None:
    maps = DEKRMaps(torch.zeros(1, 2, *HW), torch.zeros(1, 2, *HW))
    maps.heatmaps[0, 1, 10, 12] = 1
    maps.heatmaps[0, 0, 10, 14], maps.heatmaps[0, 0, 11, 15] = 0.8, 0.4
    maps.offsets[0, :, 10, 12] = torch.tensor([2.25, 0.5])  # a quarter of a cell right, half a cell down
    ((_, confidence),) = people_of(codec_of(1).decode(maps), 0)
    assert confidence.item() == pytest.approx(0.75 * 0.5 * 0.8 + 0.25 * 0.5 * 0.4)


def test_a_person_found_twice_is_decoded_once() -> None:
    """Two peaks of the centre point at the same keypoints; the higher one stays."""
    codec, maps = codec_of(17), DEKRMaps(torch.full((1, 18, *HW), 0.5), torch.zeros(1, 34, *HW))
    maps.heatmaps[0, 17] = 0
    cells = torch.from_numpy(np.random.default_rng(0).uniform(2, 18, (17, 2))).float()
    for x, height in ((10, 0.6), (13, 0.9)):
        maps.heatmaps[0, 17, 9, x] = height
        maps.offsets[0, :, 9, x] = (cells - torch.tensor([x, 9.0])).flatten()
    decoded = codec.decode(maps)
    ((points, _),) = people_of(decoded, 0)
    torch.testing.assert_close(points, 4 * cells)
    assert decoded.score[decoded.exists].item() == pytest.approx(0.9 * 0.5)
    maps.offsets[0, :18, 9, 10] += 4  # 9 of 17 keypoints elsewhere: another person
    assert len(people_of(codec.decode(maps), 0)) == 2


@pytest.mark.parametrize("num_keypoints", [1, 4, 14, 17, 133])
def test_pairs_that_share_keypoints_are_those_of_a_plain_loop(num_keypoints: int) -> None:
    rng = np.random.default_rng(num_keypoints)
    base = rng.uniform(0, 40, (2, 1, num_keypoints, 2))
    points = base + rng.normal(0, rng.uniform(0.1, 3, (2, 9, 1, 1)), (2, 9, num_keypoints, 2))
    read = share_keypoints(torch.from_numpy(points))
    for n in range(2):
        for a in range(9):
            for b in range(9):
                size = max(math.hypot(*np.ptp(points[n, q], axis=0)) for q in (a, b))
                near = [math.dist(points[n, a, k], points[n, b, k]) < 0.05 * max(size, 2)
                        for k in range(num_keypoints)]  # fmt: skip
                assert read[n, a, b].item() == (sum(near) > num_keypoints // 2)


def test_thirty_people_are_decoded_and_no_more() -> None:
    people = [
        person(*((6 + 12 * c + dx, 6 + 12 * r + dy) for dx, dy in ((-4, -4), (4, -4), (-4, 4), (4, 4))))
        for r in range(4)
        for c in range(8)
    ]
    hw, codec = (48, 96), codec_of(4)
    targets = codec.targets(pad([people], 4), hw)  # 32: no limit in training
    assert (targets.heatmaps[0, 4] == 1).sum() == 32
    assert codec.decode(answer(targets, 4, hw)).exists.sum() == 30
    few = codec_of(4, candidates=5)
    assert few.decode(answer(targets, 4, hw)).exists.sum() == 5


def test_nobody_is_decoded_where_nobody_is() -> None:
    maps = DEKRMaps(torch.zeros(2, 18, *HW), torch.randn(2, 34, *HW))
    decoded = codec_of(17).decode(maps)
    assert not decoded.exists.any()
    assert all(field.eq(0).all() for field in (decoded.points_xy, decoded.confidence, decoded.score))


def test_photos_are_taught_and_decoded_in_a_batch_as_one_by_one() -> None:
    codec, people = codec_of(17), random_batch(7, (4, 0, 9), 17, HW)
    targets, maps = codec.targets(people, HW), random_maps(7, 3, 17)
    decoded = codec.decode(maps)
    assert decoded.exists.any()
    for n in range(3):
        alone = codec.targets(one_photo(people, n), HW)
        assert torch.equal(alone.heatmaps[0], targets.heatmaps[n])
        assert torch.equal(alone.weights[0], targets.weights[n])
        for alone_part, batched in zip(dense(alone, 17, HW), dense(targets, 17, HW), strict=True):
            assert torch.equal(alone_part[0], batched[n])
        photo = codec.decode(DEKRMaps(*(tensor[n : n + 1] for tensor in maps)))
        for alone_part, batched in zip(photo, decoded, strict=True):
            assert torch.equal(alone_part[0], batched[n])


# --- mirror images


def test_a_mirror_image_twice_is_the_image() -> None:
    codec, maps = codec_of(17), random_maps(0, 2, 17)
    for one, other in zip(codec.mirror(codec.mirror(maps)), maps, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("num_keypoints", [1, 4, 17])
def test_mirrored_maps_of_the_mirrored_scene_are_the_maps_of_the_scene(num_keypoints: int) -> None:
    codec, people = codec_of(num_keypoints), random_batch(2, (3, 2), num_keypoints, HW)
    order = list(codec.skeleton.flip_order)
    points = people.points_xy[:, :, order] * torch.tensor([-1.0, 1.0])
    points[..., 0] += STRIDE * (HW[1] - 1)
    mirrored = replace(people, points_xy=points, visible=people.visible[:, :, order])
    maps = answer(codec.targets(people, HW), num_keypoints, HW)
    back = codec.mirror(answer(codec.targets(mirrored, HW), num_keypoints, HW))
    for one, other in zip(maps, back, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    for one, other in zip(codec.merge(maps, back), maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


# --- the device


def test_nothing_is_read_back_to_the_host() -> None:
    """Fake tensors have shapes only: code that asks one for its number gets an error."""
    codec, people, maps = codec_of(17), random_batch(2, (3, 2), 17, HW), random_maps(0, 2, 17)
    codec.mirror(maps)  # the order of the channels goes to the device once
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = People(*(mode.from_tensor(field) for field in vars(people).values()))
        answered = DEKRMaps(*(mode.from_tensor(tensor) for tensor in maps))
        targets = codec.targets(fake, HW)
        terms = codec.loss(answered, targets, torch.ones(2, 1, *HW))
        decoded = codec.decode(codec.merge(answered, codec.mirror(answered)))
    assert all(term.shape == () for term in terms.values())
    assert decoded.points_xy.shape == (2, 30, 17, 2)


def test_losses_are_float32_for_answers_of_half_precision() -> None:
    codec, people = codec_of(4), random_batch(2, (3,), 4, HW)
    maps = DEKRMaps(*(tensor.detach().bfloat16() for tensor in random_maps(0, 1, 4)))
    terms = codec.loss(maps, codec.targets(people, HW), torch.ones(1, 1, *HW))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert codec.decode(maps).points_xy.dtype == torch.float32
