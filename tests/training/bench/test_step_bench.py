"""The benchmark of steps: both ways make the same step, memory is that of the whole tree, targets add up."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError, load
from semipose.models.codecs.heatmap import encode, heatmap_loss
from semipose.pipelines.views import PLAIN, AffinePolicy, ViewSettings
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.training.bench import step_growth, steps
from semipose.training.bench.result import Result, make_row, read_result
from semipose.training.bench.rivals.classic_step import PairDataset, accuracy, draw_targets, joint_loss
from semipose.training.bench.settings import (
    PeopleSettings,
    StepBenchSettings,
    StepGrowthSettings,
    StepLimits,
    StepSpec,
    StepTimes,
)
from semipose.training.bench.step_process import covered_share, measure
from semipose.training.bench.steps import Measured, all_steps, recipes, run_measured
from semipose.training.bench.targets import targets
from semipose.training.methods.method import Progress

QUIET = Console(quiet=True)
SMALL = (
    "views.size_hw=[64,48]",
    "net.backbone={name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}",
    "net.head={name: pyramid, width: 8, convolutions: 1}",
)
ROOT = Path(__file__).resolve().parents[3]
METHODS = {"semi": "adaptive_mixup", "supervised": "supervised"}


@pytest.fixture
def drawn_people(drawn_shards: Path) -> CocoFormat:
    """The photos that `drawn_shards` were cut from."""
    folder = drawn_shards / "train-coco"
    return CocoFormat(annotations=folder / "annotations.json", images=folder / "images")


@pytest.fixture
def spec(drawn_shards: Path, drawn_people: CocoFormat, tmp_path: Path) -> Callable[..., StepSpec]:
    """`spec("semi", loader="classic")`: a tiny measured step."""

    def make(step: Any, **way: Any) -> StepSpec:
        return StepSpec(
            name="row",
            group="group",
            step=step,
            recipes=recipes(StepBenchSettings(), METHODS[step]),
            changes=SMALL,
            batch_size=4,
            crops=str(drawn_shards / "train"),
            people=PeopleSettings(source=drawn_people),
            threads=1,
            limits=StepLimits(warmup=1, steps=2, seconds=0.0),
            output=tmp_path / "measured" / "step.json",
            **way,
        )

    return make


@pytest.mark.parametrize(
    ("step", "way"),
    [
        ("semi", {}),
        ("semi", {"loader": "host"}),
        ("semi", {"loader": "classic"}),
        ("supervised", {"loader": "classic"}),
        ("semi", {"loader": "classic", "way": "classic"}),
    ],
    ids=lambda each: str(each),
)
def test_each_way_makes_steps(spec: Callable[..., StepSpec], step: str, way: dict[str, str]) -> None:
    times = measure(spec(step, **way))
    assert len(times.steps_per_s) == len(times.data_wait_share) == 2
    assert all(0 <= share < 1 for share in times.data_wait_share)
    unlabelled = 4 if step == "semi" else 0
    assert times.images == {"labelled": 4} | dict.fromkeys(("weak", "strong", "mixed"), unlabelled)


def test_weights_are_random_in_every_network(spec: Callable[..., StepSpec]) -> None:
    net = "{backbone: {name: resnet, depth: 18}, weights: nowhere.pth}"
    dual = ("method.name=dual", f"method.second_net={net}")
    assert measure(replace(spec("semi"), changes=(*SMALL, *dual))).steps_per_s


def test_steps_are_those_after_a_burn_in(
    spec: Callable[..., StepSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def recorded(step: int, total_steps: int) -> Progress:
        shares.append(step / total_steps)
        return Progress(step, total_steps)

    monkeypatch.setattr("semipose.training.bench.step_process.Progress", recorded)
    measure(replace(spec("semi"), changes=(*SMALL, "method.burn_in=0.5", "method.ramp_up=0.1")))
    assert 0.6 <= min(shares) < 0.61


def test_targets_of_the_loop_are_ours_at_whole_cells() -> None:
    points_xy = np.array([[20.0, 24.0], [0.0, 0.0], [44.0, 60.0], [12.0, 12.0], [500.0, 8.0]], np.float32)
    visible = np.array([1, 1, 1, 0, 1], np.float32)
    drawn = draw_targets(points_xy, visible, (64, 48), sigma=1.5)
    ours, _ = encode(torch.from_numpy(points_xy)[None], torch.from_numpy(visible)[None], (16, 12), 4, 1.5)
    torch.testing.assert_close(torch.from_numpy(drawn), ours[0])


def test_loss_of_the_loop_is_ours() -> None:
    torch.manual_seed(0)
    predicted, target = torch.rand(2, 3, 5, 8, 6)
    weights = torch.randint(0, 2, (3, 5)).float()
    torch.testing.assert_close(
        joint_loss(predicted, target, weights), heatmap_loss(predicted, target, weights[:, :, None, None])
    )


def test_accuracy_counts_joints_near_their_place() -> None:
    target = np.zeros((1, 3, 64, 48), np.float32)
    target[0, 0, 10, 10] = target[0, 1, 20, 20] = 1
    predicted = np.roll(target, 1, axis=3)
    assert accuracy(predicted, target) == 1
    predicted[0, 1] = np.roll(predicted[0, 1], 20, axis=0)
    assert accuracy(predicted, target) == 0.5
    assert accuracy(target[:, 2:], target[:, 2:]) == 0


def test_labelled_half_of_a_pair_is_mirrored_with_its_names(drawn_people: CocoFormat) -> None:
    annotations = drawn_people.read()
    mirrored = AffinePolicy(scale_sd=0.0, rotation_probability=0.0, flip_probability=1.0)
    height, width = 64, 48

    def pairs(policy: AffinePolicy) -> PairDataset:
        views = ViewSettings(size_hw=(height, width), labelled=policy)
        return PairDataset(annotations, views, unlabelled=False, sigma=None)

    np.random.seed(0)
    plain = pairs(PLAIN)[0]
    np.random.seed(0)
    found = pairs(mirrored)[0]
    order = list(annotations.skeleton.flip_order)
    visible = plain["visible"][order]
    torch.testing.assert_close(found["visible"], visible)
    expected = torch.stack([width - plain["points_xy"][order][:, 0], plain["points_xy"][order][:, 1]], dim=1)
    torch.testing.assert_close(found["points_xy"][visible > 0], expected[visible > 0])
    shifted = plain["image"].flip(2)[:, :, :-1]  # x -> W - x puts column 1 on the last one
    assert (found["image"][:, :, 1:] - shifted).abs().mean() < 0.05


def test_share_that_overlapping_spans_cover() -> None:
    assert covered_share([(0, 2), (1, 3), (6, 10)]) == pytest.approx(0.7)
    assert covered_share([(0, 10), (2, 3)]) == 1
    assert covered_share([]) == 0


@pytest.mark.slow
def test_a_measured_process_leaves_times_and_memory(spec: Callable[..., StepSpec]) -> None:
    found = run_measured(spec("semi", loader="classic"), longest_s=120)
    assert found.problem is None
    assert found.times is not None
    assert found.peak_mib > 100


@pytest.mark.slow
def test_a_process_that_fails_says_why(spec: Callable[..., StepSpec], tmp_path: Path) -> None:
    told = spec("semi", loader="classic")
    broken = StepSpec(**{**vars(told), "crops": str(tmp_path / "nowhere")})
    found = run_measured(broken, longest_s=120)
    assert found.times is None
    assert "nowhere" in (found.problem or "")


def test_bench_leaves_rows_targets_and_a_plot(
    drawn_people: CocoFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[StepSpec] = []

    def pretend(spec: StepSpec, *, longest_s: float) -> Measured:
        told.append(spec)
        images = {"labelled": 4, "weak": 4, "strong": 4, "mixed": 4}
        waited = 0.01 if spec.loader == "none" else 0.5
        times = StepTimes(steps_per_s=(1.0, 2.0, 3.0), data_wait_share=(waited,) * 3, images=images)
        if spec.step == "supervised" and spec.loader == "classic":
            return Measured(None, 1.0, "it broke")
        return Measured(times, 500.0 if spec.loader == "none" else 1000.0)

    monkeypatch.setattr(steps, "run_measured", pretend)
    cfg = StepBenchSettings(
        source=drawn_people,
        output=tmp_path / "steps.json",
        loader=tmp_path / "none.json",
        changes=SMALL,
        batch_sizes=(4,),
        rounds=2,
    )
    result = steps.run(cfg, QUIET)
    assert read_result(cfg.output) == result
    assert cfg.output.with_suffix(".png").exists()
    assert [spec.name for spec in told] == [
        "semi, our loader, batch 4",
        "semi, classic loader, batch 4",
        "supervised, our loader, batch 4",
        "supervised, classic loader, batch 4",
        "semi, classic loader, batch 4",
        "supervised, our loader, batch 4",
        "semi, our loader, batch 4",
    ]
    assert result.skipped == {"supervised, classic loader, batch 4": "it broke"}
    ours = result.row("semi, our loader, batch 4")
    assert ours is not None
    assert (ours.median, ours.base, len(ours.rounds)) == (2, "semi, classic loader, batch 4", 6)
    assert ours.facts["images_per_s"] == 32
    met = {each.what.split(",")[0]: each.is_met for each in result.targets}
    assert met["data wait in a semi-supervised step"] is True
    assert met["peak memory of a run"] is True
    assert met["masking"] is None


def test_growth_varies_one_thing_at_a_time(
    drawn_people: CocoFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(spec: StepSpec, *, longest_s: float) -> Measured:
        if "K = 24" in spec.name:
            return Measured(None, 1.0, "it broke")
        assert Path(spec.crops, "dataset.json").exists()
        images = dict.fromkeys(("labelled", "weak", "strong", "mixed"), spec.batch_size)
        return Measured(StepTimes(steps_per_s=(2.0,), data_wait_share=(0.0,), images=images), 1.0)

    monkeypatch.setattr(steps, "run_measured", pretend)
    cfg = StepGrowthSettings(
        source=drawn_people,
        output=tmp_path / "growth.json",
        changes=SMALL,
        batch_sizes=(4, 8),
        keypoints=(17, 24),
        paths=(1, 2),
        batch_size=4,
    )
    result = step_growth.run(cfg, QUIET)
    assert read_result(cfg.output) == result
    assert [(row.name, row.median, row.times_base) for row in result.rows] == [
        ("step, batch 4", 8, 1),
        ("step, batch 8", 16, 2),
        ("step, K = 17", 8, 1),
        ("step, paths: 1", 8, 1),
        ("step, paths: 2", 8, 1),
        ("step, ranks together: 1", 8, 1),
        ("step, ranks together: 2", 16, 2),
    ]
    assert result.skipped == {"step, K = 24": "it broke"}


def test_paths_of_growth_are_paths_of_the_method(spec: Callable[..., StepSpec]) -> None:
    two = replace(spec("semi"), changes=(*SMALL, f"method.paths=[{step_growth.PATH}, {step_growth.PATH}]"))
    assert measure(two).images == {"labelled": 4, "weak": 4, "strong": 8, "mixed": 4}


def result(bench: Any, *rows: Any, gpu: str | None = None) -> Result:
    return Result(bench=bench, machine={"gpu": gpu}, settings={}, data={}, rows=rows)


def speed(name: str, rate: float, **facts: float) -> Any:
    return make_row(name, [rate], group="g", unit="persons/s", facts=facts)


def test_targets_compare_what_was_measured() -> None:
    loader = result(
        "loader",
        speed("classic loader", 100),
        speed("whole loader, and masks", 310),
        speed("masking: counts, choice, op", 8000),
        speed("masking as published (loops)", 1000),
    )
    facts = {"strong_images_per_s": 80.0, "data_wait_share": 0.03, "peak_memory_mib": 900.0}
    of_steps = result("steps", speed("semi, our loader, batch 8", 10, **facts))
    found = {each.what: each for each in targets(loader, of_steps)}
    met = [each.is_met for each in found.values()]
    assert met == [True, None, False, True, False, None]
    assert found["masking, as a share of a semi-supervised step"].measured == "1.00%"


def test_targets_of_a_gpu_are_about_its_rows() -> None:
    names = ("classic loader", "masking: counts, choice, op", "masking as published (loops)")
    on_gpu = (
        "whole loader, and masks, GPU",
        "masking: counts, choice, op, GPU",
        "masking as published (loops), GPU",
    )
    rates = dict(zip((*names, *on_gpu), (100, 2000, 1000, 900, 50_000, 500), strict=True))
    loader = result("loader", *(speed(name, rate) for name, rate in rates.items()))
    found = targets(loader, result("steps", gpu="some"))
    assert [each.measured for each in found[:3]] == ["9.00x", None, "100.00x"]
    assert "GPU" in found[0].what


def test_rows_that_are_not_there_are_refused_and_photos_are_needed(tmp_path: Path) -> None:
    specs = all_steps(StepBenchSettings(), "crops", tmp_path)
    with pytest.raises(InputError, match="there is no row 'nothing' here"):
        steps.choose(StepBenchSettings(only=("nothing",)), specs, has_photos=True)
    _, skipped = steps.choose(StepBenchSettings(), specs, has_photos=False)
    assert set(skipped) == {spec.name for spec in specs if spec.loader == "classic"}


def test_settings_refuse_half_of_the_photos() -> None:
    with pytest.raises(InputError, match="photos and annotations go together"):
        load(StepBenchSettings, None, ["annotations=some.json"])
