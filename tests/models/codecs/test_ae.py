"""Associative embedding's targets, losses and grouping, against the formulas of the papers in plain loops."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from semipose.models.codecs.ae import AECodec, AEMaps, AESettings, group, grouping_order
from semipose.models.codecs.instances import encode_people
from semipose.pipelines.people import People
from semipose.sharding.annotations.skeleton import COCO_17, CROWDPOSE_14, LSP_14, MPII_16, Skeleton
from tests.models.codecs.scenes import SKELETONS, STRIDE, one_photo, pad, people_of, random_batch
from tests.models.codecs.test_instances import draw_by_loop

HW = (20, 26)


def codec_of(num_keypoints: int, **options) -> AECodec:
    return AECodec(AESettings(**options), SKELETONS[num_keypoints])


def random_maps(
    seed: int, num_photos: int, num_keypoints: int, tag_size: int = 1, fine: bool = False
) -> AEMaps:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.rand(num_photos, num_keypoints, *shape, generator=generator).requires_grad_()

    return AEMaps(
        noise(*HW), noise(tag_size, *HW), noise(2 * HW[0], 2 * HW[1]) if fine else None
    )  # fmt: skip


def fine_of(people: People, hw: tuple[int, int], sigma: float = 2.0) -> Tensor:
    """Heatmaps at stride 2, cell j at view px 2 j - 1."""
    return encode_people(people.points_xy + 1, people.marked, (2 * hw[0], 2 * hw[1]), STRIDE / 2, sigma)


# --- losses


def tags_by_loop(maps: AEMaps, people: People, counted: np.ndarray) -> tuple[float, float]:
    """Pull and push as in the published code, in float64, without their factors."""
    pulls, pushes = [], []
    for n in range(len(counted)):
        means, spreads = [], []
        for m in range(people.visible.shape[1]):
            tags = []
            for k in range(people.visible.shape[2]):
                if not (people.is_person[n, m] and people.visible[n, m, k] > 0):
                    continue
                x, y = (math.floor(float(v) / STRIDE + 0.5) for v in people.points_xy[n, m, k])
                if 0 <= x < HW[1] and 0 <= y < HW[0] and counted[n, 0, y, x] > 0:
                    tags.append(maps.tags[n, k, :, y, x].detach().double().numpy())
            if tags:
                mean = np.mean(tags, axis=0)
                means.append(mean)
                spreads.append(np.mean([((tag - mean) ** 2).sum() for tag in tags]))
        count = len(means)
        pulls.append(np.mean(spreads) if spreads else 0.0)
        push = sum(
            math.exp(-(((a - b) ** 2).sum()))
            for i, a in enumerate(means)
            for j, b in enumerate(means)
            if i != j
        )
        pushes.append(0.5 * push / (count * (count - 1)) if count > 1 else 0.0)
    return float(np.mean(pulls)), float(np.mean(pushes))


@pytest.mark.parametrize("tag_size", [1, 8])
@pytest.mark.parametrize("num_keypoints", [1, 4, 14, 17, 133])
@pytest.mark.parametrize("counts", [(0,), (1, 3), (5, 0, 1), (30,)])
def test_pull_and_push_are_those_of_plain_loops(
    num_keypoints: int, counts: tuple[int, ...], tag_size: int
) -> None:
    codec = codec_of(num_keypoints)
    people = random_batch(num_keypoints, counts, num_keypoints, HW)
    maps = random_maps(1, len(counts), num_keypoints, tag_size)
    counted = (torch.rand(len(counts), 1, *HW, generator=torch.Generator().manual_seed(2)) < 0.8).float()
    terms = codec.loss(maps, codec.targets(people, HW), counted)
    pull, push = tags_by_loop(maps, people, counted.numpy())
    assert terms["pull"].item() == pytest.approx(1e-3 * pull, rel=1e-4, abs=1e-10)
    assert terms["push"].item() == pytest.approx(1e-3 * push, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("background_weight", [1.0, 0.1])
def test_heatmap_losses_are_those_of_plain_loops(background_weight: float) -> None:
    """Coarse cell i at view px 4 i, fine cell j at 2 j - 1; a fine cell counts as the coarse one it is of."""
    codec, counts = codec_of(4, sigma=1.3, background_weight=background_weight), (4, 0, 2)
    people, maps = random_batch(1, counts, 4, HW), random_maps(1, 3, 4, fine=True)
    counted = (torch.rand(3, 1, *HW, generator=torch.Generator().manual_seed(2)) < 0.8).float()
    terms = codec.loss(maps, codec.targets(people, HW), counted)
    squares = {"heatmaps": [], "fine": []}
    for n, k in itertools.product(range(3), range(4)):
        drawn = draw_by_loop(people, n, k, HW, 1.3)
        shifted = replace(people, points_xy=(people.points_xy + 1) * 2)  # a map twice as large, stride 4
        fine = draw_by_loop(shifted, n, k, (2 * HW[0], 2 * HW[1]), 1.3)
        for name, target in (("heatmaps", drawn), ("fine", fine)):
            answer = getattr(maps, name)[n, k].detach().double().numpy()
            for y, x in np.ndindex(*target.shape):
                scale = len(target) // HW[0]
                weight = counted[n, 0, y // scale, x // scale].item()
                weight *= 1 if target[y, x] > 0 else background_weight
                squares[name].append(weight * (answer[y, x] - target[y, x]) ** 2)
    for name, errors in squares.items():
        assert terms[name].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_gradients_of_the_tags_are_those_of_finite_differences() -> None:
    people = pad([[np.array([[8, 8, 1], [40, 20, 1]]), np.array([[60, 60, 1], [20, 64, 1]])]], 2)
    pair = Skeleton(names=("a", "b"), flip_pairs=(), bones=(), sigmas=(0.1, 0.1))
    codec = AECodec(AESettings(pull_weight=1, push_weight=1), pair)
    targets, counted = codec.targets(people, HW), torch.ones(1, 1, *HW)
    tags = torch.randn(1, 2, 1, *HW)

    def loss(values: Tensor) -> Tensor:
        terms = codec.loss(AEMaps(torch.zeros(1, 2, *HW), values, None), targets, counted)
        return terms["pull"] + terms["push"]

    tags.requires_grad_()
    loss(tags).backward()
    assert tags.grad.count_nonzero() == 4
    for k, m in itertools.product(range(2), range(2)):
        x, y = (int(v / STRIDE + 0.5) for v in people.points_xy[0, m, k].tolist())
        step = torch.zeros_like(tags)
        step[0, k, 0, y, x] = 1e-2
        slope = (loss(tags + step) - loss(tags - step)).item() / 2e-2
        assert tags.grad[0, k, 0, y, x].item() == pytest.approx(slope, abs=1e-3)


def test_a_teachers_trust_weighs_the_tags() -> None:
    """The mean tag is the weighted one, and so is the mean distance from it."""
    people = pad([[np.array([[8, 8, 1], [40, 20, 0.25], [20, 60, 1], [4, 4, 0]])]], 4)
    maps = random_maps(0, 1, 4)
    tags = [maps.tags[0, k, 0, y, x].item() for k, (x, y) in enumerate(((2, 2), (10, 5), (5, 15)))]
    mean = (tags[0] + 0.25 * tags[1] + tags[2]) / 2.25
    pull = sum(w * (t - mean) ** 2 for w, t in zip((1, 0.25, 1), tags, strict=True)) / 2.25
    codec = codec_of(4)
    terms = codec.loss(maps, codec.targets(people, HW), torch.ones(1, 1, *HW))
    assert terms["pull"].item() == pytest.approx(1e-3 * pull, rel=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (0,), (1, 0)])
def test_photos_without_people_give_a_finite_loss_and_a_gradient_tensor(counts: tuple[int, ...]) -> None:
    codec, people = codec_of(17), random_batch(0, counts, 17, HW)
    maps = random_maps(0, len(counts), 17, fine=True)
    terms = codec.loss(maps, codec.targets(people, HW), torch.ones(len(counts), 1, *HW))
    sum(terms.values()).backward()
    assert terms["push"] == 0
    assert terms["pull"] == 0 or any(counts)
    for value in (*terms.values(), *(tensor.grad for tensor in maps)):
        assert value.isfinite().all()
    assert maps.fine.grad.count_nonzero() > 0


def test_people_without_a_visible_keypoint_change_no_loss() -> None:
    codec, maps = codec_of(17), random_maps(3, 1, 17)
    rng = np.random.default_rng(0)
    visible = np.concatenate((rng.uniform(10, 60, (17, 2)), np.ones((17, 1))), axis=1)
    hidden = np.full((17, 3), np.nan)
    hidden[:, 2] = 0
    counted = torch.ones(1, 1, *HW)
    one, other = (
        codec.loss(maps, codec.targets(pad([photo], 17), HW), counted)
        for photo in ([visible], [hidden, visible, hidden])
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=0)


def test_what_the_network_says_in_ignored_cells_does_not_count() -> None:
    codec, people, maps = codec_of(17), random_batch(4, (5, 2), 17, HW), random_maps(5, 2, 17, fine=True)
    counted = (torch.rand(2, 1, *HW, generator=torch.Generator().manual_seed(1)) < 0.6).float()
    targets = codec.targets(people, HW)
    expected = codec.loss(maps, targets, counted)
    kept = (counted, counted[:, None], counted.repeat_interleave(2, 2).repeat_interleave(2, 3))
    other = AEMaps(
        *(torch.where(k > 0, m, 100 * torch.randn_like(m)) for m, k in zip(maps, kept, strict=True))
    )
    again = codec.loss(other, targets, counted)
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    without = codec.loss(maps, targets, torch.ones(2, 1, *HW))
    assert all(not torch.equal(expected[name], without[name]) for name in expected)


# --- grouping


def group_by_brute_force(heights: np.ndarray, tags: np.ndarray, order: list[int], least: float) -> list[dict]:
    """The rule for a tag distance of 1, every assignment tried; people as {keypoint: candidate}."""
    people: list[dict[int, int]] = []
    for k in order:
        rows = [q for q in range(len(heights[k])) if heights[k][q] > least]
        means = [np.mean([tags[j][q] for j, q in person.items()], axis=0) for person in people]
        distance = [[float(np.linalg.norm(tags[k][q] - mean)) for mean in means] for q in rows]
        cost = [
            [(100 * float(np.round(d)) + d * d / 1000 if d < 1 else 150) - float(heights[k][q]) for d in line]
            for q, line in zip(rows, distance, strict=True)
        ]
        columns = list(range(len(people))) + [None] * max(len(rows) - len(people), 0)  # None: alone
        best, chosen = math.inf, ()
        for assigned in itertools.permutations(columns, len(rows)):
            total = sum(0 if c is None else cost[r][c] for r, c in enumerate(assigned))
            if total < best:
                best, chosen = total, assigned
        for r, column in enumerate(chosen if people else [None] * len(rows)):
            if column is not None and distance[r][column] < 1.0:
                people[column][k] = rows[r]
            else:
                people.append({k: rows[r]})
    return people


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tag_size=st.sampled_from([1, 2]), spread=st.floats(0.05, 1.0))
def test_people_are_grouped_at_the_least_cost(seed: int, tag_size: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    num_keypoints, candidates, num_people = 5, 4, int(rng.integers(1, 5))
    centres = rng.uniform(0, 4, (num_people, tag_size))
    tags = centres[rng.integers(0, num_people, (num_keypoints, candidates))]
    tags = tags + rng.normal(0, spread, tags.shape)
    heights = rng.uniform(0, 1, (num_keypoints, candidates))
    order = rng.permutation(num_keypoints).tolist()
    expected = group_by_brute_force(heights, tags, order, 0.3)
    members = group(heights, tags, order, AESettings(least_peak=0.3))
    read = [{k: int(q) for k, q in enumerate(row) if q >= 0} for row in members]
    assert sorted(read, key=str) == sorted(({k: p[k] for k in sorted(p)} for p in expected), key=str)


@pytest.mark.parametrize("new", [2.0, 4.0, -3.0, 0.4])
def test_a_new_person_takes_no_keypoint_from_another(new: float) -> None:
    """By sums of distances alone, both assignments of the second keypoint cost the same (published)."""
    heights = np.array([[0.9, 0.8], [0.7, 0.9]])
    tags = np.array([[1.0, 0.0], [1.0, new]])[..., None]  # person 0 lacks the second keypoint
    members = group(heights, tags, [0, 1], AESettings(tag_distance=0.3))
    assert members.tolist() == [[0, 0], [1, -1], [-1, 1]]


def test_two_people_of_one_tag_are_two_people() -> None:
    """The published code keeps people in a dictionary by their first tag and loses one of them."""
    members = group(np.array([[0.9, 0.8]]), np.zeros((1, 2, 1)), [0], AESettings())
    assert members.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("skeleton", "order"),
    [
        (COCO_17, [*range(7), 11, 12, 7, 8, 9, 10, 13, 14, 15, 16]),
        (CROWDPOSE_14, [12, 13, 0, 1, 6, 7, 2, 3, 4, 5, 8, 9, 10, 11]),
        (LSP_14, [12, 13, 8, 9, 2, 3, 7, 10, 6, 11, 1, 4, 0, 5]),
        (MPII_16, [6, 7, 8, 9, 12, 13, 2, 3, 11, 14, 10, 15, 1, 4, 0, 5]),
        (SKELETONS[4], [0, 1, 2, 3]),
    ],
)
def test_people_are_put_together_from_head_and_trunk(skeleton, order: list[int]) -> None:
    assert grouping_order(skeleton.names) == order


def test_a_word_of_the_order_is_a_word_of_the_name() -> None:
    """The ear in a forearm or a rear paw is none; the side may be a letter before the word."""
    names = ("left_rear_paw", "left_forearm", "lknee", "LEar", "hip.R", "reye", "LeftShoulder")
    assert [names[k] for k in grouping_order(names)][:5] == ["LEar", "reye", "LeftShoulder", "hip.R", "lknee"]


# --- decoding


def answer(people: People, hw: tuple[int, int], codec: AECodec, *, fine: bool) -> AEMaps:
    """Maps of a network that has learned its targets by heart; the tag of person m is m."""
    targets = codec.targets(people, hw)
    num_photos, num_people, num_keypoints = people.visible.shape
    tags = torch.full((num_photos, num_keypoints, 1, *hw), 0.0)
    for n, m, k in itertools.product(range(num_photos), range(num_people), range(num_keypoints)):
        if targets.tag_weights[n, m, k] > 0:
            y, x = divmod(int(targets.tag_cells[n, m, k]), hw[1])
            tags[n, k, 0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = m
    return AEMaps(targets.heatmaps, tags, fine_of(people, hw) if fine else None)


@st.composite
def scenes(draw: st.DrawFn, apart: float) -> tuple[int, tuple[int, int], list[np.ndarray]]:
    """People whose keypoints of one name are `apart` cells or more from each other and from the border 4."""
    num_keypoints, most = draw(st.sampled_from([1, 4, 14, 17, 133])), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hw = int(rng.integers(16, 60)), int(rng.integers(16, 60))
    people: list[np.ndarray] = []
    for _ in range(most):
        cells = rng.uniform((4, 4), (hw[1] - 5, hw[0] - 5), (num_keypoints, 2))
        visible = rng.random(num_keypoints) < 0.7
        for other in people:
            far = np.abs(cells - other[:, :2] / STRIDE).max(1) >= apart
            visible &= far | (other[:, 2] == 0)
        if visible.any():
            people.append(np.concatenate((cells * STRIDE, visible[:, None]), axis=1))
    return num_keypoints, hw, people


def check_round_trip(scene, method: str, fine: bool, cells: float) -> None:
    """Everybody comes back with the same keypoints, each within so many cells of stride 4."""
    num_keypoints, hw, people = scene
    codec = codec_of(num_keypoints, decode=method)
    decoded = codec.decode(answer(pad([people], num_keypoints), hw, codec, fine=fine))
    read = people_of(decoded, 0)
    assert len(read) == len(people)
    for truth in people:
        marked = torch.from_numpy(truth[:, 2] > 0)
        expected = torch.from_numpy(truth[:, :2]).float()

        def mismatch(person: tuple[Tensor, Tensor], marked=marked, expected=expected) -> float:
            points, confidence = person
            if not torch.equal(confidence > 0, marked):
                return math.inf
            return (points - expected)[marked].abs().max().item()

        assert min(map(mismatch, read)) < cells * STRIDE
    assert (decoded.score.diff(dim=1) <= 0).all()


@settings(max_examples=40, deadline=None)
@given(scene=scenes(apart=6.0))
def test_people_come_back_from_their_own_targets_by_the_quarter_shift(scene) -> None:
    """To 0.3 cells where keypoints of one name are 3 sigma apart."""
    check_round_trip(scene, "shift", False, 0.3)


@settings(max_examples=40, deadline=None)
@given(scene=scenes(apart=15.0))
def test_people_come_back_from_their_own_targets_by_dark(scene) -> None:
    """To 0.05 cells where no other Gaussian is within reach of the blur."""
    check_round_trip(scene, "dark", False, 0.05)


@settings(max_examples=40, deadline=None)
@given(scene=scenes(apart=6.0))
def test_people_come_back_from_heatmaps_of_two_resolutions(scene) -> None:
    """To 0.3 cells of stride 4 as well: the coarse map, enlarged, pulls toward its cells."""
    check_round_trip(scene, "shift", True, 0.3)


def test_two_people_at_one_place_are_one() -> None:
    """Heatmaps show one keypoint there: nothing can tell them apart."""
    rng = np.random.default_rng(0)
    person = np.concatenate((rng.uniform(16, 80, (17, 2)), np.ones((17, 1))), axis=1)
    codec, hw = codec_of(17), (24, 24)
    decoded = codec.decode(answer(pad([[person, person]], 17), hw, codec, fine=False))
    assert decoded.exists.sum() == 1


def test_thirty_people_are_decoded_and_no_more() -> None:
    people = [np.array([(STRIDE * (5 + 8 * c), STRIDE * (5 + 8 * r), 1)]) for r in range(4) for c in range(8)]
    codec, hw = codec_of(1), (36, 72)
    decoded = codec.decode(answer(pad([people], 1), hw, codec, fine=False))
    assert decoded.exists.sum() == 30  # of 32, all of which are taught
    assert (codec.targets(pad([people], 1), hw).tag_weights > 0).sum() == 32


def test_more_people_than_places_leave_those_with_the_best_scores() -> None:
    """Three keypoints of four at six places, no two with one tag: 18 people for 5 places."""
    maps = AEMaps(torch.zeros(1, 4, *HW), torch.zeros(1, 4, 1, *HW), None)
    heights = torch.linspace(0.2, 0.9, 18).view(3, 6)
    for k, i in itertools.product(range(3), range(6)):
        maps.heatmaps[0, k, 10, 2 + 4 * i], maps.tags[0, k, 0, 10, 2 + 4 * i] = heights[k, i], 2 * (6 * k + i)
    decoded = codec_of(4, candidates=6).decode(maps)
    torch.testing.assert_close(decoded.score[0], heights[2].flip(0) / 4)


def test_the_score_is_the_mean_over_all_keypoints() -> None:
    maps = AEMaps(torch.zeros(1, 4, *HW), torch.zeros(1, 4, 1, *HW), None)
    maps.heatmaps[0, 0, 5, 5], maps.heatmaps[0, 2, 9, 5] = 0.9, 0.5
    decoded = codec_of(4).decode(maps)
    assert decoded.exists.sum() == 1
    assert decoded.score[0, 0].item() == pytest.approx((0.9 + 0.5) / 4)
    assert decoded.points_xy[0, 0].tolist() == [[20, 20], [0, 0], [20, 36], [0, 0]]


def test_missing_keypoints_are_filled_by_height_less_the_rounded_distance_of_tags() -> None:
    """Against a loop over cells; what was found, and the scores, stay."""
    for fine in (False, True):
        codec = codec_of(4, least_peak=0.85 if fine else 0.99)
        maps = random_maps(4, 2, 4, fine=fine)
        maps = AEMaps(maps.heatmaps, 3 * maps.tags, maps.fine)
        plain, filled = codec.decode(maps), codec.decode(maps, fill_missing=True)
        assert torch.equal(plain.score, filled.score)
        heatmaps = maps.heatmaps.detach()
        scale = 1
        if fine:
            heatmaps = (
                torch.nn.functional.interpolate(heatmaps, scale_factor=2, mode="bilinear") + maps.fine
            ).detach() / 2
            scale = 2
        checked = 0
        for n, q in plain.exists.nonzero().tolist():
            has = plain.confidence[n, q] > 0
            assert torch.equal(filled.points_xy[n, q, has], plain.points_xy[n, q, has])
            cells = ((plain.points_xy[n, q] + scale - 1) * scale / STRIDE).round().long() // scale
            tags = [maps.tags[n, k, 0, cells[k, 1], cells[k, 0]].item() for k in range(4) if has[k]]
            mean = np.mean(tags)
            for k in range(4):
                if has[k]:
                    continue
                best, where = -math.inf, (0, 0)
                for y, x in np.ndindex(*heatmaps.shape[-2:]):
                    tag = maps.tags[n, k, 0, y // scale, x // scale].item()
                    value = heatmaps[n, k, y, x].item() - np.round(abs(tag - mean))
                    if value > best + 1e-6:
                        best, where = value, (x, y)
                height = heatmaps[n, k, where[1], where[0]].item()
                assert filled.confidence[n, q, k].item() == pytest.approx(height, abs=1e-6)
                place = (filled.points_xy[n, q, k] + scale - 1) * scale / STRIDE
                assert (place - torch.tensor(where)).abs().max() <= 0.2501
                checked += 1
        assert checked > 4


def test_nobody_is_decoded_where_nobody_is() -> None:
    maps = AEMaps(torch.full((2, 17, *HW), 0.05), torch.randn(2, 17, 1, *HW), None)
    for fill_missing in (False, True):
        decoded = codec_of(17).decode(maps, fill_missing=fill_missing)
        assert not decoded.exists.any()
        assert all(field.eq(0).all() for field in (decoded.points_xy, decoded.confidence, decoded.score))


def test_tags_that_are_not_numbers_do_not_stop_the_decoding() -> None:
    maps = random_maps(0, 1, 17)
    maps = AEMaps(maps.heatmaps, maps.tags * math.nan, None)
    assert codec_of(17).decode(maps).exists.any()


def test_photos_are_decoded_in_a_batch_as_one_by_one() -> None:
    codec = codec_of(17, least_peak=0.9)
    people, maps = random_batch(7, (4, 0, 9), 17, HW), random_maps(7, 3, 17, fine=True)
    targets, decoded = codec.targets(people, HW), codec.decode(maps)
    assert decoded.exists.any()
    for n in range(3):
        alone = codec.targets(one_photo(people, n), HW)
        count = alone.tag_cells.shape[1]
        assert torch.equal(alone.heatmaps[0], targets.heatmaps[n])
        assert torch.equal(alone.tag_cells[0], targets.tag_cells[n, :count])
        photo = codec.decode(AEMaps(*(tensor[n : n + 1] for tensor in maps)))
        for alone, batched in zip(photo, decoded, strict=True):
            assert torch.equal(alone[0], batched[n])


# --- mirror images


def test_a_mirror_image_twice_is_the_image() -> None:
    codec, maps = codec_of(17), random_maps(0, 2, 17, tag_size=2, fine=True)
    for one, other in zip(codec.mirror(codec.mirror(maps)), maps, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("num_keypoints", [1, 4, 17])
def test_mirrored_maps_of_the_mirrored_scene_are_the_maps_of_the_scene(num_keypoints: int) -> None:
    """At both resolutions: the mirror goes through the middle of the coarse cells, and of the fine ones."""
    codec, people = codec_of(num_keypoints), random_batch(2, (1, 1), num_keypoints, HW)
    order = list(codec.skeleton.flip_order)
    points = people.points_xy[:, :, order] * torch.tensor([-1.0, 1.0])
    points[..., 0] += STRIDE * (HW[1] - 1)
    mirrored = replace(people, points_xy=points, visible=people.visible[:, :, order])
    maps = answer(people, HW, codec, fine=True)
    back = codec.mirror(answer(mirrored, HW, codec, fine=True))
    for one, other in zip(maps, back, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_the_flip_test_compares_people_by_both_tags() -> None:
    """The tags of the plain view cannot tell two people apart, and those of the mirrored view can."""
    rng = np.random.default_rng(0)
    codec, hw = codec_of(17), (40, 60)
    left = np.concatenate((rng.uniform(16, 90, (17, 2)), np.ones((17, 1))), axis=1)
    right = left + np.array([120, 40, 0])
    people = pad([[left, right]], 17)
    plain = answer(people, hw, codec, fine=False)
    blind = plain._replace(tags=torch.zeros_like(plain.tags))
    mirrored = plain._replace(heatmaps=plain.heatmaps * 0.5)
    merged = codec.merge(blind, mirrored)
    assert merged.tags.shape == (1, 17, 2, *hw)
    decoded = codec.decode(merged)
    assert decoded.exists.sum() == 2
    assert decoded.confidence.max() == pytest.approx(0.75 * plain.heatmaps.max().item(), abs=1e-6)
    for truth in (left, right):
        expected = torch.from_numpy(truth[:, :2]).float()
        assert min((points - expected).abs().max() for points, _ in people_of(decoded, 0)) < 0.3 * STRIDE


# --- the device


def test_targets_and_losses_read_nothing_back_to_the_host() -> None:
    """Fake tensors have shapes only: code that asks one for its number gets an error."""
    codec, people = codec_of(17), random_batch(2, (3, 2), 17, HW)
    maps = random_maps(0, 2, 17, fine=True)
    codec.mirror(maps)  # the order of the channels goes to the device once
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = People(*(mode.from_tensor(field) for field in vars(people).values()))
        answered = AEMaps(*(mode.from_tensor(tensor) for tensor in maps))
        terms = codec.loss(codec.mirror(answered), codec.targets(fake, HW), torch.ones(2, 1, *HW))
    assert all(term.shape == () for term in terms.values())


def test_a_batch_is_decoded_with_one_copy_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, maps = codec_of(17), random_maps(0, 4, 17, fine=True)
    copies = []
    copy = torch.Tensor.cpu

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a number of a tensor was read")

    for reader in ("item", "tolist", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, reader, refuse)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or copy(self))
    codec.decode(maps)
    assert copies == [(4, 17, 30, 4)]
