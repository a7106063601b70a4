"""Recipes of published rows have the published values: one table of constants, from docs/methods.md."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from semipose.configs.schema import plain
from semipose.pipelines.views import ViewSettings
from semipose.training.settings import load_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PEOPLE, AIC_PEOPLE = 149_813, 377_600  # of train2017; of AI Challenger about 378,000, as the recipe says


@dataclass(frozen=True)
class Protocol:
    """docs/methods.md 1 (people, sizes, batches), 6 (schedules), 7 (scoring), 8 (networks)."""

    labelled: int | str
    epochs: int
    falls: tuple[int, int]
    backbone: dict[str, Any]
    size_hw: tuple[int, int] = (256, 192)
    sigma: float = 2.0
    batch: int = 32
    people: int = PEOPLE
    head: str = "deconv"
    flip_test: bool = False
    metric: str = "AP"
    starts_differ: bool = False
    """Whether two networks start from torchvision's and GluonCV's ImageNet weights (docs/methods.md 6)."""

    @property
    def epoch_steps(self) -> int:
        """The last, partial batch is kept."""
        return math.ceil(self.people / self.batch)


R18, R50 = {"name": "resnet", "depth": 18}, {"name": "resnet", "depth": 50}
PROTOCOLS = {
    "coco-1k": Protocol(1000, 30, (20, 25), R18, starts_differ=True),
    "coco-5k": Protocol(5000, 100, (70, 90), R18, starts_differ=True),
    "coco-10k": Protocol(10000, 100, (70, 90), R18, starts_differ=True),
    "coco+wild": Protocol("all", 400, (300, 350), R50),
    "coco+wild-384": Protocol(
        "all", 300, (220, 260), {"name": "hrnet", "width": 48}, (384, 288), 3.0, batch=8, head="plain"
    ),
    "mpii+aic": Protocol(
        "all",
        100,
        (50, 70),
        {"name": "hrnet", "width": 32},
        (256, 256),
        3.0,
        people=AIC_PEOPLE,
        head="plain",
        flip_test=True,
        metric="PCKh",
    ),
}
OTHER_SCHEDULES = {
    ("coco-1k", "dual_cutout"): (70, (50, 60)),
    ("coco-1k", "dual_rand_augment"): (70, (50, 60)),
    ("coco-1k", "triple"): (100, (70, 90)),
    ("mpii+aic", "multiaugs_dual"): (300, (220, 260)),
}
"""Rows whose epochs and falls are not those of their protocol (docs/methods.md 4.2 and 6)."""

JC, JO = {"name": "joint_cutout", "count": 5}, {"name": "cut_occlude", "count": 2}
JOCO, JCCM = [JO, {"name": "cutout", "count": 5}], [JC, {"name": "cutmix", "count": 2}]
ADAPTIVE = {"name": "adaptive_masks", "gamma": 0.55, "max_masks": None, "min_masks": 2, "min_response": 0.05}
RANDOM = {"name": "random_masks", "min_masks": 0, "max_masks": 4}
RAND_AUGMENT = {"name": "rand_augment", "operations": 2, "magnitude": 20}
MIXUP = {
    "layers": ["input", "backbone.layer3"],
    "passes": "one",
    "views": "weak",
    "beta": 0.75,
    "weight": 0.7,
}
PLAIN_TEACHER = {"ensemble": {"flip": False, "scales": [1.0]}, "min_peak": 0.0, "labels": "heatmaps"}
CONSISTENCY = {
    "teacher": {"name": "shared"},
    "weight": 1.0,
    "paths": [[]],
    "mixup": None,
    "burn_in": 0.0,
    "ramp_up": 0.0,
    "statistics": "all",
    **PLAIN_TEACHER,
}
SINGLE, DUAL = CONSISTENCY | {"name": "single"}, CONSISTENCY | {"name": "dual"}
FEW_PATHS, MANY_PATHS = {"paths": [JOCO, JCCM]}, {"paths": [JOCO, JCCM, [JC], [JO]]}
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised"},
    "single_affine": SINGLE,
    "single_cutout": SINGLE | {"paths": [[JC]]},
    "random_masks": SINGLE | {"paths": [[RANDOM]]},
    "adaptive": SINGLE | {"paths": [[ADAPTIVE]], "weight": 0.7},
    "adaptive_mixup": SINGLE | {"paths": [[ADAPTIVE]], "weight": 0.7, "mixup": MIXUP},
    "affine_mixup": SINGLE | {"weight": 0.7, "mixup": MIXUP},
    "multiaugs_single": SINGLE,
    "dual_affine": DUAL,
    "dual_cutout": DUAL | {"paths": [[JC]]},
    "dual_rand_augment": DUAL | {"paths": [[RAND_AUGMENT]]},
    "multiaugs_dual": DUAL,
    "triple": CONSISTENCY
    | {
        "name": "triple",
        "paths": [[JO]],
        "min_peak": 0.1,
        "teacher_net": None,
        "max_inconsistency": None,
        "weigh_by_position": False,
        "weigh_by_peak": False,
    },
    "pseudo_label": {
        "name": "pseudo_label",
        "weight": 1.0,
        "teacher_share": 0.5,
        "min_peak": 0.0,
        "ensemble": PLAIN_TEACHER["ensemble"],
    },
    "data_distillation": {"name": "pseudo_label", "weight": 1.0, "teacher_share": 0.5, "min_peak": 0.0},
    "double_match": CONSISTENCY | {"name": "double_match"},
}
"""docs/methods.md 2.3 to 2.6, 3, 4, 5 and 9."""
FULLY_LABELLED = ("supervised", "dual_cutout", "multiaugs_single", "multiaugs_dual", "triple")
"""Methods that are published with all people of COCO labelled."""

SCALE = {"scale_sd": 0.25, "scale_min": 0.75, "scale_max": 1.25}
ROTATION = {"rotation_sd_deg": 30.0, "rotation_max_deg": 60.0}
WEAK = {**SCALE, **ROTATION, "rotation_probability": 0.6, "flip_probability": 0.5, "border": "black"}
STRONG = WEAK | {"rotation_probability": 0.8, "flip_probability": 0.0}
"""docs/methods.md 2.1 and 2.2."""

ROWS = [
    *((protocol, row) for protocol in ("coco-1k", "coco-5k", "coco-10k") for row in METHODS),
    *((protocol, row) for protocol in ("coco+wild", "coco+wild-384") for row in FULLY_LABELLED),
    *(
        ("mpii+aic", row)
        for row in (*FULLY_LABELLED, "adaptive_mixup", "double_match")
        if row != "multiaugs_single"
    ),
]


def expected_method(protocol: str, row: str) -> dict[str, Any]:
    expected, starts_differ = METHODS[row], PROTOCOLS[protocol].starts_differ
    if row.startswith("multiaugs"):  # four paths with few labels, two with all of them (docs/methods.md 2.6)
        expected = expected | (MANY_PATHS if starts_differ else FEW_PATHS)
    if row == "triple":
        expected = expected | {"epoch_steps": PROTOCOLS[protocol].epoch_steps}
    return expected


def expected_views(row: str) -> dict[str, Any]:
    """A student of frozen pseudo labels sees the labelled view, its teacher a plain crop, mirrored or not."""
    if METHODS[row]["name"] == "pseudo_label":
        plain_crop = WEAK | {"scale_sd": 0.0, "rotation_probability": 0.0}
        as_labelled = WEAK | {"flip_probability": 0.0}
        return {"labelled": WEAK, "weak": plain_crop, "strong": as_labelled, "strong_beyond_weak": "photo"}
    return {"labelled": WEAK, "weak": WEAK, "strong": STRONG, "strong_beyond_weak": "mean"}


def test_every_published_number_belongs_to_a_row_of_the_tables() -> None:
    numbers = {
        (protocol, file.stem)
        for file in (CONFIGS / "methods").glob("*.yaml")
        if file.stem != "detector_free"  # of whole photos, and without published numbers
        for protocol in load_run([file], ["data.train=a", "data.val=b"]).published
    }
    without_number = {(f"coco-{labels}", "double_match") for labels in ("1k", "5k", "10k")}
    assert numbers == set(ROWS) - without_number
    assert set(OTHER_SCHEDULES) <= set(ROWS)


@pytest.mark.parametrize(("protocol", "row"), ROWS, ids=str)
def test_a_recipe_has_the_published_values(protocol: str, row: str) -> None:
    files = CONFIGS / "protocols" / f"{protocol}.yaml", CONFIGS / "methods" / f"{row}.yaml"
    cfg, given = load_run(files), PROTOCOLS[protocol]

    assert (cfg.data.labelled, cfg.data.subset_seed) == (given.labelled, None)
    assert cfg.data.unlabelled_includes_labelled
    assert (cfg.views.size_hw, cfg.heatmap.sigma) == (given.size_hw, given.sigma)
    assert (cfg.heatmap.decode, cfg.evaluation.flip_test) == ("shift", given.flip_test)
    assert (cfg.labelled_batch, cfg.unlabelled_batch, cfg.optim.lr) == (given.batch, given.batch, 1e-3)
    assert (cfg.metric, cfg.precision, cfg.net.pretrained) == (given.metric, "no", True)
    assert cfg.net.head.name == given.head
    assert given.backbone.items() <= plain(cfg.net.backbone).items()
    if row.startswith(("dual", "multiaugs_dual", "triple")):
        key = "second_teacher_net" if row == "triple" else "second_net"
        second = getattr(cfg.method, key)
        assert (second and second.backbone.model) == ("resnet18.gluon_in1k" if given.starts_differ else None)

    views = plain(cfg.views)
    assert {name: views[name] for name in expected_views(row)} == expected_views(row)
    expected = expected_method(protocol, row)
    method = plain(cfg.method)
    assert {key: method.get(key) for key in expected} == expected

    epochs, falls = OTHER_SCHEDULES.get((protocol, row), (given.epochs, given.falls))
    trainings = 2 if METHODS[row]["name"] == "pseudo_label" else 1  # teacher and student, each as long
    length = epochs * given.epoch_steps
    assert (cfg.steps, cfg.evaluate_every) == (trainings * length, given.epoch_steps)
    assert cfg.optim.schedule.scale(0, length) == 1
    for number, epoch in enumerate(falls, 1):
        before, after = (cfg.optim.schedule.scale(epoch * given.epoch_steps + d, length) for d in (-1, 0))
        assert (before, after) == pytest.approx((0.1 ** (number - 1), 0.1**number))


def test_the_adaptive_masks_of_the_paper_are_the_defaults() -> None:
    """Of the part, and of the rule that it hands its numbers to (docs/methods.md 9, rows 2, 3, 5 and 6)."""
    import inspect

    from semipose.pipelines.strong import AdaptiveMasks
    from semipose.pipelines.strong.joint_cutout import adaptive_mask_counts

    assert plain(AdaptiveMasks()) == ADAPTIVE
    words = inspect.signature(adaptive_mask_counts).parameters
    assert {key: words[key].default for key in ADAPTIVE if key != "name"}.items() <= ADAPTIVE.items()


def test_the_views_of_ones_own_recipes_have_the_same_laws_but_for_their_borders() -> None:
    views = plain(ViewSettings())
    mean = {"border": "mean"}
    assert (views["labelled"], views["weak"], views["strong"]) == (WEAK | mean, WEAK | mean, STRONG | mean)
