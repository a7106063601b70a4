"""CID's targets, losses and decoding, against the formulas of the papers in plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from semipose.models.backbones.light import LightSettings
from semipose.models.codecs import cid
from semipose.models.codecs.cid import (
    CIDCodec,
    CIDMaps,
    CIDSettings,
    CIDTargets,
    InstanceMaps,
    gaussian_radius,
)
from semipose.models.codecs.cid_losses import contrast_loss, focal_loss
from semipose.models.codecs.instances import similarity
from semipose.models.heads.cid import CIDHeadSettings
from semipose.models.net import InstanceNet
from semipose.pipelines.people import People
from tests.models.codecs.scenes import SKELETONS, STRIDE, one_photo, pad, people_of, random_batch

HW = (20, 26)


def codec_of(num_keypoints: int, **options) -> CIDCodec:
    return CIDCodec(CIDSettings(**options), SKELETONS[num_keypoints])


def net_of(num_keypoints: int) -> InstanceNet:
    torch.manual_seed(0)
    backbone = LightSettings(channels=(16, 16, 16), blocks=(1, 1, 1)).build()
    head = CIDHeadSettings(channels=8).build(backbone.channels, backbone.strides, num_keypoints)
    for module in head.modules():  # far from the published start, where all answers are alike
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)
    return InstanceNet(backbone, head)


def random_maps(seed: int, num_photos: int, num_keypoints: int, targets: CIDTargets) -> CIDMaps:
    """Noise, and noise for the people of `targets`, whoever is asked for."""
    generator = torch.Generator().manual_seed(seed)
    count = len(targets.photos)

    def noise(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 0.98 + 0.01

    people = InstanceMaps(noise(count, num_keypoints, *HW), noise(count, 12) - 0.5)
    return CIDMaps(noise(num_photos, num_keypoints + 1, *HW), lambda *_: people)


# --- targets


@pytest.mark.parametrize(
    ("sides", "radius"), [((10, 4), 1), ((20, 8), 3), ((40, 16), 6), ((80, 30), 12), ((128, 128), 34)]
)
def test_the_radius_is_the_published_one(sides: tuple[int, int], radius: int) -> None:
    """Values of the published formula, as written in the specification of the method."""
    assert int(gaussian_radius(torch.tensor(sides).float())) == radius


@settings(max_examples=50, deadline=None)
@given(height=st.integers(0, 200), width=st.integers(0, 200))
def test_the_radius_is_that_of_the_formula(height: int, width: int) -> None:
    m, total, product = 0.7, height + width, height * width
    roots = [
        (total + math.sqrt(total**2 - 4 * product * (1 - m) / (1 + m))) / 2,
        (2 * total + math.sqrt((2 * total) ** 2 - 16 * (1 - m) * product)) / 2,
        (-2 * m * total + math.sqrt((2 * m * total) ** 2 - 4 * 4 * m * (m - 1) * product)) / 2,
    ]
    read = gaussian_radius(torch.tensor([float(height), float(width)])).item()
    assert read == pytest.approx(min(roots), abs=1e-3)


def gaussians_by_loop(
    people: People, n: int, m: int, least_area: float
) -> tuple[list[np.ndarray | None], tuple[int, int] | None]:
    """Heatmaps of one person's keypoints and centre, None for what is not drawn; and the centre's cell."""
    visible = people.visible[n, m].numpy() * people.is_person[n, m].item() > 0
    none: list[np.ndarray | None] = [None] * (len(visible) + 1)
    if not visible.any():
        return none, None
    cells = people.points_xy[n, m].double().numpy() / STRIDE
    corners = people.corners_xy[n, m].double().numpy()
    sides = [math.dist(corners[0], corners[1]), math.dist(corners[1], corners[2])]
    has_box = max(sides) > 0
    if not has_box:
        sides = [1.2 * STRIDE * size for size in np.ptp(cells[visible], axis=0)]
    h, w = (math.ceil(side / STRIDE - 1e-3) for side in sides)
    root = math.sqrt((2 * 0.7 * (h + w)) ** 2 + 4 * 4 * 0.7 * 0.3 * h * w)
    radius = int((-2 * 0.7 * (h + w) + root) / 2 + 1e-6)
    sigma = (2 * radius + 1) / 6
    middle = cells[visible].mean(0)
    drawn = [(cells[k] if visible[k] else None) for k in range(len(visible))] + [middle]
    near = [math.floor(v + 0.5) for v in middle]
    inside = 0 <= near[0] < HW[1] and 0 <= near[1] < HW[0]
    is_point = len(visible) == 1 and not has_box
    if not inside or (sides[0] * sides[1] < least_area and not is_point):
        drawn[-1] = None
    maps: list[np.ndarray | None] = []
    for cell in drawn:
        if cell is None:
            maps.append(None)
            continue
        heatmap = np.zeros(HW)
        x, y = (math.floor(v + 0.5) for v in cell)
        for row in range(max(y - radius, 0), min(y + radius + 1, HW[0])):
            for column in range(max(x - radius, 0), min(x + radius + 1, HW[1])):
                heatmap[row, column] = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
        maps.append(heatmap)
    return maps, None if drawn[-1] is None else (near[0], near[1])


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("num_keypoints", [1, 4, 14, 17, 133])
@pytest.mark.parametrize("counts", [(0,), (1, 3), (5, 0, 1), (30,)])
def test_targets_are_those_of_plain_loops(num_keypoints: int, counts: tuple[int, ...], boxes: bool) -> None:
    codec = codec_of(num_keypoints, least_area=400.0)
    people = random_batch(num_keypoints, counts, num_keypoints, HW)
    if not boxes:
        people = replace(people, corners_xy=torch.zeros_like(people.corners_xy))
    targets = codec.targets(people, HW)
    for n in range(len(counts)):
        expected = np.zeros((num_keypoints + 1, *HW))
        by_size = []
        for m in range(counts[n]):
            maps, cell = gaussians_by_loop(people, n, m, 400.0)
            drawn = np.stack([np.zeros(HW) if drawing is None else drawing for drawing in maps])
            expected = np.maximum(expected, drawn)
            if cell is not None:
                marked = people.points_xy[n, m][people.visible[n, m] > 0]
                size = math.hypot(*(marked.amax(0) - marked.amin(0)).tolist())
                by_size.append((size, cell, drawn[:-1], people.visible[n, m]))
        np.testing.assert_allclose(targets.heatmaps[n], expected, atol=1e-5)
        assert np.array_equal(targets.heatmaps[n] == 1, expected == 1)
        check_instances(targets, n, sorted(by_size, key=lambda row: row[0]))
    idle = ~targets.exists
    assert targets.instance_weights[idle].eq(0).all()
    assert targets.cells[idle].eq(0).all()


def check_instances(targets: CIDTargets, n: int, by_size: list) -> None:
    """The people of photo n who are asked for are these, the first of those at one cell."""
    asked: dict[tuple[int, ...], tuple[np.ndarray, Tensor]] = {}
    for _, cell, drawn, visible in by_size:
        asked.setdefault(cell, (drawn, visible))
    rows = (targets.exists & (targets.photos == n)).nonzero()[:, 0].tolist()
    assert len(rows) == len(asked)
    for i in rows:
        drawn, visible = asked[tuple(targets.cells[i].tolist())]
        assert torch.equal(targets.instance_weights[i], visible)
        np.testing.assert_allclose(targets.instance_heatmaps[i], drawn, atol=1e-5)


def big(x: float, y: float, size: float = 8) -> np.ndarray:
    """A person of four keypoints about a cell, sides `size` cells."""
    half = size / 2
    corners = ((-half, -half), (half, -half), (-half, half), (half, half))
    return np.array([(STRIDE * (x + dx), STRIDE * (y + dy), 1) for dx, dy in corners], np.float32)


def test_people_are_asked_for_from_the_smallest_on_and_no_more_than_the_limit() -> None:
    photos = [[big(10, 10, 14), big(6, 6, 9)], [big(12, 9, 11), big(8, 12, 18)]]
    targets = codec_of(4, most_instances=3).targets(pad(photos, 4), HW)
    assert targets.photos.tolist() == [0, 1, 0]
    assert targets.cells.tolist() == [[6, 6], [12, 9], [10, 10]]


def test_of_two_people_at_one_cell_the_smaller_is_asked_for() -> None:
    targets = codec_of(4).targets(pad([[big(10, 10, 14), big(10, 10, 9)], [big(10, 10, 9)]], 4), HW)
    assert targets.exists.tolist() == [True, True, False, False]
    own = targets.instance_heatmaps[0, 0]
    assert divmod(int(own.argmax()), HW[1]) == (6, 6)  # 10 - 9 / 2, to the nearest cell


def test_centres_are_jittered_by_a_cell_at_most_and_by_the_generator_alone() -> None:
    people, codec = pad([[big(10, 10)], [big(0, 19)]], 4), codec_of(4)
    seen = set()
    for seed in range(60):
        targets, again = (codec.targets(people, HW, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(targets.cells, again.cells)
        seen.add(tuple(targets.cells[targets.photos == 0][0].tolist()))
        x, y = targets.cells[targets.photos == 1][0].tolist()
        assert x in (0, 1)
        assert y in (18, 19)
    assert seen == {(x, y) for x in (9, 10, 11) for y in (9, 10, 11)}
    assert codec.targets(people, HW).cells.tolist() == [[10, 10], [0, 19]]


def test_small_people_have_keypoints_and_no_centre() -> None:
    targets = codec_of(4).targets(pad([[big(10, 10, 7.5)]], 4), HW)  # 30 px: below 32
    assert targets.heatmaps[0, :4].amax((-2, -1)).eq(1).all()
    assert targets.heatmaps[0, 4].eq(0).all()
    assert not targets.exists.any()


# --- losses


@pytest.mark.parametrize("seed", range(3))
def test_focal_loss_is_that_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, t = rng.uniform(0.01, 0.99, (2, 3, 5, 6)), rng.uniform(0, 1, (2, 3, 5, 6)) ** 3
    t[rng.random(t.shape) < 0.1] = 1
    w = rng.choice([0, 0.5, 1], (2, 1, 5, 6))
    total, count = 0.0, 0
    for index in np.ndindex(*t.shape):
        weight = w[index[0], 0, index[2], index[3]]
        if t[index] == 1:
            total -= weight * (1 - p[index]) ** 2 * math.log(p[index])
            count += weight > 0
        else:
            total -= weight * (1 - t[index]) ** 4 * p[index] ** 2 * math.log(1 - p[index])
    read = focal_loss(*(torch.from_numpy(array) for array in (p, t, w)))
    assert read[0].item() == pytest.approx(total, rel=1e-5)
    assert read[1].item() == count


@pytest.mark.parametrize("seed", range(3))
def test_contrast_is_that_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, photos, exists = rng.normal(size=(9, 5)), rng.integers(0, 3, 9), rng.random(9) < 0.8
    total = 0.0
    for i in range(9):
        if not exists[i]:
            continue
        others = [j for j in range(9) if exists[j] and photos[j] == photos[i]]
        cosines = [
            features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
            for j in others
        ]
        own = cosines[others.index(i)]
        total -= math.log(math.exp(own / 0.05) / sum(math.exp(c / 0.05) for c in cosines))
    read = contrast_loss(torch.from_numpy(features), torch.from_numpy(photos), torch.from_numpy(exists), 0.05)
    assert read.item() == pytest.approx(total, rel=1e-3, abs=1e-4)


def test_losses_are_weighted_and_divided_as_published() -> None:
    codec = codec_of(4, least_area=0.0)
    people = random_batch(5, (4, 2), 4, HW)
    targets = codec.targets(people, HW)
    maps = random_maps(1, 2, 4, targets)
    counted = (torch.rand(2, 1, *HW, generator=torch.Generator().manual_seed(3)) < 0.8).float()
    terms = codec.loss(maps, targets, counted)
    asked = maps.read(targets.photos, targets.cells)
    exists = [
        bool(targets.exists[i]) and counted[n, 0, y, x].item() > 0
        for i, (n, (x, y)) in enumerate(zip(targets.photos.tolist(), targets.cells.tolist(), strict=True))
    ]
    total, count = focal_loss(maps.heatmaps, targets.heatmaps, counted)
    assert terms["heatmaps"].item() == pytest.approx((total / count).item(), rel=1e-5)
    own, own_count = 0.0, 0.0
    for i, n in enumerate(targets.photos.tolist()):
        for k in range(4):
            if exists[i] and targets.instance_weights[i, k] > 0:
                value, peaks = focal_loss(
                    asked.heatmaps[i, k], targets.instance_heatmaps[i, k], counted[n, 0]
                )
                own, own_count = own + value.item(), own_count + peaks.item()
    assert terms["instances"].item() == pytest.approx(4 * own / own_count, rel=1e-4)
    contrast = contrast_loss(asked.features, targets.photos, torch.tensor(exists), 0.05)
    assert 0 < sum(exists) < 6
    assert terms["contrast"].item() == pytest.approx(contrast.item() / sum(exists), rel=1e-5)


@pytest.mark.parametrize("counts", [(0, 0), (0,), (2, 0)])
def test_photos_without_people_give_a_finite_loss_and_every_gradient(counts: tuple[int, ...]) -> None:
    """The published code divides by zero in a batch without centres."""
    net, codec = net_of(17), codec_of(17)
    maps = net(torch.randn(len(counts), 3, 80, 104))
    terms = codec.loss(
        maps, codec.targets(random_batch(0, counts, 17, HW), HW), torch.ones(len(counts), 1, *HW)
    )
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    if not any(counts):
        assert terms["instances"] == terms["contrast"] == 0


def test_what_the_network_says_in_ignored_cells_does_not_count() -> None:
    codec, people = codec_of(17, least_area=0.0), random_batch(4, (5, 2), 17, HW)
    targets = codec.targets(people, HW)
    maps = random_maps(5, 2, 17, targets)
    counted = (torch.rand(2, 1, *HW, generator=torch.Generator().manual_seed(1)) < 0.6).float()
    expected = codec.loss(maps, targets, counted)
    asked = maps.read(targets.photos, targets.cells)
    own = torch.where(counted[targets.photos] > 0, asked.heatmaps, torch.rand_like(asked.heatmaps))
    centre_counts = counted[targets.photos, 0, targets.cells[:, 1], targets.cells[:, 0]] > 0
    assert 0 < centre_counts.sum() < len(centre_counts)
    features = torch.where(centre_counts[:, None], asked.features, torch.rand_like(asked.features))
    heatmaps = torch.where(counted > 0, maps.heatmaps, torch.rand_like(maps.heatmaps))
    again = codec.loss(CIDMaps(heatmaps, lambda *_: InstanceMaps(own, features)), targets, counted)
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    without = codec.loss(maps, targets, torch.ones(2, 1, *HW))
    assert all(not torch.equal(expected[name], without[name]) for name in expected)


def test_two_processes_of_four_photos_lose_as_one_of_eight() -> None:
    codec, net = codec_of(4, least_area=0.0), net_of(4).eval()
    images = torch.randn(8, 3, 80, 104)
    people = random_batch(8, (3, 0, 1, 0, 5, 6, 4, 2), 4, HW)
    counted = torch.ones(8, 1, *HW)
    together = codec.loss(net(images), codec.targets(people, HW), counted)
    asked: list[Tensor] = []

    def loss(half: slice, mean_over_ranks) -> dict[str, Tensor]:
        part = People(*(field[half] for field in vars(people).values()))
        targets = codec.targets(part, HW)
        return codec.loss(net(images[half]), targets, counted[half], mean_over_ranks=mean_over_ranks)

    halves = [slice(0, 4), slice(4, 8)]
    for half in halves:
        loss(half, lambda counts: asked.append(counts) or counts)
    split = [loss(half, lambda _: torch.stack(asked).mean(0)) for half in halves]
    for name, value in together.items():
        torch.testing.assert_close((split[0][name] + split[1][name]) / 2, value, rtol=1e-5, atol=1e-6)


# --- decoding


def answer(targets: CIDTargets) -> CIDMaps:
    """Maps of a network that has learned its targets by heart, and knows nobody at other cells."""

    def read(photos: Tensor, cells: Tensor) -> InstanceMaps:
        heatmaps = torch.full((len(photos), *targets.instance_heatmaps.shape[1:]), 1e-4)
        for i, (photo, cell) in enumerate(zip(photos, cells, strict=True)):
            own = (targets.photos == photo) & (targets.cells == cell).all(-1) & targets.exists
            for j in own.nonzero()[:, 0]:
                marked = targets.instance_weights[j, :, None, None] > 0
                heatmaps[i] = torch.where(marked, targets.instance_heatmaps[j], heatmaps[i])
        return InstanceMaps(heatmaps, torch.zeros(len(photos), 1))

    return CIDMaps(targets.heatmaps, read)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, tuple[int, int], list[np.ndarray]]:
    """People in different tiles of 24 cells, each with keypoints about the middle of its own."""
    num_keypoints = draw(st.sampled_from([4, 14, 17, 133]))
    rows, columns = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = []
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.7:
                cells = rng.uniform(2, 21, (num_keypoints, 2))
                cells[:2] = rng.uniform(2, 5, 2), rng.uniform(18, 21, 2)  # large enough for a centre
                xy = STRIDE * (cells + 24 * np.array([column, row]))
                visible = rng.random(num_keypoints) < 0.8
                visible[:2] = True
                people.append(np.concatenate((xy, visible[:, None]), axis=1).astype(np.float32))
    return num_keypoints, (24 * rows, 24 * columns), people


@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_people_come_back_from_their_own_targets(scene) -> None:
    """Each keypoint exactly at its nearest cell, which is at most half a cell away in each axis."""
    num_keypoints, hw, people = scene
    codec = codec_of(num_keypoints)
    decoded = codec.decode(answer(codec.targets(pad([people], num_keypoints), hw)))
    read = people_of(decoded, 0)
    assert len(read) == len(people)
    for truth in people:
        marked = torch.from_numpy(truth[:, 2] > 0)
        expected = torch.from_numpy(truth[:, :2])
        errors = [(points - expected)[marked].abs().max().item() for points, _ in read]
        points, confidence = read[int(np.argmin(errors))]
        assert min(errors) < 0.501 * STRIDE
        nearest = STRIDE * (expected / STRIDE + 0.5).floor()
        torch.testing.assert_close(points[marked], nearest[marked], rtol=0, atol=1e-4)
        assert (confidence[marked] > 0.15).all()
        assert (confidence[~marked] < 0.001).all()
    assert (decoded.score.diff(dim=1) <= 0)[:, : len(people) - 1].all()


@settings(max_examples=40, deadline=None)
@given(first=st.tuples(*[st.floats(-0.49, 0.49)] * 2), second=st.tuples(*[st.floats(-0.49, 0.49)] * 2))
def test_no_decoder_can_tell_where_in_its_cell_a_keypoint_is(
    first: tuple[float, float], second: tuple[float, float]
) -> None:
    """All points of a cell have the same targets, bit for bit, so half a cell is the least bound there is."""
    codec = codec_of(4)
    targets = []
    for dx, dy in (first, second):
        person = big(10, 10)
        person[0, :2] += STRIDE * dx, STRIDE * dy
        people = pad([[person]], 4)
        corners = torch.tensor([(-20.0, -20), (20, -20), (20, 20), (-20, 20)]) + 10 * STRIDE
        targets.append(codec.targets(replace(people, corners_xy=corners[None, None]), HW))
    for one, other in zip(*targets, strict=True):
        assert torch.equal(one, other)


def test_a_quarter_of_a_cell_is_read_from_a_slanted_peak() -> None:
    heatmaps = torch.full((1, 5, *HW), 1e-4)
    heatmaps[0, 4, 10, 12] = 0.8
    own = torch.full((1, 4, *HW), 1e-4)
    for k, (dx, dy) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        own[0, k, 8, 6] = 0.9
        own[0, k, 8 + dy, 6 + dx] = 0.5
    maps = CIDMaps(heatmaps, lambda photos, _: InstanceMaps(own.expand(len(photos), -1, -1, -1), photos))
    points, _ = people_of(codec_of(4).decode(maps), 0)[0]
    shifts = points / STRIDE - torch.tensor([6.0, 8.0])
    assert shifts[:2, 0].tolist() == [0.25, -0.25]
    assert shifts[2:, 1].tolist() == [0.25, -0.25]


def test_scores_are_the_mean_of_heights_times_the_centres_height() -> None:
    """Heights are those of the maps averaged with their means over 3 x 3 cells: 5 / 9 of a single cell's."""
    heatmaps, own = torch.zeros(1, 5, *HW), torch.zeros(1, 4, *HW)
    heatmaps[0, 4, 10, 12] = 0.9
    for k in range(4):
        own[0, k, 3 + 3 * k, 5] = 0.2 * (k + 1)
    maps = CIDMaps(heatmaps, lambda photos, _: InstanceMaps(own.expand(len(photos), -1, -1, -1), photos))
    decoded = codec_of(4).decode(maps)
    heights = torch.tensor([0.2, 0.4, 0.6, 0.8]) * 5 / 9
    torch.testing.assert_close(decoded.confidence[0, 0], heights)
    assert decoded.score[0, 0].item() == pytest.approx((heights.mean() * 0.5).item())
    assert decoded.exists.sum() == 1  # all cells answer with the same person: the others are alike


@pytest.mark.parametrize("num_keypoints", [1, 4, 14, 17, 133])
def test_similarity_is_that_of_a_plain_loop(num_keypoints: int) -> None:
    rng = np.random.default_rng(num_keypoints)
    points = rng.uniform(0, 60, (2, 1, num_keypoints, 2)) + rng.normal(0, 4, (2, 6, num_keypoints, 2))
    sigmas = SKELETONS[num_keypoints].sigmas
    read = similarity(torch.from_numpy(points), sigmas)
    for n in range(2):
        for a in range(6):
            for b in range(6):
                area = np.mean([max(np.prod(np.ptp(points[n, q], axis=0)), 32) for q in (a, b)])
                squared = ((points[n, a] - points[n, b]) ** 2).sum(-1)
                similar = np.exp(-squared / (2 * (2 * np.array(sigmas)) ** 2 * area))
                assert read[n, a, b].item() == pytest.approx(similar.mean(), rel=1e-4)


def test_nobody_is_decoded_where_nobody_is() -> None:
    targets = codec_of(17).targets(random_batch(0, (0, 0), 17, HW), HW)
    decoded = codec_of(17).decode(answer(targets))
    assert not decoded.exists.any()
    assert all(field.eq(0).all() for field in (decoded.points_xy, decoded.confidence, decoded.score))


def test_photos_are_taught_and_decoded_in_a_batch_as_one_by_one() -> None:
    codec, people, net = codec_of(17, least_area=0.0), random_batch(7, (4, 0, 9), 17, HW), net_of(17).eval()
    targets, images = codec.targets(people, HW), torch.randn(3, 3, 80, 104)
    with torch.no_grad():
        decoded = codec.decode(net(images))
        assert decoded.exists.any()
        for n in range(3):
            alone = codec.targets(one_photo(people, n), HW)
            assert torch.equal(alone.heatmaps[0], targets.heatmaps[n])
            own = targets.exists & (targets.photos == n)
            assert torch.equal(alone.cells[alone.exists], targets.cells[own])
            assert torch.equal(alone.instance_heatmaps[alone.exists], targets.instance_heatmaps[own])
            for alone, batched in zip(codec.decode(net(images[n : n + 1])), decoded, strict=True):
                torch.testing.assert_close(alone[0], batched[n], rtol=1e-4, atol=1e-4)


def test_people_are_read_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cid, "counts_at_once", lambda device: False)
    net = net_of(4).eval()
    with torch.no_grad():
        maps = net(torch.randn(2, 3, 80, 104))
        whole, parts = (codec_of(4, most_instances=count).decode(maps) for count in (200, 7))
    assert whole.exists.sum() > 7
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# --- mirror images


def test_a_mirror_image_twice_is_the_image() -> None:
    codec, net = codec_of(17), net_of(17).eval()
    photos, cells = torch.tensor([0, 1, 1]), torch.tensor([[3, 4], [0, 0], [25, 19]])
    with torch.no_grad():
        maps = net(torch.randn(2, 3, 80, 104))
        again = codec.mirror(codec.mirror(maps))
        assert torch.equal(again.heatmaps, maps.heatmaps)
        for one, other in zip(again.read(photos, cells), maps.read(photos, cells), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("num_keypoints", [1, 4, 17])
def test_mirrored_maps_of_the_mirrored_scene_are_the_maps_of_the_scene(num_keypoints: int) -> None:
    codec, people = codec_of(num_keypoints, least_area=0.0), random_batch(2, (3, 2), num_keypoints, HW)
    order = list(codec.skeleton.flip_order)
    mirror = torch.tensor([-1.0, 1.0])
    points = people.points_xy[:, :, order] * mirror
    corners = people.corners_xy * mirror
    for places in (points, corners):
        places[..., 0] += STRIDE * (HW[1] - 1)
    mirrored = People(points, people.visible[:, :, order], people.is_person, corners)
    targets = codec.targets(people, HW)
    maps, back = answer(targets), codec.mirror(answer(codec.targets(mirrored, HW)))
    torch.testing.assert_close(maps.heatmaps, back.heatmaps, atol=1e-5, rtol=0)
    both = codec.merge(maps, back)
    for answered in (back, both):
        torch.testing.assert_close(
            answered.read(targets.photos, targets.cells).heatmaps,
            maps.read(targets.photos, targets.cells).heatmaps,
            atol=1e-5,
            rtol=0,
        )


# --- the device


def test_a_gpu_reads_the_people_that_a_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads those who do not exist as well, and leaves them out afterwards."""
    codec, net = codec_of(17), net_of(17).eval()
    with torch.no_grad():
        maps = net(torch.randn(3, 3, 80, 104))
        mirrored = codec.mirror(maps)
        least = maps.heatmaps[:, -1].flatten().quantile(0.9).item()
        codec = replace(codec, settings=replace(codec.settings, least_centre=least))
        here = codec.decode(maps)
        assert 0 < here.exists.sum() < here.exists.numel()
        apart = codec.distance(maps, mirrored, here)
        monkeypatch.setattr(cid, "counts_at_once", lambda device: False)
        for one, other in zip(here, codec.decode(maps), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        there = codec.distance(maps, mirrored, here)
        torch.testing.assert_close(apart[here.exists], there[here.exists], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("hw", [(1, 1), (1, 5), (2, 3), (9, 7)])
def test_heatmaps_are_averaged_with_their_means_over_nine_cells(hw: tuple[int, int]) -> None:
    heatmaps = torch.rand(2, 3, *hw, generator=torch.Generator().manual_seed(0))
    padded = np.pad(heatmaps.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = heatmaps.double().numpy() / 2
    for y in range(3):
        for x in range(3):
            expected += padded[..., y : y + hw[0], x : x + hw[1]] / 18
    np.testing.assert_allclose(cid._smooth(heatmaps), expected, atol=1e-6)
    assert torch.equal(cid._smooth(heatmaps.flip(-1)).flip(-1), cid._smooth(heatmaps))
    assert torch.equal(cid._smooth(heatmaps.flip(-2)).flip(-2), cid._smooth(heatmaps))


def test_nothing_is_read_back_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have shapes only: code that asks one for its number gets an error, as of a GPU's."""
    monkeypatch.setattr(cid, "counts_at_once", lambda device: False)
    codec, people, net = codec_of(17), random_batch(2, (3, 2), 17, HW), net_of(17).eval()
    codec.decode(codec.mirror(net(torch.randn(1, 3, 80, 104))))  # orders and sigmas go to the device once
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = People(*(mode.from_tensor(field) for field in vars(people).values()))
        maps = net(mode.from_tensor(torch.randn(2, 3, 80, 104)))
        targets = codec.targets(fake, HW, torch.Generator().manual_seed(0))
        terms = codec.loss(maps, targets, torch.ones(2, 1, *HW))
        decoded = codec.decode(codec.merge(maps, codec.mirror(maps)))
    assert all(term.shape == () for term in terms.values())
    assert decoded.points_xy.shape == (2, 30, 17, 2)
