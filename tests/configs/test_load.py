"""Recipes, bases, overrides and defaults become settings; and back to YAML."""

from dataclasses import FrozenInstanceError, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from semipose.configs.load import InputError, dump, load
from semipose.configs.settings import settings


@settings
class Policy:
    scale_sd: float = Field(0.25, ge=0)
    rotation_max_deg: float = 30.0


@settings
class Fixed:
    name: Literal["fixed"] = "fixed"
    count: int = 5
    policy: Policy = Policy(scale_sd=0.9)


@settings
class Adaptive:
    name: Literal["adaptive"] = "adaptive"
    gamma: float = 0.55


Masking = Annotated[Fixed | Adaptive, Field(discriminator="name")]


@settings
class Run:
    size_wh: tuple[int, int] = (192, 256)
    labelled: Annotated[int, Field(gt=0)] | Literal["all"] = "all"
    lr: float = 1e-3
    title: str = "run"
    log: str | None = None
    amp: bool = False
    folder: Path = Path("runs")
    policy: Policy = Policy(scale_sd=0.5, rotation_max_deg=80.0)
    masking: Masking = field(default_factory=Adaptive)
    teacher: Masking | None = None
    extra: tuple[Policy, ...] = ()
    weights: dict[str, float] = field(default_factory=lambda: {"mixup": 1.0})


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_nothing_given_is_the_defaults():
    assert load(Run, None) == Run()


def test_yaml_lists_fit_tuples_and_numbers_fit_floats(tmp_path):
    text = "size_wh: [96, 128]\nlr: 1e-2\npolicy: {rotation_max_deg: 7}\namp: true"
    recipe = write(tmp_path, "r.yaml", text)
    run = load(Run, recipe)
    assert (run.size_wh, run.lr, run.policy.rotation_max_deg, run.amp) == ((96, 128), 0.01, 7.0, True)


def test_empty_recipe_is_the_defaults(tmp_path):
    assert load(Run, write(tmp_path, "r.yaml", "# nothing\n")) == Run()


def test_changing_one_value_of_a_default_keeps_its_others():
    policy = load(Run, None, ["policy.scale_sd=0.1"]).policy
    assert policy == Policy(scale_sd=0.1, rotation_max_deg=80.0)


def test_later_override_wins_and_order_of_name_does_not_matter():
    assert load(Run, None, ["lr=1", "lr=2"]).lr == 2.0
    expected = Fixed(count=3)
    assert load(Run, None, ["masking.count=3", "masking.name=fixed"]).masking == expected
    assert load(Run, None, ["masking.name=fixed", "masking.count=3"]).masking == expected
    assert load(Run, None, ["masking={name: fixed}", "masking.count=3"]).masking == expected


def test_default_plugin_needs_no_name():
    assert load(Run, None, ["masking.gamma=0.4"]).masking == Adaptive(gamma=0.4)


def test_chosen_plugin_keeps_its_own_nested_defaults():
    run = load(Run, None, ["masking.name=fixed", "masking.policy.rotation_max_deg=1"])
    assert run.masking == Fixed(policy=Policy(scale_sd=0.9, rotation_max_deg=1.0))


def test_optional_plugin_can_be_set_and_unset():
    assert load(Run, None, ["teacher.name=fixed"]).teacher == Fixed()
    assert load(Run, None, ["teacher.name=fixed", "teacher=null"]).teacher is None


def test_precedence_is_default_base_recipe_command_line(tmp_path):
    write(tmp_path, "base/low.yaml", "lr: 0.1\ntitle: low\npolicy: {scale_sd: 0.1}\n")
    write(tmp_path, "base/high.yaml", "title: high\nlog: high\n")
    recipe = write(
        tmp_path,
        "run/r.yaml",
        "base: [../base/low.yaml, ../base/high.yaml]\nlog: r\npolicy: {rotation_max_deg: 1}",
    )
    run = load(Run, recipe, ["folder=elsewhere"])
    assert (run.lr, run.title, run.log, run.folder) == (0.1, "high", "r", Path("elsewhere"))
    assert run.policy == Policy(scale_sd=0.1, rotation_max_deg=1.0)
    assert load(Run, recipe, ["log=line"]).log == "line"


def test_bases_nest_and_are_relative_to_their_own_file(tmp_path):
    write(tmp_path, "a/far.yaml", "lr: 0.3\n")
    write(tmp_path, "a/near.yaml", "base: far.yaml\ntitle: near\n")
    run = load(Run, write(tmp_path, "b/r.yaml", "base: ../a/near.yaml\n"))
    assert (run.lr, run.title) == (0.3, "near")


def test_one_file_may_be_the_base_of_two_bases(tmp_path):
    write(tmp_path, "root.yaml", "lr: 0.3\n")
    write(tmp_path, "x.yaml", "base: root.yaml\n")
    write(tmp_path, "y.yaml", "base: root.yaml\n")
    assert load(Run, write(tmp_path, "r.yaml", "base: [x.yaml, y.yaml]\n")).lr == 0.3


def test_of_a_base_that_two_files_name_the_later_place_counts(tmp_path):
    write(tmp_path, "root.yaml", "lr: 0.3\ntitle: root\n")
    write(tmp_path, "x.yaml", "base: root.yaml\nlr: 0.1\n")
    write(tmp_path, "y.yaml", "base: root.yaml\ntitle: y\n")
    run = load(Run, write(tmp_path, "r.yaml", "base: [x.yaml, y.yaml]\n"))
    assert (run.lr, run.title) == (0.3, "y")


def test_another_plugin_starts_from_its_own_defaults(tmp_path):
    write(tmp_path, "base.yaml", "masking: {name: adaptive, gamma: 0.1}\npolicy: {scale_sd: 0.1}\n")
    recipe = write(tmp_path, "r.yaml", "base: base.yaml\nmasking: {name: fixed}\n")
    assert load(Run, recipe).masking == Fixed()
    same = write(tmp_path, "s.yaml", "base: base.yaml\nmasking: {name: adaptive}\n")
    assert load(Run, same).masking == Adaptive(gamma=0.1)


def test_another_name_of_the_same_class_keeps_its_settings(tmp_path):
    @settings
    class Mixup:
        name: Literal["image", "feature"] = "image"
        beta: float = 0.75

    @settings
    class Step:
        mixup: Annotated[Mixup | Fixed, Field(discriminator="name")] = Mixup(beta=0.5)

    write(tmp_path, "base.yaml", "mixup: {name: image, beta: 0.1}\n")
    recipe = write(tmp_path, "r.yaml", "base: base.yaml\nmixup: {name: feature}\n")
    assert load(Step, recipe) == Step(mixup=Mixup(name="feature", beta=0.1))
    assert load(Step, None, ["mixup.name=feature"]) == Step(mixup=Mixup(name="feature", beta=0.5))


def test_a_base_may_leave_the_name_to_its_recipes(tmp_path):
    @settings
    class Run:
        masking: Masking

    write(tmp_path, "base.yaml", "masking: {count: 1}\n")
    recipe = write(tmp_path, "r.yaml", "base: base.yaml\nmasking: {name: fixed}\n")
    assert load(Run, recipe) == Run(masking=Fixed(count=1))


def test_name_that_is_no_plugin_merges_as_any_key(tmp_path):
    @settings
    class Shards:
        name: str = "train"
        seed: int = 0

    write(tmp_path, "base.yaml", "name: train\nseed: 3\n")
    assert load(Shards, write(tmp_path, "r.yaml", "base: base.yaml\nname: val\n")) == Shards(
        name="val", seed=3
    )


def test_free_mapping_merges_over_bases_but_replaces_its_default(tmp_path):
    write(tmp_path, "base.yaml", "weights: {pose: 2}\n")
    recipe = write(tmp_path, "r.yaml", "base: base.yaml\nweights: {other: 3}\n")
    assert load(Run, recipe).weights == {"pose": 2.0, "other": 3.0}
    assert load(Run, None, ["weights.pose=2"]).weights == {"pose": 2.0}


def test_dump_is_a_recipe_for_the_same_settings(tmp_path):
    run = Run(
        size_wh=(64, 96),
        labelled=30,
        lr=1e-5,
        title="no",
        log="1e-3",
        folder=Path("a b"),
        masking=Fixed(count=1),
        teacher=Adaptive(),
        extra=(Policy(), Policy(scale_sd=0.0)),
        weights={},
    )
    text = dump(run)
    assert "size_wh: [64, 96]" in text
    assert load(Run, write(tmp_path, "r.yaml", text)) == run


def test_settings_are_frozen_and_strict_in_python_too():
    with pytest.raises(FrozenInstanceError):
        Run().lr = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Run(lr="3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lr: expected a number, found nan"):
        load(Run, None, ["lr=.nan"])


def test_later_recipes_win_and_the_command_line_wins_over_all(tmp_path):
    (tmp_path / "protocol.yaml").write_text("base: low.yaml\ntitle: protocol\n")
    (tmp_path / "low.yaml").write_text("title: low\n")
    (tmp_path / "method.yaml").write_text("base: low.yaml\ntitle: method\n")
    files = [tmp_path / "protocol.yaml", tmp_path / "method.yaml"]
    assert load(Run, files).title == "method"
    assert load(Run, files[::-1]).title == "protocol"
    assert load(Run, files, ["title=word"]).title == "word"


def test_a_block_counts_where_its_condition_holds_and_lies_over_all_recipes(tmp_path):
    block = "when:\n  title:\n    drawn-* demo: {lr: 0.5}\n    demo: {lr: 0.25}\n"
    (tmp_path / "block.yaml").write_text(f"lr: 0.1\n{block}")
    (tmp_path / "title.yaml").write_text("title: drawn-50\nlr: 0.2\n")
    files = [tmp_path / "block.yaml", tmp_path / "title.yaml"]
    assert load(Run, files).lr == 0.5
    assert load(Run, files, ["lr=0.75"]).lr == 0.75
    assert load(Run, files, ["title=demo"]).lr == 0.25  # the later block
    assert load(Run, files, ["title=coco"]).lr == 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when:\n  titel:\n    a: {lr: 1.0}\n", r"x\.yaml:2: when\.titel: there is no such setting"),
        ("when:\n  title:\n    a: 3\n", r"x\.yaml:2: when: expected .*, found"),
        ("when: a\n", r"x\.yaml:1: when: expected .*, found"),
        (
            "title: a\nwhen:\n  title:\n    a: {lr: fast}\n",
            r"x\.yaml:4: lr: expected a number",
        ),
        ("title: a\nwhen:\n  title:\n    a: {lrr: 1.0}\n", r"x\.yaml:4: lrr: unknown setting"),
    ],
)
def test_a_wrong_block_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        load(Run, tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("configs/run/coco-1k/adaptive.yaml", "configs/protocols/coco-1k.yaml configs/methods/adaptive.yaml"),
        (
            "/a/configs/run/mpii+aic/triple.yaml",
            "/a/configs/protocols/mpii+aic.yaml /a/configs/methods/triple.yaml",
        ),
        (
            "configs/run/best/best-lspet-500.yaml",
            "configs/protocols/lspet-500.yaml configs/methods/best.yaml",
        ),
        ("configs/base/methods/triple.yaml", "configs/methods/triple.yaml"),
    ],
)
def test_a_recipe_of_an_older_version_is_named_with_its_new_form(old, now):
    with pytest.raises(InputError) as error:
        load(Run, old)
    assert str(error.value) == f"{old}: a run takes a protocol and a method now: give {now} instead"
