"""From views to keypoints in the photo: the way back, ensembles, the flip test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semipose.models.codecs.heatmap import HeatmapCodec, HeatmapSettings, decode
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.loader import eval_loader
from semipose.pipelines.source import open_split
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.skeleton import Skeleton
from semipose.training.predict import Predictions, beside_truth, heatmaps_of, in_eval_mode, join, predict
from tests.training.oracle import Oracle

DARK = HeatmapSettings(sigma=2.0, decode="dark")
HANDS = Skeleton(names=("left", "right", "nose"), flip_pairs=((0, 1),), bones=(), sigmas=(0.05,) * 3)
CODEC = HeatmapCodec(DARK, HANDS)


@pytest.mark.parametrize("size_hw", [(256, 192), (128, 160)])
def test_true_heatmaps_come_back_as_the_annotated_points(
    drawn_shards: Path, size_hw: tuple[int, int]
) -> None:
    split = open_split(drawn_shards / "val")
    truth = split.ground_truth
    oracle = Oracle(truth)
    batches = oracle.watch(eval_loader(split, ViewSettings(size_hw=size_hw), batch_size=5))
    people = predict({"oracle": oracle}, batches, codec=HeatmapCodec(DARK, split.skeleton))["oracle"]
    annotated = truth.keypoints_of(people.records)
    errors = np.linalg.norm(people.points_xy - annotated[..., :2], axis=-1)
    assert people.points_xy.shape == (12, 14, 2)
    assert np.median(errors[annotated[..., 2] > 0]) < 0.1


def hand_batch(images: torch.Tensor) -> EvalBatch:
    half = torch.tensor([[2.0, 0, 10], [0, 2.0, 20]]).expand(len(images), 2, 3)
    return EvalBatch(image=images, image_from_view=half, records=[{"id": i} for i in range(len(images))])


def hand_images(centres_xy: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Views (N, 3, H, W): a blob for the left hand in red, for the right one in green; blue rises to the
    right, so that `HandNet` can tell a mirror image."""
    y, x = (torch.arange(size, dtype=torch.float32) for size in size_hw)
    distances = (x - centres_xy[:, :, 0, None, None]) ** 2 + (
        y[:, None] - centres_xy[:, :, 1, None, None]
    ) ** 2
    ramp = (x / size_hw[1]).expand(len(centres_xy), 1, *size_hw)
    return torch.cat((torch.exp(-distances / (2 * 8.0**2)), ramp), dim=1)


class HandNet(nn.Module):
    """Reads the blobs off at the cells' pixels, and names them as a trained network would: in a mirror image
    the left hand is the one that the photo shows as the right one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = images[..., ::4, ::4]
        is_mirrored = (images[:, 2, 0, 1] < images[:, 2, 0, 0])[:, None, None, None]
        left, right = cells[:, :1], cells[:, 1:2]
        hands = torch.where(is_mirrored, torch.cat((right, left), 1), torch.cat((left, right), 1))
        return torch.cat((hands, left * right), dim=1)


def some_hands() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((6, 2, 2), generator=generator) * torch.tensor([40.0, 56.0]) + 28


class TestFlipTest:
    def test_moves_no_keypoint(self) -> None:
        """The mirrored half answers cell for cell what the plain one does: the mean is the same heatmap."""
        images = hand_images(some_hands(), (112, 96))
        plain = heatmaps_of(HandNet(), images, CODEC)
        flipped = heatmaps_of(HandNet(), images, CODEC, flip_test=True)
        torch.testing.assert_close(flipped, plain, rtol=0, atol=1e-6)

    def test_published_shift_would_move_them_by_half_a_pixel(self) -> None:
        """docs/methods.md 7: mirror at the middle of the pixels, flip back, one cell right, average."""
        centres = some_hands()
        images = hand_images(centres, (112, 96))
        answer = HandNet()(images.flip(-1)).flip(-1)[:, [1, 0, 2]]
        shifted = torch.cat((answer[..., :1], answer[..., :-1]), dim=-1)
        mean = (HandNet()(images) + shifted) / 2
        published = (decode(mean, 4, method="dark")[0][:, :2] - centres).mean(dim=(0, 1))
        ours = heatmaps_of(HandNet(), images, CODEC, flip_test=True)
        right = (decode(ours, 4, method="dark")[0][:, :2] - centres).mean(dim=(0, 1))
        assert published[0] == pytest.approx(0.5, abs=0.05)
        assert right.abs().max() < 0.05

    def test_averages_what_the_two_halves_say(self) -> None:
        class OneSided(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return HandNet()(images) * (images[:, 2, 0, 1] > images[:, 2, 0, 0])[:, None, None, None]

        images = hand_images(some_hands(), (112, 96))
        torch.testing.assert_close(
            heatmaps_of(OneSided(), images, CODEC, flip_test=True) * 2, HandNet()(images)
        )

    def test_mirror_puts_cells_on_cells(self) -> None:
        images = torch.rand(2, 3, 8, 24)
        mirrored = CODEC.mirror_images(images)
        for x in range(21):
            assert torch.equal(mirrored[..., x], images[..., 20 - x])
        for x in (21, 22, 23):
            assert torch.equal(mirrored[..., x], images[..., 0])

    def test_is_asked_for(self) -> None:
        calls = []

        def network(images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            return HandNet()(images)

        batches = [hand_batch(hand_images(some_hands(), (112, 96)))]
        arguments = {"codec": CODEC}
        plain = predict({"a": network}, batches, **arguments)
        assert calls == [6]
        flipped = predict({"a": network}, batches, **arguments, flip_test=True)
        assert calls == [6, 6, 6]
        np.testing.assert_allclose(flipped["a"].points_xy, plain["a"].points_xy, atol=1e-4)


class TestEnsembles:
    def test_are_decoded_from_the_mean_heatmap_in_the_same_pass(self) -> None:
        centres = some_hands()
        passes = []

        def batches():
            passes.append(1)
            for part in hand_images(centres, (112, 96)).split(4):
                yield hand_batch(part)

        nets = {"first": HandNet(), "second": lambda images: HandNet()(images.roll(8, dims=-1))}
        found = predict(nets, batches(), codec=CODEC, ensembles={"both": ("first", "second")})
        assert list(found) == ["first", "second", "both"]
        assert passes == [1]
        images = hand_images(centres, (112, 96))
        mean = (nets["first"](images) + nets["second"](images)) / 2
        points, peaks = decode(mean, 4, method="dark")
        np.testing.assert_allclose(
            found["both"].points_xy, points * 2 + torch.tensor([10.0, 20.0]), atol=1e-4
        )
        np.testing.assert_allclose(found["both"].peaks, peaks, atol=1e-6)
        between = (found["first"].points_xy + found["second"].points_xy)[:, :2] / 2
        np.testing.assert_allclose(found["both"].points_xy[:, :2], between, atol=0.5)

    def test_area_is_that_of_the_view_in_the_photo(self) -> None:
        batches = [hand_batch(hand_images(some_hands(), (112, 96)))]
        found = predict({"a": HandNet()}, batches, codec=CODEC)["a"]
        assert found.areas == pytest.approx(np.full(6, 4 * 112 * 96))


def test_networks_are_scored_in_eval_mode_and_left_as_they_were() -> None:
    training, scoring = nn.Dropout(), nn.Dropout().eval()
    with in_eval_mode([training, scoring, abs]):
        assert not training.training
        assert not scoring.training
    assert training.training
    assert not scoring.training


def test_nobody_to_predict() -> None:
    found = predict({"a": HandNet()}, [], codec=CODEC, ensembles={"b": ("a",)})
    assert {name: people.points_xy.shape for name, people in found.items()} == {
        "a": (0, 3, 2),
        "b": (0, 3, 2),
    }


def test_ranks_join_in_order() -> None:
    def part(ids: list[int]) -> Predictions:
        numbers = np.array(ids, np.float32)
        points = np.tile(numbers[:, None, None], (1, 3, 2))
        return Predictions([{"id": i} for i in ids], points, points[..., 0], numbers)

    everyone = join([part([1, 2]), part([]), part([3])])
    assert [record["id"] for record in everyone.records] == [1, 2, 3]
    assert everyone.points_xy[:, 0, 0].tolist() == everyone.areas.tolist() == [1, 2, 3]
    assert everyone.peaks.shape == (3, 3)


def test_comparison_shows_prediction_and_truth_in_one_frame(drawn_shards: Path) -> None:
    split = open_split(drawn_shards / "val")
    truth = split.ground_truth
    oracle = Oracle(truth)
    batch = next(oracle.watch(eval_loader(split, ViewSettings(), batch_size=12)))
    seen = beside_truth(oracle, batch, truth, codec=HeatmapCodec(DARK, split.skeleton))
    visible = seen["visible"] > 0
    errors = np.linalg.norm(seen["predicted"] - seen["truth"], axis=-1)[visible]
    assert visible.any()
    assert np.median(errors) < 0.1
